//! Says what the `toml` crate found in the words of all other errors: what was found where, what was expected, and what was probably meant.

use crate::rule_id::did_you_mean;

/// One line for `message`, with the text of the file `before` the fault and the faulty `value` itself.
pub(super) fn readable(message: &str, before: &str, value: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let message = lines.join("; ");
    if let Some(found) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        let known = message.split('`').skip(3).step_by(2);
        return format!("{message}{}", did_you_mean(found, known));
    }
    let key = key(before);
    let is_short = !value.is_empty() && value.len() <= 60 && !value.contains('\n');
    if let (Some(key), true) = (key, is_short) {
        if let Some((_, expected)) = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
            return format!("found {key} = {value}, expected {}{}", kind(expected), meant(value, expected));
        }
        if let Some((_, expected)) = message.strip_prefix("invalid value: ").and_then(|rest| rest.split_once(", expected ")) {
            return format!("found {key} = {value}, expected {}", kind(expected));
        }
        if let Some(rest) = message.strip_prefix("found ").and_then(|rest| rest.strip_prefix(value)) {
            return format!("found {key} = {value}{rest}");
        }
    }
    if let Some(found) = message.strip_prefix("unknown variant `").and_then(|rest| rest.split('`').next()) {
        let known = message.split('`').skip(3).step_by(2);
        return format!("{message}{}", did_you_mean(found, known));
    }
    message
}

/// The key whose value follows `before`.
fn key(before: &str) -> Option<&str> {
    let line = before.rsplit(['\n', ',', '{']).next()?;
    let key = line.strip_suffix(' ').unwrap_or(line).strip_suffix('=')?.trim();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!key.is_empty() && key.chars().all(is_bare)).then_some(key)
}

/// A type as people call it.
fn kind(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" => "text in quotes",
        "a sequence" => "a list in brackets",
        other => other,
    }
}

/// The value without its quotes or with them, if that would have the expected type.
fn meant(value: &str, expected: &str) -> String {
    let bare = value.trim_matches(['"', '\'']);
    let meant = match kind(expected) {
        "a whole number" | "a number" if bare != value && bare.parse::<f64>().is_ok() => bare.to_owned(),
        "true or false" if bare != value && ["true", "false"].contains(&bare) => bare.to_owned(),
        "text in quotes" if bare == value && !value.starts_with(['[', '{']) => format!("{value:?}"),
        "a list in brackets" if !value.starts_with('{') => format!("[{value}]"),
        _ => return String::new(),
    };
    format!("; did you mean {meant}?")
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::path::Path;

    fn error(text: &str) -> String {
        Config::parse(text.as_bytes(), Path::new("f"), &RuleNames::default()).unwrap_err().to_string()
    }

    #[test]
    fn an_error_says_what_was_probably_meant() {
        for (text, expected) in [
            ("[table]\nsocet = '/x'", "f:2: unknown field `socet`, expected one of `socket`, "),
            ("[table]\nsocet = '/x'", "; did you mean `socket`?"),
            ("[defaults]\nmaxretry = '3'", "f:2: found maxretry = '3', expected a whole number; did you mean 3?"),
            ("[defaults]\nmaxretry = true", "f:2: found maxretry = true, expected a whole number"),
            ("[defaults]\nmaxretry = -1", "f:2: found maxretry = -1, expected a whole number"),
            ("[[rule]]\nname = 'a'\nenabled = 'false'", "f:3: found enabled = 'false', expected true or false; did you mean false?"),
            ("[[rule]]\nname = 7", "f:2: found name = 7, expected text in quotes; did you mean \"7\"?"),
            (
                "[defaults]\nignoreip = '192.0.2.1'",
                "f:2: found ignoreip = '192.0.2.1', expected a list in brackets; did you mean ['192.0.2.1']?",
            ),
            ("[table]\nclients = 0", "f:2: found clients = 0, expected 1 to 100000000"),
            ("[defaults]\nfindtime = \"ten\"", "f:2: found findtime = \"ten\", expected a duration"),
            ("[[rule]]\nname = 'a'\nmode = 'shaddow'", "; did you mean `shadow`?"),
            ("[[log]]\npath = '/x'\nrules = ['exim-perhost']", "expected the name of an enabled rule; did you mean `exim-per-host`?"),
            ("[defaults]\nfamilies = ['scaners']", "; did you mean `scanners`?"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}\n  gave     {error}\n  expected {expected}");
        }
    }
}
