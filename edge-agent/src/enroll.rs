//! `enroll`: introduces the station to the server with a code that works once.
//!
//! What the server answers becomes `enrolment.toml` in the data directory, which counts less than
//! what the operator wrote; secrets go into files of their own that only this user may read.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ecosight_models::durable;
use ecosight_shared::{DeviceId, Slug};
use serde::{Deserialize, Serialize};

use crate::command::EnrollArgs;
use crate::config::{Config, ENROLMENT_FILE};
use crate::{station, upload};

/// Longest wait for the server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const ANSWER_MAX: usize = 64 * 1_024;
/// Longest code on standard input.
const CODE_MAX: u64 = 1_024;

#[derive(Serialize)]
struct Request<'a> {
    code: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    site_id: Option<&'a str>,
    /// So that a station that enrols again stays the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
}

/// What a server may answer; it need not have an opinion on all of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(alias = "id")]
    device_id: Option<String>,
    name: Option<String>,
    #[serde(alias = "site")]
    site_id: Option<String>,
    #[serde(alias = "api_key", alias = "key", alias = "credential", alias = "secret")]
    token: Option<String>,
    mqtt: Option<Mqtt>,
    #[serde(alias = "mqtt_url")]
    broker_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mqtt {
    url: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// What was written.
#[derive(Debug)]
pub struct Enrolled {
    /// The settings.
    pub settings: PathBuf,
    /// The station's id.
    pub device: DeviceId,
    /// Its site.
    pub site: Option<Slug>,
}

/// Introduces the station.
///
/// # Errors
/// The server refuses or cannot be reached, with its reason; nothing is written then.
pub async fn enroll(config: &Config, args: &EnrollArgs) -> Result<Enrolled> {
    let code = match &args.code {
        Some(code) => code.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().take(CODE_MAX).read_to_string(&mut text).context("standard input")?;
            text
        }
    };
    let code = code.trim();
    if code.is_empty() {
        bail!("no code: give --code, or write it to standard input");
    }
    let url = args.url.clone().or_else(|| config.cloud.url.clone());
    let url = url.context("no server: give --url, or set cloud.url")?;
    let cloud =
        crate::config::Cloud { url: Some(url.clone()), token_file: None, ..config.cloud.clone() };
    let data_dir = &config.storage.data_dir;
    let known = config.station.id.or(station::known(data_dir)?);
    let name = args.name.as_ref().unwrap_or(&config.station.name);
    let site = args.site.as_ref();
    let request = Request {
        code,
        name: name.as_str(),
        site_id: site.map(Slug::as_str),
        device_id: known.map(|id| id.to_string()),
    };
    let address = format!("{}/api/v1/devices/enrol", url.trim_end_matches('/'));
    let answer = upload::client(&cloud)?
        .post(&address)
        .timeout(PATIENCE)
        .json(&request)
        .send()
        .await
        .map_err(|error| anyhow::anyhow!("{address}: {}", upload::describe(&error)))?;
    let status = answer.status();
    if !status.is_success() {
        bail!("{address} refuses: {}", upload::refusal(status, answer).await);
    }
    let body = answer.bytes().await.context("the answer broke off")?;
    if body.len() > ANSWER_MAX {
        bail!("{address} answers with {} bytes, which is no enrolment", body.len());
    }
    let answer: Answer = serde_json::from_slice(&body)
        .with_context(|| format!("{address} answers with something else than an enrolment"))?;
    keep(answer, known, name, site, &url, data_dir)
}

fn keep(
    answer: Answer,
    known: Option<DeviceId>,
    name: &Slug,
    site: Option<&Slug>,
    url: &str,
    data_dir: &Path,
) -> Result<Enrolled> {
    let device = match (&answer.device_id, known) {
        (Some(id), _) => id
            .parse::<DeviceId>()
            .map_err(|error| anyhow::anyhow!("the server gives the id \"{id}\": {error}"))?,
        (None, Some(id)) => id,
        (None, None) => {
            bail!("the server gives no id, and the station has none yet: run it once first")
        }
    };
    let slug = |text: &str| {
        text.parse::<Slug>()
            .map_err(|error| anyhow::anyhow!("the server gives \"{text}\": {error}"))
    };
    let name = answer.name.as_deref().map(slug).transpose()?.unwrap_or_else(|| name.clone());
    let site = answer.site_id.as_deref().map(slug).transpose()?.or_else(|| site.cloned());
    let mqtt = answer.mqtt.unwrap_or_default();
    let mut table = toml::Table::new();
    let mut set = |section: &str, key: &str, value: String| {
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if let toml::Value::Table(section) = entry {
            section.insert(key.to_owned(), value.into());
        }
    };
    set("station", "id", device.to_string());
    set("station", "name", name.to_string());
    if let Some(site) = &site {
        set("station", "site", site.to_string());
    }
    set("cloud", "url", url.to_owned());
    if let Some(broker) = mqtt.url.or(answer.broker_url) {
        set("mqtt", "url", broker);
    }
    let secret = |file: &str, content: &str| -> Result<String> {
        let path = data_dir.join(file);
        durable::write_file(&path, content.as_bytes())
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    };
    if let Some(token) = &answer.token {
        set("cloud", "token_file", secret("cloud-token", token)?);
    }
    if let (Some(username), Some(password)) = (mqtt.username, &mqtt.password) {
        set("mqtt", "username", username);
        set("mqtt", "password_file", secret("mqtt-password", password)?);
    }
    let settings = data_dir.join(ENROLMENT_FILE);
    let text = format!("# Written by `ecosight-agent enroll`; agent.toml counts more.\n{table}");
    durable::write_file(&settings, text.as_bytes())
        .with_context(|| format!("cannot write {}", settings.display()))?;
    Ok(Enrolled { settings, device, site })
}
