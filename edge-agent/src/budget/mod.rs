//! Path: classifier → budget → detector's thresholds
//!
//! The operator says how many false alarms a week are bearable; the station finds the threshold
//! that keeps them, on its own background, and says what that costs.
//!
//! # What is counted
//!
//! The stream is cut into blocks of [`BLOCK_S`] seconds. Of each block and class with a rule, the
//! highest confirmation score is counted in a histogram of the day. A false alarm is a block whose
//! highest score reaches the threshold, so that the number of blocks a week above a threshold is the
//! number of false alarms a week at it. Blocks with a confirmed event are counted apart, and
//! [`DAYS_MAX`] days are kept; both are added up when they are needed.
//!
//! # What is not poisoned
//!
//! A real shot must not raise the threshold. Blocks with confirmed events are left out, unless a
//! day has more than [`FLOOD`] of them: so many are no hunter but a generator, hail, or a feast.
//! And of the rest, which may hold shots too faint to be confirmed, the highest [`TRIM`] blocks of
//! a class are never looked at.
//!
//! # The threshold
//!
//! On the scale of log-odds the tail of a background falls nearly exponentially. Its slope is taken
//! between the level that [`BODY`] of the blocks reach and the one that [`TAIL`] reach, with one
//! standard deviation of the counts against us, and followed from there to the budget. As the days
//! gather, the second level moves up and less is extrapolated. Until [`LEARN_S`] of background are
//! heard the bundle's threshold holds.

mod histogram;
mod recall;

use std::collections::BTreeMap;

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_shared::json::BudgetReport;
use serde::{Deserialize, Serialize};

pub use histogram::{Histogram, log_odds, score};
pub use recall::RecallCurve;
pub(crate) use recall::evaluation;

/// Length of a block: longer than any refractory time in use, so that one event is one block.
pub const BLOCK_S: u64 = 10;
const BLOCK_SAMPLES: u64 = BLOCK_S * SAMPLE_RATE_HZ as u64;
/// Days that are kept: four weeks of a season.
pub const DAYS_MAX: usize = 28;
/// Confirmed events of a class in a day beyond which they count as background.
pub const FLOOD: u64 = 24;
/// Highest blocks whose scores are never looked at; they are counted.
pub const TRIM: u64 = 3;
/// Blocks that the upper end of the slope rests on.
pub const TAIL: u64 = 10;
/// Part of the blocks that the lower end of the slope rests on.
pub const BODY: f64 = 0.05;
/// Background before anything is concluded.
pub const LEARN_S: f64 = 3_600.0;
/// Seconds of a week.
pub const WEEK_S: f64 = 604_800.0;
/// A threshold at which less than this part of the events is heard is no ear any more.
const RECALL_LEAST: f64 = 0.05;
/// Where nothing is known of recall, thresholds stay within these scores.
const SCORES: (f32, f32) = (0.5, 0.999_99);

/// What a station has heard of its own background. Mergeable: days are added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Background {
    /// Identity of the model and the source whose scores these are; others are not comparable.
    pub of: String,
    /// By class.
    classes: BTreeMap<String, Vec<Day>>,
}

/// A day of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Day {
    /// Days since 1970 UTC.
    day: i64,
    /// Blocks, confirmed ones included.
    blocks: u64,
    background: Histogram,
    confirmed: Histogram,
}

/// What is known of one class: all days together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Seconds that were listened to.
    pub heard_s: f64,
    /// Highest score of each block of background.
    pub background: Histogram,
    /// Blocks with events that count as real.
    pub confirmed: u64,
    /// Blocks with events that count as background, because there are too many.
    pub flooded: u64,
}

impl Background {
    /// Nothing heard yet of the model and source `of`.
    #[must_use]
    pub fn new(of: String) -> Self {
        Self { of, classes: BTreeMap::new() }
    }

    /// Reads what was written; nothing if it is of another model or source, or damaged: it is
    /// gathered again.
    #[must_use]
    pub fn read(bytes: &[u8], of: &str) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|read: &Self| read.of == of)
    }

    /// As it is kept on disk.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Counts a block of `class`.
    pub fn add(&mut self, class: &str, day: i64, highest: f32, confirmed: bool) {
        let days = match self.classes.get_mut(class) {
            Some(days) => days,
            None => self.classes.entry(class.to_owned()).or_default(),
        };
        if !days.iter().any(|known| known.day == day) {
            days.push(Day { day, ..Day::default() });
            days.sort_by_key(|known| known.day);
            // The clock may have been wrong: what goes is what is farthest from today.
            if days.len() > DAYS_MAX {
                let far = |at: usize| days[at].day.abs_diff(day);
                let victim = if far(0) >= far(days.len() - 1) { 0 } else { days.len() - 1 };
                days.remove(victim);
            }
        }
        if let Some(today) = days.iter_mut().find(|known| known.day == day) {
            today.blocks += 1;
            if confirmed { today.confirmed.add(highest) } else { today.background.add(highest) }
        }
    }

    /// Adds what another station, or another run, has heard.
    pub fn merge(&mut self, other: &Self) {
        for (class, days) in &other.classes {
            let own = self.classes.entry(class.clone()).or_default();
            for day in days {
                match own.iter_mut().find(|known| known.day == day.day) {
                    Some(known) => {
                        known.blocks += day.blocks;
                        known.background.merge(&day.background);
                        known.confirmed.merge(&day.confirmed);
                    }
                    None => own.push(day.clone()),
                }
            }
            own.sort_by_key(|known| known.day);
            let excess = own.len().saturating_sub(DAYS_MAX);
            own.drain(..excess);
        }
    }

    /// All days of `class` together.
    #[must_use]
    pub fn known(&self, class: &str) -> Known {
        let mut known = Known::default();
        for day in self.classes.get(class).into_iter().flatten() {
            known.heard_s += (day.blocks * BLOCK_S) as f64;
            known.background.merge(&day.background);
            if day.confirmed.total() > FLOOD {
                known.background.merge(&day.confirmed);
                known.flooded += day.confirmed.total();
            } else {
                known.confirmed += day.confirmed.total();
            }
        }
        known
    }
}

