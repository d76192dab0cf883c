//! Laws of releases and rollouts as they are written down, on both databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use ecosight_cloud::clock::Clock;
use ecosight_cloud::rollout::{Carrier, Cohort, Input, Plan, RolloutError, Rollouts, Rules, State};
use ecosight_cloud::store::{
    Batch, Content, Deed, Kept, ReleaseRow, RolloutRow, Store, StoredRecord, UpdateReport,
};
use ecosight_shared::{DeviceId, EventId};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::databases::{Database, on_both_databases};
use crate::station::{START_US, batch, quiet_detection, stored_status};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 24 * 3_600 * SECOND_US;

fn release(n: u8, counter: i64) -> ReleaseRow {
    ReleaseRow {
        id: Uuid::from_bytes([n; 16]),
        name: "gunshot".into(),
        version: n.to_string(),
        counter,
        signed: format!("{{\"release\":\"gunshot-{n}\",\"manifest\":\"\",\"signatures\":[]}}"),
        manifest_sha256: format!("{n:064x}"),
        minimum_agent: "0.1.0".into(),
        expires_us: i64::MAX,
        devices: "[]".into(),
        site_id: None,
        replaces_name: None,
        replaces_version: None,
        replaces_counter: None,
        model_tag: format!("{n:08x}"),
        bytes: 10,
        created_us: START_US + i64::from(n),
        created_by: "test".into(),
    }
}

/// A way back from release `from`.
fn way_back(n: u8, from: &ReleaseRow) -> ReleaseRow {
    ReleaseRow {
        replaces_name: Some(from.name.clone()),
        replaces_version: Some(from.version.clone()),
        replaces_counter: Some(from.counter),
        ..release(n, 1)
    }
}

fn deed() -> Deed {
    Deed { at_us: START_US, actor: "test".into(), action: "rollout.plan", ..Deed::default() }
}

fn planned(n: u8, release: Uuid, revert: Option<Uuid>, plan: &Plan) -> RolloutRow {
    RolloutRow {
        id: Uuid::from_bytes([n; 16]),
        release_id: release,
        revert_release_id: revert,
        state: "draft".into(),
        cohort: 0,
        reached_us: None,
        since_us: START_US,
        reason: None,
        plan: serde_json::to_string(plan).unwrap(),
        version: 1,
        created_us: START_US + i64::from(n),
        created_by: "test".into(),
        started_us: None,
        finished_us: None,
        updated_us: START_US,
    }
}

fn report(device: Uuid, release: &ReleaseRow, step: &str, at_us: i64) -> UpdateReport {
    UpdateReport {
        device_id: device,
        site_id: "ridge".into(),
        release: release.title(),
        manifest_sha256: release.manifest_sha256.clone(),
        counter: Some(release.counter),
        step: step.into(),
        code: None,
        reason: None,
        at_us,
        active_name: "gunshot".into(),
        active_version: "1".into(),
        active_tag: release.model_tag.clone(),
        trial: None,
    }
}

async fn say(store: &Store, updates: Vec<UpdateReport>, received_us: i64) -> bool {
    let batch = Batch { updates, received_us, ..Batch::default() };
    store.commit(batch).await.unwrap().updates
}

async fn known(store: &Store, devices: &[Uuid]) {
    let statuses = devices.iter().map(|id| stored_status(DeviceId(*id))).collect();
    let batch = Batch { statuses, received_us: START_US, ..Batch::default() };
    store.commit(batch).await.unwrap();
}

/// Of each station's steps the last hundred are kept.
async fn the_history_of_a_station_is_bounded(database: &Database) {
    let (store, release) = (&database.store, release(1, 1));
    let [one, other] = [1, 2].map(|n| Uuid::from_bytes([n; 16]));
    let words = |device, count: i64| -> Vec<UpdateReport> {
        let at = |n| START_US + n * SECOND_US;
        (0..count).map(|n| report(device, &release, "trial", at(n))).collect()
    };
    for (n, word) in (0..).zip(words(one, 130)) {
        say(store, vec![word], START_US + n * SECOND_US).await;
    }
    say(store, words(other, 1), START_US).await;
    let steps = store.update_steps(one).await.unwrap();
    assert_eq!(steps.len(), 100);
    assert_eq!(steps[0].at_us, START_US + 129 * SECOND_US, "the newest first");
    assert_eq!(store.update_steps(other).await.unwrap().len(), 1);
}

