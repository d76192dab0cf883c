//! Times the front end: `cargo run --release --example frontend`. Prints milliseconds per 0.48 s
//! hop (one window), medians of alternating rounds on one thread.

use std::hint::black_box;
use std::time::Instant;

use ecosight_models::audio::Resampler;
use ecosight_models::logmel::{BANDS, FRAME_HOP, FRAME_SAMPLES, LogMel, PATCH_HOP};
use ecosight_models::{SAMPLE_RATE_HZ, Windower};

/// Sound of one round: short, so that a round often runs undisturbed.
const SECONDS: usize = 6;
const ROUNDS: usize = 151;

fn main() {
    let mut state = 1_u32;
    let mut noise = |len: usize| -> Vec<f32> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 * 0.1 - 0.1
            })
            .collect()
    };
    let sound = noise(SECONDS * SAMPLE_RATE_HZ as usize);
    let fast = noise(SECONDS * 48_000);

    let mut log_mel = LogMel::new();
    let mut windower = Windower::new();
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut hops = 0.0;
        for (i, frame) in sound.windows(FRAME_SAMPLES).step_by(FRAME_HOP).enumerate() {
            let mut out = [0.0; BANDS];
            if let Some(frame) = frame.first_chunk() {
                log_mel.frame(frame, &mut out);
            }
            black_box(out);
            hops = i as f64 / PATCH_HOP as f64;
        }
        times[0].push(start.elapsed().as_secs_f64() * 1e3 / hops);

        let start = Instant::now();
        let mut windows = 0.0;
        windower.reset(0);
        for block in sound.chunks(1_600) {
            windower.push(block);
            while let Some(window) = windower.next_window() {
                black_box(&window);
                windows += 1.0;
            }
        }
        times[1].push(start.elapsed().as_secs_f64() * 1e3 / windows);

        let start = Instant::now();
        let mut out = Vec::new();
        if let Ok(mut resampler) = Resampler::new(48_000, 1) {
            for block in fast.chunks(4_800) {
                out.clear();
                resampler.push(block, &mut out);
                black_box(&out);
            }
        }
        times[2].push(start.elapsed().as_secs_f64() * 1e3 / (SECONDS as f64 / 0.48));
    }
    let names = ["log-mel, 48 frames", "window: log-mel, transient, patch", "48 kHz to 16 kHz"];
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let (median, least) = (times[ROUNDS / 2], times[0]);
        let line = format!("{name:36} {median:.3} ms a hop (least {least:.3})\n");
        let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
    }
}
