//! Real brokers and real programs under test: what load and fault runs are made of.
//!
//! A [`Broker`] is Mosquitto, a [`Program`] is one of the built binaries, and both can be killed as the
//! field kills them. Only stations are simulated, in numbers that no desk has room for: a [`Fleet`]
//! updates its models over the real wire.

mod broker;
mod program;
mod signed;
mod updating;

pub use broker::{Broker, BrokerError};
pub use program::{Program, ProgramError, built};
pub use signed::{SignedRelease, sign_release};
pub use updating::{Fate, Fleet, FleetOptions, Tally};

use std::io;
use std::net::TcpListener;

/// A port of the loopback address that nothing listens on at the moment.
///
/// # Errors
/// Whatever binding to port 0 of the loopback address gives.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
