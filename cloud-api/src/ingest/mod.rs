//! Path: link → **ingest** → store, then receipts to the stations
//!
//! Each batch goes through the same steps: gather, decode, store, acknowledge, give receipts, announce.
//! Nothing is acknowledged before it is stored. A database that does not answer makes the batch wait
//! and, through it, the broker; a message that can never be stored is set aside, and the next one goes
//! on.

mod decode;

use std::collections::BTreeMap;
use std::time::Duration;

use ecosight_shared::{
    DeviceId, Envelope, Header, MAX_ENVELOPE_LEN, Message, Receipt, RecordId, TimeQuality, Topic,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::link::{Delivery, Link};
use crate::metric;
use crate::store::{Batch, Committed, Content, Store, StoreError};
use decode::{Decoded, decode, refused, stations};

/// A batch is stored when it has this many messages…
const BATCH_LEN: usize = 2_000;
/// … or when its first message has waited this long…
const BATCH_WAIT: Duration = Duration::from_millis(25);
/// … or when nothing came for this long: a broker may hold back the rest until what it has sent is
/// acknowledged.
const QUIET: Duration = Duration::from_millis(2);

/// What ingest works with.
pub struct Ingest {
    /// Where records go.
    pub store: Store,
    /// Where they come from and receipts go.
    pub link: Link,
    /// Time of arrival.
    pub clock: Clock,
    /// Waits between attempts to reach the database.
    pub backoff: Backoff,
    /// Told when there are new alerts.
    pub alerts: std::sync::Arc<Notify>,
    /// Told when stations say something of releases.
    pub rollouts: std::sync::Arc<Notify>,
    /// Told what has changed, for those who watch.
    pub changes: mpsc::Sender<Changes>,
}

/// What a stored batch changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New alerts.
    pub alerts: Vec<Uuid>,
    /// Other events, new or completed.
    pub events: Vec<Uuid>,
    /// Stations that told something of themselves.
    pub devices: Vec<Uuid>,
}

/// Stores what the link delivers until the link ends, or until `stop`; what is then unstored stays at
/// the broker.
pub async fn run(mut ingest: Ingest, mut link: mpsc::Receiver<Delivery>, stop: CancellationToken) {
    let mut totals = Totals::default();
    loop {
        let Some(deliveries) = gather(&mut link, &stop).await else { break };
        let begun = Instant::now();
        let Some((decoded, committed)) = ingest.store(&deliveries, &stop).await else { break };
        totals.count(&decoded.batch, &committed, begun.elapsed());
        ingest.link.ack(&deliveries).await;
        ingest.give_receipts(decoded.receipts);
        ingest.announce(&decoded.batch, committed);
    }
    info!(
        records = totals.records,
        duplicates = totals.duplicates,
        set_aside = totals.refused,
        "ingest has ended"
    );
}

#[derive(Default)]
struct Totals {
    records: usize,
    duplicates: usize,
    refused: usize,
}

impl Totals {
    fn count(&mut self, batch: &Batch, committed: &Committed, took: Duration) {
        let (fresh, refused) = (committed.fresh, batch.refused.len());
        let duplicates = batch.records.len() - fresh;
        metric::ingested(fresh, duplicates, refused, took.as_secs_f64());
        for record in &batch.records {
            if let Content::Event(draft) = &record.content
                && draft.canary
            {
                metric::canary(&draft.site, batch.received_us);
            }
        }
        self.records += fresh;
        self.duplicates += duplicates;
        self.refused += refused;
    }
}

/// Waits for a message, then takes what comes with it.
async fn gather(
    link: &mut mpsc::Receiver<Delivery>,
    stop: &CancellationToken,
) -> Option<Vec<Delivery>> {
    let first = tokio::select! {
        () = stop.cancelled() => return None,
        first = link.recv() => first?,
    };
    let mut deliveries = vec![first];
    let deadline = Instant::now() + BATCH_WAIT;
    while deliveries.len() < BATCH_LEN {
        match timeout_at(deadline.min(Instant::now() + QUIET), link.recv()).await {
            Ok(Some(delivery)) => deliveries.push(delivery),
            Ok(None) | Err(_) => break,
        }
    }
    Some(deliveries)
}

impl Ingest {
    /// Decodes and stores a batch, however long it takes; `None` if `stop` comes first.
    async fn store(
        &mut self,
        deliveries: &[Delivery],
        stop: &CancellationToken,
    ) -> Option<(Decoded, Committed)> {
        let decoded = decode(deliveries, self.clock.now_us());
        for refused in &decoded.batch.refused {
            warn!(topic = refused.topic, reason = refused.reason, "set a message aside");
        }
        match self.commit(decoded.batch.clone(), stop).await? {
            Ok(committed) => Some((decoded, committed)),
            Err(refusal) if deliveries.len() == 1 => {
                let decoded = self.set_aside(decoded, &deliveries[0], &refusal);
                // A note of plain bytes and text: nothing in it can be refused.
                let committed = self.commit(decoded.batch.clone(), stop).await?.unwrap_or_default();
                Some((decoded, committed))
            }
            Err(_) => self.store_one_by_one(deliveries, stop).await,
        }
    }

