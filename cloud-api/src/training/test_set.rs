//! Which recordings candidates are judged on. Chosen once for each class, when it first has enough of
//! them, written down, and never trained on; what is added to one of those recordings later is neither
//! learned from nor judged by. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

/// Share of a class's recordings that is set aside.
const SHARE: f64 = 0.2;
/// Recordings of a class that are set aside at least: one says nothing of others.
const LEAST: usize = 2;

/// What is to be set aside now, by class: of every class that has nothing set aside yet and at least
/// `learned + 2` recordings, one in five of them. `samples` are (class, group); `frozen` is what was
/// set aside before: group, class it was chosen for, and when. The recordings' own names decide which: the
/// same ones, whoever chooses, and nobody can steer it by the order of uploads.
pub(super) fn choose<'a>(
    samples: impl Iterator<Item = (&'a str, &'a str)>,
    frozen: &[(String, String, i64)],
    learned: usize,
) -> Vec<(String, Vec<String>)> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (class, group) in samples {
        groups.entry(class).or_default().insert(group);
    }
    let taken: BTreeSet<&str> = frozen.iter().map(|(group, ..)| group.as_str()).collect();
    let done: BTreeSet<&str> = frozen.iter().map(|(_, class, _)| class.as_str()).collect();
    let mut chosen: Vec<(String, Vec<String>)> = Vec::new();
    let mut now_taken: BTreeSet<&str> = taken.clone();
    for (class, groups) in groups.iter().filter(|(class, _)| !done.contains(*class)) {
        // Some may be set aside for another class that is heard in them too.
        let mut free: Vec<&str> =
            groups.iter().copied().filter(|group| !now_taken.contains(group)).collect();
        let has = groups.len() - free.len();
        let wanted = LEAST.max((groups.len() as f64 * SHARE).round() as usize);
        if groups.len() < learned + wanted {
            continue;
        }
        free.sort_by_key(|group| Sha256::digest(format!("{class}\n{group}")));
        free.truncate(wanted.saturating_sub(has));
        now_taken.extend(&free);
        chosen.push(((*class).to_owned(), free.into_iter().map(str::to_owned).collect()));
    }
    chosen
}

/// Most samples of one station that a class is learned from: see [`capped`].
pub(super) const ALWAYS: usize = 20;

/// Which samples are learned from, so that no station makes up more than `share` of a class: of its
/// samples of that class, the newest; [`ALWAYS`] of them in any case, or a class that few stations
/// hear could not be learned at all. `samples` are (class, station), oldest first.
pub(super) fn capped<S: Ord + Copy>(samples: &[(&str, Option<S>)], share: f64) -> Vec<bool> {
    let mut counts: BTreeMap<&str, (usize, BTreeMap<S, usize>)> = BTreeMap::new();
    for (class, station) in samples {
        let (others, stations) = counts.entry(class).or_default();
        match station {
            Some(station) => *stations.entry(*station).or_default() += 1,
            None => *others += 1,
        }
    }
    let limits: BTreeMap<&str, usize> = counts
        .iter()
        .map(|(class, (others, stations))| (*class, limit(*others, stations.values(), share)))
        .collect();
    let mut left: BTreeMap<(&str, S), usize> = BTreeMap::new();
    let mut keep = vec![true; samples.len()];
    for (place, (class, station)) in samples.iter().enumerate().rev() {
        let Some(station) = station else { continue };
        let left = left.entry((class, *station)).or_insert(limits[class]);
        keep[place] = *left > 0;
        *left = left.saturating_sub(1);
    }
    keep
}

/// The highest number of samples of one station that is at most `share` of all that then remain.
fn limit<'a>(others: usize, stations: impl Iterator<Item = &'a usize>, share: f64) -> usize {
    let stations: Vec<usize> = stations.copied().collect();
    let most = stations.iter().copied().max().unwrap_or(0);
    let fits = |limit: usize| {
        let total = others + stations.iter().map(|own| (*own).min(limit)).sum::<usize>();
        limit as f64 <= share * total as f64
    };
    (ALWAYS..=most.max(ALWAYS)).rev().find(|limit| fits(*limit)).unwrap_or(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::{ALWAYS, capped, choose};

    fn recordings(class: &str, count: usize) -> Vec<(String, String)> {
        (0..count).map(|n| (class.to_owned(), format!("{class}-{n}"))).collect()
    }

    fn chosen(
        samples: &[(String, String)],
        frozen: &[(String, String, i64)],
    ) -> Vec<(String, Vec<String>)> {
        choose(samples.iter().map(|(c, g)| (c.as_str(), g.as_str())), frozen, 3)
    }

    #[test]
    fn a_class_is_chosen_once_when_it_has_enough() {
        let mut samples = recordings("dog", 4);
        assert!(chosen(&samples, &[]).is_empty(), "three to learn from and two to judge by");
        samples.extend(recordings("gun_shot", 20));
        let first = chosen(&samples, &[]);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].0.as_str(), first[0].1.len()), ("gun_shot", 4));
        let frozen: Vec<(String, String, i64)> =
            first[0].1.iter().map(|group| (group.clone(), "gun_shot".into(), 0)).collect();
        samples.extend(recordings("gun_shot", 500));
        assert!(chosen(&samples, &frozen).is_empty(), "more of the same change nothing");
        samples.reverse();
        samples.extend((0..5).map(|n| ("dog".to_owned(), format!("dog-{n}"))));
        let later = chosen(&samples, &frozen);
        assert_eq!((later[0].0.as_str(), later[0].1.len()), ("dog", 2));
        assert_eq!(chosen(&samples, &frozen), later, "whoever chooses");
    }

    #[test]
    fn a_recording_set_aside_for_one_class_counts_for_the_other_heard_in_it() {
        let mut samples = recordings("gun_shot", 10);
        samples.extend((0..10).map(|n| ("dog".to_owned(), format!("gun_shot-{n}"))));
        let chosen = chosen(&samples, &[]);
        let all: Vec<&String> = chosen.iter().flat_map(|(_, groups)| groups).collect();
        assert_eq!(all.len(), 2, "{chosen:?}");
    }

    #[test]
    fn no_station_makes_up_more_than_its_share() {
        let mut samples: Vec<(&str, Option<u8>)> = vec![("shot", None); 300];
        samples.extend(vec![("shot", Some(1)); 900]);
        samples.extend(vec![("shot", Some(2)); 30]);
        let kept: Vec<_> =
            samples.iter().zip(capped(&samples, 0.1)).filter(|(_, kept)| *kept).collect();
        let of = |station| kept.iter().filter(|(sample, _)| sample.1 == station).count();
        assert_eq!((of(None), of(Some(2))), (300, 30));
        assert_eq!(of(Some(1)), 36, "36 of 366 is 9.8 %, 37 of 367 is more than a tenth");
        let mask = capped(&samples, 0.1);
        assert!(mask[1_199] && !mask[300], "the newest stay");
    }

    #[test]
    fn a_class_that_few_stations_hear_can_be_learned() {
        let samples = vec![("shot", Some(1)); 100];
        assert_eq!(capped(&samples, 0.1).iter().filter(|kept| **kept).count(), ALWAYS);
    }
}
