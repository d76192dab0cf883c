//! Path: broker → **link** → ingest, and alerts, receipts → **link** → broker
//!
//! The server's one connection to the broker. A task of its own polls it and does nothing else, so
//! that no slow database can stop its heartbeat. The session persists at the broker: what arrives
//! while the server is away waits there.
//!
//! A delivery is acknowledged by whoever has stored it, and only on the connection it came on: packet
//! ids are used again after a reconnect, and a late acknowledgement would release another message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ecosight_shared::Topic;
use futures_util::future::BoxFuture;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Packet, Publish, SubAck, SubscribeReasonCode};
use rumqttc::{
    AckMode, AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions,
    PersistedAckMode, PersistedSession, PublishNotice, PublishOptions, SessionMode, SessionStore,
    SessionStoreError, SessionStoreKey, SubscribeFilterInput,
};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::backoff::Backoff;

/// Messages that the broker may send before one is acknowledged.
const RECEIVE_MAXIMUM: u16 = 4_096;
/// Messages between the link and ingest. More than the broker may have outstanding, so that the
/// polling task never waits for the database.
const DELIVERIES: usize = 8_192;
/// Acknowledgements, receipts and alerts that wait for the polling task: those of several batches.
const REQUESTS: usize = 16_384;
/// Alerts that the broker may have before it acknowledges one. The client goes through this many places
/// whenever it notes its state, which it does for every message, and copies what it finds there: at its
/// default of 65,535 that was two thirds of the server's time.
const SEND_MAXIMUM: u16 = 64;
/// Larger payloads never reach the server; a broker may drop them by this limit.
const MAX_PACKET_BYTES: u32 = 1024 * 1024;
const KEEP_ALIVE_S: u16 = 20;
/// How long an acknowledgement waits before it looks again for room in the request queue.
const ACK_RETRY: Duration = Duration::from_millis(1);

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Host of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Name of the session.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Name under which several servers share what stations send; empty if this one takes all.
    pub group: String,
    /// Whether to take what stations send, or only to publish.
    pub subscribe: bool,
}

/// The sending side. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    client: AsyncClient,
    /// Raised at every loss of the connection.
    epoch: Arc<Mutex<u64>>,
    connected: watch::Receiver<bool>,
    /// Connections at which the broker did not know our session.
    new_sessions: Arc<AtomicU64>,
}

/// A message from the broker that waits for its acknowledgement.
#[derive(Debug)]
pub struct Delivery {
    /// Its topic; `None` if it is no UTF-8.
    pub topic: Option<String>,
    /// Its payload.
    pub payload: Bytes,
    publish: Publish,
    epoch: u64,
}

/// Makes the link. The caller runs [`poll`] with the first part in a task of its own.
#[must_use]
pub fn link(options: &LinkOptions, backoff: Backoff) -> (Poller, Link, mpsc::Receiver<Delivery>) {
    let (client, eventloop) =
        AsyncClient::builder(mqtt_options(options)).capacity(REQUESTS).build();
    let (connected_in, connected) = watch::channel(false);
    let (deliveries_in, deliveries) = mpsc::channel(DELIVERIES);
    let link = Link { client, epoch: Arc::default(), connected, new_sessions: Arc::default() };
    let broker = format!("{}:{}", options.host, options.port);
    let filters = if options.subscribe { filters(&options.group) } else { Vec::new() };
    let poller = Poller {
        filters,
        eventloop,
        link: link.clone(),
        deliveries: deliveries_in,
        connected: connected_in,
        backoff,
        broker,
    };
    (poller, link, deliveries)
}

/// What stations send. A group shares it: each message goes to one of its servers. Statuses and words
/// about releases are retained, which shared subscriptions leave out, so that every server takes them;
/// storing one twice changes nothing.
fn filters(group: &str) -> Vec<String> {
    let up = match group {
        "" => Topic::ALL_UP.to_owned(),
        group => format!("$share/{group}/{}", Topic::ALL_UP),
    };
    let further = [Topic::ALL_STATUS, Topic::ALL_REPLY, Topic::ALL_UPDATES];
    [up].into_iter().chain(further.map(str::to_owned)).collect()
}

fn mqtt_options(link: &LinkOptions) -> MqttOptions {
    let mut options = MqttOptions::new(&link.client_id, (link.host.clone(), link.port));
    options
        .set_keep_alive(KEEP_ALIVE_S)
        .set_session_mode(SessionMode::Persistent)
        .set_session_store(NothingPending)
        .set_outgoing_inflight_upper_limit(SEND_MAXIMUM)
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_max_packet_size(Some(MAX_PACKET_BYTES));
    if let Some((name, password)) = &link.credentials {
        options.set_credentials(name.clone(), password.clone());
    }
    options
}

/// The state of a session that has nothing of its own pending. After a restart that is the truth:
/// alerts come again from the database, receipts are given again when a record is repeated, and
/// subscriptions are made on every connection. Without a state the client would refuse to resume.
#[derive(Debug)]
struct NothingPending;

impl SessionStore for NothingPending {
    fn load<'a>(
        &'a self,
        key: &'a SessionStoreKey,
    ) -> BoxFuture<'a, Result<Option<PersistedSession>, SessionStoreError>> {
        Box::pin(async {
            Ok(Some(PersistedSession {
                format_version: 1,
                client_id: key.client_id().to_owned(),
                clean_start: false,
                session_expiry_interval: Some(u32::MAX),
                outgoing_inflight_upper_limit: Some(SEND_MAXIMUM),
                ack_mode: PersistedAckMode::Manual,
                last_pkid: 0,
                last_puback: 0,
                replay: Vec::new(),
                incoming_qos2: Vec::new(),
            }))
        })
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionStoreKey,
        _: &'a PersistedSession,
    ) -> BoxFuture<'a, Result<(), SessionStoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> BoxFuture<'a, Result<(), SessionStoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The receiving side, to be run by [`poll`].
