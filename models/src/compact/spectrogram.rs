//! Path: logmel → **spectrogram** → network
//!
//! The compact network's picture of a window: 48 bands up to 3.8 kHz, every 20 ms, 1.92 s of them,
//! from 0.465 s before the window to 0.48 s beyond its end. No band reaches above 3.8 kHz: sound
//! that was recorded at 8 kHz and sound that was not look alike.
//!
//! Levels are relative to what each band has been for the last 5 s, so that gain changes nothing
//! and a steady colour of the place or of the microphone little.

use crate::SAMPLE_RATE_HZ;
use crate::logmel::{BINS, FFT_SAMPLES, FRAME_HOP, FRAME_SAMPLES, MEAN_SQUARE_PER_POWER};
use crate::transient::FLOOR_DBFS;

/// Bands of one frame.
pub const BANDS: usize = 48;
/// Steps of 10 ms that one frame joins.
pub(crate) const FRAME_STEPS: usize = 2;
/// Frames of one patch: 1.92 s.
pub const PATCH_FRAMES: usize = 96;
/// Planes of one patch: level above the median over bands and time, and above that of the band.
pub const CHANNELS: usize = 2;
/// Numbers of one patch.
pub const PATCH_LEN: usize = CHANNELS * PATCH_FRAMES * BANDS;
/// Frames that the medians are taken over: 5 s up to the patch's end.
pub const CONTEXT_FRAMES: usize = 250;
/// Frames of the patch beyond the window's last one.
pub(crate) const LOOK_AHEAD_FRAMES: usize = super::LOOK_AHEAD_SAMPLES / (FRAME_HOP * FRAME_STEPS);

const _: () = assert!(super::LOOK_AHEAD_SAMPLES.is_multiple_of(FRAME_HOP * FRAME_STEPS));

/// Lower edge of the lowest band and upper edge of the highest.
const LOW_HZ: f64 = 60.0;
const HIGH_HZ: f64 = 3_800.0;
const FLOOR_MEAN_SQUARE: f32 = 0.5e-11;
/// One unit of a patch is so many dB.
const UNIT_DB: f32 = 10.0;
/// Largest magnitude of a patch's number.
const LIMIT: f32 = 8.0;

/// Input of the network for one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// `[2, 96, 48]`: plane, frame, band; in units of 10 dB. What the stream does not hold (before
    /// its start, beyond its end) reads as the band's median.
    pub values: [f32; PATCH_LEN],
    /// What was subtracted from each band, dBFS.
    pub median_db: [f32; BANDS],
}

impl Patch {
    pub(crate) fn blank() -> Self {
        Self { values: [0.0; PATCH_LEN], median_db: [0.0; BANDS] }
    }
}

/// Share of each of some neighbouring bins in a band.
struct Triangle {
    first_bin: usize,
    weights: Vec<f32>,
}

/// Band levels of the last seconds. Allocates only when it is made.
pub(crate) struct Spectrogram {
    triangles: Vec<Triangle>,
    /// Mean squares of the first half of the frame that is not whole yet.
    half: Option<[f32; BANDS]>,
    /// dBFS, the newest last. Longer than the context, so that making room is rare.
    levels: Vec<[f32; BANDS]>,
    /// Frames since the start or the last [`Spectrogram::clear`].
    frames: u64,
    order: Vec<f32>,
}

/// The frames of a whole sound: 20 ms each, dBFS.
#[cfg(feature = "train")]
pub(crate) fn frames_of(samples: &[f32]) -> Vec<[f32; BANDS]> {
    let (mut log_mel, mut spectrogram) = (crate::logmel::LogMel::new(), Spectrogram::new());
    let mut unused = [0.0; crate::logmel::BANDS];
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(frame) = samples.get(at..).and_then(<[f32]>::first_chunk::<FRAME_SAMPLES>) {
        log_mel.frame(frame, &mut unused);
        frames.extend(spectrogram.push(log_mel.power()));
        at += FRAME_HOP;
    }
    frames
}

