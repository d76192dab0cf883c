//! ONNX files: a small writer for the networks of this project, and the checks that an ONNX file
//! from elsewhere must pass before tract may see it.
//!
//! Opset 17. Weights are stored as little-endian float32 in `raw_data`, or as 8-bit integers behind a
//! `DequantizeLinear` where nothing is lost by it. No `value_info` is written: a leftover symbolic
//! shape there clashes with a fixed batch in tract.

use std::collections::BTreeSet;
use std::mem;
use std::ops::Range;

use prost::Message;
use prost::bytes::Buf;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use crate::eight_bit;

/// Fewer weights than this stay float32: their scales would take what the integers save.
const LARGE: usize = 1024;
/// Operator set that is written.
const OPSET: i64 = 17;
/// Version of the container that is written: the one that came with that operator set.
const IR_VERSION: i64 = 8;

/// A graph under construction. Nodes are added in the order of execution.
#[derive(Debug, Default)]
pub struct GraphWriter {
    graph: GraphProto,
    metadata: Vec<StringStringEntryProto>,
}

/// One attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute<'a> {
    /// A whole number.
    Int(&'a str, i64),
    /// Whole numbers.
    Ints(&'a str, &'a [i64]),
}

/// Length of one axis of an input or output.
#[derive(Clone, Copy, Debug)]
pub enum Dim {
    /// Fixed.
    Fixed(usize),
    /// The batch: any length.
    Batch,
}

impl GraphWriter {
    /// An empty graph.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Self { graph, metadata: Vec::new() }
    }

    /// Declares a float32 input.
    pub fn input(&mut self, name: &str, shape: &[Dim]) {
        self.graph.input.push(value_info(name, shape));
    }

    /// Declares a float32 output; a node must make it.
    pub fn output(&mut self, name: &str, shape: &[Dim]) {
        self.graph.output.push(value_info(name, shape));
    }

    /// Adds a float32 constant, row-major.
    pub fn constant(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        let raw_data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.push_constant(name, shape, DataType::Float, raw_data);
    }

    /// Adds weights, row-major, the first axis one row per output: as 8-bit integers and a scale per
    /// row if they are such multiples, else as float32.
    pub fn weights(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        let rows = shape.first().copied().unwrap_or(1).max(1);
        let row_len = data.len() / rows;
        let at = |k, row| data[row * row_len + k];
        let scales = if data.len() < LARGE { None } else { eight_bit::scales(row_len, rows, at) };
        let Some(scales) = scales else { return self.constant(name, shape, data) };
        let integers = data
            .chunks_exact(row_len)
            .zip(&scales)
            .flat_map(|(row, scale)| row.iter().map(|x| eight_bit::integer(*x, *scale) as u8))
            .collect();
        let (steps, scale) = (format!("{name}.steps"), format!("{name}.scale"));
        self.push_constant(&steps, shape, DataType::Int8, integers);
        self.constant(&scale, &[rows], &scales);
        self.node("DequantizeLinear", &[&steps, &scale], name, &[Attribute::Int("axis", 0)]);
    }

    /// Adds a constant of 64-bit integers, as shapes and axes are given.
    pub fn int_constant(&mut self, name: &str, data: &[i64]) {
        let raw_data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.push_constant(name, &[data.len()], DataType::Int64, raw_data);
    }

    fn push_constant(&mut self, name: &str, shape: &[usize], kind: DataType, raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|dim| *dim as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..TensorProto::default()
        });
    }

    /// Adds a node with one output, of the same name as the node.
    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[Attribute<'_>],
    ) {
        let attribute = attributes
            .iter()
            .map(|attribute| match attribute {
                Attribute::Int(name, value) => AttributeProto {
                    name: (*name).to_owned(),
                    r#type: AttributeType::Int as i32,
                    i: *value,
                    ..AttributeProto::default()
                },
                Attribute::Ints(name, values) => AttributeProto {
                    name: (*name).to_owned(),
                    r#type: AttributeType::Ints as i32,
                    ints: values.to_vec(),
                    ..AttributeProto::default()
                },
            })
            .collect();
        self.graph.node.push(NodeProto {
            op_type: op_type.to_owned(),
            name: output.to_owned(),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..NodeProto::default()
        });
    }

    /// Adds a node that gives some columns of a matrix.
    pub fn columns(&mut self, input: &str, columns: Range<usize>, output: &str) {
        let place = ["from", "to", "axis"].map(|what| format!("{output}.{what}"));
        for (name, value) in place.iter().zip([columns.start, columns.end, 1]) {
            self.int_constant(name, &[value as i64]);
        }
        let [from, to, axis] = &place;
        self.node("Slice", &[input, from, to, axis], output, &[]);
    }

    /// Adds all of another graph with one input and one output, which takes `input` here; `prefix`
    /// goes before all its names. Gives the name of its output.
    pub fn include(&mut self, other: &GraphProto, prefix: &str, input: &str) -> String {
        let outer = other.input.first().map_or("", |input| input.name.as_str());
        let named = |name: &String| match name.as_str() {
            "" => String::new(),
            name if name == outer => input.to_owned(),
            name => format!("{prefix}.{name}"),
        };
        self.graph.initializer.extend(
            other
                .initializer
                .iter()
                .map(|own| TensorProto { name: named(&own.name), ..own.clone() }),
        );
        self.graph.node.extend(other.node.iter().map(|own| NodeProto {
            name: format!("{prefix}.{}", own.name),
            input: own.input.iter().map(named).collect(),
            output: own.output.iter().map(named).collect(),
            ..own.clone()
        }));
        other.output.first().map(|output| named(&output.name)).unwrap_or_default()
    }

    /// Adds a line of metadata.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.push(StringStringEntryProto { key: key.to_owned(), value: value.to_owned() });
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "ecosight-models".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            metadata_props: self.metadata,
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

