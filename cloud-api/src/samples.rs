//! Path: http → **samples** → disk → training
//!
//! Sounds to learn from. A sample is decoded to its end before it is kept: what cannot be heard is
//! never trained on. Its file is named by its content, `XX/SHA-256`, so that no name from outside ever
//! is a path, and the same sound is kept once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ecosight_models::audio::{AudioError, AudioReader, DecodeLimits};
use ecosight_models::{SAMPLE_RATE_HZ, durable};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::inference::{MAX_FILE_BYTES, MAX_SECONDS};
use crate::store::{SampleRow, Store, StoreError, hex};

/// Longest name of a class or group.
const NAME_MAX_LEN: usize = 64;
/// Longest file name that is kept.
const FILE_NAME_MAX_LEN: usize = 255;
/// Files decoded at one time.
const DECODERS: usize = 2;

/// The directory of samples. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Samples {
    dir: Arc<Path>,
    store: Store,
    clock: Clock,
    chance: Chance,
    decoders: Arc<Semaphore>,
}

/// A sound as somebody sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSample {
    /// The file's bytes.
    pub file: Vec<u8>,
    /// What its sender calls it.
    pub file_name: String,
    /// What is heard in it.
    pub class: String,
    /// The recording it is a slice of, if it is one.
    pub group: Option<String>,
    /// The event whose recording it is, if it is one.
    pub event: Option<Uuid>,
}

/// Why a sound was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The name of the class or group: the caller's fault.
    #[error("{0}")]
    Name(String),
    /// The file is no sound, or one that is not taken: the caller's fault.
    #[error("{0}")]
    Audio(#[from] AudioError),
    /// The disk is full or broken: the operator must act.
    #[error("cannot write the sample: {0}")]
    Disk(#[from] io::Error),
    /// The database is not available: the caller tries again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What decoding a file showed.
struct Checked {
    sha256: String,
    duration_ms: i64,
    rate_hz: u32,
    channels: usize,
}

impl Samples {
    /// Opens `dir`, making it if need be.
    ///
    /// # Errors
    /// The system's, if the directory cannot be made.
    pub fn open(dir: PathBuf, store: Store, clock: Clock, chance: Chance) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let decoders = Arc::new(Semaphore::new(DECODERS));
        Ok(Self { dir: dir.into(), store, clock, chance, decoders })
    }

    /// Verifies and keeps a sound. Gives the sample, and whether it is new: the same content is one
    /// sample, which takes the new class.
    ///
    /// # Errors
    /// [`SampleError`]; each variant says whose fault it is.
    pub async fn keep(&self, new: NewSample) -> Result<(SampleRow, bool), SampleError> {
        let class = checked_name("class_name", &new.class)?;
        let group = new.group.as_deref().map(|group| checked_name("group", group)).transpose()?;
        let NewSample { file, file_name, event, .. } = new;
        let bytes = file.len() as i64;
        let (dir, permit) = (self.dir.clone(), self.decoders.clone().acquire_owned().await);
        let kept = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let (file, checked) = check(file)?;
            let path = place(&dir, &checked.sha256);
            if !path.exists() {
                durable::write_file(&path, &file)?;
            }
            Ok::<_, SampleError>(checked)
        });
        let checked = kept.await.map_err(StoreError::from)??;
        let now_us = self.clock.now_us();
        let id = self.chance.id(&self.clock);
        let row = SampleRow {
            id,
            class,
            // A sound that nobody says is a slice of another stands for itself.
            group_key: group.unwrap_or_else(|| checked.sha256.clone()),
            source: if event.is_some() { "event" } else { "upload" }.into(),
            event_id: event,
            file_name: shown_name(&file_name),
            sha256: checked.sha256,
            bytes,
            duration_ms: checked.duration_ms,
            rate_hz: i64::from(checked.rate_hz),
            channels: checked.channels as i64,
            created_us: now_us,
            labelled_us: now_us,
        };
        let kept = self.store.keep_sample(row).await?;
        let is_new = kept.id == id;
        Ok((kept, is_new))
    }

    /// Forgets a sample and removes its file; false if there is no such sample.
    ///
    /// # Errors
    /// [`SampleError::Store`], [`SampleError::Disk`].
    pub async fn forget(&self, id: Uuid) -> Result<bool, SampleError> {
        let Some(sample) = self.store.forget_sample(id).await? else { return Ok(false) };
        match tokio::fs::remove_file(self.path(&sample)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(true),
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.to_path_buf()
    }

    /// Where a sample's file is below the directory.
    #[must_use]
    pub fn relative_path(&self, sample: &SampleRow) -> String {
        format!("{}/{}", sample.sha256.get(..2).unwrap_or(""), sample.sha256)
    }

    /// Where a sample's file is.
    #[must_use]
    pub fn path(&self, sample: &SampleRow) -> PathBuf {
        place(&self.dir, &sample.sha256)
    }
}

fn place(dir: &Path, sha256: &str) -> PathBuf {
    dir.join(sha256.get(..2).unwrap_or("")).join(sha256)
}

/// A name that stands in manifests and bundles.
///
/// # Errors
/// What is wrong with it.
pub fn checked_name(field: &str, name: &str) -> Result<String, SampleError> {
    let name = name.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    if (1..=NAME_MAX_LEN).contains(&name.len()) && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    Err(SampleError::Name(format!(
        "{field}: write 1 to {NAME_MAX_LEN} letters, digits, spaces, '_', '-' or '.', as in gun_shot."
    )))
}

/// The last part of what the sender called the file, without control characters.
fn shown_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or("");
    let mut shown: String = last.chars().filter(|c| !c.is_control()).collect();
    while shown.len() > FILE_NAME_MAX_LEN {
        shown.pop();
    }
    shown
}

/// Decodes the whole file.
fn check(file: Vec<u8>) -> Result<(Vec<u8>, Checked), SampleError> {
    let sha256 = hex(&Sha256::digest(&file));
    let limits = DecodeLimits { max_bytes: MAX_FILE_BYTES as u64, max_seconds: MAX_SECONDS };
    let mut reader = AudioReader::from_bytes(file.clone(), &limits)?;
    let mut samples = 0;
    while let Some(block) = reader.next_block()? {
        samples += block.len() as i64;
    }
    let checked = Checked {
        sha256,
        duration_ms: samples * 1_000 / i64::from(SAMPLE_RATE_HZ),
        rate_hz: reader.source_rate_hz(),
        channels: reader.source_channels(),
    };
    Ok((file, checked))
}

#[cfg(test)]
mod tests {
    use super::{checked_name, shown_name};

    #[test]
    fn a_name_from_outside_is_text_and_never_a_path() {
        assert_eq!(shown_name("../../etc/passwd"), "passwd");
        assert_eq!(shown_name("C:\\sounds\\shot.wav"), "shot.wav");
        assert_eq!(shown_name("a\0b\nc.wav"), "abc.wav");
        assert!(shown_name(&"ü".repeat(4_096)).len() <= 255);
        assert_eq!(checked_name("class_name", " gun_shot ").unwrap(), "gun_shot");
        for bad in ["", "  ", "a/b", "a\0", "line\nbreak", &"x".repeat(65), "naïve,csv"] {
            assert!(checked_name("class_name", bad).is_err(), "{bad:?}");
        }
    }
}
