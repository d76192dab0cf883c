//! `manifest.json` of a bundle: everything that a program must know to use the head.
//!
//! The schema is versioned by [`SCHEMA`]. Unknown fields are refused: a manifest written for a
//! newer program must not be half understood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::detector::{ClassRule, DetectorConfig};

/// Schema name and version that this program reads and writes.
pub const SCHEMA: &str = "ecosight.bundle/1";
/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Name of the head inside a bundle.
pub const HEAD_FILE: &str = "head.onnx";
/// Name of the evaluation report inside a bundle.
pub const EVALUATION_FILE: &str = "evaluation.json";
/// Name of the same for people, a page of HTML.
pub const EVALUATION_PAGE: &str = "evaluation.html";
/// Name of the model card inside a bundle.
pub const MODEL_CARD_FILE: &str = "model-card.md";

/// Longest manifest that is read, bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest single file of a bundle, bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most files in a bundle, the manifest not counted.
const MAX_FILES: usize = 64;
/// Most classes: the wire carries a class as a `u8` index and all scores in one frame.
const MAX_CLASSES: usize = 64;
/// Most numbers that a bundle's own network may give for a window.
const MAX_OWN_NUMBERS: usize = 4096;

/// A bundle's description of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Name of the model line: `a-z`, `0-9`, `-`.
    pub name: String,
    /// Version within that line, such as `1.2.0`.
    pub version: String,
    /// When it was trained, RFC 3339 UTC.
    pub created: String,
    /// One sentence for people.
    pub description: String,
    /// The streams that the head takes, in the order in which they are concatenated.
    pub streams: Vec<StreamSpec>,
    /// Class names in the order of the head's outputs.
    pub classes: Vec<String>,
    /// Applied to the concatenated streams before the head.
    pub normalisation: Normalisation,
    /// Applied to the head's outputs (logits); gives the scores.
    pub calibration: Calibration,
    /// How scores become events. Classes without a rule never raise one.
    pub detector: Vec<RuleSpec>,
    /// Network below the head; `None` if no stream needs one.
    pub backbone: Option<BackboneSpec>,
    /// A second ear within the head; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<SecondSpec>,
    /// Sounds and what this bundle says to them: proof that it works as it did where it was made.
    pub golden: Vec<GoldenClip>,
    /// Every other file of the bundle, with its hash.
    pub files: Vec<FileEntry>,
}

/// One stream of features: so many numbers per window.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// Such as `yamnet.l14` or `transient`; see [`crate::features`].
    pub name: String,
    /// Numbers per window.
    pub len: usize,
}

/// `x ↦ clamp((x − mean) · scale, −limit, limit)`, element by element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// One number per feature, in stream order.
    pub mean: Vec<f32>,
    /// One number per feature, in stream order; usually 1 / standard deviation.
    pub scale: Vec<f32>,
    /// Largest magnitude that the head sees; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f32>,
}

/// From the head's outputs to scores between 0 and 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Calibration {
    /// `score[c] = 1 / (1 + exp(−(slope[c] · logit[c] + offset[c])))`: classes may coincide.
    Sigmoid {
        /// One per class.
        slope: Vec<f32>,
        /// One per class.
        offset: Vec<f32>,
    },
    /// `score = softmax(logits / temperature)`: classes exclude one another.
    Softmax {
        /// Above zero.
        temperature: f32,
    },
}

/// How one class becomes events, and what that was measured to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Name of the class.
    pub class: String,
    /// Threshold on the mean score of `confirm_windows` neighbouring windows.
    pub threshold: f32,
    /// Neighbouring windows whose mean must pass.
    pub confirm_windows: usize,
    /// An event ends after this many seconds without a window over the threshold.
    pub refractory_s: f32,
    /// Whether an event of this class is an alert.
    pub alert: bool,
    /// What the threshold was chosen at; absent where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_at: Option<OperatingPoint>,
    /// Other thresholds that were measured, for whoever wants a keener or a quieter station.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operating_points: Vec<NamedPoint>,
}

