//! Merges several logs into one stream of lines, in the order of their times.

use super::source::LogSource;
use crate::log::line::LogLine;
use crate::time::Time;

/// Passes the lines of all sources to `on_line`, parsed, with the number of their source: in order within a source, by time across sources.
/// `on_read` is called after each run of lines from one source.
pub fn run(sources: &mut [LogSource], mut on_line: impl FnMut(usize, &[u8], &LogLine<'_>), mut on_read: impl FnMut(&[LogSource])) {
    for source in sources.iter_mut() {
        source.fill();
    }
    loop {
        on_read(sources);
        let mut heads: Vec<(Time, usize)> =
            sources.iter().enumerate().filter_map(|(number, source)| Some((source.head()?, number))).collect();
        heads.sort_unstable();
        let Some((_, number)) = heads.first().copied() else { return };
        let until = heads.get(1).copied();
        let Some(source) = sources.get_mut(number) else { return };
        // Lines of this source up to the next line of another source.
        while source.head().is_some_and(|head| until.is_none_or(|until| (head, number) <= until)) {
            let Some((line, outline)) = source.next() else { break };
            on_line(number, line, &outline.on(line));
        }
        source.fill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::time::Zone;

    fn merged(logs: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut sources: Vec<LogSource> = logs
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, text).unwrap();
                LogSource::open(&path, Zone::utc()).unwrap()
            })
            .collect();
        let mut lines = Vec::new();
        run(&mut sources, |_, line, _| lines.push(String::from_utf8_lossy(line).into_owned()), |_| {});
        assert_eq!(sources.iter().map(|source| source.lines()).sum::<u64>(), lines.len() as u64);
        lines
    }

    /// A line of Squid's log at this time, which asks for `/page`.
    fn squid(time: &str, page: &str) -> String {
        format!("{time} 1 192.0.2.1 TCP_MISS/200 9 GET http://site/{page} - HIER_NONE/- -")
    }

    fn squid_log(lines: &[(&str, &str)]) -> String {
        lines.iter().map(|(time, page)| squid(time, page) + "\n").collect()
    }

    #[test]
    fn lines_of_several_logs_are_merged_by_time() {
        let squid_lines = [("1795395720.000", "a"), ("1795395723.000", "c"), ("1795395724.000", "e")];
        let [a, c, e] = squid_lines.map(|(time, page)| squid(time, page));
        let exim = "2026-11-23 01:02:01 b\n\tcontinued\n2026-11-23 01:02:03 d\n2026-11-23 01:02:09 f\n";
        let expected = [&*a, "2026-11-23 01:02:01 b", "\tcontinued", &*c, "2026-11-23 01:02:03 d", &*e, "2026-11-23 01:02:09 f"];
        assert_eq!(merged(&[&squid_log(&squid_lines), exim]), expected);
        assert_eq!(merged(&[&squid_log(&squid_lines)]), [&*a, &*c, &*e]);
        assert_eq!(
            merged(&["1795395722.5 of another program\n1795395724.000 b\n", &(c.clone() + "\n")]),
            ["1795395722.5 of another program", &*c, "1795395724.000 b"]
        );
    }

    #[test]
    fn rotated_logs_may_be_given_in_any_order() {
        let lines = [("1795395720.000", "a"), ("1795395721.000", "b"), ("1795395722.000", "c"), ("1795395723.000", "d")];
        let (old, new) = (squid_log(&lines[..2]), squid_log(&lines[2..]));
        let expected = lines.map(|(time, page)| squid(time, page));
        assert_eq!(merged(&[&new, &old]), expected);
        assert_eq!(merged(&["", &new, "", &old]), expected);
    }

    #[test]
    fn lines_stay_in_order_across_chunks() {
        let log =
            |offset: u64| (0..20_000_u64).map(|n| squid(&format!("{}.{offset:03}", 1_795_395_720 + n), "page") + "\n").collect::<String>();
        let lines = merged(&[&log(1), &log(0), &log(2)]);
        assert_eq!(lines.len(), 60_000);
        assert!(lines.is_sorted());
    }
}
