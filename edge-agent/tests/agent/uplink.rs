//! The uplink against a real broker and a receiver that gives receipts as the cloud does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ecosight_agent::clock::Clock;
use ecosight_agent::config;
use ecosight_agent::outbox::{Priority, Row};
use ecosight_agent::uplink::{Backoff, Ending, Flight, Topics, Uplink, UplinkError};
use ecosight_loadtest::{Broker, BrokerError};
use ecosight_shared::{
    Detection, Envelope, EventId, Header, Kind, Message, Receipt, RecordId, SeqRange, TimeQuality,
    Topic,
};
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, PublishOptions};
use tempfile::tempdir;
use tokio::task::JoinHandle;

use crate::support::{
    DEVICE, Open, QUOTA, START_US, alert, identity, silent_detection, telemetry, until,
};

/// A broker, or nothing where none is installed and the tests need not be complete.
pub(crate) fn broker() -> Option<Broker> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Broker::start() {
        Ok(broker) => Some(broker),
        Err(BrokerError::NotInstalled) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: needs mosquitto");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What reached a receiver on the broker.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Envelopes by record, and how often each came.
    records: BTreeMap<(u32, u32), usize>,
    pub(crate) kinds: Vec<Kind>,
    /// Onset of each alert by record, unix µs.
    pub(crate) alert_times: BTreeMap<(u32, u32), i64>,
    /// Detections by event.
    pub(crate) detections: BTreeMap<EventId, Detection>,
    /// Alert documents by event id, and how often each came.
    pub(crate) documents: BTreeMap<String, usize>,
    pub(crate) states: Vec<String>,
    /// The newest status.
    pub(crate) status: serde_json::Value,
    /// Answers to commands.
    pub(crate) replies: Vec<serde_json::Value>,
    /// Words on updates.
    pub(crate) words: Vec<serde_json::Value>,
}

/// A receiver that stores what comes and, if asked to, gives receipts.
pub(crate) struct Cloud {
    received: Arc<Mutex<Received>>,
    task: JoinHandle<()>,
}

impl Cloud {
    pub(crate) fn start(broker: &Broker, name: &str, gives_receipts: bool) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let store = Arc::clone(&received);
        let mut options = MqttOptions::new(name, ("127.0.0.1", broker.port()));
        options.set_clean_start(true).set_keep_alive(5);
        let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        client.subscribe("ecosight/v1/#", QoS::AtLeastOnce).await.expect("queued");
                    }
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).expect("UTF-8");
                        let answer = note(&store, &topic, &publish.payload);
                        if let (Some(answer), true) = (answer, gives_receipts) {
                            let topic = Topic::Receipt("test", DEVICE).to_string();
                            let options = PublishOptions::new(QoS::AtLeastOnce);
                            client.try_publish(topic, answer, options).expect("queued");
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Self { received, task }
    }

    /// Forgets what came, so that what comes next is seen.
    pub(crate) fn forget(&self) {
        *self.received.lock().expect("not poisoned") = Received::default();
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.received.lock().expect("not poisoned"))
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Notes a message, and gives the receipt for it if it is a record.
fn note(store: &Mutex<Received>, topic: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let mut store = store.lock().expect("not poisoned");
    let text = |field: &str| {
        let document: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
        document[field].as_str().expect("a text").to_owned()
    };
    match Topic::parse(topic).expect("a topic of the tree") {
        Topic::Up(site, device) => {
            assert_eq!((site, device), ("test", DEVICE));
            let envelope = Envelope::decode(payload).expect("an envelope");
            let RecordId { boot, seq, .. } = envelope.header.record;
            *store.records.entry((boot, seq)).or_default() += 1;
            store.kinds.push(envelope.message.kind());
            match envelope.message {
                Message::Alert(_) => {
                    store.alert_times.insert((boot, seq), envelope.header.unix_us);
                }
                Message::Detection(detection) => {
                    store.detections.insert(detection.event, detection);
                }
                _ => {}
            }
            Some(receipt(&[SeqRange { boot, first: seq, last: seq }], DEVICE))
        }
        Topic::Alert(..) => {
            *store.documents.entry(text("event_id")).or_default() += 1;
            None
        }
        Topic::Status(..) => {
            // The status is told again when something about the station changes.
            let state = text("state");
            if store.states.last() != Some(&state) {
                store.states.push(state);
            }
            store.status = serde_json::from_slice(payload).expect("JSON");
            None
        }
        Topic::Reply(..) => {
            store.replies.push(serde_json::from_slice(payload).expect("JSON"));
            None
        }
        Topic::Update(..) => {
            store.words.push(serde_json::from_slice(payload).expect("JSON"));
            None
        }
        _ => None,
    }
}

