//! Path: source → hearing → recorder
//!
//! The thread that listens: pulls sound, judges it, keeps the last of it in memory, and tells
//! the recorder what happened, in the order of the stream. It waits for nothing but sound and a
//! recorder that is far behind; a microphone's ring covers for it meanwhile.

use std::sync::Arc;

use ecosight_models::{DetectorOutput, Event, HOP_SAMPLES, SAMPLE_RATE_HZ};
use ecosight_shared::json::CanaryReport;
use ecosight_shared::{SourceState, TimeQuality};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::canary::{self, Canary, Outcome};
use crate::clip::{Extent, Recording, Ring};
use crate::clock::{Clock, rfc3339};
use crate::ear::Ear;
use crate::health::Health;
use crate::recorder::InUse;
use crate::reel::{self, ReelSender};
use crate::sound_check::Deafness;
use crate::source::{Begin, Read, Source, SourceError};
use crate::speech::Redaction;
use crate::trace::{Entry, EventRow, MinuteRow, Tracer};
use crate::update::trial::{Order, Shadow};

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// An event was confirmed.
    Confirmed {
        /// The event so far.
        event: Event,
        /// When its onset was.
        time: Onset,
    },
    /// An event is over.
    Closed {
        /// The whole event.
        event: Event,
        /// When its onset was.
        time: Onset,
        /// The sound around it, without speech; nothing if none may be kept.
        recording: Option<Recording>,
    },
    /// A canary came out; see [`crate::canary`].
    Canary {
        /// The event that it became.
        event: Event,
        /// When its onset was.
        time: Onset,
    },
    /// From here on another model decides.
    Model(Box<InUse>),
    /// Everything up to a sample of a replay was told, and nothing before it is open.
    Progress {
        /// Stream position.
        sample: u64,
        /// Number of the recording in the replay.
        item: u64,
        /// Stream position of that recording's first sample.
        item_start: u64,
    },
}

/// When something was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onset {
    /// Unix µs.
    pub unix_us: i64,
    /// How good the clock was.
    pub quality: TimeQuality,
}

/// How stream positions become times.
#[derive(Clone, Debug)]
pub enum Timeline {
    /// Sound is heard when it arrives.
    Live(Clock),
    /// The first sample has a known time, unix µs.
    Recorded(i64),
}

/// Messages that wait for the recorder.
const QUEUE: usize = 64;
/// Progress of a replay is told about this often, in samples: each message may cost a flush.
const PROGRESS_STEP: u64 = 8 * SAMPLE_RATE_HZ as u64;

/// Everything that the listening thread owns.
pub struct Hearing {
    /// Where sound comes from.
    pub source: Box<dyn Source>,
    /// Where in the stream it begins.
    pub begin: Begin,
    /// What judges it.
    pub ear: Ear,
    /// How much is kept around an event.
    pub extent: Extent,
    /// How positions become times.
    pub timeline: Timeline,
    /// What it tells of itself.
    pub health: Arc<Health>,
    /// Whether it can be heard again, and progress is worth telling.
    pub is_replay: bool,
    /// Where it is remembered why something was no event.
    pub tracer: Option<Tracer>,
    /// Where all sound is kept for a day.
    pub reel: Option<ReelSender>,
    /// When canaries come; nothing: never.
    pub canaries: Option<Canaries>,
    /// Where it is told of models that are to be tried; nothing: none are.
    pub orders: Option<std::sync::mpsc::Receiver<Order>>,
}

/// When canaries come, in samples of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Canaries {
    /// From the beginning to the first.
    pub first: u64,
    /// From one to the next.
    pub every: u64,
}

/// A channel from the listening thread.
#[must_use]
pub fn channel() -> (mpsc::Sender<Heard>, mpsc::Receiver<Heard>) {
    mpsc::channel(QUEUE)
}

/// An event whose clip is not cut yet.
struct Open {
    event: Event,
    time: Onset,
    closed: bool,
    /// Cut before the event was over, because it outlasts the longest clip.
    recording: Option<Recording>,
}

struct Listener {
    hearing: Hearing,
    ring: Ring,
    open: Vec<Open>,
    item: u64,
    item_start: u64,
    told: u64,
    /// Time at which the last sound came.
    now: Onset,
    heard: mpsc::Sender<Heard>,
    deafness: Deafness,
    /// The minute that is being heard, unix.
    minute: Option<i64>,
    /// What was last written of the background.
    background_at: u64,
    /// Begin of the sound that the reel does not have yet.
    reeled: u64,
    canary: Option<Box<Canary>>,
    canary_due: u64,
    /// A model that is tried beside the one in use.
    shadow: Option<Shadow>,
    /// Where the newest unbroken sound begins, and with it the windows.
    unbroken_since: u64,
}

