//! Small recursive filters at the scene's rate.

use std::f32::consts::TAU;

use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;
/// No corner goes above this share of the rate, where the bilinear transform folds up.
const TOP: f32 = 0.47;

/// First-order low pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnePole {
    pull: f32,
    state: f32,
}

impl OnePole {
    pub(super) fn low_pass(hz: f32) -> Self {
        Self {
            pull: 1.0 - (-TAU * hz.min(RATE * TOP) / RATE).exp(),
            state: 0.0,
        }
    }

    /// Moves the corner and keeps the state.
    pub(super) fn retune(&mut self, hz: f32) {
        self.pull = Self::low_pass(hz).pull;
    }

    #[inline]
    pub(super) fn run(&mut self, x: f32) -> f32 {
        self.state += self.pull * (x - self.state);
        self.state
    }
}

/// Second-order section, transposed direct form II, with the responses of the Audio EQ Cookbook
/// (Bristow-Johnson).
#[derive(Debug, Clone, Copy)]
pub(super) struct Biquad {
    b: [f32; 3],
    a: [f32; 2],
    s: [f32; 2],
}

impl Biquad {
    fn new(b: [f32; 3], a: [f32; 3]) -> Self {
        Self {
            b: b.map(|v| v / a[0]),
            a: [a[1] / a[0], a[2] / a[0]],
            s: [0.0; 2],
        }
    }

    fn angle(hz: f32, q: f32) -> (f32, f32) {
        let w = TAU * hz.clamp(1.0, RATE * TOP) / RATE;
        (w.cos(), w.sin() / (2.0 * q))
    }

    pub(super) fn low_pass(hz: f32, q: f32) -> Self {
        let (c, alpha) = Self::angle(hz, q);
        let b = (1.0 - c) / 2.0;
        Self::new([b, 1.0 - c, b], [1.0 + alpha, -2.0 * c, 1.0 - alpha])
    }

    pub(super) fn high_pass(hz: f32, q: f32) -> Self {
        let (c, alpha) = Self::angle(hz, q);
        let b = f32::midpoint(1.0, c);
        Self::new([b, -1.0 - c, b], [1.0 + alpha, -2.0 * c, 1.0 - alpha])
    }

    /// Band pass with unit gain at its centre.
    pub(super) fn band_pass(hz: f32, q: f32) -> Self {
        let (c, alpha) = Self::angle(hz, q);
        Self::new([alpha, 0.0, -alpha], [1.0 + alpha, -2.0 * c, 1.0 - alpha])
    }

    #[inline]
    pub(super) fn run(&mut self, x: f32) -> f32 {
        let y = self.b[0] * x + self.s[0];
        self.s[0] = self.b[1] * x - self.a[0] * y + self.s[1];
        self.s[1] = self.b[2] * x - self.a[1] * y;
        y
    }
}

/// Root mean square that white noise of unit variance keeps behind [`Biquad::band_pass`]. That filter
/// is half of one minus an all-pass, so its power is half of one minus the all-pass's first
/// coefficient: α/(1+α) exactly.
pub(super) fn noise_share(hz: f32, q: f32) -> f32 {
    let (_, alpha) = Biquad::angle(hz, q);
    (alpha / (1.0 + alpha)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::{Biquad, noise_share};
    use crate::scene::chance::Chance;

    #[test]
    fn the_noise_share_is_what_a_band_pass_lets_through() {
        for (hz, q) in [(600.0, 2.0), (2500.0, 8.0), (4000.0, 20.0)] {
            let (mut chance, mut band) = (Chance::new(5), Biquad::band_pass(hz, q));
            let n = 160_000;
            let power: f32 = (0..n).map(|_| band.run(chance.white()).powi(2)).sum::<f32>() / n as f32;
            let ratio = power.sqrt() / noise_share(hz, q);
            assert!((0.97..1.03).contains(&ratio), "{hz} Hz, q {q}: {ratio}");
        }
    }
}
