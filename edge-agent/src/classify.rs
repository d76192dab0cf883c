//! `classify`: judge sound files with the station's own model and thresholds.
//!
//! The output is that of `ecosight-models classify`, so that a script takes either.

use std::path::PathBuf;

use anyhow::Result;
use ecosight_models::heard::{Heard, json_line, paragraph};
use ecosight_models::{Classifier, ClassifierOptions};

use crate::command::{ClassifyArgs, print};
use crate::config::Config;
use crate::ear;
use crate::source::{decode_limits, recordings};

/// Judges what `args` name and prints it; false if one of them could not be judged.
///
/// # Errors
/// There is no model, or nobody reads the output.
pub fn classify(config: &Config, args: &ClassifyArgs) -> Result<bool> {
    let options = ClassifierOptions { audioset: false, batching: true };
    let model = &config.model;
    let classifier =
        Classifier::load_with(model.bundle.as_deref(), model.yamnet.as_deref(), options)?;
    let bundle = classifier.bundle();
    let rules = ear::rules(model, bundle)?;
    let mut failures = 0;
    for input in list(&args.paths) {
        let (path, judged) = match input {
            Ok(path) => {
                let limits = decode_limits();
                let judged = Heard::of_file(&classifier, &rules, &path, &limits, args.windows);
                (path, judged.map_err(|error| error.to_string()))
            }
            Err((path, problem)) => (path, Err(problem)),
        };
        failures += usize::from(judged.is_err());
        let mut shown = Vec::new();
        if args.json {
            json_line(&mut shown, bundle, &path, &judged)?;
        } else {
            paragraph(&mut shown, bundle, &path, &judged)?;
        }
        print(&String::from_utf8_lossy(&shown))?;
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
