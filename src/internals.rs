//! What this project's own benches, fuzz targets and tests reach of the library, under the paths of the modules it comes from. Nobody
//! else may rely on it: it changes with every version.
pub mod cli {
    pub use crate::cli::command;
}
pub mod client {
    pub use crate::client::{Client, Ipv6Prefix, ShortNetwork};
}
pub mod clock {
    pub use crate::clock::Clock;
}
pub mod config {
    pub use crate::config::Config;
    pub mod fleet {
        pub use crate::config::fleet::{FleetConfig, is_node};
    }
}
pub mod control {
    pub mod request {
        pub use crate::control::request::{SocketRequest, parse};
    }
    pub mod subscribe {
        pub use crate::control::subscribe::{FromDaemon, FromSubscriber};
    }
}
pub mod crawler {
    pub use crate::crawler::Crawlers;
}
pub mod detector {
    pub use crate::detector::{Detector, Judgement};
    pub use crate::geo::Geo;
}
pub mod engine {
    pub use crate::engine::{BanRecord, Change, Completion, Engine, Journal, NetworkRecord, Persisted, Reach};
    pub mod reply {
        pub use crate::engine::reply::Reply;
    }
}
pub mod event {
    pub use crate::event::{Event, Header, Request, Scope, Service};
    pub mod headers {
        pub use crate::event::headers::{HeaderNames, OwnedHeaders};
    }
    pub mod exim_kind {
        pub use crate::event::exim_kind::EximKind;
    }
}
pub mod exim {
    pub use crate::exim::command;
    pub mod query {
        pub use crate::exim::query::EximQuery;
    }
}
pub mod fail2ban {
    pub use crate::fail2ban::{Filter, Host, Matcher};
    pub mod dates {
        pub use crate::fail2ban::dates::{DateDetector, DateInLine, DatePatterns};
        pub mod template {
            pub use crate::fail2ban::dates::template::Years;
        }
    }
    pub mod import {
        pub use crate::fail2ban::import::{Imported, import};
    }
    pub mod import_bans {
        pub use crate::fail2ban::import_bans::bans;
    }
    pub mod regex {
        pub use crate::fail2ban::regex::{MatchResult, Pattern};
    }
}
pub mod fleet {
    pub use crate::fleet::Fleet;
    #[cfg(feature = "fleet")]
    pub mod client {
        pub use crate::fleet::client::RedisClient;
    }
    pub mod message {
        pub use crate::fleet::message::{Message, letters, parse, parse_until, scope_of};
    }
    #[cfg(feature = "fleet")]
    pub mod resp_connection {
        pub use crate::fleet::resp_connection::Incoming;
    }
}
pub mod list {
    pub use crate::list::Networks;
    pub mod file {
        pub use crate::list::file::{parse, parse_network};
    }
    pub mod networks {
        pub use crate::list::networks::canonical;
    }
}
pub mod log {
    pub mod access {
        pub use crate::log::access::{AccessLine, parse, unescape};
    }
    pub mod exim {
        pub use crate::log::exim::parse;
    }
    pub mod lines {
        pub use crate::log::lines::LineSplitter;
    }
    pub mod offence {
        pub use crate::log::offence::Received;
    }
    pub mod text_rule {
        pub use crate::log::text_rule::TextRule;
    }
    pub mod time {
        pub use crate::log::time::{COMMON_LENGTH, Zone, common, epoch, exim};
    }
}
pub mod policy {
    pub use crate::policy::Policy;
}
pub mod prefilter {
    pub use crate::prefilter::{ORDINARY_METHODS, Prefilter};
    pub mod files {
        pub use crate::prefilter::files::{ACLS_FILE, AGENT_FILE, LoadedPrefilter, PATH_FILE};
    }
}
pub mod rule {
    pub use crate::rule::{CountBy, Evidence, LinePattern, Mode, Offence, Rule, RuleSet, Trigger};
    pub mod builtin {
        pub use crate::rule::builtin::{FAMILIES, family, specs};
    }
    pub mod set {
        pub use crate::rule::set::{RuleSet, Scratch};
    }
    pub mod spec {
        pub use crate::rule::spec::RuleDefaults;
    }
}
pub mod rule_id {
    pub use crate::rule_id::RuleNames;
}
pub mod squid {
    pub use crate::squid::{Backend, BackendSlot};
    pub mod answer {
        pub use crate::squid::answer::MAX_LEN;
    }
    pub mod helper {
        pub use crate::squid::helper::command;
    }
    pub mod output {
        pub use crate::squid::output::Output;
    }
    pub mod query {
        pub use crate::squid::query::{Parser, Query, split_id};
    }
    pub mod session {
        pub use crate::squid::session::{End, Session};
    }
}
pub mod state {
    pub use crate::state::{Loaded, Reader, StateHealth, Store, StoredStrikes, WriteItem, Writer, WriterEvent};
}
pub mod table {
    pub use crate::table::{Bans, Counter, RequestTally, Strikes, Until};
}
pub mod time {
    pub use crate::time::{Span, Time};
}
pub mod verdict {
    pub use crate::verdict::Verdict;
}
