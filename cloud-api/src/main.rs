//! EcoSight's server.

use std::process::ExitCode;

use clap::Parser;
use ecosight_cloud::cli::{Cli, Command, Settings};
use ecosight_cloud::clock::Clock;
use ecosight_cloud::config::{Config, default_file};
use ecosight_cloud::{doctor, log, server, watch};

/// Exit code for a command line or a configuration that cannot be used.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    // A second provider in the dependencies would make TLS panic at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(settings) => match configured(&settings) {
            Ok(config) => finished(server::serve(config, Clock::system()).await),
            Err(code) => code,
        },
        Command::Migrate(settings) => match configured(&settings) {
            Ok(config) => finished(server::migrate(&config).await),
            Err(code) => code,
        },
        Command::Doctor(settings) => match configured(&settings) {
            Ok(config) => finished(doctor::doctor(&config).await),
            Err(code) => code,
        },
        Command::Configfile => finished(log::print(&default_file())),
        Command::Watch(options) => {
            log::start(&Config::default().log);
            let seed = Clock::system().now_us() as u64 ^ u64::from(std::process::id());
            finished(watch::watch(options, seed).await)
        }
    }
}

fn configured(settings: &Settings) -> Result<Config, ExitCode> {
    let config = settings.resolve(std::env::vars()).map_err(|error| {
        log::complain(&error.to_string());
        ExitCode::from(USAGE)
    })?;
    log::start(&config.log);
    Ok(config)
}

fn finished(result: anyhow::Result<()>) -> ExitCode {
    if let Err(error) = result {
        log::complain(&format!("{error:#}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
