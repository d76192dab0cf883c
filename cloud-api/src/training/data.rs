//! From stored samples to what the trainer reads: a manifest and a map of labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ecosight_models::train::labels::LabelMap;
use ecosight_models::{Bundle, durable};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{JobError, test_set};
use crate::samples::Samples;
use crate::store::{SampleRow, Store, hex};

/// Fewest folds of the cross-validation; each needs a group of every class to be judged on.
const FOLDS: usize = 3;
/// Most of them.
const MOST_FOLDS: usize = 5;
/// Samples read from the database at once.
const PAGE: i64 = 500;

/// What the trainer is given, and what it never sees.
pub(super) struct Material {
    pub(super) manifest: PathBuf,
    pub(super) labels: PathBuf,
    pub(super) audio: PathBuf,
    pub(super) streams: Vec<String>,
    pub(super) samples: usize,
    /// As many as the scarcest class has recordings, from [`FOLDS`] to [`MOST_FOLDS`].
    pub(super) folds: usize,
    /// Recordings of the scarcest class.
    pub(super) scarcest: usize,
    /// Classes of the live model that have too few samples to learn.
    pub(super) left_out: Vec<String>,
    /// Samples that were left out because their station has enough of them.
    pub(super) over_share: usize,
    /// Samples of recordings of the test set that came after it was chosen: neither learned from nor
    /// judged by.
    pub(super) set_aside_late: usize,
    /// Over path, class and group of every sample that is trained on.
    pub(super) data_sha256: String,
    /// Samples of the frozen test set.
    pub(super) test: Vec<SampleRow>,
    /// Over id, class and group of each.
    pub(super) test_sha256: String,
    /// Recordings that the trainer meets.
    pub(super) learned_groups: BTreeSet<String>,
}

/// Sets aside what candidates are judged on, writes the manifest of the other samples, and the labels
/// of those classes that can be learned.
pub(super) async fn gather(
    store: &Store,
    samples: &Samples,
    bundle: &Bundle,
    dir: &Path,
    device_share: f64,
    now_us: i64,
) -> Result<Material, JobError> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.samples(None, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        rows.extend(page);
    }
    // Oldest first, and the same for the same samples, whenever they are read.
    rows.sort_by_key(|row| (row.created_us, row.id));
    let frozen = store.test_groups().await?;
    // A class that the model does not know is background: what matters is that there is some.
    let role = |row: &SampleRow| match bundle.classes.contains(&row.class) {
        true => row.class.clone(),
        false => rest(bundle),
    };
    let roles: Vec<String> = rows.iter().map(role).collect();
    let pairs = roles.iter().zip(&rows).map(|(role, row)| (role.as_str(), row.group_key.as_str()));
    for (class, groups) in test_set::choose(pairs, &frozen, FOLDS) {
        store.set_aside(class, groups, now_us).await?;
    }
    let frozen: BTreeMap<String, i64> =
        store.test_groups().await?.into_iter().map(|(group, _, at_us)| (group, at_us)).collect();
    let (mut test, rows): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| frozen.contains_key(&row.group_key));
    // What came to one of those recordings later would make it another test.
    let all = test.len();
    test.retain(|row| frozen.get(&row.group_key).is_some_and(|at_us| row.created_us <= *at_us));
    let set_aside_late = all - test.len();
    let shares: Vec<(&str, Option<uuid::Uuid>)> =
        rows.iter().map(|row| (row.class.as_str(), row.device_id)).collect();
    let kept = test_set::capped(&shares, device_share);
    let over_share = kept.iter().filter(|kept| !**kept).count();
    let rows: Vec<SampleRow> =
        rows.into_iter().zip(kept).filter_map(|(row, kept)| kept.then_some(row)).collect();
    let (labels, left_out, scarcest) = labels(bundle, &rows)?;
    judgeable(bundle, &test)?;
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
        streams: bundle.manifest.trained_streams(),
        samples: rows.len(),
        folds: scarcest.clamp(FOLDS, MOST_FOLDS),
        scarcest,
        left_out,
        over_share,
        set_aside_late,
        data_sha256: hex(&Sha256::digest(manifest_text.as_bytes())),
        test_sha256: snapshot(&test),
        learned_groups: rows.iter().map(|row| row.group_key.clone()).collect(),
        test,
    })
}

