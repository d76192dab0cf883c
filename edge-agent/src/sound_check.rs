//! Whether what arrives is the sound of a working microphone.
//!
//! Five faults, each measured on the samples alone: nothing moves, the level is too low, the input
//! is overdriven, it is shifted from zero, or nothing is left of the high frequencies. A single
//! stretch of bad sound is weather or a hand; [`Deafness`] raises an alarm only when it lasts, and
//! clears it only when the good lasts as well.

use ecosight_models::SAMPLE_RATE_HZ;
use serde::Serialize;

/// From this magnitude on a sample counts as clipped: one step of 8 bits below full scale.
const CLIPPED: f32 = 0.996;
/// Clipped samples beyond this part are an overdriven input: a shot near by clips for milliseconds,
/// a wrong gain for good.
const CLIPPED_PART: f64 = 0.002;
/// So long without any change is no microphone, which always has noise.
const FLAT_S: f64 = 1.0;
/// Mean beyond this part of full scale: a microphone's output is centred.
const DC_LIMIT: f64 = 0.05;
/// Below this there is no forest but a gain of nothing: a quiet night with a common USB microphone
/// lies 20 dB above.
const FAINT_DBFS: f64 = -85.0;
/// The high band ([`HIGH_BAND_HZ`] and up) is missing if it is below this, the step noise of 16 bits...
const HIGH_BAND_DBFS: f64 = -95.0;
/// ...and this far below the whole: then it was cut off and not merely quiet.
const HIGH_BAND_BELOW_DB: f64 = 35.0;
/// Where the high band begins: nothing is left of it where sound was sampled at 12 kHz or less.
const HIGH_BAND_HZ: f64 = 6_000.0;
/// Sections of the Butterworth filter that looks at it. Twelfth order: 96 dB below at 3.9 kHz, where
/// the sound of a telephone ends.
const SECTIONS: usize = 6;
/// Level of nothing.
const SILENCE_DBFS: f64 = -120.0;

/// What can be wrong with sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The samples do not change for a second.
    FlatLine,
    /// The level is that of an open input.
    Faint,
    /// The input is overdriven.
    Clipping,
    /// The mean is far from zero.
    DcOffset,
    /// Nothing above 6 kHz.
    NoHighBand,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::FlatLine, Self::Faint, Self::Clipping, Self::DcOffset, Self::NoHighBand];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlatLine => "flat line",
            Self::Faint => "level",
            Self::Clipping => "clipping",
            Self::DcOffset => "DC offset",
            Self::NoHighBand => "high band",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::FlatLine => {
                "the input is dead: check the cable, another socket, and source.device \
                 (`arecord -L` lists the inputs there are)"
            }
            Self::Faint => {
                "raise the capture gain (`alsamixer`, F4), and check that the microphone has power"
            }
            Self::Clipping => "lower the capture gain (`alsamixer`, F4), or move what makes noise",
            Self::DcOffset => {
                "the microphone or its supply is faulty, or needs another input: try another one"
            }
            Self::NoHighBand => {
                "the sound was band-limited: set source.rate to 16000 or more, and look for a cover, \
                 a telephone codec or noise reduction in between"
            }
        }
    }
}

/// What a stretch of sound is like. Levels in dBFS, a full-scale sine being 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// Length.
    pub seconds: f64,
    /// Root mean square, without the offset.
    pub level_dbfs: f64,
    /// Largest sample.
    pub peak_dbfs: f64,
    /// Part of the samples at full scale.
    pub clipped: f64,
    /// Mean, as part of full scale.
    pub dc_offset: f64,
    /// Longest time without any change.
    pub flat_s: f64,
    /// Level above 6 kHz.
    pub high_band_dbfs: f64,
}

/// Measures a stream in constant memory.
#[derive(Clone, Debug)]
pub struct SoundCheck {
    samples: u64,
    peak: f32,
    clipped: u64,
    sum: f64,
    square_sum: f64,
    high_square_sum: f64,
    last: f32,
    run: u64,
    longest_run: u64,
    high_pass: [Biquad; SECTIONS],
}

