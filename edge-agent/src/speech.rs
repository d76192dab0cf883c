//! Path: classifier (how much of speech a window is) → speech → clip, ring
//!
//! Where people speak, so that it is taken out of every recording before one byte reaches the disk.
//! The events themselves are kept.
//!
//! What is taken out is all windows that count as speech (see [`ecosight_models::speech`]), with a
//! margin on both sides.

use std::collections::VecDeque;

use ecosight_models::compact::LOOK_AHEAD_SAMPLES;
use ecosight_models::speech::SPEECH;
use ecosight_models::{Scores, Window};

/// Marked stretches of one stream that are remembered: hours, for whoever writes late.
const SPANS_MAX: usize = 4_096;

/// Whether recordings are kept, and of which parts.
#[derive(Clone, Debug)]
pub enum Redaction {
    /// The operator turned it off.
    Off,
    /// Speech is found and taken out.
    On(Speech),
}

impl Redaction {
    /// The word for it in the status.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On(_) => "on",
        }
    }
}

/// Stretches of speech in one stream.
#[derive(Clone, Debug)]
pub struct Speech {
    margin: u64,
    /// Marked stretches with margins, merged, in order.
    spans: VecDeque<(u64, u64)>,
    windows: u64,
    marked: u64,
}

impl Speech {
    /// Nothing heard yet; `margin` in samples is added before and after every stretch.
    #[must_use]
    pub fn new(margin: u64) -> Self {
        Self { margin, spans: VecDeque::new(), windows: 0, marked: 0 }
    }

    /// Notes one window of the stream, in its order. A window that was not judged counts as speech:
    /// what was not looked at is not kept.
    pub fn judge(&mut self, window: &Window, scores: &Scores) {
        let speech = scores.speech.is_none_or(|speech| speech >= SPEECH);
        self.note(window.start_sample, window.end_sample(), speech);
    }

    /// The same for a stretch that was not classified at all.
    pub fn note(&mut self, start: u64, end: u64, speech: bool) {
        self.windows += 1;
        if !speech {
            return;
        }
        self.marked += 1;
        let (from, to) = (start.saturating_sub(self.margin), end + self.margin);
        match self.spans.back_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => self.spans.push_back((from, to)),
        }
        if self.spans.len() > SPANS_MAX {
            self.spans.pop_front();
        }
    }

    /// Takes over what another found in the same stream: what either marked is marked.
    pub fn absorb(&mut self, other: &Self) {
        let mut all: Vec<(u64, u64)> = self.spans.iter().chain(&other.spans).copied().collect();
        all.sort_unstable();
        self.spans.clear();
        for (from, to) in all {
            match self.spans.back_mut() {
                Some((_, last)) if *last >= from => *last = to.max(*last),
                _ => self.spans.push_back((from, to)),
            }
        }
        let excess = self.spans.len().saturating_sub(SPANS_MAX);
        self.spans.drain(..excess);
        (self.windows, self.marked) = (other.windows, other.marked);
    }

    /// How far behind the end of the stream a recording must end for everything around it to have
    /// been judged: the margin, and the longest that a window waits: 1.455 s with a hop's share, and
    /// what a model may look ahead.
    #[must_use]
    pub fn delay(&self) -> u64 {
        self.margin + 2 * u64::from(ecosight_models::SAMPLE_RATE_HZ) + LOOK_AHEAD_SAMPLES as u64
    }

    /// Silences `samples`, which begin at the stream position `from`, where there is speech; gives
    /// the silenced parts, in samples from the beginning.
    pub fn redact(&self, from: u64, samples: &mut [i16]) -> Vec<(u64, u64)> {
        let len = samples.len() as u64;
        let parts: Vec<(u64, u64)> = self
            .spans
            .iter()
            .map(|(start, end)| {
                (start.saturating_sub(from).min(len), end.saturating_sub(from).min(len))
            })
            .filter(|(start, end)| start < end)
            .collect();
        for (start, end) in &parts {
            samples[*start as usize..*end as usize].fill(0);
        }
        parts
    }

    /// Windows judged, and those with speech.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.windows, self.marked)
    }
}
