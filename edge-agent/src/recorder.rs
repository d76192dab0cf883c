//! Path: hearing → recorder → outbox
//!
//! Writes down what was heard: an alert at once, a detection when its clip is encoded, each with
//! the position of the replay, and completes the events that an earlier run left open.
//!
//! Alerts never wait for clips: those are encoded beside, a few at a time, and come back in
//! order.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ecosight_models::{Bundle, Event, SAMPLE_RATE_HZ};
use ecosight_shared::json::{AlertDocument, Location, ModelInfo};
use ecosight_shared::{
    Alert, CLASS_NAME_MAX_LEN, ClipFormat, Detection, DeviceId, EventId, Flags, ModelTag, Slug,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clip::{self, ClipFile, Recording, guano};
use crate::clock::rfc3339;
use crate::condition::Teller;
use crate::health::{Health, Loss, free_bytes};
use crate::hearing::{Heard, Onset};
use crate::outbox::{Draft, OpenDraft, OpenEvent, Outbox, OutboxError, Stamped, Written};
use crate::reel::Reel;
use crate::resume::{Progress, Resume, Verdict};

/// What every document of this station says of it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub device: DeviceId,
    /// Its name.
    pub name: Slug,
    /// Its site.
    pub site: Slug,
    /// Where it stands.
    pub location: Option<Location>,
    /// The model in use.
    pub model: Running,
}

/// A model, as records and documents name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Its name, with classes.
    pub info: ModelInfo,
    /// Its tag.
    pub tag: ModelTag,
}

/// The model that judges now; clones see the same one. The recorder alone changes it, in the order of
/// what was heard.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<RwLock<Arc<InUse>>>);

impl InUse {
    /// That of a bundle.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        Self { info: bundle.model_info(), tag: bundle.tag }
    }
}

impl Running {
    /// From the start on.
    #[must_use]
    pub fn new(model: InUse) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(model))))
    }

    /// Which it is.
    #[must_use]
    pub fn get(&self) -> Arc<InUse> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, model: InUse) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
    }
}

impl Identity {
    /// The station `config` with the id `device` and the model `bundle`.
    #[must_use]
    pub fn new(config: &crate::config::Station, device: DeviceId, bundle: &Bundle) -> Self {
        Self {
            device,
            name: config.name.clone(),
            site: config.site.clone(),
            location: config.location,
            model: Running::new(InUse::of(bundle)),
        }
    }
}

/// Limits on clips.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Directory of clips.
    pub clips: PathBuf,
    /// Free space below which none is written.
    pub reserve: u64,
    /// Most that they may take together.
    pub max_clips: u64,
    /// The last day of sound, which goes before any clip does.
    pub reel: Option<Arc<Reel>>,
}

/// Clips that are encoded at once.
const ENCODING: usize = 4;
/// Messages that one request to the outbox takes.
const BATCH: usize = 32;
/// Progress alone is written this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Pause before a refused write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Alerts that wait in memory while the disk refuses; beyond it the oldest is lost, loudly.
const WAITING_MAX: usize = 4_096;
/// Failures of the disk in a row, other than a full one, after which the agent gives up so that
/// the next start can repair.
const FAILURES_MAX: u32 = 30;

/// The recorder and what it has under way.
pub struct Recorder {
    identity: Arc<Identity>,
    storage: Storage,
    outbox: Outbox,
    health: Arc<Health>,
    teller: Option<Arc<Teller>>,
    /// Name of the stream, for events that outlast a crash.
    stream: String,
    resume: Resume,
    progress: Option<Progress>,
    progress_due: Option<Instant>,
    /// Confirmed events that are not closed yet, by number.
    fates: BTreeMap<u64, Fate>,
    encoding: FuturesOrdered<JoinHandle<Closed>>,
    /// Onsets of what is being encoded, oldest first.
    encoding_onsets: VecDeque<u64>,
    /// What could not be written yet, oldest first.
    waiting: Vec<Pending>,
    failures: u32,
}

/// What becomes of a confirmed event when it closes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Its alert is written, or about to be: then the id comes with the writing.
    Alerted(Option<EventId>, Onset),
    /// A class that does not alert.
    Silent,
    /// Written by an earlier run.
    Done,
}

