//! Finds expressions that let a client decide which address is blamed, and shows for each a log line that does so.
//!
//! Clients choose user names, paths and User-Agents. If such text can hold what an expression requires around `<HOST>`, a client can put
//! an address of its choice there and have others banned. Every line that is shown was tried on the filter first.

use super::filter::Filter;
use super::matcher::{Host, Matcher};
use super::regex::tree::{Assert, Node, QUOTES};
use super::sample::{FreeText, Piece, Shape, pieces};
use jiff::tz::TimeZone;
use std::fmt;
use std::sync::Arc;

/// Maximum number of lines to try for one expression.
const MAX_TRIALS: u32 = 400;

/// The client that causes a line and the victim that it would have blamed, IPv4 and IPv6.
const CLIENT: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const VICTIM: [&str; 2] = ["198.51.100.9", "2001:db8:bad::9"];

/// The time at which lines are tried: 2026-01-02 03:04:06 UTC, just after the dates in them.
const NOW: f64 = 1_767_323_046.0;

/// Why an expression takes the address from the client's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The expression is not anchored to the start of the line.
    Unanchored,
    /// A part before the address is greedy and reaches into the client's text.
    Greedy,
    /// A part before the address is the client's text, and the match stops at the first address in it.
    Early,
    /// A part before the address, in brackets or quotes, is the client's text, and may hold what ends it: Exim logs any HELO in brackets
    /// under `helo_accept_junk_hosts`.
    Quoted,
    /// The lines that the expression joins may be of different clients.
    UnrelatedLines,
}

/// An expression that can be deceived, with proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgery {
    /// Index of the failregex.
    pub expression: usize,
    /// The text of the failregex.
    pub source: String,
    /// A line that `client` causes.
    pub line: String,
    /// The part of the line that `client` chooses.
    pub text: String,
    /// The client that causes the line.
    pub client: String,
    /// The address that is blamed for it.
    pub blamed: String,
    /// Whether the matcher notices that the line could blame two clients, so that it blames nobody.
    pub is_noticed: bool,
    /// Why it is blamed.
    pub cause: Cause,
}

impl fmt::Display for Forgery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Unanchored => "it is not anchored to the start of the line (^)",
            Cause::Greedy => "a greedy part before <HOST> reaches into the client's text",
            Cause::UnrelatedLines => "it joins lines of different clients: a back-reference such as (?P=id) ties lines together",
            Cause::Early => "the client's text comes before <HOST> and can hold an address of its own",
            Cause::Quoted => {
                "the text in brackets or quotes before <HOST> may hold what ends it, unless the program refuses or escapes that"
            }
        };
        let outcome = if self.is_noticed { "is blamed by fail2ban; here the line blames nobody" } else { "is blamed" };
        write!(
            f,
            "failregex {} lets a client decide which address is blamed: {cause}: {:?}\n  in the line {:?}\n  {} writes {:?}, and {} {outcome}",
            self.expression + 1,
            self.source,
            self.line,
            self.client,
            self.text,
            self.blamed
        )
    }
}

/// The expressions of a filter that can be deceived, each with a line that was tried.
///
/// An expression for which no matching sample line can be built is left out.
#[must_use]
pub fn forgeries(filter: &Arc<Filter>) -> Vec<Forgery> {
    let found = (0..filter.failregex.len()).filter_map(|expression| forgery(filter, expression));
    found.collect()
}

fn forgery(filter: &Arc<Filter>, expression: usize) -> Option<Forgery> {
    let mut trial = ForgeryTrial { filter, expression, left: MAX_TRIALS };
    // With the optional parts first, as in real lines.
    let shapes = [(true, false), (true, true), (false, false), (false, true)].map(|(generous, last)| Shape { generous, last });
    for shape in shapes {
        let Some(line) = SampleLine::of(filter, expression, shape) else { continue };
        let plain = line.render(&[], true);
        if !trial.blames(&plain, line.client()) {
            continue;
        }
        let open_end = trial.blames(&format!("{plain} x"), line.client());
        let anchored = is_anchored(filter, expression);
        let found = candidates(&line, anchored, open_end).into_iter().find_map(|(text, whole, cause)| {
            trial.blames(&whole, line.victim()).then(|| (trial.dated(&whole, &text, line.victim()), text, cause))
        });
        if let Some((whole, text, cause)) = found {
            return Some(trial.forgery(&line, whole, text, cause));
        }
    }
    unrelated_lines(&mut trial)
}

