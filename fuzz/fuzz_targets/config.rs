//! The configuration file: any bytes are a configuration, or an error that names file and line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use strikeout::internals::config::Config;
use strikeout::internals::rule_id::RuleNames;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // These options name files, and a fuzzer must not read this machine's files.
    if ["ignoreip", "trusted_proxies", "deny", "filter", "_file", "path"].iter().any(|key| text.contains(key)) {
        return;
    }
    if let Err(error) = Config::parse(data, Path::new("fuzz.toml"), &RuleNames::default()) {
        let text = error.to_string();
        let line = text.strip_prefix("fuzz.toml:").and_then(|rest| rest.split(':').next());
        let line: usize = line.and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("no line in {text:?}"));
        assert!((1..=data.iter().filter(|byte| **byte == b'\n').count() + 1).contains(&line), "{text:?}");
        assert!(!text.contains('\n'), "{text:?}");
    }
});
