//! Reads files and runs programs, each with a limit: a path in a configuration may name anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::processes::trustworthy;
use crate::doctor::facts::{Access, FileFacts};
use crate::doctor::squid_config::Files;

/// Maximum number of bytes that are read of a file or of a program's output.
const MAX_BYTES: u64 = 16 << 20;
/// How long a program may take to say what it is asked.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The files of this machine.
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        read(path)
    }

    fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        glob::glob(pattern).map(|paths| paths.flatten().collect()).unwrap_or_default()
    }
}

/// Opens a file. Nothing is waited for: whoever may write a directory may have put a pipe there.
///
/// # Errors
/// It is no file, or this user may not open it.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "found something else than a file")) }
}

/// The text of a file, of which only that much is read.
///
/// # Errors
/// It is no file, or cannot be read.
pub fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last bytes of a file.
///
/// # Errors
/// It is no file, or cannot be read.
pub fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// When a file was changed last, or took its place: a copy may have kept the time at which another was written.
pub fn changed(path: &Path) -> Option<FileFacts> {
    let metadata = fs::metadata(path).ok()?;
    Some(FileFacts { path: path.into(), changed: metadata.mtime().max(metadata.ctime()) })
}

/// The one of these files that was changed last.
pub fn newest<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Option<FileFacts> {
    paths.into_iter().filter_map(|path| changed(path)).max_by_key(|file| file.changed)
}

/// Owner and mode of a file and of the directories that lead to it; none if this user cannot see them.
pub fn access(path: &Path) -> Option<Vec<Access>> {
    let mut access = Vec::new();
    for path in path.ancestors().collect::<Vec<_>>().into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
        let metadata = fs::metadata(path).ok()?;
        access.push(Access { user: metadata.uid(), group: metadata.gid(), mode: metadata.mode(), is_directory: metadata.is_dir() });
    }
    Some(access)
}

/// Runs a program and returns what it prints on its standard output.
///
/// # Errors
/// It is not one that only root or this user can change, cannot be started, takes too long or fails.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(trustworthy(program)?);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(MAX_BYTES).read_to_end(&mut bytes);
            // The receiver is gone if this took too long.
            let _ = sender.send(read.map(|_| bytes));
        });
    }
    let received = receiver.recv_timeout(TIMEOUT);
    if received.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let bytes = received.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
    if status.success() { Ok(String::from_utf8_lossy(&bytes).into_owned()) } else { Err(status.to_string()) }
}

/// The first of these programs that is there.
pub fn first_of(programs: &[&'static str]) -> Option<&'static Path> {
    programs.iter().map(|program| Path::new(*program)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_prints_is_read_and_one_that_anybody_may_change_is_not_run() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::copy("/bin/echo", &program).unwrap();
        assert_eq!(run(Path::new("/bin/echo"), &["a", "b"]), Ok("a b\n".to_owned()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(run(&program, &["a"]).unwrap_err().contains("only root"));
        assert!(run(Path::new("/no/such"), &[]).unwrap_err().contains("No such file"));
        assert!(run(Path::new("/bin/false"), &[]).is_err());
    }

    #[test]
    fn a_folder_a_pipe_and_a_missing_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(read(&pipe).is_err() && tail(&pipe, 10).is_err(), "without waiting for its writer");
        assert!(read(Path::new("/")).is_err() && read(Path::new("/dev/zero")).is_err() && read(Path::new("/no/such")).is_err());
        assert_eq!(access(Path::new("/no/such")), None);
        let root = access(Path::new("/")).unwrap();
        assert!(root.len() == 1 && root[0].is_directory);
    }
}
