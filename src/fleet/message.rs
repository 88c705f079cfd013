//! What nodes tell each other, read: pure, of any bytes. Text of another node decides nothing but what its own words mean.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config::is_node;
use crate::event::Scope;
use crate::list::file::parse_network;
use crate::rule::Evidence;
use crate::time::Span;

/// What came over the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A node says a ban.
    Ban(Said),
    /// A ban is lifted everywhere.
    Lift {
        /// Who lifted it.
        node: String,
        /// How long ago: what was banned since stands.
        age: Span,
        /// Where.
        scope: Scope,
        /// Whose.
        target: IpNet,
    },
    /// All that a node said is to be dropped.
    Forget {
        /// Whose word.
        node: String,
        /// How long ago that was decided, if it is told again to those who may have missed it: what it said since stands.
        age: Option<Span>,
    },
}

/// A ban that a node said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The node.
    pub node: String,
    /// Where it refuses.
    pub scope: Scope,
    /// How long it still lasts; `None` for ever.
    pub left: Option<Span>,
    /// How long ago it began.
    pub age: Span,
    /// How long ago the engine accepted it.
    pub accepted: Span,
    /// An address or a network.
    pub target: IpNet,
    /// The rest of the story.
    pub story: Story,
}

/// The part of a ban's story that the engine only stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The node that made it.
    pub node: String,
    /// The rule's name.
    pub rule: String,
    /// How many offences made it.
    pub count: u32,
    /// Which ban of the client it is.
    pub times: u32,
    /// The evidence.
    pub evidence: String,
}

impl Story {
    /// The evidence, escaped and cut whatever the node sent.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        Evidence::restore(&self.evidence)
    }
}

/// The letters of a scope's surfaces in the engine.
#[must_use]
pub fn letters(scope: Scope) -> &'static str {
    match scope {
        Scope::Web => "w",
        Scope::Mail => "m",
        Scope::All => "wm",
    }
}

/// The scope of these letters.
#[must_use]
pub fn scope_of(letters: &str) -> Option<Scope> {
    match letters {
        "w" => Some(Scope::Web),
        "m" => Some(Scope::Mail),
        "wm" | "mw" => Some(Scope::All),
        _ => None,
    }
}

/// How a client or network is written in the engine: an address without its length.
#[must_use]
pub fn target_text(target: IpNet) -> String {
    if target.prefix_len() == target.max_prefix_len() { target.addr().to_string() } else { target.to_string() }
}

/// A single address as a network.
#[must_use]
pub fn target_of(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Milliseconds left; `None` inside for ever.
#[must_use]
pub fn parse_left(text: &str) -> Option<Option<Span>> {
    if text == "-1" { Some(None) } else { Some(Some(Span::from_millis(text.parse().ok()?))) }
}

/// The longest story that is written or read, in bytes: names of 64, and 200 of evidence, each of which may have to be escaped.
pub const LONGEST_STORY: usize = 1024;
/// The longest message.
const LONGEST: usize = LONGEST_STORY + 256;

/// Reads a story; `None` for one that no node of ours would write.
#[must_use]
pub fn parse_story(text: &str) -> Option<Story> {
    let story: Story = if text.len() <= LONGEST_STORY { serde_json::from_str(text).ok()? } else { return None };
    is_node(&story.node).then_some(story)
}

/// Reads a message; `None` for one that no node of ours would send.
#[must_use]
pub fn parse(text: &str) -> Option<Message> {
    if text.len() > LONGEST {
        return None;
    }
    let (verb, rest) = text.split_once(' ')?;
    match verb {
        "ban" => {
            let mut words = rest.splitn(6, ' ');
            let (node, scope, left, age, target) =
                (words.next()?, scope_of(words.next()?)?, parse_left(words.next()?)?, words.next()?, words.next()?);
            let story = parse_story(words.next()?)?;
            let said = Said {
                node: node.to_owned(),
                scope,
                left,
                age: Span::from_millis(age.parse().ok()?),
                accepted: Span::ZERO,
                target: parse_network(target).ok()?,
                story,
            };
            is_node(node).then_some(Message::Ban(said))
        }
        "lift" => {
            let mut words = rest.split(' ');
            let (node, scope, age) = (words.next()?, scope_of(words.next()?)?, Span::from_millis(words.next()?.parse().ok()?));
            let target = parse_network(words.next()?).ok()?;
            (is_node(node) && words.next().is_none()).then(|| Message::Lift { node: node.to_owned(), age, scope, target })
        }
        "forget" => {
            let (node, age) = match rest.split_once(' ') {
                Some((node, age)) => (node, Some(Span::from_millis(age.parse().ok()?))),
                None => (rest, None),
            };
            is_node(node).then(|| Message::Forget { node: node.to_owned(), age })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ban_is_read_with_its_story() {
        let text = r#"ban mx1 wm 3600000 5 203.0.113.7 {"node":"mx1","rule":"w00tw00t","count":1,"times":1,"evidence":"GET /x y"}"#;
        let Some(Message::Ban(said)) = parse(text) else { panic!() };
        assert_eq!((said.node.as_str(), said.scope, said.left), ("mx1", Scope::All, Some(Span::from_secs(3600))));
        assert_eq!(target_text(said.target), "203.0.113.7");
        assert_eq!(said.story.evidence().as_str(), "GET /x y");
    }

    #[test]
    fn lifts_and_forgets_are_read_and_nonsense_is_not() {
        assert_eq!(
            parse("lift mx1 m 7 2001:db8::/32"),
            Some(Message::Lift {
                node: "mx1".into(),
                age: Span::from_millis(7),
                scope: Scope::Mail,
                target: "2001:db8::/32".parse().unwrap()
            })
        );
        assert_eq!(parse("forget mx1"), Some(Message::Forget { node: "mx1".into(), age: None }));
        assert_eq!(parse("forget mx1 7"), Some(Message::Forget { node: "mx1".into(), age: Some(Span::from_millis(7)) }));
        for text in [
            "",
            "ban",
            "ban MX wm 1 1 203.0.113.7 {}",
            "lift mx1 x 1 203.0.113.7",
            "lift mx1 w 1 host",
            "lift mx1 w x 203.0.113.7",
            "forget a b",
            "hello world",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_evidence_stays_bounded(evidence in ".{0,400}", text in "(ban|lift|forget) .{0,100}") {
            let _ = parse(&text);
            let story = Story { node: "a".into(), rule: "b".into(), count: 1, times: 1, evidence };
            prop_assert!(story.evidence().as_str().len() <= Evidence::MAX);
            let longest = Story { node: "n".repeat(64), rule: "r".repeat(64), count: u32::MAX, times: u32::MAX, ..story };
            let longest = Story { evidence: longest.evidence().as_str().to_owned(), ..longest };
            prop_assert_eq!(parse_story(&serde_json::to_string(&longest).unwrap()), Some(longest));
        }
    }
}
