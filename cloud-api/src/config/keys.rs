//! The table of keys.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ecosight_models::train::judgement::RATES_PER_HOUR;
use ecosight_shared::release::PublicKey;

use super::{BrokerChoice, Config, KeepRule};

/// A value as it was written, from TOML or from a variable.
pub(super) enum Written {
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<String>),
}

type Set = fn(&mut Config, Written) -> Result<(), String>;

/// One setting.
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) set: Set,
    /// The value as TOML; `None` if it is not set at all.
    pub(super) get: fn(&Config) -> Option<String>,
}

/// Every setting, in the order of the default file.
pub(super) const KEYS: &[Key] = &[
    Key {
        section: "http",
        name: "listen",
        doc: "Address of the API and the page.",
        set: |c, v| address(v).map(|v| c.http.listen = v),
        get: |c| Some(quoted(&c.http.listen.to_string())),
    },
    Key {
        section: "http",
        name: "max_connections",
        doc: "Open connections at one time.",
        set: |c, v| count(&v, 1, 100_000).map(|v| c.http.max_connections = v),
        get: |c| Some(c.http.max_connections.to_string()),
    },
    Key {
        section: "http",
        name: "header_timeout",
        doc: "A client that has not sent a whole request head by then is cut.",
        set: |c, v| span(v).map(|v| c.http.header_timeout = v),
        get: |c| Some(quoted(&spelled(c.http.header_timeout))),
    },
    Key {
        section: "http",
        name: "idle_timeout",
        doc: "A connection without a byte in either direction for this long is cut.",
        set: |c, v| span(v).map(|v| c.http.idle_timeout = v),
        get: |c| Some(quoted(&spelled(c.http.idle_timeout))),
    },
    Key {
        section: "http",
        name: "request_timeout",
        doc: "Time for one request; uploads of clips may take longer.",
        set: |c, v| span(v).map(|v| c.http.request_timeout = v),
        get: |c| Some(quoted(&spelled(c.http.request_timeout))),
    },
    Key {
        section: "http",
        name: "rate_limit",
        doc: "Requests a second of one user, key, station or address; 0 for any number. If not set, 100 where other machines or trusted proxies reach the server, else any number.",
        set: |c, v| count(&v, 0, 1_000_000).map(|v| c.http.rate_limit = Some(v as u32)),
        get: |c| c.http.rate_limit.map(|rate| rate.to_string()),
    },
    Key {
        section: "http",
        name: "trusted_proxies",
        doc: "Addresses of proxies whose X-Forwarded-For says where a request came from, as in [\"10.0.0.2\"].",
        set: |c, v| addresses(v).map(|v| c.http.trusted_proxies = v),
        get: |c| {
            let proxies = c.http.trusted_proxies.iter().map(ToString::to_string);
            Some(listed(&proxies.collect::<Vec<_>>()))
        },
    },
    Key {
        section: "http",
        name: "drain_grace",
        doc: "How long a server that was told to end still takes requests while /readyz says that it ends, as in \"5s\" or \"0s\". If not set, 3s where other machines reach it, else none.",
        set: |c, v| grace(v).map(|v| c.http.drain_grace = Some(v)),
        get: |c| c.http.drain_grace.map(|grace| quoted(&spelled(grace))),
    },
    Key {
        section: "http",
        name: "cors_origins",
        doc: "Web origins that may call the API from a browser, as in [\"https://map.example\"]; \"*\" for all.",
        set: |c, v| origins(v).map(|v| c.http.cors_origins = v),
        get: |c| Some(listed(&c.http.cors_origins)),
    },
    Key {
        section: "database",
        name: "url",
        doc: "sqlite:PATH or postgres://USER@HOST/NAME; empty for ecosight.db in the data directory.",
        set: |c, v| database(v).map(|v| c.database.url = v),
        get: |c| Some(quoted(&c.database.url)),
    },
    Key {
        section: "mqtt",
        name: "broker",
        doc: "\"embedded\", or mqtt://HOST:PORT of a broker that runs elsewhere.",
        set: |c, v| text(v)?.parse().map(|v| c.mqtt.broker = v),
        get: |c| Some(quoted(&c.mqtt.broker.to_string())),
    },
    Key {
        section: "mqtt",
        name: "listen",
        doc: "Address of the embedded broker.",
        set: |c, v| address(v).map(|v| c.mqtt.listen = v),
        get: |c| Some(quoted(&c.mqtt.listen.to_string())),
    },
    Key {
        section: "mqtt",
        name: "require_credentials",
        doc: "Whether clients of the embedded broker must log in: stations as enrolled, others with an API key as password.",
        set: |c, v| truth(v).map(|v| c.mqtt.require_credentials = v),
        get: |c| Some(c.mqtt.require_credentials.to_string()),
    },
    Key {
        section: "mqtt",
        name: "client_id",
        doc: "Name of the server's session; two servers on one broker need two names.",
        set: |c, v| client_id(v).map(|v| c.mqtt.client_id = v),
        get: |c| Some(quoted(&c.mqtt.client_id)),
    },
    Key {
        section: "mqtt",
        name: "shared_group",
        doc: "Name under which several servers share what stations send; empty for one server.",
        set: |c, v| group(v).map(|v| c.mqtt.shared_group = v),
        get: |c| Some(quoted(&c.mqtt.shared_group)),
    },
    Key {
        section: "mqtt",
        name: "username",
        doc: "User name for an external broker; empty for none.",
        set: |c, v| text(v).map(|v| c.mqtt.username = v),
        get: |c| Some(quoted(&c.mqtt.username)),
    },
    Key {
        section: "mqtt",
        name: "password_file",
        doc: "File that holds the password for it.",
        set: |c, v| path(v).map(|v| c.mqtt.password_file = Some(v)),
        get: |c| c.mqtt.password_file.as_ref().map(|p| quoted(&p.to_string_lossy())),
    },
    Key {
        section: "mqtt",
        name: "stations_url",
        doc: "Where stations reach the broker, as in mqtts://HOST:8883; enrolment tells them.",
        set: |c, v| stations_url(v).map(|v| c.mqtt.stations_url = v),
        get: |c| Some(quoted(&c.mqtt.stations_url)),
    },
    Key {
        section: "mqtt",
        name: "stations_ca",
        doc: "PEM file of the authority that they check it with; the system's if not set.",
        set: |c, v| path(v).map(|v| c.mqtt.stations_ca = Some(v)),
        get: |c| c.mqtt.stations_ca.as_ref().map(|p| quoted(&p.to_string_lossy())),
    },
    Key {
        section: "storage",
        name: "data_dir",
        doc: "Directory of the SQLite file and the clips; empty for the usual place.",
        set: |c, v| text(v).map(|v| c.storage.data_dir = v.into()),
        get: |c| Some(quoted(&c.storage.data_dir.to_string_lossy())),
    },
    Key {
        section: "storage",
        name: "reserve_mib",
        doc: "With less MiB free on the disk of the data directory the server is not ready; 0 for any.",
        set: |c, v| count(&v, 0, 1_000_000_000).map(|v| c.storage.reserve_mib = v as u64),
        get: |c| Some(c.storage.reserve_mib.to_string()),
    },
    Key {
        section: "storage",
        name: "keep_telemetry",
        doc: "Telemetry older than this is deleted.",
        set: |c, v| span(v).map(|v| c.storage.keep_telemetry = v),
        get: |c| Some(quoted(&spelled(c.storage.keep_telemetry))),
    },
    Key {
        section: "storage",
        name: "keep_events",
        doc: "How long events of a class and their recordings are kept, as in [\"background=30d\", \"*=400d\"]; for ever without a rule, or with a verdict.",
        set: |c, v| keep_rules(v).map(|v| c.storage.keep_events = v),
        get: |c| {
            let rules = c.storage.keep_events.iter().map(|rule| {
                format!("{}={}", rule.class.as_deref().unwrap_or("*"), spelled(rule.keep))
            });
            Some(listed(&rules.collect::<Vec<_>>()))
        },
    },
    Key {
        section: "model",
        name: "bundle",
        doc: "Bundle directory; the built-in bundle if not set.",
        set: |c, v| path(v).map(|v| c.model.bundle = Some(v)),
        get: |c| c.model.bundle.as_ref().map(|p| quoted(&p.to_string_lossy())),
    },
    Key {
        section: "model",
        name: "yamnet",
        doc: "The imported YAMNet file; the usual places if not set.",
        set: |c, v| path(v).map(|v| c.model.yamnet = Some(v)),
        get: |c| c.model.yamnet.as_ref().map(|p| quoted(&p.to_string_lossy())),
    },
    Key {
        section: "model",
        name: "threads",
        doc: "Threads that classify; 0 for one per core.",
        set: |c, v| count(&v, 0, 1_024).map(|v| c.model.threads = v),
        get: |c| Some(c.model.threads.to_string()),
    },
    Key {
        section: "model",
        name: "queue",
        doc: "Files that may wait; more are answered 503.",
        set: |c, v| count(&v, 0, 65_536).map(|v| c.model.queue = v),
        get: |c| Some(c.model.queue.to_string()),
    },
    Key {
        section: "model",
        name: "max_wait",
        doc: "A file that would wait longer is answered 503.",
        set: |c, v| span(v).map(|v| c.model.max_wait = v),
        get: |c| Some(quoted(&spelled(c.model.max_wait))),
    },
    Key {
        section: "model",
        name: "audioset",
        doc: "Whether every prediction names AudioSet classes, at twice the time; else those that ask.",
        set: |c, v| truth(v).map(|v| c.model.audioset = v),
        get: |c| Some(c.model.audioset.to_string()),
    },
    Key {
        section: "learning",
        name: "min_new_samples",
        doc: "New samples that start a training by themselves; 0 for trainings on request only.",
        set: |c, v| count(&v, 0, 1_000_000).map(|v| c.learning.min_new_samples = v as u32),
        get: |c| Some(c.learning.min_new_samples.to_string()),
    },
    Key {
        section: "learning",
        name: "schedule",
        doc: "Cron expression (UTC) of further trainings, as in \"0 3 * * 0\"; empty for none.",
        set: |c, v| schedule(v).map(|v| c.learning.schedule = v),
        get: |c| Some(quoted(&c.learning.schedule)),
    },
    Key {
        section: "learning",
        name: "device_share_percent",
        doc: "Percent of a class's samples that one station may make up; 20 samples in any case.",
        set: |c, v| count(&v, 1, 100).map(|v| c.learning.device_share_percent = v as u32),
        get: |c| Some(c.learning.device_share_percent.to_string()),
    },
    Key {
        section: "learning",
        name: "recent_days",
        doc: "Days whose recordings are the recent background that candidates are compared on.",
        set: |c, v| count(&v, 1, 365).map(|v| c.learning.recent_days = v as u32),
        get: |c| Some(c.learning.recent_days.to_string()),
    },
    Key {
        section: "learning",
        name: "alarms_per_hour",
        doc: "False alarms an hour of background that thresholds are chosen for: \"0.33\", \"1\", \"3\" or \"10\"; empty for those of the model that serves.",
        set: |c, v| rate(v).map(|v| c.learning.alarms_per_hour = v),
        get: |c| Some(quoted(&c.learning.alarms_per_hour)),
    },
    Key {
        section: "learning",
        name: "unattended_recordings",
        doc: "Recordings of shots that the test set must hold for a model to take over by itself; with fewer a person decides.",
        set: |c, v| count(&v, 0, 100_000).map(|v| c.learning.unattended_recordings = v as u32),
        get: |c| Some(c.learning.unattended_recordings.to_string()),
    },
    Key {
        section: "learning",
        name: "missed_shot_range_m",
        doc: "Stations this near to a shot that somebody heard are asked for their sound.",
        set: |c, v| count(&v, 1, 100_000).map(|v| c.learning.missed_shot_range_m = v as u32),
        get: |c| Some(c.learning.missed_shot_range_m.to_string()),
    },
    Key {
        section: "learning",
        name: "lease",
        doc: "A worker that has not been heard of for this long is taken for dead.",
        set: |c, v| span(v).map(|v| c.learning.lease = v),
        get: |c| Some(quoted(&spelled(c.learning.lease))),
    },
    Key {
        section: "releases",
        name: "trusted_keys",
        doc: "Public keys as `ecosight-models release keygen` prints them; releases signed by others are refused.",
        set: |c, v| public_keys(v).map(|v| c.releases.trusted_keys = v),
        get: |c| {
            let keys = c.releases.trusted_keys.iter().map(ToString::to_string);
            Some(listed(&keys.collect::<Vec<_>>()))
        },
    },
    Key {
        section: "log",
        name: "filter",
        doc: "What is logged, in the form of RUST_LOG, which has precedence.",
        set: |c, v| text(v).map(|v| c.log.filter = v),
        get: |c| Some(quoted(&c.log.filter)),
    },
    Key {
        section: "log",
        name: "json",
        doc: "Whether each line is a JSON object.",
        set: |c, v| truth(v).map(|v| c.log.json = v),
        get: |c| Some(c.log.json.to_string()),
    },
    Key {
        section: "otlp",
        name: "endpoint",
        doc: "Collector of OpenTelemetry for spans of requests (OTLP over HTTP, JSON), as in \"http://127.0.0.1:4318\"; empty for none.",
        set: |c, v| collector(v).map(|v| c.otlp.endpoint = v),
        get: |c| Some(quoted(&c.otlp.endpoint)),
    },
];

