//! `support`: one file with everything that somebody far away needs to see what is wrong.
//!
//! A tar of texts: versions, the settings that were written without secrets, the result of `doctor`,
//! what the outbox and the disk hold, the trace of the last day, and the last messages. No sound, no
//! password, no key, no token.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ecosight_models::durable;
use serde_json::json;

use crate::clock::{Clock, rfc3339};
use crate::config::{Config, Written};
use crate::station::IDENTITY_FILE;
use crate::update::Store;
use crate::{clip, doctor, health, logfile, outbox, trace};

const DAY_US: i64 = 86_400_000_000;

/// Gathers everything and writes it to `out`.
///
/// # Errors
/// The file cannot be written. What cannot be gathered is named in it instead.
pub async fn support(
    config: &Config,
    written: &Written,
    out: Option<PathBuf>,
    clock: &Clock,
) -> Result<PathBuf> {
    let now_us = clock.unix_us();
    let time = rfc3339(now_us);
    let stamp: String = time.chars().take(19).filter(|c| c.is_ascii_digit()).collect();
    let path = out.unwrap_or_else(|| {
        PathBuf::from(format!("ecosight-support_{}_{stamp}.tar", config.station.name))
    });
    let data_dir = &config.storage.data_dir;
    let checks = doctor::examine(config).await;
    let settings = written.lines().join("\n");
    let traces = match trace::read(data_dir, now_us - DAY_US, now_us).await {
        Ok(traces) => serde_json::to_string_pretty(&traces)?,
        Err(error) => error.to_string(),
    };
    let files = [
        ("about.json", serde_json::to_string_pretty(&about(config, &time))?),
        ("settings.txt", settings),
        ("doctor.txt", doctor::report(&checks, false)),
        ("disk.txt", disk(data_dir)),
        ("outbox.json", serde_json::to_string_pretty(&outbox::survey(data_dir).await)?),
        ("trace.json", traces),
        ("updates.json", updates(data_dir)),
        ("messages.log", messages(data_dir)),
        ("machine.txt", machine()),
    ];
    let bytes = tar_of(&files, now_us / 1_000_000).context("cannot pack")?;
    durable::write_file(&path, &bytes)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn about(config: &Config, time: &str) -> serde_json::Value {
    let stored = std::fs::read_to_string(config.storage.data_dir.join(IDENTITY_FILE));
    json!({
        "agent": env!("CARGO_PKG_VERSION"),
        "time": time,
        "name": config.station.name.as_str(),
        "site": config.station.site.as_str(),
        "station": stored.ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()),
        "redact_speech": config.privacy.redact_speech,
    })
}

/// What the station remembers of models from afar; there is nothing secret in it.
fn updates(data_dir: &Path) -> String {
    match Store::of(data_dir).read() {
        Ok(saved) => serde_json::to_string_pretty(&saved).unwrap_or_default(),
        Err(error) => error.to_string(),
    }
}

/// Names and sizes of what is kept, and the space that is left.
fn disk(data_dir: &Path) -> String {
    let mut text = String::new();
    if let Some(free) = health::free_bytes(data_dir) {
        let _ = writeln!(text, "{} MB free for {}", free / 1_000_000, data_dir.display());
    }
    for directory in [data_dir.to_path_buf(), data_dir.join(clip::DIRECTORY)] {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut lines: Vec<String> = entries
            .map(|entry| {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                format!("{size:>12} {}", entry.path().display())
            })
            .collect();
        lines.sort();
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    text
}

/// The station's own log, and where there is a journal its end.
fn messages(data_dir: &Path) -> String {
    let mut text = logfile::read(data_dir);
    let journal = std::process::Command::new("journalctl")
        .args(["--unit=ecosight-agent", "--lines=500", "--no-pager", "--quiet"])
        .output();
    if let Ok(journal) = journal
        && journal.status.success()
        && !journal.stdout.is_empty()
    {
        let _ = writeln!(text, "--- journal");
        text.push_str(&String::from_utf8_lossy(&journal.stdout));
    }
    text
}

fn machine() -> String {
    let files = [
        "/proc/version",
        "/proc/device-tree/model",
        "/etc/os-release",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/asound/cards",
    ];
    let mut text = String::new();
    for file in files {
        if let Ok(content) = std::fs::read_to_string(file) {
            let content = content.trim_end_matches('\0').trim_end();
            let _ = writeln!(text, "--- {file}\n{content}");
        }
    }
    text
}

fn tar_of(files: &[(&str, String)], unix_s: i64) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(unix_s).unwrap_or(0));
        archive.append_data(&mut header, format!("ecosight-support/{name}"), content.as_bytes())?;
    }
    archive.into_inner()
}
