//! `doctor`: can it hear, can it send, will it last?
//!
//! Each check tries the real thing and, if it fails, says what to do. Nothing is changed but
//! that the data directory is made, and a probe file in it, which is removed again.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ecosight_models::{Classifier, LoadError, one_line};
use serde::Serialize;

use crate::config::{Config, SourceKind};
use crate::ear::EarError;
use crate::health::{Health, SYSFS, free_bytes, power};
use crate::source::{self, Begin, Microphone, Read};
use crate::speech::Redaction;
use crate::update::{Place, Store};
use crate::uplink::{Connection, Happening, options};
use crate::{ear, update, upload};
use ecosight_models::durable;
use ecosight_shared::json::{PowerReport, UpdateStep};

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// `pass`, `warn` or `fail`.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Fine.
    Pass,
    /// The station works, but not for long or not well.
    Warn,
    /// The station does not work.
    Fail,
}

/// Longest wait for a broker or server.
const PATIENCE: Duration = Duration::from_secs(8);
/// A window must be classified in this part of its hop, or the station falls behind.
const HOP: Duration = Duration::from_millis(480);
/// Below this the clock was never set: 2024-01-01.
const CLOCK_SET_US: i64 = 1_704_067_200_000_000;

impl Check {
    /// Whether the station can do without anything being done.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    pub(crate) fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Pass, found: found.into(), remedy: None }
    }

    pub(crate) fn warn(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { name, outcome: Outcome::Warn, found: found.into(), remedy }
    }

    pub(crate) fn fail(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { outcome: Outcome::Fail, ..Self::warn(name, found, remedy) }
    }
}

/// Makes all checks.
pub async fn examine(config: &Config) -> Vec<Check> {
    // A configuration with faults never comes here: they are reported with their lines.
    let mut checks = vec![Check::pass("configuration", "every setting is valid")];
    checks.push(data_dir(config));
    checks.push(space(config));
    checks.push(clock());
    checks.extend(feed(Path::new(SYSFS)));
    let (in_use, place) = update::in_use(config);
    match ear::load(&in_use) {
        Ok(classifier) => {
            let bundle = classifier.bundle();
            let choice = classifier.choice();
            let found = match place {
                Place::Factory => choice.to_string(),
                slot => format!("release in slot {}", slot.name()),
            };
            let found = format!("{} {} ({}), {found}", bundle.name, bundle.version, bundle.tag);
            checks.push(Check::pass("model", found));
            checks.push(inference(&classifier));
            checks.push(privacy(config));
        }
        Err(error) => {
            let remedy = match &error {
                EarError::Load(LoadError::Backbone(_)) => {
                    "run `sudo ecosight-agent import-yamnet --download`, or set model.yamnet"
                }
                EarError::Load(_) => "set model.bundle to the directory of a bundle",
                EarError::Class { .. } => "take the class out of model.thresholds",
            };
            checks.push(Check::fail("model", error.to_string(), remedy));
        }
    }
    checks.push(updates(config));
    checks.push(source(config));
    checks.push(broker(config).await);
    checks.push(cloud(config).await);
    checks
}

fn data_dir(config: &Config) -> Check {
    let path = &config.storage.data_dir;
    let probe = path.join("doctor.probe");
    let tried = std::fs::create_dir_all(path)
        .and_then(|()| durable::write_file(&probe, b"probe"))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => Check::pass("data directory", format!("{} is writable", path.display())),
        Err(error) => Check::fail(
            "data directory",
            format!("cannot write in {}: {error}", path.display()),
            "give the directory to this user, or set storage.data_dir",
        ),
    }
}

fn space(config: &Config) -> Check {
    let Some(free) = free_bytes(&config.storage.data_dir) else {
        return Check::warn("disk space", "unknown", "the data directory must exist first");
    };
    let (free_mb, reserve_mb) = (free / 1_000_000, config.storage.reserve.0 / 1_000_000);
    if free < config.storage.reserve.0 {
        return Check::warn(
            "disk space",
            format!("{free_mb} MB free, less than the reserve of {reserve_mb} MB"),
            "alerts still go out, but no clips are kept: make room, or lower storage.reserve",
        );
    }
    Check::pass("disk space", format!("{free_mb} MB free"))
}

