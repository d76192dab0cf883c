//! Path: data set labels → this → classes of the head
//!
//! Which labels of a data set make which class is data (`labels.json`, or a file of the user's):
//! nothing else in the trainer knows a class by name.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const DEFAULT: &str = include_str!("labels.json");

/// One class of the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Name in the bundle.
    pub name: String,
    /// Labels of the data set that belong to it.
    pub labels: Vec<String>,
    /// Takes every label that no other class names; exactly one class does.
    #[serde(default)]
    pub rest: bool,
    /// The sound comes and goes within a clip (a shot, a bark): only the windows that hold it are
    /// examples of the class, and what surrounds it is an example of nothing.
    #[serde(default)]
    pub sparse: bool,
    /// A confirmed event of the class is an alert.
    #[serde(default)]
    pub alert: bool,
}

/// The classes of the head to train, in output order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMap {
    /// In output order.
    pub classes: Vec<Class>,
}

/// Why a label map cannot be used. The caller reports it and stops before any work is done.
#[derive(Debug, thiserror::Error)]
pub enum LabelMapError {
    /// The file could not be read.
    #[error("cannot read the label map {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON, or not of the shape of [`LabelMap`].
    #[error("label map: {0}")]
    Syntax(#[from] serde_json::Error),
    /// The classes contradict each other.
    #[error("label map: {0}")]
    Invalid(String),
}

impl LabelMap {
    /// The classes that a deployment starts with.
    ///
    /// # Errors
    /// Never for the map that is compiled in; a test holds it to that.
    pub fn builtin() -> Result<Self, LabelMapError> {
        Self::parse(DEFAULT)
    }

    /// Reads a map from a JSON file.
    ///
    /// # Errors
    /// When the file cannot be read or the map is not valid.
    pub fn read(path: &Path) -> Result<Self, LabelMapError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LabelMapError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Parses and checks a map.
    ///
    /// # Errors
    /// On a syntax error, a class or label named twice, fewer than two classes, not exactly one
    /// `rest` class, or no alerting class.
    pub fn parse(json: &str) -> Result<Self, LabelMapError> {
        let map: Self = serde_json::from_str(json)?;
        let invalid = |message: String| Err(LabelMapError::Invalid(message));
        if map.classes.len() < 2 {
            return invalid("at least two classes are needed".into());
        }
        let rest = map.classes.iter().filter(|class| class.rest).count();
        if rest != 1 {
            return invalid(format!("exactly one class must have \"rest\": true, {rest} have"));
        }
        if !map.classes.iter().any(|class| class.alert && !class.rest) {
            return invalid("no class has \"alert\": true".into());
        }
        let mut names = std::collections::BTreeSet::new();
        let mut labels = std::collections::BTreeSet::new();
        for class in &map.classes {
            if class.name.is_empty() || !names.insert(&class.name) {
                return invalid(format!("class name {:?} is empty or occurs twice", class.name));
            }
            for label in &class.labels {
                if !labels.insert(label) {
                    return invalid(format!("label {label:?} belongs to two classes"));
                }
            }
        }
        Ok(map)
    }

    /// Index of the class of a label.
    pub fn class_of(&self, label: &str) -> usize {
        self.classes
            .iter()
            .position(|class| class.labels.iter().any(|own| own == label))
            .unwrap_or_else(|| self.rest())
    }

    /// Index of the class that takes what no other names.
    pub fn rest(&self) -> usize {
        self.classes.iter().position(|class| class.rest).unwrap_or(0)
    }

    /// Index of the class with this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    /// Index of the first alerting class: the one that thresholds are chosen by.
    pub fn alerting(&self) -> usize {
        self.classes.iter().position(|class| class.alert).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_map_is_valid_and_sends_the_unnamed_to_the_rest() {
        let map = LabelMap::builtin().unwrap();
        assert_eq!(map.classes[map.class_of("gun_shot")].name, "gun_shot");
        assert_eq!(map.class_of("chainsaw"), map.rest());
        assert_eq!(map.classes[map.rest()].name, "background");
        assert_eq!(map.alerting(), map.named("gun_shot").unwrap());
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let message = |json: &str| LabelMap::parse(json).unwrap_err().to_string();
        let two_rests = r#"{"classes":[{"name":"a","labels":[],"rest":true,"alert":true},
            {"name":"b","labels":[],"rest":true}]}"#;
        assert!(message(two_rests).contains("2 have"));
        let shared_label = r#"{"classes":[{"name":"a","labels":["x"],"alert":true},
            {"name":"b","labels":["x"],"rest":true}]}"#;
        assert!(message(shared_label).contains("\"x\" belongs to two classes"));
        let typo = r#"{"classes":[{"name":"a","labels":[],"sprase":true}]}"#;
        assert!(message(typo).contains("sprase"));
        let silent = r#"{"classes":[{"name":"a","labels":["x"]},
            {"name":"b","labels":[],"rest":true}]}"#;
        assert!(message(silent).contains("alert"));
    }
}
