//! `ecosight-agent`: the station's program. See `command` for what it can do.

use std::process::ExitCode;

use clap::Parser;
use ecosight_agent::command::CommandLine;

fn main() -> ExitCode {
    // One TLS implementation for MQTT and HTTP; fails only if it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    CommandLine::parse().execute()
}
