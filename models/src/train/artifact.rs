//! Path: networks and what was measured of them → this → bundle
//!
//! The bundle that stations load, with the evaluation beside it and a model card that says what
//! the numbers are worth and where the recordings came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::compression::{Compression, FEATURE_LIMIT};
use super::dataset::Clip;
use super::details::Details;
use super::fit::{Epoch, Recipe};
use super::judgement::{CONFIRM_WINDOWS, Judgement, RatePoint, Recall, TransientLine};
use super::labels::LabelMap;
use super::material::{Copies, Form};
use super::net::{Dense, Net};
use crate::bundle::{
    BackboneSpec, Calibration, EVALUATION_FILE, HEAD_FILE, MODEL_CARD_FILE, Manifest,
    Normalisation, OperatingPoint, RuleSpec, SCHEMA, StreamSpec,
};
use crate::onnx::{Dim, GraphWriter};

/// An event ends after so long without a window over the threshold, seconds: long enough for
/// the echoes of a shot, short enough to count the shots of a slow rifle.
const REFRACTORY_S: f32 = 2.0;

/// One source of recordings, for the model card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceLine {
    /// Its name in the manifest.
    pub source: String,
    /// Terms as stated there, the most frequent wording.
    pub licence: String,
    /// Clips.
    pub clips: usize,
    /// Recording groups.
    pub groups: usize,
    /// Clips of the alerting class.
    pub alerting: usize,
}

/// What one network of one seed reached at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedLine {
    /// The seed.
    pub seed: u64,
    /// Average precision of the alerting class over clips.
    pub average_precision: Option<f64>,
    /// Per rate of `rates_per_hour`, recall by source in the form of the files.
    pub recall: BTreeMap<String, Vec<f64>>,
}

/// `evaluation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What made it.
    pub command: String,
    /// How the data were split.
    pub protocol: String,
    /// Feature streams.
    pub streams: Vec<String>,
    /// How the networks were trained.
    pub recipe: Recipe,
    /// How often each clip was used in which form.
    pub copies: Copies,
    /// Seed of folds, augmentations and fits.
    pub seed: u64,
    /// Folds of the cross-validation.
    pub folds: usize,
    /// Windows trained on.
    pub windows: usize,
    /// Where the recordings came from.
    pub sources: Vec<SourceLine>,
    /// The shipped head's kind (all seeds averaged), out of fold.
    pub judgement: Judgement,
    /// The same by transient signal-to-noise ratio.
    #[serde(default)]
    pub by_transient: Vec<TransientLine>,
    /// Expected calibration error of the windows' highest class score.
    pub calibration_error: Option<f64>,
    /// What the shipped threshold does, out of fold.
    pub shipped: RatePoint,
    /// Each seed alone, out of fold.
    pub seeds: Vec<SeedLine>,
    /// How the epochs of the cross-validation went, the mean over its fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Epoch>,
}

/// All that goes into a bundle beside the networks.
pub struct Release<'a> {
    /// Name of the model line.
    pub name: &'a str,
    /// Version in it.
    pub version: &'a str,
    /// RFC 3339.
    pub created: &'a str,
    /// The classes.
    pub labels: &'a LabelMap,
    /// The streams, in order.
    pub streams: Vec<StreamSpec>,
    /// SHA-256 of the file that the backbone was imported from, where a stream needs one.
    pub backbone_sha256: Option<&'a str>,
    /// Softmax temperature.
    pub temperature: f32,
    /// Per class: threshold, where it may raise events.
    pub thresholds: &'a [Option<f32>],
    /// What was measured.
    pub evaluation: &'a Evaluation,
}