/// After a canary that did not come out another is tried soon: 10 min.
const CANARY_AGAIN: u64 = 600 * SAMPLE_RATE_HZ as u64;
/// A model that has taken over is to prove soon that a shot comes through: 1 min.
const CANARY_AFTER_CHANGE: u64 = 60 * SAMPLE_RATE_HZ as u64;

/// Length of a minute, µs.
const MINUTE_US: i64 = 60_000_000;
/// What is known of the background is written this often, in samples: ten minutes.
const BACKGROUND_EVERY: u64 = 600 * SAMPLE_RATE_HZ as u64;

/// The recorder is gone.
struct Deaf;

impl Hearing {
    /// Listens until the source ends or `stop` is called, then closes what is open. Blocks: give
    /// it a thread.
    ///
    /// # Errors
    /// The source is lost for good.
    pub fn listen(
        self,
        heard: mpsc::Sender<Heard>,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        let longest = self.extent.longest + self.extent.after;
        // As much again for sound that is read ahead in blocks of several seconds.
        let delay = redaction_delay(self.ear.redaction());
        let piece = if self.reel.is_some() { reel::PIECE_SAMPLES } else { 0 };
        let capacity = (longest.max(piece) + delay) as usize + 10 * SAMPLE_RATE_HZ as usize;
        let mut ring = Ring::new(capacity);
        ring.clear(self.begin.sample);
        let mut listener = Listener {
            ring,
            open: Vec::new(),
            item: self.begin.item,
            item_start: self.begin.item_start,
            told: self.begin.sample,
            now: self.timeline.now(self.begin.sample),
            heard,
            deafness: Deafness::default(),
            minute: None,
            background_at: self.begin.sample,
            reeled: self.begin.sample,
            canary: None,
            canary_due: self.begin.sample + self.canaries.map_or(0, |canaries| canaries.first),
            shadow: None,
            unbroken_since: self.begin.sample,
            hearing: self,
        };
        listener.hearing.ear.reset(listener.ring.end());
        let outcome = listener.listen(stop);
        // A recorder that is gone has its own error to report.
        let _ = listener.finish();
        listener.last_words();
        outcome
    }
}

impl Listener {
    fn listen(&mut self, stop: &CancellationToken) -> Result<(), SourceError> {
        let mut samples = Vec::new();
        while !stop.is_cancelled() {
            samples.clear();
            let read = self.hearing.source.read(&mut samples)?;
            self.hearing.health.read(samples.len());
            let told = match read {
                Read::Sound => self.sound(&samples),
                Read::Nothing => Ok(()),
                Read::Gap { lost } => {
                    if lost > 0 {
                        self.hearing.health.gap();
                    }
                    let next = self.ring.end() + lost;
                    self.interrupt(next)
                }
                Read::Item { index } => self.new_item(index),
                Read::End => {
                    self.hearing.health.set_source(SourceState::Ended);
                    return Ok(());
                }
            };
            if told.is_err() {
                return Ok(());
            }
            self.obey();
        }
        Ok(())
    }

    /// Does what it was told about models on trial.
    fn obey(&mut self) {
        let order = |listener: &Self| listener.hearing.orders.as_ref()?.try_recv().ok();
        while let Some(order) = order(self) {
            match order {
                Order::Try(ear, board) => {
                    let end = self.ring.end();
                    let past = (end - self.unbroken_since) % HOP_SAMPLES as u64;
                    let skip = (HOP_SAMPLES as u64 - past) % HOP_SAMPLES as u64;
                    match Shadow::begin(ear, board, end + skip, skip as usize) {
                        Ok(shadow) => {
                            self.hearing.ear.keep_account(true);
                            self.shadow = Some(shadow);
                        }
                        Err(error) => tracing::error!(%error, "no thread for a model on trial"),
                    }
                }
                Order::Stop => {
                    self.hearing.ear.keep_account(false);
                    self.shadow = None;
                }
                Order::TakeOver(done) => match &mut self.shadow {
                    Some(shadow) => shadow.take_over(done),
                    None => {
                        let _ = done.send(Err("no model is on trial".into()));
                    }
                },
            }
        }
    }

