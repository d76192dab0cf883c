//! Path: outbox → uplink → broker → cloud → receipt → uplink → outbox
//!
//! Sends what the outbox holds until the cloud's receipts have emptied it.
//!
//! The MQTT client's memory is a pipe and never a queue: each connection gets a client of its
//! own, which is thrown away with it, and everything without receipt is read from the outbox
//! again. So nothing hangs on what a client library keeps or drops between connections.

mod backoff;
mod connection;
mod flight;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecosight_shared::json::{CommandReply, ConnectionState, StationStatus, StatusDocument};
use ecosight_shared::{Envelope, Message, ModelTag, Topic};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, rfc3339};
use crate::condition::Teller;
use crate::config;
use crate::health::Health;
use crate::outbox::{Outbox, OutboxError, Priority, Row};
use crate::pull::Command;
use crate::recorder::Identity;
use crate::update::wire::Line;
use tokio::sync::mpsc;

pub use backoff::Backoff;
pub use connection::{ConnectError, Connection, Happening, options};
pub use flight::{Flight, Key, Wanted};

/// Where messages of this station go.
#[derive(Clone, Debug)]
pub struct Topics {
    up: String,
    receipt: String,
    alert: String,
    status: String,
    commands: String,
    reply: String,
    desired: String,
    update: String,
}

/// The uplink's settings and neighbours.
pub struct Uplink {
    /// The broker.
    pub config: config::Mqtt,
    /// Who is sending.
    pub identity: Arc<Identity>,
    /// What is to be sent.
    pub outbox: Outbox,
    /// Its times.
    pub clock: Clock,
    /// How the station is, for the status.
    pub teller: Option<Arc<Teller>>,
    /// Where it says that it is connected, and hears what is worth telling at once.
    pub health: Arc<Health>,
    /// Who carries out commands; nothing: they are not subscribed to.
    pub control: Option<Control>,
    /// Whoever installs releases; nothing: nobody is told of them.
    pub updates: Option<Line>,
}

/// Commands to whoever carries them out, and what is answered.
#[derive(Debug)]
pub struct Control {
    /// To it.
    pub commands: mpsc::Sender<Command>,
    /// From it.
    pub replies: mpsc::Receiver<CommandReply>,
}

/// How the uplink is told to end.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// No more records will come: end when all are receipted.
    pub drain: CancellationToken,
    /// End now, with a last word.
    pub stop: CancellationToken,
}

/// The status is told again when something changed, but not more often than this...
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// ...and anyway after this.
const STATUS_EVERY: Duration = Duration::from_secs(900);
/// How often overdue receipts are looked for.
const TICK: Duration = Duration::from_millis(500);
/// How long the last word may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why one connection ended.
enum End {
    /// All was receipted after [`Ending::drain`].
    Drained,
    /// [`Ending::stop`].
    Stopped,
    /// The last will names a model that is not in use any more.
    Outlived,
    /// The network or the broker.
    Lost(String),
}

impl Topics {
    /// The topics of a station.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let (site, device) = (identity.site.as_str(), identity.device);
        Self {
            up: Topic::Up(site, device).to_string(),
            receipt: Topic::Receipt(site, device).to_string(),
            alert: Topic::Alert(site, device).to_string(),
            status: Topic::Status(site, device).to_string(),
            commands: Topic::Command(site, device, "+").to_string(),
            reply: Topic::Reply(site, device).to_string(),
            desired: Topic::Desired(site, device).to_string(),
            update: Topic::Update(site, device).to_string(),
        }
    }
}

/// One process's sending, across connections.
struct Sender {
    uplink: Uplink,
    topics: Topics,
    flight: Flight,
    /// Alerts whose JSON the broker has taken, this process's life long.
    shown: BTreeSet<Key>,
    started: Instant,
}

