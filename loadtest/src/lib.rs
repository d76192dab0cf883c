//! Real brokers and real programs under test: what load and fault runs are made of.
//!
//! Nothing here pretends to be a part of the system. A [`Broker`] is Mosquitto, a [`Program`] is one
//! of the built binaries, and both can be killed as the field kills them.

mod broker;
mod program;

pub use broker::{Broker, BrokerError};
pub use program::{Program, ProgramError, built};

use std::io;
use std::net::TcpListener;

/// A port of the loopback address that nothing listens on at the moment.
///
/// # Errors
/// Whatever binding to port 0 of the loopback address gives.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
