//! Laws of releases and rollouts as they are written down, on both databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use ecosight_cloud::clock::Clock;
use ecosight_cloud::rollout::{Carrier, Cohort, Input, Plan, RolloutError, Rollouts, Rules, State};
use ecosight_cloud::store::{Batch, Deed, Kept, ReleaseRow, RolloutRow, Store, UpdateReport};
use ecosight_shared::DeviceId;
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
    RolledBack,
}

/// Drives one rollout to its end; at call `dies_at` of the broker everything in memory is lost, and
/// the database is opened anew.
async fn drive(
    database: &Database,
    n: u8,
    scenario: Scenario,
    dies_at: Option<(usize, bool)>,
) -> (End, usize) {
    let folder = TempDir::new().unwrap();
    let mut store = database.store.clone();
    let devices: Vec<Uuid> = (0..8)
        .map(|d| Uuid::from_bytes([n, d, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
        .collect();
    known(&store, &devices).await;
    let new = release(n, 100 + i64::from(n));
    let back = way_back(n.wrapping_add(100), &new);
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
    let row = planned(n, new.id, Some(back.id), &Plan { cohorts, rules });
    let id = row.id;
    store.plan_rollout(row, deed()).await.unwrap();
    // So long after the ones before that nobody looks at those any more.
    let now = Arc::new(AtomicI64::new(START_US + i64::from(n) * 400 * DAY_US));
    let clock = {
        let now = now.clone();
        Clock::from_fn(move || now.load(Ordering::SeqCst))
    };
    let field = Field { dies_at, ..Field::default() };
    let mut answered: BTreeMap<Uuid, Option<String>> = BTreeMap::new();
    let mut rollouts = Rollouts::new(store.clone(), clock.clone(), Arc::default());
    rollouts.act(id, &Input::Start, "test").await.unwrap();
    let mut quiet = 0;
    let mut sent_back = false;
    for _ in 0..200 {
        let turn = async {
            rollouts.round().await.unwrap();
            rollouts.publish(&field).await.unwrap()
        };
        let sent = tokio::select! {
            (sent, _) = turn => sent,
            () = field.died.notified() => {
                // As after kill -9: nothing is left but the database.
                store = Store::open(&database.url, folder.path()).await.unwrap();
                rollouts = Rollouts::new(store.clone(), clock.clone(), Arc::default());
                continue;
            }
        };
        now.fetch_add(20 * SECOND_US, Ordering::SeqCst);
        // Stations do what they are told, each once.
        let told = field.told.lock().unwrap().clone();
        let mut words = Vec::new();
        for (device, model) in told {
            if !devices.contains(&device) || answered.get(&device) == Some(&model) {
                continue;
            }
            answered.insert(device, model.clone());
            let at_us = now.load(Ordering::SeqCst);
            match model {
                Some(title) if title == new.title() => {
                    let fails = scenario == Scenario::OneFails && device == devices[1];
                    let step = if fails { "rolled_back" } else { "committed" };
                    words.push(report(device, &new, step, at_us));
                }
                Some(_) => words.push(report(device, &back, "committed", at_us)),
                None => {}
            }
        }
        let row = store.rollout(id).await.unwrap().unwrap();
        if scenario == Scenario::RolledBack && row.cohort == 1 && !sent_back && words.is_empty() {
            let wish = Input::RollBack("rangers complain".into());
            rollouts.act(id, &wish, "test").await.unwrap();
            sent_back = true;
            quiet = 0;
        }
        quiet = if words.is_empty() && sent == 0 { quiet + 1 } else { 0 };
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
    let steps = stations.iter().map(|row| format!("{} {}", row.cohort, row.step)).collect();
    let calls = *field.calls.lock().unwrap();
    if row.state == State::Halted.name() {
        // A halted one waits for a person for ever, and every later round would look at it.
        rollouts.act(id, &Input::RollBack("over".into()), "test").await.unwrap();
        rollouts.publish(&Field::default()).await.unwrap();
    }
    (End { state: row.state, cohort: row.cohort, steps, told }, calls)
}

/// Kill -9 at every message, before and after the broker has it: the rollout ends as without.
async fn whatever_dies_when_the_rollout_ends_the_same(database: &Database) {
    // The order of steps is the same on both; PostgreSQL, where a drive takes seconds, sees some of them.
    let stride = if database.url.starts_with("postgres") { 8 } else { 1 };
    let mut n = 0;
    for scenario in [Scenario::AllCommit, Scenario::OneFails, Scenario::RolledBack] {
        n += 1;
        let (whole, calls) = drive(database, n, scenario, None).await;
        match scenario {
            Scenario::AllCommit => {
                assert_eq!((whole.state.as_str(), calls), ("done", 8), "{whole:?}");
            }
            Scenario::OneFails => {
                assert_eq!((whole.state.as_str(), whole.cohort), ("halted", 0), "{whole:?}");
                assert_eq!(calls, 3, "only the first cohort was told");
            }
            Scenario::RolledBack => {
                assert_eq!(whole.state, "rolled_back");
                assert_eq!(whole.told.get(&Some("back".into())), Some(&8), "{whole:?}");
                assert!(whole.steps.iter().all(|step| step.ends_with(" reverted")), "{whole:?}");
            }
        }
        for at in (0..calls).step_by(stride) {
            for taken in [false, true] {
                n += 1;
                let (end, _) = drive(database, n, scenario, Some((at, taken))).await;
                assert_eq!(end, whole, "{scenario:?}, killed at message {at}, taken: {taken}");
            }
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
    a_release_is_kept_once_and_counters_rise,
    words_in_any_order_give_the_last_one,
    whatever_dies_when_the_rollout_ends_the_same,
    of_two_who_decide_at_once_one_does,
    verdicts_count_for_the_model_that_heard,
);
