//! Whether reviewers reject more alerts of a new model than of the one before: exact tests on counts.
//!
//! False alarms of a station come one by one and seldom, so a count over station-days is Poisson. Of
//! two such counts, given their sum, one is binomial: no approximation is needed however few they are.

use super::plan::FalseAlarmRule;

/// Less history than this is none.
const MIN_BASELINE_DAYS: f64 = 1.0;

/// Rejected verdicts on the stations that run the release, and how long those listened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FieldCounts {
    /// Events of the release that reviewers rejected.
    pub rejected_new: u32,
    /// Station-days under the release.
    pub days_new: f64,
    /// Events of earlier models that reviewers rejected, same stations.
    pub rejected_old: u32,
    /// Station-days under earlier models that the rule looks back on.
    pub days_old: f64,
}

/// Why the release is called worse, in a sentence; `None` if the counts do not say so.
#[must_use]
pub fn worse(rule: &FalseAlarmRule, counts: &FieldCounts) -> Option<String> {
    let FieldCounts { rejected_new, days_new, rejected_old, days_old } = *counts;
    if rejected_new < rule.min_rejected || days_new <= 0.0 {
        return None;
    }
    let rate = f64::from(rejected_new) / days_new;
    let (chance, beside) = if days_old >= MIN_BASELINE_DAYS {
        let before = f64::from(rejected_old) / days_old;
        let share = days_new / (days_new + days_old);
        let chance = binomial_tail(rejected_new, rejected_new + rejected_old, share);
        (chance, format!("{before:.2} of the model before ({rejected_old} in {days_old:.1})"))
    } else {
        let expected = rule.expected_per_station_week / 7.0;
        (poisson_tail(rejected_new, expected * days_new), format!("{expected:.2} expected"))
    };
    (chance < rule.significance).then(|| {
        format!(
            "reviewers rejected {rate:.2} alerts per station-day of this release ({rejected_new} in \
             {days_new:.1} station-days), against {beside}; chance alone gives that with \
             probability {chance:.1e}, and {:.1e} is the limit",
            rule.significance
        )
    })
}

/// P(X ≥ `least`) for X binomial of `trials` with probability `share`.
#[must_use]
pub fn binomial_tail(least: u32, trials: u32, share: f64) -> f64 {
    if least == 0 || share >= 1.0 {
        return 1.0;
    }
    if least > trials || share <= 0.0 {
        return 0.0;
    }
    // ln C(n, k) p^k q^(n-k), from one k to the next by its ratio.
    let (n, odds) = (f64::from(trials), (share / (1.0 - share)).ln());
    let mut term = n * (1.0 - share).ln();
    let mut sum = 0.0;
    for k in 0..=trials {
        if k >= least {
            sum += term.exp();
        }
        term += ((n - f64::from(k)) / f64::from(k + 1)).ln() + odds;
    }
    sum.min(1.0)
}

/// P(X ≥ `least`) for X Poisson with that mean.
#[must_use]
pub fn poisson_tail(least: u32, mean: f64) -> f64 {
    if least == 0 {
        return 1.0;
    }
    if mean <= 0.0 {
        return 0.0;
    }
    // From `least` on upwards: the sum of the terms below would cancel against 1.
    let ln_factorial: f64 = (1..=least).map(|k| f64::from(k).ln()).sum();
    let mut term = (f64::from(least) * mean.ln() - mean - ln_factorial).exp();
    let (mut sum, mut k) = (0.0, f64::from(least));
    while term > sum * f64::EPSILON || k < mean {
        sum += term;
        k += 1.0;
        term *= mean / k;
    }
    sum.min(1.0)
}
