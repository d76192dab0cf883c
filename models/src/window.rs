//! Path: logmel → window → yamnet, compact, transient → detector
//!
//! One stream of sound to windows of 0.96 s every 0.48 s, each with what the ears need of it. Each
//! spectrum is computed once and serves the log-mel patch and the transient numbers of every
//! window it belongs to. Everything looks into the past only, so that a window is ready as soon
//! as its last sample is heard; only the compact network's picture reaches one hop beyond it, and
//! a windower that makes it holds each window back for as long.

use std::sync::Arc;

use crate::audio::sane;
use crate::compact::{self, Patch, Spectrogram};
use crate::logmel::{
    BANDS, FRAME_HOP, FRAME_SAMPLES, LogMel, PATCH_FRAMES, PATCH_HOP, PATCH_SAMPLES,
};
use crate::speech::SpeechJudge;
use crate::transient::{self, Transient};
use crate::{HOP_SAMPLES, WINDOW_SAMPLES};

const _: () = assert!(WINDOW_SAMPLES == PATCH_FRAMES * FRAME_HOP);
const _: () = assert!(HOP_SAMPLES == PATCH_HOP * FRAME_HOP);

/// Numbers in one log-mel patch.
pub const PATCH_LEN: usize = PATCH_FRAMES * BANDS;

/// Where the 20 ms that two neighbouring frames stress begin, from the first one's start: the
/// frames' Hann windows meet 280 samples in.
const STRESS_SAMPLES: u64 = 120;

/// Features of one 0.96 s window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Position of the window's first sample in the stream (16 kHz).
    pub start_sample: u64,
    /// Where the loudest 20 ms (100-1500 Hz) of the window begins, to 10 ms.
    pub peak_sample: u64,
    /// Level of those 20 ms in that band, dBFS (a full-scale sine is 0).
    pub level_dbfs: f32,
    /// Median level of the context in that band: the last 5 s up to the window's end, dBFS.
    pub noise_floor_dbfs: f32,
    end_sample: u64,
    log_mel: Arc<[f32; PATCH_LEN]>,
    transient: [f32; transient::LEN],
    speech: Option<f32>,
    ahead: Option<Arc<Prospect>>,
}

/// What is known of a window only a hop after its end.
#[derive(Clone, Debug, PartialEq)]
struct Prospect {
    patch: Patch,
    following: [f32; transient::LEN],
}

impl Prospect {
    fn blank() -> Self {
        Self { patch: Patch::blank(), following: [0.0; transient::LEN] }
    }
}

impl Window {
    /// A window of features that were computed before, a cache's for example. `end_sample` is the
    /// stream position up to which sound was heard for it.
    pub fn new(
        start_sample: u64,
        end_sample: u64,
        peak_sample: u64,
        level_dbfs: f32,
        noise_floor_dbfs: f32,
        log_mel: Box<[f32; PATCH_LEN]>,
        transient: [f32; transient::LEN],
    ) -> Self {
        Self {
            start_sample,
            peak_sample,
            level_dbfs,
            noise_floor_dbfs,
            end_sample,
            log_mel: Arc::from(log_mel),
            transient,
            speech: None,
            ahead: None,
        }
    }

    /// YAMNet's input: 96 frames of 64 bands, frame after frame (`[96, 64]`, row-major).
    pub fn log_mel(&self) -> &[f32] {
        self.log_mel.as_slice()
    }

    /// The `transient` feature stream; names and order in [`transient::names`].
    pub fn transient(&self) -> &[f32; transient::LEN] {
        &self.transient
    }

    /// How much of speech it is, where the windower judges that; see [`crate::speech`].
    pub fn speech(&self) -> Option<f32> {
        self.speech
    }

    /// The compact network's input, where the windower makes it.
    pub fn compact(&self) -> Option<&Patch> {
        self.ahead.as_ref().map(|ahead| &ahead.patch)
    }

    /// The `transient` numbers of the next window, where the windower waits for it; the window's
    /// own where the stream ends with it.
    pub fn following(&self) -> Option<&[f32; transient::LEN]> {
        self.ahead.as_ref().map(|ahead| &ahead.following)
    }

    /// Stream position up to which sound was heard for this window (exclusive): 0.975 s after its
    /// start, with the compact network's input 1.455 s, or the end of the stream.
    pub fn end_sample(&self) -> u64 {
        self.end_sample
    }
}

