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
use crate::clips::Clips;
use crate::clock::{Clock, rfc3339};
use crate::inference::{MAX_FILE_BYTES, MAX_SECONDS};
use crate::store::{EventRow, SampleRow, Store, StoreError, hex};

/// Terms of what nobody stated any for.
const OWN_LICENCE: &str = "own recording";

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
    /// Where it comes from, if not from somebody's upload.
    pub origin: Option<Origin>,
    /// Where it says it comes from, if it is no station's.
    pub source: Option<String>,
    /// Terms of use; its owner's own recording if nothing is said.
    pub licence: Option<String>,
    /// Who says what is heard in it.
    pub verifier: Option<String>,
}

/// The station that a sound was recorded by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The event whose recording it is; `None` for one that a station was asked for.
    pub event: Option<Uuid>,
    /// Where.
    pub site: String,
    /// Which.
    pub device: Uuid,
}

impl NewSample {
    /// A sound that somebody sent.
    #[must_use]
    pub fn sent(file: Vec<u8>, file_name: String, class: String, group: Option<String>) -> Self {
        let (origin, source, licence, verifier) = (None, None, None, None);
        Self { file, file_name, class, group, origin, source, licence, verifier }
    }
}

/// What must stay on one side of every split of what stations record: the sound of one place on one
/// day.
#[must_use]
pub fn group_of(device: Uuid, time_us: i64) -> String {
    let time = rfc3339(time_us);
    format!("{device}_{}", time.get(..10).unwrap_or("unknown"))
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
        let words = [("source", &new.source), ("licence", &new.licence)];
        for (field, word) in words {
            word.as_deref().map(|word| checked_words(field, word)).transpose()?;
        }
        let NewSample { file, file_name, origin, source, licence, verifier, .. } = new;
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
            source: source.unwrap_or_else(|| {
                match &origin {
                    None => "upload",
                    Some(Origin { event: Some(_), .. }) => "event",
                    Some(Origin { event: None, .. }) => "missed",
                }
                .into()
            }),
            event_id: origin.as_ref().and_then(|origin| origin.event),
            file_name: shown_name(&file_name),
            sha256: checked.sha256,
            bytes,
            duration_ms: checked.duration_ms,
            rate_hz: i64::from(checked.rate_hz),
            channels: checked.channels as i64,
            created_us: now_us,
            labelled_us: now_us,
            site_id: origin.as_ref().map(|origin| origin.site.clone()),
            device_id: origin.map(|origin| origin.device),
            licence: licence.unwrap_or_else(|| OWN_LICENCE.into()),
            verifier,
        };
        let kept = self.store.keep_sample(row).await?;
        let is_new = kept.id == id;
        Ok((kept, is_new))
    }

    /// Makes the sample of an event's recording what the verdict on the event says: there, with its
    /// class, or gone. Nothing is done while the recording has not come.
    ///
    /// # Errors
    /// [`SampleError`]; then the event stays marked, and a worker comes back to it.
    pub async fn follow_verdict(&self, clips: &Clips, event: Uuid) -> Result<(), SampleError> {
        let Some(row) = self.store.event(event).await? else { return Ok(()) };
        if !self.store.is_sample_due(event).await? {
            return Ok(());
        }
        let before = self.store.sample_of_event(event).await?;
        let followed = match (taught(&row), before) {
            (None, None) => true,
            (None, Some(before)) => self.forget(before.id).await?,
            (Some(class), Some(before)) => {
                let verifier = row.verdict_by.clone().unwrap_or_default();
                let now_us = self.clock.now_us();
                self.store.relabel_sample(before.id, class, verifier, now_us).await?.is_some()
            }
            (Some(class), None) if row.clip_status.as_deref() == Some("stored") => {
                let Some(path) = clips.path_of(&row) else { return Ok(()) };
                let file = tokio::fs::read(&path).await?;
                let new = NewSample {
                    file,
                    file_name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    class,
                    group: Some(group_of(row.device_id, row.listed_us)),
                    origin: Some(Origin {
                        event: Some(event),
                        site: row.site_id.clone(),
                        device: row.device_id,
                    }),
                    source: None,
                    licence: None,
                    verifier: row.verdict_by.clone(),
                };
                self.keep(new).await?;
                true
            }
            (Some(_), None) => false,
        };
        if followed {
            self.store.sample_followed(event, row.verdict_us).await?;
        }
        Ok(())
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

/// Words about a sample that stand in manifests, as they are: a name, an address, terms.
fn checked_words(field: &str, words: &str) -> Result<(), SampleError> {
    let plain = |c: char| !c.is_control() && !matches!(c, ',' | '"');
    if (1..=FILE_NAME_MAX_LEN).contains(&words.len()) && words.chars().all(plain) {
        return Ok(());
    }
    Err(SampleError::Name(format!(
        "{field}: write 1 to {FILE_NAME_MAX_LEN} bytes on one line, without ',' and '\"'."
    )))
}

/// What the recording of an event is a sample of, by the verdict on it; `None` if of nothing. A false
/// alarm is a sample of what it was: the model learns those it has no class for as background. A canary
/// is nothing that was heard.
fn taught(event: &EventRow) -> Option<String> {
    if event.canary || event.verdict_cause.as_deref() == Some("canary") {
        return None;
    }
    match event.verdict.as_deref()? {
        "confirmed" => event.class.clone(),
        "relabelled" => event.verdict_class.clone(),
        _ => Some(match event.verdict_cause.as_deref() {
            None | Some("other") => "background".into(),
            Some(cause) => cause.to_owned(),
        }),
    }
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
