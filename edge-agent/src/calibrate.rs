//! `calibrate`: what a false-alarm budget would cost here.
//!
//! Listens to the background for a while and shows, for every class that alerts, how its scores are
//! distributed, and for several budgets the threshold that keeps them and the recall that is left.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ecosight_models::SAMPLE_RATE_HZ;
use serde::Serialize;

use crate::budget::{self, Background, Budget, RecallCurve, log_odds};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::ear::{self, Ear};
use crate::health::Health;
use crate::source::{self, Begin, Read};
use ecosight_shared::json::BudgetReport;

/// False alarms a week that are shown.
const BUDGETS: [f64; 6] = [0.5, 1.0, 2.0, 5.0, 10.0, 50.0];
/// Parts of the blocks whose highest scores are shown.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// One class.
#[derive(Debug, Serialize)]
pub struct ClassReport {
    /// Its name.
    pub class: String,
    /// Hours of background.
    pub heard_hours: f64,
    /// Events that were raised meanwhile, which do not count as background.
    pub events: u64,
    /// Part of the blocks of ten seconds, and the confirmation score that they stay below.
    pub scores: Vec<(f64, f32)>,
    /// What each budget needs and costs.
    pub budgets: Vec<BudgetReport>,
}

/// Listens for `duration` of the source's sound.
///
/// # Errors
/// There is no model, or the source is lost.
pub fn calibrate(config: &Config, duration: Duration, clock: &Clock) -> Result<Vec<ClassReport>> {
    let classifier = ear::load(config)?;
    let evaluation = budget::evaluation(&config.model)?;
    let bundle = classifier.bundle().clone();
    let rules = ear::rules(&config.model, &bundle)?;
    let health = Arc::new(Health::default());
    // As the bundle hears it, whatever budget is set.
    let fixed = Config { detector: config::Detector::default(), ..config.clone() };
    let mut ear = Ear::new(classifier, &fixed, Arc::clone(&health))?;
    let mut source = source::open(&config.source, Begin::default(), &health).context("source")?;
    let wanted = (duration.as_secs_f64() * f64::from(SAMPLE_RATE_HZ)) as u64;
    let mut samples = Vec::new();
    let mut heard = 0;
    while heard < wanted {
        samples.clear();
        let read = source.read(&mut samples).context("source")?;
        heard += samples.len() as u64;
        ear.set_time(clock.unix_us());
        match read {
            Read::Sound => {
                let _ = ear.hear(&samples);
            }
            Read::Nothing => {}
            Read::Item { .. } | Read::Gap { .. } => {
                let _ = ear.end();
                ear.reset(heard);
            }
            Read::End => break,
        }
        let _ = ear.take_candidates();
    }
    let _ = ear.end();
    let reports = rules.rules.iter().filter(|rule| rule.alert).map(|rule| {
        let class = bundle.classes.get(rule.class).cloned().unwrap_or_default();
        let spec = bundle.manifest.detector.iter().find(|spec| spec.class == class);
        let recall = spec.map_or_else(RecallCurve::default, |s| RecallCurve::of(s, &evaluation));
        report(class, rule.threshold, &recall, ear.background())
    });
    Ok(reports.collect())
}

fn report(
    class: String,
    bundle_threshold: f32,
    recall: &RecallCurve,
    background: &Background,
) -> ClassReport {
    let known = background.known(&class);
    let total = known.background.total();
    let scores = QUANTILES
        .iter()
        .filter_map(|part| {
            let above = ((total as f64 * (1.0 - part)).floor() as u64).max(1);
            let (level, _) = known.background.level_of(above)?;
            Some((*part, budget::score(level)))
        })
        .collect();
    let budgets = BUDGETS.iter().map(|per_week| {
        let budget = Budget {
            class: class.clone(),
            per_week: *per_week,
            bundle_threshold,
            recall: recall.clone(),
        };
        budget.decide(&known)
    });
    ClassReport {
        budgets: budgets.collect(),
        heard_hours: known.heard_s / 3_600.0,
        events: known.confirmed + known.flooded,
        scores,
        class,
    }
}

/// For people.
#[must_use]
pub fn text(reports: &[ClassReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let _ = writeln!(
            text,
            "{}: {:.2} h of background, {} event(s) left out",
            report.class, report.heard_hours, report.events
        );
        let _ = writeln!(text, "  highest confirmation score of ten seconds (log-odds):");
        for (part, score) in &report.scores {
            let _ = writeln!(
                text,
                "    {:>6.1} % of the time below {score:.5} ({:+.1})",
                part * 100.0,
                log_odds(*score)
            );
        }
        if report.budgets.iter().all(|budget| budget.state == "learning") {
            let _ = writeln!(
                text,
                "  too little to conclude anything: listen for {} min and more (--duration)",
                (budget::LEARN_S / 60.0) as u32
            );
            continue;
        }
        let _ = writeln!(text, "  false alarms a week   threshold   expected   recall");
        for budget in &report.budgets {
            let recall =
                budget.recall.map_or("unknown".to_owned(), |r| format!("{:.0} %", r * 100.0));
            let expected = budget.expected_per_week.map_or("–".to_owned(), |e| format!("{e:.1}"));
            let cannot = if budget.state == "cannot" { "  cannot be met" } else { "" };
            let _ = writeln!(
                text,
                "  {:>19}   {:>9.5}   {expected:>8}   {recall:>6}{cannot}",
                budget.per_week, budget.threshold
            );
        }
        if let Some(first) = report.budgets.first() {
            let recall = first
                .bundle_recall
                .map_or_else(String::new, |r| format!(", recall {:.0} %", r * 100.0));
            let _ = writeln!(text, "  now: threshold {:.5}{recall}", first.bundle_threshold);
        }
        text.push_str(
            "  A week is more than was heard: thresholds are extrapolated along the tail of the \
             scores.\n  Recall is that of the bundle's evaluation, not of this place.\n",
        );
    }
    text
}
