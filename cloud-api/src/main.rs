//! EcoSight's server.

use std::process::ExitCode;

use clap::Parser;
use ecosight_cloud::cli::{Cli, Command, SamplesCommand, Settings};
use ecosight_cloud::clock::Clock;
use ecosight_cloud::config::{Config, default_file};
use ecosight_cloud::{administer, doctor, http, learn, log, server, training, watch};
use ecosight_models::one_line;

/// Exit code for a command line or a configuration that cannot be used.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    // A second provider in the dependencies would make TLS panic at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(serve) => match configured(&serve.settings) {
            Ok(config) => finished(server::serve(config, &serve.roles, Clock::system()).await),
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
        Command::CreateAdmin(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::create_admin(&config, &options).await),
            Err(code) => code,
        },
        Command::CreateApiKey(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::create_api_key(&config, &options).await),
            Err(code) => code,
        },
        Command::MosquittoAcl(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::mosquitto_acl(&config, &options).await),
            Err(code) => code,
        },
        Command::Export(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::export(&config, &options).await),
            Err(code) => code,
        },
        Command::Samples(SamplesCommand::Import(options)) => match configured(&options.settings) {
            Ok(config) => finished(learn::import_samples(&config, &options).await),
            Err(code) => code,
        },
        Command::Models(command) => match configured(command.settings()) {
            Ok(config) => finished(learn::models(&config, &command).await),
            Err(code) => code,
        },
        Command::Retrain(options) => match configured(&options.settings) {
            Ok(config) => finished(learn::retrain(&config, &options).await),
            Err(code) => code,
        },
        Command::Releases(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::releases(&config, &options.what).await),
            Err(code) => code,
        },
        Command::Rollouts(options) => match configured(&options.settings) {
            Ok(config) => finished(administer::rollouts(&config, options.what).await),
            Err(code) => code,
        },
        Command::Configfile => finished(log::print(&default_file())),
        Command::Openapi => finished(print_openapi()),
        Command::Train(arguments) => match training::run_trainer(&arguments) {
            Ok(code) => code,
            Err(error) => finished(Err(error)),
        },
        Command::Judge(arguments) => match training::run_judge(&arguments) {
            Ok(code) => code,
            Err(error) => finished(Err(error)),
        },
        Command::Watch(options) => {
            log::start(&Config::default());
            let seed = Clock::system().now_us() as u64 ^ u64::from(std::process::id());
            finished(watch::watch(options, seed).await)
        }
    }
}

fn print_openapi() -> anyhow::Result<()> {
    log::print(&http::openapi_json()?)
}

fn configured(settings: &Settings) -> Result<Config, ExitCode> {
    let config = settings.resolve(std::env::vars()).map_err(|error| {
        log::complain(&error.to_string());
        ExitCode::from(USAGE)
    })?;
    log::start(&config);
    Ok(config)
}

fn finished(result: anyhow::Result<()>) -> ExitCode {
    if let Err(error) = result {
        log::complain(&one_line(&*error));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
