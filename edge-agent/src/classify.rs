//! `classify`: judge sound files with the station's own model and thresholds.
//!
//! The JSON is that of `ecosight-models classify --json`, so that a script takes either.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ecosight_models::audio::{AudioError, AudioReader};
use ecosight_models::detector::DetectorConfig;
use ecosight_models::{
    Bundle, Classifier, ClassifierOptions, ClassifyError, Detector, DetectorOutput, Event,
    SAMPLE_RATE_HZ, Scores, Window,
};
use serde::Serialize;

use crate::command::{ClassifyArgs, print};
use crate::config::Config;
use crate::ear;
use crate::source::{decode_limits, recordings};

/// Windows that are judged at once; bounds the memory that one file takes.
const WINDOWS_AT_ONCE: usize = 32;

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
struct ErrorLine {
    file: String,
    error: String,
}

/// Why a file could not be judged. The caller tells it with the file's name and goes on.
#[derive(Debug, thiserror::Error)]
enum JudgeError {
    #[error(transparent)]
    Sound(#[from] AudioError),
    #[error(transparent)]
    Model(#[from] ClassifyError),
}

/// What was heard in one file.
struct Heard {
    samples: u64,
    highest: Vec<f32>,
    events: Vec<Event>,
    windows: Vec<(u64, f32, Vec<f32>)>,
}

/// Judges what `args` name and prints it; false if one of them could not be judged.
///
/// # Errors
/// There is no model, or nobody reads the output.
pub fn classify(config: &Config, args: &ClassifyArgs) -> Result<bool> {
    let options = ClassifierOptions { audioset: false, batching: true };
    let model = &config.model;
    let classifier =
        Classifier::load_with(model.bundle.as_deref(), model.yamnet.as_deref(), options)?;
    let rules = ear::rules(model, classifier.bundle())?;
    let mut failures = 0;
    for input in list(&args.paths) {
        let (path, judged) = match input {
            Ok(path) => {
                let judged = judge(&classifier, &rules, &path, args.windows);
                (path, judged.map_err(|error| error.to_string()))
            }
            Err((path, problem)) => (path, Err(problem)),
        };
        failures += usize::from(judged.is_err());
        let line = match judged {
            Ok(heard) if args.json => json(classifier.bundle(), &path, &heard, args.windows)?,
            Ok(heard) => text(classifier.bundle(), &path, &heard),
            Err(error) if args.json => {
                serde_json::to_string(&ErrorLine { file: path.display().to_string(), error })?
                    + "\n"
            }
            Err(error) => format!("{}  error: {error}\n", path.display()),
        };
        print(&line)?;
    }
    Ok(failures == 0)
}

/// The files to judge: what was named, in that order; a directory becomes the recordings below it.
fn list(named: &[PathBuf]) -> Vec<Result<PathBuf, (PathBuf, String)>> {
    let mut inputs = Vec::new();
    for path in named {
        if path.is_dir() {
            match recordings(path) {
                Ok(found) if found.is_empty() => {
                    inputs.push(Err((path.clone(), "no sound files inside".to_owned())));
                }
                Ok(found) => inputs.extend(found.into_iter().map(Ok)),
                Err(error) => inputs.push(Err((path.clone(), error.to_string()))),
            }
        } else {
            inputs.push(Ok(path.clone()));
        }
    }
    inputs
}

fn judge(
    classifier: &Classifier,
    rules: &DetectorConfig,
    path: &Path,
    keep_windows: bool,
) -> Result<Heard, JudgeError> {
    let mut reader = AudioReader::open(path, &decode_limits())?;
    let mut windower = classifier.windower();
    let mut detector = Detector::new(rules);
    let mut heard = Heard {
        samples: 0,
        highest: vec![0.0; classifier.bundle().classes.len()],
        events: Vec::new(),
        windows: Vec::new(),
    };
    let mut pending: Vec<Window> = Vec::with_capacity(WINDOWS_AT_ONCE);
    let mut take = |pending: &mut Vec<Window>, heard: &mut Heard| -> Result<(), JudgeError> {
        let scores = classifier.classify(pending)?;
        for (window, scores) in pending.iter().zip(&scores) {
            heard.add(window, scores, keep_windows);
            heard.close(detector.push(window, scores));
        }
        pending.clear();
        Ok(())
    };
    while let Some(block) = reader.next_block()? {
        heard.samples += block.len() as u64;
        windower.push(block);
        while let Some(window) = windower.next_window() {
            pending.push(window);
            if pending.len() == WINDOWS_AT_ONCE {
                take(&mut pending, &mut heard)?;
            }
        }
    }
    windower.finish();
    pending.extend(std::iter::from_fn(|| windower.next_window()));
    take(&mut pending, &mut heard)?;
    heard.close(detector.finish());
    Ok(heard)
}

impl Heard {
    fn add(&mut self, window: &Window, scores: &Scores, keep: bool) {
        for (highest, score) in self.highest.iter_mut().zip(&scores.classes) {
            *highest = highest.max(*score);
        }
        if keep {
            let kept = (window.start_sample, window.level_dbfs, scores.classes.clone());
            self.windows.push(kept);
        }
    }

    fn close(&mut self, outputs: Vec<DetectorOutput>) {
        for output in outputs {
            if let DetectorOutput::Closed(event) = output {
                self.events.push(event);
            }
        }
    }

    fn duration_s(&self) -> f64 {
        seconds(self.samples)
    }

    fn event_lines<'a>(&self, bundle: &'a Bundle) -> Vec<EventLine<'a>> {
        let line = |event: &Event| EventLine {
            class: bundle.classes.get(event.class).map_or("?", String::as_str),
            start_s: rounded(seconds(event.onset_sample), 3),
            end_s: rounded(seconds(event.end_sample).min(self.duration_s()), 3),
            score: rounded(f64::from(event.score), 4),
            alert: event.alert,
        };
        self.events.iter().map(line).collect()
    }
}

