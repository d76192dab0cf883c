//! Path: features with classes → this → a network
//!
//! Mini-batches in an order that only the seed decides, one thread per fit: fits of several folds
//! or seeds run beside each other and give the same networks in any schedule.

use ndarray::{Array2, ArrayView2, Axis};
use rand::seq::SliceRandom;
use rand::{Rng as _, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::details::Details;
use super::net::{Batch, Hard, Net, softmax};
use super::optimiser::{AdamW, learning_rate};
use crate::eval;

/// How to train. Everything that shapes the result is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Takes the square roots of what YAMNet's layers give: their numbers are never negative, and
    /// a few very large ones would outweigh all others.
    pub roots: bool,
    /// Directions that a wide feature stream is brought down to; 0 takes it as it is.
    pub components: usize,
    /// Streams that one network sees; one network for each, and their mean is the head. Empty: one
    /// network that sees all.
    pub views: Vec<Vec<String>>,
    /// Networks tell alerting sounds apart by source and other sounds by label, where there are at
    /// least so many clips; 0 for the head's classes only.
    pub detail_clips: usize,
    /// Hidden units; 0 is logistic regression.
    pub hidden: usize,
    /// Passes over the examples.
    pub epochs: usize,
    /// Examples per step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Share of hidden units dropped per example.
    pub dropout: f32,
    /// Standard deviation of the noise on standardised inputs.
    pub input_noise: f32,
    /// Share of the target spread over all classes.
    pub label_smoothing: f32,
    /// How much more an example of a class that does not alert weighs while it scores as an alert:
    /// its weight is `1 + hard_negative * score`.
    pub hard_negative: f32,
    /// How far rare classes are lifted: a class weighs by its share to the power of `1 - balance`.
    pub balance: f32,
    /// How far clips of small recording groups are lifted against those of large ones: a clip
    /// weighs by the size of its group to the power of `-group_balance`.
    pub group_balance: f32,
    /// Part of a second ear in the logits, see [`super::second`]; 0 for none.
    pub second_share: f32,
    /// Stops after this many epochs without a better validation, and keeps the best epoch: the one that
    /// ranks best, and of those that rank alike the one with the least loss. `None` runs all epochs.
    pub patience: Option<usize>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            roots: true,
            components: 128,
            views: Vec::new(),
            detail_clips: 8,
            hidden: 64,
            epochs: 25,
            batch: 256,
            learning_rate: 1e-3,
            weight_decay: 0.05,
            dropout: 0.3,
            input_noise: 0.1,
            label_smoothing: 0.02,
            hard_negative: 4.0,
            balance: 0.5,
            group_balance: 0.5,
            second_share: 0.0,
            patience: None,
        }
    }
}

impl Recipe {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        let share = |name: &str, value: f32| match value {
            0.0..1.0 => Ok(()),
            _ => Err(format!("{name} must be at least 0 and below 1")),
        };
        if !(1..=10_000).contains(&self.epochs) || !(1..=1 << 20).contains(&self.batch) {
            return Err("epochs and batch must be at least 1".to_owned());
        }
        if self.hidden > 4096 {
            return Err("hidden must be at most 4096".to_owned());
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return Err("learning_rate must be above 0 and at most 1".to_owned());
        }
        share("dropout", self.dropout)?;
        share("label_smoothing", self.label_smoothing)?;
        share("second_share", self.second_share)?;
        for (name, value) in [("balance", self.balance), ("group_balance", self.group_balance)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} must be from 0 to 1"));
            }
        }
        for (name, value) in [
            ("weight_decay", self.weight_decay),
            ("input_noise", self.input_noise),
            ("hard_negative", self.hard_negative),
        ] {
            if !(0.0..=1000.0).contains(&value) {
                return Err(format!("{name} must be from 0 to 1000"));
            }
        }
        Ok(())
    }
}

/// Examples as rows of one shared table.
#[derive(Clone, Copy)]
pub struct Examples<'a> {
    /// `[windows, inputs]`, about standardised.
    pub features: ArrayView2<'a, f32>,
    /// Part of each window.
    pub class: &'a [usize],
    /// Weight of each window; 0 is never drawn.
    pub weight: &'a [f32],
    /// Who hears of every epoch.
    pub watch: Option<Watch<'a>>,
}

