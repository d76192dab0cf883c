//! Depthwise convolution, channel last, with bias and floor in the store.

use std::marker::PhantomData;
use std::ops::Range;

use super::vector::Vector;
use super::{Filter, Kernel};
use crate::fused::geometry::Geometry;

/// Neighbouring output pixels that are computed at once where no edge is near.
const ABREAST: usize = 4;

/// The kernel behind [`super::Kernels::depthwise`], which checks the lengths.
pub(super) struct Convolve<'a> {
    pub(super) input: *const f32,
    pub(super) geometry: &'a Geometry,
    pub(super) filter: &'a Filter,
    pub(super) floor: f32,
    pub(super) pixels: Range<usize>,
    pub(super) out: *mut f32,
}

impl Kernel for Convolve<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { input, geometry, filter, floor, pixels, out } = self;
        let channels = filter.channels;
        let (width, per_image) = (geometry.output.width, geometry.output.pixels());
        let inner = geometry.inner_columns();
        let mut at = pixels.start;
        while at < pixels.end {
            let (image, y, x) = (at / per_image, at % per_image / width, at % width);
            let run_end = pixels.end.min(at - x + width) - at + x;
            let taps_y = geometry.rows(y);
            let mut x = x;
            while x < run_end {
                let abreast = if inner.contains(&x) && x + ABREAST <= inner.end.min(run_end) {
                    ABREAST
                } else {
                    1
                };
                let taps_x = geometry.columns(x);
                // SAFETY: the taps lie in the image, by the geometry; so do those of the pixels
                // abreast, which are all inner ones.
                unsafe {
                    let first_y =
                        y * geometry.stride.height + taps_y.start - geometry.before.height;
                    let first_x = x * geometry.stride.width + taps_x.start - geometry.before.width;
                    let pixel = (image * geometry.input.height + first_y) * geometry.input.width;
                    let spot = Spot::<V> {
                        input: input.add((pixel + first_x) * channels),
                        input_row: geometry.input.width * channels,
                        weights: filter
                            .weights
                            .as_ptr()
                            .add((taps_y.start * geometry.kernel.width + taps_x.start) * channels),
                        weight_row: geometry.kernel.width * channels,
                        rows: taps_y.len(),
                        columns: taps_x.len(),
                        bias: filter.bias.as_ptr(),
                        channels,
                        floor,
                        out: out.add((at - pixels.start) * channels),
                        vector: PhantomData,
                    };
                    match (abreast, geometry.kernel.width, geometry.stride.width) {
                        (ABREAST, 3, 1) => spot.abreast::<3, 1>(),
                        (ABREAST, 3, 2) => spot.abreast::<3, 2>(),
                        (ABREAST, 5, 1) => spot.abreast::<5, 1>(),
                        (ABREAST, 5, 2) => spot.abreast::<5, 2>(),
                        _ => {
                            spot.single();
                            x += 1;
                            at += 1;
                            continue;
                        }
                    }
                }
                x += ABREAST;
                at += ABREAST;
            }
        }
    }
}

/// One output pixel, or the first of several abreast, and the part of the filter that lies in the
/// image.
struct Spot<V> {
    /// First tap's pixel.
    input: *const f32,
    /// From one row of taps to the next.
    input_row: usize,
    weights: *const f32,
    weight_row: usize,
    rows: usize,
    columns: usize,
    bias: *const f32,
    channels: usize,
    floor: f32,
    out: *mut f32,
    vector: PhantomData<V>,
}

impl<V: Vector> Spot<V> {
    /// One pixel, up to four registers of channels at a time.
    #[inline(always)]
    unsafe fn single(&self) {
        let mut channel = 0;
        // SAFETY: `channel` and what is read and written from there stay below `channels`.
        unsafe {
            while channel + 4 * V::LEN <= self.channels {
                self.single_at::<4, false>(channel);
                channel += 4 * V::LEN;
            }
            while channel + V::LEN <= self.channels {
                self.single_at::<1, false>(channel);
                channel += V::LEN;
            }
            if channel < self.channels {
                self.single_at::<1, true>(channel);
            }
        }
    }

