//! The last minutes of sound.

use std::collections::VecDeque;

/// The newest samples of the stream, by position.
#[derive(Debug)]
pub struct Ring {
    samples: VecDeque<i16>,
    capacity: usize,
    end: u64,
}

impl Ring {
    /// A ring that holds `capacity` samples.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { samples: VecDeque::with_capacity(capacity), capacity, end: 0 }
    }

    /// Position behind the newest sample.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds sound at the end, −1 to 1; the oldest falls out.
    pub fn push(&mut self, samples: &[f32]) {
        let keep = samples.len().min(self.capacity);
        let excess = (self.samples.len() + keep).saturating_sub(self.capacity);
        self.samples.drain(..excess);
        self.samples.extend(samples[samples.len() - keep..].iter().copied().map(to_pcm));
        self.end += samples.len() as u64;
    }

    /// A gap: what was is no neighbour of what comes, which begins at `next`.
    pub fn clear(&mut self, next: u64) {
        self.samples.clear();
        self.end = next;
    }

    /// The samples of `from..to` that are still, and already, there, and the position of the first.
    #[must_use]
    pub fn cut(&self, from: u64, to: u64) -> (u64, Vec<i16>) {
        let begin = self.end - self.samples.len() as u64;
        let first = from.clamp(begin, self.end);
        let from = first - begin;
        let to = to.clamp(begin, self.end) - begin;
        let len = (to.max(from) - from) as usize;
        (first, self.samples.iter().copied().skip(from as usize).take(len).collect())
    }
}

/// A sample as 16-bit PCM: the inverse of dividing by 32768, so that what came from a 16-bit
/// recording of this rate is kept bit by bit.
#[must_use]
pub fn to_pcm(sample: f32) -> i16 {
    // `as` saturates, and takes NaN for silence.
    (sample * 32_768.0).round() as i16
}
