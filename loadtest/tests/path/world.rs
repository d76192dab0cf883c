//! The parts of one run: a scene with known shots, a broker, a server, a station, a ranger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use ecosight_loadtest::{Broker, Program, built, free_port};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

/// Time of the scene's first sample.
pub(crate) const START_TIME: &str = "2026-03-01T18:00:00Z";

/// An event as `ecosight-models classify --json` gives it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HeardEvent {
    pub(crate) class: String,
    pub(crate) start_s: f64,
}

/// A sound of the scene, as `ecosight-models scene --truth` gives it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TrueEvent {
    pub(crate) sound: String,
    pub(crate) onset_s: f64,
}

/// An alert as the server gives it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredAlert {
    pub(crate) id: String,
    pub(crate) class: String,
    pub(crate) time: String,
    pub(crate) clip: Option<StoredClip>,
}

/// Its recording.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredClip {
    pub(crate) url: String,
    pub(crate) status: String,
    pub(crate) bytes: u64,
}

/// Everything that runs, and the folder it runs in.
pub(crate) struct World {
    pub(crate) broker: Broker,
    server: Option<Program>,
    station: Option<Program>,
    ranger: Program,
    http_port: u16,
    folder: TempDir,
    /// What the server is told of its model.
    model: Vec<String>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// A file of YAMNet to import; `None`: the test is skipped.
pub(crate) fn yamnet_file() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = env::var_os("ECOSIGHT_SHARED").map_or(beside, PathBuf::from);
    Some(shared.join("yamnet/yamnet.tflite")).filter(|file| file.exists())
}

/// Runs one of the built programs to its end and gives what it printed.
pub(crate) fn printed(name: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let Output { status, stdout, stderr } = Command::new(built(name))
        .args(arguments)
        .output()
        .with_context(|| format!("is {name} built?"))?;
    ensure!(
        status.success(),
        "{name} {arguments:?}: {status}\n{}",
        String::from_utf8_lossy(&stderr)
    );
    Ok(stdout)
}

