//! Generates `docs/rules-table.md`, which lists every built-in rule: `STRIKEOUT_WRITE_DOCS=1 cargo test --test rules_table`.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fmt::Write;
use std::path::Path;

use strikeout::internals::event::Scope;
use strikeout::internals::rule::spec::RuleDefaults;
use strikeout::internals::rule::{CountBy, LinePattern, Mode, Rule, Trigger, builtin};
use strikeout::internals::rule_id::RuleNames;

fn looks_at(rule: &Rule) -> String {
    match &rule.trigger {
        Trigger::Request(pattern) => {
            let parts = [
                (pattern.path.is_some(), "path"),
                (pattern.query.is_some(), "query"),
                (pattern.user_agent.is_some(), "User-Agent"),
                (pattern.url.is_some(), "URL"),
                (pattern.header.is_some(), "headers"),
            ];
            let methods = Some(pattern.methods.join("/")).filter(|methods| !methods.is_empty());
            let parts = parts.into_iter().filter_map(|(given, part)| given.then_some(part.to_owned()));
            methods.into_iter().chain(parts).collect::<Vec<_>>().join(", ")
        }
        Trigger::RequestRate => "every request".into(),
        Trigger::UnreferredRate => "every request without Referer and Sec-Fetch-Site".into(),
        Trigger::Ban => "bans by other rules".into(),
        Trigger::PageProbe => "refused requests, Sec-Fetch-Site".into(),
        Trigger::Response(pattern) => {
            let statuses: Vec<String> = pattern.statuses.iter().map(u16::to_string).collect();
            let conditions = [
                ("method", !pattern.methods.is_empty()),
                ("path", pattern.path.is_some() || pattern.not_path.is_some()),
                ("query", pattern.query.is_some() || pattern.not_query.is_some()),
                ("Referer", pattern.referer.is_some()),
                ("credentials", pattern.credentials.is_some()),
            ];
            let conditions = conditions.into_iter().filter_map(|(name, is_given)| is_given.then_some(format!(", {name}")));
            format!("status {}{}", statuses.join("/"), conditions.collect::<String>())
        }
        Trigger::ConnectionRate => "every SMTP connection".into(),
        Trigger::Simultaneous { limit } => format!("more than {limit} SMTP connections at once"),
        Trigger::Incident => "Exim's report".into(),
        Trigger::Line(LinePattern::Exim(kinds)) => format!("Exim's log: {}", kinds.join(", ")),
        Trigger::Line(_) => "log lines".into(),
    }
}

fn table() -> String {
    let names = RuleNames::default();
    let mut rows = String::new();
    let mut count = 0;
    for (name, text) in builtin::FAMILIES {
        let about: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
        write!(
            rows,
            "\n## {name}\n\n{}\n\n| rule | looks at | ban after | mode | what it catches |\n|---|---|---|---|---|\n",
            about.join(" ")
        )
        .unwrap();
        for spec in builtin::family(name, text).unwrap() {
            let off = spec.enabled == Some(false);
            let rule = spec.check(&names, &RuleDefaults::default()).unwrap();
            let after = if rule.maxretry == 1 { "1".into() } else { format!("{} in {}", rule.maxretry, rule.findtime) };
            let after = match rule.count_by {
                CountBy::Client => after,
                CountBy::Network(size) => format!("{after} by {} clients of a /{} (IPv6 /{})", rule.members, size.ipv4, size.ipv6),
                CountBy::Asn => format!("{after} by {} clients of an autonomous system", rule.members),
                CountBy::Account => format!("{after} for one account by {} clients", rule.members),
            };
            let mode = match (off, rule.mode) {
                (true, _) => "off",
                (false, Mode::Shadow) => "shadow",
                (false, Mode::Enforce) => match rule.scope {
                    Scope::All => "enforce",
                    Scope::Web => "enforce, web",
                    Scope::Mail => "enforce, mail",
                },
            };
            let description = rule.description.replace('|', "\\|").replace('<', "&lt;");
            writeln!(rows, "| `{}` | {} | {after} | {mode} | {description} |", rule.name, looks_at(&rule)).unwrap();
            count += 1;
        }
    }
    format!(
        "# The built-in rules\n\n{count} rules in {} families. `tests/rules_table.rs` generates this page from `src/rule/defaults`; [rules.md](rules.md) explains how to \
         change a rule.\n{rows}",
        builtin::FAMILIES.len()
    )
}

#[test]
fn the_table_of_rules_matches_the_rules() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules-table.md");
    let table = table();
    if std::env::var_os("STRIKEOUT_WRITE_DOCS").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap();
    let differs = committed.lines().zip(table.lines()).find(|(committed, generated)| committed != generated);
    assert_eq!(differs, None, "docs/rules-table.md is outdated: STRIKEOUT_WRITE_DOCS=1 cargo test --test rules_table");
    assert_eq!(committed.len(), table.len(), "docs/rules-table.md is outdated: STRIKEOUT_WRITE_DOCS=1 cargo test --test rules_table");
}

#[test]
fn the_guide_lists_every_family() {
    let guide = include_str!("../docs/rules.md");
    for (name, _) in builtin::FAMILIES {
        assert!(guide.contains(&format!("| `{name}` |")), "docs/rules.md does not list {name}");
    }
}
