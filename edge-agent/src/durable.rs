//! The one writer of files: whole or not at all, and on disk when it returns.
//!
//! A new file is written beside its final name, flushed, renamed over it, and the directory is
//! flushed too, so that a power cut leaves the old file or the new one and nothing between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Ending of a file that is not finished. Left over by a crash, it may be removed.
pub const UNFINISHED: &str = "part";

/// Writes `bytes` as the file `path`.
///
/// # Errors
/// The first failing step, with the old file untouched. `ErrorKind::StorageFull` is worth
/// retrying when space has been made.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_name(path);
    let result = write_and_rename(path, &unfinished, bytes);
    if result.is_err() {
        // What is left is of no use, and on a full disk its space is needed.
        let _ = fs::remove_file(&unfinished);
    }
    result
}

fn write_and_rename(path: &Path, unfinished: &Path, bytes: &[u8]) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "this is the durable writer")]
    let mut file = File::create(unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(unfinished, path)?;
    sync_directory_of(path)
}

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    path.with_file_name(name)
}

/// Makes renames and removals in the directory of `path` last.
///
/// # Errors
/// The directory cannot be opened or flushed.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Opens a file to lock, empty if it is new; its content never matters.
///
/// # Errors
/// It cannot be opened for writing.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}
