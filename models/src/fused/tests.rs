//! Chains against their layers, and whole networks against tract's own operators.

use prost::Message;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{Datum, Framework, InferenceModelExt, TypedModel};
use tract_onnx::tract_hir::infer::InferenceFact;

use super::fuse;
use super::kernels::Kernels;
use super::kernels::tests::Numbers;
use crate::network_plan::Plan;
use crate::onnx::{Attribute, Dim, GraphWriter};

/// Height, width and channels of the input of the networks below.
const INPUT: [usize; 3] = [3, 11, 14];

/// A convolution whose input has `inputs` channels.
struct Conv<'a> {
    input: &'a str,
    output: &'a str,
    inputs: usize,
    outputs: usize,
    group: usize,
    kernel: usize,
    stride: i64,
    pads: [i64; 4],
    dilation: i64,
}

fn conv(graph: &mut GraphWriter, numbers: &mut Numbers, conv: &Conv<'_>) {
    let &Conv { input, output, inputs, outputs, group, kernel, stride, pads, dilation } = conv;
    let per_filter = inputs / group * kernel * kernel;
    let scale = 2.0 / (per_filter as f32).sqrt();
    let weight: Vec<f32> =
        numbers.take(outputs * per_filter).iter().map(|x| x * 2.0 * scale).collect();
    let (weight_name, bias_name) = (format!("{output}.weight"), format!("{output}.bias"));
    graph.constant(&weight_name, &[outputs, inputs / group, kernel, kernel], &weight);
    graph.constant(&bias_name, &[outputs], &numbers.take(outputs));
    let kernel = kernel as i64;
    graph.node(
        "Conv",
        &[input, &weight_name, &bias_name],
        output,
        &[
            Attribute::Ints("kernel_shape", &[kernel, kernel]),
            Attribute::Ints("strides", &[stride, stride]),
            Attribute::Ints("pads", &pads),
            Attribute::Ints("dilations", &[dilation, dilation]),
            Attribute::Int("group", group as i64),
        ],
    );
}

/// A network with all that is fused, and much that is not: dilated and grouped convolutions, other
/// activations, outputs in the middle, an outlet that several nodes take.
fn network() -> Vec<u8> {
    let mut numbers = Numbers::new(11);
    let mut graph = GraphWriter::new("mixed");
    let [channels, height, width] = INPUT;
    graph.input("x", &[Dim::Batch, Dim::Fixed(channels), Dim::Fixed(height), Dim::Fixed(width)]);
    let plain = Conv {
        input: "x",
        output: "stem",
        inputs: 3,
        outputs: 20,
        group: 1,
        kernel: 5,
        stride: 2,
        pads: [2, 2, 2, 2],
        dilation: 1,
    };
    conv(&mut graph, &mut numbers, &plain);
    graph.node("Relu", &["stem"], "stem.relu", &[]);
    let depthwise = Conv {
        input: "stem.relu",
        output: "dw1",
        inputs: 20,
        outputs: 20,
        group: 20,
        kernel: 3,
        stride: 1,
        pads: [1, 1, 1, 1],
        dilation: 1,
    };
    conv(&mut graph, &mut numbers, &depthwise);
    graph.node("Relu", &["dw1"], "dw1.relu", &[]);
    let pointwise = Conv {
        input: "dw1.relu",
        output: "pw1",
        inputs: 20,
        outputs: 37,
        kernel: 1,
        stride: 1,
        pads: [0; 4],
        ..plain
    };
    conv(&mut graph, &mut numbers, &pointwise);
    graph.node("Relu", &["pw1"], "pw1.relu", &[]);
    // Several nodes take this outlet: the next layer, two poolings.
    graph.node("GlobalMaxPool", &["pw1.relu"], "max", &[]);
    graph.node("GlobalAveragePool", &["pw1.relu"], "mean", &[]);
    graph.node("Concat", &["mean", "max"], "both", &[Attribute::Int("axis", 1)]);
    graph.node("Flatten", &["both"], "flat", &[Attribute::Int("axis", 1)]);
    // A second layer takes it, too.
    let side = Conv { input: "pw1.relu", output: "side", inputs: 37, outputs: 8, ..pointwise };
    conv(&mut graph, &mut numbers, &side);
    graph.output("side", &[Dim::Batch, Dim::Fixed(8), Dim::Fixed(6), Dim::Fixed(7)]);
    graph.output("flat", &[Dim::Batch, Dim::Fixed(74)]);
    // No activation behind it; the next is another kind of activation.
    let bare =
        Conv { input: "pw1.relu", output: "dw2", inputs: 37, outputs: 37, group: 37, ..depthwise };
    conv(&mut graph, &mut numbers, &bare);
    let strided =
        Conv { input: "dw2", output: "pw2", inputs: 37, outputs: 24, stride: 2, ..pointwise };
    conv(&mut graph, &mut numbers, &strided);
    graph.node("LeakyRelu", &["pw2"], "pw2.leaky", &[]);
    let dilated = Conv {
        input: "pw2.leaky",
        output: "dilated",
        inputs: 24,
        outputs: 24,
        group: 1,
        kernel: 3,
        stride: 1,
        pads: [2, 2, 2, 2],
        dilation: 2,
    };
    conv(&mut graph, &mut numbers, &dilated);
    graph.node("Relu", &["dilated"], "dilated.relu", &[]);
    let grouped = Conv {
        input: "dilated.relu",
        output: "grouped",
        group: 4,
        pads: [1, 1, 1, 1],
        dilation: 1,
        ..dilated
    };
    conv(&mut graph, &mut numbers, &grouped);
    graph.node("Relu", &["grouped"], "grouped.relu", &[]);
    let last = Conv {
        input: "grouped.relu",
        output: "last",
        group: 1,
        pads: [0, 0, 1, 1],
        stride: 2,
        ..grouped
    };
    conv(&mut graph, &mut numbers, &last);
    graph.output("last", &[Dim::Batch, Dim::Fixed(24), Dim::Fixed(2), Dim::Fixed(2)]);
    graph.node("GlobalAveragePool", &["last"], "last.mean", &[]);
    graph.node("Flatten", &["last.mean"], "rows", &[Attribute::Int("axis", 1)]);
    for (name, input, inputs, outputs, transposed) in
        [("hidden", "rows", 24, 33, 1), ("scores", "hidden.relu", 33, 5, 0)]
    {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let shape = if transposed == 1 { [outputs, inputs] } else { [inputs, outputs] };
        graph.constant(&weight, &shape, &numbers.take(inputs * outputs));
        graph.constant(&bias, &[outputs], &numbers.take(outputs));
        graph.node("Gemm", &[input, &weight, &bias], name, &[Attribute::Int("transB", transposed)]);
        graph.node("Relu", &[name], &format!("{name}.relu"), &[]);
    }
    graph.output("scores", &[Dim::Batch, Dim::Fixed(5)]);
    graph.encode()
}

