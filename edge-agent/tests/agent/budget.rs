//! The false-alarm budget: thresholds from the station's own background.

use ecosight_agent::budget::{
    BLOCK_S, Background, Blocks, Budget, DAYS_MAX, FLOOD, Histogram, RecallCurve, TRIM, WEEK_S,
    log_odds, score,
};
use proptest::prelude::*;

use crate::support::Random;

/// Blocks of a day.
const DAY: usize = 8_640;

/// Even chance in (0, 1).
fn chance(random: &mut Random) -> f64 {
    (random.below(1 << 40) as f64 + 0.5) / (1_u64 << 40) as f64
}

/// Highest score of a block whose tail falls by e in `slope` units of log-odds above `body`.
fn background_score(random: &mut Random, body: f64, slope: f64) -> f32 {
    score(body - slope * chance(random).ln())
}

/// `days` days of such a background.
fn heard(seed: u64, days: i64, body: f64, slope: f64) -> Background {
    let mut random = Random(seed);
    let mut background = Background::new("model".into());
    for day in 0..days {
        for _ in 0..DAY {
            background.add("shot", day, background_score(&mut random, body, slope), false);
        }
    }
    background
}

fn budget(per_week: f64) -> Budget {
    let recall = RecallCurve::new(vec![(0.6, 0.9), (0.95, 0.6), (0.99, 0.3), (0.999, 0.1)]);
    Budget { class: "shot".into(), per_week, bundle_threshold: 0.95, recall }
}

/// Blocks a week above a threshold, by the law that made the background.
fn truth(threshold: f32, body: f64, slope: f64) -> f64 {
    WEEK_S / BLOCK_S as f64 * ((body - log_odds(threshold)) / slope).exp().min(1.0)
}

#[test]
fn the_threshold_keeps_the_budget_on_what_was_never_heard() {
    // The true rate at the chosen threshold, over backgrounds that differ only by chance.
    for (body, slope) in [(-3.0, 0.5), (-4.0, 0.5)] {
        let mut rates = Vec::new();
        for seed in 1..=20 {
            let known = heard(seed * 31, 2, body, slope).known("shot");
            let report = budget(5.0).decide(&known);
            assert_eq!(report.state, "met", "{report:?}");
            rates.push(truth(report.threshold, body, slope));
        }
        rates.sort_by(f64::total_cmp);
        assert!(rates[10] <= 5.0, "the median keeps the budget: {rates:?}");
        assert!(rates[17] <= 10.0, "few exceed it twofold: {rates:?}");
        assert!(rates[2] >= 0.1, "and it is not bought by hearing nothing: {rates:?}");
    }
}

#[test]
fn a_quiet_place_gets_a_lower_threshold_and_hears_more() {
    let quiet = budget(2.0).decide(&heard(3, 3, -9.0, 0.5).known("shot"));
    let loud = budget(2.0).decide(&heard(3, 3, -3.0, 0.6).known("shot"));
    assert!(quiet.threshold < 0.95 && loud.threshold > 0.95, "{quiet:?} {loud:?}");
    assert!(quiet.recall > quiet.bundle_recall, "{quiet:?}");
    assert!(loud.recall < loud.bundle_recall, "{loud:?}");
}

#[test]
fn before_an_hour_is_heard_the_bundles_threshold_holds() {
    let mut random = Random(5);
    let mut background = Background::new("model".into());
    for _ in 0..350 {
        background.add("shot", 0, background_score(&mut random, -6.0, 0.6), false);
    }
    let report = budget(1.0).decide(&background.known("shot"));
    assert_eq!((report.state.as_str(), report.threshold), ("learning", 0.95));
    assert_eq!(report.expected_per_week, None);
    assert_eq!(budget(1.0).decide(&Background::default().known("other")).state, "learning");
}

#[test]
fn where_the_budget_cannot_be_met_it_says_so() {
    let report = budget(0.5).decide(&heard(7, 3, 2.0, 1.0).known("shot"));
    assert_eq!(report.state, "cannot", "{report:?}");
    assert!((report.threshold - 0.999).abs() < 1e-4, "the highest that still hears: {report:?}");
    assert!(report.expected_per_week.is_some_and(|rate| rate > 0.5));
    assert_eq!(report.recall, Some(0.1));
}

