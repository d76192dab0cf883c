//! Power cuts: ext4 in a file on a disk in memory, whose image is copied while the writer stands still. What
//! was not flushed is not in the copy.
//!
//! A torn cut goes further: the sectors that were being written hold zeros. Which they were is found by
//! letting the writer on for moments of less than a millisecond: all that changed in the image during the
//! last of them, if the writer has called nothing durable meanwhile. It is as if the flush that it waited for
//! had never come. Such a moment is no good if something was written in it that relies on a flush *within* it,
//! for then no disk can lose the one and have touched the other:
//!
//! - ext4 moves the beginning of its journal, in the journal's superblock, only when what was before it is
//!   flushed to its own place. A moment in which that superblock changed is passed over, and so is one in
//!   which the first blocks changed, with ext4's own superblock and the group descriptors: it reads them
//!   before its journal, and torn ones are a matter for fsck, which has copies of them. A commit block is no
//!   matter: it vouches for what stands beside it in the journal, which is lost with it.
//! - SQLite writes into the database file only what is flushed in its log, and begins the log anew only
//!   when the database file is flushed. A moment in which a checkpoint began or ended is passed over. One
//!   inside a checkpoint is good: the log holds all that it writes.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ecosight_agent::clip;
use ecosight_agent::clock::Clock;
use ecosight_agent::config::Config;
use ecosight_agent::outbox::{Draft, FILE, Stamped, Written};
use ecosight_agent::station::{self, Started};
use ecosight_shared::{SeqRange, TimeQuality};
use sha2::{Digest as _, Sha256};
use tempfile::{TempDir, tempdir};

use super::size;
use crate::mount::{Mount, cannot, run};
use crate::outbox::{Child, say};
use crate::station::write;
use crate::support::{Random, START_US, alert, detection};

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
    power_cuts(Cut::Torn).await;
}

async fn start(directory: &Path) -> Started {
    let mut config = Config::default();
    config.storage.data_dir = directory.to_owned();
    station::start(&config, &Clock::from_fn(|| START_US)).await.expect("the station starts")
}

/// A station that writes alerts, and their detections with clips, and says which are written.
#[tokio::test]
#[ignore = "the child whose power is cut"]
async fn child_whose_power_is_cut() {
    let Ok(directory) = std::env::var(Child::DIRECTORY) else { return };
    let Started { outbox, storage, station, .. } = start(Path::new(&directory)).await;
    let mut random = Random(u64::from(station.boot));
    for number in 1.. {
        let batch = (0..number % 5 + 1).map(|_| alert(number)).collect();
        let alerts = outbox.append(batch, None).await.expect("written");
        say(&alerts, number);
        let samples: Vec<i16> = (0..800).map(|_| random.next() as i16).collect();
        let stem = format!("gun_shot-{}-{number}", station.boot);
        let clip = clip::save(&storage.clips, &stem, &samples, "").expect("written");
        let detection = Box::new(detection(alerts[0].event));
        let draft = Draft::Detection { detection, alerted: true, clip: Some(clip) };
        let closing = Stamped { draft, unix_us: START_US, time_quality: TimeQuality::Network };
        let written: Vec<Written> = outbox.append(vec![closing], None).await.expect("written");
        say(&written, number);
    }
}

async fn power_cuts(how: Cut) {
    let folder: TempDir = tempdir().expect("a directory");
    let Some(memory) = Mount::memory("200m", &folder.path().join("memory")) else { return };
    let (image, copy) = (memory.at.join("image"), memory.at.join("copy"));
    let path = |path: &Path| path.display().to_string();
    // Small, because it is read again and again.
    let mebibytes = format!("{}M", size(24, 64));
    let made = run("truncate", &["-s", &mebibytes, &path(&image)])
        && run("mkfs.ext4", &["-q", &path(&image)]);
    if !made {
        cannot("there is no mkfs.ext4 (package e2fsprogs)");
        return;
    }
    let disk = folder.path().join("disk");
    let Some(mounted) = Mount::image(&image, &disk) else { return };
    let id = stop(start(&disk).await).await;
    drop(mounted);

    let mut random = Random(0xc07);
    let mut said: BTreeSet<(u32, u32)> = BTreeSet::new();
    let (mut called_durable, mut clips, mut torn, mut slowest) = (0, 0, 0, Duration::ZERO);
    let cuts = size(3, 100);
    for cut in 1..=cuts {
        let mounted = Mount::image(&image, &disk).expect("mounts as before");
        let child = Child::start_as("endurance::power::child_whose_power_is_cut", &disk, 0);
        tokio::time::sleep(Duration::from_millis(300 + random.below(500))).await;
        let (left, words) = match how {
            Cut::Clean => {
                child.stop();
                (still(&image), child.kill())
            }
            Cut::Torn => {
                let Moment { image: mut left, sectors, said } =
                    moment(&image, &disk, &child, &mut random);
                let words = child.kill();
                // A word that was still in the pipe makes it a moment that ended in the clear.
                if words.len() == said {
                    sectors.iter().for_each(|at| left[*at..at + SECTOR].fill(0));
                    torn += 1;
                }
                (left, words)
            }
        };
        called_durable += words.len();
        said.extend(words);
        drop(mounted);
        write(&copy, &left);
        std::fs::rename(&copy, &image).expect("the power is back");
        let mounted = Mount::image(&image, &disk);
        let mounted =
            mounted.unwrap_or_else(|| panic!("cut {cut}: the file system itself is lost"));
        let began = Instant::now();
        let started = start(&disk).await;
        slowest = slowest.max(began.elapsed());
        assert!(slowest < Duration::from_secs(5), "opens quickly");
        let boot = started.station.boot;
        assert!(
            said.iter().all(|(used, _)| *used < boot),
            "cut {cut}: boot {boot} was used before"
        );

        let mut kept = BTreeSet::new();
        for priority in ecosight_agent::outbox::Priority::ALL {
            let rows = started.outbox.next(priority, 0, 1_000_000).await.expect("reads");
            kept.extend(rows.iter().map(|row| (row.boot, row.seq)));
        }
        let lost = said.difference(&kept).count();
        assert_eq!(lost, 0, "cut {cut}: {lost} of {} records are lost", said.len());
        for clip in started.outbox.clips().await.expect("reads") {
            let bytes = std::fs::read(started.storage.clips.join(&clip.name)).unwrap_or_default();
            let hash: [u8; 32] = Sha256::digest(&bytes).into();
            assert_eq!(hash, clip.sha256, "cut {cut}: {} is lost", clip.name);
            started.outbox.forget_clip(clip.event).await.expect("done");
            std::fs::remove_file(started.storage.clips.join(&clip.name)).expect("removed");
            clips += 1;
        }
        // Room for the next rounds.
        if kept.len() > 3_000 {
            let all = |boot| SeqRange { boot, first: 1, last: u32::MAX };
            started.outbox.release((1..=boot).map(all).collect()).await.expect("done");
            said.clear();
        }
        assert_eq!(stop(started).await, id, "cut {cut}: the station is another one");
        drop(mounted);
    }
    eprintln!(
        "{cuts} power cuts ({how:?}, {torn} of them torn): {called_durable} records and {clips} clips \
         called durable, none lost; the station opened within {} ms",
        slowest.as_millis()
    );
    assert!(called_durable as u64 > 20 * cuts, "the writer got to write: {called_durable}");
    assert!(how == Cut::Clean || 2 * torn >= cuts, "only {torn} of {cuts} were torn");
}

