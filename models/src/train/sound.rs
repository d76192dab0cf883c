//! Measures and changes of short sounds, 16 kHz mono, for training data.
//!
//! Pure functions of samples and a random generator; nothing reads a file.

use std::f32::consts::{PI, TAU};

use rand::{Rng, RngExt};

use crate::SAMPLE_RATE_HZ;

const RATE: f32 = SAMPLE_RATE_HZ as f32;
/// 20 ms, the length over which a transient's level is taken.
const FRAME: usize = SAMPLE_RATE_HZ as usize / 50;
/// 10 ms between two such levels.
const FRAME_STEP: usize = FRAME / 2;
/// The band in which a shot is looked for: its body survives distance and any recorder.
const BODY_HZ: (f32, f32) = (100.0, 1500.0);

/// Where a clip is loudest in the body band, and what it is loud against.
#[derive(Clone, Debug)]
pub struct Loudness {
    /// First sample of the loudest 20 ms.
    pub peak: usize,
    /// RMS of those 20 ms.
    pub peak_rms: f32,
    /// Median RMS over the clip.
    pub median_rms: f32,
    /// RMS of each 20 ms, every 10 ms.
    pub levels: Vec<f32>,
}

impl Loudness {
    /// Measures a clip; `None` when it is shorter than 20 ms or digital silence.
    pub fn of(samples: &[f32]) -> Option<Self> {
        let body = body_band(samples);
        let levels: Vec<f32> = body.windows(FRAME).step_by(FRAME_STEP).map(rms).collect();
        let (index, &peak_rms) =
            levels.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?;
        let mut ordered = levels.clone();
        ordered.sort_by(f32::total_cmp);
        let median_rms = ordered[ordered.len() / 2].max(1e-7);
        (peak_rms > 1e-6).then_some(Self { peak: index * FRAME_STEP, peak_rms, median_rms, levels })
    }

    /// Transient signal-to-noise ratio: loudest 20 ms over the median, dB.
    pub fn snr_db(&self) -> f32 {
        20.0 * (self.peak_rms / self.median_rms).log10()
    }

    /// First samples of the 20 ms that are at most `below_db` under the loudest.
    pub fn loud_frames(&self, below_db: f32) -> impl Iterator<Item = usize> {
        let edge = self.peak_rms * amplitude(-below_db);
        self.levels
            .iter()
            .enumerate()
            .filter(move |(_, level)| **level >= edge)
            .map(|(index, _)| index * FRAME_STEP)
    }
}

/// Ratio of amplitudes of so many dB.
pub fn amplitude(db: f32) -> f32 {
    10f32.powf(db / 20.0)
}

