//! Path: scene → blocks of sound → windows, in place of a microphone.
//!
//! The scene synthesiser: a forest and the shots in it, made from physics and a seed. It is what
//! the project ships instead of recordings. A [`Scene`] gives 16 kHz mono blocks for as long as
//! asked, in constant memory, and lists in [`Scene::truth`] what can be heard in them;
//! [`gunshot`] gives one shot by itself, to be mixed into other sound.
//!
//! All sound is pressure in pascal until the [`Microphone`] makes samples of it. Levels in dBFS are
//! 20·log₁₀ of the root mean square, 0 dB being the sample 1.0.

mod air;
mod bed;
mod birds;
mod callers;
mod chance;
pub mod cli;
mod config;
mod drift;
mod engine;
mod events;
mod filter;
mod frogs;
mod ground;
mod habitat;
mod hush;
mod insects;
mod microphone;
mod note;
mod plan;
mod primates;
mod propagation;
mod rain;
mod reverberation;
mod shot;
mod thunder;
mod weapon;
mod wind;
mod wood;

use std::collections::VecDeque;

use serde::Serialize;

pub use air::Air;
pub use chance::Chance;
pub use config::{SceneConfig, SceneConfigError};
pub use engine::EngineKind;
pub use habitat::{Habitat, UnknownHabitat};
pub use microphone::Microphone;
pub use propagation::{Propagation, Ridge, Vegetation};
pub use shot::{SHOT_LEAD_SAMPLES, gunshot, gunshot_rounds};
pub use weapon::{Bullet, Weapon, WeaponKind};

use crate::SAMPLE_RATE_HZ;
use bed::{Bus, Layer, STEP, STEP_S};
use events::Events;
use microphone::{Capsule, pascal};
use reverberation::Reverberation;

/// An endless scene remembers this many events; a finite one all.
const MOST_REMEMBERED: usize = 4_096;
/// Steps that are made and thrown away before the first: filters and echoes are at work by then.
const WARM_UP_STEPS: u64 = (2.0 / STEP_S) as u64;

/// What made a sound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "sound", rename_all = "snake_case")]
pub enum SceneSound {
    /// One pull of a trigger, or a burst.
    GunShot {
        /// The weapon.
        weapon: WeaponKind,
        /// Distance, m.
        distance_m: f32,
        /// Rounds fired; the onset is that of the first.
        rounds: u8,
    },
    /// Thunder; its distance in m.
    Thunder {
        /// Distance of the nearest part of the lightning at the ground, m.
        distance_m: f32,
    },
    /// A breaking branch or a falling tree.
    BranchBreak {
        /// Distance, m.
        distance_m: f32,
    },
    /// A woodpecker's drum roll.
    Woodpecker {
        /// Distance, m.
        distance_m: f32,
    },
    /// Blows of an axe or a machete.
    Chops {
        /// Distance, m.
        distance_m: f32,
        /// How many.
        blows: u8,
    },
    /// An engine that passes or works.
    Engine {
        /// What kind.
        engine: EngineKind,
        /// Distance where it is nearest, m.
        distance_m: f32,
    },
}

impl SceneSound {
    /// Whether it is a gunshot.
    pub fn is_shot(&self) -> bool {
        matches!(self, Self::GunShot { .. })
    }
}

/// One entry of the ground truth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SceneEvent {
    /// What it is.
    #[serde(flatten)]
    pub kind: SceneSound,
    /// When it begins, s from the start of the scene. For a shot: when the muzzle blast arrives; a
    /// bullet's shock wave may come up to 0.4 s earlier.
    pub onset_s: f64,
    /// When it has fallen 25 dB under its loudest for good, s.
    pub end_s: f64,
    /// Level of its loudest 20 ms by itself, dBFS; above about −3 the samples clip. For an engine
    /// the level where it is nearest.
    pub level_dbfs: f32,
    /// Level of its loudest 20 ms over the median of the ambience in the 5 s before, both within
    /// 100–1500 Hz, dB: the number that decides whether a distant shot can be heard. Negative:
    /// it drowns.
    pub transient_snr_db: f32,
}

