//! Writes a network as a TFLite file in the ways that published files use, so that the reader is
//! tested on files that it has never seen. A flatbuffer is written front to back here: tables with
//! a vtable of their own, offsets patched in when their target is known.

use ecosight_models::yamnet::{CLASSES, EMBEDDING_LEN, Network};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    /// float16 constants, each unpacked by a DEQUANTIZE operator.
    F16,
    /// float16 constants used as they are.
    F16Buffers,
    Int8PerTensor,
    Int8PerChannel,
    /// float32, with ADD and RELU as operators of their own and a front end and further outputs.
    Unfused,
}

const ADD: i8 = 0;
const CONV: i8 = 3;
const DEPTHWISE: i8 = 4;
const DEQUANTIZE: i8 = 6;
const FULLY_CONNECTED: i8 = 9;
const LOGISTIC: i8 = 14;
const RELU: i8 = 19;
const RESHAPE: i8 = 22;
const MEAN: i8 = 40;
const CODES: [i8; 9] =
    [ADD, CONV, DEPTHWISE, DEQUANTIZE, FULLY_CONNECTED, LOGISTIC, RELU, RESHAPE, MEAN];

struct Tensor {
    shape: Vec<i32>,
    kind: i8,
    data: Vec<u8>,
    scale: Vec<f32>,
    axis: i32,
}

struct Op {
    code: i8,
    inputs: Vec<i32>,
    output: i32,
    options: Option<Vec<(usize, Value)>>,
}

#[derive(Clone, Copy)]
enum Value {
    Byte(i8),
    Int(i32),
}

#[derive(Default)]
struct Graph {
    tensors: Vec<Tensor>,
    ops: Vec<Op>,
}

impl Graph {
    fn activation(&mut self, shape: &[i32]) -> i32 {
        self.push(Tensor {
            shape: shape.to_vec(),
            kind: 0,
            data: Vec::new(),
            scale: Vec::new(),
            axis: 0,
        })
    }

    fn push(&mut self, tensor: Tensor) -> i32 {
        self.tensors.push(tensor);
        self.tensors.len() as i32 - 1
    }

    /// A constant, stored as told; `axis` is that of its output channels.
    fn constant(&mut self, shape: &[usize], values: &[f32], storage: Storage, axis: usize) -> i32 {
        let shape: Vec<i32> = shape.iter().map(|dim| *dim as i32).collect();
        let halves = || values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        let (kind, data, scale) = match storage {
            Storage::F32 | Storage::Unfused => {
                (0, values.iter().flat_map(|x| x.to_le_bytes()).collect(), vec![])
            }
            Storage::F16 | Storage::F16Buffers => (1, halves(), vec![]),
            Storage::Int8PerTensor => {
                // The stranger's numbers are multiples of this, so nothing is lost.
                let scale = values.iter().fold(0.0_f32, |a, x| a.max(x.abs())) / 128.0;
                (9, quantised(values, |_| scale), vec![scale])
            }
            Storage::Int8PerChannel => {
                let channels = shape[axis] as usize;
                let inner: usize = shape[axis + 1..].iter().map(|dim| *dim as usize).product();
                let channel = |i: usize| i / inner % channels;
                let mut scale = vec![1e-6_f32; channels];
                for (i, x) in values.iter().enumerate() {
                    scale[channel(i)] = scale[channel(i)].max(x.abs() / 127.0);
                }
                (9, quantised(values, |i| scale[channel(i)]), scale)
            }
        };
        let stored = Tensor { shape: shape.clone(), kind, data, scale, axis: axis as i32 };
        let index = self.push(stored);
        if storage != Storage::F16 {
            return index;
        }
        let unpacked = self.activation(&shape);
        self.op(DEQUANTIZE, &[index], unpacked, None);
        unpacked
    }

    fn op(&mut self, code: i8, inputs: &[i32], output: i32, options: Option<Vec<(usize, Value)>>) {
        self.ops.push(Op { code, inputs: inputs.to_vec(), output, options });
    }
}

