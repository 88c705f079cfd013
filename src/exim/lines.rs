//! Line mode: queries on standard input, one answer line each, whatever is in them.

use std::io::{self, BufRead, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use super::query::{self, Query};
use super::{LIMIT, Resident};
use crate::socket::request::LONGEST_LINE;

/// Answers until standard input ends.
pub fn run(resident: &Resident) -> ExitCode {
    match answer_all(&mut io::stdin().lock(), &mut io::stdout().lock(), |request| resident.ask(request, Instant::now() + LIMIT)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("standard input or output has failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line of `input` on `output`; `ask` puts a request to the resident.
///
/// # Errors
/// Those of reading and writing.
pub fn answer_all(input: &mut impl BufRead, output: &mut impl Write, ask: impl Fn(&str) -> String) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX).saturating_add(2);
        if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && line.len() > LONGEST_LINE {
            input.skip_until(b'\n')?;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| match Query::of_line(&line) {
            Ok(Some(query)) => ask(&query.request()),
            Ok(None) => query::ACCEPT.to_owned(),
            Err(fault) => {
                log::warn!("{fault}");
                query::ACCEPT.to_owned()
            }
        }));
        // The panic itself was reported on standard error.
        let answer = answer.unwrap_or_else(|_| query::ACCEPT.to_owned());
        output.write_all(format!("{answer}\n").as_bytes())?;
        output.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(input: &[u8]) -> String {
        let mut output = Vec::new();
        let ask = |request: &str| {
            assert!(!request.contains("192.0.2.66"), "a fault of ours");
            format!("deny {request}")
        };
        answer_all(&mut io::BufReader::with_capacity(7, input), &mut output, ask).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn each_line_gets_one_answer_whatever_is_in_it() {
        let mut input = b"check 192.0.2.1\r\n\nnonsense\ncheck 192.0.2.66\ncheck \xff\0\n".to_vec();
        input.extend(vec![b'x'; 3 * LONGEST_LINE]);
        input.extend(b"\ncheck 192.0.2.2");
        let expected =
            ["deny check 192.0.2.1 via=lines", "accept", "accept", "accept", "accept", "accept", "deny check 192.0.2.2 via=lines"];
        assert_eq!(answers(&input).lines().collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn there_are_as_many_answers_as_lines(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>().prop_filter("newline", |byte| *byte != b'\n'), 0..40), 0..20)) {
            let input: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
            prop_assert_eq!(answers(&input).lines().count(), lines.len());
        }
    }
}
