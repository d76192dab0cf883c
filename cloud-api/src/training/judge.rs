//! Models on sounds whose truth is known, in a process of its own: this program again, with the hidden
//! command `judge`. A model is somebody's file; whatever its networks do to the process that runs
//! them, the server goes on.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ecosight_models::audio::DecodeLimits;
use ecosight_models::eval::paired_peak;
use ecosight_models::heard::Heard;
use ecosight_models::{Classifier, ClassifierOptions, durable, one_line};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::watch;

use super::process::{self, limit};
use super::progress::{Progress, Stage};
use crate::inference::{MAX_FILE_BYTES, MAX_SECONDS};

/// Address space of the judge: two models and a recording.
const MEMORY_LIMIT: u64 = 4 << 30;
/// Processor time of the judge, seconds.
const CPU_LIMIT_S: u64 = 2 * 3_600;
/// A model that does not load and say its golden sounds within this time is refused.
const PROOF_LIMIT: Duration = Duration::from_secs(60);
/// Golden scores may differ by this much between published copies of YAMNet.
pub(crate) const GOLDEN_TOLERANCE: f32 = 0.1;

/// Judges models. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Judge {
    /// The imported YAMNet.
    pub yamnet: Option<PathBuf>,
}

/// Why a model was not judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The model does not run, or not as its bundle says: another attempt would end the same.
    #[error("{0}")]
    Unfit(String),
    /// The process could not be had; another time it may.
    #[error("{0}")]
    Passing(String),
}

/// What is to be judged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) yamnet: Option<PathBuf>,
    /// Directories of bundles.
    pub(super) models: Vec<PathBuf>,
    /// For each of them, a threshold in the place of the one that its bundle alerts by.
    #[serde(default)]
    pub(super) thresholds: Vec<Option<f32>>,
    /// Sound files.
    pub(super) sounds: Vec<PathBuf>,
}

/// What the models say: one entry a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Judged {
    pub(super) models: Vec<ModelWords>,
}

/// What a model says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ModelWords {
    /// One entry a sound; `None` for one that the model cannot be judged on.
    pub(super) sounds: Vec<Option<Words>>,
}

/// What a model says to one sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Words {
    /// Classes that a station would alert by, each once.
    pub(super) alerts: Vec<String>,
    /// The highest score that an alerting rule was measured by.
    pub(super) score: f32,
}

/// What the process is told.
#[derive(Debug, Args)]
pub struct JudgeArguments {
    /// JSON: what is to be judged
    plan: PathBuf,
    /// Where to write what came out
    #[arg(long)]
    out: PathBuf,
}

impl Judge {
    /// Loads a model elsewhere and plays it its golden sounds.
    ///
    /// # Errors
    /// [`JudgeError::Unfit`] says what is wrong with it.
    pub async fn prove(&self, model: &Path) -> Result<(), JudgeError> {
        let dir = draft_folder(model)?;
        let plan = Plan {
            yamnet: self.yamnet.clone(),
            models: vec![model.to_owned()],
            thresholds: Vec::new(),
            sounds: Vec::new(),
        };
        let (progress, _) = watch::channel(Progress::begun());
        let judged = tokio::time::timeout(PROOF_LIMIT, self.run(&plan, &dir, &progress)).await;
        let _ = std::fs::remove_dir_all(&dir);
        match judged {
            Ok(judged) => judged.map(drop),
            Err(_) => Err(JudgeError::Unfit(format!(
                "the model did not load and say its golden sounds within {} s",
                PROOF_LIMIT.as_secs()
            ))),
        }
    }

    /// Runs a plan. Dropping the future kills the process.
    pub(super) async fn run(
        &self,
        plan: &Plan,
        dir: &Path,
        progress: &watch::Sender<Progress>,
    ) -> Result<Judged, JudgeError> {
        let passing = |error: std::io::Error| JudgeError::Passing(format!("the judge: {error}"));
        let (input, out) = (dir.join("judge.json"), dir.join("judged.json"));
        let json =
            serde_json::to_vec(plan).map_err(|error| JudgeError::Passing(error.to_string()))?;
        durable::write_file(&input, &json).map_err(passing)?;
        let mut command = Command::new(std::env::current_exe().map_err(passing)?);
        command.arg("judge").arg(&input).arg("--out").arg(&out);
        let (status, last) = process::run(command, progress, |_| {}).await.map_err(passing)?;
        match (status.success(), status.code()) {
            (true, _) => {}
            // It says what is wrong with a model: another attempt would say the same.
            (false, Some(1 | 2)) => return Err(JudgeError::Unfit(last)),
            (false, _) => {
                return Err(JudgeError::Passing(format!("the judge ended with {status}: {last}")));
            }
        }
        let judged = std::fs::read(&out).map_err(passing)?;
        serde_json::from_slice(&judged).map_err(|error| JudgeError::Passing(error.to_string()))
    }
}

