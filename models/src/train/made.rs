//! Path: the scene synthesiser → this → sounds to learn from that nobody recorded
//!
//! Recordings are short of what a station hears most: a shot with the whole band of a forest's
//! animals behind it. Scenes and shots made from physics have that, with their truth known to the
//! sample. They are learnt from and never judged on.

use super::material::Rendered;
use crate::SAMPLE_RATE_HZ;
use crate::scene::{Chance, Habitat, Propagation, Scene, SceneConfig, Weapon, gunshot};

/// Part of the cache key of all that is made here: raise it when any of it sounds different.
pub(super) const MADE_VERSION: u32 = 1;

/// Length of one scene.
pub(crate) const SCENE_S: f64 = 60.0;
/// Shots that stand out less than this are no examples: nobody could hear them, dB.
const FAINTEST_SHOT_DB: f32 = 8.0;
/// Distances of single shots, m.
const SHOT_M: (f32, f32) = (60.0, 1_200.0);

/// A minute of synthetic forest with shots.
pub(crate) struct MadeScene {
    /// 16 kHz mono.
    pub(crate) samples: Vec<f32>,
    /// Onsets in samples, and whether the shot can be heard.
    shots: Vec<(u64, bool)>,
}

impl MadeScene {
    /// The scene of this number; habitats take turns.
    pub(crate) fn new(number: u32, seed: u64) -> Self {
        let habitats = Habitat::ALL;
        let mut scene = Scene::new(SceneConfig {
            // Far from the seeds that people and tests choose.
            seed: 0x5ce_0000_0000 + seed * 0x1_0000 + u64::from(number),
            duration_s: Some(SCENE_S),
            shots_per_hour: 360.0,
            min_gap_s: 6.0,
            habitat: habitats[number as usize % habitats.len()],
            ..SceneConfig::default()
        });
        let samples = rendered(&mut scene, SCENE_S);
        let shots = scene
            .truth()
            .iter()
            .filter(|event| event.kind.is_shot())
            .map(|event| {
                let onset = (event.onset_s * f64::from(SAMPLE_RATE_HZ)) as u64;
                (onset, event.transient_snr_db >= FAINTEST_SHOT_DB)
            })
            .collect();
        Self { samples, shots }
    }

    /// Which windows are examples, without the sound: those that hold a shot which can be heard,
    /// or with `shots` false those that are far from all shots.
    pub(crate) fn marks(&self, shots: bool) -> Rendered {
        let audible = |(at, audible): &(u64, bool)| audible.then_some(*at);
        Rendered {
            samples: Vec::new(),
            keep_from: 0,
            onsets: if shots {
                self.shots.iter().filter_map(audible).collect()
            } else {
                Vec::new()
            },
            ends: false,
            only_onsets: shots,
            apart_from: match shots {
                true => Vec::new(),
                false => self.shots.iter().map(|(at, _)| *at).collect(),
            },
        }
    }
}

/// So much of a synthetic forest without shots.
pub(super) fn ambience(seconds: f32, chance: &mut Chance) -> Vec<f32> {
    let mut scene = Scene::new(SceneConfig {
        seed: chance.bits(),
        duration_s: Some(f64::from(seconds)),
        shots_per_hour: 0.0,
        first_shot_s: None,
        habitat: drawn_habitat(chance),
        distractors: false,
        ..SceneConfig::default()
    });
    rendered(&mut scene, f64::from(seconds))
}

/// One pull of a trigger by a drawn weapon from a drawn place, Pa.
pub(super) fn shot(chance: &mut Chance) -> Vec<f32> {
    let habitat = drawn_habitat(chance);
    let weapon = Weapon::drawn(chance);
    let distance_m = chance.between_log(SHOT_M.0, SHOT_M.1);
    let path = Propagation::drawn(distance_m, habitat.air(), habitat.vegetation(), chance);
    gunshot(&weapon, &path, chance)
}

fn drawn_habitat(chance: &mut Chance) -> Habitat {
    let last = Habitat::ALL.len() as u32 - 1;
    Habitat::ALL[chance.whole(0, last) as usize]
}

fn rendered(scene: &mut Scene, seconds: f64) -> Vec<f32> {
    let mut samples = vec![0.0; (seconds * f64::from(SAMPLE_RATE_HZ)) as usize];
    let count = scene.render(&mut samples);
    samples.truncate(count);
    samples
}