async fn a_release_is_kept_once_and_counters_rise(database: &Database) {
    let store = &database.store;
    let one = release(1, 10);
    let file = ecosight_cloud::store::ReleaseFileRow {
        path: "head.onnx".into(),
        bytes: 10,
        sha256: "ab".repeat(32),
    };
    let kept = store.keep_release(one.clone(), vec![file.clone()]).await.unwrap();
    assert_eq!(kept, Kept::New(one.clone()));
    let again = ReleaseRow { id: Uuid::from_bytes([9; 16]), ..one.clone() };
    let kept = store.keep_release(again, vec![file.clone()]).await.unwrap();
    assert_eq!(kept, Kept::Known(one.clone()));
    assert_eq!(store.release_files(one.id).await.unwrap(), [file]);
    for counter in [10, 9] {
        let behind = store.keep_release(release(2, counter), vec![]).await;
        assert_eq!(behind.unwrap(), Kept::Behind(10));
    }
    let back = way_back(3, &one);
    let file = ecosight_cloud::store::ReleaseFileRow {
        path: "x".into(),
        bytes: 1,
        sha256: "cd".repeat(32),
    };
    assert!(matches!(store.keep_release(back.clone(), vec![file]).await.unwrap(), Kept::New(_)));
    assert!(back.leads_back_from(&one) && !one.leads_back_from(&back));
    let listed: Vec<Uuid> =
        store.releases(None, 10).await.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(listed, [back.id, one.id]);
}

/// The newest word by the station's clock stands, in whatever order and however often words come.
async fn words_in_any_order_give_the_last_one(database: &Database) {
    let store = &database.store;
    let release = release(1, 1);
    let steps = ["accepted", "downloading", "verified", "loaded", "proved", "trial", "committed"];
    let words: Vec<UpdateReport> = steps
        .iter()
        .zip(0..)
        // Two words of one instant among them.
        .map(|(step, n)| {
            report(Uuid::nil(), &release, step, START_US + [0, 1, 2, 2, 4, 5, 6][n] * SECOND_US)
        })
        .collect();
    let orders: [&[usize]; 4] = [
        &[0, 1, 2, 3, 4, 5, 6],
        &[6, 5, 4, 3, 2, 1, 0],
        &[3, 2, 0, 6, 6, 1, 5, 4],
        &[0, 0, 1, 1, 0, 2, 3, 2, 4, 5, 4, 6, 0],
    ];
    for (n, order) in (1_u8..).zip(orders) {
        let device = Uuid::from_bytes([n; 16]);
        for place in order {
            let word = UpdateReport { device_id: device, ..words[*place].clone() };
            say(store, vec![word], START_US + 60 * SECOND_US).await;
        }
        let again = UpdateReport { device_id: device, ..words[6].clone() };
        assert!(!say(store, vec![again], START_US + 70 * SECOND_US).await, "a repeated word");
        let mut noted = store.update_steps(device).await.unwrap();
        noted.sort_by_key(|step| (step.at_us, step.step != "loaded"));
        let noted: Vec<&str> = noted.iter().map(|step| &*step.step).collect();
        assert!(
            noted.len() == 7 && noted.ends_with(&["proved", "trial", "committed"]),
            "{noted:?}"
        );
    }
    let plan = Plan { cohorts: vec![Cohort::Percent(100.0)], rules: Rules::default() };
    store.keep_release(release.clone(), vec![file()]).await.unwrap();
    store.plan_rollout(planned(1, release.id, None, &plan), deed()).await.unwrap();
    let rollouts = Rollouts::new(store.clone(), Clock::from_fn(|| START_US), Arc::default());
    let id = Uuid::from_bytes([1; 16]);
    rollouts.act(id, &Input::Start, "test").await.unwrap();
    for row in store.rollout_devices(id).await.unwrap() {
        assert_eq!(row.said_step.as_deref(), Some("committed"), "{}", row.device_id);
    }
    // A clock that was years ahead by its own word does not silence its station for years.
    let device = Uuid::from_bytes([1; 16]);
    let ahead = report(device, &release, "accepted", START_US + 700 * DAY_US);
    assert!(say(store, vec![ahead], START_US + 80 * SECOND_US).await);
    let set = report(device, &release, "refused", START_US + 90 * SECOND_US);
    assert!(say(store, vec![set], START_US + 90 * SECOND_US).await);
}

