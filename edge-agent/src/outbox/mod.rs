//! Path: recorder → outbox → uplink, upload
//!
//! What the station owes the cloud, on disk until the cloud has said that it is stored.
//!
//! # Format
//!
//! One SQLite file, `outbox.db`, in WAL mode with `synchronous = FULL` and `psow = 0`: a commit is on
//! the disk when it returns, and nothing that is written after it shares a sector with it. The tables are in `schema.sql`. `records` holds encoded envelopes by (boot,
//! seq); `clips` names the files that wait for upload; `open_events` the alerts whose detection
//! is still to come; `replay` how far a recording has been heard. An operator may read the file
//! with `sqlite3` while the agent runs.
//!
//! # Laws
//!
//! 1. A record leaves only when a receipt of the cloud covers it, when `max_records` is exceeded (then
//!    the oldest of the least important kind goes), or by law 7; each that was given up is counted. A
//!    broker's acknowledgement removes nothing.
//! 2. (boot, seq) is given to one record and never again, also across a lost or damaged file.
//! 3. What one [`Outbox::append`] brings is there whole after a crash, or not at all: an alert
//!    with its open event, a detection with its clip and the end of its open event, all with the
//!    position of the replay.
//! 4. Records are read in the order of their importance, then of their writing.
//! 5. A record's time changes once at most, when the clock becomes known ([`Outbox::correct`]); its
//!    number and its event's id never do.
//! 6. A damaged file is kept aside under another name, what can still be read is taken over (records,
//!    clips that wait, open events, the place of a replay), and the agent starts.
//! 7. On a full disk telemetry goes, then detections, the oldest first, when there is no sound left to
//!    give up ([`Outbox::make_room`]). Alerts never go.
//!
//! One task owns the only connection and nobody can cancel it in the middle of a transaction.
//! It takes all requests that wait, 64 at most, into one transaction: one flush of the disk for
//! many records.

mod repair;
mod store;
mod survey;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ecosight_shared::json::AlertDocument;
use ecosight_shared::{
    Alert, ClipFormat, Detection, DeviceId, EventId, Kind, RecordId, SeqRange, Telemetry,
    TimeQuality,
};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clip::ClipFile;
use crate::correction::Correction;

pub use store::FILE;
pub use survey::{Survey, survey};

/// How urgently a record is sent, and how late it is given up. Smaller is more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// A ranger waits for it.
    Alert = 0,
    /// Evidence.
    Detection = 1,
    /// How the station is.
    Telemetry = 2,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Alert, Self::Detection, Self::Telemetry];

    /// The importance of a kind of record.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Alert => Self::Alert,
            Kind::Detection => Self::Detection,
            Kind::Telemetry | Kind::Receipt => Self::Telemetry,
        }
    }
}

/// A record before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Draft {
    /// An event was confirmed.
    Alert {
        /// The frame's body.
        alert: Alert,
        /// For people's tools; its `event_id` is filled in here.
        document: Box<AlertDocument>,
        /// What is needed to complete the event after a crash.
        open: OpenDraft,
    },
    /// An event is over.
    Detection {
        /// The body. Its `event` counts only if `alerted`; else it is filled in here.
        detection: Box<Detection>,
        /// Whether an alert with this event id went before.
        alerted: bool,
        /// The recording, if one could be kept.
        clip: Option<ClipFile>,
    },
    /// How the station is.
    Telemetry(Telemetry),
}

/// A [`Draft`] with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// What.
    pub draft: Draft,
    /// Onset, or when telemetry was gathered.
    pub unix_us: i64,
    /// How good the clock was.
    pub time_quality: TimeQuality,
}

/// What is kept of an alerted event until its detection is written.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenDraft {
    /// The stream in which it was heard: see [`crate::resume::Resume`].
    pub stream: String,
    /// Name of its class.
    pub class: String,
    /// Stream position of the onset.
    pub onset_sample: u64,
    /// The detection as far as it was known when the event was confirmed.
    pub so_far: Detection,
}

/// An alerted event without detection, found at start.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenEvent {
    /// Its id.
    pub event: EventId,
    /// Onset.
    pub unix_us: i64,
    /// How good the clock was.
    pub time_quality: TimeQuality,
    /// The rest.
    pub known: OpenDraft,
}