/// A folder of this process beside the model's.
fn draft_folder(model: &Path) -> Result<PathBuf, JudgeError> {
    let name = model.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = format!(".proof-{}-{}", std::process::id(), name.unwrap_or_default());
    let dir = model.with_file_name(name);
    std::fs::create_dir_all(&dir).map_err(|error| JudgeError::Passing(error.to_string()))?;
    Ok(dir)
}

/// The hidden command: takes limits upon itself, then judges.
///
/// # Errors
/// What is wrong with a model or the plan.
pub fn run_judge(arguments: &JudgeArguments) -> Result<ExitCode> {
    limit(MEMORY_LIMIT, CPU_LIMIT_S)?;
    let plan = std::fs::read(&arguments.plan)
        .with_context(|| format!("cannot read {}", arguments.plan.display()))?;
    let plan: Plan = serde_json::from_slice(&plan).context("the plan")?;
    let options = ClassifierOptions { audioset: false, batching: true };
    let mut models = Vec::new();
    for dir in &plan.models {
        let model = Classifier::load_with(Some(dir), plan.yamnet.as_deref(), options)
            .with_context(|| dir.display().to_string())?;
        let off = model.golden_deviation().context("the model does not run")?.unwrap_or(0.0);
        anyhow::ensure!(
            off <= GOLDEN_TOLERANCE,
            "the model's golden sounds score {off:.3} off what its bundle says"
        );
        models.push(model);
    }
    let mut words: Vec<ModelWords> =
        models.iter().map(|_| ModelWords { sounds: Vec::new() }).collect();
    for (number, sound) in plan.sounds.iter().enumerate() {
        for (place, (model, words)) in models.iter().zip(&mut words).enumerate() {
            let threshold = plan.thresholds.get(place).copied().flatten();
            let heard = listen(model, threshold, sound);
            if let Err(error) = &heard {
                log_line(&format!("{}: {}", sound.display(), one_line(&**error)));
            }
            words.sounds.push(heard.ok());
        }
        let done = number + 1;
        if done % 10 == 0 || done == plan.sounds.len() {
            log_line(&Progress::counted(Stage::Gate, done, plan.sounds.len()).line());
        }
    }
    let json = serde_json::to_vec(&Judged { models: words })?;
    durable::write_file(&arguments.out, &json)
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn log_line(line: &str) {
    use std::io::Write as _;
    // The server reads it; without one there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a model says to a sound, as a station's detector would hear it from beginning to end.
fn listen(model: &Classifier, threshold: Option<f32>, sound: &Path) -> Result<Words> {
    let limits = DecodeLimits { max_bytes: MAX_FILE_BYTES as u64, max_seconds: MAX_SECONDS };
    let bundle = model.bundle();
    let mut detector = bundle.detector.clone();
    for rule in detector.rules.iter_mut().filter(|rule| rule.alert) {
        rule.threshold = threshold.unwrap_or(rule.threshold);
    }
    let heard = Heard::of_file(model, &detector, sound, &limits, true)?;
    let mut words = Words { alerts: Vec::new(), score: 0.0 };
    for event in heard.events().iter().filter(|event| event.alert) {
        let class = &bundle.classes[event.class];
        if !words.alerts.contains(class) {
            words.alerts.push(class.clone());
        }
    }
    for rule in bundle.detector.rules.iter().filter(|rule| rule.alert) {
        let column: Vec<f32> = heard.scores().map(|scores| scores[rule.class]).collect();
        words.score = words.score.max(paired_peak(&column, rule.confirm_windows));
    }
    Ok(words)
}