/// What a threshold costs and gives, on sound that the head was not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// Fraction of the events that were heard.
    pub recall: f64,
    /// False alarms per hour of background.
    pub false_alarms_per_hour: f64,
    /// Hours of background behind that rate.
    pub background_hours: f64,
    /// Independent recordings of the class behind that recall.
    pub recordings: usize,
    /// Which data, and how it was split.
    pub data: String,
}

/// A threshold with a name, and what it gives and costs on the data of the rule's `chosen_at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPoint {
    /// Such as `1/h`: the false alarms per hour that it was chosen for.
    pub name: String,
    /// The threshold.
    pub threshold: f32,
    /// Fraction of the events that were heard.
    pub recall: f64,
    /// 95 % interval of it, by bootstrap over recordings; absent where there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_interval: Option<[f64; 2]>,
    /// False alarms per hour of background.
    pub false_alarms_per_hour: f64,
    /// 95 % interval of it, exact (Poisson).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_alarms_interval: Option<[f64; 2]>,
}

/// The network that computes the `yamnet.*` streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// `yamnet-v1`: the only one so far. Any file that the importer accepted will do.
    pub architecture: String,
    /// SHA-256, in hex, of the file that the head was trained on; others may give scores that
    /// differ in the third digit.
    pub trained_on_sha256: String,
}

/// A compact bundle that was taken into this one: the head adds its logits to those of its own
/// networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondSpec {
    /// Name of that bundle's model line.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its part of the logits, between 0 and 1; the rest is the own networks'.
    pub share: f32,
    /// The streams of this bundle that it alone hears.
    pub streams: Vec<String>,
}

/// A synthetic sound and the scores that the bundle gave to it where it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenClip {
    /// Kind of sound, see [`crate::yamnet::golden::Sound`].
    pub sound: String,
    /// Its seed.
    pub seed: u64,
    /// Per window: the scores in class order.
    pub scores: Vec<Vec<f32>>,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name inside the bundle: no folders.
    pub name: String,
    /// Exact size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// What is wrong with a manifest: the field, and why. The caller rejects the bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {why}")]
pub struct ManifestFault {
    /// Path of the field, such as `detector[0].threshold`.
    pub field: String,
    /// What it should be.
    pub why: String,
}

fn fault(field: impl Into<String>, why: impl Into<String>) -> ManifestFault {
    ManifestFault { field: field.into(), why: why.into() }
}

impl Manifest {
    /// The streams that the head's own networks hear: what another head like it is trained on.
    #[must_use]
    pub fn trained_streams(&self) -> Vec<String> {
        let second = self.second.as_ref().map_or(&[][..], |second| &second.streams);
        let names = self.streams.iter().map(|stream| stream.name.clone());
        names.filter(|name| !second.contains(name)).collect()
    }

    /// Numbers per window that the head takes.
    #[must_use]
    pub fn feature_len(&self) -> usize {
        self.streams.iter().map(|stream| stream.len).fold(0, usize::saturating_add)
    }