fn value_info(name: &str, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| tensor_shape_proto::Dimension {
            denotation: String::new(),
            value: Some(match dim {
                Dim::Fixed(len) => tensor_shape_proto::dimension::Value::DimValue(*len as i64),
                Dim::Batch => tensor_shape_proto::dimension::Value::DimParam("N".to_owned()),
            }),
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        doc_string: String::new(),
    }
}

/// Why an ONNX file is not given to tract. The caller rejects the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// No protobuf of an ONNX model.
    #[error("this is no ONNX file ({0})")]
    Decode(String),
    /// A law is broken.
    #[error("{0}")]
    Broken(String),
}

/// Operators that a head, or the imported YAMNet, may consist of: each gives an output no larger
/// than its inputs and constants together allow.
const ALLOWED_OPS: [&str; 22] = [
    "Add",
    "Clip",
    "Concat",
    "Conv",
    "Div",
    "Exp",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LeakyRelu",
    "Log",
    "MatMul",
    "Mul",
    "Relu",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Sqrt",
    "Sub",
    "Tanh",
    "Identity",
];
/// Most nodes of a graph.
const MAX_NODES: usize = 512;
/// Most numbers in all constants together.
const MAX_NUMBERS: i64 = 16 << 20;
/// Most axes of a constant.
const MAX_AXES: usize = 6;

/// Decodes an ONNX file and checks all that tract takes for granted: names resolve, constants are
/// as long as they say and lie in the file, operators are few and known.
///
/// # Errors
/// [`OnnxError`], naming the node or constant.
pub fn decode_checked(bytes: impl Buf) -> Result<ModelProto, OnnxError> {
    let mut model =
        ModelProto::decode(bytes).map_err(|error| OnnxError::Decode(error.to_string()))?;
    if let Some(graph) = &mut model.graph {
        check_constants(graph)?;
        restore_weights(graph)?;
    }
    let broken = |what: String| Err(OnnxError::Broken(what));
    let Some(graph) = &model.graph else {
        return Err(OnnxError::Decode("it holds no graph".to_owned()));
    };
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty());
    if !opset.is_some_and(|set| (13..=21).contains(&set.version)) {
        return broken("operator set: expected 13 to 21".to_owned());
    }
    if !model.functions.is_empty() || !graph.sparse_initializer.is_empty() {
        return broken("functions and sparse constants are not supported".to_owned());
    }
    if graph.node.len() > MAX_NODES {
        return broken(format!("{} nodes, at most {MAX_NODES} are allowed", graph.node.len()));
    }
    let mut known = BTreeSet::new();
    for constant in &graph.initializer {
        if !known.insert(constant.name.as_str()) {
            return broken(format!("constant `{}` is there twice", constant.name));
        }
    }
    for input in &graph.input {
        if !known.insert(input.name.as_str()) {
            return broken(format!("input `{}` is there twice", input.name));
        }
    }
    for node in &graph.node {
        check_node(node)?;
        if node.op_type == "Slice" {
            check_slice(node, graph)?;
        }
        if let Some(missing) = node.input.iter().find(|name| !known.contains(name.as_str())) {
            return broken(format!("node `{}`: nothing makes its input `{missing}`", node.name));
        }
        for output in &node.output {
            if output.is_empty() || !known.insert(output.as_str()) {
                return broken(format!("node `{}`: output `{output}` is taken", node.name));
            }
        }
    }
    match graph.output.iter().find(|output| !known.contains(output.name.as_str())) {
        Some(output) => broken(format!("nothing makes output `{}`", output.name)),
        None => Ok(model),
    }
}