/// Counts the sources of a data set.
pub fn sources(clips: &[Clip], labels: &LabelMap) -> Vec<SourceLine> {
    let mut by_source: BTreeMap<&str, Vec<&Clip>> = BTreeMap::new();
    for clip in clips {
        by_source.entry(&clip.source).or_default().push(clip);
    }
    by_source
        .into_iter()
        .map(|(source, clips)| {
            let mut wordings: BTreeMap<&str, usize> = BTreeMap::new();
            for clip in &clips {
                *wordings.entry(&clip.licence).or_default() += 1;
            }
            let licence =
                wordings.into_iter().max_by_key(|(_, count)| *count).map_or("", |(text, _)| text);
            let groups: BTreeSet<&str> = clips.iter().map(|clip| clip.group.as_str()).collect();
            SourceLine {
                source: if source.is_empty() { "not stated" } else { source }.to_owned(),
                licence: if licence.is_empty() { "not stated" } else { licence }.to_owned(),
                clips: clips.len(),
                groups: groups.len(),
                alerting: clips
                    .iter()
                    .filter(|clip| labels.class_of(&clip.label) == labels.alerting())
                    .count(),
            }
        })
        .collect()
}

/// What is done to raw features before the network sees them.
pub struct Shaping<'a> {
    /// Holds the standardisation.
    pub compression: &'a Compression,
    /// For each feature, whether its square root is taken first; `None` for no root at all: the
    /// manifest says how to standardise then, and the head need not.
    pub rooted: Option<&'a [bool]>,
}

impl Shaping<'_> {
    fn normalisation(&self) -> Normalisation {
        match self.rooted {
            None => Normalisation {
                mean: self.compression.mean.to_vec(),
                scale: self.compression.scale.to_vec(),
                limit: Some(FEATURE_LIMIT),
            },
            Some(rooted) => Normalisation {
                mean: vec![0.0; rooted.len()],
                scale: vec![1.0; rooted.len()],
                limit: None,
            },
        }
    }

    /// Nodes from `features` to what the network takes; the name of the last.
    fn nodes(&self, graph: &mut GraphWriter) -> &'static str {
        let Some(rooted) = self.rooted else { return "features" };
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
        graph.node("Relu", &["features"], "positive", &[]);
        graph.node("Mul", &["positive", "rooted"], "squares", &[]);
        graph.node("Sqrt", &["squares"], "roots", &[]);
        graph.node("Mul", &["features", "plain"], "kept", &[]);
        graph.node("Add", &["roots", "kept"], "shaped", &[]);
        graph.node("Sub", &["shaped", "mean"], "centred", &[]);
        graph.node("Mul", &["centred", "scale"], "scaled", &[]);
        graph.node("Clip", &["scaled", "least", "most"], "standardised", &[]);
        "standardised"
    }
}

/// The head as ONNX: features in, as the manifest's normalisation leaves them, logits of the
/// classes out.
pub fn head_onnx(net: &Net, details: &Details, shaping: &Shaping<'_>) -> Vec<u8> {
    let classes = details.classes();
    let mut graph = GraphWriter::new("head");
    graph.input("features", &[Dim::Batch, Dim::Fixed(net.inputs())]);
    graph.output("logits", &[Dim::Batch, Dim::Fixed(classes)]);
    let mut last = shaping.nodes(&mut graph);
    if let Some(hidden) = &net.hidden {
        gemm(&mut graph, hidden, last, "hidden");
        graph.node("Relu", &["hidden"], "active", &[]);
        last = "active";
    }
    if details.class.len() == classes {
        gemm(&mut graph, &net.output, last, "logits");
        return graph.encode();
    }
    // A class's logit is the logarithm of its parts' sum.
    gemm(&mut graph, &net.output, last, "parts");
    graph.node("Clip", &["parts", "lowest", "highest"], "bounded", &[]);
    graph.constant("lowest", &[], &[-PART_LIMIT]);
    graph.constant("highest", &[], &[PART_LIMIT]);
    graph.node("Exp", &["bounded"], "shares", &[]);
    let membership: Vec<f32> = details
        .class
        .iter()
        .flat_map(|own| (0..classes).map(move |class| f32::from(u8::from(*own == class))))
        .collect();
    graph.constant("membership", &[details.class.len(), classes], &membership);
    graph.node("MatMul", &["shares", "membership"], "sums", &[]);
    graph.node("Log", &["sums"], "logits", &[]);
    graph.encode()
}