/// An offence of one client that the expression joins with the address in a line of another.
fn unrelated_lines(trial: &mut ForgeryTrial<'_>) -> Option<Forgery> {
    let (filter, expression) = (trial.filter, trial.expression);
    if !filter.failregex.get(expression)?.joins_unrelated_lines() {
        return None;
    }
    let line = SampleLine::of(filter, expression, Shape { generous: true, last: false })?;
    let whole = line.render(&[], false);
    trial.left = trial.left.max(1);
    if !trial.blames(&whole, line.victim()) {
        return None;
    }
    let (before, behind) = (line.part(0, line.host, &[], false), line.part(line.host + 1, line.pieces.len(), &[], false));
    let lines_before = before.rsplit_once('\n').map(|(lines, _)| lines);
    let lines_behind = || behind.split_once('\n').map(|(_, lines)| lines);
    let text = lines_before.or_else(lines_behind).filter(|text| !text.trim().is_empty())?;
    Some(trial.forgery(&line, whole.clone(), text.to_owned(), Cause::UnrelatedLines))
}

/// Tries lines on the whole filter, up to a limit.
struct ForgeryTrial<'f> {
    filter: &'f Arc<Filter>,
    expression: usize,
    left: u32,
}

impl ForgeryTrial<'_> {
    /// Whether fail2ban would blame `address` for a line, or a part of it: `.*<ADDR>` loses the first digits.
    fn blames(&mut self, line: &str, address: &str) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let found = blames(&mut Matcher::trusting(Arc::clone(self.filter), TimeZone::UTC), self.expression, line);
        found.is_some_and(|found| address.ends_with(&found))
    }

    fn forgery(&self, sample: &SampleLine, line: String, text: String, cause: Cause) -> Forgery {
        Forgery {
            expression: self.expression,
            source: self.filter.sources.get(self.expression).cloned().unwrap_or_default(),
            is_noticed: blames(&mut Matcher::new(Arc::clone(self.filter), TimeZone::UTC), self.expression, &line).is_none(),
            line,
            text,
            client: sample.client().to_owned(),
            blamed: sample.victim().to_owned(),
            cause,
        }
    }

    /// The line with a date in one of the usual formats, if it still deceives the expression with it.
    fn dated(&mut self, line: &str, text: &str, victim: &str) -> String {
        self.left = self.left.max(8);
        let dates = ["2026-01-02 03:04:05", "Jan  2 03:04:05", "Fri Jan 02 03:04:05 2026", "02/Jan/2026:03:04:05 +0000"];
        for date in dates {
            let dated = match line.split_once("[]") {
                Some((before, after)) => format!("{before}[{date}]{after}"),
                None => format!("{date}{line}"),
            };
            if dated.contains(text) && self.blames(&dated, victim) {
                return dated;
            }
        }
        line.to_owned()
    }
}

/// The address that an expression blames for a line, or for the last of several.
fn blames(matcher: &mut Matcher, expression: usize, lines: &str) -> Option<String> {
    let found = lines.split('\n').map(|line| matcher.line(line.as_bytes(), NOW)).last()??;
    match found.host {
        Host::Address(address) if found.expression == expression => Some(address.to_string()),
        _ => None,
    }
}

/// A sample line and the place of the address in it.
struct SampleLine {
    pieces: Vec<Piece>,
    /// First and last piece of the failregex; a prefregex may surround it.
    own: (usize, usize),
    host: usize,
    /// Index into [`CLIENT`] and [`VICTIM`]: 1 for IPv6.
    family: usize,
}

