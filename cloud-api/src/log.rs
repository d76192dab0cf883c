//! What goes to the terminal: results to stdout, the log and complaints to stderr.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::config::LogConfig;

/// Starts the log. A filter that cannot be read is replaced by `info`, with a word about it.
pub fn start(config: &LogConfig) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| config.filter.clone());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        complain(&format!("log filter {wanted:?}: {error}; using \"info\""));
        EnvFilter::new("info")
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    let started = if config.json { log.json().try_init() } else { log.try_init() };
    if let Err(error) = started {
        complain(&format!("the log cannot be started: {error}"));
    }
}

/// Prints a result.
///
/// # Errors
/// If stdout cannot be written.
pub fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Tells the operator what is wrong.
pub fn complain(text: &str) {
    // There is nowhere left to complain to if this fails.
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