impl Default for SoundCheck {
    fn default() -> Self {
        Self {
            samples: 0,
            peak: 0.0,
            clipped: 0,
            sum: 0.0,
            square_sum: 0.0,
            high_square_sum: 0.0,
            last: f32::NAN,
            run: 0,
            longest_run: 0,
            high_pass: std::array::from_fn(|section| {
                // The poles of a Butterworth filter lie evenly on a half circle.
                let angle = std::f64::consts::PI * (2 * section + 1) as f64 / (4 * SECTIONS) as f64;
                Biquad::high_pass(HIGH_BAND_HZ, 1.0 / (2.0 * angle.cos()))
            }),
        }
    }
}

impl SoundCheck {
    /// Takes 16 kHz mono.
    pub fn push(&mut self, samples: &[f32]) {
        for &sample in samples {
            self.peak = self.peak.max(sample.abs());
            self.clipped += u64::from(sample.abs() >= CLIPPED);
            let wide = f64::from(sample);
            self.sum += wide;
            self.square_sum += wide * wide;
            let high = self.high_pass.iter_mut().fold(wide, |x, section| section.step(x));
            self.high_square_sum += high * high;
            #[allow(clippy::float_cmp, reason = "a dead input repeats the very same number")]
            let same = sample == self.last;
            self.run = if same { self.run + 1 } else { 1 };
            self.longest_run = self.longest_run.max(self.run);
            self.last = sample;
        }
        self.samples += samples.len() as u64;
    }

    /// Samples so far.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// What they were like.
    #[must_use]
    pub fn measure(&self) -> Measurement {
        let count = self.samples.max(1) as f64;
        let mean = self.sum / count;
        let rate = f64::from(SAMPLE_RATE_HZ);
        Measurement {
            seconds: self.samples as f64 / rate,
            level_dbfs: dbfs((self.square_sum / count - mean * mean).max(0.0)),
            peak_dbfs: if self.peak > 0.0 {
                (20.0 * f64::from(self.peak).log10()).max(SILENCE_DBFS)
            } else {
                SILENCE_DBFS
            },
            clipped: self.clipped as f64 / count,
            dc_offset: mean,
            flat_s: self.longest_run as f64 / rate,
            high_band_dbfs: dbfs(self.high_square_sum / count),
        }
    }
}

/// Of a mean square; a full-scale sine has one half.
fn dbfs(mean_square: f64) -> f64 {
    if mean_square > 0.0 {
        (10.0 * (2.0 * mean_square).log10()).max(SILENCE_DBFS)
    } else {
        SILENCE_DBFS
    }
}

impl Measurement {
    /// Whether `fault` is there.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        match fault {
            Fault::FlatLine => self.flat_s >= FLAT_S,
            Fault::Faint => self.level_dbfs < FAINT_DBFS,
            Fault::Clipping => self.clipped > CLIPPED_PART,
            Fault::DcOffset => self.dc_offset.abs() > DC_LIMIT,
            Fault::NoHighBand => {
                self.high_band_dbfs < HIGH_BAND_DBFS
                    && self.level_dbfs - self.high_band_dbfs > HIGH_BAND_BELOW_DB
            }
        }
    }

    /// What was found where `fault` was looked for.
    #[must_use]
    pub fn found(&self, fault: Fault) -> String {
        match fault {
            Fault::FlatLine => format!("longest time without change {:.3} s", self.flat_s),
            Fault::Faint => {
                format!("{:.1} dBFS, peak {:.1} dBFS", self.level_dbfs, self.peak_dbfs)
            }
            Fault::Clipping => {
                format!("{:.3} % of the samples at full scale", self.clipped * 100.0)
            }
            Fault::DcOffset => format!("{:+.2} % of full scale", self.dc_offset * 100.0),
            Fault::NoHighBand => format!("{:.1} dBFS above 6 kHz", self.high_band_dbfs),
        }
    }
}

