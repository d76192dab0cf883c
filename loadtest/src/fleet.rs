//! Simulated stations with the real wire format, and an oracle of what became of their detections.
//!
//! Every detection is written down before it is published. At the end each must have its receipt, and
//! be in the server's list exactly once; what is there that nobody sent is counted too.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use ecosight_shared::{
    Detection, DeviceId, Envelope, EventId, Flags, Header, MAX_ENVELOPE_LEN, Message, ModelTag,
    RecordId, TimeQuality, Topic,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use crate::quantile::{Latencies, Missed};

const SITE: &str = "load";
/// A station's records are sent in bursts this often.
const TICK: Duration = Duration::from_millis(20);
/// After the last detection, receipts may come for this long.
const SETTLE: Duration = Duration::from_secs(60);
/// How often the server is asked for a detection that it does not show yet.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Boots of stations, so that runs on one database do not collide.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    mqtt: String,
    /// The server, to be asked what arrived
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    server: String,
    /// Stations
    #[arg(long, default_value_t = 1_000)]
    stations: u32,
    /// Connections that they share
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Detections a second, all stations together
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Length of the run
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Decides which stations there are
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Look up every detection in the server's list, not only its receipt
    #[arg(long)]
    verify: bool,
    /// Fail if fewer have their receipt a second
    #[arg(long)]
    min_rate: Option<f64>,
    /// Detections a second that are asked for until the server shows them
    #[arg(long, default_value_t = 20)]
    sample: u32,
    /// Fail if the 99th percentile from publish to visible is longer, milliseconds
    #[arg(long, alias = "max-p99")]
    max_p99_ms: Option<f64>,
}

/// What was sent, and what is known of it.
#[derive(Default)]
struct Ledger {
    /// When a record was published first, until its receipt comes.
    open: HashMap<(DeviceId, u32), Sent>,
    events: HashSet<Uuid>,
    latencies: Latencies,
    receipts: usize,
    first_sent: Option<Instant>,
    last_receipt: Option<Instant>,
}

struct Sent {
    at: Instant,
    repeated: Instant,
    connection: usize,
    payload: Vec<u8>,
}

/// The share of one connection.
struct Load {
    connection: usize,
    /// Detections a second.
    rate: f64,
    boot: u32,
    until: Instant,
}

/// A detection that was just published.
struct Published {
    event: Uuid,
    at: Instant,
}

type Shared = Arc<Mutex<Ledger>>;

struct Station {
    device: DeviceId,
    seq: u32,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let Some((host, port)) = options.mqtt.rsplit_once(':') else { bail!("--mqtt HOST:PORT") };
    let port: u16 = port.parse().context("--mqtt: the port")?;
    let boot = now_us().unsigned_abs() / 1_000_000;
    let boot = u32::try_from(boot).unwrap_or(1);
    let ledger: Shared = Arc::default();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut stations: Vec<Vec<Station>> = (0..options.connections).map(|_| Vec::new()).collect();
    for number in 0..options.stations {
        let device = DeviceId(Uuid::from_bytes(rng.random()));
        stations[(number % options.connections) as usize].push(Station { device, seq: 0 });
    }
    let mut clients = Vec::new();
    for number in 0..options.connections {
        clients.push(connect(host, port, &options, number, &ledger).await?);
    }
    let started = Instant::now();
    let until = started + Duration::from_secs(u64::from(options.seconds));
    let rate = f64::from(options.rate) / f64::from(options.connections);
    let (published, visible) = watch(&options);
    let senders: Vec<_> = stations
        .into_iter()
        .zip(clients.clone())
        .enumerate()
        .map(|(number, (stations, client))| {
            let ledger = ledger.clone();
            let load = Load { connection: number, rate, boot, until };
            tokio::spawn(send(stations, client, load, ledger, published.clone()))
        })
        .collect();
    let repeater = tokio::spawn(repeat(clients, ledger.clone()));
    for sender in senders {
        sender.await.context("a sender ended early")??;
    }
    let sending_s = started.elapsed().as_secs_f64();
    drop(published);
    let settled = timeout(SETTLE, settle(&ledger)).await.is_ok();
    repeater.abort();
    let visible = visible.await.context("the watcher ended early")?;
    report(&options, &ledger, sending_s, settled, visible).await
}

