//! `enroll`: introduces the station to the server with a code that works once.
//!
//! What the server answers becomes `enrolment.toml` in the data directory: all that the station needs
//! to reach broker and server with credentials of its own. It counts less than what the operator
//! wrote; secrets go into files of their own that only the directory's owner may read.

use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ecosight_models::durable;
use ecosight_shared::{DeviceId, Slug};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::command::EnrollArgs;
use crate::config::{self, Config, ENROLMENT_FILE};
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
    /// The station's own: one that enrols again stays the same one.
    device_id: String,
}

/// What a server may answer; it need not have an opinion on all of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    device_id: Option<String>,
    device_name: Option<String>,
    site_id: Option<String>,
    /// For the broker, and with HTTP Basic for the server.
    username: Option<String>,
    password: Option<String>,
    /// A token for the server instead.
    token: Option<String>,
    /// The broker's address.
    mqtt_url: Option<String>,
    /// Certificate of the authority that the broker's own is checked against, PEM.
    mqtt_ca: Option<String>,
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
    /// Where its broker is, if the server said so.
    pub broker: Option<String>,
}

/// Introduces the station.
///
/// # Errors
/// The server refuses or cannot be reached, with its reason; nothing is written then.
pub async fn enroll(config: &Config, args: &EnrollArgs, clock: &Clock) -> Result<Enrolled> {
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
    let cloud = config::Cloud {
        url: Some(url.clone()),
        token_file: None,
        username: None,
        password_file: None,
        ..config.cloud.clone()
    };
    let data_dir = &config.storage.data_dir;
    let device = match config.station.id.or(station::known(data_dir)?) {
        Some(device) => device,
        None => station::fresh(clock.unix_us())?,
    };
    let request = Request { code, device_id: device.to_string() };
    let address = format!("{}/api/v1/enrol", url.trim_end_matches('/'));
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
    keep(answer, device, &url, data_dir)
}

fn keep(answer: Answer, device: DeviceId, url: &str, data_dir: &Path) -> Result<Enrolled> {
    let device = match &answer.device_id {
        Some(id) => id
            .parse::<DeviceId>()
            .map_err(|error| anyhow::anyhow!("the server gives the id \"{id}\": {error}"))?,
        None => device,
    };
    let slug = |text: &str| {
        text.parse::<Slug>()
            .map_err(|error| anyhow::anyhow!("the server gives \"{text}\": {error}"))
    };
    let name = answer.device_name.as_deref().map(slug).transpose()?;
    let site = answer.site_id.as_deref().map(slug).transpose()?;
    if let Some(url) = &answer.mqtt_url {
        // Written down it would keep the station from starting at all.
        let broker = config::Mqtt { url: url.clone(), ..config::Mqtt::default() };
        broker.broker().map_err(|problem| anyhow::anyhow!("the server's mqtt_url: {problem}"))?;
    }
    let mut table = toml::Table::new();
    let mut set = |section: &str, key: &str, value: String| {
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if let toml::Value::Table(section) = entry {
            section.insert(key.to_owned(), value.into());
        }
    };
    set("station", "id", device.to_string());
    if let Some(name) = &name {
        set("station", "name", name.to_string());
    }
    if let Some(site) = &site {
        set("station", "site", site.to_string());
    }
    set("cloud", "url", url.to_owned());
    if let Some(broker) = &answer.mqtt_url {
        set("mqtt", "url", broker.clone());
    }
    let secret = |file: &str, content: &str| -> Result<String> {
        let path = data_dir.join(file);
        write(&path, content, 0o600)?;
        Ok(path.display().to_string())
    };
    if let Some(ca) = &answer.mqtt_ca {
        let path = data_dir.join("broker-ca.pem");
        write(&path, ca, 0o644)?;
        set("mqtt", "ca", path.display().to_string());
    }
    if let Some(token) = &answer.token {
        set("cloud", "token_file", secret("cloud-token", token)?);
    }
    if let (Some(username), Some(password)) = (answer.username, &answer.password) {
        let file = secret("password", password)?;
        // The server is told one secret only.
        let sections: &[&str] = if answer.token.is_some() { &["mqtt"] } else { &["mqtt", "cloud"] };
        for section in sections {
            set(section, "username", username.clone());
            set(section, "password_file", file.clone());
        }
    }
    let settings = data_dir.join(ENROLMENT_FILE);
    let text = format!(
        "# Written by `ecosight-agent enroll`. What agent.toml sets to something else than its \
         default counts more.\n{table}"
    );
    write(&settings, &text, 0o640)?;
    Ok(Enrolled { settings, device, site, broker: answer.mqtt_url })
}

/// Writes a file that the station's own user can read, although an administrator enrols it.
fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    durable::write_file(path, content.as_bytes()).with_context(cannot)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(cannot)?;
    let directory = path.parent().unwrap_or(path);
    let owner = std::fs::metadata(directory).with_context(cannot)?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(owner.uid()), Some(owner.gid())).with_context(cannot)?;
    }
    Ok(())
}
