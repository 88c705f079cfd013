//! `strikeout ban --from`: bans from a file, as `strikeout list` has printed them.

use std::io::Read as _;
use std::path::Path;

use super::ask::ask_all;
use super::terminal::{counted, now};
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::{AdminRequest, BanLength, BanRequest, MAX_REASON, target};
use crate::control::bans::{BanReport, ListedBan};
use crate::geo::Network;
use crate::list::file::{self, NotANetwork};
use crate::rule_id::{RULE_NAME, is_rule_name};
use crate::time::Span;

/// What became of the bans of a file.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Restored {
    banned: usize,
    /// Bans that had ended.
    ended: usize,
    /// Bans that the daemon did not make.
    refused: usize,
    /// Why, of the first [`MAX_REASONS`].
    reasons: Vec<String>,
}

/// Maximum number of refusals that are told with their reason.
const MAX_REASONS: usize = 20;

/// Bans everybody in `path`, or on the standard input if it is `-`. `with` says how long, where and why, unless the file says so itself.
///
/// # Errors
/// The file cannot be read or used, the daemon cannot be asked, or it refuses some of the bans; the others are made.
pub fn run(daemon: &DaemonArguments, path: &Path, with: &BanRequest) -> Result<(), Failure> {
    let text = read(path).map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", path.display())))?;
    let (requests, ended) = requests(&text, with, now()).map_err(|fault| Failure::Usage(format!("{}{fault}", path.display())))?;
    let mut restored = Restored { ended, ..Restored::default() };
    ask_all(daemon, requests.into_iter().map(AdminRequest::Ban), |answer: Result<BanReport, String>| match answer {
        Ok(_) => restored.banned += 1,
        Err(fault) => {
            restored.refused += 1;
            if restored.reasons.len() < MAX_REASONS {
                restored.reasons.push(fault);
            }
        }
    })?;
    if daemon.json {
        print_json(&restored)?;
    } else {
        print(&format!(
            "banned {}, left out {} that had ended\n",
            if restored.banned == 1 { "1 client or network".to_owned() } else { format!("{} clients and networks", restored.banned) },
            counted(restored.ended, "ban")
        ))?;
    }
    if restored.refused == 0 {
        return Ok(());
    }
    let (refused, untold) = (counted(restored.refused, "ban"), restored.refused - restored.reasons.len());
    let more = if untold > 0 { format!("; and {untold} more") } else { String::new() };
    Err(Failure::Failed(format!("{refused} refused: {}{more}", restored.reasons.join("; "))))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if path != Path::new("-") {
        return std::fs::read(path);
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

/// The bans in `text` (what `list --json` prints, or a list of addresses and networks) that have not ended at `now`, and how many have.
///
/// # Errors
/// Where the fault is and what it is, to follow the name of the file.
fn requests(text: &[u8], with: &BanRequest, now: i64) -> Result<(Vec<BanRequest>, usize), String> {
    if text.trim_ascii_start().first() != Some(&b'[') {
        let list = file::parse_all(text).map_err(|bad| format!(":{}: {bad}", bad.line))?;
        let targets = list.networks.into_iter().map(Network::Block).chain(list.origins.into_iter().map(|origin| origin.entry.into()));
        return Ok((targets.map(|target| BanRequest { target, ..with.clone() }).collect(), 0));
    }
    let bans: Vec<ListedBan> =
        serde_json::from_slice(text).map_err(|error| format!(": {error}, expected what strikeout list --json prints"))?;
    let mut ended = 0;
    let mut requests = Vec::new();
    for ban in bans {
        let target =
            target(&ban.client).map_err(|_| NotANetwork).map_err(|error| format!(": found the client {:?}, {error}", ban.client))?;
        if !is_rule_name(&ban.rule) {
            return Err(format!(": found the rule {:?} of {}, expected {RULE_NAME}", ban.rule, ban.client));
        }
        let length = match u64::try_from(ban.until) {
            Err(_) if ban.until == -1 => BanLength::Permanent,
            Err(_) => {
                return Err(format!(": found until = {} of {}, expected seconds since 1970, or -1 for ever", ban.until, ban.client));
            }
            Ok(until) => match until.checked_sub(u64::try_from(now).unwrap_or(0)).filter(|left| *left > 0) {
                Some(left) => BanLength::For(Span::from_secs(left)),
                None => {
                    ended += 1;
                    continue;
                }
            },
        };
        requests.push(BanRequest {
            target,
            length,
            scope: ban.scope,
            rule: Some(ban.rule),
            reason: ban.evidence.unwrap_or_else(|| with.reason.clone()).chars().take(MAX_REASON).collect(),
        });
    }
    Ok((requests, ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Scope;

    fn with() -> BanRequest {
        let target = "0.0.0.0/32".parse().unwrap();
        BanRequest { target, length: BanLength::Default, scope: Scope::Web, rule: None, reason: "a list".into() }
    }

    fn lines(text: &str) -> Result<(Vec<String>, usize), String> {
        let (requests, ended) = requests(text.as_bytes(), &with(), 1_800_000_000)?;
        Ok((requests.into_iter().map(|request| AdminRequest::Ban(request).to_string()).collect(), ended))
    }

    #[test]
    fn what_list_prints_is_banned_until_its_end_by_its_rule() {
        let text = r#" [
            {"client":"198.51.100.7","scope":"mail","rule":"helo","until":1800000600,"remaining":700,"since":null,"evidence":"HELO x"},
            {"client":"198.51.100.8","scope":"all","rule":"manual","until":-1,"remaining":-1},
            {"client":"AS64496","scope":"web","rule":"crowd-requests-asn","until":1800000060,"remaining":60},
            {"client":"country:DE","scope":"all","rule":"manual","until":1800000060,"remaining":60},
            {"client":"2001:db8:1:2::/64","scope":"web","rule":"a","until":1800000060,"remaining":60},
            {"client":"198.51.100.9","scope":"all","rule":"a","until":1800000000,"remaining":60}
        ]"#;
        let expected = [
            "ban 198.51.100.7/32 scope=mail for=600 rule=helo reason=HELO x",
            "ban 198.51.100.8/32 scope=all for=-1 rule=manual reason=a list",
            "ban AS64496 scope=web for=60 rule=crowd-requests-asn reason=a list",
            "ban country:DE scope=all for=60 rule=manual reason=a list",
            "ban 2001:db8:1:2::/64 scope=web for=60 rule=a reason=a list",
        ];
        assert_eq!(lines(text), Ok((expected.map(str::to_owned).into(), 1)));
    }

    #[test]
    fn a_plain_list_is_banned_as_the_arguments_say_and_a_fault_names_its_place() {
        assert_eq!(lines("192.0.2.1 # x\n").unwrap().0, ["ban 192.0.2.1/32 scope=web reason=a list"]);
        assert_eq!(lines("AS64496 # x\n").unwrap().0, ["ban AS64496 scope=web reason=a list"]);
        assert_eq!(lines("country:de # x\n").unwrap().0, ["ban country:DE scope=web reason=a list"]);
        assert!(lines("192.0.2.1\ncountry:DEU\n").unwrap_err().starts_with(":2: found \"country:DEU\", expected an IP address"));
        assert!(lines("192.0.2.1\nnobody\n").unwrap_err().starts_with(":2: found \"nobody\", expected an IP address"));
        assert!(lines("[{\"client\": 1}]").unwrap_err().contains("expected what strikeout list --json prints"));
        assert!(
            lines(r#"[{"client":"x","scope":"web","rule":"a","until":-1,"remaining":-1}]"#)
                .unwrap_err()
                .starts_with(": found the client \"x\"")
        );
        for (key, value, expected) in [
            ("until", "-2", ": found until = -2 of 192.0.2.1, expected seconds since 1970, or -1 for ever"),
            ("rule", "\"a b\\nban 192.0.2.7\"", ": found the rule \"a b\\nban 192.0.2.7\" of 192.0.2.1, expected 1 to 64 characters"),
        ] {
            let mut ban = serde_json::json!({"client": "192.0.2.1", "scope": "web", "rule": "a", "until": -1, "remaining": -1});
            ban[key] = serde_json::from_str(value).unwrap();
            let error = lines(&format!("[{ban}]")).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn evidence_of_any_length_fits_into_a_request() {
        let ban = serde_json::json!({"client": "192.0.2.1", "scope": "web", "rule": "a", "until": -1, "remaining": -1, "evidence": "\u{e4}".repeat(9000)});
        let (requests, _) = lines(&format!("[{ban}]")).unwrap();
        assert!(requests[0].len() < crate::control::request::MAX_LINE, "{}", requests[0].len());
    }
}
