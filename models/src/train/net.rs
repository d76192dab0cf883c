//! The head's network: none or one hidden layer, softmax over the classes.
//!
//! Forward and backward pass by hand on `ndarray`, one thread, one order of summation: the same
//! seed gives the same bits on the same machine, and a test checks the gradient by differences.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Zip};
use rand::{Rng, RngExt};

/// `y = x·w + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[inputs, outputs]`.
    pub weight: Array2<f32>,
    /// `[outputs]`.
    pub bias: Array1<f32>,
}

impl Dense {
    /// He-uniform weights, zero bias.
    fn new(inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let bound = (6.0 / inputs as f32).sqrt();
        Self {
            weight: Array2::from_shape_simple_fn((inputs, outputs), || {
                rng.random_range(-bound..bound)
            }),
            bias: Array1::zeros(outputs),
        }
    }

    fn zeros_like(other: &Self) -> Self {
        Self { weight: Array2::zeros(other.weight.dim()), bias: Array1::zeros(other.bias.dim()) }
    }

    fn apply(&self, input: ArrayView2<'_, f32>) -> Array2<f32> {
        input.dot(&self.weight) + &self.bias
    }
}

/// A network, or something of its shape: a gradient, the moments of an optimiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Net {
    /// `[inputs, hidden]`, ReLU after it; without it the head is linear.
    pub hidden: Option<Dense>,
    /// `[hidden or inputs, classes]`, logits.
    pub output: Dense,
}

/// A batch with what it should give.
pub struct Batch<'a> {
    /// `[rows, inputs]`, standardised.
    pub input: ArrayView2<'a, f32>,
    /// `[rows, classes]`, each row sums to 1.
    pub target: ArrayView2<'a, f32>,
    /// Weight of each row in the mean loss.
    pub weight: &'a [f32],
    /// Whether some rows weigh more while they are taken for another class.
    pub hard: Option<Hard<'a>>,
}

/// Weighs a row by `1 + factor * score` while it scores for classes that it is not of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hard<'a> {
    /// For each class, whether the row should not score for it.
    pub classes: &'a [bool],
    /// How much more a row weighs that scores 1.
    pub factor: f32,
}

impl Hard<'_> {
    /// What the classes have together of a row.
    fn share(&self, row: ArrayView1<'_, f32>) -> f32 {
        row.iter().zip(self.classes).filter(|(_, hard)| **hard).map(|(value, _)| value).sum()
    }
}

impl Net {
    /// A fresh network; `hidden` 0 gives a linear one.
    pub fn new(inputs: usize, hidden: usize, classes: usize, rng: &mut impl Rng) -> Self {
        match hidden {
            0 => {
                // A linear head starts from indifference: its loss is convex.
                let mut output = Dense::new(inputs, classes, rng);
                output.weight.fill(0.0);
                Self { hidden: None, output }
            }
            _ => Self {
                hidden: Some(Dense::new(inputs, hidden, rng)),
                output: Dense::new(hidden, classes, rng),
            },
        }
    }

    /// All zeros, of the shape of `other`.
    pub fn zeros_like(other: &Self) -> Self {
        Self {
            hidden: other.hidden.as_ref().map(Dense::zeros_like),
            output: Dense::zeros_like(&other.output),
        }
    }

    /// Numbers it takes.
    pub fn inputs(&self) -> usize {
        self.hidden.as_ref().unwrap_or(&self.output).weight.nrows()
    }

    /// Numbers it gives.
    pub fn classes(&self) -> usize {
        self.output.bias.len()
    }

    /// `[rows, inputs]` → `[rows, classes]` logits.
    pub fn logits(&self, input: ArrayView2<'_, f32>) -> Array2<f32> {
        match &self.hidden {
            None => self.output.apply(input),
            Some(hidden) => {
                let mut activity = hidden.apply(input);
                activity.mapv_inplace(|value| value.max(0.0));
                self.output.apply(activity.view())
            }
        }
    }