/// Closes a station; gives its id.
async fn stop(started: Started) -> ecosight_shared::DeviceId {
    drop(started.outbox);
    started.outbox_task.await.expect("no panic").expect("closes");
    started.station.id
}

const SECTOR: usize = 512;
/// What is compared at once.
const BLOCK: usize = 64 * 1_024;
/// Bytes at the beginning that ext4 reads before its journal, on a disk of this size.
const READ_FIRST: usize = 4_096;

/// The image of a disk whose writer stands, when the kernel has written what it was at.
fn still(image: &Path) -> Vec<u8> {
    let read = || std::fs::read(image).expect("the image");
    let mut before = read();
    loop {
        let now = read();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// How a writer stood in the middle of a write.
struct Moment {
    image: Vec<u8>,
    /// Where the sectors begin that it wrote last.
    sectors: Vec<usize>,
    /// Records that it had called durable before it wrote them.
    said: usize,
}

/// Lets the writer on by moments until one of them is good.
fn moment(image: &Path, disk: &Path, child: &Child, random: &mut Random) -> Moment {
    let file = std::fs::File::open(image).expect("the image");
    let read = |into: &mut [u8]| file.read_exact_at(into, 0).expect("the image");
    let (mut said, mut before, mut folded) = (child.stop(), still(image), Folded::read(disk));
    let mut now = before.clone();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) {
        child.go_on();
        std::thread::sleep(Duration::from_micros(random.below(300)));
        let (said_now, folded_now) = (child.stop(), Folded::read(disk));
        read(&mut now);
        let sectors = changed(&before, &now);
        let in_one_piece = folded_now.is_the_same_checkpoint_as(folded)
            && sectors.iter().all(|at| *at >= READ_FIRST)
            && !sectors.iter().any(|at| is_journal_superblock(&now[*at..at + SECTOR]));
        let good = said_now == said && !sectors.is_empty() && in_one_piece;
        if good && still(image) == now {
            return Moment { image: now, sectors, said };
        }
        (said, folded) = (said_now, folded_now);
        std::mem::swap(&mut before, &mut now);
    }
    panic!("the writer writes nothing");
}

/// Where the sectors begin in which two images differ.
fn changed(before: &[u8], now: &[u8]) -> Vec<usize> {
    let differ = |at: usize, len: usize| now[at..at + len] != before[at..at + len];
    let blocks = (0..now.len()).step_by(BLOCK).filter(|at| differ(*at, BLOCK));
    let sectors = blocks.flat_map(|block| (block..block + BLOCK).step_by(SECTOR));
    sectors.filter(|at| differ(*at, SECTOR)).collect()
}

/// Whether a sector is the beginning of the superblock of ext4's journal
/// (Documentation/filesystems/ext4/journal.rst of the kernel).
fn is_journal_superblock(sector: &[u8]) -> bool {
    let words = sector.as_chunks::<4>().0;
    let (magic, kind) = (u32::from_be_bytes(words[0]), u32::from_be_bytes(words[1]));
    magic == 0xC03B_3998 && matches!(kind, 3 | 4)
}

/// How far SQLite has folded its log into the database file: `nBackfill` and `nBackfillAttempted` of the
/// index that it shares (sqlite.org/walformat.html).
#[derive(Clone, Copy, PartialEq)]
struct Folded {
    done: u32,
    attempted: u32,
}

impl Folded {
    fn read(disk: &Path) -> Self {
        let index = std::fs::read(disk.join(format!("{FILE}-shm"))).unwrap_or_default();
        let word = |at: usize| {
            let bytes = index.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        Self { done: word(96), attempted: word(128) }
    }

    /// Whether no checkpoint began or ended since `before`. The log may have begun anew, which is all that a
    /// commit after a whole checkpoint does.
    fn is_the_same_checkpoint_as(self, before: Self) -> bool {
        let anew = self == Self { done: 0, attempted: 0 };
        self == before || (anew && before.done == before.attempted)
    }
}
