//! The laws of the outbox, one by one.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ecosight_agent::clip::ClipFile;
use ecosight_agent::clip::Recording;
use ecosight_agent::clock::Clock;
use ecosight_agent::config::Config;
use ecosight_agent::health::{Health, Loss};
use ecosight_agent::hearing::{Heard, Onset, channel};
use ecosight_agent::outbox::{
    Damaged, Draft, FILE, Opened, OutboxError, Priority, Quota, ReplayPosition, Stamped, Written,
};
use ecosight_agent::recorder::{Recorder, Storage};
use ecosight_agent::resume::Resume;
use ecosight_agent::station;
use ecosight_shared::{
    ClipFormat, ClipRef, Envelope, EventId, Kind, Message, RecordId, SeqRange, TimeQuality,
};
use proptest::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::tempdir;

use crate::mount::Mount;
use crate::support::{
    DEVICE, Open, QUOTA, Random, START_US, alert, detection, event, identity, silent_detection,
    telemetry,
};

fn range(boot: u32, first: u32, last: u32) -> SeqRange {
    SeqRange { boot, first, last }
}

fn clip(name: &str) -> ClipFile {
    let reference =
        ClipRef { sha256: [7; 32], bytes: 1_000, duration_ms: 10_000, format: ClipFormat::Flac };
    ClipFile { name: name.to_owned(), reference }
}

fn position(sample: u64) -> ReplayPosition {
    let ends = BTreeMap::from([("gun_shot".to_owned(), sample)]);
    ReplayPosition { stream: "test".into(), sample, item: 3, item_start: 10, ends }
}

/// Rows as (boot, seq).
async fn keys(open: &Open) -> Vec<(u32, u32)> {
    open.rows().await.iter().map(|row| (row.boot, row.seq)).collect()
}

// Law 1: a record leaves only on a receipt, or over the quota.

#[tokio::test]
async fn only_what_a_receipt_covers_leaves() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    open.outbox.append((0..6).map(alert).collect(), None).await.expect("written");
    assert_eq!(open.outbox.release(vec![range(1, 2, 3), range(1, 6, 9)]).await.expect("done"), 3);
    assert_eq!(keys(&open).await, [(1, 1), (1, 4), (1, 5)]);
    // Of another boot, empty, and once more: nothing.
    let again = vec![range(2, 1, 9), range(1, 5, 4), range(1, 2, 3)];
    assert_eq!(open.outbox.release(again).await.expect("done"), 0);
    open.close().await;
    let open = Open::at(directory.path(), 2, QUOTA).await;
    assert_eq!(keys(&open).await, [(1, 1), (1, 4), (1, 5)]);
    open.close().await;
}

#[tokio::test]
async fn over_the_quota_telemetry_goes_first_and_alerts_last() {
    let directory = tempdir().expect("a directory");
    let quota = Quota { records: 6, telemetry: 3 };
    let open = Open::at(directory.path(), 1, quota).await;
    let kinds = |rows: Vec<ecosight_agent::outbox::Row>| {
        rows.iter().map(|row| (row.priority, row.seq)).collect::<Vec<_>>()
    };
    open.outbox.append((0..4).map(telemetry).collect(), None).await.expect("written");
    assert_eq!(
        kinds(open.rows().await),
        [2, 3, 4].map(|seq| (Priority::Telemetry, seq)),
        "telemetry has a quota of its own"
    );
    open.outbox.append(vec![alert(5), silent_detection(6)], None).await.expect("written");
    open.outbox.append(vec![alert(7), silent_detection(8)], None).await.expect("written");
    assert_eq!(
        kinds(open.rows().await),
        [
            (Priority::Alert, 5),
            (Priority::Alert, 7),
            (Priority::Detection, 6),
            (Priority::Detection, 8),
            (Priority::Telemetry, 3),
            (Priority::Telemetry, 4)
        ]
    );
    open.outbox.append((9..13).map(alert).collect(), None).await.expect("written");
    assert_eq!(kinds(open.rows().await), [5, 7, 9, 10, 11, 12].map(|seq| (Priority::Alert, seq)));
    open.outbox.append(vec![alert(13)], None).await.expect("written");
    assert_eq!(kinds(open.rows().await), [7, 9, 10, 11, 12, 13].map(|seq| (Priority::Alert, seq)));
    assert_eq!(open.outbox.level().await.expect("reads").dropped, [1, 2, 4]);
    open.close().await;
}

