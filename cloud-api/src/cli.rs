//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ecosight_models::train::cli::TrainArguments;
use uuid::Uuid;

use crate::access::Role;
use crate::config::{BrokerChoice, Config, ConfigError, Fault};
use crate::export::ExportFormat;
use crate::server::Roles;
use crate::training::JudgeArguments;

/// EcoSight's server: gathers what stations hear, warns rangers, shows it.
#[derive(Debug, Parser)]
#[command(name = "ecosight-cloud", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(Serve),
    /// Bring the database's tables up to date, and end
    Migrate(Settings),
    /// Check what the server needs, and say what to do about what is missing
    Doctor(Settings),
    /// Make an administrator; from then on the server asks everybody who they are
    CreateAdmin(CreateAdmin),
    /// Make an API key and print it; it is shown once
    CreateApiKey(CreateApiKey),
    /// Write Mosquitto's password and ACL files, for the stations that are enrolled
    MosquittoAcl(MosquittoAcl),
    /// Write what was heard to standard output
    Export(Export),
    /// Add sounds to learn from
    #[command(subcommand)]
    Samples(SamplesCommand),
    /// Look at versions of the model, choose the one that serves, hand them on
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Ask for a training
    Retrain(Retrain),
    /// Take in signed releases of models, and list them
    Releases(Releases),
    /// List rollouts, and steer them
    Rollouts(RolloutsOptions),
    /// Print every setting with its default, as a configuration file
    Configfile,
    /// Print the API's description (OpenAPI 3.1)
    Openapi,
    /// Show alerts in the terminal, as a ranger's client sees them
    Watch(WatchOptions),
    /// Train a candidate; the server runs this for its jobs
    #[command(hide = true)]
    Train(TrainArguments),
    /// Judge models; the server runs this for its jobs
    #[command(hide = true)]
    Judge(JudgeArguments),
}

/// What to do with samples.
#[derive(Debug, Subcommand)]
pub enum SamplesCommand {
    /// Take in a folder or a ZIP file of labelled sounds
    Import(ImportSamples),
}

/// Where labelled sounds are.
#[derive(Debug, Args)]
pub struct ImportSamples {
    /// Folder, or ZIP file, with the sounds
    #[arg(value_name = "DIR|ZIP")]
    pub from: PathBuf,
    /// CSV with path and label, and if there are any group (or recording_id), source and licence;
    /// paths are relative to the folder, or within the ZIP file
    #[arg(long, value_name = "CSV")]
    pub manifest: PathBuf,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do with versions.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List versions, newest first; the one that serves is marked
    List(Settings),
    /// Write a version to one file
    Export(ExportModel),
    /// Take in a version that was exported; it serves only when it is activated
    Import(ImportModel),
    /// Make a version the one that serves
    Activate(ActivateModel),
    /// Go back to the version that served before
    Rollback(Settings),
    /// Show two versions beside each other, each by its own evaluation, and what the gate said of them
    Compare(CompareModels),
}

impl ModelsCommand {
    /// Where the server keeps its records.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        match self {
            Self::List(settings) | Self::Rollback(settings) => settings,
            Self::Export(options) => &options.settings,
            Self::Import(options) => &options.settings,
            Self::Activate(options) => &options.settings,
            Self::Compare(options) => &options.settings,
        }
    }
}

