//! The way from a driver's thread to a listener that may be late.
//!
//! Two queues without locks: one of samples, which the driver never waits at, and one of the places in it
//! where something is missing. A break is read after all sound that came before it, so that nobody takes
//! the sound from both sides of it for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};

/// Breaks that wait. With more, sound is dropped until some are read.
const BREAKS: usize = 64;

/// The driver's end.
pub struct Inlet {
    samples: Producer<f32>,
    breaks: Producer<Break>,
    /// Samples that went in so far.
    pushed: u64,
    /// Samples that found no room since.
    lost: u64,
    interruptions: Arc<AtomicU64>,
    /// Interruptions that a break was made for.
    seen: u64,
}

/// The listener's end.
pub struct Outlet {
    samples: Consumer<f32>,
    breaks: Consumer<Break>,
    /// Samples that came out so far.
    popped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Break {
    /// Samples before it.
    at: u64,
    lost: u64,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Sound that continues what came before.
    Sound,
    /// Nothing yet.
    Nothing,
    /// All before it is read; so many samples are known to be missing here.
    Break {
        /// Of all channels together; 0 if only the driver knows.
        lost: u64,
    },
}

/// A funnel for `capacity` samples of all channels together. Whoever counts up the number interrupts
/// the sound that comes next: the driver lost some before it got here.
#[must_use]
pub fn funnel(capacity: usize) -> (Inlet, Outlet, Arc<AtomicU64>) {
    let (samples_in, samples) = RingBuffer::new(capacity);
    let (breaks_in, breaks) = RingBuffer::new(BREAKS);
    let interruptions = Arc::new(AtomicU64::new(0));
    let inlet = Inlet {
        samples: samples_in,
        breaks: breaks_in,
        pushed: 0,
        lost: 0,
        interruptions: Arc::clone(&interruptions),
        seen: 0,
    };
    (inlet, Outlet { samples, breaks, popped: 0 }, interruptions)
}

impl Inlet {
    /// Takes `samples`, whole frames, all or none of them. Never waits.
    pub fn push<T: Copy>(&mut self, samples: &[T], convert: impl Fn(T) -> f32) {
        let count = samples.len() as u64;
        let Ok(chunk) = self.samples.write_chunk_uninit(samples.len()) else {
            self.lost += count;
            return;
        };
        let interruptions = self.interruptions.load(Ordering::Relaxed);
        if self.lost > 0 || interruptions > self.seen {
            // Before the samples are seen: who sees them sees it.
            let here = Break { at: self.pushed, lost: self.lost };
            if self.breaks.push(here).is_err() {
                self.lost += count;
                return;
            }
            (self.lost, self.seen) = (0, interruptions);
        }
        chunk.fill_from_iter(samples.iter().map(|sample| convert(*sample)));
        self.pushed += count;
    }
}

impl Outlet {
    /// Hands all that waits before the next break to `take`, in whole frames of `channels` samples and at most
    /// two pieces.
    pub fn drain(&mut self, channels: usize, mut take: impl FnMut(&[f32])) -> Drained {
        let mut count = self.samples.slots();
        if let Ok(Break { at, lost }) = self.breaks.peek().copied() {
            if at == self.popped {
                let _ = self.breaks.pop();
                return Drained::Break { lost };
            }
            count = count.min(usize::try_from(at - self.popped).unwrap_or(count));
        }
        count = count / channels * channels;
        let Ok(chunk) = self.samples.read_chunk(count) else { return Drained::Nothing };
        if count == 0 {
            return Drained::Nothing;
        }
        let (first, second) = chunk.as_slices();
        take(first);
        take(second);
        chunk.commit_all();
        self.popped += count as u64;
        Drained::Sound
    }
}
