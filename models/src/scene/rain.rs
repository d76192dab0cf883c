//! Rain: showers that come and go, drops on leaves near by, and dripping afterwards.

use std::f32::consts::TAU;

use super::{
    bed::{Bus, Glide, Layer, STEP, STEP_S},
    chance::Chance,
    drift::Drift,
    filter::{Biquad, noise_share},
    microphone::pascal,
};
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;
/// Level of a heavy shower under trees, dB SPL.
const HEAVY_SPL_DB: f32 = 62.0;
/// Drops a second that stand out of the hiss in a heavy shower.
const NEAR_DROPS_PER_S: f64 = 420.0;
/// Drops a second just after a shower.
const DRIPS_PER_S: f64 = 14.0;
/// Time in which the canopy drips dry, s.
const DRIP_DRY_S: f32 = 240.0;
/// Time in which a shower sets in or ends, s.
const ONSET_S: f32 = 25.0;
/// Most drops that sound at once.
const MOST_DROPS: usize = 160;

/// One drop that rings on what it hit: a decaying sine over a short click.
struct Drop {
    wait: usize,
    rotate: (f32, f32),
    state: (f32, f32),
    decay: f32,
    click: f32,
    left: usize,
}

/// How often and how much it rains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Showers {
    /// Mean time between showers, s.
    pub(super) dry_s: f64,
    /// Mean length of a shower, s.
    pub(super) wet_s: f64,
    /// Whether the scene begins in a shower.
    pub(super) begins_wet: bool,
}

pub(super) struct Rain {
    showers: Showers,
    raining: bool,
    change_s: f64,
    force: f32,
    intensity: f32,
    wetness: f32,
    wander: Drift,
    hiss: [(Biquad, f32); 3],
    gain: Glide,
    drops: Vec<Drop>,
    chance: Chance,
}

impl Rain {
    pub(super) fn new(showers: Showers, mut chance: Chance) -> Self {
        let band = |hz: f32, q: f32, db: f32| {
            let gain = pascal(HEAVY_SPL_DB + db) / noise_share(hz, q);
            (Biquad::band_pass(hz, q), gain)
        };
        let raining = showers.begins_wet;
        let mean = if raining { showers.wet_s } else { showers.dry_s };
        Self {
            change_s: chance.wait(mean).max(20.0),
            showers,
            raining,
            force: chance.between(0.3, 1.0),
            intensity: if raining { 0.6 } else { 0.0 },
            // The first minutes may follow a shower.
            wetness: if raining || chance.happens(0.3) { 0.6 } else { 0.0 },
            wander: Drift::new(20.0, STEP_S, chance.split()),
            // The patter of leaves around 1 kHz, the hiss of drops above, a dull floor below.
            hiss: [band(500.0, 0.5, -13.0), band(1_500.0, 0.6, -9.0), band(4_800.0, 0.6, -7.0)],
            gain: Glide::new(0.0),
            drops: Vec::new(),
            chance,
        }
    }

    fn weather(&mut self, now_s: f64) {
        if now_s > self.change_s {
            self.raining = !self.raining;
            let mean = if self.raining { self.showers.wet_s } else { self.showers.dry_s };
            self.change_s = now_s + self.chance.wait(mean).max(30.0);
            if self.raining {
                self.force = self.chance.between(0.2, 1.0);
            }
        }
        let target = if self.raining { self.force } else { 0.0 };
        self.intensity += (target - self.intensity) * STEP_S / ONSET_S;
        if self.intensity > self.wetness {
            self.wetness += (self.intensity - self.wetness) * STEP_S / 30.0;
        } else {
            self.wetness -= self.wetness * STEP_S / DRIP_DRY_S;
        }
    }

    fn let_fall(&mut self, rate_per_s: f64, low_hz: f32, high_hz: f32, spl_db: f32) {
        let mut time = self.chance.wait(1.0 / rate_per_s.max(1e-6));
        while time < f64::from(STEP_S) && self.drops.len() < MOST_DROPS {
            let hz = self.chance.between_log(low_hz, high_hz);
            // Most drops fall far off: a heavy tail of loudness.
            let level = spl_db - self.chance.between(0.0, 1.0).sqrt() * 30.0;
            let amplitude = pascal(level);
            let ring_s = self.chance.between_log(0.0008, 0.007);
            let (sin, cos) = (TAU * hz / RATE).sin_cos();
            let (y, x) = (self.chance.between(0.0, TAU)).sin_cos();
            self.drops.push(Drop {
                wait: (time * f64::from(RATE)) as usize,
                rotate: (cos, sin),
                state: (amplitude * x, amplitude * y),
                decay: (-1.0 / (ring_s * RATE)).exp(),
                click: amplitude * self.chance.between(0.2, 1.4),
                left: (ring_s * RATE * 7.0) as usize,
            });
            time += self.chance.wait(1.0 / rate_per_s);
        }
    }
}

impl Layer for Rain {
    fn add(&mut self, start: u64, bus: &mut Bus) {
        self.weather(start as f64 / f64::from(RATE));
        let force = self.intensity * (0.7 + 0.6 * self.wander.step());
        if force > 1e-3 {
            self.let_fall(NEAR_DROPS_PER_S * f64::from(force), 900.0, 6_500.0, 72.0);
        }
        let dripping = (self.wetness - 0.6 * self.intensity).max(0.0);
        if dripping > 1e-3 {
            self.let_fall(DRIPS_PER_S * f64::from(dripping * dripping), 500.0, 3_500.0, 66.0);
        }

        let target = force.max(0.0).powf(0.8);
        if target > 1e-4 {
            for (gain, out) in self.gain.toward(target).zip(&mut bus.dry) {
                let white = self.chance.white() * gain;
                for (band, level) in &mut self.hiss {
                    *out += *level * band.run(white);
                }
            }
        }
        for drop in &mut self.drops {
            let from = drop.wait.min(STEP);
            drop.wait -= from;
            for (dry, wet) in bus.dry[from..].iter_mut().zip(&mut bus.wet[from..]) {
                if drop.left == 0 {
                    break;
                }
                let (re, im) = drop.state;
                let (cos, sin) = drop.rotate;
                let value = im + drop.click;
                *dry += value;
                *wet += value * 0.15;
                drop.click *= -0.35;
                drop.state = ((re * cos - im * sin) * drop.decay, (re * sin + im * cos) * drop.decay);
                drop.left -= 1;
            }
        }
        self.drops.retain(|drop| drop.left > 0);
    }
}
