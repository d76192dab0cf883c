//! Path: station → **broker** → link
//!
//! A broker inside the process, so that one machine needs nothing else installed. It keeps sessions
//! and retained messages in memory only: stations repeat what has no receipt, and publish their status
//! again when they connect.
//!
//! The broker proper has one listener for MQTT 3.1.1 and one for MQTT 5, both on private loopback
//! ports. [`front`] is the one public port that takes either; where the broker asks for credentials,
//! [`door`] looks at what clients say there.

mod door;
mod front;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use ecosight_shared::Topic;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, SegmentConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

pub use door::Door;
pub use front::{Inner, serve};

/// Clients at one time.
pub(crate) const MAX_CLIENTS: usize = 1_000;
/// A client that has not said who it is by then is cut.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is cut: what it lags behind would fill the broker.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Largest packet that a client may send.
const MAX_PACKET_BYTES: usize = 64 * 1024;
/// Messages of a subscription that wait for their acknowledgement.
const MAX_INFLIGHT: usize = 100;
const START_LIMIT: Duration = Duration::from_secs(5);
const START_ATTEMPTS: usize = 5;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The public port cannot be had: the program ends, the operator frees it or names another.
    #[error(
        "cannot listen for MQTT on {address}: {source}; stop what uses the port (ss -ltnp shows \
         it), give another with --mqtt-listen, or use that broker with --mqtt mqtt://{address}"
    )]
    Port {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The private listeners did not come up.
    #[error("the embedded broker did not start: {0}")]
    Start(String),
}

/// Starts the broker's threads, which run as long as the process, and takes the public port. The
/// caller runs [`serve`] with what this gives.
///
/// # Errors
/// [`BrokerError`].
pub async fn start(listen: SocketAddr) -> Result<(TcpListener, Inner), BrokerError> {
    let port = |source| BrokerError::Port { address: listen, source };
    let public = TcpListener::bind(listen).await.map_err(port)?;
    let mut fault = String::new();
    for _ in 0..START_ATTEMPTS {
        match start_inner().await {
            Ok(inner) => return Ok((public, inner)),
            // Somebody may take a private port between its choice and its use.
            Err(error) => fault = error,
        }
    }
    Err(BrokerError::Start(fault))
}

async fn start_inner() -> Result<Inner, String> {
    let v4 = free_address().map_err(|error| error.to_string())?;
    let v5 = free_address().map_err(|error| error.to_string())?;
    let mut broker = Broker::new(config(v4, v5));
    let thread = std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || drop(broker.start()))
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + START_LIMIT;
    for address in [v4, v5] {
        while TcpStream::connect(address).await.is_err() {
            if thread.is_finished() || Instant::now() >= deadline {
                return Err(format!("its listener on {address} does not answer"));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(Inner { v4, v5 })
}

fn free_address() -> std::io::Result<SocketAddr> {
    StdListener::bind("127.0.0.1:0")?.local_addr()
}

fn config(v4: SocketAddr, v5: SocketAddr) -> Config {
    let server = |name: &str, listen| ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MAX_PACKET_BYTES,
            max_inflight_count: MAX_INFLIGHT,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    };
    // The log of a subscription is what its reader may lag behind; each has its own. Few of them are
    // as busy as the server's: a fleet that comes back, or takes a release, says a megabyte at once. A
    // station's receipts must not grow with time.
    let busy = SegmentConfig { max_segment_size: 512 * 1024, max_segment_count: 8 };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: MAX_CLIENTS,
            max_outgoing_packet_count: 200,
            max_segment_size: 64 * 1024,
            max_segment_count: 2,
            custom_segment: Some(HashMap::from(
                [Topic::ALL_UP, Topic::ALL_STATUS, Topic::ALL_UPDATES]
                    .map(|filter| (filter.to_owned(), busy.clone())),
            )),
            initialized_filters: None,
            shared_subscriptions_strategy: rumqttd::Strategy::default(),
        },
        v4: Some(HashMap::from([("v4".to_owned(), server("mqtt-v4", v4))])),
        v5: Some(HashMap::from([("v5".to_owned(), server("mqtt-v5", v5))])),
        ..Config::default()
    }
}
