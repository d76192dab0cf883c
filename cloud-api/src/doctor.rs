//! Checks what the server needs and says what to do about what is missing.

use std::io::Write;
use std::net::TcpListener;

use anyhow::{Result, bail};
use tokio::net::TcpStream;

use crate::config::{BrokerChoice, Config};
use crate::serving::parts;
use crate::store::Store;

/// Prints one line a check.
///
/// # Errors
/// If a check failed, or the output cannot be written.
pub async fn doctor(config: &Config) -> Result<()> {
    let mut out = std::io::stdout();
    let mut failed = 0;
    let mut report = |what: &str, result: Result<String, String>| -> Result<()> {
        match result {
            Ok(good) => writeln!(out, "ok    {what}: {good}")?,
            Err(bad) => {
                failed += 1;
                writeln!(out, "FAIL  {what}: {bad}")?;
            }
        }
        Ok(())
    };
    report("data directory", data_dir(config))?;
    report("database", database(config).await)?;
    report("model", model(config))?;
    report("HTTP port", port(config.http.listen, "--listen"))?;
    report("broker", broker(config).await)?;
    if failed > 0 {
        bail!("{failed} of 5 checks failed");
    }
    Ok(())
}

fn data_dir(config: &Config) -> Result<String, String> {
    let dir = config.data_dir(|name| std::env::var(name).ok());
    let place = dir.display();
    std::fs::create_dir_all(&dir)
        .map_err(|error| format!("{place}: {error}; name another with --data-dir"))?;
    let probe = dir.join(".doctor");
    std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).map_err(|error| {
        format!("{place} cannot be written: {error}; name another with --data-dir")
    })?;
    Ok(place.to_string())
}

async fn database(config: &Config) -> Result<String, String> {
    let dir = config.data_dir(|name| std::env::var(name).ok());
    let store = Store::open_current(&config.database.url, &dir).await;
    let store = store.map_err(|error| error.to_string())?;
    store.ping().await.map_err(|error| error.to_string())?;
    if let Some(number) = store.audit_fault().await.map_err(|error| error.to_string())? {
        return Err(format!(
            "line {number} of the audit log was changed, or one before is missing"
        ));
    }
    Ok(store.kind().to_owned())
}

fn model(config: &Config) -> Result<String, String> {
    let model = parts(&config.model, None, None)?.classifier;
    let bundle = model.bundle();
    Ok(format!("{} {} ({})", bundle.name, bundle.version, bundle.tag))
}

fn port(address: std::net::SocketAddr, flag: &str) -> Result<String, String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) => Err(format!(
            "{address}: {error}; is the server running already? Give another with {flag}"
        )),
    }
}

async fn broker(config: &Config) -> Result<String, String> {
    match &config.mqtt.broker {
        BrokerChoice::Embedded => port(config.mqtt.listen, "--mqtt-listen"),
        BrokerChoice::External { host, port } => {
            let connected = TcpStream::connect((host.as_str(), *port)).await;
            connected.map_err(|error| format!("{host}:{port}: {error}; is the broker running?"))?;
            Ok(format!("{host}:{port} answers"))
        }
    }
}
