//! Weeks in the tree, in minutes: outages, kills, power cuts ([`power`]) and a full disk.
//!
//! Each test has a size that fits every run, and the one of the promise, which `make soak` runs
//! (ECOSIGHT_SOAK=1).

mod power;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ecosight_models::scene::{Scene, SceneConfig};
use ecosight_shared::Kind;
use tempfile::tempdir;

use crate::mount::Mount;
use crate::station::{
    Place, ROUND, START, START_US, assert_every_thud_once, onsets, recording, terminate, thuds,
    write,
};
use crate::support::{Open, QUOTA, Random, alert, silent_detection, telemetry, until, write_sound};
use crate::uplink::{Cloud, broker, start};
use crate::uploads;

fn is_soak() -> bool {
    std::env::var("ECOSIGHT_SOAK").is_ok_and(|value| value == "1")
}

/// The size of the promise under `make soak`, else the one of every day.
fn size(every_day: u64, promised: u64) -> u64 {
    if is_soak() { promised } else { every_day }
}

#[tokio::test]
async fn days_offline_cost_nothing_and_alerts_come_first() {
    let Some(mut broker) = broker() else { return };
    broker.stop().expect("stops");
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let running = start(broker.url(), &open);
    // Two alerts and a detection a minute, telemetry as well: far more than any forest has.
    let minutes = size(4 * 60, 72 * 60);
    for minute in 0..minutes {
        let records =
            vec![telemetry(minute), alert(minute), silent_detection(minute), alert(minute)];
        open.outbox.append(records, None).await.expect("written");
    }
    let waiting = open.outbox.level().await.expect("reads");
    assert_eq!(waiting.alerts, 2 * minutes);
    broker.run().expect("comes back");
    let began = Instant::now();
    let cloud = Cloud::start(&broker, "cloud", true);
    let drained = Duration::from_secs(size(60, 300));
    while open.outbox.level().await.expect("reads").records > 0 {
        assert!(began.elapsed() < drained, "{:?}", open.outbox.level().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!(
        "{minutes} min offline: {} records drained in {:.1} s",
        waiting.records,
        began.elapsed().as_secs_f64()
    );
    cloud.look(|r| {
        assert_eq!(r.alert_times.len() as u64, 2 * minutes, "every alert");
        assert!(r.documents.values().all(|count| *count == 1), "each shown once");
        assert_eq!(r.detections.len() as u64, minutes);
        let first_other = r.kinds.iter().position(|kind| *kind != Kind::Alert).expect("others");
        let late = r.kinds[first_other..].iter().filter(|kind| **kind == Kind::Alert).count();
        // What was on its way when the last alert was read may overtake nothing but itself.
        assert!(late <= 32, "{late} alerts behind others");
    });
    running.drain().await;
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thud_arrives_once_though_the_station_is_killed_again_and_again() {
    let Some(mut broker) = broker() else { return };
    let (server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let source =
        format!("kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nstart_time = \"{START}\"");
    let (rounds, wanted) = (size(8, 60) as usize, size(6, 200));
    let place = Place::with_rounds(&source, &broker.url(), &url, rounds);
    let mut random = Random(0xdead);
    let mut kills = 0;
    while kills < wanted {
        let mut child = place.start();
        // Past the start, so that every run gets on: else the end would never come.
        let pause = 100 + random.below(size(400, 300));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let ended = child.try_wait().expect("waits").is_some();
        if ended {
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        kills += 1;
        if kills % size(2, 50) == 0 {
            tokio::task::block_in_place(|| {
                broker.kill_9().expect("dies");
                broker.run().expect("comes back");
            });
        }
    }
    let child = place.start();
    let limit = Duration::from_secs(size(120, 900));
    tokio::task::block_in_place(|| place.ends_well(child, limit));
    eprintln!("{kills} kills in {rounds} rounds of {} thuds", thuds(1).len());
    assert_eq!(kills, wanted, "the recording was over before: make it longer");
    assert_every_thud_once(&onsets(&cloud, START_US), rounds);
    let all = thuds(rounds).len();
    cloud.look(|r| {
        assert_eq!(r.detections.len(), all);
        let without_clip = r.detections.values().filter(|d| d.clip.is_none()).count();
        assert_eq!(without_clip, 0, "{}", place.log());
    });
    assert_eq!(server.lock().expect("fine").all_stored.len(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_sound_leaves_no_memory_and_no_files_behind() {
    let Some(broker) = broker() else { return };
    let (server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let hours = size(2, 24) as usize;
    let source = format!(
        "kind = \"dir\"\npath = \"NIGHT.d\"\nspeed = \"max\"\nstart_time = \"{START}\"\n\
         [ring]\nkeep = \"1h\"\n[telemetry]\ninterval = \"1s\""
    );
    let place = Place::new(&source, &broker.url(), &url);
    // Two minutes with events and eighteen without, again and again, as a directory of recordings. The
    // whole day is heard by a model that ships, a part of it by the quick detector of thuds.
    let (night, quiet) =
        (place.directory.path().join("night.wav"), place.directory.path().join("quiet.wav"));
    recording(&quiet, 1, &[]);
    let mut events_a_round = Some(thuds(1).len());
    if is_soak() {
        hear_shots_with_the_compact_model(&place, &night);
        events_a_round = None;
    }
    let recordings = place.directory.path().join("night.wav.d");
    std::fs::create_dir(&recordings).expect("made");
    let rounds = hours * 3_600 / ROUND;
    for round in 0..rounds {
        let sound = if round % ROUNDS_APART == 0 { &night } else { &quiet };
        std::fs::hard_link(sound, recordings.join(format!("{round:04}.wav"))).expect("linked");
    }
    let began = Instant::now();
    let mut child = place.start();
    let limit = Duration::from_secs(size(240, 7_200));
    // Resident memory by the twenty minutes that are being heard.
    let mut memory: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    while child.try_wait().expect("waits").is_none() {
        assert!(began.elapsed() < limit, "{}", place.log());
        let heard_us = cloud.look(|r| r.alert_times.values().max().copied());
        if let (Some(heard_us), Some(kib)) = (heard_us, resident_kib(child.id())) {
            memory.entry((heard_us - START_US) / SPAN_US).or_default().push(kib);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(1)));
    let all = cloud.look(|r| r.alert_times.len());
    let loud = rounds / ROUNDS_APART;
    // Each loud recording is the same, and so is what is heard in it.
    let expected = events_a_round.unwrap_or(all / loud) * loud;
    assert!(all == expected && all > 0, "{all} alerts instead of {expected}");
    assert_eq!(server.lock().expect("fine").all_stored.len(), all, "every clip");

    let median = |of: &mut Vec<u64>| {
        of.sort_unstable();
        of[of.len() / 2]
    };
    let typical: Vec<u64> = memory.values_mut().map(median).collect();
    // The first hour fills what is kept in memory anyway.
    let (settled, last) = (typical[3], typical[typical.len() - 1]);
    eprintln!(
        "{hours} h in {:.0} s; median of resident memory every 20 min, KiB: {typical:?}",
        began.elapsed().as_secs_f64()
    );
    assert!(last < settled + 2_048, "memory grows from {settled} to {last} KiB: {typical:?}");
    let left = files_below(&place.data());
    let of = |part: &str| left.iter().filter(|path| path.contains(part)).count();
    assert_eq!(of("/clips/"), 0, "{left:#?}");
    assert_eq!(of(".draft"), 0, "{left:#?}");
    // An hour of ring: four pieces of half a minute a recording, and what is left at its end.
    assert!(of("/ring/") <= 160, "{} pieces of the ring", of("/ring/"));
    assert!(left.len() - of("/ring/") <= 12, "{left:#?}");
}

/// Gives the station the compact model, and a forest with shots in it for its recording.
fn hear_shots_with_the_compact_model(place: &Place, night: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/artifacts");
    let name = std::fs::read_to_string(shipped.join("COMPACT")).expect("named");
    let text = std::fs::read_to_string(&place.config).expect("reads");
    let thuds = place.directory.path().join("bundle").display().to_string();
    let compact = shipped.join(name.trim()).display().to_string();
    write(&place.config, text.replace(&thuds, &compact).as_bytes());
    let scene = SceneConfig {
        seed: 7,
        duration_s: Some(ROUND as f64),
        shots_per_hour: 120.0,
        first_shot_s: Some(10.0),
        distance_m: 80.0..=200.0,
        distractors: false,
        ..SceneConfig::default()
    };
    let mut sound = vec![0.0; ROUND * 16_000];
    Scene::new(scene).render(&mut sound);
    write_sound(night, &sound);
}

/// Rounds from one with events to the next.
const ROUNDS_APART: usize = 10;
const SPAN_US: i64 = (ROUNDS_APART * ROUND) as i64 * 1_000_000;

/// Resident memory of a process.
fn resident_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("reads") {
        let path = entry.expect("reads").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_sixteen_megabytes_never_stops_the_station_and_loses_no_alert() {
    let Some(mut broker) = broker() else { return };
    broker.stop().expect("stops");
    let (_server, url) = uploads::serve(&[]).await;
    let source = format!(
        "kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nstart_time = \"{START}\"\nat_end = \"stay\""
    );
    let rounds = size(12, 120) as usize;
    let place = Place::with_rounds(&source, &broker.url(), &url, rounds);
    let Some(_disk) = Mount::memory("16m", &place.data()) else { return };
    let mut child = place.start();
    let started = Instant::now();
    let limit = Duration::from_secs(size(120, 1_200));
    let last =
        format!("{:.0}", START_US as f64 / 1e6 + f64::from(*thuds(rounds).last().expect("some")));
    while !heard_to_the_end(&place, &last).await {
        assert!(child.try_wait().expect("waits").is_none(), "it stopped\n{}", place.log());
        assert!(started.elapsed() < limit, "{}", place.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let log = place.log();
    assert!(log.contains("clip not kept") || log.contains("clip given up"), "the disk was full");
    broker.run().expect("comes back");
    let cloud = Cloud::start(&broker, "cloud", true);
    let all = thuds(rounds).len();
    until("every alert", async || cloud.look(|r| r.alert_times.len() == all)).await;
    assert_every_thud_once(&onsets(&cloud, START_US), rounds);
    terminate(&child);
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(11)));
}

/// Whether the alert of the last thud, at `second` of 1970, is written.
async fn heard_to_the_end(place: &Place, second: &str) -> bool {
    let second: i64 = second.parse().expect("a number");
    let around = (second - 2) * 1_000_000;
    let traces = ecosight_agent::trace::read(&place.data(), around, around + 4_000_000).await;
    // The trace is written once a minute; the log says it sooner.
    traces.is_ok_and(|traces| !traces.events.is_empty())
        || place.log().matches(" alert ").count() >= thuds(1).len() * place.rounds
}
