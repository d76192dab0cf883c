//! How far a count of rare things may be from what is usual.

/// Halvings of the bracket: more than the digits of an `f64`.
const STEPS: usize = 200;

/// Exact (Garwood) interval, as `[low, high]`, of the mean of a Poisson process of which `count`
/// were counted: outside it such a count, or one further off, has a chance of at most half of
/// 1 − `confidence` on either side.
///
/// # Panics
/// When `confidence` is not between 0 and 1.
pub fn poisson_interval(count: u64, confidence: f64) -> [f64; 2] {
    assert!(confidence > 0.0 && confidence < 1.0, "a share between 0 and 1");
    let tail = (1.0 - confidence) / 2.0;
    // At this mean the chance of `count` or fewer is far below any tail that is asked for.
    let beyond = 2.0 * count as f64 + 50.0 - 2.0 * tail.ln();
    // The chance of at most so many falls as the mean grows.
    let mean_where = |at_most: u64, chance: f64| {
        let (mut low, mut high) = (0.0, beyond);
        for _ in 0..STEPS {
            let middle = 0.5 * (low + high);
            if chance_of_at_most(at_most, middle) > chance { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    };
    let low = count.checked_sub(1).map_or(0.0, |fewer| mean_where(fewer, 1.0 - tail));
    [low, mean_where(count, tail)]
}

/// Chance of `count` or fewer where `mean` are usual.
fn chance_of_at_most(count: u64, mean: f64) -> f64 {
    // Terms in the logarithm: neither the power nor the factorial fits a number.
    let mut log_term = -mean;
    let mut sum = log_term.exp();
    for i in 1..=count {
        log_term += mean.ln() - (i as f64).ln();
        sum += log_term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Garwood, Fiducial limits for the Poisson distribution (1936), and any table since.
    #[test]
    fn intervals_are_those_of_the_tables() {
        let tabled_95 = [
            (0, 0.0, 3.689),
            (1, 0.0253, 5.572),
            (2, 0.2422, 7.225),
            (3, 0.6187, 8.767),
            (5, 1.623, 11.668),
            (10, 4.795, 18.390),
            (20, 12.217, 30.888),
            (50, 37.111, 65.919),
            (100, 81.364, 121.627),
        ];
        for (count, low, high) in tabled_95 {
            let [found_low, found_high] = poisson_interval(count, 0.95);
            assert!((found_low - low).abs() < 1e-3, "{count}: {found_low}");
            assert!((found_high - high).abs() < 1.1e-3, "{count}: {found_high}");
        }
        let [low, high] = poisson_interval(1, 0.99);
        assert!((low - 0.005_013).abs() < 1e-5 && (high - 7.430).abs() < 1e-3, "{low} {high}");
    }

    #[test]
    fn a_thousand_are_known_to_a_few_per_cent() {
        let [low, high] = poisson_interval(1_000, 0.95);
        assert!(
            (938.0..940.5).contains(&low) && (1_063.0..1_065.0).contains(&high),
            "{low} {high}"
        );
    }
}
