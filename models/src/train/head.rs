//! Path: networks → **head** → bundle
//!
//! The networks of a head as one ONNX graph, with all that is done to raw features before and to
//! logits after. Hidden units that look at the same streams share one matrix over those streams
//! alone: what a unit does not look at costs neither a weight in the file nor a multiplication.

use std::collections::BTreeMap;

use ndarray::{Array1, Axis, s};

use super::compression::{Compression, FEATURE_LIMIT, StreamColumns};
use super::details::Details;
use super::net::{Dense, Net};
use super::second::Second;
use crate::bundle::{Normalisation, StreamSpec};
use crate::onnx::{Dim, GraphWriter};

/// Logits of parts beyond it say no more, and their exponentials would leave the range of `f32`.
const PART_LIMIT: f32 = 60.0;

/// All that a head consists of.
pub struct Head<'a> {
    /// Over standardised features; gives a logit for each part.
    pub net: &'a Net,
    /// Which parts make which class.
    pub details: &'a Details,
    /// Holds the standardisation.
    pub compression: &'a Compression,
    /// The streams that the networks see, in order.
    pub streams: &'a [StreamColumns],
    /// For each feature, whether its square root is taken first.
    pub rooted: Option<&'a [bool]>,
    /// The ear beside it.
    pub second: Option<&'a Second>,
}

