//! What a scene is asked to be.

use std::ops::RangeInclusive;

use super::{Habitat, Microphone};

/// Settings of a scene. The default is a good demonstration: a rainforest by day in which the first
/// shot falls after a few seconds and others follow about every half a minute.
#[derive(Debug, Clone, PartialEq)]
pub struct SceneConfig {
    /// Equal seeds (and settings) give equal scenes, bit for bit.
    pub seed: u64,
    /// Length, s; `None` never ends.
    pub duration_s: Option<f64>,
    /// Mean rate of shots. A finite scene has exactly this many for its length (a fraction of a shot
    /// is drawn), as far as the gaps leave room; an endless one has them at random times. 0: none.
    pub shots_per_hour: f64,
    /// Onset of the first shot, s, instead of a drawn one; at least 0.5.
    pub first_shot_s: Option<f64>,
    /// Distances of the shots, m; uniform in the logarithm.
    pub distance_m: RangeInclusive<f32>,
    /// Least time from one shot's onset to the next's, s. The rounds of one burst are one shot.
    pub min_gap_s: f64,
    /// Where it plays.
    pub habitat: Habitat,
    /// Whether there are thunder, falling branches, woodpeckers, axes and engines.
    pub distractors: bool,
    /// Level of the whole ambience against the habitat's usual one, dB.
    pub ambience_db: f32,
    /// The recorder's ear.
    pub microphone: Microphone,
}

impl Default for SceneConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            duration_s: None,
            shots_per_hour: 120.0,
            first_shot_s: Some(6.0),
            distance_m: 80.0..=700.0,
            min_gap_s: 12.0,
            habitat: Habitat::Rainforest,
            distractors: true,
            ambience_db: 0.0,
            microphone: Microphone::default(),
        }
    }
}

/// Shots nearer than this are not what a station hears, m.
const NEAREST_M: f32 = 10.0;
/// Shots farther than this are not heard at all, m.
const FARTHEST_M: f32 = 5_000.0;
/// Most shots an hour: one a second.
const MOST_SHOTS_PER_HOUR: f64 = 3_600.0;

/// A setting that no scene can have. The caller shows it to whoever wrote the setting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SceneConfigError {
    /// Length not positive and finite.
    #[error("duration is {0} s: it must be more than 0, or left out for an endless scene")]
    Duration(f64),
    /// Rate of shots out of range.
    #[error("shots_per_hour is {0}: it must be from 0 to {MOST_SHOTS_PER_HOUR}")]
    ShotsPerHour(f64),
    /// First shot before the beginning.
    #[error("first_shot is at {0} s: it must be 0 or more")]
    FirstShot(f64),
    /// Gap negative or not finite.
    #[error("min_gap is {0} s: it must be 0 or more")]
    MinGap(f64),
    /// The gaps leave less room than the rate needs.
    #[error("{shots_per_hour} shots an hour do not fit with {min_gap_s} s between them: lower one of the two")]
    Crowded {
        /// The rate asked for.
        shots_per_hour: f64,
        /// The gap asked for, s.
        min_gap_s: f64,
    },
    /// Distances empty or out of range.
    #[error("distance is {0} to {1} m: it must lie within {NEAREST_M} to {FARTHEST_M} m, the lower end first")]
    Distance(f32, f32),
    /// Ambience level out of range.
    #[error("ambience is {0} dB: it must lie within -60 and 40 dB")]
    Ambience(f32),
    /// Microphone out of range.
    #[error("full scale is {0} dB SPL: it must lie within 60 and 180 dB")]
    FullScale(f32),
}

impl SceneConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// All that no scene can have, in the order of the fields.
    pub fn validate(&self) -> Result<(), Vec<SceneConfigError>> {
        let mut faults = Vec::new();
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        if let Some(duration_s) = self.duration_s
            && !positive(duration_s)
        {
            faults.push(SceneConfigError::Duration(duration_s));
        }
        let rate_fits = (0.0..=MOST_SHOTS_PER_HOUR).contains(&self.shots_per_hour);
        if !rate_fits {
            faults.push(SceneConfigError::ShotsPerHour(self.shots_per_hour));
        }
        if let Some(first_shot_s) = self.first_shot_s
            && !not_negative(first_shot_s)
        {
            faults.push(SceneConfigError::FirstShot(first_shot_s));
        }
        if !not_negative(self.min_gap_s) {
            faults.push(SceneConfigError::MinGap(self.min_gap_s));
        } else if rate_fits && self.shots_per_hour * self.min_gap_s > 3_600.0 {
            faults.push(SceneConfigError::Crowded {
                shots_per_hour: self.shots_per_hour,
                min_gap_s: self.min_gap_s,
            });
        }
        let (near, far) = (*self.distance_m.start(), *self.distance_m.end());
        let range = NEAREST_M..=FARTHEST_M;
        if !(range.contains(&near) && range.contains(&far) && near <= far) {
            faults.push(SceneConfigError::Distance(near, far));
        }
        if !(-60.0..=40.0).contains(&self.ambience_db) {
            faults.push(SceneConfigError::Ambience(self.ambience_db));
        }
        let full_scale = self.microphone.full_scale_spl_db;
        if !(60.0..=180.0).contains(&full_scale) {
            faults.push(SceneConfigError::FullScale(full_scale));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// The nearest settings that a scene can have: [`Scene::new`](super::Scene::new) takes any.
    pub(super) fn tamed(mut self) -> Self {
        let fallback = Self::default();
        let or = |value: f64, other: f64| if value.is_finite() { value } else { other };
        self.duration_s = self.duration_s.map(|s| if s.is_nan() { 0.0 } else { s.max(0.0) });
        self.duration_s = self.duration_s.filter(|s| s.is_finite());
        self.shots_per_hour =
            or(self.shots_per_hour, fallback.shots_per_hour).clamp(0.0, MOST_SHOTS_PER_HOUR);
        self.first_shot_s = self.first_shot_s.filter(|s| s.is_finite()).map(|s| s.max(0.0));
        self.min_gap_s = or(self.min_gap_s, fallback.min_gap_s).max(0.0);
        let meters = |value: f32, other: f32| {
            let value = if value.is_nan() { other } else { value };
            value.clamp(NEAREST_M, FARTHEST_M)
        };
        let near = meters(*self.distance_m.start(), *fallback.distance_m.start());
        let far = meters(*self.distance_m.end(), *fallback.distance_m.end());
        self.distance_m = near..=far.max(near);
        if !self.ambience_db.is_finite() {
            self.ambience_db = 0.0;
        }
        self.ambience_db = self.ambience_db.clamp(-60.0, 40.0);
        let microphone = &mut self.microphone;
        let full_scale = microphone.full_scale_spl_db;
        if !full_scale.is_finite() {
            *microphone = Microphone::default();
        }
        microphone.full_scale_spl_db = microphone.full_scale_spl_db.clamp(60.0, 180.0);
        microphone.high_pass_hz = microphone.high_pass_hz.clamp(5.0, 2_000.0);
        microphone.self_noise_spl_db = microphone.self_noise_spl_db.clamp(-40.0, 100.0);
        self
    }
}