    /// Weighted mean cross-entropy of a batch and its gradient. `keep` (`[rows, hidden]`, entries
    /// 0 or 1/share kept) drops hidden units; `None` drops nothing.
    ///
    /// The mean is over rows, not over their weights: weights are expected to average 1, so that
    /// the step size does not hang on which rows a batch drew. The extra weight of hard rows is
    /// taken as given: no gradient flows through it.
    pub fn gradient(&self, batch: &Batch<'_>, keep: Option<&Array2<f32>>) -> (f64, Self) {
        let mut activity = self.hidden.as_ref().map(|hidden| {
            let mut activity = hidden.apply(batch.input);
            activity.mapv_inplace(|value| value.max(0.0));
            activity
        });
        if let (Some(activity), Some(keep)) = (&mut activity, keep) {
            *activity *= keep;
        }
        let last = activity.as_ref().map_or(batch.input, |activity| activity.view());
        let mut delta = self.output.apply(last);
        softmax(&mut delta);
        let rows = batch.input.nrows() as f32;
        let mut loss = 0.0f64;
        for ((mut row, target), &weight) in
            delta.outer_iter_mut().zip(batch.target.outer_iter()).zip(batch.weight)
        {
            let weight = match batch.hard {
                Some(hard) if hard.share(target) < 0.5 => {
                    weight * (1.0 + hard.factor * hard.share(row.view()))
                }
                _ => weight,
            };
            Zip::from(&mut row).and(&target).for_each(|probability, &wanted| {
                if wanted > 0.0 {
                    loss -= f64::from(weight * wanted) * f64::from(probability.max(1e-12)).ln();
                }
                *probability = (*probability - wanted) * weight / rows;
            });
        }
        let output = Dense { weight: last.t().dot(&delta), bias: delta.sum_axis(Axis(0)) };
        let hidden = activity.as_ref().map(|activity| {
            let mut back = delta.dot(&self.output.weight.t());
            Zip::from(&mut back).and(activity).for_each(|slope, &value| {
                if value <= 0.0 {
                    *slope = 0.0;
                }
            });
            if let Some(keep) = keep {
                back *= keep;
            }
            Dense { weight: batch.input.t().dot(&back), bias: back.sum_axis(Axis(0)) }
        });
        (loss / f64::from(rows), Self { hidden, output })
    }

    /// Weights and biases as flat slices, with whether weight decay applies, in a fixed order.
    pub(super) fn parameters_mut(&mut self) -> Vec<(&mut [f32], bool)> {
        let mut parameters = Vec::with_capacity(4);
        for dense in self.hidden.iter_mut().chain([&mut self.output]) {
            // Own arrays in standard layout are always contiguous.
            parameters.extend(dense.weight.as_slice_memory_order_mut().map(|part| (part, true)));
            parameters.extend(dense.bias.as_slice_memory_order_mut().map(|part| (part, false)));
        }
        parameters
    }

    /// One network whose logits are the mean of the logits of `nets`: their hidden units side by
    /// side. `None` for no nets, or for nets of different shape.
    pub fn averaging(nets: &[Self]) -> Option<Self> {
        let first = nets.first()?;
        let same = nets.iter().all(|net| {
            net.inputs() == first.inputs()
                && net.classes() == first.classes()
                && net.hidden.is_some() == first.hidden.is_some()
        });
        if !same {
            return None;
        }
        let share = 1.0 / nets.len() as f32;
        let mut bias = Array1::zeros(first.classes());
        for net in nets {
            bias += &(&net.output.bias * share);
        }
        let outputs: Vec<Array2<f32>> = nets.iter().map(|net| &net.output.weight * share).collect();
        if first.hidden.is_none() {
            let mut weight = Array2::zeros(first.output.weight.dim());
            outputs.iter().for_each(|output| weight += output);
            return Some(Self { hidden: None, output: Dense { weight, bias } });
        }
        let hidden: Vec<&Dense> = nets.iter().filter_map(|net| net.hidden.as_ref()).collect();
        let weights: Vec<_> = hidden.iter().map(|dense| dense.weight.view()).collect();
        let biases: Vec<_> = hidden.iter().map(|dense| dense.bias.view()).collect();
        let outputs: Vec<_> = outputs.iter().map(|output| output.view()).collect();
        Some(Self {
            hidden: Some(Dense {
                weight: ndarray::concatenate(Axis(1), &weights)
                    .ok()?
                    .as_standard_layout()
                    .into_owned(),
                bias: ndarray::concatenate(Axis(0), &biases).ok()?,
            }),
            output: Dense { weight: ndarray::concatenate(Axis(0), &outputs).ok()?, bias },
        })
    }
}

