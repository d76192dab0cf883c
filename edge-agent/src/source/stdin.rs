//! Raw samples on standard input, as `arecord -t raw -f S16_LE` writes them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::Resampler;

use super::{Read, Source, SourceError};
use crate::config::{self, Speed};
use crate::health::Health;

/// Interleaved 16-bit samples from a pipe.
pub struct RawPcm {
    blocks: Receiver<io::Result<Vec<f32>>>,
    resampler: Resampler,
    rate: u32,
    channels: u32,
    dropped: Arc<AtomicU64>,
    seen_dropped: u64,
    health: Arc<Health>,
    ended: bool,
}

/// Frames a block.
const BLOCK_FRAMES: usize = 4_096;
/// Blocks that wait: about 10 s at 16 kHz.
const WAITING: usize = 40;

impl RawPcm {
    /// Reads this process's standard input.
    ///
    /// # Errors
    /// Rate or channels that cannot be resampled.
    pub fn stdin(config: &config::Source, health: Arc<Health>) -> Result<Self, SourceError> {
        Self::new(io::stdin(), config, health)
    }

    /// Reads `input` on a thread of its own. At the pace of sound a late listener costs samples,
    /// which are counted, because the writer of the pipe must not be held up; at full speed the
    /// writer waits.
    ///
    /// # Errors
    /// Rate or channels that cannot be resampled.
    pub fn new(
        input: impl io::Read + Send + 'static,
        config: &config::Source,
        health: Arc<Health>,
    ) -> Result<Self, SourceError> {
        let rate = config.rate.unwrap_or(SAMPLE_RATE_HZ);
        let channels = config.channels.unwrap_or(1);
        let resampler = Resampler::new(rate, channels as usize).map_err(SourceError::Format)?;
        let (sender, blocks) = mpsc::sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let pump = Pump {
            input,
            sender,
            channels: channels as usize,
            may_wait: config.speed == Speed::Maximum,
            dropped: Arc::clone(&dropped),
        };
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || pump.run())
            .map_err(SourceError::Stdin)?;
        Ok(Self {
            blocks,
            resampler,
            rate,
            channels,
            dropped,
            seen_dropped: 0,
            health,
            ended: false,
        })
    }
}

impl Source for RawPcm {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        if self.ended {
            return Ok(Read::End);
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.seen_dropped {
            let frames = (dropped - self.seen_dropped) / u64::from(self.channels);
            self.seen_dropped = dropped;
            let lost = frames * u64::from(SAMPLE_RATE_HZ) / u64::from(self.rate);
            self.health.lost(lost);
            return Ok(Read::Gap { lost });
        }
        match self.blocks.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(block)) => {
                self.resampler.push(&block, out);
            }
            Ok(Err(error)) => return Err(SourceError::Stdin(error)),
            Err(RecvTimeoutError::Timeout) => return Ok(Read::Nothing),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                self.resampler.finish(out);
            }
        }
        Ok(if out.is_empty() { Read::Nothing } else { Read::Sound })
    }
}

struct Pump<I> {
    input: I,
    sender: SyncSender<io::Result<Vec<f32>>>,
    channels: usize,
    may_wait: bool,
    dropped: Arc<AtomicU64>,
}

impl<I: io::Read> Pump<I> {
    fn run(mut self) {
        let frame = 2 * self.channels;
        let mut bytes = vec![0; BLOCK_FRAMES * frame];
        let mut filled = 0;
        loop {
            match self.input.read(&mut bytes[filled..]) {
                // Half a frame at the end is noise of a writer that was killed.
                Ok(0) => return,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = self.sender.send(Err(error));
                    return;
                }
            }
            let whole = filled / frame * frame;
            let (pairs, _) = bytes[..whole].as_chunks::<2>();
            let samples: Vec<f32> =
                pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect();
            bytes.copy_within(whole..filled, 0);
            filled -= whole;
            if samples.is_empty() {
                continue;
            }
            let count = samples.len() as u64;
            if self.may_wait {
                if self.sender.send(Ok(samples)).is_err() {
                    return;
                }
            } else if self.sender.try_send(Ok(samples)).is_err() {
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}
