//! The one way in which EcoSight writes files: whole or not at all, also across a power cut.
//!
//! A file is written beside its final name, flushed, renamed over it, and the folder is flushed
//! too, so that a power cut leaves the old file or the new one and nothing between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that has no name yet: it lies beside its place until it is published, and is removed
/// when it is dropped before.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    draft: PathBuf,
}

impl Draft {
    /// Of the file `path`: within its folder, so that the rename stays within one file system;
    /// named by this process, so that two writers do not meet.
    ///
    /// # Errors
    /// `path` names no file.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), draft: beside(path)? })
    }

    /// Opens it, empty.
    ///
    /// # Errors
    /// What the file system said.
    pub fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).open(&self.draft)
    }

    /// Gives it its name. The caller has flushed what it wrote.
    ///
    /// # Errors
    /// What the file system said; what had the name before is untouched.
    pub fn publish(self) -> io::Result<()> {
        fs::rename(&self.draft, &self.path)?;
        sync_folder_of(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Once published it is no longer there; on a full disk its space is needed.
        let _ = fs::remove_file(&self.draft);
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        let what = format!("`{}` names no file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })?;
    let mut draft = std::ffi::OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}.draft", std::process::id()));
    Ok(path.with_file_name(draft))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes renames and removals in the folder of `path` last.
///
/// # Errors
/// The folder cannot be opened or flushed.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Writes `content` to `path`, making the folder if needed. When it returns, the new content
/// survives a power cut; when it fails, what was there before is untouched.
///
/// # Errors
/// What the file system said. `ErrorKind::StorageFull` is worth another try when space was made.
pub fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    let draft = Draft::of(path)?;
    let mut file = draft.create()?;
    file.write_all(content)?;
    file.sync_all()?;
    draft.publish()
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
    fs::create_dir_all(folder_of(path))?;
    let draft = beside(path)?;
    let retired = draft.with_extension("retired");
    let fill = || {
        fs::create_dir(&draft)?;
        for (name, content) in files {
            write_file(&draft.join(name), content)?;
        }
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
    sync_folder_of(path)?;
    if retired.exists() {
        fs::remove_dir_all(&retired)?;
    }
    Ok(())
}
