//! The command line.
//!
//! Results go to standard output, messages to standard error. Exit codes: 0 done, 1 it failed,
//! 2 it was asked wrongly.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ecosight_models::{one_line, yamnet};
use tracing_subscriber::EnvFilter;

use crate::clock::{Clock, rfc3339};
use crate::config::{self, Config, LogFormat, Speed, Written};
use crate::logfile::LogFile;
use crate::update::prove::ProveArgs;
use crate::{calibrate, classify, doctor, enroll, record_test, replay, support, update, why};

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
    /// Judge sound files with the station's model and thresholds.
    Classify(ClassifyArgs),
    /// Print what the station would raise from recordings or a scene; sends nothing.
    Replay(ReplayArgs),
    /// Record a few seconds from the station's source, and say whether the microphone is well.
    RecordTest(RecordTestArgs),
    /// Listen to the background, and show what a false-alarm budget would cost.
    Calibrate(CalibrateArgs),
    /// Say what the station heard at a time, and why that was no alert.
    Why(WhyArgs),
    /// Pack everything that helps to find out what is wrong, without sound and secrets.
    Support(SupportArgs),
    /// Introduce the station to the server with a one-time code.
    Enroll(EnrollArgs),
    /// Print the configuration with every setting, its default and its meaning.
    Configfile,
    /// Bring YAMNet to this station, for all users: from a file, or with --download from where it is published.
    ImportYamnet(yamnet::command::Arguments),
    /// Load a bundle within limits and play it its golden sounds, for `run`.
    #[command(hide = true)]
    Prove(ProveArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: /etc/ecosight/agent.toml if it is there].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What to classify.
#[derive(Debug, Args)]
pub struct ClassifyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Recordings, or directories of them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Also give every window's scores.
    #[arg(long)]
    pub windows: bool,
    /// One JSON object a file.
    #[arg(long)]
    pub json: bool,
}

/// What to record.
#[derive(Debug, Args)]
pub struct RecordTestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Length.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Directory for the recording [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How long to listen.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How much sound, such as 90min or 12h.
    #[arg(long, value_parser = config::duration, default_value = "2h")]
    pub duration: std::time::Duration,
    /// One JSON array.
    #[arg(long)]
    pub json: bool,
}

/// When.
#[derive(Debug, Args)]
pub struct WhyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// 2026-01-31T06:02:00Z, or "2026-01-31 06:02" in this machine's time zone.
    #[arg(long, value_name = "TIME", value_parser = why::time, allow_hyphen_values = true)]
    pub at: i64,
    /// How far around it.
    #[arg(long, value_parser = config::duration, default_value = "90s")]
    pub within: std::time::Duration,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Where to pack.
