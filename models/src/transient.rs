//! Path: logmel → transient → head
//!
//! What a distant shot leaves when a network has smoothed it away: a thud of 20 ms, low, above
//! what was heard before it, with a tail. 45 numbers a window, measured from the same spectra as
//! the log-mel (one every 10 ms), from the past only: the last 5 s up to the window's end.
//!
//! Every number is a difference of levels, a time or a count, so that gain changes none of them
//! as long as the sound stays above [`FLOOR_DBFS`]. No band reaches above 3.8 kHz: sound that was
//! recorded at 8 kHz and sound that was not measure alike.

use crate::logmel::{BINS, FRAME_HOP, MEAN_SQUARE_PER_POWER, PATCH_FRAMES, sum};

/// Frames of context: 5 s at 10 ms, up to the window's end.
pub const CONTEXT_FRAMES: usize = 500;
/// A band with less than this reads as this: below the noise of 16-bit sound, and finite.
pub const FLOOR_DBFS: f32 = -110.0;
const FLOOR_MEAN_SQUARE: f32 = 0.5e-11;

/// Bins that a band spans, 31.25 Hz apart, end exclusive; the edges are rounded to bins.
#[derive(Clone, Copy)]
struct Band {
    first: usize,
    end: usize,
}

const fn band(low_hz: usize, high_hz: usize) -> Band {
    // 16,000 / 512 = 125 / 4 Hz.
    Band { first: (low_hz * 4).div_ceil(125), end: (high_hz * 4).div_ceil(125) }
}

/// Bands whose loudest moment is measured: the body of a distant shot, and what is left of its
/// crack.
const THUD_BANDS: [Band; 4] = [band(100, 400), band(400, 1500), band(100, 1500), band(1500, 3800)];
const LOW: usize = 0;
/// The band that finds the peak, and in which a window's level is given.
const BODY: usize = 2;
const HIGH: usize = 3;

/// Octaves in which the shape of the onset is measured.
const SHAPE_BANDS: [Band; 5] =
    [band(100, 250), band(250, 500), band(500, 1000), band(1000, 2000), band(2000, 3800)];

const HEARD_FIRST: usize = THUD_BANDS[LOW].first;
const HEARD_BINS: usize = THUD_BANDS[HIGH].end - HEARD_FIRST;

const TRACKS: usize = THUD_BANDS.len() + SHAPE_BANDS.len();
const SHAPE: usize = THUD_BANDS.len();

/// Numbers in one window's `transient` feature stream.
pub const LEN: usize = THUD_BANDS.len() * 4 + SHAPE_BANDS.len() * 5 + 4;

/// What each number is, in the stream's order. Levels in dB, times in seconds.
///
/// - `over_median`, `over_p90`: the loudest 20 ms of the window in that band above the context's
///   median and 90th percentile; `onset`: above the 0.3 s before, with a guard of 30 ms;
///   `decay`: time until 10 dB below (at most 0.6 s).
/// - `after_A_B`: mean level A to B ms after the onset, above the 0.3 s before. A part that the
///   window does not reach reads as the part before it. `rise`: the steepest step of 10 ms around
///   the onset; `spread_before`: standard deviation of the level in the 0.3 s before.
/// - `flatness`: spectral flatness (100-3800 Hz) at the peak, 0 for white; `low_minus_high`:
///   100-400 above 1500-3800 Hz at the peak; `rivals`: other peaks of the context within 6 dB;
///   `reach`: sound heard after the peak, up to the window's end.
pub const fn names() -> &'static [&'static str; LEN] {
    &[
        "100_400.over_median",
        "100_400.over_p90",
        "100_400.onset",
        "100_400.decay",
        "400_1500.over_median",
        "400_1500.over_p90",
        "400_1500.onset",
        "400_1500.decay",
        "100_1500.over_median",
        "100_1500.over_p90",
        "100_1500.onset",
        "100_1500.decay",
        "1500_3800.over_median",
        "1500_3800.over_p90",
        "1500_3800.onset",
        "1500_3800.decay",
        "100_250.after_0_50",
        "100_250.after_50_250",
        "100_250.after_250_600",
        "100_250.rise",
        "100_250.spread_before",
        "250_500.after_0_50",
        "250_500.after_50_250",
        "250_500.after_250_600",
        "250_500.rise",
        "250_500.spread_before",
        "500_1000.after_0_50",
        "500_1000.after_50_250",
        "500_1000.after_250_600",
        "500_1000.rise",
        "500_1000.spread_before",
        "1000_2000.after_0_50",
        "1000_2000.after_50_250",
        "1000_2000.after_250_600",
        "1000_2000.rise",
        "1000_2000.spread_before",
        "2000_3800.after_0_50",
        "2000_3800.after_50_250",
        "2000_3800.after_250_600",
        "2000_3800.rise",
        "2000_3800.spread_before",
        "flatness",
        "low_minus_high",
        "rivals",
        "reach",
    ]
}

