//! What the operator may set: one table of keys drives the TOML file, the environment
//! (`ECOSIGHT__SECTION__KEY`), the commented default file and the list of faults.

mod keys;
mod parse;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ecosight_shared::release::PublicKey;

pub use parse::default_file;

/// Settings of the server, complete: what nobody set has its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[http]`
    pub http: HttpConfig,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[mqtt]`
    pub mqtt: MqttConfig,
    /// `[storage]`
    pub storage: StorageConfig,
    /// `[model]`
    pub model: ModelConfig,
    /// `[learning]`
    pub learning: LearningConfig,
    /// `[releases]`
    pub releases: ReleasesConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[otlp]`
    pub otlp: OtlpConfig,
}

/// How clients reach the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address of the API and the page.
    pub listen: SocketAddr,
    /// Open connections at one time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// A client that has not sent a whole request head by then is cut.
    pub header_timeout: Duration,
    /// A connection without a byte in either direction for this long is cut.
    pub idle_timeout: Duration,
    /// Time for one request, from its head to its answer; uploads of clips have their own rule.
    pub request_timeout: Duration,
    /// Requests a second of one caller; 0 for any number; see [`HttpConfig::requests_a_second`] for
    /// what holds if it is not set.
    pub rate_limit: Option<u32>,
    /// Proxies whose word on where a request came from is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// How long a server that was told to end still takes requests; see [`HttpConfig::grace`] for what
    /// holds if it is not set.
    pub drain_grace: Option<Duration>,
    /// Web origins that may call the API from a browser, `*` for all; none but our own page by default.
    pub cors_origins: Vec<String>,
}

/// Requests a second of one caller where other machines reach the server: a page that shows everything
/// at once asks some dozens of times.
const PUBLIC_RATE: u32 = 100;

/// How long whoever shares requests out may take to see that a server ends: two looks a second apart, and
/// a bit.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

impl HttpConfig {
    /// How long a server that was told to end still takes requests, and says at `/readyz` that it ends;
    /// on the loopback address nobody shares requests out.
    #[must_use]
    pub fn grace(&self) -> Duration {
        let default = if self.listen.ip().is_loopback() { Duration::ZERO } else { DRAIN_GRACE };
        self.drain_grace.unwrap_or(default)
    }

    /// Requests a second of one caller; `None` for any number, as on the loopback address unless a
    /// proxy there speaks for others.
    #[must_use]
    pub fn requests_a_second(&self) -> Option<u32> {
        let private = self.listen.ip().is_loopback() && self.trusted_proxies.is_empty();
        let default = if private { 0 } else { PUBLIC_RATE };
        Some(self.rate_limit.unwrap_or(default)).filter(|rate| *rate > 0)
    }
}

/// Where records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// `sqlite:PATH` or `postgres://…`; empty means `ecosight.db` in the data directory.
    pub url: String,
}

/// How stations reach the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// The broker to use.
    pub broker: BrokerChoice,
    /// Address of the embedded broker.
    pub listen: SocketAddr,
    /// Whether clients of the embedded broker must log in.
    pub require_credentials: bool,
    /// Name of the server's session at the broker. Two servers on one broker need two names.
    pub client_id: String,
    /// Name under which several servers share what stations send; empty for one server.
    pub shared_group: String,
    /// User name for an external broker; empty for none.
    pub username: String,
    /// File that holds the password for it.
    pub password_file: Option<PathBuf>,
    /// Where stations reach the broker, as enrolment tells them; empty for the embedded one's address,
    /// or for nothing with an external one, whose address here may be of an inner network.
    pub stations_url: String,
    /// PEM file of the authority that stations check that broker with; the system's if not set.
    pub stations_ca: Option<PathBuf>,
}

/// Which broker the server uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerChoice {
    /// The one inside this process.
    Embedded,
    /// One that runs elsewhere.
    External {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// Where files are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// Directory of the SQLite file and the clips; empty means the usual place.
    pub data_dir: PathBuf,
    /// Telemetry older than this is deleted.
    pub keep_telemetry: Duration,
    /// Free space on the disk of the data directory below which the server is not ready, MiB; 0 for any.
    pub reserve_mib: u64,
    /// Events that nobody judged are deleted by these; one that no rule is for is kept for ever.
    pub keep_events: Vec<KeepRule>,
}

