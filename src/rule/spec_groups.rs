//! Checks whom a rule counts.

use toml::Spanned;

use super::count_by::{CountBy, CountBySpec, NetworkSize};
use super::spec::{EventSpec, RuleSpec, SpecError};
use crate::table::MAX_MEMBERS;

impl RuleSpec {
    /// Checks whom the rule counts, and how many different clients a ban needs.
    pub(super) fn check_count_by(&self, name: &str, maxretry: u32) -> Result<(CountBy, u32), SpecError> {
        let name_at = self.name.span();
        let members = match &self.members {
            None => 1,
            Some(members) if (1..=MAX_MEMBERS).contains(members.get_ref()) => *members.get_ref(),
            Some(members) => {
                let message = format!("found members = {}, expected 1 to {MAX_MEMBERS}", members.get_ref());
                return Err(SpecError::at(&members.span(), message));
            }
        };
        let by = self.count_by.as_ref().map_or(CountBySpec::Client, |by| *by.get_ref());
        if by != CountBySpec::Network
            && let Some(network) = &self.network
        {
            return Err(SpecError::at(&network.span(), format!("found network in rule {name:?}, expected count_by = \"network\" as well")));
        }
        if by == CountBySpec::Client {
            return match &self.members {
                Some(found) if members > 1 => Err(SpecError::at(
                    &found.span(),
                    format!("found members = {members} in rule {name:?}, expected count_by = \"network\", \"asn\" or \"account\" as well"),
                )),
                _ => Ok((CountBy::Client, 1)),
            };
        }
        let by_at = self.count_by.as_ref().map_or(name_at, Spanned::span);
        if self.distinct.is_some() || self.simultaneous.is_some() || self.fleet == Some(true) {
            let message = format!("found count_by in rule {name:?} with distinct, simultaneous or fleet, expected none of them");
            return Err(SpecError::at(&by_at, message));
        }
        if maxretry < members {
            let found = self.members.as_ref().map_or(by_at, Spanned::span);
            let message =
                format!("found members = {members} with maxretry = {maxretry} in rule {name:?}, expected members to be at most maxretry");
            return Err(SpecError::at(&found, message));
        }
        if by == CountBySpec::Account {
            return self.check_account(name, members).map(|()| (CountBy::Account, members));
        }
        if by == CountBySpec::Asn {
            return Ok((CountBy::Asn, members));
        }
        let size = self.network.as_ref().map_or_else(NetworkSize::default, |size| *size.get_ref());
        if !(8..=31).contains(&size.ipv4) || !(16..=63).contains(&size.ipv6) {
            let found = self.network.as_ref().map_or(by_at, Spanned::span);
            let message =
                format!("found network = {{ ipv4 = {}, ipv6 = {} }}, expected ipv4 8 to 31 and ipv6 16 to 63", size.ipv4, size.ipv6);
            return Err(SpecError::at(&found, message));
        }
        Ok((CountBy::Network(size), members))
    }

    /// Checks a rule that counts accounts.
    fn check_account(&self, name: &str, members: u32) -> Result<(), SpecError> {
        let by_at = self.count_by.as_ref().map_or(self.name.span(), Spanned::span);
        if self.event != Some(EventSpec::Incident) {
            let message =
                format!("found count_by = \"account\" in rule {name:?}, expected event = \"incident\" as well: only Exim names accounts");
            return Err(SpecError::at(&by_at, message));
        }
        if members < 2 {
            let found = self.members.as_ref().map_or(by_at, Spanned::span);
            let message = format!(
                "found members = {members} with count_by = \"account\" in rule {name:?}, expected 2 or more: one client alone must not make the next wrong password of others a ban"
            );
            return Err(SpecError::at(&found, message));
        }
        Ok(())
    }