impl SampleLine {
    fn of(filter: &Filter, expression: usize, shape: Shape) -> Option<Self> {
        let own = pieces(filter.failregex.get(expression)?.pattern().node(), shape);
        let length = own.len();
        let (start, pieces) = match &filter.prefregex {
            Some(prefix) => {
                let prefix = pieces(prefix.pattern().node(), shape);
                let place = prefix.iter().position(|piece| *piece == Piece::Content)?;
                let (before, after) = prefix.split_at(place);
                (place, before.iter().cloned().chain(own).chain(after.iter().skip(1).cloned()).collect())
            }
            None => (0, own),
        };
        let host = pieces.iter().position(|piece| matches!(piece, Piece::Host(_)))?;
        let family = usize::from(pieces.get(host) == Some(&Piece::Host(true)));
        Some(Self { pieces, own: (start, start + length), host, family })
    }

    fn client(&self) -> &'static str {
        CLIENT.get(self.family).copied().unwrap_or_default()
    }

    fn victim(&self) -> &'static str {
        VICTIM.get(self.family).copied().unwrap_or_default()
    }

    /// The line with some free texts filled in, blaming the client or else the victim.
    fn render(&self, filled: &[(usize, &str)], client: bool) -> String {
        self.part(0, self.pieces.len(), filled, client)
    }

    fn part(&self, from: usize, to: usize, filled: &[(usize, &str)], client: bool) -> String {
        let mut text = String::new();
        for (place, piece) in self.pieces.iter().enumerate().take(to).skip(from) {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Host(_) => text.push_str(if client { self.client() } else { self.victim() }),
                Piece::Content => {}
                Piece::FreeText(free) => {
                    text.push_str(filled.iter().find(|(filled, _)| *filled == place).map_or(free.filler(), |(_, text)| text));
                }
            }
        }
        text
    }
}

/// Whether an expression can only match from the start of the line.
fn is_anchored(filter: &Filter, expression: usize) -> bool {
    fn anchored(node: &Node) -> bool {
        match node {
            Node::Assert(Assert::TextStart | Assert::LineStart) => true,
            Node::Capture { node, .. } | Node::Case { node, .. } | Node::Atomic(node) => anchored(node),
            Node::Look { ahead: true, negative: false, node } => anchored(node),
            Node::Repeat { node, min, .. } => *min > 0 && anchored(node),
            Node::Concat(all) => all.iter().find(|node| !matches!(node, Node::Look { negative: true, .. })).is_some_and(anchored),
            Node::Alternate(all) => all.iter().all(anchored),
            _ => false,
        }
    }
    let own = filter.failregex.get(expression).map(|expression| expression.pattern().node());
    let prefix = filter.prefregex.as_ref().map(|prefix| prefix.pattern().node());
    own.is_some_and(anchored) && prefix.is_none_or(anchored)
}

/// What a client could write, the line that results, and the cause if the expression falls for it.
fn candidates(line: &SampleLine, anchored: bool, open_end: bool) -> Vec<(String, String, Cause)> {
    let (start, end) = line.own;
    let free_texts = || {
        line.pieces
            .iter()
            .enumerate()
            .filter_map(|(place, piece)| if let Piece::FreeText(free) = piece { Some((place, free)) } else { None })
    };
    // What the expression requires before the address, from each free text or from its start on, with and without what must follow.
    let mut texts: Vec<(usize, String)> = Vec::new();
    let starts = free_texts().map(|(place, _)| place + 1).filter(|start| *start <= line.host).chain([start]);
    for start in starts {
        for stop in [line.host + 1, end] {
            for before in ["", " ", "x "] {
                let text = format!("{before}{}", line.part(start, stop, &[], false));
                if !texts.iter().any(|(_, known)| *known == text) {
                    texts.push((start, text));
                }
            }
        }
    }
    let elsewhere = |cause: Cause| {
        let before = if start == 0 { " ".to_owned() } else { line.part(0, start, &[], true) };
        let after = line.part(end, line.pieces.len(), &[], true);
        let whole = texts.iter().filter(|(from, _)| *from == start);
        whole.map(|(_, text)| (text.clone(), format!("{before}{} said: {text}{after}", line.client()), cause)).collect::<Vec<_>>()
    };
    // The text may also appear in any other line of the log.
    let mut found = if anchored { Vec::new() } else { elsewhere(Cause::Unanchored) };
    for (_, text) in &texts {
        for (place, free) in free_texts() {
            if free.holds(text) {
                let cause = if place < line.host { Cause::Early } else { Cause::Greedy };
                found.push((text.clone(), line.render(&[(place, text)], true), cause));
            }
        }
        if open_end {
            found.push((text.clone(), format!("{} {text}", line.render(&[], true)), Cause::Greedy));
        }
    }
    if anchored {
        found.extend(elsewhere(Cause::Greedy));
    }
    found.extend(split_candidates(line));
    found
}