/// A closed event with its clip.
struct Closed {
    /// The one that heard it: another may be in use when the clip is encoded.
    model: Arc<InUse>,
    event: Event,
    time: Onset,
    clip: Option<ClipFile>,
}

/// A record on its way.
struct Pending {
    record: Stamped,
    /// The event in this stream, for the id that an alert gets.
    number: Option<u64>,
    alert: bool,
    /// Whether the receipt for it proves the whole path.
    canary: bool,
}

impl Recorder {
    /// A recorder for the stream `stream`. `progress` is there for a replay.
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        storage: Storage,
        outbox: Outbox,
        health: Arc<Health>,
        stream: String,
        resume: Resume,
        progress: Option<Progress>,
    ) -> Self {
        Self {
            identity,
            storage,
            outbox,
            health,
            teller: None,
            stream,
            resume,
            progress,
            progress_due: None,
            fates: BTreeMap::new(),
            encoding: FuturesOrdered::new(),
            encoding_onsets: VecDeque::new(),
            waiting: Vec::new(),
            failures: 0,
        }
    }

    /// Tells `teller` of canaries that are written.
    #[must_use]
    pub fn telling(self, teller: Arc<Teller>) -> Self {
        Self { teller: Some(teller), ..self }
    }

    /// Writes until the listening thread has ended and everything is on disk.
    ///
    /// # Errors
    /// The outbox is damaged, has stopped, or refuses for half a minute for another reason than
    /// a full disk.
    pub async fn run(mut self, mut heard: mpsc::Receiver<Heard>) -> Result<(), OutboxError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut open = true;
        while open || !self.encoding.is_empty() || !self.waiting.is_empty() {
            let may_listen = open && self.encoding.len() < ENCODING;
            let retry = !self.waiting.is_empty();
            let due = self.progress_due;
            tokio::select! {
                count = heard.recv_many(&mut batch, BATCH), if may_listen => {
                    open = count > 0;
                    for message in batch.drain(..) {
                        self.take(message);
                    }
                }
                Some(closed) = self.encoding.next() => self.encoded(closed),
                () = tokio::time::sleep(RETRY), if retry => {}
                () = sleep_until(due), if due.is_some() => {}
            }
            self.write().await?;
        }
        self.write_progress().await
    }

    fn take(&mut self, message: Heard) {
        match message {
            Heard::Confirmed { event, time } => self.confirmed(&event, time),
            Heard::Closed { event, time, recording } => self.closed(event, time, recording),
            Heard::Canary { event, time } => self.canary(&event, time),
            Heard::Model(model) => {
                let ModelInfo { name, version, tag, .. } = &model.info;
                tracing::info!(name, version, tag, "another model decides");
                self.identity.model.set(*model);
                self.health.tell_news();
            }
            Heard::Progress { sample, item, item_start } => {
                for open in self.resume.overdue(sample) {
                    self.complete_unheard(open);
                }
                if let Some(progress) = &mut self.progress {
                    progress.heard(sample, item, item_start);
                    self.progress_due.get_or_insert_with(|| Instant::now() + PROGRESS_EVERY);
                }
            }
        }
    }

    fn confirmed(&mut self, event: &Event, time: Onset) {
        let model = self.identity.model.get();
        let class = class(&model, event).to_owned();
        let verdict = self.resume.confirmed(&class, event.onset_sample, event.decided_sample);
        let fate = match verdict {
            Verdict::Done => Fate::Done,
            Verdict::Alerted(id, unix_us, quality) => {
                Fate::Alerted(Some(id), Onset { unix_us, quality })
            }
            Verdict::New if !event.alert => Fate::Silent,
            Verdict::New => {
                tracing::info!(
                    class,
                    score = event.score,
                    level_dbfs = event.level_dbfs,
                    decided_after_ms = milliseconds(event.onset_sample, event.decided_sample),
                    "alert"
                );
                let draft = self.alert(&model, event, time, class);
                self.enqueue(draft, time, Some(event.number), true);
                Fate::Alerted(None, time)
            }
        };
        self.fates.insert(event.number, fate);
    }

    fn closed(&mut self, event: Event, time: Onset, recording: Option<Recording>) {
        let time = match self.fates.get(&event.number) {
            Some(Fate::Alerted(_, onset)) => *onset,
            Some(Fate::Silent) => time,
            Some(Fate::Done) | None => {
                self.fates.remove(&event.number);
                return;
            }
        };
        let model = self.identity.model.get();
        let class = class(&model, &event);
        let stem = format!("{class}-{}", time.unix_us);
        let storage = self.storage.clone();
        let health = Arc::clone(&self.health);
        let about = recording
            .as_ref()
            .map(|recording| guano::of_event(&self.identity, recording, class, event.score, time));
        let model = Arc::clone(&model);
        self.encoding_onsets.push_back(event.onset_sample);
        self.encoding.push_back(tokio::task::spawn_blocking(move || {
            let samples = recording.map(|recording| recording.samples).unwrap_or_default();
            let about = about.unwrap_or_default();
            let clip = save_clip(&storage, &stem, &samples, &about, &health);
            Closed { model, event, time, clip }
        }));
    }

    /// A canary is a detection with its mark, never an alert: nothing on the way to a ranger takes
    /// it for one.
    fn canary(&mut self, event: &Event, time: Onset) {
        let mut detection = detection(&self.identity.model.get(), event);
        detection.flags = Flags::CANARY;
        let draft = Draft::Detection { detection: Box::new(detection), alerted: false, clip: None };
        let record = Stamped { draft, unix_us: time.unix_us, time_quality: time.quality };
        self.waiting.push(Pending { record, number: None, alert: false, canary: true });
    }

    fn encoded(&mut self, closed: Result<Closed, tokio::task::JoinError>) {
        self.encoding_onsets.pop_front();
        let Closed { model, event, time, clip } = match closed {
            Ok(closed) => closed,
            Err(error) => {
                // Only a defect of the encoder can do this; the alert stays and is completed
                // without a clip at the next start.
                self.health.count(Loss::Record, 1);
                tracing::error!(%error, "a clip's encoder failed");
                return;
            }
        };
        let (alerted, id) = match self.fates.get(&event.number) {
            Some(Fate::Alerted(id, _)) => (true, *id),
            _ => (false, None),
        };
        if let Some(progress) = &mut self.progress {
            progress.detected(class(&model, &event), event.end_sample);
        }
        let mut detection = detection(&model, &event);
        detection.clip = clip.as_ref().map(|clip| clip.reference);
        if let Some(id) = id {
            detection.event = id;
        }
        let draft = Draft::Detection { detection: Box::new(detection), alerted, clip };
        // An id that is still to come is filled in when the alert before it is written.
        self.enqueue(draft, time, Some(event.number), false);
    }

    /// An alert of an earlier run whose event was not heard again: what is known has to do.
    fn complete_unheard(&mut self, open: OpenEvent) {
        self.waiting.push(complete(open));
    }

    fn enqueue(&mut self, draft: Draft, time: Onset, number: Option<u64>, alert: bool) {
        let record = Stamped { draft, unix_us: time.unix_us, time_quality: time.quality };
        self.waiting.push(Pending { record, number, alert, canary: false });
        if self.waiting.len() > WAITING_MAX {
            let at = self.waiting.iter().position(|p| !p.alert).unwrap_or(0);
            let lost = self.waiting.remove(at);
            self.health.count(Loss::Record, 1);
            tracing::error!(alert = lost.alert, "a record is lost: the disk refuses too long");
        }
    }

    /// Writes what waits: alerts first, each request whole or not at all.
    async fn write(&mut self) -> Result<(), OutboxError> {
        let only_progress = self.waiting.is_empty();
        if only_progress && self.progress_due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        if only_progress {
            return self.write_progress().await;
        }
        // A detection whose alert is not written yet waits for the alert's id.
        let ready = self.waiting.iter().take_while(|p| self.is_ready(p)).count().max(1);
        let batch: Vec<Stamped> =
            self.waiting[..ready].iter().map(|pending| pending.record.clone()).collect();
        let everything = ready == self.waiting.len();
        let position = if everything { self.position() } else { None };
        match self.outbox.append(batch, position).await {
            Ok(written) => {
                self.failures = 0;
                self.progress_due = None;
                let done: Vec<Pending> = self.waiting.drain(..ready).collect();
                for (pending, written) in done.into_iter().zip(written) {
                    self.written(&pending, written);
                }
                if everything { Ok(()) } else { Box::pin(self.write()).await }
            }
            Err(error) => self.refused(error).await,
        }
    }

    fn is_ready(&self, pending: &Pending) -> bool {
        let Draft::Detection { alerted: true, .. } = pending.record.draft else { return true };
        let Some(number) = pending.number else { return true };
        !matches!(self.fates.get(&number), Some(Fate::Alerted(None, _)))
    }

    fn written(&mut self, pending: &Pending, written: Written) {
        if let (true, Some(teller)) = (pending.canary, &self.teller) {
            teller.canary_written((written.record.boot, written.record.seq));
        }
        let Some(number) = pending.number else { return };
        if !pending.alert {
            self.fates.remove(&number);
            return;
        }
        if let Some(Fate::Alerted(id, _)) = self.fates.get_mut(&number) {
            *id = Some(written.event);
        }
        // The detection may already wait behind its alert.
        for waiting in &mut self.waiting {
            if waiting.number == Some(number)
                && let Draft::Detection { detection, .. } = &mut waiting.record.draft
            {
                detection.event = written.event;
            }
        }
    }

    async fn refused(&mut self, error: OutboxError) -> Result<(), OutboxError> {
        match error {
            OutboxError::Full => {
                tracing::error!(waiting = self.waiting.len(), "disk full: records wait in memory");
                make_room(&self.outbox, &self.storage, &self.health).await;
                tokio::time::sleep(RETRY / 4).await;
                Ok(())
            }
            OutboxError::Encode => {
                // It never will fit; the others must not wait for it.
                self.waiting.remove(0);
                self.health.count(Loss::Record, 1);
                tracing::error!("a record does not fit an envelope and is lost");
                Ok(())
            }
            OutboxError::Disk(_) if self.failures < FAILURES_MAX => {
                self.failures += 1;
                tracing::error!(%error, failures = self.failures, "outbox refuses, trying again");
                tokio::time::sleep(RETRY).await;
                Ok(())
            }
            error => Err(error),
        }
    }

    async fn write_progress(&mut self) -> Result<(), OutboxError> {
        self.progress_due = None;
        let Some(position) = self.position() else { return Ok(()) };
        match self.outbox.append(Vec::new(), Some(position)).await {
            Ok(_) => Ok(()),
            Err(error) => self.refused(error).await,
        }
    }

    fn position(&mut self) -> Option<crate::outbox::ReplayPosition> {
        let unwritten = self.encoding_onsets.front().copied();
        self.progress.as_mut().map(|progress| progress.position(unwritten))
    }

    fn alert(&self, in_use: &InUse, event: &Event, time: Onset, class: String) -> Draft {
        let identity = &self.identity;
        let alert = Alert {
            class: u8::try_from(event.class).unwrap_or(u8::MAX),
            score: in_255ths(event.score),
            // `as` saturates.
            level_dbfs: event.level_dbfs.round() as i8,
            windows: u8::try_from(event.windows).unwrap_or(u8::MAX),
            flags: Flags::default(),
            model: in_use.tag,
        };
        let document = AlertDocument {
            schema: AlertDocument::SCHEMA.to_owned(),
            event_id: uuid::Uuid::nil(),
            device_id: identity.device.0,
            device_name: identity.name.to_string(),
            site_id: identity.site.to_string(),
            class: class.clone(),
            score: event.score,
            time: rfc3339(time.unix_us),
            time_quality: time.quality.name().to_owned(),
            level_dbfs: event.level_dbfs,
            windows: event.windows,
            canary: false,
            model: ModelInfo { classes: Vec::new(), ..in_use.info.clone() },
            location: identity.location,
            url: None,
        };
        let open = OpenDraft {
            stream: self.stream.clone(),
            class,
            onset_sample: event.onset_sample,
            so_far: detection(in_use, event),
        };
        Draft::Alert { alert, document: Box::new(document), open }
    }
}

