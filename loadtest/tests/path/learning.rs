//! From rangers' verdicts to a better model on the stations that heard the sound; and nothing worse.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ecosight_loadtest::{Program, built};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::releases::{LIMIT, Releases, name_and_version, until};
use crate::world::{World, printed, text, yamnet_file};

const RATE_HZ: u32 = 16_000;
/// Rejections that start a training.
const REJECTIONS: usize = 24;
/// The station that gets a release first, and the other.
const NAMES: [&str; 2] = ["canary", "fleet"];
/// One sound in this time, on every station.
const EVERY_S: usize = 6;

/// Deterministic noise, -1 to 1.
fn noise(seed: u32) -> impl FnMut() -> f32 {
    let mut state = 0x9e37_79b9_u32.wrapping_mul(seed + 1);
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX)) as f32 * 2.0 - 1.0
    }
}

/// A crack over its full band, half a second in.
fn shot(seed: u32) -> Vec<f32> {
    let mut noise = noise(seed);
    (0..2 * RATE_HZ)
        .map(|i| {
            let at = i as f32 - 8_000.0;
            noise() * if at < 0.0 { 0.001 } else { 0.5 * (-at / 1_500.0).exp() }
        })
        .collect()
}

/// A pump that starts: a crack, too, with the knocking of a piston behind it. Nobody told the first
/// model of it.
fn pump(seed: u32) -> Vec<f32> {
    let mut noise = noise(1_000 + seed);
    let turn = 0.045 + 0.0004 * (seed % 8) as f32;
    (0..2 * RATE_HZ)
        .map(|i| {
            let at = i as f32 - 8_000.0;
            if at < 0.0 {
                return noise() * 0.001;
            }
            let knock = (at % 1_600.0 / -260.0).exp() * (at * turn).sin();
            noise() * 0.35 * (-at / 1_500.0).exp() + 0.25 * knock * (-at / 12_000.0).exp()
        })
        .collect()
}

/// A hum of its own pitch.
fn hum(seed: u32) -> Vec<f32> {
    let turn = 0.01 + 0.004 * seed as f32;
    let mut noise = noise(2_000 + seed);
    (0..2 * RATE_HZ).map(|i| (i as f32 * turn).sin() * 0.05 + noise() * 0.001).collect()
}

fn write_wav(path: &Path, samples: &[f32]) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample((sample * 32_767.0) as i16)?;
    }
    Ok(writer.finalize()?)
}

/// Five minutes with one sound every six seconds.
fn stream(sound: impl Fn(u32) -> Vec<f32>) -> Vec<f32> {
    let mut background = noise(7);
    let mut stream: Vec<f32> = (0..300 * RATE_HZ).map(|_| background() * 0.002).collect();
    let step = EVERY_S * RATE_HZ as usize;
    for (number, place) in stream.chunks_mut(step).enumerate() {
        for (to, from) in place.iter_mut().zip(sound(number as u32 % 40)) {
            *to += from;
        }
    }
    stream
}

/// Brings `count` shots and hums, each a recording of its own, under these labels.
#[allow(clippy::disallowed_methods, reason = "a manifest for a test need not be durable")]
fn bring_recordings(
    world: &World,
    dir: &Path,
    first: u32,
    count: u32,
    labels: [&str; 2],
) -> Result<()> {
    fs::create_dir(dir)?;
    let mut manifest = String::from("path,label,group\n");
    for seed in first..first + count {
        for (label, sound) in labels.into_iter().zip([shot(seed), hum(seed)]) {
            let name = format!("{label}-{seed}.wav");
            write_wav(&dir.join(&name), &sound)?;
            manifest += &format!("{name},{label},{name}\n");
        }
    }
    let csv = dir.join("manifest.csv");
    fs::write(&csv, manifest)?;
    let (data, from) = (world.server_data(), text(dir)?);
    let import = ["samples", "import", from, "--manifest", text(&csv)?, "--data-dir", text(&data)?];
    printed("ecosight-cloud", &import)?;
    Ok(())
}

/// Waits for the end of the newest training, if it is not `before`; gives it.
fn training(world: &World, before: Option<&str>) -> Result<Value> {
    let since = Instant::now();
    loop {
        let jobs: Value = world.get("/api/v1/jobs?limit=1")?;
        let job = &jobs["items"][0];
        let is_other = job["id"].as_str().is_some_and(|id| Some(id) != before);
        match job["state"].as_str() {
            Some("succeeded") if is_other => return Ok(job.clone()),
            Some("failed") if is_other => anyhow::bail!("the training failed: {job}"),
            _ => {}
        }
        ensure!(since.elapsed() < 3 * LIMIT, "no training ends: {jobs}\n{}", world.logs());
        sleep(Duration::from_millis(500));
    }
}

fn string<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("no {field} in {value}"))
}

