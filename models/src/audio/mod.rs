//! Path: file or upload → audio → window
//!
//! Sound files of any shape to the one shape that EcoSight hears: 16 kHz mono, in blocks, never
//! the whole file at once. The bytes are untrusted. What a file is, its content says; limits hold
//! while it streams, so that a small file cannot become a large one; and a decoder that panics
//! costs that file only.

mod error;
mod flac;
mod resample;
mod sniff;
mod source;
mod wav;

use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as DecoderError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

pub use error::AudioError;
pub use resample::Resampler;

use sniff::Format;
use source::{Bytes, Source};

/// Sample rates that are taken: below, no shot is left; above, no recorder is.
pub const RATES_HZ: RangeInclusive<u32> = 1_000..=384_000;
/// Channel counts that are taken.
pub const CHANNELS: RangeInclusive<usize> = 1..=32;

/// Larger samples read as this, so that no sum of squares overflows. Full scale is 1; files of
/// floats that were never scaled reach 32,768.
pub const SAMPLE_LIMIT: f32 = 1e6;

/// A sample as the signal path takes it.
pub(crate) fn sane(sample: f32) -> f32 {
    if sample.is_finite() { sample.clamp(-SAMPLE_LIMIT, SAMPLE_LIMIT) } else { 0.0 }
}

/// Endings of the files that a search of a directory takes for sound. What a named file is, its
/// content says.
pub const ENDINGS: [&str; 9] = ["wav", "wave", "flac", "ogg", "oga", "mp3", "m4a", "aac", "mp4"];

/// Whether a file's name ends as one of [`ENDINGS`].
#[must_use]
pub fn has_sound_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// MP3's encoders count their frames each in their way: one more or less is no damage.
const MP3_SLACK_FRAMES: u64 = 2 * 1152;
/// AAC's encoders put up to two frames of their own before the sound, and a last one that is part
/// filled; the decoder may drop them.
const AAC_SLACK_FRAMES: u64 = 3 * 1024;

/// What one file may cost. Both hold while it streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeLimits {
    /// Size of the file.
    pub max_bytes: u64,
    /// Sound in it.
    pub max_seconds: f64,
}

impl Default for DecodeLimits {
    /// 2 GiB and 24 h: a day of one recorder in one file.
    fn default() -> Self {
        Self { max_bytes: 2 << 30, max_seconds: 86_400.0 }
    }
}

pub(crate) fn check_shape(rate_hz: u32, channels: usize) -> Result<(), AudioError> {
    if !RATES_HZ.contains(&rate_hz) {
        return Err(AudioError::Rate(rate_hz));
    }
    if !CHANNELS.contains(&channels) {
        return Err(AudioError::Channels(channels));
    }
    Ok(())
}

/// Streams one WAV, FLAC, OGG Vorbis, MP3 or AAC (M4A) file as 16 kHz mono blocks.
///
/// ```no_run
/// use ecosight_models::audio::{AudioReader, DecodeLimits};
/// let mut reader = AudioReader::open("dawn.flac".as_ref(), &DecodeLimits::default())?;
/// while let Some(block) = reader.next_block()? {
///     println!("{} samples", block.len());
/// }
/// # Ok::<(), ecosight_models::audio::AudioError>(())
/// ```
///
/// A file that ends too early or turns to rubbish gives all blocks up to there, then the error.
pub struct AudioReader {
    decoder: Decoder,
    resampler: Resampler,
    rate_hz: u32,
    channels: usize,
    limits: DecodeLimits,
    /// Frames at the file's own rate.
    frames: u64,
    /// Samples of one packet, interleaved.
    packet: Vec<f32>,
    block: Vec<f32>,
    state: State,
}

enum State {
    Streaming,
    /// All blocks are out, this is still to be said.
    Failing(AudioError),
    Over,
}

impl AudioReader {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Every [`AudioError`]; most faults of a file show here, the rest in
    /// [`AudioReader::next_block`].
    pub fn open(path: &Path, limits: &DecodeLimits) -> Result<Self, AudioError> {
        let (bytes, len) = Bytes::open(path)?;
        Self::new(bytes, len, limits)
    }

    /// Reads a file that is in memory, an upload for example.
    ///
    /// # Errors
    /// As [`AudioReader::open`].
    pub fn from_bytes(bytes: Vec<u8>, limits: &DecodeLimits) -> Result<Self, AudioError> {
        let len = bytes.len() as u64;
        Self::new(Bytes::Memory(io::Cursor::new(bytes)), len, limits)
    }

