//! Rows times a packed matrix, with bias and floor in the store.

use std::marker::PhantomData;

use super::vector::Vector;
use super::{Kernel, Packed, Weights};

/// The kernel behind [`super::Kernels::multiply`], which checks the lengths.
pub(super) struct Multiply<'a> {
    pub(super) rows: *const f32,
    pub(super) count: usize,
    pub(super) matrix: &'a Packed,
    pub(super) floor: f32,
    pub(super) out: *mut f32,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as the caller's.
        unsafe {
            match &self.matrix.weights {
                Weights::Whole(numbers) => self.panels::<V, f32>(numbers.as_ptr()),
                Weights::Scaled(numbers) => self.panels::<V, i8>(numbers.as_ptr()),
            }
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    unsafe fn panels<V: Vector, W: Weight>(self, weights: *const W) {
        let Self { rows, count, matrix, floor, out } = self;
        let (depth, columns, width) = (matrix.depth, matrix.columns, 2 * V::LEN);
        // Rows are dealt out evenly: 8 rows are 4 + 4, not 6 + 2.
        let tiles = count.div_ceil(V::ROWS);
        // One or two rows alone would leave the processor waiting for its own sums: it works on
        // several panels at once then. No sum is split, so that a row's result does not depend
        // on how many rows there are.
        let most = match count {
            1 => 4,
            2 => 2,
            _ => 1,
        };
        let mut first = 0;
        while first < columns {
            let panels = if columns - first > (most - 1) * width { most } else { 1 };
            for tile_index in 0..tiles {
                let (at, next) = (count * tile_index / tiles, count * (tile_index + 1) / tiles);
                // SAFETY: rows `at..next` of `count`; a panel begins at every `first`, and there
                // are `panels` of them from there on.
                unsafe {
                    let tile = Tile::<V, W> {
                        rows: rows.add(at * depth),
                        depth,
                        panel: weights.add(first * depth),
                        scale: matrix.scale.as_ptr().add(first),
                        bias: matrix.bias.as_ptr().add(first),
                        floor,
                        out: out.add(at * columns + first),
                        out_step: columns,
                        columns: columns - first,
                        vector: PhantomData,
                    };
                    match (next - at, panels) {
                        (1, 4) => tile.run::<1, 4>(),
                        (2, 2) => tile.run::<2, 2>(),
                        (rows, _) => tile.run_rows(rows),
                    }
                }
            }
            first += panels * width;
        }
    }
}

/// How a weight is kept.
trait Weight {
    /// Whether sums are to be multiplied by the column's scale.
    const SCALED: bool;

    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

impl Weight for f32 {
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: as the caller's.
        unsafe { V::load(from) }
    }
}

impl Weight for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: as the caller's.
        unsafe { V::load_bytes(from) }
    }
}

/// How far ahead of their use weights are asked for: they may come from memory, and the processor's
/// own foresight ends at every page.
const AHEAD: usize = 2048;

/// A few rows times one panel.
struct Tile<V, W> {
    rows: *const f32,
    depth: usize,
    panel: *const W,
    scale: *const f32,
    bias: *const f32,
    floor: f32,
    out: *mut f32,
    out_step: usize,
    /// Columns that there are from here on.
    columns: usize,
    vector: PhantomData<V>,
}

impl<V: Vector, W: Weight> Tile<V, W> {
    #[inline(always)]
    unsafe fn run_rows(&self, rows: usize) {
        // SAFETY: as the caller's. Arms above `V::ROWS` are never taken and not compiled.
        unsafe {
            match rows {
                1 => self.run::<1, 1>(),
                2 => self.run::<2, 1>(),
                3 => self.run::<3, 1>(),
                4 => self.run::<4, 1>(),
                5 if V::ROWS >= 5 => self.run::<5, 1>(),
                6 if V::ROWS >= 6 => self.run::<6, 1>(),
                7 if V::ROWS >= 7 => self.run::<7, 1>(),
                8 if V::ROWS >= 8 => self.run::<8, 1>(),
                9 if V::ROWS >= 9 => self.run::<9, 1>(),
                10 if V::ROWS >= 10 => self.run::<10, 1>(),
                11 if V::ROWS >= 11 => self.run::<11, 1>(),
                12 if V::ROWS >= 12 => self.run::<12, 1>(),
                _ => unreachable!("{rows} rows in a tile of at most {}", V::ROWS),
            }
        }
    }

    /// `ROWS` rows times `PANELS` neighbouring panels, of which the last may be filled up.
    #[inline(always)]
    unsafe fn run<const ROWS: usize, const PANELS: usize>(&self) {
        // SAFETY: `ROWS` rows of `depth` numbers, `PANELS` panels of `depth` times two registers, two
        // registers of bias and scale for each; of each output row only the columns that there are
        // are written.
        unsafe {
            let width = 2 * V::LEN;
            let mut sums = [[[V::splat(0.0); 2]; ROWS]; PANELS];
            // Fixed steps, so that the loop only moves two pointers.
            let steps: [usize; ROWS] = std::array::from_fn(|row| row * self.depth);
            let panel_step = self.depth * width;
            let (mut panel, mut rows) = (self.panel, self.rows);
            for _ in 0..self.depth {
                for (index, sums) in sums.iter_mut().enumerate() {
                    Self::step(sums, &steps, rows, panel.add(index * panel_step));
                }
                (rows, panel) = (rows.add(1), panel.add(width));
            }
            for (index, sums) in sums.iter().enumerate() {
                self.store(sums, index * width);
            }
        }
    }

    /// Scales the sums of one panel, which begins at `first`, adds the bias and writes them.
    #[inline(always)]
    unsafe fn store<const ROWS: usize>(&self, sums: &[[V; 2]; ROWS], first: usize) {
        // SAFETY: as the caller's.
        unsafe {
            let bias = self.bias.add(first);
            let (left, right) = (V::load(bias), V::load(bias.add(V::LEN)));
            let (left_scale, right_scale) = if W::SCALED {
                let scale = self.scale.add(first);
                (V::load(scale), V::load(scale.add(V::LEN)))
            } else {
                (V::splat(1.0), V::splat(1.0))
            };
            let floor = V::splat(self.floor);
            let columns = self.columns - first;
            for (row, sum) in sums.iter().enumerate() {
                let out = self.out.add(row * self.out_step + first);
                let left = left.add_product(sum[0], left_scale).max(floor);
                let right = right.add_product(sum[1], right_scale).max(floor);
                if columns >= 2 * V::LEN {
                    left.store(out);
                    right.store(out.add(V::LEN));
                } else if columns > V::LEN {
                    left.store(out);
                    right.store_first(out.add(V::LEN), columns - V::LEN);
                } else {
                    left.store_first(out, columns);
                }
            }
        }
    }

    /// Adds one number of each row times one line of the panel.
    #[inline(always)]
    unsafe fn step<const ROWS: usize>(
        sums: &mut [[V; 2]; ROWS],
        steps: &[usize; ROWS],
        rows: *const f32,
        panel: *const W,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            V::prefetch(panel.cast::<u8>().wrapping_add(AHEAD));
            let (left, right) = (W::load::<V>(panel), W::load::<V>(panel.add(V::LEN)));
            for (sum, step) in sums.iter_mut().zip(steps) {
                let value = V::splat(*rows.add(*step));
                sum[0] = sum[0].add_product(value, left);
                sum[1] = sum[1].add_product(value, right);
            }
        }
    }
}
