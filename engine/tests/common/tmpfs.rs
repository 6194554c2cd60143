//! A small filesystem in memory, mounted for a test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted when dropped, also when a test panics.
pub(crate) struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one of so many bytes; `None`, and the reason printed, where that is not permitted.
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                println!("skipped: a tmpfs cannot be mounted here: {}", why.trim());
                None
            }
            Err(error) => {
                println!("skipped: there is no mount here: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Fills it to the last byte with a file of the test's own.
    pub(crate) fn fill(&self) {
        self.fill_but(0);
    }

    /// Fills it, and leaves about so many bytes.
    pub(crate) fn fill_but(&self, bytes: u64) {
        let mut file = fs::File::options().create(true).append(true).open(self.ballast()).unwrap();
        let piece = vec![0xaa; 4096];
        while file.write_all(&piece).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
    }

    /// Removes that file.
    pub(crate) fn free(&self) {
        _ = fs::remove_file(self.ballast());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmount = |lazy: &[&str]| {
            let ended = Command::new("umount").args(lazy).arg(self.dir.path()).status();
            ended.is_ok_and(|status| status.success())
        };
        // At once or, where something is still open, as soon as it is closed.
        if !unmount(&[]) {
            unmount(&["--lazy"]);
        }
    }
}