fn clock() -> Check {
    let clock = crate::clock::Clock::system();
    let now = crate::clock::rfc3339(clock.unix_us());
    if clock.unix_us() < CLOCK_SET_US {
        return Check::warn(
            "clock",
            format!("{now}: never set"),
            "connect to a network with NTP, or fit a real-time clock: times of events are wrong",
        );
    }
    Check::pass("clock", format!("{now} ({})", clock.quality().name()))
}

/// Runs ten seconds of near silence through the whole path and looks at speed and sense.
fn inference(classifier: &Classifier) -> Check {
    let name = "inference";
    let judged = match ear::near_silence(classifier, 10) {
        Ok(judged) => judged,
        Err(error) => return Check::fail(name, error.to_string(), "import YAMNet again"),
    };
    let sane = |s: &f32| (0.0..=1.0).contains(s);
    if !judged.iter().all(|(_, scores)| scores.classes.iter().all(sane)) {
        return Check::fail(
            name,
            "scores that are no probabilities",
            "the bundle or the imported YAMNet is damaged: import it again",
        );
    }
    let mut times: Vec<Duration> = judged.into_iter().map(|(took, _)| took).collect();
    times.sort();
    let Some(median) = times.get(times.len() / 2) else {
        return Check::fail(name, "no windows came of ten seconds of sound", "this is a defect");
    };
    let found = format!("{:.1} ms a window", median.as_secs_f64() * 1e3);
    if *median > HOP / 2 {
        return Check::warn(
            name,
            found,
            "a window comes every 480 ms: the station will fall behind under load",
        );
    }
    Check::pass(name, found)
}

fn privacy(config: &Config) -> Check {
    let name = "privacy";
    match ear::redaction(&config.privacy) {
        Redaction::On(_) => Check::pass(name, "speech is taken out of recordings"),
        Redaction::Off => Check::warn(
            name,
            "speech stays in recordings",
            "this was configured: check that it is lawful here, or remove privacy.redact_speech",
        ),
    }
}

/// Whether releases are taken, what lies in the slots, and how the newest one went.
fn updates(config: &Config) -> Check {
    let name = "updates";
    if !config.update.enabled {
        return Check::pass(name, "off: no release is taken, and none that was installed runs");
    }
    let saved = match Store::of(&config.storage.data_dir).read() {
        Ok(saved) => saved,
        Err(error) => {
            return Check::warn(name, error.to_string(), "the factory model runs until then");
        }
    };
    let slot = |place: Place| {
        let installed = saved.installed(place)?;
        let release = &installed.release;
        let (name, version, counter) = (&release.name, &release.version, release.counter);
        let runs = if saved.active == place { ", runs" } else { "" };
        Some(format!("slot {}: {name} {version}, counter {counter}{runs}", place.name()))
    };
    let slots: Vec<String> = [Place::A, Place::B].into_iter().filter_map(slot).collect();
    let keys = match config.update.trusted_keys.len() {
        0 => "every release is refused: update.trusted_keys names no key".to_owned(),
        1 => "releases of one key are taken".to_owned(),
        count => format!("releases of {count} keys are taken"),
    };
    let found = [&[keys][..], &slots[..]].concat().join("; ");
    let last = saved.word.filter(|word| word.step == UpdateStep::RolledBack);
    match last.and_then(|word| Some((word.release, word.fault?.1))) {
        Some((release, reason)) => {
            Check::warn(name, found, format!("{release} was rolled back: {reason}"))
        }
        None => Check::pass(name, found),
    }
}

/// How the machine is fed; nothing where its kernel tells nothing of it.
fn feed(sysfs: &Path) -> Option<Check> {
    let PowerReport { limits, limits_since_boot, supply_v } = power(sysfs)?;
    let volts = supply_v.map_or_else(String::new, |volts| format!(", {volts:.2} V"));
    let worst = if limits.is_empty() { &limits_since_boot } else { &limits };
    if worst.is_empty() {
        return Some(Check::pass("power", format!("nothing holds the processor back{volts}")));
    }
    let since = if limits.is_empty() { " since it started" } else { "" };
    Some(Check::warn(
        "power",
        format!("{}{since}{volts}", worst.join(", ")),
        "a stronger supply or a shorter, thicker cable; shade and air for the box",
    ))
}

