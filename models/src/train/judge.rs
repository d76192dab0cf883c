//! The commands `evaluate` and `leaks`: the rim where files and terminal are.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use clap::Args;
use rayon::prelude::*;

use super::cli::{audio_folder, read_labels};
use super::dataset::{Clip, read_manifest};
use super::judgement;
use super::labels::LabelMap;
use super::leaks;
use super::material::{Form, Library};
use super::progress::Progress;
use super::report::print_judgement;
use super::split::folds_of;
use crate::Classifier;

/// Recordings and their classes, for commands that judge or hand on.
#[derive(Debug, Args)]
pub(crate) struct Recordings {
    /// Manifest of the recordings, as for `train`.
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// Folder that the manifest's paths are relative to. Default: the manifest's own.
    #[arg(long, value_name = "DIR")]
    audio: Option<PathBuf>,
    /// Which labels make which class (JSON). Default: the built-in classes.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

impl Recordings {
    pub(crate) fn read(&self) -> anyhow::Result<(LabelMap, Vec<Clip>)> {
        let labels = read_labels(self.labels.as_deref())?;
        let audio = audio_folder(&self.data, self.audio.as_deref());
        Ok((labels, read_manifest(&self.data, audio)?))
    }
}

/// Judge a bundle on labelled recordings that it was not trained on.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// Bundle to judge. Default: the one inside this program.
    #[arg(long, value_name = "DIR", env = "ECOSIGHT_BUNDLE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    recordings: Recordings,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// The imported YAMNet. Default: where `import-yamnet` puts it.
    #[arg(long, value_name = "FILE", env = crate::yamnet::ENV)]
    yamnet: Option<PathBuf>,
}

/// Find recordings that a manifest has in several groups.
#[derive(Debug, Args)]
pub struct LeaksArguments {
    /// Manifest of the recordings, as for `train`.
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// Folder that the manifest's paths are relative to. Default: the manifest's own.
    #[arg(long, value_name = "DIR")]
    audio: Option<PathBuf>,
    /// Decides folds, as for `train`.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folds of the cross-validation, as for `train`.
    #[arg(long, default_value_t = 6)]
    folds: usize,
}

/// Prints the clips of different groups that sound like one recording, and whether the folds part
/// them; the exit code is 1 if they part any.
///
/// # Errors
/// With a message that names the file or option at fault.
pub fn leaks(arguments: &LeaksArguments) -> anyhow::Result<ExitCode> {
    ensure!(arguments.folds >= 2, "--folds must be at least 2");
    let labels = read_labels(None)?;
    let audio = audio_folder(&arguments.data, arguments.audio.as_deref());
    let clips = read_manifest(&arguments.data, audio)?;
    let fold = folds_of(&clips, arguments.folds, arguments.seed);
    let library = Library::new(clips, fold, &labels);
    let found = leaks::between_groups(&library)?;
    let mut out = std::io::stdout().lock();
    let mut parted = 0;
    for like in &found {
        let apart = like.is_parted(&library);
        parted += usize::from(apart);
        let how = if apart { "parted" } else { "together" };
        writeln!(out, "{how}  {}", like.text(&library))?;
    }
    writeln!(
        out,
        "{} likenesses between groups, {parted} parted by the folds; give clips of one recording \
         one group",
        found.len()
    )?;
    Ok(if parted == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a bundle over recordings and reports what it heard.
///
/// # Errors
/// With a message that names the file or option at fault.
pub fn evaluate(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    let (labels, clips) = arguments.recordings.read()?;
    let classifier = Classifier::load(arguments.bundle.as_deref(), arguments.yamnet.as_deref())?;
    let names: Vec<&str> = labels.classes.iter().map(|class| class.name.as_str()).collect();
    ensure!(
        names == classifier.bundle().classes,
        "the bundle's classes are {}, the label map's {}: name a map that fits with --labels",
        classifier.bundle().classes.join(", "),
        names.join(", ")
    );
    let mut thresholds = vec![f32::INFINITY; names.len()];
    for rule in &classifier.bundle().detector.rules {
        thresholds[rule.class] = rule.threshold;
    }
    let fold = vec![0; clips.len()];
    let library = Library::new(clips, fold, &labels);
    let progress = Progress::new("clips");
    let done = AtomicUsize::new(0);
    let total = library.clips().len();
    let heard = (0..total)
        .into_par_iter()
        .with_max_len(4)
        .map(|clip| {
            let sound = library.sound(clip)?;
            let (windows, scores) = classifier.classify_sound(&sound)?;
            let column = |class: usize| -> Vec<f32> {
                scores.iter().map(|scores| scores.classes[class]).collect()
            };
            let mean = |scores: Vec<f32>| scores.iter().sum::<f32>() / scores.len().max(1) as f32;
            let classes = 0..names.len();
            progress.tell(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(judgement::Heard {
                clip,
                form: Form::Plain,
                class: library.class(clip),
                peak: classes
                    .clone()
                    .map(|c| crate::eval::paired_peak(&column(c), judgement::CONFIRM_WINDOWS))
                    .collect(),
                mean: classes.map(|class| mean(column(class))).collect(),
                hours: windows.len() as f64 * judgement::HOP_HOURS,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let judged = judgement::judge(library.clips(), &labels, &heard, &thresholds);
    let threshold = thresholds[labels.alerting()];
    let shipped = judgement::rate_point(library.clips(), &labels, &heard, threshold, None);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let report = serde_json::json!({"judgement": judged, "shipped": shipped});
        writeln!(out, "{report}")?;
    } else {
        print_judgement(&mut out, &judged, &shipped)?;
    }
    Ok(ExitCode::SUCCESS)
}