fn receipt(ranges: &[SeqRange], device: ecosight_shared::DeviceId) -> Vec<u8> {
    let envelope = Envelope {
        header: Header {
            record: RecordId { device, boot: 0, seq: 0 },
            unix_us: START_US,
            time_quality: TimeQuality::Network,
        },
        message: Message::Receipt(Receipt { ranges: ranges.iter().copied().collect() }),
    };
    let mut buffer = [0; ecosight_shared::MAX_ENVELOPE_LEN];
    envelope.encode(&mut buffer).expect("fits").to_vec()
}

pub(crate) struct Running {
    ending: Ending,
    task: JoinHandle<Result<(), UplinkError>>,
}

pub(crate) fn start(url: String, open: &Open) -> Running {
    let config = config::Mqtt {
        url,
        reconnect_max: Duration::from_secs(1),
        resend_after: Duration::from_millis(500),
        ..config::Mqtt::default()
    };
    let uplink = Uplink {
        config,
        identity: identity(),
        outbox: open.outbox.clone(),
        clock: Clock::from_fn(|| START_US),
        teller: None,
        health: Arc::default(),
        control: None,
        updates: None,
    };
    let ending = Ending::default();
    let task = tokio::spawn(uplink.run(ending.clone()));
    Running { ending, task }
}

impl Running {
    pub(crate) async fn drain(self) {
        self.ending.drain.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.expect("ends").expect("no panic").expect("no error");
    }
}

async fn waiting(open: &Open) -> u64 {
    open.outbox.level().await.expect("reads").records
}

