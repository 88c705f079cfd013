//! Parses one configuration file as Python's `configparser` does.

use super::{IniConfig, IniError, IniValue};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Parses a file; none if it does not exist.
///
/// # Errors
/// The file cannot be read, or its first fault.
pub fn parse_file(path: &Path) -> Result<Option<IniConfig>, IniError> {
    let error = |message| IniError { file: path.to_owned(), line: None, message };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(io) if io.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(io) => return Err(error(format!("cannot be read: {io}"))),
    };
    let text = String::from_utf8(bytes)
        .map_err(|utf8| error(format!("found bytes that are not UTF-8 after byte {}, expected UTF-8", utf8.utf8_error().valid_up_to())))?;
    parse(&text, path).map(Some)
}

/// Python's `configparser._read` with fail2ban's settings: `#` and `;` begin a comment line, ` ;` a comment at the end of a line.
fn parse(text: &str, path: &Path) -> Result<IniConfig, IniError> {
    let file: Arc<Path> = path.into();
    let mut config = IniConfig { files: vec![path.to_owned()], ..IniConfig::default() };
    let mut section: Option<String> = None;
    let mut option: Option<String> = None;
    let mut seen = BTreeSet::new();
    let mut indent = 0;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let error = |message: String| IniError { file: path.to_owned(), line: Some(number), message };
        let comment_line = line.trim_start().starts_with(['#', ';']);
        let comment = if comment_line { Some(0) } else { inline_comment(line) };
        let value = line.get(..comment.unwrap_or(line.len())).unwrap_or_default().trim();
        let append = |config: &mut IniConfig, name: &str, option: &str, more: &str| {
            let section = if name == "DEFAULT" { &mut config.defaults } else { config.section_mut(name) };
            if let Some(value) = section.get_mut(option) {
                value.text.push('\n');
                value.text.push_str(more);
            }
        };
        if value.is_empty() {
            if let (None, Some(section), Some(option)) = (comment, &section, &option) {
                append(&mut config, section, option, "");
            }
            continue;
        }
        let indentation = line.chars().take_while(|c| c.is_whitespace()).count();
        if let (Some(section), Some(option)) = (&section, &option)
            && indentation > indent
        {
            append(&mut config, section, option, value);
            continue;
        }
        indent = indentation;
        if let Some(name) =
            value.strip_prefix('[').and_then(|rest| rest.rfind(']').and_then(|end| rest.get(..end))).filter(|name| !name.is_empty())
        {
            if name != "DEFAULT" {
                if !seen.insert((name.to_owned(), None)) {
                    return Err(error(format!("found section [{name}] a second time, expected each name once")));
                }
                config.section_mut(name);
            }
            section = Some(name.to_owned());
            option = None;
            continue;
        }
        let Some(name) = &section else { return Err(error(format!("found {value:?}, expected a section such as [Definition]"))) };
        let Some((key, value)) = value.split_once(['=', ':']).filter(|(key, _)| !key.trim().is_empty()) else {
            return Err(error(format!("found {value:?}, expected \"name = value\"")));
        };
        let key = key.trim_end().to_lowercase();
        if !seen.insert((name.clone(), Some(key.clone()))) {
            return Err(error(format!("found option {key:?} of [{name}] a second time, expected each name once")));
        }
        let value = IniValue { text: value.trim().to_owned(), file: Arc::clone(&file), line: number };
        if name == "DEFAULT" { &mut config.defaults } else { config.section_mut(name) }.insert(key.clone(), value);
        option = Some(key);
    }
    let sections = config.sections.iter_mut().map(|(_, section)| section);
    for value in sections.chain([&mut config.defaults]).flat_map(BTreeMap::values_mut) {
        value.text.truncate(value.text.trim_end().len());
    }
    Ok(config)
}

/// The start of a comment at the end of a line: a semicolon at the beginning or after white space.
fn inline_comment(line: &str) -> Option<usize> {
    line.match_indices(';')
        .map(|(at, _)| at)
        .find(|at| line.get(..*at).is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace)))
}
