//! Path: store, clips → **export** → other people's tools
//!
//! What was heard, in the forms that other tools read. Each is written page by page as it is read, so
//! that a year of it takes no more memory than a day.

mod guano;
mod zip;

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::clips::Clips;
use crate::clock::rfc3339;
use serde::Serialize;

use crate::store::{ClipStatus, EventFilter, EventRow, Store, StoreError};

pub(crate) use guano::bare as wav;

/// Events read at once.
const PAGE: i64 = 500;

/// The forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// RFC 4180 with a header line.
    Csv,
    /// A feature of each event whose station said where it is.
    GeoJson,
    /// Selection table of Raven.
    Raven,
    /// Label track of Audacity.
    Audacity,
    /// The recordings as WAV with GUANO metadata, in a ZIP file.
    Clips,
}

/// Why an export ended early. What was written so far is no whole file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database is not available.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever reads it has gone.
    #[error("nobody reads on")]
    Gone,
    /// A task was lost.
    #[error("a recording could not be converted: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl ExportFormat {
    /// All forms.
    pub const ALL: [Self; 5] = [Self::Csv, Self::GeoJson, Self::Raven, Self::Audacity, Self::Clips];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::GeoJson => "geojson",
            Self::Raven => "raven",
            Self::Audacity => "audacity",
            Self::Clips => "clips",
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::GeoJson => "application/geo+json",
            Self::Raven | Self::Audacity => "text/tab-separated-values; charset=utf-8",
            Self::Clips => "application/zip",
        }
    }

    /// The end of a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::GeoJson => "geojson",
            Self::Raven => "selections.txt",
            Self::Audacity => "labels.txt",
            Self::Clips => "zip",
        }
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
            format!("{text:?} is no form of export; there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many events an export came by, and what became of them: `matched` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// That the filter picks.
    pub matched: u64,
    /// In the file.
    pub written: u64,
    /// Left out of a map: the station never said where it is.
    pub without_position: u64,
    /// Left out of the recordings: none is here.
    pub without_recording: u64,
    /// Left out of the recordings: it cannot be read.
    pub unreadable: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} events", self.written, self.matched)?;
        for (left_out, why) in [
            (self.without_position, "without a position"),
            (self.without_recording, "without a recording"),
            (self.unreadable, "with a recording that cannot be read"),
        ] {
            if left_out > 0 {
                write!(f, ", {left_out} {why}")?;
            }
        }
        Ok(())
    }
}

/// Where the parts of an export go.
pub trait Sink {
    /// Takes the next part.
    ///
    /// # Errors
    /// [`ExportError::Gone`] if nobody wants more.
    fn take(&mut self, part: Vec<u8>) -> impl Future<Output = Result<(), ExportError>> + Send;
}

/// The name of the file in a ZIP of recordings that says what is in it.
const MANIFEST: &str = "manifest.json";
/// Recordings in one ZIP file, whose directory is kept in memory to its end.
pub const MAX_CLIPS: i64 = 1_000_000;

