//! One fused layer: a convolution, its bias and its ReLU in one go; a depthwise one together with
//! the pointwise one behind it, tile by tile, so that what lies between them never leaves the cache.

use std::ops::Range;

use super::geometry::{Geometry, Size};
use super::kernels::{Filter, Kernels, Packed, SMALL};

/// Most bytes of input rows that a product reads again and again for its panels: half of a small
/// first-level cache.
const NEAR: usize = 16 << 10;
/// The same where the weights themselves come from far, so that they are read less often: half of
/// a small second-level cache.
const FAR: usize = 256 << 10;
/// Rows of a tile are a multiple of this, so that the product's register tiles come out even.
const ROWS: usize = 24;

/// Where the rows of a layer's product come from.
#[derive(Clone)]
enum Rows {
    /// The input's own pixels.
    Pixels,
    /// A depthwise convolution of the input, at least `floor`.
    Depthwise(Filter, f32),
    /// The patches of the input under the window.
    Patches,
}

/// A convolution, or a depthwise and a pointwise one.
#[derive(Clone)]
pub(crate) struct Layer {
    rows: Rows,
    geometry: Geometry,
    /// Channels of the input.
    channels: usize,
    product: Option<(Packed, f32)>,
}

impl Layer {
    /// A convolution over all channels: `matrix` is `[kernel height · kernel width · channels,
    /// output channels]`. Outputs are at least `floor`: 0 is ReLU, negative infinity nothing.
    ///
    /// # Panics
    /// If the matrix does not fit, or the geometry is not sound.
    pub(crate) fn dense(geometry: Geometry, channels: usize, matrix: Packed, floor: f32) -> Self {
        geometry.assert_sound();
        assert_eq!(matrix.depth(), geometry.kernel.pixels() * channels, "matrix");
        let rows = if geometry.is_pointwise() { Rows::Pixels } else { Rows::Patches };
        Self { rows, geometry, channels, product: Some((matrix, floor)) }
    }

    /// One filter per channel.
    ///
    /// # Panics
    /// If the geometry is not sound.
    pub(crate) fn depthwise(geometry: Geometry, filter: Filter, floor: f32) -> Self {
        geometry.assert_sound();
        let channels = filter.channels();
        Self { rows: Rows::Depthwise(filter, floor), geometry, channels, product: None }
    }

    /// Whether this is a depthwise layer and `next` the pointwise one that can run along with it.
    pub(crate) fn takes_in(&self, next: &Self) -> bool {
        self.product.is_none()
            && matches!(next.rows, Rows::Pixels)
            && next.channels == self.channels
            && next.geometry.input == self.geometry.output
    }

    /// Both in one.
    ///
    /// # Panics
    /// Unless this layer [`Self::takes_in`] the other.
    pub(crate) fn joined(self, next: Self) -> Self {
        assert!(self.takes_in(&next), "layers do not join");
        Self { product: next.product, ..self }
    }

    /// Channels of the output.
    pub(crate) fn output_channels(&self) -> usize {
        self.product.as_ref().map_or(self.channels, |(matrix, _)| matrix.columns())
    }

    /// Pixels and channels of the input.
    pub(crate) fn input(&self) -> (Size, usize) {
        (self.geometry.input, self.channels)
    }

    /// Pixels and channels of the output.
    pub(crate) fn output(&self) -> (Size, usize) {
        (self.geometry.output, self.output_channels())
    }

    /// Numbers of one input image.
    pub(crate) fn input_len(&self) -> usize {
        self.geometry.input.pixels() * self.channels
    }

    /// Numbers of one output image.
    pub(crate) fn output_len(&self) -> usize {
        self.geometry.output.pixels() * self.output_channels()
    }

