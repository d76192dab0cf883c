//! A replay at the pace of sound.

use std::time::{Duration, Instant};

use ecosight_models::SAMPLE_RATE_HZ;

use super::{Read, Source, SourceError};

/// Holds back a source's sound until it would have been heard.
pub struct Paced {
    source: Box<dyn Source>,
    started: Option<Instant>,
    delivered: u64,
    held: Vec<f32>,
}

/// Longest sleep in one read, so that a stop is noticed.
const NAP: Duration = Duration::from_millis(200);

impl Paced {
    /// Paces `source`.
    #[must_use]
    pub fn new(source: Box<dyn Source>) -> Self {
        Self { source, started: None, delivered: 0, held: Vec::new() }
    }
}

impl Source for Paced {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        if self.held.is_empty() {
            let read = self.source.read(&mut self.held)?;
            if read != Read::Sound {
                return Ok(read);
            }
        }
        // A block is heard when its last sample is.
        let due = (self.delivered + self.held.len() as u64) as f64 / f64::from(SAMPLE_RATE_HZ);
        let started = *self.started.get_or_insert_with(Instant::now);
        let wait = Duration::from_secs_f64(due).saturating_sub(started.elapsed());
        std::thread::sleep(wait.min(NAP));
        if wait > NAP {
            return Ok(Read::Nothing);
        }
        self.delivered += self.held.len() as u64;
        out.append(&mut self.held);
        Ok(Read::Sound)
    }
}
