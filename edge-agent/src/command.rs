//! The command line.
//!
//! Results go to standard output, messages to standard error. Exit codes: 0 done, 1 it failed,
//! 2 it was asked wrongly.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::config::{self, Config, LogFormat, Speed};
use crate::{doctor, replay};

/// EcoSight station: hears gunshots, alerts rangers, keeps the evidence.
#[derive(Debug, Parser)]
#[command(name = "ecosight-agent", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// More messages: -v for debug, -vv for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Listen, alert and upload until stopped.
    Run(ConfigArgs),
    /// Check everything that the station needs, and say what to do about what is missing.
    Doctor {
        #[command(flatten)]
        config: ConfigArgs,
        /// One JSON object a check.
        #[arg(long)]
        json: bool,
    },
    /// Print what the station would raise from recordings or a scene; sends nothing.
    Replay(ReplayArgs),
    /// Print the configuration with every setting, its default and its meaning.
    Configfile,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: /etc/ecosight/agent.toml if it is there].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What to replay.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Recordings, or directories of them.
    #[arg(required_unless_present = "scene", conflicts_with = "scene", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// A synthesised scene with this seed instead.
    #[arg(long, value_name = "SEED")]
    pub scene: Option<u64>,
    /// Length of the scene in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub duration: u64,
    /// How fast.
    #[arg(long, value_enum, default_value_t = Pace::Max)]
    pub speed: Pace,
    /// One JSON object an event.
    #[arg(long)]
    pub json: bool,
}

/// How fast a replay runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// As fast as possible.
    Max,
    /// As it was recorded.
    #[value(name = "1x", alias = "realtime")]
    Original,
}

impl Pace {
    /// The same as a setting.
    #[must_use]
    pub fn speed(self) -> Speed {
        match self {
            Self::Max => Speed::Maximum,
            Self::Original => Speed::RealTime,
        }
    }
}

impl CommandLine {
    /// Does what was asked.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let config_args = match &self.command {
            Command::Run(args) | Command::Doctor { config: args, .. } => Some(args),
            Command::Replay(args) => Some(&args.config),
            Command::Configfile => None,
        };
        let config =
            config_args.map_or(Ok(Config::default()), |args| Config::load(args.config.as_deref()));
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                let count = error.faults.len();
                say(&format!("error: {count} fault(s) in the configuration\n{error}"));
                return ExitCode::from(2);
            }
        };
        start_log(&config.log, self.verbose, matches!(self.command, Command::Run(_)));
        match self.run(config) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                say(&format!("error: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }

    fn run(self, config: Config) -> Result<bool> {
        match self.command {
            Command::Run(_) => {
                runtime()?.block_on(crate::run(config, Clock::system()))?;
                Ok(true)
            }
            Command::Doctor { json, .. } => {
                let checks = runtime()?.block_on(doctor::examine(&config));
                print(&doctor::report(&checks, json))?;
                Ok(checks.iter().all(doctor::Check::passed))
            }
            Command::Replay(args) => replay::replay(&config, &args),
            Command::Configfile => {
                print(config::EXAMPLE)?;
                Ok(true)
            }
        }
    }
}

/// Two threads: one may be busy with a clip while the other serves the network.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn start_log(config: &config::Log, verbose: u8, is_service: bool) {
    let level = match (verbose, is_service) {
        (0, true) => config.level.clone(),
        // A command that answers a question has no other messages than problems.
        (0, false) => "warn".to_owned(),
        (1, _) => "debug,hyper=info,rumqttc=info,sqlx=info".to_owned(),
        (_, _) => "trace".to_owned(),
    };
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match config.format {
        LogFormat::Text => builder.with_ansi(colours).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Writes a result. A reader that has left, such as `head`, is no fault.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn say(text: &str) {
    // Nobody to tell, nothing to do about it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
