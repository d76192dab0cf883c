//! Engine: motorcycles and trucks that pass, chainsaws that cut.

use serde::{Deserialize, Serialize};

use super::{
    bed::{STEP, STEP_S},
    chance::Chance,
    drift::Drift,
    filter::{Biquad, OnePole},
    microphone::pascal,
    propagation::Vegetation,
};
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;

/// A kind of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// Small four-stroke motorcycle that passes.
    Motorcycle,
    /// Diesel truck on a forest road.
    Truck,
    /// Chainsaw at work.
    Chainsaw,
}

/// One engine from its coming to its going. It is made step by step: it may last minutes.
pub(super) struct Engine {
    kind: EngineKind,
    start: u64,
    length: u64,
    closest_m: f32,
    speed_m_s: f32,
    phase: f32,
    pulse: f32,
    firing_hz: f32,
    throttle: f32,
    throttle_aim: f32,
    next_throttle_s: f32,
    load: Drift,
    muffler: [Biquad; 3],
    far: [OnePole; 2],
    rumble: f32,
    vegetation: Vegetation,
    chance: Chance,
}

impl Engine {
    pub(super) fn new(start: u64, vegetation: Vegetation, mut chance: Chance) -> Self {
        let kind = match chance.unit() {
            x if x < 0.4 => EngineKind::Motorcycle,
            x if x < 0.65 => EngineKind::Truck,
            _ => EngineKind::Chainsaw,
        };
        let (length_s, closest_m, speed_m_s, bands) = match kind {
            EngineKind::Motorcycle => (
                chance.between(25.0, 60.0),
                chance.between_log(25.0, 250.0),
                chance.between(6.0, 13.0),
                [(170.0, 1.2), (520.0, 1.5), (1_500.0, 1.0)],
            ),
            EngineKind::Truck => (
                chance.between(40.0, 90.0),
                chance.between_log(40.0, 300.0),
                chance.between(4.0, 9.0),
                [(80.0, 1.0), (240.0, 1.2), (900.0, 0.8)],
            ),
            EngineKind::Chainsaw => (
                chance.between(20.0, 80.0),
                chance.between_log(60.0, 400.0),
                0.0,
                [(360.0, 1.2), (950.0, 1.4), (2_600.0, 0.9)],
            ),
        };
        let scale = chance.between_log(0.85, 1.18);
        Self {
            kind,
            start,
            length: (length_s * RATE) as u64,
            closest_m,
            speed_m_s,
            phase: 0.0,
            pulse: 0.0,
            firing_hz: 40.0,
            throttle: 0.3,
            throttle_aim: 0.5,
            next_throttle_s: 0.0,
            load: Drift::new(2.0, STEP_S, chance.split()),
            muffler: bands.map(|(hz, q)| Biquad::band_pass(hz * scale, q)),
            far: [OnePole::low_pass(1_000.0); 2],
            rumble: 0.0,
            vegetation,
            chance,
        }
    }

    pub(super) fn kind(&self) -> EngineKind {
        self.kind
    }

    pub(super) fn closest_m(&self) -> f32 {
        self.closest_m
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Level where it is nearest, dB SPL.
    pub(super) fn spl_db(&self) -> f32 {
        self.level_at(self.closest_m)
    }

    /// Levels at one metre from pass-by limits (about 80 dB at 7.5 m for vehicles) and operator
    /// manuals (about 112 dB for chainsaws).
    fn level_at(&self, distance_m: f32) -> f32 {
        let at_1m = match self.kind {
            EngineKind::Motorcycle => 99.0,
            EngineKind::Truck => 101.0,
            EngineKind::Chainsaw => 110.0,
        };
        at_1m - 20.0 * distance_m.log10() - self.vegetation.loss_db_per_m_khz * 0.35 * distance_m
    }

    fn drive(&mut self, since_s: f32) {
        if since_s >= self.next_throttle_s {
            let idle = self.throttle_aim < 0.3;
            let (aim, hold) = match self.kind {
                EngineKind::Chainsaw if idle => (self.chance.between(0.8, 1.0), self.chance.between(2.0, 9.0)),
                EngineKind::Chainsaw => (self.chance.between(0.0, 0.25), self.chance.between(0.7, 3.5)),
                _ => (self.chance.between(0.35, 0.95), self.chance.between(2.0, 7.0)),
            };
            self.throttle_aim = aim;
            self.next_throttle_s = since_s + hold;
        }
        let ease = if self.kind == EngineKind::Chainsaw { 0.25 } else { 0.9 };
        self.throttle += (self.throttle_aim - self.throttle) * (STEP_S / ease).min(1.0);
        let load = 0.94 + 0.12 * self.load.step();
        // Firings a second: one cylinder of four strokes at 2000–7000 turns a minute, four
        // cylinders at 900–2300, one of two strokes at 3000–12500.
        let (idle, full) = match self.kind {
            EngineKind::Motorcycle => (17.0, 58.0),
            EngineKind::Truck => (30.0, 76.0),
            EngineKind::Chainsaw => (50.0, 208.0),
        };
        self.firing_hz = (idle + (full - idle) * self.throttle) * load;
    }

    /// Adds its part of the step that begins at sample `start`.
    pub(super) fn add(&mut self, start: u64, out: &mut [f32; STEP]) {
        let since_s = start.saturating_sub(self.start) as f32 / RATE;
        let length_s = self.length as f32 / RATE;
        self.drive(since_s);
        let aside = self.speed_m_s * (since_s - length_s / 2.0);
        let distance = self.closest_m.hypot(aside);
        let corner = 5_000.0 / (self.vegetation.loss_db_per_m_khz * distance).max(0.7);
        for filter in &mut self.far {
            filter.retune(corner);
        }
        let fade = (since_s / 4.0).min((length_s - since_s) / 4.0).clamp(0.0, 1.0);
        let target = pascal(self.level_at(distance)) * fade * (0.3 + 0.7 * self.throttle) * 4.0;
        let slope = (target - self.rumble) / STEP as f32;
        let step = self.firing_hz / RATE;
        let width = (-self.firing_hz * 6.0 / RATE).exp();
        for sample in out {
            self.rumble += slope;
            self.phase += step;
            if self.phase >= 1.0 {
                self.phase -= 1.0;
                self.pulse += 1.0 + 0.14 * self.chance.white();
            }
            self.pulse *= width;
            let blow = self.pulse * (1.0 + 0.25 * self.chance.white()) - 0.15;
            let [low, middle, high] = &mut self.muffler;
            let body = low.run(blow) + 0.8 * middle.run(blow) + 0.5 * high.run(blow);
            *sample += self.far.iter_mut().fold(body, |x, filter| filter.run(x)) * self.rumble;
        }
    }
}
