//! Trains a head on a table of embeddings, for `models/reference/bench_training.py`, which trains the same
//! in Keras beside it.
//!
//! Arguments: the folder that the script filled (`train.f32`, `train.u8`, `test.f32`, `test.u8`: rows of
//! little-endian float32, and a class for each), inputs, classes, hidden units, epochs, examples per
//! step, seed. Prints one JSON line: seconds of the fit alone, and the share of the test part called right.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
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
    let [inputs, classes, hidden, epochs, batch, seed] = numbers[..] else {
        anyhow::bail!("see the top of this file")
    };
    let dir = Path::new(dir);
    let (train, test) = (table(dir, "train", inputs)?, table(dir, "test", inputs)?);
    // What the script's Keras model has no counterpart for is turned off.
    let recipe = Recipe { hidden, epochs, batch, hard_negative: 0.0, ..Recipe::default() };
    let weight = vec![1.0; train.class.len()];
    let rows: Vec<usize> = (0..train.class.len()).collect();
    let examples = Examples {
        features: train.features.view(),
        class: &train.class,
        weight: &weight,
        watch: None,
    };
    let details = Details { class: (0..classes).collect() };
    let begun = Instant::now();
    let fitted = fit(&recipe, &details, 0, examples, &rows, &[], seed as u64)?;
    let seconds = begun.elapsed().as_secs_f64();
    let all: Vec<usize> = (0..test.class.len()).collect();
    let logits = fitted.logits(test.features.view(), &all);
    let called = logits.outer_iter().map(|row| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(class, _)| class)
    });
    let right = called.zip(&test.class).filter(|(called, class)| called == *class).count();
    let accuracy = right as f64 / test.class.len() as f64;
    println!("{}", serde_json::json!({ "seconds": seconds, "accuracy": accuracy }));
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
