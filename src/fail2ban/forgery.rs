//! Expressions that let a client decide who is blamed, each shown by a line that does it.
//!
//! A client writes a user name, a path, a User-Agent. If such text can hold what an expression looks for before and after `<HOST>`, and the
//! expression then takes the address from the text, a client can have others banned. No line is shown that was not tried first.

use super::filter::Filter;
use super::matcher::{Host, Matcher};
use super::sample::{Piece, pieces};
use crate::python_regex::tree::{Assert, Node};
use jiff::tz::TimeZone;
use std::fmt;
use std::sync::Arc;

/// Lines that are tried for one expression at most.
const MOST_TRIALS: u32 = 400;

/// Who writes, and who would be blamed instead: IPv4 and IPv6.
const CLIENT: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const VICTIM: [&str; 2] = ["198.51.100.9", "2001:db8:bad::9"];

/// The present for the dates of the lines shown: 2026-01-02 03:04:06 UTC.
const NOW: f64 = 1_767_323_046.0;

/// How the text gets its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing binds the expression to the beginning of the line.
    Unanchored,
    /// A part before the address takes text as far as it can.
    Greedy,
    /// A part before the address lets the search end at the first address, in the client's text.
    Early,
}

/// An expression that can be deceived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgery {
    /// Which failregex, from 0.
    pub expression: usize,
    /// Its text.
    pub source: String,
    /// A line that `client` causes.
    pub line: String,
    /// The part of it that `client` writes.
    pub text: String,
    /// Who causes the line.
    pub client: String,
    /// Who is blamed for it.
    pub blamed: String,
    /// How.
    pub cause: Cause,
}

impl fmt::Display for Forgery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Unanchored => "it is not bound to the beginning of the line (^)",
            Cause::Greedy => "what stands before <HOST> takes as much as it can, the client's text too",
            Cause::Early => "the client's text stands before <HOST> and can hold an address of its own",
        };
        write!(
            f,
            "failregex {} lets a client decide who is blamed: {cause}: {:?}\n  in the line {:?}\n  {} writes {:?}, and {} is blamed",
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
/// One that cannot be tried, because no line was found that it matches at all, is not among them.
#[must_use]
pub fn forgeries(filter: &Arc<Filter>) -> Vec<Forgery> {
    let found = (0..filter.failregex.len()).filter_map(|expression| forgery(filter, expression));
    found.collect()
}

fn forgery(filter: &Arc<Filter>, expression: usize) -> Option<Forgery> {
    let mut trial = Trial { filter, expression, left: MOST_TRIALS };
    // With everything that may be left out, as real lines have it; without, if that matches nothing.
    for generous in [true, false] {
        let Some(line) = Line::of(filter, expression, generous) else { continue };
        let plain = line.render(&[], true);
        if trial.blames(&plain).as_deref() != Some(line.client()) {
            continue;
        }
        let open_end = trial.blames(&format!("{plain} x")).as_deref() == Some(line.client());
        let bound = starts_bound(filter, expression);
        let found = candidates(&line, bound, open_end).into_iter().find_map(|(text, whole, cause)| {
            (trial.blames(&whole).as_deref() == Some(line.victim())).then(|| (trial.dated(&whole, &text, line.victim()), text, cause))
        });
        return found.map(|(whole, text, cause)| Forgery {
            expression,
            source: filter.sources.get(expression).cloned().unwrap_or_default(),
            line: whole,
            text,
            client: line.client().to_owned(),
            blamed: line.victim().to_owned(),
            cause,
        });
    }
    None
}

/// Tries lines on the whole filter.
struct Trial<'f> {
    filter: &'f Arc<Filter>,
    expression: usize,
    left: u32,
}

impl Trial<'_> {
    /// Who is blamed for a line by this expression.
    fn blames(&mut self, line: &str) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        let found = Matcher::new(Arc::clone(self.filter), TimeZone::UTC).line(line.as_bytes(), NOW)?;
        match found.host {
            Host::Address(address) if found.expression == self.expression => Some(address.to_string()),
            _ => None,
        }
    }

    /// The line with a date, if one of the usual forms leaves it as deceiving as it is.
    fn dated(&mut self, line: &str, text: &str, victim: &str) -> String {
        self.left = self.left.max(8);
        let dates = ["2026-01-02 03:04:05", "Jan  2 03:04:05", "Fri Jan 02 03:04:05 2026", "02/Jan/2026:03:04:05 +0000"];
        for date in dates {
            let dated = match line.split_once("[]") {
                Some((before, after)) => format!("{before}[{date}]{after}"),
                None => format!("{date}{line}"),
            };
            if dated.contains(text) && self.blames(&dated).as_deref() == Some(victim) {
                return dated;
            }
        }
        line.to_owned()
    }
}

/// A sample line and where in it the address stands.
struct Line {
    pieces: Vec<Piece>,
    /// Where the failregex begins and ends; a prefregex may stand around it.
    own: (usize, usize),
    host: usize,
    six: usize,
}

