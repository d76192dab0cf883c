//! Weeks in the tree, in minutes: outages, kills, power cuts and a full disk.
//!
//! Each test has a size that fits every run, and the one of the promise, which `make soak` runs
//! (ECOSIGHT_SOAK=1).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecosight_shared::Kind;
use tempfile::{TempDir, tempdir};

use crate::outbox::Child;
use crate::station::{Place, START, START_US, assert_every_thud_once, onsets, terminate, thuds};
use crate::support::{Open, QUOTA, Random, alert, silent_detection, telemetry, until};
use crate::uplink::{Cloud, broker, start};
use crate::uploads;

/// The size of the promise under `make soak`, else the one of every day.
fn size(every_day: u64, promised: u64) -> u64 {
    let soak = std::env::var("ECOSIGHT_SOAK").is_ok_and(|value| value == "1");
    if soak { promised } else { every_day }
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
        if kills % 50 == 0 {
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

/// A file system of its own, unmounted at the end.
struct Mount {
    at: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status =
        Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Mount {
    /// Mounts, or says that this user may not.
    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("made");
        let place = at.display().to_string();
        if !run("mount", &[arguments, &[place.as_str()]].concat()) {
            eprintln!("skipped: this user may not mount {arguments:?}");
            return None;
        }
        Some(Self { at: at.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        if !run("umount", &[&at]) {
            run("umount", &["-l", &at]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_nothing_that_was_called_durable() {
    // A disk in memory, whose image is copied while the writer stands still: what was not flushed
    // is not in the copy, as after a power cut.
    let folder: TempDir = tempdir().expect("a directory");
    let Some(memory) =
        Mount::new(&["-t", "tmpfs", "-o", "size=200m", "none"], &folder.path().join("memory"))
    else {
        return;
    };
    let (image, copy) = (memory.at.join("image"), memory.at.join("copy"));
    let path = |path: &Path| path.display().to_string();
    let made =
        run("truncate", &["-s", "48M", &path(&image)]) && run("mkfs.ext4", &["-q", &path(&image)]);
    if !made {
        eprintln!("skipped: needs mkfs.ext4");
        return;
    }
    let mut random = Random(0xc07);
    let mut said: Vec<(u32, u32)> = Vec::new();
    let cuts = size(3, 100) as u32;
    let disk = folder.path().join("disk");
    for boot in 1..=cuts {
        let Some(mounted) = Mount::new(&["-o", "loop", &path(&image)], &disk) else { return };
        let child = Child::start(&disk, boot);
        tokio::time::sleep(Duration::from_millis(200 + random.below(500))).await;
        let id = child.id().to_string();
        assert!(run("kill", &["-STOP", &id]), "stopped");
        assert!(run("cp", &["--sparse=always", &path(&image), &path(&copy)]), "cut");
        said.extend(child.kill());
        drop(mounted);
        std::fs::rename(&copy, &image).expect("the power is back");
        let Some(mounted) = Mount::new(&["-o", "loop", &path(&image)], &disk) else { return };
        let began = Instant::now();
        let open = Open::at(&disk, boot + 1, QUOTA).await;
        assert!(began.elapsed() < Duration::from_secs(5), "opens quickly");
        let kept: std::collections::BTreeSet<(u32, u32)> =
            open.rows().await.iter().map(|row| (row.boot, row.seq)).collect();
        let lost = said.iter().filter(|key| !kept.contains(key)).count();
        assert_eq!(lost, 0, "cut {boot}: {lost} of {} records are lost", said.len());
        // Room for the next rounds.
        if kept.len() > 20_000 {
            let all = ecosight_shared::SeqRange { boot, first: 1, last: u32::MAX };
            open.outbox.release(vec![all]).await.expect("done");
            said.retain(|(said_boot, _)| *said_boot != boot);
        }
        open.close().await;
        drop(mounted);
    }
    eprintln!("{cuts} power cuts, {} records called durable, none lost", said.len());
    assert!(said.len() > 20 * cuts as usize, "the writer got to write: {}", said.len());
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
    let Some(_disk) = Mount::new(&["-t", "tmpfs", "-o", "size=16m", "none"], &place.data()) else {
        return;
    };
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
