//! The states of an update, enumerated: at whatever write the station is killed, it runs one of the two
//! models, whole, and the update goes on to its end.

use std::path::{Path, PathBuf};

use ecosight_agent::update::fault::Fault;
use ecosight_agent::update::machine::{self, Answer, STARTS_MAX, Task};
use ecosight_agent::update::{Place, Saved, Store};
use ecosight_models::Bundle;
use ecosight_shared::json::{DesiredDocument, UpdateStep};
use tempfile::{TempDir, tempdir};

use super::{Release, desired, judge, key, trusted};
use crate::bundle::Thud;
use crate::support::START_US;

/// A station's disk, and a power cut that comes at a chosen moment.
struct Disk {
    folder: TempDir,
    store: Store,
    /// Things that are still done before the power is cut; `None`: it is not.
    left: Option<u32>,
    /// What becomes of releases.
    fate: Fate,
}

/// What becomes of a release on this station.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fit,
    /// There is no room for it.
    NoRoom,
    /// Half of it came, and then a damaged file.
    HalfFetched,
    /// The process that loads it falls.
    Falls,
    /// It says its golden sounds otherwise.
    Differs,
    /// It fails while it is tried.
    FailsOnTrial,
}

/// The power is cut.
#[derive(Debug)]
struct Cut;

impl Disk {
    fn new() -> Self {
        let folder = tempdir().expect("a folder");
        let store = Store::of(folder.path());
        Self { folder, store, left: None, fate: Fate::Fit }
    }

