//! What a client did besides its offences, and whether that looks good: the measure of false bans.

/// How a client conducted itself. Counts saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conduct {
    /// Requests answered with 2xx or 304 and messages taken, none of them an offence.
    pub successes: u32,
    /// Requests answered with another 4xx or 5xx than our own, and SMTP incidents, none of them an offence.
    pub errors: u32,
    /// Offences.
    pub offences: u32,
    /// Of the offences, those that were answered with 2xx or 304: they speak neither for nor against the client, who may be an ordinary
    /// visitor met by a rule that is too wide.
    pub served_offences: u32,
    /// It proved once who it is: a user with a password, in HTTP or SMTP.
    pub authenticated: bool,
}

/// What one event says about its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Answered well.
    Success,
    /// Answered with an error, or an SMTP incident.
    Error,
    /// An offence.
    Offence,
    /// An offence that was answered as if it were none.
    ServedOffence,
    /// Nothing: a redirection, a connection.
    Neither,
}

impl Deed {
    /// What a response with this status says.
    #[must_use]
    pub fn of_status(status: Option<u16>) -> Self {
        match status {
            Some(200..=299 | 304) => Self::Success,
            Some(400..) => Self::Error,
            _ => Self::Neither,
        }
    }

    /// What it is if a rule calls it an offence.
    #[must_use]
    pub fn as_offence(self) -> Self {
        if self == Self::Success { Self::ServedOffence } else { Self::Offence }
    }
}

/// So many successes at least look good: the front page and its style sheet are fetched by scanners too.
const ENOUGH: u32 = 3;

impl Conduct {
    /// Notes an event, and whether the client proved in it who it is.
    pub fn note(&mut self, deed: Deed, authenticated: bool) {
        self.authenticated |= authenticated;
        let count = match deed {
            Deed::Success => &mut self.successes,
            Deed::Error => &mut self.errors,
            Deed::Offence => &mut self.offences,
            Deed::ServedOffence => {
                self.served_offences = self.served_offences.saturating_add(1);
                &mut self.offences
            }
            Deed::Neither => return,
        };
        *count = count.saturating_add(1);
    }

    /// Adds what the same client did at other times.
    pub fn add(&mut self, other: Self) {
        self.successes = self.successes.saturating_add(other.successes);
        self.errors = self.errors.saturating_add(other.errors);
        self.offences = self.offences.saturating_add(other.offences);
        self.served_offences = self.served_offences.saturating_add(other.served_offences);
        self.authenticated |= other.authenticated;
    }

    /// Whether the client looks good: it was authenticated, or had at least three ordinary successes, and more of them than errors and
    /// offences that were not served together.
    ///
    /// A client can act good. So this accuses a rule before an operator, and acquits no client.
    #[must_use]
    pub fn looks_good(&self) -> bool {
        self.authenticated
            || (self.successes >= ENOUGH && self.successes > self.errors.saturating_add(self.offences.saturating_sub(self.served_offences)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_or_mostly_ordinary_successes_look_good() {
        let conduct = |successes, errors, offences, authenticated| {
            Conduct { successes, errors, offences, served_offences: 0, authenticated }.looks_good()
        };
        assert!(conduct(0, 9, 9, true));
        assert!(conduct(3, 1, 1, false));
        assert!(!conduct(3, 2, 1, false), "as many bad as good");
        assert!(!conduct(2, 0, 0, false), "too few to tell");
        assert!(Conduct { successes: 3, offences: 9, served_offences: 9, ..Conduct::default() }.looks_good());
        assert!(!conduct(u32::MAX, u32::MAX, u32::MAX, false));
    }
}
