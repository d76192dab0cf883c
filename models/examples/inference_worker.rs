//! Times one 0.96 s window on one thread, for `models/reference/bench_inference.py`, which runs this
//! program beside LiteRT's and lets them take turns.
//!
//! Arguments: the imported YAMNet, and what to time:
//! - `station`: sound to scores as a station does it: log-mel and transient numbers of one hop, the
//!   full network, the bundle's head;
//! - `inner`: the same without the AudioSet scores: the network is left at the bundle's last exit;
//! - `compact`: as `station`, with the compact bundle and its voice detector instead of YAMNet;
//! - `network`: one log-mel patch to the 521 scores;
//! - `batch`: eight patches to the 521 scores, time per patch;
//! - `pair`: as `network`, on two threads that share it, each with windows of its own; time per patch
//!   of both together.
//!
//! Says one JSON line when loaded, then one per line `run N` on standard input, until that ends.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use ecosight_models::bundle::{
    BackboneSpec, Calibration, HEAD_FILE, Manifest, Normalisation, SCHEMA, StreamSpec, write_bundle,
};
use ecosight_models::onnx::{Attribute, Dim, GraphWriter};
use ecosight_models::yamnet::golden::Sound;
use ecosight_models::yamnet::{BATCH, Backbone, Exit};
use ecosight_models::{
    Builtin, BundleFiles, Classifier, ClassifierOptions, HOP_SAMPLES, Window, Windower, transient,
};

/// Something to be timed: runs once and says for how many windows.
type Task = Box<dyn FnMut() -> anyhow::Result<usize>>;

/// Time that a second thread was on a core.
static OTHER_CPU_NS: AtomicU64 = AtomicU64::new(0);

/// Windows of each of two threads: so many that starting them does not count.
const PAIR_WINDOWS: usize = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let yamnet = PathBuf::from(arguments.next().context("usage: inference_worker YAMNET WHAT")?);
    let what = arguments.next().context("usage: inference_worker YAMNET WHAT")?;
    let begun = cpu_ns()?;
    let (mut task, name) = prepare(&yamnet, &what)?;
    let load_ms = (cpu_ns()? - begun) as f64 / 1e6;
    task()?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}",
        serde_json::json!({
            "load_ms": load_ms,
            "rss_mib": status_mib("VmRSS:")?,
            "peak_mib": status_mib("VmHWM:")?,
            "bundle": name,
        })
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let rounds: usize = line.strip_prefix("run ").context("expected `run N`")?.parse()?;
        let (mut wall_us, mut windows) = (Vec::with_capacity(rounds), 0);
        let cpu_before = cpu_ns()? + OTHER_CPU_NS.load(Ordering::Relaxed);
        for _ in 0..rounds {
            let begun = Instant::now();
            let count = task()?;
            wall_us.push(begun.elapsed().as_secs_f64() * 1e6 / count as f64);
            windows += count;
        }
        let cpu_after = cpu_ns()? + OTHER_CPU_NS.load(Ordering::Relaxed);
        let cpu_us = (cpu_after - cpu_before) as f64 / 1e3 / windows as f64;
        writeln!(
            out,
            "{}",
            serde_json::json!({ "cpu_us": cpu_us, "wall_us": wall_us, "rss_mib": status_mib("VmRSS:")? })
        )?;
    }
    Ok(())
}

