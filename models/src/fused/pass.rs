//! Recognises what can be fused in a typed graph and rewrites it.
//!
//! The graph must be fresh from the file (`into_typed`): later tract turns pointwise convolutions
//! into general products, and the pattern is gone.

use std::collections::{HashMap, HashSet};

use tract_onnx::tract_core::internal::{
    AxesMapping, AxisOp, OutletId, SpecialOps, TractResult, TypedFact, TypedModel, TypedNode,
};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::math::{Add, Max};
use tract_onnx::tract_core::ops::nn::{DataFormat, Reduce, Reducer};

use super::chain::Chain;
use super::geometry::{Geometry, Size};
use super::kernels::{Filter, Kernels, Packed};
use super::layer::Layer;
use super::operator::FusedChain;
use super::pooling::{FusedPooling, Pooling};

/// Gives the graph with all that matches fused. Weights of fused layers are not kept besides.
pub(crate) fn fuse(source: &TypedModel, kernels: Kernels) -> TractResult<TypedModel> {
    let mut fusion = Fusion {
        source,
        kernels,
        target: TypedModel { symbols: source.symbols.clone(), ..TypedModel::default() },
        wires: HashMap::new(),
        channel_last: HashMap::new(),
        growing: HashMap::new(),
    };
    let mut absorbed = HashSet::new();
    for id in source.eval_order()? {
        let node = source.node(id);
        if absorbed.contains(&id) || node.op_is::<Const>() {
            continue;
        }
        if source.inputs.contains(&id.into()) {
            let wire = fusion.target.add_source(&node.name, node.outputs[0].fact.clone())?;
            fusion.wires.insert(id.into(), wire);
        } else if let Some((layer, relu)) = recognise(source, node, kernels)? {
            absorbed.extend(relu);
            fusion.add_layer(node.inputs[0], relu.unwrap_or(id), layer)?;
        } else if let Some(pooling) = recognise_pooling(node)
            && fusion.is_fused(node.inputs[0])
        {
            let input = fusion.channel_last(node.inputs[0])?;
            let wire = fusion.target.wire_node(&node.name, FusedPooling(pooling), &[input])?[0];
            fusion.wires.insert(id.into(), wire);
        } else if let Some((layer, last)) = recognise_product(source, node, kernels)? {
            let input = fusion.wire(node.inputs[0])?;
            let operator = FusedChain::flat(Chain::new(kernels, vec![layer]));
            let name = &source.node(last).name;
            let wire = fusion.target.wire_node(name, operator, &[input])?[0];
            absorbed.extend(source.outlet_successors(id.into()).iter().map(|next| next.node));
            absorbed.insert(last);
            fusion.wires.insert(last.into(), wire);
        } else {
            let inputs = node
                .inputs
                .iter()
                .map(|input| fusion.wire(*input))
                .collect::<TractResult<Vec<_>>>()?;
            let wires = fusion.target.wire_node(&node.name, node.op.clone(), &inputs)?;
            for (slot, wire) in wires.into_iter().enumerate() {
                fusion.wires.insert(OutletId::new(id, slot), wire);
            }
        }
    }
    let wired = |fusion: &mut Fusion<'_>, outlets: &[OutletId]| {
        outlets.iter().map(|outlet| fusion.wire(*outlet)).collect::<TractResult<Vec<_>>>()
    };
    fusion.target.inputs = wired(&mut fusion, &source.inputs)?;
    fusion.target.outputs = wired(&mut fusion, &source.outputs)?;
    Ok(fusion.target)
}

struct Fusion<'a> {
    source: &'a TypedModel,
    kernels: Kernels,
    target: TypedModel,
    /// Outlets of the source in the target, as they are in the source.
    wires: HashMap<OutletId, OutletId>,
    /// The same, channel-last.
    channel_last: HashMap<OutletId, OutletId>,
    /// Chains that a next layer may still join, by the outlet that they give.
    growing: HashMap<OutletId, Growing>,
}

struct Growing {
    /// In the target, channel-last.
    input: OutletId,
    layers: Vec<Layer>,
}

