//! Path: labels, sources → this → what the networks tell apart
//!
//! A distant shot in a forest and a near one on a video have little in common, and a jackhammer
//! has little in common with rain. Networks learn to tell all of them apart; what a class of the
//! head scores is the sum of what its parts score.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array2;

use super::labels::LabelMap;
use super::material::Library;
use super::table::Table;

/// The parts of the head's classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Class that each part belongs to.
    pub class: Vec<usize>,
}

impl Details {
    /// Every class is one part.
    pub fn none(labels: &LabelMap) -> Self {
        Self { class: (0..labels.classes.len()).collect() }
    }

    /// Parts alerting classes by source, and the class that takes the rest by label. What has
    /// fewer than `least_clips` clips shares a part with its like; 0 parts nothing. Sets the
    /// `class` of the table's rows to their part.
    pub fn part(
        table: &mut Table,
        library: &Library,
        labels: &LabelMap,
        least_clips: usize,
    ) -> Self {
        if least_clips == 0 {
            table.class = table.rows.iter().map(|row| row.class).collect();
            return Self::none(labels);
        }
        let name = |clip: Option<usize>, class: usize| -> &str {
            let Some(clip) = clip.map(|clip| &library.clips()[clip]) else { return "" };
            match &labels.classes[class] {
                known if known.alert => &clip.source,
                known if known.rest => &clip.label,
                _ => "",
            }
        };
        let mut clips: BTreeMap<(usize, &str), BTreeSet<usize>> = BTreeMap::new();
        for item in &table.items {
            clips.entry((item.class, name(item.clip, item.class))).or_default().extend(item.clip);
        }
        let mut details = Self::none(labels);
        let mut part_of: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for (&(class, name), clips) in &clips {
            let own = !name.is_empty() && clips.len() >= least_clips;
            if own {
                details.class.push(class);
            }
            let part = if own { details.class.len() - 1 } else { class };
            part_of.insert((class, name), part);
        }
        let of_item: Vec<usize> = table
            .items
            .iter()
            .map(|item| part_of[&(item.class, name(item.clip, item.class))])
            .collect();
        table.class = table.rows.iter().map(|row| of_item[row.item]).collect();
        details
    }

    /// For each part, whether it belongs to `class`.
    pub fn mask(&self, class: usize) -> Vec<bool> {
        self.class.iter().map(|own| *own == class).collect()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class.iter().max().map_or(0, |last| last + 1)
    }

    /// Logits of parts (`[rows, parts]`) to logits of classes, whose softmax sums the parts'.
    pub fn summed(&self, logits: &Array2<f32>) -> Array2<f32> {
        let mut sums = Array2::zeros((logits.nrows(), self.classes()));
        for (parts, mut sums) in logits.outer_iter().zip(sums.outer_iter_mut()) {
            let highest = parts.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            for (part, class) in parts.iter().zip(&self.class) {
                sums[*class] += (part - highest).exp();
            }
            sums.mapv_inplace(|sum: f32| sum.max(f32::MIN_POSITIVE).ln() + highest);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::net::softmax;
    use super::*;

    #[test]
    fn a_class_scores_what_its_parts_score_together() {
        let details = Details { class: vec![0, 1, 0, 1] };
        let logits = ndarray::array![[1.0, -2.0, 0.5, 3.0], [300.0, 0.0, -300.0, 299.0]];
        let mut parts = logits.clone();
        softmax(&mut parts);
        let mut classes = details.summed(&logits);
        softmax(&mut classes);
        for (parts, classes) in parts.outer_iter().zip(classes.outer_iter()) {
            assert!((classes[0] - parts[0] - parts[2]).abs() < 1e-6);
            assert!((classes[1] - parts[1] - parts[3]).abs() < 1e-6);
        }
    }
}
