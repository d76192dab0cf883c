//! Path: yamnet, transient → head → detector → event
//!
//! Scores of windows to events. Pure: no clock, positions in samples of the stream, the same
//! events whoever runs it, station, server or command line.
//!
//! For each class with a rule, in stream order:
//! - A window's *confirmation score* is the mean score of it and the windows just before it, as
//!   many as the rule says. It needs all of them: right after the start or a gap nothing is
//!   confirmed. A score that is no number confirms nothing.
//! - A window whose confirmation score reaches the threshold is *over*. It opens an event, or
//!   extends the one that is open.
//! - An event closes at the first window that is not over and ends the refractory time or more
//!   after the last that was; at a gap; and at the end of the stream. So stretches of over windows
//!   with less than that between them are one event, and with more they are two.

use std::collections::VecDeque;

use crate::{HOP_SAMPLES, SAMPLE_RATE_HZ, Scores, Window};

/// Rules per class (threshold, confirmation, refractory), from the bundle or the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorConfig {
    /// At most one rule a class; classes without one raise no events.
    pub rules: Vec<ClassRule>,
}

/// When one class raises an event.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassRule {
    /// Index in the bundle's class list.
    pub class: usize,
    /// Threshold on the mean score of `confirm_windows` neighbouring windows.
    pub threshold: f32,
    /// How many neighbouring windows confirm; 0 reads as 1.
    pub confirm_windows: usize,
    /// An event ends after this many seconds without a window over the threshold; another may
    /// begin only then.
    pub refractory_s: f32,
    /// Whether a confirmed event is an alert.
    pub alert: bool,
}

/// An event, so far or over.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Numbered from 1 in the order of confirmation, unique in this detector.
    pub number: u64,
    /// Index in the bundle's class list.
    pub class: usize,
    /// Whether the rule says that this is an alert.
    pub alert: bool,
    /// Stream position, 16 kHz samples, of the onset: the loudest 20 ms of the earliest of the
    /// confirming windows that reaches the threshold by itself.
    pub onset_sample: u64,
    /// Stream position of the end of the last window over the threshold.
    pub end_sample: u64,
    /// Stream position up to which sound had been heard when it was confirmed.
    pub decided_sample: u64,
    /// Highest confirmation score so far.
    pub score: f32,
    /// Windows whose confirmation score reached the threshold.
    pub windows: u32,
    /// Level at the onset, dBFS.
    pub level_dbfs: f32,
    /// Noise floor at the onset, dBFS.
    pub noise_floor_dbfs: f32,
    /// Scores of the strongest window (highest score of the event's class), bundle's class order.
    pub scores: Vec<f32>,
}

/// What the detector has decided.
#[derive(Clone, Debug, PartialEq)]
pub enum DetectorOutput {
    /// Just confirmed: alert now.
    Confirmed(Event),
    /// Over: same number as when it was confirmed.
    Closed(Event),
}

/// Windows' scores to events. Feed it every window of one stream in order, and
/// [`Detector::finish`] at its end and at every gap.
#[derive(Clone, Debug)]
pub struct Detector {
    tracks: Vec<Track>,
    /// The newest windows, the newest last, as many as the slowest rule confirms with.
    recent: VecDeque<Heard>,
    memory: usize,
    /// Events so far.
    events: u64,
}

/// One rule and its event.
#[derive(Clone, Debug)]
struct Track {
    rule: ClassRule,
    refractory_samples: u64,
    open: Option<Event>,
}

/// What is kept of one window.
#[derive(Clone, Debug)]
struct Heard {
    start_sample: u64,
    end_sample: u64,
    peak_sample: u64,
    level_dbfs: f32,
    noise_floor_dbfs: f32,
    scores: Vec<f32>,
}

impl Heard {
    /// Score of a class; what is no number or not there is below everything.
    fn score(&self, class: usize) -> f32 {
        self.scores
            .get(class)
            .copied()
            .filter(|score| score.is_finite())
            .unwrap_or(f32::NEG_INFINITY)
    }
}

