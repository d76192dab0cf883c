//! A recording as WAV with a GUANO chunk: text that tools for field recordings show.

use std::fmt::Write as _;

use ecosight_models::SAMPLE_RATE_HZ;

use crate::clock::rfc3339;
use crate::store::EventRow;

const FULL_SCALE: f32 = 32_767.0;

/// 16-bit mono PCM, followed by the chunk `guan` with what is known of the event.
pub(super) fn wav(sound: &[f32], event: &EventRow) -> Vec<u8> {
    with_text(sound, &metadata(event))
}

/// 16-bit mono PCM that says nothing more.
pub(crate) fn bare(sound: &[f32]) -> Vec<u8> {
    with_text(sound, "")
}

fn with_text(sound: &[f32], text: &str) -> Vec<u8> {
    let (data_len, guan_len) = (sound.len() * 2, text.len() + text.len() % 2);
    let riff_len = 4 + 8 + 16 + 8 + data_len + 8 + guan_len;
    let mut wav = Vec::with_capacity(riff_len + 8);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(riff_len as u32).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&SAMPLE_RATE_HZ.to_le_bytes());
    wav.extend_from_slice(&(2 * SAMPLE_RATE_HZ).to_le_bytes());
    wav.extend_from_slice(b"\x02\0\x10\0data");
    wav.extend_from_slice(&(data_len as u32).to_le_bytes());
    for sample in sound {
        wav.extend_from_slice(&((sample.clamp(-1.0, 1.0) * FULL_SCALE) as i16).to_le_bytes());
    }
    wav.extend_from_slice(b"guan");
    wav.extend_from_slice(&(text.len() as u32).to_le_bytes());
    wav.extend_from_slice(text.as_bytes());
    wav.resize(riff_len + 8, 0);
    wav
}

fn metadata(event: &EventRow) -> String {
    let line = |text: &str| text.replace(['\n', '\r', '\0'], " ");
    let class = line(event.class.as_deref().unwrap_or("unknown"));
    let mut text = format!(
        "GUANO|Version: 1.0\nMake: EcoSight\nTimestamp: {}\nSamplerate: {SAMPLE_RATE_HZ}\n",
        rfc3339(event.onset_us)
    );
    if let Some((lat, lon)) = event.latitude.zip(event.longitude) {
        let _ = writeln!(text, "Loc Position: {lat} {lon}");
        if let Some(radius_m) = event.uncertainty_m {
            let _ = writeln!(text, "Loc Accuracy: {radius_m}");
        }
    }
    let _ = write!(
        text,
        "Species Auto ID: {class}\nECOSIGHT|Event: {}\nECOSIGHT|Site: {}\nECOSIGHT|Device: {}\n\
         ECOSIGHT|Score: {}\nECOSIGHT|Model: {}\nECOSIGHT|Time Quality: {}\nECOSIGHT|State: {}\n",
        event.id,
        line(&event.site_id),
        event.device_id,
        event.score,
        event.model_tag,
        event.time_quality,
        event.state,
    );
    text
}
