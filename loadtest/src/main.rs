//! Load on a running server, measured honestly: what failed counts, and what was lost is named.

#![allow(clippy::print_stdout, reason = "results go to standard output")]

mod fleet;
mod lists;
mod predict;
mod quantile;
mod rollout;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "ecosight-load", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Users who send a sound file to /predict, wait for the answer, and send the next
    Predict(predict::Options),
    /// Stations that send detections over MQTT; says what was lost on the way to the database
    Fleet(fleet::Options),
    /// The API's lists; says how long each takes
    Lists(lists::Options),
    /// Stations that take a signed release, cohort by cohort; says how long the rollout took
    Rollout(rollout::Options),
    /// Print the public key of `rollout`, for the server's releases.trusted_keys
    RolloutKey(rollout::KeyOptions),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Predict(options) => predict::run(options).await,
        Command::Fleet(options) => fleet::run(options).await,
        Command::Lists(options) => lists::run(options).await,
        Command::Rollout(options) => rollout::run(options).await,
        Command::RolloutKey(options) => Ok(rollout::print_key(&options)),
    }
}