impl Head<'_> {
    /// The streams that a bundle with this head declares: the networks' and then those that only
    /// the second ear hears.
    pub fn bundle_streams(&self) -> Vec<StreamSpec> {
        let own = self
            .streams
            .iter()
            .map(|stream| StreamSpec { name: stream.name.clone(), len: stream.columns.len() });
        let second = self.second.iter().flat_map(|second| second.streams());
        let mut streams: Vec<StreamSpec> = own.collect();
        for stream in second {
            if !streams.contains(stream) {
                streams.push(stream.clone());
            }
        }
        streams
    }

    /// Whether the graph standardises; else the manifest says how, and the head need not.
    fn standardises(&self) -> bool {
        self.rooted.is_some() || self.second.is_some()
    }

    /// What a station does to features before the head.
    pub fn normalisation(&self) -> Normalisation {
        if self.standardises() {
            let features = self.bundle_streams().iter().map(|stream| stream.len).sum();
            return Normalisation {
                mean: vec![0.0; features],
                scale: vec![1.0; features],
                limit: None,
            };
        }
        Normalisation {
            mean: self.compression.mean.to_vec(),
            scale: self.compression.scale.to_vec(),
            limit: Some(FEATURE_LIMIT),
        }
    }

    /// The file: features in, as the manifest's normalisation leaves them, logits of the classes
    /// out.
    pub fn onnx(&self) -> Vec<u8> {
        let streams = self.bundle_streams();
        let features = streams.iter().map(|stream| stream.len).sum();
        let mut graph = GraphWriter::new("head");
        graph.input("features", &[Dim::Batch, Dim::Fixed(features)]);
        graph.output("logits", &[Dim::Batch, Dim::Fixed(self.details.classes())]);
        let Some(second) = self.second else {
            self.own(&mut graph, "features", "logits");
            return graph.encode();
        };
        graph.columns("features", 0..self.net.inputs(), "own.features");
        self.own(&mut graph, "own.features", "own.logits");
        let theirs = second.write(&mut graph, "features", &streams);
        graph.constant("own.share", &[], &[1.0 - second.share()]);
        graph.constant("second.share", &[], &[second.share()]);
        graph.node("Mul", &["own.logits", "own.share"], "own.part", &[]);
        graph.node("Mul", &[&theirs, "second.share"], "second.part", &[]);
        graph.node("Add", &["own.part", "second.part"], "logits", &[]);
        graph.encode()
    }

    /// From raw features to the classes' logits by the head's own networks.
    fn own(&self, graph: &mut GraphWriter, features: &str, logits: &str) {
        let standardised = self.shaped(graph, features);
        let last = self.hidden(graph, &standardised);
        if self.details.class.len() == self.details.classes() {
            return gemm(graph, &last.output, &last.name, logits);
        }
        // A class's logit is the logarithm of its parts' sum.
        gemm(graph, &last.output, &last.name, "parts");
        graph.constant("lowest", &[], &[-PART_LIMIT]);
        graph.constant("highest", &[], &[PART_LIMIT]);
        graph.node("Clip", &["parts", "lowest", "highest"], "bounded", &[]);
        graph.node("Exp", &["bounded"], "shares", &[]);
        let (classes, parts) = (self.details.classes(), &self.details.class);
        let membership: Vec<f32> = parts
            .iter()
            .flat_map(|own| (0..classes).map(move |class| f32::from(u8::from(*own == class))))
            .collect();
        graph.constant("membership", &[parts.len(), classes], &membership);
        graph.node("MatMul", &["shares", "membership"], "sums", &[]);
        graph.node("Log", &["sums"], logits, &[]);
    }

    /// Nodes from `features` to what the networks take; the name of the last.
    fn shaped(&self, graph: &mut GraphWriter, features: &str) -> String {
        if !self.standardises() {
            return features.to_owned();
        }
        let none = vec![false; self.net.inputs()];
        let rooted = self.rooted.unwrap_or(&none);
        let mask = |wanted: bool| -> Vec<f32> {
            rooted.iter().map(|own| f32::from(u8::from(*own == wanted))).collect()
        };
        let shape = [1, rooted.len()];
        graph.constant("rooted", &shape, &mask(true));
        graph.constant("plain", &shape, &mask(false));
        graph.constant("mean", &shape, &self.compression.mean.to_vec());
        graph.constant("scale", &shape, &self.compression.scale.to_vec());
        graph.constant("least", &[], &[-FEATURE_LIMIT]);
        graph.constant("most", &[], &[FEATURE_LIMIT]);
        graph.node("Relu", &[features], "positive", &[]);
        graph.node("Mul", &["positive", "rooted"], "squares", &[]);
        graph.node("Sqrt", &["squares"], "roots", &[]);
        graph.node("Mul", &[features, "plain"], "kept", &[]);
        graph.node("Add", &["roots", "kept"], "shaped", &[]);
        graph.node("Sub", &["shaped", "mean"], "centred", &[]);
        graph.node("Mul", &["centred", "scale"], "scaled", &[]);
        graph.node("Clip", &["scaled", "least", "most"], "standardised", &[]);
        "standardised".to_owned()
    }

    /// The hidden layer, and the output layer that fits its order of units.
    fn hidden(&self, graph: &mut GraphWriter, input: &str) -> Last {
        let Some(hidden) = &self.net.hidden else {
            return Last { name: input.to_owned(), output: self.net.output.clone() };
        };
        let mut sets: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (unit, weights) in hidden.weight.columns().into_iter().enumerate() {
            let looks_at = |stream: &StreamColumns| {
                weights.slice(s![stream.columns.clone()]).iter().any(|weight| *weight != 0.0)
            };
            let seen = (0..self.streams.len()).filter(|n| looks_at(&self.streams[*n])).collect();
            sets.entry(seen).or_default().push(unit);
        }
        let mut cut = vec![false; self.streams.len()];
        let (mut order, mut outputs) = (Vec::new(), Vec::new());
        for (number, (seen, units)) in sets.iter().enumerate() {
            let parts: Vec<String> =
                seen.iter().map(|n| self.stream(graph, input, *n, &mut cut)).collect();
            let columns: Vec<usize> =
                seen.iter().flat_map(|n| self.streams[*n].columns.clone()).collect();
            let weight = hidden.weight.select(Axis(0), &columns).select(Axis(1), units);
            let bias: Array1<f32> = units.iter().map(|unit| hidden.bias[*unit]).collect();
            let name = format!("hidden{number}");
            match &parts[..] {
                // Units that look at nothing always say the same.
                [] => {
                    graph.columns(input, 0..1, &format!("{name}.any"));
                    let weight = ndarray::Array2::zeros((1, units.len()));
                    gemm(graph, &Dense { weight, bias }, &format!("{name}.any"), &name);
                }
                [one] => gemm(graph, &Dense { weight, bias }, one, &name),
                _ => {
                    let joined = match columns.len() == self.net.inputs() {
                        true => input.to_owned(),
                        false => join(graph, &parts, &format!("{name}.streams")),
                    };
                    gemm(graph, &Dense { weight, bias }, &joined, &name);
                }
            }
            order.extend_from_slice(units);
            outputs.push(name);
        }
        let joined = join(graph, &outputs, "hidden");
        graph.node("Relu", &[&joined], "active", &[]);
        let output = Dense {
            weight: self.net.output.weight.select(Axis(0), &order),
            bias: self.net.output.bias.clone(),
        };
        Last { name: "active".to_owned(), output }
    }

    /// The name of one stream's features; `cut` says which were cut out before.
    fn stream(&self, graph: &mut GraphWriter, input: &str, n: usize, cut: &mut [bool]) -> String {
        let stream = &self.streams[n];
        if self.streams.len() == 1 {
            return input.to_owned();
        }
        let name = format!("of.{}", stream.name);
        if !std::mem::replace(&mut cut[n], true) {
            graph.columns(input, stream.columns.clone(), &name);
        }
        name
    }
}