    fn new(bytes: Bytes, len: u64, limits: &DecodeLimits) -> Result<Self, AudioError> {
        if len > limits.max_bytes {
            return Err(AudioError::TooLarge { bytes: len, limit: limits.max_bytes });
        }
        if len == 0 {
            return Err(AudioError::Empty("0 bytes"));
        }
        let decoder = contained(|| Decoder::open(bytes, len), 0.0)?;
        let (rate_hz, channels) = (decoder.rate_hz, decoder.channels);
        let resampler = Resampler::new(rate_hz, channels)?;
        let too_long = |frames: u64| frames as f64 > limits.max_seconds * f64::from(rate_hz);
        if decoder.announced_frames.is_some_and(too_long) && !decoder.cut_off {
            return Err(AudioError::TooLong { limit_s: limits.max_seconds });
        }
        Ok(Self {
            decoder,
            resampler,
            rate_hz,
            channels,
            limits: *limits,
            frames: 0,
            packet: Vec::new(),
            block: Vec::new(),
            state: State::Streaming,
        })
    }

    /// Sample rate of the file.
    pub fn source_rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Channels of the file.
    pub fn source_channels(&self) -> usize {
        self.channels
    }

    /// Sound that the file announces, seconds, where it does so credibly. For progress only.
    pub fn announced_s(&self) -> Option<f64> {
        self.decoder.announced_frames.map(|frames| self.seconds(frames))
    }

    /// Next block of 16 kHz mono, never empty, `None` at the end.
    ///
    /// # Errors
    /// [`AudioError`], once; after it the stream is over.
    pub fn next_block(&mut self) -> Result<Option<&[f32]>, AudioError> {
        self.block.clear();
        while matches!(self.state, State::Streaming) && self.block.is_empty() {
            if let Err(error) = self.advance() {
                self.resampler.finish(&mut self.block);
                self.state = State::Failing(error);
            }
        }
        if !self.block.is_empty() {
            return Ok(Some(&self.block));
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failing(error) => Err(error),
            State::Streaming | State::Over => Ok(None),
        }
    }

    /// Decodes one packet into `block`, or finds the end.
    fn advance(&mut self) -> Result<(), AudioError> {
        let heard_s = self.seconds(self.frames);
        let (decoder, packet) = (&mut self.decoder, &mut self.packet);
        packet.clear();
        let more = contained(|| decoder.next_packet(packet, heard_s), heard_s)?;
        let bad = self.packet.iter().position(|sample| !sample.is_finite());
        let good = &self.packet[..bad.unwrap_or(self.packet.len())];
        self.decoder.samples += good.len() as u64;
        self.frames = self.decoder.samples / self.channels as u64;
        if self.frames as f64 > self.limits.max_seconds * f64::from(self.rate_hz) {
            return Err(AudioError::TooLong { limit_s: self.limits.max_seconds });
        }
        self.resampler.push(good, &mut self.block);
        if bad.is_some() {
            let channel = (self.decoder.samples % self.channels as u64) as usize;
            return Err(AudioError::NonFinite { frame: self.frames, channel });
        }
        if more {
            return Ok(());
        }
        self.end()?;
        self.resampler.finish(&mut self.block);
        self.state = State::Over;
        Ok(())
    }

    /// Whether the end that was found is the right one.
    fn end(&mut self) -> Result<(), AudioError> {
        let heard_s = self.seconds(self.frames);
        let announced = self.decoder.announced_frames;
        let slack = match self.decoder.format {
            Format::Mp3 => MP3_SLACK_FRAMES,
            Format::Mp4 | Format::Adts => AAC_SLACK_FRAMES,
            Format::Wav | Format::Flac | Format::Ogg | Format::Tagged => 0,
        };
        if announced.is_some_and(|announced| self.frames + slack < announced) {
            return Err(AudioError::Truncated {
                heard_s,
                announced_s: announced.map(|frames| self.seconds(frames)),
            });
        }
        if self.frames == 0 {
            return Err(AudioError::Empty("a header and nothing behind it"));
        }
        let decoder = &mut self.decoder;
        if contained(|| Ok(decoder.decoder.finalize().verify_ok), heard_s)? == Some(false) {
            let reason = "the sound is not that of its checksum (MD5)".to_owned();
            return Err(AudioError::Damaged { at_s: heard_s, reason });
        }
        Ok(())
    }

    fn seconds(&self, frames: u64) -> f64 {
        frames as f64 / f64::from(self.rate_hz)
    }
}

/// Runs a step of the decoder, whose panic is one file's damage and not the process's end.
fn contained<T>(step: impl FnOnce() -> Result<T, AudioError>, at_s: f64) -> Result<T, AudioError> {
    // What a panic leaves half-changed is dropped with the reader: the stream is over.
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        Err(AudioError::Damaged { at_s, reason: "the decoder could not cope with it".to_owned() })
    })
}

/// The container and its codec.
struct Decoder {
    format: Format,
    container: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    rate_hz: u32,
    channels: usize,
    announced_frames: Option<u64>,
    /// The file is shorter than its header says.
    cut_off: bool,
    /// Samples of all channels so far.
    samples: u64,
}