#[tokio::test]
async fn records_stay_until_the_cloud_has_them_and_alerts_go_first() {
    let Some(broker) = broker() else { return };
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let records = vec![telemetry(1), silent_detection(2), alert(3), telemetry(4), alert(5)];
    open.outbox.append(records, None).await.expect("written");

    // A receiver without receipts: the broker acknowledges everything, and nothing may leave.
    let deaf = Cloud::start(&broker, "deaf", false);
    let running = start(broker.url(), &open);
    until("all five, and again", async || {
        deaf.look(|r| r.records.len() == 5 && r.records.values().all(|count| *count >= 2))
    })
    .await;
    assert_eq!(waiting(&open).await, 5);
    let order = deaf.look(|r| r.kinds[..5].to_vec());
    assert_eq!(
        order,
        [Kind::Alert, Kind::Alert, Kind::Detection, Kind::Telemetry, Kind::Telemetry]
    );

    let cloud = Cloud::start(&broker, "cloud", true);
    until("an empty outbox", async || waiting(&open).await == 0).await;
    // A new record while connected goes out at once.
    open.outbox.append(vec![alert(6)], None).await.expect("written");
    until("the new one", async || cloud.look(|r| r.records.contains_key(&(1, 6)))).await;
    running.drain().await;
    assert_eq!(waiting(&open).await, 0);
    // The JSON of each alert came once, however often its record was sent.
    deaf.look(|r| {
        assert_eq!(r.documents.len(), 3);
        assert!(r.documents.values().all(|count| *count == 1), "{:?}", r.documents);
        assert_eq!(
            (r.states.first(), r.states.last()),
            (Some(&"online".to_owned()), Some(&"offline".to_owned()))
        );
    });
    drop((cloud, deaf));
    open.close().await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_broker_is_killed_again_and_again() {
    let Some(mut broker) = broker() else { return };
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let running = start(broker.url(), &open);
    let mut count = 0;
    for round in 0..4 {
        for _ in 0..50 {
            count += 1;
            let record = if count % 3 == 0 { silent_detection(count) } else { alert(count) };
            open.outbox.append(vec![record], None).await.expect("written");
        }
        if round == 3 {
            break;
        }
        if round == 1 {
            broker.stop().expect("stops");
        } else {
            broker.kill_9().expect("dies");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        broker.run().expect("comes back");
    }
    until("an empty outbox", async || waiting(&open).await == 0).await;
    let expected: BTreeSet<(u32, u32)> = (1..=count as u32).map(|seq| (1, seq)).collect();
    cloud.look(|r| {
        let records: BTreeSet<(u32, u32)> = r.records.keys().copied().collect();
        assert_eq!(records, expected);
    });
    running.drain().await;
    open.close().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_costs_nothing_but_time() {
    let Some(mut broker) = broker() else { return };
    broker.stop().expect("stops");
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    open.outbox.append(vec![alert(1)], None).await.expect("written");
    let running = start(broker.url(), &open);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!running.task.is_finished(), "it goes on trying");
    broker.run().expect("comes up");
    let _cloud = Cloud::start(&broker, "cloud", true);
    until("an empty outbox", async || waiting(&open).await == 0).await;
    running.drain().await;
    open.close().await;
}

#[tokio::test]
async fn a_station_that_dies_is_reported_by_its_last_will() {
    let Some(broker) = broker() else { return };
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let running = start(broker.url(), &open);
    until("online", async || cloud.look(|r| r.states == ["online"])).await;
    running.task.abort();
    until("offline", async || cloud.look(|r| r.states == ["online", "offline"])).await;
    // Retained: whoever comes later knows it too.
    let late = Cloud::start(&broker, "late", false);
    until("the retained state", async || late.look(|r| r.states == ["offline"])).await;
    drop(running);
    open.close().await;
}

#[tokio::test]
async fn receipts_that_are_not_ours_or_not_receipts_remove_nothing() {
    let Some(broker) = broker() else { return };
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    open.outbox.append(vec![alert(1), alert(2)], None).await.expect("written");
    let deaf = Cloud::start(&broker, "deaf", false);
    let running = start(broker.url(), &open);
    until("both", async || deaf.look(|r| r.records.len() == 2)).await;
    let (client, mut events) =
        AsyncClient::builder(MqttOptions::new("forger", ("127.0.0.1", broker.port())))
            .capacity(10)
            .build();
    let forger = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let everything = SeqRange { boot: 1, first: 1, last: 9 };
    let mut damaged = receipt(&[everything], DEVICE);
    damaged[40] ^= 1;
    let other = ecosight_shared::DeviceId(uuid::Uuid::from_u128(5));
    let alert_frame = open.rows().await[0].envelope.clone();
    let payloads = [receipt(&[everything], other), damaged, alert_frame, vec![], vec![0; 9_000]];
    let topic = Topic::Receipt("test", DEVICE).to_string();
    for payload in payloads {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client.publish(topic.clone(), payload, options).await.expect("queued");
    }
    let only_second = receipt(&[SeqRange { boot: 1, first: 2, last: 2 }], DEVICE);
    client
        .publish(topic, only_second, PublishOptions::new(QoS::AtLeastOnce))
        .await
        .expect("queued");
    until("the second is gone", async || waiting(&open).await == 1).await;
    assert_eq!(open.rows().await[0].seq, 1);
    running.ending.stop.cancel();
    running.task.await.expect("no panic").expect("no error");
    forger.abort();
    open.close().await;
}

// The rules of sending, without a network.

fn row(priority: Priority, id: i64) -> Row {
    Row { id, boot: 1, seq: id as u32, priority, envelope: vec![0; 50], document: None }
}

const AFTER: Duration = Duration::from_secs(10);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_acknowledgement_makes_room_and_a_missing_receipt_sends_again() {
    let mut flight = Flight::new(AFTER);
    let mut id = 0;
    while let Some(wanted) = flight.wanted(Priority::Alert) {
        assert_eq!(wanted.after, id);
        id += 1;
        assert!(flight.send(&row(Priority::Alert, id)));
    }
    assert!(id > 1, "a window of several");
    flight.acknowledged((1, 1), seconds(5));
    assert!(flight.wanted(Priority::Alert).is_some(), "room for another");
    assert_eq!(flight.overdue(seconds(14)), Vec::<i64>::new());
    assert_eq!(flight.overdue(seconds(15)), [1]);
    // Sent again, acknowledged again: the next repetition waits twice as long.
    assert!(flight.send(&row(Priority::Alert, 1)));
    flight.acknowledged((1, 1), seconds(16));
    assert_eq!(flight.overdue(seconds(35)), Vec::<i64>::new());
    assert_eq!(flight.overdue(seconds(36)), [1]);
    flight.receipted(&[SeqRange { boot: 1, first: 1, last: 1 }]);
    assert_eq!(flight.overdue(seconds(9_999)), Vec::<i64>::new());
}

#[test]
fn a_new_connection_begins_with_the_oldest() {
    let mut flight = Flight::new(AFTER);
    for id in 1..=3 {
        flight.send(&row(Priority::Detection, id));
        flight.acknowledged((1, id as u32), seconds(1));
    }
    assert_eq!(flight.wanted(Priority::Detection).expect("room").after, 3);
    flight.lost();
    flight.connected();
    assert!(flight.is_empty());
    assert_eq!(flight.wanted(Priority::Detection).expect("room").after, 0);
}

#[test]
fn a_cloud_that_is_silent_is_not_flooded_but_alerts_still_go() {
    let mut flight = Flight::new(AFTER);
    let mut id = 0;
    while flight.wanted(Priority::Telemetry).is_some() {
        id += 1;
        flight.send(&row(Priority::Telemetry, id));
        flight.acknowledged((1, id as u32), seconds(1));
        assert!(id < 1_000, "less than the queue of a broker");
    }
    assert!(flight.wanted(Priority::Detection).is_none());
    assert!(flight.wanted(Priority::Alert).is_some());
}

#[test]
fn a_record_that_breaks_every_connection_is_set_aside() {
    let mut flight = Flight::new(AFTER);
    for connection in 1..=10 {
        flight.connected();
        let mut on_their_way = Vec::new();
        while let Some(wanted) = flight.wanted(Priority::Alert) {
            let next = wanted.after + 1;
            if next > 5 || on_their_way.contains(&2) {
                break;
            }
            if flight.send(&row(Priority::Alert, next)) {
                on_their_way.push(next);
            }
            // The broker has time to acknowledge only when records go one by one.
            if wanted.limit == 1 && on_their_way == [next] && next != 2 {
                flight.acknowledged((1, next as u32), seconds(1));
                on_their_way.clear();
            }
        }
        if !on_their_way.contains(&2) {
            assert_eq!(on_their_way, [1, 3, 4, 5], "all others go");
            assert_eq!((flight.aside(), connection), (1, 5));
            return;
        }
        // The second record is the end of every connection.
        flight.lost();
    }
    panic!("never set aside");
}

#[test]
fn pauses_are_drawn_between_a_second_and_a_limit_that_doubles() {
    for seed in 0..50 {
        let mut backoff = Backoff::new(seed, Duration::from_secs(300));
        for attempt in 0..14_u32 {
            let pause = backoff.pause().as_secs_f64();
            let most = f64::from(2_u32.pow(attempt)).min(300.0);
            assert!((1.0..=most).contains(&pause), "seed {seed}, attempt {attempt}: {pause}");
        }
        backoff.reset();
        assert_eq!(backoff.pause(), Duration::from_secs(1));
    }
    let pauses: BTreeSet<Duration> = (0..50)
        .map(|seed| {
            let mut backoff = Backoff::new(seed, Duration::from_secs(300));
            for _ in 0..8 {
                backoff.pause();
            }
            backoff.pause()
        })
        .collect();
    assert!(pauses.len() > 45, "stations do not come back together");
}

#[test]
fn topics_are_those_of_the_tree() {
    let text = format!("{:?}", Topics::of(&identity()));
    assert!(text.contains(&Topic::Up("test", DEVICE).to_string()), "{text}");
}
