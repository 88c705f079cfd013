//! Whether Squid's access lists ask our helper, before they have allowed what it should be asked about, and refuse by its answer.

use std::collections::BTreeSet;

use super::external::External;
use crate::doctor::report::Finding;
use crate::doctor::squid_config::{Directive, SquidConfig};

/// The lists where Squid waits for an external acl before it serves a request.
const ASKING: [&str; 5] = ["http_access", "adapted_http_access", "url_rewrite_access", "store_id_access", "http_reply_access"];
/// The lists that are looked at only if the program of this option is configured.
const NEEDS_PROGRAM: [(&str, &str); 2] = [("url_rewrite_access", "url_rewrite_program"), ("store_id_access", "store_id_program")];
/// The lists in which a note that an earlier list has made can refuse.
const AFTER_ASKING: [&str; 2] = ["adapted_http_access", "http_reply_access"];
/// Acls of Squid's own that match nobody from outside.
const OWN: [&str; 3] = ["localhost", "manager", "to_localhost"];

const RECONFIGURE: &str = "squid -k reconfigure";

/// A line of an access list: what it does, and its acls.
fn parts(line: &Directive) -> Option<(&str, &[String])> {
    line.words.split_first().map(|(action, acls)| (action.as_str(), acls))
}

/// Whether a line names one of `acls`, not negated.
fn names_one(line: &Directive, acls: &BTreeSet<String>) -> bool {
    parts(line).is_some_and(|(_, words)| words.iter().any(|word| acls.contains(word)))
}

/// Whether a line matches whatever comes.
fn matches_all(line: &Directive) -> bool {
    parts(line).is_some_and(|(_, acls)| acls.iter().all(|acl| acl == "all"))
}

/// Whether a line can match at all: `!all` keeps one from it, which only asks.
fn can_match(line: &Directive) -> bool {
    parts(line).is_some_and(|(_, acls)| !acls.iter().any(|acl| acl == "!all"))
}

fn denies(line: &Directive) -> bool {
    parts(line).is_some_and(|(action, _)| action == "deny")
}

/// The line of the same list that stands before `line` and matches whatever comes.
fn hides<'a>(config: &'a SquidConfig, line: &Directive) -> Option<&'a Directive> {
    let list = config.directives.iter().filter(|before| before.name == line.name);
    list.take_while(|before| *before != line).find(|before| matches_all(before))
}

/// What stands against the order of the lists, and against the refusal.
pub fn check(config: &SquidConfig, lines: &[External<'_>]) -> Vec<Finding> {
    let acls = External::acls(config, lines);
    let about_requests: Vec<External<'_>> = lines.iter().filter(|line| line.asks_about_request()).cloned().collect();
    let request_acls = External::acls(config, &about_requests);
    let asking: Vec<&Directive> = config.directives.iter().filter(|line| ASKING.contains(&line.name.as_str())).collect();
    let asking: Vec<&Directive> = asking.into_iter().filter(|line| names_one(line, &acls)).collect();
    let Some(first) = asking.first() else {
        let place = lines.first().map(|line| line.line.place()).unwrap_or_default();
        let text = format!("{place} names the helper, but no access list uses an acl over it, so it is never asked");
        return vec![Finding::fault(
            "squid-order",
            text,
            format!("take the lines of squid-failopen.conf as they are, then: {RECONFIGURE}"),
        )];
    };
    let missing_program = NEEDS_PROGRAM.iter().find(|(list, program)| first.name == *list && config.setting(program).is_none());
    if let Some((list, program)) = missing_program {
        let text = format!("{} asks in {list}, which Squid looks at only with a {program}, and there is none", first.place());
        let remedy = format!("add {program} /usr/lib/squid/url_fake_rewrite beside it, then: {RECONFIGURE}");
        return vec![Finding::fault("squid-order", text, remedy)];
    }
    let Some(request) = asking.iter().find(|line| names_one(line, &request_acls)) else {
        let text = "Squid asks only whether an address is banned, so no request is judged".to_owned();
        return vec![Finding::fault(
            "squid-order",
            text,
            format!("take the lines of squid-failopen.conf as they are, then: {RECONFIGURE}"),
        )];
    };
    if let Some(hiding) = [*first, *request].iter().find_map(|line| hides(config, line)) {
        let text = format!("{} ({}) stands before {}, so the helper is never asked", hiding.place(), hiding.text(), request.place());
        return vec![Finding::fault("squid-order", text, format!("move it behind that line, then: {RECONFIGURE}"))];
    }
    let mut findings = Vec::new();
    if let Some(allowing) = allowed_unasked(config, request) {
        let text = format!(
            "what {} ({}) allows is not asked about, since it stands before {}",
            allowing.place(),
            allowing.text(),
            request.place()
        );
        findings.push(Finding::warning("squid-order", text, format!("move it behind that line, then: {RECONFIGURE}")));
    }
    findings.extend(refusal(config, &asking, &acls));
    findings
}

/// A line that allows requests from outside before the helper is asked. Only `http_access` decides that.
fn allowed_unasked<'a>(config: &'a SquidConfig, request: &Directive) -> Option<&'a Directive> {
    let allows_outsiders = |line: &&Directive| match parts(line) {
        Some(("allow", acls)) => !acls.iter().any(|acl| OWN.contains(&acl.as_str())),
        _ => false,
    };
    let before = config.named("http_access").take_while(|line| *line != request);
    before.filter(|_| request.name == "http_access").find(allows_outsiders)
}

