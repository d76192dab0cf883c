//! The whole station: a release on its way through a broker, a server and the program; and the moment at
//! which another model takes over while it hears.

use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::channel as orders_channel;
use std::time::Duration;

use ecosight_agent::config::Config;
use ecosight_agent::ear::{self, Ear};
use ecosight_agent::health::Health;
use ecosight_agent::hearing::{Heard, Hearing, channel};
use ecosight_agent::update::trial::{Board, Order, Outcome, Tally, judge};
use ecosight_loadtest::Broker;
use ecosight_models::Event;
use ecosight_shared::Topic;
use ecosight_shared::json::DesiredDocument;
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, MqttOptions, PublishOptions};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Release, Server, key};
use crate::bundle::Thud;
use crate::station::{AGENT, Place, THUDS, terminate, thuds, write};
use crate::support::{DEVICE, hearing, until};
use crate::uplink::{Cloud, broker};

/// A station on the loopback address, and what it is told and says.
struct World {
    broker: Broker,
    cloud: Cloud,
    server: Server,
    place: Place,
    station: Child,
}

impl World {
    async fn start() -> Option<Self> {
        let broker = broker()?;
        let server = Server::start().await;
        let cloud = Cloud::start(&broker, "cloud", true);
        let source = "kind = \"file\"\npath = \"NIGHT\"\nloop = true\nresume = false";
        let place = Place::new(source, &broker.url(), &server.url);
        let config = std::fs::read_to_string(&place.config).expect("there");
        let update = format!(
            "[update]\ntrusted_keys = [\"{}\", \"{}\"]\nmin_trial = \"0s\"\n",
            key(1).public(),
            key(2).public()
        );
        write(&place.config, (config + &update).as_bytes());
        let station = place.start();
        Some(Self { broker, cloud, server, place, station })
    }

    /// Tells the station what to run, as the server does.
    async fn wish(&self, desired: &DesiredDocument) {
        let name = format!("wisher-{}", desired.time);
        let options = MqttOptions::new(name, ("127.0.0.1", self.broker.port()));
        let (client, mut events) = AsyncClient::builder(options).capacity(10).build();
        let topic = Topic::Desired("test", DEVICE).to_string();
        let payload = serde_json::to_vec(desired).expect("JSON");
        let retained = PublishOptions::new(QoS::AtLeastOnce).retained();
        let notice = client.publish_tracked(topic, payload, retained).await.expect("queued");
        let driver = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        notice.wait_completion_async().await.expect("taken");
        driver.abort();
    }

    async fn offer(&self, release: &Release, time: &str) {
        self.server.hand_out(release);
        self.wish(&release.desired(time)).await;
    }

    /// Steps of the words that came, each once, and the newest word.
    fn words(&self) -> (Vec<String>, Value) {
        self.cloud.look(|received| {
            let mut steps: Vec<String> = received
                .words
                .iter()
                .map(|word| word["step"].as_str().expect("a step").to_owned())
                .collect();
            steps.dedup();
            (steps, received.words.last().cloned().unwrap_or_default())
        })
    }

    async fn until_step(&self, version: &str, step: &str) -> Value {
        until(&format!("{version} {step}, after {:?}", self.words()), async || {
            let word = self.words().1;
            word["step"] == step && word["release"] == format!("thud-{version}")
        })
        .await;
        self.words().1
    }

    fn status(&self) -> Value {
        self.cloud.look(|received| received.status.clone())
    }

    async fn until_runs(&self, version: &str, slot: &str) {
        until(&format!("{version} in slot {slot}\n{}", self.place.log()), async || {
            let status = self.status();
            status["model"]["version"] == version
                && status["health"]["model_slot"] == slot
                && status["state"] == "online"
        })
        .await;
    }

    /// The program ends itself as `kill -9` does right after this step is written; once.
    fn die_at(&self, step: &str) {
        let folder = self.place.data().join("update");
        std::fs::create_dir_all(&folder).expect("made");
        write(&folder.join("die-at"), step.as_bytes());
    }

