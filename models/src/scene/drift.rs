//! Drift: slow random change of wind, rain, activity and singers' loudness.

use super::chance::Chance;

/// A smooth random curve in `[0, 1]`, uniformly distributed over long times: Gaussian noise behind
/// two equal low passes (so that it has no corners), then through the normal distribution.
#[derive(Debug, Clone)]
pub(super) struct Drift {
    pull: f32,
    first: f32,
    second: f32,
    scale: f32,
    chance: Chance,
}

impl Drift {
    /// `period_s` is the time in which the curve wanders through most of its range; `step_s` the
    /// time between two calls of [`Drift::step`].
    pub(super) fn new(period_s: f32, step_s: f32, chance: Chance) -> Self {
        let pull = 1.0 - (-step_s * 4.0 / period_s).exp();
        // Variance of white noise behind two equal one-pole low passes with factor `pull`.
        let keep = 1.0 - pull;
        let variance =
            pull.powi(4) * (1.0 + keep * keep) / (1.0 - keep * keep).powi(3).max(1e-30);
        let mut drift = Self {
            pull,
            first: 0.0,
            second: 0.0,
            scale: 1.0 / variance.sqrt(),
            chance,
        };
        // Start anywhere in its range, not in the middle.
        drift.second = drift.chance.normal() / drift.scale;
        drift.first = drift.second;
        drift
    }

    pub(super) fn step(&mut self) -> f32 {
        self.first += self.pull * (self.chance.normal() - self.first);
        self.second += self.pull * (self.first - self.second);
        normal_share(self.second * self.scale)
    }
}

/// Share of a standard normal below `x`, by the logistic approximation of Bowling et al. (2009),
/// good to 0.0002.
fn normal_share(x: f32) -> f32 {
    1.0 / (1.0 + (-(0.07056 * x * x * x + 1.5976 * x)).exp())
}

#[cfg(test)]
mod tests {
    use super::Drift;
    use crate::scene::chance::Chance;

    #[test]
    fn it_wanders_slowly_through_its_range() {
        let mut drift = Drift::new(10.0, 0.032, Chance::new(1));
        let values: Vec<f32> = (0..60_000).map(|_| drift.step()).collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let jump = values
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).abs())
            .fold(0.0, f32::max);
        let share = |low: f32| values.iter().filter(|&&v| v < low).count() as f32 / values.len() as f32;
        assert!((mean - 0.5).abs() < 0.06, "mean {mean}");
        assert!((share(0.25) - 0.25).abs() < 0.08, "lower quarter {}", share(0.25));
        assert!(jump < 0.05, "largest step {jump}");
    }
}
