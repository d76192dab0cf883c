//! Path: capture → canary (twin ear) → recorder → … → receipt: "last verified"
//!
//! Proof that a shot would come through: on schedule a synthetic one is mixed into the sound as it
//! was captured, and must come out as a canary event whose receipt the cloud gives.
//!
//! It is mixed into a copy. A twin of windower and detector, with the same network and rules, and thresholds
//! no higher than [`SCORE`], hears the copy for some seconds; what it scored is told beside the threshold
//! that alarms need. The real sound goes its own way untouched, so that no real shot
//! is ever taken for a canary and no canary ever becomes an alert. What this does not prove is the
//! microphone itself: the test of its sound does (see [`crate::sound_check`]).

use ecosight_models::detector::DetectorConfig;
use ecosight_models::scene::{
    Air, Chance, Propagation, SHOT_LEAD_SAMPLES, Vegetation, Weapon, WeaponKind, gunshot,
};
use ecosight_models::{Classifier, Detector, DetectorOutput, Event, SAMPLE_RATE_HZ, Windower};

/// Sound before the shot that the twin hears first: what features look back on, and two windows.
pub const CONTEXT: u64 = 7 * SAMPLE_RATE_HZ as u64;
/// Time in which it must be confirmed.
const PATIENCE: u64 = 8 * SAMPLE_RATE_HZ as u64;
/// Highest sample of the shot: loud, as of a rifle near by, and not overdriven.
const PEAK: f32 = 0.5;
/// Distance of the shot, m: far enough to have lost its crack, which the built-in models take for
/// something else in a forest that is made up as well.
const DISTANCE_M: f32 = 500.0;
/// What it must score, if alarms need more: a shot rather than not. A threshold for alarms is higher
/// where false ones are dear, and a synthetic shot is only like a real one.
pub const SCORE: f32 = 0.5;

/// The shot, always the same: whoever looks at a canary knows what it must sound like.
#[must_use]
pub fn shot() -> Vec<f32> {
    let mut chance = Chance::new(2);
    let weapon = Weapon::new(WeaponKind::HuntingRifle);
    let path = Propagation::drawn(DISTANCE_M, Air::default(), Vegetation::RAINFOREST, &mut chance);
    let mut shot = gunshot(&weapon, &path, &mut chance);
    let highest = shot.iter().fold(0.0_f32, |highest, sample| highest.max(sample.abs()));
    for sample in &mut shot {
        *sample *= PEAK / highest.max(f32::MIN_POSITIVE);
    }
    shot
}

/// A canary that is being heard.
pub struct Canary {
    classifier: Classifier,
    windower: Windower,
    detector: Detector,
    shot: Vec<f32>,
    /// Stream position of the shot's first sample.
    start: u64,
    /// Stream position that the twin has heard up to.
    heard: u64,
}

/// How it went.
#[derive(Debug)]
pub enum Outcome {
    /// Not decided yet.
    Open,
    /// It came out.
    Heard(Event),
    /// It did not.
    Missed,
}

impl Canary {
    /// A twin that has heard `context`, the stream's newest sound, which ends at `end`; the shot
    /// comes next.
    #[must_use]
    pub fn new(classifier: Classifier, rules: &DetectorConfig, context: &[f32], end: u64) -> Self {
        let mut windower = classifier.windower();
        windower.reset(end - context.len() as u64);
        let mut rules = rules.clone();
        for rule in &mut rules.rules {
            rule.threshold = rule.threshold.min(SCORE);
        }
        let detector = Detector::new(&rules);
        let shot = shot();
        let mut canary = Self { classifier, windower, detector, shot, start: end, heard: end };
        canary.windower.push(context);
        // What is in the real sound is none of its business.
        let _ = canary.judge();
        canary
    }

    /// Hears the next of the stream, with the shot in it.
    pub fn hear(&mut self, samples: &[f32]) -> Outcome {
        let mut mixed = samples.to_vec();
        let done = (self.heard - self.start) as usize;
        for (sum, sample) in mixed.iter_mut().zip(self.shot.iter().skip(done)) {
            *sum = (*sum + sample).clamp(-1.0, 1.0);
        }
        self.heard += samples.len() as u64;
        self.windower.push(&mixed);
        let muzzle = self.start + SHOT_LEAD_SAMPLES as u64;
        for event in self.judge() {
            // A real event of a moment ago is not the canary.
            if event.alert && event.onset_sample + u64::from(SAMPLE_RATE_HZ) >= muzzle {
                return Outcome::Heard(event);
            }
        }
        if self.heard > self.start + PATIENCE { Outcome::Missed } else { Outcome::Open }
    }

    fn judge(&mut self) -> Vec<Event> {
        let windows: Vec<_> = std::iter::from_fn(|| self.windower.next_window()).collect();
        let Ok(scores) = self.classifier.classify(&windows) else { return Vec::new() };
        let mut events = Vec::new();
        for (window, scores) in windows.iter().zip(&scores) {
            for output in self.detector.push(window, scores) {
                if let DetectorOutput::Confirmed(event) = output {
                    events.push(event);
                }
            }
        }
        events
    }
}
