//! Path: table → this → scores of windows by networks that never met their recording
//!
//! Each fold is scored by networks trained on the others. Nothing of a fold, in any form, reaches
//! the network that scores it.

use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::compression::Compression;
use super::details::Details;
use super::fit::{Epoch, Examples, FitError, Fitted, Recipe, Watch, fit};
use super::labels::LabelMap;
use super::material::Form;
use super::net::{Net, softmax};
use super::table::Table;

/// Logits of all rows of a table, each by a network of the other folds.
pub struct OutOfFold {
    /// Per seed, `[rows, parts]`.
    parts: Vec<Array2<f32>>,
    details: Details,
    /// What a second ear says of the same rows (`[rows, classes]`), and its part of the logits.
    second: Option<(Array2<f32>, f32)>,
    /// Best epoch of each fit.
    pub epochs: Vec<usize>,
    /// How the epochs went, the mean over all fits; losses and accuracies of recordings that a fit
    /// has not met are those of the fold that it is judged on.
    pub history: Vec<Epoch>,
}

/// What the one who waits is told.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A fold is done: how many are, and of how many.
    Fold(usize, usize),
    /// An epoch of one of the fits has ended: its number, from 1, and how it went.
    Epoch(usize, &'a Epoch),
}

/// A head trained on everything.
pub struct Head {
    /// Per seed, over standardised features; gives a logit for each part.
    pub nets: Vec<Net>,
    /// Holds the standardisation.
    pub compression: Compression,
}

