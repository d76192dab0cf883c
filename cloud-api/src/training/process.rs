//! The trainer in a process of its own: this program again, with the hidden command `train`.

use std::io;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::{Result, bail};
use ecosight_models::train::cli::TrainArguments;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::JobError;
use super::cut::Passage;
use super::progress::{Progress, Stage};

/// Address space of the trainer, bytes: some thousands of samples with all their copies.
const MEMORY_LIMIT: u64 = 8 << 30;
/// Processor time of the trainer, seconds.
const CPU_LIMIT_S: u64 = 6 * 3_600;
/// The trainer gives way to everything else.
const NICENESS: i32 = 15;
/// Networks whose mean is the candidate.
const NETWORKS: &str = "1";

/// What the trainer is told.
#[derive(Debug)]
#[allow(missing_docs, reason = "the options of `ecosight-models train`")]
pub struct TrainerArguments<'a> {
    pub manifest: &'a Path,
    pub labels: &'a Path,
    pub recipe: &'a Path,
    pub alarms_per_hour: f64,
    pub audio: &'a Path,
    pub streams: &'a [String],
    pub folds: usize,
    pub name: &'a str,
    pub version: &'a str,
    pub yamnet: Option<&'a Path>,
    pub cache: &'a Path,
    pub out: &'a Path,
    pub seed: u64,
    pub created: &'a str,
}

/// Runs the trainer to its end. Dropping the future kills it.
pub(super) async fn train(
    arguments: &TrainerArguments<'_>,
    progress: &watch::Sender<Progress>,
    passage: &mut Passage<'_>,
) -> Result<(), JobError> {
    let passing = |error: io::Error| JobError::Passing(format!("the trainer: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(passing)?);
    command
        .arg("train")
        .arg("--data")
        .arg(arguments.manifest)
        .arg("--labels")
        .arg(arguments.labels)
        .arg("--recipe")
        .arg(arguments.recipe)
        .args(["--alarms-per-hour", &arguments.alarms_per_hour.to_string()])
        .arg("--audio")
        .arg(arguments.audio)
        .arg("--streams")
        .arg(arguments.streams.join(","))
        .args(["--folds", &arguments.folds.to_string(), "--networks", NETWORKS])
        // Several stations may have heard one sound: the comparison on what was set aside decides.
        .arg("--allow-leaks")
        .args(["--name", arguments.name, "--version", arguments.version])
        .arg("--cache")
        .arg(arguments.cache)
        .arg("--out")
        .arg(arguments.out)
        .args(["--seed", &arguments.seed.to_string(), "--created", arguments.created])
        .arg("--progress-lines");
    if let Some(yamnet) = arguments.yamnet {
        command.arg("--yamnet").arg(yamnet);
    }
    let ended = run(command, progress, |stage| passage.reaches(stage)).await;
    let (status, last) = ended.map_err(passing)?;
    match (status.success(), status.code()) {
        (true, _) => Ok(()),
        // The trainer says what is wrong with the data: another attempt would say the same.
        (false, Some(1 | 2)) => Err(JobError::Final(last)),
        (false, _) => Err(JobError::Passing(format!("the trainer ended with {status}: {last}"))),
    }
}

/// Runs a process to its end, hands on what it tells of its progress, and gives how it ended with the
/// last line of anything else that it said. `at` hears which stage it is at. Dropping the future kills
/// it.
pub(super) async fn run(
    mut command: Command,
    progress: &watch::Sender<Progress>,
    mut at: impl FnMut(Stage),
) -> io::Result<(ExitStatus, String)> {
    let mut process = command
        // The server needs its cores.
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut last = String::new();
    if let Some(stderr) = process.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            debug!(line, "told");
            match Progress::told(&line) {
                Some(told) => {
                    at(told.stage);
                    progress.send_replace(told);
                }
                None => last = line,
            }
        }
    }
    Ok((process.wait().await?, last))
}

/// The hidden command: takes limits upon itself, then trains.
///
/// # Errors
/// What the trainer says.
pub fn run_trainer(arguments: &TrainArguments) -> Result<ExitCode> {
    limit(MEMORY_LIMIT, CPU_LIMIT_S)?;
    ecosight_models::train::cli::train(arguments)
}

/// Makes this process give way to everything else, keep within memory (bytes) and processor time
/// (seconds), and end with the server that started it: what nobody waits for must not go on beside
/// the next attempt.
pub(super) fn limit(memory: u64, cpu_s: u64) -> Result<()> {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        warn!(%error, "this process may outlive the server");
    }
    if let Err(error) = rustix::process::nice(NICENESS) {
        warn!(%error, "working at the priority of everything else");
    }
    for (what, limit) in [(Resource::As, memory), (Resource::Cpu, cpu_s)] {
        if let Err(error) = setrlimit(what, Rlimit { current: Some(limit), maximum: Some(limit) }) {
            bail!("cannot limit this process: {error}");
        }
    }
    Ok(())
}