/// A hash that changes with any sample of a set, its class or its recording.
fn snapshot(rows: &[SampleRow]) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update(format!("{},{},{}\n", row.sha256, row.class, row.group_key));
    }
    hex(&hash.finalize())
}

/// Whether a candidate could be judged at all.
fn judgeable(bundle: &Bundle, test: &[SampleRow]) -> Result<(), JobError> {
    let alerting = alerting(bundle);
    let (shots, others): (Vec<_>, Vec<_>) =
        test.iter().partition(|row| alerting.contains(&row.class.as_str()));
    if !shots.is_empty() && !others.is_empty() {
        return Ok(());
    }
    let missing = if shots.is_empty() { alerting.join(" or ") } else { rest(bundle) };
    Err(JobError::Final(format!(
        "not enough samples: of {missing} there must be recordings enough to learn from ({FOLDS}) \
         and to judge by (2), and those that are judged by are never learned from"
    )))
}

/// Classes that a bundle alerts by.
pub(super) fn alerting(bundle: &Bundle) -> Vec<&str> {
    let rules = bundle.detector.rules.iter().filter(|rule| rule.alert);
    rules.filter_map(|rule| bundle.classes.get(rule.class).map(String::as_str)).collect()
}

/// The class that takes what no other names.
fn rest(bundle: &Bundle) -> String {
    let builtin = LabelMap::builtin().ok();
    let is_rest = |name: &&String| {
        let named = builtin.as_ref().and_then(|map| Some(&map.classes[map.named(name)?]));
        named.is_some_and(|class| class.rest)
    };
    // It stands last, where the built-in map does not say.
    let rest = bundle.classes.iter().find(is_rest).or_else(|| bundle.classes.last());
    rest.cloned().unwrap_or_default()
}

/// Classes are those of the live model, in its order, as far as there are recordings of enough
/// groups; samples of any other class are background. Gives the map of labels as the trainer reads it,
/// the classes that are left out, and how many recordings the scarcest of the others has.
fn labels(bundle: &Bundle, rows: &[SampleRow]) -> Result<(Value, Vec<String>, usize), JobError> {
    let builtin = LabelMap::builtin().map_err(|error| JobError::Final(error.to_string()))?;
    let known = |name: &str| builtin.named(name).map(|index| &builtin.classes[index]);
    let rest = rest(bundle);
    let groups = |chosen: &dyn Fn(&str) -> bool| {
        let chosen = rows.iter().filter(|row| chosen(&row.class));
        chosen.map(|row| row.group_key.as_str()).collect::<BTreeSet<_>>().len()
    };
    let (mut learned, mut left_out, mut classes) = (BTreeSet::new(), Vec::new(), Vec::new());
    let (mut alerting, mut scarcest) = (Vec::new(), usize::MAX);
    for (index, name) in bundle.classes.iter().enumerate().filter(|(_, name)| **name != rest) {
        let rule = bundle.detector.rules.iter().find(|rule| rule.class == index);
        let alert = rule.is_some_and(|rule| rule.alert);
        if alert {
            alerting.push(name.as_str());
        }
        let recordings = groups(&|class| class == name);
        if recordings < FOLDS {
            left_out.push(name.clone());
            continue;
        }
        scarcest = scarcest.min(recordings);
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
    let others = groups(&|class| !learned.contains(class));
    if others < FOLDS {
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
    Ok((json!({ "classes": classes }), left_out, scarcest.min(others)))
}

/// CSV: names, sources and licences hold no comma, quote or line break (see `samples::checked_name`).
fn manifest(rows: &[SampleRow], samples: &Samples) -> String {
    let mut text = String::from("path,label,group,source,licence\n");
    for row in rows {
        let path = samples.relative_path(row);
        let _ =
            writeln!(text, "{path},{},{},{},{}", row.class, row.group_key, row.source, row.licence);
    }
    text
}
