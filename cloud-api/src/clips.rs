//! Path: http → **clips** → disk
//!
//! The bytes of recordings. What has come of an upload lies in `partial/ID`, whose length is the
//! offset at which it goes on; whole and verified, it is renamed to `XX/ID.flac`, where XX are the last
//! digits of the id. Only what is there under its last name, and on disk for good, is called stored.

use std::collections::HashSet;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ecosight_shared::ClipFormat;
use futures_util::{Stream, pin_mut};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tracing::{info, warn};
use uuid::Uuid;

use crate::clock::Clock;
use crate::intake::Intake;
use crate::store::{ClipRow, ClipStatus, EventRow, Store, StoreError, hex};

/// A clip of ten seconds takes 200 kB; this leaves room for minutes, and no more.
pub const MAX_CLIP_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes per second: an upload that is slower is cut, and goes on where it was.
const MIN_RATE: u64 = 500;
const HASH_CHUNK_BYTES: usize = 64 * 1024;

/// The directory of recordings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clips {
    dir: Arc<Path>,
    busy: Arc<Mutex<HashSet<Uuid>>>,
    store: Store,
    clock: Clock,
}

/// A part of a recording, as a station sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Place of its first byte.
    pub first: u64,
    /// Its length.
    pub len: u64,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have come.
    pub offset: u64,
    /// What they are.
    pub status: ClipStatus,
}

