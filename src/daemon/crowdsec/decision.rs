//! Which decisions are taken, and as what.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::body::WireDecision;
use super::duration;
use crate::client::{Client, is_single};
use crate::config::crowdsec::{CrowdsecConfig, TargetKind};
use crate::geo::{Asn, Country, Network, OriginEntry};
use crate::list::file::parse_network;
use crate::list::guard;
use crate::policy::Policy;
use crate::rule_id::{CROWDSEC, origin_name};
use crate::table::Until;
use crate::time::Time;

/// Maximum number of scenarios that are told apart. Names of rules are kept for ever, and the local API must not fill the memory with them.
const MAX_SCENARIOS: usize = 1000;
/// Maximum length in bytes of what is kept of a scenario's name and origin.
const MAX_TEXT: usize = 200;

/// A decision that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The client's network, or the network that is banned.
    pub target: Network,
    pub until: Until,
    pub scenario: ScenarioId,
    /// Whether it is about more than a single client.
    pub is_about_network: bool,
}

/// Why a decision is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skipped {
    /// It is about what the configuration does not take, or nobody could refuse.
    Scope,
    /// It asks for something else than a ban.
    Kind,
    Scenario,
    Unreadable,
    NeverBanned,
    TooWide,
    /// It is over already.
    Over,
    /// There are as many decisions as may be.
    NoRoom,
}

/// As in `3 of another scope`.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scope => "of another scope",
            Self::Kind => "of another type than ban",
            Self::Scenario => "of another scenario",
            Self::Unreadable => "unreadable",
            Self::NeverBanned => "never banned",
            Self::TooWide => "wider than /8 (IPv6 /16)",
            Self::Over => "over already",
            Self::NoRoom => "without room",
        })
    }
}

/// The number of a scenario in [`Scenarios`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScenarioId(u32);

/// A scenario of CrowdSec, as its bans show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The name under which its bans stand.
    pub rule: Arc<str>,
    /// Scenario and origin in CrowdSec's words.
    pub text: Arc<str>,
}

/// The scenarios that decisions named so far.
#[derive(Debug)]
pub struct Scenarios {
    ids: HashMap<String, ScenarioId>,
    scenarios: Vec<Scenario>,
}

impl Default for Scenarios {
    fn default() -> Self {
        let other = Scenario { rule: origin_name(CROWDSEC, "other").into(), text: "one of too many scenarios".into() };
        Self { ids: HashMap::new(), scenarios: vec![other] }
    }
}

impl Scenarios {
    fn id(&mut self, scenario: &str, origin: &str) -> ScenarioId {
        let text = format!("{scenario} ({origin})");
        let text: String = text.chars().take(MAX_TEXT).collect();
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        if self.scenarios.len() > MAX_SCENARIOS {
            return ScenarioId(0);
        }
        // `cscli decisions add` writes: manual 'ban' from 'MACHINE'.
        let name = if scenario.starts_with("manual '") { "manual" } else { scenario.strip_prefix("crowdsecurity/").unwrap_or(scenario) };
        let name = if name.is_empty() { "unnamed" } else { name };
        let id = ScenarioId(u32::try_from(self.scenarios.len()).unwrap_or(0));
        self.scenarios.push(Scenario { rule: origin_name(CROWDSEC, name).into(), text: text.as_str().into() });
        self.ids.insert(text, id);
        id
    }

    pub fn get(&self, id: ScenarioId) -> Option<&Scenario> {
        usize::try_from(id.0).ok().and_then(|at| self.scenarios.get(at))
    }
}

/// Judges a decision that was received at `now`.
///
/// # Errors
/// It is not taken.
pub fn judge(
    wire: &WireDecision,
    now: Time,
    config: &CrowdsecConfig,
    policy: &Policy,
    scenarios: &mut Scenarios,
) -> Result<Decision, Skipped> {
    let kind = TargetKind::of_scope(&wire.scope.0);
    let kind = kind.filter(|kind| config.scopes.contains(kind)).ok_or(Skipped::Scope)?;
    let is_ban = wire.kind.0.eq_ignore_ascii_case("ban") || (config.captcha && wire.kind.0.eq_ignore_ascii_case("captcha"));
    if !is_ban {
        return Err(Skipped::Kind);
    }
    let is_wanted = |wanted: &String| wire.scenario.0.to_ascii_lowercase().contains(&wanted.to_ascii_lowercase());
    if !config.scenarios.is_empty() && !config.scenarios.iter().any(is_wanted) {
        return Err(Skipped::Scenario);
    }
    let target = target(kind, &wire.value.0, policy)?;
    let lasts = duration::parse(&wire.duration.0).ok_or(Skipped::Unreadable)?;
    let until = Until::at(now.after(lasts));
    if until.is_expired(now) {
        return Err(Skipped::Over);
    }
    let is_client = |block: IpNet| Client::of(block.addr(), policy.prefix).network(policy.prefix) == block;
    let is_about_network = !target.block().is_some_and(is_client);
    Ok(Decision { target, until, scenario: scenarios.id(&wire.scenario.0, &wire.origin.0), is_about_network })
}

