//! Reads what Redis holds when a node joins: in steps, and no more than a fleet can have written, because anybody with access to Redis may have
//! written the keys and values.

use ipnet::IpNet;
use redis::{FromRedisValue, RedisResult, Value};

use super::client::RedisClient;
use super::message::{MAX_RECORD, PublishedBan, StoredRecord, parse_time, parse_until};
use super::origin::MAX_NODES;
use super::resp_connection::RespConnection;
use crate::config::fleet::is_node;
use crate::event::{Scope, Service};
use crate::list::file::parse_network;
use crate::time::Time;

/// Number of keys that Redis looks at in one step of the scan.
const STEP: usize = 1000;
/// Number of hashes read in one call: few, because a thousand nodes may load at once.
const HASH_BATCH: usize = 64;
/// Maximum number of steps of a scan, enough for a database of a hundred million keys, most of them not Strikeout's.
const MAX_STEPS: usize = 100_000;

/// A scan through the keys of all clients and networks.
pub struct Scan {
    cursor: u64,
    steps: usize,
    keys: usize,
    /// Whether one of its limits ended it.
    pub is_truncated: bool,
}

impl Scan {
    /// A scan that ends after `keys` keys at the latest.
    pub fn new(keys: usize) -> Self {
        Self { cursor: 0, steps: MAX_STEPS, keys, is_truncated: false }
    }

    /// Reads one step. Returns the clients and networks found, and whether there are more.
    pub fn step(&mut self, client: &RedisClient, connection: &mut RespConnection) -> RedisResult<(Vec<Row>, bool)> {
        let (next, keys): (u64, Vec<Vec<u8>>) = client.scan(self.cursor, STEP).query(connection)?;
        self.cursor = next;
        self.steps = self.steps.saturating_sub(1);
        self.keys = self.keys.saturating_sub(keys.len());
        self.is_truncated = next != 0 && (self.steps == 0 || self.keys == 0);
        let prefix = client.client_key("");
        let target = |key: Vec<u8>| {
            let key = String::from_utf8(key).ok()?;
            let target = parse_network(key.strip_prefix(&prefix)?).ok()?;
            Some((key, target))
        };
        let found: Vec<(String, IpNet)> = keys.into_iter().filter_map(target).collect();
        let mut rows = Vec::with_capacity(found.len());
        for few in found.chunks(HASH_BATCH) {
            let keys: Vec<&str> = few.iter().map(|(key, _)| key.as_str()).collect();
            let answer = load(client, connection, &keys)?;
            rows.extend(few.iter().zip(&answer).filter_map(|((_, target), row)| Row::parse(*target, row)));
        }
        Ok((rows, next != 0 && !self.is_truncated))
    }
}

/// The nodes whose bans were dropped, and when.
pub fn forgotten(client: &RedisClient, connection: &mut RespConnection) -> RedisResult<Vec<(String, Time)>> {
    let texts: Vec<String> =
        load(client, connection, &[])?.iter().filter_map(|text| FromRedisValue::from_redis_value_ref(text).ok()).collect();
    let pair = |pair: &[String]| match pair {
        [node, at] if is_node(node) => Some((node.clone(), parse_time(at)?)),
        _ => None,
    };
    Ok(texts.chunks(2).filter_map(pair).collect())
}

fn load(client: &RedisClient, connection: &mut RespConnection, keys: &[&str]) -> RedisResult<Vec<Value>> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(client.load.get_hash()).arg(keys.len() + 1).arg(client.forgotten_key()).arg(keys).arg(MAX_RECORD).arg(MAX_NODES);
    match command.query(connection)? {
        Value::Array(rows) => Ok(rows),
        _ => Ok(Vec::new()),
    }
}

/// The bans and unbans of one client or network in Redis.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub target: IpNet,
    /// One ban, or one for each service.
    pub bans: Vec<PublishedBan>,
    /// When it was last unbanned.
    pub unbans: Vec<(Service, Time)>,
}

