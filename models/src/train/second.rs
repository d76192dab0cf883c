//! Path: compact bundle → **second** → head, cross-validation
//!
//! A second ear beside a head on YAMNet: the compact network and its net on hand-made numbers, whose
//! logits are added to the head's. Their errors differ, so that together they hear more.
//!
//! The compact bundle has heard every recording. Judged by it, a head would be flattered; so the
//! cross-validation takes what the compact networks of *its* folds said, which must be the same
//! folds, and there is no judging without them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use tract_onnx::pb::GraphProto;

use super::compression::StreamColumns;
use super::head::join;
use super::labels::LabelMap;
use super::material::{Form, Library};
use super::table::{Row, Table};
use crate::BundleFiles;
use crate::bundle::{Normalisation, SecondSpec, StreamSpec};
use crate::compact;
use crate::compact::scores::Work;
use crate::onnx::{GraphWriter, decode_checked};

/// A compact bundle as part of a full one.
pub struct Second {
    name: String,
    version: String,
    share: f32,
    streams: Vec<StreamSpec>,
    normalisation: Normalisation,
    network: Vec<u8>,
    head: GraphProto,
}

/// What the evaluation says of a second ear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondLine {
    /// The compact bundle, name and version.
    pub bundle: String,
    /// Its part of the logits.
    pub share: f32,
    /// How it was kept from flattering the numbers.
    pub protocol: String,
}

impl Second {
    /// Takes the compact bundle in `dir`, whose classes must be those of `labels`, for `share` of the
    /// logits.
    ///
    /// # Errors
    /// When it is no bundle, or none that hears by itself; the message names it.
    pub fn open(dir: &Path, labels: &LabelMap, share: f32) -> anyhow::Result<Self> {
        let files = BundleFiles::open(dir)?;
        let manifest = &files.bundle.manifest;
        let name = dir.display();
        ensure!(
            manifest.backbone.is_none()
                && manifest.streams.iter().any(|stream| stream.name == compact::STREAM),
            "{name} is no compact bundle: a second ear needs a network of its own and no YAMNet"
        );
        let classes: Vec<&str> = labels.classes.iter().map(|class| class.name.as_str()).collect();
        ensure!(
            manifest.classes == classes,
            "{name} hears {}, the labels make {}",
            manifest.classes.join(", "),
            classes.join(", ")
        );
        let network = files.file(compact::NETWORK_FILE).unwrap_or_default().to_vec();
        let head = decode_checked(files.head()).with_context(|| format!("{name}: its head"))?;
        let Some(head) = head.graph else { bail!("{name}: its head is empty") };
        Ok(Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            share,
            streams: manifest.streams.clone(),
            normalisation: manifest.normalisation.clone(),
            network,
            head,
        })
    }

    /// Its part of the logits.
    pub fn share(&self) -> f32 {
        self.share
    }

    /// The streams that it hears, in the order that it takes them.
    pub fn streams(&self) -> &[StreamSpec] {
        &self.streams
    }

    /// What the manifest says of it beside networks that hear the streams `own`.
    pub fn spec(&self, own: &[StreamColumns]) -> SecondSpec {
        let shared = |name: &String| own.iter().any(|stream| stream.name == *name);
        let names = self.streams.iter().map(|stream| stream.name.clone());
        SecondSpec {
            name: self.name.clone(),
            version: self.version.clone(),
            share: self.share,
            streams: names.filter(|name| !shared(name)).collect(),
        }
    }

    /// Its network's file.
    pub fn network(&self) -> &[u8] {
        &self.network
    }

    /// What the evaluation says of it.
    pub fn line(&self) -> SecondLine {
        SecondLine {
            bundle: format!("{} {}", self.name, self.version),
            share: self.share,
            protocol: "in the cross-validation by networks trained on the same folds, which had \
                       not met the recording"
                .to_owned(),
        }
    }

    /// Writes its head into another graph, whose input `features` holds `streams`; the name of its
    /// logits.
    pub fn write(&self, graph: &mut GraphWriter, features: &str, streams: &[StreamSpec]) -> String {
        let parts: Vec<String> = self
            .streams
            .iter()
            .map(|stream| {
                let before = streams.iter().take_while(|other| *other != stream);
                let start: usize = before.map(|other| other.len).sum();
                let name = format!("second.{}", stream.name);
                graph.columns(features, start..start + stream.len, &name);
                name
            })
            .collect();
        let joined = join(graph, &parts, "second.features");
        let shape = [1, self.normalisation.mean.len()];
        graph.constant("second.mean", &shape, &self.normalisation.mean);
        graph.constant("second.scale", &shape, &self.normalisation.scale);
        graph.node("Sub", &[&joined, "second.mean"], "second.centred", &[]);
        graph.node("Mul", &["second.centred", "second.scale"], "second.scaled", &[]);
        let mut standardised = "second.scaled";
        if let Some(limit) = self.normalisation.limit {
            graph.constant("second.least", &[], &[-limit]);
            graph.constant("second.most", &[], &[limit]);
            let ends = ["second.scaled", "second.least", "second.most"];
            graph.node("Clip", &ends, "second.standardised", &[]);
            standardised = "second.standardised";
        }
        graph.include(&self.head, "second.head", standardised)
    }
}

