//! What a file is, by its first bytes; names and extensions lie.

use super::AudioError;

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Wav,
    Flac,
    Ogg,
    Mp3,
    /// AAC in MP4, as phones record.
    Mp4,
    /// AAC as a bare stream (ADTS).
    Adts,
    /// An ID3 tag, with MP3 or FLAC behind it.
    Tagged,
}

/// Bytes that [`sniff`] wants to see, where the file has so many.
pub(super) const HEAD_BYTES: usize = 512;

pub(super) fn sniff(head: &[u8]) -> Result<Format, AudioError> {
    Ok(match head {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Format::Wav,
        [b'f', b'L', b'a', b'C', ..] => Format::Flac,
        [b'O', b'g', b'g', b'S', ..] => Format::Ogg,
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Format::Mp4,
        [b'I', b'D', b'3', ..] => Format::Tagged,
        &[0xff, second, third, ..] if is_mp3_header(second, third) => Format::Mp3,
        &[0xff, second, third, ..] if is_adts_header(second, third) => Format::Adts,
        _ => return Err(AudioError::UnknownFormat(describe(head))),
    })
}

/// Frame header of MPEG layer III: sync, a version, a bit rate and a sample rate that exist.
fn is_mp3_header(second: u8, third: u8) -> bool {
    let (version, layer) = ((second >> 3) & 3, (second >> 1) & 3);
    let (bit_rate, rate) = (third >> 4, (third >> 2) & 3);
    second >> 5 == 7 && version != 1 && layer == 1 && !matches!(bit_rate, 0 | 15) && rate != 3
}

/// ADTS header: sync, layer 0, and a sample rate that exists (ISO 13818-7 section 6.2).
fn is_adts_header(second: u8, third: u8) -> bool {
    second & 0xf6 == 0xf0 && (third >> 2) & 0x0f <= 12
}

/// What to call a file that is none of ours.
fn describe(head: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if head.len() < 12 {
        "it has fewer bytes than any header"
    } else if head.iter().all(|&b| b == 0) {
        "it begins with zeros, as an unfinished copy does"
    } else if starts(b"RF64") || starts(b"BW64") || starts(b"riff") {
        "it looks like a 64-bit WAV"
    } else if starts(b"RIFF") || starts(b"RIFX") {
        "it is a RIFF file, but not a WAV"
    } else if starts(b"FORM") || starts(b"caff") || starts(b".snd") {
        "it looks like AIFF, CAF or AU"
    } else if starts(b"\x1a\x45\xdf\xa3") {
        "it looks like Matroska or WebM"
    } else if starts(b"PK\x03\x04") || starts(b"\x1f\x8b") {
        "it looks like an archive"
    } else if starts(b"\x89PNG") || starts(b"\xff\xd8\xff") || starts(b"GIF8") {
        "it looks like a picture"
    } else if starts(b"%PDF") {
        "it looks like a PDF"
    } else if head.iter().all(|&b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..)) {
        "it looks like text"
    } else {
        "its first bytes are no known header"
    }
}