fn source(config: &Config) -> Check {
    let name = "sound source";
    if config.source.kind == SourceKind::Microphone {
        return match Microphone::probe(&config.source) {
            Ok(found) => Check::pass(name, format!("microphone opens: {found}")),
            Err(problem) => Check::fail(
                name,
                problem,
                "plug a microphone in, set source.device, or set source.kind to another source",
            ),
        };
    }
    if config.source.kind == SourceKind::Stdin {
        return Check::pass(name, "standard input, which is not read now");
    }
    let health = std::sync::Arc::new(Health::default());
    let speed = crate::config::Speed::Maximum;
    let fast = crate::config::Source { speed, ..config.source.clone() };
    let mut sound = Vec::new();
    let outcome = source::open(&fast, Begin::default(), &health).and_then(|mut source| {
        for _ in 0..100 {
            if source.read(&mut sound)? == Read::Sound {
                break;
            }
        }
        Ok(())
    });
    match outcome {
        Ok(()) if sound.is_empty() => {
            Check::fail(name, "opens, but no sound comes", "look at source.path")
        }
        Ok(()) => Check::pass(name, "opens, and sound comes"),
        Err(error) => Check::fail(name, one_line(&error), "look at source.kind and source.path"),
    }
}

async fn broker(config: &Config) -> Check {
    let name = "broker";
    let url = &config.mqtt.url;
    // Another client id than the station's: the broker would throw the running agent out.
    let client_id = format!("ecosight-doctor-{}", std::process::id());
    let options = match options(&config.mqtt, &client_id, "", None) {
        Ok(mut options) => {
            options.set_keep_alive(5);
            options
        }
        Err(error) => return Check::fail(name, error.to_string(), "look at the section [mqtt]"),
    };
    let mut connection = Connection::open(options);
    match tokio::time::timeout(PATIENCE, connection.next()).await {
        Ok(Happening::Connected { .. }) => {
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
            Check::pass(name, format!("{url} accepts this station"))
        }
        Ok(Happening::Lost(problem)) => Check::fail(
            name,
            format!("{url}: {problem}"),
            "is the broker running, is mqtt.url right, are user and certificates accepted?",
        ),
        Ok(Happening::Receipt(_) | Happening::Command(_) | Happening::Desired(_)) => {
            Check::pass(name, format!("{url} answers"))
        }
        Err(_) => Check::fail(
            name,
            format!("{url}: no answer in {} s", PATIENCE.as_secs()),
            "is there a network, and does a firewall let the port through?",
        ),
    }
}

async fn cloud(config: &Config) -> Check {
    let name = "cloud";
    let Some(url) = &config.cloud.url else {
        return Check::warn(name, "not set", "clips stay on the station: set cloud.url");
    };
    let client = match upload::client(&config.cloud) {
        Ok(client) => client,
        Err(error) => return Check::fail(name, error.to_string(), "look at the section [cloud]"),
    };
    let health = format!("{}/health", url.trim_end_matches('/'));
    match client.get(&health).timeout(PATIENCE).send().await {
        Ok(answer) if answer.status().is_success() => Check::pass(name, format!("{url} answers")),
        Ok(answer) => Check::fail(
            name,
            format!("{health}: {}", answer.status()),
            "is cloud.url the address of an EcoSight server?",
        ),
        Err(error) => Check::fail(
            name,
            format!("{health}: {}", upload::describe(&error)),
            "is the server running, and is cloud.url right?",
        ),
    }
}

/// All checks as text, or as one JSON object a line.
#[must_use]
pub fn report(checks: &[Check], json: bool) -> String {
    let mut text = String::new();
    for check in checks {
        if json {
            if let Ok(line) = serde_json::to_string(check) {
                text.push_str(&line);
                text.push('\n');
            }
            continue;
        }
        let mark = match check.outcome {
            Outcome::Pass => "pass",
            Outcome::Warn => "WARN",
            Outcome::Fail => "FAIL",
        };
        let _ = writeln!(text, "{mark}  {:<15} {}", check.name, check.found);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      {:<15} → {remedy}", "");
        }
    }
    text
}