/// Trains `folds × seeds × views` networks and scores every row by those that did not train on its
/// fold. With `recipe.patience`, the next fold steers early stopping and is not trained on either.
/// `progress` hears of finished folds and epochs.
///
/// # Errors
/// When a fold leaves nothing to train on, see [`FitError`].
pub fn cross_validate(
    table: &Table,
    labels: &LabelMap,
    details: &Details,
    folds: usize,
    recipe: &Recipe,
    seeds: &[u64],
    progress: &(dyn Fn(Told<'_>) + Sync),
) -> Result<OutOfFold, FitError> {
    let done = AtomicUsize::new(0);
    /// Rows that were tested, their logits by seed, and of the fits the best epoch and the history.
    type Tested = (Vec<usize>, Vec<Array2<f32>>, Vec<usize>, Vec<Vec<Epoch>>);
    let scored: Vec<Tested> = (0..folds)
        .into_par_iter()
        .with_max_len(1)
        .map(|fold| {
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
            let watched: Vec<usize> =
                test.iter().copied().filter(|&row| plain_example(table, row)).collect();
            let fits = Fits::new(table, &train, &validation, &watched, recipe)?;
            let tell = |number: usize, epoch: &Epoch| progress(Told::Epoch(number, epoch));
            let inputs = fits.compression.apply(table.features.view(), &test);
            let (mut logits, mut epochs, mut history) = (Vec::new(), Vec::new(), Vec::new());
            for &seed in seeds {
                let mut mean = Array2::<f32>::zeros((test.len(), details.class.len()));
                let views = fits.run(labels, details, recipe, seed, Some(&tell))?;
                for (view, fitted) in &views {
                    let input = inputs.select(Axis(1), &fits.compression.columns(view));
                    mean += &fitted.net.logits(input.view());
                    epochs.push(fitted.best_epoch);
                    history.push(fitted.history.clone());
                }
                logits.push(mean / views.len() as f32);
            }
            progress(Told::Fold(done.fetch_add(1, Ordering::Relaxed) + 1, folds));
            Ok((test, logits, epochs, history))
        })
        .collect::<Result<_, FitError>>()?;

    let mut all = OutOfFold {
        parts: vec![Array2::zeros((table.rows.len(), details.class.len())); seeds.len()],
        details: details.clone(),
        second: None,
        epochs: Vec::new(),
        history: Vec::new(),
    };
    let mut histories = Vec::new();
    for (rows, logits, epochs, history) in scored {
        for (all, logits) in all.parts.iter_mut().zip(&logits) {
            for (&row, logits) in rows.iter().zip(logits.outer_iter()) {
                all.row_mut(row).assign(&logits);
            }
        }
        all.epochs.extend(epochs);
        histories.extend(history);
    }
    all.history = mean_history(&histories);
    Ok(all)
}

/// The mean of what the fits that came so far tell of each epoch.
fn mean_history(histories: &[Vec<Epoch>]) -> Vec<Epoch> {
    let longest = histories.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .map(|place| {
            let epochs: Vec<&Epoch> = histories.iter().filter_map(|own| own.get(place)).collect();
            let mean = |of: fn(&Epoch) -> Option<f64>| {
                let told: Vec<f64> = epochs.iter().filter_map(|epoch| of(epoch)).collect();
                (!told.is_empty()).then(|| told.iter().sum::<f64>() / told.len() as f64)
            };
            Epoch {
                loss: mean(|epoch| Some(epoch.loss)).unwrap_or_default(),
                validation: mean(|epoch| epoch.validation),
                accuracy: mean(|epoch| epoch.accuracy),
                val_loss: mean(|epoch| epoch.val_loss),
                val_accuracy: mean(|epoch| epoch.val_accuracy),
            }
        })
        .collect()
}

/// Trains one head per seed on the whole table.
///
/// # Errors
/// See [`FitError`].
pub fn fit_all(
    table: &Table,
    labels: &LabelMap,
    details: &Details,
    recipe: &Recipe,
    seeds: &[u64],
) -> Result<Head, FitError> {
    let rows: Vec<usize> = (0..table.rows.len()).collect();
    let fits = Fits::new(table, &rows, &[], &[], recipe)?;
    let nets = seeds
        .iter()
        .map(|&seed| {
            let views: Vec<Net> = fits
                .run(labels, details, recipe, seed, None)?
                .iter()
                .map(|(view, fitted)| fits.compression.expand(&fitted.net, view))
                .collect();
            // Views of one recipe always have one shape.
            Net::averaging(&views).ok_or(FitError::Nothing)
        })
        .collect::<Result<_, FitError>>()?;
    Ok(Head { nets, compression: fits.compression })
}

/// Told the number of an epoch, from 1, and how it went.
type Tell<'a> = dyn Fn(usize, &Epoch) + Sync + 'a;

/// The examples of one set of rows, as networks see them.
struct Fits {
    compression: Compression,
    inputs: Array2<f32>,
    class: Vec<usize>,
    weight: Vec<f32>,
    /// How many of the rows are trained on…
    trained: usize,
    /// … and how many after them steer; the others are only told of.
    steering: usize,
}

impl Fits {
    fn new(
        table: &Table,
        train: &[usize],
        validation: &[usize],
        watched: &[usize],
        recipe: &Recipe,
    ) -> Result<Self, FitError> {
        let mut rows: Vec<usize> =
            train.iter().copied().filter(|&row| table.weight[row] > 0.0).collect();
        if rows.is_empty() {
            return Err(FitError::Nothing);
        }
        let features = table.features.view();
        if let Some(&row) =
            rows.iter().find(|&&row| features.row(row).iter().any(|value| !value.is_finite()))
        {
            return Err(FitError::NotFinite { row });
        }
        let compression = Compression::fit(features, &rows, &table.streams, recipe.components);
        let trained = rows.len();
        rows.extend_from_slice(validation);
        rows.extend_from_slice(watched);
        Ok(Self {
            inputs: compression.apply(features, &rows),
            class: rows.iter().map(|&row| table.class[row]).collect(),
            weight: rows.iter().map(|&row| table.weight[row]).collect(),
            compression,
            trained,
            steering: validation.len(),
        })
    }

    /// One network per view; `tell` hears of every epoch.
    fn run(
        &self,
        labels: &LabelMap,
        details: &Details,
        recipe: &Recipe,
        seed: u64,
        tell: Option<&Tell<'_>>,
    ) -> Result<Vec<(Vec<String>, Fitted)>, FitError> {
        let everything = [Vec::new()];
        let views = if recipe.views.is_empty() { &everything[..] } else { &recipe.views[..] };
        let rows: Vec<usize> = (0..self.class.len()).collect();
        let (train, others) = rows.split_at(self.trained);
        let (validation, held) = others.split_at(self.steering);
        let watch = tell.map(|tell| Watch { held, tell });
        views
            .par_iter()
            .with_max_len(1)
            .map(|view| {
                let inputs = self.inputs.select(Axis(1), &self.compression.columns(view));
                let (class, weight) = (&self.class, &self.weight);
                let examples = Examples { features: inputs.view(), class, weight, watch };
                let fitted =
                    fit(recipe, details, labels.alerting(), examples, train, validation, seed)?;
                Ok((view.clone(), fitted))
            })
            .collect()
    }
}

impl OutOfFold {
    /// The same with a second ear: `logits` (`[rows, classes]`) for `share` of the whole.
    #[must_use]
    pub fn with_second(self, logits: Array2<f32>, share: f32) -> Self {
        Self { second: Some((logits, share)), ..self }
    }

    /// Logits of the head's classes by each seed alone.
    pub fn by_seed(&self) -> impl Iterator<Item = Array2<f32>> + '_ {
        self.parts.iter().map(|parts| self.heard(parts))
    }

    fn heard(&self, parts: &Array2<f32>) -> Array2<f32> {
        let own = self.details.summed(parts);
        match &self.second {
            Some((second, share)) => own * (1.0 - share) + second * *share,
            None => own,
        }
    }

    /// What one network made of all seeds would give: the sums of the parts' mean logits.
    pub fn averaged(&self) -> Array2<f32> {
        let mut mean = Array2::zeros(self.parts.first().map_or((0, 0), Array2::dim));
        for parts in &self.parts {
            mean += parts;
        }
        self.heard(&(mean / self.parts.len().max(1) as f32))
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
            sum -= f64::from(score[table.rows[row].class].max(1e-12)).ln();
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
    use super::super::compression::StreamColumns;
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
        let streams = vec![StreamColumns { name: "all".to_owned(), columns: 0..61 }];
        Table { features, streams, class, weight: vec![1.0; 600], rows, items }
    }

    fn area(table: &Table, recipe: &Recipe) -> f64 {
        let details = Details::none(&labels());
        let scored =
            cross_validate(table, &labels(), &details, 3, recipe, &[1, 2], &|_| ()).unwrap();
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
