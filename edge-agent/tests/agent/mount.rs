//! File systems of a test's own, for what happens when they are full or the power goes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system, unmounted at the end.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
}

/// Runs a program that says nothing; whether it went well.
pub(crate) fn run(program: &str, arguments: &[&str]) -> bool {
    let status =
        Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A test that this machine cannot do: said aloud, and a failure where nothing may be left out.
pub(crate) fn cannot(what: &str) {
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "CI=true and {what}");
    eprintln!("skipped: {what}");
}

impl Mount {
    /// Memory of this size, at `at`; nothing if this user may not mount.
    pub(crate) fn memory(size: &str, at: &Path) -> Option<Self> {
        let mount = Self::new(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"], at);
        if mount.is_none() {
            cannot("only root may mount a file system of its own");
        }
        mount
    }

    /// The file system in the file `image`, at `at`; nothing if this machine has no loop devices, as some
    /// containers do not even for root.
    pub(crate) fn image(image: &Path, at: &Path) -> Option<Self> {
        let mount = Self::new(&["-o", "loop", &image.display().to_string()], at);
        if mount.is_none() {
            if Path::new("/dev/loop-control").exists() {
                cannot("a file cannot be mounted though there are loop devices");
            } else {
                eprintln!("skipped: this machine has no loop devices");
            }
        }
        mount
    }

    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("made");
        let place = at.display().to_string();
        let mounted = run("mount", &[arguments, &[place.as_str()]].concat());
        mounted.then(|| Self { at: at.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        if !run("umount", &[&at]) {
            run("umount", &["-l", &at]);
        }
    }
}
