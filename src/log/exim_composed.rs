//! Composes Exim's lines around text of a client, by the formats in Exim's source, for the tests of the reader and its fuzz target. It
//! imports nothing of the crate, because the fuzz target includes this file.

use std::net::IpAddr;

/// A client of Exim's, and which optional fields its lines have (`log_selector`).
#[derive(Debug, Clone)]
pub struct Session {
    /// The name that the resolver found.
    pub host: Option<String>,
    /// What the client said at HELO.
    pub helo: Option<String>,
    /// The address of its socket: nobody else may be blamed.
    pub client: IpAddr,
    pub port: Option<u16>,
    pub interface: Option<IpAddr>,
    pub pid: Option<u32>,
}

impl Session {
    /// The client as Exim's `host_and_ident` writes it.
    #[must_use]
    pub fn host_and_ident(&self) -> String {
        let host = self.host.as_ref().map_or(String::new(), |host| format!("{host} "));
        let helo = self.helo.as_ref().map_or(String::new(), |helo| format!("({helo}) "));
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let interface = self.interface.map_or(String::new(), |ip| format!(" I=[{ip}]:25"));
        format!("{host}{helo}[{}]{port}{interface}", self.client)
    }

    /// Lines that are no offence, with `text` wherever the client's text appears.
    #[must_use]
    pub fn ordinary_lines(&self, text: &str) -> Vec<String> {
        let h = self.host_and_ident();
        let sender = format!("\"{text}\"@example.org");
        [
            format!("H={h} sender verify fail for <{sender}>: Unrouteable address"),
            format!("H={h} incomplete transaction (QUIT) from <{sender}>"),
            format!("H={h} Warning: {text}"),
            format!("H={h} F=<{sender}> RCPT <{sender}>: discarded by RCPT ACL"),
            format!("plain authenticator failed for {h}: 435 Unable to authenticate at present (set_id={text}): {text}"),
            format!("VRFY failed for {text} H={h}"),
            format!("ETRN {text} received from {h}"),
            format!("ignoring AUTH={text} from H={h} (client not authenticated)"),
            format!("SMTP command timeout on connection from {h} D=5m"),
            format!("SMTP connection from {h} lost D=0s"),
            format!("SMTP connection from {h} closed by QUIT"),
            format!("unexpected disconnection while reading SMTP command from {h} D=0s"),
            format!("Error or EOF on input from H={h}"),
            format!("1qHd2z-0003Xb-1A => {text} <{sender}> R=x T=y"),
            format!("1qHd2z-0003Xb-1A ** {sender}: {text}"),
            format!("1qHd2z-0003Xb-1A SPF: {text}"),
            format!("no host name found for IP address {}", self.client),
        ]
        .into_iter()
        .map(|line| format!("2026-11-23 01:02:03 {line}"))
        .collect()
    }

    /// One line of each kind, with `text` wherever the client's text appears.
    #[must_use]
    pub fn lines(&self, text: &str) -> Vec<String> {
        let h = self.host_and_ident();
        let pid = self.pid.map_or(String::new(), |pid| format!("[{pid}] "));
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let interface = self.interface.map_or(String::new(), |ip| format!(" I=[{ip}]:25"));
        // What Exim's daemon writes before the client has sent anything.
        let socket = format!("[{}]{port}{interface}", self.client);
        let [sender, recipient] = [format!("\"{text}\"@example.org"), format!("\"{text}\"@example.net")];
        [
            format!("plain authenticator failed for {h}: 535 Incorrect authentication data (set_id={text})"),
            format!("plain authenticator failed for H={h}: 535 Incorrect authentication data (set_id={text})"),
            format!("H={h} F=<{sender}> rejected RCPT <{recipient}>: {text}"),
            format!("H={h} X=TLS1.3:ECDHE:256 CV=no F=<{sender}> A=plain:{text} temporarily rejected RCPT <{recipient}>: no"),
            format!("1qHd2z-0003Xb-1A H={h} F=<{sender}> rejected after DATA: {text}"),
            format!("SMTP protocol error in \"{text}\" H={h} AUTH command used when not advertised"),
            format!("SMTP protocol error in \"AUTH {text}\" H={h} {text} authentication mechanism not supported"),
            format!("SMTP syntax error in \"{text}\" H={h} unrecognized command"),
            format!("SMTP call from {h} dropped: too many syntax or protocol errors (last command was \"{text}\",  C=EHLO,MAIL)"),
            format!("SMTP call from {h} dropped: too many nonmail commands (last was \"{text}\")"),
            format!("SMTP call from {h} dropped: too many unrecognized commands (last was \"{text}\")"),
            format!("rejected EHLO from {h}: syntactically invalid argument(s): {text}"),
            format!("SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H={h} input=\"{text}\""),
            format!(
                "SMTP protocol synchronization error (next input sent too soon: pipelining was advertised): rejected \"{text}\" H={h} next input=\"{text}\""
            ),
            format!("Connection from {socket} refused: too many connections"),
            format!("Connection from {socket} refused: too many connections from that IP address"),
            format!("Connection from {socket} refused: load average = 12.34"),
            format!("SMTP connection from {socket} (TCP/IP connection count = 3)"),
            format!("refused connection from {h} (host_reject_connection)"),
            format!("temporarily refused connection from {h}: not in reserve list: connected=20 max=20 reserve=5 load=1.00"),
            format!("H={h} rejected connection in \"connect\" ACL: {text}"),
            format!("H={h} dropped by 'connect' ACL: listed"),
            format!("H={h} rejected EHLO or HELO {text}: listed"),
            format!("H={h} F=<{sender}> rejected MAIL <{sender}>: {text}"),
            format!("H={h} rejected VRFY {text}: no"),
            format!("rejected HELO from {h}: syntactically invalid argument(s): {text}"),
            format!("rejected MAIL from {h}: no HELO/EHLO given"),
            format!("too many recipients: excess temporarily rejected: sender=<{sender}> H={h}"),
            format!("no MAIL in SMTP connection from {h} D=0s C=EHLO"),
            format!("TLS error on connection from {h} (gnutls_handshake): error"),
            format!("rejected \"EHLO {text}\" from {h}"),
            format!("unqualified sender rejected: <{text}> H={h}"),
            format!("unqualified recipient rejected: <{text}> H={h} (failed to find host name from IP address)"),
            format!("too many recipients: message rejected: sender=<{sender}> H={h}"),
            format!("rejected MAIL FROM:<{sender}> H={h}: message too big: size=9 max=1"),
            format!("rejected MAIL command H={h}: too many messages in one connection"),
            format!("H={h} X=TLS1.3:ECDHE:256 CV=no SNI=\"{text}\" temporarily rejected AUTH plain: strikeout: defer rule=exim-auth until=1"),
            format!("1qHd2z-0003Xb-1A <= {sender} H={h} P=esmtp S=123 id={text} T=\"{text}\""),
            format!("1qHd2z-0003Xb-1A <= {sender} H={h} P=esmtpa A=plain:{text} S=123 id={text} T=\"{text}\""),
        ]
        .into_iter()
        .map(|line| format!("2026-11-23 01:02:03 {pid}{line}"))
        .collect()
    }
}