impl Fusion<'_> {
    /// Adds a layer that makes the outlet of node `made` from `input`.
    fn add_layer(&mut self, input: OutletId, made: usize, layer: Layer) -> TractResult<()> {
        let alone = self.source.outlet_successors(input).len() == 1
            && !self.source.outputs.contains(&input);
        let joined = if alone { self.growing.remove(&input) } else { None };
        let mut chain = match joined {
            Some(chain) => chain,
            None => Growing { input: self.channel_last(input)?, layers: Vec::new() },
        };
        let layer = match chain.layers.pop_if(|last| last.takes_in(&layer)) {
            Some(last) => last.joined(layer),
            None => layer,
        };
        chain.layers.push(layer);
        self.growing.insert(made.into(), chain);
        Ok(())
    }

    /// Whether a fused layer makes the outlet.
    fn is_fused(&self, outlet: OutletId) -> bool {
        self.growing.contains_key(&outlet) || self.channel_last.contains_key(&outlet)
    }

    /// The outlet in the target, channel-last.
    fn channel_last(&mut self, outlet: OutletId) -> TractResult<OutletId> {
        if let Some(wire) = self.channel_last.get(&outlet) {
            return Ok(*wire);
        }
        let name = &self.source.node(outlet.node).name;
        let wire = if let Some(chain) = self.growing.remove(&outlet) {
            let operator = FusedChain::new(Chain::new(self.kernels, chain.layers));
            self.target.wire_node(format!("{name}.fused"), operator, &[chain.input])?[0]
        } else {
            let wire = self.wire(outlet)?;
            self.target.wire_node(format!("{name}.channel_last"), AxisOp::Move(1, 3), &[wire])?[0]
        };
        self.channel_last.insert(outlet, wire);
        Ok(wire)
    }

    /// The outlet in the target, as it is in the source.
    fn wire(&mut self, outlet: OutletId) -> TractResult<OutletId> {
        if let Some(wire) = self.wires.get(&outlet) {
            return Ok(*wire);
        }
        let node = self.source.node(outlet.node);
        let wire = if let Some(constant) = node.op_as::<Const>() {
            // Constants are taken over when something asks for them: those of fused layers never.
            self.target.add_const(&node.name, constant.val().clone())?
        } else {
            let wire = self.channel_last(outlet)?;
            self.target.wire_node(&node.name, AxisOp::Move(3, 1), &[wire])?[0]
        };
        self.wires.insert(outlet, wire);
        Ok(wire)
    }
}

/// The layer that begins with `node`, and the node of the ReLU that it takes in.
fn recognise(
    model: &TypedModel,
    node: &TypedNode,
    kernels: Kernels,
) -> TractResult<Option<(Layer, Option<usize>)>> {
    let Some(conv) = node.op_as::<Conv>() else { return Ok(None) };
    let input = model.outlet_fact(node.inputs[0])?;
    let Some(geometry) = geometry(conv, input) else { return Ok(None) };
    let constant =
        |slot: usize| model.outlet_fact(node.inputs[slot]).map(|fact| fact.konst.clone());
    let (Some(weight), Some(bias)) = (constant(1)?, constant(2)?) else { return Ok(None) };
    let (weight, bias) = (weight.try_as_plain_ram()?, bias.try_as_plain_ram()?);
    let (Ok(weight), Ok(bias)) = (weight.as_slice::<f32>(), bias.as_slice::<f32>()) else {
        return Ok(None);
    };
    let (inputs, outputs) = (conv.input_channels(), conv.output_channels());
    let bias = match bias {
        [one] => vec![*one; outputs],
        all if all.len() == outputs => all.to_vec(),
        _ => return Ok(None),
    };
    let (floor, relu) = match floor_after(model, node.id.into())? {
        Some((floor, relu)) => (floor, Some(relu)),
        None => (f32::NEG_INFINITY, None),
    };
    // Weights come as [output, input per group, kernel height, kernel width].
    let taps = geometry.kernel.pixels();
    let layer = if conv.group == 1 {
        let matrix = Packed::new(kernels, taps * inputs, &bias, |row, output| {
            let (tap, input) = (row / inputs, row % inputs);
            weight[(output * inputs + input) * taps + tap]
        });
        Layer::dense(geometry, inputs, matrix, floor)
    } else if conv.group == inputs && inputs == outputs {
        let filter = Filter::new(taps, &bias, |tap, channel| weight[channel * taps + tap]);
        Layer::depthwise(geometry, filter, floor)
    } else {
        return Ok(None);
    };
    Ok(Some((layer, relu)))
}

/// What pools all pixels of an image whose channels come first.
fn recognise_pooling(node: &TypedNode) -> Option<Pooling> {
    let reduce = node.op_as::<Reduce>()?;
    match (&reduce.axes[..], reduce.reducer) {
        ([2, 3], Reducer::Sum) => Some(Pooling::Sum),
        ([2, 3], Reducer::Max) => Some(Pooling::Maximum),
        _ => None,
    }
}