/// How far a replay has been heard and written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayPosition {
    /// Which recording.
    pub stream: String,
    /// Everything confirmed before this sample is written.
    pub sample: u64,
    /// The file of the replay, counted from the beginning, at or before the place to rewind to.
    pub item: u64,
    /// Stream position of that file's first sample.
    pub item_start: u64,
    /// Where the latest event written of each class ends.
    pub ends: BTreeMap<String, u64>,
}

/// A record as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number.
    pub record: RecordId,
    /// The event it tells of; for telemetry without meaning.
    pub event: EventId,
}

/// A record that waits for its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Position in the outbox, in order of writing.
    pub id: i64,
    /// Boot that wrote it.
    pub boot: u32,
    /// Number within that boot.
    pub seq: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// The encoded envelope.
    pub envelope: Vec<u8>,
    /// JSON for people's tools, of alerts.
    pub document: Option<String>,
}

/// A clip that waits for upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipRow {
    /// The event it proves.
    pub event: EventId,
    /// File name below the directory of clips.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
    /// Length of the sound.
    pub duration_ms: u32,
    /// Its container.
    pub format: ClipFormat,
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Records that wait for a receipt.
    pub records: u64,
    /// Alerts among them.
    pub alerts: u64,
    /// When the oldest was written, unix µs.
    pub oldest_us: Option<i64>,
    /// Records given up since the start, because of `max_records` or a full disk, by
    /// [`Priority`].
    pub dropped: [u64; 3],
    /// Clips that wait for upload.
    pub clips: u64,
    /// Bytes of those clips.
    pub clip_bytes: u64,
}

/// Why the outbox did not do what was asked. Nothing of that request was written.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No space: evict clips and try again; keep alerts in memory meanwhile.
    #[error("the disk is full")]
    Full,
    /// The disk failed: try again a few times, then stop, so that the start after it repairs.
    #[error("outbox: {0}")]
    Disk(#[source] sqlx::Error),
    /// The file is damaged: stop; the next start moves it aside.
    #[error("the outbox file is damaged")]
    Damaged(#[source] sqlx::Error),
    /// A record that cannot be encoded: a defect of this program; drop the record.
    #[error("record does not fit an envelope")]
    Encode,
    /// The file was written by a newer version: stop.
    #[error(
        "{path} has format {found}, this version reads {supported}; install the newer \
             agent, or move the file away"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        supported: i64,
    },
    /// SQLite did not take a setting that durability needs.
    #[error("{path}: SQLite answered {found} for {pragma}; is the file on a network drive?")]
    Pragma {
        /// The file.
        path: PathBuf,
        /// Which setting.
        pragma: &'static str,
        /// What it answered.
        found: String,
    },
    /// A damaged file cannot be moved aside.
    #[error("cannot move the damaged {path} aside: {source}")]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The task of the outbox is gone: stop.
    #[error("the outbox has stopped")]
    Stopped,
}

/// What was found when the outbox was opened.
#[derive(Debug)]
pub struct Found {
    /// Highest boot that wrote into it.
    pub last_boot: u32,
    /// What became of a damaged file.
    pub damaged: Option<Damaged>,
}

/// A damaged file, and what could be saved of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Where it went.
    pub aside: PathBuf,
    /// Records that were taken over.
    pub records: u64,
    /// Clips that were taken over.
    pub clips: u64,
}

/// A closed outbox, checked; opened for writing by [`Opened::start`].
#[derive(Debug)]
pub struct Opened {
    store: store::Store,
    /// What was found.
    pub found: Found,
}

/// Handle on the outbox; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    requests: mpsc::Sender<writer::Request>,
    written: Arc<Notify>,
}

/// How many records the outbox may hold.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// In all.
    pub records: u64,
    /// Of telemetry: it grows old soonest.
    pub telemetry: u64,
}

impl Opened {
    /// Opens or makes the file in `data_dir`, checks it, and moves it aside if it is damaged.
    /// `now_us` names the file that is moved.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn open(data_dir: &Path, now_us: i64) -> Result<Self, OutboxError> {
        let (store, found) = store::Store::open(data_dir, now_us).await?;
        Ok(Self { store, found })
    }

    /// Starts the task that owns the file. It ends when the last handle is gone.
    pub fn start(
        self,
        device: DeviceId,
        boot: u32,
        quota: Quota,
    ) -> (Outbox, impl Future<Output = Result<(), OutboxError>> + Send + 'static) {
        let (requests, received) = mpsc::channel(256);
        let written = Arc::new(Notify::new());
        let outbox = Outbox { requests, written: Arc::clone(&written) };
        (outbox, writer::run(self.store, device, boot, quota, received, written))
    }
}