/// Why nobody is refused, although the helper is asked.
fn refusal(config: &SquidConfig, asking: &[&Directive], acls: &BTreeSet<String>) -> Option<Finding> {
    let refuses_at_once =
        |line: &&&Directive| matches!(line.name.as_str(), "http_access" | "adapted_http_access") && denies(line) && can_match(line);
    if asking.iter().any(|line| refuses_at_once(&line)) {
        return None;
    }
    let notes = config.named("acl").filter_map(|acl| match acl.words.as_slice() {
        [name, kind, note, values @ ..] if kind == "note" && note == "ban_" && values.iter().all(|value| value == "yes") => {
            Some(name.clone())
        }
        _ => None,
    });
    let notes = config.acls_over(notes);
    let mut refusing = config.directives.iter().filter(|line| AFTER_ASKING.contains(&line.name.as_str()));
    let Some(line) = refusing.find(|line| denies(line) && can_match(line) && names_one(line, &notes)) else {
        let names = acls.iter().cloned().collect::<Vec<_>>().join(", ");
        let text = format!("Squid asks ({names}), but no adapted_http_access denies by the answer, so nobody is refused");
        let remedy = format!("add the lines with strikeout_banned of squid-failopen.conf, then: {RECONFIGURE}");
        return Some(Finding::fault("squid-refusal", text, remedy));
    };
    let hiding = hides(config, line)?;
    let text = format!("{} ({}) stands before {}, so nobody is refused", hiding.place(), hiding.text(), line.place());
    Some(Finding::fault("squid-refusal", text, format!("move it behind that line, then: {RECONFIGURE}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::squid_config::tests::config;

    const EXAMPLES: [&str; 3] = [
        include_str!("../../../conf-examples/squid-failopen.conf"),
        include_str!("../../../conf-examples/squid.conf"),
        include_str!("../../../conf-examples/squid-fast.conf"),
    ];

    fn found(text: &str) -> Vec<String> {
        let config = config(&[("/s", text)]);
        check(&config, &External::all(&config)).into_iter().map(|finding| format!("{} {}", finding.check, finding.text)).collect()
    }

    #[test]
    fn the_examples_ask_and_refuse_in_debians_configuration() {
        for example in EXAMPLES {
            let debian = format!(
                "http_access deny !Safe_ports\nhttp_access allow localhost manager\nhttp_access deny manager\n{example}\nhttp_access allow all"
            );
            assert_eq!(found(&debian), Vec::<String>::new());
        }
    }

    #[test]
    fn a_line_that_decides_before_the_helper_is_asked_is_named() {
        for (before, after, expected) in [
            ("http_access allow all", "", "squid-order /s:1 (http_access allow all) stands before "),
            ("http_access allow localnet", "", "squid-order what /s:1 (http_access allow localnet) allows is not asked about"),
        ] {
            let found = found(&format!("{before}\n{}\n{after}", EXAMPLES[1]));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
        assert!(found(&format!("http_access allow localnet\n{}", EXAMPLES[0])).is_empty(), "asked behind http_access");
        let found = found(&format!("url_rewrite_access deny all\n{}", EXAMPLES[0]));
        assert!(found[0].starts_with("squid-order /s:1 (url_rewrite_access deny all) stands before "), "{found:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (example, without, expected) in [
            (0, "url_rewrite_program", "squid-order /s:"),
            (0, "adapted_http_access", "squid-refusal Squid asks (strikeout_client, strikeout_request), but no "),
            (0, "acl strikeout_banned", "squid-refusal "),
            (0, "url_rewrite_access deny strikeout_request", "squid-order Squid asks only whether an address is banned"),
            (0, "url_rewrite_access", "squid-order /s:"),
            (1, "http_access", "squid-order /s:"),
        ] {
            let kept: Vec<&str> = EXAMPLES[example].lines().filter(|line| !line.starts_with(without)).collect();
            let found = found(&kept.join("\n"));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{without}: {found:?}");
        }
        let found = found(&EXAMPLES[0].replace("adapted_http_access deny", "adapted_http_access allow all\nadapted_http_access deny"));
        assert!(found.len() == 1 && found[0].contains("so nobody is refused"), "{found:?}");
    }
}
