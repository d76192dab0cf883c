//! Settings as they were written, before they are a [`super::Config`]: from a TOML file and from
//! the environment, each with the place it came from, so that every fault can be reported at once.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ecosight_shared::release::PublicKey;
use ecosight_shared::{DeviceId, Slug};
use toml::de::{DeTable, DeValue};

/// Prefix of environment variables that override the file: `ECOSIGHT__SECTION__KEY`.
pub const ENVIRONMENT_PREFIX: &str = "ECOSIGHT__";

/// Parts of the names of settings whose values are shown to nobody.
const SECRETS: [&str; 5] = ["username", "password", "token", "secret", "code"];

/// A written value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// From the environment: text that may stand for any type.
    Raw(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Texts in brackets.
    List(Vec<String>),
    /// Another array or a date, which no setting takes.
    Other(&'static str),
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was written: `agent.toml:12`, an environment variable, or nothing for a default.
    pub place: Option<String>,
    /// Dotted key, empty for a fault of the file as a whole.
    pub key: String,
    /// What is wrong and what to write instead.
    pub problem: String,
}

/// Every fault of a configuration. The caller prints them all and exits with code 2.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the settings.
    pub faults: Vec<Fault>,
}

#[derive(Debug)]
struct Setting {
    value: Value,
    place: String,
    taken: bool,
}

/// Takes settings by key and gathers faults.
#[derive(Debug, Default)]
pub(super) struct Reader {
    settings: BTreeMap<String, Setting>,
    known: Vec<String>,
    faults: Vec<Fault>,
}

/// A type that a setting may have.
pub(super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Result<Self, String>;
}

impl Reader {
    /// Adds the settings of a TOML text; `name` is how faults call it.
    pub(super) fn add_file(&mut self, name: &Path, text: &str) {
        let name = name.file_name().map_or_else(|| name.into(), PathBuf::from);
        let place = |start: usize| format!("{}:{}", name.display(), line_of(text, start));
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            self.faults.push(Fault {
                place: error.span().map(|span| place(span.start)),
                key: String::new(),
                problem: error.message().to_owned(),
            });
        }
        self.add_table("", table.get_ref(), &place);
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>, place: &dyn Fn(usize) -> String) {
        for (key, value) in table {
            let path = if prefix.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{prefix}.{}", key.get_ref())
            };
            if let DeValue::Table(inner) = value.get_ref() {
                self.add_table(&path, inner, place);
            } else {
                let place = place(key.span().start);
                self.settings
                    .insert(path, Setting { value: read(value.get_ref()), place, taken: false });
            }
        }
    }

    /// Adds settings that count more than those that are here, except where one is only spelled out
    /// as in `defaults`: then what is here stays.
    pub(super) fn add_over(&mut self, later: Self, defaults: &Self) {
        self.faults.extend(later.faults);
        for (key, setting) in later.settings {
            let at_default = defaults.settings.get(&key).map(|default| &default.value);
            if at_default != Some(&setting.value) || !self.settings.contains_key(&key) {
                self.settings.insert(key, setting);
            }
        }
    }

    /// Adds overrides from the environment; variables without the prefix are left alone.
    pub(super) fn add_environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, text) in variables {
            let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let path = path.to_ascii_lowercase().replace("__", ".");
            let place = format!("environment {name}");
            self.settings.insert(path, Setting { value: Value::Raw(text), place, taken: false });
        }
    }

    /// Puts the setting into `slot` if it is written and valid; else `slot` keeps its default.
    pub(super) fn take<T: FromValue>(&mut self, key: &str, slot: &mut T) {
        self.known.push(key.to_owned());
        let Some(setting) = self.settings.get_mut(key) else { return };
        setting.taken = true;
        match T::from_value(&setting.value) {
            Ok(value) => *slot = value,
            Err(problem) => self.fault(key, problem),
        }
    }

    /// Takes every setting below `prefix` that is a number, by the rest of its key.
    pub(super) fn take_map(&mut self, prefix: &str, slot: &mut BTreeMap<String, f32>) {
        let keys: Vec<String> =
            self.settings.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        for key in keys {
            let mut value = f32::NAN;
            self.take(&key, &mut value);
            if !value.is_nan() {
                slot.insert(key[prefix.len()..].to_owned(), value);
            }
        }
    }

    /// Every setting as `key = value  # place`; what may be a secret is hidden.
    pub(super) fn lines(&self) -> Vec<String> {
        let hidden = |key: &str| {
            let leaf = key.rsplit('.').next().unwrap_or(key);
            // Files that hold a secret are named, not shown.
            !leaf.ends_with("_file") && SECRETS.iter().any(|secret| leaf.contains(secret))
        };
        let line = |(key, setting): (&String, &Setting)| {
            let value = if hidden(key) { "(hidden)".to_owned() } else { setting.value.to_string() };
            format!("{key} = {value}  # {}", setting.place)
        };
        self.settings.iter().map(line).collect()
    }

    /// Notes that the value of `key` cannot be.
    pub(super) fn fault(&mut self, key: &str, problem: impl Into<String>) {
        let place = self.settings.get(key).map(|setting| setting.place.clone());
        self.faults.push(Fault { place, key: key.to_owned(), problem: problem.into() });
    }

    /// Ends the reading: whatever nobody took is unknown.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        let unknown: Vec<String> =
            self.settings.iter().filter(|(_, s)| !s.taken).map(|(key, _)| key.clone()).collect();
        for key in unknown {
            let problem = match nearest(&key, &self.known) {
                Some(known) => format!("unknown setting; did you mean `{known}`?"),
                None => "unknown setting; `ecosight-agent configfile` lists all".to_owned(),
            };
            self.fault(&key, problem);
        }
        if self.faults.is_empty() { Ok(()) } else { Err(ConfigError { faults: self.faults }) }
    }
}

