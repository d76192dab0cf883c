//! Path: ingest, clips → **live** → those who watch
//!
//! What happens now, in order, with the last of it kept: a watcher whose connection broke names the
//! last thing it saw and gets what came after. Where that cannot be told, because it saw it long ago, at
//! another process, or before a restart, it is told of the [`GAP`] instead.

mod feed;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use crate::documents::EventDocument;
use crate::http::JobDocument;
use crate::store::{Store, StoreError};
use crate::training::RETRAIN;

pub use feed::{Feed, run};

/// Things kept for watchers that come back.
const KEPT: usize = 1_024;
/// The kind of what says that there is something that a watcher was not told of: it should ask for the
/// lists again.
pub const GAP: &str = "gap";
/// Low digits of every id tell processes apart.
const TAG_BITS: u32 = 12;
/// Things a watcher may lag behind before it is cut; it comes back with the last id it saw.
const LAG: usize = 256;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Higher than that of everything before, also across restarts; of this process alone.
    pub id: u64,
    /// `alert`, `detection`, `clip`, `device`, `rollout`, `training`, `model` or [`GAP`].
    pub kind: &'static str,
    /// The event, station, rollout, job or change as JSON.
    pub json: Arc<str>,
}

/// The stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Live {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    last_id: u64,
    /// Of the newest that is not kept any more; at first, lower than all.
    dropped_id: u64,
    kept: VecDeque<Happening>,
    watchers: broadcast::Sender<Happening>,
}

impl Live {
    /// An empty stream. Ids begin after `start_us`, the time of day, so that they rise across
    /// restarts, and end with digits of `tag`, so that those of two processes hardly ever meet.
    #[must_use]
    pub fn new(start_us: i64, tag: u16) -> Self {
        let start = u64::try_from(start_us).unwrap_or(0) << TAG_BITS;
        let last_id = start | (u64::from(tag) & ((1 << TAG_BITS) - 1));
        let (watchers, _) = broadcast::channel(LAG);
        let kept = VecDeque::with_capacity(KEPT);
        let inner = Inner { last_id, dropped_id: last_id, kept, watchers };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Appends a thing and tells every watcher.
    pub fn publish(&self, kind: &'static str, document: &impl Serialize) {
        let json = match serde_json::to_string(document) {
            Ok(json) => json.into(),
            Err(error) => return error!(%error, kind, "cannot be written as JSON"),
        };
        let mut inner = self.lock();
        inner.last_id += 1 << TAG_BITS;
        let happening = Happening { id: inner.last_id, kind, json };
        if inner.kept.len() == KEPT
            && let Some(dropped) = inner.kept.pop_front()
        {
            inner.dropped_id = dropped.id;
        }
        inner.kept.push_back(happening.clone());
        // Nobody may be watching.
        let _ = inner.watchers.send(happening);
    }

    /// What came after `last_seen`, and everything from now on. Where that is not known any more, or
    /// never was here, a [`GAP`] stands for it. Without `last_seen`, only what comes from now on.
    #[must_use]
    pub fn watch(
        &self,
        last_seen: Option<u64>,
    ) -> (Vec<Happening>, broadcast::Receiver<Happening>) {
        let inner = self.lock();
        let missed = match last_seen {
            None => Vec::new(),
            Some(last) if inner.knows(last) => {
                inner.kept.iter().filter(|happening| happening.id > last).cloned().collect()
            }
            Some(_) => vec![Happening { id: inner.last_id, kind: GAP, json: GAP_JSON.into() }],
        };
        (missed, inner.watchers.subscribe())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a gap says.
const GAP_JSON: &str =
    r#"{"reason":"ask for the lists again: some of what came is not told here"}"#;

impl Inner {
    /// Whether everything after that id is kept.
    fn knows(&self, id: u64) -> bool {
        let ours = (id ^ self.last_id) & ((1 << TAG_BITS) - 1) == 0;
        ours && (self.dropped_id..=self.last_id).contains(&id)
    }
}

/// How often it is looked whether a training went on.
const LOOK: Duration = Duration::from_secs(1);

/// Puts what trainings do on the stream, whichever process does it, until `stop`.
pub async fn show_trainings(live: Live, store: Store, stop: CancellationToken) {
    let mut shown = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
        }
        let found = store.jobs(Some(RETRAIN), None, 1).await;
        let Some(job) = found.ok().and_then(|jobs| jobs.into_iter().next()) else { continue };
        let state = (job.id, job.state.clone(), job.progress.clone());
        // What ended before this process began is no news.
        let news = match &shown {
            None => job.finished_us.is_none(),
            Some(shown) => *shown != state,
        };
        if news {
            live.publish("training", &JobDocument::from(job));
        }
        shown = Some(state);
    }
}

/// Puts an event on the stream as it is now.
///
/// # Errors
/// [`StoreError::Unavailable`]; nothing is put then.
pub async fn show_event(
    live: &Live,
    store: &Store,
    kind: &'static str,
    id: Uuid,
) -> Result<(), StoreError> {
    if let Some(event) = store.event(id).await? {
        live.publish(kind, &EventDocument::from(event));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{GAP, KEPT, LAG, Live, TAG_BITS};

    const START_US: i64 = 1_772_388_000_000_000;

    fn kinds(live: &Live, last_seen: u64) -> Vec<&'static str> {
        live.watch(Some(last_seen)).0.iter().map(|happening| happening.kind).collect()
    }

    #[test]
    fn what_a_watcher_missed_is_told_or_said_to_be_missing() {
        let live = Live::new(START_US, 7);
        let (_, mut receiver) = live.watch(None);
        live.publish("alert", &1);
        let first = receiver.try_recv().unwrap().id;
        assert_eq!(kinds(&live, first), [""; 0]);
        for n in 0..LAG {
            live.publish("detection", &n);
        }
        assert_eq!(kinds(&live, first).len(), LAG);
        // The ring has gone round: the first one after it is lost.
        for n in 0..KEPT {
            live.publish("detection", &n);
        }
        assert_eq!(kinds(&live, first), [GAP]);
        let (missed, _) = live.watch(Some(first));
        assert_eq!(
            kinds(&live, missed[0].id),
            [""; 0],
            "whoever knows of a gap is told of it once"
        );
        // Of another process, of one before this one, made up.
        let other = Live::new(START_US, 8);
        assert_eq!(kinds(&other, first), [GAP]);
        let after = Live::new(START_US + 10, 7);
        assert_eq!(kinds(&after, first), [GAP]);
        assert_eq!(kinds(&live, u64::MAX), [GAP]);
        assert_eq!(kinds(&live, 0), [GAP]);
    }

    #[test]
    fn ids_rise_across_restarts() {
        let before = Live::new(START_US, u16::MAX);
        let (_, mut receiver) = before.watch(None);
        before.publish("alert", &1);
        let id = receiver.try_recv().unwrap().id;
        assert_eq!(id & ((1 << TAG_BITS) - 1), (1 << TAG_BITS) - 1);
        let after = Live::new(START_US + 2, 0);
        let (_, mut receiver) = after.watch(None);
        after.publish("alert", &1);
        assert!(receiver.try_recv().unwrap().id > id);
    }
}
