//! The arithmetic of fused layers, one set of kernels for each kind of processor.
//!
//! The only place of the workspace with `unsafe` code, because it speaks to the processor's vector
//! registers. Its face is safe: [`Kernels`] can only be had for a processor that has the
//! instructions, and every function checks all lengths before a pointer is made.

#![allow(
    unsafe_code,
    reason = "vector registers: three quarters of a station's inference time is spent here"
)]

mod depthwise;
mod peak;
mod product;
#[cfg(test)]
pub(in crate::fused) mod tests;
mod vector;

use std::fmt;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use vector::x86::{Avx2, Avx512};
use vector::{Portable, Vector};

use super::geometry::Geometry;
use crate::eight_bit;

/// A set of kernels that this processor can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernels(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Arithmetic written once for all kinds of registers.
trait Kernel {
    /// # Safety
    /// The processor must have the instructions of `V`; lengths must have been checked.
    unsafe fn run<V: Vector>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(kernel: impl Kernel) {
    // SAFETY: as the caller's.
    unsafe { kernel.run::<Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(kernel: impl Kernel) {
    // SAFETY: as the caller's.
    unsafe { kernel.run::<Avx512>() }
}

impl Kernels {
    /// All sets that this processor can run, the quickest first.
    pub(crate) fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                sets.push(Self(Set::Avx512));
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                sets.push(Self(Set::Avx2));
            }
        }
        sets.push(Self(Set::Portable));
        sets
    }

    /// The set's name, as the configuration spells it.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }

    /// Columns of one panel of a packed matrix: two registers.
    fn panel_width(self) -> usize {
        match self.0 {
            Set::Portable => 2 * Portable::LEN,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => 2 * Avx2::LEN,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => 2 * Avx512::LEN,
        }
    }

    /// `out[r] = max(floor, rows[r] · matrix + bias)` for `count` rows.
    ///
    /// Row `r` of the input begins at `r · depth`, of the output at `r · columns`.
    ///
    /// # Panics
    /// If a slice is not exactly as long as that, or the matrix was packed for another set.
    pub(crate) fn multiply(
        self,
        rows: &[f32],
        count: usize,
        matrix: &Packed,
        floor: f32,
        out: &mut [f32],
    ) {
        assert_eq!(matrix.kernels, self, "packed for other kernels");
        assert_eq!(rows.len(), count * matrix.depth, "rows");
        assert_eq!(out.len(), count * matrix.columns, "outputs");
        let (rows, out) = (rows.as_ptr(), out.as_mut_ptr());
        // SAFETY: lengths are checked above.
        unsafe { self.run(product::Multiply { rows, count, matrix, floor, out }) }
    }

    /// Output pixels `pixels` (counted row by row, image after image) of a depthwise convolution.
    ///
    /// `input`: whole images `[image, y, x, channel]`; `out`: `[pixel, channel]`.
    ///
    /// # Panics
    /// If a slice is not as long as the geometry says.
    pub(crate) fn depthwise(
        self,
        input: &[f32],
        geometry: &Geometry,
        filter: &Filter,
        floor: f32,
        pixels: Range<usize>,
        out: &mut [f32],
    ) {
        let channels = filter.channels;
        let image = geometry.input.pixels() * channels;
        assert!(image > 0 && input.len().is_multiple_of(image), "input");
        assert!(pixels.start <= pixels.end, "pixels");
        assert!(pixels.end <= input.len() / image * geometry.output.pixels(), "pixels");
        assert_eq!(filter.taps, geometry.kernel.pixels(), "taps");
        assert_eq!(out.len(), pixels.len() * channels, "outputs");
        geometry.assert_sound();
        let (input, out) = (input.as_ptr(), out.as_mut_ptr());
        // SAFETY: lengths are checked above.
        unsafe { self.run(depthwise::Convolve { input, geometry, filter, floor, pixels, out }) }
    }

    /// Multiply-adds without any memory, as many as can be done at once; gives how many there were.
    pub(crate) fn multiply_only(self, rounds: usize) -> usize {
        let mut count = 0;
        // SAFETY: the kernel touches no memory but this count.
        unsafe { self.run(peak::MultiplyOnly { rounds, count: &mut count }) }
        count
    }