fn file() -> ecosight_cloud::store::ReleaseFileRow {
    ecosight_cloud::store::ReleaseFileRow {
        path: "manifest.json".into(),
        bytes: 1,
        sha256: "00".repeat(32),
    }
}

/// Stations in memory behind a broker that can die at any message.
#[derive(Default)]
struct Field {
    /// The model that each was told last.
    told: Mutex<BTreeMap<Uuid, Option<String>>>,
    calls: Mutex<usize>,
    /// Dies at this call, before or after the message is taken.
    dies_at: Option<(usize, bool)>,
    died: Notify,
}

impl Carrier for Field {
    async fn carry(&self, topic: String, payload: Vec<u8>) -> bool {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        let dies = self.dies_at.filter(|(at, _)| *at == call);
        if dies.is_none_or(|(_, taken)| taken) {
            let device: Uuid = topic.split('/').nth(3).unwrap().parse().unwrap();
            let document: Value = serde_json::from_slice(&payload).unwrap();
            let model = document["model"]["release"].as_str().map(str::to_owned);
            self.told.lock().unwrap().insert(device, model);
        }
        if dies.is_some() {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        true
    }
}

/// What a scenario ends with.
#[derive(Clone, Debug, PartialEq)]
struct End {
    state: String,
    cohort: i64,
    steps: BTreeSet<String>,
    /// How many stations were told last to run what.
    told: BTreeMap<Option<String>, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scenario {
    AllCommit,
    OneFails,
    /// A person sends all back.
    RolledBack,
    /// A person pauses it while the first cohort is at it, and resumes it.
    Paused,
    /// A person halts it while the second cohort is at it, and resumes it.
    Halted,
    /// Reviewers reject what the release takes for shots.
    FieldRule,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario::AllCommit,
    Scenario::OneFails,
    Scenario::RolledBack,
    Scenario::Paused,
    Scenario::Halted,
    Scenario::FieldRule,
];

/// Where the process dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    /// At this message, before or after the broker has it.
    Message(usize, bool),
    /// Right after this step was written down. Right before it is the same as after the one before,
    /// with everything sent: a decision that is not written is none.
    Written(usize),
}

/// What a drive took.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Effort {
    messages: usize,
    steps: usize,
}

/// Release number `n` of a drive, unlike those of all others.
fn numbered(n: u16, counter: i64) -> ReleaseRow {
    ReleaseRow {
        id: Uuid::from_u128((1 << 100) + u128::from(n)),
        version: n.to_string(),
        signed: format!("{{\"release\":\"gunshot-{n}\",\"manifest\":\"\",\"signatures\":[]}}"),
        manifest_sha256: format!("{n:064x}"),
        model_tag: format!("{n:08x}"),
        created_us: START_US + i64::from(n),
        ..release(1, counter)
    }
}

/// An alert that the release raised on a station.
fn alarm_of(device: Uuid, release: &ReleaseRow, seq: u32, at_us: i64) -> StoredRecord {
    let mut record = crate::station::stored(&crate::station::alert(DeviceId(device), seq));
    record.unix_us = at_us;
    if let Content::Event(draft) = &mut record.content {
        draft.id = EventId::of(record.id, at_us).0;
        draft.model_tag.clone_from(&release.model_tag);
        (draft.listed_us, draft.onset_us) = (at_us, at_us);
    }
    record
}

/// Everything in memory is lost, as after kill -9.
async fn reborn(database: &Database, folder: &TempDir, clock: &Clock) -> (Store, Rollouts) {
    let store = Store::open(&database.url, folder.path()).await.unwrap();
    (store.clone(), Rollouts::new(store, clock.clone(), Arc::default()))
}

