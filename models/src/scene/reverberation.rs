//! Reverberation: the forest's diffuse answer to everything that sings in it.

use super::filter::OnePole;
use crate::SAMPLE_RATE_HZ;

/// Lengths of the delay lines, samples: mutually prime, 23–83 ms, the ways between trunks.
const LENGTHS: [usize; 8] = [367, 439, 557, 631, 769, 887, 1103, 1327];
/// Time in which low frequencies fall by 60 dB, s. Measured in forests: about 1 to 2 s
/// (Sakai, Sato and Ando 1998).
const DECAY_S: f32 = 1.3;
/// The tail is duller than its source: crowns swallow the top, Hz.
const DAMPING_HZ: f32 = 3_800.0;

/// A feedback delay network (Jot and Chaigne 1991) with a Hadamard matrix.
#[derive(Debug, Clone)]
pub(super) struct Reverberation {
    lines: [Vec<f32>; 8],
    places: [usize; 8],
    gains: [f32; 8],
    damping: [OnePole; 8],
}

impl Reverberation {
    pub(super) fn new() -> Self {
        let rate = SAMPLE_RATE_HZ as f32;
        Self {
            lines: LENGTHS.map(|length| vec![0.0; length]),
            places: [0; 8],
            // The Hadamard butterfly below has gain √8.
            gains: LENGTHS
                .map(|length| 10_f32.powf(-3.0 * length as f32 / (rate * DECAY_S)) / 8_f32.sqrt()),
            damping: LENGTHS.map(|_| OnePole::low_pass(DAMPING_HZ)),
        }
    }

    /// Adds the answer to `send` to `out`.
    pub(super) fn add(&mut self, send: &[f32], out: &mut [f32]) {
        for (&send, out) in send.iter().zip(out) {
            let mut v = [0.0_f32; 8];
            #[allow(
                clippy::needless_range_loop,
                reason = "the same index walks several lines of delay"
            )]
            for i in 0..8 {
                v[i] = self.lines[i][self.places[i]];
            }
            *out += 0.35 * (v[0] - v[1] + v[2] - v[3] + v[4] - v[5] + v[6] - v[7]);
            for half in [1, 2, 4] {
                let mut i = 0;
                while i < 8 {
                    for j in i..i + half {
                        let (a, b) = (v[j], v[j + half]);
                        v[j] = a + b;
                        v[j + half] = a - b;
                    }
                    i += 2 * half;
                }
            }
            for i in 0..8 {
                let place = self.places[i];
                self.lines[i][place] = self.damping[i].run(v[i] * self.gains[i]) + send;
                self.places[i] = if place + 1 == LENGTHS[i] { 0 } else { place + 1 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reverberation;

    #[test]
    fn it_dies_away() {
        let mut forest = Reverberation::new();
        let mut send = vec![0.0; 64_000];
        send[0] = 1.0;
        let mut out = vec![0.0; 64_000];
        forest.add(&send, &mut out);
        let power = |range: std::ops::Range<usize>| out[range].iter().map(|v| v * v).sum::<f32>();
        assert!(power(0..8_000) > 0.01);
        assert!(power(24_000..32_000) < power(0..8_000) * 1e-4);
        assert!(power(56_000..64_000) < 1e-6);
    }
}