impl Outbox {
    /// Writes records, in order, and the position of a replay; all or nothing.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn append(
        &self,
        records: Vec<Stamped>,
        position: Option<ReplayPosition>,
    ) -> Result<Vec<Written>, OutboxError> {
        self.ask(|reply| writer::Request::Append { records, position, reply }).await
    }

    /// Removes the records that a receipt covers; returns how many there were.
    ///
    /// # Errors
    /// See [`OutboxError`]; the receipt will come again.
    pub async fn release(&self, ranges: Vec<SeqRange>) -> Result<u64, OutboxError> {
        self.ask(|reply| writer::Request::Release { ranges, reply }).await
    }

    /// Puts the times of this start's records right, and of those that are written later with a time of
    /// before; returns how many it found. Not to be done twice.
    ///
    /// # Errors
    /// See [`OutboxError`]; then nothing was changed.
    pub async fn correct(&self, correction: Correction) -> Result<u64, OutboxError> {
        let correction = Arc::new(correction);
        self.ask(|reply| writer::Request::Correct { correction, reply }).await
    }

    /// The next records of one priority behind row `after`, oldest first.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn next(
        &self,
        priority: Priority,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Row>, OutboxError> {
        self.ask(|reply| writer::Request::Next { priority, after, limit, reply }).await
    }

    /// The rows with these ids that are still there.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn rows(&self, ids: Vec<i64>) -> Result<Vec<Row>, OutboxError> {
        self.ask(|reply| writer::Request::Rows { ids, reply }).await
    }

    /// Every clip that waits for upload: those of alerts first, then by age.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn clips(&self) -> Result<Vec<ClipRow>, OutboxError> {
        self.ask(|reply| writer::Request::Clips { reply }).await
    }

    /// The clip to give up first: of the least important, the oldest.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn least_clip(&self) -> Result<Option<ClipRow>, OutboxError> {
        self.ask(|reply| writer::Request::LeastClip { reply }).await
    }

    /// Makes room on a full disk: the log is folded into the file; if that is not enough, some of
    /// the oldest records go that are no alerts. Returns how many.
    ///
    /// # Errors
    /// [`OutboxError::Full`] if there is no room even for that: try again later.
    pub async fn make_room(&self) -> Result<u64, OutboxError> {
        self.ask(|reply| writer::Request::MakeRoom { reply }).await
    }

    /// Adds a clip that no event of the outbox brought; nothing if its id is known.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn add_clip(
        &self,
        clip: ClipRow,
        priority: Priority,
        created_us: i64,
    ) -> Result<(), OutboxError> {
        self.ask(|reply| writer::Request::AddClip { clip, priority, created_us, reply }).await
    }

    /// Forgets a clip: uploaded, lost or evicted. The file is the caller's to remove, after this.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn forget_clip(&self, event: EventId) -> Result<(), OutboxError> {
        self.ask(|reply| writer::Request::ForgetClip { event, reply }).await
    }

    /// Alerted events whose detection was never written.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn open_events(&self) -> Result<Vec<OpenEvent>, OutboxError> {
        self.ask(|reply| writer::Request::OpenEvents { reply }).await
    }

    /// How far the last replay came.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn replay_position(&self) -> Result<Option<ReplayPosition>, OutboxError> {
        self.ask(|reply| writer::Request::Position { reply }).await
    }

    /// How full the outbox is. Also proves that its task is alive.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub async fn level(&self) -> Result<Level, OutboxError> {
        self.ask(|reply| writer::Request::Level { reply }).await
    }

    /// Waits until something was written since the last call.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, OutboxError>>) -> writer::Request,
    ) -> Result<T, OutboxError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| OutboxError::Stopped)?;
        answer.await.map_err(|_| OutboxError::Stopped)?
    }
}

impl OutboxError {
    /// Sorts an error of SQLite by what the caller can do about it.
    fn of(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse().ok());
        // Primary result codes: sqlite.org/rescode.html
        match code.map(|code: i64| code & 0xff) {
            Some(13) => Self::Full,
            Some(11 | 26) => Self::Damaged(error),
            _ => Self::Disk(error),
        }
    }
}

impl From<sqlx::Error> for OutboxError {
    fn from(error: sqlx::Error) -> Self {
        Self::of(error)
    }
}
