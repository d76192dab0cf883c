//! Path: import → **our ONNX** → backbone
//!
//! Layout: input `log_mel` `[N, 1, 96, 64]`; per layer a Conv and a ReLU; l12 and l14 pooled over
//! time and frequency by mean and maximum; embedding; sigmoid scores. TFLite pads a stride of 2 at
//! the lower right only, a stride of 1 on all sides.

use super::network::{CLASSES, EMBEDDING_LEN, INNER_CHANNELS, Network};
use crate::logmel::{BANDS, PATCH_FRAMES};
use crate::onnx::{Attribute, Dim, GraphWriter};

/// Name of the graph's input.
pub(super) const INPUT: &str = "log_mel";
/// Metadata key: the network, always [`super::ARCHITECTURE`].
pub(super) const ARCHITECTURE_KEY: &str = "ecosight.architecture";
/// Metadata key: SHA-256 of the file that was imported, hex.
pub(super) const SOURCE_KEY: &str = "ecosight.source_sha256";
/// Metadata key: version of the importer.
pub(super) const IMPORTER_KEY: &str = "ecosight.importer_version";

/// Layers that are pooled into outputs of their own.
const INNER_EXITS: [(usize, &str); 2] = [(12, "l12"), (14, "l14")];

/// The ONNX file of the network; `source_sha256` (hex) is recorded in it.
#[must_use]
pub fn to_onnx(network: &Network, source_sha256: &str) -> Vec<u8> {
    let mut graph = GraphWriter::new("yamnet");
    graph.metadata(ARCHITECTURE_KEY, super::ARCHITECTURE);
    graph.metadata(SOURCE_KEY, source_sha256);
    graph.metadata(IMPORTER_KEY, env!("CARGO_PKG_VERSION"));
    graph.input(INPUT, &[Dim::Batch, Dim::Fixed(1), Dim::Fixed(PATCH_FRAMES), Dim::Fixed(BANDS)]);
    let mut last = INPUT.to_owned();
    for (layer, conv) in network.convs.iter().enumerate() {
        let shape = conv.shape;
        let (name, weight, bias) = (
            format!("layer{layer:02}"),
            format!("layer{layer:02}.weight"),
            format!("layer{layer:02}.bias"),
        );
        let inner = if shape.depthwise { 1 } else { shape.input };
        graph.weights(&weight, &[shape.output, inner, shape.kernel, shape.kernel], &conv.weight);
        graph.constant(&bias, &[shape.output], &conv.bias);
        let pads: [i64; 4] = match (shape.kernel, shape.stride) {
            (1, _) => [0; 4],
            (_, 1) => [1; 4],
            _ => [0, 0, 1, 1],
        };
        let (kernel, stride) = (shape.kernel as i64, shape.stride as i64);
        graph.node(
            "Conv",
            &[&last, &weight, &bias],
            &format!("{name}.conv"),
            &[
                Attribute::Ints("kernel_shape", &[kernel, kernel]),
                Attribute::Ints("strides", &[stride, stride]),
                Attribute::Ints("pads", &pads),
                Attribute::Int("group", if shape.depthwise { shape.output as i64 } else { 1 }),
            ],
        );
        graph.node("Relu", &[&format!("{name}.conv")], &name, &[]);
        if let Some((_, exit)) = INNER_EXITS.iter().find(|(inner, _)| *inner == layer) {
            let (mean, max) = (format!("{exit}.mean"), format!("{exit}.max"));
            graph.node("GlobalAveragePool", &[&name], &mean, &[]);
            graph.node("GlobalMaxPool", &[&name], &max, &[]);
            let both = format!("{exit}.both");
            graph.node("Concat", &[&mean, &max], &both, &[Attribute::Int("axis", 1)]);
            graph.node("Flatten", &[&both], exit, &[Attribute::Int("axis", 1)]);
            graph.output(exit, &[Dim::Batch, Dim::Fixed(2 * INNER_CHANNELS)]);
        }
        last = name;
    }
    graph.node("GlobalAveragePool", &[&last], "embedding.mean", &[]);
    graph.node("Flatten", &["embedding.mean"], "embedding", &[Attribute::Int("axis", 1)]);
    graph.output("embedding", &[Dim::Batch, Dim::Fixed(EMBEDDING_LEN)]);
    graph.weights("classes.weight", &[CLASSES, EMBEDDING_LEN], &network.class_weight);
    graph.constant("classes.bias", &[CLASSES], &network.class_bias);
    graph.node(
        "Gemm",
        &["embedding", "classes.weight", "classes.bias"],
        "logits",
        &[Attribute::Int("transB", 1)],
    );
    graph.node("Sigmoid", &["logits"], "scores", &[]);
    graph.output("scores", &[Dim::Batch, Dim::Fixed(CLASSES)]);
    graph.encode()
}