fn quantised(values: &[f32], scale: impl Fn(usize) -> f32) -> Vec<u8> {
    let byte = |(i, x): (usize, &f32)| (x / scale(i)).round().clamp(-128.0, 127.0) as i8;
    values.iter().enumerate().map(byte).map(i8::cast_unsigned).collect()
}

/// The whole file.
pub(crate) fn write(network: &Network, storage: Storage) -> Vec<u8> {
    let mut graph = Graph::default();
    let unfused = storage == Storage::Unfused;
    // Biases stay float32 in dynamic-range files, as published.
    let bias_storage = match storage {
        Storage::Int8PerTensor | Storage::Int8PerChannel => Storage::F32,
        other => other,
    };
    let input = graph.activation(&[1, 96, 64]);
    let mut last = graph.activation(&[1, 96, 64, 1]);
    if unfused {
        // A front end made of a convolution, as some converters write an FFT.
        let spectrum = graph.constant(&[257, 1, 512, 1], &vec![0.5; 257 * 512], Storage::F32, 0);
        let frames = graph.activation(&[1, 96, 1, 257]);
        graph.op(CONV, &[input, spectrum], frames, Some(conv_options(false, 1, 0)));
        graph.op(RESHAPE, &[frames], last, None);
    } else {
        graph.op(RESHAPE, &[input], last, None);
    }
    for conv in &network.convs {
        let shape = conv.shape;
        let (size, output) = (shape.kernel, shape.output);
        let inner = if shape.depthwise { 1 } else { shape.input };
        let area = size * size;
        let mut stored = vec![0.0; conv.weight.len()];
        for out in 0..output {
            for from in 0..inner {
                for cell in 0..area {
                    let to = if shape.depthwise {
                        cell * output + out
                    } else {
                        (out * area + cell) * inner + from
                    };
                    stored[to] = conv.weight[(out * inner + from) * area + cell];
                }
            }
        }
        let (file_shape, axis) = if shape.depthwise {
            ([1, size, size, output], 3)
        } else {
            ([output, size, size, inner], 0)
        };
        let weight = graph.constant(&file_shape, &stored, storage, axis);
        let bias = graph.constant(&[output], &conv.bias, bias_storage, 0);
        let code = if shape.depthwise { DEPTHWISE } else { CONV };
        let next = graph.activation(&[1, 1, 1, output as i32]);
        if unfused {
            graph.op(
                code,
                &[last, weight],
                next,
                Some(conv_options(shape.depthwise, shape.stride, 0)),
            );
            let sum = graph.activation(&[1, 1, 1, output as i32]);
            // The constant may stand on either side.
            let inputs = if output == 64 { [bias, next] } else { [next, bias] };
            graph.op(ADD, &inputs, sum, Some(vec![(0, Value::Byte(0))]));
            last = graph.activation(&[1, 1, 1, output as i32]);
            graph.op(RELU, &[sum], last, None);
        } else {
            let options = conv_options(shape.depthwise, shape.stride, 1);
            graph.op(code, &[last, weight, bias], next, Some(options));
            last = next;
        }
    }
    let mean = graph.activation(&[1, EMBEDDING_LEN as i32]);
    graph.op(MEAN, &[last], mean, None);
    let flat = graph.activation(&[1, EMBEDDING_LEN as i32]);
    graph.op(RESHAPE, &[mean], flat, None);
    let matrix = graph.constant(&[CLASSES, EMBEDDING_LEN], &network.class_weight, storage, 0);
    let offsets = graph.constant(&[CLASSES], &network.class_bias, bias_storage, 0);
    let logits = graph.activation(&[1, CLASSES as i32]);
    graph.op(FULLY_CONNECTED, &[flat, matrix, offsets], logits, Some(vec![(0, Value::Byte(0))]));
    let scores = graph.activation(&[1, CLASSES as i32]);
    graph.op(LOGISTIC, &[logits], scores, None);
    let outputs = if unfused { vec![scores, flat, input] } else { vec![scores] };
    serialise(&graph, input, &outputs)
}

