//! Path: judgement → **report** → terminal
//!
//! What was measured, as lines of text.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::artifact::Evaluation;
use super::judgement::{Judgement, RatePoint};

/// All that was measured in a training.
///
/// # Errors
/// Of the writer.
pub fn print_evaluation(out: &mut impl Write, evaluation: &Evaluation) -> std::io::Result<()> {
    print_judgement(out, &evaluation.judgement, &evaluation.shipped)?;
    for line in &evaluation.by_transient {
        let cells: Vec<String> = line.recall.iter().map(|share| format!("{share:.2}")).collect();
        writeln!(
            out,
            "from {:2.0} dB {:28} {:4} clips {}",
            line.from_db,
            line.source,
            line.clips,
            cells.join("/")
        )?;
    }
    writeln!(out, "calibration error {:.3}", evaluation.calibration_error.unwrap_or(f64::NAN))?;
    for line in &evaluation.seeds {
        write!(
            out,
            "seed {}: PR area {:.3}",
            line.seed,
            line.average_precision.unwrap_or(f64::NAN)
        )?;
        for (source, recall) in &line.recall {
            let cells: Vec<String> = recall.iter().map(|recall| format!("{recall:.2}")).collect();
            write!(out, "  {source} {}", cells.join("/"))?;
        }
        writeln!(out)?;
    }
    if let Some(line) = flattered(evaluation) {
        writeln!(out, "{line}")?;
    }
    let mut sources: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    for (source, recall) in evaluation.seeds.iter().flat_map(|line| &line.recall) {
        sources.entry(source).or_default().push(recall.clone());
    }
    for (source, recalls) in sources {
        let medians: Vec<String> = (0..recalls[0].len())
            .map(|rate| {
                let mut values: Vec<f64> = recalls.iter().map(|recall| recall[rate]).collect();
                values.sort_by(f64::total_cmp);
                format!("{:.3}", values[values.len() / 2])
            })
            .collect();
        writeln!(out, "median of seeds: {source} {}", medians.join("/"))?;
    }
    Ok(())
}

/// What a split that leaks would have flattered, in one line, where that was measured.
#[must_use]
pub fn flattered(evaluation: &Evaluation) -> Option<String> {
    let leaky = evaluation.random_split.as_ref()?;
    let honest = evaluation.seeds.iter().find(|line| line.seed == leaky.seed)?;
    let cells = |recall: Option<&Vec<f64>>| {
        let cells = recall.into_iter().flatten().map(|recall| format!("{recall:.2}"));
        cells.collect::<Vec<_>>().join("/")
    };
    let sources: Vec<String> = leaky
        .recall
        .iter()
        .map(|(source, recall)| {
            format!(
                "{source} {} instead of {}",
                cells(Some(recall)),
                cells(honest.recall.get(source))
            )
        })
        .collect();
    Some(format!(
        "Clips dealt to folds at random, whatever recording they are of, would have shown a PR area of \
         {:.3} instead of {:.3}, and recall at the rates above of {}.",
        leaky.average_precision.unwrap_or(f64::NAN),
        honest.average_precision.unwrap_or(f64::NAN),
        sources.join(", ")
    ))
}

/// Where two evaluations of one recipe are further apart than `within`: average precision, and the recall
/// of each source in each form at each rate and as shipped.
#[must_use]
pub fn differences(found: &Evaluation, known: &Evaluation, within: f64) -> Vec<String> {
    let mut apart = Vec::new();
    let mut compare = |what: String, found: Option<f64>, known: Option<f64>| match (found, known) {
        (Some(found), Some(known)) if (found - known).abs() <= within => {}
        (None, None) => {}
        (found, known) => {
            let shown = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.3}"));
            apart.push(format!("{what}: {} instead of {}", shown(found), shown(known)));
        }
    };
    let (ours, theirs) = (&found.judgement, &known.judgement);
    compare("PR area".to_owned(), ours.average_precision, theirs.average_precision);
    let points = |evaluation: &Evaluation| -> BTreeMap<String, f64> {
        let rates = evaluation
            .judgement
            .rates
            .iter()
            .map(|rate| (format!("{}/h", rate.per_hour.unwrap_or_default()), rate));
        rates
            .chain([("as shipped".to_owned(), &evaluation.shipped)])
            .flat_map(|(name, rate)| {
                rate.recall.iter().map(move |line| {
                    (format!("{name}, {}, {:?}", line.source, line.form), line.recall)
                })
            })
            .collect()
    };
    let (ours, theirs) = (points(found), points(known));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        compare(name.clone(), ours.get(name).copied(), theirs.get(name).copied());
    }
    apart
}

/// What a judgement says, with what the shipped threshold does.
///
/// # Errors
/// Of the writer.
pub fn print_judgement(
    out: &mut impl Write,
    judged: &Judgement,
    shipped: &RatePoint,
) -> std::io::Result<()> {
    writeln!(
        out,
        "background {} clips, {:.2} h; PR area {:.3}, ROC area {:.4}, accuracy {:.3}",
        judged.background_clips,
        judged.background_hours,
        judged.average_precision.unwrap_or(f64::NAN),
        judged.roc_auc.unwrap_or(f64::NAN),
        judged.accuracy.unwrap_or(f64::NAN)
    )?;
    for rate in judged.rates.iter().chain([shipped]) {
        let name =
            rate.per_hour.map_or_else(|| "as shipped".to_owned(), |rate| format!("{rate}/h"));
        let [low, high] = rate.interval_per_hour.unwrap_or([f64::NAN; 2]);
        writeln!(
            out,
            "{name}: threshold {:.4}, {} false alarms ({low:.2} to {high:.2} an hour) {:?}",
            rate.threshold, rate.false_alarms, rate.by_label
        )?;
        for line in rate.overall.iter().chain(&rate.recall) {
            writeln!(
                out,
                "    {:28} {:12} {:4}/{:4} {:.3} {:.2?}",
                line.source,
                format!("{:?}", line.form),
                line.hits,
                line.clips,
                line.recall,
                line.interval.unwrap_or([f64::NAN; 2])
            )?;
        }
    }
    for (class, row) in judged.classes.iter().zip(&judged.confusion) {
        let cell = |value: Option<f64>| value.map_or("  -  ".to_owned(), |v| format!("{v:.3}"));
        writeln!(
            out,
            "{:12} precision {} recall {} F1 {} PR area {}  called {row:?}",
            class.class,
            cell(class.precision),
            cell(class.recall),
            cell(class.f1),
            cell(class.average_precision)
        )?;
    }
    Ok(())
}
