//! What goes to the terminal: results to stdout, the log and complaints to stderr.

use std::io::{IsTerminal, Write};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::Config;

/// The target of spans that a collector of OpenTelemetry gets; the log leaves them out at its usual level.
pub const TRACE: &str = "ecosight::trace";

/// Starts the log, and where the settings name a collector, the sending of spans. A filter that cannot be
/// read is replaced by `info`, with a word about it.
pub fn start(config: &Config) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| config.log.filter.clone());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        complain(&format!("log filter {wanted:?}: {error}; using \"info\""));
        EnvFilter::new("info")
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    let log = if config.log.json { log.json().boxed() } else { log.boxed() };
    let registry = tracing_subscriber::registry().with(log.with_filter(filter));
    let started = if config.otlp.endpoint.is_empty() {
        registry.try_init()
    } else {
        start_with_spans(registry, config)
    };
    if let Err(error) = started {
        complain(&format!("the log cannot be started: {error}"));
    }
}

#[cfg(feature = "otlp")]
fn start_with_spans<S>(registry: S, config: &Config) -> Result<(), TryInitError>
where
    S: tracing::Subscriber + for<'l> tracing_subscriber::registry::LookupSpan<'l> + Send + Sync,
{
    use crate::chance::Chance;
    use crate::clock::Clock;
    use crate::otlp;
    let (spans, exporter) = otlp::export(&config.otlp.endpoint, Clock::system(), Chance::system());
    tokio::spawn(otlp::run(exporter));
    let sent = tracing_subscriber::filter::filter_fn(otlp::is_sent);
    registry.with(spans.with_filter(sent)).try_init()
}

/// The configuration was refused where it names a collector.
#[cfg(not(feature = "otlp"))]
fn start_with_spans<S>(registry: S, _: &Config) -> Result<(), TryInitError>
where
    S: tracing::Subscriber + Send + Sync,
{
    registry.try_init()
}

/// Prints a result.
///
/// # Errors
/// If stdout cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Tells the operator what is wrong.
pub fn complain(text: &str) {
    // There is nowhere left to complain to if this fails.
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