pub struct Poller {
    filters: Vec<String>,
    eventloop: EventLoop,
    link: Link,
    deliveries: mpsc::Sender<Delivery>,
    connected: watch::Sender<bool>,
    backoff: Backoff,
    broker: String,
}

/// Keeps the connection until [`Link::disconnect`], or until `stop` while there is none.
pub async fn poll(mut poller: Poller, stop: CancellationToken) {
    loop {
        match poller.eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                if !connack.session_present {
                    poller.link.new_sessions.fetch_add(1, Ordering::Relaxed);
                }
                poller.on_connected();
            }
            Ok(Event::Incoming(Packet::SubAck(suback))) => poller.on_subscribed(&suback),
            Ok(Event::Incoming(Packet::Publish(publish))) => poller.on_publish(publish).await,
            Ok(_) => {}
            Err(ConnectionError::RequestsDone) => break,
            Err(error) => {
                poller.on_lost(&error);
                let wait = poller.backoff.next_wait();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(wait) => {}
                }
            }
        }
    }
    poller.connected.send_replace(false);
}

impl Poller {
    fn on_connected(&mut self) {
        self.backoff.reset();
        // On every connection: the session may be new, and retained statuses come again.
        if self.filters.is_empty() {
            info!(broker = self.broker, "connected to the broker");
            self.connected.send_replace(true);
            return;
        }
        let filters = self.filters.iter();
        let filters: Vec<_> = filters
            .map(|filter| SubscribeFilterInput::new(filter.clone(), QoS::AtLeastOnce))
            .collect();
        if let Err(error) = self.link.client.try_subscribe_many(filters) {
            warn!(%error, "cannot subscribe; the next connection tries again");
        }
    }

    /// Connected means: what stations send reaches us.
    fn on_subscribed(&mut self, suback: &SubAck) {
        let refused =
            |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
        if let Some(code) = suback.return_codes.iter().find(refused) {
            error!(broker = self.broker, ?code, "the broker refuses the subscription");
            return;
        }
        info!(broker = self.broker, "connected to the broker");
        self.connected.send_replace(true);
    }

    async fn on_publish(&self, publish: Publish) {
        let epoch = *self.link.lock_epoch();
        let delivery = Delivery {
            topic: std::str::from_utf8(&publish.topic).ok().map(str::to_owned),
            payload: publish.payload.clone(),
            epoch,
            publish,
        };
        if delivery.publish.qos == QoS::AtMostOnce {
            // Nobody repeats it, and it must not make the link wait.
            if self.deliveries.try_send(delivery).is_err() {
                debug!("dropped a message of QoS 0: ingest lags behind");
            }
        } else if self.deliveries.send(delivery).await.is_err() {
            debug!("ingest has ended; the broker keeps the message");
        }
    }

    fn on_lost(&mut self, error: &ConnectionError) {
        if self.connected.send_replace(false) {
            warn!(broker = self.broker, %error, "lost the broker; trying again");
        } else if self.backoff.is_first() {
            warn!(broker = self.broker, %error, "the broker does not answer; trying again");
        } else {
            debug!(broker = self.broker, %error, "the broker does not answer");
        }
        *self.link.lock_epoch() += 1;
        // Acknowledgements that were queued before the epoch changed must not go out on the next
        // connection; cleaning again drops them.
        self.eventloop.clean();
    }
}

impl Link {
    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Connections so far at which the broker did not know our session: each time it may have
    /// forgotten what it kept for us.
    #[must_use]
    pub fn new_sessions(&self) -> u64 {
        self.new_sessions.load(Ordering::Relaxed)
    }

    /// Waits until there is a connection; false if there will be none any more.
    pub async fn wait_connected(&self) -> bool {
        self.connected.clone().wait_for(|connected| *connected).await.is_ok()
    }

    /// Tells the broker that these are stored, in the order of their arrival. Those of an earlier
    /// connection are left out: the broker sends them again.
    pub async fn ack(&self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            loop {
                let sent = {
                    let epoch = self.lock_epoch();
                    if *epoch != delivery.epoch {
                        break;
                    }
                    self.client.try_ack(&delivery.publish)
                };
                match sent {
                    Err(ClientError::RequestChannelFull(_)) => sleep(ACK_RETRY).await,
                    _ => break,
                }
            }
        }
    }

    /// Queues a message of QoS 0, one that may be lost; false if there is no room for it.
    #[must_use]
    pub fn try_publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        let options = PublishOptions::new(QoS::AtMostOnce);
        self.client.try_publish(topic, payload, options).is_ok()
    }

    /// Sends a message of QoS 1, kept by the broker for those who come later if `retain`; the notice
    /// resolves when the broker has taken it, or says that it must be sent again.
    ///
    /// # Errors
    /// If the link has ended.
    pub async fn publish_tracked(
        &self,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<PublishNotice, ClientError> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
        self.client.publish_tracked(topic, payload, options).await
    }

    /// Ends the connection in order. What is queued is sent before, for at most `limit`.
    pub async fn disconnect(&self, limit: Duration) {
        if let Err(error) = self.client.disconnect_with_timeout(limit).await {
            debug!(%error, "the link had ended");
        }
    }

    fn lock_epoch(&self) -> std::sync::MutexGuard<'_, u64> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