/// Why a part was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// The upload goes on elsewhere: send from `offset`.
    #[error("the upload goes on at byte {offset}")]
    WrongOffset {
        /// Where.
        offset: u64,
    },
    /// Another request is uploading the same recording: ask again for the offset.
    #[error("another request is uploading this recording")]
    Busy {
        /// Bytes that have come.
        offset: u64,
    },
    /// The part is longer than its range: the sender is broken.
    #[error("more bytes came than Content-Range announced")]
    TooMany,
    /// The part ended early, or came too slowly; what came is kept.
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
    /// The whole is not what was declared; it was thrown away, and the upload begins again.
    #[error("the recording's SHA-256 is {found}, not {declared}; send it again from the beginning")]
    Mismatch {
        /// What came.
        found: String,
        /// What was declared.
        declared: String,
    },
    /// The disk is full or broken: the operator must act, the station tries again.
    #[error("cannot write the recording: {0}")]
    Disk(#[from] io::Error),
    /// The database is not available; the station tries again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Holds a recording for one upload.
struct Claim {
    busy: Arc<Mutex<HashSet<Uuid>>>,
    id: Uuid,
}

impl Clips {
    /// Opens `dir`, making what is missing, and removes uploads that nobody will go on with.
    ///
    /// # Errors
    /// The system's, if the directory cannot be written.
    pub async fn open(dir: PathBuf, store: Store, clock: Clock) -> Result<Self, ClipError> {
        fs::create_dir_all(dir.join("partial")).await?;
        let clips = Self { dir: dir.into(), busy: Arc::default(), store, clock };
        clips.sweep().await?;
        Ok(clips)
    }

    /// Only to read what is whole in `dir`, beside a server that takes recordings in.
    #[must_use]
    pub fn reading(dir: PathBuf, store: Store, clock: Clock) -> Self {
        Self { dir: dir.into(), busy: Arc::default(), store, clock }
    }

    /// Removes partial uploads that no declaration speaks of, or that are stored already. Whole
    /// recordings are evidence: what the database does not know of is never removed.
    async fn sweep(&self) -> Result<(), ClipError> {
        let mut entries = fs::read_dir(self.dir.join("partial")).await?;
        let mut removed = 0;
        while let Some(entry) = entries.next_entry().await? {
            let id = entry.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok());
            let wanted = match id {
                Some(id) => self
                    .store
                    .clip(id)
                    .await?
                    .is_some_and(|clip| clip.status() != ClipStatus::Stored),
                None => false,
            };
            if !wanted {
                fs::remove_file(entry.path()).await?;
                removed += 1;
            }
        }
        if removed > 0 {
            info!(removed, "removed uploads that nobody goes on with");
        }
        Ok(())
    }

    /// How far the upload of `clip` is. One that is whole but was not finished, because the server
    /// was killed then, is finished now.
    ///
    /// # Errors
    /// [`ClipError::Disk`], [`ClipError::Store`].
    pub async fn progress(&self, clip: &ClipRow) -> Result<Progress, ClipError> {
        if clip.status() == ClipStatus::Stored {
            return Ok(Progress { offset: clip.bytes as u64, status: ClipStatus::Stored });
        }
        let offset = self.offset(clip.id).await?;
        let whole = offset == clip.bytes as u64 || self.is_whole(clip).await;
        if let (true, Some(claim)) = (whole, self.claim(clip.id)) {
            return match self.finish(clip.clone(), claim).await {
                Err(ClipError::Mismatch { .. }) => {
                    Ok(Progress { offset: 0, status: ClipStatus::Uploading })
                }
                finished => finished,
            };
        }
        Ok(Progress { offset, status: clip.status() })
    }

    /// Takes a part. What has come before a fault is kept.
    ///
    /// # Errors
    /// [`ClipError`]; each variant says what the station does.
    pub async fn take<E: std::fmt::Display>(
        &self,
        clip: &ClipRow,
        part: Part,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Progress, ClipError> {
        let total = clip.bytes as u64;
        if clip.status() == ClipStatus::Stored {
            return Ok(Progress { offset: total, status: ClipStatus::Stored });
        }
        let Some(claim) = self.claim(clip.id) else {
            return Err(ClipError::Busy { offset: self.offset(clip.id).await? });
        };
        let offset = self.offset(clip.id).await?;
        if offset != part.first {
            return Err(ClipError::WrongOffset { offset });
        }
        if clip.status() == ClipStatus::Expected {
            let now_us = self.clock.now_us();
            self.store
                .set_clip_status(clip.id, &clip.sha256, ClipStatus::Uploading, now_us)
                .await?;
        }
        append(&self.partial(clip.id), part.len, bytes).await?;
        let offset = self.offset(clip.id).await?;
        if offset < total {
            return Ok(Progress { offset, status: ClipStatus::Uploading });
        }
        self.finish(clip.clone(), claim).await
    }

    /// Verifies a whole upload and gives it its last name, in a task that no lost client cancels.
    async fn finish(&self, clip: ClipRow, claim: Claim) -> Result<Progress, ClipError> {
        let clips = self.clone();
        let work = async move {
            let _claim = claim;
            clips.finish_claimed(&clip).await
        };
        tokio::spawn(work).await.map_err(StoreError::from)?
    }

    async fn finish_claimed(&self, clip: &ClipRow) -> Result<Progress, ClipError> {
        let (partial, whole) = (self.partial(clip.id), self.path(clip));
        if !fs::try_exists(&whole).await? {
            let found = hash(&partial).await?;
            if found != clip.sha256 {
                fs::remove_file(&partial).await?;
                warn!(clip = %clip.id, "a recording came damaged; it is sent again");
                return Err(ClipError::Mismatch { found, declared: clip.sha256.clone() });
            }
            File::open(&partial).await?.sync_all().await?;
            let dir = whole.parent().unwrap_or(&self.dir);
            fs::create_dir_all(dir).await?;
            fs::rename(&partial, &whole).await?;
            // Both names: that the new one is there, and that its directory is.
            File::open(dir).await?.sync_all().await?;
            File::open(&*self.dir).await?.sync_all().await?;
        }
        let now_us = self.clock.now_us();
        self.store.set_clip_status(clip.id, &clip.sha256, ClipStatus::Stored, now_us).await?;
        Ok(Progress { offset: clip.bytes as u64, status: ClipStatus::Stored })
    }

    /// Opens a stored recording at byte `first`.
    ///
    /// # Errors
    /// The system's; the recording is gone or the disk is broken.
    pub async fn read(&self, clip: &ClipRow, first: u64) -> io::Result<File> {
        let mut file = File::open(self.path(clip)).await?;
        file.seek(SeekFrom::Start(first)).await?;
        Ok(file)
    }

    /// Removes what there is of a recording; nothing there is no fault.
    ///
    /// # Errors
    /// [`ClipError::Disk`].
    pub async fn remove(&self, clip: &ClipRow) -> Result<(), ClipError> {
        for path in [self.path(clip), self.partial(clip.id)] {
            match fs::remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn claim(&self, id: Uuid) -> Option<Claim> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(id).then(|| Claim { busy: self.busy.clone(), id })
    }

    async fn offset(&self, id: Uuid) -> io::Result<u64> {
        match fs::metadata(self.partial(id)).await {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Whether the recording lies under its last name though the database does not say so.
    async fn is_whole(&self, clip: &ClipRow) -> bool {
        let path = self.path(clip);
        fs::try_exists(&path).await.unwrap_or(false)
            && hash(&path).await.is_ok_and(|found| found == clip.sha256)
    }

    fn partial(&self, id: Uuid) -> PathBuf {
        self.dir.join("partial").join(id.to_string())
    }

    /// Where the whole recording of an event lies; `None` if no station told of one.
    #[must_use]
    pub fn path_of(&self, event: &EventRow) -> Option<PathBuf> {
        let format = event.clip_format.as_deref()?;
        let formats = [ClipFormat::Flac, ClipFormat::Wav];
        let format = formats.into_iter().find(|known| known.extension() == format)?;
        Some(self.place(event.id, format))
    }

    /// Where a whole recording lies.
    #[must_use]
    pub fn path(&self, clip: &ClipRow) -> PathBuf {
        self.place(clip.id, clip.format())
    }

    fn place(&self, id: Uuid, format: ClipFormat) -> PathBuf {
        let id = id.to_string();
        // The first digits of a UUIDv7 are its time, the last ones are spread evenly.
        self.dir.join(&id[id.len() - 2..]).join(format!("{id}.{}", format.extension()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn append<E: std::fmt::Display>(
    path: &Path,
    len: u64,
    bytes: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(), ClipError> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).await?;
    let result = copy(&mut file, len, bytes).await;
    // Also after a fault: the bytes that came count.
    file.flush().await?;
    file.sync_data().await?;
    result
}

async fn copy<E: std::fmt::Display>(
    file: &mut File,
    len: u64,
    bytes: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(), ClipError> {
    pin_mut!(bytes);
    let mut intake = Intake::begin(MIN_RATE);
    while intake.taken() < len {
        let chunk = intake.next(&mut bytes).await.map_err(ClipError::BrokenOff)?;
        let left = len - intake.taken();
        let chunk = chunk.ok_or_else(|| {
            ClipError::BrokenOff(format!("{} of {len} bytes came", intake.taken()))
        })?;
        if chunk.len() as u64 > left {
            return Err(ClipError::TooMany);
        }
        file.write_all(&chunk).await?;
        intake.count(chunk.len()).map_err(ClipError::BrokenOff)?;
    }
    Ok(())
}

/// SHA-256 of a file, hexadecimal.
async fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path).await?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_CHUNK_BYTES];
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}
