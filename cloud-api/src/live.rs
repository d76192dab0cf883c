//! Path: ingest, clips → **live** → those who watch
//!
//! What happens now, in order, with the last of it kept: a watcher whose connection broke names the
//! last thing it saw and gets what came after.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{broadcast, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use uuid::Uuid;

use crate::clock::Clock;
use crate::documents::{DeviceDocument, EventDocument};
use crate::http::JobDocument;
use crate::ingest::Changes;
use crate::store::{Store, StoreError};
use crate::training::RETRAIN;

/// Things kept for watchers that come back.
const KEPT: usize = 1_024;
/// Things a watcher may lag behind before it is cut; it comes back with the last id it saw.
const LAG: usize = 256;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Higher than that of everything before, also across restarts.
    pub id: u64,
    /// `alert`, `detection`, `clip`, `device`, `rollout`, `training` or `model`.
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
    kept: VecDeque<Happening>,
    watchers: broadcast::Sender<Happening>,
}

impl Live {
    /// An empty stream. Ids begin after `start_us`, the time of day, so that they rise across
    /// restarts.
    #[must_use]
    pub fn new(start_us: i64) -> Self {
        let last_id = u64::try_from(start_us).unwrap_or(0);
        let (watchers, _) = broadcast::channel(LAG);
        let inner = Inner { last_id, kept: VecDeque::with_capacity(KEPT), watchers };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Appends a thing and tells every watcher.
    pub fn publish(&self, kind: &'static str, document: &impl Serialize) {
        let json = match serde_json::to_string(document) {
            Ok(json) => json.into(),
            Err(error) => return error!(%error, kind, "cannot be written as JSON"),
        };
        let mut inner = self.lock();
        inner.last_id += 1;
        let happening = Happening { id: inner.last_id, kind, json };
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(happening.clone());
        // Nobody may be watching.
        let _ = inner.watchers.send(happening);
    }

    /// What came after `last_seen` and is still kept, and everything from now on. Without
    /// `last_seen`, only the latter.
    #[must_use]
    pub fn watch(
        &self,
        last_seen: Option<u64>,
    ) -> (Vec<Happening>, broadcast::Receiver<Happening>) {
        let inner = self.lock();
        let missed = last_seen.map_or_else(Vec::new, |last| {
            inner.kept.iter().filter(|happening| happening.id > last).cloned().collect()
        });
        (missed, inner.watchers.subscribe())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what ingest stores on the stream, until ingest has ended.
pub async fn run(
    live: Live,
    store: Store,
    clock: Clock,
    mut changes: mpsc::Receiver<Changes>,
    stop: CancellationToken,
) {
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.recv() => changed,
        };
        let Some(changed) = changed else { return };
        if let Err(error) = show(&live, &store, &clock, changed).await {
            // Watchers fetch the lists again by themselves now and then.
            debug!(%error, "a change was not shown");
        }
    }
}

/// How often a server that takes nothing in looks for what others took in.
const LOOK: Duration = Duration::from_secs(1);
/// Events found at one look.
const FOUND: i64 = 500;

/// Puts what other processes store on the stream, until `stop`: each event when it comes, and stations
/// whenever they were heard from.
pub async fn follow(live: Live, store: Store, clock: Clock, stop: CancellationToken) {
    let (mut events_us, mut devices_us) = (clock.now_us(), clock.now_us());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
        }
        let found = async {
            let mut changes = Changes::default();
            for (id, alert, received_us) in store.events_received(events_us, FOUND).await? {
                if alert {
                    changes.alerts.push(id);
                } else {
                    changes.events.push(id);
                }
                events_us = events_us.max(received_us);
            }
            for (id, seen_us) in store.devices_seen(devices_us, FOUND).await? {
                changes.devices.push(id);
                devices_us = devices_us.max(seen_us);
            }
            show(&live, &store, &clock, changes).await
        };
        if let Err(error) = found.await {
            debug!(%error, "cannot look for what others took in");
        }
    }
}

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

async fn show(
    live: &Live,
    store: &Store,
    clock: &Clock,
    changed: Changes,
) -> Result<(), StoreError> {
    for (kind, events) in [("alert", changed.alerts), ("detection", changed.events)] {
        for event in store.events_by_id(&events).await? {
            live.publish(kind, &EventDocument::from(event));
        }
    }
    for id in changed.devices {
        if let Some((device, telemetry)) = store.device(id).await? {
            live.publish("device", &DeviceDocument::new(device, telemetry, clock.now_us()));
        }
    }
    Ok(())
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
