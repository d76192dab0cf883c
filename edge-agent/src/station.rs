//! Who this station is: its id and the number of this start, kept in the data directory.
//!
//! Both are in a file of their own and not in the outbox alone, because a damaged outbox is
//! replaced by an empty one: were boots then counted from 1 again, new records would carry the
//! ids of old ones and the cloud would take them for repetitions.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ecosight_shared::DeviceId;
use rand::TryRng as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::clip;
use crate::clock::Clock;
use crate::config::Config;
use crate::outbox::{Damaged, Opened, Outbox, OutboxError, Quota};
use crate::recorder::Storage;
use crate::reel::{self, Reel};
use ecosight_models::durable;

/// The station as it runs now. Holds the lock on the data directory.
#[derive(Debug)]
pub struct Station {
    /// Its id.
    pub id: DeviceId,
    /// The number of this start, from 1.
    pub boot: u32,
    /// The data directory.
    pub data_dir: PathBuf,
    _lock: File,
}

/// Why the data directory cannot be used. The caller stops: without it nothing is durable.
#[derive(Debug, thiserror::Error)]
pub enum StationError {
    /// The directory cannot be made or written.
    #[error(
        "cannot write in the data directory {path}: {source}; set storage.data_dir to a \
             directory that this user may write"
    )]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent runs on it.
    #[error("another agent uses the data directory {path}; stop it, or set storage.data_dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The identity file is damaged.
    #[error(
        "{path} is damaged ({problem}); write {{\"device\":\"<UUID>\",\"boot\":<a number \
             higher than ever used>}} into it, or remove it to become a new station"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    /// As text: the serde form of ids is for the wire.
    device: String,
    boot: u32,
}

/// Most telemetry records kept: a day of one a minute. What is older tells nobody anything.
const TELEMETRY_MAX: u64 = 1_440;

/// Name of the file that holds identity and boot number.
pub const IDENTITY_FILE: &str = "station.json";

impl Station {
    /// Counts this start. `configured` overrides the stored id; `fresh` makes one where there is
    /// none; `boot_floor` is the highest boot number known from elsewhere.
    fn claim<E: std::error::Error>(
        data_dir: &Path,
        lock: File,
        configured: Option<DeviceId>,
        fresh: impl FnOnce() -> Result<DeviceId, E>,
        boot_floor: u32,
    ) -> Result<Self, StationError> {
        let unwritable = |source| StationError::Unwritable { path: data_dir.into(), source };
        let path = data_dir.join(IDENTITY_FILE);
        let stored = read(&path)?;
        let known = configured.or(stored.as_ref().map(|(id, _)| *id));
        let id = match known {
            Some(id) => id,
            None => fresh().map_err(|e| unwritable(io::Error::other(e.to_string())))?,
        };
        let boot = stored.map_or(0, |(_, boot)| boot).max(boot_floor) + 1;
        let identity = Identity { device: id.to_string(), boot };
        let text = serde_json::to_vec(&identity).map_err(|e| unwritable(e.into()))?;
        durable::write_file(&path, &text).map_err(unwritable)?;
        Ok(Self { id, boot, data_dir: data_dir.into(), _lock: lock })
    }
}

/// A station that has started: everything it keeps is open.
pub struct Started {
    /// Who it is.
    pub station: Station,
    /// What it owes the cloud.
    pub outbox: Outbox,
    /// The task that owns the outbox; ends when the last handle is gone.
    pub outbox_task: JoinHandle<Result<(), OutboxError>>,
    /// Where clips go.
    pub storage: Storage,
}

/// Opens what the station keeps in its data directory, repairs what a crash left behind, and
/// counts this start.
///
/// # Errors
/// The directory cannot be used, with the remedy in the text.
pub async fn start(config: &Config, clock: &Clock) -> anyhow::Result<Started> {
    let data_dir = &config.storage.data_dir;
    let now_us = clock.unix_us();
    let lock = lock(data_dir)?;
    let opened = Opened::open(data_dir, now_us).await?;
    let (known, last_boot) = (config.station.id, opened.found.last_boot);
    let station = Station::claim(data_dir, lock, known, || fresh(now_us), last_boot)?;
    let damaged = opened.found.damaged.is_some();
    if let Some(Damaged { aside, records, clips }) = &opened.found.damaged {
        tracing::error!(
            kept = %aside.display(), records, clips,
            "the outbox was damaged; what could be read of it is in a new one"
        );
    }
    let quota = Quota { records: config.storage.max_records, telemetry: TELEMETRY_MAX };
    let (outbox, task) = opened.start(station.id, station.boot, quota);
    let outbox_task = tokio::spawn(task);
    let reel = Reel::open(&config.ring, &config.storage).map_err(|source| {
        let path = config.ring.dir.clone().unwrap_or_else(|| data_dir.join(reel::DIRECTORY));
        StationError::Unwritable { path, source }
    })?;
    let storage = Storage {
        clips: data_dir.join(clip::DIRECTORY),
        reserve: config.storage.reserve.0,
        max_clips: config.storage.max_clips.0,
        reel,
    };
    fs::create_dir_all(&storage.clips)
        .map_err(|source| StationError::Unwritable { path: storage.clips.clone(), source })?;
    let known: Vec<String> = outbox.clips().await?.into_iter().map(|clip| clip.name).collect();
    // A damaged outbox may have forgotten clips that somebody can still save: not at this start.
    let swept = if damaged { 0 } else { clip::sweep(&storage.clips, &known).unwrap_or(0) };
    if swept > 0 {
        tracing::info!(files = swept, "removed clips that nothing refers to");
    }
    tracing::info!(station = %station.id, boot = station.boot, "station starts");
    Ok(Started { station, outbox, outbox_task, storage })
}

/// Makes the data directory if need be, and takes it for this process.
fn lock(data_dir: &Path) -> Result<File, StationError> {
    let unwritable = |source| StationError::Unwritable { path: data_dir.into(), source };
    fs::create_dir_all(data_dir).map_err(unwritable)?;
    // Empty if it is new; its content never matters.
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let lock = options.open(data_dir.join("agent.lock")).map_err(unwritable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(StationError::Locked { path: data_dir.into() }),
        Err(fs::TryLockError::Error(error)) => Err(unwritable(error)),
    }
}

/// A new id, for a station that has none.
///
/// # Errors
/// The system gives no random numbers.
pub fn fresh(now_us: i64) -> io::Result<DeviceId> {
    let millis = u64::try_from(now_us / 1_000).unwrap_or(0);
    let mut random = [0; 10];
    rand::rngs::SysRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    Ok(DeviceId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()))
}

/// The id that the station in `data_dir` has, if it ever ran.
///
/// # Errors
/// The identity file is damaged.
pub fn known(data_dir: &Path) -> Result<Option<DeviceId>, StationError> {
    Ok(read(&data_dir.join(IDENTITY_FILE))?.map(|(id, _)| id))
}

fn read(path: &Path) -> Result<Option<(DeviceId, u32)>, StationError> {
    let damaged = |problem: String| StationError::Damaged { path: path.into(), problem };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StationError::Unwritable { path: path.into(), source }),
    };
    let identity: Identity = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    let id = identity.device.parse().map_err(|e| damaged(format!("{e}")))?;
    Ok(Some((id, identity.boot)))
}
