//! What the operator may set, its defaults, and what cannot be.

mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecosight_shared::json::Location;
use ecosight_shared::release::PublicKey;
use ecosight_shared::{DeviceId, Slug};

pub use reader::{Bytes, ConfigError, ENVIRONMENT_PREFIX, Fault, duration};
use reader::{Reader, choices};

/// Where the configuration lies if nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/ecosight/agent.toml";

/// In the data directory: the settings that enrolment wrote.
pub const ENROLMENT_FILE: &str = "enrolment.toml";

/// Every setting with its default, commented; equal to [`Config::default`] when read.
pub const EXAMPLE: &str = include_str!("../../agent.toml");

/// The current key and the next.
const TRUSTED_KEYS_MAX: usize = 2;

/// The whole configuration of a station.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Who and where this station is.
    pub station: Station,
    /// Where sound comes from.
    pub source: Source,
    /// What listens.
    pub model: Model,
    /// When it raises an event.
    pub detector: Detector,
    /// What is done about people's speech.
    pub privacy: Privacy,
    /// How much sound is kept around an event.
    pub clip: Clip,
    /// Which models may be installed from afar.
    pub update: Update,
    /// The broker.
    pub mqtt: Mqtt,
    /// The server that takes clips.
    pub cloud: Cloud,
    /// What brings alerts when the internet does not.
    pub bearer: Bearer,
    /// The disk.
    pub storage: Storage,
    /// The last day of sound.
    pub ring: Ring,
    /// Proof that a shot would come through.
    pub canary: Canary,
    /// The station's own page.
    pub page: Page,
    /// Reports on the station itself.
    pub telemetry: Telemetry,
    /// Messages for the operator.
    pub log: Log,
}

/// Who and where this station is.
#[derive(Clone, Debug, PartialEq)]
pub struct Station {
    /// Its id; `None`: made at the first start and kept in the data directory.
    pub id: Option<DeviceId>,
    /// Its name for people.
    pub name: Slug,
    /// The site it belongs to; part of every topic.
    pub site: Slug,
    /// Where it stands.
    pub location: Option<Location>,
}

/// Where sound comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// What kind of source.
    pub kind: SourceKind,
    /// File or directory, for those kinds.
    pub path: Option<PathBuf>,
    /// Microphone by name, `None`: the system's default.
    pub device: Option<String>,
    /// Samples per second of the microphone (`None`: what it prefers) or of standard input
    /// (`None`: 16000).
    pub rate: Option<u32>,
    /// Channels of the same.
    pub channels: Option<u32>,
    /// Seed of a scene.
    pub seed: u64,
    /// Length of a scene; `None`: it goes on for ever.
    pub duration: Option<Duration>,
    /// Gunshots of a scene in an hour, on average; `None`: the synthesiser's default.
    pub shots_per_hour: Option<f32>,
    /// When a scene's first gunshot is heard; `None`: by chance.
    pub first_shot: Option<Duration>,
    /// Pace of a replay.
    pub speed: Speed,
    /// Whether a replay starts again at its end.
    pub repeat: bool,
    /// Whether a replay goes on where the last run stopped.
    pub resume: bool,
    /// Time of a replay's first sample; `None`: sound counts as heard when it is processed.
    pub start_time: Option<jiff::Timestamp>,
    /// What to do when a source has ended and everything is delivered.
    pub at_end: AtEnd,
}

/// What kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A sound card.
    Microphone,
    /// One recording.
    File,
    /// All recordings below a directory, sorted by path.
    Directory,
    /// Raw signed 16-bit little-endian samples on standard input.
    Stdin,
    /// The scene synthesiser.
    Scene,
}

/// Pace of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// One second of sound a second.
    RealTime,
    /// As fast as it can be classified.
    Maximum,
}

/// What to do when a source has ended and everything is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// Exit with code 0.
    Exit,
    /// Stay connected.
    Stay,
}

/// What listens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Directory of a bundle; `None`: the one built in.
    pub bundle: Option<PathBuf>,
    /// The imported YAMNet; `None`: the usual places.
    pub yamnet: Option<PathBuf>,
    /// Thresholds in place of the bundle's, by class.
    pub thresholds: BTreeMap<String, f32>,
}

/// Which models may be installed from afar.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Whether any may, and whether one that was installed runs.
    pub enabled: bool,
    /// Whoever has the secret of one of these may sign models for this station.
    pub trusted_keys: Vec<PublicKey>,
    /// Shortest trial beside the model in use, whatever is asked for.
    pub min_trial: Duration,
}