impl Spectrogram {
    pub(crate) fn new() -> Self {
        Self {
            triangles: triangles(),
            half: None,
            levels: Vec::with_capacity(2 * KEPT),
            frames: 0,
            order: Vec::with_capacity(CONTEXT_FRAMES),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.half = None;
        self.levels.clear();
        self.frames = 0;
    }

    /// Takes the power spectrum of the next 10 ms step; gives the frame that it completes.
    pub(crate) fn push(&mut self, power: &[f32; BINS]) -> Option<&[f32; BANDS]> {
        let mut frame: [f32; BANDS] = std::array::from_fn(|band| {
            let triangle = &self.triangles[band];
            let bins = &power[triangle.first_bin..];
            let sum: f32 = bins.iter().zip(&triangle.weights).map(|(bin, share)| bin * share).sum();
            sum * MEAN_SQUARE_PER_POWER
        });
        let Some(half) = self.half.take() else {
            self.half = Some(frame);
            return None;
        };
        for (level, half) in frame.iter_mut().zip(half) {
            let mean_square = 0.5 * (*level + half);
            // A full-scale sine (mean square 1/2) is 0 dB.
            *level = (10.0 * (2.0 * mean_square.max(FLOOR_MEAN_SQUARE)).log10()).max(FLOOR_DBFS);
        }
        if self.levels.len() == 2 * KEPT {
            self.levels.copy_within(KEPT.., 0);
            self.levels.truncate(KEPT);
        }
        self.levels.push(frame);
        self.frames += 1;
        self.levels.last()
    }

    /// Writes the patch whose frames end before frame `end`, counted from the start of the stream.
    /// Only the first `heard` frames of the stream hold sound.
    pub(crate) fn patch(&mut self, end: u64, heard: u64, patch: &mut Patch) {
        let heard = heard.min(self.frames).min(end);
        let oldest = self.frames - self.levels.len() as u64;
        let from = heard.saturating_sub(CONTEXT_FRAMES as u64).max(oldest).min(heard);
        let context = &self.levels[(from - oldest) as usize..(heard - oldest) as usize];
        let median_db: [f32; BANDS] = std::array::from_fn(|band| {
            self.order.clear();
            self.order.extend(context.iter().map(|frame| frame[band]));
            let half = self.order.len() / 2;
            match self.order.get(half) {
                Some(_) => *self.order.select_nth_unstable_by(half, f32::total_cmp).1,
                None => FLOOR_DBFS,
            }
        });
        let mean_db = median_db.iter().sum::<f32>() / BANDS as f32;
        patch.median_db = median_db;
        let (absolute, relative) = patch.values.split_at_mut(PATCH_FRAMES * BANDS);
        let planes =
            absolute.as_chunks_mut::<BANDS>().0.iter_mut().zip(relative.as_chunks_mut::<BANDS>().0);
        for (index, (absolute, relative)) in planes.enumerate() {
            let at = (end + index as u64).checked_sub(PATCH_FRAMES as u64);
            let frame = at.filter(|at| (oldest..heard).contains(at));
            let frame = frame.map_or(&median_db, |at| &self.levels[(at - oldest) as usize]);
            for band in 0..BANDS {
                absolute[band] = ((frame[band] - mean_db) / UNIT_DB).clamp(-LIMIT, LIMIT);
                relative[band] = ((frame[band] - median_db[band]) / UNIT_DB).clamp(-LIMIT, LIMIT);
            }
        }
    }

    /// Whole frames in the first `samples` samples of a stream.
    pub(crate) fn frames_in(samples: u64) -> u64 {
        const SPAN: u64 = (FRAME_SAMPLES + (FRAME_STEPS - 1) * FRAME_HOP) as u64;
        const STEP: u64 = (FRAME_STEPS * FRAME_HOP) as u64;
        if samples < SPAN { 0 } else { 1 + (samples - SPAN) / STEP }
    }
}

/// Frames that are kept at least: the context, and a window's worth of padding behind it.
const KEPT: usize = CONTEXT_FRAMES + PATCH_FRAMES;

/// Triangles with centres equally far apart on the mel scale, shares that add up to 1. Where that
/// is nearer than the bins are, a band reaches one bin to either side.
fn triangles() -> Vec<Triangle> {
    let mel = |hz: f64| 1127.0 * (hz / 700.0).ln_1p();
    let hz = |mel: f64| 700.0 * (mel / 1127.0).exp_m1();
    let bin_hz = f64::from(SAMPLE_RATE_HZ) / FFT_SAMPLES as f64;
    let (low, high) = (mel(LOW_HZ), mel(HIGH_HZ));
    let step = (high - low) / (BANDS + 1) as f64;
    (0..BANDS)
        .map(|band| {
            let centre_mel = low + (band + 1) as f64 * step;
            let centre = hz(centre_mel);
            let lower = hz(centre_mel - step).min(centre - bin_hz);
            let upper = hz(centre_mel + step).max(centre + bin_hz);
            let weight = |bin: usize| {
                let at = bin as f64 * bin_hz;
                ((at - lower) / (centre - lower)).min((upper - at) / (upper - centre)).max(0.0)
            };
            let first_bin = (1..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(1);
            let shares: Vec<f64> =
                (first_bin..BINS).map(weight).take_while(|share| *share > 0.0).collect();
            let sum: f64 = shares.iter().sum();
            Triangle { first_bin, weights: shares.iter().map(|w| (w / sum) as f32).collect() }
        })
        .collect()
}
