//! Who may be a client of the embedded broker, and what it may say and hear.
//!
//! A station logs in with its id and its password, as at any other broker. People's tools give an API
//! key as the password, under any name. A client that goes beyond what [`Topics`] allow is cut.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use ecosight_shared::DeviceId;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{Packet, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::{MAX_PACKET_BYTES, STALL_LIMIT};
use crate::access::{Permission, Topics, hashed};
use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// A client whose credentials were withdrawn is cut within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The versions of MQTT that the broker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V5,
}

/// Lets in those who have credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    /// Credentials and keys.
    pub store: Store,
    /// Keys end.
    pub clock: Clock,
    /// The server's own session, which nobody else may take over.
    pub server_id: String,
}

/// A client that was let in.
pub(super) struct Guest {
    door: Door,
    version: Version,
    login: Login,
    topics: Topics,
}

struct Login {
    name: String,
    secret_sha256: String,
}

impl Door {
    /// Looks at a whole CONNECT packet; `None` if its sender may not come in.
    pub(super) async fn admit(&self, version: Version, packet: &[u8]) -> io::Result<Option<Guest>> {
        let Packet::Connect(connect, _, will, _, login) = read(version, packet)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "does not begin with CONNECT"));
        };
        let Some(login) = login else { return Ok(None) };
        let login = Login { secret_sha256: hashed(&login.password), name: login.username };
        let Some(topics) = self.topics(&login).await.map_err(io::Error::other)? else {
            return Ok(None);
        };
        let id = connect.client_id;
        let own = login.name.parse::<Uuid>().ok();
        // Whoever connects under the name of another session ends it.
        let of_another =
            id == self.server_id || Uuid::try_parse(&id).is_ok_and(|id| own != Some(id));
        let will = will.is_none_or(|will| may_write(&topics, &will.topic));
        let guest = || Guest { door: self.clone(), version, login, topics };
        Ok((!of_another && will).then(guest))
    }

    async fn topics(&self, login: &Login) -> Result<Option<Topics>, StoreError> {
        if let Ok(device) = Uuid::try_parse(&login.name) {
            let site = self.store.station_site(device, &login.secret_sha256).await?;
            return Ok(site.map(|site| Topics::of_station(&site, DeviceId(device))));
        }
        let key = self.store.api_key(&login.secret_sha256, self.clock.now_us()).await?;
        let key = key.filter(|key| key.role().has(Permission::Hear));
        Ok(key.map(|key| Topics::of_people(key.sites().as_deref())))
    }
}

impl Guest {
    /// Hands on what the client may say, until it says more, or its credentials end.
    pub(super) async fn pump(
        &self,
        from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        tokio::select! {
            ended = self.copy(from, to) => ended,
            ended = self.watch() => ended,
        }
    }

    async fn copy(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        while let Some(packet) = next_packet(&mut from, Vec::new()).await? {
            if let Err(topic) = self.check(&packet)? {
                warn!(
                    client = self.login.name,
                    topic, "an MQTT client is cut: it has no right to the topic"
                );
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            timeout(STALL_LIMIT, to.write_all(&packet)).await??;
        }
        Ok(())
    }

    /// The first topic that the packet has no right to.
    fn check(&self, packet: &[u8]) -> io::Result<Result<(), String>> {
        match read(self.version, packet)? {
            // A topic without a name stands for one that was named, and looked at, before.
            Packet::Publish(publish, _)
                if !publish.topic.is_empty() && !may_write(&self.topics, &publish.topic) =>
            {
                Ok(Err(String::from_utf8_lossy(&publish.topic).into_owned()))
            }
            Packet::Subscribe(subscribe, _) => {
                let mut filters = subscribe.filters.into_iter().map(|filter| filter.path);
                Ok(filters.find(|filter| !self.topics.may_read(filter)).map_or(Ok(()), Err))
            }
            Packet::Connect(..) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a second CONNECT"))
            }
            _ => Ok(Ok(())),
        }
    }

    async fn watch(&self) -> io::Result<()> {
        loop {
            sleep(LOOK_AGAIN).await;
            // A database that does not answer withdraws nothing.
            if self.door.topics(&self.login).await.is_ok_and(|topics| topics.is_none()) {
                warn!(
                    client = self.login.name,
                    "an MQTT client is cut: its credentials have ended"
                );
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
    }
}

fn may_write(topics: &Topics, topic: &[u8]) -> bool {
    std::str::from_utf8(topic).is_ok_and(|topic| topics.may_write(topic))
}

fn read(version: Version, packet: &[u8]) -> io::Result<Packet> {
    let mut stream = BytesMut::from(packet);
    let packet = match version {
        Version::V4 => V4.read_mut(&mut stream, MAX_PACKET_BYTES),
        Version::V5 => V5.read_mut(&mut stream, MAX_PACKET_BYTES),
    };
    packet.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Reads on until `packet`, which holds its beginning, is whole; `None` at the end of the stream.
///
/// MQTT 3.1.1 and 5, section 2.1: a byte, the length of the rest in 1 to 4 bytes of 7 bits, the rest.
pub(super) async fn next_packet(
    from: &mut (impl AsyncRead + Unpin),
    mut packet: Vec<u8>,
) -> io::Result<Option<Vec<u8>>> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a packet is too long");
    let (mut rest, mut shift) = (0_usize, 0);
    for place in 0.. {
        if packet.len() == place {
            let mut byte = [0];
            if from.read(&mut byte).await? == 0 {
                return if place == 0 {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            packet.push(byte[0]);
        }
        if place == 0 {
            continue;
        }
        rest |= usize::from(packet[place] & 0x7f) << shift;
        shift += 7;
        if packet[place] & 0x80 == 0 {
            rest += place + 1;
            break;
        }
        if place == 4 {
            return Err(too_long());
        }
    }
    if rest > MAX_PACKET_BYTES {
        return Err(too_long());
    }
    let begun = packet.len();
    packet.resize(rest.max(begun), 0);
    from.read_exact(&mut packet[begun..]).await?;
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    use super::next_packet;

    #[tokio::test]
    async fn packets_are_cut_where_they_end() {
        let stream = [&[0xc0, 0][..], &[0x30, 3, 0, 1, b'a'], &[0x30, 0x80, 1], &[7; 128]].concat();
        let mut from = stream.as_slice();
        for len in [2, 5, 131] {
            assert_eq!(next_packet(&mut from, Vec::new()).await.unwrap().unwrap().len(), len);
        }
        assert_eq!(next_packet(&mut from, Vec::new()).await.unwrap(), None);
        for begun in 0..5 {
            let (head, mut tail) = stream[2..].split_at(begun);
            let packet = next_packet(&mut tail, head.to_vec()).await.unwrap().unwrap();
            assert_eq!(packet, stream[2..7], "{begun} bytes read before");
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_takes_no_memory() {
        for mut hostile in [&[0x30, 0xff, 0xff, 0xff, 0x7f][..], &[0x30, 0xff, 0xff, 0xff, 0xff, 1]]
        {
            assert!(next_packet(&mut hostile, Vec::new()).await.is_err());
        }
        assert!(next_packet(&mut &[0x30, 5, 0][..], Vec::new()).await.is_err(), "cut off");
    }
}
