//! The commands. Results go to standard output, everything else to standard error.
//!
//! Exit codes: 0 done, 1 something failed (the message says what and what to do), 2 wrong usage.

mod classify;
mod inspect;
mod release;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use ecosight_models::scene::{self, cli::SceneArgs};
use ecosight_models::{SAMPLE_RATE_HZ, one_line, yamnet};

/// EcoSight's models: judge sound files, look into bundles, import YAMNet.
#[derive(Debug, Parser)]
#[command(name = "ecosight-models", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge sound files as a station would: scores per class, and the events it would raise.
    Classify(classify::Arguments),
    /// Say what a bundle is, what it was measured to do, and whether it is whole.
    Inspect(inspect::Arguments),
    /// Turn Google's published YAMNet (a TFLite file) into the file that EcoSight runs.
    ImportYamnet(yamnet::command::Arguments),
    /// Keys, and bundles signed for stations.
    #[command(subcommand)]
    Release(release::Command),
    /// Write a synthetic forest with gunshots as a WAV file, and what is in it.
    Scene(SceneArgs),
    /// Train a head on labelled recordings and write it as a bundle.
    #[cfg(feature = "train")]
    Train(Box<ecosight_models::train::cli::TrainArguments>),
    /// Judge a bundle on labelled recordings that it was not trained on.
    #[cfg(feature = "train")]
    Evaluate(ecosight_models::train::judge::EvaluateArguments),
    /// Find recordings that a manifest has in several groups: they would be on both sides of a split.
    #[cfg(feature = "train")]
    Leaks(ecosight_models::train::judge::LeaksArguments),
    /// Write what the compact network learns from, for its training script.
    #[cfg(feature = "train")]
    ExportCompact(ecosight_models::compact::cli::ExportArguments),
    /// Make a bundle of the compact network that the training script trained.
    #[cfg(feature = "train")]
    BundleCompact(ecosight_models::compact::cli::BundleArguments),
}

/// Which model.
#[derive(Debug, Args)]
struct ModelArguments {
    /// Bundle to use: a directory with manifest.json. Default: the one inside this program.
    #[arg(long, value_name = "DIR", env = "ECOSIGHT_BUNDLE")]
    bundle: Option<PathBuf>,
    /// The imported YAMNet. Default: where `import-yamnet` puts it.
    #[arg(long, value_name = "FILE", env = ecosight_models::yamnet::ENV)]
    yamnet: Option<PathBuf>,
}

/// Runs the command that the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Classify(arguments) => classify::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::ImportYamnet(arguments) => {
            yamnet::command::run(&arguments, yamnet::default_path())
        }
        Command::Release(command) => release::run(&command),
        Command::Scene(arguments) => write_scene(&arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => ecosight_models::train::cli::train(&arguments),
        #[cfg(feature = "train")]
        Command::Evaluate(arguments) => ecosight_models::train::judge::evaluate(&arguments),
        #[cfg(feature = "train")]
        Command::Leaks(arguments) => ecosight_models::train::judge::leaks(&arguments),
        #[cfg(feature = "train")]
        Command::ExportCompact(arguments) => ecosight_models::compact::cli::run(&arguments),
        #[cfg(feature = "train")]
        Command::BundleCompact(arguments) => ecosight_models::compact::cli::bundle(&arguments),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough, as in `… | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn write_scene(arguments: &SceneArgs) -> Result<ExitCode> {
    match scene::cli::run(arguments) {
        Ok(scene) => {
            let seconds = scene.samples / u64::from(SAMPLE_RATE_HZ);
            eprintln!(
                "{}: {seconds} s, {} gunshots, {} sounds listed",
                arguments.out.display(),
                scene.shots,
                scene.events
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error}");
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