/// Writes the events that `filter` picks, newest first.
///
/// # Errors
/// [`ExportError`].
pub async fn write(
    store: &Store,
    clips: Option<&Clips>,
    format: ExportFormat,
    mut filter: EventFilter,
    sink: &mut impl Sink,
) -> Result<Exported, ExportError> {
    let mut count = Exported::default();
    let mut archive = zip::Archive::default();
    sink.take(head(format).into()).await?;
    loop {
        let page = store.events(&filter, PAGE).await?;
        let Some(last) = page.last() else { break };
        filter.after = Some(last.cursor());
        let mut part = String::new();
        for event in &page {
            count.matched += 1;
            match format {
                ExportFormat::Csv => csv_line(&mut part, event),
                ExportFormat::GeoJson if event.latitude.zip(event.longitude).is_none() => {
                    count.without_position += 1;
                    continue;
                }
                ExportFormat::GeoJson => geojson_feature(&mut part, event, count.written == 0),
                ExportFormat::Raven => raven_line(&mut part, event, count.written + 1),
                ExportFormat::Audacity => audacity_line(&mut part, event),
                ExportFormat::Clips => match clip(clips, event).await? {
                    Recording::Wav(wav) => {
                        sink.take(archive.entry(&clip_name(event), &wav)).await?;
                    }
                    Recording::Missing => {
                        count.without_recording += 1;
                        continue;
                    }
                    Recording::Unreadable => {
                        count.unreadable += 1;
                        continue;
                    }
                },
            }
            count.written += 1;
        }
        sink.take(part.into()).await?;
    }
    match format {
        ExportFormat::GeoJson => {
            // Members that RFC 7946 does not know are left alone by those who read it.
            let Exported { matched, written, without_position, .. } = count;
            let end = format!(
                "],\"matched\":{matched},\"written\":{written},\
                 \"without_position\":{without_position}}}\n"
            );
            sink.take(end.into()).await?;
        }
        ExportFormat::Clips => {
            let manifest = serde_json::to_vec_pretty(&count).unwrap_or_default();
            sink.take(archive.entry(MANIFEST, &manifest)).await?;
            sink.take(archive.end()).await?;
        }
        _ => {}
    }
    Ok(count)
}

fn head(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::Csv => {
            "id,time,site_id,device_id,device_name,class,alert,canary,score,windows,duration_ms,\
             level_dbfs,noise_floor_dbfs,latitude,longitude,uncertainty_m,time_quality,state,\
             model_name,model_version,model_tag,clip_sha256,verdict,verdict_cause,verdict_class,\
             verdict_by\r\n"
        }
        ExportFormat::GeoJson => "{\"type\":\"FeatureCollection\",\"features\":[",
        ExportFormat::Raven => {
            "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\t\
             High Freq (Hz)\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
        }
        ExportFormat::Audacity | ExportFormat::Clips => "",
    }
}

fn csv_line(out: &mut String, event: &EventRow) {
    let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    let fields = [
        event.id.to_string(),
        rfc3339(event.onset_us),
        event.site_id.clone(),
        event.device_id.to_string(),
        event.device_name.clone().unwrap_or_default(),
        event.class.clone().unwrap_or_default(),
        event.alert.to_string(),
        event.canary.to_string(),
        event.score.to_string(),
        event.windows.to_string(),
        event.duration_ms.map(|ms| ms.to_string()).unwrap_or_default(),
        event.level_dbfs.to_string(),
        number(event.noise_floor_dbfs),
        number(event.latitude),
        number(event.longitude),
        number(event.uncertainty_m),
        event.time_quality.clone(),
        event.state.clone(),
        event.model_name.clone().unwrap_or_default(),
        event.model_version.clone().unwrap_or_default(),
        event.model_tag.clone(),
        event.clip_sha256.clone().unwrap_or_default(),
        event.verdict.clone().unwrap_or_default(),
        event.verdict_cause.clone().unwrap_or_default(),
        event.verdict_class.clone().unwrap_or_default(),
        event.verdict_by.clone().unwrap_or_default(),
    ];
    for (place, field) in fields.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        out.push_str(&quoted(field));
    }
    out.push_str("\r\n");
}

/// RFC 4180; and a spreadsheet must not take a station's name for a formula.
fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '@', '\t', '\r'])
        || field.starts_with('-') && field.parse::<f64>().is_err();
    let field = if formula { format!("'{field}") } else { field.to_owned() };
    if field.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field
}

fn geojson_feature(out: &mut String, event: &EventRow, first: bool) {
    let feature = serde_json::json!({
        "type": "Feature",
        "id": event.id,
        "geometry": {"type": "Point", "coordinates": [event.longitude, event.latitude]},
        "properties": {
            "time": rfc3339(event.onset_us),
            "site_id": event.site_id,
            "device_id": event.device_id,
            "device_name": event.device_name,
            "class": event.class,
            "alert": event.alert,
            "canary": event.canary,
            "score": event.score,
            "uncertainty_m": event.uncertainty_m,
            "time_quality": event.time_quality,
            "state": event.state,
            "verdict": event.verdict,
            "verdict_cause": event.verdict_cause,
            "verdict_class": event.verdict_class,
        },
    });
    if !first {
        out.push(',');
    }
    out.push('\n');
    let _ = write!(out, "{feature}");
}

