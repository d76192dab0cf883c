//! Path: published TFLite file → **import** → our ONNX
//!
//! Walks the graph of operators from the first convolution to the sigmoid and takes the weights on
//! the way. What lies before the first convolution is the file's own front end, which differs from
//! file to file and is not used; further outputs (embedding, log-mel) hang beside the way and are
//! not looked at.

use super::flatbuffer::Malformed;
use super::network::{CLASSES, Conv, ConvShape, EMBEDDING_LEN, Network, conv_shapes};
use super::tflite::{Activation, Model, Op, OpKind, Padding, Tensor, Type};

/// What to do when a file is not the right one.
const REMEDY: &str = "get Google's YAMNet v1: run `ecosight-models import-yamnet --download`, or fetch \
     https://www.kaggle.com/api/v1/models/google/yamnet/tfLite/tflite/1/download in a browser and \
     run `ecosight-models import-yamnet` on it";

/// Largest file that is looked at: YAMNet in float32 has 16 MB.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why a file was not imported. Nothing was written; the caller shows the message, which says what
/// to get instead.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not TFLite at all.
    #[error("this is no TFLite file but {found}; {REMEDY}")]
    NotTflite {
        /// What it looks like.
        found: &'static str,
    },
    /// TFLite, but damaged.
    #[error("the TFLite file is damaged ({0}); {REMEDY}")]
    Malformed(#[from] Malformed),
    /// The other YAMNet.
    #[error(
        "this is the ReLU6 \"classification\" model (operator {op}, `{tensor}`, has a fused RELU6): it \
         is called YAMNet too, but it is another network, retrained, and heads made for YAMNet v1 do \
         not fit it; {REMEDY}"
    )]
    Relu6 {
        /// Number of the first such operator.
        op: usize,
        /// Name of its output.
        tensor: String,
    },
    /// Another network.
    #[error("operator {op} (`{tensor}`): {what}; this is not YAMNet v1: {REMEDY}")]
    Unexpected {
        /// Number of the operator.
        op: usize,
        /// Name of the tensor.
        tensor: String,
        /// What was found and what was expected.
        what: String,
    },
    /// No convolution, no sigmoid, or no way between them.
    #[error("{0}; this is not YAMNet v1: {REMEDY}")]
    NoNetwork(String),
}

/// Takes YAMNet's weights out of a TFLite file, as float32.
///
/// # Errors
/// [`ImportError`], with the operator and tensor at fault and the remedy.
pub fn read_tflite(file: &[u8]) -> Result<Network, ImportError> {
    if file.get(4..8) != Some(b"TFL3") {
        return Err(ImportError::NotTflite { found: kind_of(file) });
    }
    let model = Model::parse(file)?;
    Walk { model: &model }.network()
}

fn kind_of(file: &[u8]) -> &'static str {
    match file {
        [] => "an empty file",
        [0x1f, 0x8b, ..] => "a gzip archive without a .tflite inside",
        [b'P', b'K', ..] => "a zip archive (unpack it first)",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file (Keras weights)",
        [b'<', ..] => "a web page (the download did not give the file)",
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', ..] => "a Git LFS pointer",
        [0x08, ..] => "perhaps an ONNX file",
        _ => "something else",
    }
}

struct Walk<'m, 'a> {
    model: &'m Model<'a>,
}

impl Walk<'_, '_> {
    fn network(&self) -> Result<Network, ImportError> {
        self.refuse_relu6()?;
        let shapes = conv_shapes();
        let mut at = self.stem()?;
        let mut convs = Vec::with_capacity(shapes.len());
        for (layer, shape) in shapes.iter().enumerate() {
            if layer > 0 {
                at = self.next(at, &[OpKind::Conv, OpKind::DepthwiseConv])?;
            }
            let (conv, last) = self.conv(at, *shape, layer)?;
            convs.push(conv);
            at = last;
        }
        at = self.next(at, &[OpKind::Mean, OpKind::AveragePool])?;
        at = self.next(at, &[OpKind::FullyConnected])?;
        let (class_weight, class_bias) = self.classes(at)?;
        self.next(at, &[OpKind::Logistic])?;
        Ok(Network { convs, class_weight, class_bias })
    }

    /// A ReLU6 anywhere names the file, whatever else may be odd about it.
    fn refuse_relu6(&self) -> Result<(), ImportError> {
        let relu6 = |op: &Op| op.kind == OpKind::Relu6 || op.activation == Activation::Relu6;
        match self.model.ops.iter().position(relu6) {
            Some(op) => Err(ImportError::Relu6 { op, tensor: self.output_name(op) }),
            None => Ok(()),
        }
    }

    /// The network's first convolution: of the file's convolutions the first with 3×3 kernels on one
    /// channel (a front end may be built of convolutions too), else simply the first.
    fn stem(&self) -> Result<usize, ImportError> {
        let convs = || {
            let ops = self.model.ops.iter().enumerate();
            ops.filter(|(_, op)| op.kind == OpKind::Conv).map(|(at, op)| (at, op.inputs.get(1)))
        };
        let is_stem = |weight: Option<&i32>| {
            let tensor = weight.and_then(|index| self.model.tensor(*index));
            tensor.is_some_and(|tensor| tensor.shape.ends_with(&[3, 3, 1]))
        };
        convs()
            .find(|(_, weight)| is_stem(*weight))
            .or_else(|| convs().next())
            .map(|(at, _)| at)
            .ok_or_else(|| ImportError::NoNetwork("the file has no convolution".to_owned()))
    }

