//! The rules that come with Strikeout: one TOML file for each family, compiled in.

use serde::Deserialize;

use super::spec::RuleSpec;

/// The families: name, and the text of its file.
pub const FAMILIES: [(&str, &str); 2] = [("probes", include_str!("defaults/probes.toml")), ("exim", include_str!("defaults/exim.toml"))];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    rule: Vec<RuleSpec>,
}

/// All built-in rules, in the order of their families.
///
/// # Errors
/// A family that cannot be read: the tests see to it that there is none.
pub fn specs() -> Result<Vec<RuleSpec>, String> {
    let mut specs = Vec::new();
    for (name, text) in FAMILIES {
        let family: Family = toml::from_str(text).map_err(|error| format!("built-in rules {name:?}: {error}"))?;
        specs.extend(family.rule);
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::spec::RuleDefaults;
    use crate::rule::{Names, RuleSet};

    #[test]
    fn every_built_in_rule_is_sound_has_its_own_name_and_says_what_it_is_for() {
        let names = Names::default();
        let mut seen = std::collections::HashSet::new();
        let mut rules = Vec::new();
        for spec in specs().unwrap() {
            assert!(seen.insert(spec.name.get_ref().clone()), "{} comes twice", spec.name.get_ref());
            let rule = spec.check(&names, &RuleDefaults::default()).unwrap();
            assert!(rule.description.len() > 20, "{} says nothing", rule.name);
            rules.push(rule);
        }
        RuleSet::new(rules).unwrap();
    }
}