fn conv_options(depthwise: bool, stride: usize, activation: i8) -> Vec<(usize, Value)> {
    let stride = Value::Int(stride as i32);
    let fused = if depthwise { 4 } else { 3 };
    vec![(0, Value::Byte(0)), (1, stride), (2, stride), (fused, Value::Byte(activation))]
}

/// How many bytes at the beginning are structure: constants are written last.
pub(crate) fn structure_len(file: &[u8]) -> usize {
    u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize
}

struct Writer {
    bytes: Vec<u8>,
}

/// A field of a table under construction.
enum Field {
    Byte(i8),
    Int(i32),
    /// An offset to be patched when its target is written.
    Offset,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// Writes a table; gives its place and, per field number, the field's place.
    fn table(&mut self, fields: &[(usize, Field)]) -> (usize, Vec<(usize, usize)>) {
        let count = fields.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        self.align(4);
        let vtable = self.bytes.len();
        let vtable_len = 4 + 2 * count;
        self.bytes.resize(vtable + vtable_len, 0);
        self.align(4);
        let table = self.bytes.len();
        self.bytes.extend_from_slice(&((table - vtable) as i32).to_le_bytes());
        let mut places = Vec::new();
        for (number, field) in fields {
            let at = self.bytes.len();
            match field {
                Field::Byte(value) => {
                    self.bytes.extend_from_slice(&[value.cast_unsigned(), 0, 0, 0]);
                }
                Field::Int(value) => self.bytes.extend_from_slice(&value.to_le_bytes()),
                Field::Offset => self.bytes.extend_from_slice(&[0; 4]),
            }
            let slot = vtable + 4 + 2 * number;
            self.bytes[slot..slot + 2].copy_from_slice(&((at - table) as u16).to_le_bytes());
            places.push((*number, at));
        }
        let table_len = (self.bytes.len() - table) as u16;
        self.bytes[vtable..vtable + 2].copy_from_slice(&(vtable_len as u16).to_le_bytes());
        self.bytes[vtable + 2..vtable + 4].copy_from_slice(&table_len.to_le_bytes());
        (table, places)
    }

    fn patch(&mut self, at: usize, target: usize) {
        self.bytes[at..at + 4].copy_from_slice(&((target - at) as u32).to_le_bytes());
    }

    /// Writes a vector at the end and points the field at `at` to it.
    fn vector(&mut self, at: usize, len: usize, data: &[u8]) {
        self.align(16);
        self.bytes.resize(self.bytes.len() + 12, 0);
        let vector = self.bytes.len();
        self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
        self.bytes.extend_from_slice(data);
        self.patch(at, vector);
    }

    fn ints(&mut self, at: usize, values: &[i32]) {
        let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.vector(at, values.len(), &data);
    }

    /// A vector of tables, not yet written; gives the places of its offsets.
    fn tables(&mut self, at: usize, count: usize) -> Vec<usize> {
        self.vector(at, count, &vec![0; 4 * count]);
        let start = self.bytes.len() - 4 * count;
        (0..count).map(|i| start + 4 * i).collect()
    }
}

fn place(places: &[(usize, usize)], number: usize) -> usize {
    places.iter().find(|(field, _)| *field == number).unwrap().1
}

