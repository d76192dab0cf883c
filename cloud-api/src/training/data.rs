//! From stored samples to what the trainer reads: a manifest and a map of labels.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ecosight_models::train::labels::LabelMap;
use ecosight_models::{Bundle, durable};
use serde_json::{Value, json};

use super::JobError;
use crate::samples::Samples;
use crate::store::{SampleRow, Store};

/// Folds of the cross-validation; each needs a group of every class to be judged on.
const FOLDS: usize = 3;
/// Samples read from the database at once.
const PAGE: i64 = 500;

/// What the trainer is given.
pub(super) struct Material {
    pub(super) manifest: PathBuf,
    pub(super) labels: PathBuf,
    pub(super) audio: PathBuf,
    pub(super) streams: Vec<String>,
    pub(super) samples: usize,
    pub(super) folds: usize,
    /// Classes of the live model that have too few samples to learn.
    pub(super) left_out: Vec<String>,
}

/// Writes the manifest of all samples, and the labels of those classes that can be learned.
pub(super) async fn gather(
    store: &Store,
    samples: &Samples,
    bundle: &Bundle,
    dir: &Path,
) -> Result<Material, JobError> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.samples(None, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        rows.extend(page);
    }
    let (labels, left_out) = labels(bundle, &rows)?;
    let (manifest_text, audio) = (manifest(&rows, samples), samples.dir());
    let json =
        serde_json::to_vec_pretty(&labels).map_err(|error| JobError::Final(error.to_string()))?;
    let (manifest_path, labels_path) = (dir.join("manifest.csv"), dir.join("labels.json"));
    let written = durable::write_file(&manifest_path, manifest_text.as_bytes())
        .and_then(|()| durable::write_file(&labels_path, &json));
    written.map_err(|error| JobError::Passing(format!("{}: {error}", dir.display())))?;
    Ok(Material {
        manifest: manifest_path,
        labels: labels_path,
        audio,
        streams: bundle.manifest.streams.iter().map(|stream| stream.name.clone()).collect(),
        samples: rows.len(),
        folds: FOLDS,
        left_out,
    })
}

/// Classes are those of the live model, in its order, as far as there are recordings of enough
/// groups; samples of any other class are background. Gives the map of labels as the trainer reads it.
fn labels(bundle: &Bundle, rows: &[SampleRow]) -> Result<(Value, Vec<String>), JobError> {
    let builtin = LabelMap::builtin().map_err(|error| JobError::Final(error.to_string()))?;
    let known = |name: &str| builtin.named(name).map(|index| &builtin.classes[index]);
    // The class that takes what no other names stands last, where the built-in map does not say.
    let is_rest = |name: &&String| known(name).is_some_and(|class| class.rest);
    let rest = bundle.classes.iter().find(is_rest).or_else(|| bundle.classes.last());
    let rest = rest.cloned().unwrap_or_default();
    let groups = |chosen: &dyn Fn(&str) -> bool| {
        let chosen = rows.iter().filter(|row| chosen(&row.class));
        chosen.map(|row| row.group_key.as_str()).collect::<BTreeSet<_>>().len()
    };
    let (mut learned, mut left_out, mut classes) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut alerting = Vec::new();
    for (index, name) in bundle.classes.iter().enumerate().filter(|(_, name)| **name != rest) {
        let rule = bundle.detector.rules.iter().find(|rule| rule.class == index);
        let alert = rule.is_some_and(|rule| rule.alert);
        if alert {
            alerting.push(name.as_str());
        }
        if groups(&|class| class == name) < FOLDS {
            left_out.push(name.clone());
            continue;
        }
        learned.insert(name.as_str());
        let sparse = known(name).map_or(rule.is_some(), |class| class.sparse);
        classes.push(json!({
            "name": name, "labels": [name], "rest": false, "sparse": sparse, "alert": alert,
        }));
    }
    if !alerting.iter().any(|name| learned.contains(name)) {
        return Err(JobError::Final(format!(
            "not enough samples: of {} there must be at least {FOLDS} from different recordings, \
             so that the candidate can be judged on recordings that it was not trained on",
            alerting.join(" or ")
        )));
    }
    if groups(&|class| !learned.contains(class)) < FOLDS {
        let learned: Vec<&str> = learned.into_iter().collect();
        return Err(JobError::Final(format!(
            "not enough samples: there must be at least {FOLDS} recordings that hold none of {}, \
             as {rest}",
            learned.join(", ")
        )));
    }
    classes.push(json!({
        "name": rest, "labels": [rest], "rest": true, "sparse": false, "alert": false,
    }));
    Ok((json!({ "classes": classes }), left_out))
}

/// CSV: names hold no comma, quote or line break (see `samples::checked_name`).
fn manifest(rows: &[SampleRow], samples: &Samples) -> String {
    let mut text = String::from("path,label,group,source,licence\n");
    for row in rows {
        let path = samples.relative_path(row);
        let _ =
            writeln!(text, "{path},{},{},{},own recording", row.class, row.group_key, row.source);
    }
    text
}
