//! What came of a training, from the bundle it wrote.

use ecosight_models::BundleFiles;
use ecosight_models::bundle::EVALUATION_FILE;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::RetrainRequest;
use super::data::Material;
use super::gate::Decision;

/// The result of a training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Why it was asked for.
    pub trigger_reason: String,
    /// Samples that were trained on.
    pub samples: usize,
    /// Classes that were learned.
    pub classes: Vec<String>,
    /// Classes of the live model with too few samples to learn.
    pub left_out: Vec<String>,
    /// Samples left out because their station has its share of the class.
    #[serde(default)]
    pub over_share: usize,
    /// Samples of recordings of the test set that came after it was chosen: neither learned from nor
    /// judged by.
    #[serde(default)]
    pub set_aside_late: usize,
    /// What decided the training.
    #[serde(default)]
    pub seed: u64,
    /// Over path, class and group of every sample that was trained on.
    #[serde(default)]
    pub data_sha256: String,
    /// Share of clips called right by networks that had not met their recording.
    pub accuracy: Option<f64>,
    /// Average precision of the alerting class, judged the same way.
    pub average_precision: Option<f64>,
    /// Hash of the candidate, as on the wire.
    pub tag: String,
    /// Version of the candidate.
    pub version: String,
    /// Where the candidate lies on the server.
    pub bundle: String,
    /// Its number in the registry.
    #[serde(default)]
    pub version_id: Option<Uuid>,
    /// What the gate decided. `passed` and not live: somebody chose another model meanwhile, or since.
    #[serde(default)]
    pub gate: Option<Decision>,
}

pub(super) fn of(files: &BundleFiles, request: &RetrainRequest, material: &Material) -> Report {
    let evaluation: Value = files
        .file(EVALUATION_FILE)
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    let judgement = &evaluation["judgement"];
    Report {
        trigger_reason: request.trigger_reason.clone(),
        samples: material.samples,
        classes: files.bundle.classes.clone(),
        left_out: material.left_out.clone(),
        over_share: material.over_share,
        set_aside_late: material.set_aside_late,
        seed: request.seed,
        data_sha256: material.data_sha256.clone(),
        accuracy: judgement["accuracy"].as_f64(),
        average_precision: judgement["average_precision"].as_f64(),
        tag: files.bundle.tag.to_string(),
        version: files.bundle.version.clone(),
        bundle: String::new(),
        version_id: None,
        gate: None,
    }
}
