//! Path: table → this → scores of windows by networks that never met their recording
//!
//! Each fold is scored by networks trained on the others. Nothing of a fold, in any form, reaches
//! the network that scores it.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::fit::{FitError, Fitted, Recipe, fit};
use super::labels::LabelMap;
use super::material::Form;
use super::net::softmax;
use super::table::Table;

/// Logits of all rows of a table, each by a network of the other folds.
pub struct OutOfFold {
    /// Per seed, `[rows, classes]`.
    pub logits: Vec<Array2<f32>>,
    /// Best epoch of each fit.
    pub epochs: Vec<usize>,
}

/// Trains `folds × seeds` networks and scores every row by those that did not train on its fold.
/// With `recipe.patience`, the next fold steers early stopping and is not trained on either.
/// `progress` hears of finished fits: done and in all.
///
/// # Errors
/// When a fold leaves nothing to train on, see [`FitError`].
pub fn cross_validate(
    table: &Table,
    labels: &LabelMap,
    folds: usize,
    recipe: &Recipe,
    seeds: &[u64],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<OutOfFold, FitError> {
    let classes = labels.classes.len();
    let jobs: Vec<(usize, usize)> =
        (0..seeds.len()).flat_map(|seed| (0..folds).map(move |fold| (seed, fold))).collect();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let scored: Vec<(Vec<usize>, Array2<f32>, usize)> = jobs
        .par_iter()
        .with_max_len(1)
        .map(|&(seed, fold)| {
            let steering =
                recipe.patience.map(|_| (fold + 1) % folds).filter(|&other| other != fold);
            let (mut train, mut validation, mut test) = (Vec::new(), Vec::new(), Vec::new());
            for row in 0..table.rows.len() {
                match table.fold(row) {
                    own if own == fold => test.push(row),
                    own if Some(own) == steering => {
                        if plain_example(table, row) {
                            validation.push(row);
                        }
                    }
                    _ => train.push(row),
                }
            }
            let fitted = fit(
                recipe,
                classes,
                labels.alerting(),
                table.examples(),
                &train,
                &validation,
                seeds[seed],
            )?;
            let logits = fitted.logits(table.features.view(), &test);
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, jobs.len());
            Ok((test, logits, fitted.best_epoch))
        })
        .collect::<Result<_, FitError>>()?;

    let mut all = OutOfFold {
        logits: vec![Array2::zeros((table.rows.len(), classes)); seeds.len()],
        epochs: Vec::new(),
    };
    for ((seed, _), (rows, logits, epoch)) in jobs.into_iter().zip(scored) {
        for (row, logits) in rows.into_iter().zip(logits.outer_iter()) {
            all.logits[seed].row_mut(row).assign(&logits);
        }
        all.epochs.push(epoch);
    }
    Ok(all)
}

/// Trains one network per seed on the whole table.
///
/// # Errors
/// See [`FitError`].
pub fn fit_all(
    table: &Table,
    labels: &LabelMap,
    recipe: &Recipe,
    seeds: &[u64],
) -> Result<Vec<Fitted>, FitError> {
    let rows: Vec<usize> = (0..table.rows.len()).collect();
    seeds
        .par_iter()
        .with_max_len(1)
        .map(|&seed| {
            fit(recipe, labels.classes.len(), labels.alerting(), table.examples(), &rows, &[], seed)
        })
        .collect()
}

impl OutOfFold {
    /// Mean logits over the seeds: what one network made of all of them would give.
    pub fn averaged(&self) -> Array2<f32> {
        let mut mean = Array2::zeros(self.logits.first().map_or((0, 0), Array2::dim));
        for logits in &self.logits {
            mean += logits;
        }
        mean / self.logits.len().max(1) as f32
    }
}

