//! Path: features with classes → this → a network
//!
//! Mini-batches in an order that only the seed decides, one thread per fit: fits of several folds
//! or seeds run beside each other and give the same networks in any schedule.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::net::{Batch, Hard, Net, softmax};
use super::optimiser::{AdamW, learning_rate};
use crate::eval;

/// Standardised features are cut at this many standard deviations, here and in the bundle: one odd
/// window moves nothing in training, and sound unlike any that was trained on stays in range.
pub const FEATURE_LIMIT: f32 = 8.0;

/// How to train. Everything that shapes the result is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
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
    /// Stops after this many epochs without a better validation, and keeps the best epoch; `None`
    /// runs all epochs.
    pub patience: Option<usize>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            hidden: 64,
            epochs: 12,
            batch: 256,
            learning_rate: 1e-3,
            weight_decay: 0.05,
            dropout: 0.3,
            input_noise: 0.1,
            label_smoothing: 0.02,
            hard_negative: 4.0,
            balance: 0.5,
            group_balance: 0.0,
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
    /// `[windows, features]`, raw.
    pub features: ArrayView2<'a, f32>,
    /// Class of each window.
    pub class: &'a [usize],
    /// Weight of each window; 0 is never drawn.
    pub weight: &'a [f32],
}

/// A trained network with its standardisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Takes standardised features.
    pub net: Net,
    /// Mean of each feature.
    pub mean: Array1<f32>,
    /// 1 / standard deviation of each feature; 0 for a feature that never changes.
    pub scale: Array1<f32>,
    /// One entry per epoch.
    pub history: Vec<Epoch>,
    /// Epoch whose weights these are, from 1.
    pub best_epoch: usize,
}

/// How one epoch went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean weighted training loss.
    pub loss: f64,
    /// Average precision of the alerting class on the validation rows, where there are any.
    pub validation: Option<f64>,
}

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
    /// Logits of some rows of a table of raw features.
    pub fn logits(&self, features: ArrayView2<'_, f32>, rows: &[usize]) -> Array2<f32> {
        let mut logits = Array2::zeros((rows.len(), self.net.classes()));
        // In pieces, so that a whole data set does not stand in memory twice.
        for (chunk, mut out) in rows.chunks(1024).zip(logits.axis_chunks_iter_mut(Axis(0), 1024)) {
            let input = self.standardised(features, chunk);
            out.assign(&self.net.logits(input.view()));
        }
        logits
    }

    fn standardised(&self, features: ArrayView2<'_, f32>, rows: &[usize]) -> Array2<f32> {
        let mut input = features.select(Axis(0), rows);
        input -= &self.mean;
        input *= &self.scale;
        input.mapv_inplace(|value| value.clamp(-FEATURE_LIMIT, FEATURE_LIMIT));
        input
    }
}

/// Trains on `rows` of `examples`; `validation` rows steer early stopping only. `alerting` is the
/// class whose ranking validation and hard-negative weighting look at.
///
/// # Errors
/// See [`FitError`].
pub fn fit(
    recipe: &Recipe,
    classes: usize,
    alerting: usize,
    examples: Examples<'_>,
    rows: &[usize],
    validation: &[usize],
    seed: u64,
) -> Result<Fitted, FitError> {
    let mut rows: Vec<usize> =
        rows.iter().copied().filter(|&row| examples.weight[row] != 0.0).collect();
    check(classes, examples, &rows)?;
    let (mean, scale) = moments(examples, &rows);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let inputs = examples.features.ncols();
    let net = Net::new(inputs, recipe.hidden, classes, &mut rng);
    let mut optimiser = AdamW::new(&net, recipe.weight_decay);
    let mean_weight =
        rows.iter().map(|&row| f64::from(examples.weight[row])).sum::<f64>() / rows.len() as f64;
    let mut fitted = Fitted { net, mean, scale, history: Vec::new(), best_epoch: 0 };
    let mut best: Option<(f64, Net)> = None;

    let batches = rows.len().div_ceil(recipe.batch);
    let mut step = 0;
    for epoch in 1..=recipe.epochs {
        rows.shuffle(&mut rng);
        let mut loss = 0.0;
        for chunk in rows.chunks(recipe.batch) {
            let input = perturbed(&fitted, examples.features, chunk, recipe, &mut rng);
            let target = targets(examples.class, chunk, classes, recipe.label_smoothing);
            let weight: Vec<f32> =
                chunk.iter().map(|&row| examples.weight[row] / mean_weight as f32).collect();
            let hard = (recipe.hard_negative > 0.0)
                .then_some(Hard { class: alerting, factor: recipe.hard_negative });
            let keep = (recipe.dropout > 0.0 && recipe.hidden > 0)
                .then(|| dropout(chunk.len(), recipe, &mut rng));
            let batch = Batch { input: input.view(), target: target.view(), weight: &weight, hard };
            let (batch_loss, mut gradient) = fitted.net.gradient(&batch, keep.as_ref());
            loss += batch_loss * chunk.len() as f64;
            let rate = learning_rate(recipe.learning_rate, step, batches * recipe.epochs);
            optimiser.step(&mut fitted.net, &mut gradient, rate);
            step += 1;
        }
        let ranking = ranking(&fitted, alerting, examples, validation);
        let finished = Epoch { loss: loss / rows.len() as f64, validation: ranking };
        fitted.history.push(finished);
        let (Some(ranking), Some(patience)) = (ranking, recipe.patience) else {
            fitted.best_epoch = epoch;
            continue;
        };
        if best.as_ref().is_none_or(|(held, _)| ranking > *held) {
            best = Some((ranking, fitted.net.clone()));
            fitted.best_epoch = epoch;
        } else if epoch >= fitted.best_epoch + patience {
            break;
        }
    }
    if let Some((_, net)) = best {
        fitted.net = net;
    }
    Ok(fitted)
}