fn text(value: Written) -> Result<String, String> {
    match value {
        Written::Text(text) => Ok(text),
        other => Err(format!("expected a text, found {}", other.kind())),
    }
}

fn path(value: Written) -> Result<PathBuf, String> {
    match text(value)? {
        empty if empty.is_empty() => Err("expected a path, found an empty text".into()),
        path => Ok(path.into()),
    }
}

fn address(value: Written) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse()
        .map_err(|_| format!("{text:?} is no address; write IP and port, as in \"127.0.0.1:8000\""))
}

fn count(value: &Written, min: usize, max: usize) -> Result<usize, String> {
    let number = match value {
        Written::Number(number) => usize::try_from(*number).ok(),
        Written::Text(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("expected a whole number from {min} to {max}"))
}

fn truth(value: Written) -> Result<bool, String> {
    match value {
        Written::Truth(truth) => Ok(truth),
        Written::Text(text) => {
            text.parse().map_err(|_| format!("expected true or false, found {text:?}"))
        }
        other => Err(format!("expected true or false, found {}", other.kind())),
    }
}

/// A duration such as `500ms`, `30s`, `10m`, `12h`, `90d`.
fn span(value: Written) -> Result<Duration, String> {
    let text = text(value)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is no duration; write it as in \"30s\", \"10m\" or \"90d\"")),
    }
}

