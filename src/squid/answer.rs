//! Answers in Squid's helper protocol: `[ID ]OK …` or `[ID ]ERR`. They are short and never contain a client's text.

use super::burst::Burst;
use crate::clock::timestamp;
use crate::rule_id::RuleNames;
use crate::time::Time;
use crate::verdict::{DenyReason, Verdict};

/// Maximum length of an answer in bytes, with its newline.
pub const MAX_LEN: usize = 150;

/// Appends the answer to the query with channel ID `id` to `out`.
pub fn write(id: Option<&[u8]>, verdict: &Verdict, names: &RuleNames, now: Time, burst: &mut Burst, out: &mut Vec<u8>) {
    let start = out.len();
    write_id(id, out);
    match verdict.refusal() {
        None => out.extend_from_slice(b"ERR"),
        Some(_) if !burst.has_room(MAX_LEN, now) => out.extend_from_slice(b"OK ban_=yes"),
        Some(refusal) => {
            let rule = names.name(refusal.rule);
            out.extend_from_slice(format!("OK ban_=yes rule_={rule} until_={}", refusal.until).as_bytes());
            // A refusal without a ban ends at once, but its end is rounded up to a whole second.
            let is_ban = !matches!(refusal.reason, DenyReason::Offence | DenyReason::Failure);
            let message = match refusal.until.time() {
                Some(until) if is_ban && until > now => format!(" message=\"refused until {}\"", timestamp(until)),
                Some(_) => " message=\"this request is refused\"".to_owned(),
                None => " message=\"refused for good\"".to_owned(),
            };
            // A part that does not fit is left out.
            for part in [message, format!(" log={rule}")] {
                if out.len() - start + part.len() < MAX_LEN {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }
    out.push(b'\n');
    burst.add(out.len() - start);
}

/// Appends `[ID ]ERR`, the answer that serves the client.
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
    use crate::rule_id::RuleId;
    use crate::table::Until;
    use crate::time::Span;
    use crate::verdict::{AllowReason, DenyReason, Refusal};

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn refusal(rule: RuleId, until: Until) -> Verdict {
        Verdict::Deny(Refusal { rule, until, reason: DenyReason::Banned })
    }

    fn answer(id: Option<&[u8]>, verdict: &Verdict, names: &RuleNames) -> String {
        let mut out = Vec::new();
        write(id, verdict, names, NOW, &mut Burst::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_names_its_rule_and_end() {
        let names = RuleNames::default();
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
    fn a_refusal_of_one_request_does_not_promise_an_end() {
        let names = RuleNames::default();
        let until = Until::at(NOW.after(Span::from_millis(1)));
        let verdict = Verdict::Deny(Refusal { rule: names.intern("w00tw00t"), until, reason: DenyReason::Offence });
        assert!(answer(None, &verdict, &names).contains("message=\"this request is refused\""));
    }

    #[test]
    fn verdicts_that_do_not_refuse_are_err() {
        let names = RuleNames::default();
        assert_eq!(answer(Some(b"1"), &Verdict::Allow(AllowReason::NothingFound), &names), "1 ERR\n");
        assert_eq!(answer(None, &Verdict::Allow(AllowReason::Failure), &names), "ERR\n");
    }

    #[test]
    fn answers_have_at_most_150_bytes_and_the_longest_rule_name_fits() {
        let names = RuleNames::default();
        let longest = "x".repeat(64);
        let rule = names.intern(&longest);
        let text = answer(Some(b"18446744073709551615"), &refusal(rule, Until::at(NOW.after(Span::from_secs(60)))), &names);
        assert!(text.len() <= MAX_LEN, "{}", text.len());
        assert!(text.contains(&format!("rule_={longest} until_=1800000060")));
    }

    #[test]
    fn after_12_kilobytes_in_a_burst_answers_are_short_until_it_ends() {
        let names = RuleNames::default();
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