impl Line {
    fn of(filter: &Filter, expression: usize, generous: bool) -> Option<Self> {
        let own = pieces(filter.failregex.get(expression)?.pattern().node(), generous);
        let length = own.len();
        let (start, pieces) = match &filter.prefregex {
            Some(prefix) => {
                let prefix = pieces(prefix.pattern().node(), generous);
                let place = prefix.iter().position(|piece| *piece == Piece::Content)?;
                let (before, after) = prefix.split_at(place);
                (place, before.iter().cloned().chain(own).chain(after.iter().skip(1).cloned()).collect())
            }
            None => (0, own),
        };
        let host = pieces.iter().position(|piece| matches!(piece, Piece::Host(_)))?;
        let six = usize::from(pieces.get(host) == Some(&Piece::Host(true)));
        Some(Self { pieces, own: (start, start + length), host, six })
    }

    fn client(&self) -> &'static str {
        CLIENT.get(self.six).copied().unwrap_or_default()
    }

    fn victim(&self) -> &'static str {
        VICTIM.get(self.six).copied().unwrap_or_default()
    }

    /// The line with some slots filled, blaming the client or else the victim.
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
                Piece::Slot(slot) => {
                    text.push_str(filled.iter().find(|(slot, _)| *slot == place).map_or(slot.filler(), |(_, text)| text));
                }
            }
        }
        text
    }
}

/// Whether an expression can only match from the beginning of the line.
fn starts_bound(filter: &Filter, expression: usize) -> bool {
    fn bound(node: &Node) -> bool {
        match node {
            Node::Assert(Assert::TextStart | Assert::LineStart) => true,
            Node::Capture { node, .. } | Node::Case { node, .. } | Node::Atomic(node) => bound(node),
            Node::Look { ahead: true, negative: false, node } => bound(node),
            Node::Repeat { node, min, .. } => *min > 0 && bound(node),
            Node::Concat(all) => all.iter().find(|node| !matches!(node, Node::Look { negative: true, .. })).is_some_and(bound),
            Node::Alternate(all) => all.iter().all(bound),
            _ => false,
        }
    }
    let own = filter.failregex.get(expression).map(|expression| expression.pattern().node());
    let prefix = filter.prefregex.as_ref().map(|prefix| prefix.pattern().node());
    own.is_some_and(bound) && prefix.is_none_or(bound)
}

/// What a client could write, the line that it makes, and what would be at fault.
fn candidates(line: &Line, bound: bool, open_end: bool) -> Vec<(String, String, Cause)> {
    let (start, end) = line.own;
    let slots = || {
        line.pieces.iter().enumerate().filter_map(|(place, piece)| if let Piece::Slot(slot) = piece { Some((place, slot)) } else { None })
    };
    // What must stand before the address, from each slot or from the beginning of the line on, with what must follow and without.
    let mut texts: Vec<(usize, String)> = Vec::new();
    let starts = slots().map(|(place, _)| place + 1).filter(|start| *start <= line.host).chain([start]);
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
    // In any other line of the log.
    let mut found = if bound { Vec::new() } else { elsewhere(Cause::Unanchored) };
    for (_, text) in &texts {
        for (place, slot) in slots() {
            if slot.holds(text) {
                let cause = if place < line.host { Cause::Early } else { Cause::Greedy };
                found.push((text.clone(), line.render(&[(place, text)], true), cause));
            }
        }
        if open_end {
            found.push((text.clone(), format!("{} {text}", line.render(&[], true)), Cause::Greedy));
        }
    }
    if bound {
        found.extend(elsewhere(Cause::Greedy));
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
    fn an_expression_bound_on_both_sides_of_the_address_is_sound() {
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
    fn an_expression_that_is_not_bound_is_found() {
        assert_eq!(cause(r"refused <HOST>$"), Some(Cause::Unanchored));
        assert_eq!(cause(r"\[<HOST>\] .*refused: too many connections"), Some(Cause::Unanchored));
    }

    #[test]
    fn a_greedy_part_before_the_address_is_found() {
        assert_eq!(cause(r"^.* from <HOST>"), Some(Cause::Greedy));
        assert_eq!(cause(r"^ .*rhost=<HOST> .*$"), Some(Cause::Greedy));
    }

    #[test]
    fn a_name_before_the_address_that_can_hold_one_is_found() {
        assert_eq!(cause(r"^ Invalid user .*? from <HOST>"), Some(Cause::Early));
        assert_eq!(cause(r"^ Invalid user .*? from <HOST>$"), None);
    }

    #[test]
    fn the_line_is_shown_with_what_the_client_writes_in_it() {
        let all = found("failregex = ^ .* from <HOST>\n");
        let shown = all[0].to_string();
        assert!(
            shown.starts_with("failregex 1 lets a client decide who is blamed: what stands before <HOST> takes as much as it can"),
            "{shown}"
        );
        assert!(all[0].line.starts_with("2026-01-02 03:04:05"), "{shown}");
        assert!(shown.contains("198.51.100.9 is blamed"), "{shown}");
    }

    #[test]
    fn a_prefix_that_binds_is_seen() {
        let sound = "prefregex = ^ prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^bad user \\S+ from <HOST>$\n";
        assert_eq!(found(sound), []);
        let open = "prefregex = ^ prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = bad user \\S+ from <HOST>$\n";
        assert_eq!(found(open).len(), 1);
    }
}
