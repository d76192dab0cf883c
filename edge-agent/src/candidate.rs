//! Path: classifier → candidate → trace
//!
//! What came near to an event and was not one, and which rule stopped it: the answer to "there was
//! a shot, why no alert?". Pure.

/// Within this many units of log-odds below the threshold a window is near.
pub const NEAR: f64 = 3.0;

/// What stopped a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// No window reached the threshold.
    Threshold,
    /// Windows reached it, but their neighbours did not.
    Confirmation,
    /// It would have been an event at the bundle's threshold; the budget's is higher.
    Budget,
}

impl Stopped {
    /// The word for it, in the trace and on screen.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Confirmation => "confirmation",
            Self::Budget => "budget",
        }
    }
}

/// A stretch near the threshold that came to nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Index of the class.
    pub class: usize,
    /// Stream position of the loudest moment of its best window.
    pub peak_sample: u64,
    /// Best score of a single window.
    pub score: f32,
    /// Best confirmation score.
    pub confirmation: f32,
    /// The threshold that it was held against.
    pub threshold: f32,
    /// What stopped it.
    pub stopped: Stopped,
    /// Level of its best window, dBFS.
    pub level_dbfs: f32,
    /// Noise floor there, dBFS.
    pub noise_floor_dbfs: f32,
    /// Windows that were near.
    pub windows: u32,
    /// Scores of the best window, bundle's class order.
    pub scores: Vec<f32>,
}

/// One window, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Where its loudest moment is.
    pub peak_sample: u64,
    /// Its level, dBFS.
    pub level_dbfs: f32,
    /// Its noise floor, dBFS.
    pub noise_floor_dbfs: f32,
    /// Its scores.
    pub scores: &'a [f32],
    /// Confirmation score of the class.
    pub confirmation: f32,
    /// Whether an event of the class is open.
    pub in_event: bool,
}

/// Candidates of one class.
#[derive(Clone, Debug)]
pub struct Candidates {
    class: usize,
    bundle_threshold: f32,
    open: Option<Candidate>,
}

impl Candidates {
    /// Candidates of the class with this index, whose bundle has this threshold.
    #[must_use]
    pub fn new(class: usize, bundle_threshold: f32) -> Self {
        Self { class, bundle_threshold, open: None }
    }

    /// The next window; gives the candidate that is over with it.
    pub fn push(&mut self, look: Look<'_>, threshold: f32) -> Option<Candidate> {
        if look.in_event {
            // It became an event, or is the rest of one.
            self.open = None;
            return None;
        }
        let score = look.scores.get(self.class).copied().unwrap_or(0.0);
        let lowest = threshold.min(self.bundle_threshold);
        if crate::budget::log_odds(score) < crate::budget::log_odds(lowest) - NEAR {
            return self.end();
        }
        let open = self.open.get_or_insert_with(|| Candidate {
            class: self.class,
            peak_sample: look.peak_sample,
            score: 0.0,
            confirmation: 0.0,
            threshold,
            stopped: Stopped::Threshold,
            level_dbfs: look.level_dbfs,
            noise_floor_dbfs: look.noise_floor_dbfs,
            windows: 0,
            scores: Vec::new(),
        });
        open.windows = open.windows.saturating_add(1);
        open.threshold = threshold;
        open.confirmation = open.confirmation.max(look.confirmation);
        if score >= open.score {
            open.score = score;
            open.peak_sample = look.peak_sample;
            open.level_dbfs = look.level_dbfs;
            open.noise_floor_dbfs = look.noise_floor_dbfs;
            open.scores = look.scores.to_vec();
        }
        None
    }

    /// The stream ends or is interrupted.
    pub fn end(&mut self) -> Option<Candidate> {
        let mut done = self.open.take()?;
        done.stopped = if done.confirmation >= self.bundle_threshold {
            Stopped::Budget
        } else if done.score >= done.threshold {
            Stopped::Confirmation
        } else {
            Stopped::Threshold
        };
        Some(done)
    }
}