fn serialise(graph: &Graph, input: i32, outputs: &[i32]) -> Vec<u8> {
    // Bytes 8 to 12 are unused by the format; here they tell where constants begin.
    let mut w = Writer { bytes: b"\0\0\0\0TFL3\0\0\0\0".to_vec() };
    let (model, model_at) =
        w.table(&[(0, Field::Int(3)), (1, Field::Offset), (2, Field::Offset), (4, Field::Offset)]);
    w.patch(0, model);
    let codes = w.tables(place(&model_at, 1), CODES.len());
    for (slot, code) in codes.into_iter().zip(CODES) {
        let (table, _) = w.table(&[(0, Field::Byte(code)), (3, Field::Int(i32::from(code)))]);
        w.patch(slot, table);
    }
    let graphs = w.tables(place(&model_at, 2), 1);
    let (subgraph, graph_at) =
        w.table(&[(0, Field::Offset), (1, Field::Offset), (2, Field::Offset), (3, Field::Offset)]);
    w.patch(graphs[0], subgraph);
    w.ints(place(&graph_at, 1), &[input]);
    w.ints(place(&graph_at, 2), outputs);
    let tensors = w.tables(place(&graph_at, 0), graph.tensors.len());
    for (i, (slot, tensor)) in tensors.into_iter().zip(&graph.tensors).enumerate() {
        let mut fields = vec![
            (0, Field::Offset),
            (1, Field::Byte(tensor.kind)),
            (2, Field::Int(if tensor.data.is_empty() { 0 } else { i as i32 + 1 })),
            (3, Field::Offset),
        ];
        if !tensor.scale.is_empty() {
            fields.push((4, Field::Offset));
        }
        let (table, at) = w.table(&fields);
        w.patch(slot, table);
        w.ints(place(&at, 0), &tensor.shape);
        let name = format!("tensor_{i}");
        w.vector(place(&at, 3), name.len(), name.as_bytes());
        if !tensor.scale.is_empty() {
            let (quantization, inner) =
                w.table(&[(2, Field::Offset), (3, Field::Offset), (6, Field::Int(tensor.axis))]);
            w.patch(place(&at, 4), quantization);
            let scale: Vec<u8> = tensor.scale.iter().flat_map(|x| x.to_le_bytes()).collect();
            w.vector(place(&inner, 2), tensor.scale.len(), &scale);
            w.vector(place(&inner, 3), tensor.scale.len(), &vec![0; 8 * tensor.scale.len()]);
        }
    }
    let ops = w.tables(place(&graph_at, 3), graph.ops.len());
    for (slot, op) in ops.into_iter().zip(&graph.ops) {
        let code = CODES.iter().position(|code| *code == op.code).unwrap() as i32;
        let mut fields = vec![(0, Field::Int(code)), (1, Field::Offset), (2, Field::Offset)];
        if op.options.is_some() {
            fields.push((3, Field::Byte(1)));
            fields.push((4, Field::Offset));
        }
        let (table, at) = w.table(&fields);
        w.patch(slot, table);
        w.ints(place(&at, 1), &op.inputs);
        w.ints(place(&at, 2), &[op.output]);
        if let Some(options) = &op.options {
            let fields: Vec<_> = options
                .iter()
                .map(|(number, value)| match value {
                    Value::Byte(value) => (*number, Field::Byte(*value)),
                    Value::Int(value) => (*number, Field::Int(*value)),
                })
                .collect();
            let (table, _) = w.table(&fields);
            w.patch(place(&at, 4), table);
        }
    }
    let buffers = w.tables(place(&model_at, 4), graph.tensors.len() + 1);
    let mut data_at = Vec::new();
    for (i, slot) in buffers.into_iter().enumerate() {
        let data = i.checked_sub(1).map_or(&[][..], |i| &graph.tensors[i].data);
        let fields = if data.is_empty() { vec![] } else { vec![(0, Field::Offset)] };
        let (table, at) = w.table(&fields);
        w.patch(slot, table);
        if let [(_, at)] = at[..] {
            data_at.push((at, i - 1));
        }
    }
    let structure = w.bytes.len() as u32;
    w.bytes[8..12].copy_from_slice(&structure.to_le_bytes());
    for (at, tensor) in data_at {
        let data = &graph.tensors[tensor].data;
        w.vector(at, data.len(), data);
    }
    w.bytes
}