/// Logits to probabilities, row by row, in place.
pub fn softmax(logits: &mut Array2<f32>) {
    for mut row in logits.outer_iter_mut() {
        let highest = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        row.mapv_inplace(|value| (value - highest).exp());
        let sum = row.sum();
        row /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn batch_of(rng: &mut ChaCha8Rng, rows: usize, inputs: usize) -> Array2<f32> {
        Array2::from_shape_simple_fn((rows, inputs), || rng.random_range(-2.0..2.0))
    }

    /// Every parameter's slope against the difference quotient of the loss.
    fn check_gradient(hidden: usize, keep: Option<Array2<f32>>) {
        let rng = &mut rng(11);
        let input = batch_of(rng, 5, 4);
        let target = array![
            [0.9, 0.05, 0.05],
            [0.05, 0.9, 0.05],
            [0.0, 0.0, 1.0],
            [0.2, 0.3, 0.5],
            [1.0, 0.0, 0.0]
        ];
        let weight = [1.0, 2.0, 0.5, 0.0, 1.5];
        let batch =
            Batch { input: input.view(), target: target.view(), weight: &weight, hard: None };
        let mut net = Net::new(4, hidden, 3, rng);
        let (_, mut slope) = net.gradient(&batch, keep.as_ref());
        let slopes: Vec<Vec<f32>> =
            slope.parameters_mut().iter().map(|(part, _)| part.to_vec()).collect();
        let step = 2e-3;
        for (part, slopes) in slopes.iter().enumerate() {
            for (at, &expected) in slopes.iter().enumerate() {
                let mut loss_at = |shift: f32| {
                    let own = &mut net.parameters_mut()[part].0[at];
                    let before = *own;
                    *own = before + shift;
                    let loss = net.gradient(&batch, keep.as_ref()).0;
                    net.parameters_mut()[part].0[at] = before;
                    loss
                };
                let quotient = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
                assert!(
                    (quotient - f64::from(expected)).abs() < 2e-3,
                    "part {part}, parameter {at}: {expected} against {quotient}"
                );
            }
        }
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        check_gradient(0, None);
        check_gradient(6, None);
        let keep = Array2::from_shape_fn(
            (5, 6),
            |(row, unit)| {
                if (row + unit) % 3 == 0 { 0.0 } else { 1.5 }
            },
        );
        check_gradient(6, Some(keep));
    }

    #[test]
    fn hard_rows_weigh_as_if_their_weights_had_been_larger() {
        let rng = &mut rng(3);
        let input = batch_of(rng, 2, 4);
        let target = array![[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]];
        let net = Net::new(4, 6, 3, rng);
        let mut score = net.logits(input.view());
        softmax(&mut score);
        let slope = |weight: &[f32], hard| {
            let batch = Batch { input: input.view(), target: target.view(), weight, hard };
            net.gradient(&batch, None).1.output.weight
        };
        let hard = slope(&[1.0, 1.0], Some(Hard { classes: &[true, false, false], factor: 3.0 }));
        let weighted = slope(&[1.0 + 3.0 * score[[0, 0]], 1.0], None);
        assert!((hard - weighted).iter().all(|difference| difference.abs() < 1e-6));
    }

    #[test]
    fn a_linear_head_starts_from_indifference() {
        let net = Net::new(4, 0, 3, &mut rng(1));
        let mut probabilities = net.logits(batch_of(&mut rng(2), 2, 4).view());
        softmax(&mut probabilities);
        assert!(probabilities.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn the_average_net_gives_the_mean_logits() {
        let rng = &mut rng(6);
        let input = batch_of(rng, 6, 4);
        for hidden in [0, 7] {
            let mut nets: Vec<Net> = (0..3).map(|_| Net::new(4, hidden, 3, rng)).collect();
            for net in &mut nets {
                net.output.bias = array![0.1, 0.2, 0.3];
                net.output.weight += 0.05;
            }
            let mut mean = Array2::zeros((6, 3));
            nets.iter().for_each(|net| mean += &(net.logits(input.view()) / 3.0));
            let one = Net::averaging(&nets).unwrap();
            let difference = one.logits(input.view()) - mean;
            assert!(difference.iter().all(|d| d.abs() < 1e-5));
        }
        let unlike = [Net::new(4, 7, 3, rng), Net::new(5, 7, 3, rng)];
        assert_eq!(Net::averaging(&unlike), None);
    }
}
