//! Each kernel against plain arithmetic, for every length of tail; nothing is read or written beside
//! what is given.

use super::{Filter, Kernels, Packed, Weights};
use crate::fused::geometry::{Geometry, Size};

/// Numbers in -0.5..0.5, always the same for a seed.
pub(in crate::fused) struct Numbers(u32);

impl Numbers {
    pub(in crate::fused) fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(2_654_435_761) | 1)
    }

    pub(in crate::fused) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / (1 << 24) as f32 - 0.5
    }

    pub(in crate::fused) fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// The numbers in the middle of others that must not be touched.
struct Fenced {
    all: Vec<f32>,
    len: usize,
}

const FENCE: usize = 64;

impl Fenced {
    /// NaN on both sides: read by mistake, they would show in every result.
    fn new(numbers: &[f32]) -> Self {
        let fence = [f32::NAN; FENCE];
        Self { all: [&fence, numbers, &fence].concat(), len: numbers.len() }
    }

    fn inner(&mut self) -> &mut [f32] {
        &mut self.all[FENCE..FENCE + self.len]
    }

    fn assert_whole(&self, what: &str) {
        let outside = self.all[..FENCE].iter().chain(&self.all[FENCE + self.len..]);
        assert!(outside.copied().all(f32::is_nan), "{what}: written outside");
    }
}

fn assert_close(actual: &[f32], expected: &[f64], what: &str) {
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(*actual) - expected).abs();
        assert!(difference <= 3e-6 * expected.abs().max(1.0), "{what}: [{i}] {actual} {expected}");
    }
}

/// All sets that this processor can run; says which are not tested because it cannot.
fn sets() -> Vec<Kernels> {
    let sets = Kernels::available();
    for name in ["avx512", "avx2", "portable"] {
        if !sets.iter().any(|set| set.name() == name) {
            eprintln!("skipped: {name}: this processor lacks it");
        }
    }
    sets
}

#[test]
fn products_of_every_size_are_right() {
    for kernels in sets() {
        let width = kernels.panel_width();
        for scaled in [false, true] {
            for depth in [1, 2, 3, 5, 8, 19] {
                // One row alone takes four panels at once: here those, none, one more and its every part.
                for columns in 1..=5 * width + 1 {
                    check_products(kernels, scaled, depth, columns);
                }
            }
        }
    }
}

fn check_products(kernels: Kernels, scaled: bool, depth: usize, columns: usize) {
    let mut numbers = Numbers::new((depth * 1000 + columns) as u32);
    let scale = numbers.take(columns).iter().map(|x| 0.01 + x.abs() / 100.0).collect::<Vec<_>>();
    let mut weights = numbers.take(depth * columns);
    if scaled {
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = (*weight * 254.0).round() * scale[i % columns];
        }
    }
    let bias = numbers.take(columns);
    let weight = |k: usize, column: usize| weights[k * columns + column];
    let matrix = Packed::with_scale(kernels, depth, &bias, weight, scaled.then(|| scale.clone()));
    assert_eq!(matches!(matrix.weights, Weights::Scaled(_)), scaled);
    // Every number of rows: one and two take several panels at once; two full tiles of the widest
    // registers and one row more.
    for count in 0..=25 {
        let floor = if count % 2 == 0 { 0.0 } else { f32::NEG_INFINITY };
        let rows = numbers.take(count * depth);
        let expected: Vec<f64> = (0..count * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let sum: f64 = (0..depth)
                    .map(|k| f64::from(rows[row * depth + k]) * f64::from(weight(k, column)))
                    .sum();
                (sum + f64::from(bias[column])).max(f64::from(floor))
            })
            .collect();
        let (mut rows, mut out) =
            (Fenced::new(&rows), Fenced::new(&vec![f32::NAN; expected.len()]));
        kernels.multiply(rows.inner(), count, &matrix, floor, out.inner());
        let what = format!("{kernels} scaled {scaled}: {count} x {depth} x {columns}");
        assert_close(out.inner(), &expected, &what);
        out.assert_whole(&what);
    }
}

#[test]
fn depthwise_convolutions_of_every_kind_are_right() {
    let kernels = sets();
    for geometry in [(1, 1), (1, 5), (2, 3), (3, 2), (5, 9), (6, 4), (4, 13)] {
        // Every tail of one register and of the block of four, of the narrowest to the widest.
        for channels in (1..=40).chain(63..=83) {
            for (kernel, stride) in [(1, 1), (2, 1), (3, 1), (3, 2), (5, 1), (5, 2), (4, 3)] {
                for before in 0..kernel {
                    check_depthwise(&kernels, channels, geometry, kernel, stride, before);
                }
            }
        }
    }
}

