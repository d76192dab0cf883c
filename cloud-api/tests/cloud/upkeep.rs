//! What is forgotten, and what is not, on both databases; tables by month on PostgreSQL.

use std::path::Path;
use std::time::Duration;

use ecosight_cloud::clips::Clips;
use ecosight_cloud::clock::{Clock, parse_rfc3339};
use ecosight_cloud::config::KeepRule;
use ecosight_cloud::store::{
    ClipStatus, Content, EventFilter, GivenVerdict, Store, StoredRecord, Verdict,
};
use ecosight_cloud::upkeep::Upkeep;
use ecosight_shared::{EventId, RecordId};
use sqlx::Row as _;
use uuid::Uuid;

use crate::databases::{Database, on_both_databases, postgres};
use crate::station::{batch, detection, device, stored, telemetry};

on_both_databases!(
    old_events_go_with_their_recordings_and_judged_ones_stay,
    an_interrupted_removal_is_gone_on_with,
    old_telemetry_goes_with_its_records,
);

const DAY_US: i64 = 86_400_000_000;

fn now_us() -> i64 {
    parse_rfc3339("2026-03-15T12:00:00Z").unwrap()
}

/// A complete event of `class` with a recording, that happened at `unix_us`.
fn event(seq: u32, class: &str, unix_us: i64) -> StoredRecord {
    let mut record = stored(&detection(device(1), seq, seq));
    record.unix_us = unix_us;
    if let Content::Event(draft) = &mut record.content {
        draft.id = EventId::of(RecordId { device: device(1), boot: 1, seq }, unix_us).0;
        draft.class = Some(class.into());
        (draft.listed_us, draft.onset_us) = (unix_us, unix_us);
    }
    record
}

fn id(record: &StoredRecord) -> Uuid {
    match &record.content {
        Content::Event(draft) => draft.id,
        Content::Telemetry(_) => panic!("no event"),
    }
}

async fn commit(store: &Store, records: &[StoredRecord]) {
    let all = ecosight_cloud::store::Batch { records: records.to_vec(), ..batch(&[]) };
    store.commit(all).await.unwrap();
}

/// The ids of what is listed, oldest first, each as often as it is.
async fn listed(store: &Store) -> Vec<Uuid> {
    let events = store.events(&EventFilter::default(), 1_000).await.unwrap();
    events.iter().rev().map(|event| event.id).collect()
}

async fn upkeep(store: &Store, folder: &Path, rules: &[(&str, u64)]) -> Upkeep {
    let clock = Clock::from_fn(now_us);
    let rule = |(class, days): &(&str, u64)| KeepRule {
        class: Some((*class).to_owned()).filter(|class| class != "*"),
        keep: Duration::from_secs(days * 86_400),
    };
    Upkeep {
        store: store.clone(),
        clips: Clips::open(folder.join("clips"), store.clone(), clock.clone()).await.unwrap(),
        clock,
        keep_telemetry: Duration::from_secs(90 * 86_400),
        keep_events: rules.iter().map(rule).collect(),
    }
}

async fn store_clip(upkeep: &Upkeep, id: Uuid) -> std::path::PathBuf {
    let clip = upkeep.store.clip(id).await.unwrap().unwrap();
    let path = upkeep.clips.path(&clip);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "sound").unwrap();
    upkeep.store.set_clip_status(id, &clip.sha256, ClipStatus::Stored, now_us()).await.unwrap();
    path
}

async fn old_events_go_with_their_recordings_and_judged_ones_stay(database: &Database) {
    let (store, folder) = (&database.store, tempfile::TempDir::new().unwrap());
    let events = [
        event(1, "gun_shot", now_us() - 500 * DAY_US),
        event(2, "gun_shot", now_us() - 399 * DAY_US),
        event(3, "dog", now_us() - 31 * DAY_US),
        event(4, "dog", now_us() - 32 * DAY_US),
        event(5, "dog", now_us() - 29 * DAY_US),
        event(6, "branch", now_us() - 401 * DAY_US),
    ];
    let [old_shot, shot, old_dog, judged_dog, dog, old_branch] = events.each_ref().map(id);
    commit(store, &events).await;
    let verdict = GivenVerdict {
        id: Uuid::from_bytes([1; 16]),
        event: judged_dog,
        verdict: Some(Verdict::Confirmed),
        cause: None,
        class: None,
        note: None,
        by: "user:1".into(),
        now_us: now_us(),
    };
    assert!(store.give_verdict(verdict).await.unwrap());

    let without_rules = upkeep(store, folder.path(), &[]).await;
    let mut paths = Vec::new();
    for id in [old_dog, judged_dog, dog] {
        paths.push(store_clip(&without_rules, id).await);
    }
    without_rules.round().await.unwrap();
    assert_eq!(listed(store).await.len(), 6, "nothing is forgotten without a rule");

    upkeep(store, folder.path(), &[("dog", 30), ("*", 400)]).await.round().await.unwrap();
    assert_eq!(listed(store).await, [shot, judged_dog, dog]);
    let there: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
    assert_eq!(there, [false, true, true]);
    for gone in [old_shot, old_dog, old_branch] {
        assert_eq!(store.clip(gone).await.unwrap(), None);
    }
    assert!(store.clip(dog).await.unwrap().is_some());
}

