//! Any rate and channel count to 16 kHz mono.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

#[cfg(doc)]
use super::SAMPLE_LIMIT;
use super::{AudioError, check_shape, sane};
use crate::SAMPLE_RATE_HZ;

/// Shortest block of the transform, at the lower of both rates: its low pass is then flat to
/// 97 % of that rate's Nyquist frequency, above the 7.5 kHz that the ears listen to.
const MIN_BLOCK: usize = 512;

/// Streams interleaved sound of any rate and channel count to 16 kHz mono: the mean of the
/// channels, through a linear-phase low pass whose delay is taken off, so that an onset keeps its
/// time.
///
/// How the input is cut into pushes changes no bit of the output. Output lags by one block of the
/// transform and half of one (48 ms at most for the usual rates; up to 3 s for rates that share
/// no factor with 16,000). At 16 kHz mono samples pass unchanged.
///
/// A sample that is no number reads as zero (it would blot out a whole block), and one beyond
/// ±[`SAMPLE_LIMIT`] as that.
pub struct Resampler {
    rate_hz: u32,
    channels: usize,
    /// Sum of the first `summed` channels of the frame that is not complete yet.
    sum: f32,
    summed: usize,
    /// `None` at 16 kHz.
    transform: Option<Transform>,
    frames_in: u64,
    frames_out: u64,
}

struct Transform {
    fft: Fft<f32>,
    block_in: Vec<f32>,
    filled: usize,
    block_out: Vec<f32>,
    /// Output frames that are still the filter's delay.
    delay_left: usize,
}

impl Resampler {
    /// # Errors
    /// [`AudioError::Rate`] and [`AudioError::Channels`] for what is outside
    /// [`super::RATES_HZ`] and [`super::CHANNELS`].
    pub fn new(rate_hz: u32, channels: usize) -> Result<Self, AudioError> {
        check_shape(rate_hz, channels)?;
        let transform =
            if rate_hz == SAMPLE_RATE_HZ { None } else { Some(Transform::new(rate_hz)?) };
        Ok(Self { rate_hz, channels, sum: 0.0, summed: 0, transform, frames_in: 0, frames_out: 0 })
    }

    /// Appends what is ready to `out`. `interleaved` may end within a frame.
    pub fn push(&mut self, interleaved: &[f32], out: &mut Vec<f32>) {
        let before = out.len();
        let mut rest = interleaved;
        // First what is left of a frame that the last push began.
        while let ([sample, later @ ..], 1..) = (rest, self.summed) {
            rest = later;
            self.sum += sane(*sample);
            self.summed += 1;
            if self.summed == self.channels {
                let frame = self.sum / self.channels as f32;
                self.frames_in += 1;
                self.summed = 0;
                match &mut self.transform {
                    None => out.push(frame),
                    Some(transform) => transform.push(&[frame], 1, out),
                }
            }
        }
        let frames = rest.len() / self.channels;
        let (frames_of_it, begun) = rest.split_at(frames * self.channels);
        match &mut self.transform {
            None => out.extend(frames_of_it.chunks_exact(self.channels).map(mean)),
            Some(transform) => transform.push(frames_of_it, self.channels, out),
        }
        self.frames_in += frames as u64;
        if !begun.is_empty() {
            self.sum = begun.iter().map(|&sample| sane(sample)).fold(0.0, |sum, s| sum + s);
            self.summed = begun.len();
        }
        self.frames_out += (out.len() - before) as u64;
    }

    /// Appends the tail, so that `ceil(frames * 16,000 / rate)` frames came out in all; an
    /// incomplete frame is dropped. The resampler is then as new.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let total = u128::from(self.frames_in) * u128::from(SAMPLE_RATE_HZ);
        let total = total.div_ceil(u128::from(self.rate_hz)) as u64;
        let wanted = out.len() + (total - self.frames_out.min(total)) as usize;
        if let Some(transform) = &mut self.transform {
            // It holds two blocks at most; zeros push them out.
            while out.len() < wanted {
                transform.block_in[transform.filled..].fill(0.0);
                transform.turn(out);
            }
            out.truncate(wanted);
            transform.reset();
        }
        self.summed = 0;
        self.frames_in = 0;
        self.frames_out = 0;
    }
}

/// Mean of one frame's channels.
fn mean(frame: &[f32]) -> f32 {
    frame.iter().map(|&sample| sane(sample)).fold(0.0, |sum, s| sum + s) / frame.len() as f32
}

impl Transform {
    fn new(rate_hz: u32) -> Result<Self, AudioError> {
        let (from, to) = (rate_hz as usize, SAMPLE_RATE_HZ as usize);
        let common = greatest_common_divisor(from, to);
        let (unit_in, unit_out) = (from / common, to / common);
        // An even block has its filter's centre on a sample, so that the delay is a whole number.
        let units = MIN_BLOCK.div_ceil(unit_in.min(unit_out));
        let block =
            unit_in * if unit_in.is_multiple_of(2) { units } else { units.next_multiple_of(2) };
        let fft = Fft::new_custom(
            from,
            to,
            block,
            1,
            1,
            rubato::WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(|_| AudioError::Rate(rate_hz))?;
        Ok(Self {
            block_in: vec![0.0; fft.input_frames_max()],
            filled: 0,
            block_out: vec![0.0; fft.output_frames_max()],
            delay_left: fft.output_delay(),
            fft,
        })
    }

    /// Takes whole frames.
    fn push(&mut self, mut interleaved: &[f32], channels: usize, out: &mut Vec<f32>) {
        while !interleaved.is_empty() {
            let slots = &mut self.block_in[self.filled..];
            let take = slots.len().min(interleaved.len() / channels);
            let (now, later) = interleaved.split_at(take * channels);
            for (slot, frame) in slots.iter_mut().zip(now.chunks_exact(channels)) {
                *slot = mean(frame);
            }
            interleaved = later;
            self.filled += take;
            if self.filled == self.block_in.len() {
                self.turn(out);
            }
        }
    }

    /// Transforms the block.
    fn turn(&mut self, out: &mut Vec<f32>) {
        self.filled = 0;
        let (len_in, len_out) = (self.block_in.len(), self.block_out.len());
        let written = match (
            InterleavedSlice::new(&self.block_in, 1, len_in),
            InterleavedSlice::new_mut(&mut self.block_out, 1, len_out),
        ) {
            (Ok(block_in), Ok(mut block_out)) => {
                self.fft.process_into_buffer(&block_in, &mut block_out, None).ok()
            }
            _ => None,
        };
        debug_assert_eq!(written, Some((len_in, len_out)), "blocks are as long as it wants them");
        let skipped = self.delay_left.min(len_out);
        self.delay_left -= skipped;
        out.extend_from_slice(&self.block_out[skipped..]);
    }

    fn reset(&mut self) {
        self.fft.reset();
        self.filled = 0;
        self.delay_left = self.fft.output_delay();
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