fn read(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number too large"), Value::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(Value::Other("no number"), Value::Float)
        }
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(_) => Value::Other("a date without quotes"),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            texts.collect::<Option<_>>().map_or(Value::Other("an array"), Value::List)
        }
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|b| *b == b'\n').count()
}

/// The known key that was most likely meant: at most a third of its letters differ.
fn nearest<'k>(key: &str, known: &'k [String]) -> Option<&'k str> {
    let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .iter()
        .map(|candidate| {
            let whole = strsim::levenshtein(key, candidate);
            // The right name in the wrong section is as likely as a slip of a finger.
            let moved = if leaf(key) == leaf(candidate) { 1 } else { usize::MAX };
            // A slip late in the word is likelier than one at its beginning.
            let shared = key.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
            (whole.min(moved), Reverse(shared), candidate.as_str())
        })
        .min()
        .filter(|(distance, _, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, _, candidate)| candidate)
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Raw(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(text) | Self::Text(text) => write!(f, "\"{text}\""),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Boolean(yes) => yes.fmt(f),
            Self::List(texts) => write!(f, "{texts:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {found}")
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        value.text().map(str::to_owned).ok_or_else(|| expected("a text in quotes", value))
    }
}

impl FromValue for PathBuf {
    fn from_value(value: &Value) -> Result<Self, String> {
        value.text().map(Self::from).ok_or_else(|| expected("a path in quotes", value))
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(yes) => Ok(*yes),
            Value::Raw(text) => text.parse().map_err(|_| expected("true or false", value)),
            _ => Err(expected("true or false", value)),
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as Self),
            Value::Raw(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|n| n.is_finite()).ok_or_else(|| expected("a number", value))
    }
}

impl FromValue for f32 {
    fn from_value(value: &Value) -> Result<Self, String> {
        f64::from_value(value).map(|number| number as Self)
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Integer(number) => Self::try_from(*number).ok(),
            Value::Raw(text) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| expected("a whole number", value))
    }
}