impl Detector {
    /// A detector that has heard nothing.
    pub fn new(config: &DetectorConfig) -> Self {
        let tracks: Vec<Track> = config
            .rules
            .iter()
            .map(|rule| Track {
                // Saturating: a negative time is none, an endless one never ends.
                refractory_samples: (rule.refractory_s * SAMPLE_RATE_HZ as f32).ceil() as u64,
                rule: ClassRule { confirm_windows: rule.confirm_windows.max(1), ..rule.clone() },
                open: None,
            })
            .collect();
        let memory = tracks.iter().map(|track| track.rule.confirm_windows).max().unwrap_or(1);
        Self { tracks, recent: VecDeque::new(), memory, events: 0 }
    }

    /// The next window of the stream and its scores. Outputs in the order of their decision, at
    /// the same window in the order of the rules.
    ///
    /// A window that does not begin one hop after the one before shows a gap that nobody
    /// announced; it is treated as one.
    pub fn push(&mut self, window: &Window, scores: &Scores) -> Vec<DetectorOutput> {
        let mut out = Vec::new();
        let expected = self.recent.back().map(|heard| heard.start_sample + HOP_SAMPLES as u64);
        if expected.is_some_and(|expected| expected != window.start_sample) {
            out = self.finish();
        }
        if self.recent.len() == self.memory {
            self.recent.pop_front();
        }
        self.recent.push_back(Heard {
            start_sample: window.start_sample,
            end_sample: window.end_sample(),
            peak_sample: window.peak_sample,
            level_dbfs: window.level_dbfs,
            noise_floor_dbfs: window.noise_floor_dbfs,
            scores: scores.classes.clone(),
        });
        let recent = self.recent.make_contiguous();
        for track in &mut self.tracks {
            let confirms = recent.len().checked_sub(track.rule.confirm_windows);
            out.extend(confirms.and_then(|from| track.hear(&recent[from..], &mut self.events)));
        }
        out
    }

    /// End of the stream or a gap: closes what is open, and forgets all windows.
    pub fn finish(&mut self) -> Vec<DetectorOutput> {
        self.recent.clear();
        let open = self.tracks.iter_mut().filter_map(|track| track.open.take());
        open.map(DetectorOutput::Closed).collect()
    }
}

impl Track {
    /// The newest windows, as many as confirm; the last is new.
    fn hear(&mut self, windows: &[Heard], events: &mut u64) -> Option<DetectorOutput> {
        let class = self.rule.class;
        let newest = windows.last()?;
        let mean = windows.iter().map(|w| w.score(class)).sum::<f32>() / windows.len() as f32;
        // A mean that is no number, as of overflowing scores, is not over either.
        let over = mean >= self.rule.threshold && mean.is_finite();
        match (&mut self.open, over) {
            (None, false) => None,
            (None, true) => {
                *events += 1;
                let event = self.confirm(windows, newest, mean, *events);
                self.open = Some(event.clone());
                Some(DetectorOutput::Confirmed(event))
            }
            (Some(event), true) => {
                if newest.score(class) > event.scores.get(class).copied().unwrap_or(0.0) {
                    event.scores.clone_from(&newest.scores);
                }
                event.end_sample = newest.end_sample;
                event.score = event.score.max(mean);
                event.windows = event.windows.saturating_add(1);
                None
            }
            (Some(event), false) => {
                let quiet = newest.end_sample.saturating_sub(event.end_sample);
                let over = quiet >= self.refractory_samples;
                if over { self.open.take().map(DetectorOutput::Closed) } else { None }
            }
        }
    }

    fn confirm(&self, windows: &[Heard], newest: &Heard, mean: f32, number: u64) -> Event {
        let class = self.rule.class;
        let strongest = windows
            .iter()
            .max_by(|a, b| a.score(class).total_cmp(&b.score(class)))
            .unwrap_or(newest);
        // A window before the shot adds to the mean, but its loudest moment is another.
        let first =
            windows.iter().find(|w| w.score(class) >= self.rule.threshold).unwrap_or(strongest);
        Event {
            number,
            class,
            alert: self.rule.alert,
            onset_sample: first
                .peak_sample
                .clamp(first.start_sample.min(newest.end_sample), newest.end_sample),
            end_sample: newest.end_sample,
            decided_sample: newest.end_sample,
            score: mean,
            windows: 1,
            level_dbfs: first.level_dbfs,
            noise_floor_dbfs: first.noise_floor_dbfs,
            scores: strongest.scores.clone(),
        }
    }
}