    /// # Safety
    /// The kernel's lengths must have been checked.
    unsafe fn run(self, kernel: impl Kernel) {
        // SAFETY: a `Kernels` exists only for a processor with these instructions.
        unsafe {
            match self.0 {
                Set::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => run_avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => run_avx512(kernel),
            }
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A matrix and a bias, laid out as one set of kernels reads them.
#[derive(Clone)]
pub(crate) struct Packed {
    kernels: Kernels,
    depth: usize,
    columns: usize,
    weights: Weights,
    /// What a column's small integers are multiples of; empty where the weights are whole.
    scale: Vec<f32>,
    /// One per column, filled up with zeros to whole panels.
    bias: Vec<f32>,
}

/// Panel after panel `[depth, width]`; the last one is filled up with zeros.
#[derive(Clone)]
enum Weights {
    Whole(Vec<f32>),
    /// Small integers, of which each column has its own scale.
    Scaled(Vec<i8>),
}

/// Matrices up to this many bytes stay whole: they are read from a near cache, where small
/// integers save nothing.
pub(crate) const SMALL: usize = 256 << 10;

impl Packed {
    /// Packs a matrix `[depth, columns]` given by `weight(k, column)`.
    ///
    /// A large one whose columns are each multiples of one number by small integers, as they are in
    /// a network that was published with 8-bit weights, is kept in these integers, a quarter of
    /// the memory, with nothing lost.
    ///
    /// # Panics
    /// If `depth` is 0 or there is no column.
    pub(crate) fn new(
        kernels: Kernels,
        depth: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let large = size_of::<f32>() * depth * bias.len() > SMALL;
        let scale = if large { eight_bit::scales(depth, bias.len(), &weight) } else { None };
        Self::with_scale(kernels, depth, bias, weight, scale)
    }

    /// `scale`: where the weights are to be kept as small integers.
    fn with_scale(
        kernels: Kernels,
        depth: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
        scale: Option<Vec<f32>>,
    ) -> Self {
        let (columns, width) = (bias.len(), kernels.panel_width());
        assert!(depth > 0 && columns > 0, "an empty matrix");
        let padded = columns.next_multiple_of(width);
        let order = (0..padded).step_by(width).flat_map(|first| {
            (0..depth).flat_map(move |k| (first..first + width).map(move |column| (k, column)))
        });
        let at = |(k, column)| if column < columns { weight(k, column) } else { 0.0 };
        let (weights, mut scale) = match scale {
            Some(scale) => {
                let integer = |(k, column)| {
                    let scale = scale.get(column).copied().unwrap_or(1.0);
                    eight_bit::integer(at((k, column)), scale)
                };
                (Weights::Scaled(order.map(integer).collect()), scale)
            }
            None => (Weights::Whole(order.map(at).collect()), Vec::new()),
        };
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        scale.resize(padded, 1.0);
        Self { kernels, depth, columns, weights, scale, bias }
    }

    /// Numbers of an input row.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Numbers of an output row.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Memory of the weights.
    pub(crate) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Whole(numbers) => size_of_val(&numbers[..]),
            Weights::Scaled(numbers) => size_of_val(&numbers[..]),
        }
    }
}

/// One small filter per channel, and a bias.
#[derive(Clone)]
pub(crate) struct Filter {
    channels: usize,
    taps: usize,
    /// `[tap, channel]`, taps row by row.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Filter {
    /// Takes weights given by `weight(tap, channel)`.
    ///
    /// # Panics
    /// If there is no channel or no tap.
    pub(crate) fn new(taps: usize, bias: &[f32], weight: impl Fn(usize, usize) -> f32) -> Self {
        let channels = bias.len();
        assert!(taps > 0 && channels > 0, "an empty filter");
        let mut weights = Vec::with_capacity(taps * channels);
        for tap in 0..taps {
            weights.extend((0..channels).map(|channel| weight(tap, channel)));
        }
        Self { channels, taps, weights, bias: bias.to_vec() }
    }

    /// Channels of input and output.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }
}
