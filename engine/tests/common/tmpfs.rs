//! A small filesystem in memory, mounted for a test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the environment: where this is 1, a process that may mount and does not come to a tmpfs panics,
/// so that tests are not skipped unnoticed.
const REQUIRE: &str = "SHERD_REQUIRE_TMPFS";

/// A mounted tmpfs; unmounted when dropped, also when a test panics.
pub(crate) struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one of so many bytes; `None`, and the reason printed, where that is not permitted.
    ///
    /// # Panics
    /// When that fails for another reason and [`REQUIRE`] is 1.
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
                skip(&format!("a tmpfs cannot be mounted here: {}", why.trim()))
            }
            Err(error) => skip(&format!("there is no mount here: {error}")),
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

/// Says why a test is skipped, on standard error, past what the harness keeps to itself.
fn skip(why: &str) -> Option<Tmpfs> {
    let required = std::env::var_os(REQUIRE).is_some_and(|value| value == "1");
    assert!(!required || !may_mount(), "{REQUIRE} is 1: {why}");
    _ = writeln!(std::io::stderr(), "skipped: {why}");
    None
}

/// Whether the kernel lets this process mount: root in a container often may not.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    capabilities.is_some_and(|bits| bits & 1 << CAP_SYS_ADMIN != 0)
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