/// How long events are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRule {
    /// Those of this class; `None` for all that no other rule names.
    pub class: Option<String>,
    /// From their place in lists on.
    pub keep: Duration,
}

/// What the server hears with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Bundle directory; the built-in bundle if not set.
    pub bundle: Option<PathBuf>,
    /// The imported YAMNet file; the usual places if not set.
    pub yamnet: Option<PathBuf>,
    /// Threads that classify; 0 for one per core.
    pub threads: usize,
    /// Files that may wait; more are answered 503.
    pub queue: usize,
    /// A file that would wait longer is answered 503.
    pub max_wait: Duration,
    /// Whether every prediction names AudioSet classes, and not only those that ask for it.
    pub audioset: bool,
}

/// How the server learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearningConfig {
    /// New samples that start a training; 0 for none but those that are asked for.
    pub min_new_samples: u32,
    /// Cron expression (UTC) of trainings that need no new samples in such number; empty for none.
    pub schedule: String,
    /// Percent of a class's samples that one station may make up.
    pub device_share_percent: u32,
    /// Days whose recordings are the recent background that candidates are compared on.
    pub recent_days: u32,
    /// False alarms an hour of background that thresholds are chosen for, one of
    /// [`RATES_PER_HOUR`](ecosight_models::train::judgement::RATES_PER_HOUR); empty for the budget of the
    /// model that serves.
    pub alarms_per_hour: String,
    /// Recordings of shots that the test set must hold for a candidate to take over by itself.
    pub unattended_recordings: u32,
    /// Stations this near to a shot that somebody heard are asked for their sound, metres.
    pub missed_shot_range_m: u32,
    /// A worker that has not renewed its lease of a job for this long is taken for dead.
    pub lease: Duration,
}

impl LearningConfig {
    /// Share of a class's samples that one station may make up.
    #[must_use]
    pub fn device_share(&self) -> f64 {
        f64::from(self.device_share_percent) / 100.0
    }

    /// The budget that was set, false alarms an hour; `None` for that of the model that serves.
    #[must_use]
    pub fn budget(&self) -> Option<f64> {
        self.alarms_per_hour.parse().ok()
    }
}

/// Which signed releases the server hands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleasesConfig {
    /// Public keys; a release signed by none of them is refused.
    pub trusted_keys: Vec<PublicKey>,
}

/// What is written to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter in the form of `RUST_LOG`, which has precedence.
    pub filter: String,
    /// Whether each line is a JSON object.
    pub json: bool,
}

/// Who is told how requests went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Collector of OpenTelemetry that takes OTLP over HTTP; empty for none.
    pub endpoint: String,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was set: `file:line`, the variable's name, or the flag.
    pub place: String,
    /// What is wrong, and what to do.
    pub what: String,
}

/// Everything that is wrong with the configuration, so that one round of editing mends it. The
/// program ends with exit code 2 and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct ConfigError(pub Vec<Fault>);

