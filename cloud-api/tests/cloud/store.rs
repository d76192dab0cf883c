//! The store's laws, each on both databases.

use std::time::Duration;

use ecosight_cloud::store::{
    Batch, Cause, ClipDeclaration, ClipStatus, Content, Declared, EventFilter, EventRow,
    GivenVerdict, Refused, Store, StoreError, Verdict,
};
use ecosight_shared::{ClipFormat, Envelope, EventId, Flags, Message};
use tokio::time::timeout;
use uuid::Uuid;

use crate::databases::{Database, on_both_databases};
use crate::station::{
    RECEIVED_US, alert, batch, detection, device, quiet_detection, stored_status, telemetry,
};

on_both_databases!(
    repeats_and_orders_change_nothing,
    an_alert_is_notified_once_and_a_canary_never,
    an_alert_is_taken_by_one_person,
    false_alarms_are_counted_by_what_they_were,
    a_class_gets_its_name_when_the_model_is_known,
    an_event_of_another_station_is_left_alone,
    pages_hold_every_event_once,
    a_clip_is_declared_and_stored_once,
    data_that_can_never_be_stored_is_told_apart,
    cancelled_work_loses_nothing_that_comes_later,
);

async fn all(store: &Store) -> Vec<EventRow> {
    store.events(&EventFilter::default(), 1_000).await.unwrap()
}

fn one(envelope: &Envelope) -> Batch {
    batch(std::slice::from_ref(envelope))
}

async fn an_alert_is_taken_by_one_person(database: &Database) {
    let store = &database.store;
    let status = Batch { statuses: vec![stored_status(device(1))], ..batch(&[]) };
    store.commit(status).await.unwrap();
    store.commit(batch(&[alert(device(1), 1), quiet_detection(device(1), 2)])).await.unwrap();
    let events = all(store).await;
    let alerts: Vec<Uuid> = events.iter().filter(|e| e.alert).map(|e| e.id).collect();
    let quiet = events.iter().find(|event| !event.alert).unwrap().id;
    let [taken] = alerts[..] else { panic!("{events:?}") };
    let by = ["user:a", "user:b", "user:c"];
    let tries = by.map(|by| store.acknowledge(taken, by.into(), RECEIVED_US + 1));
    let won: Vec<bool> =
        futures_util::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    assert!(!store.acknowledge(quiet, "user:a".into(), RECEIVED_US).await.unwrap());
    let of = async |state: &str| {
        let filter = EventFilter { state: Some(state.into()), ..EventFilter::default() };
        store.events(&filter, 10).await.unwrap()
    };
    let found = of("acknowledged").await;
    assert_eq!(found.iter().map(|event| event.id).collect::<Vec<_>>(), [taken]);
    let winner = by[won.iter().position(|won| *won).unwrap()];
    assert_eq!(found[0].acknowledged_by.as_deref(), Some(winner));
    assert_eq!(found[0].acknowledged_us, Some(RECEIVED_US + 1));
    // What its station says later changes nothing of that.
    store.commit(batch(&[detection(device(1), 1, 3)])).await.unwrap();
    assert_eq!(of("acknowledged").await[0].duration_ms, Some(1_440));
    assert_eq!(of("open").await.len(), 1);
    let counted = EventFilter { state: Some("open".into()), ..EventFilter::default() };
    assert_eq!(store.count_events(&counted).await.unwrap(), 1);
    assert_eq!(store.count_events(&EventFilter::default()).await.unwrap(), 2);
}

async fn false_alarms_are_counted_by_what_they_were(database: &Database) {
    let store = &database.store;
    let records: Vec<Envelope> = (1..=4).map(|n| quiet_detection(device(1), n)).collect();
    store.commit(batch(&records)).await.unwrap();
    let causes = [Some(Cause::Thunder), Some(Cause::Thunder), None];
    for (event, cause) in all(store).await.into_iter().zip(causes) {
        let given = GivenVerdict {
            id: Uuid::from_u128(event.id.as_u128() ^ 1),
            event: event.id,
            verdict: Some(Verdict::Rejected),
            cause,
            class: None,
            note: None,
            by: "user:a".into(),
            now_us: RECEIVED_US,
        };
        assert!(store.give_verdict(given).await.unwrap());
    }
    let mut counts = store.false_alarms().await.unwrap();
    counts.sort();
    assert_eq!(counts, [("thunder".to_owned(), 2), ("unknown".to_owned(), 1)]);
}

