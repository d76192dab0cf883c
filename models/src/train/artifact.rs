//! Path: networks and what was measured of them → this → bundle
//!
//! The bundle that stations load, with the evaluation beside it and a model card that says what
//! the numbers are worth and where the recordings came from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::breakdown::TransientLine;
use super::card::{Card, Findings};
use super::dataset::Clip;
use super::fit::{Epoch, Recipe};
use super::head::Head;
use super::judgement::{CONFIRM_WINDOWS, Judgement, RatePoint, Recall};
use super::labels::{Class, LabelMap};
use super::material::{Copies, Form};
use super::page::Page;
use super::report::flattered;
use super::second::SecondLine;
use crate::bundle::{
    BackboneSpec, Bundle, Calibration, GoldenClip, HEAD_FILE, MODEL_CARD_FILE, Manifest,
    NamedPoint, OperatingPoint, RuleSpec, SCHEMA, write_bundle,
};
use crate::eval::CalibrationBin;
use crate::yamnet::golden::Sound;
use crate::{Classifier, compact};

/// An event ends after so long without a window over the threshold, seconds: long enough for
/// the echoes of a shot, short enough to count the shots of a slow rifle.
const REFRACTORY_S: f32 = 2.0;

/// One source of recordings, for the model card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceLine {
    /// Its name in the manifest.
    pub source: String,
    /// Terms as stated there, the most frequent wording.
    pub licence: String,
    /// Clips.
    pub clips: usize,
    /// Recording groups.
    pub groups: usize,
    /// Clips of the alerting class.
    pub alerting: usize,
}

/// What one network of one seed reached at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedLine {
    /// The seed.
    pub seed: u64,
    /// Average precision of the alerting class over clips.
    pub average_precision: Option<f64>,
    /// Per rate of `rates_per_hour`, recall by source in the form of the files.
    pub recall: BTreeMap<String, Vec<f64>>,
}

/// `evaluation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What made it.
    pub command: String,
    /// How the data were split.
    pub protocol: String,
    /// Feature streams.
    pub streams: Vec<String>,
    /// How the networks were trained.
    pub recipe: Recipe,
    /// The ear beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<SecondLine>,
    /// How often each clip was used in which form.
    pub copies: Copies,
    /// Seed of folds, augmentations and fits.
    pub seed: u64,
    /// Folds of the cross-validation.
    pub folds: usize,
    /// Windows trained on.
    pub windows: usize,
    /// Where the recordings came from.
    pub sources: Vec<SourceLine>,
    /// The shipped head's kind (all seeds averaged), out of fold.
    pub judgement: Judgement,
    /// The same by transient signal-to-noise ratio.
    #[serde(default)]
    pub by_transient: Vec<TransientLine>,
    /// Expected calibration error of the windows' highest class score.
    pub calibration_error: Option<f64>,
    /// The bins behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<CalibrationBin>,
    /// What the shipped threshold does, out of fold.
    pub shipped: RatePoint,
    /// Each seed alone, out of fold.
    pub seeds: Vec<SeedLine>,
    /// Pairs of clips that sound like one recording and were parted by the folds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likenesses_parted: Option<usize>,
    /// The first seed by clips dealt to folds at random, whatever recording they are of: what a split
    /// that leaks would have flattered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_split: Option<SeedLine>,
    /// How the epochs of the cross-validation went, the mean over its fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Epoch>,
}

impl Evaluation {
    fn findings(&self) -> Findings<'_> {
        Findings {
            protocol: &self.protocol,
            judgement: &self.judgement,
            by_transient: &self.by_transient,
            calibration_error: self.calibration_error,
            reliability: &self.reliability,
            shipped: &self.shipped,
        }
    }
}

/// All that goes into a bundle beside the networks.
pub struct Release<'a> {
    /// Name of the model line.
    pub name: &'a str,
    /// Version in it.
    pub version: &'a str,
    /// RFC 3339.
    pub created: &'a str,
    /// The classes.
    pub labels: &'a LabelMap,
    /// SHA-256 of the file that the backbone was imported from, where a stream needs one.
    pub backbone_sha256: Option<&'a str>,
    /// Softmax temperature.
    pub temperature: f32,
    /// Per class: threshold, where it may raise events.
    pub thresholds: &'a [Option<f32>],
    /// What was measured.
    pub evaluation: &'a Evaluation,
}