/// Turns one stream of 16 kHz mono into windows.
///
/// Push sound as it comes and take windows until there are none. Pushed sound waits here until
/// its windows are taken (64 kB a second), so drain after each push; nothing else grows. How the
/// stream is cut into pushes changes no bit of any window. Once the first windows are through, nothing
/// is allocated as long as no more than eight are kept at a time: what a dropped one held serves again.
///
/// The windows are those of TF-Hub's YAMNet: the first spans samples 0 to 15,600, the next begins
/// 7,680 later; [`Windower::finish`] pads the last hop with zeros, and a stream shorter than one
/// window to one window.
pub struct Windower {
    log_mel: LogMel,
    transient: Transient,
    ahead: Option<Ahead>,
    speech: Option<SpeechJudge>,
    /// Log-mel frames, the newest last; the last 96 make a patch. Twice as long, so that making
    /// room is rare.
    frames: Vec<[f32; BANDS]>,
    /// Frames computed since the start or the last reset.
    frame_count: u64,
    /// Sound from the start of frame `frame_count` on.
    pending: Vec<f32>,
    /// How much of `pending` is done with.
    done: usize,
    /// Stream position of the first sample since the start or the last reset.
    origin: u64,
    /// Samples since then.
    heard: u64,
    finished: bool,
    patches: Reused<[f32; PATCH_LEN]>,
}

/// What a windower may add to its windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The compact network's input and the next window's `transient` numbers. Each window comes one
    /// hop later for it.
    pub ahead: bool,
    /// How much of speech a window is.
    pub speech: bool,
}

/// What a window waits for.
struct Ahead {
    spectrogram: Spectrogram,
    /// Complete but for its picture.
    held: Option<Window>,
    prospects: Reused<Prospect>,
}

/// So many parts of windows are kept for use again.
const REUSED_MAX: usize = 8;

/// Parts of windows that are given out, and written again when no window holds them any more.
struct Reused<T>(Vec<Arc<T>>);

impl<T: Clone> Reused<T> {
    fn new() -> Self {
        Self(Vec::with_capacity(REUSED_MAX))
    }

    /// One that `write` has filled: one that no window holds any more, else a fresh one.
    fn filled(&mut self, fresh: impl FnOnce() -> T, write: impl FnOnce(&mut T)) -> Arc<T> {
        let free = self.0.iter_mut().position(|part| Arc::get_mut(part).is_some());
        let mut part = match free {
            Some(free) => self.0.swap_remove(free),
            None => Arc::new(fresh()),
        };
        write(Arc::make_mut(&mut part));
        if self.0.len() < REUSED_MAX {
            self.0.push(Arc::clone(&part));
        }
        part
    }
}

impl Windower {
    /// A windower at the start of a stream.
    pub fn new() -> Self {
        Self::with(Extras::default())
    }

    /// A windower whose windows also carry `extras`.
    pub fn with(extras: Extras) -> Self {
        Self {
            log_mel: LogMel::new(),
            transient: Transient::new(),
            ahead: extras.ahead.then(|| Ahead {
                spectrogram: Spectrogram::new(),
                held: None,
                prospects: Reused::new(),
            }),
            speech: extras.speech.then(SpeechJudge::new),
            frames: Vec::with_capacity(2 * PATCH_FRAMES),
            frame_count: 0,
            pending: Vec::new(),
            done: 0,
            origin: 0,
            heard: 0,
            finished: false,
            patches: Reused::new(),
        }
    }

    /// Takes the next samples of the stream, full scale ±1. A sample that is no number reads as
    /// zero, one beyond ±[`crate::audio::SAMPLE_LIMIT`] as that. After [`Windower::finish`], sound begins a new stretch with no context, as after a
    /// reset.
    pub fn push(&mut self, samples: &[f32]) {
        if self.finished {
            self.reset(self.origin + self.heard);
        }
        if self.done > 0 {
            self.pending.drain(..self.done);
            self.done = 0;
        }
        let fresh = self.pending.len();
        self.pending.extend(samples.iter().map(|&sample| sane(sample)));
        if let Some(speech) = &mut self.speech {
            speech.push(&self.pending[fresh..]);
        }
        self.heard += samples.len() as u64;
    }

    /// Next complete window, if any.
    pub fn next_window(&mut self) -> Option<Window> {
        loop {
            let next = self.next_heard();
            let Some(ahead) = &mut self.ahead else { return next };
            match next {
                Some(next) => {
                    let following = next.transient;
                    if let Some(window) = ahead.held.replace(next) {
                        return Some(self.completed(window, following));
                    }
                }
                None if self.finished => {
                    let window = ahead.held.take()?;
                    let following = window.transient;
                    return Some(self.completed(window, following));
                }
                None => return None,
            }
        }
    }

