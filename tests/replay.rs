//! `strikeout replay` as a program: compressed logs, exit codes, JSON and the page.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn strikeout(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strikeout")).arg("replay").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a configuration and three logs: plain, gzip and zstd.
fn logs() -> (tempfile::TempDir, String, [PathBuf; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("strikeout.toml");
    std::fs::write(&config, "[defaults]\nignoreip = []\n").unwrap();
    let lines = |client: &str, hour: u32| {
        let line = |second: u32, path: &str| {
            format!("{client} - - [23/Nov/2026:{hour:02}:00:{second:02} +0000] \"GET {path} HTTP/1.1\" 404 9 \"-\" \"-\"\n")
        };
        format!("{}{}", line(0, "/w00tw00t.at.ISC.SANS.DFind:)"), line(1, "/"))
    };
    let paths = ["access.log", "access.log.1.gz", "access.log.2.zst"].map(|name| folder.path().join(name));
    let [plain, gzip, zstd] = &paths;
    std::fs::write(plain, lines("198.51.100.1", 3)).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(std::fs::File::create(gzip).unwrap(), flate2::Compression::default());
    encoder.write_all(lines("198.51.100.2", 2).as_bytes()).unwrap();
    encoder.finish().unwrap();
    std::fs::write(zstd, zstd::encode_all(lines("198.51.100.3", 1).as_bytes(), 3).unwrap()).unwrap();
    (folder, config.display().to_string(), paths)
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn compressed_logs_in_any_order_are_merged() {
    let (_folder, config, [plain, gzip, zstd]) = logs();
    let output = strikeout(&["--config", &config, "--json", name(&plain), name(&zstd), name(&gzip)]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["total"]["lines"], &report["total"]["bans"], &report["total"]["refused"]), (&6.into(), &3.into(), &6.into()));
    assert_eq!((&report["from"], &report["until"]), (&"2026-11-23T01:00:00Z".into(), &"2026-11-23T03:00:01Z".into()));
}

#[test]
fn a_log_can_be_read_from_standard_input() {
    let (_folder, config, [plain, _, _]) = logs();
    let child = Command::new(env!("CARGO_BIN_EXE_strikeout"))
        .args(["replay", "--config", &config, "-"])
        .stdin(std::fs::File::open(plain).unwrap())
        .output()
        .unwrap();
    let output = text(&child.stdout);
    assert!(child.status.success() && output.contains("It would have banned 1 client (1 ban) and refused 2 events."), "{output}");
}

#[test]
fn the_page_is_a_single_file() {
    let (folder, config, [plain, _, _]) = logs();
    let page = folder.path().join("page.html");
    let output = strikeout(&["--config", &config, "--html", name(&page), name(&plain)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("banned 1 client and refused 2 of 2 events"));
    let nowhere = strikeout(&["--config", &config, "--html", "/no/such/folder/page.html", name(&plain)]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("/no/such/folder/page.html: cannot be written"), "{}", text(&nowhere.stderr));
}

#[test]
fn anything_unusable_ends_with_exit_code_2_and_a_reason() {
    let (folder, config, [plain, gzip, _]) = logs();
    for (arguments, reason) in [
        (vec!["--config", &config, "/no/such/log"], "/no/such/log: No such file or directory"),
        (vec!["--config", "/no/such/config.toml", name(&plain)], "/no/such/config.toml: cannot be read"),
        (vec!["--config", &config], "<LOG>"),
        (vec!["--config", &config, "--zone", "Mars/Olympus", name(&plain)], "found time zone \"Mars/Olympus\""),
        (vec!["--config", &config, name(folder.path())], "found a directory, expected a file"),
    ] {
        let output = strikeout(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(reason), "{arguments:?}: {}", text(&output.stderr));
    }
    let whole = std::fs::read(&gzip).unwrap();
    std::fs::write(&gzip, &whole[..whole.len() / 2]).unwrap();
    let damaged = strikeout(&["--config", &config, name(&gzip), name(&plain)]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stdout).contains("access.log.1.gz: read up to line"), "{}", text(&damaged.stdout));
}