async fn report(
    options: &Options,
    ledger: &Shared,
    sending_s: f64,
    settled: bool,
    mut visible: Visible,
) -> Result<ExitCode> {
    let (sent, open, rate, events, summary) = {
        let mut ledger = lock(ledger);
        let span = ledger.last_receipt.zip(ledger.first_sent).map(|(last, first)| last - first);
        let rate = ledger.receipts as f64 / span.map_or(f64::INFINITY, |span| span.as_secs_f64());
        let events = std::mem::take(&mut ledger.events);
        (events.len(), ledger.open.len(), rate, events, ledger.latencies.summary())
    };
    println!("stations          {} on {} connections", options.stations, options.connections);
    println!("sent              {sent} ({:.0} a second)", sent as f64 / sending_s);
    println!("stored            {rate:.0} a second, first publish to last receipt");
    println!("publish→receipt   {summary}");
    println!("without receipt   {open}");
    if !settled {
        println!("                  receipts did not come within {} s", SETTLE.as_secs());
    }
    let seen = visible.latencies.len();
    println!("publish→visible   {}, of {seen} asked for", visible.latencies.summary());
    let mut missed = Missed::default();
    let p99 = visible.latencies.quantile_ms(0.99);
    missed.unless(options.max_p99_ms.is_none_or(|most| seen > 0 && p99 <= most), "p99 to visible");
    missed.unless(visible.never == 0, "visible at all");
    let mut lost = open;
    if options.verify {
        let (found, twice, phantom) = look_up(options, &events).await?;
        lost = sent - found;
        println!("in the list       {found}; lost {lost}, twice {twice}, never sent {phantom}");
        lost += twice + phantom;
    }
    missed.unless(lost == 0, "nothing lost, twice or made up");
    missed.unless(options.min_rate.is_none_or(|least| rate >= least), "stored a second");
    Ok(missed.exit_code())
}

/// How long it took until the server showed what was asked for.
#[derive(Default)]
struct Visible {
    latencies: Latencies,
    /// Not shown within [`SETTLE`].
    never: usize,
}

/// Asks the server for some of what is published, again and again until it shows it. The time includes
/// up to [`ASK_EVERY`] and the asking itself.
fn watch(options: &Options) -> (mpsc::UnboundedSender<Published>, JoinHandle<Visible>) {
    let (published_in, mut published) = mpsc::unbounded_channel::<Published>();
    let (server, client) = (options.server.clone(), reqwest::Client::new());
    let pause = options.sample.checked_sub(1).map(|_| Duration::from_secs(1) / options.sample);
    let watching = tokio::spawn(async move {
        let (mut asked, mut next) = (JoinSet::new(), Instant::now());
        while let Some(Published { event, at }) = published.recv().await {
            let Some(pause) = pause.filter(|_| at >= next) else { continue };
            next = at + pause;
            let (url, client) = (format!("{server}/api/v1/detections/{event}"), client.clone());
            asked.spawn(async move {
                while at.elapsed() < SETTLE {
                    let shown =
                        client.get(&url).send().await.is_ok_and(|a| a.status().is_success());
                    if shown {
                        return Some(at.elapsed());
                    }
                    sleep(ASK_EVERY).await;
                }
                None
            });
        }
        let mut visible = Visible::default();
        while let Some(latency) = asked.join_next().await {
            match latency.ok().flatten() {
                Some(latency) => visible.latencies.add(latency),
                None => visible.never += 1,
            }
        }
        visible
    });
    (published_in, watching)
}