// Law 2: (boot, seq) is given once.

#[tokio::test]
async fn every_start_has_a_boot_of_its_own_whatever_is_lost() {
    let directory = tempdir().expect("a directory");
    let mut config = Config::default();
    config.storage.data_dir = directory.path().to_owned();
    let clock = Clock::from_fn(|| START_US);
    let start = async || {
        let started = station::start(&config, &clock).await.expect("starts");
        let written = started.outbox.append(vec![alert(1)], None).await.expect("written");
        let (id, boot) = (started.station.id, started.station.boot);
        assert_eq!(written[0].record, RecordId { device: id, boot, seq: 1 });
        drop(started.outbox);
        started.outbox_task.await.expect("no panic").expect("closes");
        (id, boot)
    };
    let (id, first) = start().await;
    assert_eq!((id, first + 1), start().await);
    // The outbox is lost: the station's file remembers.
    std::fs::remove_file(directory.path().join(FILE)).expect("removed");
    assert_eq!((id, first + 2), start().await);
    // The station's file is lost: a new station, but the outbox remembers the boots.
    std::fs::remove_file(directory.path().join(station::IDENTITY_FILE)).expect("removed");
    let (other, boot) = start().await;
    assert_ne!(other, id);
    assert_eq!(boot, first + 3);
}

#[tokio::test]
async fn two_agents_cannot_share_a_data_directory() {
    let directory = tempdir().expect("a directory");
    let mut config = Config::default();
    config.storage.data_dir = directory.path().to_owned();
    let clock = Clock::from_fn(|| START_US);
    let _first = station::start(&config, &clock).await.expect("starts");
    let error = station::start(&config, &clock).await.err().expect("refused");
    assert!(error.to_string().contains("another agent"), "{error}");
}

// Law 3: all or nothing.

#[tokio::test]
async fn an_event_goes_through_its_life_in_whole_steps() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let written = open.outbox.append(vec![alert(1)], Some(position(5))).await.expect("written")[0];
    assert_eq!(written.event, EventId::of(written.record, START_US + 1_000_000));
    open.close().await;

    let open = Open::at(directory.path(), 2, QUOTA).await;
    let events = open.outbox.open_events().await.expect("reads");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, written.event);
    assert_eq!(events[0].known.onset_sample, 16_000);
    assert_eq!(open.outbox.replay_position().await.expect("reads"), Some(position(5)));
    let row = &open.rows().await[0];
    let envelope = Envelope::decode(&row.envelope).expect("an envelope");
    assert_eq!(envelope.message.kind(), Kind::Alert);
    assert!(row.envelope.len() <= ecosight_shared::ALERT_FRAME_MAX_LEN);
    let document = row.document.as_deref().expect("a document");
    assert!(document.contains(&written.event.to_string()), "{document}");

    let closing = Stamped {
        draft: Draft::Detection {
            detection: Box::new(detection(written.event)),
            alerted: true,
            clip: Some(clip("a.flac")),
        },
        ..alert(1)
    };
    open.outbox.append(vec![closing], Some(position(9))).await.expect("written");
    assert!(open.outbox.open_events().await.expect("reads").is_empty());
    assert_eq!(open.outbox.replay_position().await.expect("reads"), Some(position(9)));
    let clips = open.outbox.clips().await.expect("reads");
    assert_eq!((clips[0].event, clips[0].name.as_str()), (written.event, "a.flac"));
    open.outbox.forget_clip(written.event).await.expect("done");
    assert!(open.outbox.clips().await.expect("reads").is_empty());
    open.close().await;
}

#[tokio::test]
async fn an_event_that_did_not_alert_has_the_id_of_its_own_record() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let written = open.outbox.append(vec![silent_detection(3)], None).await.expect("written")[0];
    let rows = open.rows().await;
    let Message::Detection(detection) =
        Envelope::decode(&rows[0].envelope).expect("decodes").message
    else {
        panic!("no detection")
    };
    assert_eq!(detection.event, written.event);
    assert_eq!(written.event, EventId::of(written.record, START_US + 3_000_000));
    open.close().await;
}