    #[inline(always)]
    unsafe fn single_at<const REGISTERS: usize, const TAIL: bool>(&self, channel: usize) {
        // SAFETY: as the caller's.
        unsafe {
            let count = if TAIL { self.channels - channel } else { V::LEN };
            let mut sums = [V::splat(0.0); REGISTERS];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = load::<V, TAIL>(self.bias.add(channel + i * V::LEN), count);
            }
            for row in 0..self.rows {
                let mut input = self.input.add(row * self.input_row + channel);
                let mut weights = self.weights.add(row * self.weight_row + channel);
                for _ in 0..self.columns {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let value = load::<V, TAIL>(input.add(i * V::LEN), count);
                        let weight = load::<V, TAIL>(weights.add(i * V::LEN), count);
                        *sum = sum.add_product(value, weight);
                    }
                    // One pixel on; after the last tap that may be outside of the image, so no
                    // pointer of a valid object is claimed.
                    input = input.wrapping_add(self.channels);
                    weights = weights.wrapping_add(self.channels);
                }
            }
            let floor = V::splat(self.floor);
            for (i, sum) in sums.iter().enumerate() {
                store::<V, TAIL>(sum.max(floor), self.out.add(channel + i * V::LEN), count);
            }
        }
    }

    /// [`ABREAST`] pixels whose taps all lie in the image, one register of channels at a time: each
    /// weight is read once for all, each input once for all its taps in a row.
    #[inline(always)]
    unsafe fn abreast<const COLUMNS: usize, const STRIDE: usize>(&self) {
        let mut channel = 0;
        // SAFETY: `channel` and what is read and written from there stay below `channels`.
        unsafe {
            while channel + V::LEN <= self.channels {
                self.abreast_at::<COLUMNS, STRIDE, false>(channel);
                channel += V::LEN;
            }
            if channel < self.channels {
                self.abreast_at::<COLUMNS, STRIDE, true>(channel);
            }
        }
    }

    #[inline(always)]
    unsafe fn abreast_at<const COLUMNS: usize, const STRIDE: usize, const TAIL: bool>(
        &self,
        channel: usize,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            let count = if TAIL { self.channels - channel } else { V::LEN };
            let mut sums = [load::<V, TAIL>(self.bias.add(channel), count); ABREAST];
            for row in 0..self.rows {
                let input = self.input.add(row * self.input_row + channel);
                let weights = self.weights.add(row * self.weight_row + channel);
                let mut taps = [V::splat(0.0); COLUMNS];
                for (i, tap) in taps.iter_mut().enumerate() {
                    *tap = load::<V, TAIL>(weights.add(i * self.channels), count);
                }
                for x in 0..COLUMNS + STRIDE * (ABREAST - 1) {
                    let value = load::<V, TAIL>(input.add(x * self.channels), count);
                    for (pixel, sum) in sums.iter_mut().enumerate() {
                        if x >= pixel * STRIDE && x - pixel * STRIDE < COLUMNS {
                            *sum = sum.add_product(value, taps[x - pixel * STRIDE]);
                        }
                    }
                }
            }
            let floor = V::splat(self.floor);
            for (pixel, sum) in sums.iter().enumerate() {
                let out = self.out.add(pixel * self.channels + channel);
                store::<V, TAIL>(sum.max(floor), out, count);
            }
        }
    }
}

#[inline(always)]
unsafe fn load<V: Vector, const TAIL: bool>(from: *const f32, count: usize) -> V {
    // SAFETY: as the caller's.
    unsafe { if TAIL { V::load_first(from, count) } else { V::load(from) } }
}

#[inline(always)]
unsafe fn store<V: Vector, const TAIL: bool>(vector: V, to: *mut f32, count: usize) {
    // SAFETY: as the caller's.
    unsafe { if TAIL { vector.store_first(to, count) } else { vector.store(to) } }
}