/// Root mean square; 0 for nothing.
pub fn rms(samples: &[f32]) -> f32 {
    if samples.is_empty() {
        return 0.0;
    }
    (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
}

/// Multiplies by so many dB.
pub fn gain(samples: &mut [f32], db: f32) {
    let factor = amplitude(db);
    samples.iter_mut().for_each(|sample| *sample *= factor);
}

/// Second-order section, transposed direct form II.
#[derive(Clone, Copy)]
struct Biquad {
    b: [f32; 3],
    a: [f32; 2],
}

impl Biquad {
    /// Butterworth low pass at `hz`.
    fn low_pass(hz: f32) -> Self {
        let (cos, alpha) = Self::corner(hz);
        let a0 = 1.0 + alpha;
        let b1 = (1.0 - cos) / a0;
        Self { b: [b1 / 2.0, b1, b1 / 2.0], a: [-2.0 * cos / a0, (1.0 - alpha) / a0] }
    }

    /// Butterworth high pass at `hz`.
    fn high_pass(hz: f32) -> Self {
        let (cos, alpha) = Self::corner(hz);
        let a0 = 1.0 + alpha;
        let b1 = -(1.0 + cos) / a0;
        Self { b: [-b1 / 2.0, b1, -b1 / 2.0], a: [-2.0 * cos / a0, (1.0 - alpha) / a0] }
    }

    fn corner(hz: f32) -> (f32, f32) {
        let omega = TAU * (hz / RATE).clamp(1e-4, 0.49);
        (omega.cos(), omega.sin() / std::f32::consts::SQRT_2)
    }

    fn run(self, samples: &mut [f32]) {
        let (mut z1, mut z2) = (0.0, 0.0);
        for sample in samples {
            let input = *sample;
            let output = self.b[0] * input + z1;
            z1 = self.b[1] * input - self.a[0] * output + z2;
            z2 = self.b[2] * input - self.a[1] * output;
            *sample = output;
        }
    }
}

fn body_band(samples: &[f32]) -> Vec<f32> {
    let mut band = samples.to_vec();
    Biquad::high_pass(BODY_HZ.0).run(&mut band);
    Biquad::low_pass(BODY_HZ.1).run(&mut band);
    band
}

/// Low pass of 12 dB per octave.
pub fn low_pass(samples: &mut [f32], hz: f32) {
    Biquad::low_pass(hz).run(samples);
}

/// Removes everything above 3.9 kHz as a recorder with a rate of 8 kHz does: 70 dB down at 4.1 kHz.
pub fn band_limit(samples: &[f32]) -> Vec<f32> {
    const HALF: usize = 220;
    let cut = 2.0 * 3_950.0 / RATE;
    let tap = |offset: f32| {
        let x = PI * offset * cut;
        let sinc = if offset == 0.0 { cut } else { cut * x.sin() / x };
        let phase = PI * offset / (HALF as f32 + 1.0);
        // Blackman window.
        sinc * (0.42 + 0.5 * phase.cos() + 0.08 * (2.0 * phase).cos())
    };
    let taps: Vec<f32> = (0..=2 * HALF).map(|i| tap(i as f32 - HALF as f32)).collect();
    let mut padded = vec![0.0; HALF];
    padded.extend_from_slice(samples);
    padded.extend(std::iter::repeat_n(0.0, HALF));
    padded
        .windows(2 * HALF + 1)
        .map(|window| {
            // Eight partial sums, so that the compiler may use vector lanes.
            let mut sums = [0.0f32; 8];
            let (window, taps) = (window.as_chunks::<8>(), taps.as_chunks::<8>());
            for (values, taps) in window.0.iter().zip(taps.0) {
                for lane in 0..8 {
                    sums[lane] += values[lane] * taps[lane];
                }
            }
            let rest: f32 = window.1.iter().zip(taps.1).map(|(value, tap)| value * tap).sum();
            sums.iter().sum::<f32>() + rest
        })
        .collect()
}

/// Plays faster by `ratio` (and higher), by cubic interpolation.
pub fn speed(samples: &[f32], ratio: f32) -> Vec<f32> {
    let at = |index: isize| -> f32 {
        usize::try_from(index).ok().and_then(|i| samples.get(i)).copied().unwrap_or(0.0)
    };
    let count = (samples.len() as f32 / ratio) as usize;
    (0..count)
        .map(|out| {
            let position = f64::from(ratio) * out as f64;
            let index = position.floor();
            let t = (position - index) as f32;
            let i = index as isize;
            let (a, b, c, d) = (at(i - 1), at(i), at(i + 1), at(i + 2));
            let slope = 0.5 * (c - a);
            let curve = a - 2.5 * b + 2.0 * c - 0.5 * d;
            let bend = 0.5 * (d - a) + 1.5 * (b - c);
            ((bend * t + curve) * t + slope) * t + b
        })
        .collect()
}

/// Makes a near sound far: air and leaves take the highs (a low pass at 400–4000 Hz), and what
/// arrives by way of trees and ground trails behind it, diffuse, for 0.2–1.5 s.
pub fn distance(samples: &[f32], rng: &mut impl Rng) -> Vec<f32> {
    let corner = 400.0 * 10f32.powf(rng.random_range(0.0..1.0));
    let mut direct = samples.to_vec();
    low_pass(&mut direct, corner);

    let reverberation_s: f32 = rng.random_range(0.2..1.5);
    let length = (reverberation_s * RATE) as usize;
    let energy: f32 = amplitude(rng.random_range(-12.0..3.0));
    // Sparse echoes of random sign, one in 4 ms, that fall by 60 dB over the time.
    let spacing = SAMPLE_RATE_HZ as usize / 250;
    let echoes: Vec<(usize, f32)> = (0..length / spacing)
        .map(|slot| {
            let at = slot * spacing + rng.random_range(0..spacing);
            let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
            (at, sign * amplitude(-60.0 * at as f32 / length as f32))
        })
        .collect();
    let norm = echoes.iter().map(|(_, size)| size * size).sum::<f32>().sqrt().max(1e-6);
    let mut tail = direct.clone();
    low_pass(&mut tail, corner * 0.6);
    let mut out = vec![0.0; samples.len() + length];
    out[..direct.len()].copy_from_slice(&direct);
    for (at, size) in echoes {
        let size = size * energy / norm;
        for (out, sample) in out[at..].iter_mut().zip(&tail) {
            *out += size * sample;
        }
    }
    out
}

/// Cuts the transient out of a clip: from 60 ms before its loudest moment to `after_s` behind it,
/// faded in and out. The second value is where in the cut the loudest moment begins.
pub fn cut_out(samples: &[f32], peak: usize, after_s: f32) -> (Vec<f32>, usize) {
    let before = (0.06 * RATE) as usize;
    let start = peak.saturating_sub(before).min(samples.len());
    let end = (peak + (after_s * RATE) as usize).min(samples.len());
    let mut cut = samples[start..end.max(start)].to_vec();
    fade_in(&mut cut, (0.02 * RATE) as usize);
    fade_out(&mut cut, (0.5 * after_s * RATE) as usize);
    (cut, peak - start)
}

fn fade_in(samples: &mut [f32], length: usize) {
    for (index, sample) in samples.iter_mut().take(length).enumerate() {
        *sample *= index as f32 / length as f32;
    }
}

fn fade_out(samples: &mut [f32], length: usize) {
    let length = length.min(samples.len());
    for (index, sample) in samples.iter_mut().rev().take(length).enumerate() {
        *sample *= index as f32 / length as f32;
    }
}

/// Adds `sound` to `ground` from sample `at` on; what reaches over the end is lost.
pub fn add_at(ground: &mut [f32], sound: &[f32], at: usize) {
    let start = at.min(ground.len());
    for (ground, sound) in ground[start..].iter_mut().zip(sound) {
        *ground += sound;
    }
}

/// Joins clips by cross-fades of `overlap` samples at equal power. Clips that are shorter than two
/// overlaps are left out.
pub fn join(clips: &[&[f32]], overlap: usize) -> Vec<f32> {
    let mut joined: Vec<f32> = Vec::new();
    for clip in clips.iter().filter(|clip| clip.len() >= 2 * overlap) {
        if joined.is_empty() {
            joined.extend_from_slice(clip);
            continue;
        }
        let seam = joined.len() - overlap;
        for (index, (old, new)) in joined[seam..].iter_mut().zip(*clip).enumerate() {
            let phase = 0.5 * PI * (index as f32 + 0.5) / overlap as f32;
            *old = *old * phase.cos() + new * phase.sin();
        }
        joined.extend_from_slice(&clip[overlap..]);
    }
    joined
}

/// What a recorder gives when it hears nothing: zeros, or its own noise at −100…−75 dBFS, with or
/// without mains hum.
pub fn near_silence(length: usize, rng: &mut impl Rng) -> Vec<f32> {
    if rng.random_range(0..5) == 0 {
        return vec![0.0; length];
    }
    let level = amplitude(rng.random_range(-100.0..-75.0));
    // One-pole smoothing from white (0) to almost brown (0.98).
    let pole: f32 = rng.random_range(0.0..0.98);
    let mut state = 0.0;
    let mut noise: Vec<f32> = (0..length)
        .map(|_| {
            state = pole * state + rng.random_range(-1.0..1.0f32);
            state
        })
        .collect();
    let scale = level / rms(&noise).max(1e-9);
    noise.iter_mut().for_each(|sample| *sample *= scale);
    if rng.random_range(0..3) == 0 {
        let hum_hz = if rng.random::<bool>() { 50.0 } else { 60.0 };
        let hum = level * rng.random_range(0.1..1.0);
        for (index, sample) in noise.iter_mut().enumerate() {
            *sample += hum * (TAU * hum_hz * index as f32 / RATE).sin();
        }
    }
    noise
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    fn tone(hz: f32, seconds: f32) -> Vec<f32> {
        (0..(seconds * RATE) as usize).map(|i| (TAU * hz * i as f32 / RATE).sin()).collect()
    }

    fn noise(seconds: f32, level: f32) -> Vec<f32> {
        let rng = &mut rng();
        (0..(seconds * RATE) as usize).map(|_| level * rng.random_range(-1.0..1.0f32)).collect()
    }

    /// A level in dB against full scale RMS, away from the ends.
    fn level(samples: &[f32]) -> f32 {
        20.0 * rms(&samples[2000..samples.len() - 2000]).max(1e-9).log10()
    }

    #[test]
    fn band_limit_keeps_what_an_8_khz_recorder_keeps() {
        let change = |hz| level(&band_limit(&tone(hz, 1.0))) - level(&tone(hz, 1.0));
        assert!(change(1000.0).abs() < 0.1);
        assert!(change(3700.0).abs() < 0.5);
        assert!(change(4200.0) < -60.0, "{}", change(4200.0));
        assert!(change(6000.0) < -60.0);
        assert_eq!(band_limit(&tone(500.0, 0.5)).len(), tone(500.0, 0.5).len());
    }

    #[test]
    fn the_loudest_moment_is_found_where_it_was_put() {
        let mut ground = noise(4.0, 0.01);
        let shot = noise(0.05, 0.5);
        add_at(&mut ground, &shot, 40_000);
        let loudness = Loudness::of(&ground).unwrap();
        assert!(loudness.peak.abs_diff(40_000) <= 640, "{}", loudness.peak);
        assert!((25.0..40.0).contains(&loudness.snr_db()), "{}", loudness.snr_db());
        let loud: Vec<usize> = loudness.loud_frames(12.0).collect();
        assert!(loud.iter().all(|at| (39_600..41_000).contains(at)));
        assert!(Loudness::of(&vec![0.0; 16_000]).is_none());
        assert!(Loudness::of(&[0.5; 10]).is_none());
    }

    #[test]
    fn distance_takes_the_highs_and_leaves_a_tail() {
        let mut click = vec![0.0; 1600];
        click[0] = 1.0;
        let far = distance(&click, &mut rng());
        assert!(far.len() > 1600 + 3200);
        assert!(rms(&far[1600..4800]) > 0.0);
        let high = |samples: &[f32]| {
            let mut high = samples.to_vec();
            Biquad::high_pass(5_000.0).run(&mut high);
            rms(&high) / rms(samples)
        };
        assert!(high(&far[..1600]) < 0.5 * high(&click));
    }

    #[test]
    fn speed_moves_pitch_and_length() {
        let fast = speed(&tone(500.0, 1.0), 1.25);
        assert_eq!(fast.len(), 12_800);
        let crossings = fast.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
        assert!((498..=501).contains(&crossings), "{crossings}");
    }

    #[test]
    fn a_join_has_no_step_and_no_hole() {
        let (a, b) = (tone(300.0, 1.0), noise(1.0, 1.2));
        let joined = join(&[&a, &b], 1600);
        assert_eq!(joined.len(), a.len() + b.len() - 1600);
        let seam = rms(&joined[a.len() - 1600..a.len()]);
        assert!((0.55..0.85).contains(&seam), "{seam}");
        assert_eq!(join(&[&a, &b[..100]], 1600), a);
    }

    #[test]
    fn a_cut_begins_before_the_peak_and_fades() {
        let clip = noise(2.0, 1.0);
        let (cut, peak) = cut_out(&clip, 16_000, 0.5);
        assert_eq!(peak, 960);
        assert_eq!(cut.len(), 960 + 8000);
        assert_eq!(cut[0], 0.0);
        assert!(cut[cut.len() - 1].abs() < 0.01);
        let (short, peak) = cut_out(&clip, 100, 0.5);
        assert_eq!((short.len(), peak), (8100, 100));
    }

    #[test]
    fn silence_is_quieter_than_any_recording() {
        let rng = &mut rng();
        for _ in 0..50 {
            assert!(rms(&near_silence(16_000, rng)) <= amplitude(-72.0));
        }
    }
}
