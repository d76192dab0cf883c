//! Path: audio, yamnet → **speech** → scores
//!
//! Whether people speak in a window, for whoever must not keep it. Where YAMNet's 521 scores are
//! given, its classes of voices say so; else a small voice detector that listens to the stream. Both
//! lean towards speech: a bird that is taken for a person costs a second of recording, a person
//! who is taken for a bird costs trust.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::SAMPLE_RATE_HZ;

/// From this value on, a window counts as speech, whoever judged it.
pub const SPEECH: f32 = 0.5;

/// Voices among AudioSet's classes: speech to whispering, laughter, singing to rapping, cheering,
/// and chatter to children playing.
const VOICES: [RangeInclusive<usize>; 5] = [0..=12, 13..=18, 24..=31, 61..=61, 63..=66];
/// The highest of them from which a window counts as speech: 95 % of the windows of forest
/// recordings lie below 0.04, of gunshots below 0.08.
const VOICES_FROM: f32 = 0.1;
/// The detector's mean over a window from which it counts as speech: above it lie nearly all
/// windows of speech down to 10 dB below the forest, and one in seven of the forest's own.
const DETECTOR_FROM: f32 = 0.43;

/// Samples that the detector takes at once: 16 ms.
const FRAME: usize = 256;
const _: () = assert!(SAMPLE_RATE_HZ == 16_000, "the detector's rate");

/// 0 to 1, [`SPEECH`] where `value` is `from`.
fn scaled(value: f32, from: f32) -> f32 {
    (SPEECH * value / from).clamp(0.0, 1.0)
}

/// How much of speech the 521 AudioSet scores of a window tell.
#[must_use]
pub fn of_audioset(scores: &[f32]) -> f32 {
    let voices = VOICES.iter().flat_map(|range| scores.get(range.clone()).unwrap_or_default());
    scaled(voices.copied().fold(0.0, f32::max), VOICES_FROM)
}

/// Listens to one stream. How it is cut into pieces changes nothing.
pub(crate) struct SpeechJudge {
    detector: Box<earshot::Detector>,
    frame: [f32; FRAME],
    filled: usize,
    /// Per frame, the newest last, from frame `first` of the stream on.
    probabilities: VecDeque<f32>,
    first: u64,
}

impl SpeechJudge {
    pub(crate) fn new() -> Self {
        Self {
            detector: earshot::Detector::default_boxed(),
            frame: [0.0; FRAME],
            filled: 0,
            probabilities: VecDeque::new(),
            first: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.detector.reset();
        self.filled = 0;
        self.probabilities.clear();
        self.first = 0;
    }

    /// The next samples of the stream.
    pub(crate) fn push(&mut self, mut samples: &[f32]) {
        while !samples.is_empty() {
            let (now, later) = samples.split_at(samples.len().min(FRAME - self.filled));
            self.frame[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            samples = later;
            if self.filled == FRAME {
                self.filled = 0;
                self.probabilities.push_back(self.detector.predict_f32(&self.frame));
            }
        }
    }

    /// How much of speech the samples from `start` to before `end` are; forgets what came before
    /// `start`.
    pub(crate) fn judge(&mut self, start: u64, end: u64) -> f32 {
        while self.first * FRAME as u64 + (FRAME as u64) <= start
            && self.probabilities.pop_front().is_some()
        {
            self.first += 1;
        }
        let frames = (end / FRAME as u64).saturating_sub(self.first) as usize;
        let heard = self.probabilities.iter().take(frames);
        let (sum, count) = heard.fold((0.0, 0_u16), |(sum, count), p| (sum + p, count + 1));
        if count == 0 { 0.0 } else { scaled(sum / f32::from(count), DETECTOR_FROM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_voice_among_the_521_counts() {
        let mut scores = [0.0; 521];
        assert_eq!(of_audioset(&scores), 0.0);
        scores[12] = 0.1;
        assert_eq!(of_audioset(&scores), SPEECH);
        scores[12] = 0.0;
        scores[70] = 0.9;
        assert_eq!(of_audioset(&scores), 0.0, "a dog is none");
    }

    #[test]
    fn pieces_change_nothing_and_the_past_is_forgotten() {
        let sound = crate::yamnet::golden::Sound::Chirps.render(1, 4.0);
        let judged = |size: usize| {
            let mut judge = SpeechJudge::new();
            let mut out = Vec::new();
            for piece in sound.chunks(size) {
                judge.push(piece);
            }
            for window in 0..6_u64 {
                out.push(judge.judge(window * 7_680, window * 7_680 + 15_360));
            }
            assert!(judge.probabilities.len() <= 4 * 63);
            out
        };
        assert_eq!(judged(1), judged(5_000));
        assert_eq!(SpeechJudge::new().judge(0, 15_360), 0.0);
    }
}
