//! A model that is signed by the tool, taken by the server, rolled out to a real station, and sent back.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{World, printed, text};

/// The name of the compact bundle stands here.
const COMPACT: &str = "COMPACT";
const LIMIT: Duration = Duration::from_secs(120);
const EXPIRES: &str = "2100-01-01";

/// The bundle that needs nothing else, as it is shipped.
fn shipped() -> Result<PathBuf> {
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/artifacts");
    let name = fs::read_to_string(artifacts.join(COMPACT))?;
    Ok(artifacts.join(name.trim()))
}

/// The same with another version, as a training makes it: its golden sounds score as before.
#[allow(clippy::disallowed_methods, reason = "a bundle for a test need not be durable")]
fn with_version(folder: &Path, version: &str) -> Result<PathBuf> {
    let (from, to) = (shipped()?, folder.join(format!("bundle-{version}")));
    fs::create_dir(&to)?;
    for file in fs::read_dir(&from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    let path = to.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
    manifest["version"] = version.into();
    fs::write(path, serde_json::to_vec_pretty(&manifest)?)?;
    Ok(to)
}

struct Releases {
    folder: PathBuf,
    key: PathBuf,
}

impl Releases {
    /// Signs with the tool and takes it in with the server's own command; gives its id at the server.
    fn publish(&self, version: &str, counter: u32, replaces: Option<&str>) -> Result<String> {
        let bundle = with_version(&self.folder, version)?;
        let out = self.folder.join(format!("{version}-{counter}.release"));
        let counter = counter.to_string();
        let mut arguments = vec!["release", "sign", "--bundle", text(&bundle)?];
        arguments.extend(["--key", text(&self.key)?, "--version", version]);
        arguments.extend(["--counter", &counter, "--expires", EXPIRES, "--out", text(&out)?]);
        arguments.extend(replaces.iter().flat_map(|release| ["--replaces", release]));
        printed("ecosight-models", &arguments)?;
        let (config, data) = (self.folder.join("cloud.toml"), self.folder.join("server"));
        let import = ["--config", text(&config)?, "--data-dir", text(&data)?];
        let taken = [&["releases"], &import[..], &["import", text(&out)?]].concat();
        Ok(String::from_utf8(printed("ecosight-cloud", &taken)?)?.trim().to_owned())
    }
}

/// Waits until what the server says of `path` is as it should be.
fn until(world: &World, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        let now: Value = world.get(path)?;
        if wanted(&now) {
            return Ok(now);
        }
        ensure!(since.elapsed() < LIMIT, "{path} stays {now}\n{}", world.logs());
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_signed_model_comes_to_a_station_and_the_signed_way_back_takes_it_away() -> Result<()> {
    let folder = TempDir::new()?;
    let key = folder.path().join("release.key");
    let public = printed("ecosight-models", &["release", "keygen", "--out", text(&key)?])?;
    let public = String::from_utf8(public)?.trim().to_owned();
    let compact = shipped()?;
    let station = format!(
        "[source]\nkind = \"scene\"\nshots_per_hour = 0\n[model]\nbundle = \"{}\"\n\
         [update]\ntrusted_keys = [\"{public}\"]\nmin_trial = \"0s\"\n",
        compact.display()
    );
    let server = format!("[releases]\ntrusted_keys = [\"{public}\"]\n");
    let releases = Releases { folder: folder.path().to_owned(), key };
    let mut world = World::start(folder, &station, &server, &["--bundle", text(&compact)?])?;
    world.start_station()?;
    let devices = until(&world, "/api/v1/devices", |now| now["items"][0]["state"] == "online")?;
    let device = devices["items"][0]["id"].as_str().context("an id")?.to_owned();
    let shipped = devices["items"][0]["model"].clone();

    let first = releases.publish("90.0.1", 1, None)?;
    let second = releases.publish("90.0.2", 2, None)?;
    let back = releases.publish("90.0.3", 1, Some("compact:90.0.2:2"))?;
    let roll_out = |world: &World, release: &str, revert: Option<&str>| -> Result<String> {
        let plan = json!({
            "release_id": release, "revert_release_id": revert,
            "cohorts": [{"devices": [device]}],
            "rules": {"soak_s": 1, "trial_s": 0, "silence_s": 600},
        });
        let rollout = world.post("/api/v1/rollouts", &plan)?;
        let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().context("an id")?);
        world.post(&format!("{path}/start"), &json!({}))?;
        Ok(path)
    };
    let runs = |world: &World, version: &str| {
        let path = format!("/api/v1/devices/{device}");
        until(world, &path, |now| now["model"]["version"] == version)
            .map(|now| now["model"].clone())
    };
    let path = roll_out(&world, &first, None)?;
    until(&world, &path, |now| now["state"] == "done")?;
    let running = runs(&world, "90.0.1")?;
    ensure!(running["tag"] != shipped["tag"], "{running} is not {shipped}");

    let path = roll_out(&world, &second, Some(&back))?;
    until(&world, &path, |now| now["state"] == "done")?;
    runs(&world, "90.0.2")?;
    // What the station reports every minute names it too.
    world.restart_station()?;
    runs(&world, "90.0.2")?;

    world.post(&format!("{path}/rollback"), &json!({"reason": "too many branches"}))?;
    let devices = format!("{path}/devices");
    until(&world, &devices, |now| now["items"][0]["step"] == "reverted")?;
    runs(&world, "90.0.3")?;
    Ok(())
}