/// The tail of a background: how often a week a block reaches a level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// Where the slope ends and the extrapolation begins, log-odds.
    level: f64,
    /// Blocks a week at or above it.
    per_week: f64,
    /// Log-odds in which the rate falls by the factor e.
    slope: f64,
}

impl Known {
    /// The tail; nothing while too little is heard.
    #[must_use]
    pub fn tail(&self) -> Option<Tail> {
        if self.heard_s < LEARN_S {
            return None;
        }
        let body = ((self.background.total() as f64 * BODY) as u64).max(4 * TAIL) + TRIM;
        let (low, low_count) = self.background.level_of(body)?;
        let (high, high_count) = self.background.level_of(TAIL + TRIM)?;
        let (low_count, high_count) = (low_count as f64, high_count as f64);
        let high_count = high_count + high_count.sqrt();
        // Where nothing falls, as with a background that saturates, the slope is that of nothing
        // known: one step of the scale for each factor e is the gentlest that still ends.
        let fall = (low_count / high_count).ln().max(0.1);
        let slope = ((high - low).max(0.1) / fall).clamp(0.02, 4.0);
        Some(Tail { level: high, per_week: high_count / self.heard_s * WEEK_S, slope })
    }
}

impl Tail {
    /// Log-odds at which `per_week` blocks a week are reached.
    #[must_use]
    pub fn level_for(&self, per_week: f64) -> f64 {
        self.level + self.slope * (self.per_week / per_week).ln()
    }

    /// Blocks a week that reach `log_odds`.
    #[must_use]
    pub fn per_week_at(&self, log_odds: f64) -> f64 {
        self.per_week * ((self.level - log_odds) / self.slope).exp()
    }
}

/// A class whose threshold is found.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The class.
    pub class: String,
    /// False alarms a week that are bearable.
    pub per_week: f64,
    /// The bundle's threshold, or the operator's.
    pub bundle_threshold: f32,
    /// What the bundle was measured to hear at which threshold.
    pub recall: RecallCurve,
}

impl Budget {
    /// The threshold for what is known, with what is to be told of it. `report.threshold` is what
    /// the detector should use.
    #[must_use]
    pub fn decide(&self, known: &Known) -> BudgetReport {
        let mut report = BudgetReport {
            class: self.class.clone(),
            per_week: self.per_week,
            state: "learning".to_owned(),
            heard_hours: known.heard_s / 3_600.0,
            threshold: self.bundle_threshold,
            bundle_threshold: self.bundle_threshold,
            expected_per_week: None,
            recall: self.recall.at(self.bundle_threshold),
            bundle_recall: self.recall.at(self.bundle_threshold),
        };
        let Some(tail) = known.tail() else { return report };
        let (least, most) = self.limits();
        let wanted = tail.level_for(self.per_week);
        let level = wanted.clamp(log_odds(least), log_odds(most));
        report.threshold = score(level);
        report.expected_per_week = Some(tail.per_week_at(level));
        report.recall = self.recall.at(report.threshold);
        report.state = if wanted > log_odds(most) { "cannot" } else { "met" }.to_owned();
        report
    }

    /// Lowest and highest threshold that make sense.
    fn limits(&self) -> (f32, f32) {
        let lowest = self.recall.lowest().unwrap_or(SCORES.0).min(self.bundle_threshold);
        let highest = self.recall.highest_with(RECALL_LEAST).unwrap_or(SCORES.1);
        (lowest, highest.max(self.bundle_threshold))
    }
}

/// Cuts one class's stream of confirmation scores into blocks.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// Number of the block that is being heard.
    block: Option<u64>,
    highest: f32,
    windows: u32,
    confirmed: bool,
}

/// A block that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Its highest confirmation score.
    pub highest: f32,
    /// Whether an event was open in it.
    pub confirmed: bool,
}

impl Blocks {
    /// One window's confirmation score, and whether an event of the class is open or was confirmed.
    /// Gives the block before when a new one begins, if it was listened to for at least half.
    pub fn push(&mut self, start_sample: u64, mean: f32, in_event: bool) -> Option<Block> {
        let block = start_sample / BLOCK_SAMPLES;
        let done = if self.block == Some(block) { None } else { self.end() };
        self.block = Some(block);
        self.highest = if self.windows == 0 { mean } else { self.highest.max(mean) };
        self.windows += 1;
        self.confirmed |= in_event;
        done
    }

    /// The stream ends or is interrupted.
    pub fn end(&mut self) -> Option<Block> {
        // Half of the windows of a block: less is no fair part of the time that is counted.
        let whole = self.windows >= 10;
        let done = Block { highest: self.highest, confirmed: self.confirmed };
        *self = Self::default();
        whole.then_some(done)
    }
}