/// A text before the address that ends it and goes on until a text behind the address, which then holds the true address.
fn split_candidates(line: &SampleLine) -> Vec<(String, String, Cause)> {
    let free = |place: usize| match line.pieces.get(place) {
        Some(Piece::FreeText(free)) => Some(free),
        _ => None,
    };
    let is_quoted = |place: usize, free: &FreeText| {
        // No client writes the header of a line, which a prefregex describes.
        if place < line.own.0 {
            return false;
        }
        let Some(before) = place.checked_sub(1) else { return false };
        // Square brackets at the very start hold the date.
        let is_date = |text: &str| before == line.own.0 && text.trim_start() == "[";
        matches!(line.pieces.get(before), Some(Piece::Text(text)) if text.ends_with(QUOTES) && !is_date(text)) && free.is_wide()
    };
    let mut found = Vec::new();
    for first in 0..line.host {
        let Some(before) = free(first) else { continue };
        for second in line.host + 1..line.pieces.len() {
            let Some(behind) = free(second) else { continue };
            let text = format!("{}{}{}", before.filler(), line.part(first + 1, second, &[], false), behind.filler());
            let cause = if before.holds(&text) {
                Cause::Early
            } else if is_quoted(first, before) {
                Cause::Quoted
            } else {
                continue;
            };
            found.push((text.clone(), line.render(&[(first, &text)], true), cause));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(definition: &str) -> Vec<Forgery> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.conf");
        std::fs::write(&path, format!("[Definition]\n{definition}")).expect("written");
        forgeries(&Arc::new(Filter::load(&path, &[]).expect("loaded")))
    }

    fn cause(failregex: &str) -> Option<Cause> {
        let all = found(&format!("failregex = {failregex}\n"));
        if let Some(forgery) = all.first() {
            assert!(
                forgery.line.contains(&forgery.text) && forgery.line.contains(&forgery.client) && forgery.text.contains(&forgery.blamed),
                "{forgery}"
            );
        }
        all.first().map(|forgery| forgery.cause)
    }

    #[test]
    fn an_expression_anchored_on_both_sides_of_the_address_is_sound() {
        for sound in [
            r"^ host sshd: Invalid user \S+ from <HOST>$",
            r#"^<HOST> - - \[\] "GET [^"]*" 404"#,
            r"^ refused <HOST>: .*$",
            r"^ H=\S+ \[<HOST>\] rejected .*$",
            r"^ user .* from <HOST> port \d+$",
        ] {
            assert_eq!(cause(sound), None, "{sound}");
        }
    }

    #[test]
    fn an_unanchored_expression_is_found() {
        assert_eq!(cause(r"refused <HOST>$"), Some(Cause::Unanchored));
        assert_eq!(cause(r"\[<HOST>\] .*refused: too many connections"), Some(Cause::Unanchored));
    }

    #[test]
    fn a_greedy_part_before_the_address_is_found() {
        assert_eq!(cause(r"^.* from <HOST>"), Some(Cause::Greedy));
        assert_eq!(cause(r"^ .*rhost=<HOST> .*$"), Some(Cause::Greedy));
        assert!(cause(r"^.*denied by rule.*<ADDR>.*$").is_some(), "though fail2ban blames a part of the address");
    }

    #[test]
    fn client_text_before_the_address_that_can_hold_an_address_is_found() {
        assert_eq!(cause(r"^ Invalid user .*? from <HOST>"), Some(Cause::Early));
        assert_eq!(cause(r"^ Invalid user .*? from <HOST>$"), None);
    }

    #[test]
    fn text_in_brackets_that_can_end_them_is_found() {
        assert_eq!(cause(r"^ H=\(\S+\) \[<HOST>\] F=\S+ rejected$"), None, "nothing behind the address holds the true one");
        assert_eq!(cause(r"^ H=\(\S+\) \[<HOST>\](?: F=(?:<>|[^@]+@\S+))? rejected$"), Some(Cause::Quoted));
        assert_eq!(cause(r#"^ user "[^"]*" from <HOST>, reason .*$"#), Some(Cause::Quoted));
        assert_eq!(cause(r#"^ user "[^"]*" from <HOST>$"#), None);
        assert_eq!(cause(r"^ user \[[^\]]*\] from <HOST>, reason .*$"), Some(Cause::Quoted));
        assert_eq!(cause(r"^ user \{[^}]*\} from <HOST>, reason .*$"), Some(Cause::Quoted));
        assert_eq!(cause(r"^\[[^\]]*\] from <HOST>, reason .*$"), None, "the date");
    }

    #[test]
    fn an_expression_over_several_lines_is_tried_too() {
        let adjacent = "failregex = ^ failed\\n user \\S+ from <HOST>$\nmaxlines = 2\n";
        assert_eq!(found(adjacent)[0].cause, Cause::UnrelatedLines, "another client may write the next line");
        assert_eq!(found("failregex = ^ \\S+ failed<SKIPLINES>^ client <HOST> left$\nmaxlines = 9\n")[0].cause, Cause::UnrelatedLines);
        let address_first = found("failregex = ^ client <HOST> came\\n login failed$\nmaxlines = 2\n");
        assert_eq!((address_first[0].cause, &*address_first[0].text), (Cause::UnrelatedLines, " login failed"));
        assert_eq!(found("failregex = ^ client <HOST> failed\\n\nmaxlines = 2\n"), [], "no line of another client's takes part");
        let tied = "failregex = ^ (?P<id>\\d+) failed<SKIPLINES>^ (?P=id) client <HOST> left$\nmaxlines = 9\n";
        assert_eq!(found(tied), []);
        assert_eq!(found("failregex = ^ failed\\n .* from <HOST>\nmaxlines = 2\n")[0].cause, Cause::Greedy);
    }

    #[test]
    fn a_forgery_that_the_matcher_notices_says_so() {
        let outcome = |failregex: &str| found(&format!("failregex = {failregex}\n"))[0].to_string();
        assert!(outcome("^ .* from <HOST>").ends_with("198.51.100.9 is blamed by fail2ban; here the line blames nobody"));
        assert!(outcome("refused <HOST>$").ends_with("198.51.100.9 is blamed"));
    }

    #[test]
    fn a_forgery_shows_the_line_and_the_text_of_the_client_in_it() {
        let all = found("failregex = ^ .* from <HOST>\n");
        let shown = all[0].to_string();
        assert!(shown.starts_with("failregex 1 lets a client decide which address is blamed: a greedy part before <HOST>"), "{shown}");
        assert!(all[0].line.starts_with("2026-01-02 03:04:05"), "{shown}");
        assert!(shown.contains("198.51.100.9 is blamed"), "{shown}");
    }

    #[test]
    fn an_anchored_prefregex_does_not_anchor_the_failregex() {
        let sound = "prefregex = ^ prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^bad user \\S+ from <HOST>$\n";
        assert_eq!(found(sound), []);
        let open = "prefregex = ^ prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = bad user \\S+ from <HOST>$\n";
        assert_eq!(found(open).len(), 1);
    }
}