/// Frames of the 0.3 s before an onset, and of the guard between them and it.
const BEFORE_FRAMES: usize = 30;
const GUARD_FRAMES: usize = 3;
/// How far before the loudest moment its onset may lie: 0.15 s of reverberant build-up.
const BUILD_UP_FRAMES: usize = 15;
/// How far below the loudest moment the onset begins, and the decay ends.
const EDGE_DB: f32 = 10.0;
/// Parts of the tail, in frames after the onset.
const TAIL: [(usize, usize); 3] = [(0, 5), (5, 25), (25, 60)];
const RIVAL_DB: f32 = 6.0;
/// Peaks nearer than this to one another are one: 0.25 s.
const RIVAL_APART_FRAMES: usize = 25;

const FRAME_S: f32 = FRAME_HOP as f32 / crate::SAMPLE_RATE_HZ as f32;

/// What one window's transient is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    /// Frame of the stream, counted as the windower counts, with which the loudest 20 ms begin.
    pub peak_frame: u64,
    /// Mean square in 100-1500 Hz in those 20 ms, dBFS (a full-scale sine is 0).
    pub level_dbfs: f32,
    /// Median of the same over the context.
    pub noise_floor_dbfs: f32,
    pub numbers: [f32; LEN],
}

/// Band levels of the last 5 s, one per frame. Allocates only when it is made.
pub(crate) struct Transient {
    /// Per track, mean square over two neighbouring frames (about 20 ms); the newest last. Twice
    /// the context long, so that making room is rare.
    tracks: [Vec<f32>; TRACKS],
    /// Mean square of the newest single frame.
    newest: [f32; TRACKS],
    /// Powers of the bins from 100 to 3800 Hz in the newest frames, a ring by frame number.
    spectra: Vec<[f32; HEARD_BINS]>,
    /// Frames pushed since the start or the last [`Transient::clear`].
    frames: u64,
    order: Vec<f32>,
}