/// Drives one rollout to its end, with one death on the way.
async fn drive(
    database: &Database,
    n: u16,
    scenario: Scenario,
    dies_at: Option<Death>,
) -> (End, Effort) {
    let folder = TempDir::new().unwrap();
    let mut store = database.store.clone();
    let devices: Vec<Uuid> =
        (0..8).map(|d| Uuid::from_u128((3 << 100) + u128::from(n) * 16 + d)).collect();
    known(&store, &devices).await;
    let new = numbered(n, 100 + i64::from(n));
    let back = ReleaseRow {
        replaces_name: Some(new.name.clone()),
        replaces_version: Some(new.version.clone()),
        replaces_counter: Some(new.counter),
        ..numbered(n + 10_000, 1)
    };
    store.keep_release(new.clone(), vec![file()]).await.unwrap();
    store.keep_release(back.clone(), vec![file()]).await.unwrap();
    let rules = Rules {
        soak_s: 60,
        max_failed_share: 0.0,
        silence_s: 3_600,
        commit_share: 1.0,
        ..Rules::default()
    };
    let cohorts =
        vec![Cohort::Devices(devices[..3].to_vec()), Cohort::Devices(devices[3..].to_vec())];
    let id = Uuid::from_u128((2 << 100) + u128::from(n));
    let created_us = START_US + i64::from(n);
    let row = planned(1, new.id, Some(back.id), &Plan { cohorts, rules });
    store.plan_rollout(RolloutRow { id, created_us, ..row }, deed()).await.unwrap();
    // So long after the ones before that nobody looks at those any more.
    let now = Arc::new(AtomicI64::new(START_US + i64::from(n) * 400 * DAY_US));
    let clock = {
        let now = now.clone();
        Clock::from_fn(move || now.load(Ordering::SeqCst))
    };
    let at_message = match dies_at {
        Some(Death::Message(at, taken)) => Some((at, taken)),
        _ => None,
    };
    let field = Field { dies_at: at_message, ..Field::default() };
    let mut answered: BTreeMap<Uuid, Option<String>> = BTreeMap::new();
    let mut rollouts = Rollouts::new(store.clone(), clock.clone(), Arc::default());
    let dies_after = |step: usize| dies_at == Some(Death::Written(step));
    rollouts.act(id, &Input::Start, "test").await.unwrap();
    let mut steps = 1;
    if dies_after(0) {
        (store, rollouts) = reborn(database, &folder, &clock).await;
    }
    let (mut quiet, mut wishes) = (0, 0);
    for _ in 0..200 {
        let taken = rollouts.round().await.unwrap();
        steps += taken;
        if taken > 0 && dies_after(steps - 1) {
            (store, rollouts) = reborn(database, &folder, &clock).await;
        }
        let sent = tokio::select! {
            sent = rollouts.publish(&field) => sent.unwrap().0,
            () = field.died.notified() => {
                (store, rollouts) = reborn(database, &folder, &clock).await;
                continue;
            }
        };
        now.fetch_add(20 * SECOND_US, Ordering::SeqCst);
        // Stations do what they are told, each once.
        let told = field.told.lock().unwrap().clone();
        let mut words = Vec::new();
        for (device, model) in &told {
            if !devices.contains(device) || answered.get(device) == Some(model) {
                continue;
            }
            let at_us = now.load(Ordering::SeqCst);
            match model {
                Some(title) if *title == new.title() => {
                    let fails = scenario == Scenario::OneFails && *device == devices[1];
                    let step = if fails { "rolled_back" } else { "committed" };
                    words.push(report(*device, &new, step, at_us));
                }
                Some(_) => words.push(report(*device, &back, "committed", at_us)),
                None => {}
            }
        }
        let row = store.rollout(id).await.unwrap().unwrap();
        let at_it = row.state == "running" && !words.is_empty();
        let rests = words.is_empty() && quiet >= 3;
        let wish = match (scenario, wishes) {
            (Scenario::RolledBack, 0) if row.cohort == 1 && words.is_empty() => {
                Some(Input::RollBack("rangers complain".into()))
            }
            (Scenario::Paused, 0) if row.cohort == 0 && at_it => Some(Input::Pause),
            (Scenario::Paused, 1) if row.state == "paused" && rests => Some(Input::Resume),
            (Scenario::Halted, 0) if row.cohort == 1 && at_it => {
                // Before they have said anything.
                words.clear();
                Some(Input::Halt("a person has doubts".into()))
            }
            (Scenario::Halted, 1) if row.state == "halted" && rests => Some(Input::Resume),
            (Scenario::FieldRule, 0) if row.cohort == 1 && words.is_empty() => {
                let at_us = now.load(Ordering::SeqCst);
                let alarms: Vec<StoredRecord> =
                    (1..=9).map(|seq| alarm_of(devices[0], &new, seq, at_us)).collect();
                let batch = Batch { records: alarms, received_us: at_us, ..Batch::default() };
                let events = store.commit(batch).await.unwrap().alerts;
                assert_eq!(events.len(), 9);
                reject(database, &events).await;
                (wishes, quiet) = (1, 0);
                None
            }
            _ => None,
        };
        if let Some(wish) = wish {
            rollouts.act(id, &wish, "test").await.unwrap();
            (wishes, quiet, steps) = (wishes + 1, 0, steps + 1);
            if dies_after(steps - 1) {
                (store, rollouts) = reborn(database, &folder, &clock).await;
            }
        } else {
            quiet = if words.is_empty() && sent == 0 { quiet + 1 } else { 0 };
        }
        let spoke = words.iter().map(|word| word.device_id);
        for device in spoke {
            answered.insert(device, told[&device].clone());
        }
        answered.extend(told.into_iter().filter(|(_, model)| model.is_none()));
        say(&store, words, now.load(Ordering::SeqCst)).await;
        if quiet > 6 {
            break;
        }
    }
    let row = store.rollout(id).await.unwrap().unwrap();
    let stations = store.rollout_devices(id).await.unwrap();
    let mut told: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for device in &devices {
        let last = field.told.lock().unwrap().get(device).cloned().flatten();
        let desired = store.desired(*device).await.unwrap();
        let wanted = desired.and_then(|row| row.model).map(|model| {
            let model: Value = serde_json::from_str(&model).unwrap();
            model["release"].as_str().unwrap().to_owned()
        });
        assert_eq!(last, wanted, "what a station was told is what is written: {device}");
        let kind = last.map(|title| if title == new.title() { "new" } else { "back" }.to_owned());
        *told.entry(kind).or_default() += 1;
    }
    assert!(store.publications(100).await.unwrap().is_empty(), "nothing is left to be sent");
    let of_cohorts = stations.iter().map(|row| format!("{} {}", row.cohort, row.step)).collect();
    let messages = *field.calls.lock().unwrap();
    if row.state == State::Halted.name() {
        // A halted one waits for a person for ever, and every later round would look at it.
        rollouts.act(id, &Input::RollBack("over".into()), "test").await.unwrap();
        rollouts.publish(&Field::default()).await.unwrap();
    }
    let end = End { state: row.state, cohort: row.cohort, steps: of_cohorts, told };
    (end, Effort { messages, steps })
}