impl Uplink {
    /// Sends until told to end.
    ///
    /// # Errors
    /// The outbox has stopped or is damaged, or the settings make no connection at all, such as
    /// a certificate that cannot be read. A broker that is away is no error.
    pub async fn run(self, ending: Ending) -> Result<(), UplinkError> {
        let topics = Topics::of(&self.identity);
        let seed = self.identity.device.0.as_u128() as u64;
        let mut backoff = Backoff::new(seed, self.config.reconnect_max);
        let flight = Flight::new(self.config.resend_after);
        let mut sender = Sender {
            uplink: self,
            topics,
            flight,
            shown: BTreeSet::new(),
            started: Instant::now(),
        };
        loop {
            let problem = match sender.connect_and_send(&ending, &mut backoff).await? {
                End::Drained | End::Stopped => return Ok(()),
                End::Outlived => continue,
                End::Lost(problem) => problem,
            };
            let pause = backoff.pause();
            tracing::warn!(
                problem,
                broker = sender.uplink.config.url,
                retry_in_ms = pause.as_millis() as u64,
                "no connection to the broker; records wait in the outbox"
            );
            tokio::select! {
                () = ending.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            // With nothing left to send there is no need for a connection to end in peace.
            if ending.drain.is_cancelled() && sender.has_sent_all().await? {
                return Ok(());
            }
        }
    }

    fn status(&self, state: ConnectionState) -> Result<Vec<u8>, UplinkError> {
        let identity = &self.identity;
        let document = StatusDocument {
            schema: StatusDocument::SCHEMA.to_owned(),
            state,
            device_id: identity.device.0,
            device_name: identity.name.to_string(),
            site_id: identity.site.to_string(),
            time: rfc3339(self.clock.unix_us()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: identity.model.get().info.clone(),
            location: identity.location,
        };
        // A last will is written when the connection is made: of later it knows nothing.
        let online = state == ConnectionState::Online;
        let health = self.teller.as_ref().filter(|_| online).map(|teller| teller.health());
        let status = StationStatus { status: document, health };
        serde_json::to_vec(&status).map_err(UplinkError::Status)
    }
}

/// Why the uplink cannot go on. The caller stops.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// See [`OutboxError`].
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// See [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The status cannot be written as JSON: a defect of this program.
    #[error("status document: {0}")]
    Status(#[source] serde_json::Error),
}

/// What was published and is being waited for.
#[derive(Clone, Copy, Debug)]
enum Published {
    Envelope(Key),
    Document(Key),
    Status,
    Reply,
    Word,
}

type Notices = FuturesUnordered<
    std::pin::Pin<Box<dyn Future<Output = (Published, Result<(), String>)> + Send>>,
>;

impl Sender {
    async fn connect_and_send(
        &mut self,
        ending: &Ending,
        backoff: &mut Backoff,
    ) -> Result<End, UplinkError> {
        let willed = self.uplink.identity.model.get().tag;
        let will = self.uplink.status(ConnectionState::Offline)?;
        let options = options(
            &self.uplink.config,
            &self.uplink.identity.device.to_string(),
            &self.topics.status,
            Some(will),
        )?;
        let mut connection = Connection::open(options);
        let limit = tokio::select! {
            () = ending.stop.cancelled() => return Ok(End::Stopped),
            happening = connection.next() => match happening {
                Happening::Connected { max_packet } => max_packet,
                Happening::Lost(problem) => return Ok(End::Lost(problem)),
                Happening::Receipt(_) | Happening::Command(_) | Happening::Desired(_) => None,
            },
        };
        tracing::info!(broker = self.uplink.config.url, "connected to the broker");
        self.flight.connected();
        self.uplink.health.set_connected(true);
        let end = self.send(&mut connection, limit, ending, backoff, willed).await;
        self.uplink.health.set_connected(false);
        let end = end?;
        match end {
            End::Lost(problem) => {
                if let Some((boot, seq)) = self.flight.lost() {
                    tracing::error!(
                        boot,
                        seq,
                        "a record broke three connections and is set aside until the next start"
                    );
                }
                Ok(End::Lost(problem))
            }
            End::Outlived => {
                // In order, so that the will is not published, and without a farewell: it is back
                // in a moment.
                let closed = tokio::time::timeout(FAREWELL, connection.close()).await;
                tracing::debug!(?closed, "connecting anew with the model in the last will");
                Ok(End::Outlived)
            }
            end => {
                self.say_farewell(connection).await;
                Ok(end)
            }
        }
    }

    async fn send(
        &mut self,
        connection: &mut Connection,
        limit: Option<usize>,
        ending: &Ending,
        backoff: &mut Backoff,
        willed: ModelTag,
    ) -> Result<End, UplinkError> {
        if let Err(problem) = connection.subscribe(&self.topics.receipt).await {
            return Ok(End::Lost(problem));
        }
        if self.uplink.control.is_some()
            && let Err(problem) = connection.subscribe(&self.topics.commands).await
        {
            return Ok(End::Lost(problem));
        }
        if let Some(updates) = &self.uplink.updates {
            if let Err(problem) = connection.subscribe(&self.topics.desired).await {
                return Ok(End::Lost(problem));
            }
            updates.repeat();
        }
        let mut notices = Notices::new();
        let mut news = self.uplink.health.news();
        if let Err(problem) = self.say_online(connection, &mut notices).await? {
            return Ok(End::Lost(problem));
        }
        let mut told_at = Instant::now();
        let outbox = self.uplink.outbox.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Whether there may be something to send that there was not before.
        let mut look = true;
        let mut drained_seen = false;
        loop {
            // The classes of what another model heard are told before anything that it heard.
            let outlived = self.uplink.identity.model.get().tag != willed;
            if outlived && notices.is_empty() {
                return Ok(End::Outlived);
            }
            if !outlived
                && std::mem::take(&mut look)
                && let Err(problem) = self.fill(connection, limit, &mut notices).await?
            {
                return Ok(End::Lost(problem));
            }
            if ending.drain.is_cancelled() && self.has_sent_all().await? {
                return Ok(End::Drained);
            }
            tokio::select! {
                () = ending.stop.cancelled() => return Ok(End::Stopped),
                // Once: then it stays so.
                () = ending.drain.cancelled(), if !drained_seen => drained_seen = true,
                happening = connection.next() => match happening {
                    Happening::Connected { .. } => {}
                    Happening::Receipt(bytes) => {
                        self.receipt(&bytes).await?;
                        look = true;
                    }
                    Happening::Command(command) => self.command(command),
                    Happening::Desired(payload) => if let Some(updates) = &self.uplink.updates {
                        updates.wish(payload);
                    },
                    Happening::Lost(problem) => return Ok(End::Lost(problem)),
                },
                Some(reply) = next_reply(&mut self.uplink.control) => {
                    let json = serde_json::to_vec(&reply).map_err(UplinkError::Status)?;
                    match connection.publish(&self.topics.reply, json, false).await {
                        Ok(notice) => notices.push(watch(Published::Reply, notice)),
                        Err(problem) => return Ok(End::Lost(problem)),
                    }
                }
                word = next_word(self.uplink.updates.as_ref()) => {
                    match connection.publish(&self.topics.update, word, true).await {
                        Ok(notice) => notices.push(watch(Published::Word, notice)),
                        Err(problem) => return Ok(End::Lost(problem)),
                    }
                }
                Some((what, outcome)) = notices.next() => {
                    // Proof that the broker takes what it is sent.
                    backoff.reset();
                    self.acknowledged(what, outcome);
                    look = true;
                }
                () = outbox.written() => look = true,
                _ = ticks.tick() => {
                    let latest = self.uplink.health.news();
                    let old = told_at.elapsed() >= STATUS_EVERY && self.uplink.teller.is_some();
                    if (latest != news && told_at.elapsed() >= STATUS_PAUSE) || old {
                        (news, told_at) = (latest, Instant::now());
                        if let Err(problem) = self.say_online(connection, &mut notices).await? {
                            return Ok(End::Lost(problem));
                        }
                    }
                    let overdue = self.flight.overdue(self.started.elapsed());
                    if let Err(problem) = self.send_again(overdue, connection, &mut notices).await? {
                        return Ok(End::Lost(problem));
                    }
                }
            }
        }
    }

    async fn say_online(
        &self,
        connection: &Connection,
        notices: &mut Notices,
    ) -> Result<Result<(), String>, UplinkError> {
        let online = self.uplink.status(ConnectionState::Online)?;
        Ok(connection.publish(&self.topics.status, online, true).await.map(|notice| {
            notices.push(watch(Published::Status, notice));
        }))
    }

    /// Hands a command on; one that finds no room is answered by nobody and comes again.
    fn command(&self, command: Command) {
        let Some(control) = &self.uplink.control else { return };
        if control.commands.try_send(command).is_err() {
            tracing::warn!("a command is passed over: too many wait");
        }
    }

    /// Whether nothing is left but what was set aside.
    async fn has_sent_all(&self) -> Result<bool, OutboxError> {
        Ok(self.uplink.outbox.level().await?.records <= self.flight.aside() as u64)
    }

    /// Sends what fits into the window, alerts first.
    async fn fill(
        &mut self,
        connection: &Connection,
        limit: Option<usize>,
        notices: &mut Notices,
    ) -> Result<Result<(), String>, UplinkError> {
        for priority in Priority::ALL {
            while let Some(wanted) = self.flight.wanted(priority) {
                let rows = self.uplink.outbox.next(priority, wanted.after, wanted.limit).await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    let len = row.envelope.len().max(row.document.as_ref().map_or(0, String::len));
                    // Room for the topic, its length, and the header.
                    if limit.is_some_and(|limit| len + self.topics.status.len() + 32 > limit) {
                        tracing::error!(
                            boot = row.boot,
                            seq = row.seq,
                            len,
                            limit,
                            "record is \
                            larger than the broker takes and is set aside until the next start"
                        );
                        self.flight.set_aside(&row);
                        continue;
                    }
                    if self.flight.send(&row)
                        && let Err(problem) = self.publish(&row, connection, notices).await
                    {
                        return Ok(Err(problem));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    async fn send_again(
        &mut self,
        ids: Vec<i64>,
        connection: &Connection,
        notices: &mut Notices,
    ) -> Result<Result<(), String>, UplinkError> {
        if ids.is_empty() {
            return Ok(Ok(()));
        }
        tracing::debug!(records = ids.len(), "receipts are overdue, sending again");
        let rows = self.uplink.outbox.rows(ids.clone()).await?;
        for id in ids {
            let Some(row) = rows.iter().find(|row| row.id == id) else {
                self.flight.forget_row(id);
                continue;
            };
            if self.flight.send(row)
                && let Err(problem) = self.publish(row, connection, notices).await
            {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(()))
    }

    async fn publish(
        &self,
        row: &Row,
        connection: &Connection,
        notices: &mut Notices,
    ) -> Result<(), String> {
        let key = (row.boot, row.seq);
        if let Some(document) = &row.document
            && !self.shown.contains(&key)
        {
            let notice = connection
                .publish(&self.topics.alert, document.clone().into_bytes(), false)
                .await?;
            notices.push(watch(Published::Document(key), notice));
        }
        let notice = connection.publish(&self.topics.up, row.envelope.clone(), false).await?;
        notices.push(watch(Published::Envelope(key), notice));
        Ok(())
    }

    fn acknowledged(&mut self, what: Published, outcome: Result<(), String>) {
        if let Err(problem) = &outcome {
            tracing::warn!(problem, ?what, "the broker refused a message");
        }
        match (what, outcome) {
            (Published::Envelope(key), _) => {
                self.flight.acknowledged(key, self.started.elapsed());
            }
            (Published::Document(key), Ok(())) => {
                self.shown.insert(key);
            }
            (
                Published::Document(_) | Published::Status | Published::Reply | Published::Word,
                _,
            ) => {}
        }
    }

    async fn receipt(&mut self, bytes: &[u8]) -> Result<(), UplinkError> {
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::warn!(%error, bytes = bytes.len(), "receipt not understood");
                return Ok(());
            }
        };
        let Message::Receipt(receipt) = envelope.message else {
            tracing::warn!("a message that is no receipt came on the topic of receipts");
            return Ok(());
        };
        if envelope.header.record.device != self.uplink.identity.device {
            tracing::warn!(device = %envelope.header.record.device, "receipt of another station");
            return Ok(());
        }
        match self.uplink.outbox.release(receipt.ranges.to_vec()).await {
            Ok(removed) => {
                tracing::debug!(removed, "receipt");
                if let Some(teller) = &self.uplink.teller {
                    teller.receipted(&receipt.ranges);
                }
                self.flight.receipted(&receipt.ranges);
                Ok(())
            }
            // It stays, is sent again and receipted again.
            Err(error @ (OutboxError::Full | OutboxError::Disk(_))) => {
                tracing::warn!(%error, "receipt not noted");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says that the station goes of its own will, and waits until that is sent.
    async fn say_farewell(&self, mut connection: Connection) {
        let Ok(offline) = self.uplink.status(ConnectionState::Offline) else { return };
        let farewell = async {
            let notice = connection.publish(&self.topics.status, offline, true).await?;
            let mut notices = Notices::new();
            notices.push(watch(Published::Status, notice));
            loop {
                tokio::select! {
                    Some(_) = notices.next() => return connection.close().await,
                    happening = connection.next() => if let Happening::Lost(problem) = happening {
                        return Err(problem);
                    }
                }
            }
        };
        match tokio::time::timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => tracing::info!("disconnected from the broker"),
            Ok(Err(problem)) => tracing::warn!(problem, "no farewell to the broker"),
            Err(_) => tracing::warn!("the broker did not take the farewell in time"),
        }
    }
}

/// The next answer to a command; never, where there are none.
async fn next_reply(control: &mut Option<Control>) -> Option<CommandReply> {
    match control {
        Some(control) => match control.replies.recv().await {
            Some(reply) => Some(reply),
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The next word on an update; never, where there are none.
async fn next_word(updates: Option<&Line>) -> Vec<u8> {
    match updates {
        Some(updates) => updates.next().await,
        None => std::future::pending().await,
    }
}

/// What became of a publication.
type Settled = (Published, Result<(), String>);

fn watch(
    what: Published,
    notice: rumqttc::PublishNotice,
) -> std::pin::Pin<Box<dyn Future<Output = Settled> + Send>> {
    Box::pin(async move {
        let outcome = notice.wait_completion_async().await.map_err(|error| error.to_string());
        (what, outcome)
    })
}
