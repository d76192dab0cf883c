//! Note: one uninterrupted piece of a call, from its curve of frequency and loudness.

use std::f32::consts::TAU;

use super::chance::Chance;
use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;
/// Partials above this are left out, Hz.
const HIGHEST_HZ: f32 = 7_600.0;

/// A sweep of one voice.
#[derive(Debug, Clone)]
pub(super) struct Note {
    /// Silence before it, s.
    pub(super) gap_s: f32,
    pub(super) length_s: f32,
    /// Frequency at the start, in the middle and at the end, Hz: a parabola in the logarithm.
    pub(super) hz: [f32; 3],
    /// Depth (share of the frequency) and rate of the vibrato, Hz.
    pub(super) vibrato: (f32, f32),
    /// Depth (0–1) and rate of the tremolo, Hz: pulsed calls have depth 1.
    pub(super) tremolo: (f32, f32),
    /// Amplitudes of the harmonics.
    pub(super) partials: Vec<f32>,
    /// Roughness: random walk of the frequency, share of it per √s.
    pub(super) rough: f32,
    /// Share of breath noise.
    pub(super) breath: f32,
    pub(super) loudness: f32,
    /// Share of the length in which it swells; it dies away in the rest of `1 − hold`.
    pub(super) attack: f32,
    pub(super) hold: f32,
}

impl Note {
    /// A pure whistle.
    pub(super) fn whistle(length_s: f32, hz: [f32; 3]) -> Self {
        Self {
            gap_s: 0.0,
            length_s,
            hz,
            vibrato: (0.0, 0.0),
            tremolo: (0.0, 0.0),
            partials: vec![1.0, 0.06, 0.02],
            // No throat holds a pitch or a breath still.
            rough: 0.03,
            breath: 0.03,
            loudness: 1.0,
            attack: 0.15,
            hold: 0.55,
        }
    }

    pub(super) fn after(mut self, gap_s: f32) -> Self {
        self.gap_s = gap_s;
        self
    }

    pub(super) fn with_partials(mut self, partials: &[f32]) -> Self {
        self.partials = partials.to_vec();
        self
    }

    pub(super) fn with_tremolo(mut self, depth: f32, hz: f32) -> Self {
        self.tremolo = (depth, hz);
        self
    }

    pub(super) fn with_vibrato(mut self, depth: f32, hz: f32) -> Self {
        self.vibrato = (depth, hz);
        self
    }

    pub(super) fn with_rough(mut self, rough: f32) -> Self {
        self.rough = rough;
        self
    }

    pub(super) fn at_loudness(mut self, loudness: f32) -> Self {
        self.loudness = loudness;
        self
    }

    pub(super) fn with_shape(mut self, attack: f32, hold: f32) -> Self {
        self.attack = attack;
        self.hold = hold;
        self
    }

    /// Middle frequency, Hz.
    pub(super) fn centre_hz(&self) -> f32 {
        self.hz[1]
    }

    fn envelope(&self, x: f32) -> f32 {
        let smooth = |x: f32| x * x * (3.0 - 2.0 * x);
        let release = (1.0 - self.attack - self.hold).max(0.02);
        if x < self.attack {
            smooth(x / self.attack.max(1e-3))
        } else if x < self.attack + self.hold {
            1.0
        } else {
            smooth(((1.0 - x) / release).clamp(0.0, 1.0))
        }
    }

    fn render(&self, out: &mut Vec<f32>, chance: &mut Chance) {
        out.resize(out.len() + (self.gap_s * RATE).max(0.0) as usize, 0.0);
        let samples = (self.length_s * RATE).max(1.0);
        let [start, middle, end] = self.hz.map(f32::ln);
        let (bend, slope) = (2.0 * (start + end - 2.0 * middle), end - start);
        let total = self.partials.iter().map(|a| a * a).sum::<f32>().sqrt().max(1e-6);
        let step = self.rough / RATE.sqrt();
        let (mut phase, mut wander) = (0.0_f32, 0.0_f32);
        let mut hz = self.hz[0];
        for index in 0..samples as usize {
            let x = index as f32 / samples;
            let time = index as f32 / RATE;
            if index.is_multiple_of(8) {
                let y = x - 0.5;
                let curve = middle + slope * y + bend * y * y;
                hz = curve.exp();
                if self.rough > 0.0 {
                    wander += step * 2.83 * chance.normal() - wander * 0.004;
                    hz *= 1.0 + wander;
                }
                if self.vibrato.0 > 0.0 {
                    hz *= 1.0 + self.vibrato.0 * (TAU * self.vibrato.1 * time).sin();
                }
            }
            phase += hz / RATE;
            if phase >= 1.0 {
                phase -= 1.0;
            }
            let (sin, cos) = sin_cos(phase);
            // Harmonics by sin kx = 2 cos x · sin (k−1)x − sin (k−2)x.
            let (mut before, mut now) = (0.0, sin);
            let mut value = self.breath * chance.white();
            for (number, amplitude) in (1_u8..).zip(&self.partials) {
                if hz * f32::from(number) > HIGHEST_HZ {
                    break;
                }
                value += amplitude * now;
                (before, now) = (now, 2.0 * cos * now - before);
            }
            let mut gain = self.envelope(x) * self.loudness / total;
            if self.tremolo.0 > 0.0 {
                let pulse = 0.5 - 0.5 * sin_cos((self.tremolo.1 * time) % 1.0).1;
                gain *= 1.0 - self.tremolo.0 + self.tremolo.0 * pulse * pulse * (3.0 - 2.0 * pulse);
            }
            out.push(value * gain);
        }
    }
}

/// Sine and cosine of a phase in turns, `[0, 1)`, to 0.001 by parabolas with one correction
/// (a tenth of the time of exact ones, and no machine's own mathematics library).
#[inline]
fn sin_cos(turns: f32) -> (f32, f32) {
    let wave = |turns: f32| {
        let x = 2.0 * turns - 1.0;
        let y = 4.0 * x * (x.abs() - 1.0);
        y * (0.775 + 0.225 * y.abs())
    };
    let quarter = turns + 0.25;
    (wave(turns), wave(if quarter >= 1.0 { quarter - 1.0 } else { quarter }))
}

/// Samples of a phrase; a note's loudness 1 is an amplitude of about 1.
pub(super) fn sing(notes: &[Note], chance: &mut Chance) -> Vec<f32> {
    let mut out = Vec::new();
    for note in notes {
        note.render(&mut out, chance);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Note, sing};
    use crate::scene::chance::Chance;

    #[test]
    fn a_whistle_has_its_pitch_and_length() {
        let phrase = [Note::whistle(0.5, [2000.0; 3])
            .with_partials(&[1.0])
            .with_rough(0.0)
            .after(0.1)];
        let samples = sing(&phrase, &mut Chance::new(1));
        assert!(samples.len().abs_diff(9_600) <= 1);
        assert!(samples[..1_600].iter().all(|&v| v == 0.0));
        let crossings = samples[1_600..]
            .windows(2)
            .filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0)
            .count();
        assert!(crossings.abs_diff(1_000) < 8, "{crossings}");
        assert!(samples.iter().all(|v| v.abs() <= 1.1));
    }
}
