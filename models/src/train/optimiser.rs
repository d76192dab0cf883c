//! AdamW: Adam with decoupled weight decay, and the learning rate's course over a run.

use super::net::Net;

/// Decay rates of the moments and the divisor's floor, as usual for Adam.
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Moments of the gradient.
pub(super) struct AdamW {
    mean: Net,
    square: Net,
    weight_decay: f32,
    steps: i32,
}

impl AdamW {
    /// For a network of the shape of `net`. `weight_decay` is the share that weights (not biases)
    /// lose per step at a learning rate of 1.
    pub(super) fn new(net: &Net, weight_decay: f32) -> Self {
        Self { mean: Net::zeros_like(net), square: Net::zeros_like(net), weight_decay, steps: 0 }
    }

    /// One step against `gradient`.
    pub(super) fn step(&mut self, net: &mut Net, gradient: &mut Net, learning_rate: f32) {
        self.steps = self.steps.saturating_add(1);
        let mean_bias = 1.0 - BETA_1.powi(self.steps);
        let square_bias = 1.0 - BETA_2.powi(self.steps);
        let parts = net
            .parameters_mut()
            .into_iter()
            .zip(gradient.parameters_mut())
            .zip(self.mean.parameters_mut().into_iter().zip(self.square.parameters_mut()));
        for (((values, decays), (slopes, _)), ((means, _), (squares, _))) in parts {
            let kept = if decays { 1.0 - learning_rate * self.weight_decay } else { 1.0 };
            for (((value, &mut slope), mean), square) in
                values.iter_mut().zip(slopes.iter_mut()).zip(means).zip(squares)
            {
                *mean = BETA_1 * *mean + (1.0 - BETA_1) * slope;
                *square = BETA_2 * *square + (1.0 - BETA_2) * slope * slope;
                let step = (*mean / mean_bias) / ((*square / square_bias).sqrt() + EPSILON);
                *value = *value * kept - learning_rate * step;
            }
        }
    }
}

/// Learning rate at `step` of `steps`: linear rise over the first twentieth, then half a cosine to
/// zero.
pub(super) fn learning_rate(peak: f32, step: usize, steps: usize) -> f32 {
    let rise = (steps / 20).max(1);
    if step < rise {
        return peak * (step + 1) as f32 / rise as f32;
    }
    let progress = (step - rise) as f32 / (steps - rise).max(1) as f32;
    peak * 0.5 * (1.0 + (std::f32::consts::PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn net() -> Net {
        let mut net = Net::new(2, 0, 2, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
        net.output.weight.fill(1.0);
        net
    }

    #[test]
    fn the_first_step_is_one_learning_rate_against_the_slope() {
        let (mut net, start) = (net(), net());
        let mut gradient = Net::zeros_like(&net);
        gradient.output.weight.fill(0.25);
        gradient.output.bias[0] = -4.0;
        AdamW::new(&start, 0.0).step(&mut net, &mut gradient, 0.1);
        assert!(net.output.weight.iter().all(|w| (w - 0.9).abs() < 1e-5));
        assert!((net.output.bias[0] - 0.1).abs() < 1e-5);
        assert_eq!(net.output.bias[1], 0.0);
    }

    #[test]
    fn decay_shrinks_weights_without_any_slope_and_spares_biases() {
        let mut net = net();
        net.output.bias.fill(1.0);
        let mut gradient = Net::zeros_like(&net);
        AdamW::new(&net.clone(), 0.5).step(&mut net, &mut gradient, 0.1);
        assert!(net.output.weight.iter().all(|w| (w - 0.95).abs() < 1e-6));
        assert!(net.output.bias.iter().all(|b| *b == 1.0));
    }

    #[test]
    fn the_rate_rises_peaks_and_ends_at_nothing() {
        let at = |step| learning_rate(1.0, step, 100);
        assert!(at(0) < at(2) && at(2) < at(4));
        assert_eq!(at(5), 1.0);
        assert!(at(50) > at(80) && at(99) < 0.01);
    }
}
