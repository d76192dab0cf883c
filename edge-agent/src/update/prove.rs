//! Whether a model loads and says its golden sounds here, in a process of its own: this program again,
//! with the hidden command `prove`. A model is somebody's file; whatever its networks do to the process
//! that runs them, the station goes on hearing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use ecosight_models::bundle::hex;
use ecosight_models::classifier::GOLDEN_TOLERANCE;
use ecosight_models::{BundleFiles, Classifier, ClassifierOptions, LoadError};
use ecosight_shared::release::classes_sha256;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::fault::Fault;
use super::state::Digest;
use crate::ear;

/// Address space of the process, bytes: YAMNet while it is prepared, twice.
const MEMORY_LIMIT: u64 = 1_200 << 20;
/// Time that it may take, on the processor and by the clock.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);
/// It gives way to whoever listens.
const NICENESS: i32 = 15;
/// A window comes every 480 ms; beside the model in use half of that is left.
pub const WINDOW_LIMIT: Duration = Duration::from_millis(240);
/// Sound by which the time of a window is measured, seconds.
const TIMED_S: u32 = 5;

/// What the process is told.
#[derive(Clone, Debug, Args)]
pub struct ProveArgs {
    /// The bundle.
    pub bundle: PathBuf,
    /// SHA-256 of its manifest, hexadecimal.
    #[arg(long)]
    pub sha256: String,
    /// SHA-256 of its class names.
    #[arg(long)]
    pub classes: String,
    /// The imported YAMNet.
    #[arg(long)]
    pub yamnet: Option<PathBuf>,
    /// Judge speech as well.
    #[arg(long)]
    pub audioset: bool,
}

/// What it says, one JSON object a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// It is loaded.
    Loaded,
    /// Largest difference of its golden scores, and the time of a window.
    Proved { off: Option<f32>, window_us: u64 },
    /// It is no bundle, or another one.
    Mixed(String),
    /// YAMNet is missing or does not do.
    NeedsYamnet(String),
    /// It does not load.
    NotLoaded(String),
}

/// How to prove.
#[derive(Clone, Debug)]
pub struct Prover {
    /// The agent's program.
    pub program: PathBuf,
    /// The imported YAMNet; nothing: the usual places.
    pub yamnet: Option<PathBuf>,
    /// Whether the station judges speech.
    pub audioset: bool,
    /// Longest that it may take.
    pub limit: Duration,
}

impl Prover {
    /// Loads the bundle elsewhere and plays it its golden sounds; `loaded` is called in between.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn prove(
        &self,
        bundle: &Path,
        sha256: Digest,
        classes: [u8; 32],
        loaded: impl FnMut(),
    ) -> Result<(), Fault> {
        let limit = self.limit;
        // Dropping the future kills the process.
        let proof = tokio::time::timeout(limit, self.run(bundle, sha256, classes, loaded)).await;
        proof.unwrap_or(Err(Fault::Hangs { limit }))
    }

    async fn run(
        &self,
        bundle: &Path,
        sha256: Digest,
        classes: [u8; 32],
        mut loaded: impl FnMut(),
    ) -> Result<(), Fault> {
        let failed =
            |error: std::io::Error| Fault::Disk(format!("no process to prove in: {error}"));
        let mut command = Command::new(&self.program);
        command.arg("prove").arg(bundle);
        command.args(["--sha256", &sha256.to_string(), "--classes", &hex(&classes)]);
        if let Some(yamnet) = &self.yamnet {
            command.arg("--yamnet").arg(yamnet);
        }
        if self.audioset {
            command.arg("--audioset");
        }
        let mut process = command
            // Each thread costs address space, and the station needs its cores.
            .env("RAYON_NUM_THREADS", "1")
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut outcome = None;
        if let Some(stdout) = process.stdout.take() {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(Said::Loaded) => loaded(),
                    Ok(said) => outcome = Some(said),
                    Err(error) => tracing::debug!(line, %error, "not understood"),
                }
            }
        }
        let status = process.wait().await.map_err(failed)?;
        match outcome {
            Some(said) if status.success() => judged(said),
            _ => Err(Fault::Crashed(status.to_string())),
        }
    }
}