/// What the compact networks of the cross-validation in `work` said of the table's windows, each of
/// recordings that it had not met; zero for windows that nobody is judged on. The last window of a sound
/// that is cut off takes what was said of the one before, if any: the second ear waits for what follows.
///
/// # Errors
/// When it is of other recordings, other folds or another seed, or lacks a window.
pub fn out_of_fold(
    work: &Work,
    library: &Library,
    labels: &LabelMap,
    table: &Table,
) -> anyhow::Result<Array2<f32>> {
    let classes: Vec<&str> = labels.classes.iter().map(|class| class.name.as_str()).collect();
    let remedy = "train the compact network again with these recordings and this seed \
                  (make train-compact)";
    let said = work.out_of_fold(&classes).with_context(|| format!("no second ear: {remedy}"))?;
    let named = |clip: Option<usize>| clip.map(|clip| said.clips[clip].as_str());
    let folds: HashMap<_, _> =
        said.items.iter().map(|item| (named(item.clip), item.fold)).collect();
    for (clip, fold) in library.clips().iter().zip(library.fold()) {
        let there = folds.get(&Some(clip.name.as_str()));
        ensure!(
            said.folds == library.folds() && there.is_none_or(|there| there == fold),
            "{} has {} in another fold: its networks have met what they would judge; {remedy}",
            work.material.display(),
            clip.name
        );
    }
    let mut known = HashMap::new();
    for (number, row) in said.rows.iter().enumerate() {
        known.insert((said.item_of(row), row.start), number);
    }
    let mut logits = Array2::<f32>::zeros((table.rows.len(), classes.len()));
    for (index, row) in table.rows.iter().enumerate() {
        let item = &table.items[row.item];
        if item.form.is_made() || item.form == Form::Mixed {
            continue;
        }
        let name = item.clip.map(|clip| library.clips()[clip].name.as_str());
        let shown = name.unwrap_or("silence");
        let found = known.get(&((name, item.form, item.copy), row.start));
        let Some(&number) = found else {
            let is_same = |other: &Row| other.item == row.item;
            let before = index.checked_sub(1).filter(|before| is_same(&table.rows[*before]));
            let last = !table.rows.get(index + 1).is_some_and(is_same);
            if last && item.form.is_cut_off() {
                if let Some(before) = before {
                    let as_before = logits.row(before).to_owned();
                    logits.row_mut(index).assign(&as_before);
                }
                continue;
            }
            bail!(
                "{} lacks what the compact network said of {shown} ({:?}): {remedy}",
                work.networks.display(),
                item.form
            );
        };
        logits.row_mut(index).assign(&said.logits.row(number));
    }
    Ok(logits)
}