/// A duration that may be none: less than the half minute after which service managers kill.
fn grace(value: Written) -> Result<Duration, String> {
    let text = text(value)?;
    let none = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) == "0";
    let span = if none { Duration::ZERO } else { span(Written::Text(text))? };
    if span > Duration::from_secs(30) {
        return Err("at most 30s: service managers kill what does not end".into());
    }
    Ok(span)
}

fn spelled(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.iter().find(|(unit_ms, _)| ms.is_multiple_of(*unit_ms) && ms >= *unit_ms);
    match unit {
        Some((unit_ms, name)) => format!("{}{name}", ms / unit_ms),
        None => format!("{ms}ms"),
    }
}

/// A cron expression; empty for none.
fn schedule(value: Written) -> Result<String, String> {
    let text = text(value)?;
    if !text.is_empty() {
        crate::training::triggers::Schedule::parse(&text)?;
    }
    Ok(text)
}

/// A rate that bundles have a threshold for; empty for none.
fn rate(value: Written) -> Result<String, String> {
    let text = match value {
        Written::Number(number) => number.to_string(),
        other => text(other)?,
    };
    let known = |rate: f64| RATES_PER_HOUR.contains(&rate);
    if text.is_empty() || text.parse().is_ok_and(known) {
        return Ok(text);
    }
    let rates = RATES_PER_HOUR.map(|rate| format!("\"{rate}\"")).join(", ");
    Err(format!("{text:?} is none of the rates that models have a threshold for: {rates}"))
}