/// Counts the sources of a data set.
pub fn sources(clips: &[Clip], labels: &LabelMap) -> Vec<SourceLine> {
    let mut by_source: BTreeMap<&str, Vec<&Clip>> = BTreeMap::new();
    for clip in clips {
        by_source.entry(&clip.source).or_default().push(clip);
    }
    by_source
        .into_iter()
        .map(|(source, clips)| {
            let mut wordings: BTreeMap<&str, usize> = BTreeMap::new();
            for clip in &clips {
                *wordings.entry(&clip.licence).or_default() += 1;
            }
            let licence =
                wordings.into_iter().max_by_key(|(_, count)| *count).map_or("", |(text, _)| text);
            let groups: BTreeSet<&str> = clips.iter().map(|clip| clip.group.as_str()).collect();
            SourceLine {
                source: if source.is_empty() { "not stated" } else { source }.to_owned(),
                licence: if licence.is_empty() { "not stated" } else { licence }.to_owned(),
                clips: clips.len(),
                groups: groups.len(),
                alerting: clips
                    .iter()
                    .filter(|clip| labels.class_of(&clip.label) == labels.alerting())
                    .count(),
            }
        })
        .collect()
}

impl Release<'_> {
    /// The manifest, golden sounds still empty.
    pub fn manifest(&self, head: &Head<'_>) -> Manifest {
        let (labels, evaluation) = (self.labels, self.evaluation);
        let second = head.second.map(|second| second.spec(head.streams));
        let with = second
            .as_ref()
            .map(|second| format!(", {} {} beside it,", second.name, second.version));
        Manifest {
            schema: SCHEMA.to_owned(),
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            created: self.created.to_owned(),
            description: format!(
                "One-hidden-layer head on {}{} for {}; non-commercial conservation use",
                evaluation.streams.join(" + "),
                with.unwrap_or_default(),
                labels.classes[labels.alerting()].name
            ),
            streams: head.bundle_streams(),
            classes: labels.classes.iter().map(|class| class.name.clone()).collect(),
            normalisation: head.normalisation(),
            calibration: Calibration::Softmax { temperature: self.temperature },
            detector: rules(
                labels,
                self.thresholds,
                &evaluation.judgement,
                &self.operating_point(),
            ),
            backbone: self.backbone_sha256.map(|sha256| BackboneSpec {
                architecture: crate::yamnet::ARCHITECTURE.to_owned(),
                trained_on_sha256: sha256.to_owned(),
            }),
            second,
            golden: Vec::new(),
            files: Vec::new(),
        }
    }

    fn operating_point(&self) -> OperatingPoint {
        let evaluation = self.evaluation;
        operating_point(&evaluation.judgement, &evaluation.shipped, &evaluation.protocol)
    }

    /// Every file beside the manifest.
    ///
    /// # Errors
    /// When a number of the evaluation is not finite.
    pub fn files(&self, head: &Head<'_>) -> Result<BTreeMap<String, Vec<u8>>, serde_json::Error> {
        let title = format!("{} {}", self.name, self.version);
        let mut files = BTreeMap::from(reports(self.evaluation, self.labels, &title)?);
        files.insert(HEAD_FILE.to_owned(), head.onnx());
        files.insert(MODEL_CARD_FILE.to_owned(), self.card().into_bytes());
        if let Some(second) = head.second {
            files.insert(compact::NETWORK_FILE.to_owned(), second.network().to_vec());
        }
        Ok(files)
    }

    fn card(&self) -> String {
        let evaluation = self.evaluation;
        let alert = &self.labels.classes[self.labels.alerting()].name;
        let second = evaluation.second.as_ref().map(|second| {
            format!(
                " {} listens beside it, for {} of the logits: {}.",
                second.bundle, second.share, second.protocol
            )
        });
        let about = format!(
            "Hears {alert} on {}.{} A bundle for EcoSight stations and servers.",
            evaluation.streams.join(" + "),
            second.unwrap_or_default()
        );
        let card = Card {
            name: self.name,
            version: self.version,
            about: &about,
            labels: self.labels,
            findings: evaluation.findings(),
            sources: &evaluation.sources,
            command: &evaluation.command,
            below: "Network below the head: YAMNet (Google, Apache-2.0), not part of this bundle.",
        };
        card.text()
    }
}