/// A running scene.
pub struct Scene {
    config: SceneConfig,
    /// Samples of the whole scene.
    end: Option<u64>,
    /// Samples given out.
    position: u64,
    /// Samples of the step at hand that were given out.
    taken: usize,
    bus: Bus,
    bed: Vec<Box<dyn Layer>>,
    ambience_gain: f32,
    reverberation: Reverberation,
    events: Events,
    capsule: Capsule,
    pending: VecDeque<SceneEvent>,
    truth: Vec<SceneEvent>,
}

impl Scene {
    /// A scene at its beginning. Settings that no scene can have are moved to the nearest that one
    /// can; use [`SceneConfig::validate`] first where somebody wrote them.
    pub fn new(config: SceneConfig) -> Self {
        let config = config.tamed();
        let own_noise = pascal(config.microphone.self_noise_spl_db);
        let mut scene = Self {
            end: config
                .duration_s
                .map(|s| (s * f64::from(SAMPLE_RATE_HZ)).round() as u64),
            position: 0,
            taken: 0,
            bus: Bus::new(),
            bed: config.habitat.bed(config.seed),
            ambience_gain: 10_f32.powf(config.ambience_db / 20.0),
            reverberation: Reverberation::new(),
            events: Events::new(&config, own_noise),
            capsule: Capsule::new(
                &config.microphone,
                Chance::for_part(config.seed, "microphone"),
            ),
            pending: VecDeque::new(),
            truth: Vec::new(),
            config,
        };
        for step in 0..WARM_UP_STEPS {
            scene.ambience(step * STEP as u64);
            scene.events.listen(&scene.bus.dry);
            scene.capsule.record(&mut scene.bus.dry);
        }
        scene.taken = STEP;
        scene
    }

    /// Its settings.
    pub fn config(&self) -> &SceneConfig {
        &self.config
    }

    /// Samples given out so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fills `out` with the next samples, 16 kHz mono within ±1, and says how many: fewer than asked
    /// for, and then none, where a finite scene ends.
    pub fn render(&mut self, out: &mut [f32]) -> usize {
        let left = self.end.map_or(u64::MAX, |end| end - self.position);
        let wanted = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < wanted {
            if self.taken == STEP {
                self.step();
            }
            let count = (wanted - done).min(STEP - self.taken);
            out[done..done + count]
                .copy_from_slice(&self.bus.dry[self.taken..self.taken + count]);
            self.taken += count;
            self.position += count as u64;
            done += count;
        }
        self.publish();
        done
    }

    /// Events whose onset has been given out, in order. A finite scene keeps all of them, an endless
    /// one the last 4096.
    pub fn truth(&self) -> &[SceneEvent] {
        &self.truth
    }

    /// One step of ambience, with its echoes, into the bus.
    fn ambience(&mut self, clock: u64) {
        self.bus.clear();
        for layer in &mut self.bed {
            layer.add(clock, &mut self.bus);
        }
        if self.ambience_gain != 1.0 {
            let gain = self.ambience_gain;
            let samples = self.bus.dry.iter_mut().chain(&mut self.bus.wet);
            samples.for_each(|sample| *sample *= gain);
        }
        let Bus { dry, wet } = &mut self.bus;
        self.reverberation.add(wet, dry);
    }

    fn step(&mut self) {
        let start = self.position;
        // The bed's clock runs on from the warm-up.
        self.ambience(start + WARM_UP_STEPS * STEP as u64);
        self.events.listen(&self.bus.dry);
        self.events
            .add(start, &mut self.bus.dry, &mut self.pending);
        self.capsule.record(&mut self.bus.dry);
        self.taken = 0;
    }

    /// Lists what has begun within the samples given out.
    fn publish(&mut self) {
        while let Some(event) = self.pending.front() {
            if event.onset_s * f64::from(SAMPLE_RATE_HZ) >= self.position as f64 {
                break;
            }
            self.truth.extend(self.pending.pop_front());
        }
        if self.end.is_none() && self.truth.len() > MOST_REMEMBERED {
            self.truth.drain(..self.truth.len() - MOST_REMEMBERED);
        }
    }
}
