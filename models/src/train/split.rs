//! Path: recordings → this → folds
//!
//! A recording's slices are near copies of each other: with one of them in training, the others
//! test memory. So whole groups are dealt to folds, and every augmentation follows its group.

use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::dataset::Clip;

/// The fold of each clip: recording groups never part, labels and sources are spread evenly.
///
/// # Panics
/// When `folds` is 0.
pub fn folds_of(clips: &[Clip], folds: usize, seed: u64) -> Vec<usize> {
    let stratum = |clip: &Clip| format!("{}/{}", clip.label, clip.source);
    let strata: Vec<String> = clips.iter().map(stratum).collect();
    let keys: Vec<(&str, &str)> = strata
        .iter()
        .zip(clips)
        .map(|(stratum, clip)| (stratum.as_str(), clip.group.as_str()))
        .collect();
    grouped_folds(&keys, folds, seed)
}

/// Deals whole groups to `folds` folds such that each stratum (label and source, say) is spread as
/// evenly as its groups allow. `items[i]` is (stratum, group); the answer is the fold of each item.
///
/// Large groups are dealt first, each to the fold that holds least of what the group consists of;
/// the seed decides only between equals.
///
/// # Panics
/// When `folds` is 0.
pub fn grouped_folds(items: &[(&str, &str)], folds: usize, seed: u64) -> Vec<usize> {
    assert!(folds > 0, "at least one fold");
    let mut stratum_totals: HashMap<&str, f64> = HashMap::new();
    let mut groups: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
    for &(stratum, group) in items {
        *stratum_totals.entry(stratum).or_default() += 1.0;
        *groups.entry(group).or_default().entry(stratum).or_default() += 1.0;
    }
    let mut order: Vec<(&str, BTreeMap<&str, f64>)> = groups.into_iter().collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let size = |content: &BTreeMap<&str, f64>| content.values().sum::<f64>();
    order.sort_by(|a, b| size(&b.1).total_cmp(&size(&a.1)));

    let mut fill: Vec<HashMap<&str, f64>> = vec![HashMap::new(); folds];
    let mut total = vec![0.0; folds];
    let mut fold_of: HashMap<&str, usize> = HashMap::new();
    for (group, content) in &order {
        let crowding = |fold: usize| -> f64 {
            content
                .iter()
                .map(|(stratum, count)| {
                    let held = fill[fold].get(stratum).copied().unwrap_or(0.0);
                    count * held / stratum_totals[stratum]
                })
                .sum()
        };
        let best = (0..folds)
            .min_by(|&a, &b| {
                crowding(a).total_cmp(&crowding(b)).then(f64::total_cmp(&total[a], &total[b]))
            })
            .unwrap_or(0);
        for (stratum, count) in content {
            *fill[best].entry(stratum).or_default() += count;
        }
        total[best] += size(content);
        fold_of.insert(group, best);
    }
    items.iter().map(|(_, group)| fold_of[group]).collect()
}

/// Deals each of `count` clips to a fold at random, which parts recordings: for comparison only.
///
/// # Panics
/// When `folds` is 0.
pub fn random_folds(count: usize, folds: usize, seed: u64) -> Vec<usize> {
    let mut fold: Vec<usize> = (0..count).map(|clip| clip % folds).collect();
    fold.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    fold
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_group_never_parts(
            pairs in prop::collection::vec((0u8..4, 0u8..30), 1..200),
            folds in 1usize..7,
            seed in any::<u64>(),
        ) {
            let named: Vec<(String, String)> =
                pairs.iter().map(|(s, g)| (format!("s{s}"), format!("g{g}"))).collect();
            let items: Vec<(&str, &str)> =
                named.iter().map(|(s, g)| (s.as_str(), g.as_str())).collect();
            let fold = grouped_folds(&items, folds, seed);
            prop_assert_eq!(fold.len(), items.len());
            let mut of_group = HashMap::new();
            for (item, &fold) in items.iter().zip(&fold) {
                prop_assert!(fold < folds);
                prop_assert_eq!(*of_group.entry(item.1).or_insert(fold), fold);
            }
            prop_assert_eq!(&fold, &grouped_folds(&items, folds, seed));
        }
    }

    #[test]
    fn strata_are_spread_evenly() {
        // Thirty groups of shots and sixty of dogs, of one to three clips.
        let mut named = Vec::new();
        for group in 0..90 {
            let stratum = if group % 3 == 0 { "shot" } else { "dog" };
            for _ in 0..=group % 3 {
                named.push((stratum, format!("g{group}")));
            }
        }
        let items: Vec<(&str, &str)> = named.iter().map(|(s, g)| (*s, g.as_str())).collect();
        let fold = grouped_folds(&items, 5, 1);
        for stratum in ["shot", "dog"] {
            let total = items.iter().filter(|item| item.0 == stratum).count();
            for wanted in 0..5 {
                let here = items.iter().zip(&fold).filter(|(i, f)| i.0 == stratum && **f == wanted);
                let share = here.count() as f64 / total as f64;
                assert!((share - 0.2).abs() < 0.03, "{stratum} in fold {wanted}: {share}");
            }
        }
    }
}