    /// The next operator of one of the `wanted` kinds after operator `at`, past operators that do
    /// not change the numbers.
    fn next(&self, mut at: usize, wanted: &[OpKind]) -> Result<usize, ImportError> {
        const PASS: [OpKind; 4] =
            [OpKind::Reshape, OpKind::Squeeze, OpKind::Quantize, OpKind::Dequantize];
        // Every step goes to a later operator, so that a cycle in a damaged file ends too.
        loop {
            let after = self.consumers(at);
            if let Some(found) =
                after.iter().find(|next| wanted.contains(&self.model.ops[**next].kind))
            {
                return Ok(*found);
            }
            let passing = after.iter().find(|next| PASS.contains(&self.model.ops[**next].kind));
            at = *passing.ok_or_else(|| {
                let found: Vec<_> = after.iter().map(|i| self.model.ops[*i].kind).collect();
                self.unexpected(at, format!("followed by {found:?}, expected one of {wanted:?}"))
            })?;
        }
    }

    /// Later operators that take the first output of operator `at`.
    fn consumers(&self, at: usize) -> Vec<usize> {
        let Some(output) = self.model.ops[at].outputs.first() else { return Vec::new() };
        (at + 1..self.model.ops.len())
            .filter(|next| self.model.ops[*next].inputs.contains(output))
            .collect()
    }

    /// The convolution at operator `at` with bias and ReLU, be they fused or operators of their
    /// own, and the last operator of it.
    fn conv(
        &self,
        at: usize,
        shape: ConvShape,
        layer: usize,
    ) -> Result<(Conv, usize), ImportError> {
        let op = &self.model.ops[at];
        let kind = if shape.depthwise { OpKind::DepthwiseConv } else { OpKind::Conv };
        if op.kind != kind {
            return Err(self
                .unexpected(at, format!("layer {layer} should be a {kind:?}, is {:?}", op.kind)));
        }
        let stride = shape.stride as i32;
        if op.stride != [stride; 2] || op.dilation != [1; 2] {
            return Err(self.unexpected(
                at,
                format!(
                    "layer {layer} should have stride {stride} and dilation 1, has {:?} and {:?}",
                    op.stride, op.dilation
                ),
            ));
        }
        if op.padding != Padding::Same && shape.kernel > 1 {
            return Err(self.unexpected(at, format!("layer {layer} should be padded (SAME)")));
        }
        let inner = if shape.depthwise { 1 } else { shape.input };
        let file_shape = if shape.depthwise {
            [1, shape.kernel, shape.kernel, shape.output]
        } else {
            [shape.output, shape.kernel, shape.kernel, inner]
        };
        let stored = self.constant(at, 1, &file_shape)?;
        let mut bias = match op.inputs.get(2) {
            Some(index) if *index >= 0 => self.constant(at, 2, &[shape.output])?,
            _ => vec![0.0; shape.output],
        };
        let mut last = at;
        let mut activation = op.activation;
        if activation == Activation::None
            && let Ok(add) = self.next(last, &[OpKind::Add])
        {
            let constant = if self.is_computed(self.model.ops[add].inputs.first()) { 1 } else { 0 };
            let extra = self.constant(add, constant, &[shape.output])?;
            bias.iter_mut().zip(extra).for_each(|(b, x)| *b += x);
            activation = self.model.ops[add].activation;
            last = add;
        }
        if activation == Activation::None
            && let Ok(relu) = self.next(last, &[OpKind::Relu])
        {
            activation = Activation::Relu;
            last = relu;
        }
        if activation != Activation::Relu {
            return Err(self.unexpected(
                at,
                format!("layer {layer} should be followed by ReLU, is by {activation:?}"),
            ));
        }
        Ok((Conv { shape, weight: to_output_major(&stored, shape), bias }, last))
    }

    fn classes(&self, at: usize) -> Result<(Vec<f32>, Vec<f32>), ImportError> {
        let op = &self.model.ops[at];
        let weight = self.constant(at, 1, &[CLASSES, EMBEDDING_LEN])?;
        if let Some(index) = op.inputs.get(2)
            && *index >= 0
        {
            return Ok((weight, self.constant(at, 2, &[CLASSES])?));
        }
        let add = self.next(at, &[OpKind::Add])?;
        let constant = if self.is_computed(self.model.ops[add].inputs.first()) { 1 } else { 0 };
        Ok((weight, self.constant(add, constant, &[CLASSES])?))
    }

    /// Whether a tensor is the result of an operator other than the unpacking of a constant.
    fn is_computed(&self, index: Option<&i32>) -> bool {
        let Some(index) = index else { return false };
        self.model.ops.iter().any(|op| op.kind != OpKind::Dequantize && op.outputs.contains(index))
    }