fn check(classes: usize, examples: Examples<'_>, rows: &[usize]) -> Result<(), FitError> {
    if rows.is_empty() {
        return Err(FitError::Nothing);
    }
    let mut seen = vec![false; classes];
    for &row in rows {
        seen[examples.class[row]] = true;
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

/// Mean and inverse standard deviation of each feature, unweighted.
fn moments(examples: Examples<'_>, rows: &[usize]) -> (Array1<f32>, Array1<f32>) {
    let width = examples.features.ncols();
    let mut sum = Array1::<f64>::zeros(width);
    for &row in rows {
        sum.zip_mut_with(&examples.features.row(row), |sum, &value| *sum += f64::from(value));
    }
    let mean = sum / rows.len() as f64;
    let mut square = Array1::<f64>::zeros(width);
    for &row in rows {
        ndarray::Zip::from(&mut square)
            .and(&mean)
            .and(&examples.features.row(row))
            .for_each(|square, &mean, &value| *square += (f64::from(value) - mean).powi(2));
    }
    let scale = square.mapv(|square| {
        let deviation = (square / rows.len() as f64).sqrt();
        if deviation > 1e-6 { (1.0 / deviation) as f32 } else { 0.0 }
    });
    (mean.mapv(|mean| mean as f32), scale)
}

fn perturbed(
    fitted: &Fitted,
    features: ArrayView2<'_, f32>,
    rows: &[usize],
    recipe: &Recipe,
    rng: &mut ChaCha8Rng,
) -> Array2<f32> {
    let mut input = fitted.standardised(features, rows);
    // A sum of four uniform numbers is close enough to normal, and cheap.
    let amplitude = recipe.input_noise * 3f32.sqrt() / 2.0;
    if amplitude > 0.0 {
        input.mapv_inplace(|value| {
            let [a, b, c, d] = rng.random::<[u8; 4]>().map(|byte| f32::from(byte) / 127.5 - 1.0);
            value + amplitude * (a + b + c + d)
        });
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

fn ranking(
    fitted: &Fitted,
    alerting: usize,
    examples: Examples<'_>,
    validation: &[usize],
) -> Option<f64> {
    if validation.is_empty() {
        return None;
    }
    let mut probabilities = fitted.logits(examples.features, validation);
    softmax(&mut probabilities);
    let positive: Vec<bool> =
        validation.iter().map(|&row| examples.class[row] == alerting).collect();
    eval::average_precision(&probabilities.column(alerting).to_vec(), &positive)
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
            row.assign(&ndarray::arr1(&[radius * angle.cos(), radius * angle.sin(), 7.0]));
        }
        (features, class)
    }

    fn train(recipe: &Recipe, seed: u64) -> (Fitted, f64) {
        let (features, class) = ring(600);
        let weight = vec![1.0; 600];
        let examples = Examples { features: features.view(), class: &class, weight: &weight };
        let rows: Vec<usize> = (0..400).collect();
        let held: Vec<usize> = (400..600).collect();
        let fitted = fit(recipe, 2, 0, examples, &rows, &held, seed).unwrap();
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
        let (fitted, _) = train(&Recipe { patience: Some(3), ..recipe() }, 1);
        let best = fitted.history.iter().filter_map(|epoch| epoch.validation).fold(0.0, f64::max);
        assert_eq!(fitted.history[fitted.best_epoch - 1].validation, Some(best));
        assert!(fitted.history.len() < 40);
    }

    #[test]
    fn weights_of_zero_are_not_learnt_from_and_constant_features_do_no_harm() {
        let (features, class) = ring(200);
        let wrong: Vec<usize> = class.iter().map(|class| 1 - class).collect();
        let both = ndarray::concatenate![Axis(0), features, features];
        let labels = [class.clone(), wrong].concat();
        let weight = [vec![1.0; 200], vec![0.0; 200]].concat();
        let examples = Examples { features: both.view(), class: &labels, weight: &weight };
        let rows: Vec<usize> = (0..400).collect();
        let fitted = fit(&recipe(), 2, 0, examples, &rows, &[], 1).unwrap();
        assert_eq!(fitted.scale[2], 0.0);
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
        let examples = Examples { features: features.view(), class: &class, weight: &weight };
        let rows: Vec<usize> = (0..400).collect();
        let mean_alert = |hard_negative| {
            let recipe = Recipe { hard_negative, ..recipe() };
            let fitted = fit(&recipe, 2, 0, examples, &rows, &[], 1).unwrap();
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
            let examples = Examples { features: features.view(), class, weight: &weight };
            fit(&recipe(), classes, 0, examples, &rows, &[], 1).unwrap_err()
        };
        assert_eq!(fault(&features, &class, 0.0, 2), FitError::Nothing);
        assert_eq!(fault(&features, &class, 1.0, 3), FitError::ClassMissing(2));
        features[[4, 1]] = f32::NAN;
        assert_eq!(fault(&features, &class, 1.0, 2), FitError::NotFinite { row: 4 });
    }
}
