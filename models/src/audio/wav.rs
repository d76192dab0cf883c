//! Reads a WAV's header, so that the decoder gets a plain one.
//!
//! Recorders in the field write WAVs whose header was never finished (the battery died), with
//! placeholder lengths (piped), with vendors' chunks and hostile ones. Here the two chunks that
//! matter are found and checked, and the decoder is given a header that says just what is there.

use std::io::{self, Read, Seek, SeekFrom};

use super::AudioError;

/// What the decoder is given: [`Wav::header`], then `data_len` bytes of the file from `data_at`.
#[derive(Debug)]
pub(super) struct Wav {
    pub(super) rate_hz: u32,
    pub(super) channels: usize,
    pub(super) header: [u8; HEADER_BYTES],
    pub(super) data_at: u64,
    pub(super) data_len: u64,
    /// Bytes of one sample of all channels, at least 1.
    pub(super) frame_bytes: u64,
    /// Frames that the file's own header announces, where that can be taken at its word.
    pub(super) announced_frames: Option<u64>,
}

/// RIFF and WAVE, a `fmt ` chunk of 18 bytes, the head of the `data` chunk.
pub(super) const HEADER_BYTES: usize = 12 + 8 + 18 + 8;

/// Lengths from here on are what programs write that do not know the length yet.
const PLACEHOLDER_BYTES: u64 = 0x7fff_0000;
/// More chunks than any recorder writes before the sound.
const MAX_CHUNKS: usize = 256;

struct Fmt {
    /// 1 integers, 3 floats, 6 A-law, 7 µ-law.
    tag: u16,
    channels: u16,
    rate_hz: u32,
    /// Of one sample of one channel.
    bytes: u16,
}

/// `source` stands at the start of a file of `len` bytes that begins as a WAV does.
pub(super) fn read(source: &mut (impl Read + Seek), len: u64) -> Result<Wav, AudioError> {
    let mut fmt = None;
    let mut at = 12;
    for _ in 0..MAX_CHUNKS {
        source.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        match source.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e.into()),
        }
        let [a, b, c, d, size @ ..] = head;
        let size = u64::from(u32::from_le_bytes(size));
        let body = at + 8;
        match &[a, b, c, d] {
            b"fmt " => fmt = Some(read_fmt(source, size)?),
            b"data" => {
                let fmt =
                    fmt.ok_or_else(|| damaged("its data chunk comes before any fmt chunk"))?;
                return lay_out(source, &fmt, body, size, len);
            }
            _ => {}
        }
        // Chunks begin at even positions.
        at = body + size + (size & 1);
        if at >= len {
            break;
        }
    }
    Err(if fmt.is_some() {
        AudioError::Truncated { heard_s: 0.0, announced_s: None }
    } else {
        damaged("it has no fmt chunk")
    })
}

fn damaged(reason: &str) -> AudioError {
    AudioError::Damaged { at_s: 0.0, reason: reason.to_owned() }
}

fn read_fmt(source: &mut impl Read, size: u64) -> Result<Fmt, AudioError> {
    let mut raw = [0; 40];
    let take = (size as usize).min(raw.len());
    if take < 16 || source.read_exact(&mut raw[..take]).is_err() {
        return Err(damaged("its fmt chunk is too short"));
    }
    let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
    // The extensible form has the tag at the head of a GUID.
    let tag = match u16_at(0) {
        0xfffe if take == 40 => u16_at(24),
        tag => tag,
    };
    let (channels, align, bits) = (u16_at(2), u16_at(12), u16_at(14));
    let rate_hz = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
    super::check_shape(rate_hz, usize::from(channels))?;
    let bytes = if align > 0 && align.is_multiple_of(channels) {
        align / channels
    } else {
        bits.div_ceil(8)
    };
    match (tag, bytes) {
        (1, 1..=4) | (3, 4 | 8) | (6 | 7, 1) => Ok(Fmt { tag, channels, rate_hz, bytes }),
        (1 | 3 | 6 | 7, _) => Err(AudioError::Unsupported(format!(
            "a WAV with {} of {bytes} bytes a sample",
            if tag == 3 { "floats" } else { "integers" }
        ))),
        (tag, _) => {
            Err(AudioError::Unsupported(format!("a WAV with compressed sound (tag {tag})")))
        }
    }
}

/// The data chunk's body begins at `data_at`, and its head says `size` bytes.
fn lay_out(
    source: &mut (impl Read + Seek),
    fmt: &Fmt,
    data_at: u64,
    size: u64,
    len: u64,
) -> Result<Wav, AudioError> {
    let there = len.saturating_sub(data_at);
    let unfinished = size >= PLACEHOLDER_BYTES
        || (size == 0 && there > 0 && !is_chunk_head(source, data_at, there)?);
    let frame = u64::from(fmt.channels) * u64::from(fmt.bytes);
    let data_len = if unfinished { there } else { size.min(there) } / frame * frame;
    // The length field has 32 bits; `u32::MAX` means unknown to the decoder.
    let length = u32::try_from(data_len).unwrap_or(u32::MAX);

    let mut header = [0; HEADER_BYTES];
    // To the decoder every WAV is one channel of interleaved samples: it has no more than 26
    // names for channels, and the frames are taken apart by the mixer.
    let parts: [&[u8]; 13] = [
        b"RIFF",
        &u32::MAX.to_le_bytes(),
        b"WAVE",
        b"fmt ",
        &18_u32.to_le_bytes(),
        &fmt.tag.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &fmt.rate_hz.to_le_bytes(),
        &fmt.rate_hz.wrapping_mul(u32::from(fmt.bytes)).to_le_bytes(),
        &fmt.bytes.to_le_bytes(),
        &(fmt.bytes * 8).to_le_bytes(),
        &0_u16.to_le_bytes(),
        b"data",
    ];
    let (fields, tail) = header.split_at_mut(HEADER_BYTES - 4);
    let mut fields = fields.iter_mut();
    for byte in parts.concat() {
        if let Some(field) = fields.next() {
            *field = byte;
        }
    }
    tail.copy_from_slice(&length.to_le_bytes());
    Ok(Wav {
        rate_hz: fmt.rate_hz,
        channels: usize::from(fmt.channels),
        header,
        data_at,
        data_len,
        frame_bytes: frame,
        announced_frames: (!unfinished).then_some(size / frame),
    })
}

/// Whether a chunk of a plausible name and size begins at `at`, `there` bytes before the end.
fn is_chunk_head(source: &mut (impl Read + Seek), at: u64, there: u64) -> io::Result<bool> {
    let mut head = [0; 8];
    source.seek(SeekFrom::Start(at))?;
    if there < 8 || source.read_exact(&mut head).is_err() {
        return Ok(false);
    }
    let [a, b, c, d, size @ ..] = head;
    let named = [a, b, c, d].iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    Ok(named && u64::from(u32::from_le_bytes(size)) <= there - 8)
}
