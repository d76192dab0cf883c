//! Path: trained networks and what they said out of fold → **release** → bundle
//!
//! The bundle that needs no YAMNet: thresholds, evaluation and model card from the scores that the
//! training script's cross-validation wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::export::{FORMS, ItemLine, WIDTH};
use super::{NETWORK_FILE, STREAM};
use crate::bundle::{
    Bundle, Calibration, EVALUATION_FILE, GoldenClip, HEAD_FILE, MODEL_CARD_FILE, Manifest,
    Normalisation, OperatingPoint, RuleSpec, SCHEMA, StreamSpec, write_bundle,
};
use crate::train::artifact::{SourceLine, sources};
use crate::train::judgement::{self, CONFIRM_WINDOWS, Judgement, RatePoint};
use crate::train::labels::LabelMap;
use crate::train::material::{Form, Item, Library};
use crate::train::table::{Row, Table};
use crate::yamnet::golden::Sound;
use crate::{Classifier, transient};

/// An event ends after so long without a window over the threshold, seconds.
const REFRACTORY_S: f32 = 2.0;
/// Precision that the thresholds of classes which do not alert are chosen for, and the threshold
/// of a class with too few recordings to choose one by.
const OTHER_PRECISION: f64 = 0.8;
const CAUTIOUS: f32 = 0.9;
const LEAST_OTHER: f32 = 0.3;
/// Label of what a recorder gives when it hears nothing: it raises no events.
const SILENCE: &str = "silence";

/// What the training script says of its cross-validation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Training {
    /// Softmax temperature with the least loss.
    pub temperature: f32,
    /// Networks whose mean is used: patches seen, how much more often background that scores as
    /// an alert is drawn in the second half, seed.
    pub networks: Vec<String>,
    /// The network's part of the logits.
    pub share: f32,
    /// How much more background that scores as an alert weighs.
    pub hard: f32,
}

/// `evaluation.json`.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// What made it.
    pub command: String,
    /// How the data were split.
    pub protocol: String,
    /// How the networks were trained.
    pub training: Training,
    /// Where the recordings came from.
    pub sources: Vec<SourceLine>,
    /// All networks averaged, out of fold.
    pub judgement: Judgement,
    /// Expected calibration error of the windows' highest class score.
    pub calibration_error: Option<f64>,
    /// What the shipped threshold does, out of fold.
    pub shipped: RatePoint,
}

/// What to make a bundle of.
pub struct Release<'a> {
    /// Name of the model line.
    pub name: &'a str,
    /// Version in it.
    pub version: &'a str,
    /// RFC 3339.
    pub created: &'a str,
    /// The command that makes it.
    pub command: &'a str,
    /// Recordings and classes.
    pub library: &'a Library,
    /// The classes.
    pub labels: &'a LabelMap,
    /// What `export-compact` wrote.
    pub material: &'a Path,
    /// What the training script wrote.
    pub work: &'a Path,
    /// False alarms per hour that the alert threshold is chosen for.
    pub alarms_per_hour: f64,
}

#[derive(Deserialize)]
struct Index {
    folds: usize,
    items: Vec<ItemLine>,
}