    async fn until_dead(&mut self, step: &str) {
        let started = tokio::time::Instant::now();
        while self.station.try_wait().expect("known").is_none() {
            let in_time = started.elapsed() < Duration::from_secs(60);
            assert!(in_time, "no death at {step}, after {:?}\n{}", self.words(), self.place.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = self.place.data().join("update/die-at").exists();
        assert!(!left, "it ended somewhere else than at {step}\n{}", self.place.log());
    }

    fn kill(&mut self) {
        self.station.kill().expect("killed");
        self.station.wait().expect("ended");
    }

    fn restart(&mut self) {
        self.kill();
        self.cloud.forget();
        self.station = self.place.start();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.station.kill();
        let _ = self.station.wait();
    }
}

fn release(version: &'static str, counter: u64) -> Release {
    Release::of(&Thud { version, ..Thud::default() }, counter, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_fetched_proved_tried_and_decides() {
    let Some(mut world) = World::start().await else { return };
    world.until_runs("1.0.0", "factory").await;
    let two = release("2.0.0", 2);
    world.offer(&two, "t1").await;
    let word = world.until_step("2.0.0", "committed").await;
    let steps = ["accepted", "downloading", "verified", "loaded", "proved", "trial", "committed"];
    assert_eq!(world.words().0, steps, "{}", world.place.log());
    assert_eq!(word["active"]["version"], "2.0.0");
    assert_eq!(word["counter"], 2);
    let trial = &word["trial"];
    assert!(trial["windows"].as_u64().expect("a number") >= 20, "{word}");
    assert_eq!((&trial["failed"], &trial["agreement"]), (&0.into(), &1.0.into()), "{word}");
    world.until_runs("2.0.0", "a").await;
    // What is heard from now on names it.
    let tag = word["active"]["tag"].as_str().expect("a tag").to_owned();
    until("a thud of the new model", async || {
        world.cloud.look(|r| r.detections.values().any(|d| d.model.to_string() == tag))
    })
    .await;

    // It is still what runs after the next start, and says so.
    world.restart();
    world.until_runs("2.0.0", "a").await;
    assert_eq!(world.until_step("2.0.0", "committed").await["active"]["version"], "2.0.0");

    // One that says something else than where it was made is refused, and blocked.
    let off = Thud { version: "3.0.0", golden_off: Some(0.3), ..Thud::default() };
    let three = Release::of(&off, 3, None);
    world.offer(&three, "t2").await;
    let word = world.until_step("3.0.0", "refused").await;
    assert_eq!(
        (&word["code"], &word["active"]["version"]),
        (&"golden_clips".into(), &"2.0.0".into())
    );
    assert!(word["reason"].as_str().expect("a sentence").contains("0.300 off"), "{word}");
    world.offer(&three, "t3").await;
    until("blocked", async || world.words().1["code"] == "blocked").await;

    // A signed way back is taken; the other slot runs.
    let back = Thud { version: "1.5.0", ..Thud::default() };
    let back = Release::of(&back, 1, Some(two.manifest.reference()));
    world.offer(&back, "t4").await;
    world.until_step("1.5.0", "committed").await;
    world.until_runs("1.5.0", "b").await;

    // Its files are damaged: the one before runs, and the reason is told.
    world.kill();
    let head = world.place.data().join("update/b/head.onnx");
    write(&head, b"damaged");
    world.restart();
    world.until_runs("2.0.0", "a").await;
    let word = world.until_step("1.5.0", "rolled_back").await;
    assert_eq!(word["code"], "unloadable", "{word}");
    let doctor = std::process::Command::new(AGENT)
        .args(["doctor", "--config"])
        .arg(&world.place.config)
        .output()
        .expect("runs");
    let doctor = String::from_utf8(doctor.stdout).expect("text");
    assert!(doctor.contains("thud 2.0.0") && doctor.contains("release in slot a"), "{doctor}");
    assert!(doctor.contains("slot a: thud 2.0.0, counter 2, runs"), "{doctor}");
    assert!(doctor.contains("thud-1.5.0 was rolled back: the installed model"), "{doctor}");
    terminate(&world.station);
}

/// The program itself ends right after each of these steps was written, one after the other: none is
/// passed over.
#[tokio::test(flavor = "multi_thread")]
async fn a_station_that_is_killed_at_every_step_ends_with_the_new_model() {
    let Some(mut world) = World::start().await else { return };
    world.until_runs("1.0.0", "factory").await;
    let steps = ["accepted", "downloading", "verified", "loaded", "proved", "trial", "committed"];
    for (number, step) in steps.into_iter().enumerate() {
        world.die_at(step);
        if number == 0 {
            world.offer(&release("2.0.0", 2), "t1").await;
        } else {
            world.station = world.place.start();
        }
        world.until_dead(step).await;
    }
    world.cloud.forget();
    world.station = world.place.start();
    world.until_runs("2.0.0", "a").await;
    let word = world.until_step("2.0.0", "committed").await;
    assert_eq!(word["active"]["version"], "2.0.0", "{}", world.place.log());
    terminate(&world.station);
}

/// The same where the release is not to be: the old model runs, and the reason is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_station_that_is_killed_as_it_decides_against_a_release_keeps_the_old_model() {
    let Some(mut world) = World::start().await else { return };
    world.until_runs("1.0.0", "factory").await;
    let off = Thud { version: "2.0.0", golden_off: Some(0.3), ..Thud::default() };
    let breaks = Thud { version: "3.0.0", breaks: true, ..Thud::default() };
    let ends = [(off, 2, "refused", "golden_clips"), (breaks, 3, "rolled_back", "fails")];
    for (thud, counter, step, code) in ends {
        let release = Release::of(&thud, counter, None);
        world.server.hand_out(&release);
        world.die_at(step);
        let mut desired = release.desired(&format!("t{counter}"));
        if let Some(model) = &mut desired.model {
            model.trial_s = 60;
        }
        world.wish(&desired).await;
        world.until_dead(step).await;
        world.cloud.forget();
        world.station = world.place.start();
        let word = world.until_step(thud.version, step).await;
        assert_eq!((&word["code"], &word["active"]["version"]), (&code.into(), &"1.0.0".into()));
        world.until_runs("1.0.0", "factory").await;
    }
    terminate(&world.station);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_on_trial_is_rolled_back_and_the_old_one_alarms_throughout() {
    let Some(world) = World::start().await else { return };
    world.until_runs("1.0.0", "factory").await;
    let broken = Thud { version: "2.0.0", breaks: true, ..Thud::default() };
    let two = Release::of(&broken, 2, None);
    world.server.hand_out(&two);
    let mut desired = two.desired("t1");
    if let Some(model) = &mut desired.model {
        model.trial_s = 60;
    }
    world.wish(&desired).await;
    let word = world.until_step("2.0.0", "rolled_back").await;
    assert_eq!((&word["code"], &word["active"]["version"]), (&"fails".into(), &"1.0.0".into()));
    assert!(word["trial"]["failed"].as_u64().expect("a number") > 0, "{word}");
    let alerts = world.cloud.look(|r| r.alert_times.len());
    assert!(alerts >= 1, "the thud that broke it alarmed\n{}", world.place.log());
    let slot = world.place.data().join("update/a");
    until("its files go", async || !slot.exists()).await;
    terminate(&world.station);
}

/// The ear of the bundle in `folder`, and its settings.
fn ear_of(
    folder: &std::path::Path,
    thud: &Thud,
    night: &std::path::Path,
) -> (Ear, Config, Arc<Health>) {
    thud.write(folder);
    let mut config = Config::default();
    config.model.bundle = Some(folder.to_owned());
    config.privacy.redact_speech = false;
    config.source.kind = ecosight_agent::config::SourceKind::File;
    config.source.path = Some(night.to_owned());
    config.source.speed = ecosight_agent::config::Speed::Maximum;
    let health = Arc::new(Health::default());
    let classifier = ear::load(&config).expect("a model");
    let ear = Ear::new(classifier, &config, Arc::clone(&health)).expect("an ear");
    (ear, config, health)
}

/// What was confirmed, with the version of the model that did, and how many windows were judged.
fn listen(place: &Place, changes_after: Option<usize>) -> (Vec<(Event, String)>, u64, Tally) {
    let folder = place.directory.path();
    let night = folder.join("night.wav");
    let thud = |version| Thud { version, ..Thud::default() };
    let (ear, config, health) = ear_of(&folder.join("old"), &thud("1.0.0"), &night);
    let (heir, ..) = ear_of(&folder.join("heir"), &thud("2.0.0"), &night);
    let (orders, told_to_try) = orders_channel();
    let hearing =
        Hearing { is_replay: true, orders: Some(told_to_try), ..hearing(ear, &config, &health) };
    let board = Board::default();
    if changes_after.is_some() {
        orders.send(Order::Try(Box::new(heir), board.clone())).expect("heard");
    }
    let (heard, mut told) = channel();
    let listening = std::thread::spawn(move || hearing.listen(heard, &CancellationToken::new()));
    let (mut version, mut events, mut answer) = ("1.0.0".to_owned(), Vec::new(), None);
    let mut closed = Vec::new();
    while let Some(heard) = told.blocking_recv() {
        match heard {
            Heard::Confirmed { event, .. } => {
                events.push((event, version.clone()));
                if Some(events.len()) == changes_after {
                    let (done, asked) = oneshot::channel();
                    orders.send(Order::TakeOver(done)).expect("heard");
                    answer = Some(asked);
                }
            }
            Heard::Closed { event, .. } => closed.push(event.number),
            Heard::Model(model) => version.clone_from(&model.info.version),
            Heard::Canary { .. } | Heard::Progress { .. } => {}
        }
    }
    listening.join().expect("no panic").expect("no error");
    if let Some(mut answer) = answer {
        assert_eq!(answer.try_recv(), Ok(Ok(())), "it took over");
    }
    let confirmed: Vec<u64> = events.iter().map(|(event, _)| event.number).collect();
    assert_eq!(confirmed, closed, "every event is closed once, in its order");
    (events, health.pulse().windows, board.read())
}

#[test]
fn a_model_takes_over_without_a_window_between() {
    // Ten minutes, so that the change falls into the middle of them.
    let place = Place::with_rounds("", "mqtt://127.0.0.1:1", "", 5);
    let (undisturbed, windows, _) = listen(&place, None);
    assert_eq!(undisturbed.len(), THUDS.len() * 5);
    for changes_after in [1, 7, 30] {
        let (events, judged, tally) = listen(&place, Some(changes_after));
        let onsets = |events: &[(Event, String)]| -> Vec<u64> {
            events.iter().map(|(e, _)| e.onset_sample).collect()
        };
        assert_eq!(onsets(&events), onsets(&undisturbed), "after {changes_after}: each thud once");
        assert_eq!(judged, windows, "after {changes_after}: every window was judged once");
        let new = events.iter().filter(|(_, version)| version == "2.0.0").count();
        assert!(new > 0 && new <= events.len() - changes_after, "{new} after {changes_after}");
        let first = events.iter().position(|(_, version)| version == "2.0.0").expect("some");
        assert!(events[first..].iter().all(|(_, version)| version == "2.0.0"), "once and for all");
        assert!(tally.windows > 0 && tally.agreed == tally.windows, "{tally:?}");
        assert_eq!(tally.events_old, tally.events_new, "{tally:?}");
    }
    assert_eq!(thuds(5).len(), undisturbed.len());
}

#[test]
fn a_trial_is_judged_by_what_was_counted() {
    let minute = Duration::from_secs(60);
    let good = Tally {
        windows: 125,
        agreed: 124,
        events_old: 2,
        events_new: 3,
        spent_old: Duration::from_millis(400),
        spent_new: Duration::from_millis(900),
        ..Tally::default()
    };
    assert_eq!(judge(&good, minute, minute), Outcome::Passed);
    assert_eq!(judge(&good, minute - Duration::from_secs(1), minute), Outcome::Open, "too short");
    let deaf = Tally { windows: 30, ..good.clone() };
    assert_eq!(judge(&deaf, minute * 60, minute), Outcome::Open, "the microphone was away");
    let first = Tally { windows: 19, ..good.clone() };
    assert_eq!(judge(&first, minute, Duration::ZERO), Outcome::Open, "hardly anything heard");
    for (tally, code) in [
        (Tally { failed: 2, ..good.clone() }, "fails"),
        (Tally { broken: true, ..Tally::default() }, "fails"),
        (Tally { behind_s: 31, ..good.clone() }, "falls_behind"),
        (Tally { spent_new: Duration::from_secs(31), ..good.clone() }, "slow_model"),
        (Tally { events_new: 17, ..good.clone() }, "floods"),
    ] {
        match judge(&tally, Duration::from_secs(1), minute) {
            Outcome::Failed(fault) => assert_eq!((fault.code(), fault.blocks()), (code, true)),
            other => panic!("{code}: {other:?}"),
        }
    }
    assert_eq!(judge(&Tally { failed: 1, ..good.clone() }, minute, minute), Outcome::Passed);
    let report = good.report();
    assert!((report.agreement - 0.992).abs() < 1e-9 && (report.slowness - 2.25).abs() < 1e-9);
}
