//! What every program exports of its process under the names that Prometheus' client libraries have fixed (`process_*`), read from /proc.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// The numbers of this process; 0 or none where /proc does not have them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessNumbers {
    /// User and system time, in milliseconds.
    pub cpu_millis: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_fds: u64,
    /// None if there is no limit.
    pub max_fds: Option<u64>,
}

impl ProcessNumbers {
    #[must_use]
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        Self {
            open_fds: u64::try_from(open_fds).unwrap_or(u64::MAX),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Self::of_stat(&stat, clock_ticks_per_second(), u64::try_from(page_size()).unwrap_or(4096))
        }
    }

    /// Reads `/proc/PID/stat` (proc_pid_stat(5)), in which the name before the last bracket may hold anything.
    fn of_stat(stat: &str, ticks_per_second: u64, page: u64) -> Self {
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        // The state is field 3.
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Self {
            cpu_millis: (field(14) + field(15)) * 1000 / ticks_per_second.max(1),
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: field(24) * page,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_behind_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 9 0 12345 1000000 77 18446744073709551615 1 1 0\n";
        let numbers = ProcessNumbers::of_stat(stat, 100, 4096);
        assert_eq!(numbers.cpu_millis, 4000);
        assert_eq!((numbers.threads, numbers.virtual_bytes, numbers.resident_bytes), (9, 1_000_000, 77 * 4096));
        assert_eq!(ProcessNumbers::of_stat("", 100, 4096), ProcessNumbers::default());
    }

    #[test]
    fn this_process_has_numbers() {
        let numbers = ProcessNumbers::read();
        assert!(numbers.resident_bytes > 100_000 && numbers.threads > 0 && numbers.open_fds > 2, "{numbers:?}");
    }
}