impl Release<'_> {
    /// Judges, and writes the bundle to `out`.
    ///
    /// # Errors
    /// With a message that names the file at fault; then nothing was written.
    pub fn write(&self, out: &Path) -> anyhow::Result<(Bundle, Evaluation)> {
        let training: Training = serde_json::from_slice(&read(&self.work.join("cv.json"))?)
            .with_context(|| format!("{}/cv.json", self.work.display()))?;
        let (table, logits, folds) = self.out_of_fold()?;
        let evaluation = self.evaluate(&table, &logits, folds, training)?;
        let normalisation: Normalisation =
            serde_json::from_slice(&read(&self.work.join("normalisation.json"))?)
                .with_context(|| format!("{}/normalisation.json", self.work.display()))?;
        let mut report = serde_json::to_vec_pretty(&evaluation.0)?;
        report.push(b'\n');
        let files = BTreeMap::from([
            (NETWORK_FILE.to_owned(), read(&self.work.join(NETWORK_FILE))?),
            (HEAD_FILE.to_owned(), read(&self.work.join(HEAD_FILE))?),
            (EVALUATION_FILE.to_owned(), report),
            (MODEL_CARD_FILE.to_owned(), self.model_card(&evaluation.0).into_bytes()),
        ]);
        let mut manifest = self.manifest(&evaluation.0, &evaluation.1, normalisation);
        write_bundle(out, manifest.clone(), &files)?;
        let classifier = Classifier::load(Some(out), None)?;
        for sound in Sound::ALL {
            manifest.golden.push(GoldenClip {
                sound: sound.name().to_owned(),
                seed: 1,
                scores: classifier.golden_scores(sound, 1)?,
            });
        }
        Ok((write_bundle(out, manifest, &files)?, evaluation.0))
    }

    /// The windows that the cross-validation judged, and their logits.
    fn out_of_fold(&self) -> anyhow::Result<(Table, Array2<f32>, usize)> {
        let index: Index = serde_json::from_slice(&read(&self.material.join("index.json"))?)
            .with_context(|| format!("{}/index.json", self.material.display()))?;
        let classes = self.labels.classes.len();
        let windows = numbers(&self.material.join("windows.f32"))?;
        let scored = numbers(&self.work.join("oof.f32"))?;
        ensure!(
            windows.len() % WIDTH == 0 && windows.len() / WIDTH * classes == scored.len(),
            "{} and {} are not of one material: train again",
            self.material.display(),
            self.work.display()
        );
        let clips = self.library.clips().len();
        let items = index
            .items
            .iter()
            .map(|line| {
                ensure!(
                    line.clip.is_none_or(|clip| clip < clips) && line.class < classes,
                    "{} was made of another manifest",
                    self.material.display()
                );
                let form = FORMS.iter().find(|(_, name)| *name == line.form);
                Ok(Item {
                    clip: line.clip,
                    // A scene has no clip and is not judged.
                    form: form.map_or(Form::Silence, |(form, _)| *form),
                    copy: line.copy,
                    fold: line.fold,
                    class: line.class,
                })
            })
            .collect::<anyhow::Result<Vec<Item>>>()?;
        let mut rows = Vec::new();
        let mut logits = Vec::new();
        for (window, scored) in windows.chunks_exact(WIDTH).zip(scored.chunks_exact(classes)) {
            if !scored.iter().all(|logit| logit.is_finite()) {
                continue;
            }
            rows.push(Row {
                item: window[0] as usize,
                start: window[7] as u64,
                class: window[3] as usize,
                example: window[4] > 0.0,
            });
            logits.extend_from_slice(scored);
        }
        ensure!(rows.iter().all(|row| row.item < items.len()), "windows.f32 is damaged");
        let table = Table {
            streams: Vec::new(),
            features: Array2::zeros((0, 0)),
            class: rows.iter().map(|row| row.class).collect(),
            weight: vec![1.0; rows.len()],
            items,
            rows,
        };
        let logits = Array2::from_shape_vec((table.rows.len(), classes), logits)?;
        Ok((table, logits, index.folds))
    }

    /// What was measured, and a threshold for each class that may raise events.
    fn evaluate(
        &self,
        table: &Table,
        logits: &Array2<f32>,
        folds: usize,
        training: Training,
    ) -> anyhow::Result<(Evaluation, Vec<Option<f32>>)> {
        let labels = self.labels;
        let clips = self.library.clips();
        let heard = judgement::heard(table, logits, training.temperature);
        let alert = judgement::rate_threshold(&heard, labels, self.alarms_per_hour)
            .context("the data hold no background to count false alarms on")?;
        let thresholds: Vec<Option<f32>> = labels
            .classes
            .iter()
            .enumerate()
            .map(|(index, class)| match class {
                _ if index == labels.alerting() => Some(alert),
                class if class.rest || class.labels.iter().any(|label| label == SILENCE) => None,
                _ => judgement::precise_threshold(&heard, index, OTHER_PRECISION)
                    .map(|threshold| threshold.max(LEAST_OTHER))
                    .or(Some(CAUTIOUS)),
            })
            .collect();
        let calling: Vec<f32> =
            thresholds.iter().map(|threshold| threshold.unwrap_or(f32::INFINITY)).collect();
        let evaluation = Evaluation {
            command: self.command.to_owned(),
            protocol: format!(
                "{folds}-fold cross-validation by recording group; the score of a clip is its \
                 highest mean of {CONFIRM_WINDOWS} neighbouring windows; background as it is and \
                 band-limited to 3.9 kHz"
            ),
            sources: sources(clips, labels),
            judgement: judgement::judge(clips, labels, &heard, &calling),
            calibration_error: judgement::calibration_error(table, logits, training.temperature),
            shipped: judgement::rate_point(
                clips,
                labels,
                &heard,
                alert,
                Some(self.alarms_per_hour),
            ),
            training,
        };
        Ok((evaluation, thresholds))
    }

    fn manifest(
        &self,
        evaluation: &Evaluation,
        thresholds: &[Option<f32>],
        normalisation: Normalisation,
    ) -> Manifest {
        let labels = self.labels;
        let detector = labels
            .classes
            .iter()
            .zip(thresholds)
            .enumerate()
            .filter_map(|(index, (class, threshold))| {
                Some(RuleSpec {
                    class: class.name.clone(),
                    threshold: (*threshold)?,
                    confirm_windows: CONFIRM_WINDOWS,
                    refractory_s: REFRACTORY_S,
                    alert: class.alert,
                    chosen_at: (index == labels.alerting()).then(|| operating_point(evaluation)),
                })
            })
            .collect();
        Manifest {
            schema: SCHEMA.to_owned(),
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            created: self.created.to_owned(),
            description: format!(
                "EcoSight's own compact network and hand-made numbers for {}, no other network \
                 needed; non-commercial conservation use",
                labels.classes[labels.alerting()].name
            ),
            streams: vec![
                StreamSpec { name: STREAM.to_owned(), len: labels.classes.len() },
                StreamSpec { name: "transient".to_owned(), len: transient::LEN },
                StreamSpec { name: "transient.next".to_owned(), len: transient::LEN },
            ],
            classes: labels.classes.iter().map(|class| class.name.clone()).collect(),
            normalisation,
            calibration: Calibration::Softmax { temperature: evaluation.training.temperature },
            detector,
            backbone: None,
            golden: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The model card, Markdown.
    fn model_card(&self, evaluation: &Evaluation) -> String {
        let judgement = &evaluation.judgement;
        let alert = &self.labels.classes[self.labels.alerting()].name;
        let mut card = String::new();
        // Writing to a String cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = card.write_fmt(text);
            card.push('\n');
        };
        line(format_args!("# {} {}\n", self.name, self.version));
        line(format_args!(
            "Hears {alert} with a network of EcoSight's own, trained from nothing on the recordings \
             below, and numbers measured on the sound. Needs no YAMNet; where YAMNet is \
             imported, the full bundle hears more and is used instead.\n"
        ));
        line(format_args!(
            "**Non-commercial conservation use only.** Some of the recordings allow no commercial \
             use, and for some no terms are stated: they were used for research and are not \
             redistributed. The weights carry the same restriction.\n"
        ));
        line(format_args!("## What was measured\n\n{}.\n", evaluation.protocol));
        let cells: Vec<String> = judgement
            .rates
            .iter()
            .map(|rate| format!("recall at {}/h", rate.per_hour.unwrap_or_default()))
            .collect();
        line(format_args!("| source | form | clips (recordings) | {} |", cells.join(" | ")));
        line(format_args!("|---|---|---|{}", "---|".repeat(cells.len())));
        let first = judgement.rates.first().map_or(&[][..], |rate| &rate.recall);
        for (index, recall) in first.iter().enumerate() {
            let cells: Vec<String> = judgement
                .rates
                .iter()
                .map(|rate| {
                    let recall = &rate.recall[index];
                    let [low, high] = recall.interval.unwrap_or([f64::NAN; 2]);
                    format!("{:.2} ({low:.2}–{high:.2})", recall.recall)
                })
                .collect();
            line(format_args!(
                "| {} | {:?} | {} ({}) | {} |",
                recall.source,
                recall.form,
                recall.clips,
                recall.groups,
                cells.join(" | ")
            ));
        }
        line(format_args!(
            "\nIntervals are 95 % bootstrap intervals over whole recordings. Background: {} clips, \
             {:.1} h, full of engines, fireworks and the like; quiet forest gives fewer false alarms.\n",
            judgement.background_clips, judgement.background_hours
        ));
        for rate in judgement.rates.iter().chain([&evaluation.shipped]) {
            line(format_args!(
                "- threshold {:.3} ({} an hour): {} false alarms, {:?}",
                rate.threshold,
                rate.per_hour.unwrap_or_default(),
                rate.false_alarms,
                rate.by_label
            ));
        }
        line(format_args!("\nThe last line is what is shipped.\n\n## Blind spots\n"));
        line(format_args!(
            "- A shot less than 10 dB above the forest's own noise (100–1500 Hz, loudest 20 ms over \
             the median) is mostly missed.\n\
             - Fireworks, thunder, a backfiring engine and slammed doors are mistaken first.\n\
             - Recall was measured on recorders and forests like those of the recordings.\n\
             - Forest background without a known recording may occur in training and evaluation \
             alike."
        ));
        for class in judgement.classes.iter().filter(|class| class.clips > 0 && class.groups < 5) {
            line(format_args!(
                "- `{}` was learnt from {} recordings: no accuracy is claimed for it.",
                class.class, class.groups
            ));
        }
        line(format_args!("\n## Recordings\n"));
        line(format_args!("| source | clips | recordings | of them {alert} | terms as stated |"));
        line(format_args!("|---|---|---|---|---|"));
        for source in &evaluation.sources {
            line(format_args!(
                "| {} | {} | {} | {} | {} |",
                source.source,
                source.clips,
                source.groups,
                source.alerting,
                source.licence.replace('|', "/")
            ));
        }
        line(format_args!("\nMade by `{}`. Every number: `evaluation.json`.", evaluation.command));
        card
    }
}

/// Recall over all clips of the alerting class, as files are.
fn operating_point(evaluation: &Evaluation) -> OperatingPoint {
    let plain = || evaluation.shipped.recall.iter().filter(|line| line.form == Form::Plain);
    let clips: usize = plain().map(|line| line.clips).sum();
    let hits: usize = plain().map(|line| line.hits).sum();
    let hours = evaluation.judgement.background_hours;
    OperatingPoint {
        recall: hits as f64 / clips.max(1) as f64,
        false_alarms_per_hour: evaluation.shipped.false_alarms as f64 / hours,
        background_hours: hours,
        recordings: plain().map(|line| line.groups).sum(),
        data: evaluation.protocol.clone(),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn numbers(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = read(path)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "{} ends within a number", path.display());
    Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