    /// Lets the model on trial hear the same, and changes places when it is to take over.
    fn try_out(&mut self, samples: &[f32]) -> Result<(), Deaf> {
        let Some(shadow) = &mut self.shadow else { return Ok(()) };
        let account = self.hearing.ear.take_account();
        shadow.hear(samples, self.now.unix_us, account, self.hearing.is_replay);
        if !shadow.is_due(&self.hearing.ear, self.open.is_empty()) {
            return Ok(());
        }
        let Some((heir, done)) = self.shadow.take().and_then(Shadow::heir) else {
            self.hearing.ear.keep_account(false);
            return Ok(());
        };
        if !self.open.is_empty() {
            // It has waited for the end of an event long enough.
            self.close_all()?;
        }
        let mut before = std::mem::replace(&mut self.hearing.ear, *heir);
        self.hearing.ear.succeed(&mut before);
        // Its twin is of the model before.
        self.canary = None;
        self.canary_due = self.canary_due.min(self.ring.end() + CANARY_AFTER_CHANGE);
        let model = Box::new(InUse::of(self.hearing.ear.bundle()));
        self.tell(Heard::Model(model))?;
        // Whoever waited may be gone: it is done all the same.
        let _ = done.send(Ok(()));
        Ok(())
    }

    fn sound(&mut self, samples: &[f32]) -> Result<(), Deaf> {
        let health = Arc::clone(&self.hearing.health);
        if health.source() == SourceState::Starting {
            health.set_source(SourceState::Healthy);
        }
        if let Some(faults) = self.deafness.push(samples) {
            health.set_faults(faults);
        }
        health.heard(samples);
        self.ring.push(samples);
        self.now = self.hearing.timeline.now(self.ring.end());
        self.hearing.ear.set_time(self.now.unix_us);
        let outputs = self.hearing.ear.hear(samples);
        self.outputs(outputs)?;
        self.remember();
        self.cut_due()?;
        self.reel_due(false);
        self.canary(samples)?;
        self.try_out(samples)?;
        self.tell_progress(PROGRESS_STEP)
    }

    /// Hands whole pieces to the reel once they were listened to; at an interruption, whatever is left.
    fn reel_due(&mut self, all: bool) {
        let Some(reel) = self.hearing.reel.clone() else { return };
        let end = self.ring.end();
        let judged = end.saturating_sub(redaction_delay(self.hearing.ear.redaction()));
        loop {
            let whole = self.reeled + reel::PIECE_SAMPLES;
            let to = if all { whole.min(end) } else { whole };
            if to <= self.reeled || (!all && to > judged) {
                return;
            }
            let piece = self.cut(self.reeled, to);
            // A replay is not in a hurry, and every part of it is heard once.
            let may_wait = all || self.hearing.is_replay;
            if may_wait {
                reel.keep_last(piece);
            } else {
                reel.keep(piece);
            }
            self.reeled = to;
        }
    }

    /// Begins a canary when one is due, and lets the one that runs hear the same sound.
    fn canary(&mut self, samples: &[f32]) -> Result<(), Deaf> {
        let Some(canaries) = self.hearing.canaries else { return Ok(()) };
        let end = self.ring.end();
        let Some(canary) = &mut self.canary else {
            // Never into an event, whose rest the twin would take for the canary.
            let kept = self.ring.cut(end.saturating_sub(canary::CONTEXT), end).1;
            if end >= self.canary_due
                && self.open.is_empty()
                && kept.len() as u64 == canary::CONTEXT
            {
                let (classifier, rules) = self.hearing.ear.twin();
                let context: Vec<f32> = kept.iter().map(|s| f32::from(*s) / 32_768.0).collect();
                self.canary = Some(Box::new(Canary::new(classifier, &rules, &context, end)));
            }
            return Ok(());
        };
        match canary.hear(samples) {
            Outcome::Open => Ok(()),
            Outcome::Missed => {
                self.canary = None;
                self.canary_due = end + canaries.every.min(CANARY_AGAIN);
                tracing::error!("a canary was not heard: the station may not hear shots");
                Ok(())
            }
            Outcome::Heard(event) => {
                self.canary = None;
                self.canary_due = end + canaries.every;
                let time = self.hearing.timeline.at(event.onset_sample, self.now, end);
                let report = CanaryReport {
                    time: rfc3339(time.unix_us),
                    score: event.score,
                    threshold: self.hearing.ear.threshold(event.class).unwrap_or_default(),
                };
                if report.score < report.threshold {
                    let CanaryReport { score, threshold, .. } = report;
                    tracing::warn!(score, threshold, "a canary was heard, below what alarms need");
                }
                self.hearing.health.set_canary(report);
                self.tell(Heard::Canary { event, time })
            }
        }
    }

