//! A configuration in pieces: `conf.d/*.toml` beside the main file, in order of name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::text::{ConfigError, ConfigText};

/// The folder of the pieces, beside the main file.
pub const FOLDER: &str = "conf.d";

/// Reads `file` and the pieces beside it. If `is_optional`, the file itself may be missing.
///
/// # Errors
/// A file or the folder cannot be read, or is not UTF-8.
pub fn read(file: &Path, is_optional: bool) -> Result<ConfigText, ConfigError> {
    let mut text = match std::fs::read(file) {
        Ok(bytes) => ConfigText::new(&bytes, file)?,
        Err(error) if error.kind() == ErrorKind::NotFound && is_optional => ConfigText::new(b"", file)?,
        Err(error) => return Err(ConfigError::unreadable(file, &error)),
    };
    for piece in files(file)? {
        text.add(&read_piece(&piece)?, &piece)?;
    }
    Ok(text)
}

/// Reads a piece. Only a file, or a link to one: to open a pipe would wait for somebody who writes to it.
fn read_piece(piece: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error| ConfigError::unreadable(piece, &error);
    if !std::fs::metadata(piece).map_err(unreadable)?.is_file() {
        let message = "found a folder, a pipe or a device, expected a file".to_owned();
        return Err(ConfigError { file: piece.into(), line: None, message });
    }
    std::fs::read(piece).map_err(unreadable)
}