/// When it raises an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detector {
    /// False alarms a week that are bearable; `None`: the bundle's thresholds hold.
    pub budget_per_week: Option<f64>,
}

/// What is done about people's speech.
#[derive(Clone, Debug, PartialEq)]
pub struct Privacy {
    /// Whether it is taken out of every recording before it is written.
    pub redact_speech: bool,
    /// How much more before and after it.
    pub margin: Duration,
}

/// How much sound is kept around an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Before the onset.
    pub before: Duration,
    /// After the end.
    pub after: Duration,
    /// At most in all.
    pub longest: Duration,
}

/// The broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// `mqtt://host[:port]`, or `mqtts://` for TLS.
    pub url: String,
    /// PEM file of the authority that signed the broker's certificate; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of this station's certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Longest silence on the connection.
    pub keep_alive: Duration,
    /// Longest pause between two attempts to connect.
    pub reconnect_max: Duration,
    /// How long a record may stay without receipt before it is sent again.
    pub resend_after: Duration,
}

/// The server that takes clips.
#[derive(Clone, Debug, PartialEq)]
pub struct Cloud {
    /// Base address; `None`: clips stay on the station.
    pub url: Option<String>,
    /// PEM file of the authority that signed the server's certificate; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// User name by which the server knows this station.
    pub username: Option<String>,
    /// File that holds its password.
    pub password_file: Option<PathBuf>,
    /// File that holds a token instead.
    pub token_file: Option<PathBuf>,
    /// Most bytes of clips a day, UTC; `None`: as many as there are.
    pub max_per_day: Option<Bytes>,
    /// Longest pause between two attempts to upload a clip.
    pub retry_max: Duration,
}

/// What brings alerts when the internet does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Bearer {
    /// Executable that sends its last argument; `None`: there is none.
    pub command: Option<PathBuf>,
    /// How the frame is written.
    pub encoding: Encoding,
    /// How long an alert waits for the cloud's receipt before.
    pub after: Duration,
    /// How long the executable may take.
    pub timeout: Duration,
    /// Most alerts a day, UTC.
    pub per_day: u32,
}

/// How a frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 4648, with padding: 68 characters at most.
    Base64,
    /// Lower case: 102 characters at most.
    Hex,
}

/// The last day of sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Ring {
    /// How long sound is kept; zero: not at all.
    pub keep: Duration,
    /// Most that it may take.
    pub max: Bytes,
    /// Where; `None`: in the data directory.
    pub dir: Option<PathBuf>,
}

/// Proof that a shot would come through.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Time between two; zero: none.
    pub every: Duration,
    /// Time from the start to the first.
    pub first: Duration,
}

/// The station's own page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Address and port; `None`: none.
    pub listen: Option<std::net::SocketAddr>,
}

/// The disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Everything the station keeps.
    pub data_dir: PathBuf,
    /// Free space below which no clip is written.
    pub reserve: Bytes,
    /// Most that clips may take together.
    pub max_clips: Bytes,
    /// Most records that wait for a receipt.
    pub max_records: u64,
}

/// Reports on the station itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Time between two.
    pub interval: Duration,
}

/// Messages for the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least important level shown, or a filter such as `info,ecosight_agent::uplink=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// The newest lines are also kept in the data directory, up to this size; 0: none.
    pub keep: Bytes,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

choices!(SourceKind {
    "mic" => Self::Microphone,
    "file" => Self::File,
    "dir" => Self::Directory,
    "stdin" => Self::Stdin,
    "scene" => Self::Scene,
});
choices!(Speed { "realtime" => Self::RealTime, "max" => Self::Maximum });
choices!(AtEnd { "exit" => Self::Exit, "stay" => Self::Stay });
choices!(Encoding { "base64" => Self::Base64, "hex" => Self::Hex });
choices!(LogFormat { "text" => Self::Text, "json" => Self::Json });

impl Default for Station {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "two literals, proved by the test of the defaults")]
        let slug = |text: &str| text.parse().expect("a literal name");
        Self { id: None, name: slug("station"), site: slug("default"), location: None }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self {
            kind: SourceKind::Microphone,
            path: None,
            device: None,
            rate: None,
            channels: None,
            seed: 1,
            duration: None,
            shots_per_hour: None,
            first_shot: None,
            speed: Speed::RealTime,
            repeat: false,
            resume: true,
            start_time: None,
            at_end: AtEnd::Exit,
        }
    }
}

