//! How the judgement of one file is shown.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{Heard, seconds};
use crate::Bundle;

/// Numbers by class name, in the bundle's order.
type ByClass = serde_json::Map<String, serde_json::Value>;

#[derive(Serialize)]
struct Line<'a> {
    file: String,
    duration_s: f64,
    bundle: String,
    scores: ByClass,
    events: Vec<EventLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<Vec<WindowLine>>,
}

#[derive(Serialize)]
struct EventLine<'a> {
    class: &'a str,
    start_s: f64,
    end_s: f64,
    score: f64,
    alert: bool,
}

#[derive(Serialize)]
struct WindowLine {
    start_s: f64,
    level_dbfs: f64,
    scores: ByClass,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    file: String,
    error: &'a str,
}

/// One JSON object and a line end; of a file that could not be judged, why not.
///
/// # Errors
/// What `out` said.
pub fn json_line(
    out: &mut impl Write,
    bundle: &Bundle,
    path: &Path,
    result: &Result<Heard, String>,
) -> io::Result<()> {
    let file = path.display().to_string();
    match result {
        Err(error) => serde_json::to_writer(&mut *out, &ErrorLine { file, error })?,
        Ok(heard) => {
            let windows = (!heard.windows.is_empty()).then(|| {
                let line = |(start_s, level_dbfs, scores): &(f64, f32, Vec<f32>)| WindowLine {
                    start_s: rounded(*start_s, 3),
                    level_dbfs: rounded(f64::from(*level_dbfs), 1),
                    scores: by_class(bundle, scores),
                };
                heard.windows.iter().map(line).collect()
            });
            let line = Line {
                file,
                duration_s: rounded(heard.duration_s, 3),
                bundle: format!("{} {}", bundle.name, bundle.version),
                scores: by_class(bundle, &heard.highest),
                events: events(bundle, heard),
                windows,
            };
            serde_json::to_writer(&mut *out, &line)?;
        }
    }
    out.write_all(b"\n")
}

fn events<'a>(bundle: &'a Bundle, heard: &Heard) -> Vec<EventLine<'a>> {
    heard
        .events
        .iter()
        .map(|event| EventLine {
            class: bundle.classes.get(event.class).map_or("?", String::as_str),
            start_s: rounded(seconds(event.onset_sample), 3),
            end_s: rounded(seconds(event.end_sample).min(heard.duration_s), 3),
            score: rounded(f64::from(event.score), 4),
            alert: event.alert,
        })
        .collect()
}

fn by_class(bundle: &Bundle, scores: &[f32]) -> ByClass {
    let pairs = bundle.classes.iter().zip(scores);
    pairs.map(|(class, score)| (class.clone(), rounded(f64::from(*score), 4).into())).collect()
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (x * scale).round() / scale
}

/// A line with the classes by score, highest first, and a line per event.
///
/// # Errors
/// What `out` said.
pub fn paragraph(
    out: &mut impl Write,
    bundle: &Bundle,
    path: &Path,
    result: &Result<Heard, String>,
) -> io::Result<()> {
    let heard = match result {
        Ok(heard) => heard,
        Err(error) => return writeln!(out, "{}  error: {error}", path.display()),
    };
    let mut ranked: Vec<_> = bundle.classes.iter().zip(&heard.highest).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(a.1));
    let shown: Vec<String> =
        ranked.iter().map(|(class, score)| format!("{class} {score:.2}")).collect();
    writeln!(out, "{}  {:.1} s  {}", path.display(), heard.duration_s, shown.join("  "))?;
    for event in events(bundle, heard) {
        writeln!(
            out,
            "  {} {:<14} {:>8.2} s to {:.2} s  score {:.2}",
            if event.alert { "ALERT" } else { "event" },
            event.class,
            event.start_s,
            event.end_s,
            event.score
        )?;
    }
    for (start_s, level_dbfs, scores) in &heard.windows {
        write!(out, "  {start_s:>8.2} s  {level_dbfs:>6.1} dBFS")?;
        for (class, score) in bundle.classes.iter().zip(scores) {
            write!(out, "  {class} {score:.2}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
