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
        /// Where.
        scope: Scope,
        /// Whose.
        target: IpNet,
    },
    /// All that a node said is to be dropped.
    Forget(String),
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

/// Reads a message; `None` for one that no node of ours would send.
#[must_use]
pub fn parse(text: &str) -> Option<Message> {
    let (verb, rest) = text.split_once(' ')?;
    match verb {
        "ban" => {
            let mut words = rest.splitn(6, ' ');
            let (node, scope, left, age, target) =
                (words.next()?, scope_of(words.next()?)?, parse_left(words.next()?)?, words.next()?, words.next()?);
            let story: Story = serde_json::from_str(words.next()?).ok()?;
            let said = Said {
                node: node.to_owned(),
                scope,
                left,
                age: Span::from_millis(age.parse().ok()?),
                target: parse_network(target).ok()?,
                story,
            };
            is_node(node).then_some(Message::Ban(said))
        }
        "lift" => {
            let mut words = rest.split(' ');
            let (_, scope, target) = (words.next()?, scope_of(words.next()?)?, parse_network(words.next()?).ok()?);
            words.next().is_none().then_some(Message::Lift { scope, target })
        }
        "forget" => is_node(rest).then(|| Message::Forget(rest.to_owned())),
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
        assert_eq!(parse("lift mx1 m 2001:db8::/32"), Some(Message::Lift { scope: Scope::Mail, target: "2001:db8::/32".parse().unwrap() }));
        assert_eq!(parse("forget mx1"), Some(Message::Forget("mx1".into())));
        for text in ["", "ban", "ban MX wm 1 1 203.0.113.7 {}", "lift mx1 x 203.0.113.7", "lift mx1 w host", "forget a b", "hello world"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_evidence_stays_bounded(evidence in ".{0,400}", text in "(ban|lift|forget) .{0,100}") {
            let _ = parse(&text);
            let story = Story { node: "a".into(), rule: "b".into(), count: 1, times: 1, evidence };
            prop_assert!(story.evidence().as_str().len() <= Evidence::MAX);
        }
    }
}
