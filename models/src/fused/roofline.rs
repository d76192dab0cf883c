//! How near each fused layer comes to what the machine can do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tract_onnx::prelude::TypedModel;

use super::kernels::Kernels;
use super::layer::Layer;
use super::operator::FusedChain;

/// What this machine can do at most, on one thread, measured.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Multiply-adds a second with nothing to fetch.
    pub products_per_second: f64,
    /// Bytes a second that come from where the network's weights lie, when as many as those are read
    /// in order again and again: the last cache that holds them, or memory.
    pub bytes_per_second: f64,
}

/// One fused layer, timed.
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// What it is.
    pub description: String,
    /// Multiply-adds per window.
    pub products: usize,
    /// Memory of its weights.
    pub weight_bytes: usize,
    /// Bytes of its input and output per window.
    pub image_bytes: usize,
    /// Time per window, median of the rounds.
    pub median: Duration,
    /// The least of the rounds.
    pub least: Duration,
}

/// Measures the machine with the kernels that `model` was fused for; `None` if nothing is fused.
pub(crate) fn machine(model: &TypedModel) -> Option<Machine> {
    let kernels = chains(model).next()?.chain().kernels();
    let layers = chains(model).flat_map(|operator| operator.chain().layers());
    let weights = vec![1_u64; layers.map(Layer::weight_bytes).sum::<usize>() / size_of::<u64>()];
    Some(Machine {
        products_per_second: best(50, || arithmetic_rate(kernels)),
        bytes_per_second: best(50, || reading_rate(&weights)),
    })
}

/// Times all fused layers of `model` on `images` windows at once.
pub(crate) fn layers(model: &TypedModel, images: usize, rounds: usize) -> Vec<LayerTime> {
    let mut all = Vec::new();
    for chain in chains(model).map(FusedChain::chain) {
        for (layer, mut times) in chain.layers().iter().zip(chain.time_layers(images, rounds)) {
            times.sort_unstable();
            let per_window =
                |time: Option<&Duration>| time.copied().unwrap_or_default().div_f64(images as f64);
            all.push(LayerTime {
                description: layer.description(),
                products: layer.products(),
                weight_bytes: layer.weight_bytes(),
                image_bytes: size_of::<f32>() * (layer.input_len() + layer.output_len()),
                median: per_window(times.get(times.len() / 2)),
                least: per_window(times.first()),
            });
        }
    }
    all
}

fn chains(model: &TypedModel) -> impl Iterator<Item = &FusedChain> {
    model.nodes.iter().filter_map(|node| node.op_as::<FusedChain>())
}

fn best(rounds: usize, rate: impl Fn() -> f64) -> f64 {
    (0..rounds).map(|_| rate()).fold(0.0, f64::max)
}

fn arithmetic_rate(kernels: Kernels) -> f64 {
    let begun = Instant::now();
    let count = kernels.multiply_only(100_000);
    count as f64 / begun.elapsed().as_secs_f64()
}

fn reading_rate(numbers: &[u64]) -> f64 {
    let begun = Instant::now();
    let mut sums = [0_u64; 8];
    for line in numbers.as_chunks::<8>().0 {
        for (sum, number) in sums.iter_mut().zip(line) {
            *sum |= number;
        }
    }
    black_box(sums);
    size_of_val(numbers) as f64 / begun.elapsed().as_secs_f64()
}
