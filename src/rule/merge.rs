//! Merges the operator's `[[rule]]` tables into the built-in rules.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::spec::{RuleDefaults, RuleSpec, SpecError};
use super::{Rule, RuleSet, builtin};
use crate::rule_id::RuleNames;

/// Why the rules are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesError {
    /// Two rules have this name, at these offsets.
    Duplicate { name: String, first: usize, second: usize },
    /// One rule is wrong, at this place in the configuration.
    At(SpecError),
    /// The rules do not compile together, or a built-in rule is wrong.
    Whole(String),
}

/// Merges the operator's rules into the built-in ones and compiles them. Of the built-in rules, those of `families` are in force, or all.
///
/// `check` is called for each enabled rule of the operator's. It compiles patterns for log lines, which this module cannot do, because the
/// modules for logs are above it.
///
/// # Errors
/// The first error found.
pub fn rule_set(
    own: Vec<RuleSpec>,
    defaults: &RuleDefaults,
    families: Option<&[String]>,
    names: &RuleNames,
    mut check: impl FnMut(&Rule) -> Result<(), String>,
) -> Result<RuleSet, RulesError> {
    let is_wanted = |family: &str| families.is_none_or(|families| families.iter().any(|wanted| wanted == family));
    let mut builtin = builtin::specs_in_force(is_wanted).map_err(RulesError::Whole)?;
    let (mut seen, mut off) = (HashMap::new(), HashSet::new());
    let mut rules: Vec<Rule> = Vec::new();
    for spec in own {
        let second = spec.name.span().start;
        if let Some(first) = seen.insert(spec.name.get_ref().clone(), second) {
            return Err(RulesError::Duplicate { name: spec.name.into_inner(), first, second });
        }
        let index = builtin.iter().position(|rule| rule.name.get_ref() == spec.name.get_ref());
        let spec = match index {
            Some(index) => spec.inheriting(&builtin.swap_remove(index)),
            None => spec,
        };
        let enabled = spec.enabled != Some(false);
        if !enabled {
            off.insert(spec.name.get_ref().clone());
        }
        let pattern = spec.failregex.as_ref().map(Spanned::span).or_else(|| spec.filter.as_ref().map(Spanned::span));
        let offset = pattern.map_or(spec.name.span().start, |span| span.start);
        let rule = spec.check(names, defaults).map_err(RulesError::At)?;
        if enabled {
            check(&rule).map_err(|message| RulesError::At(SpecError { offset, message }))?;
            rules.push(rule);
        }
    }
    for spec in builtin {
        if spec.enabled == Some(false) {
            off.insert(spec.name.into_inner());
        } else {
            rules.push(spec.check(names, defaults).map_err(|error| RulesError::Whole(format!("built-in rule: {}", error.message)))?);
        }
    }
    RuleSet::new(rules)
        .map(|rules| rules.with_off(off))
        .map_err(|message| RulesError::Whole(format!("the rules do not compile together: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Mode, ResponsePattern, Trigger};
    use crate::time::Span;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    #[derive(serde::Deserialize)]
    struct Tables {
        #[serde(default)]
        rule: Vec<RuleSpec>,
    }

    /// Merges the `[[rule]]` tables of `text`. `check` gets the name of each rule that it is called for.
    fn merge_checked(text: &str, defaults: &RuleDefaults, check: impl Fn(&str) -> Result<(), String>) -> Result<RuleSet, RulesError> {
        let tables: Tables = toml::from_str(text).unwrap();
        rule_set(tables.rule, defaults, None, &RuleNames::default(), |rule| check(&rule.name))
    }

    fn merge(text: &str) -> Result<RuleSet, RulesError> {
        merge_checked(text, &RuleDefaults::default(), |_| Ok(()))
    }

    fn names(rules: &RuleSet) -> BTreeSet<String> {
        rules.rules().iter().map(|rule| rule.name.to_string()).collect()
    }

    fn rule(text: &str, name: &str) -> Rule {
        Rule::clone(merge(text).unwrap().by_name(name).unwrap())
    }

    /// The place and the message of the error in `text`.
    fn error(text: &str) -> (usize, String) {
        match merge(text) {
            Err(RulesError::At(error)) => (error.offset, error.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_own_rules_exactly_the_enabled_built_in_rules_are_in_force() {
        let builtin = builtin::specs().unwrap().into_iter().filter(|spec| spec.enabled != Some(false));
        let expected: BTreeSet<String> = builtin.map(|spec| spec.name.into_inner()).collect();
        assert!(expected.contains("w00tw00t") && !expected.contains("proxy-connect"));
        assert_eq!(names(&merge("").unwrap()), expected);
    }

    #[test]
    fn a_rule_with_a_built_in_name_changes_only_the_keys_that_it_sets() {
        let builtin = rule("", "web-not-found");
        let changed = rule("[[rule]]\nname = 'web-not-found'\nmaxretry = 60\nmode = 'enforce'", "web-not-found");
        assert_eq!((changed.maxretry, changed.mode), (60, Mode::Enforce));
        assert_ne!((builtin.maxretry, builtin.mode), (60, Mode::Enforce));
        assert_eq!(
            (changed.trigger, changed.findtime, changed.bantime, changed.scope, changed.description),
            (builtin.trigger, builtin.findtime, builtin.bantime, builtin.scope, builtin.description)
        );
    }

    #[test]
    fn a_pattern_replaces_the_whole_built_in_pattern() {
        let Trigger::Request(builtin) = rule("", "hadoop-apps").trigger else { panic!() };
        assert!(!builtin.methods.is_empty() && builtin.path.is_some(), "the built-in rule has a method and a path");
        let Trigger::Request(changed) = rule("[[rule]]\nname = 'hadoop-apps'\npath = '^/api$'", "hadoop-apps").trigger else { panic!() };
        assert_eq!((changed.methods, changed.path.as_deref()), (Vec::new(), Some("^/api$")));
        let status = rule("[[rule]]\nname = 'hadoop-apps'\nstatus = 404", "hadoop-apps");
        assert_eq!(status.trigger, Trigger::Response(ResponsePattern { statuses: vec![404], ..ResponsePattern::default() }));
    }

    #[test]
    fn enabled_switches_built_in_and_own_rules_on_and_off() {
        let rules = merge(
            "[[rule]]\nname = 'w00tw00t'\nenabled = false\n[[rule]]\nname = 'proxy-connect'\nenabled = true\n\
             [[rule]]\nname = 'own-on'\nevent = 'incident'\n[[rule]]\nname = 'own-off'\nevent = 'incident'\nenabled = false",
        );
        let (mut expected, names) = (names(&merge("").unwrap()), names(&rules.unwrap()));
        expected.remove("w00tw00t");
        expected.extend(["proxy-connect", "own-on"].map(str::to_owned));
        assert_eq!(names, expected);
    }

    #[test]
    fn a_family_that_is_not_wanted_is_off_except_for_rules_that_are_switched_on() {
        let of = |families: &[&str], text: &str| {
            let families: Vec<String> = families.iter().map(|family| (*family).to_owned()).collect();
            let own = toml::from_str::<Tables>(text).unwrap().rule;
            names(&rule_set(own, &RuleDefaults::default(), Some(&families), &RuleNames::default(), |_| Ok(())).unwrap())
        };
        let all: Vec<&str> = builtin::FAMILIES.iter().map(|(name, _)| *name).collect();
        assert_eq!(of(&all, ""), names(&merge("").unwrap()));
        let (proxy, exim) = (of(&["proxy"], ""), of(&["exim"], ""));
        assert!(proxy.contains("proxy-judge") && !proxy.contains("w00tw00t") && !proxy.contains("proxy-connect"), "{proxy:?}");
        assert_eq!(of(&["exim", "proxy"], ""), proxy.union(&exim).cloned().collect());
        assert!(of(&[], "").is_empty());
        let text = "[[rule]]\nname = 'own'\nevent = 'incident'\n[[rule]]\nname = 'web-rate'\nenabled = true\n\
                    [[rule]]\nname = 'w00tw00t'\nmaxretry = 2";
        assert_eq!(of(&[], text), ["own", "web-rate"].map(str::to_owned).into());
    }

    #[test]
    fn keys_that_neither_the_rule_nor_the_built_in_rule_sets_come_from_the_defaults() {
        let defaults = RuleDefaults { maxretry: 7, findtime: Span::from_secs(77), ..RuleDefaults::default() };
        let text = "[[rule]]\nname = 'own'\nevent = 'incident'\n[[rule]]\nname = 'set'\nevent = 'incident'\nmaxretry = 2";
        let rules = merge_checked(text, &defaults, |_| Ok(())).unwrap();
        let limits = |name: &str| rules.by_name(name).map(|rule| (rule.maxretry, rule.findtime)).unwrap();
        assert_eq!(limits("own"), (7, Span::from_secs(77)));
        assert_eq!(limits("set"), (2, Span::from_secs(77)));
        assert_eq!(limits("w00tw00t"), (1, Span::from_secs(77)), "a built-in rule with only maxretry");
    }

    #[test]
    fn a_second_rule_of_the_same_name_is_an_error_at_its_name() {
        for name in ["own", "w00tw00t"] {
            let text = format!("[[rule]]\nname = '{name}'\npath = '/a'\n[[rule]]\nname = '{name}'\npath = '/b'");
            let quoted = format!("'{name}'");
            let (first, second) = (text.find(&quoted).unwrap(), text.rfind(&quoted).unwrap());
            assert_eq!(merge(&text).unwrap_err(), RulesError::Duplicate { name: name.into(), first, second });
        }
    }

    #[test]
    fn an_error_points_at_the_wrong_value() {
        let text = "[[rule]]\nname = 'w00tw00t'\nmaxretry = 0";
        assert_eq!(error(text), (text.rfind('0').unwrap(), "found maxretry = 0, expected 1 or more".into()));
    }

    #[test]
    fn an_own_pattern_is_compiled_under_a_built_in_name_too_and_in_a_rule_that_is_off() {
        for rest in ["", "enabled = false"] {
            let text = format!("[[rule]]\nname = 'w00tw00t'\npath = '/(a'\n{rest}");
            let (offset, message) = error(&text);
            assert_eq!(offset, text.find("'/(a'").unwrap());
            assert_eq!(message, "found the pattern '/(a', expected a regular expression: unclosed group");
        }
    }

    #[test]
    fn the_caller_checks_enabled_own_rules_and_its_error_points_at_the_line_pattern() {
        let text = "[[rule]]\nname = 'off'\nenabled = false\nfailregex = 'a <HOST>'\n[[rule]]\nname = 'w00tw00t'\nmaxretry = 2\n\
                    [[rule]]\nname = 'lines'\nfailregex = 'b <HOST>'\n[[rule]]\nname = 'filter'\nfilter = '/c.conf'";
        let checked = RefCell::new(Vec::new());
        let merge = |wrong: &str| {
            merge_checked(text, &RuleDefaults::default(), |name| {
                checked.borrow_mut().push(name.to_owned());
                if name == wrong { Err("no".to_owned()) } else { Ok(()) }
            })
        };
        assert!(merge("none").is_ok());
        assert_eq!(checked.take(), ["w00tw00t", "lines", "filter"]);
        for (name, place) in [("lines", "'b <HOST>'"), ("filter", "'/c.conf'"), ("w00tw00t", "'w00tw00t'")] {
            let expected = SpecError { offset: text.find(place).unwrap(), message: "no".to_owned() };
            assert_eq!(merge(name).unwrap_err(), RulesError::At(expected), "{name}");
        }
    }
}