/// Rearranges by a fixed rule, so that a failure can be repeated.
fn shuffled(envelopes: &[Envelope], round: usize) -> Vec<Envelope> {
    let step = [7, 11, 13][round % 3];
    (0..envelopes.len()).map(|i| envelopes[(i * step + round) % envelopes.len()].clone()).collect()
}

async fn repeats_and_orders_change_nothing(database: &Database) {
    let store = &database.store;
    // 30 and the steps have no common factor, so every record is in every round.
    let envelopes: Vec<Envelope> = (0..10)
        .flat_map(|n| {
            let (station, seq) = (device(1 + n % 3), u32::from(n) * 3 + 1);
            [alert(station, seq), detection(station, seq, seq + 1), telemetry(station, seq + 2)]
        })
        .collect();
    let status = Batch {
        statuses: (1..=3).map(|n| stored_status(device(n))).collect(),
        received_us: RECEIVED_US,
        ..Batch::default()
    };
    store.commit(status.clone()).await.unwrap();
    let first = store.commit(batch(&envelopes)).await.unwrap();
    assert_eq!((first.fresh, first.alerts.len()), (30, 10));
    let (events, devices) = (all(store).await, store.devices().await.unwrap());
    for round in 0..3 {
        for part in shuffled(&envelopes, round).chunks(7) {
            let again = store.commit(batch(part)).await.unwrap();
            assert_eq!((again.fresh, again.alerts.len(), again.events.len()), (0, 0, 0));
        }
        store.commit(status.clone()).await.unwrap();
        assert_eq!(all(store).await, events);
        assert_eq!(store.devices().await.unwrap(), devices);
    }
    assert!(
        events.iter().all(|event| event.complete && event.class.as_deref() == Some("gun_shot"))
    );
    assert_eq!(devices.len(), 3);
    assert!(devices.iter().all(|(_, telemetry)| telemetry.is_some()));

    // The same records, detection before alert, give the same rows.
    let other = if store.kind() == "sqlite" {
        crate::databases::sqlite().await
    } else {
        crate::databases::postgres().await
    };
    let other = other.unwrap();
    other.store.commit(status).await.unwrap();
    for envelope in envelopes.iter().rev() {
        other.store.commit(one(envelope)).await.unwrap();
    }
    assert_eq!(all(&other.store).await, events);
}

async fn an_alert_is_notified_once_and_a_canary_never(database: &Database) {
    let store = &database.store;
    let mut canary = alert(device(1), 5);
    if let Message::Alert(alert) = &mut canary.message {
        alert.flags = Flags::CANARY;
    }
    store.commit(one(&canary)).await.unwrap();
    store.commit(one(&quiet_detection(device(1), 7))).await.unwrap();
    assert_eq!(store.pending_notifications(10).await.unwrap(), []);

    // The detection may come first: its id tells that there was an alert.
    let told = store.commit(one(&detection(device(1), 9, 10))).await.unwrap();
    assert_eq!(told.alerts.len(), 1);
    let again = store.commit(one(&alert(device(1), 9))).await.unwrap();
    assert!(again.alerts.is_empty());
    let pending = store.pending_notifications(10).await.unwrap();
    assert_eq!(pending.len(), 1);
    store.mark_notified(&[pending[0].event_id], RECEIVED_US).await.unwrap();
    assert_eq!(store.pending_notifications(10).await.unwrap(), []);

    let alerts = EventFilter { alerts_only: true, ..EventFilter::default() };
    assert_eq!(store.events(&alerts, 10).await.unwrap().len(), 2);
}

