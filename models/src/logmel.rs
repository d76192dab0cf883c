//! Path: audio → logmel → window
//!
//! YAMNet's front end, frame by frame: 25 ms of sound to 64 log-mel numbers. The constants are
//! those of YAMNet as published (`params.py` of the AudioSet models); a network fed with any
//! others hears something else.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::SAMPLE_RATE_HZ;

/// Samples that one frame spans: 25 ms.
pub const FRAME_SAMPLES: usize = 400;
/// Samples from one frame's start to the next: 10 ms.
pub const FRAME_HOP: usize = 160;
/// Length of the Fourier transform; the frame is padded with zeros to it.
pub const FFT_SAMPLES: usize = 512;
/// Bins of the one-sided spectrum, 31.25 Hz apart.
pub const BINS: usize = FFT_SAMPLES / 2 + 1;
/// Mel bands of one frame.
pub const BANDS: usize = 64;
/// Frames of one patch, YAMNet's input: 0.96 s.
pub const PATCH_FRAMES: usize = 96;
/// Frames from one patch's start to the next: 0.48 s.
pub const PATCH_HOP: usize = 48;
/// Samples that the frames of one patch span: 0.96 s and the last frame's tail.
pub const PATCH_SAMPLES: usize = (PATCH_FRAMES - 1) * FRAME_HOP + FRAME_SAMPLES;

const MEL_LOW_HZ: f64 = 125.0;
const MEL_HIGH_HZ: f64 = 7_500.0;
const LOG_OFFSET: f32 = 0.001;

/// Mean square of a frame's sound from the sum of its bins' powers: twice (one-sided spectrum)
/// over the transform's length and the window's energy (Hann: 3/8 of its length).
pub(crate) const MEAN_SQUARE_PER_POWER: f32 =
    2.0 / (FFT_SAMPLES as f32 * 0.375 * FRAME_SAMPLES as f32);

/// Sums run in this many lanes, which the compiler keeps in vector registers.
pub(crate) const LANES: usize = 8;

/// A triangle of the mel filter bank: weights of neighbouring bins, filled up with zeros.
struct Triangle {
    first_bin: usize,
    weights: Vec<[f32; LANES]>,
}

/// Sum in lanes.
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for lane in lanes {
        sums.iter_mut().zip(lane).for_each(|(sum, value)| *sum += value);
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// One frame to its power spectrum and its log-mel numbers. Allocates only when it is made.
pub struct LogMel {
    hann: [f64; FRAME_SAMPLES],
    triangles: Vec<Triangle>,
    fft: Arc<dyn RealToComplex<f64>>,
    input: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: [f32; BINS],
    /// Zeros behind the spectrum, for the triangles' fill.
    magnitude: [f32; BINS + LANES],
}

impl LogMel {
    /// Plans the transform and builds window and filter bank.
    pub fn new() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(FFT_SAMPLES);
        Self {
            // Periodic, not symmetric: its period is the frame.
            hann: std::array::from_fn(|n| {
                let turn = n as f64 / FRAME_SAMPLES as f64;
                0.5 - 0.5 * (std::f64::consts::TAU * turn).cos()
            }),
            triangles: mel_triangles(),
            input: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            fft,
            power: [0.0; BINS],
            magnitude: [0.0; BINS + LANES],
        }
    }

    /// `samples`: one frame (16 kHz mono, full scale ±1). Writes `log(mel + 0.001)`, natural
    /// logarithm, mel bands of the magnitude spectrum.
    pub fn frame(&mut self, samples: &[f32; FRAME_SAMPLES], log_mel: &mut [f32; BANDS]) {
        let (head, tail) = self.input.split_at_mut(FRAME_SAMPLES);
        for ((out, sample), weight) in head.iter_mut().zip(samples).zip(&self.hann) {
            *out = f64::from(*sample) * weight;
        }
        tail.fill(0.0);
        let done =
            self.fft.process_with_scratch(&mut self.input, &mut self.spectrum, &mut self.scratch);
        debug_assert!(done.is_ok(), "all buffers were made by the plan itself");
        for ((power, magnitude), bin) in
            self.power.iter_mut().zip(&mut self.magnitude).zip(&self.spectrum)
        {
            *power = bin.norm_sqr() as f32;
            *magnitude = power.sqrt();
        }
        for (out, triangle) in log_mel.iter_mut().zip(&self.triangles) {
            let (bins, _) = self.magnitude[triangle.first_bin..].as_chunks::<LANES>();
            let mut sums = [0.0; LANES];
            for (bins, weights) in bins.iter().zip(&triangle.weights) {
                for ((sum, bin), weight) in sums.iter_mut().zip(bins).zip(weights) {
                    *sum += bin * weight;
                }
            }
            *out = (sums.iter().sum::<f32>() + LOG_OFFSET).ln();
        }
    }

    /// Squared magnitudes of the last frame's windowed spectrum.
    pub fn power(&self) -> &[f32; BINS] {
        &self.power
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

/// HTK's mel scale, in its natural-logarithm form.
fn mel(hz: f64) -> f64 {
    1127.0 * (hz / 700.0).ln_1p()
}

/// The filter bank that TensorFlow's `linear_to_mel_weight_matrix` makes: triangles whose slopes
/// are straight on the mel scale, peak 1, none of them touching the bin at 0 Hz.
fn mel_triangles() -> Vec<Triangle> {
    let bin_hz = f64::from(SAMPLE_RATE_HZ) / FFT_SAMPLES as f64;
    let (low, high) = (mel(MEL_LOW_HZ), mel(MEL_HIGH_HZ));
    let step = (high - low) / (BANDS + 1) as f64;
    (0..BANDS)
        .map(|band| {
            let lower = low + band as f64 * step;
            let (centre, upper) = (lower + step, lower + 2.0 * step);
            let weight = |bin: usize| {
                let at = mel(bin as f64 * bin_hz);
                ((at - lower) / (centre - lower)).min((upper - at) / (upper - centre)) as f32
            };
            let first_bin = (1..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(1);
            let weights: Vec<f32> =
                (first_bin..BINS).map(weight).take_while(|&w| w > 0.0).collect();
            let weights = weights
                .chunks(LANES)
                .map(|part| std::array::from_fn(|i| part.get(i).copied().unwrap_or(0.0)))
                .collect();
            Triangle { first_bin, weights }
        })
        .collect()
}