/// One section of a filter, direct form II transposed.
#[derive(Clone, Copy, Debug)]
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    z: [f64; 2],
}

impl Biquad {
    /// High pass at `hz` with quality `q` (R. Bristow-Johnson, Audio EQ Cookbook).
    fn high_pass(hz: f64, q: f64) -> Self {
        let w = std::f64::consts::TAU * hz / f64::from(SAMPLE_RATE_HZ);
        let alpha = w.sin() / (2.0 * q);
        let (cos, a0) = (w.cos(), 1.0 + alpha);
        let edge = (1.0 + cos) / 2.0 / a0;
        Self {
            b: [edge, -(1.0 + cos) / a0, edge],
            a: [-2.0 * cos / a0, (1.0 - alpha) / a0],
            z: [0.0; 2],
        }
    }

    fn step(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.z[0];
        self.z = [self.b[1] * x - self.a[0] * y + self.z[1], self.b[2] * x - self.a[1] * y];
        y
    }
}

/// Length of one test.
const SEGMENT: u64 = 30 * SAMPLE_RATE_HZ as u64;
/// Tests in an hour, after which the slower faults are judged.
const SEGMENTS_AN_HOUR: u32 = 120;
/// A dead input is told after so many tests in a row: within a minute.
const FLAT_ALARM: u32 = 2;
/// It is taken back after so many good ones in a row.
const FLAT_CLEAR: u32 = 4;
/// The others are told when this part of an hour's tests failed...
const ALARM_PART: f64 = 0.9;
/// ...and taken back when less than this part did.
const CLEAR_PART: f64 = 0.5;

/// The hourly test of the microphone.
#[derive(Clone, Debug, Default)]
pub struct Deafness {
    segment: SoundCheck,
    active: Vec<Fault>,
    flat_run: u32,
    good_run: u32,
    tests: u32,
    failed: [u32; Fault::ALL.len()],
}

impl Deafness {
    /// Takes sound; gives the faults that are now alarmed when that changes.
    pub fn push(&mut self, samples: &[f32]) -> Option<Vec<Fault>> {
        let before = self.active.clone();
        let mut rest = samples;
        while !rest.is_empty() {
            let room = (SEGMENT - self.segment.samples()) as usize;
            let (head, tail) = rest.split_at(room.min(rest.len()));
            self.segment.push(head);
            rest = tail;
            if self.segment.samples() == SEGMENT {
                let measurement = std::mem::take(&mut self.segment).measure();
                self.judge(&measurement);
            }
        }
        (self.active != before).then(|| self.active.clone())
    }

    fn judge(&mut self, segment: &Measurement) {
        let flat = segment.has(Fault::FlatLine);
        self.flat_run = if flat { self.flat_run + 1 } else { 0 };
        self.good_run = if flat { 0 } else { self.good_run + 1 };
        if self.flat_run >= FLAT_ALARM {
            self.set(Fault::FlatLine, true);
        } else if self.good_run >= FLAT_CLEAR {
            self.set(Fault::FlatLine, false);
        }
        self.tests += 1;
        for (count, fault) in self.failed.iter_mut().zip(Fault::ALL) {
            // A dead input is also faint; one fault is enough.
            *count += u32::from(segment.has(fault) && !flat);
        }
        if self.tests < SEGMENTS_AN_HOUR {
            return;
        }
        for (at, fault) in Fault::ALL.into_iter().enumerate().skip(1) {
            let part = f64::from(self.failed[at]) / f64::from(self.tests);
            if part >= ALARM_PART {
                self.set(fault, true);
            } else if part < CLEAR_PART {
                self.set(fault, false);
            }
        }
        self.tests = 0;
        self.failed = [0; Fault::ALL.len()];
    }

    fn set(&mut self, fault: Fault, on: bool) {
        self.active.retain(|known| *known != fault);
        if on {
            self.active.push(fault);
            self.active.sort_unstable();
        }
    }
}
