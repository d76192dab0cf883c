//! How a small window moves over an image.

use std::ops::Range;

/// Height and width, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Size {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Size {
    pub(crate) fn new(height: usize, width: usize) -> Self {
        Self { height, width }
    }

    /// Height times width.
    pub(crate) fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// A convolution's window: where it lies on the input for every output pixel. Beyond the edges of
/// the input there are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Geometry {
    pub(crate) input: Size,
    pub(crate) output: Size,
    pub(crate) kernel: Size,
    pub(crate) stride: Size,
    /// Zeros above and to the left of the input.
    pub(crate) before: Size,
}

impl Geometry {
    /// Rows of the kernel that lie on the image for output row `y`.
    pub(crate) fn rows(&self, y: usize) -> Range<usize> {
        inside(y * self.stride.height, self.before.height, self.kernel.height, self.input.height)
    }

    /// Columns of the kernel that lie on the image for output column `x`.
    pub(crate) fn columns(&self, x: usize) -> Range<usize> {
        inside(x * self.stride.width, self.before.width, self.kernel.width, self.input.width)
    }

    /// Output columns for which the whole width of the kernel lies on the image.
    pub(crate) fn inner_columns(&self) -> Range<usize> {
        let start = self.before.width.div_ceil(self.stride.width).min(self.output.width);
        let last = (self.input.width + self.before.width).checked_sub(self.kernel.width);
        let end = last.map_or(0, |last| last / self.stride.width + 1).min(self.output.width);
        start..end.max(start)
    }

    /// Whether the window stays where it is: an output pixel comes from the input pixel at its place.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel.pixels() == 1 && self.stride.pixels() == 1 && self.input == self.output
    }

    /// # Panics
    /// Unless every size is at least 1 and each output pixel has a tap on the image, so that no
    /// kernel reads outside of it.
    pub(crate) fn assert_sound(&self) {
        assert!(self.is_sound(), "{self:?}");
    }

    /// Whether every size is at least 1 and each output pixel has a tap on the image.
    pub(crate) fn is_sound(&self) -> bool {
        let sizes = [self.input, self.output, self.kernel, self.stride];
        sizes.iter().all(|size| size.pixels() > 0)
            && self.before.height < self.kernel.height
            && self.before.width < self.kernel.width
            && (self.output.height - 1) * self.stride.height
                < self.input.height + self.before.height
            && (self.output.width - 1) * self.stride.width < self.input.width + self.before.width
    }
}

/// The part of a kernel of `len` that lies on `0..input` when it begins at `start - before`.
fn inside(start: usize, before: usize, len: usize, input: usize) -> Range<usize> {
    let first = before.saturating_sub(start);
    first..len.min(input + before - start.min(input + before)).max(first)
}
