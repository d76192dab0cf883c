//! `replay`: what a station would raise from recordings or a scene, at the detector's word.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use ecosight_models::{Bundle, Classifier, DetectorOutput, Event, SAMPLE_RATE_HZ, one_line};
use serde::Serialize;

use crate::command::{ReplayArgs, print};
use crate::config::{self, Config, SourceKind};
use crate::ear::{self, Ear};
use crate::health::Health;
use crate::source::{self, Begin, Read};

/// One event as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    class: &'a str,
    alert: bool,
    start_s: f64,
    end_s: f64,
    decided_after_s: f64,
    score: f32,
    level_dbfs: f32,
    noise_floor_dbfs: f32,
    windows: u32,
}

/// Replays what `args` name; false if one of them could not be heard.
///
/// # Errors
/// There is no model, or nobody reads the output.
pub fn replay(config: &Config, args: &ReplayArgs) -> Result<bool> {
    let classifier = ear::load(config)?;
    let mut sources = Vec::new();
    if let Some(seed) = args.scene {
        let duration = Some(std::time::Duration::from_secs(args.duration));
        let source =
            config::Source { kind: SourceKind::Scene, seed, duration, ..config.source.clone() };
        sources.push((format!("scene {seed}"), source));
    }
    for path in &args.paths {
        let kind = if path.is_dir() { SourceKind::Directory } else { SourceKind::File };
        let source = config::Source { kind, path: Some(path.clone()), ..config.source.clone() };
        sources.push((path.display().to_string(), source));
    }
    let mut all_heard = true;
    for (name, source) in sources {
        let source = config::Source { speed: args.speed.speed(), repeat: false, ..source };
        if let Err(error) = replay_one(&name, &source, config, classifier.clone(), args.json) {
            all_heard = false;
            tracing::error!("{name}: {}", one_line(&*error));
        }
    }
    Ok(all_heard)
}

fn replay_one(
    name: &str,
    source: &config::Source,
    config: &Config,
    classifier: Classifier,
    json: bool,
) -> Result<()> {
    let bundle = classifier.bundle().clone();
    let health = Arc::new(Health::default());
    let mut ear = Ear::new(classifier, config, Arc::clone(&health))?;
    let mut source = source::open(source, Begin::default(), &health)?;
    let mut samples = Vec::new();
    let mut end = 0;
    loop {
        samples.clear();
        let read = source.read(&mut samples).context("source")?;
        end += samples.len() as u64;
        let outputs = match read {
            Read::Sound => ear.hear(&samples),
            Read::Nothing => continue,
            Read::Item { .. } | Read::Gap { .. } => {
                let outputs = ear.end();
                ear.reset(end);
                outputs
            }
            Read::End => ear.end(),
        };
        for output in outputs {
            if let DetectorOutput::Closed(event) = output {
                print(&line(name, &event, &bundle, json)?)?;
            }
        }
        if read == Read::End {
            return Ok(());
        }
    }
}

fn line(source: &str, event: &Event, bundle: &Bundle, json: bool) -> Result<String> {
    let seconds = |sample: u64| sample as f64 / f64::from(SAMPLE_RATE_HZ);
    let class = bundle.classes.get(event.class).map_or("unknown", String::as_str);
    let line = Line {
        source,
        class,
        alert: event.alert,
        start_s: seconds(event.onset_sample),
        end_s: seconds(event.end_sample),
        decided_after_s: seconds(event.decided_sample.saturating_sub(event.onset_sample)),
        score: event.score,
        level_dbfs: event.level_dbfs,
        noise_floor_dbfs: event.noise_floor_dbfs,
        windows: event.windows,
    };
    if json {
        return Ok(serde_json::to_string(&line)? + "\n");
    }
    let mark = if line.alert { "ALERT" } else { "     " };
    Ok(format!(
        "{:>9.2} s  {mark}  {class:<12} score {:.2}  {:>6.1} dBFS  {}\n",
        line.start_s, line.score, line.level_dbfs, source
    ))
}
