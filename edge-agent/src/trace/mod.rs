//! Path: hearing → trace → disk (`why`)
//!
//! What the station remembers of the last [`KEPT_DAYS`] days beside events: every minute that it
//! listened and the strongest score in it, every candidate that was stopped and by which rule, every
//! event. Enough to answer "there was a shot, why no alert?" without any sound being kept.
//!
//! A file of its own, `trace.db`, because none of it is owed to anybody: it may be lost, it is
//! bounded, and it never holds up what is. Written once a minute by a task that nothing waits for.

mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ecosight_models::durable;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::candidate::Candidate;
use store::Store;

pub use store::{CandidateRow, EventRow, FILE, MinuteRow, TraceError, Traces, read};

/// Days that are remembered.
pub const KEPT_DAYS: i64 = 14;
/// Most rows of a kind: two weeks of minutes, and a candidate a minute.
pub const ROWS_MAX: i64 = 14 * 1_440;
/// File of what is known of the background.
pub const BACKGROUND_FILE: &str = "background.json";

/// Something to remember.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A candidate that came to nothing.
    Candidate {
        /// When its best moment was, unix µs.
        unix_us: i64,
        /// Its class by name.
        class: String,
        /// The rest.
        candidate: Candidate,
    },
    /// A confirmed event.
    Event(EventRow),
    /// A minute that was listened to.
    Minute(MinuteRow),
    /// What is known of the background, as it is kept.
    Background(Vec<u8>),
}

/// Messages that wait for the task.
const QUEUE: usize = 1_024;
/// Rows are written together after this time.
const EVERY: Duration = Duration::from_secs(60);
/// Rows are written together when there are so many.
const BATCH: usize = 256;

/// Takes entries without ever waiting.
#[derive(Clone, Debug)]
pub struct Tracer(mpsc::Sender<Entry>);

impl Tracer {
    /// Remembers `entry`, unless the disk is so late that too many wait: then it is forgotten.
    pub fn note(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(entry) {
            tracing::debug!("an entry of the trace is forgotten: the disk is late");
        }
    }

    /// The same for the last words of a thread, which may wait.
    pub fn note_last(&self, entry: Entry) {
        let _ = self.0.blocking_send(entry);
    }
}

/// A tracer, and what [`run`] reads.
#[must_use]
pub fn channel() -> (Tracer, mpsc::Receiver<Entry>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Tracer(sender), receiver)
}

/// Writes entries below `data_dir` until every tracer is gone. A disk that refuses costs the trace
/// and nothing else.
pub async fn run(data_dir: PathBuf, mut entries: mpsc::Receiver<Entry>) {
    let mut store = open(&data_dir).await;
    let mut waiting = Vec::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let more = tokio::select! {
            entry = entries.recv() => match entry {
                Some(Entry::Background(bytes)) => {
                    write_background(&data_dir, &bytes);
                    continue;
                }
                Some(entry) => {
                    waiting.push(entry);
                    if waiting.len() < BATCH {
                        continue;
                    }
                    true
                }
                None => false,
            },
            _ = ticks.tick() => true,
        };
        if !waiting.is_empty() {
            let written = match &mut store {
                Some(store) => store.write(&waiting).await,
                None => Ok(()),
            };
            if let Err(error) = written {
                tracing::warn!(%error, entries = waiting.len(), "trace not written");
            }
            waiting.clear();
        }
        if !more {
            break;
        }
    }
    if let Some(store) = store {
        store.close().await;
    }
}

async fn open(data_dir: &Path) -> Option<Store> {
    let path = data_dir.join(FILE);
    match Store::open(&path).await {
        Ok(store) => return Some(store),
        Err(error) => tracing::warn!(%error, "the trace is damaged and begins anew"),
    }
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(data_dir.join(format!("{FILE}{suffix}")));
    }
    match Store::open(&path).await {
        Ok(store) => Some(store),
        Err(error) => {
            tracing::warn!(%error, "no trace is kept");
            None
        }
    }
}

fn write_background(data_dir: &Path, bytes: &[u8]) {
    if let Err(error) = durable::write_file(&data_dir.join(BACKGROUND_FILE), bytes) {
        tracing::warn!(%error, "what is known of the background is not written");
    }
}
