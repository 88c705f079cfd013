//! Orders to the resident: `ban`, `unban`, `reload`; and its metrics.

use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::ask::{address, ask, scope, target, word};
use super::fields::Fields;
use super::screen::{moment, now, span};
use super::why::Answer;
use super::{Asking, Failure, show};
use crate::time::Span;

/// `strikeout ban`.
///
/// # Errors
/// An argument cannot be used; the resident cannot be asked, or refuses: of whom is never banned, with the reason.
pub fn ban(asking: &Asking, client: &str, duration: Option<&str>, on: &str, reason: &str) -> Result<(), Failure> {
    let answer = ask(asking, &request(client, duration, on, reason)?)?;
    let line = answer.lines().first().copied().unwrap_or_default();
    let row = Fields::of_row(line);
    let banned = line.split(' ').nth(1);
    if !asking.json {
        let left = row.signed("remaining").and_then(|left| u64::try_from(left).ok());
        return show(&in_words(banned.unwrap_or(client), left, row.get("scope").unwrap_or("all"), now(), &TimeZone::system()));
    }
    show(&format!(
        "{}\n",
        json!({ "banned": banned, "until": row.signed("until"), "remaining": row.signed("remaining"), "scope": row.get("scope") })
    ))
}

/// What was done, for people: for the seconds that are left, or for ever.
fn in_words(banned: &str, left: Option<u64>, scope: &str, now: i64, zone: &TimeZone) -> String {
    let ends = left.map_or_else(
        || "for ever".to_owned(),
        |left| format!("until {} (in {})", moment(now.saturating_add_unsigned(left), zone), span(left)),
    );
    let places = match scope {
        "web" => "on the web",
        "mail" => "in mail",
        _ => "on the web and in mail",
    };
    format!("banned {banned} {places} {ends}\n")
}

/// The request that bans.
fn request(client: &str, duration: Option<&str>, on: &str, reason: &str) -> Result<String, Failure> {
    let mut request = format!("ban {} scope={}", target(client)?, scope(on)?);
    match duration {
        None => {}
        Some("-1") => request.push_str(" for=-1"),
        Some(text) => {
            let span = Span::parse(text).map_err(Failure::Usage)?;
            request.push_str(&format!(" for={}", span.secs_ceil()));
        }
    }
    if !reason.is_empty() {
        request.push_str(" reason=");
        request.extend(reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500));
    }
    Ok(request)
}

/// `strikeout unban`: says as well what refuses the client all the same.
///
/// # Errors
/// An argument cannot be used, the resident cannot be asked or refuses, or the client was not banned itself and is refused all the same.
pub fn unban(asking: &Asking, client: &str, on: &str) -> Result<(), Failure> {
    let client = target(client)?;
    let answer = ask(asking, &format!("unban {client} scope={}", scope(on)?))?;
    let found = answer.lines().first().is_some_and(|line| line.starts_with("unbanned "));
    // A network may be banned, or a list name it.
    let rest = match address(&client) {
        Ok(address) if on == "all" => Some(ask(asking, &format!("why {address}"))?),
        _ => None,
    };
    let rest = rest.map(|rest| Answer::new(Fields::of(&rest.lines()), asking.again())).filter(Answer::is_refused);
    let undo = rest.map(|rest| rest.undo()).unwrap_or_default();
    if asking.json {
        show(&format!("{}\n", json!({ "target": client, "found": found, "still_refused": !undo.is_empty(), "undo": undo })))?;
    } else {
        show(&if found { format!("unbanned {client}\n") } else { format!("{client} was not banned\n") })?;
    }
    if undo.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("{client} is refused all the same; expected: {}", undo.join("; "))))
}

/// `strikeout reload`.
///
/// # Errors
/// The resident cannot be asked, or refuses the configuration: its fault is told.
pub fn reload(asking: &Asking) -> Result<(), Failure> {
    let answer = ask(asking, "reload")?;
    let fields = Fields::of(&answer.lines());
    if asking.json {
        return show(&format!("{}\n", json!({ "reloaded": true, "notes": fields.all("note").collect::<Vec<_>>() })));
    }
    show(&fields.all("note").fold("reloaded\n".to_owned(), |text, note| format!("{text}but {note}\n")))
}

/// `strikeout forget`.
///
/// # Errors
/// The resident cannot be asked, or is in no fleet.
pub fn forget(asking: &Asking, node: &str) -> Result<(), Failure> {
    let answer = ask(asking, &format!("forget {}", word(node)))?;
    if asking.json { show(&format!("{}\n", json!({ "forgetting": node }))) } else { show(&answer.text()) }
}

/// `strikeout metrics`.
///
/// # Errors
/// The resident cannot be asked.
pub fn metrics(asking: &Asking) -> Result<(), Failure> {
    let answer = ask(asking, "metrics")?;
    if !asking.json {
        return show(&answer.text());
    }
    let samples = answer.lines().into_iter().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let samples: Map<String, Value> =
        samples.filter_map(|(name, value)| Some((name.to_owned(), serde_json::from_str(value).ok()?))).collect();
    show(&format!("{}\n", Value::Object(samples)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_told_in_the_words_of_people() {
        let told = |left, scope| in_words("192.0.2.1", left, scope, 1_800_000_000, &TimeZone::UTC);
        assert_eq!(told(Some(600), "all"), "banned 192.0.2.1 on the web and in mail until 2027-01-15 08:10:00 (in 10 min)\n");
        assert_eq!(told(None, "mail"), "banned 192.0.2.1 in mail for ever\n");
    }

    #[test]
    fn a_ban_is_one_line_whatever_the_operator_writes() {
        assert_eq!(request("192.0.2.1", Some("1d 12h"), "all", ""), Ok("ban 192.0.2.1 scope=all for=129600".into()));
        assert_eq!(request("192.0.2.1", Some("-1"), "web", "a\nb"), Ok("ban 192.0.2.1 scope=web for=-1 reason=a b".into()));
        for (client, duration, on) in [("1 2\n3", None, "all"), ("192.0.2.1", Some("soon"), "all"), ("192.0.2.1", None, "ftp")] {
            assert!(matches!(request(client, duration, on, ""), Err(Failure::Usage(_))), "{client}");
        }
    }
}