fn check_depthwise(
    kernels: &[Kernels],
    channels: usize,
    (height, width): (usize, usize),
    kernel: usize,
    stride: usize,
    before: usize,
) {
    let output = |len: usize| (len + before - 1) / stride + 1;
    let geometry = Geometry {
        input: Size::new(height, width),
        output: Size::new(output(height), output(width)),
        kernel: Size::new(kernel, kernel),
        stride: Size::new(stride, stride),
        before: Size::new(before, before),
    };
    let images = 2;
    let mut numbers = Numbers::new((channels * 100 + kernel * 10 + before) as u32);
    let input = numbers.take(images * height * width * channels);
    let (weights, bias) = (numbers.take(kernel * kernel * channels), numbers.take(channels));
    let filter = Filter::new(kernel * kernel, &bias, |tap, c| weights[tap * channels + c]);
    let pixels = images * geometry.output.pixels();
    let floor = if before == 0 { f32::NEG_INFINITY } else { -0.1 };
    let expected: Vec<f64> = (0..pixels * channels)
        .map(|i| {
            let (pixel, channel) = (i / channels, i % channels);
            let image = pixel / geometry.output.pixels();
            let y = pixel % geometry.output.pixels() / geometry.output.width;
            let x = pixel % geometry.output.width;
            let mut sum = f64::from(bias[channel]);
            for tap in 0..kernel * kernel {
                let at = |out: usize, tap: usize, len: usize| {
                    (out * stride + tap).checked_sub(before).filter(|at| *at < len)
                };
                let (row, column) = (at(y, tap / kernel, height), at(x, tap % kernel, width));
                let (Some(row), Some(column)) = (row, column) else { continue };
                let value = input[((image * height + row) * width + column) * channels + channel];
                sum += f64::from(value) * f64::from(weights[tap * channels + channel]);
            }
            sum.max(f64::from(floor))
        })
        .collect();
    // The whole, and a part that begins and ends in the middle of a row.
    let mut input = Fenced::new(&input);
    for range in [0..pixels, pixels / 3..pixels - pixels / 4] {
        let expected = &expected[range.start * channels..range.end * channels];
        for set in kernels {
            let mut out = Fenced::new(&vec![f32::NAN; expected.len()]);
            set.depthwise(input.inner(), &geometry, &filter, floor, range.clone(), out.inner());
            let what = format!("{set}, {channels} channels, {range:?} of {geometry:?}");
            assert_close(out.inner(), expected, &what);
            out.assert_whole(&what);
        }
    }
}

#[test]
fn eight_bit_weights_are_recognised_and_others_are_not() {
    let (depth, columns) = (300, 250);
    let mut numbers = Numbers::new(5);
    let scale = numbers.take(columns).iter().map(|x| 0.001 + x.abs() / 50.0).collect::<Vec<_>>();
    let integers: Vec<f32> =
        numbers.take(depth * columns).iter().map(|x| (x * 254.0).round()).collect();
    // Every column reaches 127 of its own scale, or none does but the matrix as a whole.
    let by_column = |k: usize, c: usize| {
        if k == c % depth { 127.0 * scale[c] } else { integers[k * columns + c] * scale[c] }
    };
    let by_matrix = |k: usize, c: usize| {
        if k + c == 0 { 127.0 * 0.013 } else { (integers[k * columns + c] / 2.0).round() * 0.013 }
    };
    let off = |k: usize, c: usize| by_column(k, c) * if (k, c) == (7, 9) { 1.001 } else { 1.0 };
    let bias = vec![0.0; columns];
    for kernels in sets() {
        for weight in [&by_column as &dyn Fn(usize, usize) -> f32, &by_matrix] {
            let matrix = Packed::new(kernels, depth, &bias, weight);
            assert!(matches!(matrix.weights, Weights::Scaled(_)));
            assert!(matrix.bytes() < depth * (columns + kernels.panel_width()));
            // Nothing is lost: one row that picks a single weight gives that weight.
            for k in [0, 7, depth - 1] {
                let mut row = vec![0.0; depth];
                row[k] = 1.0;
                let mut out = vec![0.0; columns];
                kernels.multiply(&row, 1, &matrix, f32::NEG_INFINITY, &mut out);
                for (c, out) in out.iter().enumerate() {
                    assert!((out - weight(k, c)).abs() <= 2e-7 * weight(k, c).abs().max(0.1));
                }
            }
        }
        let matrix = Packed::new(kernels, depth, &bias, off);
        assert!(matches!(matrix.weights, Weights::Whole(_)));
        // Small matrices stay whole.
        let matrix = Packed::new(kernels, 3, &bias[..4], by_column);
        assert!(matches!(matrix.weights, Weights::Whole(_)));
    }
}

#[test]
#[should_panic(expected = "outputs")]
fn a_short_output_is_refused() {
    let kernels = Kernels::available()[0];
    let matrix = Packed::new(kernels, 2, &[0.0; 3], |_, _| 1.0);
    kernels.multiply(&[1.0; 4], 2, &matrix, 0.0, &mut [0.0; 5]);
}

#[test]
#[should_panic(expected = "packed for other kernels")]
fn weights_packed_for_other_kernels_are_refused() {
    let sets = Kernels::available();
    let (first, last) = (sets[0], sets[sets.len() - 1]);
    assert!(first != last, "packed for other kernels: there is only one set here");
    let matrix = Packed::new(first, 2, &[0.0; 3], |_, _| 1.0);
    last.multiply(&[1.0; 2], 1, &matrix, 0.0, &mut [0.0; 3]);
}
