//! Path: material and the training script's networks → **scores** → release, the full bundle's trainer
//!
//! What the compact networks of the cross-validation said, each of recordings that it had not met.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::export::{FORMS, ItemLine, WIDTH};
use crate::train::material::{Form, Item};
use crate::train::table::Row;

/// The folder that `models/train-compact/run` works in.
#[derive(Clone, Debug)]
pub struct Work {
    /// What `export-compact` wrote.
    pub material: PathBuf,
    /// What the training script wrote.
    pub networks: PathBuf,
}

/// Windows and their logits, by networks that had not met their recording.
#[derive(Debug)]
pub struct OutOfFold {
    /// Names of the clips, as the manifest of the material writes them.
    pub clips: Vec<String>,
    /// What the windows are of; clips by their place among the names.
    pub items: Vec<Item>,
    /// The windows.
    pub rows: Vec<Row>,
    /// `[windows, classes]`.
    pub logits: Array2<f32>,
    /// Number of folds.
    pub folds: usize,
}

#[derive(Deserialize)]
struct Index {
    classes: Vec<String>,
    folds: usize,
    clips: Vec<Named>,
    items: Vec<ItemLine>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Work {
    /// The two folders below the one that the script works in.
    pub fn below(folder: &Path) -> Self {
        Self { material: folder.join("material"), networks: folder.join("networks") }
    }

    /// Reads what the cross-validation said for these classes.
    ///
    /// # Errors
    /// With a message that names the file at fault.
    pub fn out_of_fold(&self, classes: &[&str]) -> anyhow::Result<OutOfFold> {
        let path = self.material.join("index.json");
        let index: Index = json(&path)?;
        ensure!(
            index.classes == classes,
            "{} is of the classes {}, not {}",
            path.display(),
            index.classes.join(", "),
            classes.join(", ")
        );
        let windows = numbers(&self.material.join("windows.f32"))?;
        let scored = numbers(&self.networks.join("oof.f32"))?;
        ensure!(
            windows.len() % WIDTH == 0 && windows.len() / WIDTH * classes.len() == scored.len(),
            "{} and {} are not of one material: train again",
            self.material.display(),
            self.networks.display()
        );
        let items = index
            .items
            .iter()
            .map(|line| {
                let form = FORMS.iter().find(|(_, name)| *name == line.form);
                let known = line.clip.is_none_or(|clip| clip < index.clips.len());
                let (Some((form, _)), true) = (form, known && line.class < classes.len()) else {
                    anyhow::bail!("{} is damaged: export it again", path.display());
                };
                Ok(Item {
                    clip: line.clip,
                    form: *form,
                    copy: line.copy,
                    fold: line.fold,
                    class: line.class,
                })
            })
            .collect::<anyhow::Result<Vec<Item>>>()?;
        let (mut rows, mut logits) = (Vec::new(), Vec::new());
        for (window, scored) in windows.chunks_exact(WIDTH).zip(scored.chunks_exact(classes.len()))
        {
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
        ensure!(
            rows.iter().all(|row| row.item < items.len()),
            "{} is damaged: export it again",
            self.material.join("windows.f32").display()
        );
        Ok(OutOfFold {
            clips: index.clips.into_iter().map(|clip| clip.name).collect(),
            logits: Array2::from_shape_vec((rows.len(), classes.len()), logits)?,
            folds: index.folds,
            items,
            rows,
        })
    }
}

impl OutOfFold {
    /// What a window is of: the clip's name (none for silence), its form, and which copy.
    pub fn item_of(&self, row: &Row) -> (Option<&str>, Form, u32) {
        let item = &self.items[row.item];
        (item.clip.map(|clip| self.clips[clip].as_str()), item.form, item.copy)
    }
}

pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(super) fn json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    serde_json::from_slice(&read(path)?).with_context(|| path.display().to_string())
}

fn numbers(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = read(path)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "{} ends within a number", path.display());
    Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