/// A version of the server's as a directory, as the person who signs releases takes it.
fn exported(world: &World, folder: &Path, version: &str) -> Result<PathBuf> {
    let (file, dir) = (folder.join(format!("{version}.tar.gz")), folder.join(version));
    let export = ["models", "export", version, "--out", text(&file)?];
    let data = world.server_data();
    printed("ecosight-cloud", &[&export[..], &["--data-dir", text(&data)?]].concat())?;
    fs::create_dir(&dir)?;
    let unpack =
        std::process::Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&dir).status()?;
    ensure!(unpack.success(), "tar ends with {unpack}");
    Ok(dir.join("bundle"))
}

/// Rejects every alert that nobody judged yet, as a reviewer does; gives how many there were.
fn reject_all(world: &World) -> Result<usize> {
    let unjudged: Value = world.get("/api/v1/alerts?verdict=none&limit=100")?;
    let items = unjudged["items"].as_array().context("no items")?;
    for alert in items {
        let path = format!("/api/v1/detections/{}/verdict", string(alert, "id")?);
        world.put(&path, &json!({"verdict": "rejected", "cause": "backfire", "note": "a pump"}))?;
    }
    Ok(items.len())
}

/// Two stations with configurations of their own, so that one can have a release before the other.
struct Stations {
    folder: PathBuf,
    running: Vec<Program>,
}

impl Stations {
    /// Each hears `sound`, over and over, in real time.
    #[allow(clippy::disallowed_methods, reason = "a configuration for a test need not be durable")]
    fn start(world: &World, folder: &Path, model: &str, sound: &Path) -> Result<Self> {
        let mut running = Vec::new();
        for name in NAMES {
            let source = format!(
                "[source]\nkind = \"file\"\npath = \"{}\"\nloop = true\nresume = false\n",
                sound.display()
            );
            let config = folder.join(format!("{name}.toml"));
            fs::write(&config, world.station_config(name, &format!("{source}{model}")))?;
            let arguments = ["run", "--config", text(&config)?];
            running.push(Program::start(name, &built("ecosight-agent"), arguments, folder)?);
        }
        Ok(Self { folder: folder.to_owned(), running })
    }

    /// Fails if one has ended, with what it said.
    fn live(&mut self) -> Result<()> {
        for station in &mut self.running {
            ensure!(station.ended()?.is_none(), "a station ended:\n{}", station.log_tail());
        }
        Ok(())
    }

    fn stop(mut self) -> Result<PathBuf> {
        for station in &mut self.running {
            let status = station.terminate(Duration::from_secs(20))?;
            ensure!(status.success(), "a station ended with {status}:\n{}", station.log_tail());
        }
        Ok(self.folder)
    }

    fn logs(&self) -> String {
        self.running.iter().map(Program::log_tail).collect::<Vec<_>>().join("\n---\n")
    }
}

/// Alerts that the server has of a model.
fn alerts_of(world: &World, version: &str) -> Result<usize> {
    let alerts: Value = world.get("/api/v1/alerts?limit=500")?;
    let items = alerts["items"].as_array().context("no items")?;
    Ok(items.iter().filter(|alert| alert["model"]["version"] == version).count())
}

