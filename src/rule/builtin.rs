//! The built-in rules: one TOML file for each family, embedded in the binary.

use serde::Deserialize;

use super::spec::RuleSpec;

macro_rules! families {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("defaults/", $name, ".toml")))),+]
    };
}

/// The families of built-in rules: the name, and the text of the file. Its first comment describes the family and is copied into
/// docs/rules-table.md.
pub const FAMILIES: [(&str, &str); 18] = families![
    "scanners",
    "secrets",
    "php",
    "webshells",
    "cgi",
    "java",
    "traversal",
    "routers",
    "appliances",
    "platforms",
    "proxy",
    "agents",
    "headers",
    "guessing",
    "injection",
    "ordinary",
    "crowds",
    "exim",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    rule: Vec<RuleSpec>,
}

/// All built-in rules, in the order of [`FAMILIES`].
///
/// # Errors
/// A family does not parse, which the tests rule out.
pub fn specs() -> Result<Vec<RuleSpec>, String> {
    specs_in_force(|_| true)
}

/// The same, with the rules of all families but the wanted ones switched off.
///
/// # Errors
/// As for [`specs`].
pub fn specs_in_force(is_wanted: impl Fn(&str) -> bool) -> Result<Vec<RuleSpec>, String> {
    let mut specs = Vec::new();
    for (name, text) in FAMILIES {
        let off = if is_wanted(name) { None } else { Some(false) };
        specs.extend(family(name, text)?.into_iter().map(|spec| RuleSpec { is_tested: true, enabled: off.or(spec.enabled), ..spec }));
    }
    Ok(specs)
}

/// Parses the rules of one family.
///
/// # Errors
/// The text does not parse.
pub fn family(name: &str, text: &str) -> Result<Vec<RuleSpec>, String> {
    let family: Family = toml::from_str(text).map_err(|error| format!("built-in rules {name:?}: {error}"))?;
    Ok(family.rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleSet;
    use crate::rule::spec::RuleDefaults;
    use crate::rule_id::RuleNames;

    #[test]
    fn the_built_in_rules_are_those_of_all_families_in_their_order() {
        let mut expected = Vec::new();
        for (name, text) in FAMILIES {
            let rules = family(name, text).unwrap();
            assert_eq!(rules.len(), text.matches("[[rule]]").count(), "{name}");
            expected.extend(rules.into_iter().map(|rule| rule.name.into_inner()));
        }
        assert_eq!(specs().unwrap().into_iter().map(|spec| spec.name.into_inner()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_built_in_rule_is_valid_unique_and_described() {
        let names = RuleNames::default();
        let mut seen = std::collections::HashSet::new();
        let mut rules = Vec::new();
        for spec in specs().unwrap() {
            assert!(seen.insert(spec.name.get_ref().clone()), "{} is defined twice", spec.name.get_ref());
            let name = spec.name.get_ref().clone();
            assert!(spec.is_tested, "{name} would be compiled twice at start");
            let rule = RuleSpec { is_tested: false, ..spec }
                .check(&names, &RuleDefaults::default())
                .unwrap_or_else(|error| panic!("{name}: {}", error.message));
            assert!(rule.description.len() > 40 && rule.description.ends_with('.'), "{} has no description", rule.name);
            rules.push(rule);
        }
        RuleSet::new(rules).unwrap();
    }
}
