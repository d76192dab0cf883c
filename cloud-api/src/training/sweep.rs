//! What attempts leave on the disk is removed once nobody works with it.

use std::io;
use std::path::Path;

use tracing::warn;
use uuid::Uuid;

use crate::store::{JobRow, Store, StoreError};

/// Removes the folders of attempts that are over, and of jobs that nobody knows. Of a job that has ended
/// the last attempt's manifest, labels and recipe stay, for who wants to know. What cannot be removed is
/// tried again the next time.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn sweep(store: &Store, dir: &Path) -> Result<(), StoreError> {
    let Ok(jobs) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in jobs.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| Uuid::try_parse(name).ok()) else { continue };
        let job = store.job(id).await?;
        if let Err(error) = tidy(&entry.path(), job.as_ref()) {
            warn!(%error, job = %id, "what a training left cannot be removed");
        }
    }
    Ok(())
}

fn tidy(dir: &Path, job: Option<&JobRow>) -> io::Result<()> {
    let Some(job) = job else { return std::fs::remove_dir_all(dir) };
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("attempt-"));
        let Some(number) = number.and_then(|number| number.parse::<i64>().ok()) else { continue };
        // One with a higher number has begun since the job was read.
        if number < job.attempts {
            std::fs::remove_dir_all(entry.path())?;
        } else if number == job.attempts && job.finished_us.is_some() {
            for name in ["bundle", "judge.json", "judged.json"] {
                let path = entry.path().join(name);
                if path.is_dir() {
                    std::fs::remove_dir_all(path)?;
                } else if path.exists() {
                    std::fs::remove_file(path)?;
                }
            }
        }
    }
    Ok(())
}