fn judged(said: Said) -> Result<(), Fault> {
    match said {
        Said::Loaded => Err(Fault::Crashed("no word on its golden sounds".into())),
        Said::Mixed(what) => Err(Fault::Mixed(what)),
        Said::NeedsYamnet(what) => Err(Fault::NeedsYamnet(what)),
        Said::NotLoaded(what) => Err(Fault::NotLoaded(what)),
        Said::Proved { off: None, .. } => Err(Fault::NoGolden),
        Said::Proved { off: Some(off), .. } if off > GOLDEN_TOLERANCE => {
            Err(Fault::Golden { off, allowed: GOLDEN_TOLERANCE })
        }
        Said::Proved { window_us, .. } if window_us > WINDOW_LIMIT.as_micros() as u64 => {
            Err(Fault::TooSlowModel {
                took_ms: window_us / 1_000,
                allowed_ms: WINDOW_LIMIT.as_millis() as u64,
            })
        }
        Said::Proved { .. } => Ok(()),
    }
}

/// The hidden command: takes limits upon itself, then loads and proves.
///
/// # Errors
/// The limits cannot be had, or nobody listens.
pub fn run(arguments: &ProveArgs) -> Result<()> {
    limit()?;
    let said = |said: &Said| crate::command::print(&(serde_json::to_string(said)? + "\n"));
    let classifier = match load(arguments) {
        Ok(classifier) => classifier,
        Err(problem) => return said(&problem),
    };
    said(&Said::Loaded)?;
    let proved = classifier.golden_deviation().and_then(|off| {
        let mut judged = ear::near_silence(&classifier, TIMED_S)?;
        judged.sort_by_key(|(took, _)| *took);
        let median = judged.get(judged.len() / 2).map_or(Duration::MAX, |(took, _)| *took);
        let window_us = u64::try_from(median.as_micros()).unwrap_or(u64::MAX);
        Ok(Said::Proved { off, window_us })
    });
    said(&proved.unwrap_or_else(|error| Said::NotLoaded(error.to_string())))
}

fn load(arguments: &ProveArgs) -> Result<Classifier, Said> {
    let files = BundleFiles::open(&arguments.bundle).map_err(|e| Said::Mixed(e.to_string()))?;
    let bundle = &files.bundle;
    if hex(&bundle.sha256) != arguments.sha256 {
        return Err(Said::Mixed("manifest.json is another one".into()));
    }
    if hex(&classes_sha256(&bundle.classes)) != arguments.classes {
        return Err(Said::Mixed(
            "its classes are not those that the network was trained with".into(),
        ));
    }
    let options = ClassifierOptions { audioset: arguments.audioset, batching: false };
    Classifier::from_files(files, arguments.yamnet.as_deref(), options).map_err(
        |error| match &error {
            LoadError::Backbone(_) => Said::NeedsYamnet(error.to_string()),
            _ => Said::NotLoaded(error.to_string()),
        },
    )
}

/// Makes this process give way, keep within memory and processor time, end with the station that
/// started it, and be the first that the kernel ends when memory is short.
fn limit() -> Result<()> {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "this process may outlive the station");
    }
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "working at the priority of everything else");
    }
    let first = std::fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
    if let Err(error) = first.and_then(|mut file| std::io::Write::write_all(&mut file, b"1000")) {
        tracing::warn!(%error, "the kernel may end another process when memory is short");
    }
    for (what, limit) in [(Resource::As, MEMORY_LIMIT), (Resource::Cpu, TIME_LIMIT.as_secs())] {
        setrlimit(what, Rlimit { current: Some(limit), maximum: Some(limit) })
            .context("cannot limit this process")?;
    }
    Ok(())
}
