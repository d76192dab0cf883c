//! Path: source → hearing → recorder
//!
//! The thread that listens: pulls sound, judges it, keeps the last of it in memory, and tells
//! the recorder what happened, in the order of the stream. It waits for nothing but sound and a
//! recorder that is far behind; a microphone's ring covers for it meanwhile.

use std::sync::Arc;

use ecosight_models::{DetectorOutput, Event, SAMPLE_RATE_HZ};
use ecosight_shared::{SourceState, TimeQuality};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clip::{Extent, Ring};
use crate::clock::Clock;
use crate::ear::Ear;
use crate::health::Health;
use crate::source::{Begin, Read, Source, SourceError};

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
        /// The sound around it.
        samples: Vec<i16>,
    },
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
    samples: Option<Vec<i16>>,
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
}

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
        let capacity = longest as usize + 10 * SAMPLE_RATE_HZ as usize;
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
            hearing: self,
        };
        listener.hearing.ear.reset(listener.ring.end());
        let outcome = listener.listen(stop);
        // A recorder that is gone has its own error to report.
        let _ = listener.finish();
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
        }
        Ok(())
    }

    fn sound(&mut self, samples: &[f32]) -> Result<(), Deaf> {
        let health = Arc::clone(&self.hearing.health);
        if health.source() == SourceState::Starting {
            health.set_source(SourceState::Healthy);
        }
        self.ring.push(samples);
        self.now = self.hearing.timeline.now(self.ring.end());
        let outputs = self.hearing.ear.hear(samples);
        self.outputs(outputs)?;
        self.cut_due()?;
        self.tell_progress(PROGRESS_STEP)
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
        self.ring.clear(next);
        self.hearing.ear.reset(next);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Deaf> {
        self.close_all()?;
        self.tell_progress(0)
    }

    fn close_all(&mut self) -> Result<(), Deaf> {
        let outputs = self.hearing.ear.end();
        self.outputs(outputs)?;
        let end = self.ring.end();
        let open = std::mem::take(&mut self.open);
        for mut open in open {
            open.samples.get_or_insert_with(|| cut(&self.ring, &self.hearing.extent, &open.event));
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
                    let copy = event.clone();
                    self.open.push(Open { event: copy, time, closed: false, samples: None });
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

    /// Cuts the clips whose sound is all there, and tells of the events that are over.
    fn cut_due(&mut self) -> Result<(), Deaf> {
        let end = self.ring.end();
        let extent = self.hearing.extent;
        for open in &mut self.open {
            let last = extent.around(open.event.onset_sample, open.event.end_sample).1;
            let longest = open.event.onset_sample.saturating_sub(extent.before) + extent.longest;
            let due = if open.closed { last } else { longest };
            if open.samples.is_none() && end >= due {
                open.samples = Some(cut(&self.ring, &extent, &open.event));
            }
        }
        let (done, open) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|o| o.closed && o.samples.is_some());
        self.open = open;
        let mut done: Vec<Open> = done;
        // Events of one class in the order of their onsets: what is resumed relies on it.
        done.sort_by_key(|open| open.event.number);
        for open in done {
            self.tell_closed(open)?;
        }
        Ok(())
    }

    fn tell_closed(&self, open: Open) -> Result<(), Deaf> {
        let samples = open.samples.unwrap_or_default();
        self.tell(Heard::Closed { event: open.event, time: open.time, samples })
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

fn cut(ring: &Ring, extent: &Extent, event: &Event) -> Vec<i16> {
    let (from, to) = extent.around(event.onset_sample, event.end_sample);
    ring.cut(from, to)
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