/// Who is refused. Of a system or a country, whoever is never banned is served all the same.
fn target(kind: TargetKind, value: &str, policy: &Policy) -> Result<Network, Skipped> {
    let network = match kind {
        TargetKind::As => {
            let named = if value.starts_with(|c: char| c.is_ascii_digit()) { format!("AS{value}") } else { value.to_owned() };
            return named.parse::<Asn>().map(Network::from).map_err(|()| Skipped::Unreadable);
        }
        TargetKind::Country => {
            let country = value.parse::<Country>().map_err(|()| Skipped::Unreadable)?;
            return Ok(OriginEntry::Country(country).into());
        }
        TargetKind::Ip => parse_network(value).ok().filter(|network| is_single(*network)).ok_or(Skipped::Unreadable)?,
        TargetKind::Range => parse_network(value).map_err(|_| Skipped::Unreadable)?,
    };
    guard::check(&[network]).map_err(|_| Skipped::TooWide)?;
    let target = if is_single(network) { Client::of(network.addr(), policy.prefix).network(policy.prefix) } else { network };
    if policy.lists.overlaps_never_banned(target).is_some() { Err(Skipped::NeverBanned) } else { Ok(target.into()) }
}

#[cfg(test)]
pub mod tests {
    use super::super::body::Field;
    use super::*;
    use crate::rule_id::RuleNames;

    /// A decision of no scenario that is known.
    pub fn decision(target: Network, until: Time) -> Decision {
        Decision { target, until: Until::at(until), scenario: ScenarioId(0), is_about_network: false }
    }

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn config(more: &str) -> CrowdsecConfig {
        toml::from_str(&format!("url = 'http://127.0.0.1'\nkey_file = '/k'\n{more}")).unwrap()
    }

    /// A decision to ban, as the local API writes it.
    pub fn wire(scope: &str, value: &str) -> WireDecision {
        let field = |text: &str| Field(text.to_owned());
        WireDecision {
            id: field("1"),
            origin: field("CAPI"),
            kind: field("ban"),
            scope: field(scope),
            value: field(value),
            duration: field("4h"),
            scenario: field("crowdsecurity/ssh-bf"),
        }
    }

    fn judged(wire: &WireDecision, config: &CrowdsecConfig) -> Result<String, Skipped> {
        let policy = Policy::for_tests("[defaults]\nignoreip = ['203.0.113.0/28', '3fff:9::1']", &RuleNames::default());
        let mut scenarios = Scenarios::default();
        let decision = judge(wire, NOW, config, &policy, &mut scenarios)?;
        let lasts = decision.until.time().unwrap().since(NOW);
        Ok(format!("{} {lasts} {}", decision.target, scenarios.get(decision.scenario).unwrap().rule))
    }

