//! Small synthetic sounds, the same on every machine, by which a model is recognised.

use std::str::FromStr;

use crate::SAMPLE_RATE_HZ;

/// A kind of sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sound {
    /// White noise that swells and fades.
    Noise,
    /// A tone that rises from 200 Hz to 6 kHz, with overtones.
    Sweep,
    /// Decaying bursts of noise at random moments: claps, cracks, drops.
    Bursts,
    /// A hum of many harmonics with slow beats: an engine.
    Hum,
    /// Short whistled glides, one after the other: birds.
    Chirps,
}

impl Sound {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Noise, Self::Sweep, Self::Bursts, Self::Hum, Self::Chirps];

    /// Its name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Sweep => "sweep",
            Self::Bursts => "bursts",
            Self::Hum => "hum",
            Self::Chirps => "chirps",
        }
    }

    /// `seconds` of it, 16 kHz mono, in −1 to 1. Equal arguments give equal samples up to the last
    /// digits of the platform's sine and exponential.
    #[must_use]
    pub fn render(self, seed: u64, seconds: f32) -> Vec<f32> {
        let rate = SAMPLE_RATE_HZ as f32;
        let samples = (seconds.max(0.0) * rate) as usize;
        let mut noise = SplitMix(seed ^ 0x5eed_0000_0000_0000 ^ self as u64);
        let t = |i: usize| i as f32 / rate;
        match self {
            Self::Noise => (0..samples)
                .map(|i| noise.bipolar() * (0.05 + 0.25 * (0.5 - 0.5 * turn(0.7 * t(i) + 0.25))))
                .collect(),
            Self::Sweep => {
                let mut phase = noise.unit();
                (0..samples)
                    .map(|i| {
                        let along = i as f32 / samples.max(1) as f32;
                        phase = (phase + 200.0 * 30_f32.powf(along) / rate).fract();
                        0.25 * turn(phase) + 0.1 * turn(2.0 * phase) + 0.05 * turn(3.0 * phase)
                    })
                    .collect()
            }
            Self::Bursts => {
                let mut sound = vec![0.0; samples];
                let mut start = (0.1 * rate) as usize;
                while start < samples {
                    let decay_s = 0.004 + 0.06 * noise.unit();
                    let peak = 0.2 + 0.6 * noise.unit();
                    let mut smooth = 0.0;
                    let dullness = 0.9 * noise.unit();
                    for (i, sample) in sound[start..].iter_mut().enumerate() {
                        smooth = dullness * smooth + (1.0 - dullness) * noise.bipolar();
                        *sample += peak * smooth * (-t(i) / decay_s).exp();
                    }
                    start += ((0.15 + 0.45 * noise.unit()) * rate) as usize;
                }
                sound.iter_mut().for_each(|s| *s = s.clamp(-1.0, 1.0) + 1e-4 * noise.bipolar());
                sound
            }
            Self::Hum => {
                let base_hz = 40.0 + 40.0 * noise.unit();
                let phases: Vec<f32> = (0..24).map(|_| noise.unit()).collect();
                (0..samples)
                    .map(|i| {
                        let tone: f32 = phases
                            .iter()
                            .zip(1_u8..)
                            .map(|(p, k)| turn(base_hz * f32::from(k) * t(i) + p) / f32::from(k))
                            .sum();
                        0.15 * tone * (1.0 + 0.4 * turn(3.1 * t(i))) + 0.01 * noise.bipolar()
                    })
                    .collect()
            }
            Self::Chirps => {
                let mut sound = Vec::with_capacity(samples);
                while sound.len() < samples {
                    let length = ((0.05 + 0.15 * noise.unit()) * rate) as usize;
                    let (from_hz, to_hz) =
                        (2000.0 + 4000.0 * noise.unit(), 2000.0 + 4000.0 * noise.unit());
                    let mut phase = 0.0_f32;
                    for i in 0..length {
                        let along = i as f32 / length as f32;
                        phase = (phase + (from_hz + (to_hz - from_hz) * along) / rate).fract();
                        let swell = turn(0.5 * along);
                        sound.push(0.4 * swell * turn(phase) + 0.002 * noise.bipolar());
                    }
                    let pause = ((0.03 + 0.1 * noise.unit()) * rate) as usize;
                    sound.extend((0..pause).map(|_| 0.002 * noise.bipolar()));
                }
                sound.truncate(samples);
                sound
            }
        }
    }
}

impl FromStr for Sound {
    type Err = UnknownSound;

    fn from_str(text: &str) -> Result<Self, UnknownSound> {
        Self::ALL.into_iter().find(|sound| sound.name() == text).ok_or(UnknownSound)
    }
}

/// A name that is no [`Sound`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected noise, sweep, bursts, hum or chirps")]
pub struct UnknownSound;

/// Sine of so many full turns.
fn turn(turns: f32) -> f32 {
    (std::f32::consts::TAU * turns.fract()).sin()
}

/// SplitMix64 (Steele, Lea, Flood 2014): its whole definition fits here, so that the sounds do not
/// depend on the version of a crate.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0 to 1, 1 excluded, 24 bits.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }

    fn bipolar(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }
}
