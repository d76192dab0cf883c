//! Path: http → **releases** → disk, store → rollout
//!
//! Signed releases as they come from whoever signs them. What is uploaded is written to `partial/`,
//! and nothing of it is believed before a configured key's signature holds. Then each file is measured,
//! hashed and kept under its own hash, for good, before the database speaks of the release. The server
//! has public keys only: it can hand a release on, and never make one.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ecosight_models::durable::Draft;
use ecosight_shared::ModelTag;
use ecosight_shared::release::archive::{ArchiveError, read_head};
use ecosight_shared::release::{
    MAX_MANIFEST_LEN, MAX_TOTAL_BYTES, Manifest, PublicKey, Refusal, ReleaseFile, SignedManifest,
    Verified, inspect,
};
use futures_util::{Stream, pin_mut};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tracing::info;
use uuid::Uuid;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::intake::Intake;
use crate::rollout::engine::wish;
use crate::store::{Kept, ReleaseFileRow, ReleaseRow, Store, StoreError, hex};

/// Longest file that is taken: the files of a release and what stands before them.
pub const MAX_ARCHIVE_BYTES: u64 = MAX_TOTAL_BYTES + MAX_MANIFEST_LEN as u64 + 1_024;
/// Stations get the signed manifest in one message, with their settings beside it; the embedded broker
/// takes 64 KiB.
const MAX_WISH_BYTES: usize = 40 * 1_024;
/// Bytes per second: an upload that is slower is cut.
const MIN_RATE: u64 = 4 * 1_024;
const COPY_BYTES: usize = 64 * 1_024;

/// The directory of releases. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Releases {
    dir: Arc<Path>,
    store: Store,
    clock: Clock,
    chance: Chance,
    trusted: Arc<[PublicKey]>,
    /// One upload at a time: they are rare, large, and their order is that of their counters.
    turn: Arc<Semaphore>,
}

/// Why a release was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No key is configured: the operator must name one.
    #[error(
        "this server trusts no key, so that it takes no release; name the public keys in \
         releases.trusted_keys"
    )]
    NoTrustedKey,
    /// The signature does not hold, or the manifest breaks a law: get the file again, or sign anew.
    #[error("{0}")]
    Refused(Refusal),
    /// A file is not what the manifest says: get the file again.
    #[error("{path}: {what} is not what the signed manifest says; get the release again")]
    Differs {
        /// Which.
        path: String,
        /// `size` or `SHA-256`.
        what: &'static str,
    },
    /// Something follows the last file: it is no release as `release sign` makes it.
    #[error("something follows the last file of the release; get it again")]
    Trailing,
    /// Longer than any release.
    #[error("a release has at most {MAX_ARCHIVE_BYTES} bytes")]
    TooLong,
    /// So many files or stations that the message to a station would be too long.
    #[error(
        "the signed manifest takes {0} bytes in the message to a station, and {MAX_WISH_BYTES} may \
         be: name fewer stations in it"
    )]
    TooWordy(usize),
    /// Stations would refuse it: sign it with a higher counter.
    #[error(
        "its counter {counter} is not above {highest}, the highest here, and it replaces no release: \
         stations would refuse it"
    )]
    Behind {
        /// Its counter.
        counter: u64,
        /// The highest.
        highest: i64,
    },
    /// The sender broke off: send it again.
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
    /// The disk is full or broken: the operator must act.
    #[error("cannot write the release: {0}")]
    Disk(#[from] io::Error),
    /// The database is not available: try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Refusal> for ReleaseError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoTrustedKey => Self::NoTrustedKey,
            refusal => Self::Refused(refusal),
        }
    }
}

impl From<ArchiveError> for ReleaseError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Refused(refusal) => refusal.into(),
            ArchiveError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::BrokenOff("the file ends early".into())
            }
            ArchiveError::Io(error) => Self::Disk(error),
        }
    }
}

/// A file that is removed when it is dropped.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Releases {
    /// Opens `dir`, making what is missing.
    ///
    /// # Errors
    /// The system's, if the directory cannot be written.
    pub fn open(
        dir: PathBuf,
        store: Store,
        clock: Clock,
        chance: Chance,
        trusted: Vec<PublicKey>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join("partial"))?;
        let (dir, turn) = (dir.into(), Arc::new(Semaphore::new(1)));
        Ok(Self { dir, store, clock, chance, trusted: trusted.into(), turn })
    }

    /// Removes what was left of broken uploads. For the one who serves, before anything comes.
    ///
    /// # Errors
    /// The system's, if the directory cannot be written.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.dir.join("partial"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Takes a release as its bytes come. Gives it, and whether it is new.
    ///
    /// # Errors
    /// [`ReleaseError`]; each variant says whose fault it is. Nothing is kept then that is spoken of.
    pub async fn take<E: std::fmt::Display>(
        &self,
        bytes: impl Stream<Item = Result<Bytes, E>>,
        by: &str,
    ) -> Result<(ReleaseRow, bool), ReleaseError> {
        if self.trusted.is_empty() {
            return Err(ReleaseError::NoTrustedKey);
        }
        let _turn = self.turn.acquire().await;
        let id = self.chance.id(&self.clock);
        let partial = Partial(self.dir.join("partial").join(id.to_string()));
        write(&partial.0, bytes).await?;
        self.keep(partial, id, by).await
    }

    /// Takes a release that lies in a file.
    ///
    /// # Errors
    /// As for [`Self::take`].
    pub async fn import(&self, file: &Path, by: &str) -> Result<(ReleaseRow, bool), ReleaseError> {
        let file = tokio::fs::File::open(file).await?;
        self.take(tokio_util::io::ReaderStream::new(file), by).await
    }

    async fn keep(
        &self,
        partial: Partial,
        id: Uuid,
        by: &str,
    ) -> Result<(ReleaseRow, bool), ReleaseError> {
        let (dir, trusted) = (self.dir.clone(), self.trusted.clone());
        // To its end, whoever stops listening.
        let unpacked = tokio::task::spawn_blocking(move || unpack(&dir, &partial.0, &trusted));
        let (signed, verified) = unpacked.await.map_err(StoreError::from)??;
        let (row, files) = rows(id, &signed, &verified, by, self.clock.now_us());
        let words = wish(&row, u32::MAX).len();
        if words > MAX_WISH_BYTES {
            return Err(ReleaseError::TooWordy(words));
        }
        match self.store.keep_release(row, files).await? {
            Kept::New(row) => {
                info!(release = row.title(), counter = row.counter, "took a release");
                Ok((row, true))
            }
            Kept::Known(row) => Ok((row, false)),
            Kept::Behind(highest) => {
                Err(ReleaseError::Behind { counter: verified.manifest.counter, highest })
            }
        }
    }

    /// Where a file is.
    #[must_use]
    pub fn path(&self, sha256: &str) -> PathBuf {
        place(&self.dir, sha256)
    }
}

