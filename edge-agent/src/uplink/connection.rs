//! One connection to the broker, from its making to its end.

use std::path::Path;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, PublishNotice,
    PublishOptions, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config;
use crate::pull::Command;
use ecosight_shared::Topic;

/// Messages that the client holds before they are on the network.
const PIPE: usize = 16;
/// Messages that the broker may owe an acknowledgement for: more than the window of records lets out, with
/// their documents. The client keeps 200 bytes for each from the start, which would be 13 MB for the
/// 65,535 that a broker allows.
const UNACKNOWLEDGED_MAX: u16 = 128;
/// Longest message that is taken in: receipts have 1 KiB at most, signed releases 40.
const INCOMING_MAX: u32 = 64 * 1_024;
/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why no connection can be made at all. The caller stops and tells the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL, which was checked before.
    #[error("mqtt.url: {0}")]
    Url(String),
    /// A certificate, key or password cannot be read.
    #[error("cannot read {path} ({setting}): {source}")]
    File {
        /// Which setting named it.
        setting: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system's certificates cannot be loaded.
    #[error("no certificates of authorities: {0}; install ca-certificates or set mqtt.ca")]
    Authorities(String),
}

/// Something that happened on the connection.
#[derive(Debug)]
pub enum Happening {
    /// The broker accepted; it takes packets of at most so many bytes.
    Connected {
        /// Limit of the broker, if it has one.
        max_packet: Option<usize>,
    },
    /// A receipt for this station.
    Receipt(Vec<u8>),
    /// A command for this station.
    Command(Command),
    /// What this station should run.
    Desired(Vec<u8>),
    /// It is over.
    Lost(String),
}

/// A connection: a client, and the task that does nothing but drive it.
pub struct Connection {
    client: AsyncClient,
    happenings: mpsc::UnboundedReceiver<Happening>,
    driver: JoinHandle<()>,
}

/// What the client needs to know of the broker; `will` is the payload of the last will.
///
/// # Errors
/// See [`ConnectError`].
pub fn options(
    config: &config::Mqtt,
    client_id: &str,
    status_topic: &str,
    will: Option<Vec<u8>>,
) -> Result<MqttOptions, ConnectError> {
    let address = config.broker().map_err(ConnectError::Url)?;
    let mut options = MqttOptions::new(client_id, (address.host, address.port));
    options
        .set_keep_alive(u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_clean_start(true)
        .set_connect_timeout(CONNECT_LIMIT)
        .set_max_packet_size(Some(INCOMING_MAX))
        .set_outgoing_inflight_upper_limit(UNACKNOWLEDGED_MAX);
    if let Some(will) = will {
        options.set_last_will(LastWill::new(status_topic, will, QoS::AtLeastOnce, true, None));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_LIMIT.as_secs());
    options.set_network_options(network);
    if let Some(username) = &config.username {
        let password = match &config.password_file {
            Some(path) => read("mqtt.password_file", path)?,
            None => Vec::new(),
        };
        // Editors end files with a newline, and no password does.
        let password = password.trim_ascii_end().to_vec();
        options.set_credentials(username.clone(), password);
    }
    if address.tls {
        options.set_transport(Transport::Tls(tls(config)?));
    }
    Ok(options)
}

fn tls(config: &config::Mqtt) -> Result<TlsConfiguration, ConnectError> {
    let client_auth = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => Some((read("mqtt.cert", cert)?, read("mqtt.key", key)?)),
        _ => None,
    };
    match (&config.ca, client_auth) {
        (Some(ca), client_auth) => {
            Ok(TlsConfiguration::Simple { ca: read("mqtt.ca", ca)?, alpn: None, client_auth })
        }
        (None, None) => TlsConfiguration::try_default_rustls()
            .map_err(|error| ConnectError::Authorities(error.to_string())),
        (None, Some(_)) => Err(ConnectError::Authorities(
            "a station certificate is only used with a broker of a known authority".into(),
        )),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::File { setting, path: path.into(), source })
}

impl Connection {
    /// Begins to connect; the first happening tells how that ended.
    #[must_use]
    pub fn open(options: MqttOptions) -> Self {
        let (client, events) = AsyncClient::builder(options).capacity(PIPE).build();
        let (tell, happenings) = mpsc::unbounded_channel();
        // A task of its own: a connection attempt that is cancelled begins all over.
        let driver = tokio::spawn(drive(events, tell));
        Self { client, happenings, driver }
    }

    /// The next happening. Safe to cancel.
    pub async fn next(&mut self) -> Happening {
        self.happenings.recv().await.unwrap_or_else(|| Happening::Lost("connection closed".into()))
    }

    /// Sends with QoS 1; the notice resolves when the broker has acknowledged.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn publish(
        &self,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<PublishNotice, String> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
        self.client.publish_tracked(topic, payload, options).await.map_err(|e| e.to_string())
    }

    /// Subscribes with QoS 1.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn subscribe(&self, topic: &str) -> Result<(), String> {
        self.client.subscribe(topic, QoS::AtLeastOnce).await.map_err(|e| e.to_string())
    }

    /// Takes leave of the broker in order, so that it does not publish the last will.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn close(&mut self) -> Result<(), String> {
        self.client.disconnect().await.map_err(|e| e.to_string())?;
        while !matches!(self.next().await, Happening::Lost(_)) {}
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn drive(mut events: EventLoop, tell: mpsc::UnboundedSender<Happening>) {
    loop {
        let happening = match events.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(ack))) => {
                let limit = ack.properties.and_then(|properties| properties.max_packet_size);
                Happening::Connected { max_packet: limit.map(|bytes| bytes as usize) }
            }
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                let payload = publish.payload.to_vec();
                let topic = std::str::from_utf8(&publish.topic).unwrap_or_default();
                match Topic::parse(topic) {
                    // A broker may hand out what was retained long ago: that is no command now.
                    Ok(Topic::Command(..)) if publish.retain => continue,
                    Ok(Topic::Command(_, _, name)) => {
                        Happening::Command(Command { name: name.to_owned(), payload })
                    }
                    Ok(Topic::Desired(..)) => Happening::Desired(payload),
                    _ => Happening::Receipt(payload),
                }
            }
            Ok(Event::Incoming(Incoming::Disconnect(disconnect))) => {
                Happening::Lost(format!("the broker disconnects: {:?}", disconnect.reason_code))
            }
            Ok(_) => continue,
            Err(error) => Happening::Lost(error.to_string()),
        };
        let over = matches!(happening, Happening::Lost(_));
        if tell.send(happening).is_err() || over {
            return;
        }
    }
}