/// Hears of every epoch, and changes nothing of what is trained.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Rows that the network does not train on; loss and accuracy on them are told.
    pub held: &'a [usize],
    /// Told the number of the epoch, from 1, and how it went.
    pub tell: &'a (dyn Fn(usize, &Epoch) + Sync),
}

/// A trained network.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Gives a logit for each part.
    pub net: Net,
    /// One entry per epoch.
    pub history: Vec<Epoch>,
    /// Epoch whose weights these are, from 1.
    pub best_epoch: usize,
}

/// How one epoch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean weighted training loss.
    pub loss: f64,
    /// Average precision of the alerting class on the validation rows, where there are any.
    pub validation: Option<f64>,
    /// Share of training examples called right, of up to [`CALLED`] of them, where somebody watches.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Mean loss on the watcher's rows.
    #[serde(default)]
    pub val_loss: Option<f64>,
    /// Share of the watcher's rows called right.
    #[serde(default)]
    pub val_accuracy: Option<f64>,
}

/// Training examples that the accuracy of an epoch is told of.
pub const CALLED: usize = 2_048;

/// Why nothing was trained. The caller reports it: the data has to change, a retry will not help.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FitError {
    /// No example with positive weight.
    #[error("there is nothing to train on: no example has a weight above 0")]
    Nothing,
    /// A class occurs in no example; its index.
    #[error("class number {0} (from 0) has no training example: add recordings or drop the class")]
    ClassMissing(usize),
    /// A feature or weight is not a finite number.
    #[error("example {row} holds a value that is not a finite number")]
    NotFinite {
        /// Row in the table.
        row: usize,
    },
}

impl Fitted {
    /// Logits of some rows of a table.
    pub fn logits(&self, features: ArrayView2<'_, f32>, rows: &[usize]) -> Array2<f32> {
        let mut logits = Array2::zeros((rows.len(), self.net.classes()));
        // In pieces, so that a whole data set does not stand in memory twice.
        for (chunk, mut out) in rows.chunks(1024).zip(logits.axis_chunks_iter_mut(Axis(0), 1024)) {
            out.assign(&self.net.logits(features.select(Axis(0), chunk).view()));
        }
        logits
    }
}

/// Trains on `rows` of `examples`; `validation` rows steer early stopping only. `alerting` is the
/// class of the head whose ranking validation and hard-negative weighting look at.
///
/// # Errors
/// See [`FitError`].
pub fn fit(
    recipe: &Recipe,
    details: &Details,
    alerting: usize,
    examples: Examples<'_>,
    rows: &[usize],
    validation: &[usize],
    seed: u64,
) -> Result<Fitted, FitError> {
    let mut rows: Vec<usize> =
        rows.iter().copied().filter(|&row| examples.weight[row] != 0.0).collect();
    check(details, examples, &rows)?;
    // Before they are shuffled: which are told of does not depend on the epoch.
    let called = if examples.watch.is_some() { rows.clone() } else { Vec::new() };
    let parts = details.class.len();
    let mask = details.mask(alerting);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let inputs = examples.features.ncols();
    let net = Net::new(inputs, recipe.hidden, parts, &mut rng);
    let mut optimiser = AdamW::new(&net, recipe.weight_decay);
    let mean_weight =
        rows.iter().map(|&row| f64::from(examples.weight[row])).sum::<f64>() / rows.len() as f64;
    let mut fitted = Fitted { net, history: Vec::new(), best_epoch: 0 };
    let mut best: Option<(f64, f64, Net)> = None;

    let batches = rows.len().div_ceil(recipe.batch);
    let mut step = 0;
    for epoch in 1..=recipe.epochs {
        rows.shuffle(&mut rng);
        let mut loss = 0.0;
        for chunk in rows.chunks(recipe.batch) {
            let input = perturbed(examples.features, chunk, recipe, &mut rng);
            let target = targets(examples.class, chunk, parts, recipe.label_smoothing);
            let weight: Vec<f32> =
                chunk.iter().map(|&row| examples.weight[row] / mean_weight as f32).collect();
            let hard = (recipe.hard_negative > 0.0)
                .then_some(Hard { classes: &mask, factor: recipe.hard_negative });
            let keep = (recipe.dropout > 0.0 && recipe.hidden > 0)
                .then(|| dropout(chunk.len(), recipe, &mut rng));
            let batch = Batch { input: input.view(), target: target.view(), weight: &weight, hard };
            let (batch_loss, mut gradient) = fitted.net.gradient(&batch, keep.as_ref());
            loss += batch_loss * chunk.len() as f64;
            let rate = learning_rate(recipe.learning_rate, step, batches * recipe.epochs);
            optimiser.step(&mut fitted.net, &mut gradient, rate);
            step += 1;
        }
        let ranking = ranking(&fitted, &mask, examples, validation);
        let mut finished =
            Epoch { loss: loss / rows.len() as f64, validation: ranking, ..Epoch::default() };
        if let Some(watch) = examples.watch {
            let stride = called.len().div_ceil(CALLED).max(1);
            let some: Vec<usize> = called.iter().copied().step_by(stride).collect();
            finished.accuracy = called_right(&fitted, details, examples, &some).map(|(_, a)| a);
            let held = called_right(&fitted, details, examples, watch.held);
            (finished.val_loss, finished.val_accuracy) = held.unzip();
            (watch.tell)(epoch, &finished);
        }
        fitted.history.push(finished);
        let (Some(ranking), Some(patience)) = (ranking, recipe.patience) else {
            fitted.best_epoch = epoch;
            continue;
        };
        // With few recordings the first epoch may rank perfectly, and has learned hardly anything.
        let loss =
            called_right(&fitted, details, examples, validation).map_or(0.0, |(loss, _)| loss);
        if best.as_ref().is_none_or(|(held, least, _)| (ranking, -loss) > (*held, -least)) {
            best = Some((ranking, loss, fitted.net.clone()));
            fitted.best_epoch = epoch;
        } else if epoch >= fitted.best_epoch + patience {
            break;
        }
    }
    if let Some((.., net)) = best {
        fitted.net = net;
    }
    Ok(fitted)
}