    /// Hands what is remembered to the trace: candidates at once, minutes when they are over.
    fn remember(&mut self) {
        let (now, end) = (self.now, self.ring.end());
        let candidates = self.hearing.ear.take_candidates();
        let Some(tracer) = self.hearing.tracer.clone() else { return };
        for candidate in candidates {
            let class = self.class(candidate.class);
            let unix_us = self.hearing.timeline.at(candidate.peak_sample, now, end).unix_us;
            tracer.note(Entry::Candidate { unix_us, class, candidate });
        }
        let minute = now.unix_us.div_euclid(MINUTE_US);
        if self.minute.is_some_and(|known| known != minute) {
            self.end_minute(&tracer);
        }
        self.minute = Some(minute);
        if end >= self.background_at + BACKGROUND_EVERY {
            self.background_at = end;
            tracer.note(Entry::Background(self.hearing.ear.background().write()));
        }
    }

    fn end_minute(&mut self, tracer: &Tracer) {
        let Some(minute) = self.minute.take() else { return };
        let summary = self.hearing.ear.take_summary();
        if summary.windows == 0 {
            return;
        }
        let names = self.hearing.ear.classes().iter().cloned();
        tracer.note(Entry::Minute(MinuteRow {
            unix_us: minute * MINUTE_US,
            windows: summary.windows,
            speech: summary.speech,
            noise_floor_dbfs: summary.noise_floor_dbfs,
            highest: names.zip(summary.highest.iter().copied()).collect(),
        }));
    }

    fn last_words(&mut self) {
        let Some(tracer) = self.hearing.tracer.clone() else { return };
        self.remember();
        self.end_minute(&tracer);
        tracer.note_last(Entry::Background(self.hearing.ear.background().write()));
    }

    fn class(&self, index: usize) -> String {
        self.hearing.ear.classes().get(index).cloned().unwrap_or_default()
    }

    fn new_item(&mut self, index: u64) -> Result<(), Deaf> {
        // At the very beginning nothing came before.
        if index != self.item || self.item_start == self.ring.end() {
            let next = self.ring.end();
            self.interrupt(next)?;
            self.item = index;
            self.item_start = next;
            // Every recording is told of, since a replay is taken up at the start of one.
            self.told = self.told.min(next);
            self.tell_progress(0)?;
        }
        Ok(())
    }

