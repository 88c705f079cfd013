//! The text of an ACL of Exim's, as far as it asks us: statements, the questions in them, and whether a refusal follows.

use std::path::{Path, PathBuf};

/// The helper's program.
pub const PROGRAM: &str = "exim_strikeout_acl";
const VERBS: [&str; 7] = ["accept", "defer", "deny", "discard", "drop", "require", "warn"];

/// A statement of an ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement<'a> {
    verb: &'a str,
    /// Its conditions and modifiers.
    rest: String,
}

/// A question that an ACL asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The socket that is asked; none if the helper is left to know it.
    pub socket: Option<PathBuf>,
    /// What is asked, such as `check`.
    pub verb: String,
    /// Why a daemon that is gone or hangs would be felt by Exim's clients.
    pub danger: Option<String>,
}

/// What is wrong with the order of the statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderFault {
    /// An `accept` without a condition comes first.
    NeverAsked,
    /// Nothing refuses by the answer.
    NeverRefuses,
    /// The last statement is no `accept` for everybody: Exim denies who reaches the end.
    DeniesAtTheEnd,
}

fn statements(text: &str) -> Vec<Statement<'_>> {
    let mut statements: Vec<Statement<'_>> = Vec::new();
    for line in text.lines().map(|line| line.trim().trim_end_matches('\\')).filter(|line| !line.starts_with('#')) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (VERBS.contains(&word), statements.last_mut()) {
            (true, _) => statements.push(Statement { verb: word, rest: rest.trim().to_owned() }),
            (false, Some(last)) if !line.is_empty() => last.rest = format!("{} {line}", last.rest),
            _ => {}
        }
    }
    statements
}

/// The text between balanced braces at the start of `text`, and what follows them.
fn group(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(1..at)?, text.get(at + 1..)?));
        }
    }
    None
}

/// The questions in an ACL: to our socket and to our helper. `is_ours` tells our socket from those of other services.
pub fn questions(text: &str, is_ours: impl Fn(&Path) -> bool) -> Vec<Question> {
    statements(text).iter().flat_map(|statement| questions_of(statement, &is_ours)).collect()
}

fn questions_of(statement: &Statement<'_>, is_ours: impl Fn(&Path) -> bool) -> Vec<Question> {
    let questions = sockets(&statement.rest).into_iter().chain(helpers(&statement.rest));
    questions.filter(|question| question.socket.as_deref().is_none_or(&is_ours)).collect()
}

fn sockets(line: &str) -> Vec<Question> {
    let mut questions = Vec::new();
    for after in line.split("readsocket").skip(1) {
        let Some((path, mut rest)) = group(after) else { continue };
        let mut arguments = Vec::new();
        while let Some((argument, after)) = Some(rest).filter(|rest| rest.starts_with('{')).and_then(group) {
            arguments.push(argument);
            rest = after;
        }
        let [request, options @ ..] = arguments.as_slice() else { continue };
        // Exim reads whole units: `500ms`, `1` and `0s` each mean no timeout (facts of 4.96, `expand.c`).
        let timeout = options.first().and_then(|options| options.split(':').next()).unwrap_or_default();
        let has_timeout = timeout.strip_suffix(['s', 'm']).is_some_and(|number| number.parse::<u32>().is_ok_and(|number| number > 0));
        let danger = if !has_timeout {
            Some(format!("{{{timeout}}} is no timeout to Exim, so a daemon that hangs holds every connection; expected {{1s}}"))
        } else if options.len() < 3 {
            Some("without a fifth argument Exim answers 451 to everybody while the daemon is gone; expected {accept} there".to_owned())
        } else {
            None
        };
        let verb = request.split_whitespace().next().unwrap_or_default().to_owned();
        questions.push(Question { socket: Some(PathBuf::from(path)), verb, danger });
    }
    questions
}

fn helpers(line: &str) -> Option<Question> {
    let (_, after) = line.split_once(PROGRAM)?;
    let mut words = after.split_whitespace();
    let mut socket = None;
    let mut verb = String::new();
    while let Some(word) = words.next() {
        match word {
            "--table" => socket = words.next().map(PathBuf::from),
            "--config" => drop(words.next()),
            "check" | "strike" => {
                verb = word.to_owned();
                break;
            }
            _ => {}
        }
    }
    Some(Question { socket, verb, danger: None })
}

/// Whether conditions that are not met by everybody are missing in these of a statement.
fn holds_for_all(conditions: &str) -> bool {
    let text: String = conditions.split_whitespace().collect();
    matches!(text.as_str(), "" | "hosts=*" | "hosts=:*" | "condition=yes" | "condition=true" | "condition=1")
}

/// What is wrong with the order of an ACL that refuses connections; `is_ours` as for [`questions`].
pub fn order_fault(text: &str, is_ours: impl Fn(&Path) -> bool) -> Option<OrderFault> {
    let statements = statements(text);
    let asks = |statement: &Statement<'_>| !questions_of(statement, &is_ours).is_empty();
    let asking = statements.iter().position(asks)?;
    let accepts_all = |statement: &Statement<'_>| matches!(statement.verb, "accept" | "discard") && holds_for_all(&statement.rest);
    if statements.iter().take(asking).any(accepts_all) {
        return Some(OrderFault::NeverAsked);
    }
    // The variable that holds the answer: `set acl_c_strike = …`.
    let statement = statements.get(asking)?;
    let set = statement
        .rest
        .split_once("set ")
        .map(|(_, rest)| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default());
    let refuses = |statement: &Statement<'_>| matches!(statement.verb, "deny" | "defer" | "drop");
    let uses = |statement: &Statement<'_>| set.is_some_and(|name| !name.is_empty() && statement.rest.contains(name));
    let refusing = statements.iter().skip(asking).find(|statement| refuses(statement) && (asks(statement) || uses(statement)));
    if refusing.is_none() {
        return Some(OrderFault::NeverRefuses);
    }
    statements.last().is_some_and(|last| !accepts_all(last)).then_some(OrderFault::DeniesAtTheEnd)
}

