//! Interpolation of values: `%(name)s` stands for another option, `%%` for a percent sign.

use super::{IniConfig, IniError, Options};
use std::collections::HashMap;

/// Maximum length of a value after interpolation, in bytes.
const MAX_VALUE_LENGTH: usize = 1 << 20;

/// Maximum nesting of references: `configparser.MAX_INTERPOLATION_DEPTH`.
const MAX_DEPTH: usize = 10;

/// Resolves the references in `text`, the value of `option` in `section`.
///
/// # Errors
/// A reference to an option that does not exist, a stray percent sign, or a value that grows too long.
pub fn interpolate(config: &IniConfig, section: &str, option: &str, options: &Options, text: &str) -> Result<String, IniError> {
    let mut out = String::new();
    Interpolation { config, section, option, options, extra: HashMap::new() }.resolve(text, 1, &mut out)?;
    Ok(out)
}

/// The state of one interpolation, for fail2ban's `BasicInterpolationWithName`.
struct Interpolation<'c> {
    config: &'c IniConfig,
    section: &'c str,
    option: &'c str,
    options: &'c Options,
    /// Values of other sections, by the qualified name that referred to them.
    extra: HashMap<String, &'c str>,
}

impl<'c> Interpolation<'c> {
    fn resolve(&mut self, text: &'c str, depth: usize, out: &mut String) -> Result<(), IniError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("references nested deeper than {MAX_DEPTH}, perhaps in a circle")));
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                out.push('%');
                rest = after;
            } else if let Some((name, after)) =
                after.strip_prefix('(').and_then(|after| after.split_once(")s")).filter(|(name, _)| !name.contains(')'))
            {
                let value = self.value(name)?;
                if value.contains('%') {
                    self.resolve(value, depth + 1, out)?;
                } else {
                    out.push_str(value);
                }
                rest = after;
            } else {
                let shown: String = after.chars().take(20).collect();
                return Err(self.error(format!("found \"%{shown}\", expected \"%%\" or \"%(name)s\"")));
            }
            if out.len() > MAX_VALUE_LENGTH {
                return Err(self.error(format!("longer than {MAX_VALUE_LENGTH} bytes with its references")));
            }
        }
        out.push_str(rest);
        Ok(())
    }

    fn value(&mut self, name: &str) -> Result<&'c str, IniError> {
        let lower = name.to_lowercase();
        if lower == "__name__" {
            return Ok(self.section);
        }
        if let Some(value) = self.config.lookup(self.section, &lower, self.options) {
            return Ok(value);
        }
        if let Some(value) = self.extra.get(name) {
            return Ok(value);
        }
        let found = split_qualified(name).and_then(|(section, option)| {
            let other = match section.to_lowercase().as_str() {
                "default" => None,
                "known" => self.config.section(&format!("KNOWN/{}", self.section)),
                _ => Some(self.config.section(section)?),
            };
            other.and_then(|section| section.get(option)).or_else(|| self.config.defaults.get(option))
        });
        let Some(found) = found else { return Err(self.error(format!("found %({name})s, expected the name of an option"))) };
        self.extra.insert(name.to_owned(), &found.text);
        Ok(&found.text)
    }

    fn error(&self, message: String) -> IniError {
        self.config.error(self.section, self.option, message)
    }
}

/// Splits `section/option`; none if the name has no section.
pub fn split_qualified(option: &str) -> Option<(&str, &str)> {
    let (section, name) = option.split_once('/')?;
    let is_section = !section.is_empty() && section.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    (is_section && !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '>')).then_some((section, name))
}
