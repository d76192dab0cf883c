//! TOML and environment to [`Config`], and the commented default file.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Written};
use super::{Config, ConfigError, Fault};

const PREFIX: &str = "ECOSIGHT__";

pub(super) fn read(
    file: Option<(&str, &str)>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut faults = Vec::new();
    if let Some((name, text)) = file {
        read_file(&mut config, name, text, &mut faults);
    }
    read_environment(&mut config, environment, &mut faults);
    if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
}

fn read_file(config: &mut Config, file: &str, text: &str, faults: &mut Vec<Fault>) {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(1, |span| line_of(span.start));
        faults.push(Fault { place: format!("{file}:{line}"), what: error.message().into() });
    }
    for (section, value) in table.get_ref() {
        let place = format!("{file}:{}", line_of(section.span().start));
        let section = section.get_ref().as_ref();
        if !sections().contains(section) {
            faults.push(Fault { place, what: unknown("section", section, sections()) });
            continue;
        }
        let DeValue::Table(keys) = value.get_ref() else {
            let what = format!("{section:?} is a section; write [{section}] and keys under it");
            faults.push(Fault { place, what });
            continue;
        };
        for (name, value) in keys {
            let place = format!("{file}:{}", line_of(name.span().start));
            let name = name.get_ref().as_ref();
            let result = match (key(section, name), written(value)) {
                (Some(key), Ok(value)) => (key.set)(config, value),
                (Some(_), Err(fault)) => Err(fault),
                (None, _) => {
                    let what = unknown("key", name, names(section));
                    faults.push(Fault { place, what });
                    continue;
                }
            };
            if let Err(what) = result {
                faults.push(Fault { place, what: format!("{section}.{name}: {what}") });
            }
        }
    }
}

fn read_environment(
    config: &mut Config,
    environment: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<Fault>,
) {
    let mut variables: Vec<(String, String)> =
        environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (variable, value) in variables {
        let rest = variable[PREFIX.len()..].to_ascii_lowercase();
        let (section, name) = rest.split_once("__").unwrap_or((rest.as_str(), ""));
        let result = match key(section, name) {
            Some(key) => (key.set)(config, Written::Text(value)),
            // The station's agent shares the prefix, and its variables may be set here too.
            None if !sections().contains(section) => continue,
            None => Err(unknown("key", name, names(section))),
        };
        if let Err(what) = result {
            faults.push(Fault { place: variable, what });
        }
    }
}

/// The default configuration as a commented TOML file.
#[must_use]
pub fn default_file() -> String {
    let config = Config::default();
    let mut out = String::from(
        "# EcoSight cloud: every setting with its default.\n\
         # A variable ECOSIGHT__SECTION__KEY has precedence over this file, a flag over both.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            out.push_str(&format!("\n[{section}]\n"));
        }
        let value = (key.get)(&config);
        let (mark, value) = match &value {
            Some(value) => ("", value.as_str()),
            None => ("# ", "\"\""),
        };
        out.push_str(&format!("# {}\n{mark}{} = {value}\n", key.doc, key.name));
    }
    out
}

fn written(value: &Spanned<DeValue<'_>>) -> Result<Written, String> {
    Ok(match value.get_ref() {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) => Written::Number(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| "the number is too large".to_owned())?,
        ),
        DeValue::Boolean(truth) => Written::Truth(*truth),
        DeValue::Array(items) => Written::List(
            items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    _ => Err("expected a list of texts".to_owned()),
                })
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Float(_) => return Err("a number with a fraction fits no setting".into()),
        DeValue::Datetime(_) => return Err("a date fits no setting".into()),
        DeValue::Table(_) => return Err("expected a value, found a table".into()),
    })
}

fn key(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

fn sections() -> BTreeSet<&'static str> {
    KEYS.iter().map(|key| key.section).collect()
}

fn names(section: &str) -> BTreeSet<&'static str> {
    KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect()
}

fn unknown(what: &str, found: &str, known: BTreeSet<&'static str>) -> String {
    let near = known.iter().min_by_key(|name| strsim::levenshtein(found, name));
    match near {
        Some(near) if strsim::levenshtein(found, near) <= 3 => {
            format!("unknown {what} {found:?}; did you mean {near:?}?")
        }
        _ => {
            let known: Vec<&str> = known.into_iter().collect();
            format!("unknown {what} {found:?}; there are {}", known.join(", "))
        }
    }
}