/// A list, in TOML as one, in a variable with commas.
fn items(value: Written) -> Result<Vec<String>, String> {
    match value {
        Written::List(items) => Ok(items),
        Written::Text(text) => Ok(text
            .split(',')
            .map(|item| item.trim().into())
            .filter(|i: &String| !i.is_empty())
            .collect()),
        other => Err(format!("expected a list of texts, found {}", other.kind())),
    }
}

fn addresses(value: Written) -> Result<Vec<IpAddr>, String> {
    let address = |text: String| {
        let parsed = text.parse::<IpAddr>().map(|ip| ip.to_canonical());
        parsed.map_err(|_| format!("{text:?} is no address; write an IP, as in \"10.0.0.2\""))
    };
    items(value)?.into_iter().map(address).collect()
}

fn public_keys(value: Written) -> Result<Vec<PublicKey>, String> {
    let key = |text: String| text.parse().map_err(|error| format!("{text:?}: {error}"));
    items(value)?.into_iter().map(key).collect()
}

/// Rules such as `dog=30d`, and one for all other classes, `*=400d`.
fn keep_rules(value: Written) -> Result<Vec<KeepRule>, String> {
    let mut rules: Vec<KeepRule> = Vec::new();
    for item in items(value)? {
        let (class, keep) = item
            .split_once('=')
            .filter(|(class, _)| !class.trim().is_empty())
            .ok_or_else(|| format!("{item:?} is no rule; write it as in \"background=30d\""))?;
        let keep = span(Written::Text(keep.trim().into()))?;
        let class = Some(class.trim().to_owned()).filter(|class| class != "*");
        if rules.iter().any(|rule| rule.class == class) {
            return Err(format!("two rules for {:?}", class.as_deref().unwrap_or("*")));
        }
        rules.push(KeepRule { class, keep });
    }
    Ok(rules)
}