/// The text of the ACL `name` in Exim's whole configuration, as `exim4 -bP config` prints it.
pub fn named<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let lines = |text: &'a str| {
        text.split_inclusive('\n').scan(0, |start, line| {
            let at = *start;
            *start += line.len();
            Some((at, line.trim()))
        })
    };
    let section = lines(config).find(|(_, line)| line.split_whitespace().eq(["begin", "acl"])).and_then(|(at, _)| config.get(at..))?;
    let next = lines(section).skip(1).find(|(_, line)| line.starts_with("begin ")).map(|(at, _)| at);
    let section = section.get(..next.unwrap_or(section.len()))?;
    let is_label = |line: &str| {
        line.strip_suffix(':').is_some_and(|label| !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_'))
    };
    let mut from_label = lines(section).skip_while(|(_, line)| line.strip_suffix(':') != Some(name));
    let (label, line) = from_label.next()?;
    let start = label + section.get(label..)?.find(line)? + line.len();
    let end = from_label.find(|(_, line)| is_label(line)).map_or(section.len(), |(at, _)| at);
    section.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: [&str; 2] =
        [include_str!("../../../conf-examples/exim-readsocket.acl"), include_str!("../../../conf-examples/exim-run.acl")];
    const INCIDENTS: &str = include_str!("../../../conf-examples/exim-incidents.acl");

    fn is_ours(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == "strikeout.sock")
    }

    #[test]
    fn the_examples_ask_once_refuse_and_accept_at_their_end() {
        let sockets = EXAMPLES.map(|example| {
            assert_eq!(order_fault(example, is_ours), None);
            let questions = questions(example, is_ours);
            assert_eq!(questions.iter().map(|question| (question.verb.as_str(), &question.danger)).collect::<Vec<_>>(), [("check", &None)]);
            questions[0].socket.clone()
        });
        assert_eq!(sockets, [Some("/run/strikeout/strikeout.sock".into()), None]);
        let questions = questions(INCIDENTS, is_ours);
        assert!(questions.iter().all(|question| question.danger.is_none()), "{questions:?}");
        assert!(
            questions.iter().any(|question| question.verb == "check")
                && questions.iter().filter(|question| question.verb == "strike").count() > 3
        );
    }

    #[test]
    fn a_question_that_could_hang_or_fail_closed_is_dangerous() {
        let danger = |from: &str, to: &str| questions(&EXAMPLES[0].replace(from, to), is_ours)[0].danger.clone().unwrap_or_default();
        for timeout in ["{500ms}", "{1}", "{0s}", "{}"] {
            assert!(danger("{1s}", timeout).contains("is no timeout"), "{timeout}");
        }
        assert_eq!(danger("{1s}", "{2s:shutdown=no}"), "");
        assert!(danger("{1s}{}{accept}", "{1s}").contains("451"));
        let other = "warn set acl_c_x = ${readsocket{/run/clamav}{x}}\n# ${readsocket{/run/strikeout.sock}{x}}";
        assert!(questions(other, is_ours).is_empty());
    }

    #[test]
    fn an_order_that_never_asks_never_refuses_or_denies_at_the_end_is_a_fault() {
        let without = |word: &str| {
            let text = statements(EXAMPLES[0]).into_iter().filter(|statement| statement.verb != word);
            text.map(|statement| format!("{} {}\n", statement.verb, statement.rest)).collect::<String>()
        };
        assert_eq!(order_fault(&format!("accept\n{}", EXAMPLES[0]), is_ours), Some(OrderFault::NeverAsked));
        assert_eq!(order_fault(&without("accept"), is_ours), Some(OrderFault::DeniesAtTheEnd));
        assert_eq!(order_fault(&without("deny").replace("defer", "warn"), is_ours), Some(OrderFault::NeverRefuses));
        let direct = "defer condition = ${if match{${readsocket{/strikeout.sock}{check x}{1s}{}{}}}{\\N^d\\N}}\naccept";
        assert_eq!(order_fault(direct, is_ours), None);
        assert_eq!(order_fault("accept", is_ours), None, "it does not ask");
    }

    #[test]
    fn a_named_acl_is_found_in_the_whole_configuration() {
        let config = "primary_hostname = x\nacl_smtp_connect = one\n\nbegin acl\n\n two:\n accept\n one:\n deny hosts = a\n accept\n\nbegin routers\nr:\n driver = accept\n";
        assert_eq!(named(config, "one").map(|text| statements(text).len()), Some(2));
        assert_eq!(named(config, "two").map(|text| statements(text).len()), Some(1));
        assert_eq!((named(config, "r"), named("one:\n accept", "one"), named(config, "three")), (None, None, None));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,200}", words in "(accept|warn|readsocket|exim_strikeout_acl|--table|begin acl|one:|[{} \n]|é){0,40}") {
            for text in [text, words] {
                questions(&text, |_| true);
                order_fault(&text, |_| true);
                named(&text, "one");
            }
        }
    }
}
