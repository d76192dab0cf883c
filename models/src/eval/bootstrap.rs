//! How far a number would move with other recordings of the same kind.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A percentile interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// 95 % percentile interval of `statistic` when whole recording groups are drawn with
/// replacement: clips of one recording rise and fall together, so they are not independent draws.
///
/// `groups[i]` is the group of example `i`; `statistic` receives the indices of the drawn examples
/// (an index occurs as often as its group was drawn). Draws for which it is undefined are left
/// out; `None` when fewer than half of the draws are defined or there is fewer than two groups.
pub fn bootstrap_by_group(
    groups: &[usize],
    draws: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    let mut members: std::collections::BTreeMap<usize, Vec<usize>> = Default::default();
    for (index, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(index);
    }
    let members: Vec<Vec<usize>> = members.into_values().collect();
    if members.len() < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(draws);
    let mut drawn = Vec::with_capacity(groups.len());
    for _ in 0..draws {
        drawn.clear();
        for _ in 0..members.len() {
            drawn.extend_from_slice(&members[rng.random_range(0..members.len())]);
        }
        values.extend(statistic(&drawn));
    }
    if values.is_empty() || values.len() * 2 < draws {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Some(Interval { low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_of(values: &[f64]) -> impl Fn(&[usize]) -> Option<f64> + '_ {
        |drawn| Some(drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64)
    }

    #[test]
    fn identical_groups_leave_no_doubt() {
        let values = [0.0, 1.0, 0.0, 1.0];
        let interval = bootstrap_by_group(&[0, 0, 1, 1], 200, 1, mean_of(&values)).unwrap();
        assert_eq!(interval, Interval { low: 0.5, high: 0.5 });
    }

    #[test]
    fn groups_are_drawn_whole() {
        // Ten groups of fifty equal values. The mean of ten draws has a standard error of
        // about 0.16 (1.96 of it: 0.31), whereas five hundred independent clips would give 0.022.
        let values: Vec<f64> = (0..500).map(|i| f64::from(i / 50 % 2)).collect();
        let groups: Vec<usize> = (0..500).map(|i| i / 50).collect();
        let interval = bootstrap_by_group(&groups, 2000, 7, mean_of(&values)).unwrap();
        assert!((interval.low - 0.2).abs() < 0.11, "{interval:?}");
        assert!((interval.high - 0.8).abs() < 0.11, "{interval:?}");
    }

    #[test]
    fn the_seed_decides() {
        let values: Vec<f64> = (0..20).map(|i| f64::from(i * i % 7)).collect();
        let groups: Vec<usize> = (0..20).collect();
        let draw = |seed| bootstrap_by_group(&groups, 100, seed, mean_of(&values));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn one_group_says_nothing_about_others() {
        assert_eq!(bootstrap_by_group(&[5, 5, 5], 50, 1, |_| Some(1.0)), None);
    }
}