/// Runs in a child: writes alerts with a replay position each and says which are written.
#[tokio::test]
#[ignore = "the child of the kill test"]
async fn child_that_is_killed() {
    let Ok(directory) = std::env::var(Child::DIRECTORY) else { return };
    let boot = std::env::var(Child::BOOT).expect("set").parse().expect("a number");
    let open = Open::at(Path::new(&directory), boot, QUOTA).await;
    let mut number = 0;
    loop {
        number += 1;
        let batch = (0..number % 5 + 1).map(|_| alert(number)).collect();
        let written = open.outbox.append(batch, Some(position(number))).await.expect("written");
        say(&written, number);
    }
}

/// Says which records were called durable.
pub(crate) fn say(written: &[Written], number: u64) {
    let mut out = std::io::stdout().lock();
    for Written { record, .. } in written {
        writeln!(out, "wrote {} {} {number}", record.boot, record.seq).expect("said");
    }
    out.flush().expect("said");
}

/// A process that writes records and says which it was told are durable.
pub(crate) struct Child {
    process: std::process::Child,
    said: std::thread::JoinHandle<Vec<(u32, u32, u64)>>,
    lines: Arc<AtomicUsize>,
}

impl Child {
    /// Variables that tell it what to do.
    pub(crate) const DIRECTORY: &str = "ECOSIGHT_CHILD_DIRECTORY";
    pub(crate) const BOOT: &str = "ECOSIGHT_CHILD_BOOT";

    /// Starts it on the outbox in `directory` as the start numbered `boot`.
    fn start(directory: &Path, boot: u32) -> Self {
        Self::start_as("outbox::child_that_is_killed", directory, boot)
    }

    /// The same with the test of this name as the program.
    pub(crate) fn start_as(test: &str, directory: &Path, boot: u32) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(Self::DIRECTORY, directory)
            .env(Self::BOOT, boot.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let out = BufReader::new(process.stdout.take().expect("piped"));
        let lines = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lines);
        let said = std::thread::spawn(move || {
            let count = |_: &(u32, u32, u64)| {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            let lines = out.lines().map_while(Result::ok);
            let numbers = |line: String| -> Option<(u32, u32, u64)> {
                let mut words = line.strip_prefix("wrote ")?.split(' ');
                let mut next = || words.next()?.parse::<u64>().ok();
                Some((next()? as u32, next()? as u32, next()?))
            };
            lines.filter_map(numbers).inspect(count).collect()
        });
        Self { process, said, lines }
    }

    /// Stops it where it is; gives how many records it is known to have called durable until then. It may
    /// have said more, which is still in the pipe: what [`Child::kill`] gives is all of it.
    pub(crate) fn stop(&self) -> usize {
        self.signal(Signal::STOP);
        // Threads stop when they come back from the kernel.
        std::thread::sleep(Duration::from_millis(5));
        self.lines.load(Ordering::Relaxed)
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.process);
        kill_process(id, signal).expect("it runs");
    }

    /// Kills it; gives boot, number and position of what was durable.
    fn kill_with_positions(mut self) -> Vec<(u32, u32, u64)> {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
        self.said.join().expect("read")
    }

    /// Kills it; gives boot and number of what was durable.
    pub(crate) fn kill(self) -> Vec<(u32, u32)> {
        let said = self.kill_with_positions();
        said.into_iter().map(|(boot, seq, _)| (boot, seq)).collect()
    }
}

#[tokio::test]
async fn what_was_written_survives_kill_9_at_any_moment() {
    let directory = tempdir().expect("a directory");
    let seed = 0x5eed;
    let mut random = Random(seed);
    let mut said: Vec<(u32, u32, u64)> = Vec::new();
    for boot in 1..=8 {
        let child = Child::start(directory.path(), boot);
        std::thread::sleep(Duration::from_millis(150 + random.below(250)));
        let lines = child.kill_with_positions();
        let last = lines.last().map_or(0, |line| line.2);
        said.extend(lines);

        let began = Instant::now();
        let open = Open::at(directory.path(), boot + 1, QUOTA).await;
        assert!(began.elapsed() < Duration::from_secs(5), "opens quickly");
        let keys = keys(&open).await;
        let mut unique = keys.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), keys.len(), "seed {seed:#x}: no number twice");
        for (boot, seq, _) in &said {
            assert!(keys.contains(&(*boot, *seq)), "seed {seed:#x}: lost {boot}/{seq}");
        }
        // Records and position of one request are there together: the position tells how many
        // records of this boot there are.
        let position = open.outbox.replay_position().await.expect("reads").expect("written");
        let expected: u64 = (1..=position.sample).map(|n| n % 5 + 1).sum();
        let found = keys.iter().filter(|(b, _)| *b == boot).count() as u64;
        assert_eq!(found, expected, "seed {seed:#x}: half a request");
        assert!(position.sample >= last, "seed {seed:#x}");
        open.close().await;
    }
    assert!(said.len() > 50, "the children got to write: {}", said.len());
}