/// Connects, and takes receipts in a task of its own.
async fn connect(
    host: &str,
    port: u16,
    options: &Options,
    number: u32,
    ledger: &Shared,
) -> Result<AsyncClient> {
    let name = format!("load-{}-{}-{number}", options.seed, std::process::id());
    let mut mqtt = MqttOptions::new(&name, (host.to_owned(), port));
    mqtt.set_keep_alive(30)
        .set_receive_maximum(Some(1_000))
        .set_outgoing_inflight_upper_limit(1_000);
    let (client, mut eventloop) = AsyncClient::builder(mqtt).capacity(10_000).build();
    let (ready_in, ready) = tokio::sync::oneshot::channel();
    let (ledger, own) = (ledger.clone(), client.clone());
    // Receipts of all stations come on each connection; the first to see one notes it.
    let filter = format!("ecosight/v1/{SITE}/+/receipt");
    let subscribe = number == 0;
    tokio::spawn(async move {
        let mut ready_in = Some(ready_in);
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    if subscribe {
                        let _ = own.try_subscribe(&filter, QoS::AtLeastOnce);
                    } else if let Some(ready_in) = ready_in.take() {
                        let _ = ready_in.send(());
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    if let Some(ready_in) = ready_in.take() {
                        let _ = ready_in.send(());
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    note_receipt(&ledger, &publish.topic, &publish.payload);
                }
                Ok(_) => {}
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    });
    timeout(Duration::from_secs(10), ready).await.context("the broker does not answer")??;
    Ok(client)
}

fn note_receipt(ledger: &Shared, topic: &[u8], payload: &[u8]) {
    let now = Instant::now();
    let Ok(topic) = std::str::from_utf8(topic) else { return };
    let Ok(Topic::Receipt(_, device)) = Topic::parse(topic) else { return };
    let Ok(Envelope { message: Message::Receipt(receipt), .. }) = Envelope::decode(payload) else {
        return;
    };
    let mut ledger = lock(ledger);
    for range in &receipt.ranges {
        for seq in range.first..=range.last {
            if let Some(sent) = ledger.open.remove(&(device, seq)) {
                ledger.latencies.add(now - sent.at);
                ledger.receipts += 1;
                ledger.last_receipt = Some(now);
            }
        }
    }
}

/// Sends the share of one connection, evenly over its stations, in small bursts.
async fn send(
    mut stations: Vec<Station>,
    client: AsyncClient,
    load: Load,
    ledger: Shared,
    published: mpsc::UnboundedSender<Published>,
) -> Result<()> {
    let Load { connection, rate, boot, until } = load;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut owed, mut next) = (0.0, 0);
    while Instant::now() < until {
        ticks.tick().await;
        owed += rate * TICK.as_secs_f64();
        while owed >= 1.0 {
            owed -= 1.0;
            let count = stations.len();
            let station = &mut stations[next % count];
            next += 1;
            station.seq += 1;
            let (envelope, event) = detection(station, boot);
            let mut buffer = [0; MAX_ENVELOPE_LEN];
            let payload = envelope
                .encode(&mut buffer)
                .map_err(|error| anyhow::anyhow!("cannot encode: {error}"))?
                .to_vec();
            let (device, seq) = (station.device, station.seq);
            {
                let mut ledger = lock(&ledger);
                let now = Instant::now();
                ledger.first_sent.get_or_insert(now);
                ledger.events.insert(event);
                let payload = payload.clone();
                let sent = Sent { at: now, repeated: now, connection, payload };
                ledger.open.insert((device, seq), sent);
            }
            let topic = Topic::Up(SITE, device).to_string();
            let options = PublishOptions::new(QoS::AtLeastOnce);
            let at = Instant::now();
            client.publish(topic, payload, options).await.context("the connection ended")?;
            // Nobody may be watching any more.
            let _ = published.send(Published { event, at });
        }
    }
    Ok(())
}

/// As a station does: what has no receipt for long is sent again.
async fn repeat(clients: Vec<AsyncClient>, ledger: Shared) {
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = Instant::now();
        let due: Vec<(DeviceId, usize, Vec<u8>)> = {
            let mut ledger = lock(&ledger);
            let late = |sent: &Sent| now - sent.repeated > REPEAT_AFTER;
            let late = ledger.open.iter_mut().filter(|(_, sent)| late(sent)).take(1_000);
            late.map(|((device, _), sent)| {
                sent.repeated = now;
                (*device, sent.connection, sent.payload.clone())
            })
            .collect()
        };
        for (device, connection, payload) in due {
            let topic = Topic::Up(SITE, device).to_string();
            let options = PublishOptions::new(QoS::AtLeastOnce);
            let _ = clients[connection].publish(topic, payload, options).await;
        }
    }
}

async fn settle(ledger: &Shared) {
    while !lock(ledger).open.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
}

fn detection(station: &Station, boot: u32) -> (Envelope, Uuid) {
    let record = RecordId { device: station.device, boot, seq: station.seq };
    let unix_us = now_us();
    let event = EventId::of(record, unix_us);
    let class = if station.seq.is_multiple_of(10) { "gun_shot" } else { "background" };
    let message = Message::Detection(Detection {
        event,
        class: class.try_into().unwrap_or_default(),
        model: ModelTag([1, 2, 3, 4]),
        score: 0.97,
        duration_ms: 1_440,
        decided_after_ms: 1_100,
        windows: 3,
        level_dbfs: -12.5,
        noise_floor_dbfs: -55.0,
        scores: [247, 2, 1, 1, 1, 3].into_iter().collect(),
        flags: Flags::default(),
        clip: None,
    });
    let header = Header { record, unix_us, time_quality: TimeQuality::Network };
    (Envelope { header, message }, event.0)
}

/// Reads the server's whole list of the site: found, there twice, never sent.
async fn look_up(options: &Options, sent: &HashSet<Uuid>) -> Result<(usize, usize, usize)> {
    let client = reqwest::Client::new();
    let mut seen = HashSet::new();
    let (mut twice, mut phantom, mut cursor) = (0, 0, None::<String>);
    loop {
        let mut url = format!("{}/api/v1/detections?site={SITE}&limit=500", options.server);
        if let Some(cursor) = &cursor {
            url.push_str(&format!("&cursor={cursor}"));
        }
        let page: Value =
            client.get(url).send().await?.error_for_status()?.json().await.context("the list")?;
        for item in page["items"].as_array().context("no items")? {
            let id: Uuid = item["id"].as_str().context("no id")?.parse()?;
            if !seen.insert(id) {
                twice += 1;
            } else if !sent.contains(&id) {
                phantom += 1;
            }
        }
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    Ok((seen.intersection(sent).count(), twice, phantom))
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn lock(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