    #[test]
    fn an_address_is_taken_as_its_client_and_a_range_as_a_network() {
        for (scope, value, expected) in [
            ("Ip", "192.0.2.1", "192.0.2.1/32 4h crowdsec-ssh-bf"),
            ("ip", "::ffff:192.0.2.1", "192.0.2.1/32 4h crowdsec-ssh-bf"),
            ("Ip", "2001:db8::7", "2001:db8::/64 4h crowdsec-ssh-bf"),
            ("Range", "198.51.100.7/24", "198.51.100.0/24 4h crowdsec-ssh-bf"),
            ("range", "198.51.100.7/32", "198.51.100.7/32 4h crowdsec-ssh-bf"),
            ("Range", "2001:db8::/32", "2001:db8::/32 4h crowdsec-ssh-bf"),
        ] {
            assert_eq!(judged(&wire(scope, value), &config("")).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_must_not_or_cannot_be_refused_is_skipped_with_the_reason() {
        for (scope, value, expected) in [
            ("AS", "64496", Skipped::Scope),
            ("Country", "XX", Skipped::Scope),
            ("username", "root", Skipped::Scope),
            ("Range", "0.0.0.0/0", Skipped::TooWide),
            ("Range", "::/0", Skipped::TooWide),
            ("Range", "10.0.0.0/7", Skipped::TooWide),
            ("Range", "::ffff:0:0/96", Skipped::TooWide),
            ("Ip", "127.0.0.1", Skipped::NeverBanned),
            ("Ip", "203.0.113.5", Skipped::NeverBanned),
            ("Range", "203.0.113.0/24", Skipped::NeverBanned),
            ("Ip", "3fff:9::2", Skipped::NeverBanned),
            ("Ip", "0.0.0.0", Skipped::NeverBanned),
            ("Ip", "192.0.2.0/24", Skipped::Unreadable),
            ("Ip", "example.org", Skipped::Unreadable),
            ("Range", "192.0.2.0/33", Skipped::Unreadable),
            ("Ip", "", Skipped::Unreadable),
        ] {
            assert_eq!(judged(&wire(scope, value), &config("")), Err(expected), "{value}");
        }
        let with = |change: fn(&mut WireDecision)| {
            let mut wire = wire("Ip", "192.0.2.1");
            change(&mut wire);
            judged(&wire, &config(""))
        };
        assert_eq!(with(|wire| wire.duration.0 = "-5m".into()), Err(Skipped::Over));
        assert_eq!(with(|wire| wire.duration.0 = "soon".into()), Err(Skipped::Unreadable));
        assert_eq!(with(|wire| wire.kind.0 = "captcha".into()), Err(Skipped::Kind));
        assert_eq!(with(|wire| wire.duration.0 = "999999999h".into()).as_deref(), Ok("192.0.2.1/32 3650d crowdsec-ssh-bf"));
    }

    #[test]
    fn the_configuration_says_which_scopes_scenarios_and_types_are_taken() {
        let captcha = WireDecision { kind: Field("captcha".into()), ..wire("Ip", "192.0.2.1") };
        assert!(judged(&captcha, &config("captcha = true")).is_ok());
        assert_eq!(judged(&wire("Range", "198.51.100.0/24"), &config("scopes = ['ip']")), Err(Skipped::Scope));
        for value in ["64496", "AS64496"] {
            assert_eq!(judged(&wire("AS", value), &config("scopes = ['as']")).as_deref(), Ok("AS64496 4h crowdsec-ssh-bf"));
        }
        for value in ["", "AS", "x", "99999999999", "-1", "64496 "] {
            assert_eq!(judged(&wire("AS", value), &config("scopes = ['as']")), Err(Skipped::Unreadable), "{value}");
        }
        for value in ["DE", "de", "dE"] {
            assert_eq!(judged(&wire("Country", value), &config("scopes = ['country']")).as_deref(), Ok("country:DE 4h crowdsec-ssh-bf"));
        }
        for value in ["", "D", "DEU", "D1", "country:DE", "\u{e9}", "DE "] {
            assert_eq!(judged(&wire("country", value), &config("scopes = ['country']")), Err(Skipped::Unreadable), "{value}");
        }
        assert_eq!(judged(&wire("country", "DE"), &config("scopes = ['ip', 'range', 'as']")), Err(Skipped::Scope));
        assert_eq!(judged(&wire("Ip", "192.0.2.1"), &config("scenarios = ['http-']")), Err(Skipped::Scenario));
        assert!(judged(&wire("Ip", "192.0.2.1"), &config("scenarios = ['http-', 'SSH']")).is_ok());
    }

    #[test]
    fn scenarios_have_plain_names_and_do_not_grow_without_end() {
        let mut scenarios = Scenarios::default();
        let mut rule = |scenario: &str| {
            let id = scenarios.id(scenario, "cscli");
            scenarios.get(id).unwrap().rule.to_string()
        };
        assert_eq!(rule("manual 'ban' from 'localhost'"), "crowdsec-manual");
        assert_eq!(rule("crowdsecurity/CVE-2022-1"), "crowdsec-cve-2022-1");
        assert_eq!(rule("ltsich/http-w00tw00t"), "crowdsec-ltsich-http-w00tw00t");
        assert_eq!(rule(""), "crowdsec-unnamed");
        assert!(rule(&"\u{e9}\n".repeat(100_000)).len() <= 64);
        for number in 0..3000 {
            rule(&format!("scenario-{number}"));
        }
        assert_eq!((rule("scenario-0"), rule("scenario-2999")), ("crowdsec-scenario-0".into(), "crowdsec-other".into()));
        assert!(scenarios.scenarios.len() <= MAX_SCENARIOS + 1 && scenarios.ids.len() <= MAX_SCENARIOS);
    }
}