#[test]
fn real_shots_do_not_raise_the_threshold_but_a_generator_does() {
    let clean = budget(5.0).decide(&heard(11, 3, -3.0, 0.5).known("shot"));
    // A few shots a day, confirmed, and as many that stayed just below.
    let mut shots = heard(11, 3, -3.0, 0.5);
    for day in 0..3 {
        for _ in 0..FLOOD {
            shots.add("shot", day, 0.9999, true);
        }
    }
    for _ in 0..TRIM {
        shots.add("shot", 1, 0.94, false);
    }
    let poisoned = budget(5.0).decide(&shots.known("shot"));
    let moved = log_odds(poisoned.threshold) - log_odds(clean.threshold);
    assert!(moved.abs() < 0.3, "{clean:?} {poisoned:?}");
    assert_eq!(shots.known("shot").confirmed, 3 * FLOOD);

    let mut generator = heard(11, 3, -3.0, 0.5);
    for _ in 0..DAY / 2 {
        generator.add("shot", 2, 0.98, true);
    }
    let flooded = budget(5.0).decide(&generator.known("shot"));
    assert!(flooded.threshold > 0.98, "{flooded:?}");
}

#[test]
fn what_was_heard_survives_on_disk_and_adds_up() {
    let (mut first, second) = (heard(1, 2, -6.0, 0.6), heard(2, 3, -6.0, 0.6));
    let read = Background::read(&first.write(), "model").expect("reads back");
    assert_eq!(read, first);
    assert!(Background::read(&first.write(), "another").is_none(), "another model's scores");
    assert!(Background::read(b"{\"of\": 5", "model").is_none());
    assert!(first.write().len() < 20_000, "{} bytes", first.write().len());
    let apart = first.known("shot").background.total() + second.known("shot").background.total();
    first.merge(&second);
    assert_eq!(first.known("shot").background.total(), apart);
}

#[test]
fn no_more_than_four_weeks_are_kept_whatever_the_clock_says() {
    let mut background = Background::new("model".into());
    for day in (0..100).chain([-20_000, 90_000]) {
        for _ in 0..10 {
            background.add("shot", day, 0.1, false);
        }
    }
    let days = background.known("shot").background.total() / 10;
    assert!(days <= DAYS_MAX as u64, "{days} days");
    let bytes = background.write().len();
    for _ in 0..10_000 {
        background.add("shot", 90_000, 0.1, false);
    }
    assert!(background.write().len() < bytes + 100, "counts grow, not the file");
}

#[test]
fn a_block_is_one_false_alarm_however_many_windows_it_has() {
    let mut blocks = Blocks::default();
    let mut done = Vec::new();
    for window in 0..100_u64 {
        let mean = if window == 30 { 0.7 } else { 0.1 };
        done.extend(blocks.push(window * 7_680, mean, window == 60));
    }
    done.extend(blocks.end());
    assert_eq!(done.len(), 5, "48 s are four blocks and a large part of the fifth");
    assert_eq!(done.iter().map(|b| b.highest).collect::<Vec<_>>(), [0.1, 0.7, 0.1, 0.1, 0.1]);
    assert_eq!(done.iter().filter(|b| b.confirmed).count(), 1);
    blocks.push(0, 0.9, false);
    assert_eq!(blocks.end(), None, "a moment is no fair part of the time");
}

proptest! {
    #[test]
    fn merging_histograms_is_counting_everything(
        a in prop::collection::vec(0.0_f32..=1.0, 0..200),
        b in prop::collection::vec(0.0_f32..=1.0, 0..200),
    ) {
        let count = |scores: &[f32]| {
            let mut histogram = Histogram::default();
            scores.iter().for_each(|score| histogram.add(*score));
            histogram
        };
        let mut merged = count(&a);
        merged.merge(&count(&b));
        prop_assert_eq!(&merged, &count(&[a, b].concat()));
        if let Some((level, above)) = merged.level_of(5) {
            prop_assert!(above >= 5);
            prop_assert_eq!(merged.at_or_above(level + 1e-9), above);
        }
    }

    #[test]
    fn recall_falls_with_the_threshold_and_stays_a_part(threshold in 0.5_f32..1.0) {
        let curve = RecallCurve::new(vec![(0.99, 0.3), (0.6, 0.9), (0.95, 0.6)]);
        let here = curve.at(threshold);
        prop_assert_eq!(here.is_none(), threshold < 0.5999);
        if let (Some(here), Some(above)) = (here, curve.at((threshold + 0.01).min(1.0))) {
            prop_assert!((0.3..=0.9).contains(&here) && above <= here + 1e-9);
        }
    }
}