#[derive(Debug, Args)]
pub struct SupportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The file to write [default: ecosight-support_….tar here].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Whom to meet.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The code; without it, it is read from standard input, where no other user sees it.
    #[arg(long)]
    pub code: Option<String>,
    /// The server [default: cloud.url].
    #[arg(long)]
    pub url: Option<String>,
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
        let loaded = match self.config_path() {
            Some(path) => Written::read(path).and_then(|written| Ok((written.config()?, written))),
            None => Ok((Config::default(), Written::default())),
        };
        let (config, written) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let count = error.faults.len();
                say(&format!("error: {count} fault(s) in the configuration\n{error}"));
                return ExitCode::from(2);
            }
        };
        start_log(&config, self.verbose, matches!(self.command, Command::Run(_)));
        match self.run(config, &written) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                say(&format!("error: {}", one_line(&*error)));
                ExitCode::FAILURE
            }
        }
    }

    /// The configuration to read; nothing if the command needs none.
    fn config_path(&self) -> Option<Option<&Path>> {
        let args = match &self.command {
            Command::Run(args) | Command::Doctor { config: args, .. } => args,
            Command::Classify(args) => &args.config,
            Command::Replay(args) => &args.config,
            Command::RecordTest(args) => &args.config,
            Command::Calibrate(args) => &args.config,
            Command::Why(args) => &args.config,
            Command::Support(args) => &args.config,
            Command::Enroll(args) => &args.config,
            Command::Configfile | Command::ImportYamnet(_) | Command::Prove(_) => return None,
        };
        Some(args.config.as_deref())
    }

    fn run(self, config: Config, written: &Written) -> Result<bool> {
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
            Command::Classify(args) => classify::classify(&update::in_use(&config).0, &args),
            Command::Replay(args) => replay::replay(&update::in_use(&config).0, &args),
            Command::RecordTest(args) => record(&update::in_use(&config).0, &args),
            Command::Calibrate(args) => {
                let config = update::in_use(&config).0;
                let reports = calibrate::calibrate(&config, args.duration, &Clock::system())?;
                let json = args.json.then(|| serde_json::to_string(&reports)).transpose()?;
                print(&json.map_or_else(|| calibrate::text(&reports), |json| json + "\n"))?;
                Ok(true)
            }
            Command::Why(args) => {
                let data_dir = &config.storage.data_dir;
                let answer = runtime()?.block_on(why::why(data_dir, args.at, args.within))?;
                let json = args.json.then(|| serde_json::to_string(&answer)).transpose()?;
                print(&json.map_or_else(|| why::text(&answer), |json| json + "\n"))?;
                Ok(true)
            }
            Command::Support(args) => {
                let clock = Clock::system();
                let packing = support::support(&config, written, args.out, &clock);
                let path = runtime()?.block_on(packing)?;
                print(&format!("{}\n", path.display()))?;
                Ok(true)
            }
            Command::Enroll(args) => {
                let enrolled =
                    runtime()?.block_on(enroll::enroll(&config, &args, &Clock::system()))?;
                let site = enrolled.site.map_or_else(String::new, |site| format!(" at {site}"));
                print(&format!(
                    "station {}{site}: settings in {}\n",
                    enrolled.device,
                    enrolled.settings.display()
                ))?;
                match &enrolled.broker {
                    Some(broker) => {
                        print(&format!("broker {broker}; now: ecosight-agent doctor\n"))?;
                    }
                    None => print(&format!(
                        "the server does not say where its broker is: set mqtt.url in agent.toml \
                         (it is {} now), or mqtt.stations_url at the server\n",
                        config.mqtt.url
                    ))?,
                }
                Ok(true)
            }
            Command::Configfile => {
                print(config::EXAMPLE)?;
                Ok(true)
            }
            Command::ImportYamnet(args) => {
                yamnet::command::run(&args, yamnet::system_path()).map(|_| true)
            }
            Command::Prove(args) => update::prove::run(&args).map(|()| true),
        }
    }
}

fn record(config: &Config, args: &RecordTestArgs) -> Result<bool> {
    let clock = Clock::system();
    let outcome = record_test::record_test(config, args, &clock)?;
    let passed = outcome.checks.iter().all(doctor::Check::passed);
    if args.json {
        let line = serde_json::json!({
            "time": rfc3339(clock.unix_us()),
            "file": outcome.path,
            "measured": outcome.measurement,
            "checks": outcome.checks,
            "passed": passed,
        });
        print(&format!("{line}\n"))?;
    } else {
        print(&doctor::report(&outcome.checks, false))?;
        print(&format!("{}\n", outcome.path.display()))?;
    }
    Ok(passed)
}

/// Threads that encode clips, look names up and ask the clock's service: more would each have memory
/// of their own and not make the station any quicker.
const BLOCKING_THREADS: usize = 8;

/// Two threads: one may be busy with a record while the other serves the network.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(2).max_blocking_threads(BLOCKING_THREADS);
    Ok(builder.enable_all().build()?)
}

fn start_log(config: &Config, verbose: u8, is_service: bool) {
    let log = &config.log;
    let level = match (verbose, is_service) {
        (0, true) => log.level.clone(),
        // A command that answers a question has no other messages than problems.
        (0, false) => "warn".to_owned(),
        (1, _) => "debug,hyper=info,rumqttc=info,sqlx=info".to_owned(),
        (_, _) => "trace".to_owned(),
    };
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let keep = is_service && log.keep.0 > 0;
    let kept = keep.then(|| LogFile::open(&config.storage.data_dir, log.keep.0)).transpose();
    // A data directory that cannot be written is reported by whoever needs it.
    let kept = kept.ok().flatten().map(|file| Arc::new(Mutex::new(file)));
    let writer = move || -> Box<dyn std::io::Write> {
        let screen = std::io::stderr();
        match &kept {
            Some(file) => Box::new(Both(screen, Arc::clone(file))),
            None => Box::new(screen),
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match log.format {
        LogFormat::Text => builder.with_ansi(colours).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Writes to the screen and to the kept log.
struct Both(std::io::Stderr, Arc<Mutex<LogFile>>);

impl std::io::Write for Both {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut file = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(bytes);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
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
