//! What a follower reads whatever is done to the file. Each test uses real files and lets no time pass.

mod lines;
mod random;
mod replaced;
mod restart;
mod rewrite;
mod rotation;

use super::*;
use std::fs::{self, OpenOptions};
use std::io::Write;

struct Log {
    folder: tempfile::TempDir,
    follower: Follower,
}

impl Log {
    /// A follower of a log that does not exist yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let follower = Follower::new(&folder.path().join("log"), None);
        Self { folder, follower }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &[u8]) {
        OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap().write_all(text).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn poll(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while self.follower.poll(&mut |line, _| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap().more {}
        lines
    }

    /// Replaces the follower by one that starts at its position.
    fn restart(&mut self) {
        let position = self.follower.position();
        let saved = serde_json::to_string(&position).unwrap();
        self.follower = Follower::new(&self.path("log"), serde_json::from_str(&saved).unwrap());
    }
}

/// A line longer than [`HEAD`].
fn long(text: &str) -> String {
    format!("{text}{}", ".".repeat(300))
}

/// How a file is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rewrite {
    /// Through the same inode, as an editor, `rsync --inplace` and capped logs do.
    InPlace,
    /// By another file that takes its place, as `sed -i`, `rsync` and `mv` do.
    Replaced,
    /// As [`Rewrite::Replaced`], and the old file stays under another name (`sed -i.bak`).
    KeptAside,
}

const REWRITES: [Rewrite; 3] = [Rewrite::InPlace, Rewrite::Replaced, Rewrite::KeptAside];

impl Log {
    fn content(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn rewrite(&self, how: Rewrite, content: &str) {
        if how == Rewrite::InPlace {
            let mut file = OpenOptions::new().write(true).truncate(true).open(self.path("log")).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            // The kernel's tick may be coarser than the time between two writes.
            let later = file.metadata().unwrap().modified().unwrap() + std::time::Duration::from_millis(20);
            file.set_modified(later).unwrap();
            return;
        }
        fs::write(self.path("new"), content).unwrap();
        if how == Rewrite::KeptAside {
            self.rename("log", "log.bak");
        }
        self.rename("new", "log");
    }
}

/// A log of `number` lines, all of them read.
fn read_log(number: usize) -> Log {
    let mut log = Log::new();
    log.poll();
    (0..number).for_each(|number| log.append("log", format!("line {number} {}\n", "y".repeat(40)).as_bytes()));
    assert_eq!(log.poll().len(), number);
    log
}
