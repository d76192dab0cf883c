//! The commands `export-compact` and `bundle-compact`: the rim where files and terminal are.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;

use super::export::export;
use super::release::Release;
use super::scores::Work;
use crate::train::cli::now_rfc3339;
use crate::train::judge::Recordings;
use crate::train::material::{Copies, Library};
use crate::train::progress::Progress;
use crate::train::report::print_judgement;
use crate::train::split::folds_of;

/// Write what the compact network learns from: recordings in all their forms, as it will see them.
#[derive(Debug, Args)]
pub struct ExportArguments {
    #[command(flatten)]
    recordings: Recordings,
    /// Folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Decides folds and augmentations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 6)]
    folds: usize,
    /// Synthetic scenes with shots to add, a minute each.
    #[arg(long, default_value_t = 24)]
    scenes: u32,
}

/// Exports the training material.
///
/// # Errors
/// With a message that names the file or option at fault.
pub fn run(arguments: &ExportArguments) -> anyhow::Result<ExitCode> {
    ensure!(arguments.folds >= 2, "--folds must be at least 2");
    let (labels, clips) = arguments.recordings.read()?;
    let fold = folds_of(&clips, arguments.folds, arguments.seed);
    let library = Library::new(clips, fold, &labels);
    let silence = labels.named("silence");
    let items = library.items(&labels, Copies::default(), silence);
    let progress = Progress::new("material");
    export(
        &library,
        &labels,
        &items,
        arguments.scenes,
        arguments.seed,
        &arguments.out,
        &|done, all| progress.tell(done, all),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Make a bundle of what the training script wrote.
#[derive(Debug, Args)]
pub struct BundleArguments {
    #[command(flatten)]
    recordings: Recordings,
    /// What `export-compact` wrote.
    #[arg(long, value_name = "DIR")]
    material: PathBuf,
    /// What the training script wrote.
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// Folder to write the bundle to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the model line.
    #[arg(long, default_value = "compact")]
    name: String,
    /// Version of the bundle.
    #[arg(long, default_value = "0.1.0")]
    version: String,
    /// False alarms per hour of the data's background that the alert threshold is chosen for.
    #[arg(long, default_value_t = 3.0)]
    alarms_per_hour: f64,
}

/// Judges the networks by their scores out of fold, and writes the bundle.
///
/// # Errors
/// With a message that names the file or option at fault.
pub fn bundle(arguments: &BundleArguments) -> anyhow::Result<ExitCode> {
    ensure!(arguments.alarms_per_hour > 0.0, "--alarms-per-hour must be above 0");
    let (labels, clips) = arguments.recordings.read()?;
    let fold = vec![0; clips.len()];
    let library = Library::new(clips, fold, &labels);
    let created = now_rfc3339();
    let work = Work { material: arguments.material.clone(), networks: arguments.work.clone() };
    let release = Release {
        name: &arguments.name,
        version: &arguments.version,
        created: &created,
        command: "make train-compact",
        library: &library,
        labels: &labels,
        work: &work,
        alarms_per_hour: arguments.alarms_per_hour,
    };
    let (bundle, evaluation) = release.write(&arguments.out)?;
    print_judgement(&mut std::io::stdout().lock(), &evaluation.judgement, &evaluation.shipped)?;
    eprintln!(
        "wrote {} {} to {}, tag {}",
        bundle.name,
        bundle.version,
        arguments.out.display(),
        bundle.tag
    );
    Ok(ExitCode::SUCCESS)
}