/// Two versions.
#[derive(Debug, Args)]
pub struct CompareModels {
    /// One: its id, its version, or the first digits of its SHA-256
    pub a: String,
    /// The other
    pub b: String,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// A version to write.
#[derive(Debug, Args)]
pub struct ExportModel {
    /// Its id, its version, or the first digits of its SHA-256
    pub model: String,
    /// The file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// A version to take in.
#[derive(Debug, Args)]
pub struct ImportModel {
    /// The file
    pub file: PathBuf,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// A version to serve.
#[derive(Debug, Args)]
pub struct ActivateModel {
    /// Its id, its version, or the first digits of its SHA-256
    pub model: String,
    /// Why
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// A training.
#[derive(Debug, Args)]
pub struct Retrain {
    /// Why
    #[arg(long, default_value = "manual")]
    pub reason: String,
    /// Decides folds, augmentations and fits
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Show how it goes until it ends; a running server does the work
    #[arg(long)]
    pub watch: bool,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// How to run.
#[derive(Debug, Args)]
pub struct Serve {
    /// The parts to run, of http, ingest and worker
    #[arg(long, value_name = "ROLES", default_value = "http,ingest,worker")]
    pub roles: Roles,
    /// The settings
    #[command(flatten)]
    pub settings: Settings,
}

/// Where the settings come from: a file, the environment, these flags; the last has precedence.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// Configuration file (see `configfile`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the API and the page [default: 127.0.0.1:8000]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// sqlite:PATH or postgres://… [default: a SQLite file in the data directory]
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// `embedded`, or mqtt://HOST:PORT of a broker that runs elsewhere [default: embedded]
    #[arg(long, value_name = "BROKER")]
    pub mqtt: Option<BrokerChoice>,
    /// Address of the embedded broker [default: 127.0.0.1:1883]
    #[arg(long, value_name = "IP:PORT")]
    pub mqtt_listen: Option<SocketAddr>,
    /// Directory of the SQLite file and the clips [default: ~/.local/share/ecosight/cloud]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Bundle directory [default: the built-in one]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// The imported YAMNet file [default: where import-yamnet puts it]
    #[arg(long, value_name = "FILE")]
    pub yamnet: Option<PathBuf>,
}

/// A new administrator.
#[derive(Debug, Args)]
pub struct CreateAdmin {
    /// The name to log in with
    pub name: String,
    /// Read the password from standard input instead of making one
    #[arg(long)]
    pub stdin: bool,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// A new key.
#[derive(Debug, Args)]
pub struct CreateApiKey {
    /// What it is for
    pub name: String,
    /// admin, reviewer, ranger, technician or viewer
    #[arg(long, default_value = "viewer")]
    pub role: Role,
    /// Only this site; may be given more than once
    #[arg(long = "site", value_name = "SITE")]
    pub sites: Vec<String>,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// Files for Mosquitto.
#[derive(Debug, Args)]
pub struct MosquittoAcl {
    /// The folder that the files `passwords` and `acl` are written to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The server's own user name at the broker
    #[arg(long, default_value = "ecosight-cloud")]
    pub server_user: String,
    /// File with the server's own password at the broker
    #[arg(long, value_name = "FILE")]
    pub server_password_file: Option<PathBuf>,
    /// Go on, and write them again whenever a station is enrolled or retired
    #[arg(long)]
    pub follow: bool,
    /// Shell command that has Mosquitto read them again, as in "systemctl reload mosquitto"
    #[arg(long, value_name = "COMMAND")]
    pub then: Option<String>,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// csv, geojson, raven, audacity, or clips (a ZIP of WAV with GUANO)
    pub format: ExportFormat,
    /// Only this site
    #[arg(long)]
    pub site: Option<String>,
    /// Only this station
    #[arg(long, value_name = "ID")]
    pub device: Option<Uuid>,
    /// Only this class
    #[arg(long)]
    pub class: Option<String>,
    /// With this score or a higher one, 0 to 1
    #[arg(long, value_name = "SCORE")]
    pub min_score: Option<f64>,
    /// In this state, as in open
    #[arg(long)]
    pub state: Option<String>,
    /// confirmed, rejected or relabelled; none for those that nobody judged
    #[arg(long)]
    pub verdict: Option<String>,
    /// From this time on, RFC 3339
    #[arg(long)]
    pub since: Option<String>,
    /// Before this time, RFC 3339
    #[arg(long)]
    pub until: Option<String>,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// Signed releases.
#[derive(Debug, Args)]
pub struct Releases {
    /// What to do with them
    #[command(subcommand)]
    pub what: ReleasesCommand,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do with releases.
#[derive(Debug, Subcommand)]
pub enum ReleasesCommand {
    /// Take in a release, as `ecosight-models release sign` makes it
    Import {
        /// The release
        file: PathBuf,
    },
    /// List the releases that are here
    List,
}

/// Rollouts.
#[derive(Debug, Args)]
pub struct RolloutsOptions {
    /// What to do with them
    #[command(subcommand)]
    pub what: RolloutsCommand,
    /// Where the server keeps its records
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do with rollouts. Running servers notice within a second.
#[derive(Debug, Subcommand)]
pub enum RolloutsCommand {
    /// List them, newest first
    List,
    /// Start one that was planned
    Start {
        /// Its id
        id: Uuid,
    },
    /// Pause one: no further cohort gets the release
    Pause {
        /// Its id
        id: Uuid,
    },
    /// Let a paused or halted one go on
    Resume {
        /// Its id
        id: Uuid,
    },
    /// Halt one: stations that have not decided stay as they are
    Halt {
        /// Its id
        id: Uuid,
        /// Why
        #[arg(long, default_value = "the operator decided so")]
        reason: String,
    },
    /// Send every station back that took the release
    Rollback {
        /// Its id
        id: Uuid,
        /// Why
        #[arg(long, default_value = "the operator decided so")]
        reason: String,
    },
}

/// What to watch.
#[derive(Debug, Args)]
pub struct WatchOptions {
    /// The broker
    #[arg(long, value_name = "BROKER", default_value = "mqtt://127.0.0.1:1883")]
    pub mqtt: BrokerChoice,
    /// Only this site
    #[arg(long)]
    pub site: Option<String>,
    /// Keep a session under this name: what is sent while nobody watches is shown later
    #[arg(long, value_name = "NAME")]
    pub client_id: Option<String>,
    /// Print each alert as a line of JSON
    #[arg(long)]
    pub json: bool,
}

impl Settings {
    /// The whole configuration, checked.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault found.
    pub fn resolve(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let file = match &self.config {
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    let what = format!("cannot read it: {error}");
                    ConfigError(vec![Fault { place: name.clone(), what }])
                })?;
                Some((name, text))
            }
            None => None,
        };
        let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        let mut config = Config::read(file, environment)?;
        self.apply(&mut config)?;
        let faults = config.validate();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
    }

    fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(listen) = self.listen {
            config.http.listen = listen;
        }
        if let Some(url) = &self.database {
            config
                .set_database(url)
                .map_err(|what| ConfigError(vec![Fault { place: "--database".into(), what }]))?;
        }
        if let Some(broker) = &self.mqtt {
            config.mqtt.broker = broker.clone();
        }
        if let Some(listen) = self.mqtt_listen {
            config.mqtt.listen = listen;
        }
        if let Some(dir) = &self.data_dir {
            config.storage.data_dir = dir.clone();
        }
        config.model.bundle = self.bundle.clone().or_else(|| config.model.bundle.take());
        config.model.yamnet = self.yamnet.clone().or_else(|| config.model.yamnet.take());
        Ok(())
    }
}
