//! The scene synthesiser.
mod command;
mod scenes;
mod shots;

use std::f64::consts::TAU;

use ecosight_models::{
    SAMPLE_RATE_HZ,
    scene::{Scene, SceneConfig},
};

/// All samples of a finite scene, rendered in blocks of `block` samples.
fn rendered(config: SceneConfig, block: usize) -> (Vec<f32>, Scene) {
    let mut scene = Scene::new(config);
    let mut out = Vec::new();
    let mut buffer = vec![0.0; block];
    loop {
        let count = scene.render(&mut buffer);
        if count == 0 {
            return (out, scene);
        }
        out.extend_from_slice(&buffer[..count]);
    }
}

/// Energy of `samples` between two frequencies, by Goertzel's filter on a comb of frequencies of
/// pieces of 64 ms: slow, small, and none of the crate's own filters.
fn band_power(samples: &[f32], low_hz: f64, high_hz: f64) -> f64 {
    const PIECE: usize = 1024;
    let rate = f64::from(SAMPLE_RATE_HZ);
    let window: Vec<f64> = (0..PIECE)
        .map(|index| 0.5 - 0.5 * (TAU * (index as f64 + 0.5) / PIECE as f64).cos())
        .collect();
    let bins = (low_hz * PIECE as f64 / rate).ceil() as usize
        ..=(high_hz * PIECE as f64 / rate).floor() as usize;
    let mut power = 0.0;
    let mut pieces = 0;
    for piece in samples.chunks_exact(PIECE) {
        pieces += 1;
        let weighted: Vec<f64> = piece
            .iter()
            .zip(&window)
            .map(|(&sample, weight)| f64::from(sample) * weight)
            .collect();
        for bin in bins.clone() {
            let turn = 2.0 * (TAU * bin as f64 / PIECE as f64).cos();
            let (mut last, mut before) = (0.0, 0.0);
            for &x in &weighted {
                (last, before) = (x + turn * last - before, last);
            }
            power += last * last + before * before - turn * last * before;
        }
    }
    power / f64::from(pieces.max(1))
}

fn decibel(ratio: f64) -> f64 {
    10.0 * ratio.log10()
}