    /// Next window whose last sample is heard.
    fn next_heard(&mut self) -> Option<Window> {
        while let Some(samples) =
            self.pending.get(self.done..).and_then(<[f32]>::first_chunk::<FRAME_SAMPLES>)
        {
            if self.frames.len() == 2 * PATCH_FRAMES {
                self.frames.copy_within(PATCH_FRAMES.., 0);
                self.frames.truncate(PATCH_FRAMES);
            }
            let mut frame = [0.0; BANDS];
            self.log_mel.frame(samples, &mut frame);
            self.frames.push(frame);
            self.transient.push(self.log_mel.power());
            if let Some(ahead) = &mut self.ahead {
                ahead.spectrogram.push(self.log_mel.power());
            }
            self.done += FRAME_HOP;
            self.frame_count += 1;
            let patch_frames = PATCH_FRAMES as u64;
            if self.frame_count >= patch_frames
                && (self.frame_count - patch_frames).is_multiple_of(PATCH_HOP as u64)
            {
                return Some(self.window());
            }
        }
        None
    }

    /// End of the stream: pads the last hop with zeros, so that `next_window` gives what is left.
    pub fn finish(&mut self) {
        if self.finished || self.heard == 0 {
            return;
        }
        self.finished = true;
        let (patch, hop) = (PATCH_SAMPLES as u64, HOP_SAMPLES as u64);
        let padded = patch + self.heard.saturating_sub(patch).next_multiple_of(hop);
        let padding = (padded - self.heard) as usize;
        self.pending.resize(self.pending.len() + padding, 0.0);
    }

    /// A gap: forgets all context and what has not become a window yet; the next pushed sample is
    /// number `next_sample` of the stream. No window mixes sound of both sides. Call
    /// [`Windower::finish`] and take the last windows first where the sound before the gap counts.
    pub fn reset(&mut self, next_sample: u64) {
        self.transient.clear();
        if let Some(ahead) = &mut self.ahead {
            ahead.spectrogram.clear();
            ahead.held = None;
        }
        if let Some(speech) = &mut self.speech {
            speech.clear();
        }
        self.frames.clear();
        self.frame_count = 0;
        self.pending.clear();
        self.done = 0;
        self.origin = next_sample;
        self.heard = 0;
        self.finished = false;
    }

    /// The window whose frames are the newest.
    fn window(&mut self) -> Window {
        let start = (self.frame_count - PATCH_FRAMES as u64) * FRAME_HOP as u64;
        let end = (start + PATCH_SAMPLES as u64).min(self.heard);
        // A frame that the end cuts holds a step that nobody made.
        let whole = (end - start).saturating_sub(FRAME_SAMPLES as u64) / FRAME_HOP as u64;
        let real_frames = 1 + whole as usize;
        let measure = self.transient.measure(real_frames);
        let speech = self.speech.as_mut().map(|judge| judge.judge(start, end));
        let peak = (measure.peak_frame * FRAME_HOP as u64 + STRESS_SAMPLES).min(end - 1);
        let newest = self.frames[self.frames.len() - PATCH_FRAMES..].as_flattened();
        let log_mel =
            self.patches.filled(|| [0.0; PATCH_LEN], |patch| patch.copy_from_slice(newest));
        Window {
            start_sample: self.origin + start,
            peak_sample: self.origin + peak,
            level_dbfs: measure.level_dbfs,
            noise_floor_dbfs: measure.noise_floor_dbfs,
            end_sample: self.origin + end,
            log_mel,
            transient: measure.numbers,
            speech,
            ahead: None,
        }
    }

    /// Adds what a window was held back for.
    fn completed(&mut self, mut window: Window, following: [f32; transient::LEN]) -> Window {
        if let Some(ahead) = &mut self.ahead {
            let start = window.start_sample - self.origin;
            let end = start + (WINDOW_SAMPLES + compact::LOOK_AHEAD_SAMPLES) as u64;
            let frame = (FRAME_HOP * compact::FRAME_STEPS) as u64;
            let heard =
                self.heard.min(start + (PATCH_SAMPLES + compact::LOOK_AHEAD_SAMPLES) as u64);
            let frames = Spectrogram::frames_in(heard);
            window.ahead = Some(ahead.prospects.filled(Prospect::blank, |prospect| {
                ahead.spectrogram.patch(end / frame, frames, &mut prospect.patch);
                prospect.following = following;
            }));
            window.end_sample = self.origin + heard;
        }
        window
    }
}

impl Default for Windower {
    fn default() -> Self {
        Self::new()
    }
}
