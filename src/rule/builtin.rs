//! The rules that come with Strikeout: one TOML file for each family, compiled in.

use serde::Deserialize;

use super::spec::RuleSpec;

macro_rules! families {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("defaults/", $name, ".toml")))),+]
    };
}

/// The families: name, and the text of its file. A file's first comment says what the family is.
pub const FAMILIES: [(&str, &str); 14] = families![
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
    "ordinary",
    "exim",
];

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
        specs.extend(family(name, text)?.into_iter().map(|spec| RuleSpec { is_proven: true, ..spec }));
    }
    Ok(specs)
}

/// The rules of one family.
///
/// # Errors
/// A text that cannot be read.
pub fn family(name: &str, text: &str) -> Result<Vec<RuleSpec>, String> {
    let family: Family = toml::from_str(text).map_err(|error| format!("built-in rules {name:?}: {error}"))?;
    Ok(family.rule)
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
            let name = spec.name.get_ref().clone();
            assert!(spec.is_proven, "{name} would be compiled twice at each start");
            let rule = RuleSpec { is_proven: false, ..spec }
                .check(&names, &RuleDefaults::default())
                .unwrap_or_else(|fault| panic!("{name}: {}", fault.message));
            assert!(rule.description.len() > 40 && rule.description.ends_with('.'), "{} says no sentence", rule.name);
            rules.push(rule);
        }
        RuleSet::new(rules).unwrap();
    }
}