impl Default for Update {
    fn default() -> Self {
        Self { enabled: true, trusted_keys: Vec::new(), min_trial: Duration::from_secs(600) }
    }
}

impl Default for Privacy {
    fn default() -> Self {
        Self { redact_speech: true, margin: Duration::from_secs(2) }
    }
}

impl Default for Clip {
    fn default() -> Self {
        Self {
            before: Duration::from_secs(5),
            after: Duration::from_secs(5),
            longest: Duration::from_secs(30),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".to_owned(),
            ca: None,
            cert: None,
            key: None,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            reconnect_max: Duration::from_secs(300),
            resend_after: Duration::from_secs(10),
        }
    }
}

impl Default for Cloud {
    fn default() -> Self {
        let url = Some("http://127.0.0.1:8000".to_owned());
        let retry_max = Duration::from_secs(60);
        Self {
            url,
            ca: None,
            username: None,
            password_file: None,
            token_file: None,
            max_per_day: None,
            retry_max,
        }
    }
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            command: None,
            encoding: Encoding::Base64,
            after: Duration::from_secs(60),
            timeout: Duration::from_secs(120),
            per_day: 20,
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self { keep: Duration::from_secs(24 * 3_600), max: Bytes(2_000_000_000), dir: None }
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self { every: Duration::from_secs(24 * 3_600), first: Duration::from_secs(600) }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 8090))) }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/ecosight"),
            reserve: Bytes(200_000_000),
            max_clips: Bytes(1_000_000_000),
            max_records: 100_000,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, keep: Bytes(1_000_000) }
    }
}

impl Config {
    /// Reads the file at `path`, or [`DEFAULT_PATH`] if it exists, what [`ENROLMENT_FILE`] in the data
    /// directory adds to it, and the overrides of the process's environment.
    ///
    /// # Errors
    /// Every fault at once; an unreadable file that was asked for is one of them.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Written::read(path)?.config()
    }

    /// Reads a TOML text, named for faults, and overrides.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn parse(
        file: Option<(&Path, &str)>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::default();
        if let Some((name, text)) = file {
            reader.add_file(name, text);
        }
        reader.add_environment(environment);
        Self::take(reader)
    }

    fn take(mut reader: Reader) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.station.take(&mut reader);
        config.source.take(&mut reader);
        config.model.take(&mut reader);
        config.update.take(&mut reader);
        config.detector.take(&mut reader);
        config.privacy.take(&mut reader);
        config.clip.take(&mut reader);
        config.mqtt.take(&mut reader);
        config.cloud.take(&mut reader);
        config.bearer.take(&mut reader);
        config.storage.take(&mut reader);
        config.ring.take(&mut reader);
        config.canary.take(&mut reader);
        config.page.take(&mut reader);
        config.telemetry.take(&mut reader);
        config.log.take(&mut reader);
        reader.finish()?;
        Ok(config)
    }
}

/// What the settings were read from.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The operator's file.
    file: Option<(PathBuf, String)>,
    /// What enrolment wrote.
    enrolment: Option<(PathBuf, String)>,
    environment: Vec<(String, String)>,
}

impl Written {
    /// Reads the files and the process's environment, but does not judge them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let path = path.or_else(|| default.exists().then_some(default));
        let file = path.map(|path| Ok((path.to_owned(), read_text(path)?))).transpose()?;
        let environment: Vec<(String, String)> =
            std::env::vars().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        let mut written = Self { file, enrolment: None, environment };
        // Where enrolment lies, the rest says. Faults of the rest are told later.
        let mut data_dir = Storage::default().data_dir;
        written.reader().take("storage.data_dir", &mut data_dir);
        let enrolment = data_dir.join(ENROLMENT_FILE);
        if enrolment.is_file() {
            written.enrolment = Some((enrolment.clone(), read_text(&enrolment)?));
        }
        Ok(written)
    }

    /// The configuration that they make.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::take(self.reader())
    }

    /// Every setting that was written, as a line of text, without secrets.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.reader().lines()
    }

    fn reader(&self) -> Reader {
        let mut reader = Reader::default();
        if let Some((path, text)) = &self.enrolment {
            reader.add_file(path, text);
        }
        if let Some((path, text)) = &self.file {
            let mut operators = Reader::default();
            operators.add_file(path, text);
            // `configfile` and the package write every default down, and whoever leaves such a line
            // alone has not decided against what the server gave.
            let mut defaults = Reader::default();
            defaults.add_file(Path::new(""), EXAMPLE);
            reader.add_over(operators, &defaults);
        }
        reader.add_environment(self.environment.iter().cloned());
        reader
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let place = Some(path.display().to_string());
        let problem = format!("cannot read the configuration: {error}");
        ConfigError { faults: vec![Fault { place, key: String::new(), problem }] }
    })
}

