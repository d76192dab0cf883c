//! Which events of a replay are already written down.
//!
//! A replay that was killed is heard again from a little before the place up to which all was
//! written, so that whatever was being decided then is decided again. The same events come out
//! once more; this tells them apart by class and onset:
//!
//! 1. an alert without detection keeps its id, is not alerted again, and gets its detection;
//! 2. an event that begins before the latest end written of its class is done, or the rest of
//!    one that is done, and comes to nothing;
//! 3. so does one that was decided at or before the written position: either it is written, or
//!    it was not heard the first time, when more was known of what came before;
//! 4. everything else is new.
//!
//! Rule 2 is sound because events of one class do not overlap and are written in their order,
//! rule 3 because a position is written with all that was decided before it.

use std::collections::BTreeMap;

use ecosight_models::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use ecosight_shared::{EventId, TimeQuality};

use crate::outbox::{OpenEvent, ReplayPosition};

/// Two onsets of a class this close are one event: hearing again may place it a frame or two off.
const SAME_ONSET: u64 = SAMPLE_RATE_HZ as u64;

/// How far before the written position a replay is heard again: [`CONTEXT`], the sound that a clip
/// keeps before an onset, and the windows that confirm an event.
pub const REWIND: u64 = 15 * SAMPLE_RATE_HZ as u64;

/// After hearing has begun again, windows are not judged for this long: features look back 5 s,
/// and what they have not seen would sound like silence.
pub const CONTEXT: u64 = 6 * SAMPLE_RATE_HZ as u64;

/// What a confirmed event is to the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never written.
    New,
    /// Alerted before, its detection is missing.
    Alerted(EventId, i64, TimeQuality),
    /// Completely written.
    Done,
}

/// What is already written of a replay. Empty for a stream that cannot be heard again.
#[derive(Debug, Default)]
pub struct Resume {
    /// Everything decided at or before this is written.
    written: u64,
    open: Vec<OpenEvent>,
    ends: BTreeMap<String, u64>,
}

impl Resume {
    /// What `position` and the open events of its stream tell.
    #[must_use]
    pub fn new(position: &ReplayPosition, open: Vec<OpenEvent>) -> Self {
        Self { written: position.sample, open, ends: position.ends.clone() }
    }

    /// Where to begin hearing again: a whole number of hops into the file, so that windows lie
    /// as they lay before.
    #[must_use]
    pub fn begin(&self, position: &ReplayPosition) -> u64 {
        let earliest = self.open.iter().map(|event| event.known.onset_sample).min();
        let from = position.sample.min(earliest.unwrap_or(u64::MAX)).saturating_sub(REWIND);
        let hop = HOP_SAMPLES as u64;
        position.item_start + from.saturating_sub(position.item_start) / hop * hop
    }

    /// Judges an event that was just confirmed.
    pub fn confirmed(&mut self, class: &str, onset: u64, decided: u64) -> Verdict {
        let same = |event: &OpenEvent| {
            event.known.class == class && event.known.onset_sample.abs_diff(onset) <= SAME_ONSET
        };
        if let Some(at) = self.open.iter().position(same) {
            let known = self.open.swap_remove(at);
            return Verdict::Alerted(known.event, known.unix_us, known.time_quality);
        }
        let covered = self.ends.get(class).is_some_and(|end| onset < *end);
        if covered || decided <= self.written { Verdict::Done } else { Verdict::New }
    }

    /// Open events that should have been heard again by `sample` and were not.
    pub fn overdue(&mut self, sample: u64) -> Vec<OpenEvent> {
        let due = |event: &OpenEvent| event.known.onset_sample + REWIND <= sample;
        let (due, rest) = std::mem::take(&mut self.open).into_iter().partition(due);
        self.open = rest;
        due
    }
}

/// How far a replay is written: kept by the recorder, committed with what it writes.
#[derive(Debug)]
pub struct Progress {
    position: ReplayPosition,
    /// Files of the replay that begin at or before what is to be heard again, oldest first.
    items: Vec<(u64, u64)>,
}

impl Progress {
    /// Goes on from `position`.
    #[must_use]
    pub fn new(position: ReplayPosition) -> Self {
        let items = vec![(position.item, position.item_start)];
        Self { position, items }
    }

    /// Sound up to `sample` was decided on; it came from the file `item`, begun at `item_start`.
    pub fn heard(&mut self, sample: u64, item: u64, item_start: u64) {
        self.position.sample = self.position.sample.max(sample);
        if self.items.last().is_none_or(|(last, _)| *last < item) {
            self.items.push((item, item_start));
        }
    }

    /// A detection of an event that ends here is being written.
    pub fn detected(&mut self, class: &str, end: u64) {
        let latest = self.position.ends.entry(class.to_owned()).or_default();
        *latest = end.max(*latest);
    }

    /// What to commit, while something with the onset `unwritten` is still on its way.
    pub fn position(&mut self, unwritten: Option<u64>) -> ReplayPosition {
        let sample = self.position.sample.min(unwritten.unwrap_or(u64::MAX));
        let from = sample.saturating_sub(REWIND);
        while self.items.get(1).is_some_and(|(_, start)| *start <= from) {
            self.items.remove(0);
        }
        let (item, item_start) = self.items[0];
        ReplayPosition { sample, item, item_start, ..self.position.clone() }
    }
}