    /// Input number `input` of operator `at` as float32: a constant, or a constant behind a
    /// DEQUANTIZE (as float16 files have it).
    fn constant(&self, at: usize, input: usize, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let op = &self.model.ops[at];
        let index = op.inputs.get(input).copied().unwrap_or(-1);
        let mut tensor = self.model.tensor(index).ok_or_else(|| {
            self.unexpected(at, format!("input {input} is missing, expected {shape:?}"))
        })?;
        if tensor.data.is_empty()
            && let Some(unpack) = self
                .model
                .ops
                .iter()
                .find(|op| op.kind == OpKind::Dequantize && op.outputs.contains(&index))
        {
            let source = unpack.inputs.first().copied().unwrap_or(-1);
            tensor = self.model.tensor(source).unwrap_or(tensor);
        }
        let complain =
            |what: String| ImportError::Unexpected { op: at, tensor: tensor.name.clone(), what };
        let squeezed = |shape: &[usize]| -> Vec<usize> {
            shape.iter().copied().filter(|dim| *dim != 1).collect()
        };
        if squeezed(&tensor.shape) != squeezed(shape) {
            return Err(complain(format!("has shape {:?}, expected {shape:?}", tensor.shape)));
        }
        if tensor.data.is_empty() {
            return Err(complain("is no constant, expected weights".to_owned()));
        }
        let numbers = decode(tensor, shape.iter().product()).map_err(complain)?;
        match numbers.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(complain(format!("number {i} is not finite"))),
            None => Ok(numbers),
        }
    }

    fn output_name(&self, op: usize) -> String {
        let index = self.model.ops[op].outputs.first().copied().unwrap_or(-1);
        self.model.tensor(index).map_or_else(|| "?".to_owned(), |tensor| tensor.name.clone())
    }

    fn unexpected(&self, op: usize, what: String) -> ImportError {
        ImportError::Unexpected { op, tensor: self.output_name(op), what }
    }
}

/// The numbers of a constant as float32, `count` of them.
fn decode(tensor: &Tensor<'_>, count: usize) -> Result<Vec<f32>, String> {
    let width = match tensor.kind {
        Type::F32 | Type::I32 => 4,
        Type::F16 => 2,
        Type::I8 | Type::U8 => 1,
        Type::Other(number) => {
            return Err(format!(
                "has numbers of TFLite type {number}, expected float32, float16 or int8"
            ));
        }
    };
    if tensor.data.len() != count * width {
        return Err(format!("has {} bytes, expected {}", tensor.data.len(), count * width));
    }
    let words = || tensor.data.as_chunks::<4>().0.iter();
    let stored: Vec<f32> = match tensor.kind {
        Type::F32 => words().map(|b| f32::from_le_bytes(*b)).collect(),
        Type::I32 => words().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        Type::F16 => {
            let halves = tensor.data.as_chunks::<2>().0.iter();
            halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        Type::U8 => tensor.data.iter().map(|b| f32::from(*b)).collect(),
        Type::I8 | Type::Other(_) => {
            tensor.data.iter().map(|b| f32::from(b.cast_signed())).collect()
        }
    };
    if matches!(tensor.kind, Type::F32 | Type::F16) {
        return Ok(stored);
    }
    dequantise(tensor, stored)
}

fn dequantise(tensor: &Tensor<'_>, mut stored: Vec<f32>) -> Result<Vec<f32>, String> {
    let scale = tensor.scale.f32s().map_err(|fault| fault.to_string())?;
    let zero = tensor.zero_point.i64s().map_err(|fault| fault.to_string())?;
    let zero_at = |i: usize| zero.get(i).or(zero.first()).copied().unwrap_or(0) as f32;
    if let [scale] = scale[..] {
        stored.iter_mut().for_each(|x| *x = (*x - zero_at(0)) * scale);
        return Ok(stored);
    }
    let channels = tensor.shape.get(tensor.axis).copied().unwrap_or(0);
    if scale.is_empty() || scale.len() != channels {
        return Err(format!(
            "has {} quantisation scales, expected 1 or one per index of axis {} ({channels})",
            scale.len(),
            tensor.axis
        ));
    }
    let inner: usize = tensor.shape[tensor.axis + 1..].iter().product();
    for (i, x) in stored.iter_mut().enumerate() {
        let channel = i / inner.max(1) % channels;
        *x = (*x - zero_at(channel)) * scale[channel];
    }
    Ok(stored)
}

/// From TFLite's order (`[out, h, w, in]`, depthwise `[1, h, w, out]`) to `[out, in, h, w]`.
fn to_output_major(stored: &[f32], shape: ConvShape) -> Vec<f32> {
    let area = shape.kernel * shape.kernel;
    let inner = if shape.depthwise { 1 } else { shape.input };
    let mut weight = vec![0.0; stored.len()];
    for out in 0..shape.output {
        for cell in 0..area {
            for input in 0..inner {
                let from = if shape.depthwise {
                    cell * shape.output + out
                } else {
                    (out * area + cell) * inner + input
                };
                weight[(out * inner + input) * area + cell] = stored[from];
            }
        }
    }
    weight
}
