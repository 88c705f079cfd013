//! Line mode: answers each line of standard input with one line, whatever it contains.

use std::io::{self, BufRead, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use super::query::EximQuery;
use super::{DaemonSocket, LIMIT};
use crate::control::answer::ACCEPT;
use crate::control::request::MAX_LINE;

/// Answers until standard input ends.
pub fn run(daemon: &DaemonSocket) -> ExitCode {
    match answer_all(&mut io::stdin().lock(), &mut io::stdout().lock(), |query| daemon.ask(query, Instant::now() + LIMIT)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("standard input or output failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line of `input` on `output`; `ask` puts a query to the daemon.
///
/// # Errors
/// Reading or writing failed.
fn answer_all(input: &mut impl BufRead, output: &mut impl Write, ask: impl Fn(&EximQuery) -> String) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX).saturating_add(2);
        if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && line.len() > MAX_LINE {
            input.skip_until(b'\n')?;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let query = EximQuery::from_line(&line);
            if let Some(report) = query.ignored.report() {
                log::warn!("{report}");
            }
            ask(&query)
        }));
        // The panic hook has reported a panic on standard error.
        let answer = answer.unwrap_or_else(|_| ACCEPT.to_owned());
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
        let ask = |query: &EximQuery| match query.requests.as_slice() {
            [] => ACCEPT.to_owned(),
            [request, ..] if request.contains("192.0.2.66") => panic!("an internal fault"),
            requests => format!("deny {}", requests.join(", ")),
        };
        answer_all(&mut io::BufReader::with_capacity(7, input), &mut output, ask).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn each_line_gets_one_answer_whatever_it_contains() {
        let mut input = b"check 192.0.2.1\r\n\nnonsense\ncheck 192.0.2.66\ncheck \xff\0\n".to_vec();
        input.extend(vec![b'x'; 3 * MAX_LINE]);
        input.extend(b"\nunban 192.0.2.1 192.0.2.2 x\ncheck 192.0.2.2");
        let expected = [
            "deny check 192.0.2.1 via=lines",
            "accept",
            "accept",
            "accept",
            "accept",
            "accept",
            "deny check 192.0.2.1 count=no, check 192.0.2.2 count=no",
            "deny check 192.0.2.2 via=lines",
        ];
        assert_eq!(answers(&input).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_line_of_any_length_ends_at_its_own_newline() {
        for length in MAX_LINE - 2..MAX_LINE + 4 {
            let input = [&vec![b'x'; length], b"\ncheck 192.0.2.1\n".as_slice()].concat();
            assert_eq!(answers(&input), "accept\ndeny check 192.0.2.1 via=lines\n", "{length}");
        }
    }

    proptest! {
        #[test]
        fn there_are_as_many_answers_as_lines(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>().prop_filter("newline", |byte| *byte != b'\n'), 0..40), 0..20)) {
            let input: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
            prop_assert_eq!(answers(&input).lines().count(), lines.len());
        }
    }
}