fn check(details: &Details, examples: Examples<'_>, rows: &[usize]) -> Result<(), FitError> {
    if rows.is_empty() {
        return Err(FitError::Nothing);
    }
    let mut seen = vec![false; details.classes()];
    for &row in rows {
        seen[details.class[examples.class[row]]] = true;
        let finite = examples.weight[row].is_finite()
            && examples.features.row(row).iter().all(|value| value.is_finite());
        if !finite {
            return Err(FitError::NotFinite { row });
        }
    }
    match seen.iter().position(|seen| !seen) {
        Some(missing) => Err(FitError::ClassMissing(missing)),
        None => Ok(()),
    }
}

fn perturbed(
    features: ArrayView2<'_, f32>,
    rows: &[usize],
    recipe: &Recipe,
    rng: &mut ChaCha8Rng,
) -> Array2<f32> {
    let mut input = features.select(Axis(0), rows);
    // A sum of four uniform numbers is close enough to normal, and cheap: one byte each, of which the
    // generator makes many at once.
    let step = recipe.input_noise * 3f32.sqrt() / 2.0 / 127.5;
    if step > 0.0 {
        let mut bytes = vec![0; 4 * input.ncols()];
        for mut row in input.rows_mut() {
            rng.fill_bytes(&mut bytes);
            for (value, four) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                let sum: i16 = four.iter().map(|&byte| i16::from(byte)).sum();
                *value += step * f32::from(sum - 510);
            }
        }
    }
    input
}

fn targets(class: &[usize], rows: &[usize], classes: usize, smoothing: f32) -> Array2<f32> {
    let mut target = Array2::from_elem((rows.len(), classes), smoothing / classes as f32);
    for (mut target, &row) in target.outer_iter_mut().zip(rows) {
        target[class[row]] += 1.0 - smoothing;
    }
    target
}

fn dropout(rows: usize, recipe: &Recipe, rng: &mut ChaCha8Rng) -> Array2<f32> {
    let kept = 1.0 / (1.0 - recipe.dropout);
    Array2::from_shape_simple_fn((rows, recipe.hidden), || {
        if rng.random::<f32>() < recipe.dropout { 0.0 } else { kept }
    })
}

/// Mean loss and share called right of some rows; `None` where there are none.
fn called_right(
    fitted: &Fitted,
    details: &Details,
    examples: Examples<'_>,
    rows: &[usize],
) -> Option<(f64, f64)> {
    let mut scores = fitted.logits(examples.features, rows);
    softmax(&mut scores);
    let (mut loss, mut right) = (0.0, 0);
    for (scores, &row) in scores.outer_iter().zip(rows) {
        let part = examples.class[row];
        loss -= f64::from(scores[part].max(1e-12)).ln();
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        right +=
            usize::from(best.is_some_and(|(best, _)| details.class[best] == details.class[part]));
    }
    let count = rows.len() as f64;
    (!rows.is_empty()).then(|| (loss / count, right as f64 / count))
}

