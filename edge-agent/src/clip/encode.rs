//! Samples to a file: FLAC if it proves to be lossless, else WAV.

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_shared::ClipFormat;
use flacenc::bitsink::ByteSink;
use flacenc::component::BitRepr;
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

/// Encodes 16 kHz mono. FLAC halves the upload, but its encoder is young: each file is decoded
/// again, and if one sample differs the clip becomes WAV.
#[must_use]
pub fn encode(samples: &[i16]) -> Encoded {
    match flac(samples) {
        Some(bytes) if decodes_to(&bytes, samples) => Encoded { bytes, format: ClipFormat::Flac },
        _ => {
            if !samples.is_empty() {
                tracing::warn!(samples = samples.len(), "FLAC failed its check, clip kept as WAV");
            }
            Encoded { bytes: wav(samples), format: ClipFormat::Wav }
        }
    }
}

fn flac(samples: &[i16]) -> Option<Vec<u8>> {
    let config = flacenc::config::Encoder::default().into_verified().ok()?;
    let wide: Vec<i32> = samples.iter().map(|s| i32::from(*s)).collect();
    let source = flacenc::source::MemSource::from_samples(&wide, 1, 16, SAMPLE_RATE_HZ as usize);
    let stream = flacenc::encode_with_fixed_block_size(&config, source, config.block_size).ok()?;
    let mut sink = ByteSink::new();
    stream.write(&mut sink).ok()?;
    Some(sink.into_inner())
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

/// A RIFF WAVE file: the 44-byte header and the samples.
fn wav(samples: &[i16]) -> Vec<u8> {
    let data_len = (samples.len() * 2) as u32;
    let mut bytes = Vec::with_capacity(44 + samples.len() * 2);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data_len).to_le_bytes());
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
    bytes
}