    /// Whether the rule counts bans.
    pub(super) fn counts_bans(&self) -> bool {
        self.event == Some(EventSpec::Ban)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;
    use crate::rule::spec::RuleDefaults;
    use crate::rule_id::RuleNames;

    fn check(text: &str) -> Result<Rule, String> {
        let spec: RuleSpec = toml::from_str(&format!("name = 'x'\npath = '/x'\n{text}")).map_err(|error| error.message().to_owned())?;
        spec.check(&RuleNames::default(), &RuleDefaults::default()).map_err(|error| error.message)
    }

    #[test]
    fn a_rule_counts_clients_unless_it_says_otherwise() {
        let counted = |text| check(text).map(|rule| (rule.count_by, rule.members));
        assert_eq!(counted(""), Ok((CountBy::Client, 1)));
        assert_eq!(counted("count_by = 'client'\nmembers = 1"), Ok((CountBy::Client, 1)));
        assert_eq!(counted("count_by = 'network'"), Ok((CountBy::Network(NetworkSize { ipv4: 24, ipv6: 48 }), 1)));
        let text = "count_by = 'network'\nnetwork = { ipv4 = 16 }\nmembers = 30\nmaxretry = 100";
        assert_eq!(counted(text), Ok((CountBy::Network(NetworkSize { ipv4: 16, ipv6: 48 }), 30)));
    }

    #[test]
    fn a_rule_that_counts_systems_has_no_size_of_networks() {
        let rule = check("count_by = 'asn'\nmembers = 3").unwrap();
        assert_eq!((rule.count_by, rule.members, rule.needs_geo()), (CountBy::Asn, 3, true));
        let error = check("count_by = 'asn'\nnetwork = { ipv4 = 16 }").unwrap_err();
        assert!(error.contains("found network in rule \"x\", expected count_by = \"network\" as well"), "{error}");
    }

    #[test]
    fn a_rule_that_counts_accounts_is_about_incidents_of_at_least_two_clients() {
        let check = |text: &str| {
            let spec: RuleSpec = toml::from_str(&format!("name = 'x'\ncount_by = 'account'\n{text}")).unwrap();
            spec.check(&RuleNames::default(), &RuleDefaults::default())
                .map(|rule| (rule.count_by, rule.members))
                .map_err(|error| error.message)
        };
        assert_eq!(check("event = 'incident'\nmembers = 2"), Ok((CountBy::Account, 2)));
        for (text, expected) in [
            ("event = 'connection'\nmembers = 2", "found count_by = \"account\" in rule \"x\", expected event = \"incident\" as well"),
            ("path = '/x'\nmembers = 2", "expected event = \"incident\" as well"),
            ("event = 'incident'", "found members = 1 with count_by = \"account\" in rule \"x\", expected 2 or more"),
            ("event = 'incident'\nmembers = 9", "found members = 9 with maxretry = 3"),
            (
                "event = 'incident'\nmembers = 2\nnetwork = { ipv4 = 16 }",
                "found network in rule \"x\", expected count_by = \"network\" as well",
            ),
            ("event = 'incident'\nmembers = 2\nfleet = true", "with distinct, simultaneous or fleet, expected none of them"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn keys_that_contradict_each_other_are_errors() {
        for (text, expected) in [
            ("members = 3", "found members = 3 in rule \"x\", expected count_by = \"network\", \"asn\" or \"account\" as well"),
            ("network = { ipv4 = 16 }", "found network in rule \"x\", expected count_by = \"network\" as well"),
            ("count_by = 'network'\nmembers = 0", "found members = 0, expected 1 to 1024"),
            ("count_by = 'network'\nmembers = 1025", "found members = 1025, expected 1 to 1024"),
            ("count_by = 'network'\nmembers = 9", "with maxretry = 3 in rule \"x\", expected members to be at most maxretry"),
            (
                "count_by = 'network'\nnetwork = { ipv4 = 7 }",
                "found network = { ipv4 = 7, ipv6 = 48 }, expected ipv4 8 to 31 and ipv6 16 to 63",
            ),
            ("count_by = 'network'\nnetwork = { ipv4 = 32 }", "found network = { ipv4 = 32, ipv6 = 48 }, expected ipv4 8 to 31"),
            (
                "count_by = 'network'\nnetwork = { ipv6 = 64 }",
                "found network = { ipv4 = 24, ipv6 = 64 }, expected ipv4 8 to 31 and ipv6 16 to 63",
            ),
            ("count_by = 'network'\nnetwork = { ipv5 = 7 }", "unknown field `ipv5`"),
            ("count_by = 'network'\ndistinct = 'path'", "with distinct, simultaneous or fleet, expected none of them"),
            ("count_by = 'city'", "unknown variant `city`"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