// Law 4: the most urgent first, then the oldest.

#[tokio::test]
async fn records_come_by_urgency_then_age() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let records = vec![telemetry(1), silent_detection(2), alert(3), telemetry(4), alert(5)];
    open.outbox.append(records, None).await.expect("written");
    assert_eq!(keys(&open).await, [(1, 3), (1, 5), (1, 2), (1, 1), (1, 4)]);
    let first = open.outbox.next(Priority::Alert, 0, 1).await.expect("reads");
    let second = open.outbox.next(Priority::Alert, first[0].id, 9).await.expect("reads");
    assert_eq!(second.iter().map(|row| row.seq).collect::<Vec<_>>(), [5]);
    open.close().await;
}

// Law 6: a damaged file is kept aside, and the agent starts.

/// An outbox with `count` alerts, closed.
async fn filled(directory: &Path, count: u64) {
    let open = Open::at(directory, 1, QUOTA).await;
    open.outbox.append((0..count).map(alert).collect(), None).await.expect("written");
    open.close().await;
}

#[allow(clippy::disallowed_methods, reason = "damages a file on purpose")]
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_file_cut_anywhere_never_stops_the_station() {
    let whole = tempdir().expect("a directory");
    filled(whole.path(), 200).await;
    let bytes = std::fs::read(whole.path().join(FILE)).expect("reads");
    for cut in (0..bytes.len()).step_by(bytes.len() / 23) {
        let directory = tempdir().expect("a directory");
        overwrite(&directory.path().join(FILE), &bytes[..cut]);
        let open = Open::at(directory.path(), 7, QUOTA).await;
        let kept = open.rows().await.len();
        open.outbox.append(vec![alert(1)], None).await.expect("writes again");
        assert_eq!(open.rows().await.len(), kept + 1);
        open.close().await;
        let again = Open::at(directory.path(), 8, QUOTA).await;
        assert_eq!(again.rows().await.len(), kept + 1, "cut at {cut}");
        again.close().await;
    }
}

/// Noise over one page of records, which begin with their magic and have a document each.
fn damage_a_page_of_records(bytes: &mut [u8]) {
    let (pages, _) = bytes.as_chunks_mut::<4_096>();
    let of_records = |page: &[u8; 4_096]| {
        let count = |text: &[u8]| page.windows(text.len()).filter(|w| *w == text).count();
        count(&[0xEC, 0x51]) > 3 && count(b"schema") > 3
    };
    let mut pages: Vec<&mut [u8; 4_096]> = pages.iter_mut().filter(|p| of_records(p)).collect();
    let middle = pages.len() / 2;
    let mut random = Random(3);
    pages[middle].fill_with(|| random.next() as u8);
}

#[tokio::test]
async fn of_a_damaged_file_the_readable_records_are_taken_over_and_it_is_kept() {
    let directory = tempdir().expect("a directory");
    filled(directory.path(), 200).await;
    let path = directory.path().join(FILE);
    let mut bytes = std::fs::read(&path).expect("reads");
    damage_a_page_of_records(&mut bytes);
    overwrite(&path, &bytes);
    let opened = Opened::open(directory.path(), START_US).await.expect("opens");
    let Damaged { aside, records: taken, .. } = opened.found.damaged.clone().expect("was damaged");
    assert_eq!(opened.found.last_boot, 1);
    assert_eq!(std::fs::read(&aside).expect("kept").len(), bytes.len());
    assert!(taken > 0 && taken < 200, "{taken} of 200 taken over");
    let (outbox, task) = opened.start(DEVICE, 2, QUOTA);
    let task = tokio::spawn(task);
    let rows = outbox.next(Priority::Alert, 0, 1_000).await.expect("reads");
    assert_eq!(rows.len() as u64, taken);
    assert!(rows.iter().all(|row| Envelope::decode(&row.envelope).is_ok()));
    drop(outbox);
    task.await.expect("no panic").expect("closes");
}

