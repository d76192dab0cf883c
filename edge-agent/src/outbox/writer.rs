//! The task that owns the outbox file.

use std::sync::Arc;

use ecosight_shared::{
    DeviceId, Envelope, EventId, Header, MAX_ENVELOPE_LEN, Message, RecordId, SeqRange,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::store::Store;
use super::{
    ClipRow, Draft, Level, OpenEvent, OutboxError, Priority, Quota, ReplayPosition, Row, Stamped,
    Written,
};
use crate::correction::{Correction, restamp};

type Reply<T> = oneshot::Sender<Result<T, OutboxError>>;

/// Requests that one transaction takes.
const GROUP: usize = 64;
/// Records that a full disk costs at once.
const GIVEN_UP_AT_ONCE: u64 = 512;
/// Records that go for one that comes when there is no other room: an alert is as long as these.
const GIVEN_UP_FOR_ONE: u64 = 16;
/// Bytes that must be gained by folding the log, or be free beside what is kept, or records go.
const ENOUGH: u64 = 1 << 20;

pub(super) enum Request {
    Append { records: Vec<Stamped>, position: Option<ReplayPosition>, reply: Reply<Vec<Written>> },
    Release { ranges: Vec<SeqRange>, reply: Reply<u64> },
    Correct { correction: Arc<Correction>, reply: Reply<u64> },
    AddClip { clip: ClipRow, priority: Priority, created_us: i64, reply: Reply<()> },
    ForgetClip { event: EventId, reply: Reply<()> },
    Next { priority: Priority, after: i64, limit: usize, reply: Reply<Vec<Row>> },
    Rows { ids: Vec<i64>, reply: Reply<Vec<Row>> },
    Clips { reply: Reply<Vec<ClipRow>> },
    LeastClip { reply: Reply<Option<ClipRow>> },
    MakeRoom { reply: Reply<u64> },
    OpenEvents { reply: Reply<Vec<OpenEvent>> },
    Position { reply: Reply<Option<ReplayPosition>> },
    Level { reply: Reply<Level> },
}

impl Request {
    fn writes(&self) -> bool {
        matches!(
            self,
            Self::Append { .. }
                | Self::Release { .. }
                | Self::Correct { .. }
                | Self::AddClip { .. }
                | Self::ForgetClip { .. }
        )
    }
}

struct Writer {
    store: Store,
    device: DeviceId,
    boot: u32,
    next_seq: u32,
    quota: Quota,
    /// Records by priority.
    counts: [u64; 3],
    /// Those given up since the start, by priority.
    dropped: [u64; 3],
    /// The disk was full, and what was kept for that is used up: with little room beside as much, nothing
    /// comes in unless more goes.
    tight: bool,
    /// For times that were stamped before the clock was known.
    correction: Option<Arc<Correction>>,
}

/// What a transaction has done, to be kept or forgotten when it ends.
struct Done {
    answers: Vec<Answer>,
    next_seq: u32,
    counts: [u64; 3],
    dropped: [u64; 3],
    correction: Option<Arc<Correction>>,
    appended: bool,
}

enum Answer {
    Written(Vec<Written>),
    Count(u64),
    Done,
}

pub(super) async fn run(
    mut store: Store,
    device: DeviceId,
    boot: u32,
    quota: Quota,
    mut requests: mpsc::Receiver<Request>,
    written: Arc<Notify>,
) -> Result<(), OutboxError> {
    let mut counts = [0; 3];
    for priority in Priority::ALL {
        counts[priority as usize] = store.count(priority).await?;
    }
    // On a full disk this waits for the first record: the boot is also in the station's file.
    if let Err(error) = store.note_boot(boot).await {
        tracing::warn!(%error, "cannot note the boot in the outbox");
    }
    let _ = store.fill_ballast();
    let mut writer = Writer {
        store,
        device,
        boot,
        next_seq: 1,
        quota,
        counts,
        dropped: [0; 3],
        tight: false,
        correction: None,
    };
    let mut group = Vec::with_capacity(GROUP);
    while requests.recv_many(&mut group, GROUP).await > 0 {
        writer.serve(&mut group, &written).await;
    }
    writer.store.close().await
}

impl Writer {
    /// Serves requests in order; neighbours that write share a transaction.
    async fn serve(&mut self, group: &mut Vec<Request>, written: &Notify) {
        let mut requests = group.drain(..).peekable();
        while let Some(request) = requests.next() {
            if !request.writes() {
                self.read(request).await;
                continue;
            }
            let mut writes = vec![request];
            while let Some(next) = requests.next_if(Request::writes) {
                writes.push(next);
            }
            if self.write_together(writes).await {
                written.notify_one();
            }
        }
    }

    /// Writes all in one transaction; if that fails, each in its own, so that one bad request
    /// spoils no other. Returns whether records came in.
    async fn write_together(&mut self, mut requests: Vec<Request>) -> bool {
        let mut done = self.nothing_done();
        let mut outcome = self.store.begin().await;
        if outcome.is_ok() {
            for request in &requests {
                outcome = self.apply(request, &mut done).await;
                if outcome.is_err() {
                    break;
                }
            }
        }
        if outcome.is_ok() {
            outcome = self.store.commit().await;
        }
        match outcome {
            Ok(()) => {
                (self.next_seq, self.counts, self.dropped) =
                    (done.next_seq, done.counts, done.dropped);
                self.correction = done.correction;
                for (request, answer) in requests.into_iter().zip(done.answers) {
                    request.answer(Ok(answer));
                }
                done.appended
            }
            Err(error) => {
                self.store.rollback().await;
                if requests.len() == 1 {
                    if let Some(request) = requests.pop() {
                        request.answer(Err(error));
                    }
                    return false;
                }
                let mut appended = false;
                for request in requests {
                    appended |= Box::pin(self.write_together(vec![request])).await;
                }
                appended
            }
        }
    }

    fn nothing_done(&self) -> Done {
        Done {
            answers: Vec::new(),
            next_seq: self.next_seq,
            counts: self.counts,
            dropped: self.dropped,
            correction: self.correction.clone(),
            appended: false,
        }
    }

    async fn apply(&mut self, request: &Request, done: &mut Done) -> Result<(), OutboxError> {
        let answer = match request {
            Request::Append { records, position, .. } => {
                self.tight = self.tight && !self.store.fill_ballast();
                // As long as there is a clip, that goes first.
                if self.tight
                    && !self.store.has_spare(ENOUGH)
                    && self.store.least_clip().await?.is_none()
                {
                    self.make_way(records.len(), done).await?;
                }
                let mut written = Vec::with_capacity(records.len());
                for record in records {
                    written.push(self.insert(record, done).await?);
                }
                if let Some(position) = position {
                    self.store.set_position(position).await?;
                }
                self.enforce_quota(done).await?;
                done.appended |= !records.is_empty();
                Answer::Written(written)
            }
            Request::Release { ranges, .. } => {
                let mut removed = 0;
                for range in ranges {
                    let counts = self.store.release(*range).await?;
                    for (count, gone) in done.counts.iter_mut().zip(counts) {
                        *count = count.saturating_sub(gone);
                        removed += gone;
                    }
                }
                Answer::Count(removed)
            }
            Request::Correct { correction, .. } => {
                let corrected = self.store.correct(self.boot, correction).await?;
                done.correction = Some(Arc::clone(correction));
                Answer::Count(corrected)
            }
            Request::AddClip { clip, priority, created_us, .. } => {
                self.store.insert_clip(clip, *priority, *created_us).await?;
                Answer::Done
            }
            Request::ForgetClip { event, .. } => {
                self.store.forget_clip(*event).await?;
                Answer::Done
            }
            // Reads never come here.
            _ => return Ok(()),
        };
        done.answers.push(answer);
        Ok(())
    }

    async fn insert(&mut self, record: &Stamped, done: &mut Done) -> Result<Written, OutboxError> {
        let id = RecordId { device: self.device, boot: self.boot, seq: done.next_seq };
        let corrected =
            done.correction.as_ref().and_then(|how| how.of(record.unix_us, record.time_quality));
        let (unix_us, time_quality) = corrected.unwrap_or((record.unix_us, record.time_quality));
        let derived = EventId::of(id, unix_us);
        let mut event = derived;
        let mut json = None;
        let message = match &record.draft {
            Draft::Alert { alert, document, .. } => {
                let mut document = document.clone();
                document.event_id = derived.0;
                if corrected.is_some() {
                    restamp(&mut document, unix_us, time_quality);
                }
                json = Some(serde_json::to_string(&document).map_err(|_| OutboxError::Encode)?);
                Message::Alert(*alert)
            }
            Draft::Detection { detection, alerted, .. } => {
                let mut detection = detection.as_ref().clone();
                if *alerted {
                    event = detection.event;
                } else {
                    detection.event = derived;
                }
                Message::Detection(detection)
            }
            Draft::Telemetry(telemetry) => Message::Telemetry(*telemetry),
        };
        let header = Header { record: id, unix_us, time_quality };
        let envelope = Envelope { header, message };
        let kind = envelope.message.kind();
        let priority = Priority::of(kind);
        let mut buffer = [0; MAX_ENVELOPE_LEN];
        let bytes = envelope.encode(&mut buffer).map_err(|_| OutboxError::Encode)?;
        self.store.insert(&header, kind as u8, priority, bytes, json.as_deref()).await?;
        match &record.draft {
            Draft::Alert { open, .. } => {
                let mut open = open.clone();
                open.so_far.event = derived;
                self.store.open_event(event, self.device, unix_us, time_quality, &open).await?;
            }
            Draft::Detection { alerted, clip, .. } => {
                if *alerted {
                    self.store.close_event(event).await?;
                }
                if let Some(clip) = clip {
                    let row = ClipRow {
                        event,
                        name: clip.name.clone(),
                        sha256: clip.reference.sha256,
                        bytes: u64::from(clip.reference.bytes),
                        duration_ms: clip.reference.duration_ms,
                        format: clip.reference.format,
                    };
                    let importance = if *alerted { Priority::Alert } else { Priority::Detection };
                    self.store.insert_clip(&row, importance, unix_us).await?;
                }
            }
            Draft::Telemetry(_) => {}
        }
        done.next_seq += 1;
        done.counts[priority as usize] += 1;
        Ok(Written { record: id, event })
    }

    /// Law 1: beyond the quota the oldest of the least important go.
    async fn enforce_quota(&mut self, done: &mut Done) -> Result<(), OutboxError> {
        let telemetry = Priority::Telemetry as usize;
        let mut excess = done.counts[telemetry].saturating_sub(self.quota.telemetry);
        for priority in [Priority::Telemetry, Priority::Detection, Priority::Alert] {
            let total: u64 = done.counts.iter().sum();
            excess = excess.max(total.saturating_sub(self.quota.records));
            let dropped = self.give_up(priority, excess, done).await?;
            if dropped > 0 && priority == Priority::Alert {
                tracing::error!(dropped, "outbox over its quota: alerts given up");
            }
            excess = 0;
        }
        Ok(())
    }

    /// Gives up the oldest of a priority, so many or all there are, in the transaction under way; gives
    /// their number.
    async fn give_up(
        &mut self,
        priority: Priority,
        most: u64,
        done: &mut Done,
    ) -> Result<u64, OutboxError> {
        let count = most.min(done.counts[priority as usize]);
        if count == 0 {
            return Ok(0);
        }
        let dropped = self.store.drop_oldest(priority, count).await?;
        done.counts[priority as usize] -= dropped;
        done.dropped[priority as usize] += dropped;
        Ok(dropped)
    }

    /// Law 7: the disk is full, and nothing but records is left to give up.
    async fn make_room(&mut self) -> Result<u64, OutboxError> {
        if self.store.fold().await >= ENOUGH {
            return Ok(0);
        }
        // What is given up has to be written down as well.
        self.store.release_ballast();
        self.store.fold().await;
        let given_up = self.give_up_oldest().await?;
        self.store.fold().await;
        self.tight = !self.store.fill_ballast();
        Ok(given_up)
    }

    /// Makes way for `count` records within the space that the file has.
    async fn make_way(&mut self, count: usize, done: &mut Done) -> Result<(), OutboxError> {
        let mut left = GIVEN_UP_FOR_ONE * count as u64;
        for priority in [Priority::Telemetry, Priority::Detection] {
            left -= self.give_up(priority, left, done).await?;
        }
        Ok(())
    }

    async fn give_up_oldest(&mut self) -> Result<u64, OutboxError> {
        for priority in [Priority::Telemetry, Priority::Detection] {
            if self.counts[priority as usize] == 0 {
                continue;
            }
            self.store.begin().await?;
            let mut outcome = self.store.drop_oldest(priority, GIVEN_UP_AT_ONCE).await;
            if outcome.is_ok()
                && let Err(error) = self.store.commit().await
            {
                outcome = Err(error);
            }
            if outcome.is_err() {
                self.store.rollback().await;
            }
            let dropped = outcome?;
            self.counts[priority as usize] -= dropped;
            self.dropped[priority as usize] += dropped;
            return Ok(dropped);
        }
        Ok(0)
    }

    async fn read(&mut self, request: Request) {
        match request {
            Request::Next { priority, after, limit, reply } => {
                let _ = reply.send(self.store.next(priority, after, limit).await);
            }
            Request::Rows { ids, reply } => {
                let _ = reply.send(self.rows(ids).await);
            }
            Request::Clips { reply } => {
                let _ = reply.send(self.store.clips().await);
            }
            Request::LeastClip { reply } => {
                let _ = reply.send(self.store.least_clip().await);
            }
            Request::MakeRoom { reply } => {
                let _ = reply.send(self.make_room().await);
            }
            Request::OpenEvents { reply } => {
                let _ = reply.send(self.store.open_events().await);
            }
            Request::Position { reply } => {
                let _ = reply.send(self.store.position().await);
            }
            Request::Level { reply } => {
                let _ = reply.send(self.level().await);
            }
            Request::Append { .. }
            | Request::Release { .. }
            | Request::Correct { .. }
            | Request::AddClip { .. }
            | Request::ForgetClip { .. } => {}
        }
    }

    async fn level(&mut self) -> Result<Level, OutboxError> {
        let (oldest_us, clips, clip_bytes) = self.store.oldest_and_clips().await?;
        Ok(Level {
            records: self.counts.iter().sum(),
            alerts: self.counts[Priority::Alert as usize],
            oldest_us,
            dropped: self.dropped,
            clips,
            clip_bytes,
        })
    }

    async fn rows(&mut self, ids: Vec<i64>) -> Result<Vec<Row>, OutboxError> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            rows.extend(self.store.row(id).await?);
        }
        Ok(rows)
    }
}

impl Request {
    /// Tells the asker how a write ended. Nobody may be listening any more: that is no fault.
    fn answer(self, outcome: Result<Answer, OutboxError>) {
        match (self, outcome) {
            (Self::Append { reply, .. }, Ok(Answer::Written(written))) => {
                let _ = reply.send(Ok(written));
            }
            (Self::Append { reply, .. }, Err(error)) => {
                let _ = reply.send(Err(error));
            }
            (
                Self::Release { reply, .. } | Self::Correct { reply, .. },
                Ok(Answer::Count(count)),
            ) => {
                let _ = reply.send(Ok(count));
            }
            (Self::Release { reply, .. } | Self::Correct { reply, .. }, Err(error)) => {
                let _ = reply.send(Err(error));
            }
            (Self::ForgetClip { reply, .. } | Self::AddClip { reply, .. }, Ok(Answer::Done)) => {
                let _ = reply.send(Ok(()));
            }
            (Self::ForgetClip { reply, .. } | Self::AddClip { reply, .. }, Err(error)) => {
                let _ = reply.send(Err(error));
            }
            _ => {}
        }
    }
}
