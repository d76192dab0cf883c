//! The one way in which this crate writes files: whole or not at all, also across a power cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where `path` is written before it is whole: beside it, so that the rename stays within one
/// file system; named by this process, so that two writers do not meet.
fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    let mut draft = std::ffi::OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}.draft", std::process::id()));
    Ok(path.with_file_name(draft))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the durable writer: the draft is synced before it gets its name"
)]
fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Writes `content` to `path`, making the folder if needed. When it returns, the new content
/// survives a power cut; when it fails, what was there before is untouched.
///
/// # Errors
/// What the file system said.
pub fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    let draft = draft_of(path)?;
    let written = write_synced(&draft, content).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync_folder(folder)
}

/// Writes a folder of files that appears whole or not at all. A folder that is already there is
/// replaced; between the two renames neither has the name, so use it for what one program makes,
/// not for what another reads at that moment.
///
/// # Errors
/// What the file system said.
pub fn write_folder<'a>(
    path: &Path,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> io::Result<()> {
    let parent = folder_of(path);
    fs::create_dir_all(parent)?;
    let draft = draft_of(path)?;
    let retired = draft.with_extension("retired");
    let fill = || {
        fs::create_dir(&draft)?;
        for (name, content) in files {
            write_synced(&draft.join(name), content)?;
        }
        sync_folder(&draft)?;
        if path.exists() {
            fs::rename(path, &retired)?;
        }
        fs::rename(&draft, path)
    };
    let _ = fs::remove_dir_all(&draft);
    let written = fill();
    if written.is_err() {
        // The first error is the one to tell; the old folder gets its name back.
        let _ = fs::remove_dir_all(&draft);
        if !path.exists() {
            let _ = fs::rename(&retired, path);
        }
    }
    written?;
    sync_folder(parent)?;
    if retired.exists() {
        fs::remove_dir_all(&retired)?;
    }
    Ok(())
}
