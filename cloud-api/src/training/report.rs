//! What came of a training, from the bundle it wrote.

use std::path::Path;

use ecosight_models::BundleFiles;
use ecosight_models::bundle::EVALUATION_FILE;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JobError;
use super::RetrainRequest;
use super::data::Material;

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
}

pub(super) fn of(
    candidate: &Path,
    request: &RetrainRequest,
    material: &Material,
) -> Result<Report, JobError> {
    let files = BundleFiles::open(candidate)
        .map_err(|error| JobError::Passing(format!("the candidate: {error}")))?;
    let evaluation: Value = files
        .file(EVALUATION_FILE)
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    let judgement = &evaluation["judgement"];
    Ok(Report {
        trigger_reason: request.trigger_reason.clone(),
        samples: material.samples,
        classes: files.bundle.classes.clone(),
        left_out: material.left_out.clone(),
        accuracy: judgement["accuracy"].as_f64(),
        average_precision: judgement["average_precision"].as_f64(),
        tag: files.bundle.tag.to_string(),
        version: files.bundle.version.clone(),
        bundle: candidate.display().to_string(),
    })
}