fn place(dir: &Path, sha256: &str) -> PathBuf {
    dir.join(sha256.get(..2).unwrap_or("")).join(sha256)
}

/// Writes what comes, within the limits of size and time.
async fn write<E: std::fmt::Display>(
    path: &Path,
    bytes: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(), ReleaseError> {
    let mut file = tokio::fs::OpenOptions::new().create_new(true).write(true).open(path).await?;
    pin_mut!(bytes);
    let mut intake = Intake::begin(MIN_RATE);
    while let Some(chunk) = intake.next(&mut bytes).await.map_err(ReleaseError::BrokenOff)? {
        if intake.taken() + chunk.len() as u64 > MAX_ARCHIVE_BYTES {
            return Err(ReleaseError::TooLong);
        }
        file.write_all(&chunk).await?;
        intake.count(chunk.len()).map_err(ReleaseError::BrokenOff)?;
    }
    file.flush().await?;
    Ok(())
}

/// Verifies the signature, then keeps every file.
fn unpack(
    dir: &Path,
    archive: &Path,
    trusted: &[PublicKey],
) -> Result<(SignedManifest, Verified), ReleaseError> {
    let mut input = BufReader::new(File::open(archive)?);
    let signed = read_head(&mut input)?;
    let verified = inspect(&signed, trusted)?;
    for file in &verified.manifest.files {
        keep_file(dir, &mut input, file)?;
    }
    if input.read(&mut [0])? > 0 {
        return Err(ReleaseError::Trailing);
    }
    Ok((signed, verified))
}

/// Copies one file to its place, where it only appears whole, on disk, and with the right hash.
fn keep_file(dir: &Path, input: &mut impl Read, file: &ReleaseFile) -> Result<(), ReleaseError> {
    let path = place(dir, &hex(&file.sha256));
    std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
    let draft = Draft::of(&path)?;
    let mut out = draft.create()?;
    let (mut hash, mut left) = (Sha256::new(), file.bytes);
    let mut buffer = vec![0; COPY_BYTES];
    let differs = |what| ReleaseError::Differs { path: file.path.clone(), what };
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(differs("size"));
        }
        hash.update(&buffer[..read]);
        out.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    if hash.finalize()[..] != file.sha256 {
        return Err(differs("SHA-256"));
    }
    out.sync_all()?;
    draft.publish()?;
    Ok(())
}

fn rows(
    id: Uuid,
    signed: &SignedManifest,
    verified: &Verified,
    by: &str,
    now_us: i64,
) -> (ReleaseRow, Vec<ReleaseFileRow>) {
    let manifest: &Manifest = &verified.manifest;
    let counted = |counter: u64| i64::try_from(counter).unwrap_or(i64::MAX);
    let [a, b, c, d, ..] = manifest.bundle_sha256().unwrap_or_default();
    let devices: Vec<Uuid> = manifest.devices.iter().map(|device| device.0).collect();
    let replaces = manifest.replaces.as_ref();
    let row = ReleaseRow {
        id,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        counter: counted(manifest.counter),
        signed: serde_json::to_string(&signed.document(&manifest.title())).unwrap_or_default(),
        manifest_sha256: hex(&verified.id),
        minimum_agent: manifest.minimum_agent.clone(),
        expires_us: manifest.expires_unix_s.saturating_mul(1_000_000),
        devices: serde_json::to_string(&devices).unwrap_or_default(),
        site_id: manifest.site.as_ref().map(ToString::to_string),
        replaces_name: replaces.map(|release| release.name.clone()),
        replaces_version: replaces.map(|release| release.version.clone()),
        replaces_counter: replaces.map(|release| counted(release.counter)),
        model_tag: ModelTag([a, b, c, d]).to_string(),
        bytes: counted(manifest.total_bytes()),
        created_us: now_us,
        created_by: by.to_owned(),
    };
    let files = manifest.files.iter().map(|file| ReleaseFileRow {
        path: file.path.clone(),
        bytes: counted(file.bytes),
        sha256: hex(&file.sha256),
    });
    (row, files.collect())
}