/// The last hidden layer by its name, and what follows it.
struct Last {
    name: String,
    output: Dense,
}

/// Several matrices side by side; the name of the whole.
pub(super) fn join(graph: &mut GraphWriter, parts: &[String], name: &str) -> String {
    let [one] = parts else {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        graph.node("Concat", &parts, name, &[crate::onnx::Attribute::Int("axis", 1)]);
        return name.to_owned();
    };
    one.clone()
}

fn gemm(graph: &mut GraphWriter, dense: &Dense, input: &str, output: &str) {
    let (weight, bias) = (format!("{output}.weight"), format!("{output}.bias"));
    let values: Vec<f32> = dense.weight.iter().copied().collect();
    let (inputs, outputs) = dense.weight.dim();
    graph.constant(&weight, &[inputs, outputs], &values);
    graph.constant(&bias, &[outputs], &dense.bias.to_vec());
    graph.node("Gemm", &[input, &weight, &bias], output, &[]);
}

#[cfg(test)]
mod tests {
    use super::super::table::rooted;
    use super::*;
    use crate::network_plan::Plan;
    use crate::onnx::decode_checked;
    use ndarray::{Array2, array};
    use rand::SeedableRng;

    fn streams() -> Vec<StreamColumns> {
        vec![
            StreamColumns { name: "yamnet.l14".to_owned(), columns: 0..3 },
            StreamColumns { name: "transient".to_owned(), columns: 3..5 },
        ]
    }

    fn raw() -> Array2<f32> {
        array![[0.0, 4.0, 1.0, -3.0, 2.0], [9.0, 0.25, 0.5, 5.0, -1.0], [1.0, 1.0, 7.0, 0.5, 0.0]]
    }

    fn check(net: &Net, smallest: usize) {
        let (streams, raw) = (streams(), raw());
        let rooted = rooted(&streams);
        let mut shaped = raw.clone();
        shaped.slice_mut(s![.., ..3]).mapv_inplace(f32::sqrt);
        let rows = [0, 1, 2];
        let compression = Compression::fit(shaped.view(), &rows, &streams, 0);
        let details = Details { class: vec![0, 1, 1] };
        let expected = details.summed(&net.logits(compression.apply(shaped.view(), &rows).view()));
        let head = Head {
            net,
            details: &details,
            compression: &compression,
            streams: &streams,
            rooted: Some(&rooted),
            second: None,
        };
        let written = head.onnx();
        let model = decode_checked(&written[..]).unwrap();
        let weights: usize =
            model.graph.iter().flat_map(|graph| &graph.initializer).fold(0, |sum, own| {
                sum + if own.name.starts_with("hidden") { own.raw_data.len() / 4 } else { 0 }
            });
        assert_eq!(weights, smallest);
        let plan = Plan::prepare(model, &[5], 1, None).unwrap();
        for (row, expected) in raw.outer_iter().zip(expected.outer_iter()) {
            let given = plan.run(&row.to_vec()).unwrap();
            for (given, expected) in given[0].iter().zip(expected) {
                assert!((given - expected).abs() < 1e-5, "{given} {expected}");
            }
        }
    }

    #[test]
    fn the_written_head_gives_what_the_trained_network_gives() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        check(&Net::new(5, 4, 3, &mut rng), 5 * 4 + 4);
    }

    #[test]
    fn what_a_unit_does_not_look_at_is_not_written() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut net = Net::new(5, 6, 3, &mut rng);
        let hidden = net.hidden.as_mut().unwrap();
        hidden.bias = array![0.1, -0.2, 0.3, 0.4, -0.5, 0.6];
        // Units of three kinds in a mixed order: one stream, the other, both; and one of none.
        hidden.weight.slice_mut(s![3.., 0]).fill(0.0);
        hidden.weight.slice_mut(s![..3, 1]).fill(0.0);
        hidden.weight.slice_mut(s![3.., 4]).fill(0.0);
        hidden.weight.slice_mut(s![.., 5]).fill(0.0);
        // None costs one number beside the place and the bias.
        check(&net, (2 * 3 + 2) + (2 + 1) + (2 * 5 + 2) + (1 + 1) + 3 * 2);
    }
}