fn class<'a>(model: &'a InUse, event: &Event) -> &'a str {
    model.info.classes.get(event.class).map_or("unknown", String::as_str)
}

fn detection(model: &InUse, event: &Event) -> Detection {
    let class = class(model, event);
    // A name that does not fit is cut; bundles check theirs when they are made.
    let class = &class[..class.floor_char_boundary(CLASS_NAME_MAX_LEN)];
    Detection {
        event: EventId(uuid::Uuid::nil()),
        class: class.try_into().unwrap_or_default(),
        model: model.tag,
        score: event.score,
        duration_ms: milliseconds(event.onset_sample, event.end_sample),
        decided_after_ms: milliseconds(event.onset_sample, event.decided_sample),
        windows: u16::try_from(event.windows).unwrap_or(u16::MAX),
        level_dbfs: event.level_dbfs,
        noise_floor_dbfs: event.noise_floor_dbfs,
        scores: event.scores.iter().take(32).map(|score| in_255ths(*score)).collect(),
        flags: Flags::default(),
        clip: None,
    }
}

/// Completes the events of an earlier run that cannot be heard again.
///
/// # Errors
/// See [`OutboxError`].
pub async fn complete_all(outbox: &Outbox, open: Vec<OpenEvent>) -> Result<(), OutboxError> {
    let records: Vec<Stamped> = open.into_iter().map(|open| complete(open).record).collect();
    if !records.is_empty() {
        tracing::warn!(events = records.len(), "events of the last run completed without clips");
        outbox.append(records, None).await?;
    }
    Ok(())
}

