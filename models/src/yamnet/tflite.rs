//! The parts of a TFLite file that a network consists of: tensors, constants, operators.
//!
//! Field numbers are those of the public schema (`tensorflow/lite/schema/schema.fbs`, version 3).

use super::flatbuffer::{Malformed, Table, Vector};

/// What one operator does, as far as YAMNet's files need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    /// Element-wise sum.
    Add,
    /// Average over a fixed window.
    AveragePool,
    /// Dense convolution.
    Conv,
    /// One filter per channel.
    DepthwiseConv,
    /// From another type to float32.
    Dequantize,
    /// Matrix product with a constant.
    FullyConnected,
    /// Sigmoid.
    Logistic,
    /// max(0, x).
    Relu,
    /// min(6, max(0, x)).
    Relu6,
    /// Same numbers, other shape.
    Reshape,
    /// Mean over axes.
    Mean,
    /// Drops axes of length 1.
    Squeeze,
    /// From float32 to an integer type.
    Quantize,
    /// Any other builtin operator, by its number in the schema.
    Other(i32),
}

impl OpKind {
    fn of(code: i32) -> Self {
        match code {
            0 => Self::Add,
            1 => Self::AveragePool,
            3 => Self::Conv,
            4 => Self::DepthwiseConv,
            6 => Self::Dequantize,
            9 => Self::FullyConnected,
            14 => Self::Logistic,
            19 => Self::Relu,
            21 => Self::Relu6,
            22 => Self::Reshape,
            40 => Self::Mean,
            43 => Self::Squeeze,
            114 => Self::Quantize,
            other => Self::Other(other),
        }
    }
}

/// What is applied to an operator's result before anyone sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// Nothing.
    None,
    /// max(0, x).
    Relu,
    /// min(6, max(0, x)).
    Relu6,
    /// Another one, by its number in the schema.
    Other(i8),
}

/// How a convolution treats the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// Zeros around, so that only the stride shrinks the picture.
    Same,
    /// None.
    Valid,
}

/// One operator.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// What it does.
    pub(super) kind: OpKind,
    /// Tensor indices, −1 for an absent optional one.
    pub(super) inputs: Vec<i32>,
    /// Tensor indices.
    pub(super) outputs: Vec<i32>,
    /// Fused activation (convolutions, fully connected, add).
    pub(super) activation: Activation,
    /// Border and stride `[height, width]` of convolutions.
    pub(super) padding: Padding,
    /// See `padding`.
    pub(super) stride: [i32; 2],
    /// Dilation `[height, width]` of convolutions.
    pub(super) dilation: [i32; 2],
}

/// Type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 32-bit integer.
    I32,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Another one, by its number in the schema.
    Other(i8),
}

/// One tensor; `data` is empty unless it is a constant.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    /// Its name, fit to be shown.
    pub(super) name: String,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// Type of its numbers.
    pub(super) kind: Type,
    /// Raw constant.
    pub(super) data: &'a [u8],
    /// `real = scale · (stored − zero_point)`; empty: not quantised; one: for all; else per index
    /// of `axis`.
    pub(super) scale: Vector<'a>,
    /// See `scale`.
    pub(super) zero_point: Vector<'a>,
    /// See `scale`.
    pub(super) axis: usize,
}

/// A whole file, first subgraph.
#[derive(Clone, Debug)]
pub(super) struct Model<'a> {
    /// All tensors.
    pub(super) tensors: Vec<Tensor<'a>>,
    /// All operators in the order of execution.
    pub(super) ops: Vec<Op>,
}

/// Most tensors or operators that are looked at: YAMNet's files have fewer than 300.
const MAX_ITEMS: usize = 2_000;
/// Most axes of a tensor and most tensors at one operator.
const MAX_SHORT: usize = 64;

impl<'a> Model<'a> {
    /// Reads the structure; constants stay where they are.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, Malformed> {
        let model = Table::root(file)?;
        let buffers = bounded(model.vector(4, 4)?, "the list of buffers")?;
        let codes = bounded(model.vector(1, 4)?, "the list of operator codes")?;
        let codes = (0..codes.len())
            .map(|i| {
                let code = codes.table(i)?;
                // Codes above 127 stand in the newer field only; the older one then holds 127.
                Ok(OpKind::of(code.i32(3, 0)?.max(i32::from(code.i8(0, 0)?))))
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let graph = model.vector(2, 4)?.table(0)?;
        let tensors = bounded(graph.vector(0, 4)?, "the list of tensors")?;
        let tensors = (0..tensors.len())
            .map(|i| parse_tensor(file, tensors.table(i)?, buffers))
            .collect::<Result<_, _>>()?;
        let ops = bounded(graph.vector(3, 4)?, "the list of operators")?;
        let ops =
            (0..ops.len()).map(|i| parse_op(ops.table(i)?, &codes)).collect::<Result<_, _>>()?;
        Ok(Self { tensors, ops })
    }

    /// The tensor with that index.
    pub(super) fn tensor(&self, index: i32) -> Option<&Tensor<'a>> {
        self.tensors.get(usize::try_from(index).ok()?)
    }
}