    /// Finds the message that the database refuses, and stores the others.
    async fn store_one_by_one(
        &mut self,
        deliveries: &[Delivery],
        stop: &CancellationToken,
    ) -> Option<(Decoded, Committed)> {
        let mut all = (Decoded::default(), Committed::default());
        for delivery in deliveries {
            let one = std::slice::from_ref(delivery);
            let (decoded, committed) = Box::pin(self.store(one, stop)).await?;
            all.0.batch.records.extend(decoded.batch.records);
            all.0.batch.statuses.extend(decoded.batch.statuses);
            all.0.batch.answers.extend(decoded.batch.answers);
            all.0.batch.updates.extend(decoded.batch.updates);
            all.0.batch.refused.extend(decoded.batch.refused);
            for (station, records) in decoded.receipts {
                all.0.receipts.entry(station).or_default().extend(records);
            }
            all.1.fresh += committed.fresh;
            all.1.alerts.extend(committed.alerts);
            all.1.events.extend(committed.events);
            all.1.devices.extend(committed.devices);
            all.1.updates |= committed.updates;
        }
        Some(all)
    }

    /// The same message as a note. Its receipt stays: it is kept, and would be refused again.
    fn set_aside(&self, decoded: Decoded, delivery: &Delivery, refusal: &StoreError) -> Decoded {
        let topic = delivery.topic.as_deref().unwrap_or("");
        error!(topic, %refusal, "the database refuses a message that looks right; set it aside");
        let note = refused(topic, refusal.to_string(), &delivery.payload);
        let received_us = decoded.batch.received_us;
        let batch = Batch { refused: vec![note], received_us, ..Batch::default() };
        Decoded { batch, receipts: decoded.receipts }
    }

    /// Commits until the database has taken the batch or refused it; `None` if `stop` comes first.
    async fn commit(
        &mut self,
        mut batch: Batch,
        stop: &CancellationToken,
    ) -> Option<Result<Committed, StoreError>> {
        loop {
            // Others look for what came since their last look: not long before it is theirs to see.
            batch.received_us = self.clock.now_us();
            match self.store.commit(batch.clone()).await {
                Err(error @ (StoreError::Unavailable(_) | StoreError::Abandoned(_))) => {
                    if self.backoff.is_first() {
                        warn!(%error, "cannot store; the broker keeps what comes meanwhile");
                    } else {
                        debug!(%error, "still cannot store");
                    }
                    let wait = self.backoff.next_wait();
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = sleep(wait) => {}
                    }
                }
                result => {
                    if !self.backoff.is_first() && result.is_ok() {
                        info!("the database takes records again");
                    }
                    self.backoff.reset();
                    return Some(result);
                }
            }
        }
    }

    /// Tells stations what they may forget. A receipt that is lost is given again when the record is:
    /// QoS 0 is enough.
    fn give_receipts(&self, owed: BTreeMap<(String, DeviceId), Vec<(u32, u32)>>) {
        let unix_us = self.clock.now_us();
        for ((site, device), records) in owed {
            let topic = Topic::Receipt(&site, device).to_string();
            for receipt in Receipt::covering(records) {
                let record = RecordId { device, boot: 0, seq: 0 };
                let header = Header { record, unix_us, time_quality: TimeQuality::Network };
                let envelope = Envelope { header, message: Message::Receipt(receipt) };
                let mut buffer = [0; MAX_ENVELOPE_LEN];
                let Ok(payload) = envelope.encode(&mut buffer) else {
                    error!(%device, "a receipt does not fit its envelope");
                    continue;
                };
                if !self.link.try_publish(&topic, payload.to_vec()) {
                    debug!(%device, "no room for a receipt; the station will ask again");
                }
            }
        }
    }

    /// Wakes those who tell people.
    fn announce(&self, batch: &Batch, committed: Committed) {
        if !committed.alerts.is_empty() {
            self.alerts.notify_one();
        }
        if committed.updates {
            self.rollouts.notify_one();
        }
        let changes = Changes {
            alerts: committed.alerts,
            events: committed.events,
            devices: stations(batch),
        };
        if changes != Changes::default() && self.changes.try_send(changes).is_err() {
            debug!("those who watch lag behind; they will see it when they look again");
        }
    }
}