fn check_constants(graph: &GraphProto) -> Result<(), OnnxError> {
    let mut numbers = 0_i64;
    for constant in &graph.initializer {
        numbers = numbers.saturating_add(checked_constant(constant)?);
        if numbers > MAX_NUMBERS {
            let what = format!("more than {MAX_NUMBERS} numbers in constants");
            return Err(OnnxError::Broken(what));
        }
    }
    Ok(())
}

/// Makes float32 constants of 8-bit ones and their scales, so that no program behind this point
/// meets a `DequantizeLinear`.
fn restore_weights(graph: &mut GraphProto) -> Result<(), OnnxError> {
    let (restoring, kept): (Vec<_>, Vec<_>) =
        mem::take(&mut graph.node).into_iter().partition(|node| node.op_type == "DequantizeLinear");
    graph.node = kept;
    let is_part =
        |constant: &TensorProto| restoring.iter().any(|node| node.input.contains(&constant.name));
    let (parts, kept): (Vec<_>, Vec<_>) =
        mem::take(&mut graph.initializer).into_iter().partition(is_part);
    graph.initializer = kept;
    for node in &restoring {
        graph.initializer.push(restored_weights(node, &parts)?);
    }
    let kept = |constant: &&TensorProto| constant.data_type == DataType::Int8 as i32;
    match graph.initializer.iter().find(kept) {
        Some(constant) => Err(OnnxError::Broken(format!(
            "constant `{}`: 8-bit numbers are supported behind a DequantizeLinear only",
            constant.name.escape_debug()
        ))),
        None => Ok(()),
    }
}

/// The constant that `node` makes of two of `parts`.
fn restored_weights(node: &NodeProto, parts: &[TensorProto]) -> Result<TensorProto, OnnxError> {
    let constant = |index: usize| {
        let name = node.input.get(index)?;
        parts.iter().find(|part| part.name == *name)
    };
    let found = (constant(0), constant(1), node.input.len(), &node.output[..]);
    let (Some(steps), Some(scale), 2, [name]) = found else {
        return Err(OnnxError::Broken(format!(
            "node `{}` (DequantizeLinear): expected constants, 8-bit integers and their scales",
            node.name.escape_debug()
        )));
    };
    let (rows, along_rows) = (scale.raw_data.len() / 4, axis(node) == 0);
    let is_8_bit = steps.data_type == DataType::Int8 as i32 && !steps.raw_data.is_empty();
    let is_whole = scale.data_type == DataType::Float as i32 && rows > 0;
    if !is_8_bit || !is_whole || !along_rows || steps.dims.first() != Some(&(rows as i64)) {
        return Err(OnnxError::Broken(format!(
            "node `{}` (DequantizeLinear): expected 8-bit integers with one scale per row",
            node.name.escape_debug()
        )));
    }
    let row_len = steps.raw_data.len() / rows;
    let scales = scale.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let raw_data = steps
        .raw_data
        .chunks(row_len)
        .zip(scales)
        .flat_map(|(row, scale)| row.iter().map(move |step| f32::from(*step as i8) * scale))
        .flat_map(f32::to_le_bytes)
        .collect();
    let kind = DataType::Float as i32;
    let dims = steps.dims.clone();
    Ok(TensorProto {
        name: name.clone(),
        dims,
        data_type: kind,
        raw_data,
        ..TensorProto::default()
    })
}