fn prepare(yamnet: &std::path::Path, what: &str) -> anyhow::Result<(Task, String)> {
    let sound = Sound::Bursts.render(1, 30.0);
    match what {
        "station" | "inner" | "compact" => {
            let compact = what == "compact";
            let files = if compact { BundleFiles::builtin(Builtin::Compact)? } else { bundle()? };
            let name = format!("{} {}", files.bundle.name, files.bundle.version);
            let options = ClassifierOptions { audioset: what != "inner", batching: false };
            let classifier = Classifier::from_files(files, (!compact).then_some(yamnet), options)?;
            let mut windower = classifier.windower();
            windower.push(&sound[..HOP_SAMPLES]);
            let mut at = HOP_SAMPLES;
            let task = move || {
                if at + HOP_SAMPLES > sound.len() {
                    at = 0;
                }
                windower.push(&sound[at..at + HOP_SAMPLES]);
                at += HOP_SAMPLES;
                match windower.next_window() {
                    Some(window) => {
                        std::hint::black_box(classifier.classify(&[window])?);
                        Ok(1)
                    }
                    None => Ok(1),
                }
            };
            Ok((Box::new(task), name))
        }
        "pair" => {
            let backbone = Backbone::load(Some(yamnet), &[Exit::Scores], false)?;
            let mut windower = Windower::new();
            windower.push(&sound);
            let windows: Vec<Window> = std::iter::from_fn(|| windower.next_window()).collect();
            let run = move || -> anyhow::Result<()> {
                for window in windows.iter().cycle().take(PAIR_WINDOWS) {
                    std::hint::black_box(backbone.run(&[window.log_mel()])?);
                }
                Ok(())
            };
            let task = move || {
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| {
                        let before = cpu_ns()?;
                        run()?;
                        OTHER_CPU_NS.fetch_add(cpu_ns()? - before, Ordering::Relaxed);
                        anyhow::Ok(())
                    });
                    run()?;
                    other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
                })?;
                Ok(2 * PAIR_WINDOWS)
            };
            Ok((Box::new(task), "no head".to_owned()))
        }
        "network" | "batch" => {
            let batching = what == "batch";
            let backbone = Backbone::load(Some(yamnet), &[Exit::Scores], batching)?;
            let mut windower = Windower::new();
            windower.push(&sound);
            let windows: Vec<Window> = std::iter::from_fn(|| windower.next_window()).collect();
            let size = if batching { BATCH } else { 1 };
            let mut at = 0;
            let task = move || {
                at = (at + size) % (windows.len() - size);
                let patches: Vec<&[f32]> =
                    windows[at..at + size].iter().map(Window::log_mel).collect();
                std::hint::black_box(backbone.run(&patches)?);
                Ok(size)
            };
            Ok((Box::new(task), "no head".to_owned()))
        }
        other => anyhow::bail!("unknown task `{other}`"),
    }
}

/// The shipped bundle; in a build without one a head of the usual size with made-up weights.
fn bundle() -> anyhow::Result<BundleFiles> {
    if let Ok(files) = BundleFiles::builtin(Builtin::Full) {
        return Ok(files);
    }
    let (hidden, classes) = (128, 6);
    let features = 1024 + transient::LEN;
    let mut graph = GraphWriter::new("head");
    graph.input("x", &[Dim::Batch, Dim::Fixed(features)]);
    graph.constant("w1", &[hidden, features], &vec![0.01; hidden * features]);
    graph.constant("w2", &[classes, hidden], &vec![0.01; classes * hidden]);
    graph.node("Gemm", &["x", "w1"], "h", &[Attribute::Int("transB", 1)]);
    graph.node("Relu", &["h"], "r", &[]);
    graph.node("Gemm", &["r", "w2"], "y", &[Attribute::Int("transB", 1)]);
    graph.output("y", &[Dim::Batch, Dim::Fixed(classes)]);
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        name: "made-up".to_owned(),
        version: "0".to_owned(),
        created: "1970-01-01T00:00:00Z".to_owned(),
        description: "Made-up weights, for timing only.".to_owned(),
        streams: vec![
            StreamSpec { name: "yamnet.l14".to_owned(), len: 1024 },
            StreamSpec { name: "transient".to_owned(), len: transient::LEN },
        ],
        classes: (0..classes).map(|i| format!("class_{i}")).collect(),
        normalisation: Normalisation {
            mean: vec![0.0; features],
            scale: vec![1.0; features],
            limit: None,
        },
        calibration: Calibration::Softmax { temperature: 1.0 },
        detector: Vec::new(),
        backbone: Some(BackboneSpec {
            architecture: "yamnet-v1".to_owned(),
            trained_on_sha256: String::new(),
        }),
        second: None,
        golden: Vec::new(),
        files: Vec::new(),
    };
    let dir = std::env::temp_dir().join(format!("ecosight-bench-{}", std::process::id()));
    let files = BTreeMap::from([(HEAD_FILE.to_owned(), graph.encode())]);
    write_bundle(&dir, manifest, &files)?;
    let read = BundleFiles::open(&dir);
    std::fs::remove_dir_all(&dir)?;
    Ok(read?)
}

/// Time that this thread was on a core, to the scheduler's tick: a round lasts long enough.
fn cpu_ns() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().context("schedstat is empty")?.parse()?)
}

fn status_mib(field: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
