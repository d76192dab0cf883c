//! Plan: when the shots of a scene are fired.

use super::{SceneConfig, chance::Chance};

/// No shot begins earlier: its shock wave comes before its blast.
pub(super) const EARLIEST_S: f64 = 0.5;
/// A shot begins at least this long before a finite scene ends, so that it can be heard out.
const ROOM_AT_END_S: f64 = 2.0;
/// Shots of a finite scene that are planned as a whole; beyond it they are drawn one by one.
const MOST_PLANNED: f64 = 100_000.0;

/// Onsets of the shots, s, in order.
#[derive(Debug, Clone)]
pub(super) struct ShotPlan {
    planned: std::vec::IntoIter<f64>,
    endless: Option<Endless>,
}

#[derive(Debug, Clone)]
struct Endless {
    next_s: f64,
    mean_s: f64,
    gap_s: f64,
    last_s: f64,
    chance: Chance,
}

impl ShotPlan {
    pub(super) fn new(config: &SceneConfig) -> Self {
        let mut chance = Chance::for_part(config.seed, "shots");
        let nothing = Self {
            planned: Vec::new().into_iter(),
            endless: None,
        };
        if config.shots_per_hour <= 0.0 {
            return nothing;
        }
        let mean_s = 3600.0 / config.shots_per_hour;
        match config.duration_s {
            Some(duration_s) if duration_s / mean_s < MOST_PLANNED => Self {
                planned: finite(config, duration_s, &mut chance).into_iter(),
                endless: None,
            },
            duration_s => {
                let first = config
                    .first_shot_s
                    .unwrap_or_else(|| EARLIEST_S + chance.wait(mean_s));
                Self {
                    endless: Some(Endless {
                        next_s: first.max(EARLIEST_S),
                        mean_s,
                        gap_s: config.min_gap_s,
                        last_s: duration_s.map_or(f64::INFINITY, |end| end - ROOM_AT_END_S),
                        chance,
                    }),
                    ..nothing
                }
            }
        }
    }
}

/// Exactly as many shots as the rate gives (a fraction is drawn), uniform but for the gaps.
fn finite(config: &SceneConfig, duration_s: f64, chance: &mut Chance) -> Vec<f64> {
    let expected = config.shots_per_hour * duration_s / 3600.0;
    let mut count = expected.floor() as usize + usize::from(chance.unit() < expected.fract());
    let last_s = duration_s - ROOM_AT_END_S;
    let mut begin = EARLIEST_S;
    let mut onsets = Vec::new();
    if let Some(first) = config.first_shot_s {
        let first = first.max(EARLIEST_S);
        if first > last_s {
            return onsets;
        }
        onsets.push(first);
        count = count.saturating_sub(1);
        begin = first + config.min_gap_s;
    }
    if count == 0 || last_s < begin {
        return onsets;
    }
    let most = if config.min_gap_s > 0.0 {
        ((last_s - begin) / config.min_gap_s) as usize + 1
    } else {
        count
    };
    let count = count.min(most);
    let free = (last_s - begin - (count - 1) as f64 * config.min_gap_s).max(0.0);
    let mut places: Vec<f64> = (0..count).map(|_| chance.unit() * free).collect();
    places.sort_by(f64::total_cmp);
    onsets.extend(
        places
            .into_iter()
            .enumerate()
            .map(|(index, place)| begin + place + index as f64 * config.min_gap_s),
    );
    onsets
}

impl Iterator for ShotPlan {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        if let Some(onset) = self.planned.next() {
            return Some(onset);
        }
        let endless = self.endless.as_mut()?;
        let onset = endless.next_s;
        if onset > endless.last_s {
            return None;
        }
        let spare = (endless.mean_s - endless.gap_s).max(0.0);
        endless.next_s += endless.gap_s.max(1e-3) + endless.chance.wait(spare);
        Some(onset)
    }
}
