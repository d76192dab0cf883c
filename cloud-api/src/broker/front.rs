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

use super::door::{Door, Version, next_packet};
use super::{CONNECT_LIMIT, MAX_CLIENTS, STALL_LIMIT};

/// What a client must take within [`STALL_LIMIT`].
const CHUNK_BYTES: usize = 8 * 1024;

/// MQTT 3.1.1 section 3.2: CONNACK, return code 1, unacceptable protocol version.
const VERSION_REFUSED: [u8; 4] = [0x20, 2, 0, 1];
/// The same with return code 5, not authorised.
const REFUSED_V4: [u8; 4] = [0x20, 2, 0, 5];
/// MQTT 5 section 3.2: CONNACK, reason code 0x87, not authorised, no properties.
const REFUSED_V5: [u8; 5] = [0x20, 3, 0, 0x87, 0];
/// A client whose credentials are refused waits this long for the answer.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// The broker's private listeners.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// For MQTT 3.1.1.
    pub(super) v4: SocketAddr,
    /// For MQTT 5: the server's own link goes straight there.
    pub v5: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Not enough of them yet.
    Unfinished,
    Known(Version),
    /// MQTT of a version that the broker does not speak.
    OtherVersion,
    /// Not MQTT at all.
    Foreign,
}

/// Serves the public port until `stop`, then cuts every client. Without a door everybody is let in.
///
/// # Errors
/// The listener's, if it can no longer accept.
pub async fn serve(
    listener: TcpListener,
    inner: Inner,
    door: Option<Door>,
    stop: CancellationToken,
) -> io::Result<()> {
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
        let (stop, door) = (stop.clone(), door.clone());
        tokio::spawn(async move {
            let served = tokio::select! {
                () = stop.cancelled() => Ok(()),
                served = connect(client, inner, door) => served,
            };
            if let Err(error) = served {
                debug!(%address, %error, "MQTT client cut");
            }
            drop(place);
        });
    }
}

async fn connect(mut client: TcpStream, inner: Inner, door: Option<Door>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut opening = Vec::with_capacity(16);
    let version = match timeout(CONNECT_LIMIT, read_opening(&mut client, &mut opening)).await?? {
        Opening::Known(version) => version,
        Opening::OtherVersion => return client.write_all(&VERSION_REFUSED).await,
        Opening::Unfinished | Opening::Foreign => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "does not speak MQTT"));
        }
    };
    let mut guest = None;
    if let Some(door) = door {
        let packet = timeout(CONNECT_LIMIT, next_packet(&mut client, opening)).await??;
        opening = packet.unwrap_or_default();
        guest = door.admit(version, &opening).await?;
        if guest.is_none() {
            return refuse(client, version).await;
        }
    }
    let mut broker = TcpStream::connect(match version {
        Version::V4 => inner.v4,
        Version::V5 => inner.v5,
    })
    .await?;
    broker.set_nodelay(true)?;
    broker.write_all(&opening).await?;
    let (client_in, client_out) = client.split();
    let (broker_in, broker_out) = broker.split();
    let said = async {
        match &guest {
            Some(guest) => guest.pump(client_in, broker_out).await,
            None => pump(client_in, broker_out).await,
        }
    };
    // Whichever side ends, the other has nothing to wait for.
    tokio::select! {
        ended = said => ended,
        ended = pump(broker_in, client_out) => ended,
    }
}

/// Says why, and waits until it is heard: closing at once could take the answer back.
async fn refuse(mut client: TcpStream, version: Version) -> io::Result<()> {
    match version {
        Version::V4 => client.write_all(&REFUSED_V4).await?,
        Version::V5 => client.write_all(&REFUSED_V5).await?,
    }
    client.shutdown().await?;
    let _ = timeout(REFUSAL_WAIT, client.read(&mut [0])).await;
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "no credentials that hold"))
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
                (Some(4), true) => Opening::Known(Version::V4),
                (Some(5), true) => Opening::Known(Version::V5),
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
    use super::{Opening, Version, opening};

    const V311: &[u8] = b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05aaaaa";
    const V5: &[u8] = b"\x10\x80\x01\0\x04MQTT\x05\x02";
    const V31: &[u8] = b"\x10\x11\0\x06MQIsdp\x03\x02";

    #[test]
    fn the_version_is_found_at_its_byte_and_not_before() {
        for (bytes, at, found) in [
            (V311, 8, Opening::Known(Version::V4)),
            (V5, 9, Opening::Known(Version::V5)),
            (V31, 10, Opening::OtherVersion),
        ] {
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