async fn an_interrupted_removal_is_gone_on_with(database: &Database) {
    let (store, folder) = (&database.store, tempfile::TempDir::new().unwrap());
    let old = event(1, "dog", now_us() - 31 * DAY_US);
    commit(store, std::slice::from_ref(&old)).await;
    let upkeep = upkeep(store, folder.path(), &[]).await;
    let path = store_clip(&upkeep, id(&old)).await;
    // The program was killed when the event was gone and the file was not.
    let which = ecosight_cloud::store::Forget::Class("dog".into());
    assert_eq!(store.forget_events(which, now_us()).await.unwrap(), 1);
    assert!(path.exists());
    upkeep.round().await.unwrap();
    assert!(!path.exists());
    assert_eq!(store.clip(id(&old)).await.unwrap(), None);
}

async fn old_telemetry_goes_with_its_records(database: &Database) {
    let store = &database.store;
    let records = [telemetry(device(1), 1), telemetry(device(1), 2)];
    let mut late = batch(&records[1..]);
    late.received_us += DAY_US;
    store.commit(batch(&records[..1])).await.unwrap();
    store.commit(late.clone()).await.unwrap();
    assert_eq!(store.forget_telemetry(late.received_us).await.unwrap(), 1);
    assert_eq!(store.commit(late.clone()).await.unwrap().fresh, 0, "its record is remembered");
    assert_eq!(store.commit(batch(&records[..1])).await.unwrap().fresh, 1, "its record is gone");
}

/// Rows of each table of the month, by name.
async fn tables(database: &Database) -> Vec<(String, i64)> {
    let pool = ecosight_cloud::store::postgres_pool(&database.url).await.unwrap();
    let rows = sqlx::query(
        "SELECT p.relname::text, count(e.id) FROM pg_inherits i \
         JOIN pg_class p ON p.oid = i.inhrelid LEFT JOIN events e ON e.tableoid = p.oid \
         WHERE i.inhparent = 'events'::regclass GROUP BY p.relname ORDER BY p.relname",
    );
    rows.fetch_all(&pool).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_lie_in_the_tables_of_their_months() {
    let Some(database) = postgres().await else { return };
    let store = &database.store;
    let events = [
        event(1, "dog", 0),
        event(2, "dog", parse_rfc3339("2026-01-31T23:59:59.999Z").unwrap()),
        event(3, "dog", parse_rfc3339("2026-02-01T00:00:00Z").unwrap()),
        event(4, "gun_shot", now_us()),
        event(5, "dog", parse_rfc3339("2039-01-01T00:00:00Z").unwrap()),
    ];
    commit(store, &events).await;
    let before = listed(store).await;
    assert_eq!(before, events.each_ref().map(id));

    let made = store.prepare_months(now_us()).await.unwrap();
    assert_eq!(made, ["events_2026_03", "events_2026_04", "events_2026_02", "events_2026_01"]);
    assert_eq!(store.prepare_months(now_us()).await.unwrap(), [""; 0], "once is enough");
    let rows = |table: &str, rows| (table.to_owned(), rows);
    let expected = [
        rows("events_2026_01", 1),
        rows("events_2026_02", 1),
        rows("events_2026_03", 1),
        rows("events_2026_04", 0),
        rows("events_other", 2),
    ];
    assert_eq!(tables(&database).await, expected);
    assert_eq!(listed(store).await, before, "the list is as it was");
    commit(store, &events).await;
    assert_eq!(listed(store).await, before, "what is delivered again is known in every table");

    let folder = tempfile::TempDir::new().unwrap();
    upkeep(store, folder.path(), &[("dog", 10)]).await.round().await.unwrap();
    assert_eq!(listed(store).await, [id(&events[3]), id(&events[4])]);
    let left: Vec<String> = tables(&database).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["events_2026_02", "events_2026_03", "events_2026_04", "events_other"]);
}