impl Station {
    fn take(&mut self, r: &mut Reader) {
        r.take("station.id", &mut self.id);
        r.take("station.name", &mut self.name);
        r.take("station.site", &mut self.site);
        let (mut lat, mut lon, mut uncertainty_m) = (None::<f64>, None::<f64>, None::<f32>);
        r.take("station.location.lat", &mut lat);
        r.take("station.location.lon", &mut lon);
        r.take("station.location.uncertainty_m", &mut uncertainty_m);
        if lat.is_some_and(|lat| !(-90.0..=90.0).contains(&lat)) {
            r.fault("station.location.lat", "expected degrees from -90 to 90");
        }
        if lon.is_some_and(|lon| !(-180.0..=180.0).contains(&lon)) {
            r.fault("station.location.lon", "expected degrees from -180 to 180");
        }
        self.location = match (lat, lon) {
            (Some(lat), Some(lon)) => Some(Location { lat, lon, uncertainty_m }),
            (None, None) => None,
            (Some(_), None) => {
                r.fault("station.location.lat", "a latitude needs a longitude: add `lon`");
                None
            }
            (None, Some(_)) => {
                r.fault("station.location.lon", "a longitude needs a latitude: add `lat`");
                None
            }
        };
    }
}

impl Source {
    fn take(&mut self, r: &mut Reader) {
        r.take("source.kind", &mut self.kind);
        r.take("source.path", &mut self.path);
        r.take("source.device", &mut self.device);
        r.take("source.rate", &mut self.rate);
        r.take("source.channels", &mut self.channels);
        r.take("source.seed", &mut self.seed);
        r.take("source.duration", &mut self.duration);
        r.take("source.shots_per_hour", &mut self.shots_per_hour);
        r.take("source.first_shot", &mut self.first_shot);
        r.take("source.speed", &mut self.speed);
        r.take("source.loop", &mut self.repeat);
        r.take("source.resume", &mut self.resume);
        r.take("source.start_time", &mut self.start_time);
        r.take("source.at_end", &mut self.at_end);
        self.validate(r);
    }

    fn validate(&self, r: &mut Reader) {
        let needs_path = matches!(self.kind, SourceKind::File | SourceKind::Directory);
        if needs_path && self.path.is_none() {
            r.fault("source.path", "this kind of source needs the path of the recordings");
        }
        if self.rate.is_some_and(|rate| !(8_000..=384_000).contains(&rate)) {
            r.fault("source.rate", "expected 8000 to 384000 samples per second");
        }
        if self.channels.is_some_and(|channels| !(1..=32).contains(&channels)) {
            r.fault("source.channels", "expected 1 to 32");
        }
        let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
        if self.duration.is_some_and(|duration| !range.contains(&duration)) {
            r.fault("source.duration", "expected \"1s\" to \"1d\"");
        }
        if self.shots_per_hour.is_some_and(|shots| !(0.0..=3_600.0).contains(&shots)) {
            r.fault("source.shots_per_hour", "expected 0 to 3600");
        }
    }

    /// Whether the same sound can be had again after a restart, without making all of it that
    /// came before, as an endless scene needs.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        match self.kind {
            SourceKind::File | SourceKind::Directory => true,
            SourceKind::Scene => self.duration.is_some(),
            SourceKind::Microphone | SourceKind::Stdin => false,
        }
    }
}

impl Model {
    fn take(&mut self, r: &mut Reader) {
        r.take("model.bundle", &mut self.bundle);
        r.take("model.yamnet", &mut self.yamnet);
        r.take_map("model.thresholds.", &mut self.thresholds);
        for (class, threshold) in &self.thresholds {
            if !(0.0..=1.0).contains(threshold) {
                r.fault(&format!("model.thresholds.{class}"), "expected a score from 0 to 1");
            }
        }
    }
}

