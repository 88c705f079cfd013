//! Summarises what a client did besides its offences, in order to estimate how many banned clients are legitimate.

/// Counts of what a client did. They saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// Requests answered with 2xx or 304, and accepted messages, that were not offences.
    pub successes: u32,
    /// Requests answered with 4xx or 5xx (Strikeout's own refusals excepted), and SMTP incidents, that were not offences.
    pub errors: u32,
    pub offences: u32,
    /// Offences that were answered with 2xx or 304. They count neither for nor against the client, which may be an ordinary visitor hit by
    /// a rule that matches too much.
    pub served_offences: u32,
    /// Whether the client ever logged in with a password, in HTTP or SMTP.
    pub authenticated: bool,
}

/// What one event says about its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A request answered with 2xx or 304, or an accepted message.
    Success,
    /// A request answered with 4xx or 5xx, or an SMTP incident.
    Error,
    Offence,
    /// An offence answered with 2xx or 304.
    ServedOffence,
    /// Neither good nor bad: a redirection, a connection.
    Neutral,
}

impl Outcome {
    #[must_use]
    pub fn from_status(status: Option<u16>) -> Self {
        match status {
            Some(200..=299 | 304) => Self::Success,
            Some(400..) => Self::Error,
            _ => Self::Neutral,
        }
    }

    /// Reclassifies the outcome of an event that turned out to be an offence.
    #[must_use]
    pub fn as_offence(self) -> Self {
        if self == Self::Success { Self::ServedOffence } else { Self::Offence }
    }
}

/// Minimum number of successes of a client that looks legitimate. Scanners, too, fetch a front page and its style sheet.
const MIN_SUCCESSES: u32 = 3;

impl Behaviour {
    /// Counts an event. `authenticated` says whether the client logged in with it.
    pub fn note(&mut self, outcome: Outcome, authenticated: bool) {
        self.authenticated |= authenticated;
        let count = match outcome {
            Outcome::Success => &mut self.successes,
            Outcome::Error => &mut self.errors,
            Outcome::Offence => &mut self.offences,
            Outcome::ServedOffence => {
                self.served_offences = self.served_offences.saturating_add(1);
                &mut self.offences
            }
            Outcome::Neutral => return,
        };
        *count = count.saturating_add(1);
    }

    /// Adds the counts of the same client from another period.
    pub fn add(&mut self, other: Self) {
        self.successes = self.successes.saturating_add(other.successes);
        self.errors = self.errors.saturating_add(other.errors);
        self.offences = self.offences.saturating_add(other.offences);
        self.served_offences = self.served_offences.saturating_add(other.served_offences);
        self.authenticated |= other.authenticated;
    }

    /// Whether the client has logged in, or has at least three successes and more of them than errors and unserved offences together.
    ///
    /// An attacker can fake this, so it only serves to warn an operator about a rule, never to spare a client.
    #[must_use]
    pub fn looks_legitimate(&self) -> bool {
        self.authenticated
            || (self.successes >= MIN_SUCCESSES
                && self.successes > self.errors.saturating_add(self.offences.saturating_sub(self.served_offences)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_a_login_or_mostly_successes_looks_legitimate() {
        let behaviour = |successes, errors, offences, authenticated| {
            Behaviour { successes, errors, offences, served_offences: 0, authenticated }.looks_legitimate()
        };
        assert!(behaviour(0, 9, 9, true));
        assert!(behaviour(3, 1, 1, false));
        assert!(!behaviour(3, 2, 1, false), "as many bad as good");
        assert!(!behaviour(2, 0, 0, false), "too few to tell");
        assert!(Behaviour { successes: 3, offences: 9, served_offences: 9, ..Behaviour::default() }.looks_legitimate());
        assert!(!behaviour(u32::MAX, u32::MAX, u32::MAX, false));
    }
}
