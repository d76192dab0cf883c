//! Releases as a person makes them: signed with the tool, taken in with the server's own command.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::world::{World, printed, text};

/// Nothing takes longer that goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
const EXPIRES: &str = "2100-01-01";

/// Somebody with a key.
pub(crate) struct Releases {
    folder: PathBuf,
    key: PathBuf,
    /// What server and stations trust.
    pub(crate) public: String,
}

impl Releases {
    /// Makes a key in `folder`, which is that of the [`World`].
    pub(crate) fn begin(folder: &Path) -> Result<Self> {
        let (folder, key) = (folder.to_owned(), folder.join("release.key"));
        let public = printed("ecosight-models", &["release", "keygen", "--out", text(&key)?])?;
        Ok(Self { folder, key, public: String::from_utf8(public)?.trim().to_owned() })
    }

    /// Signs a bundle and hands it to the server; gives its id there. `replaces` is the release that it
    /// leads back from, as `name:version:counter`.
    pub(crate) fn publish(
        &self,
        bundle: &Path,
        counter: u32,
        replaces: Option<&str>,
    ) -> Result<String> {
        let (_, version) = name_and_version(bundle)?;
        let way = if replaces.is_some() { "back" } else { "on" };
        let out = self.folder.join(format!("{version}-{counter}-{way}.release"));
        let counter = counter.to_string();
        let mut arguments = vec!["release", "sign", "--bundle", text(bundle)?];
        arguments.extend(["--key", text(&self.key)?, "--version", &version]);
        arguments.extend(["--counter", &counter, "--expires", EXPIRES, "--out", text(&out)?]);
        arguments.extend(replaces.iter().flat_map(|release| ["--replaces", release]));
        printed("ecosight-models", &arguments)?;
        let (config, data) = (self.folder.join("cloud.toml"), self.folder.join("server"));
        let import = ["--config", text(&config)?, "--data-dir", text(&data)?];
        let taken = [&["releases"], &import[..], &["import", text(&out)?]].concat();
        Ok(String::from_utf8(printed("ecosight-cloud", &taken)?)?.trim().to_owned())
    }
}

/// What a bundle calls itself.
pub(crate) fn name_and_version(bundle: &Path) -> Result<(String, String)> {
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("manifest.json"))?)?;
    let field = |name: &str| {
        let text = manifest[name].as_str().map(str::to_owned);
        text.with_context(|| format!("no {name} in the manifest"))
    };
    Ok((field("name")?, field("version")?))
}

/// Waits until what the server says of `path` is as it should be.
pub(crate) fn until(world: &World, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
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