impl Update {
    fn take(&mut self, r: &mut Reader) {
        r.take("update.enabled", &mut self.enabled);
        r.take("update.trusted_keys", &mut self.trusted_keys);
        r.take("update.min_trial", &mut self.min_trial);
        if self.trusted_keys.len() > TRUSTED_KEYS_MAX {
            r.fault("update.trusted_keys", "expected at most two: the current key and the next");
        }
        if self.min_trial > Duration::from_secs(7 * 86_400) {
            r.fault("update.min_trial", "expected at most \"7d\"");
        }
    }
}

impl Detector {
    fn take(&mut self, r: &mut Reader) {
        r.take("detector.budget_per_week", &mut self.budget_per_week);
        if self.budget_per_week.is_some_and(|budget| !(0.01..=10_000.0).contains(&budget)) {
            r.fault("detector.budget_per_week", "expected false alarms a week, 0.01 to 10000");
        }
    }
}

impl Privacy {
    fn take(&mut self, r: &mut Reader) {
        r.take("privacy.redact_speech", &mut self.redact_speech);
        r.take("privacy.margin", &mut self.margin);
        if self.margin > Duration::from_secs(30) {
            r.fault("privacy.margin", "expected at most \"30s\": clips wait for it");
        }
    }
}

impl Clip {
    fn take(&mut self, r: &mut Reader) {
        r.take("clip.before", &mut self.before);
        r.take("clip.after", &mut self.after);
        r.take("clip.longest", &mut self.longest);
        if self.longest > Duration::from_secs(120) {
            r.fault("clip.longest", "expected at most \"120s\": the sound is kept in memory");
        } else if self.before + self.after > self.longest {
            r.fault("clip.longest", "shorter than `before` and `after` together");
        }
    }
}

impl Mqtt {
    fn take(&mut self, r: &mut Reader) {
        r.take("mqtt.url", &mut self.url);
        r.take("mqtt.ca", &mut self.ca);
        r.take("mqtt.cert", &mut self.cert);
        r.take("mqtt.key", &mut self.key);
        r.take("mqtt.username", &mut self.username);
        r.take("mqtt.password_file", &mut self.password_file);
        r.take("mqtt.keep_alive", &mut self.keep_alive);
        r.take("mqtt.reconnect_max", &mut self.reconnect_max);
        r.take("mqtt.resend_after", &mut self.resend_after);
        self.validate(r);
    }

    fn validate(&self, r: &mut Reader) {
        if let Err(problem) = self.broker() {
            r.fault("mqtt.url", problem);
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => r.fault("mqtt.cert", "a certificate needs its key: set `key`"),
            (None, Some(_)) => r.fault("mqtt.key", "a key needs its certificate: set `cert`"),
            _ => {}
        }
        for (key, path) in [
            ("mqtt.ca", &self.ca),
            ("mqtt.cert", &self.cert),
            ("mqtt.key", &self.key),
            ("mqtt.password_file", &self.password_file),
        ] {
            file_exists(r, key, path.as_deref());
        }
        if self.password_file.is_some() && self.username.is_none() {
            r.fault("mqtt.password_file", "a password needs a user name: set `username`");
        }
        if !(1..=3_600).contains(&self.keep_alive.as_secs()) {
            r.fault("mqtt.keep_alive", "expected \"1s\" to \"1h\"");
        }
        if self.reconnect_max < Duration::from_secs(1) {
            r.fault("mqtt.reconnect_max", "expected at least \"1s\"");
        }
        if self.resend_after < Duration::from_millis(100) {
            r.fault("mqtt.resend_after", "expected at least \"100ms\"");
        }
    }

    /// The broker's address.
    ///
    /// # Errors
    /// A text that says what is wrong with `url`.
    pub fn broker(&self) -> Result<BrokerAddress, String> {
        let example = "expected mqtt://host[:port] or mqtts://host[:port]";
        let (scheme, rest) = self.url.split_once("://").ok_or(example)?;
        let (tls, default_port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            other => return Err(format!("{example}, found scheme \"{other}\"")),
        };
        if rest.contains('@') {
            return Err("set `username` and `password_file` instead of a user in the URL".into());
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            // Colons inside the brackets belong to an IPv6 address.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
            _ => (authority, Some(default_port)),
        };
        let port = port.filter(|port| *port != 0).ok_or("expected a port from 1 to 65535")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
            return Err(format!("{example}, found \"{}\"", self.url));
        }
        Ok(BrokerAddress { host: host.to_owned(), port, tls })
    }
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub tls: bool,
}