/// Kill -9 after every step that is written down, and at every message, before and after the broker has
/// it: the rollout ends as without.
async fn whatever_dies_when_the_rollout_ends_the_same(database: &Database) {
    // The order of steps is the same on both; PostgreSQL, where a drive takes seconds, sees some of them.
    let stride = if database.url.starts_with("postgres") { 8 } else { 1 };
    let mut n = 0;
    for scenario in SCENARIOS {
        n += 1;
        let (whole, effort) = drive(database, n, scenario, None).await;
        match scenario {
            Scenario::AllCommit => {
                assert_eq!((whole.state.as_str(), effort.messages), ("done", 8), "{whole:?}");
            }
            Scenario::OneFails => {
                assert_eq!((whole.state.as_str(), whole.cohort), ("halted", 0), "{whole:?}");
                assert_eq!(effort.messages, 3, "only the first cohort was told");
            }
            Scenario::RolledBack | Scenario::FieldRule => {
                assert_eq!(whole.state, "rolled_back", "{whole:?}");
                assert_eq!(whole.told.get(&Some("back".into())), Some(&8), "{whole:?}");
                assert!(whole.steps.iter().all(|step| step.ends_with(" reverted")), "{whole:?}");
            }
            Scenario::Paused => {
                assert_eq!((whole.state.as_str(), effort.messages), ("done", 8), "{whole:?}");
            }
            Scenario::Halted => {
                assert_eq!(whole.state, "done", "{whole:?}");
                assert_eq!(effort.messages, 8 + 5 + 5, "told, told to stay, and told again");
            }
        }
        let at_messages = (0..effort.messages)
            .step_by(stride)
            .flat_map(|at| [false, true].map(|taken| Death::Message(at, taken)));
        let at_steps = (0..effort.steps).step_by(stride).map(Death::Written);
        for death in at_messages.chain(at_steps) {
            n += 1;
            let (end, _) = drive(database, n, scenario, Some(death)).await;
            assert_eq!(end, whole, "{scenario:?}, {death:?}");
        }
    }
}