/// The pieces beside `file`, in order of name. Hidden files, as editors leave them, are none.
///
/// # Errors
/// The folder cannot be read.
pub fn files(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = file.with_file_name(FOLDER);
    let unreadable = |error| ConfigError::unreadable(&folder, &error);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut pieces = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden {
            pieces.push(path);
        }
    }
    pieces.sort();
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule_id::RuleNames;

    /// A folder with a main file and pieces.
    fn folder(main: &str, pieces: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FOLDER)).unwrap();
        std::fs::write(folder.path().join("strikeout.toml"), main).unwrap();
        for (name, text) in pieces {
            std::fs::write(folder.path().join(FOLDER).join(name), text).unwrap();
        }
        folder
    }

    fn load(folder: &tempfile::TempDir) -> Result<Config, String> {
        let file = folder.path().join("strikeout.toml");
        let shown = format!("{}/", folder.path().display());
        Config::load(Some(&file), &RuleNames::default()).map_err(|error| error.to_string().replace(&shown, ""))
    }

    #[test]
    fn pieces_add_to_sections_lists_rules_and_logs_in_order_of_name() {
        let folder = folder(
            "[defaults]\nmaxretry = 7\nignoreip = ['192.0.2.1']\n[[rule]]\nname = 'a'\npath = '/a'",
            &[
                ("20.toml", "[defaults]\nfindtime = '1m'\nignoreip = ['192.0.2.2']\n[[rule]]\nname = 'b'\npath = '/b'"),
                ("10.toml", "[hook]\ncommand = ['/bin/true']"),
                (".30.toml", "not read"),
                ("40.toml~", "not read"),
                ("README", "not read"),
            ],
        );
        let config = load(&folder).unwrap();
        let rule = config.rules.by_name("b").unwrap();
        assert_eq!((rule.maxretry, rule.findtime.secs(), config.hook.is_some()), (7, 60, true));
        let origins: Vec<String> =
            ["192.0.2.1", "192.0.2.2"].map(|address| config.lists.never_banned(address.parse().unwrap()).unwrap().to_string()).into();
        assert!(origins[0].contains("strikeout.toml") && origins[1].contains("20.toml"), "{origins:?}");
        let files: Vec<_> = config.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(files, ["strikeout.toml", "10.toml", "20.toml"]);
    }

    #[test]
    fn a_duplicate_names_both_places() {
        for (main, piece, expected) in [
            (
                "[defaults]\n\nmaxretry = 3",
                "\n[defaults]\nmaxretry = 4",
                "conf.d/a.toml:3: found a second maxretry in [defaults], the first is at strikeout.toml:3; expected it in one place",
            ),
            (
                "[[rule]]\nname = 'x'\npath = '/x'",
                "[[rule]]\npath = '/y'\nname = 'x'",
                "conf.d/a.toml:3: found a second rule \"x\", the first is at strikeout.toml:2; expected each name once",
            ),
            (
                "[hook]\ncommand = ['/x']",
                "[hook]\ncommand = ['/y']",
                "conf.d/a.toml:2: found a second command in [hook], the first is at strikeout.toml:2; expected it in one place",
            ),
            (
                "[[log]]\npath = '/x'\nzone = 'UTC'",
                "\n[[log]]\nzone = '+01:00'\npath = '/x'",
                "conf.d/a.toml:4: found a second log /x with another zone, the first is at strikeout.toml:2; expected the same",
            ),
        ] {
            let folder = folder(main, &[("a.toml", piece)]);
            assert_eq!(load(&folder).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_piece_that_is_a_pipe_or_a_folder_is_refused_and_a_link_to_a_file_is_read() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = folder("", &[("a.toml", "[defaults]\nmaxretry = 7")]);
        let piece = |name: &str| folder.path().join(FOLDER).join(name);
        std::fs::rename(piece("a.toml"), piece("target")).unwrap();
        std::os::unix::fs::symlink("target", piece("b.toml")).unwrap();
        assert!(load(&folder).is_ok());
        mknodat(CWD, piece("c.toml"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(load(&folder).unwrap_err(), "conf.d/c.toml: found a folder, a pipe or a device, expected a file");
        std::fs::remove_file(piece("c.toml")).unwrap();
        std::fs::create_dir(piece("d.toml")).unwrap();
        assert_eq!(load(&folder).unwrap_err(), "conf.d/d.toml: found a folder, a pipe or a device, expected a file");
    }

    #[test]
    fn a_duplicate_in_one_file_names_both_lines() {
        for (main, expected) in [
            (
                "[defaults]\nmaxretry = 3\n\nmaxretry = 4",
                ":4: found a second maxretry, the first is at strikeout.toml:2; expected it in one place",
            ),
            (
                "[defaults]\nmaxretry = 3\n[table]\n[defaults]",
                ":4: found a second defaults, the first is at strikeout.toml:1; expected it in one place",
            ),
            (
                "[[rule]]\nname = 'a'\npath = '/a'\n[[rule]]\nname = 'b'\n'path' = '/b'\nbantime = { initial = 1, maxtime = 2 }\npath = '/c'",
                ":8: found a second path, the first is at strikeout.toml:6; expected it in one place",
            ),
            (
                "[[rule]]\nname = 'a'\nbantime = { initial = 1, initial = 2 }",
                ":3: found a second initial, the first is at strikeout.toml:3; ",
            ),
        ] {
            let error = load(&folder(main, &[])).unwrap_err();
            assert!(error.starts_with(&format!("strikeout.toml{expected}")), "{main}\n{error}");
            let error = load(&folder("", &[("a.toml", main)])).unwrap_err();
            assert!(error.starts_with(&format!("conf.d/a.toml{}", expected.replace("strikeout", "conf.d/a"))), "{main}\n{error}");
        }
    }

    #[test]
    fn an_error_names_the_line_of_its_piece() {
        for (piece, expected) in [
            ("\n[defaults]\nmaxretry = 0", "conf.d/a.toml:3: found maxretry = 0, expected 1 or more"),
            ("[table]\nclients = 0", "conf.d/a.toml:2: found clients = 0, expected 1 to 100000000"),
            ("\n[tabel]", "conf.d/a.toml:2: unknown field `tabel`, "),
            ("\n\n[defaults", "conf.d/a.toml:3: "),
            ("[[rule]]\nname = 'x'\npath = '('", "conf.d/a.toml:3: found the pattern '(', "),
        ] {
            let folder = folder("[[rule]]\nname = 'y'\npath = '/y'\n", &[("a.toml", piece)]);
            let error = load(&folder).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_log_in_two_pieces_is_one_log_with_the_rules_of_both() {
        let main = "[[log]]\npath = '/x'\noptional = true\nrules = ['exim-global']\n[[log]]\npath = '/y'\n";
        let folder = folder(
            main,
            &[(
                "a.toml",
                "[[log]]\npath = '/x'\nrules = ['exim-per-host', 'exim-global']\n[[log]]\npath = '/y'\nrules = ['exim-auth-log']",
            )],
        );
        let logs = load(&folder).unwrap().logs;
        assert_eq!(logs.len(), 2);
        assert_eq!(logs[0].rules.as_deref().unwrap(), ["exim-global", "exim-per-host"]);
        assert!(!logs[0].optional, "one of them expects it");
        let rules = logs[1].rules.as_deref().unwrap();
        assert!(
            rules.iter().any(|rule| rule == "w00tw00t") && rules.iter().any(|rule| rule == "exim-auth-log"),
            "all over requests, and this one"
        );
        assert!(!rules.iter().any(|rule| rule == "exim-global"));
    }
}
