//! Raw samples on standard input, as `arecord -t raw -f S16_LE` writes them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::Resampler;

use super::{Read, Source, SourceError};
use crate::config::{self, Speed};
use crate::health::Health;

/// Interleaved 16-bit samples from a pipe.
pub struct RawPcm {
    blocks: Receiver<io::Result<Block>>,
    resampler: Resampler,
    rate: u32,
    channels: u32,
    /// Samples at 16 kHz that are missing behind the sound that was read last.
    gap: Option<u64>,
    /// What comes behind the gap.
    behind: Option<Vec<f32>>,
    health: Arc<Health>,
    ended: bool,
}

/// A part of the pipe.
struct Block {
    /// Samples of all channels that found no room before it.
    lost: u64,
    samples: Vec<f32>,
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
        let may_wait = config.speed == Speed::Maximum;
        let pump = Pump { input, sender, channels: channels as usize, may_wait, lost: 0 };
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || pump.run())
            .map_err(SourceError::Stdin)?;
        let (gap, behind, ended) = (None, None, false);
        Ok(Self { blocks, resampler, rate, channels, gap, behind, health, ended })
    }

    /// Something is missing before `samples`. What the resampler holds back is of the time before.
    fn interrupted(&mut self, lost: u64, samples: Vec<f32>, out: &mut Vec<f32>) -> Read {
        let frames = lost / u64::from(self.channels);
        let lost = frames * u64::from(SAMPLE_RATE_HZ) / u64::from(self.rate);
        self.health.lost(lost);
        self.behind = Some(samples);
        self.resampler.finish(out);
        if out.is_empty() {
            return Read::Gap { lost };
        }
        self.gap = Some(lost);
        Read::Sound
    }
}

impl Source for RawPcm {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        if self.ended {
            return Ok(Read::End);
        }
        if let Some(lost) = self.gap.take() {
            return Ok(Read::Gap { lost });
        }
        if let Some(samples) = self.behind.take() {
            self.resampler.push(&samples, out);
            return Ok(if out.is_empty() { Read::Nothing } else { Read::Sound });
        }
        match self.blocks.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(Block { lost: 0, samples })) => self.resampler.push(&samples, out),
            Ok(Ok(Block { lost, samples })) => return Ok(self.interrupted(lost, samples, out)),
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
    sender: SyncSender<io::Result<Block>>,
    channels: usize,
    may_wait: bool,
    /// Samples that found no room since the last block that did.
    lost: u64,
}

impl<I: io::Read> Pump<I> {
    fn run(mut self) {
        let frame = 2 * self.channels;
        let mut bytes = vec![0; BLOCK_FRAMES * frame];
        let mut filled = 0;
        loop {
            match self.input.read(&mut bytes[filled..]) {
                // Half a frame at the end is noise of a writer that was killed.
                Ok(0) => {
                    if self.lost > 0 {
                        // Nobody is held up any more: what is missing at the end is told too.
                        let end = Block { lost: self.lost, samples: Vec::new() };
                        let _ = self.sender.send(Ok(end));
                    }
                    return;
                }
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
            let block = Block { lost: self.lost, samples };
            if self.may_wait {
                if self.sender.send(Ok(block)).is_err() {
                    return;
                }
            } else if self.sender.try_send(Ok(block)).is_ok() {
                self.lost = 0;
            } else {
                self.lost += count;
            }
        }
    }
}