fn origins(value: Written) -> Result<Vec<String>, String> {
    let origins = items(value)?;
    for origin in &origins {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if origin != "*"
            && !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' ']))
        {
            return Err(format!("{origin:?} is no origin; write it as in \"https://map.example\""));
        }
    }
    Ok(origins)
}

fn listed(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn database(value: Written) -> Result<String, String> {
    let url = text(value)?;
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if url.is_empty() || known.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(url);
    }
    // The URL may hold a password, so it is not repeated here.
    Err("a database URL begins with sqlite: or postgres://".into())
}

/// A broker's address as a station takes it; empty for none.
fn stations_url(value: Written) -> Result<String, String> {
    let url = text(value)?;
    let rest = url.strip_prefix("mqtts://").or_else(|| url.strip_prefix("mqtt://"));
    let is_place = |rest: &str| {
        !rest.is_empty() && rest.len() <= 255 && !rest.contains(['/', '@', '?', '#', ' '])
    };
    if url.is_empty() || rest.is_some_and(is_place) {
        return Ok(url);
    }
    Err(format!("{url:?} is no broker; write it as in \"mqtts://broker.example:8883\""))
}

fn collector(value: Written) -> Result<String, String> {
    let url = text(value)?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if url.is_empty()
        || host.is_some_and(|host| !host.is_empty() && !host.contains([' ', '?', '#']))
    {
        return Ok(url);
    }
    Err(format!("{url:?} is no collector; write it as in \"http://127.0.0.1:4318\""))
}

fn client_id(value: Written) -> Result<String, String> {
    let id = text(value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&id.len()) && id.chars().all(allowed) {
        Ok(id)
    } else {
        Err(format!("{id:?} is no session name; write 1 to 64 of a-z, 0-9, '-' and '_'"))
    }
}

fn group(value: Written) -> Result<String, String> {
    match text(value)? {
        none if none.is_empty() => Ok(none),
        name => client_id(Written::Text(name)),
    }
}

/// `text` as a TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Written {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Truth(_) => "true or false",
            Self::List(_) => "a list",
        }
    }
}

impl FromStr for BrokerChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        if text.starts_with("mqtts://") {
            return Err("TLS to the broker is not in this version; bridge it on this host".into());
        }
        let hint = || {
            format!(
                "{text:?} is no broker; write \"embedded\" or an address as in \"mqtt://127.0.0.1:1883\""
            )
        };
        let place = text.strip_prefix("mqtt://").ok_or_else(hint)?.trim_end_matches('/');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| hint())?),
            None => (place, 1883),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 || host.contains(['/', '@', ' ']) {
            return Err(hint());
        }
        Ok(Self::External { host: host.into(), port })
    }
}

impl std::fmt::Display for BrokerChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::External { host, port } if host.contains(':') => {
                write!(f, "mqtt://[{host}]:{port}")
            }
            Self::External { host, port } => write!(f, "mqtt://{host}:{port}"),
        }
    }
}