impl FromValue for u32 {
    fn from_value(value: &Value) -> Result<Self, String> {
        let number = u64::from_value(value)?;
        Self::try_from(number).map_err(|_| expected("a smaller number", value))
    }
}

impl FromValue for Vec<PublicKey> {
    /// Of the environment one text, with commas between.
    fn from_value(value: &Value) -> Result<Self, String> {
        let what =
            "public keys in brackets and quotes, as `ecosight-models release keygen` prints them";
        let texts: Vec<&str> = match value {
            Value::List(texts) => texts.iter().map(String::as_str).collect(),
            Value::Raw(text) => text.split(',').filter(|text| !text.trim().is_empty()).collect(),
            _ => return Err(expected(what, value)),
        };
        let parse = |text: &str| text.parse().map_err(|e| format!("{e}, found \"{text}\""));
        texts.into_iter().map(parse).collect()
    }
}

/// A duration as settings write it, such as "90min".
///
/// # Errors
/// What is expected instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    Duration::from_value(&Value::Raw(text.to_owned()))
}

impl FromValue for Duration {
    fn from_value(value: &Value) -> Result<Self, String> {
        let units = [("ms", 0.001), ("min", 60.0), ("s", 1.0), ("h", 3_600.0), ("d", 86_400.0)];
        let seconds = value.text().and_then(|text| with_unit(text, &units));
        seconds
            .and_then(|seconds| Self::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| expected("a duration such as \"30s\", \"250ms\" or \"5min\"", value))
    }
}

/// A size in bytes, written as "200MB".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl FromValue for Bytes {
    fn from_value(value: &Value) -> Result<Self, String> {
        let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
        let bytes = value.text().and_then(|text| with_unit(text, &units));
        bytes
            .filter(|bytes| (0.0..1e18).contains(bytes))
            .map(|bytes| Self(bytes as u64))
            .ok_or_else(|| expected("a size such as \"200MB\" or \"1GB\"", value))
    }
}

/// `text` as a number times its unit. A longer unit stands before the one it ends with.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number * factor)
    })
}

impl<T: FromValue> FromValue for Option<T> {
    /// Nothing and an empty text are the same: an override can take a value away.
    fn from_value(value: &Value) -> Result<Self, String> {
        if value.text().is_some_and(str::is_empty) {
            return Ok(None);
        }
        T::from_value(value).map(Some)
    }
}

fn parsed<T: FromStr>(value: &Value, what: &str) -> Result<T, String>
where
    T::Err: fmt::Display,
{
    let text = value.text().ok_or_else(|| expected(what, value))?;
    text.parse().map_err(|error: T::Err| format!("{error}, found \"{text}\""))
}

impl FromValue for Slug {
    fn from_value(value: &Value) -> Result<Self, String> {
        parsed(value, "a name in quotes")
    }
}

impl FromValue for DeviceId {
    fn from_value(value: &Value) -> Result<Self, String> {
        parsed(value, "a UUID in quotes")
    }
}

impl FromValue for std::net::SocketAddr {
    fn from_value(value: &Value) -> Result<Self, String> {
        parsed(value, "an address with port in quotes such as \"127.0.0.1:8090\"")
    }
}

impl FromValue for jiff::Timestamp {
    fn from_value(value: &Value) -> Result<Self, String> {
        parsed(value, "a time in quotes such as \"2026-01-31T06:00:00Z\"")
    }
}

/// Implements [`FromValue`] for an enum by its written names.
macro_rules! choices {
    ($type:ty { $($name:literal => $value:expr),+ $(,)? }) => {
        impl crate::config::reader::FromValue for $type {
            fn from_value(value: &crate::config::reader::Value) -> Result<Self, String> {
                match value {
                    $(crate::config::reader::Value::Text(t)
                        | crate::config::reader::Value::Raw(t) if t == $name => Ok($value),)+
                    other => Err(format!(
                        "expected one of {}, found {other}", [$(concat!("\"", $name, "\"")),+].join(", "))),
                }
            }
        }
    };
}
pub(super) use choices;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}
