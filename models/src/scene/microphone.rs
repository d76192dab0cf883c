//! Microphone: sound pressure → samples in ±1, with the recorder's own noise, band and clipping.

use super::{
    air::REFERENCE_PRESSURE_PA,
    chance::Chance,
    filter::{Biquad, OnePole},
};

/// The recorder's microphone and gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Microphone {
    /// Sound pressure level of the loudest sine that is not clipped, dB SPL. 100 dB is a recorder on
    /// high gain, as used for sounds that are far away.
    pub full_scale_spl_db: f32,
    /// The microphone's own noise, dB SPL. MEMS and small electret capsules have 24–32 dB(A).
    pub self_noise_spl_db: f32,
    /// Lower end of its band, Hz.
    pub high_pass_hz: f32,
}

impl Default for Microphone {
    fn default() -> Self {
        Self {
            full_scale_spl_db: 100.0,
            self_noise_spl_db: 29.0,
            high_pass_hz: 45.0,
        }
    }
}

impl Microphone {
    /// Pressure that becomes the sample 1.0, Pa.
    pub fn full_scale_pa(&self) -> f32 {
        pascal(self.full_scale_spl_db) * std::f32::consts::SQRT_2
    }
}

/// Root-mean-square pressure of a level, Pa.
pub(super) fn pascal(spl_db: f32) -> f32 {
    REFERENCE_PRESSURE_PA * 10_f32.powf(spl_db / 20.0)
}

/// Below this the amplifier is linear; above it bends into its rails.
const KNEE: f32 = 0.7;

/// The amplifier's soft overload; never beyond ±1.
#[inline]
fn overload(x: f32) -> f32 {
    let excess = x.abs() - KNEE;
    if excess <= 0.0 {
        return x;
    }
    let room = 1.0 - KNEE;
    (KNEE + room * excess / (excess + room)).copysign(x)
}

/// The running microphone.
#[derive(Debug, Clone)]
pub(super) struct Capsule {
    gain: f32,
    hiss: f32,
    rumble: OnePole,
    high_pass: Biquad,
    low_pass: Biquad,
    chance: Chance,
}

impl Capsule {
    pub(super) fn new(microphone: &Microphone, chance: Chance) -> Self {
        Self {
            gain: 1.0 / microphone.full_scale_pa(),
            hiss: pascal(microphone.self_noise_spl_db),
            rumble: OnePole::low_pass(120.0),
            high_pass: Biquad::high_pass(microphone.high_pass_hz, 0.7),
            low_pass: Biquad::low_pass(7_300.0, 0.6),
            chance,
        }
    }

    /// Pressure in, samples out, in place.
    pub(super) fn record(&mut self, block: &mut [f32]) {
        for sample in block {
            let white = self.chance.white();
            // White with a rise to low frequencies, as amplifiers have.
            let own = self.hiss * (white + 2.0 * self.rumble.run(white));
            let heard = self.low_pass.run(self.high_pass.run(*sample + own));
            *sample = overload(heard * self.gain);
        }
    }
}