impl Cloud {
    fn take(&mut self, r: &mut Reader) {
        r.take("cloud.url", &mut self.url);
        r.take("cloud.ca", &mut self.ca);
        r.take("cloud.username", &mut self.username);
        r.take("cloud.password_file", &mut self.password_file);
        r.take("cloud.token_file", &mut self.token_file);
        r.take("cloud.max_per_day", &mut self.max_per_day);
        r.take("cloud.retry_max", &mut self.retry_max);
        file_exists(r, "cloud.ca", self.ca.as_deref());
        file_exists(r, "cloud.password_file", self.password_file.as_deref());
        file_exists(r, "cloud.token_file", self.token_file.as_deref());
        if self.password_file.is_some() != self.username.is_some() {
            r.fault("cloud.username", "a user name and its `password_file` belong together");
        }
        if self.token_file.is_some() && self.username.is_some() {
            r.fault("cloud.token_file", "set a token or a user name, not both");
        }
        let url = self.url.as_deref().map(reqwest::Url::parse);
        match url {
            Some(Err(error)) => r.fault("cloud.url", format!("not a URL: {error}")),
            Some(Ok(url)) if !matches!(url.scheme(), "http" | "https") => {
                r.fault("cloud.url", "expected http://host[:port] or https://host[:port]");
            }
            _ => {}
        }
    }
}

impl Bearer {
    fn take(&mut self, r: &mut Reader) {
        r.take("bearer.command", &mut self.command);
        r.take("bearer.encoding", &mut self.encoding);
        r.take("bearer.after", &mut self.after);
        r.take("bearer.timeout", &mut self.timeout);
        r.take("bearer.per_day", &mut self.per_day);
        file_exists(r, "bearer.command", self.command.as_deref());
        if self.after < Duration::from_millis(100) {
            r.fault("bearer.after", "expected at least \"100ms\"");
        }
        if !(1..=3_600).contains(&self.timeout.as_secs()) {
            r.fault("bearer.timeout", "expected \"1s\" to \"1h\"");
        }
    }
}

impl Ring {
    fn take(&mut self, r: &mut Reader) {
        r.take("ring.keep", &mut self.keep);
        r.take("ring.max", &mut self.max);
        r.take("ring.dir", &mut self.dir);
        if self.keep > Duration::from_secs(30 * 86_400) {
            r.fault("ring.keep", "expected at most \"30d\"");
        }
    }
}

impl Canary {
    fn take(&mut self, r: &mut Reader) {
        r.take("canary.every", &mut self.every);
        r.take("canary.first", &mut self.first);
        if !self.every.is_zero() && self.every < Duration::from_secs(20) {
            r.fault("canary.every", "expected \"20s\" or more, or \"0s\" for none");
        }
    }
}

impl Page {
    fn take(&mut self, r: &mut Reader) {
        r.take("page.listen", &mut self.listen);
    }
}

impl Storage {
    fn take(&mut self, r: &mut Reader) {
        r.take("storage.data_dir", &mut self.data_dir);
        r.take("storage.reserve", &mut self.reserve);
        r.take("storage.max_clips", &mut self.max_clips);
        r.take("storage.max_records", &mut self.max_records);
        if self.max_records < 100 {
            r.fault("storage.max_records", "expected at least 100");
        }
    }
}

impl Telemetry {
    fn take(&mut self, r: &mut Reader) {
        r.take("telemetry.interval", &mut self.interval);
        if self.interval < Duration::from_secs(1) {
            r.fault("telemetry.interval", "expected at least \"1s\"");
        }
    }
}

impl Log {
    fn take(&mut self, r: &mut Reader) {
        r.take("log.level", &mut self.level);
        r.take("log.format", &mut self.format);
        r.take("log.keep", &mut self.keep);
        if let Err(error) = self.level.parse::<tracing_subscriber::EnvFilter>() {
            r.fault("log.level", format!("not a log filter: {error}"));
        }
    }
}

fn file_exists(r: &mut Reader, key: &str, path: Option<&Path>) {
    if let Some(path) = path
        && !path.is_file()
    {
        r.fault(key, format!("there is no file {}", path.display()));
    }
}