/// Two processes decide at one time: what one of them decided on old facts is not written.
async fn of_two_who_decide_at_once_one_does(database: &Database) {
    let store = &database.store;
    let devices: Vec<Uuid> = (1..=6).map(|d| Uuid::from_bytes([d; 16])).collect();
    known(store, &devices).await;
    let new = release(1, 1);
    store.keep_release(new.clone(), vec![file()]).await.unwrap();
    let plan =
        Plan { cohorts: vec![Cohort::Percent(50.0), Cohort::Percent(100.0)], ..Plan::default() };
    store.plan_rollout(planned(1, new.id, None, &plan), deed()).await.unwrap();
    let id = Uuid::from_bytes([1; 16]);
    let clock = Clock::from_fn(|| START_US);
    let starts = (0..6).map(|n| {
        let rollouts = Rollouts::new(store.clone(), clock.clone(), Arc::default());
        tokio::spawn(async move { rollouts.act(id, &Input::Start, &format!("p{n}")).await })
    });
    let mut started = 0;
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Ok(_) => started += 1,
            Err(RolloutError::Impossible(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(started, 1);
    let deeds = store.deeds(None, 50).await.unwrap();
    assert_eq!(deeds.iter().filter(|deed| deed.action == "rollout.start").count(), 1);
    assert_eq!(store.publications(100).await.unwrap().len(), 3);
    // A lease has one holder, and passes on when it ends.
    assert!(store.take_lease("l", "a", 0, 10).await.unwrap());
    assert!(!store.take_lease("l", "b", 5, 15).await.unwrap());
    assert!(store.take_lease("l", "a", 9, 19).await.unwrap());
    assert!(store.take_lease("l", "b", 20, 30).await.unwrap());
    store.give_lease_back("l", "a").await.unwrap();
    assert!(!store.take_lease("l", "a", 21, 31).await.unwrap(), "only its own");
    store.give_lease_back("l", "b").await.unwrap();
    assert!(store.take_lease("l", "a", 22, 32).await.unwrap());
    // Another rollout of the same stations waits for this one.
    let later = release(2, 2);
    store.keep_release(later.clone(), vec![file()]).await.unwrap();
    store.plan_rollout(planned(2, later.id, None, &plan), deed()).await.unwrap();
    let rollouts = Rollouts::new(store.clone(), clock.clone(), Arc::default());
    let second = Uuid::from_bytes([2; 16]);
    let refused = rollouts.act(second, &Input::Start, "test").await;
    assert!(matches!(refused, Err(RolloutError::Plan(_))), "{refused:?}");
    rollouts.act(id, &Input::Halt("x".into()), "test").await.unwrap();
    rollouts.act(second, &Input::Start, "test").await.unwrap();
    // The first has no say over a station that the second has told something.
    let resumed = rollouts.act(id, &Input::Resume, "test").await;
    assert!(resumed.is_ok() || matches!(resumed, Err(RolloutError::Plan(_))));
    for row in store.rollout_devices(id).await.unwrap() {
        let other = store.rollout_devices(second).await.unwrap();
        let told = other.iter().any(|o| o.device_id == row.device_id && o.step == "offered");
        assert_eq!(told, row.step == "superseded", "{row:?}");
    }
}

/// Rejected verdicts count for the model that raised the alert, on stations that run the release.
async fn verdicts_count_for_the_model_that_heard(database: &Database) {
    let store = &database.store;
    let device = crate::station::device(1);
    known(store, &[device.0]).await;
    let mut new = release(1, 1);
    new.model_tag = crate::station::MODEL.to_string();
    store.keep_release(new.clone(), vec![file()]).await.unwrap();
    let plan = Plan { cohorts: vec![Cohort::Percent(100.0)], ..Plan::default() };
    store.plan_rollout(planned(1, new.id, None, &plan), deed()).await.unwrap();
    let now = Arc::new(AtomicI64::new(START_US + 15 * SECOND_US));
    let clock = {
        let now = now.clone();
        Clock::from_fn(move || now.load(Ordering::SeqCst))
    };
    let rollouts = Rollouts::new(store.clone(), clock, Arc::default());
    let id = Uuid::from_bytes([1; 16]);
    rollouts.act(id, &Input::Start, "test").await.unwrap();
    now.store(START_US + 16 * SECOND_US, Ordering::SeqCst);
    say(store, vec![report(device.0, &new, "committed", START_US + 16 * SECOND_US)], START_US)
        .await;
    rollouts.round().await.unwrap();
    // Alerts every second from second 1 on; the release is there from second 16 on.
    let alerts: Vec<_> = (1..=30).map(|seq| crate::station::alert(device, seq)).collect();
    store.commit(batch(&alerts)).await.unwrap();
    store.commit(batch(&[quiet_detection(device, 40)])).await.unwrap();
    let rejected: Vec<Uuid> = store
        .events(&ecosight_cloud::store::EventFilter::default(), 100)
        .await
        .unwrap()
        .iter()
        .map(|event| event.id)
        .collect();
    reject(database, &rejected).await;
    let end_us = START_US + 16 * SECOND_US + DAY_US;
    let tag = crate::station::MODEL.to_string();
    let counts = store.field_counts(id, &tag, START_US, 14 * DAY_US, end_us).await.unwrap();
    // Seconds 16 to 30 under the release; those before were heard by the same tag, so they are no
    // other model's.
    assert_eq!((counts.rejected_new, counts.rejected_old), (15, 0), "{counts:?}");
    assert!((counts.days_new - 1.0).abs() < 1e-9, "{counts:?}");
    let other = store.field_counts(id, "00000009", START_US, 14 * DAY_US, end_us).await.unwrap();
    assert_eq!((other.rejected_new, other.rejected_old), (0, 14), "seconds 1 to 14: {other:?}");
    now.store(end_us, Ordering::SeqCst);
    rollouts.round().await.unwrap();
    let row = store.rollout(id).await.unwrap().unwrap();
    assert_eq!(row.state, State::RolledBack.name(), "{row:?}");
    let reason = row.reason.unwrap();
    assert!(reason.contains("reviewers rejected") && reason.contains("--replaces"), "{reason}");
    assert_eq!(store.desired(device.0).await.unwrap().unwrap().model, None);
}

async fn reject(database: &Database, events: &[Uuid]) {
    for event in events {
        let statement = "UPDATE events SET verdict = 'rejected' WHERE id = $1";
        if let Some(file) = database.url.strip_prefix("sqlite:") {
            let pool = ecosight_cloud::store::sqlite_writer(file.as_ref()).await.unwrap();
            sqlx::query(statement).bind(event).execute(&pool).await.unwrap();
        } else {
            let pool = ecosight_cloud::store::postgres_pool(&database.url).await.unwrap();
            sqlx::query(statement).bind(event).execute(&pool).await.unwrap();
            pool.close().await;
        }
    }
}

on_both_databases!(
    the_history_of_a_station_is_bounded,
    a_release_is_kept_once_and_counters_rise,
    words_in_any_order_give_the_last_one,
    whatever_dies_when_the_rollout_ends_the_same,
    of_two_who_decide_at_once_one_does,
    verdicts_count_for_the_model_that_heard,
);
