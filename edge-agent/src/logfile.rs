//! The newest messages, kept in the data directory for `support`: a station in a tree has nobody who
//! reads its journal.
//!
//! Two files of half the size take turns. Nothing is flushed: what a power cut takes is no evidence.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Directory in the data directory.
pub const DIRECTORY: &str = "log";
const NEWEST: &str = "agent.log";
const OLDER: &str = "agent.log.1";

/// Takes log lines; a disk that refuses costs them.
#[derive(Debug)]
pub struct LogFile {
    directory: PathBuf,
    file: File,
    written: u64,
    half: u64,
    /// Within an escape sequence: colours are for terminals.
    escaping: bool,
}

impl LogFile {
    /// Opens the log below `data_dir`, at most `limit` bytes in all.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open(data_dir: &Path, limit: u64) -> io::Result<Self> {
        let directory = data_dir.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let file = append(&directory.join(NEWEST))?;
        let written = file.metadata()?.len();
        Ok(Self { directory, file, written, half: (limit / 2).max(4_096), escaping: false })
    }

    fn turn(&mut self) -> io::Result<()> {
        fs::rename(self.directory.join(NEWEST), self.directory.join(OLDER))?;
        self.file = append(&self.directory.join(NEWEST))?;
        self.written = 0;
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (self.escaping, byte) {
                (false, 0x1b) => self.escaping = true,
                (false, _) => plain.push(byte),
                // The last byte of a sequence that sets colours.
                (true, b'm') => self.escaping = false,
                (true, _) => {}
            }
        }
        plain
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= self.half {
            let _ = self.turn();
        }
        let plain = self.plain(bytes);
        // On a full disk there are more important things to write.
        if self.file.write_all(&plain).is_ok() {
            self.written += plain.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The kept lines, oldest first.
#[must_use]
pub fn read(data_dir: &Path) -> String {
    let read = |name| fs::read(data_dir.join(DIRECTORY).join(name)).unwrap_or_default();
    let bytes = [read(OLDER), read(NEWEST)].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}