    /// Every law of the schema that serde cannot state.
    ///
    /// # Errors
    /// The first broken one, by field.
    pub fn validate(&self) -> Result<(), ManifestFault> {
        if self.schema != SCHEMA {
            return Err(fault(
                "schema",
                format!(
                    "is `{}`, this program reads `{SCHEMA}`; use a bundle made for it, or upgrade",
                    self.schema
                ),
            ));
        }
        self.name
            .parse::<ecosight_shared::Slug>()
            .map_err(|error| fault("name", format!("is `{}`: {error}", self.name)))?;
        let version_ok = (1..=32).contains(&self.version.len())
            && self.version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b));
        if !version_ok {
            return Err(fault("version", "expected 1 to 32 of letters, digits, '.', '-', '+'"));
        }
        self.validate_streams()?;
        self.validate_classes()?;
        self.validate_numbers()?;
        self.validate_rules()?;
        self.validate_golden()?;
        self.validate_files()
    }

    fn validate_streams(&self) -> Result<(), ManifestFault> {
        if self.streams.is_empty() {
            return Err(fault("streams", "is empty; a head needs at least one"));
        }
        let mut seen = BTreeMap::new();
        for (i, stream) in self.streams.iter().enumerate() {
            if stream.name == crate::compact::STREAM {
                self.validate_compact(i, stream)?;
            }
            let own = (stream.name == crate::compact::STREAM).then_some(stream.len);
            let Some(len) = crate::features::stream_len(&stream.name).or(own) else {
                return Err(fault(
                    format!("streams[{i}].name"),
                    format!(
                        "`{}` is no stream of this program, which knows {}",
                        stream.name,
                        crate::features::STREAM_NAMES.join(", ")
                    ),
                ));
            };
            if len != stream.len {
                return Err(fault(
                    format!("streams[{i}].len"),
                    format!("is {}, but `{}` has {len} numbers", stream.len, stream.name),
                ));
            }
            if seen.insert(stream.name.as_str(), i).is_some() {
                return Err(fault(
                    format!("streams[{i}].name"),
                    format!("`{}` is there twice", stream.name),
                ));
            }
        }
        if let Some(second) = &self.second {
            self.validate_second(second)?;
        }
        let needs_backbone = self.streams.iter().any(|s| s.name.starts_with("yamnet."));
        match &self.backbone {
            None if needs_backbone => {
                Err(fault("backbone", "is missing, but a `yamnet.*` stream is declared"))
            }
            Some(spec) if spec.architecture != crate::yamnet::ARCHITECTURE => Err(fault(
                "backbone.architecture",
                format!(
                    "is `{}`, this program runs `{}`",
                    spec.architecture,
                    crate::yamnet::ARCHITECTURE
                ),
            )),
            _ => Ok(()),
        }
    }

    fn validate_compact(&self, index: usize, stream: &StreamSpec) -> Result<(), ManifestFault> {
        if !(1..=MAX_OWN_NUMBERS).contains(&stream.len) {
            return Err(fault(
                format!("streams[{index}].len"),
                format!("is {}, expected 1 to {MAX_OWN_NUMBERS}", stream.len),
            ));
        }
        let network = crate::compact::NETWORK_FILE;
        if !self.files.iter().any(|file| file.name == network) {
            return Err(fault("files", format!("`{network}` is not listed")));
        }
        Ok(())
    }

    fn validate_second(&self, second: &SecondSpec) -> Result<(), ManifestFault> {
        if !(second.share > 0.0 && second.share < 1.0) {
            return Err(fault("second.share", "expected a number between 0 and 1"));
        }
        let declared = |name: &String| self.streams.iter().any(|stream| stream.name == *name);
        match second.streams.iter().find(|name| !declared(name)) {
            Some(name) => Err(fault("second.streams", format!("`{name}` is not declared"))),
            None => Ok(()),
        }
    }

    fn validate_classes(&self) -> Result<(), ManifestFault> {
        if self.classes.is_empty() || self.classes.len() > MAX_CLASSES {
            return Err(fault(
                "classes",
                format!("has {} names, expected 1 to {MAX_CLASSES}", self.classes.len()),
            ));
        }
        for (i, class) in self.classes.iter().enumerate() {
            let ok = (1..=ecosight_shared::CLASS_NAME_MAX_LEN).contains(&class.len())
                && class.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !ok {
                return Err(fault(
                    format!("classes[{i}]"),
                    format!(
                        "`{class}`: expected 1 to {} of a-z, 0-9, '_'",
                        ecosight_shared::CLASS_NAME_MAX_LEN
                    ),
                ));
            }
            if self.classes[..i].contains(class) {
                return Err(fault(format!("classes[{i}]"), format!("`{class}` is there twice")));
            }
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<(), ManifestFault> {
        let features = self.feature_len();
        for (field, list) in [
            ("normalisation.mean", &self.normalisation.mean),
            ("normalisation.scale", &self.normalisation.scale),
        ] {
            expect_numbers(field, list, features)?;
        }
        if self.normalisation.limit.is_some_and(|limit| !limit.is_finite() || limit <= 0.0) {
            return Err(fault("normalisation.limit", "expected a number above 0"));
        }
        match &self.calibration {
            Calibration::Sigmoid { slope, offset } => {
                expect_numbers("calibration.slope", slope, self.classes.len())?;
                expect_numbers("calibration.offset", offset, self.classes.len())
            }
            Calibration::Softmax { temperature } if *temperature > 0.0 => Ok(()),
            Calibration::Softmax { .. } => {
                Err(fault("calibration.temperature", "expected a number above 0"))
            }
        }
    }

    fn validate_rules(&self) -> Result<(), ManifestFault> {
        for (i, rule) in self.detector.iter().enumerate() {
            let field = |name: &str| format!("detector[{i}].{name}");
            if !self.classes.contains(&rule.class) {
                return Err(fault(
                    field("class"),
                    format!("`{}` is not among the bundle's classes", rule.class),
                ));
            }
            if self.detector[..i].iter().any(|other| other.class == rule.class) {
                return Err(fault(field("class"), format!("`{}` has two rules", rule.class)));
            }
            if !(0.0..=1.0).contains(&rule.threshold) {
                return Err(fault(field("threshold"), "expected a number from 0 to 1"));
            }
            if !(1..=16).contains(&rule.confirm_windows) {
                return Err(fault(field("confirm_windows"), "expected 1 to 16"));
            }
            if !(0.0..=3600.0).contains(&rule.refractory_s) {
                return Err(fault(field("refractory_s"), "expected 0 to 3600 seconds"));
            }
            if rule.operating_points.iter().any(|point| !(0.0..=1.0).contains(&point.threshold)) {
                return Err(fault(field("operating_points"), "expected thresholds from 0 to 1"));
            }
        }
        Ok(())
    }

    fn validate_golden(&self) -> Result<(), ManifestFault> {
        for (i, clip) in self.golden.iter().enumerate() {
            if clip.sound.parse::<crate::yamnet::golden::Sound>().is_err() {
                return Err(fault(
                    format!("golden[{i}].sound"),
                    format!("`{}` is no sound of this program", clip.sound),
                ));
            }
            for (w, scores) in clip.scores.iter().enumerate() {
                expect_numbers(&format!("golden[{i}].scores[{w}]"), scores, self.classes.len())?;
            }
        }
        Ok(())
    }

    fn validate_files(&self) -> Result<(), ManifestFault> {
        if self.files.len() > MAX_FILES {
            return Err(fault("files", format!("has more than {MAX_FILES} entries")));
        }
        for (i, file) in self.files.iter().enumerate() {
            let name_ok = (1..=64).contains(&file.name.len())
                && !file.name.starts_with('.')
                && file.name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
            if !name_ok || file.name == MANIFEST_FILE {
                return Err(fault(
                    format!("files[{i}].name"),
                    format!("`{}` is no plain file name", file.name.escape_default()),
                ));
            }
            if self.files[..i].iter().any(|other| other.name == file.name) {
                return Err(fault(
                    format!("files[{i}].name"),
                    format!("`{}` is there twice", file.name),
                ));
            }
            if file.bytes > MAX_FILE_BYTES {
                return Err(fault(
                    format!("files[{i}].bytes"),
                    format!("`{}` may have at most {MAX_FILE_BYTES} bytes", file.name),
                ));
            }
            if file.sha256.len() != 64 || !file.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(fault(format!("files[{i}].sha256"), "expected 64 hexadecimal digits"));
            }
        }
        if !self.files.iter().any(|file| file.name == HEAD_FILE) {
            return Err(fault("files", format!("`{HEAD_FILE}` is not listed")));
        }
        Ok(())
    }

    /// The rules by class index, as the detector takes them. The manifest must be valid.
    #[must_use]
    pub fn detector_config(&self) -> DetectorConfig {
        let rules = self
            .detector
            .iter()
            .filter_map(|rule| {
                Some(ClassRule {
                    class: self.classes.iter().position(|class| *class == rule.class)?,
                    threshold: rule.threshold,
                    confirm_windows: rule.confirm_windows,
                    refractory_s: rule.refractory_s,
                    alert: rule.alert,
                })
            })
            .collect();
        DetectorConfig { rules }
    }
}

fn expect_numbers(field: &str, list: &[f32], len: usize) -> Result<(), ManifestFault> {
    if list.len() != len {
        return Err(fault(field, format!("has {} numbers, expected {len}", list.len())));
    }
    match list.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(fault(format!("{field}[{i}]"), "is not finite")),
        None => Ok(()),
    }
}