/// The layer that is rows times a constant matrix plus a constant row, and the last node that it takes
/// in: the sum, or the ReLU behind it.
fn recognise_product(
    model: &TypedModel,
    node: &TypedNode,
    kernels: Kernels,
) -> TractResult<Option<(Layer, usize)>> {
    let Some(product) = node.op_as::<EinSum>() else { return Ok(None) };
    let rows = model.outlet_fact(node.inputs[0])?;
    let Some(matrix) = node.inputs.get(1).map(|input| model.outlet_fact(*input)).transpose()?
    else {
        return Ok(None);
    };
    let transposed = match &product.axes {
        axes if *axes == AxesMapping::for_numpy_matmul(2, false, false, false)? => false,
        axes if *axes == AxesMapping::for_numpy_matmul(2, false, true, false)? => true,
        _ => return Ok(None),
    };
    let plain = product.q_params.is_none() && rows.datum_type.is::<f32>() && rows.rank() == 2;
    let [next] = model.outlet_successors(node.id.into()) else { return Ok(None) };
    let sum = model.node(next.node);
    let is_sum = sum.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>());
    if !plain || !is_sum || model.outputs.contains(&node.id.into()) {
        return Ok(None);
    }
    let bias = model.outlet_fact(sum.inputs[1 - next.slot])?;
    let (Some(weight), Some(bias)) = (&matrix.konst, &bias.konst) else { return Ok(None) };
    let shape = weight.shape();
    let (depth, columns) = if transposed { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    if bias.len() != columns || bias.shape().last() != Some(&columns) || depth * columns == 0 {
        return Ok(None);
    }
    let (weight, bias) = (weight.try_as_plain_ram()?, bias.try_as_plain_ram()?);
    let (Ok(weight), Ok(bias)) = (weight.as_slice::<f32>(), bias.as_slice::<f32>()) else {
        return Ok(None);
    };
    let (floor, last) = floor_after(model, sum.id.into())?.unwrap_or((f32::NEG_INFINITY, sum.id));
    let matrix = Packed::new(kernels, depth, bias, |row, column| {
        weight[if transposed { column * depth + row } else { row * columns + column }]
    });
    let pixel = Size::new(1, 1);
    let geometry = Geometry {
        input: pixel,
        output: pixel,
        kernel: pixel,
        stride: pixel,
        before: Size::new(0, 0),
    };
    Ok(Some((Layer::dense(geometry, depth, matrix, floor), last)))
}

/// The window of a plain two-dimensional float32 convolution.
fn geometry(conv: &Conv, input: &TypedFact) -> Option<Geometry> {
    let spec = &conv.pool_spec;
    let plain = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && spec.data_format == DataFormat::NCHW
        && spec.rank() == 2
        && spec.dilations().iter().all(|step| *step == 1)
        && input.rank() == 4
        && input.datum_type.is::<f32>();
    if !plain {
        return None;
    }
    let height = input.shape[2].as_i64()?.try_into().ok()?;
    let width = input.shape[3].as_i64()?.try_into().ok()?;
    let [vertical, horizontal] = &spec.computed_padding(&[height, width])[..] else { return None };
    let geometry = Geometry {
        input: Size::new(height, width),
        output: Size::new(vertical.convoluted, horizontal.convoluted),
        kernel: Size::new(spec.kernel_shape[0], spec.kernel_shape[1]),
        stride: Size::new(spec.stride(0), spec.stride(1)),
        before: Size::new(vertical.pad_before, horizontal.pad_before),
    };
    geometry.is_sound().then_some(geometry)
}

/// If nothing but a maximum with one number takes `outlet`: that number and the maximum's node.
fn floor_after(model: &TypedModel, outlet: OutletId) -> TractResult<Option<(f32, usize)>> {
    let [next] = model.outlet_successors(outlet) else { return Ok(None) };
    let node = model.node(next.node);
    let is_maximum = node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Max>());
    if !is_maximum || model.outputs.contains(&outlet) {
        return Ok(None);
    }
    let other = model.outlet_fact(node.inputs[1 - next.slot])?;
    let same_shape = node.outputs[0].fact.shape == model.outlet_fact(outlet)?.shape;
    let Some(uniform) = other.konst.as_ref().and_then(|constant| constant.as_uniform()) else {
        return Ok(None);
    };
    Ok(match uniform.cast_to_scalar::<f32>() {
        Ok(floor) if same_shape && !floor.is_nan() => Some((floor, node.id)),
        _ => None,
    })
}