/// The axis that a `DequantizeLinear` has its scales along.
fn axis(node: &NodeProto) -> i64 {
    // What the operator takes where nothing is said.
    node.attribute.iter().find(|attribute| attribute.name == "axis").map_or(1, |found| found.i)
}

fn check_node(node: &NodeProto) -> Result<(), OnnxError> {
    let shown = format!("node `{}` ({})", node.name.escape_debug(), node.op_type.escape_debug());
    if !node.domain.is_empty() || !ALLOWED_OPS.contains(&node.op_type.as_str()) {
        return Err(OnnxError::Broken(format!(
            "{shown}: this operator is not supported; supported are {}",
            ALLOWED_OPS.join(", ")
        )));
    }
    if node.input.is_empty() || node.output.len() != 1 {
        return Err(OnnxError::Broken(format!("{shown}: expected inputs and one output")));
    }
    let simple = |attribute: &AttributeProto| {
        attribute.g.is_none()
            && attribute.t.is_none()
            && attribute.graphs.is_empty()
            && attribute.tensors.is_empty()
            && attribute.ints.len() <= 2 * MAX_AXES
    };
    // Pads and strides beyond any real layer would ask for absurd amounts of memory.
    let small = |attribute: &AttributeProto| {
        attribute.i.unsigned_abs() < 4096 && attribute.ints.iter().all(|i| i.unsigned_abs() < 4096)
    };
    match node.attribute.iter().find(|attribute| !simple(attribute) || !small(attribute)) {
        Some(attribute) => Err(OnnxError::Broken(format!(
            "{shown}: attribute `{}` is out of bounds",
            attribute.name.escape_debug()
        ))),
        None => Ok(()),
    }
}

/// A slice is from one fixed place to another, forwards.
fn check_slice(node: &NodeProto, graph: &GraphProto) -> Result<(), OnnxError> {
    let place = |name: &String| {
        let found = graph.initializer.iter().find(|constant| constant.name == *name)?;
        let raw = found.raw_data.as_chunks::<8>();
        let integers = found.data_type == DataType::Int64 as i32 && found.dims == [1];
        match raw {
            ([value], []) if integers => Some(i64::from_le_bytes(*value)),
            _ => None,
        }
    };
    let places: Option<Vec<i64>> = node.input.iter().skip(1).map(place).collect();
    match places.as_deref() {
        Some(&[from, to, axis])
            if 0 <= from
                && from < to
                && to <= MAX_NUMBERS
                && (0..MAX_AXES as i64).contains(&axis) =>
        {
            Ok(())
        }
        _ => Err(OnnxError::Broken(format!(
            "node `{}`: a slice needs a beginning, a later end and an axis, all constant",
            node.name.escape_debug()
        ))),
    }
}

/// The number of elements of a constant that is what it says.
fn checked_constant(constant: &TensorProto) -> Result<i64, OnnxError> {
    let broken = |what: String| {
        Err(OnnxError::Broken(format!("constant `{}`: {what}", constant.name.escape_debug())))
    };
    if !constant.external_data.is_empty() || constant.data_location.is_some_and(|at| at != 0) {
        return broken("its data lies in another file, which is not supported".to_owned());
    }
    if constant.dims.len() > MAX_AXES || constant.dims.iter().any(|dim| *dim < 0) {
        return broken(format!("shape {:?} is out of bounds", constant.dims));
    }
    let Some(count) = constant.dims.iter().try_fold(1_i64, |n, dim| n.checked_mul(*dim)) else {
        return broken(format!("shape {:?} is out of bounds", constant.dims));
    };
    let (width, listed) = match DataType::try_from(constant.data_type) {
        Ok(DataType::Float) => (4, constant.float_data.len()),
        Ok(DataType::Int64) => (8, constant.int64_data.len()),
        Ok(DataType::Int8) => (1, constant.int32_data.len()),
        _ => return broken("expected float32, int64 or 8-bit numbers".to_owned()),
    };
    let stored = if constant.raw_data.is_empty() {
        listed
    } else if constant.raw_data.len().is_multiple_of(width) {
        constant.raw_data.len() / width
    } else {
        return broken("its data ends within a number".to_owned());
    };
    if stored as i64 != count {
        return broken(format!("holds {stored} numbers, its shape asks for {count}"));
    }
    Ok(count)
}

