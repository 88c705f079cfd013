//! The kinds of lines in Exim's main and reject log, and their names in rules.

/// What a line in Exim's log reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EximKind {
    /// `Connection from [IP] refused: too many connections`: the limit for all clients together (`smtp_accept_max`; daemon.c:
    /// handle_smtp_call). The line names whoever connected next, often an innocent client.
    ConnectionRefusedGlobal,
    /// `… from that IP address`: the limit per client (`smtp_accept_max_per_host`). The line names an offender.
    ConnectionRefusedPerHost,
    /// `Connection from [IP] refused: load average = …`.
    LoadRefused,
    /// `… authenticator failed for H: 535 …`.
    AuthFailed,
    /// `H=… rejected RCPT …` and `H=… temporarily rejected RCPT …`.
    RejectedRcpt,
    /// `SMTP syntax error in "…" H=…`.
    SyntaxError,
    /// `SMTP protocol error in "…" H=…`.
    ProtocolError,
    /// `SMTP call from H dropped: too many syntax or protocol errors`.
    TooManyErrors,
    /// `SMTP call from H dropped: too many nonmail commands`.
    TooManyNonmail,
    /// `SMTP call from H dropped: too many unrecognized commands`.
    TooManyUnrecognized,
    /// `SMTP protocol synchronization error (…): rejected … H=…`.
    Synchronization,
    /// `no MAIL in SMTP connection from H`.
    NoMail,
    /// `TLS error on connection from H (…)`.
    TlsError,
    /// `rejected EHLO from H: syntactically invalid argument(s)`, `rejected MAIL from H: no HELO/EHLO given`, `rejected "EHLO name" from H`.
    RejectedHelo,
    /// `unqualified sender rejected: <…> H=…`, or the same of a recipient: an address without a domain.
    Unqualified,
    /// `too many recipients: message rejected: sender=<…> H=…` and `…: excess temporarily rejected: …`.
    TooManyRecipients,
    /// `rejected MAIL FROM:<…> H=…: message too big: size=…`.
    MessageTooBig,
    /// `rejected MAIL command H=…: too many messages in one connection`.
    TooManyMessages,
    /// `refused connection from H (host_reject_connection)`: a host that the administrator has listed.
    HostRefused,
    /// `temporarily refused connection from H: not in reserve list …`: names whoever connected next, as the global limit does.
    ReserveRefused,
    /// `H=… rejected …` for anything but RCPT, and `H=… dropped by 'connect' ACL`.
    RejectedByAcl,
    /// The same with a message of Strikeout's own ACLs. Never counts.
    OurRefusal,
    /// `SMTP connection from [IP] (TCP/IP connection count = 3)`, with `log_selector = +smtp_connection`.
    Connection,
    /// `ID <= … H=…`: a message was accepted from a client that did not authenticate.
    Accepted,
    /// `ID <= … H=… A=…`: a message was accepted from an authenticated client.
    AcceptedAuthenticated,
    /// Text sent by the client looks like Exim's own, so that either of two addresses could be the client's. Blames nobody.
    Ambiguous,
    /// Anything else. Blames nobody.
    Other,
}

impl EximKind {
    /// The kinds that a rule can name, as in `exim = "refused-per-host"`.
    pub const NAMED: [(&'static str, Self); 21] = [
        ("refused-per-host", Self::ConnectionRefusedPerHost),
        ("refused-global", Self::ConnectionRefusedGlobal),
        ("refused-load", Self::LoadRefused),
        ("auth-failed", Self::AuthFailed),
        ("rejected-rcpt", Self::RejectedRcpt),
        ("rejected-helo", Self::RejectedHelo),
        ("rejected-by-acl", Self::RejectedByAcl),
        ("syntax-error", Self::SyntaxError),
        ("protocol-error", Self::ProtocolError),
        ("too-many-errors", Self::TooManyErrors),
        ("too-many-nonmail", Self::TooManyNonmail),
        ("too-many-unrecognized", Self::TooManyUnrecognized),
        ("synchronization", Self::Synchronization),
        ("no-mail", Self::NoMail),
        ("tls-error", Self::TlsError),
        ("unqualified", Self::Unqualified),
        ("too-many-recipients", Self::TooManyRecipients),
        ("message-too-big", Self::MessageTooBig),
        ("too-many-messages", Self::TooManyMessages),
        ("refused-host", Self::HostRefused),
        ("refused-reserve", Self::ReserveRefused),
    ];

    /// The kind with this name in rules.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The name in rules, or a description of a kind that rules cannot name.
    #[must_use]
    pub fn description(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, kind)| *kind == self).map(|(name, _)| *name);
        named.unwrap_or(match self {
            Self::OurRefusal => "our own refusal",
            Self::Connection => "connection",
            Self::Accepted => "accepted",
            Self::AcceptedAuthenticated => "accepted, authenticated",
            Self::Ambiguous => "ambiguous",
            _ => "other",
        })
    }
}

/// The error for a rule that names an unknown kind.
#[must_use]
pub fn unknown_kind(name: &str) -> String {
    let known: Vec<&str> = EximKind::NAMED.iter().map(|(name, _)| *name).collect();
    format!("found exim = {name:?}, expected one of {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_description_of_its_own() {
        let unnamed = [
            EximKind::OurRefusal,
            EximKind::Connection,
            EximKind::Accepted,
            EximKind::AcceptedAuthenticated,
            EximKind::Ambiguous,
            EximKind::Other,
        ];
        let kinds: Vec<EximKind> = EximKind::NAMED.iter().map(|(_, kind)| *kind).chain(unnamed).collect();
        let descriptions: std::collections::BTreeSet<&str> = kinds.iter().map(|kind| kind.description()).collect();
        assert_eq!(descriptions.len(), kinds.len());
        assert!(EximKind::NAMED.iter().all(|(name, kind)| kind.description() == *name && EximKind::from_name(name) == Some(*kind)));
        assert!(unnamed.iter().all(|kind| EximKind::from_name(kind.description()).is_none()));
    }
}