fn bounded<'a>(list: Vector<'a>, what: &'static str) -> Result<Vector<'a>, Malformed> {
    if list.len() > MAX_ITEMS { Err(list.malformed(what)) } else { Ok(list) }
}

/// A short list of numbers: a shape, or the tensors at an operator.
fn short_list(table: Table<'_>, field: usize) -> Result<Vec<i32>, Malformed> {
    let list = table.vector(field, 4)?;
    if list.len() > MAX_SHORT { Err(list.malformed("a short list")) } else { list.i32s() }
}

fn parse_tensor<'a>(
    file: &'a [u8],
    tensor: Table<'a>,
    buffers: Vector<'a>,
) -> Result<Tensor<'a>, Malformed> {
    let shape = short_list(tensor, 0)?;
    let kind = match tensor.i8(1, 0)? {
        0 => Type::F32,
        1 => Type::F16,
        2 => Type::I32,
        3 => Type::U8,
        9 => Type::I8,
        other => Type::Other(other),
    };
    let mut parsed = Tensor {
        name: tensor.text(3)?,
        shape: shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect(),
        kind,
        data: constant_bytes(file, tensor.u32(2, 0)? as usize, buffers)?,
        scale: Vector::EMPTY,
        zero_point: Vector::EMPTY,
        axis: 0,
    };
    if let Some(quantization) = tensor.table(4)? {
        parsed.scale = quantization.vector(2, 4)?;
        parsed.zero_point = quantization.vector(3, 8)?;
        parsed.axis = usize::try_from(quantization.i32(6, 0)?).unwrap_or(0);
    }
    Ok(parsed)
}

/// A constant lies in its buffer's vector, or, in files over 2 GB, at an offset behind the
/// flatbuffer; buffer 0 is empty by definition.
fn constant_bytes<'a>(
    file: &'a [u8],
    index: usize,
    buffers: Vector<'a>,
) -> Result<&'a [u8], Malformed> {
    if index == 0 {
        return Ok(&[]);
    }
    let buffer = buffers.table(index)?;
    let (at, len) = (buffer.u64(1, 0)?, buffer.u64(2, 0)?);
    if at > 1 {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        return file
            .get(start..start.saturating_add(len))
            .ok_or(Malformed { at: start, what: "a constant" });
    }
    buffer.vector(0, 1)?.bytes()
}

fn parse_op(op: Table<'_>, codes: &[OpKind]) -> Result<Op, Malformed> {
    let code = op.u32(0, 0)? as usize;
    let kind = *codes.get(code).ok_or(Malformed { at: code, what: "an operator's code" })?;
    let mut parsed = Op {
        kind,
        inputs: short_list(op, 1)?,
        outputs: short_list(op, 2)?,
        activation: Activation::None,
        padding: Padding::Same,
        stride: [1, 1],
        dilation: [1, 1],
    };
    let Some(options) = op.table(4)? else { return Ok(parsed) };
    // Field numbers of Conv2DOptions and DepthwiseConv2DOptions differ from the third on.
    let (activation, dilation_w, dilation_h) = match kind {
        OpKind::Conv => (3, 4, 5),
        OpKind::DepthwiseConv => (4, 5, 6),
        OpKind::Add | OpKind::FullyConnected => {
            parsed.activation = activation_of(options.i8(0, 0)?);
            return Ok(parsed);
        }
        _ => return Ok(parsed),
    };
    parsed.padding = if options.i8(0, 0)? == 0 { Padding::Same } else { Padding::Valid };
    parsed.stride = [options.i32(2, 0)?, options.i32(1, 0)?];
    parsed.activation = activation_of(options.i8(activation, 0)?);
    parsed.dilation = [options.i32(dilation_h, 1)?, options.i32(dilation_w, 1)?];
    Ok(parsed)
}

fn activation_of(number: i8) -> Activation {
    match number {
        0 => Activation::None,
        1 => Activation::Relu,
        3 => Activation::Relu6,
        other => Activation::Other(other),
    }
}
