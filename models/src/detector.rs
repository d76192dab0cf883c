//! stub: to be replaced
#![allow(missing_docs, reason = "stub")]
use crate::{Scores, Window};
/// Rules per class (threshold, confirmation, refractory), from the bundle or the operator.
#[derive(Clone, Debug)]
pub struct DetectorConfig {
    pub rules: Vec<ClassRule>,
}
#[derive(Clone, Debug)]
pub struct ClassRule {
    /// Index in the bundle's class list.
    pub class: usize,
    /// Threshold on the mean score of `confirm_windows` neighbouring windows.
    pub threshold: f32,
    pub confirm_windows: usize,
    /// An event ends after this many seconds without a window over the threshold; another may
    /// begin only then.
    pub refractory_s: f32,
    /// Whether a confirmed event is an alert.
    pub alert: bool,
}
/// An event, so far or over.
#[derive(Clone, Debug)]
pub struct Event {
    /// Numbered from 1 in the order of confirmation, unique in this detector.
    pub number: u64,
    pub class: usize,
    pub alert: bool,
    /// Stream position, 16 kHz samples, of the onset, and of the end of the last window over threshold.
    pub onset_sample: u64,
    pub end_sample: u64,
    /// Stream position up to which sound had been heard when it was confirmed.
    pub decided_sample: u64,
    /// Highest confirmed score.
    pub score: f32,
    pub windows: u32,
    pub level_dbfs: f32,
    pub noise_floor_dbfs: f32,
    /// Scores of the strongest window, bundle's class order.
    pub scores: Vec<f32>,
}
#[derive(Clone, Debug)]
pub enum DetectorOutput {
    /// Just confirmed: alert now.
    Confirmed(Event),
    /// Over: same number as when it was confirmed.
    Closed(Event),
}
/// Windows' scores to events; pure, no clock.
pub struct Detector;
impl Detector {
    pub fn new(_config: &DetectorConfig) -> Self {
        Self
    }
    /// Windows in stream order. Outputs in the order of their decision.
    pub fn push(&mut self, _window: &Window, _scores: &Scores) -> Vec<DetectorOutput> {
        Vec::new()
    }
    /// End of the stream or a gap: closes what is open.
    pub fn finish(&mut self) -> Vec<DetectorOutput> {
        Vec::new()
    }
}
