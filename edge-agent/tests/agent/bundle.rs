//! A bundle made by hand, so that whole stations can be run without trained weights: it hears
//! any thud in 100–1500 Hz that stands well above the seconds before. The front end, the
//! classifier, the detector and everything behind them are the real ones.

use std::collections::BTreeMap;
use std::path::Path;

use ecosight_models::bundle::{
    Calibration, HEAD_FILE, Manifest, Normalisation, RuleSpec, SCHEMA, StreamSpec, write_bundle,
};
use ecosight_models::onnx::{Dim, GraphWriter};
use ecosight_models::transient;

/// A thud this far above the median of its context scores one half.
const EVEN_ODDS_DB: f32 = 14.0;

/// Writes the bundle to `directory`.
pub(crate) fn write_thud_bundle(directory: &Path) {
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
    graph.node("Gemm", &["features", "weights", "bias"], "logits", &[]);
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        name: "thud".to_owned(),
        version: "1.0.0".to_owned(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        description: "Hears thuds; for tests.".to_owned(),
        streams: vec![StreamSpec { name: "transient".to_owned(), len: transient::LEN }],
        classes: vec!["thud".to_owned(), "background".to_owned()],
        normalisation: Normalisation {
            mean: vec![0.0; transient::LEN],
            scale: vec![1.0; transient::LEN],
            limit: None,
        },
        calibration: Calibration::Sigmoid { slope: vec![1.0; 2], offset: vec![0.0; 2] },
        detector: vec![RuleSpec {
            class: "thud".to_owned(),
            threshold: 0.5,
            confirm_windows: 1,
            refractory_s: 1.0,
            alert: true,
            chosen_at: None,
        }],
        backbone: None,
        second: None,
        golden: Vec::new(),
        files: Vec::new(),
    };
    let files = BTreeMap::from([(HEAD_FILE.to_owned(), graph.encode())]);
    write_bundle(directory, manifest, &files).expect("written");
}
