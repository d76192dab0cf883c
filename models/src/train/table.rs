//! Path: items → extraction → this → the table that fits read
//!
//! All windows of all items as rows, each with its fold, class and weight. Rows that are examples
//! of nothing (the surroundings of a shot) weigh nothing and serve evaluation only.

use std::collections::HashMap;

use ndarray::Array2;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::compression::StreamColumns;
use super::extraction::{Extracted, Extraction, ExtractionError, widen};
use super::fit::Recipe;
use super::labels::LabelMap;
use super::made::MADE_VERSION;
use super::material::{Form, Item, Library, MaterialError, RENDER_VERSION};

/// Windows whose loudest 20 ms are below this are what a recorder hears of silence: no example of
/// a sound, dBFS.
const INAUDIBLE_DBFS: f32 = -75.0;
/// Staged shots that count as one recording where groups are weighed: one alone would weigh as
/// much as a recording, and hundreds of them more than all recordings.
const STAGED_GROUP: u32 = 16;

/// One window of one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Index in [`Table::items`].
    pub item: usize,
    /// First sample of the window in the item's sound.
    pub start: u64,
    /// Class, where the window is an example of it.
    pub class: usize,
    /// Whether it is.
    pub example: bool,
}

/// Features and what is known of them.
pub struct Table {
    /// `[rows, features]`.
    pub features: Array2<f32>,
    /// Where each stream stands among them.
    pub streams: Vec<StreamColumns>,
    /// One per row, in item order, windows of an item in stream order.
    pub rows: Vec<Row>,
    /// Class of each row as the fits read it: a part of the row's own class, see
    /// [`super::details::Details`].
    pub class: Vec<usize>,
    /// Weight of each row; 0 for what is no example, and for all until [`Table::weigh`].
    pub weight: Vec<f32>,
    /// The items that gave at least one row.
    pub items: Vec<Item>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A recording could not be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Features could not be computed.
    #[error(transparent)]
    Extraction(#[from] ExtractionError),
    /// A recording could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Told of progress: items done and in all.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

impl Table {
    /// Makes the sounds of all items and extracts their features, on all threads of the pool; the
    /// order of rows does not depend on them.
    ///
    /// # Errors
    /// The first error of an item, in item order.
    pub fn build(
        library: &Library,
        labels: &LabelMap,
        items: Vec<Item>,
        extraction: &Extraction,
        seed: u64,
        progress: Progress<'_>,
    ) -> Result<Self, TableError> {
        let contents = contents(library)?;
        let pools: Vec<[u8; 32]> =
            (0..library.folds()).map(|fold| library.pool_digest(fold, &contents)).collect();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let total = items.len();
        let extracted: Vec<Option<Extracted>> = items
            .par_iter()
            .with_max_len(4)
            .map(|item| {
                let key = key(library, labels, item, seed, &contents, &pools);
                let extracted = extraction
                    .features::<TableError>(&key, || Ok(library.render(item, labels, seed)?));
                progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, total);
                extracted
            })
            .collect::<Result<_, _>>()?;

        let mut table = Self {
            features: Array2::zeros((0, extraction.width())),
            streams: extraction.streams().to_vec(),
            rows: Vec::new(),
            class: Vec::new(),
            weight: Vec::new(),
            items: Vec::new(),
        };
        let count: usize = extracted.iter().flatten().map(|e| e.windows.len()).sum();
        let mut values = Vec::with_capacity(count * extraction.width());
        for (item, extracted) in items.into_iter().zip(extracted) {
            let Some(extracted) = extracted.filter(|extracted| !extracted.windows.is_empty())
            else {
                continue;
            };
            for mark in &extracted.windows {
                let audible = mark.level_dbfs >= INAUDIBLE_DBFS || item.form == Form::Silence;
                table.rows.push(Row {
                    item: table.items.len(),
                    start: mark.start,
                    class: item.class,
                    example: mark.example && audible,
                });
            }
            values.extend(widen(&extracted.features));
            table.items.push(item);
        }
        // The count of values is rows × width by construction of the entries.
        if let Ok(features) = Array2::from_shape_vec((table.rows.len(), extraction.width()), values)
        {
            table.features = features;
        }
        table.class = table.rows.iter().map(|row| row.class).collect();
        table.weight = vec![0.0; table.rows.len()];
        Ok(table)
    }

    /// Fold of a row.
    pub fn fold(&self, row: usize) -> usize {
        self.items[self.rows[row].item].fold
    }

    /// Row ranges of the items, in item order.
    pub fn item_rows(&self) -> Vec<std::ops::Range<usize>> {
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::with_capacity(self.items.len());
        for (index, row) in self.rows.iter().enumerate() {
            match ranges.last_mut() {
                Some(range) if self.rows[range.start].item == row.item => range.end = index + 1,
                _ => ranges.push(index..index + 1),
            }
        }
        ranges
    }

    /// Weighs the examples: rare classes and small recording groups are lifted as far as the
    /// recipe says, so that rare sounds are heard and hours of wind are not forgotten for them.
    pub fn weigh(&mut self, library: &Library, labels: &LabelMap, recipe: &Recipe) {
        let group = |row: &Row| {
            let item = &self.items[row.item];
            match (item.clip, item.form) {
                (Some(clip), _) => (library.clips()[clip].group.as_str(), None),
                (None, Form::Scene) => ("", Some((item.form, item.copy))),
                (None, Form::Staged) => ("", Some((item.form, item.copy / STAGED_GROUP))),
                (None, _) => ("", None),
            }
        };
        let mut sizes: HashMap<_, f32> = HashMap::new();
        for row in self.rows.iter().filter(|row| row.example) {
            *sizes.entry((row.class, group(row))).or_default() += 1.0;
        }
        let mut weight: Vec<f32> = self
            .rows
            .iter()
            .map(|row| match row.example {
                true => sizes[&(row.class, group(row))].powf(-recipe.group_balance),
                false => 0.0,
            })
            .collect();
        let mut totals = vec![0.0f32; labels.classes.len()];
        let mut counts = vec![0.0f32; labels.classes.len()];
        for (row, weight) in self.rows.iter().zip(&weight).filter(|(row, _)| row.example) {
            totals[row.class] += weight;
            counts[row.class] += 1.0;
        }
        for (row, weight) in self.rows.iter().zip(&mut weight) {
            if row.example {
                *weight *= counts[row.class].powf(1.0 - recipe.balance) / totals[row.class];
            }
        }
        self.weight = weight;
    }

    /// Takes the square roots of the streams that [`rooted`] names.
    pub fn take_roots(&mut self) {
        let rooted = rooted(&self.streams);
        for mut row in self.features.outer_iter_mut() {
            for (value, _) in row.iter_mut().zip(&rooted).filter(|(_, rooted)| **rooted) {
                *value = value.max(0.0).sqrt();
            }
        }
    }

    /// Sets columns to zero: the fits then learn nothing from them.
    pub fn leave_out(&mut self, columns: std::ops::Range<usize>) {
        self.features.slice_mut(ndarray::s![.., columns]).fill(0.0);
    }
}

/// For each column, whether it is one of YAMNet's, whose roots may be taken.
pub fn rooted(streams: &[StreamColumns]) -> Vec<bool> {
    streams
        .iter()
        .flat_map(|stream| stream.columns.clone().map(|_| stream.name.starts_with("yamnet.")))
        .collect()
}

/// SHA-256 of every recording.
fn contents(library: &Library) -> Result<Vec<[u8; 32]>, TableError> {
    library
        .clips()
        .par_iter()
        .map(|clip| {
            let bytes = std::fs::read(&clip.path)
                .map_err(|source| TableError::Read { path: clip.path.clone(), source })?;
            Ok(Sha256::digest(bytes).into())
        })
        .collect()
}

/// All that shapes the sound of an item.
fn key(
    library: &Library,
    labels: &LabelMap,
    item: &Item,
    seed: u64,
    contents: &[[u8; 32]],
    pools: &[[u8; 32]],
) -> Vec<u8> {
    let mut key = RENDER_VERSION.to_le_bytes().to_vec();
    key.push(item.form as u8);
    key.push(u8::from(labels.classes[item.class].sparse));
    if let Some(clip) = item.clip {
        key.extend(contents[clip]);
        key.extend(library.clips()[clip].source.as_bytes());
    }
    if item.form.is_made() {
        key.extend(MADE_VERSION.to_le_bytes());
        key.push(u8::from(item.class == labels.alerting()));
    }
    if item.form == Form::Scene {
        key.extend(seed.to_le_bytes());
        key.extend(item.copy.to_le_bytes());
        return key;
    }
    let random = !matches!(item.form, Form::Plain | Form::BandLimited | Form::Quiet);
    if random {
        key.extend(seed.to_le_bytes());
        key.extend(item.copy.to_le_bytes());
        key.extend(pools[item.fold]);
        if let Some(clip) = item.clip {
            key.extend(library.clips()[clip].name.as_bytes());
        }
    }
    key
}