fn typed(onnx: &[u8], images: usize) -> TypedModel {
    let [channels, height, width] = INPUT;
    let fact = InferenceFact::dt_shape(f32::datum_type(), [images, channels, height, width]);
    let network =
        tract_onnx::onnx().model_for_proto_model(&ModelProto::decode(onnx).unwrap()).unwrap();
    let mut network = network.with_input_fact(0, fact).unwrap().into_typed().unwrap();
    network.prop_consts().unwrap();
    network
}

#[test]
fn a_mixed_network_says_what_it_says_in_tract() {
    let onnx = network();
    let decode = || ModelProto::decode(&onnx[..]).unwrap();
    let batch = 5;
    let tract = Plan::prepare(decode(), &INPUT, batch, None).unwrap();
    let len: usize = INPUT.iter().product();
    let input = Numbers::new(3).take(batch * len);
    for kernels in Kernels::available() {
        let fused = Plan::prepare(decode(), &INPUT, batch, Some(kernels)).unwrap();
        for images in [1, batch] {
            let expected = tract.run(&input[..images * len]).unwrap();
            let actual = fused.run(&input[..images * len]).unwrap();
            assert_eq!(actual.len(), expected.len());
            for (actual, expected) in actual.iter().zip(&expected) {
                assert_eq!(actual.len(), expected.len());
                for (actual, expected) in actual.iter().zip(expected) {
                    let difference = (actual - expected).abs();
                    assert!(difference <= 1e-5 * expected.abs().max(1.0), "{actual} {expected}");
                }
            }
        }
        // A batch says of each image exactly what the image alone says.
        let together = fused.run(&input).unwrap();
        for image in 0..batch {
            let alone = fused.run(&input[image * len..(image + 1) * len]).unwrap();
            for (together, alone) in together.iter().zip(&alone) {
                assert_eq!(together[image * alone.len()..][..alone.len()], alone[..]);
            }
        }
    }
}

#[test]
fn what_matches_is_fused_and_the_rest_stays() {
    let kernels = Kernels::available()[0];
    let network = fuse(&typed(&network(), 2), kernels).unwrap();
    let count = |name: &str| network.nodes.iter().filter(|node| node.op.name() == name).count();
    // Stem to first pointwise; side; bare depthwise and strided pointwise; last; two products.
    assert_eq!(count("FusedChain"), 6, "{network}");
    assert_eq!(count("FusedPooling"), 3, "{network}");
    assert_eq!(count("Conv"), 2, "dilated and grouped: {network}");
    assert_eq!(count("EinSum"), 0, "{network}");
    // No weights are left besides those of the two convolutions, and small constants.
    let kept = network
        .nodes
        .iter()
        .filter(|node| node.op.name() == "Const")
        .map(|node| node.outputs[0].fact.konst.as_ref().map_or(0, |constant| constant.len()));
    assert!(kept.sum::<usize>() < 24 * 24 * 9 + 24 * 6 * 9 + 200);
}
