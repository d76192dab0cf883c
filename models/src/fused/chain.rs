//! Fused layers in a row.

use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::geometry::Size;
use super::kernels::Kernels;
use super::layer::Layer;

/// Layers, each fed by the one before it.
pub(crate) struct Chain {
    kernels: Kernels,
    layers: Vec<Layer>,
    stretches: Vec<Stretch>,
    idle: Mutex<Vec<Scratch>>,
}

/// Neighbouring layers that treat a batch alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    layers: Range<usize>,
    /// One image after the other, because images outweigh weights; otherwise all images at once,
    /// so that each weight is fetched once for all.
    by_image: bool,
}

/// Memory for what lies between layers. It is kept from one run to the next: fresh memory would
/// cost a page fault for every 4 KiB.
#[derive(Debug, Default)]
struct Scratch {
    /// Between layers of a stretch.
    inner: [Vec<f32>; 2],
    /// Between stretches.
    outer: [Vec<f32>; 2],
    tile: Vec<f32>,
}

impl Chain {
    /// # Panics
    /// If there is no layer, or two neighbours do not fit.
    pub(crate) fn new(kernels: Kernels, layers: Vec<Layer>) -> Self {
        assert!(!layers.is_empty(), "no layers");
        for pair in layers.windows(2) {
            assert_eq!(pair[0].output(), pair[1].input(), "layers do not fit");
        }
        let mut stretches: Vec<Stretch> = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            let images = size_of::<f32>() * (layer.input_len() + layer.output_len());
            let by_image = layer.weight_bytes() < images;
            match stretches.last_mut() {
                Some(last) if last.by_image == by_image => last.layers.end = at + 1,
                _ => stretches.push(Stretch { layers: at..at + 1, by_image }),
            }
        }
        Self { kernels, layers, stretches, idle: Mutex::default() }
    }

    /// Pixels and channels of the input.
    pub(crate) fn input(&self) -> (Size, usize) {
        self.layers[0].input()
    }

    /// Pixels and channels of the output.
    pub(crate) fn output(&self) -> (Size, usize) {
        self.layers[self.layers.len() - 1].output()
    }

    /// What it runs with.
    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The layers.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Runs the layers one after the other on made-up images, `rounds` times, and gives for each of
    /// them its times.
    pub(crate) fn time_layers(&self, images: usize, rounds: usize) -> Vec<Vec<Duration>> {
        let first = self.layers[0].input_len();
        let ramp = (0..images * first).map(|i| (i % 97) as f32 / 97.0 - 0.3);
        let mut between: Vec<Vec<f32>> = vec![ramp.collect()];
        between.extend(self.layers.iter().map(|layer| vec![0.0; images * layer.output_len()]));
        let mut times = vec![Vec::with_capacity(rounds); self.layers.len()];
        let mut tile = Vec::new();
        for _ in 0..rounds {
            for (at, layer) in self.layers.iter().enumerate() {
                let (before, after) = between.split_at_mut(at + 1);
                let begun = Instant::now();
                layer.run(self.kernels, images, &before[at], &mut after[0], &mut tile);
                times[at].push(begun.elapsed());
            }
        }
        times
    }

    /// Runs on `images` images; any thread may.
    ///
    /// # Panics
    /// If a slice is not as long as `images` images.
    pub(crate) fn run(&self, images: usize, input: &[f32], output: &mut [f32]) {
        // A thread that panicked left no half-written numbers that anyone reads.
        let idle = || self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut scratch = idle().pop().unwrap_or_default();
        let Scratch { inner, outer, tile } = &mut scratch;
        for (i, stretch) in self.stretches.iter().enumerate() {
            let layers = &self.layers[stretch.layers.clone()];
            let [from, to] = outer;
            let from = if i == 0 { input } else { &from[..images * layers[0].input_len()] };
            let len = images * layers[layers.len() - 1].output_len();
            let to = if i + 1 == self.stretches.len() { &mut *output } else { grown(to, len) };
            let at_once = if stretch.by_image { 1 } else { images };
            let (in_len, out_len) = (from.len() / images, to.len() / images);
            let groups = from.chunks(in_len * at_once).zip(to.chunks_mut(out_len * at_once));
            for (from, to) in groups {
                run_layers(self.kernels, layers, at_once, from, to, inner, tile);
            }
            outer.swap(0, 1);
        }
        idle().push(scratch);
    }
}

fn run_layers(
    kernels: Kernels,
    layers: &[Layer],
    images: usize,
    input: &[f32],
    output: &mut [f32],
    between: &mut [Vec<f32>; 2],
    tile: &mut Vec<f32>,
) {
    for (i, layer) in layers.iter().enumerate() {
        let [from, to] = &mut *between;
        let from = if i == 0 { input } else { &from[..images * layer.input_len()] };
        let len = images * layer.output_len();
        let to = if i + 1 == layers.len() { &mut *output } else { grown(to, len) };
        layer.run(kernels, images, from, to, tile);
        between.swap(0, 1);
    }
}

/// The first `len` numbers of a buffer that never shrinks.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
