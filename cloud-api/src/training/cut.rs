//! Where tests end this process the hard way, in builds for tests only: at every transition of a job.

use std::path::Path;

use super::progress::Stage;

/// The transitions that one attempt has made so far.
pub(super) struct Passage<'a> {
    /// Where a test says at which of them this process ends.
    dir: &'a Path,
    at: Stage,
}

impl<'a> Passage<'a> {
    /// An attempt begins.
    pub(super) fn begin(dir: &'a Path) -> Self {
        let at = Stage::Gather;
        point(dir, &format!("before {}", at.name()));
        Self { dir, at }
    }

    /// It has come as far as `stage`, through all between.
    pub(super) fn reaches(&mut self, stage: Stage) {
        while self.at < stage {
            point(self.dir, &format!("after {}", self.at.name()));
            self.at = self.at.next();
            point(self.dir, &format!("before {}", self.at.name()));
        }
    }

    /// The last stage is over.
    pub(super) fn ends(&self) {
        point(self.dir, &format!("after {}", self.at.name()));
    }

    /// The version's files are written, and nobody knows of them.
    pub(super) fn written(&self) {
        point(self.dir, "written");
    }

    /// The database has it all.
    pub(super) fn concluded(&self) {
        point(self.dir, "concluded");
    }
}

/// Ends this process as `kill -9` does, if the file `die-at` in `dir` names this point; once.
#[cfg(debug_assertions)]
fn point(dir: &Path, name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    let file = dir.join("die-at");
    if std::fs::read_to_string(&file).is_ok_and(|wanted| wanted == name)
        && std::fs::remove_file(&file).is_ok()
    {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(not(debug_assertions))]
fn point(_: &Path, _: &str) {}