impl Row {
    /// Parses one row of `load.lua`'s answer. Values that no node would write are left out.
    fn parse(target: IpNet, row: &Value) -> Option<Self> {
        let texts: Vec<String> = FromRedisValue::from_redis_value_ref(row).ok()?;
        let (web, mail) = texts.split_at_checked(6)?;
        let mut bans: Vec<PublishedBan> =
            [(Scope::Web, web), (Scope::Mail, mail)].into_iter().filter_map(|(scope, texts)| ban(target, scope, texts)).collect();
        if let [web, mail] = &mut *bans
            && (PublishedBan { scope: Scope::Mail, ..web.clone() }) == *mail
        {
            web.scope = Scope::All;
            bans.truncate(1);
        }
        let unbanned = |(service, texts): (Service, &[String])| Some((service, parse_time(texts.last()?)?));
        let unbans = [(Service::Web, web), (Service::Mail, mail)].into_iter().filter_map(unbanned).collect();
        Some(Self { target, bans, unbans })
    }
}

fn ban(target: IpNet, scope: Scope, texts: &[String]) -> Option<PublishedBan> {
    let [until, since, record, node, accepted, _] = texts else { return None };
    let (until, since, accepted) = (parse_until(until)?, parse_time(since)?, parse_time(accepted)?);
    let record = StoredRecord::parse(record)?;
    is_node(node).then(|| PublishedBan { node: node.clone(), scope, until, since, accepted, target, record })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORD: &str = r#"{"rule":"r","count":1,"times":1,"evidence":"e"}"#;

    fn parse(texts: &[&str]) -> Option<Row> {
        let texts = texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect();
        Row::parse("203.0.113.7/32".parse().unwrap(), &Value::Array(texts))
    }

    #[test]
    fn a_ban_and_an_unban_are_parsed() {
        let row = parse(&["-1", "7", RECORD, "mx1", "9", "", "", "", "", "", "", "3000"]).unwrap();
        let [ban] = &*row.bans else { panic!() };
        assert_eq!((ban.until, ban.since, ban.node.as_str(), ban.scope), (None, Time::from_millis(7), "mx1", Scope::Web));
        assert_eq!((ban.accepted, row.unbans), (Time::from_millis(9), vec![(Service::Mail, Time::from_secs(3))]));
    }

    #[test]
    fn the_same_ban_on_both_services_is_one() {
        let one = ["9", "7", RECORD, "mx1", "9", ""];
        let scopes = |mail: [&str; 6]| parse(&[one, mail].concat()).unwrap().bans.iter().map(|ban| ban.scope).collect::<Vec<_>>();
        assert_eq!(scopes(one), [Scope::All]);
        assert_eq!(scopes(["9", "8", RECORD, "mx1", "9", ""]), [Scope::Web, Scope::Mail]);
    }

    #[test]
    fn what_no_node_writes_is_left_out() {
        for ban in [
            ["", "7", RECORD, "mx1", "9", ""],
            ["x", "7", RECORD, "mx1", "9", ""],
            ["-2", "7", RECORD, "mx1", "9", "-1"],
            ["5", "7", RECORD, "MX", "9", "1e9"],
            ["5", "7", "{}", "mx1", "9", "x"],
            ["5", "inf", RECORD, "mx1", "9", ""],
        ] {
            let row = parse(&[ban, [""; 6]].concat()).unwrap();
            assert_eq!((row.bans, row.unbans), (Vec::new(), Vec::new()), "{ban:?}");
        }
        let target = "203.0.113.7/32".parse().unwrap();
        assert_eq!([Value::Int(3), Value::Array(Vec::new()), Value::Nil].map(|row| Row::parse(target, &row)), [None, None, None]);
    }

    proptest! {
        #[test]
        fn no_row_panics(texts in prop::collection::vec(".{0,40}", 0..14)) {
            let _ = parse(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}
