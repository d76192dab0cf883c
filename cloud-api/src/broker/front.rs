//! One port for clients of either protocol version: looks at the first packet, then connects the
//! client with the listener that speaks its version.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{CONNECT_LIMIT, MAX_CLIENTS};

/// A client that does not take this much within [`STALL_LIMIT`] is cut: what it lags behind would
/// fill the broker.
const CHUNK_BYTES: usize = 8 * 1024;
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// MQTT 3.1.1 section 3.2: CONNACK, return code 1, unacceptable protocol version.
const VERSION_REFUSED: [u8; 4] = [0x20, 2, 0, 1];

/// The broker's private listeners.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    pub(super) v4: SocketAddr,
    pub(super) v5: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Not enough of them yet.
    Unfinished,
    V4,
    V5,
    /// MQTT of a version that the broker does not speak.
    OtherVersion,
    /// Not MQTT at all.
    Foreign,
}

/// Serves the public port until `stop`, then cuts every client.
///
/// # Errors
/// The listener's, if it can no longer accept.
pub async fn serve(listener: TcpListener, inner: Inner, stop: CancellationToken) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (client, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give others time to end.
                warn!(%error, "cannot accept an MQTT client");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            let served = tokio::select! {
                () = stop.cancelled() => Ok(()),
                served = connect(client, inner) => served,
            };
            if let Err(error) = served {
                debug!(%address, %error, "MQTT client cut");
            }
            drop(place);
        });
    }
}

async fn connect(mut client: TcpStream, inner: Inner) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut opening = Vec::with_capacity(16);
    let version = timeout(CONNECT_LIMIT, read_opening(&mut client, &mut opening)).await??;
    let address = match version {
        Opening::V4 => inner.v4,
        Opening::V5 => inner.v5,
        Opening::OtherVersion => return client.write_all(&VERSION_REFUSED).await,
        Opening::Unfinished | Opening::Foreign => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "does not speak MQTT"));
        }
    };
    let mut broker = TcpStream::connect(address).await?;
    broker.set_nodelay(true)?;
    broker.write_all(&opening).await?;
    let (client_in, client_out) = client.split();
    let (broker_in, broker_out) = broker.split();
    // Whichever side ends, the other has nothing to wait for.
    tokio::select! {
        ended = pump(client_in, broker_out) => ended,
        ended = pump(broker_in, client_out) => ended,
    }
}

async fn read_opening(client: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Opening> {
    loop {
        match opening(bytes) {
            Opening::Unfinished => {}
            known => return Ok(known),
        }
        // A CONNECT's version lies in its first 13 bytes; no more is taken before it is known.
        let mut byte = [0; 1];
        if client.read(&mut byte).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.push(byte[0]);
    }
}

/// MQTT 3.1.1 and 5, sections 2.1 and 3.1: packet type, remaining length in 1 to 4 bytes of 7 bits,
/// then the protocol's name with its length in 2 bytes, then the version.
fn opening(bytes: &[u8]) -> Opening {
    let Some((&kind, rest)) = bytes.split_first() else { return Opening::Unfinished };
    if kind != 0x10 {
        return Opening::Foreign;
    }
    let Some(length_end) = rest.iter().take(4).position(|byte| byte & 0x80 == 0) else {
        return if rest.len() < 4 { Opening::Unfinished } else { Opening::Foreign };
    };
    let name = &rest[length_end + 1..];
    for (prefix, current) in [(&b"\0\x04MQTT"[..], true), (&b"\0\x06MQIsdp"[..], false)] {
        if let Some(level) = name.strip_prefix(prefix) {
            return match (level.first(), current) {
                (None, _) => Opening::Unfinished,
                (Some(4), true) => Opening::V4,
                (Some(5), true) => Opening::V5,
                _ => Opening::OtherVersion,
            };
        }
        if prefix.starts_with(name) {
            return Opening::Unfinished;
        }
    }
    Opening::Foreign
}

async fn pump(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        timeout(STALL_LIMIT, to.write_all(&buffer[..read])).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::{Opening, opening};

    const V311: &[u8] = b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05aaaaa";
    const V5: &[u8] = b"\x10\x80\x01\0\x04MQTT\x05\x02";
    const V31: &[u8] = b"\x10\x11\0\x06MQIsdp\x03\x02";

    #[test]
    fn the_version_is_found_at_its_byte_and_not_before() {
        for (bytes, at, found) in
            [(V311, 8, Opening::V4), (V5, 9, Opening::V5), (V31, 10, Opening::OtherVersion)]
        {
            for end in 0..=at {
                assert_eq!(opening(&bytes[..end]), Opening::Unfinished, "{end} of {bytes:?}");
            }
            assert_eq!(opening(&bytes[..=at]), found);
            assert_eq!(opening(bytes), found);
        }
    }

    #[test]
    fn what_is_not_mqtt_is_known_by_its_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x03\x01",
            b"\x10\xff\xff\xff\xff\0",
            b"\x10\x05\0\x04HTTP",
        ] {
            assert_eq!(opening(bytes), Opening::Foreign, "{bytes:?}");
        }
    }
}