fn complete(open: OpenEvent) -> Pending {
    let mut detection = open.known.so_far;
    detection.event = open.event;
    let draft = Draft::Detection { detection: Box::new(detection), alerted: true, clip: None };
    let record = Stamped { draft, unix_us: open.unix_us, time_quality: open.time_quality };
    Pending { record, number: None, alert: false, canary: false }
}

fn save_clip(
    storage: &Storage,
    stem: &str,
    samples: &[i16],
    about: &str,
    health: &Health,
) -> Option<ClipFile> {
    if samples.is_empty() {
        return None;
    }
    let short = || free_bytes(&storage.clips).is_some_and(|free| free < storage.reserve);
    while short() && storage.reel.as_ref().is_some_and(|reel| reel.evict_oldest()) {}
    if short() {
        health.count(Loss::Clip, 1);
        tracing::error!(reserve_bytes = storage.reserve, "disk nearly full, clip not kept");
        return None;
    }
    match clip::save(&storage.clips, stem, samples, about) {
        Ok(clip) => {
            if clip.reference.format != ClipFormat::Flac {
                health.count(Loss::Flac, 1);
                tracing::warn!(clip.name, "a FLAC file differs from its sound: it is kept as WAV");
            }
            Some(clip)
        }
        Err(error) => {
            health.count(Loss::Clip, 1);
            tracing::error!(%error, "clip not written");
            None
        }
    }
}

