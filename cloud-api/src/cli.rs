//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{BrokerChoice, Config, ConfigError, Fault};

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
    Serve(Settings),
    /// Bring the database's tables up to date, and end
    Migrate(Settings),
    /// Check what the server needs, and say what to do about what is missing
    Doctor(Settings),
    /// Print every setting with its default, as a configuration file
    Configfile,
    /// Show alerts in the terminal, as a ranger's client sees them
    Watch(WatchOptions),
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