    /// Something that happens on the disk, as a whole or not at all.
    fn moment<T>(&mut self, done: impl FnOnce(&Store) -> T) -> Result<T, Cut> {
        match &mut self.left {
            Some(0) => return Err(Cut),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(done(&self.store))
    }

    fn write(&mut self, saved: &Saved) -> Result<(), Cut> {
        self.moment(|store| store.write(saved).expect("written"))
    }

    fn slot(&self, place: Place) -> PathBuf {
        self.store.slot(place).expect("a slot")
    }

    /// The station's next steps, until the update has ended or the power is cut.
    fn go_on(&mut self, wish: &DesiredDocument, release: &Release) -> Result<(), Cut> {
        let (keys, mut saved) = (trusted(), self.store.read().expect("readable"));
        if let Some(next) = machine::starting(&saved, START_US) {
            self.write(&next)?;
            saved = next;
        }
        if let Some(next) = machine::woken(&saved, &judge(&keys)) {
            self.write(&next)?;
            saved = next;
        }
        // The broker sends it again at every connection.
        if let Answer::Next(next) = machine::wished(&saved, wish, &judge(&keys)) {
            self.write(&next)?;
            saved = *next;
        }
        loop {
            let fails = |saved: &Saved, fault: &Fault| machine::failed(saved, fault, START_US);
            let next = match machine::task(&saved) {
                Task::Rest => {
                    self.moment(|store| store.sweep(&saved))?;
                    return Ok(());
                }
                Task::Begin if self.fate == Fate::NoRoom => {
                    fails(&saved, &Fault::NoSpace { free_mb: 1, needed_mb: 2 })
                }
                Task::Begin => machine::begun(saved, START_US),
                Task::Fetch if self.fate == Fate::HalfFetched => {
                    let incoming = self.store.incoming();
                    let (name, content) = release.files.iter().next().expect("a file");
                    self.moment(|_| {
                        let path = incoming.join(name);
                        ecosight_models::durable::write_file(&path, content).expect("written");
                    })?;
                    fails(&saved, &Fault::BadHash { file: "head.onnx".into() })
                }
                Task::Prove if self.fate == Fate::Falls => {
                    fails(&saved, &Fault::Crashed("signal: 6".into()))
                }
                Task::Prove if self.fate == Fate::Differs => {
                    let loaded = machine::loaded(saved, START_US);
                    self.write(&loaded)?;
                    fails(&loaded, &Fault::Golden { off: 0.3, allowed: 0.05 })
                }
                Task::Try if self.fate == Fate::FailsOnTrial => {
                    let problem = "no number".into();
                    fails(&saved, &Fault::Fails { failed: 9, windows: 10, problem })
                }
                Task::Fetch => {
                    let incoming = self.store.incoming();
                    // File by file, as they come.
                    for (name, content) in &release.files {
                        self.moment(|_| {
                            let path = incoming.join(name);
                            ecosight_models::durable::write_file(&path, content).expect("written");
                        })?;
                    }
                    machine::fetched(saved, START_US)
                }
                Task::Prove => {
                    let loaded = machine::loaded(saved, START_US);
                    self.write(&loaded)?;
                    machine::proved(loaded, START_US)
                }
                Task::Stage => {
                    let (spare, slot) = (saved.spare(), self.slot(saved.spare()));
                    // What it does, taken apart where a power cut may fall.
                    if self.store.incoming().exists() {
                        self.moment(|_| {
                            let _ = std::fs::remove_dir_all(&slot);
                        })?;
                    }
                    self.moment(|store| store.stage(spare).expect("staged"))?;
                    machine::staged(saved, START_US)
                }
                Task::Try => machine::committed(saved, START_US),
            };
            self.write(&next)?;
            saved = next;
        }
    }

    /// The model that the station begins with now, and its version; what is committed must be whole.
    fn begins_with(&self) -> String {
        let saved = self.store.read().expect("readable");
        let Some(installed) = saved.running() else { return "factory".into() };
        let bundle = Bundle::open(&self.slot(saved.active)).expect("whole");
        assert_eq!(bundle.sha256, installed.bundle.0, "the one that was committed");
        bundle.version
    }
}

fn thud(version: &'static str) -> Thud {
    Thud { version, ..Thud::default() }
}

/// From nothing to a first release, from it to a second, and to a third, which takes the slot of the
/// first: with the power cut at every moment.
#[test]
fn whatever_is_killed_the_station_runs_the_old_model_or_the_new_one() {
    let versions = ["1.0.0", "2.0.0", "3.0.0"];
    let releases: Vec<Release> =
        (1..).zip(versions).map(|(n, version)| Release::of(&thud(version), n, None)).collect();
    for (nth, release) in releases.iter().enumerate() {
        let new = versions[nth];
        let old = nth.checked_sub(1).map_or("factory", |before| versions[before]);
        let (mut moments, mut seen) = (0, [0, 0]);
        for cut in 0.. {
            let mut disk = Disk::new();
            for before in &releases[..nth] {
                let wish = before.desired(&before.manifest.version);
                disk.go_on(&wish, before).expect("never cut");
            }
            disk.left = Some(cut);
            let done = disk.go_on(&release.desired("t1"), release).is_ok();
            let runs = disk.begins_with();
            assert!(runs == old || runs == new, "cut at {cut}: {runs}");
            seen[usize::from(runs == new)] += 1;
            disk.left = None;
            disk.go_on(&release.desired("t1"), release).expect("never cut");
            assert_eq!(disk.begins_with(), new, "cut at {cut}: it goes on to its end");
            let saved = disk.store.read().expect("readable");
            assert_eq!(saved.word.as_ref().map(|word| word.step), Some(UpdateStep::Committed));
            assert_eq!((saved.job.is_some(), disk.store.incoming().exists()), (false, false));
            if done {
                moments = cut;
                break;
            }
        }
        assert!(moments >= 11, "only {moments} moments");
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    }
}

/// The same for releases that are not to be, in every way in which they are not: the old model runs at
/// every moment, and in the end there is a reason and nothing of the release.
#[test]
fn whatever_is_killed_a_release_that_is_not_to_be_leaves_the_old_model() {
    let (one, two) = (Release::of(&thud("1.0.0"), 1, None), Release::of(&thud("2.0.0"), 2, None));
    for (fate, step, code) in [
        (Fate::NoRoom, UpdateStep::Refused, "no_space"),
        (Fate::HalfFetched, UpdateStep::Refused, "bad_hash"),
        (Fate::Falls, UpdateStep::Refused, "crashed"),
        (Fate::Differs, UpdateStep::Refused, "golden_clips"),
        (Fate::FailsOnTrial, UpdateStep::RolledBack, "fails"),
    ] {
        for cut in 0.. {
            let mut disk = Disk::new();
            disk.go_on(&one.desired("t0"), &one).expect("never cut");
            (disk.fate, disk.left) = (fate, Some(cut));
            let done = disk.go_on(&two.desired("t1"), &two).is_ok();
            assert_eq!(disk.begins_with(), "1.0.0", "{fate:?}, cut at {cut}");
            disk.left = None;
            disk.go_on(&two.desired("t1"), &two).expect("never cut");
            assert_eq!(disk.begins_with(), "1.0.0", "{fate:?}, cut at {cut}");
            let saved = disk.store.read().expect("readable");
            assert_eq!(word(&saved), (step, code.into()), "{fate:?}, cut at {cut}");
            let spare = disk.slot(saved.spare());
            let left = saved.job.is_some() || disk.store.incoming().exists() || spare.exists();
            assert!(!left, "{fate:?}, cut at {cut}: something of it is left");
            if done {
                assert!(cut >= 3, "only {cut} moments");
                break;
            }
        }
    }
}

/// A wish that is taken back at any moment, with the power cut at any moment after that.
#[test]
fn whatever_is_killed_a_wish_that_was_taken_back_leaves_one_whole_model() {
    let (one, two) = (Release::of(&thud("1.0.0"), 1, None), Release::of(&thud("2.0.0"), 2, None));
    let nothing = DesiredDocument { v: 1, model: None, time: "t2".into() };
    let mut seen = [0, 0];
    for reached in 0.. {
        let mut is_over = false;
        for cut in 0..4 {
            let mut disk = Disk::new();
            disk.go_on(&one.desired("t0"), &one).expect("never cut");
            disk.left = Some(reached);
            is_over = disk.go_on(&two.desired("t1"), &two).is_ok();
            disk.left = Some(cut);
            let _ = disk.go_on(&nothing, &two);
            let runs = disk.begins_with();
            disk.left = None;
            disk.go_on(&nothing, &two).expect("never cut");
            assert_eq!(disk.begins_with(), runs, "taken back at {reached}, cut at {cut}");
            let saved = disk.store.read().expect("readable");
            assert!(saved.job.is_none() && !disk.store.incoming().exists());
            let (step, code) = word(&saved);
            match step {
                UpdateStep::Committed => assert!(["1.0.0", "2.0.0"].contains(&&*runs), "{runs}"),
                step => {
                    assert_eq!((step, &*code), (UpdateStep::RolledBack, "withdrawn"));
                    assert_eq!(runs, "1.0.0");
                }
            }
            seen[usize::from(runs == "2.0.0")] += 1;
        }
        if is_over {
            break;
        }
    }
    assert!(seen[0] > 20 && seen[1] > 0, "{seen:?}");
}

/// The committed model cannot be loaded any more: killed before that is written or after, the one before
/// runs.
#[test]
fn whatever_is_killed_a_model_that_cannot_be_loaded_gives_way_to_the_one_before() {
    let (one, two) = (Release::of(&thud("1.0.0"), 1, None), Release::of(&thud("2.0.0"), 2, None));
    for cut in 0..2 {
        let mut disk = Disk::new();
        for release in [&one, &two] {
            disk.go_on(&release.desired(&release.manifest.version), release).expect("never cut");
        }
        let falls = |disk: &mut Disk| {
            let saved = disk.store.read().expect("readable");
            if saved.running().is_some_and(|running| running.release.counter == 2) {
                let fault = Fault::Unloadable("damaged".into());
                return disk.write(&machine::fallen(&saved, &fault, START_US));
            }
            Ok(())
        };
        disk.left = Some(cut);
        let _ = falls(&mut disk);
        disk.left = None;
        falls(&mut disk).expect("never cut");
        assert_eq!(disk.begins_with(), "1.0.0", "cut at {cut}");
        let saved = disk.store.read().expect("readable");
        assert_eq!(word(&saved), (UpdateStep::RolledBack, "unloadable".into()));
    }
}

/// The power is cut twice, at many pairs of moments.
#[test]
fn two_power_cuts_are_survived_as_one_is() {
    let release = Release::of(&thud("1.0.0"), 1, None);
    for first in 0..11 {
        for second in (0..11).step_by(2) {
            let mut disk = Disk::new();
            for cut in [first, second] {
                disk.left = Some(cut);
                let _ = disk.go_on(&release.desired("t1"), &release);
                disk.begins_with();
            }
            disk.left = None;
            disk.go_on(&release.desired("t1"), &release).expect("never cut");
            assert_eq!(disk.begins_with(), "1.0.0", "cut at {first} and {second}");
        }
    }
}

/// A job in every state it can be in.
fn every_state() -> Vec<Saved> {
    let (keys, release) = (trusted(), Release::of(&thud("2.0.0"), 2, None));
    let mut disk = Disk::new();
    let one = Release::of(&thud("1.0.0"), 1, None);
    disk.go_on(&one.desired("t0"), &one).expect("never cut");
    let saved = disk.store.read().expect("readable");
    let Answer::Next(accepted) = machine::wished(&saved, &release.desired("t1"), &judge(&keys))
    else {
        panic!("not accepted");
    };
    let downloading = machine::begun((*accepted).clone(), START_US);
    let verified = machine::fetched(downloading.clone(), START_US);
    let loaded = machine::loaded(verified.clone(), START_US);
    let proved = machine::proved(loaded.clone(), START_US);
    let trial = machine::staged(proved.clone(), START_US);
    vec![*accepted, downloading, verified, loaded, proved, trial]
}

fn word(saved: &Saved) -> (UpdateStep, String) {
    let word = saved.word.as_ref().expect("a word");
    (word.step, word.fault.clone().map(|(code, _)| code).unwrap_or_default())
}

#[test]
fn a_fault_in_any_state_keeps_the_old_model_and_says_why() {
    for saved in every_state() {
        let step = saved.job.as_ref().expect("under way").step;
        let fault = Fault::Golden { off: 0.3, allowed: 0.05 };
        let next = machine::failed(&saved, &fault, START_US);
        let wanted = if step == UpdateStep::Trial { "rolled_back" } else { "refused" };
        assert_eq!((word(&next).0.name(), &*word(&next).1), (wanted, "golden_clips"));
        let word = next.word.as_ref().expect("a word");
        assert!(word.at_us > saved.word.as_ref().expect("a word").at_us, "later than the last");
        assert_eq!((next.active, machine::task(&next)), (saved.active, Task::Rest));
        assert!(next.running().is_some(), "the old model's files are known");
        // Asked anew it is refused for what it did.
        let release = Release::of(&thud("2.0.0"), 2, None);
        let keys = trusted();
        let Answer::Next(again) = machine::wished(&next, &release.desired("t2"), &judge(&keys))
        else {
            panic!("no answer");
        };
        assert_eq!(self::word(&again), (UpdateStep::Refused, "blocked".into()));
    }
}

#[test]
fn a_wish_that_is_taken_back_ends_the_update_in_any_state() {
    let nothing = DesiredDocument { v: 1, model: None, time: "t2".into() };
    let keys = trusted();
    for saved in every_state() {
        let Answer::Next(next) = machine::wished(&saved, &nothing, &judge(&keys)) else {
            panic!("no answer");
        };
        assert_eq!(word(&next), (UpdateStep::RolledBack, "withdrawn".into()));
        assert_eq!(next.active, saved.active);
        assert_eq!(next.blocked, saved.blocked, "nothing is wrong with it");
        assert_eq!(machine::wished(&next, &nothing, &judge(&keys)), Answer::Nothing);
    }
}

#[test]
fn the_same_wish_again_changes_nothing_in_any_state() {
    let (keys, release) = (trusted(), Release::of(&thud("2.0.0"), 2, None));
    for saved in every_state() {
        let again = machine::wished(&saved, &release.desired("t1"), &judge(&keys));
        assert_eq!(again, Answer::Nothing);
        let Answer::Next(anew) = machine::wished(&saved, &release.desired("t2"), &judge(&keys))
        else {
            panic!("no answer");
        };
        let (before, after) = (saved.job.expect("a job"), anew.job.expect("a job"));
        assert_eq!((before.step, before.installed), (after.step, after.installed));
    }
}

#[test]
fn a_newer_wish_takes_the_place_of_what_is_under_way() {
    let keys = trusted();
    let three = Release::of(&thud("3.0.0"), 3, None);
    for saved in every_state() {
        let Answer::Next(next) = machine::wished(&saved, &three.desired("t2"), &judge(&keys))
        else {
            panic!("no answer");
        };
        assert_eq!(word(&next).0, UpdateStep::Accepted);
        assert_eq!(next.job.as_ref().map(|job| job.installed.release.counter), Some(3));
        assert_eq!(next.active, saved.active);
    }
}

#[test]
fn a_way_back_is_taken_and_its_counter_stays_behind() {
    let keys = trusted();
    let mut disk = Disk::new();
    let (one, two) = (Release::of(&thud("1.0.0"), 1, None), Release::of(&thud("2.0.0"), 2, None));
    for release in [&one, &two] {
        disk.go_on(&release.desired(&release.manifest.version), release).expect("never cut");
    }
    assert_eq!(disk.begins_with(), "2.0.0");
    let saved = disk.store.read().expect("readable");
    // The old release itself is a replay.
    let Answer::Next(refused) = machine::wished(&saved, &one.desired("t3"), &judge(&keys)) else {
        panic!("no answer");
    };
    assert_eq!(word(&refused), (UpdateStep::Refused, "replayed".into()));
    let back = Release::of(&thud("1.0.0"), 1, Some(two.manifest.reference()));
    disk.go_on(&back.desired("t4"), &back).expect("never cut");
    assert_eq!(disk.begins_with(), "1.0.0");
    let saved = disk.store.read().expect("readable");
    assert_eq!(saved.highest.map(|(counter, _)| counter), Some(2), "a station never forgets");
    let Answer::Next(refused) = machine::wished(&saved, &two.desired("t5"), &judge(&keys)) else {
        panic!("no answer");
    };
    assert_eq!(word(&refused), (UpdateStep::Accepted, String::new()), "the highest itself");
}

#[test]
fn a_model_that_ends_the_station_again_and_again_is_sent_back() {
    let mut disk = Disk::new();
    let (one, two) = (Release::of(&thud("1.0.0"), 1, None), Release::of(&thud("2.0.0"), 2, None));
    for release in [&one, &two] {
        disk.go_on(&release.desired(&release.manifest.version), release).expect("never cut");
        let saved = disk.store.read().expect("readable");
        if release.manifest.counter == 1 {
            disk.write(&machine::lives(&saved, true).expect("news")).expect("never cut");
        }
    }
    let mut saved = disk.store.read().expect("readable");
    for start in 1..=STARTS_MAX {
        saved = machine::starting(&saved, START_US).expect("counted");
        assert_eq!((saved.starts, saved.active), (start, Place::B));
    }
    let sent_back = machine::starting(&saved, START_US).expect("too often");
    assert_eq!(word(&sent_back), (UpdateStep::RolledBack, "unstable".into()));
    assert_eq!(sent_back.active, Place::A, "the one before");
    assert_eq!(sent_back.blocked.len(), 1);
    assert_eq!(machine::starting(&sent_back, START_US), None, "that one has shown what it can");
    // Whoever is asked to stop in between has shown nothing against it.
    let stopped = machine::lives(&saved, false).expect("news");
    assert_eq!((stopped.starts, stopped.settled), (0, false));
}

#[test]
fn a_trial_that_ends_the_station_again_and_again_is_over() {
    let keys = trusted();
    let mut saved = every_state().pop().expect("on trial");
    for _ in 0..STARTS_MAX {
        saved = machine::woken(&saved, &judge(&keys)).expect("counted");
        assert_eq!(machine::task(&saved), Task::Try);
    }
    let over = machine::woken(&saved, &judge(&keys)).expect("too often");
    assert_eq!(word(&over), (UpdateStep::RolledBack, "unstable".into()));
    assert_eq!((over.active, over.installed(Place::B)), (Place::A, None));
}

#[test]
fn a_key_that_is_taken_out_ends_what_it_signed() {
    for saved in every_state().into_iter().filter(|saved| machine::task(saved) != Task::Try) {
        let keys = [key(2).public()];
        let next = machine::woken(&saved, &judge(&keys)).expect("judged anew");
        assert_eq!(word(&next), (UpdateStep::Refused, "wrong_key".into()));
    }
}

#[test]
fn a_clock_that_was_never_set_is_waited_for() {
    let (keys, release) = (trusted(), Release::of(&thud("1.0.0"), 1, None));
    let unset = machine::Judge { clock_set: false, now_us: 0, ..judge(&keys) };
    let wish = desired(&release.signed(), "t1");
    assert_eq!(machine::wished(&Saved::default(), &wish, &unset), Answer::Later);
}

#[test]
fn a_damaged_memory_installs_nothing() {
    let disk = Disk::new();
    disk.store.write(&every_state().remove(0)).expect("written");
    let path = disk.folder.path().join("update/state.json");
    let whole = std::fs::read(&path).expect("there");
    let damage = |bytes: &[u8], path: &Path| {
        ecosight_models::durable::write_file(path, bytes).expect("written");
    };
    for bytes in [&whole[..whole.len() / 2], b"{}", b""] {
        damage(bytes, &path);
        let error = disk.store.read().expect_err("damaged").to_string();
        assert!(error.contains("state.json is damaged"), "{error}");
    }
}