/// Length of an event in its recording, where it did not end yet: one window.
const WINDOW_S: f64 = 0.96;
/// Sound before the event in its recording.
const PRE_ROLL_S: f64 = 5.0;
const NYQUIST_HZ: u32 = 8_000;

fn duration_s(event: &EventRow) -> f64 {
    event.duration_ms.map_or(WINDOW_S, |ms| ms as f64 / 1_000.0)
}

/// Where the event begins in its recording: the recording may have begun late.
fn offset_s(event: &EventRow) -> f64 {
    let clip_s = event.clip_duration_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1_000.0);
    PRE_ROLL_S.min((clip_s - duration_s(event)).max(0.0))
}

fn raven_line(out: &mut String, event: &EventRow, number: u64) {
    let (begin_s, class) = (offset_s(event), event.class.as_deref().unwrap_or("unknown"));
    let class = class.replace(['\t', '\n'], " ");
    let _ = writeln!(
        out,
        "{number}\tSpectrogram 1\t1\t{begin_s:.3}\t{:.3}\t0\t{NYQUIST_HZ}\t{class}\t{class}\t\
         {:.4}\t{}\t{begin_s:.3}",
        begin_s + duration_s(event),
        event.score,
        clip_name(event),
    );
}

/// Seconds since 1970: labels of one station lie where they were on one track.
fn audacity_line(out: &mut String, event: &EventRow) {
    let begin_s = event.onset_us as f64 / 1e6;
    let class = event.class.as_deref().unwrap_or("unknown").replace(['\t', '\n'], " ");
    let _ = writeln!(
        out,
        "{begin_s:.6}\t{:.6}\t{class} {:.3} {}\n\\\t0\t{NYQUIST_HZ}",
        begin_s + duration_s(event),
        event.score,
        event.id,
    );
}

/// `{site}_{device}_{YYYYMMDDTHHMMSSZ}_{event}.wav`
fn clip_name(event: &EventRow) -> String {
    let time = rfc3339(event.onset_us);
    let second = time.split('.').next().unwrap_or("").trim_end_matches('Z').replace(['-', ':'], "");
    let name = event.device_name.clone().unwrap_or_else(|| event.device_id.to_string());
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    format!("{}_{name}_{second}Z_{}.wav", event.site_id, event.id)
}

/// What there is to hear of an event.
enum Recording {
    /// As WAV, with what is known of the event.
    Wav(Vec<u8>),
    Missing,
    Unreadable,
}

async fn clip(clips: Option<&Clips>, event: &EventRow) -> Result<Recording, ExportError> {
    let stored = event.clip_status.as_deref() == Some(ClipStatus::Stored.name());
    let path = clips.filter(|_| stored).and_then(|clips| clips.path_of(event));
    let Some(path) = path else { return Ok(Recording::Missing) };
    let event = event.clone();
    let converted = tokio::task::spawn_blocking(move || {
        let sound = crate::picture::sound(&path)?;
        Ok::<_, crate::picture::PictureError>(guano::wav(&sound, &event))
    });
    match converted.await? {
        Ok(wav) => Ok(Recording::Wav(wav)),
        Err(error) => {
            tracing::warn!(%error, "a recording is left out of an export");
            Ok(Recording::Unreadable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_field_is_a_field_whatever_it_holds() {
        for (field, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("a \"b\"", "\"a \"\"b\"\"\""),
            ("=1+1", "'=1+1"),
            ("-12.5", "-12.5"),
            ("-cmd", "'-cmd"),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(quoted(field), written);
        }
    }
}
