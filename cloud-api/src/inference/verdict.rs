//! From the scores of windows to what a whole file holds.

use ecosight_models::yamnet::class_name;
use ecosight_models::{Bundle, SAMPLE_RATE_HZ, Scores, Window};

use super::Wanted;

/// AudioSet classes that an answer names.
const HEARD_LEN: usize = 5;

/// What was heard in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Probability of each class, in the bundle's order; they sum to 1.
    pub probabilities: Vec<f64>,
    /// Each window, where they were asked for; else empty.
    pub windows: Vec<WindowScores>,
    /// The AudioSet classes with the highest scores of any window, highest first; `None` where
    /// nobody asked or no network gives them.
    pub audioset: Option<Vec<(&'static str, f32)>>,
}

/// What was heard in one window of 0.96 s.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowScores {
    /// Where it begins, seconds.
    pub start_s: f64,
    /// Where it ends, seconds.
    pub end_s: f64,
    /// Its loudest 20 ms, dBFS.
    pub level_dbfs: f32,
    /// Calibrated scores, in the bundle's order.
    pub scores: Vec<f32>,
}

impl WindowScores {
    pub(super) fn unscored(window: &Window) -> Self {
        let seconds = |sample: u64| sample as f64 / f64::from(SAMPLE_RATE_HZ);
        Self {
            start_s: seconds(window.start_sample),
            end_s: seconds(window.end_sample()),
            level_dbfs: window.level_dbfs,
            scores: Vec::new(),
        }
    }
}

pub(super) fn heard(
    scores: &[Scores],
    mut windows: Vec<WindowScores>,
    wanted: Wanted,
    bundle: &Bundle,
) -> Heard {
    for (window, scores) in windows.iter_mut().zip(scores) {
        window.scores.clone_from(&scores.classes);
    }
    let audioset = if wanted.heard { audioset(scores) } else { None };
    Heard { probabilities: probabilities(scores, bundle), windows, audioset }
}

/// A class counts by its highest window: a shot in a minute of rain was heard.
fn audioset(scores: &[Scores]) -> Option<Vec<(&'static str, f32)>> {
    let mut highest: Vec<f32> = Vec::new();
    for window in scores {
        let window = window.audioset.as_ref()?;
        highest.resize(window.len(), 0.0);
        for (highest, score) in highest.iter_mut().zip(window) {
            *highest = highest.max(*score);
        }
    }
    let mut ranked: Vec<(usize, f32)> = highest.into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = |(class, score): (usize, f32)| Some((class_name(class)?, score));
    Some(ranked.into_iter().take(HEARD_LEN).filter_map(named).collect())
}

/// What a whole file holds, from the scores of its windows.
///
/// A class that the detector watches for is as probable as the detector's own measure at its highest:
/// the mean of so many neighbouring windows as must confirm it. The other classes describe the
/// background; they share, by their mean over the file, what the most probable watched class leaves.
/// So a shot in a minute of rain is a shot, and a file is called one about when a station would call
/// it one. All together are scaled to sum to 1.
fn probabilities(scores: &[Scores], bundle: &Bundle) -> Vec<f64> {
    let classes = bundle.classes.len();
    let score = |window: &Scores, class: usize| {
        f64::from(window.classes.get(class).copied().unwrap_or(0.0))
    };
    let mut watched = vec![None; classes];
    for rule in &bundle.detector.rules {
        let neighbours = rule.confirm_windows.clamp(1, scores.len());
        let mean = |group: &[Scores]| {
            group.iter().map(|window| score(window, rule.class)).sum::<f64>() / neighbours as f64
        };
        if let Some(best) = watched.get_mut(rule.class) {
            *best = Some(scores.windows(neighbours).map(mean).fold(0.0, f64::max));
        }
    }
    let left = 1.0 - watched.iter().flatten().copied().fold(0.0, f64::max);
    let mean = |class: usize| {
        scores.iter().map(|window| score(window, class)).sum::<f64>() / scores.len() as f64
    };
    let background: f64 =
        (0..classes).filter(|class| watched[*class].is_none()).map(mean).sum::<f64>();
    let raw: Vec<f64> = (0..classes)
        .map(|class| match watched[class] {
            Some(best) => best,
            None if background > 0.0 => left * mean(class) / background,
            None => 0.0,
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    if sum > 0.0 {
        raw.into_iter().map(|value| value / sum).collect()
    } else {
        vec![1.0 / classes.max(1) as f64; classes]
    }
}