/// Temperature at which the scores of the examples are most likely, by golden section over
/// 0.1…10: dividing all logits by it changes no ranking within a window.
pub fn temperature(table: &Table, logits: &Array2<f32>) -> f32 {
    let rows: Vec<usize> = (0..table.rows.len()).filter(|&row| plain_example(table, row)).collect();
    let chosen = logits.select(Axis(0), &rows);
    let loss = |log_temperature: f64| -> f64 {
        let mut scores = &chosen / (log_temperature.exp() as f32);
        softmax(&mut scores);
        let mut sum = 0.0;
        for (score, &row) in scores.outer_iter().zip(&rows) {
            sum -= f64::from(score[table.class[row]].max(1e-12)).ln();
        }
        sum
    };
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.1f64.ln(), 10f64.ln());
    let (mut a, mut b) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut loss_a, mut loss_b) = (loss(a), loss(b));
    for _ in 0..30 {
        if loss_a < loss_b {
            (high, b, loss_b) = (b, a, loss_a);
            a = high - ratio * (high - low);
            loss_a = loss(a);
        } else {
            (low, a, loss_a) = (a, b, loss_b);
            b = low + ratio * (high - low);
            loss_b = loss(b);
        }
    }
    (0.5 * (low + high)).exp() as f32
}

/// An example as files have it: what scores are calibrated on.
fn plain_example(table: &Table, row: usize) -> bool {
    let row = &table.rows[row];
    row.example
        && matches!(table.items[row.item].form, Form::Plain | Form::BandLimited | Form::Silence)
}

#[cfg(test)]
mod tests {
    use super::super::material::Item;
    use super::super::table::Row;
    use super::*;
    use ndarray::Array2;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn labels() -> LabelMap {
        LabelMap::parse(
            r#"{"classes":[{"name":"shot","labels":["shot"],"alert":true},
                {"name":"rest","labels":[],"rest":true}]}"#,
        )
        .unwrap()
    }

    /// Sixty recordings of ten windows. Each has its own feature, by which it can be known again,
    /// and one that says its class with the given strength.
    fn recordings(telling: f32) -> Table {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let items: Vec<Item> = (0..60)
            .map(|clip| Item {
                clip: Some(clip),
                form: Form::Plain,
                copy: 0,
                fold: clip % 3,
                class: usize::from(rng.random::<bool>()),
            })
            .collect();
        let rows: Vec<Row> = (0..600)
            .map(|row| Row {
                item: row / 10,
                start: row as u64 % 10 * 7680,
                class: items[row / 10].class,
                example: true,
            })
            .collect();
        let mut features = Array2::zeros((600, 61));
        for (index, row) in rows.iter().enumerate() {
            features[[index, row.item]] = 1.0;
            features[[index, 60]] =
                telling * (row.class as f32 - 0.5) + rng.random_range(-1.0..1.0);
        }
        let class = rows.iter().map(|row| row.class).collect();
        Table { features, class, weight: vec![1.0; 600], rows, items }
    }

    fn area(table: &Table, recipe: &Recipe) -> f64 {
        let scored = cross_validate(table, &labels(), 3, recipe, &[1, 2], &|_, _| ()).unwrap();
        let logits = scored.averaged();
        let scores: Vec<f32> = logits.outer_iter().map(|row| row[0] - row[1]).collect();
        let positive: Vec<bool> = table.class.iter().map(|class| *class == 0).collect();
        crate::eval::roc_auc(&scores, &positive).unwrap()
    }

    fn recipe() -> Recipe {
        Recipe { hidden: 16, batch: 32, epochs: 20, ..Recipe::default() }
    }

    #[test]
    fn knowing_a_recording_again_does_not_help() {
        let chance = area(&recordings(0.0), &recipe());
        assert!((0.3..0.7).contains(&chance), "{chance}");
        let told = area(&recordings(4.0), &recipe());
        assert!(told > 0.8, "{told}");
    }

    #[test]
    fn the_fold_that_steers_early_stopping_is_not_the_one_that_is_judged() {
        let recipe = Recipe { patience: Some(2), ..recipe() };
        let chance = area(&recordings(0.0), &recipe);
        assert!((0.3..0.7).contains(&chance), "{chance}");
    }

    #[test]
    fn temperature_undoes_overconfidence() {
        let table = recordings(0.0);
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        // Right in three of four: honest logits differ by ln 3; these differ by four times that.
        let mut logits = Array2::zeros((600, 2));
        for (row, class) in table.class.iter().enumerate() {
            let called = if rng.random_range(0..4) > 0 { *class } else { 1 - class };
            logits[[row, called]] = 4.0 * 3f32.ln();
        }
        let found = temperature(&table, &logits);
        assert!((found - 4.0).abs() < 0.5, "{found}");
    }
}