async fn a_class_gets_its_name_when_the_model_is_known(database: &Database) {
    let store = &database.store;
    store.commit(one(&alert(device(1), 1))).await.unwrap();
    assert_eq!(all(store).await[0].class, None);
    let status = Batch {
        statuses: vec![stored_status(device(1))],
        received_us: RECEIVED_US,
        ..Batch::default()
    };
    store.commit(status).await.unwrap();
    assert_eq!(all(store).await[0].class.as_deref(), Some("gun_shot"));
    store.commit(one(&alert(device(2), 1))).await.unwrap();
    assert!(all(store).await.iter().all(|event| event.class.as_deref() == Some("gun_shot")));
}

async fn an_event_of_another_station_is_left_alone(database: &Database) {
    let store = &database.store;
    let honest = detection(device(1), 1, 2);
    store.commit(batch(&[alert(device(1), 1), honest.clone()])).await.unwrap();
    let before = all(store).await;
    let mut forged = detection(device(2), 1, 2);
    if let (Message::Detection(forged), Message::Detection(honest)) =
        (&mut forged.message, &honest.message)
    {
        forged.event = honest.event;
        forged.score = 0.01;
    }
    store.commit(one(&forged)).await.unwrap();
    assert_eq!(all(store).await, before);
}

async fn pages_hold_every_event_once(database: &Database) {
    let store = &database.store;
    // All at one time: the order within a microsecond must be total too.
    let mut envelopes: Vec<Envelope> = (0..23).map(|n| alert(device(n + 1), 1)).collect();
    envelopes.extend((0..10).map(|n| alert(device(1), 10 + n)));
    store.commit(batch(&envelopes)).await.unwrap();
    let mut filter = EventFilter::default();
    let mut seen: Vec<Uuid> = Vec::new();
    loop {
        let page = store.events(&filter, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        let text = last.cursor().to_string();
        filter.after = Some(text.parse().unwrap());
        seen.extend(page.iter().map(|event| event.id));
    }
    let whole: Vec<Uuid> = all(store).await.iter().map(|event| event.id).collect();
    assert_eq!(seen, whole);
    assert_eq!(whole.len(), 33);

    let of_one = EventFilter { device: Some(device(1).0), ..EventFilter::default() };
    assert_eq!(store.events(&of_one, 100).await.unwrap().len(), 11);
    let recent = EventFilter {
        since_us: Some(all(store).await[9].listed_us),
        site: Some("ridge".into()),
        ..EventFilter::default()
    };
    assert_eq!(store.events(&recent, 100).await.unwrap().len(), 10);
}

async fn a_clip_is_declared_and_stored_once(database: &Database) {
    let store = &database.store;
    let event =
        EventId::of(alert(device(1), 1).header.record, alert(device(1), 1).header.unix_us).0;
    let declaration = ClipDeclaration {
        event,
        device: device(1).0,
        sha256: [2; 32],
        bytes: 4_096,
        duration_ms: 8_000,
        format: ClipFormat::Flac,
    };
    assert!(matches!(store.declare_clip(&declaration).await.unwrap(), Declared::New(_)));
    assert!(matches!(store.declare_clip(&declaration).await.unwrap(), Declared::Known(_)));
    let other = ClipDeclaration { sha256: [3; 32], ..declaration.clone() };
    assert!(matches!(store.declare_clip(&other).await.unwrap(), Declared::Conflict(_)));

    // The detection comes after the declaration, and agrees with it.
    store.commit(batch(&[alert(device(1), 1), detection(device(1), 1, 2)])).await.unwrap();
    let clip = store.clip(event).await.unwrap().unwrap();
    assert_eq!(clip.status(), ClipStatus::Uploading);
    let stored = |sha256: String| async move {
        store.set_clip_status(event, &sha256, ClipStatus::Stored, RECEIVED_US).await.unwrap()
    };
    assert!(!stored("00".into()).await, "a hash that is not the clip's");
    assert!(stored(clip.sha256.clone()).await);
    assert!(!stored(clip.sha256.clone()).await, "stored already");
    assert_eq!(all(store).await[0].clip_status.as_deref(), Some("stored"));
}

async fn data_that_can_never_be_stored_is_told_apart(database: &Database) {
    let store = &database.store;
    let mut bad = batch(&[quiet_detection(device(1), 1), quiet_detection(device(1), 2)]);
    if let Content::Event(draft) = &mut bad.records[1].content {
        // SQLite takes NaN for NULL, PostgreSQL takes no NUL in a text: one of each.
        draft.score = f64::NAN;
        draft.class = Some("a\0b".into());
    }
    let refused = store.commit(bad).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(all(store).await, [], "half a batch was stored");

    let note = |n: usize| Refused { topic: "t".into(), reason: format!("{n}"), payload: vec![0] };
    let notes = |from: usize| Batch {
        refused: (from..from + 600).map(note).collect(),
        received_us: RECEIVED_US,
        ..Batch::default()
    };
    store.commit(notes(0)).await.unwrap();
    store.commit(notes(600)).await.unwrap();
}

/// RELIABILITY: sqlx 0.9.0 gives a connection back inside an open transaction when its `begin` is
/// cancelled; what is then written on it vanishes.
#[allow(clippy::disallowed_methods, reason = "the very call that must not do harm")]
async fn cancelled_work_loses_nothing_that_comes_later(database: &Database) {
    let store = &database.store;
    if let Some(file) = database.url.strip_prefix("sqlite:") {
        let pool = ecosight_cloud::store::sqlite_writer(file.as_ref()).await.unwrap();
        for n in 0..500_u64 {
            let _ = timeout(Duration::from_micros(n % 50 * 4), pool.begin()).await;
        }
        insert_a_thousand!(pool);
        pool.close().await;
    } else {
        let pool = ecosight_cloud::store::postgres_pool(&database.url).await.unwrap();
        for n in 0..500_u64 {
            let _ = timeout(Duration::from_micros(n % 50 * 20), pool.begin()).await;
        }
        insert_a_thousand!(pool);
    }
    let kept = store.pending_notifications(2_000).await.unwrap();
    assert_eq!(kept.len(), 1_000, "writes that were reported as done are gone");

    // The store's own writes, each cancelled somewhere.
    for n in 0..200_u32 {
        let write = store.commit(one(&telemetry(device(1), n)));
        let _ = timeout(Duration::from_micros(u64::from(n) % 40 * 25), write).await;
    }
    let envelopes: Vec<Envelope> = (1_000..2_000).map(|seq| telemetry(device(2), seq)).collect();
    let mut fresh = 0;
    for part in envelopes.chunks(100) {
        fresh += commit_as_ingest_does(store, batch(part)).await;
    }
    assert_eq!(fresh, 1_000);
    assert_eq!(commit_as_ingest_does(store, batch(&envelopes[..200])).await, 0);
}

/// Repeats what the database could not take at the moment; gives how many records were new.
async fn commit_as_ingest_does(store: &Store, batch: Batch) -> usize {
    loop {
        match store.commit(batch.clone()).await {
            Err(StoreError::Unavailable(_)) => {}
            result => return result.unwrap().fresh,
        }
    }
}

/// A write that is refused loudly may be repeated; one that is reported as done must stay.
macro_rules! insert_a_thousand {
    ($pool:ident) => {
        for n in 0..1_000_u128 {
            for attempt in 0.. {
                let insert = sqlx::query(
                    "INSERT INTO notifications (event_id, site_id, created_us) \
                     VALUES ($1, 's', 1)",
                );
                match insert.bind(Uuid::from_u128(n)).execute(&$pool).await {
                    Err(sqlx::Error::PoolTimedOut) if attempt < 10 => {}
                    result => {
                        assert_eq!(result.unwrap().rows_affected(), 1);
                        break;
                    }
                }
            }
        }
    };
}

use insert_a_thousand;