/// Makes room on a full disk, with what is missed least: half a minute of the last day, a clip, records
/// that are no alerts.
async fn make_room(outbox: &Outbox, storage: &Storage, health: &Health) {
    if storage.reel.as_ref().is_some_and(|reel| reel.evict_oldest())
        || evict_clip(outbox, storage, health).await
    {
        return;
    }
    match outbox.make_room().await {
        Ok(0) => {}
        Ok(records) => tracing::error!(records, "records given up to make room for alerts"),
        Err(error) => tracing::warn!(%error, "no room can be made"),
    }
}

/// Gives up a clip: of the classes that do not alert first, then the oldest. Returns whether there was
/// one.
pub(crate) async fn evict_clip(outbox: &Outbox, storage: &Storage, health: &Health) -> bool {
    let Ok(Some(clip)) = outbox.least_clip().await else { return false };
    let path = storage.clips.join(&clip.name);
    // On a full disk the file must go before the row can: a row without file is passed over.
    let removed = std::fs::remove_file(&path);
    let forgotten = outbox.forget_clip(clip.event).await.is_ok();
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "cannot remove a clip");
        return forgotten;
    }
    health.count(Loss::Clip, 1);
    tracing::error!(event = %clip.event, "clip given up to make room");
    true
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

fn milliseconds(from: u64, to: u64) -> u32 {
    let milliseconds = to.saturating_sub(from) * 1_000 / u64::from(SAMPLE_RATE_HZ);
    u32::try_from(milliseconds).unwrap_or(u32::MAX)
}

fn in_255ths(score: f32) -> u8 {
    (score.clamp(0.0, 1.0) * 255.0).round() as u8
}
