//! Answers in Squid's helper protocol: `[ID ]OK …` or `[ID ]ERR`, short, whole, and never with a client's text.

use crate::clock::timestamp;
use crate::rule::Names;
use crate::time::{Span, Time};
use crate::verdict::Verdict;

/// The longest answer in bytes, its newline included.
pub const LONGEST: usize = 150;
/// So many bytes of full answers go out in one burst; after that `OK ban_=yes` alone.
///
/// Squid reads at most 32,767 bytes at a time, and takes an answer that is split there for a refusal. What it has not read yet cannot
/// be seen from here, so a burst of answers must stay well below that.
pub const BURST: usize = 12 * 1024;
/// A burst is over when this time has passed since its first answer: Squid has been round its event loop.
const BURST_TIME: Span = Span::from_millis(100);

/// How much has been answered lately.
#[derive(Debug, Default)]
pub struct Burst {
    since: Time,
    bytes: usize,
}

impl Burst {
    /// Whether one more full answer fits.
    fn has_room(&mut self, now: Time) -> bool {
        if now.since(self.since) >= BURST_TIME || now < self.since {
            *self = Self { since: now, bytes: 0 };
        }
        self.bytes + LONGEST <= BURST
    }
}

/// Appends the answer to the query with channel ID `id` to `out`.
pub fn write(id: Option<&[u8]>, verdict: &Verdict, names: &Names, now: Time, burst: &mut Burst, out: &mut Vec<u8>) {
    let start = out.len();
    write_id(id, out);
    match verdict.refusal() {
        None => out.extend_from_slice(b"ERR"),
        Some(_) if !burst.has_room(now) => out.extend_from_slice(b"OK ban_=yes"),
        Some(refusal) => {
            let rule = names.name(refusal.rule);
            out.extend_from_slice(format!("OK ban_=yes rule_={rule} until_={}", refusal.until).as_bytes());
            let message = match refusal.until.time() {
                Some(until) if until > now => format!(" message=\"refused until {}\"", timestamp(until)),
                Some(_) => " message=\"this request is refused\"".to_owned(),
                None => " message=\"refused for good\"".to_owned(),
            };
            // What does not fit into the longest answer is left off: first the note for the log, then the message.
            for part in [message, format!(" log={rule}")] {
                if out.len() - start + part.len() < LONGEST {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }
    out.push(b'\n');
    burst.bytes += out.len() - start;
}

/// Appends `[ID ]ERR`: the answer that never refuses.
pub fn write_err(id: Option<&[u8]>, out: &mut Vec<u8>) {
    write_id(id, out);
    out.extend_from_slice(b"ERR\n");
}

fn write_id(id: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(id) = id {
        out.extend_from_slice(id);
        out.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleId;
    use crate::table::Until;
    use crate::verdict::{Grounds, Innocence, Refusal};

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn refusal(rule: RuleId, until: Until) -> Verdict {
        Verdict::Deny(Refusal { rule, until, grounds: Grounds::Banned })
    }

    fn answer(id: Option<&[u8]>, verdict: &Verdict, names: &Names) -> String {
        let mut out = Vec::new();
        write(id, verdict, names, NOW, &mut Burst::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_names_rule_and_end() {
        let names = Names::default();
        let rule = names.intern("w00tw00t");
        let until = Until::at(NOW.after(Span::from_secs(3600)));
        assert_eq!(
            answer(Some(b"42"), &refusal(rule, until), &names),
            "42 OK ban_=yes rule_=w00tw00t until_=1800003600 message=\"refused until 2027-01-15T09:00:00Z\" log=w00tw00t\n"
        );
        assert_eq!(
            answer(None, &refusal(RuleId::MANUAL, Until::NEVER), &names),
            "OK ban_=yes rule_=manual until_=-1 message=\"refused for good\" log=manual\n"
        );
        assert_eq!(
            answer(None, &refusal(rule, Until::at(NOW)), &names),
            "OK ban_=yes rule_=w00tw00t until_=1800000000 message=\"this request is refused\" log=w00tw00t\n"
        );
    }

    #[test]
    fn whatever_does_not_refuse_is_err() {
        let names = Names::default();
        assert_eq!(answer(Some(b"1"), &Verdict::Allow(Innocence::NothingFound), &names), "1 ERR\n");
        assert_eq!(answer(None, &Verdict::Allow(Innocence::Failure), &names), "ERR\n");
    }

    #[test]
    fn no_answer_is_longer_than_150_bytes_and_the_longest_name_is_whole() {
        let names = Names::default();
        let longest = "x".repeat(64);
        let rule = names.intern(&longest);
        let text = answer(Some(b"18446744073709551615"), &refusal(rule, Until::at(NOW.after(Span::from_secs(60)))), &names);
        assert!(text.len() <= LONGEST, "{}", text.len());
        assert!(text.contains(&format!("rule_={longest} until_=1800000060")));
    }

    #[test]
    fn after_12_kilobytes_in_a_burst_answers_are_short_until_it_is_over() {
        let names = Names::default();
        let rule = names.intern("w00tw00t");
        let verdict = refusal(rule, Until::NEVER);
        let mut burst = Burst::default();
        let mut out = Vec::new();
        for _ in 0..1000 {
            write(Some(b"1234567890"), &verdict, &names, NOW, &mut burst, &mut out);
        }
        assert!(out.len() < 32 * 1024, "{}", out.len());
        assert!(out.ends_with(b"1234567890 OK ban_=yes\n"));
        let later = NOW.after(Span::from_millis(100));
        write(None, &verdict, &names, later, &mut burst, &mut out);
        assert!(out.ends_with(b"log=w00tw00t\n"));
    }
}
