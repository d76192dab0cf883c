//! Path: trained networks and what they said out of fold → **release** → bundle
//!
//! The bundle that needs no YAMNet: thresholds, evaluation and model card from the scores that the
//! training script's cross-validation wrote.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::scores::{Work, json, read};
use super::{NETWORK_FILE, STREAM};
use crate::bundle::{
    Bundle, Calibration, HEAD_FILE, MODEL_CARD_FILE, Manifest, Normalisation, SCHEMA, StreamSpec,
};
use crate::eval::CalibrationBin;
use crate::train::artifact::{SourceLine, operating_point, rules, sources, write_proved};
use crate::train::breakdown::{self, TransientLine};
use crate::train::card::{Card, Findings};
use crate::train::judgement::{self, CONFIRM_WINDOWS, Judgement, RatePoint};
use crate::train::labels::LabelMap;
use crate::train::material::Library;
use crate::train::page::Page;
use crate::train::table::Table;
use crate::transient;

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
    /// The same by transient signal-to-noise ratio.
    pub by_transient: Vec<TransientLine>,
    /// Expected calibration error of the windows' highest class score.
    pub calibration_error: Option<f64>,
    /// The bins behind it.
    pub reliability: Vec<CalibrationBin>,
    /// What the shipped threshold does, out of fold.
    pub shipped: RatePoint,
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
    /// What `export-compact` and the training script wrote.
    pub work: &'a Work,
    /// False alarms per hour that the alert threshold is chosen for.
    pub alarms_per_hour: f64,
}

impl Release<'_> {
    /// Judges, and writes the bundle to `out`.
    ///
    /// # Errors
    /// With a message that names the file at fault; then nothing was written.
    pub fn write(&self, out: &Path) -> anyhow::Result<(Bundle, Evaluation)> {
        let networks = &self.work.networks;
        let training: Training = json(&networks.join("cv.json"))?;
        let (table, logits, folds) = self.out_of_fold()?;
        let evaluation = self.evaluate(&table, &logits, folds, training)?;
        let normalisation: Normalisation = json(&networks.join("normalisation.json"))?;
        let mut files = BTreeMap::from([
            (NETWORK_FILE.to_owned(), read(&networks.join(NETWORK_FILE))?),
            (HEAD_FILE.to_owned(), read(&networks.join(HEAD_FILE))?),
            (MODEL_CARD_FILE.to_owned(), self.card(&evaluation.0).into_bytes()),
        ]);
        files.extend(self.reports(&evaluation.0)?);
        let manifest = self.manifest(&evaluation.0, &evaluation.1, normalisation);
        Ok((write_proved(out, manifest, &files, None)?, evaluation.0))
    }

    /// The windows that the cross-validation judged, and their logits.
    fn out_of_fold(&self) -> anyhow::Result<(Table, Array2<f32>, usize)> {
        let classes: Vec<&str> = self.labels.classes.iter().map(|own| own.name.as_str()).collect();
        let said = self.work.out_of_fold(&classes)?;
        let names = self.library.clips().iter().map(|clip| &clip.name);
        ensure!(
            names.eq(&said.clips),
            "{} was made of another manifest",
            self.work.material.display()
        );
        let table = Table {
            streams: Vec::new(),
            features: Array2::zeros((0, 0)),
            class: said.rows.iter().map(|row| row.class).collect(),
            weight: vec![1.0; said.rows.len()],
            items: said.items,
            rows: said.rows,
        };
        Ok((table, said.logits, said.folds))
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
        let thresholds = judgement::thresholds(&heard, labels, alert);
        let calling: Vec<f32> =
            thresholds.iter().map(|threshold| threshold.unwrap_or(f32::INFINITY)).collect();
        let judged = judgement::judge(clips, labels, &heard, &calling);
        let alerting = labels.alerting();
        let ratio_db = breakdown::transient_ratios(self.library, alerting)?;
        let evaluation = Evaluation {
            command: self.command.to_owned(),
            protocol: format!(
                "{folds}-fold cross-validation by recording group; the score of a clip is its \
                 highest mean of {CONFIRM_WINDOWS} neighbouring windows; background as it is and \
                 band-limited to 3.9 kHz."
            ),
            sources: sources(clips, labels),
            by_transient: breakdown::by_transient(
                clips,
                &heard,
                alerting,
                &ratio_db,
                &judged.rates,
            ),
            judgement: judged,
            calibration_error: judgement::calibration_error(table, logits, training.temperature),
            reliability: judgement::reliability(table, logits, training.temperature),
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
        let point =
            operating_point(&evaluation.judgement, &evaluation.shipped, &evaluation.protocol);
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
            detector: rules(labels, thresholds, &evaluation.judgement, &point),
            backbone: None,
            second: None,
            golden: Vec::new(),
            files: Vec::new(),
        }
    }

    fn reports(
        &self,
        evaluation: &Evaluation,
    ) -> Result<[(String, Vec<u8>); 2], serde_json::Error> {
        let page = Page {
            title: &format!("{} {}", self.name, self.version),
            classes: self.labels.classes.iter().map(|class| class.name.as_str()).collect(),
            findings: evaluation.findings(),
            remarks: &[],
        };
        page.beside(evaluation)
    }

    fn card(&self, evaluation: &Evaluation) -> String {
        let alert = &self.labels.classes[self.labels.alerting()].name;
        let about = format!(
            "Hears {alert} with a network of EcoSight's own, trained from nothing on the recordings \
             below, and numbers measured on the sound. Needs no YAMNet; where YAMNet is imported, \
             the full bundle hears more and is used instead."
        );
        let card = Card {
            name: self.name,
            version: self.version,
            about: &about,
            labels: self.labels,
            findings: evaluation.findings(),
            sources: &evaluation.sources,
            command: self.command,
            below: "All networks are part of this bundle.",
        };
        card.text()
    }
}
