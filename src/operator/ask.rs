//! Subcommands that ask the resident: the request goes over the socket, and the answer is shown as it comes or as JSON.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Asking, Failure, show};
use crate::socket::ask::ask;
use crate::time::Span;

/// A list of a million bans takes its time.
const LIMIT: Duration = Duration::from_secs(60);
const MOST: usize = 1 << 30;

/// What the lines of an answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `key=value`, one a line; a key may come again.
    Fields,
    /// `WORD key=value key=value`: an entry a line.
    Rows,
    /// Text for people or other programs.
    Text,
}

/// Asks, and shows the answer.
///
/// # Errors
/// The resident cannot be asked, or refuses.
pub fn run(asking: &Asking, request: &str, shape: Shape) -> Result<(), Failure> {
    let socket = asking.socket()?;
    let answer = ask(&socket, request, MOST, LIMIT).map_err(|error| Failure::Failed(unreachable_text(&socket, &error)))?;
    let lines = lines_of(&answer)?;
    if asking.json {
        let value = match shape {
            Shape::Fields => fields(&lines),
            Shape::Rows => Value::Array(lines.iter().map(|line| row(line)).collect()),
            Shape::Text => Value::Array(lines.iter().map(|line| Value::from(*line)).collect()),
        };
        return show(&format!("{value}\n"));
    }
    show(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// The lines of an answer without its end.
fn lines_of(answer: &str) -> Result<Vec<&str>, Failure> {
    let mut lines: Vec<&str> = answer.lines().collect();
    match lines.pop() {
        Some(".") => Ok(lines),
        Some(line) => match line.strip_prefix("error ") {
            Some(fault) => Err(Failure::Failed(fault.to_owned())),
            None => Err(Failure::Failed("the resident did not answer to the end".to_owned())),
        },
        None => Err(Failure::Failed("the resident did not answer".to_owned())),
    }
}

/// What it means that the resident cannot be asked, and what to do.
fn unreachable_text(socket: &Path, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            use std::os::unix::fs::MetadataExt;
            let group = std::fs::metadata(socket).or_else(|_| std::fs::metadata(socket.parent().unwrap_or(socket))).ok();
            let group = group.and_then(|metadata| nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten());
            format!("join the group {}", group.map_or_else(|| "strikeout".to_owned(), |group| group.name))
        }
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => "is strikeout serve running?".to_owned(),
        std::io::ErrorKind::TimedOut => "the resident hangs".to_owned(),
        _ => "expected the socket of strikeout serve".to_owned(),
    };
    format!("{}: {error}: {advice}", socket.display())
}

/// The request that bans.
///
/// # Errors
/// The duration cannot be read.
pub fn ban(target: &str, duration: Option<&str>, scope: &str, reason: &str) -> Result<String, Failure> {
    let mut request = format!("ban {} scope={}", word(target), word(scope));
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

/// An argument as one word of a request: what is no word is left to the resident to name as a fault.
#[must_use]
pub fn word(argument: &str) -> String {
    argument.chars().map(|c| if c.is_whitespace() || c.is_control() { '?' } else { c }).collect()
}

/// A number where it is one.
fn value(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from)
}

/// One object of all `key=value` lines; a key that comes again makes a list.
fn fields(lines: &[&str]) -> Value {
    let mut object = Map::new();
    for (key, text) in lines.iter().filter_map(|line| line.split_once('=')) {
        match object.get_mut(key) {
            None => {
                object.insert(key.to_owned(), value(text));
            }
            Some(Value::Array(values)) => values.push(value(text)),
            Some(first) => *first = Value::Array(vec![first.take(), value(text)]),
        }
    }
    Value::Object(object)
}

/// One object of `WORD key=value key=value`; the word is the client.
fn row(line: &str) -> Value {
    let mut words = line.split(' ');
    let mut object = Map::new();
    object.insert("client".to_owned(), Value::from(words.next().unwrap_or_default()));
    for (key, text) in words.filter_map(|word| word.split_once('=')) {
        object.insert(key.to_owned(), value(text));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_a_dot_and_an_error_is_a_failure() {
        assert_eq!(lines_of("a=1\nb\n.\n"), Ok(vec!["a=1", "b"]));
        assert_eq!(lines_of(".\n"), Ok(vec![]));
        assert_eq!(lines_of("error user 33 may not do this\n"), Err(Failure::Failed("user 33 may not do this".into())));
        assert!(lines_of("a=1\n").is_err() && lines_of("").is_err());
    }

    #[test]
    fn answers_become_json() {
        assert_eq!(fields(&["bans=3", "log=a", "log=b", "uptime=-1"]).to_string(), r#"{"bans":3,"log":["a","b"],"uptime":-1}"#);
        assert_eq!(row("192.0.2.1 scope=all until=-1").to_string(), r#"{"client":"192.0.2.1","scope":"all","until":-1}"#);
    }

    #[test]
    fn a_ban_is_one_line_whatever_the_operator_writes() {
        assert_eq!(ban("192.0.2.1", Some("1d 12h"), "all", ""), Ok("ban 192.0.2.1 scope=all for=129600".into()));
        assert_eq!(ban("192.0.2.1", Some("-1"), "web", "a\nb"), Ok("ban 192.0.2.1 scope=web for=-1 reason=a b".into()));
        assert_eq!(ban("1 2\n3", None, "all", ""), Ok("ban 1?2?3 scope=all".into()));
        assert!(matches!(ban("192.0.2.1", Some("soon"), "all", ""), Err(Failure::Usage(_))));
    }
}