fn seconds(sample: u64) -> f64 {
    sample as f64 / f64::from(SAMPLE_RATE_HZ)
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (x * scale).round() / scale
}

fn by_class(bundle: &Bundle, scores: &[f32]) -> ByClass {
    let pairs = bundle.classes.iter().zip(scores);
    pairs.map(|(class, score)| (class.clone(), rounded(f64::from(*score), 4).into())).collect()
}

fn json(bundle: &Bundle, path: &Path, heard: &Heard, windows: bool) -> Result<String> {
    let window = |(start, level_dbfs, scores): &(u64, f32, Vec<f32>)| WindowLine {
        start_s: rounded(seconds(*start), 3),
        level_dbfs: rounded(f64::from(*level_dbfs), 1),
        scores: by_class(bundle, scores),
    };
    let line = Line {
        file: path.display().to_string(),
        duration_s: rounded(heard.duration_s(), 3),
        bundle: format!("{} {}", bundle.name, bundle.version),
        scores: by_class(bundle, &heard.highest),
        events: heard.event_lines(bundle),
        windows: (windows && !heard.windows.is_empty())
            .then(|| heard.windows.iter().map(window).collect()),
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

fn text(bundle: &Bundle, path: &Path, heard: &Heard) -> String {
    let mut ranked: Vec<(&String, &f32)> = bundle.classes.iter().zip(&heard.highest).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(a.1));
    let shown: Vec<String> =
        ranked.iter().map(|(class, score)| format!("{class} {score:.2}")).collect();
    let mut text =
        format!("{}  {:.1} s  {}\n", path.display(), heard.duration_s(), shown.join("  "));
    for event in heard.event_lines(bundle) {
        let _ = writeln!(
            text,
            "  {} {:<14} {:>8.2} s to {:.2} s  score {:.2}",
            if event.alert { "ALERT" } else { "event" },
            event.class,
            event.start_s,
            event.end_s,
            event.score
        );
    }
    for (start, level_dbfs, scores) in &heard.windows {
        let _ = write!(text, "  {:>8.2} s  {level_dbfs:>6.1} dBFS", seconds(*start));
        for (class, score) in bundle.classes.iter().zip(scores) {
            let _ = write!(text, "  {class} {score:.2}");
        }
        text.push('\n');
    }
    text
}