/// Leaves only what the outputs `wanted` need, in that order.
///
/// # Errors
/// [`OnnxError`] if the graph has no such output.
pub fn prune(model: &mut ModelProto, wanted: &[&str]) -> Result<(), OnnxError> {
    let graph = model.graph.get_or_insert_default();
    let outputs = wanted
        .iter()
        .map(|name| {
            let found = graph.output.iter().find(|output| output.name == *name);
            found.cloned().ok_or_else(|| OnnxError::Broken(format!("there is no output `{name}`")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    graph.output = outputs;
    let mut needed: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    // Nodes stand in the order of execution, so one pass backwards finds all that is needed.
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
        }
    }
    graph.node.retain(|node| node.output.iter().any(|output| needed.contains(output)));
    graph.initializer.retain(|constant| needed.contains(&constant.name));
    Ok(())
}

/// The value of a line of metadata.
#[must_use]
pub fn metadata<'a>(model: &'a ModelProto, key: &str) -> Option<&'a str> {
    model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALES: [f32; 2] = [0.01, 0.3];

    /// Weights `[2, 600]`: multiples of one number per row.
    fn weights() -> Vec<f32> {
        let step = |k: usize| if k == 5 { 127.0 } else { (k % 200) as f32 - 100.0 };
        SCALES.iter().flat_map(|scale| (0..600).map(move |k| step(k) * scale)).collect()
    }

    fn file(weights: &[f32]) -> Vec<u8> {
        let mut graph = GraphWriter::new("test");
        graph.input("x", &[Dim::Batch, Dim::Fixed(600)]);
        graph.weights("w", &[2, 600], weights);
        graph.node("Gemm", &["x", "w"], "y", &[Attribute::Int("transB", 1)]);
        graph.output("y", &[Dim::Batch, Dim::Fixed(2)]);
        graph.encode()
    }

    #[test]
    fn eight_bit_weights_come_back_and_others_stay_as_they_are() {
        let read = |bytes: &[u8]| {
            let graph = decode_checked(bytes).unwrap().graph.unwrap();
            assert_eq!(graph.node.len(), 1);
            assert_eq!(graph.initializer.len(), 1);
            let numbers = graph.initializer[0].raw_data.as_chunks().0.iter();
            numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>()
        };
        let small = file(&weights());
        assert!(small.len() < 1_600, "{} bytes", small.len());
        for (given, expected) in read(&small).iter().zip(weights()) {
            assert!((given - expected).abs() <= 1e-6 * 127.0 * 0.3, "{given} {expected}");
        }
        let whole: Vec<f32> = weights().iter().enumerate().map(|(i, x)| x + i as f32).collect();
        assert_eq!(read(&file(&whole)), whole);
    }

    #[test]
    fn eight_bit_weights_that_do_not_fit_their_scales_are_refused_by_name() {
        type Damage = fn(&mut GraphProto);
        let damages: [(&str, Damage, &str); 6] = [
            ("no scales", |graph| drop(graph.initializer.pop()), "expected constants"),
            ("one input", |graph| drop(graph.node[0].input.pop()), "expected constants"),
            (
                "half of the scales",
                |graph| {
                    graph.initializer[1].raw_data.truncate(4);
                    graph.initializer[1].dims = vec![1];
                },
                "one scale per row",
            ),
            ("another axis", |graph| graph.node[0].attribute[0].i = 1, "one scale per row"),
            (
                "too few integers",
                |graph| graph.initializer[0].raw_data.truncate(1199),
                "holds 1199",
            ),
            ("left over", |graph| drop(graph.node.remove(0)), "behind a DequantizeLinear only"),
        ];
        for (what, damage, expected) in damages {
            let mut model = ModelProto::decode(&file(&weights())[..]).unwrap();
            damage(model.graph.as_mut().unwrap());
            let error = decode_checked(&model.encode_to_vec()[..]).unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
        }
    }
}