/// The evaluation for programs and for people, by the names of their files.
///
/// # Errors
/// When a number of the evaluation is not finite.
pub fn reports(
    evaluation: &Evaluation,
    labels: &LabelMap,
    title: &str,
) -> Result<[(String, Vec<u8>); 2], serde_json::Error> {
    let parted = evaluation.likenesses_parted.map(|count| match count {
        0 => "No two clips of different folds sound like one recording.".to_owned(),
        count => {
            format!("Pairs of clips in different folds that sound like one recording: {count}.")
        }
    });
    let remarks: Vec<String> = parted.into_iter().chain(flattered(evaluation)).collect();
    let page = Page {
        title,
        classes: labels.classes.iter().map(|class| class.name.as_str()).collect(),
        findings: evaluation.findings(),
        remarks: &remarks,
    };
    page.beside(evaluation)
}

/// The points that thresholds of the alerting class were chosen for.
fn named_points(judgement: &Judgement) -> Vec<NamedPoint> {
    let named = |rate: &RatePoint| {
        let overall = rate.overall.as_ref()?;
        Some(NamedPoint {
            name: format!("{}/h", rate.per_hour?),
            threshold: rate.threshold,
            recall: overall.recall,
            recall_interval: overall.interval,
            false_alarms_per_hour: rate.false_alarms as f64 / judgement.background_hours,
            false_alarms_interval: rate.interval_per_hour,
        })
    };
    judgement.rates.iter().filter_map(named).collect()
}

/// The rules of a detector, for classes with a threshold; the alerting one's was chosen at `point`, and
/// the others that were judged stand beside it.
pub fn rules(
    labels: &LabelMap,
    thresholds: &[Option<f32>],
    judgement: &Judgement,
    point: &OperatingPoint,
) -> Vec<RuleSpec> {
    let rule = |(index, (class, threshold)): (usize, (&Class, &Option<f32>))| {
        Some(RuleSpec {
            class: class.name.clone(),
            threshold: (*threshold)?,
            confirm_windows: CONFIRM_WINDOWS,
            refractory_s: REFRACTORY_S,
            alert: class.alert,
            chosen_at: (index == labels.alerting()).then(|| point.clone()),
            operating_points: match index == labels.alerting() {
                true => named_points(judgement),
                false => Vec::new(),
            },
        })
    };
    labels.classes.iter().zip(thresholds).enumerate().filter_map(rule).collect()
}

/// Recall over all clips of the alerting class, as files are, at the shipped threshold.
pub fn operating_point(
    judgement: &Judgement,
    shipped: &RatePoint,
    protocol: &str,
) -> OperatingPoint {
    let plain: Vec<&Recall> =
        shipped.recall.iter().filter(|line| line.form == Form::Plain).collect();
    let clips: usize = plain.iter().map(|line| line.clips).sum();
    let hits: usize = plain.iter().map(|line| line.hits).sum();
    OperatingPoint {
        recall: hits as f64 / clips.max(1) as f64,
        false_alarms_per_hour: shipped.false_alarms as f64 / judgement.background_hours,
        background_hours: judgement.background_hours,
        recordings: plain.iter().map(|line| line.groups).sum(),
        data: protocol.to_owned(),
    }
}

/// Writes a bundle, plays it the golden sounds and writes it again with what it said.
///
/// # Errors
/// When it cannot be written, or not be loaded again.
pub fn write_proved(
    out: &Path,
    mut manifest: Manifest,
    files: &BTreeMap<String, Vec<u8>>,
    backbone: Option<&Path>,
) -> anyhow::Result<Bundle> {
    write_bundle(out, manifest.clone(), files)?;
    let classifier = Classifier::load(Some(out), backbone)?;
    for sound in Sound::ALL {
        manifest.golden.push(GoldenClip {
            sound: sound.name().to_owned(),
            seed: 1,
            scores: classifier.golden_scores(sound, 1)?,
        });
    }
    Ok(write_bundle(out, manifest, files)?)
}
