//! Which files belong together, and in which order they override each other.

use super::parse::parse_file;
use super::{IniConfig, IniError, Options};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Maximum number of files that one file may include, itself counted.
const MAX_FILES: usize = 500;

/// The existing files of one name in fail2ban's order: `name.conf`, `name.d/*.conf`, `name.local`, `name.d/*.local`.
#[must_use]
pub fn with_additions(name: &Path) -> Vec<PathBuf> {
    let with = |ending: &str| PathBuf::from(format!("{}.{ending}", name.display()));
    let mut added: Vec<PathBuf> =
        std::fs::read_dir(with("d")).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    added.sort();
    let mut all = Vec::new();
    for ending in ["conf", "local"] {
        all.push(with(ending));
        all.extend(added.iter().filter(|path| path.extension().is_some_and(|found| found == ending)).cloned());
    }
    all.retain(|path| path.exists());
    all
}

/// Parsed files by path; none for a file that does not exist.
type ParsedFiles = HashMap<PathBuf, Option<IniConfig>>;

/// Parses files and everything that they include, in the order in which later ones override earlier ones.
///
/// # Errors
/// The first fault in any of the files.
pub fn in_order(paths: &[PathBuf]) -> Result<Vec<(PathBuf, IniConfig)>, IniError> {
    let mut order = Vec::new();
    let mut parsed = ParsedFiles::new();
    collect(paths, &[], &mut parsed, &mut order)?;
    Ok(order.into_iter().filter_map(|path| parsed.get(&path).cloned().flatten().map(|file| (path, file))).collect())
}

/// Appends each file to `order`: after the files that it includes `before`, and before those that it includes `after`.
///
/// This is fail2ban's `SafeConfigParserWithIncludes._getIncludes`.
fn collect(paths: &[PathBuf], seen: &[PathBuf], parsed: &mut ParsedFiles, order: &mut Vec<PathBuf>) -> Result<(), IniError> {
    let mut all = Vec::new();
    for path in paths {
        all.push(path.clone());
        let local = path.with_extension("local");
        if !paths.contains(&local) && local.is_file() {
            all.push(local);
        }
    }
    for path in all {
        if !parsed.contains_key(&path) {
            let file = parse_file(&path)?;
            parsed.insert(path.clone(), file);
        }
        let Some(Some(file)) = parsed.get(&path) else { continue };
        let directory = path.parent().unwrap_or(Path::new(""));
        let listed = |name| -> Result<Vec<PathBuf>, IniError> {
            let names = file.get("INCLUDES", name, &Options::new())?.unwrap_or_default();
            Ok(names.lines().filter(|name| !name.is_empty()).map(|name| directory.join(name)).filter(|path| !seen.contains(path)).collect())
        };
        let (before, after) = (listed("before")?, listed("after")?);
        if order.len() + before.len() + after.len() > MAX_FILES {
            return Err(IniError {
                file: path,
                line: None,
                message: format!("found more than {MAX_FILES} included files, expected fewer"),
            });
        }
        let mut seen = seen.to_vec();
        seen.push(path.clone());
        // One by one, as fail2ban does: in a list of files, a `.local` that the list names itself would not be added a second time.
        for included in before {
            collect(&[included], &seen, parsed, order)?;
        }
        order.push(path.clone());
        for included in after {
            collect(&[included], &seen, parsed, order)?;
        }
    }
    Ok(())
}
