//! A station that was given a code works from then on, with its package's settings as they are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ecosight_loadtest::{Broker, Program, built, free_port};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{StoredAlert, printed, text};

const START_LIMIT: Duration = Duration::from_secs(30);
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// The server of an operator who has an administrator and a broker with passwords.
struct Operator {
    broker: Broker,
    server: Program,
    /// Keeps the broker's files up to date, as the operator's manual says.
    _access: Program,
    url: String,
    key: String,
    client: Client,
    folder: TempDir,
}

#[tokio::test]
async fn a_code_is_all_that_a_station_needs() -> Result<()> {
    let operator = Operator::start().await?;
    let folder = operator.folder.path();
    let offer = json!({"site": "ridge", "device_name": "river-bend"});
    let offer = operator.ask(Method::POST, "/api/v1/enrolments", Some(offer)).await?;
    let code = offer["code"].as_str().context("no code")?;

    // As the package installs it; only where a microphone and /var would be is another way.
    let (packaged, data) = (folder.join("agent.toml"), folder.join("station"));
    write(&packaged, &printed("ecosight-agent", &["configfile"])?)?;
    let scene = folder.join("scene.wav");
    let options = ["--seed", "4", "--duration", "2m", "--shots-per-hour", "240", "--distance"];
    printed(
        "ecosight-models",
        &[&["scene"], &options[..], &["30..80", "--out", text(&scene)?]].concat(),
    )?;
    let surroundings = [
        "ECOSIGHT__SOURCE__KIND=file".to_owned(),
        format!("ECOSIGHT__SOURCE__PATH={}", scene.display()),
        "ECOSIGHT__SOURCE__SPEED=max".to_owned(),
        format!("ECOSIGHT__STORAGE__DATA_DIR={}", data.display()),
        "ECOSIGHT__STORAGE__RESERVE=1MB".to_owned(),
        "ECOSIGHT__PAGE__LISTEN=".to_owned(),
    ];
    let agent = built("ecosight-agent");
    let station = |arguments: &[&str]| -> Result<Vec<String>> {
        let command = [&[text(&agent)?], arguments, &["--config", text(&packaged)?]].concat();
        Ok(surroundings.iter().cloned().chain(command.into_iter().map(str::to_owned)).collect())
    };
    let enroll = station(&["enroll", "--url", &operator.url, "--code", code])?;
    let enrolled = Command::new("env").args(enroll).output()?;
    ensure!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    let said = String::from_utf8(enrolled.stdout)?;
    ensure!(said.contains(&operator.broker.url()), "the broker's address is told: {said}");

    let mut running =
        Program::start("station", Path::new("/usr/bin/env"), station(&["run"])?, folder)?;
    let ended = running.wait(RUN_LIMIT)?;
    ensure!(ended.success(), "the station ended with {ended}:\n{}", running.log_tail());

    let page = operator.ask(Method::GET, "/api/v1/alerts?limit=100", None).await?;
    let alerts: Vec<StoredAlert> = serde_json::from_value(page["items"].clone())?;
    ensure!(!alerts.is_empty(), "no alert:\n{}", running.log_tail());
    for alert in &alerts {
        // Nobody may upload without credentials once there is an administrator.
        let clip = alert.clip.as_ref().with_context(|| format!("{alert:?} has no clip"))?;
        ensure!(clip.status == "stored", "{alert:?}\n{}", running.log_tail());
    }
    let devices = operator.ask(Method::GET, "/api/v1/devices", None).await?;
    let device = &devices["items"][0];
    ensure!(device["name"] == "river-bend" && device["site_id"] == "ridge", "{devices}");
    Ok(())
}

impl Operator {
    async fn start() -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = TempDir::new()?;
        let (data, password) = (folder.path().join("server"), folder.path().join("password"));
        write(&password, b"the server's own\n")?;
        let in_data = ["--data-dir", text(&data)?];
        printed("ecosight-cloud", &[&["create-admin", "ranger-post"], &in_data[..]].concat())?;
        let make_key = ["create-api-key", "technician", "--role", "admin"];
        let key = printed("ecosight-cloud", &[&make_key, &in_data[..]].concat())?;
        let key = String::from_utf8(key)?.trim().to_owned();
        let access = folder.path().join("access");
        let write_access =
            ["mosquitto-acl", "--out", text(&access)?, "--server-password-file", text(&password)?];
        let write_access = [&write_access[..], &in_data].concat();
        printed("ecosight-cloud", &write_access)?;
        let broker = Broker::start_closed(&access)?;
        let reload = format!("kill -HUP {}", broker.id().context("no broker")?);
        let follow = [&write_access[..], &["--follow", "--then", &reload]].concat();
        let access = Program::start("access", &built("ecosight-cloud"), follow, folder.path())?;
        let (listen, config) =
            (format!("127.0.0.1:{}", free_port()?), folder.path().join("cloud.toml"));
        let settings = format!(
            "[mqtt]\nbroker = \"{0}\"\nusername = \"ecosight-cloud\"\npassword_file = \"{1}\"\n\
             stations_url = \"{0}\"\n",
            broker.url(),
            password.display(),
        );
        write(&config, settings.as_bytes())?;
        let (config, none) = (text(&config)?, ["--yamnet", "/none"]);
        let serve = ["serve", "--config", config, "--listen", &listen];
        let arguments = [&serve[..], &in_data, &none].concat();
        let server = Program::start("server", &built("ecosight-cloud"), arguments, folder.path())?;
        let client = Client::builder().timeout(Duration::from_secs(20)).build()?;
        let url = format!("http://{listen}");
        let mut operator = Self { broker, server, _access: access, url, key, client, folder };
        operator.wait().await?;
        Ok(operator)
    }

    /// Until it serves and hears the broker.
    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let system = self.ask(Method::GET, "/api/v1/system", None).await;
            if system.is_ok_and(|system| system["broker_connected"] == true) {
                return Ok(());
            }
            ensure!(self.server.ended()?.is_none(), "it ended:\n{}", self.server.log_tail());
            ensure!(Instant::now() < deadline, "no server:\n{}", self.server.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks the API as the operator does.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

#[allow(clippy::disallowed_methods, reason = "a test's file need not be durable")]
fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())
}