fn ranking(
    fitted: &Fitted,
    alerting: &[bool],
    examples: Examples<'_>,
    validation: &[usize],
) -> Option<f64> {
    if validation.is_empty() {
        return None;
    }
    let mut probabilities = fitted.logits(examples.features, validation);
    softmax(&mut probabilities);
    let positive: Vec<bool> = validation.iter().map(|&row| alerting[examples.class[row]]).collect();
    let scores: Vec<f32> = probabilities
        .outer_iter()
        .map(|row| row.iter().zip(alerting).filter(|(_, alerts)| **alerts).map(|(p, _)| p).sum())
        .collect();
    eval::average_precision(&scores, &positive)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 0 lies on a ring around class 1: no line parts them, one hidden layer does.
    fn ring(count: usize) -> (Array2<f32>, Vec<usize>) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut features = Array2::zeros((count, 3));
        let class: Vec<usize> = (0..count).map(|row| row % 2).collect();
        for (mut row, &class) in features.outer_iter_mut().zip(&class) {
            let angle = rng.random_range(0.0..std::f32::consts::TAU);
            let radius =
                if class == 0 { rng.random_range(2.0..3.0) } else { rng.random_range(0.0..1.0) };
            row.assign(&ndarray::arr1(&[radius * angle.cos(), radius * angle.sin(), 1.0]));
        }
        (features, class)
    }

    fn parts(classes: usize) -> Details {
        Details { class: (0..classes).collect() }
    }

    fn train(recipe: &Recipe, seed: u64) -> (Fitted, f64) {
        let (features, class) = ring(600);
        let weight = vec![1.0; 600];
        let examples =
            Examples { features: features.view(), class: &class, weight: &weight, watch: None };
        let rows: Vec<usize> = (0..400).collect();
        let held: Vec<usize> = (400..600).collect();
        let fitted = fit(recipe, &parts(2), 0, examples, &rows, &held, seed).unwrap();
        let logits = fitted.logits(features.view(), &held);
        let right = held
            .iter()
            .zip(logits.outer_iter())
            .filter(|(row, logit)| usize::from(logit[1] > logit[0]) == class[**row])
            .count();
        (fitted, right as f64 / held.len() as f64)
    }

    fn recipe() -> Recipe {
        Recipe { hidden: 16, epochs: 40, batch: 32, learning_rate: 1e-2, ..Recipe::default() }
    }

    #[test]
    fn a_hidden_layer_learns_what_a_line_cannot() {
        let (_, curved) = train(&recipe(), 1);
        let (_, straight) = train(&Recipe { hidden: 0, ..recipe() }, 1);
        assert!(curved > 0.97, "{curved}");
        assert!(straight < 0.75, "{straight}");
    }

    #[test]
    fn the_seed_decides_every_bit() {
        let short = Recipe { epochs: 3, ..recipe() };
        assert_eq!(train(&short, 5).0, train(&short, 5).0);
        assert_ne!(train(&short, 5).0.net, train(&short, 6).0.net);
    }

    #[test]
    fn early_stopping_keeps_the_best_epoch() {
        let (fitted, _) = train(&Recipe { patience: Some(1), ..recipe() }, 1);
        let best = fitted.history.iter().filter_map(|epoch| epoch.validation).fold(0.0, f64::max);
        assert_eq!(fitted.history[fitted.best_epoch - 1].validation, Some(best));
        assert!(fitted.history.len() < 40);
    }

    #[test]
    fn of_epochs_that_rank_alike_the_one_with_the_least_loss_is_kept() {
        // Two clouds far apart: any line between them ranks perfectly, from the first epoch on.
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let class: Vec<usize> = (0..200).map(|row| row % 2).collect();
        let features = Array2::from_shape_fn((200, 4), |(row, _)| {
            rng.random_range(-0.3..0.3) + if row % 2 == 0 { 1.0 } else { -1.0 }
        });
        let weight = vec![1.0; 200];
        let examples =
            Examples { features: features.view(), class: &class, weight: &weight, watch: None };
        let (rows, held): (Vec<usize>, Vec<usize>) = ((0..150).collect(), (150..200).collect());
        let recipe = Recipe { patience: Some(3), learning_rate: 3e-3, ..recipe() };
        let fitted = fit(&recipe, &parts(2), 0, examples, &rows, &held, 1).unwrap();
        assert_eq!(fitted.history[19].validation, Some(1.0));
        assert!(fitted.best_epoch > 20, "{}", fitted.best_epoch);
    }

    #[test]
    fn watching_changes_nothing_and_tells_of_every_epoch() {
        let (features, class) = ring(600);
        let weight = vec![1.0; 600];
        let (rows, held): (Vec<usize>, Vec<usize>) = ((0..400).collect(), (400..600).collect());
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |number: usize, epoch: &Epoch| told.lock().unwrap().push((number, *epoch));
        let watch = Some(Watch { held: &held, tell: &tell });
        let run = |watch| {
            let examples =
                Examples { features: features.view(), class: &class, weight: &weight, watch };
            fit(&recipe(), &parts(2), 0, examples, &rows, &[], 5).unwrap()
        };
        let watched = run(watch);
        assert_eq!(watched.net, run(None).net);
        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 40);
        assert_eq!(told.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>(), watched.history);
        let (first, last) = (told[0].1, told[39].1);
        assert!(last.val_loss.unwrap() < first.val_loss.unwrap());
        assert!(last.val_accuracy.unwrap() > 0.95 && last.accuracy.unwrap() > 0.95, "{last:?}");
    }

    #[test]
    fn weights_of_zero_are_not_learnt_from() {
        let (features, class) = ring(200);
        let wrong: Vec<usize> = class.iter().map(|class| 1 - class).collect();
        let both = ndarray::concatenate![Axis(0), features, features];
        let labels = [class.clone(), wrong].concat();
        let weight = [vec![1.0; 200], vec![0.0; 200]].concat();
        let examples =
            Examples { features: both.view(), class: &labels, weight: &weight, watch: None };
        let rows: Vec<usize> = (0..400).collect();
        let fitted = fit(&recipe(), &parts(2), 0, examples, &rows, &[], 1).unwrap();
        let right = fitted
            .logits(features.view(), &rows[..200])
            .outer_iter()
            .zip(&class)
            .filter(|(logit, class)| usize::from(logit[1] > logit[0]) == **class)
            .count();
        assert!(right > 190, "{right}");
    }

    #[test]
    fn hard_negatives_lower_the_scores_of_what_is_no_alert() {
        // Two overlapping clouds: the more negatives weigh, the less the alerting class is given.
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let class: Vec<usize> = (0..400).map(|row| row % 2).collect();
        let features = Array2::from_shape_fn((400, 1), |(row, _)| {
            rng.random_range(-1.0..1.0) + if row % 2 == 0 { 0.3 } else { -0.3 }
        });
        let weight = vec![1.0; 400];
        let examples =
            Examples { features: features.view(), class: &class, weight: &weight, watch: None };
        let rows: Vec<usize> = (0..400).collect();
        let mean_alert = |hard_negative| {
            let recipe = Recipe { hard_negative, ..recipe() };
            let fitted = fit(&recipe, &parts(2), 0, examples, &rows, &[], 1).unwrap();
            let mut scores = fitted.logits(features.view(), &rows);
            softmax(&mut scores);
            scores.column(0).sum() / 400.0
        };
        assert!(mean_alert(5.0) < mean_alert(0.0) - 0.1);
    }

    #[test]
    fn faults_of_the_data_are_named() {
        let (mut features, class) = ring(10);
        let rows: Vec<usize> = (0..10).collect();
        let fault = |features: &Array2<f32>, class: &[usize], weight: f32, classes: usize| {
            let weight = vec![weight; 10];
            let examples =
                Examples { features: features.view(), class, weight: &weight, watch: None };
            fit(&recipe(), &parts(classes), 0, examples, &rows, &[], 1).unwrap_err()
        };
        assert_eq!(fault(&features, &class, 0.0, 2), FitError::Nothing);
        assert_eq!(fault(&features, &class, 1.0, 3), FitError::ClassMissing(2));
        features[[4, 1]] = f32::NAN;
        assert_eq!(fault(&features, &class, 1.0, 2), FitError::NotFinite { row: 4 });
    }
}
