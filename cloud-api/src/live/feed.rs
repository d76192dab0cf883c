//! Path: ingest, store → **feed** → live
//!
//! What is stored, put on the stream: what this process takes in as it comes, and what others take in
//! as it is found in the database. Each change of an event is shown once, whichever way it is learnt of
//! first. What people do at another process, such as a verdict, is seen when lists are asked for again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::{GAP, Live};
use crate::clock::Clock;
use crate::documents::{DeviceDocument, EventDocument};
use crate::ingest::Changes;
use crate::store::{EventRow, Store, StoreError};

/// How often it is looked what others took in.
const LOOK: Duration = Duration::from_secs(1);
/// A batch's time of arrival is read before it is committed: what commits late, or at a machine whose
/// clock is behind, is found by looking back so far.
const OVERLAP_US: i64 = 3_000_000;
/// Events found at one look. With more, nobody reads them one by one.
const FOUND: i64 = 5_000;
/// Events fetched at once.
const PAGE: usize = 500;
/// Changes remembered, so that none is shown twice.
const REMEMBERED: usize = 20_000;
/// Events whose end is awaited.
const AWAITED: usize = 1_000;
/// Gaps are told of no more often than this.
const GAP_EVERY: Duration = Duration::from_secs(10);

/// What is put on the stream.
pub struct Feed {
    /// The stream.
    pub live: Live,
    /// Where events and stations are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// What this process takes in, if it does.
    pub own: Option<mpsc::Receiver<Changes>>,
    /// Whether others take something in, too.
    pub others: bool,
}

/// Runs until `stop`, or until ingest has ended.
pub async fn run(feed: Feed, stop: CancellationToken) {
    let Feed { live, store, clock, mut own, others } = feed;
    let now_us = clock.now_us();
    let mut shown = Shown {
        live,
        store,
        clock,
        others,
        events_us: now_us,
        devices_us: now_us,
        changes: Memory::default(),
        stations: HashMap::new(),
        awaited: VecDeque::new(),
        gap: None,
    };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            changed = next(&mut own) => match changed {
                Some(changed) => shown.own(changed).await,
                None => return,
            },
            _ = looks.tick(), if others => shown.look().await,
        };
        if let Err(error) = done {
            // Watchers fetch the lists again by themselves now and then.
            debug!(%error, "a change was not shown");
        }
    }
}

/// What this process takes in next; never anything if it takes nothing in.
async fn next(own: &mut Option<mpsc::Receiver<Changes>>) -> Option<Changes> {
    match own {
        Some(own) => own.recv().await,
        None => std::future::pending().await,
    }
}

struct Shown {
    live: Live,
    store: Store,
    clock: Clock,
    others: bool,
    /// When the newest event came that was found, and the newest sign of life.
    events_us: i64,
    devices_us: i64,
    /// Events that were shown: whether they had ended.
    changes: Memory<(Uuid, bool)>,
    /// Stations as of when they were shown.
    stations: HashMap<Uuid, i64>,
    /// Events that were shown and had not ended.
    awaited: VecDeque<Uuid>,
    gap: Option<Instant>,
}

impl Shown {
    /// Shows what this process has stored.
    async fn own(&mut self, changed: Changes) -> Result<(), StoreError> {
        for (kind, events) in [("alert", changed.alerts), ("detection", changed.events)] {
            for event in self.store.events_by_id(&events).await? {
                self.event(kind, event);
            }
        }
        for id in changed.devices {
            self.device(id).await?;
        }
        Ok(())
    }

    /// Shows what others have stored since the last look.
    async fn look(&mut self) -> Result<(), StoreError> {
        let found = self.store.events_received(self.events_us - OVERLAP_US, FOUND).await?;
        if found.len() as i64 == FOUND {
            self.events_us = self.clock.now_us();
            self.tell_of_gap();
        } else {
            // A clock that is ahead must not hide what comes by others.
            let newest = found.iter().map(|(_, _, received_us)| *received_us).max();
            let newest = newest.unwrap_or(self.events_us).min(self.clock.now_us());
            self.events_us = self.events_us.max(newest);
            let found = found.into_iter().map(|(id, _, _)| id);
            let wanted: Vec<Uuid> = self
                .awaited
                .iter()
                .copied()
                .chain(found.filter(|id| !self.changes.holds(&(*id, false))))
                .filter(|id| !self.changes.holds(&(*id, true)))
                .collect();
            for ids in wanted.chunks(PAGE) {
                for event in self.store.events_by_id(ids).await? {
                    let is_news = !self.changes.holds(&(event.id, false));
                    let alerts = event.alert && !event.canary;
                    self.event(if is_news && alerts { "alert" } else { "detection" }, event);
                }
            }
            self.awaited.retain(|id| !self.changes.holds(&(*id, true)));
        }
        let seen = self.store.devices_seen(self.devices_us - OVERLAP_US, FOUND).await?;
        for (id, seen_us) in seen {
            self.devices_us = self.devices_us.max(seen_us.min(self.clock.now_us()));
            if self.stations.get(&id) != Some(&seen_us) {
                self.device(id).await?;
            }
        }
        Ok(())
    }

    fn event(&mut self, kind: &'static str, event: EventRow) {
        if self.others {
            if !self.changes.note((event.id, event.complete)) {
                return;
            }
            if !event.complete {
                if self.awaited.len() == AWAITED {
                    self.awaited.pop_front();
                }
                self.awaited.push_back(event.id);
            }
        }
        self.live.publish(kind, &EventDocument::from(event));
    }

    async fn device(&mut self, id: Uuid) -> Result<(), StoreError> {
        if let Some((device, telemetry)) = self.store.device(id).await? {
            if self.others {
                self.stations.insert(id, device.last_seen_us);
            }
            let document = DeviceDocument::new(device, telemetry, self.clock.now_us());
            self.live.publish("device", &document);
        }
        Ok(())
    }

    fn tell_of_gap(&mut self) {
        if self.gap.is_none_or(|told| told.elapsed() >= GAP_EVERY) {
            self.gap = Some(Instant::now());
            let reason = "more came than can be shown one by one: ask for the lists again";
            self.live.publish(GAP, &serde_json::json!({ "reason": reason }));
        }
    }
}

/// The newest of what was noted.
struct Memory<T> {
    known: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Memory<T> {
    fn holds(&self, thing: &T) -> bool {
        self.known.contains(thing)
    }

    /// Notes a thing; false if it was known.
    fn note(&mut self, thing: T) -> bool {
        if !self.known.insert(thing) {
            return false;
        }
        self.order.push_back(thing);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, REMEMBERED};

    #[test]
    fn memory_is_of_the_newest() {
        let mut memory = Memory::default();
        assert!((0..=REMEMBERED).all(|n| memory.note(n)));
        assert!(!memory.holds(&0) && memory.holds(&1));
        assert!(!memory.note(REMEMBERED));
        assert_eq!(memory.known.len(), REMEMBERED);
    }
}
