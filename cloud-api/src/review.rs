//! Path: store → **review** → http → people
//!
//! What people should judge next, so that an hour of theirs teaches most: events of which the model
//! was least sure, no two of them alike. Pure.

use std::collections::BTreeMap;

use uuid::Uuid;

/// One that nobody judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Unjudged {
    /// Its id.
    pub id: Uuid,
    /// The station.
    pub device: Uuid,
    /// What the station took it for.
    pub class: String,
    /// Its place in lists, µs.
    pub listed_us: i64,
    /// Its score.
    pub score: f64,
    /// The score at which the class raises an event.
    pub threshold: f64,
    /// Scores of all classes, in the model's order; empty if the station did not tell.
    pub scores: Vec<f64>,
}

/// Why an event is proposed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposed {
    /// Its place in what was given.
    pub place: usize,
    /// From 0, as sure as can be, to 1, a toss.
    pub uncertainty: f64,
    /// How unlike the events proposed before it, 0 to 1; 1 for the first.
    pub novelty: f64,
}

const HOUR_US: i64 = 3_600_000_000;

/// How unsure the model was: 1 where the score stands at the threshold, 0 where it could not be
/// further from it.
#[must_use]
pub fn uncertainty(score: f64, threshold: f64) -> f64 {
    let threshold = threshold.clamp(0.0, 1.0);
    let room = if score >= threshold { 1.0 - threshold } else { threshold };
    1.0 - ((score - threshold).abs() / room.max(1e-6)).clamp(0.0, 1.0)
}

/// Half the distance of two sets of scores, taken as shares: 0 alike, 1 nothing in common.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || a.len() != b.len() {
        // Of other models, or not told: nothing says that they are alike.
        return 1.0;
    }
    let sum = |scores: &[f64]| scores.iter().sum::<f64>().max(1e-9);
    let (all_a, all_b) = (sum(a), sum(b));
    0.5 * a.iter().zip(b).map(|(a, b)| (a / all_a - b / all_b).abs()).sum::<f64>()
}

/// The `limit` to judge next, the most telling first. Of what one station took for one class within
/// one hour only the least sure stands for all: the same branch on the same roof. Among those, each
/// next is the one that is at once unsure and unlike all that were chosen before.
#[must_use]
pub fn propose(events: &[Unjudged], limit: usize) -> Vec<Proposed> {
    let mut buckets: BTreeMap<(Uuid, &str, i64), (usize, f64)> = BTreeMap::new();
    for (place, event) in events.iter().enumerate() {
        let unsure = uncertainty(event.score, event.threshold);
        let bucket = (event.device, event.class.as_str(), event.listed_us.div_euclid(HOUR_US));
        let best = buckets.entry(bucket).or_insert((place, unsure));
        if unsure > best.1 {
            *best = (place, unsure);
        }
    }
    let mut left: Vec<Proposed> = buckets
        .into_values()
        .map(|(place, uncertainty)| Proposed { place, uncertainty, novelty: 1.0 })
        .collect();
    // Of equals the newest, which stand first.
    left.sort_by_key(|proposed| proposed.place);
    let mut chosen = Vec::new();
    while chosen.len() < limit && !left.is_empty() {
        // Neither a sure event nor the tenth of a kind is worth nothing at all.
        let worth = |one: &Proposed| (0.1 + one.uncertainty) * (0.1 + one.novelty);
        let mut best = 0;
        for place in 1..left.len() {
            if worth(&left[place]) > worth(&left[best]) {
                best = place;
            }
        }
        let next = left.remove(best);
        let like = &events[next.place];
        for one in &mut left {
            let other = &events[one.place];
            let apart = match other.class == like.class {
                true => distance(&other.scores, &like.scores),
                false => 1.0,
            };
            one.novelty = one.novelty.min(apart);
        }
        chosen.push(next);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::{HOUR_US, Unjudged, propose, uncertainty};
    use uuid::Uuid;

    fn event(n: u8, device: u8, hour: i64, score: f64, scores: &[f64]) -> Unjudged {
        Unjudged {
            id: Uuid::from_bytes([n; 16]),
            device: Uuid::from_bytes([device; 16]),
            class: "gun_shot".into(),
            listed_us: hour * HOUR_US + i64::from(n),
            score,
            threshold: 0.5,
            scores: scores.to_vec(),
        }
    }

    #[test]
    fn at_the_threshold_nothing_is_sure() {
        assert_eq!(uncertainty(0.5, 0.5), 1.0);
        assert_eq!(uncertainty(1.0, 0.5), 0.0);
        assert_eq!(uncertainty(0.0, 0.5), 0.0);
        assert!(uncertainty(0.6, 0.5) > uncertainty(0.9, 0.5));
        assert_eq!(uncertainty(1.0, 1.0), 1.0, "no division by nothing");
    }

    #[test]
    fn one_stands_for_what_a_station_heard_in_an_hour_and_the_least_sure_does() {
        let events = [
            event(1, 1, 0, 0.9, &[0.9, 0.1]),
            event(2, 1, 0, 0.52, &[0.52, 0.48]),
            event(3, 1, 0, 0.7, &[0.7, 0.3]),
            event(4, 1, 1, 0.95, &[0.95, 0.05]),
            event(5, 2, 0, 0.8, &[0.8, 0.2]),
        ];
        let places: Vec<usize> = propose(&events, 10).iter().map(|one| one.place).collect();
        assert_eq!(places.len(), 3);
        assert_eq!(places[0], 1, "the toss first");
        assert_eq!(propose(&events, 2).len(), 2);
        assert!(propose(&[], 5).is_empty());
    }

    #[test]
    fn the_second_is_unlike_the_first() {
        // Two near twins that are unsure, and one of another kind that is a little less so.
        let events = [
            event(1, 1, 0, 0.51, &[0.51, 0.49, 0.0]),
            event(2, 2, 0, 0.52, &[0.52, 0.48, 0.0]),
            event(3, 3, 0, 0.6, &[0.6, 0.0, 0.4]),
        ];
        let places: Vec<usize> = propose(&events, 3).iter().map(|one| one.place).collect();
        assert_eq!(places, [0, 2, 1]);
        assert_eq!(propose(&events, 3), propose(&events, 3));
    }
}