fn list(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    format!("the configuration has {} fault(s):\n  {}", faults.len(), lines.join("\n  "))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: HttpConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
                max_connections: 1_000,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(30),
                request_timeout: Duration::from_secs(60),
                rate_limit: None,
                trusted_proxies: Vec::new(),
                drain_grace: None,
                cors_origins: Vec::new(),
            },
            database: DatabaseConfig { url: String::new() },
            mqtt: MqttConfig {
                broker: BrokerChoice::Embedded,
                listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
                require_credentials: false,
                client_id: "ecosight-cloud".into(),
                shared_group: String::new(),
                username: String::new(),
                password_file: None,
                stations_url: String::new(),
                stations_ca: None,
            },
            storage: StorageConfig {
                data_dir: PathBuf::new(),
                keep_telemetry: Duration::from_secs(90 * 24 * 3_600),
                reserve_mib: 100,
                keep_events: Vec::new(),
            },
            model: ModelConfig {
                bundle: None,
                yamnet: None,
                threads: 0,
                queue: 256,
                max_wait: Duration::from_millis(1_500),
                audioset: false,
            },
            learning: LearningConfig {
                min_new_samples: 100,
                schedule: String::new(),
                // A station that somebody took over must not teach the fleet.
                device_share_percent: 10,
                recent_days: 14,
                alarms_per_hour: String::new(),
                unattended_recordings: crate::training::gate::ENOUGH_RECORDINGS as u32,
                // A rifle is heard so far in a quiet wood.
                missed_shot_range_m: 5_000,
                lease: Duration::from_secs(60),
            },
            releases: ReleasesConfig::default(),
            log: LogConfig { filter: "info,rumqttd=off,sqlx=warn".into(), json: false },
            otlp: OtlpConfig::default(),
        }
    }
}

impl Config {
    /// Reads the file's text, if any, then the environment's variables over it.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault found.
    pub fn read(
        file: Option<(&str, &str)>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        parse::read(file, environment)
    }

    /// Sets the database, as the key `database.url` does.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn set_database(&mut self, url: &str) -> Result<(), String> {
        self.database.url = keys::database(keys::Written::Text(url.to_owned()))?;
        Ok(())
    }

    /// What is wrong with the values together; each alone was checked when it was read.
    #[must_use]
    pub fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if cfg!(not(feature = "otlp")) && !self.otlp.endpoint.is_empty() {
            faults.push(Fault {
                place: "otlp.endpoint".into(),
                what: "this build sends no spans; build with the feature otlp, or leave it empty"
                    .into(),
            });
        }
        if self.mqtt.broker == BrokerChoice::Embedded {
            if !self.mqtt.listen.ip().is_loopback() && !self.mqtt.require_credentials {
                faults.push(exposed("mqtt.listen", self.mqtt.listen));
            }
            if self.mqtt.listen == self.http.listen && self.mqtt.listen.port() != 0 {
                faults.push(Fault {
                    place: "mqtt.listen".into(),
                    what: format!(
                        "{} is the address of http.listen too; give each its own port",
                        self.mqtt.listen
                    ),
                });
            }
            if cfg!(not(feature = "embedded-broker")) {
                faults.push(Fault {
                    place: "mqtt.broker".into(),
                    what: "this build has no embedded broker; name one, as in \
                           mqtt://127.0.0.1:1883"
                        .into(),
                });
            }
        }
        faults
    }

    /// The directory for the database file and the clips: what is set, else
    /// `$XDG_DATA_HOME/ecosight/cloud`, `~/.local/share/ecosight/cloud`, or
    /// `/var/lib/ecosight/cloud` where there is no home.
    #[must_use]
    pub fn data_dir(&self, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
        if !self.storage.data_dir.as_os_str().is_empty() {
            return self.storage.data_dir.clone();
        }
        let set = |name: &str| variable(name).filter(|value| value.starts_with('/'));
        if let Some(state) = set("STATE_DIRECTORY") {
            return PathBuf::from(state).join("cloud");
        }
        if let Some(data) = set("XDG_DATA_HOME") {
            return PathBuf::from(data).join("ecosight/cloud");
        }
        match set("HOME") {
            Some(home) => PathBuf::from(home).join(".local/share/ecosight/cloud"),
            None => PathBuf::from("/var/lib/ecosight/cloud"),
        }
    }
}

fn exposed(key: &str, address: SocketAddr) -> Fault {
    Fault {
        place: key.into(),
        what: format!(
            "{address} can be reached from other machines, and the embedded broker asks for no \
             passwords: anyone there could read and forge. Set mqtt.require_credentials = true (its \
             passwords then cross the network unencrypted: a trusted network or a VPN only), keep it \
             on 127.0.0.1, or use Mosquitto with TLS (`ecosight-cloud mosquitto-acl` writes its files)"
        ),
    }
}

#[cfg(test)]
mod tests;
