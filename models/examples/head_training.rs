//! Trains a head on a table of embeddings, for `models/reference/bench_training.py`, which trains the same
//! in Keras beside it.
//!
//! Arguments: the folder that the script filled (`train.f32`, `train.u8`, `test.f32`, `test.u8`: rows of
//! little-endian float32, and a class for each), inputs, classes, hidden units, epochs, examples per
//! step, components (what the inputs are brought down to before the network sees them, as in
//! `Recipe::components`; 0 for as they are), seed. Prints one JSON line: seconds from the table in memory to
//! a network that takes the inputs themselves, and the share of the test part that it calls right.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use ecosight_models::train::compression::{Compression, FEATURE_LIMIT, StreamColumns};
use ecosight_models::train::details::Details;
use ecosight_models::train::fit::{Examples, Recipe, fit};
use ndarray::Array2;

struct Table {
    features: Array2<f32>,
    class: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, numbers @ ..] = arguments.as_slice() else {
        anyhow::bail!("see the top of this file")
    };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [inputs, classes, hidden, epochs, batch, components, seed] = numbers[..] else {
        anyhow::bail!("see the top of this file")
    };
    let dir = Path::new(dir);
    let (train, test) = (table(dir, "train", inputs)?, table(dir, "test", inputs)?);
    // What the script's Keras model has no counterpart for is turned off.
    let recipe = Recipe { hidden, epochs, batch, hard_negative: 0.0, ..Recipe::default() };
    let weight = vec![1.0; train.class.len()];
    let rows: Vec<usize> = (0..train.class.len()).collect();
    let details = Details { class: (0..classes).collect() };
    let begun = Instant::now();
    let stream = StreamColumns { name: "table".to_owned(), columns: 0..inputs };
    let compression = (components > 0)
        .then(|| Compression::fit(train.features.view(), &rows, &[stream], components));
    let compressed = compression.as_ref().map(|own| own.apply(train.features.view(), &rows));
    let examples = Examples {
        features: compressed.as_ref().unwrap_or(&train.features).view(),
        class: &train.class,
        weight: &weight,
        watch: None,
    };
    let fitted = fit(&recipe, &details, 0, examples, &rows, &[], seed as u64)?;
    // Being linear, the way down is part of the first layer in the end: both networks have one shape.
    let net = compression.as_ref().map_or(fitted.net.clone(), |own| own.expand(&fitted.net, &[]));
    let seconds = begun.elapsed().as_secs_f64();
    let mut features = test.features;
    if let Some(own) = &compression {
        features = (features - &own.mean) * &own.scale;
        features.mapv_inplace(|value| value.clamp(-FEATURE_LIMIT, FEATURE_LIMIT));
    }
    let logits = net.logits(features.view());
    let called = logits.outer_iter().map(|row| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(class, _)| class)
    });
    let right = called.zip(&test.class).filter(|(called, class)| called == *class).count();
    let accuracy = right as f64 / test.class.len() as f64;
    let line = serde_json::json!({ "seconds": seconds, "accuracy": accuracy });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn table(dir: &Path, part: &str, inputs: usize) -> anyhow::Result<Table> {
    let read = |name: String| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let class: Vec<usize> = read(format!("{part}.u8"))?.into_iter().map(usize::from).collect();
    let values: Vec<f32> = read(format!("{part}.f32"))?
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    ensure!(values.len() == class.len() * inputs, "{part}: features and classes do not match");
    Ok(Table { features: Array2::from_shape_vec((class.len(), inputs), values)?, class })
}
