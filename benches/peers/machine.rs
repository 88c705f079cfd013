//! Describes the machine and the programs that were measured.

use std::collections::BTreeMap;
use std::process::Command;

/// The machine's properties and the versions of all programs, by name.
pub fn describe() -> BTreeMap<&'static str, String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let mut facts = BTreeMap::new();
    facts.insert("cpu", field(&cpuinfo, "model name").unwrap_or_default());
    facts.insert(
        "cpu family/model",
        format!("{}/{}", field(&cpuinfo, "cpu family").unwrap_or_default(), field(&cpuinfo, "model\t").unwrap_or_default()),
    );
    facts.insert("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string());
    facts.insert("memory", field(&meminfo, "MemTotal").unwrap_or_default());
    facts.insert("virtual", cpuinfo.contains("hypervisor").to_string());
    facts.insert("load before", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned());
    for (name, program, arguments) in [
        ("kernel", "uname", &["-sr"][..]),
        ("rustc", "rustc", &["--version"]),
        ("squid", "squid", &["-v"]),
        ("exim", "exim4", &["-bV"]),
        ("fail2ban", "fail2ban-regex", &["--version"]),
        ("python", "python3", &["--version"]),
        ("grep", "grep", &["--version"]),
        ("wrk", "wrk", &["-v"]),
        ("commit", "git", &["describe", "--always", "--dirty"]),
        ("date", "date", &["-u", "+%Y-%m-%dT%H:%MZ"]),
    ] {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(program).args(arguments).env("PATH", path).output();
        let text = output
            .map(|output| String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned());
        facts.insert(name, text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(|| "missing".to_owned()));
    }
    facts
}