#[tokio::test]
async fn of_a_damaged_file_the_clips_that_wait_are_taken_over_and_no_file_of_them_is_swept() {
    let directory = tempdir().expect("a directory");
    let mut config = Config::default();
    config.storage.data_dir = directory.path().to_owned();
    let clock = Clock::from_fn(|| START_US);
    let started = station::start(&config, &clock).await.expect("starts");
    let outbox = started.outbox;
    let alerts = outbox.append((0..300).map(alert).collect(), Some(position(7))).await;
    let alerts = alerts.expect("written");
    let files: Vec<String> = (0..20).map(|number| format!("gun_shot-{number}.flac")).collect();
    for (name, alert) in files.iter().zip(&alerts) {
        let detection = Box::new(detection(alert.event));
        let draft = Draft::Detection { detection, alerted: true, clip: Some(clip(name)) };
        let closing = Stamped { draft, unix_us: START_US, time_quality: TimeQuality::Network };
        outbox.append(vec![closing], None).await.expect("written");
        crate::station::write(&started.storage.clips.join(name), b"sound");
    }
    crate::station::write(&started.storage.clips.join("forgotten.flac"), b"sound");
    let open_events = outbox.open_events().await.expect("reads");
    drop((outbox, started.station));
    started.outbox_task.await.expect("no panic").expect("closes");

    let path = directory.path().join(FILE);
    let mut bytes = std::fs::read(&path).expect("reads");
    damage_a_page_of_records(&mut bytes);
    overwrite(&path, &bytes);
    let started = station::start(&config, &clock).await.expect("starts");
    let clips = started.outbox.clips().await.expect("reads");
    let mut names: Vec<String> = clips.iter().map(|clip| clip.name.clone()).collect();
    names.sort_unstable();
    let mut expected = files.clone();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(clips.iter().all(|clip| alerts.iter().any(|alert| alert.event == clip.event)));
    assert_eq!(started.outbox.open_events().await.expect("reads"), open_events);
    assert_eq!(started.outbox.replay_position().await.expect("reads"), Some(position(7)));
    for name in files.iter().map(String::as_str).chain(["forgotten.flac"]) {
        assert!(started.storage.clips.join(name).is_file(), "{name} was swept");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_kept_aside() {
    let directory = tempdir().expect("a directory");
    overwrite(&directory.path().join(FILE), &[b'x'; 10_000]);
    let opened = Opened::open(directory.path(), START_US).await.expect("opens");
    let Damaged { aside, records, .. } = opened.found.damaged.expect("was damaged");
    assert_eq!((std::fs::read(aside).expect("kept"), records), (vec![b'x'; 10_000], 0));
}

#[tokio::test]
async fn a_torn_end_of_the_log_costs_only_what_was_never_confirmed() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    open.outbox.append((0..20).map(alert).collect(), None).await.expect("written");
    // Copied while open, as after a power cut.
    let files = [FILE.to_owned(), format!("{FILE}-wal")];
    let [database, wal] =
        files.clone().map(|name| std::fs::read(directory.path().join(name)).expect("reads"));
    open.close().await;
    for cut in 1..40 {
        let copy = tempdir().expect("a directory");
        overwrite(&copy.path().join(&files[0]), &database);
        overwrite(&copy.path().join(&files[1]), &wal[..wal.len() - cut * wal.len() / 40]);
        let open = Open::at(copy.path(), 2, QUOTA).await;
        let count = open.rows().await.len();
        assert!(count == 0 || count == 20, "one request is whole or not at all: {count}");
        open.close().await;
    }
}

#[tokio::test]
async fn any_name_is_a_place_for_an_outbox() {
    let folder = tempdir().expect("a directory");
    for name in ["a b", "50%41", "what?psow=1&mode=ro", "no#1", "wälder", "file:", "a'b\"c"] {
        let directory = folder.path().join(name);
        std::fs::create_dir(&directory).expect("made");
        filled(&directory, 3).await;
        let survey = ecosight_agent::outbox::survey(&directory).await;
        assert_eq!((survey.records.get(&1), survey.problem), (Some(&3), None), "{name}");
        let open = Open::at(&directory, 2, QUOTA).await;
        assert_eq!(open.rows().await.len(), 3, "{name}");
        assert!(directory.join(format!("{FILE}-wal")).is_file(), "{name}");
        open.close().await;
        let mut bytes = std::fs::read(directory.join(FILE)).expect("reads");
        let last = bytes.len() - 4_096;
        bytes[last..].fill(0xAA);
        overwrite(&directory.join(FILE), &bytes);
        let found = Opened::open(&directory, START_US).await.expect("opens").found;
        let damaged = found.damaged.expect("was damaged");
        assert_eq!(damaged.aside.parent(), Some(directory.as_path()), "{name}");
        assert_eq!(damaged.records, 3, "{name}: what is left of it is read");
    }
    let left = std::fs::read_dir(folder.path()).expect("reads").count();
    assert_eq!(left, 7, "nothing lies beside them");
}

#[tokio::test]
async fn a_file_of_a_newer_agent_is_left_alone() {
    let directory = tempdir().expect("a directory");
    filled(directory.path(), 1).await;
    let path = directory.path().join(FILE);
    let status = Command::new("python3")
        .args([
            "-c",
            "import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version=9')",
        ])
        .arg(&path)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs python3 with sqlite3");
        return;
    }
    let error = Opened::open(directory.path(), START_US).await.expect_err("refused");
    assert!(matches!(error, OutboxError::Newer { found: 9, .. }), "{error}");
}

