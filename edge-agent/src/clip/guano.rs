//! What a clip says of itself, in the format that recorders in the field use.
//!
//! GUANO (guano-md.org, version 1.0): UTF-8 lines of `Key: value`. Fields of a program stand under
//! its name: `EcoSight|…`.

use std::fmt::Write as _;

use ecosight_models::SAMPLE_RATE_HZ;

use super::Recording;
use crate::clock::rfc3339;
use crate::hearing::Onset;
use crate::recorder::Identity;

/// The text of an event's clip.
#[must_use]
pub fn of_event(
    identity: &Identity,
    recording: &Recording,
    class: &str,
    score: f32,
    onset: Onset,
) -> String {
    let mut text = of_recording(identity, recording);
    let after_s = (onset.unix_us - recording.time.unix_us) as f64 / 1e6;
    let _ = write!(
        text,
        "EcoSight|Class: {class}\nEcoSight|Score: {score:.4}\nEcoSight|Onset: {}\n\
         EcoSight|Onset Seconds: {after_s:.3}\n",
        rfc3339(onset.unix_us)
    );
    text
}

/// The text of any sound that the station keeps.
#[must_use]
pub fn of_recording(identity: &Identity, recording: &Recording) -> String {
    let seconds = |samples: u64| samples as f64 / f64::from(SAMPLE_RATE_HZ);
    let mut text = format!(
        "GUANO|Version: 1.0\nTimestamp: {}\nLength: {:.3}\nSamplerate: {SAMPLE_RATE_HZ}\n\
         Make: EcoSight\nModel: ecosight-agent\nFirmware Version: {}\nSerial: {}\n",
        rfc3339(recording.time.unix_us),
        seconds(recording.samples.len() as u64),
        env!("CARGO_PKG_VERSION"),
        identity.device,
    );
    if let Some(location) = identity.location {
        let _ = writeln!(text, "Loc Position: {:.6} {:.6}", location.lat, location.lon);
        if let Some(metres) = location.uncertainty_m {
            let _ = writeln!(text, "Loc Accuracy: {metres:.0}");
        }
    }
    let in_use = identity.model.get();
    let model = &in_use.info;
    let _ = write!(
        text,
        "EcoSight|Site: {}\nEcoSight|Station: {}\nEcoSight|Time Quality: {}\n\
         EcoSight|Classifier: {} {} {}\n",
        identity.site,
        identity.name,
        recording.time.quality.name(),
        model.name,
        model.version,
        model.tag,
    );
    if !recording.redacted.is_empty() {
        let parts: Vec<String> = recording
            .redacted
            .iter()
            .map(|(from, to)| format!("{:.2}-{:.2}", seconds(*from), seconds(*to)))
            .collect();
        let _ = writeln!(text, "EcoSight|Speech Removed Seconds: {}", parts.join(" "));
    }
    text
}