impl Decoder {
    fn open(mut bytes: Bytes, len: u64) -> Result<Self, AudioError> {
        let mut format = sniff::sniff(&bytes.head(sniff::HEAD_BYTES)?)?;
        let mut header = None;
        let source = if format == Format::Wav {
            let wav = wav::read(&mut bytes, len)?;
            let source = Source::wav(bytes, &wav)?;
            header = Some(wav);
            source
        } else if let Some(start) =
            (format == Format::Flac).then(|| flac::mended_start(&mut bytes)).transpose()?.flatten()
        {
            Source::with_start(bytes, len, start)?
        } else {
            // OGG has its length at its end, and MP4 may have all its tables there.
            Source::plain(bytes, len, matches!(format, Format::Ogg | Format::Mp4))?
        };
        let container = symphonia::default::get_probe()
            .probe(
                &Hint::new(),
                MediaSourceStream::new(Box::new(source), Default::default()),
                FormatOptions::default(),
                MetadataOptions::default(),
            )
            .map_err(|error| fault(error, 0.0))?;
        if format == Format::Tagged {
            format = match container.format_info().short_name {
                "mp3" => Format::Mp3,
                _ => Format::Flac,
            };
        }
        let track = container
            .default_track(TrackType::Audio)
            .ok_or(AudioError::Empty("a container without a sound track"))?;
        let params = track
            .codec_params
            .as_ref()
            .and_then(|params| params.audio())
            .ok_or_else(|| AudioError::Unsupported("its codec".to_owned()))?;
        // FLAC carries a checksum of its sound.
        let options = AudioDecoderOptions::default().verify(true);
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &options)
            .map_err(|error| match error {
                DecoderError::Unsupported(_) => {
                    AudioError::Unsupported("its codec (Opus, perhaps)".to_owned())
                }
                error => fault(error, 0.0),
            })?;
        let (rate_hz, channels, announced_frames, cut_off) = match &header {
            Some(wav) => {
                let there = wav.data_len / wav.frame_bytes;
                let cut_off = wav.announced_frames.is_some_and(|frames| frames > there);
                (wav.rate_hz, wav.channels, wav.announced_frames, cut_off)
            }
            None => (
                params.sample_rate.unwrap_or(0),
                params.channels.as_ref().map_or(0, |channels| channels.count()),
                track.num_frames,
                false,
            ),
        };
        check_shape(rate_hz, channels)?;
        Ok(Self {
            format,
            track: track.id,
            container,
            decoder,
            rate_hz,
            channels,
            announced_frames,
            cut_off,
            samples: 0,
        })
    }

    /// Puts the next packet's samples into `out`, interleaved. False at the end.
    fn next_packet(&mut self, out: &mut Vec<f32>, at_s: f64) -> Result<bool, AudioError> {
        let packet = loop {
            match self.container.next_packet().map_err(|error| fault(error, at_s))? {
                None => return Ok(false),
                Some(packet) if packet.track_id == self.track => break packet,
                Some(_) => {}
            }
        };
        if self.format == Format::Flac {
            // A frame whose checksum fails is skipped by the parser: its absence shows in time.
            let expected = self.samples / self.channels as u64;
            if packet.pts.get() != expected as i64 {
                let reason = format!("a frame is missing or broken before sample {}", packet.pts);
                return Err(AudioError::Damaged { at_s, reason });
            }
        }
        let sound = self.decoder.decode(&packet).map_err(|error| fault(error, at_s))?;
        // A WAV's frames look like one channel to the decoder (see `wav`).
        let channels = if self.format == Format::Wav { 1 } else { self.channels };
        if sound.frames() > 0
            && (sound.spec().rate() != self.rate_hz || sound.spec().channels().count() != channels)
        {
            let reason = format!(
                "from here on it has {} Hz and {} channels, before {} Hz and {channels}",
                sound.spec().rate(),
                sound.spec().channels().count(),
                self.rate_hz
            );
            return Err(AudioError::Damaged { at_s, reason });
        }
        sound.copy_to_vec_interleaved(out);
        Ok(true)
    }
}

fn fault(error: DecoderError, at_s: f64) -> AudioError {
    let reason = match error {
        DecoderError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return AudioError::Truncated { heard_s: at_s, announced_s: None };
        }
        DecoderError::IoError(error) if error.raw_os_error().is_some() => return error.into(),
        DecoderError::IoError(error) => error.to_string(),
        DecoderError::Unsupported(what) => return AudioError::Unsupported(what.to_owned()),
        DecoderError::ResetRequired => "another stream begins in the same file".to_owned(),
        error => error.to_string(),
    };
    AudioError::Damaged { at_s, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_decoder_is_damage_of_the_file() {
        let result: Result<(), AudioError> = contained(|| panic!("an overflow"), 1.5);
        assert!(matches!(result, Err(AudioError::Damaged { at_s: 1.5, .. })));
    }
}