impl Transient {
    pub(crate) fn new() -> Self {
        Self {
            tracks: std::array::from_fn(|_| Vec::with_capacity(2 * CONTEXT_FRAMES)),
            newest: [0.0; TRACKS],
            spectra: vec![[0.0; HEARD_BINS]; PATCH_FRAMES],
            frames: 0,
            order: Vec::with_capacity(CONTEXT_FRAMES),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.tracks.iter_mut().for_each(Vec::clear);
        self.frames = 0;
    }

    /// Takes the power spectrum of the next frame.
    pub(crate) fn push(&mut self, power: &[f32; BINS]) {
        if self.tracks[0].len() == 2 * CONTEXT_FRAMES {
            for track in &mut self.tracks {
                track.copy_within(CONTEXT_FRAMES.., 0);
                track.truncate(CONTEXT_FRAMES);
            }
        }
        for (track, band) in THUD_BANDS.iter().chain(&SHAPE_BANDS).enumerate() {
            let mean_square = sum(&power[band.first..band.end]) * MEAN_SQUARE_PER_POWER;
            // The entry of a frame is final only when the next one is known.
            if let Some(last) = self.tracks[track].last_mut() {
                *last = 0.5 * (self.newest[track] + mean_square);
            }
            self.newest[track] = mean_square;
            self.tracks[track].push(mean_square);
        }
        self.spectra[(self.frames % PATCH_FRAMES as u64) as usize]
            .copy_from_slice(&power[HEARD_FIRST..HEARD_FIRST + HEARD_BINS]);
        self.frames += 1;
    }

    /// Measures the window whose 96 frames are the newest. `real_frames` of them (at least one)
    /// hold sound only; the rest is padded after the end of the stream, where no peak is.
    pub(crate) fn measure(&mut self, real_frames: usize) -> Measure {
        let len = self.tracks[BODY].len();
        let from = len.saturating_sub(CONTEXT_FRAMES);
        let window = len.saturating_sub(PATCH_FRAMES);
        // The entry of the last frame of sound has the first padded one in it.
        let last =
            if real_frames < PATCH_FRAMES { real_frames.saturating_sub(1) } else { PATCH_FRAMES };
        let end = (window + last.max(1)).min(len);
        let order = &mut self.order;
        let mut numbers = [0.0; LEN];
        let mut put = numbers.iter_mut();
        let mut add = |value: f32| {
            if let Some(slot) = put.next() {
                *slot = if value.is_finite() { value.clamp(-99.0, 99.0) } else { 0.0 };
            }
        };

        let peak = loudest(&self.tracks[BODY], window, end);
        let mut noise_floor_dbfs = FLOOR_DBFS;
        for (index, track) in self.tracks[..SHAPE].iter().enumerate() {
            let (median, p90) = quantiles(&track[from..end], order);
            let peak = loudest(track, window, end);
            let level = decibels(track[peak]);
            add(level - decibels(median));
            add(level - decibels(p90));
            add(level - Before::of(track, from, peak, || median).mean_db);
            add(decay_s(track, peak, end, level));
            if index == BODY {
                noise_floor_dbfs = decibels(median);
            }
        }

        let onset = onset_of(&self.tracks[BODY], from, peak);
        for track in &self.tracks[SHAPE..] {
            let before = Before::of(track, from, onset, || quantiles(&track[from..end], order).0);
            let mut last = 0.0;
            for (start, stop) in TAIL {
                let part = &track[(onset + start).min(end)..(onset + stop).min(end)];
                if !part.is_empty() {
                    let mean = part.iter().sum::<f32>() / part.len() as f32;
                    last = decibels(mean) - before.mean_db;
                }
                add(last);
            }
            add(rise_db(track, from, onset, end));
            add(before.spread_db);
        }

        let body = &self.tracks[BODY];
        let peak_frame = self.frames - (len - peak) as u64;
        add(flatness_db(&self.spectra[(peak_frame % PATCH_FRAMES as u64) as usize]));
        add(decibels(self.tracks[LOW][peak]) - decibels(self.tracks[HIGH][peak]));
        add(rivals(&body[from..end], peak - from));
        add((end - 1 - peak) as f32 * FRAME_S);
        Measure { peak_frame, level_dbfs: decibels(body[peak]), noise_floor_dbfs, numbers }
    }
}

/// dBFS of a mean square; a full-scale sine (mean square 1/2) is 0.
fn decibels(mean_square: f32) -> f32 {
    10.0 * (2.0 * mean_square.max(FLOOR_MEAN_SQUARE)).log10()
}

/// Index of the first maximum of `track[from..end]`.
fn loudest(track: &[f32], from: usize, end: usize) -> usize {
    let mut best = from;
    for at in from..end {
        if track[at] > track[best] {
            best = at;
        }
    }
    best
}

/// Median and 90th percentile.
fn quantiles(values: &[f32], order: &mut Vec<f32>) -> (f32, f32) {
    order.clear();
    order.extend_from_slice(values);
    let (half, tenth) = (order.len() / 2, order.len() * 9 / 10);
    let (_, &mut median, above) = order.select_nth_unstable_by(half, f32::total_cmp);
    let p90 = match tenth.checked_sub(half + 1) {
        Some(nth) => *above.select_nth_unstable_by(nth, f32::total_cmp).1,
        None => median,
    };
    (median, p90)
}

/// The 0.3 s before a moment.
struct Before {
    mean_db: f32,
    spread_db: f32,
}

impl Before {
    /// Where the stream (or the context) begins so late that fewer than three frames are left,
    /// the context's median stands for them.
    fn of(track: &[f32], from: usize, at: usize, median: impl FnOnce() -> f32) -> Self {
        let end = at.saturating_sub(GUARD_FRAMES).max(from);
        let part = &track[end.saturating_sub(BEFORE_FRAMES).max(from)..end];
        if part.len() < 3 {
            return Self { mean_db: decibels(median()), spread_db: 0.0 };
        }
        let count = part.len() as f32;
        let (mut sum, mut squares) = (0.0, 0.0);
        for &mean_square in part {
            let db = decibels(mean_square);
            sum += db;
            squares += db * db;
        }
        let mean_db = sum / count;
        Self { mean_db, spread_db: (squares / count - mean_db * mean_db).max(0.0).sqrt() }
    }
}

/// Where the loudest moment began: back while the level is within 10 dB of it.
fn onset_of(body: &[f32], from: usize, peak: usize) -> usize {
    let edge = body[peak] * 10f32.powf(-EDGE_DB / 10.0);
    let earliest = peak.saturating_sub(BUILD_UP_FRAMES).max(from);
    let mut onset = peak;
    while onset > earliest && body[onset - 1] > edge {
        onset -= 1;
    }
    onset
}

/// Time until the level is 10 dB below its peak, at most 0.6 s or what the window holds.
fn decay_s(track: &[f32], peak: usize, end: usize, peak_db: f32) -> f32 {
    let tail = &track[peak..end.min(peak + TAIL[2].1)];
    let edge = peak_db - EDGE_DB;
    let frames = tail.iter().position(|&v| decibels(v) <= edge).unwrap_or(tail.len());
    frames as f32 * FRAME_S
}

/// Largest step of 10 ms from 50 ms before the onset to 50 ms after it.
fn rise_db(track: &[f32], from: usize, onset: usize, end: usize) -> f32 {
    let around = &track[onset.saturating_sub(5).max(from)..(onset + 6).min(end)];
    around.array_windows::<2>().map(|[a, b]| decibels(*b) - decibels(*a)).fold(0.0, f32::max)
}

/// How many other peaks of the context come within 6 dB of this one.
fn rivals(context: &[f32], peak: usize) -> f32 {
    // In silence nothing is a peak.
    let edge = (context[peak] * 10f32.powf(-RIVAL_DB / 10.0)).max(FLOOR_MEAN_SQUARE);
    let mut count = 0;
    let mut free_from = 0;
    for (at, &mean_square) in context.iter().enumerate() {
        if mean_square > edge && at >= free_from {
            if at.abs_diff(peak) >= RIVAL_APART_FRAMES {
                count += 1;
            }
            free_from = at + RIVAL_APART_FRAMES;
        }
    }
    count as f32
}

/// Spectral flatness in dB: geometric over arithmetic mean of the bins' powers.
fn flatness_db(power: &[f32]) -> f32 {
    // Products of four bins over the mean stay within f32, and spare logarithms.
    let mean = sum(power) / power.len() as f32;
    if mean <= f32::MIN_POSITIVE {
        return 0.0;
    }
    let scale = mean.recip();
    let log_sum: f32 = power
        .chunks(4)
        .map(|chunk| chunk.iter().map(|&bin| (bin * scale).max(1e-9)).product::<f32>().log10())
        .sum();
    10.0 * log_sum / power.len() as f32
}
