//! One file on its way through the threads: decoded a few windows at a time.

use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_models::{Bundle, Scores, Window, Windower};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{
    Heard, Held, MAX_FILE_BYTES, MAX_SECONDS, PredictError, SCALE_LIMIT, TIME_LIMIT, Wanted,
    WindowScores, verdict,
};

type Answer = oneshot::Sender<Result<Heard, PredictError>>;

/// Bytes of one hop of the plainest file there is: 16 kHz, mono, 16 bit.
const BYTES_PER_WINDOW: usize = 15_360;

/// A file that waits or is worked on.
pub(super) struct File {
    sound: Sound,
    windower: Windower,
    /// The decoder has come to the end.
    ended: bool,
    /// The windower has nothing left either.
    drained: bool,
    scores: Vec<Scores>,
    windows: Vec<WindowScores>,
    wanted: Wanted,
    /// Set when the first window is asked for.
    deadline: Option<Instant>,
    queued: Instant,
    bytes: usize,
    answer: Answer,
    held: Held,
}

enum Sound {
    Bytes(Vec<u8>),
    Reader(Box<AudioReader>),
}

impl File {
    pub(super) fn new(
        bytes: Vec<u8>,
        held: Held,
        wanted: Wanted,
        windower: Windower,
        answer: Answer,
    ) -> Self {
        Self {
            bytes: bytes.len(),
            sound: Sound::Bytes(bytes),
            windower,
            ended: false,
            drained: false,
            scores: Vec::new(),
            windows: Vec::new(),
            wanted,
            deadline: None,
            queued: Instant::now(),
            answer,
            held,
        }
    }

    /// Windows that are still to come, by the size of the file: compressed ones hold more.
    pub(super) fn windows_left(&self) -> usize {
        (self.bytes / BYTES_PER_WINDOW + 1).saturating_sub(self.scores.len()).max(1)
    }

    /// Whether AudioSet's classes are to be named.
    pub(super) fn wants_audioset(&self) -> bool {
        self.wanted.heard
    }

    pub(super) fn want_audioset(&mut self) {
        self.wanted.heard = true;
    }

    /// Whether anybody still waits for the answer.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Whether every window has been taken.
    pub(super) fn is_drained(&self) -> bool {
        self.drained
    }

    pub(super) fn queued(&self) -> Instant {
        self.queued
    }

    /// Decodes up to `room` more windows into `out`; gives how many there were.
    pub(super) fn take(
        &mut self,
        room: usize,
        out: &mut Vec<Window>,
    ) -> Result<usize, PredictError> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + TIME_LIMIT);
        let mut taken = 0;
        while taken < room {
            if let Some(window) = self.windower.next_window() {
                if self.wanted.windows {
                    self.windows.push(WindowScores::unscored(&window));
                }
                out.push(window);
                taken += 1;
                continue;
            }
            if self.ended {
                self.drained = true;
                break;
            }
            if Instant::now() >= deadline {
                return Err(PredictError::TooSlow);
            }
            self.decode()?;
        }
        Ok(taken)
    }

    fn decode(&mut self) -> Result<(), PredictError> {
        if let Sound::Bytes(bytes) = &mut self.sound {
            let limits =
                DecodeLimits { max_bytes: MAX_FILE_BYTES as u64, max_seconds: MAX_SECONDS };
            let reader = AudioReader::from_bytes(std::mem::take(bytes), &limits)?;
            self.sound = Sound::Reader(Box::new(reader));
        }
        let Sound::Reader(reader) = &mut self.sound else { return Ok(()) };
        match reader.next_block()? {
            Some(block) if block.iter().all(|sample| sample.abs() <= SCALE_LIMIT) => {
                self.windower.push(block);
            }
            Some(_) => return Err(PredictError::OffScale),
            None => {
                self.windower.finish();
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Notes the scores of the windows taken last.
    pub(super) fn note(&mut self, scores: impl Iterator<Item = Scores>) {
        self.scores.extend(scores);
    }

    /// Answers with what was heard in the whole.
    pub(super) fn finish(self, bundle: &Bundle) {
        let heard = if self.scores.is_empty() {
            Err(PredictError::Empty)
        } else {
            Ok(verdict::heard(&self.scores, self.windows, self.wanted, bundle))
        };
        // The caller may have gone.
        let _ = self.answer.send(heard);
        drop(self.held);
    }

    /// Answers with why there is nothing to tell.
    pub(super) fn fail(self, error: PredictError) {
        let _ = self.answer.send(Err(error));
    }
}
