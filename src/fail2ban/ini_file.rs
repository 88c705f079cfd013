//! One configuration file, as Python's `configparser` reads it.

use super::ini::{Config, ConfigError, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Reads one file; nothing if there is none.
pub(super) fn parse_file(path: &Path) -> Result<Option<Config>, ConfigError> {
    let fault = |message| ConfigError { file: path.to_owned(), line: None, message };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(format!("cannot be read: {error}"))),
    };
    let text = String::from_utf8(bytes)
        .map_err(|error| fault(format!("found bytes that are no UTF-8 after byte {}", error.utf8_error().valid_up_to())))?;
    parse(&text, path).map(Some)
}

/// Python's `configparser._read` with the settings of fail2ban: `#` and `;` begin a comment line, ` ;` a comment at the end of a line.
fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let file: Arc<Path> = path.into();
    let mut config = Config { files: vec![path.to_owned()], ..Config::default() };
    let mut section: Option<String> = None;
    let mut option: Option<String> = None;
    let mut added = BTreeSet::new();
    let mut indent = 0;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let fault = |message: String| ConfigError { file: path.to_owned(), line: Some(number), message };
        let comment_line = line.trim_start().starts_with(['#', ';']);
        let comment = if comment_line { Some(0) } else { inline_comment(line) };
        let value = line.get(..comment.unwrap_or(line.len())).unwrap_or_default().trim();
        let target = |config: &mut Config, name: &str, option: &str, more: &str| {
            let section = if name == "DEFAULT" { &mut config.defaults } else { config.section_mut(name) };
            if let Some(value) = section.get_mut(option) {
                value.text.push('\n');
                value.text.push_str(more);
            }
        };
        if value.is_empty() {
            if let (None, Some(section), Some(option)) = (comment, &section, &option) {
                target(&mut config, section, option, "");
            }
            continue;
        }
        let here = line.chars().take_while(|c| c.is_whitespace()).count();
        if let (Some(section), Some(option)) = (&section, &option)
            && here > indent
        {
            target(&mut config, section, option, value);
            continue;
        }
        indent = here;
        if let Some(name) =
            value.strip_prefix('[').and_then(|rest| rest.rfind(']').and_then(|end| rest.get(..end))).filter(|name| !name.is_empty())
        {
            if name != "DEFAULT" {
                if !added.insert((name.to_owned(), None)) {
                    return Err(fault(format!("found section [{name}] a second time")));
                }
                config.section_mut(name);
            }
            section = Some(name.to_owned());
            option = None;
            continue;
        }
        let Some(name) = &section else { return Err(fault(format!("found {value:?}, expected a section such as [Definition]"))) };
        let Some((key, value)) = value.split_once(['=', ':']).filter(|(key, _)| !key.trim().is_empty()) else {
            return Err(fault(format!("found {value:?}, expected \"name = value\"")));
        };
        let key = key.trim_end().to_lowercase();
        if !added.insert((name.clone(), Some(key.clone()))) {
            return Err(fault(format!("found option {key:?} of [{name}] a second time")));
        }
        let value = Value { text: value.trim().to_owned(), file: Arc::clone(&file), line: number };
        if name == "DEFAULT" { &mut config.defaults } else { config.section_mut(name) }.insert(key.clone(), value);
        option = Some(key);
    }
    let sections = config.sections.iter_mut().map(|(_, section)| section);
    for value in sections.chain([&mut config.defaults]).flat_map(BTreeMap::values_mut) {
        value.text.truncate(value.text.trim_end().len());
    }
    Ok(config)
}

/// Where a comment starts that follows something: a semicolon at the beginning or after white space.
fn inline_comment(line: &str) -> Option<usize> {
    line.match_indices(';')
        .map(|(place, _)| place)
        .find(|place| line.get(..*place).is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace)))
}
