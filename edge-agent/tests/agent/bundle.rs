//! A bundle made by hand, so that whole stations can be run without trained weights: it hears
//! any thud in 100–1500 Hz that stands well above the seconds before. The front end, the
//! classifier, the detector and everything behind them are the real ones.

use std::collections::BTreeMap;
use std::path::Path;

use ecosight_models::Classifier;
use ecosight_models::bundle::{
    Calibration, GoldenClip, HEAD_FILE, Manifest, Normalisation, RuleSpec, SCHEMA, StreamSpec,
    write_bundle,
};
use ecosight_models::onnx::{Dim, GraphWriter};
use ecosight_models::transient;
use ecosight_models::yamnet::golden::Sound;

/// A thud this far above the median of its context scores one half.
const EVEN_ODDS_DB: f32 = 14.0;
/// A thud this far above it breaks a head that breaks.
const BREAKS_DB: f32 = 30.0;

/// A bundle of this kind.
#[derive(Clone, Debug)]
pub(crate) struct Thud {
    pub(crate) version: &'static str,
    pub(crate) classes: [&'static str; 2],
    /// Scores that its golden sounds are off; `None`: it has no golden sounds.
    pub(crate) golden_off: Option<f32>,
    /// Whether its head gives no numbers for loud thuds.
    pub(crate) breaks: bool,
}

impl Default for Thud {
    fn default() -> Self {
        Self { version: "1.0.0", classes: ["thud", "background"], golden_off: None, breaks: false }
    }
}

/// Writes the bundle to `directory`.
pub(crate) fn write_thud_bundle(directory: &Path) {
    Thud::default().write(directory);
}

impl Thud {
    /// Writes it to `directory`.
    pub(crate) fn write(&self, directory: &Path) {
        let (mut manifest, files) = self.parts();
        write_bundle(directory, manifest.clone(), &files).expect("written");
        let Some(off) = self.golden_off else { return };
        let classifier = Classifier::load(Some(directory), None).expect("a model");
        let golden = [Sound::Noise, Sound::Chirps].into_iter().map(|sound| {
            let mut scores = classifier.golden_scores(sound, 3).expect("runs");
            scores[0][0] += off;
            GoldenClip { sound: sound.name().to_owned(), seed: 3, scores }
        });
        manifest.golden = golden.collect();
        write_bundle(directory, manifest, &files).expect("written");
    }

    fn parts(&self) -> (Manifest, BTreeMap<String, Vec<u8>>) {
        let names = transient::names();
        let thud = names.iter().position(|n| *n == "100_1500.over_median").expect("a feature");
        // Two classes: a thud, and everything else, which mirrors it.
        let mut weights = vec![0.0; transient::LEN * 2];
        weights[thud * 2] = 0.5;
        weights[thud * 2 + 1] = -0.5;
        let mut graph = GraphWriter::new("thud");
        graph.input("features", &[Dim::Batch, Dim::Fixed(transient::LEN)]);
        graph.output("logits", &[Dim::Batch, Dim::Fixed(2)]);
        graph.constant("weights", &[transient::LEN, 2], &weights);
        graph.constant("bias", &[2], &[-0.5 * EVEN_ODDS_DB, 0.5 * EVEN_ODDS_DB]);
        if self.breaks {
            // Above so many decibels the root of a negative number is taken, which is none, and nothing
            // times that is none either.
            let mut loud = vec![0.0; transient::LEN * 2];
            loud[thud * 2] = -1.0;
            loud[thud * 2 + 1] = -1.0;
            graph.constant("loud", &[transient::LEN, 2], &loud);
            graph.constant("limit", &[2], &[BREAKS_DB; 2]);
            graph.constant("nothing", &[2, 2], &[0.0; 4]);
            graph.node("Gemm", &["features", "loud", "limit"], "room", &[]);
            graph.node("Sqrt", &["room"], "root", &[]);
            graph.node("Gemm", &["root", "nothing"], "broken", &[]);
            graph.node("Gemm", &["features", "weights", "bias"], "well", &[]);
            graph.node("Add", &["well", "broken"], "logits", &[]);
        } else {
            graph.node("Gemm", &["features", "weights", "bias"], "logits", &[]);
        }
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            name: "thud".to_owned(),
            version: self.version.to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            description: "Hears thuds; for tests.".to_owned(),
            streams: vec![StreamSpec { name: "transient".to_owned(), len: transient::LEN }],
            classes: self.classes.map(str::to_owned).to_vec(),
            normalisation: Normalisation {
                mean: vec![0.0; transient::LEN],
                scale: vec![1.0; transient::LEN],
                limit: None,
            },
            calibration: Calibration::Sigmoid { slope: vec![1.0; 2], offset: vec![0.0; 2] },
            detector: vec![RuleSpec {
                class: self.classes[0].to_owned(),
                threshold: 0.5,
                confirm_windows: 1,
                refractory_s: 1.0,
                alert: true,
                chosen_at: None,
                operating_points: Vec::new(),
            }],
            backbone: None,
            second: None,
            golden: Vec::new(),
            files: Vec::new(),
        };
        let files = BTreeMap::from([(HEAD_FILE.to_owned(), graph.encode())]);
        (manifest, files)
    }
}