/// Logits of parts beyond it say no more, and their exponentials would leave the range of `f32`.
const PART_LIMIT: f32 = 60.0;

fn gemm(graph: &mut GraphWriter, dense: &Dense, input: &str, output: &str) {
    let (weight, bias) = (format!("{output}.weight"), format!("{output}.bias"));
    let values: Vec<f32> = dense.weight.iter().copied().collect();
    let (inputs, outputs) = dense.weight.dim();
    graph.constant(&weight, &[inputs, outputs], &values);
    graph.constant(&bias, &[outputs], &dense.bias.to_vec());
    graph.node("Gemm", &[input, &weight, &bias], output, &[]);
}

impl Release<'_> {
    /// The manifest, golden sounds still empty.
    pub fn manifest(&self, shaping: &Shaping<'_>) -> Manifest {
        let labels = self.labels;
        let alerting = labels.alerting();
        let detector = labels
            .classes
            .iter()
            .zip(self.thresholds)
            .enumerate()
            .filter_map(|(index, (class, threshold))| {
                Some(RuleSpec {
                    class: class.name.clone(),
                    threshold: (*threshold)?,
                    confirm_windows: CONFIRM_WINDOWS,
                    refractory_s: REFRACTORY_S,
                    alert: class.alert,
                    chosen_at: (index == alerting).then(|| self.operating_point()),
                })
            })
            .collect();
        Manifest {
            schema: SCHEMA.to_owned(),
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            created: self.created.to_owned(),
            description: format!(
                "One-hidden-layer head on {} for {}; non-commercial conservation use",
                self.evaluation.streams.join(" + "),
                labels.classes[alerting].name
            ),
            streams: self.streams.clone(),
            classes: labels.classes.iter().map(|class| class.name.clone()).collect(),
            normalisation: shaping.normalisation(),
            calibration: Calibration::Softmax { temperature: self.temperature },
            detector,
            backbone: self.backbone_sha256.map(|sha256| BackboneSpec {
                architecture: crate::yamnet::ARCHITECTURE.to_owned(),
                trained_on_sha256: sha256.to_owned(),
            }),
            golden: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Recall over all clips of the alerting class, as files are.
    fn operating_point(&self) -> OperatingPoint {
        let evaluation = self.evaluation;
        let plain: Vec<&Recall> =
            evaluation.shipped.recall.iter().filter(|line| line.form == Form::Plain).collect();
        let clips: usize = plain.iter().map(|line| line.clips).sum();
        let hits: usize = plain.iter().map(|line| line.hits).sum();
        let hours = evaluation.judgement.background_hours;
        OperatingPoint {
            recall: hits as f64 / clips.max(1) as f64,
            false_alarms_per_hour: evaluation.shipped.false_alarms as f64 / hours,
            background_hours: hours,
            recordings: plain.iter().map(|line| line.groups).sum(),
            data: evaluation.protocol.clone(),
        }
    }

    /// Every file beside the manifest.
    ///
    /// # Errors
    /// When a number of the evaluation is not finite.
    pub fn files(
        &self,
        net: &Net,
        details: &Details,
        shaping: &Shaping<'_>,
    ) -> Result<BTreeMap<String, Vec<u8>>, serde_json::Error> {
        let mut evaluation = serde_json::to_vec_pretty(self.evaluation)?;
        evaluation.push(b'\n');
        Ok(BTreeMap::from([
            (HEAD_FILE.to_owned(), head_onnx(net, details, shaping)),
            (EVALUATION_FILE.to_owned(), evaluation),
            (MODEL_CARD_FILE.to_owned(), self.model_card().into_bytes()),
        ]))
    }

    /// The model card, Markdown.
    pub fn model_card(&self) -> String {
        let evaluation = self.evaluation;
        let judgement = &evaluation.judgement;
        let alert = &self.labels.classes[self.labels.alerting()].name;
        let mut card = String::new();
        // Writing to a String cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = card.write_fmt(text);
            card.push('\n');
        };
        line(format_args!("# {} {}\n", self.name, self.version));
        line(format_args!(
            "Hears {} on {}. Classes: {}. A bundle for EcoSight stations and servers.\n",
            alert,
            evaluation.streams.join(" + "),
            self.labels
                .classes
                .iter()
                .map(|class| class.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ));
        line(format_args!("## Use\n"));
        line(format_args!(
            "**Non-commercial conservation use only.** Some of the recordings below allow no \
             commercial use, and for some no terms are stated: they were used for research and are \
             not redistributed. The weights carry the same restriction.\n"
        ));
        line(format_args!("## What was measured\n"));
        line(format_args!(
            "{} One false alarm is {:.2} an hour. A clip counts as heard when the mean of \
             {CONFIRM_WINDOWS} neighbouring windows reaches the threshold.\n",
            evaluation.protocol,
            1.0 / judgement.background_hours
        ));
        line(format_args!("| source | form | clips (recordings) | {} |", {
            judgement
                .rates
                .iter()
                .map(|rate| format!("recall at {}/h", rate.per_hour.unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(" | ")
        }));
        line(format_args!("|---|---|---|{}", "---|".repeat(judgement.rates.len())));
        for (index, first) in
            judgement.rates.first().iter().flat_map(|r| r.recall.iter().enumerate())
        {
            let cells: Vec<String> =
                judgement.rates.iter().map(|rate| recall_cell(&rate.recall[index])).collect();
            line(format_args!(
                "| {} | {} | {} ({}) | {} |",
                first.source,
                form_name(first.form),
                first.clips,
                first.groups,
                cells.join(" | ")
            ));
        }
        line(format_args!(
            "\nIntervals are 95 % bootstrap intervals over whole recordings. Background: {} clips, \
             {:.1} h. Average precision over clips {}, ROC area {}, calibration error of windows {}.\n",
            judgement.background_clips,
            judgement.background_hours,
            shown(judgement.average_precision),
            shown(judgement.roc_auc),
            shown(evaluation.calibration_error)
        ));
        line(format_args!("| operating point | threshold | false alarms |\n|---|---|---|"));
        for rate in &judgement.rates {
            line(format_args!(
                "| {}/h | {:.3} | {} |",
                rate.per_hour.unwrap_or_default(),
                rate.threshold,
                rate.false_alarms
            ));
        }
        line(format_args!(
            "\nBy how far the loudest 20 ms stand out of the clip's median (100–1500 Hz):\n"
        ));
        let rates: Vec<String> = judgement
            .rates
            .iter()
            .map(|rate| format!("at {}/h", rate.per_hour.unwrap_or_default()))
            .collect();
        line(format_args!("| source | from dB | clips | {} |", rates.join(" | ")));
        line(format_args!("|---|---|---|{}", "---|".repeat(rates.len())));
        for row in &evaluation.by_transient {
            let cells: Vec<String> = row.recall.iter().map(|share| format!("{share:.2}")).collect();
            line(format_args!(
                "| {} | {:.0} | {} | {} |",
                row.source,
                row.from_db,
                row.clips,
                cells.join(" | ")
            ));
        }
        let shipped = &evaluation.shipped;
        line(format_args!(
            "\nShipped threshold: {:.3}, {} false alarms in {:.1} h, by what they were: {}.\n",
            shipped.threshold,
            shipped.false_alarms,
            judgement.background_hours,
            if shipped.by_label.is_empty() {
                "none".to_owned()
            } else {
                shipped
                    .by_label
                    .iter()
                    .map(|(label, count)| format!("{label} {count}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        ));
        line(format_args!("| class | clips (recordings) | precision | recall | F1 | PR area |"));
        line(format_args!("|---|---|---|---|---|---|"));
        for class in &judgement.classes {
            line(format_args!(
                "| {} | {} ({}) | {} | {} | {} | {} |",
                class.class,
                class.clips,
                class.groups,
                shown(class.precision),
                shown(class.recall),
                shown(class.f1),
                shown(class.average_precision)
            ));
        }
        line(format_args!("\nMade by `{}`.\n", evaluation.command));
        line(format_args!("## Blind spots\n"));
        for spot in BLIND_SPOTS {
            line(format_args!("- {spot}"));
        }
        for class in judgement.classes.iter().filter(|class| class.clips > 0 && class.groups < 5) {
            line(format_args!(
                "- `{}` was learnt from {} recordings: no accuracy is claimed for it.",
                class.class, class.groups
            ));
        }
        line(format_args!("\n## Recordings\n"));
        line(format_args!("| source | clips | recordings | of them {alert} | terms as stated |"));
        line(format_args!("|---|---|---|---|---|"));
        for source in &evaluation.sources {
            line(format_args!(
                "| {} | {} | {} | {} | {} |",
                source.source,
                source.clips,
                source.groups,
                source.alerting,
                source.licence.replace('|', "/")
            ));
        }
        line(format_args!(
            "\nNetwork below the head: YAMNet (Google, Apache-2.0), not part of this bundle. \
             `evaluation.json` holds every number, the recipe and each seed."
        ));
        card
    }
}

/// What the head is known to get wrong, whatever the data.
const BLIND_SPOTS: [&str; 5] = [
    "A shot less than 10 dB above the forest's own noise (100–1500 Hz, loudest 20 ms over the \
     median) is mostly missed.",
    "Fireworks, thunder, a backfiring engine and slammed doors are what it mistakes first.",
    "The background that rates are counted on is full of such sounds: hours of quiet forest give \
     fewer false alarms, a festival gives more. A station's own rate has to be watched.",
    "Recall was measured on recorders and forests like those of the recordings; another forest's \
     distant shots may be heard less.",
    "The same places and days may occur in training and evaluation where recordings could not be \
     told apart: forest background without a known recording is such a case.",
];

fn recall_cell(recall: &Recall) -> String {
    match recall.interval {
        Some([low, high]) => format!("{:.2} ({low:.2}–{high:.2})", recall.recall),
        None => format!("{:.2}", recall.recall),
    }
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Plain => "as recorded",
        Form::BandLimited => "as at 8 kHz",
        Form::Quiet => "24 dB quieter",
        Form::InContext => "in a stream",
        Form::Mixed => "mixed",
        Form::Silence => "silence",
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::super::compression::StreamColumns;
    use super::super::table::rooted;
    use super::*;
    use crate::network_plan::Plan;
    use crate::onnx::decode_checked;
    use ndarray::{Array2, array};
    use rand::SeedableRng;

    #[test]
    fn the_written_head_gives_what_the_trained_network_gives() {
        let streams = [
            StreamColumns { name: "yamnet.l14".to_owned(), columns: 0..3 },
            StreamColumns { name: "transient".to_owned(), columns: 3..5 },
        ];
        let raw: Array2<f32> = array![
            [0.0, 4.0, 1.0, -3.0, 2.0],
            [9.0, 0.25, 0.5, 5.0, -1.0],
            [1.0, 1.0, 7.0, 0.5, 0.0]
        ];
        let rooted = rooted(&streams);
        let mut shaped = raw.clone();
        shaped.slice_mut(ndarray::s![.., ..3]).mapv_inplace(f32::sqrt);
        let rows = [0, 1, 2];
        let compression = Compression::fit(shaped.view(), &rows, &streams, 0);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        let net = Net::new(5, 4, 3, &mut rng);
        let details = Details { class: vec![0, 1, 1] };
        let expected = details.summed(&net.logits(compression.apply(shaped.view(), &rows).view()));
        let shaping = Shaping { compression: &compression, rooted: Some(&rooted) };
        let written = head_onnx(&net, &details, &shaping);
        let plan = Plan::prepare(decode_checked(&written[..]).unwrap(), &[5], 1, None).unwrap();
        for (row, expected) in raw.outer_iter().zip(expected.outer_iter()) {
            let given = plan.run(&row.to_vec()).unwrap();
            for (given, expected) in given[0].iter().zip(expected) {
                assert!((given - expected).abs() < 1e-4, "{given} {expected}");
            }
        }
    }
}
