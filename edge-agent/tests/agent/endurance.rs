//! Weeks in the tree, in minutes: outages, kills, power cuts and a full disk.
//!
//! Each test has a size that fits every run, and the one of the promise, which `make soak` runs
//! (ECOSIGHT_SOAK=1).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecosight_shared::Kind;
use tempfile::{TempDir, tempdir};

use crate::outbox::Child;
use crate::station::{
    Place, ROUND, START, START_US, assert_every_thud_once, onsets, recording, terminate, thuds,
    write,
};
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

/// How the power goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// What was flushed is on the disk, and nothing else.
    Clean,
    /// And the sectors that were being written when it went hold zeros.
    Torn,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_nothing_that_was_called_durable() {
    power_cuts(Cut::Clean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_in_the_middle_of_a_write_takes_nothing_that_was_called_durable() {
    // To catch a writer between a write and its word takes a machine that does little else.
    if size(0, 1) == 0 {
        eprintln!("skipped: a part of `make soak`");
        return;
    }
    power_cuts(Cut::Torn).await;
}

/// Cuts the power of a writer on a disk in memory, whose image is copied while the writer stands still:
/// what was not flushed is not in the copy.
async fn power_cuts(how: Cut) {
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
    let (mut torn, mut slowest) = (0, Duration::ZERO);
    for boot in 1..=cuts {
        let Some(mounted) = Mount::new(&["-o", "loop", &path(&image)], &disk) else { return };
        let child = Child::start(&disk, boot);
        tokio::time::sleep(Duration::from_millis(200 + random.below(500))).await;
        let left = match how {
            Cut::Clean => {
                child.stop();
                std::fs::read(&image).expect("the image")
            }
            Cut::Torn => {
                let (left, sectors) = tear(&image, &child, &mut random);
                torn += sectors;
                left
            }
        };
        said.extend(child.kill());
        drop(mounted);
        write(&copy, &left);
        std::fs::rename(&copy, &image).expect("the power is back");
        let Some(mounted) = Mount::new(&["-o", "loop", &path(&image)], &disk) else {
            panic!("cut {boot}: the file system itself is lost");
        };
        let began = Instant::now();
        let open = Open::at(&disk, boot + 1, QUOTA).await;
        slowest = slowest.max(began.elapsed());
        assert!(slowest < Duration::from_secs(5), "opens quickly");
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
    eprintln!(
        "{cuts} power cuts ({how:?}), {torn} sectors zeroed, {} records called durable, none lost; \
         opened within {} ms",
        said.len(),
        slowest.as_millis()
    );
    assert!(said.len() > 20 * cuts as usize, "the writer got to write: {}", said.len());
    assert!(how == Cut::Clean || torn >= cuts as usize, "something was being written");
}

const SECTOR: usize = 512;

/// Lets the writer on by moments until it has written what it has not called durable yet; gives the image
/// with just those sectors zeroed, and how many they are.
fn tear(image: &Path, child: &Child, random: &mut Random) -> (Vec<u8>, usize) {
    let read = || std::fs::read(image).expect("the image");
    let mut said = child.stop();
    let mut before = read();
    for _ in 0..2_000 {
        child.go_on();
        std::thread::sleep(Duration::from_micros(random.below(800)));
        let mut now = child.stop();
        let mut left = read();
        let newest: Vec<usize> = (0..left.len())
            .step_by(8 * SECTOR)
            .filter(|page| left[*page..page + 8 * SECTOR] != before[*page..page + 8 * SECTOR])
            .flat_map(|page| (page..page + 8 * SECTOR).step_by(SECTOR))
            .filter(|at| left[*at..at + SECTOR] != before[*at..at + SECTOR])
            .collect();
        if now == said && !newest.is_empty() {
            // The last words of a writer that stands may still be on their way.
            std::thread::sleep(Duration::from_millis(50));
            now = child.stop();
            if now == said {
                for at in &newest {
                    left[*at..at + SECTOR].fill(0);
                }
                return (left, newest.len());
            }
        }
        (said, before) = (now, left);
    }
    panic!("the writer writes nothing");
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
    // Two minutes with thuds and eighteen without, again and again, as a directory of recordings.
    let (night, quiet) =
        (place.directory.path().join("night.wav"), place.directory.path().join("quiet.wav"));
    recording(&quiet, 1, &[]);
    let recordings = place.directory.path().join("night.wav.d");
    std::fs::create_dir(&recordings).expect("made");
    let rounds = hours * 3_600 / ROUND;
    for round in 0..rounds {
        let sound = if round % ROUNDS_APART == 0 { &night } else { &quiet };
        std::fs::hard_link(sound, recordings.join(format!("{round:04}.wav"))).expect("linked");
    }
    let began = Instant::now();
    let mut child = place.start();
    let limit = Duration::from_secs(size(240, 3_600));
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
    let all = rounds / ROUNDS_APART * thuds(1).len();
    cloud.look(|r| assert_eq!(r.alert_times.len(), all, "every alert"));
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

/// Rounds from one with thuds to the next.
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
