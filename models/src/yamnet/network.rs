//! YAMNet v1 as numbers: a convolution, thirteen pairs of depthwise and pointwise convolution, a
//! mean, a matrix. BatchNorm is folded into the biases, every convolution is followed by ReLU.
//!
//! Layers are numbered from 0: the first convolution is l00, its pairs are (l01, l02), (l03, l04)
//! … (l25, l26), so that even numbers are pointwise layers.

/// Output channels of the first convolution (l00): 3×3, stride 2, one input channel.
const STEM_CHANNELS: usize = 32;
/// Stride of the depthwise convolution and output channels of the pointwise one, pair by pair.
const PAIRS: [(usize, usize); 13] = [
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (2, 1024),
    (1, 1024),
];
/// Length of the embedding: channels of the last layer.
pub const EMBEDDING_LEN: usize = 1024;
/// AudioSet classes.
pub const CLASSES: usize = 521;
/// Channels of l12 and l14.
pub(super) const INNER_CHANNELS: usize = 512;

/// How one convolution treats its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// One filter per channel.
    pub depthwise: bool,
}

impl ConvShape {
    /// Numbers in the kernel.
    #[must_use]
    pub fn weights(self) -> usize {
        let inputs_per_filter = if self.depthwise { 1 } else { self.input };
        self.output * inputs_per_filter * self.kernel * self.kernel
    }
}

/// All 27 convolutions from l00 to l26.
#[must_use]
pub fn conv_shapes() -> Vec<ConvShape> {
    let stem =
        ConvShape { input: 1, output: STEM_CHANNELS, kernel: 3, stride: 2, depthwise: false };
    let mut shapes = vec![stem];
    let mut channels = STEM_CHANNELS;
    for (stride, output) in PAIRS {
        shapes.push(ConvShape {
            input: channels,
            output: channels,
            kernel: 3,
            stride,
            depthwise: true,
        });
        shapes.push(ConvShape { input: channels, output, kernel: 1, stride: 1, depthwise: false });
        channels = output;
    }
    shapes
}

/// One convolution's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Its shape.
    pub shape: ConvShape,
    /// `[output, input per filter, kernel, kernel]`, row-major.
    pub weight: Vec<f32>,
    /// One per output channel.
    pub bias: Vec<f32>,
}

/// The whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// l00 to l26.
    pub convs: Vec<Conv>,
    /// `[CLASSES, EMBEDDING_LEN]`, row-major.
    pub class_weight: Vec<f32>,
    /// One per class.
    pub class_bias: Vec<f32>,
}
