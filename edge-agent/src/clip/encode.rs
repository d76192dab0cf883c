//! Samples to a file: FLAC if it proves to be lossless, else WAV.

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_shared::ClipFormat;
use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, MetadataBlockData};
use flacenc::error::Verify;

use super::to_pcm;

/// A clip as a file's bytes.
#[derive(Debug)]
pub struct Encoded {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// What it is.
    pub format: ClipFormat,
}

/// Encodes 16 kHz mono without any metadata. See [`encode_with`].
#[must_use]
pub fn encode(samples: &[i16]) -> Encoded {
    encode_with(samples, "")
}

/// Encodes 16 kHz mono. FLAC halves the upload, but its encoder is young: each file is decoded
/// again, and if one sample differs the clip becomes WAV.
///
/// `about` is a GUANO text (guano-md.org): the chunk `guan` of a WAV. FLAC has no such chunk; there
/// it is the Vorbis comment `GUANO`.
#[must_use]
pub fn encode_with(samples: &[i16], about: &str) -> Encoded {
    match flac(samples, about) {
        Some(bytes) if decodes_to(&bytes, samples) => Encoded { bytes, format: ClipFormat::Flac },
        _ => {
            if !samples.is_empty() {
                tracing::warn!(samples = samples.len(), "FLAC failed its check, clip kept as WAV");
            }
            Encoded { bytes: wav(samples, about), format: ClipFormat::Wav }
        }
    }
}

fn flac(samples: &[i16], about: &str) -> Option<Vec<u8>> {
    let config = flacenc::config::Encoder::default().into_verified().ok()?;
    let wide: Vec<i32> = samples.iter().map(|s| i32::from(*s)).collect();
    let source = flacenc::source::MemSource::from_samples(&wide, 1, 16, SAMPLE_RATE_HZ as usize);
    let mut stream =
        flacenc::encode_with_fixed_block_size(&config, source, config.block_size).ok()?;
    if !about.is_empty() {
        let comment = vorbis_comment(about);
        let block = MetadataBlockData::new_unknown(VORBIS_COMMENT, &comment).ok()?;
        stream.add_metadata_block(block);
    }
    let mut sink = ByteSink::new();
    stream.write(&mut sink).ok()?;
    Some(sink.into_inner())
}

/// Type of a FLAC metadata block (RFC 9639, 8.1).
const VORBIS_COMMENT: u8 = 4;

/// A Vorbis comment with one field (RFC 9639, 8.6): lengths are little-endian.
fn vorbis_comment(about: &str) -> Vec<u8> {
    let vendor = concat!("EcoSight ", env!("CARGO_PKG_VERSION"));
    let field = format!("GUANO={about}");
    let mut bytes = Vec::with_capacity(12 + vendor.len() + field.len());
    bytes.extend_from_slice(&(vendor.len() as u32).to_le_bytes());
    bytes.extend_from_slice(vendor.as_bytes());
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field.as_bytes());
    bytes
}

/// Whether a decoder of another family reads the same samples from `bytes`.
fn decodes_to(bytes: &[u8], samples: &[i16]) -> bool {
    let limits = DecodeLimits { max_bytes: bytes.len() as u64, max_seconds: 600.0 };
    let Ok(mut reader) = AudioReader::from_bytes(bytes.to_vec(), &limits) else { return false };
    let mut rest = samples;
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                let Some((head, tail)) = rest.split_at_checked(block.len()) else { return false };
                if block.iter().zip(head).any(|(a, b)| to_pcm(*a) != *b) {
                    return false;
                }
                rest = tail;
            }
            Ok(None) => return rest.is_empty(),
            Err(_) => return false,
        }
    }
}

/// A RIFF WAVE file: the 44-byte header, the samples, and the chunk `guan`.
fn wav(samples: &[i16], about: &str) -> Vec<u8> {
    let data_len = (samples.len() * 2) as u32;
    // Chunks begin at even places.
    let about_len = about.len().next_multiple_of(2) as u32;
    let about_chunk = if about.is_empty() { 0 } else { 8 + about_len };
    let mut bytes = Vec::with_capacity(44 + samples.len() * 2 + about_chunk as usize);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data_len + about_chunk).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    // PCM, one channel.
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&SAMPLE_RATE_HZ.to_le_bytes());
    bytes.extend_from_slice(&(SAMPLE_RATE_HZ * 2).to_le_bytes());
    // Bytes a frame, bits a sample.
    bytes.extend_from_slice(&2_u16.to_le_bytes());
    bytes.extend_from_slice(&16_u16.to_le_bytes());
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data_len.to_le_bytes());
    for sample in samples {
        bytes.extend_from_slice(&sample.to_le_bytes());
    }
    if !about.is_empty() {
        bytes.extend_from_slice(b"guan");
        bytes.extend_from_slice(&(about.len() as u32).to_le_bytes());
        bytes.extend_from_slice(about.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(2), 0);
    }
    bytes
}
