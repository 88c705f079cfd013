//! A file system so small that a test can fill it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::requirements::{is_root, print_skipped};

/// A file system of 512 KiB, mounted over a directory until the value is dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Returns `None` and says why if it cannot be mounted.
    pub(crate) fn mount(directory: &Path) -> Option<Self> {
        if !is_root("mount a small disk") {
            return None;
        }
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(directory).output().unwrap();
        if !mounted.status.success() {
            print_skipped(&format!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(Self(directory.to_owned()))
    }

    pub(crate) fn remount(&self, option: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