    /// Memory of the product's weights.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.product.as_ref().map_or(0, |(matrix, _)| matrix.bytes())
    }

    /// Multiply-adds per image.
    pub(crate) fn products(&self) -> usize {
        let pixels = self.geometry.output.pixels();
        let rows = match self.rows {
            Rows::Depthwise(..) => pixels * self.channels * self.geometry.kernel.pixels(),
            Rows::Pixels | Rows::Patches => 0,
        };
        let product = self.product.as_ref();
        rows + product.map_or(0, |(matrix, _)| pixels * matrix.depth() * matrix.columns())
    }

    /// What it is, for people.
    pub(crate) fn description(&self) -> String {
        let Geometry { input, output, kernel, stride, .. } = self.geometry;
        let (height, width) = (kernel.height, kernel.width);
        let window = match self.rows {
            Rows::Pixels => "1×1".to_owned(),
            Rows::Patches => format!("{height}×{width}/{}", stride.height),
            Rows::Depthwise(..) => {
                let product = if self.product.is_some() { " + 1×1" } else { "" };
                format!("depthwise {height}×{width}/{}{product}", stride.height)
            }
        };
        format!(
            "{window}: {}×{}×{} → {}×{}×{}",
            input.height,
            input.width,
            self.channels,
            output.height,
            output.width,
            self.output_channels()
        )
    }

    /// Runs on whole images; `tile` is scratch that grows to what is needed.
    ///
    /// # Panics
    /// If `input` or `output` is not as long as `images` images.
    pub(crate) fn run(
        &self,
        kernels: Kernels,
        images: usize,
        input: &[f32],
        output: &mut [f32],
        tile: &mut Vec<f32>,
    ) {
        assert_eq!(input.len(), images * self.input_len(), "input");
        assert_eq!(output.len(), images * self.output_len(), "output");
        let pixels = images * self.geometry.output.pixels();
        let Some((matrix, floor)) = &self.product else {
            self.gather(kernels, input, 0..pixels, output);
            return;
        };
        let (depth, columns) = (matrix.depth(), matrix.columns());
        let near = if matrix.bytes() <= SMALL { NEAR } else { FAR };
        let fitting = (near / (depth * size_of::<f32>()) / ROWS).max(1) * ROWS;
        // Tiles of even size, none of them a small rest.
        let size = pixels.div_ceil(pixels.div_ceil(fitting)).next_multiple_of(ROWS).min(pixels);
        for (i, output) in output.chunks_mut(size * columns).enumerate() {
            let (from, count) = (i * size, output.len() / columns);
            let rows = if matches!(self.rows, Rows::Pixels) {
                &input[from * depth..(from + count) * depth]
            } else {
                tile.resize(tile.len().max(count * depth), 0.0);
                let rows = &mut tile[..count * depth];
                self.gather(kernels, input, from..from + count, rows);
                rows
            };
            kernels.multiply(rows, count, matrix, *floor, output);
        }
    }

    /// The product's rows for some output pixels.
    fn gather(&self, kernels: Kernels, input: &[f32], pixels: Range<usize>, rows: &mut [f32]) {
        match &self.rows {
            Rows::Pixels => {
                let range = pixels.start * self.channels..pixels.end * self.channels;
                rows.copy_from_slice(&input[range]);
            }
            Rows::Depthwise(filter, floor) => {
                kernels.depthwise(input, &self.geometry, filter, *floor, pixels, rows);
            }
            Rows::Patches => self.gather_patches(input, pixels, rows),
        }
    }

    fn gather_patches(&self, input: &[f32], pixels: Range<usize>, rows: &mut [f32]) {
        let geometry = &self.geometry;
        let (width, per_image) = (geometry.output.width, geometry.output.pixels());
        let row_len = geometry.input.width * self.channels;
        let patch_row = geometry.kernel.width * self.channels;
        let mut patches = rows.chunks_exact_mut(geometry.kernel.height * patch_row);
        let mut at = pixels.start;
        while at < pixels.end {
            let (image, y, x) = (at / per_image, at % per_image / width, at % width);
            let image = &input[image * self.input_len()..][..self.input_len()];
            let next = pixels.end.min(at - x + width);
            let taps_y = geometry.rows(y);
            let first_row = y * geometry.stride.height + taps_y.start - geometry.before.height;
            let lines = &image[first_row * row_len..][..taps_y.len() * row_len];
            for (x, patch) in (x..x + next - at).zip(&mut patches) {
                let taps_x = geometry.columns(x);
                if taps_x.len() * taps_y.len() < geometry.kernel.pixels() {
                    patch.fill(0.0);
                }
                let first_x = x * geometry.stride.width + taps_x.start - geometry.before.width;
                let len = taps_x.len() * self.channels;
                let patch = &mut patch[taps_y.start * patch_row..];
                for (to, from) in patch.chunks_exact_mut(patch_row).zip(lines.chunks_exact(row_len))
                {
                    let to = &mut to[taps_x.start * self.channels..][..len];
                    let from = &from[first_x * self.channels..][..len];
                    // A call to copy memory takes longer than so few numbers.
                    match (to.as_chunks_mut::<3>(), from.as_chunks::<3>()) {
                        (([to], []), ([from], [])) => *to = *from,
                        _ => to.copy_from_slice(from),
                    }
                }
            }
            at = next;
        }
    }
}
