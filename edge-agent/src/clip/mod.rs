//! Path: hearing → clip → recorder
//!
//! The sound around an event: a ring of the last minutes in memory, cut when the event is over,
//! encoded without loss, proved to be so, and written durably.

mod encode;
pub mod guano;
mod ring;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_shared::ClipRef;
use sha2::{Digest, Sha256};

use crate::hearing::Onset;
use ecosight_models::durable;

pub use encode::{Encoded, encode, encode_with};
pub use ring::{Ring, to_pcm};

/// Name of the directory of clips in the data directory.
pub const DIRECTORY: &str = "clips";

/// How much sound is kept around an event, in samples.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Before the onset.
    pub before: u64,
    /// After the end.
    pub after: u64,
    /// At most in all.
    pub longest: u64,
}

impl Extent {
    /// The settings in samples.
    #[must_use]
    pub fn of(config: &crate::config::Clip) -> Self {
        let samples = |d: Duration| (d.as_secs_f64() * f64::from(SAMPLE_RATE_HZ)) as u64;
        Self {
            before: samples(config.before),
            after: samples(config.after),
            longest: samples(config.longest),
        }
    }

    /// First sample and the one behind the last, of an event that lasts from `onset` to `end`.
    #[must_use]
    pub fn around(&self, onset: u64, end: u64) -> (u64, u64) {
        let from = onset.saturating_sub(self.before);
        (from, (end.max(onset) + self.after).min(from + self.longest))
    }
}

/// Sound that was cut from the stream, without speech.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// 16 kHz mono.
    pub samples: Vec<i16>,
    /// When the first of them was heard.
    pub time: Onset,
    /// Parts that were silenced because people spoke, in samples from the beginning.
    pub redacted: Vec<(u64, u64)>,
}

/// A clip on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipFile {
    /// File name below the directory of clips.
    pub name: String,
    /// What the wire says of it.
    pub reference: ClipRef,
}

/// Encodes `samples` and writes them into `directory` as `stem` with the right ending. `about` is
/// what the file says of itself, a GUANO text, or nothing.
///
/// # Errors
/// The disk refused; nothing is left behind. The event goes out without a clip.
pub fn save(directory: &Path, stem: &str, samples: &[i16], about: &str) -> io::Result<ClipFile> {
    let Encoded { bytes, format } = encode_with(samples, about);
    let name = format!("{stem}.{}", format.extension());
    durable::write_file(&directory.join(&name), &bytes)?;
    let milliseconds = samples.len() as u64 * 1_000 / u64::from(SAMPLE_RATE_HZ);
    let reference = ClipRef {
        sha256: Sha256::digest(&bytes).into(),
        bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        duration_ms: u32::try_from(milliseconds).unwrap_or(u32::MAX),
        format,
    };
    Ok(ClipFile { name, reference })
}

/// Removes files that no row of the outbox names: left over from a crash between a file and its
/// row, or between the end of an upload and the removal. Returns how many.
///
/// # Errors
/// The directory cannot be read.
pub fn sweep(directory: &Path, known: &[String]) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && !known.contains(&name) && std::fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}
