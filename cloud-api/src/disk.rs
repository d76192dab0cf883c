//! Room for what comes.

use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1024 * 1024;

/// The disk of the data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: Arc<Path>,
    reserve_mib: u64,
}

impl Disk {
    /// The disk that `dir` is on, of which so much should stay free.
    #[must_use]
    pub fn new(dir: &Path, reserve_mib: u64) -> Self {
        Self { dir: dir.into(), reserve_mib }
    }

    /// What is wrong with it, for the operator.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.reserve_mib == 0 {
            return None;
        }
        let stat = match rustix::fs::statvfs(&*self.dir) {
            Ok(stat) => stat,
            Err(error) => return Some(format!("The data directory is not there: {error}.")),
        };
        let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) / MIB;
        let reserve_mib = self.reserve_mib;
        (free_mib < reserve_mib).then(|| {
            format!(
                "The disk of the data directory has {free_mib} MiB free, less than the \
                 {reserve_mib} MiB of storage.reserve_mib: make room."
            )
        })
    }
}