// A full disk.

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_alerts_wait_and_none_is_lost() {
    let folder = tempdir().expect("a directory");
    let Some(disk) = Mount::memory("8m", folder.path()) else { return };
    let directory = disk.at.as_path();
    let open = Open::at(directory, 1, QUOTA).await;
    let health = Arc::new(Health::default());
    let (tell, told) = channel();
    let recording = tokio::spawn(recorder(&open, directory, &health).run(told));
    let filler = directory.join("filler");
    fill(&filler);
    let time = Onset { unix_us: START_US, quality: TimeQuality::Network };
    let events = 300;
    for number in 1..=events {
        let event = event(number, 0, number * 160_000, number * 160_000 + 16_000);
        let copy = event.clone();
        tell.send(Heard::Confirmed { event: copy, time }).await.expect("listens");
        let recording = Some(Recording { samples: vec![1; 16_000], time, redacted: Vec::new() });
        tell.send(Heard::Closed { event, time, recording }).await.expect("listens");
        if number == events / 2 {
            // The station hears on while it cannot write.
            tokio::time::sleep(Duration::from_secs(1)).await;
            std::fs::remove_file(&filler).expect("removed");
        }
    }
    drop(tell);
    recording.await.expect("no panic").expect("all written in the end");
    let rows = open.rows().await;
    let of = |priority| rows.iter().filter(|row| row.priority == priority).count() as u64;
    assert_eq!((of(Priority::Alert), of(Priority::Detection)), (events, events));
    assert!(health.lost_so_far(Loss::Clip) > 0, "the disk was really full");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_full_of_records_telemetry_goes_then_detections_and_no_alert() {
    let folder = tempdir().expect("a directory");
    let Some(disk) = Mount::memory("16m", folder.path()) else { return };
    let directory = disk.at.as_path();
    let quota = Quota { records: u64::MAX, telemetry: u64::MAX };
    let open = Open::at(directory, 1, quota).await;
    let (mut telemetries, mut detections) = (0, 0);
    for batch in 0.. {
        let is_telemetry = batch % 10 == 0;
        let record = if is_telemetry { telemetry } else { silent_detection };
        match open.outbox.append((0..100).map(record).collect(), None).await {
            Ok(_) if is_telemetry => telemetries += 100,
            Ok(_) => detections += 100,
            // At first by what is kept for this and by folding the log.
            Err(OutboxError::Full) => match open.outbox.make_room().await.expect("makes room") {
                0 => {}
                _ => break,
            },
            Err(error) => panic!("{error}"),
        }
    }
    let health = Arc::new(Health::default());
    let (tell, told) = channel();
    let recording = tokio::spawn(recorder(&open, directory, &health).run(told));
    let time = Onset { unix_us: START_US, quality: TimeQuality::Network };
    // Until they have taken more room than all telemetry has.
    let (mut events, mut emptied, mut over) = (0, false, 0);
    while over < 100 {
        events += 1;
        assert!(events < 20_000, "the disk never was too small");
        let event = event(events, 0, events * 160_000, events * 160_000 + 16_000);
        tell.send(Heard::Confirmed { event: event.clone(), time }).await.expect("listens");
        tell.send(Heard::Closed { event, time, recording: None }).await.expect("listens");
        let [_, gone, telemetry_gone] = open.outbox.level().await.expect("reads").dropped;
        emptied |= telemetry_gone == telemetries;
        over += u64::from(gone > 0);
        assert!(gone == 0 || emptied, "{gone} detections went before the last telemetry");
    }
    drop(tell);
    recording.await.expect("no panic").expect("all written in the end");
    let dropped = open.outbox.level().await.expect("reads").dropped;
    let rows = open.rows().await;
    let of = |priority| rows.iter().filter(|row| row.priority == priority).count() as u64;
    let kept = Priority::ALL.map(of);
    assert_eq!(
        [0, 1, 2].map(|at| kept[at] + dropped[at]),
        [events, detections + events, telemetries],
        "each record is there, or counted"
    );
    assert_eq!(kept[0], events, "every alert");
    assert!(dropped[1] > 0 && kept[1] > 0 && kept[2] == 0, "kept {kept:?}, dropped {dropped:?}");
    assert_eq!(health.lost_so_far(Loss::Record), 0);
    open.close().await;
}

/// Writes into `open`, and its clips beside it; nothing is given up before the disk is full.
fn recorder(open: &Open, directory: &Path, health: &Arc<Health>) -> Recorder {
    let clips = directory.join("clips");
    std::fs::create_dir(&clips).expect("made");
    Recorder::new(
        identity(),
        Storage { clips, reserve: 0, max_clips: u64::MAX, reel: None },
        open.outbox.clone(),
        Arc::clone(health),
        "test".into(),
        Resume::default(),
        None,
    )
}

/// Takes all that is left of the disk.
fn fill(path: &Path) {
    let mut file =
        std::fs::OpenOptions::new().create_new(true).write(true).open(path).expect("made");
    let block = [0; 4_096];
    while file.write_all(&block).is_ok() {}
}

// All laws against a model.

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Release(u32, u32, u32),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(0_u8..3, 1..6).prop_map(Step::Append),
        3 => (1_u32..4, 1_u32..20, 0_u32..6).prop_map(|(b, f, n)| Step::Release(b, f, f + n)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_outbox_behaves_as_a_sorted_list(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()
            .expect("a runtime");
        runtime.block_on(async {
            let directory = tempdir().expect("a directory");
            let mut boot = 1;
            let mut seq = 0;
            let mut model: Vec<(u8, u32, u32)> = Vec::new();
            let mut open = Open::at(directory.path(), boot, QUOTA).await;
            for step in steps {
                match step {
                    Step::Append(kinds) => {
                        let records = kinds.iter().map(|kind| match kind {
                            0 => alert(1),
                            1 => silent_detection(1),
                            _ => telemetry(1),
                        });
                        open.outbox.append(records.collect(), None).await.expect("written");
                        for kind in kinds {
                            seq += 1;
                            model.push((kind, boot, seq));
                        }
                    }
                    Step::Release(boot, first, last) => {
                        open.outbox.release(vec![range(boot, first, last)]).await.expect("done");
                        model.retain(|(_, b, s)| *b != boot || !(first..=last).contains(s));
                    }
                    Step::Reopen => {
                        open.close().await;
                        boot += 1;
                        seq = 0;
                        open = Open::at(directory.path(), boot, QUOTA).await;
                    }
                }
                let mut expected = model.clone();
                expected.sort_by_key(|(kind, ..)| *kind);
                let found = keys(&open).await;
                let expected: Vec<(u32, u32)> = expected.iter().map(|(_, b, s)| (*b, *s)).collect();
                assert_eq!(found, expected);
                let level = open.outbox.level().await.expect("reads");
                assert_eq!(level.records as usize, expected.len());
            }
            open.close().await;
        });
    }
}