    /// What comes is no neighbour of what was.
    fn interrupt(&mut self, next: u64) -> Result<(), Deaf> {
        self.close_all()?;
        self.reel_due(true);
        self.ring.clear(next);
        self.hearing.ear.reset(next);
        self.unbroken_since = next;
        if let Some(shadow) = &mut self.shadow {
            shadow.interrupt(next);
        }
        self.reeled = next;
        // What it was heard in is cut in two.
        self.canary = None;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Deaf> {
        self.close_all()?;
        self.reel_due(true);
        self.tell_progress(0)
    }

    fn close_all(&mut self) -> Result<(), Deaf> {
        let outputs = self.hearing.ear.end();
        self.outputs(outputs)?;
        let end = self.ring.end();
        let open = std::mem::take(&mut self.open);
        for mut open in open {
            if open.recording.is_none() {
                open.recording = Some(self.cut_around(&open.event));
            }
            // A detector that was finished has closed everything; if not, the end closes it.
            open.event.end_sample = open.event.end_sample.min(end);
            self.tell_closed(open)?;
        }
        Ok(())
    }

    fn outputs(&mut self, outputs: Vec<DetectorOutput>) -> Result<(), Deaf> {
        for output in outputs {
            match output {
                DetectorOutput::Confirmed(event) => {
                    let time =
                        self.hearing.timeline.at(event.onset_sample, self.now, self.ring.end());
                    self.trace_event(&event, time);
                    let copy = event.clone();
                    self.open.push(Open { event: copy, time, closed: false, recording: None });
                    self.tell(Heard::Confirmed { event, time })?;
                }
                DetectorOutput::Closed(event) => {
                    let known = self.open.iter_mut().find(|o| o.event.number == event.number);
                    if let Some(open) = known {
                        open.event = event;
                        open.closed = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn trace_event(&self, event: &Event, time: Onset) {
        let row = EventRow {
            unix_us: time.unix_us,
            class: self.class(event.class),
            score: event.score,
            threshold: self.hearing.ear.threshold(event.class).unwrap_or_default(),
            level_dbfs: event.level_dbfs,
            alert: event.alert,
        };
        self.hearing.health.event(&row);
        if let Some(tracer) = &self.hearing.tracer {
            tracer.note(Entry::Event(row));
        }
    }

    /// Cuts the clips whose sound is all there, and tells of the events that are over.
    fn cut_due(&mut self) -> Result<(), Deaf> {
        // What is cut must have been listened to for speech, and a little more behind it.
        let end = self.ring.end().saturating_sub(redaction_delay(self.hearing.ear.redaction()));
        let extent = self.hearing.extent;
        let mut open = std::mem::take(&mut self.open);
        for open in &mut open {
            let (from, last) = extent.around(open.event.onset_sample, open.event.end_sample);
            // Of an event that goes on nobody knows the end yet.
            let due = if open.closed { last } else { from + extent.longest };
            if open.recording.is_none() && end >= due {
                open.recording = Some(self.cut(from, due));
            }
        }
        let (mut done, open): (Vec<Open>, Vec<Open>) =
            open.into_iter().partition(|o| o.closed && o.recording.is_some());
        self.open = open;
        // Events of one class in the order of their onsets: what is resumed relies on it.
        done.sort_by_key(|open| open.event.number);
        for open in done {
            self.tell_closed(open)?;
        }
        Ok(())
    }

    fn cut_around(&self, event: &Event) -> Recording {
        let (from, to) = self.hearing.extent.around(event.onset_sample, event.end_sample);
        self.cut(from, to)
    }

    /// Sound of the ring without speech.
    fn cut(&self, from: u64, to: u64) -> Recording {
        let (from, mut samples) = self.ring.cut(from, to);
        let redacted = match self.hearing.ear.redaction() {
            Redaction::Off => Vec::new(),
            Redaction::On(speech) => speech.redact(from, &mut samples),
        };
        let time = self.hearing.timeline.at(from, self.now, self.ring.end());
        Recording { samples, time, redacted }
    }

    fn tell_closed(&self, open: Open) -> Result<(), Deaf> {
        let Open { event, time, recording, .. } = open;
        self.tell(Heard::Closed { event, time, recording })
    }

    fn tell_progress(&mut self, step: u64) -> Result<(), Deaf> {
        let earliest_open = self.open.iter().map(|open| open.event.onset_sample).min();
        let sample = self.ring.end().min(earliest_open.unwrap_or(u64::MAX));
        if self.hearing.is_replay && sample >= self.told + step {
            self.told = sample;
            self.tell(Heard::Progress { sample, item: self.item, item_start: self.item_start })?;
        }
        Ok(())
    }

    fn tell(&self, what: Heard) -> Result<(), Deaf> {
        self.heard.blocking_send(what).map_err(|_| Deaf)
    }
}

fn redaction_delay(redaction: &Redaction) -> u64 {
    match redaction {
        Redaction::On(speech) => speech.delay(),
        Redaction::Off => 0,
    }
}

impl Timeline {
    /// The time of the stream position `end`, at which sound has just come.
    fn now(&self, end: u64) -> Onset {
        match self {
            Self::Live(clock) => Onset { unix_us: clock.unix_us(), quality: clock.quality() },
            Self::Recorded(start_us) => Onset {
                unix_us: start_us + microseconds(end),
                // The recorder's clock, of which nothing more is known.
                quality: TimeQuality::FreeRunning,
            },
        }
    }

    /// The time of `sample`, given that `end` came at `now`.
    fn at(&self, sample: u64, now: Onset, end: u64) -> Onset {
        let ago = microseconds(end.saturating_sub(sample));
        match self {
            Self::Live(_) => Onset { unix_us: now.unix_us - ago, ..now },
            Self::Recorded(_) => self.now(sample),
        }
    }
}

fn microseconds(samples: u64) -> i64 {
    (samples * 1_000_000 / u64::from(SAMPLE_RATE_HZ)) as i64
}
