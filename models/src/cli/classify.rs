//! `ecosight-models classify`

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use ecosight_models::audio::{self, DecodeLimits};
use ecosight_models::heard::{Heard, json_line, paragraph};
use ecosight_models::{Classifier, ClassifierOptions};

use super::ModelArguments;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Sound files (WAV, FLAC, OGG Vorbis, MP3, AAC as M4A, MP4 or bare), and directories, which are
    /// searched for them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Also give every window's scores.
    #[arg(long)]
    windows: bool,
    /// One JSON object a line instead of a table, a line for each file in the order given: {file,
    /// duration_s, bundle, scores: {class: highest}, events: [{class, start_s, end_s, score, alert}]},
    /// or {file, error}.
    #[arg(long)]
    json: bool,
}

/// Longest sound in one file: a week.
const MAX_SECONDS: f64 = 7.0 * 86_400.0;
/// Largest file: a week of 48 kHz stereo, 16 bit, is 116 GB; a day of it 17 GB.
const MAX_BYTES: u64 = 128 << 30;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let options = ClassifierOptions { audioset: false, batching: true };
    let model = &arguments.model;
    let classifier =
        Classifier::load_with(model.bundle.as_deref(), model.yamnet.as_deref(), options)?;
    let inputs = list(&arguments.files);
    let failed = judge_all(&classifier, &inputs, arguments)?;
    if failed > 0 && !arguments.json {
        eprintln!("{failed} of {} could not be judged", inputs.len());
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Judges all inputs on all cores; lines come out in the order of `inputs`, each as soon as those
/// before it are out. Gives the number that failed.
fn judge_all(
    classifier: &Classifier,
    inputs: &[Result<PathBuf, (PathBuf, String)>],
    arguments: &Arguments,
) -> io::Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..cores.min(inputs.len()) {
            let sender = sender.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(input) = inputs.get(i) else { break };
                    let result = match input {
                        Ok(path) => judge(classifier, path, arguments.windows),
                        Err((_, why)) => Err(why.clone()),
                    };
                    if sender.send((i, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let printed = print_in_order(classifier, inputs, arguments, &receiver);
        // On a failure to print, the others need not go on.
        stop.store(true, Ordering::Relaxed);
        drop(receiver);
        printed
    })
}

fn print_in_order(
    classifier: &Classifier,
    inputs: &[Result<PathBuf, (PathBuf, String)>],
    arguments: &Arguments,
    receiver: &mpsc::Receiver<(usize, Result<Heard, String>)>,
) -> io::Result<usize> {
    let mut out = io::stdout().lock();
    let mut waiting = BTreeMap::new();
    let (mut due, mut failed) = (0, 0);
    for (i, result) in receiver {
        waiting.insert(i, result);
        while let Some(result) = waiting.remove(&due) {
            let path = match &inputs[due] {
                Ok(path) | Err((path, _)) => path,
            };
            failed += usize::from(result.is_err());
            if arguments.json {
                json_line(&mut out, classifier.bundle(), path, &result)?;
            } else {
                paragraph(&mut out, classifier.bundle(), path, &result)?;
            }
            out.flush()?;
            due += 1;
        }
    }
    Ok(failed)
}

fn judge(classifier: &Classifier, path: &Path, keep_windows: bool) -> Result<Heard, String> {
    let limits = DecodeLimits { max_bytes: MAX_BYTES, max_seconds: MAX_SECONDS };
    let rules = &classifier.bundle().detector;
    Heard::of_file(classifier, rules, path, &limits, keep_windows)
        .map_err(|error| error.to_string())
}

/// The files to judge: what was named, in that order; a directory becomes the sound files in and
/// under it, by name. What can't be looked into is an entry of its own.
fn list(named: &[PathBuf]) -> Vec<Result<PathBuf, (PathBuf, String)>> {
    let mut inputs = Vec::new();
    for path in named {
        if !path.is_dir() {
            inputs.push(Ok(path.clone()));
            continue;
        }
        let before = inputs.len();
        walk(path, &mut inputs);
        if inputs.len() == before {
            let why = format!("no sound files inside (looked for {})", audio::ENDINGS.join(", "));
            inputs.push(Err((path.clone(), why)));
        }
    }
    inputs
}

fn walk(dir: &Path, inputs: &mut Vec<Result<PathBuf, (PathBuf, String)>>) {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            inputs.push(Err((dir.to_owned(), error.to_string())));
            return;
        }
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // The entry's own type: a link to a directory is not followed, so that no circle is walked.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, inputs);
            continue;
        }
        if audio::has_sound_ending(&path) {
            inputs.push(Ok(path));
        }
    }
}