/// Writes a scene of half an hour with about 60 shots; gives the truth and what a station that is
/// never disturbed hears in it.
pub(crate) fn scene(
    folder: &Path,
    yamnet: &Path,
) -> Result<(PathBuf, Vec<TrueEvent>, Vec<HeardEvent>)> {
    #[derive(Deserialize)]
    struct Line {
        events: Vec<HeardEvent>,
    }
    #[derive(Deserialize)]
    struct Truth {
        events: Vec<TrueEvent>,
    }
    let (wav, truth) = (folder.join("scene.wav"), folder.join("scene.json"));
    let (wav_text, truth_text) = (text(&wav)?, text(&truth)?);
    let options =
        ["--seed", "20", "--duration", "30m", "--shots-per-hour", "120", "--distance", "60..600"];
    printed(
        "ecosight-models",
        &[&["scene"], &options[..], &["--out", wav_text, "--truth", truth_text]].concat(),
    )?;
    let truth: Truth = serde_json::from_slice(&fs::read(&truth)?).context("the scene's truth")?;
    let classify = ["classify", "--json", "--yamnet", text(yamnet)?, wav_text];
    let line: Line = serde_json::from_slice(&printed("ecosight-models", &classify)?)?;
    Ok((wav, truth.events, line.events))
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

impl World {
    /// Imports YAMNet into `folder` and gives its place.
    pub(crate) fn import(folder: &Path, file: &Path) -> Result<PathBuf> {
        let place = folder.join("yamnet.onnx");
        printed("ecosight-models", &["import-yamnet", text(file)?, "--out", text(&place)?])?;
        Ok(place)
    }

    /// Starts broker, server and ranger; the station comes with [`World::start_station`]. `station` is
    /// what its configuration says of source, model and updates, `server` the server's
    /// configuration, `model` what the server is told of its model.
    pub(crate) fn start(
        folder: TempDir,
        station: &str,
        server: &str,
        model: &[&str],
    ) -> Result<Self> {
        let broker = Broker::start()?;
        let http_port = free_port()?;
        write_configs(folder.path(), station, server, &broker, http_port)?;
        let model = model.iter().map(|&argument| argument.to_owned()).collect();
        let watch = ["watch", "--json", "--client-id", "ranger", "--mqtt", &broker.url()];
        let ranger = Program::start("ranger", &built("ecosight-cloud"), watch, folder.path())?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A connection that idles while a test waits is closed by the server, and nobody would notice.
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(0)
            .build()?;
        let (server, station) = (None, None);
        let mut world =
            Self { broker, server, station, ranger, http_port, folder, model, client, runtime };
        world.start_server()?;
        Ok(world)
    }

    /// Starts the server; it has answered when this returns.
    pub(crate) fn start_server(&mut self) -> Result<()> {
        let data = self.folder.path().join("server");
        let listen = format!("127.0.0.1:{}", self.http_port);
        let (mqtt, config) = (self.broker.url(), self.folder.path().join("cloud.toml"));
        let fixed = ["serve", "--config", text(&config)?, "--listen", &listen, "--mqtt", &mqtt];
        let model = self.model.iter().map(String::as_str);
        let arguments = fixed.into_iter().chain(["--data-dir", text(&data)?]).chain(model);
        let mut server =
            Program::start("server", &built("ecosight-cloud"), arguments, self.folder.path())?;
        for _ in 0..200 {
            if self.get::<Value>("/health").is_ok() {
                self.server = Some(server);
                return Ok(());
            }
            ensure!(server.ended()?.is_none(), "the server ended:\n{}", server.log_tail());
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("the server does not answer:\n{}", server.log_tail())
    }

    /// Kills the server with -9.
    pub(crate) fn kill_server(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill_9()?;
        }
        Ok(())
    }

    /// Starts the station where it left off.
    pub(crate) fn start_station(&mut self) -> Result<()> {
        let config = self.folder.path().join("station.toml");
        let arguments = ["run", "--config", text(&config)?];
        self.station = Some(Program::start(
            "station",
            &built("ecosight-agent"),
            arguments,
            self.folder.path(),
        )?);
        Ok(())
    }

    /// Kills the station with -9; false if it had already come to its end.
    pub(crate) fn kill_station(&mut self) -> Result<bool> {
        let Some(mut station) = self.station.take() else { return Ok(false) };
        if station.ended()?.is_some() {
            return Ok(false);
        }
        station.kill_9()?;
        Ok(true)
    }

    /// Stops the station in order and starts it again.
    pub(crate) fn restart_station(&mut self) -> Result<()> {
        let mut station = self.station.take().context("the station is not running")?;
        let status = station.terminate(Duration::from_secs(20))?;
        ensure!(status.success(), "the station ended with {status}:\n{}", station.log_tail());
        self.start_station()
    }

    /// Waits until the station has delivered everything and ends by itself.
    pub(crate) fn wait_for_station(&mut self, limit: Duration) -> Result<()> {
        let mut station = self.station.take().context("the station is not running")?;
        let status = station.wait(limit)?;
        ensure!(status.success(), "the station ended with {status}:\n{}", station.log_tail());
        Ok(())
    }

    /// All alerts that the server has.
    pub(crate) fn alerts(&self) -> Result<Vec<StoredAlert>> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<StoredAlert>,
            next: Option<String>,
        }
        let mut alerts = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page = self.get(&format!("/api/v1/alerts?limit=100{cursor}"))?;
            alerts.extend(page.items);
            match page.next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(alerts),
            }
        }
    }

    /// How many bytes the server sends for a clip.
    pub(crate) fn clip_bytes(&self, clip: &StoredClip) -> Result<u64> {
        let url = self.url(&clip.url);
        let body = self.runtime.block_on(async {
            self.client.get(url).send().await?.error_for_status()?.bytes().await
        })?;
        Ok(body.len() as u64)
    }

    /// How often the ranger was shown each event.
    pub(crate) fn shown(&self) -> Result<BTreeMap<String, usize>> {
        #[derive(Deserialize)]
        struct Shown {
            event_id: String,
        }
        let mut shown = BTreeMap::new();
        for line in fs::read_to_string(self.folder.path().join("ranger.out"))?.lines() {
            let Shown { event_id } = serde_json::from_str(line)?;
            *shown.entry(event_id).or_default() += 1;
        }
        Ok(shown)
    }

    /// The ends of all logs, for a failure's message.
    pub(crate) fn logs(&self) -> String {
        let programs = [self.server.as_ref(), self.station.as_ref(), Some(&self.ranger)];
        programs.into_iter().flatten().map(Program::log_tail).collect::<Vec<_>>().join("\n---\n")
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    /// What the server answers to what is posted.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(reqwest::Method::POST, path, body)
    }

    /// What the server answers to what is put there.
    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(reqwest::Method::PUT, path, body)
    }

    fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value> {
        let url = self.url(path);
        self.runtime.block_on(async {
            let response = self.client.request(method, url).json(body).send().await?;
            let status = response.status();
            let answer = response.text().await?;
            ensure!(status.is_success(), "{path}: {status} {answer}");
            Ok(serde_json::from_str(&answer).unwrap_or_default())
        })
    }

    /// The server's data directory.
    pub(crate) fn server_data(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// The configuration of a station with a name and a data directory of its own.
    pub(crate) fn station_config(&self, name: &str, station: &str) -> String {
        station_config(self.folder.path(), name, station, &self.broker, self.http_port)
    }

    /// What the server answers.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = self.url(path);
        Ok(self.runtime.block_on(async {
            self.client.get(url).send().await?.error_for_status()?.json().await
        })?)
    }
}

impl StoredAlert {
    /// Seconds from the scene's first sample to the alert's onset.
    pub(crate) fn onset_s(&self) -> Result<f64> {
        let [time, start] = [&self.time, START_TIME].map(str::parse::<jiff::Timestamp>);
        Ok((time?.as_microsecond() - start?.as_microsecond()) as f64 / 1e6)
    }
}

/// Recordings as a source, and the full model, as a station's configuration.
pub(crate) fn replay(wav: &Path, yamnet: &Path) -> String {
    let (wav, yamnet) = (wav.display(), yamnet.display());
    format!(
        r#"
[source]
kind = "file"
path = "{wav}"
speed = "max"
start_time = "{START_TIME}"
[model]
yamnet = "{yamnet}"
"#
    )
}

#[allow(clippy::disallowed_methods, reason = "a configuration for a test need not be durable")]
fn write_configs(
    folder: &Path,
    station: &str,
    server: &str,
    broker: &Broker,
    http_port: u16,
) -> Result<()> {
    fs::write(folder.join("cloud.toml"), server)?;
    let station = station_config(folder, "station", station, broker, http_port);
    Ok(fs::write(folder.join("station.toml"), station)?)
}

fn station_config(
    folder: &Path,
    name: &str,
    station: &str,
    broker: &Broker,
    http_port: u16,
) -> String {
    let (data, mqtt) = (folder.join(name), broker.url());
    format!(
        r#"
[station]
name = "{name}"
site = "path"
{station}
[mqtt]
url = "{mqtt}"
reconnect_max = "1s"
resend_after = "2s"
[cloud]
url = "http://127.0.0.1:{http_port}"
[page]
listen = ""
[storage]
data_dir = "{}"
"#,
        data.display()
    )
}