/// The whole way: a sound that the model takes for shots is rejected, learned from, and no longer alarms
/// on the stations that heard it, while shots still do. Then a model that is worse is kept out by the
/// gate, and, forced past it, sent back by what reviewers say of it.
#[test]
fn what_rangers_reject_no_longer_alarms_and_nothing_worse_stays() -> Result<()> {
    if std::env::var_os("ECOSIGHT_SOAK").is_none() {
        eprintln!("skipped: takes some ten minutes; ECOSIGHT_SOAK=1 runs it");
        return Ok(());
    }
    let Some(yamnet) = yamnet_file() else {
        ensure!(std::env::var_os("CI").is_none(), "CI needs YAMNet in ../shared");
        eprintln!("skipped: there is no YAMNet in ../shared");
        return Ok(());
    };
    let folder = TempDir::new()?;
    let at = folder.path().to_owned();
    let yamnet = World::import(&at, &yamnet)?;
    let releases = Releases::begin(&at)?;
    let server = format!(
        "[learning]\nmin_new_samples = {REJECTIONS}\nunattended_recordings = 2\n\
         [releases]\ntrusted_keys = [\"{}\"]\n",
        releases.public
    );
    let world = World::start(folder, "", &server, &["--yamnet", text(&yamnet)?])?;

    // The model that the stations begin with knows shots and hums.
    bring_recordings(&world, &at.join("recordings"), 0, 12, ["gun_shot", "background"])?;
    world.post("/retrain", &json!({"trigger_reason": "a new site", "min_new_samples": 1}))?;
    let first = training(&world, None)?;
    let first_id = string(&first["result"], "version_id")?.to_owned();
    let first_bundle = exported(&world, &at, &first_id)?;
    if first["result"]["gate"]["passed"] != true {
        let why = json!({"reason": "the shipped model does not know this site"});
        world.post(&format!("/api/v1/models/{first_id}/activate"), &why)?;
    }
    let (pumps, shots) = (at.join("pumps.wav"), at.join("shots.wav"));
    write_wav(&pumps, &stream(pump))?;
    write_wav(&shots, &stream(shot))?;
    let model = format!(
        "[model]\nbundle = \"{}\"\nyamnet = \"{}\"\n[update]\ntrusted_keys = [\"{}\"]\nmin_trial = \"0s\"\n",
        first_bundle.display(),
        yamnet.display(),
        releases.public
    );
    let mut stations = Stations::start(&world, &at, &model, &pumps)?;

    // Every alert is a pump, and is rejected, until there are enough of them to learn from.
    let (mut rejected, since) = (0, Instant::now());
    while rejected < REJECTIONS {
        ensure!(
            since.elapsed() < 2 * LIMIT,
            "{rejected} alarms\n{}\n{}",
            world.logs(),
            stations.logs()
        );
        stations.live()?;
        rejected += reject_all(&world)?;
        sleep(Duration::from_millis(300));
    }
    let second = training(&world, Some(string(&first, "id")?))?;
    ensure!(string(&second["result"], "trigger_reason")?.ends_with("samples are new"), "{second}");
    let gate = &second["result"]["gate"];
    ensure!(gate["passed"] == true, "the gate keeps it out: {gate:#}");
    let second_id = string(&second["result"], "version_id")?.to_owned();
    until(&world, "/api/v1/system", |now| now["model"]["tag"] == second["result"]["tag"])?;

    // A person signs it, and the way back with it. One station has it first, then the other.
    let second_bundle = exported(&world, &at, &second_id)?;
    let (_, second_version) = name_and_version(&second_bundle)?;
    let release = releases.publish(&second_bundle, 1, None)?;
    let devices = until(&world, "/api/v1/devices", |now| {
        now["items"].as_array().is_some_and(|i| i.len() == 2)
    })?;
    let canary = devices["items"].as_array().into_iter().flatten().find(|d| d["name"] == NAMES[0]);
    let canary = string(canary.context("no canary")?, "id")?.to_owned();
    let roll_out = |release: &str, revert: Option<&str>| -> Result<String> {
        let plan = json!({
            "release_id": release, "revert_release_id": revert,
            "cohorts": [{"devices": [canary]}, {"percent": 100}],
            "rules": {"commit_share": 1.0, "soak_s": 1, "trial_s": 0, "silence_s": 600},
        });
        let rollout = world.post("/api/v1/rollouts", &plan)?;
        let path = format!("/api/v1/rollouts/{}", string(&rollout, "id")?);
        world.post(&format!("{path}/start"), &json!({}))?;
        Ok(path)
    };
    let all_run = |version: &str| {
        until(&world, "/api/v1/devices", |now| {
            let items = now["items"].as_array();
            items.is_some_and(|items| items.iter().all(|item| item["model"]["version"] == version))
        })
    };
    let path = roll_out(&release, None)?;
    until(&world, &path, |now| now["state"] == "done")?;
    all_run(&second_version)?;

    // Four more pumps on each station.
    sleep(Duration::from_secs(4 * EVERY_S as u64 + 2));
    let alarms = alerts_of(&world, &second_version)?;
    ensure!(alarms == 0, "{alarms} pumps still alarm");
    let at = stations.stop()?;
    let mut stations = Stations::start(&world, &at, &model, &shots)?;
    let since = Instant::now();
    while alerts_of(&world, &second_version)? < 4 {
        stations.live()?;
        ensure!(since.elapsed() < LIMIT, "shots do not alarm any more\n{}", stations.logs());
        sleep(Duration::from_millis(300));
    }
    let at = stations.stop()?;

    // Somebody brings many recordings with the wrong labels. The gate hears what was set aside before.
    bring_recordings(&world, &at.join("wrong"), 200, 40, ["background", "gun_shot"])?;
    world.post("/retrain", &json!({"trigger_reason": "labels", "min_new_samples": 1}))?;
    let worse = training(&world, Some(string(&second, "id")?))?;
    ensure!(worse["result"]["gate"]["passed"] == false, "{worse:#}");
    let system: Value = world.get("/api/v1/system")?;
    ensure!(system["model"]["tag"] == second["result"]["tag"], "it serves all the same: {system}");

    // Forced past the gate, onto the stations, with a signed way back.
    let worse_bundle = exported(&world, &at, string(&worse["result"], "version_id")?)?;
    let (name, worse_version) = name_and_version(&worse_bundle)?;
    let release = releases.publish(&worse_bundle, 2, None)?;
    let replaces = format!("{name}:{worse_version}:2");
    let back = releases.publish(&second_bundle, 1, Some(&replaces))?;
    let hums = at.join("hums.wav");
    write_wav(&hums, &stream(|seed| hum(seed % 12)))?;
    let _stations = Stations::start(&world, &at, &model, &hums)?;
    let path = roll_out(&release, Some(&back))?;
    let since = Instant::now();
    let ended = loop {
        reject_all(&world)?;
        let now: Value = world.get(&path)?;
        if now["state"] == "rolled_back" {
            break now;
        }
        ensure!(since.elapsed() < 2 * LIMIT, "it stays: {now}\n{}", world.logs());
        sleep(Duration::from_millis(300));
    };
    ensure!(string(&ended, "reason")?.contains("reject"), "{ended}");
    all_run(&second_version)?;
    Ok(())
}
