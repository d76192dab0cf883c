//! The three statements that every batch needs, written for each database as it likes them best.
//!
//! SQLite takes rows as `VALUES` lists, [`ROWS`] at a time, so that the statement of a whole list is
//! kept ready: parsing it takes longer than running it. PostgreSQL takes one array for each column: the
//! statement is always the same, so that it is parsed and planned once, and thousands of rows are twenty
//! parameters.

use std::future::Future;

use sqlx::{Database, FromRow, Postgres, QueryBuilder, Sqlite};
use uuid::Uuid;

use super::batch::{EventDraft, StoredRecord};

/// Rows in one `VALUES` list: SQLite takes at most 32,766 parameters, and no table here has 30 columns.
pub(super) const ROWS: usize = 100;

type Done<T> = Result<T, sqlx::Error>;

/// Which record was new.
#[derive(FromRow)]
pub(super) struct Key {
    pub(super) device_id: Uuid,
    pub(super) boot: i64,
    pub(super) seq: i64,
}

/// Which event was made or changed.
#[derive(FromRow)]
pub(super) struct Upserted {
    pub(super) id: Uuid,
    pub(super) alert: bool,
    pub(super) canary: bool,
}

/// Many rows at once. None of the lists is empty.
pub(super) trait Bulk: Database {
    /// Notes that stations (id, site, provisional name) were heard from.
    fn see_devices(
        connection: &mut <Self as Database>::Connection,
        rows: Vec<(Uuid, String, String)>,
        received_us: i64,
    ) -> impl Future<Output = Done<()>> + Send;

    /// Inserts records; gives those that were not there before.
    fn insert_records(
        connection: &mut <Self as Database>::Connection,
        records: &[StoredRecord],
        received_us: i64,
    ) -> impl Future<Output = Done<Vec<Key>>> + Send;

    /// Joins drafts, one for each event, with what is known of their events. A row that a detection
    /// has completed keeps its numbers; an alert that comes later only adds what it alone knows.
    fn join_events(
        connection: &mut <Self as Database>::Connection,
        drafts: Vec<EventDraft>,
        received_us: i64,
    ) -> impl Future<Output = Done<Vec<Upserted>>> + Send;
}

macro_rules! devices {
    () => {
        "INSERT INTO devices (id, site_id, name, state, first_seen_us, last_seen_us) "
    };
}

macro_rules! on_known_device {
    () => {
        " ON CONFLICT (id) DO UPDATE SET site_id = excluded.site_id, last_seen_us = \
         CASE WHEN excluded.last_seen_us > devices.last_seen_us \
         THEN excluded.last_seen_us ELSE devices.last_seen_us END"
    };
}

macro_rules! records {
    () => {
        "INSERT INTO records (device_id, boot, seq, site_id, kind, unix_us, time_quality, \
         received_us) "
    };
}

macro_rules! on_known_record {
    () => {
        " ON CONFLICT DO NOTHING RETURNING device_id, boot, seq"
    };
}

macro_rules! events {
    () => {
        "INSERT INTO events (id, site_id, device_id, class, class_index, alert, canary, flags, \
         complete, state, score, onset_us, time_quality, received_us, listed_us, duration_ms, \
         decided_after_ms, windows, level_dbfs, noise_floor_dbfs, scores, model_tag) "
    };
}

/// The column takes the detection's value, once.
macro_rules! completed {
    ($column:literal) => {
        concat!(
            ", ",
            $column,
            " = CASE WHEN excluded.complete AND NOT events.complete THEN excluded.",
            $column,
            " ELSE events.",
            $column,
            " END"
        )
    };
}

macro_rules! on_known_event {
    () => {
        concat!(
            " ON CONFLICT (id) DO UPDATE SET \
             alert = events.alert OR excluded.alert, \
             canary = events.canary OR excluded.canary, \
             complete = events.complete OR excluded.complete, \
             class_index = COALESCE(events.class_index, excluded.class_index), \
             class = CASE WHEN excluded.complete AND NOT events.complete \
             THEN COALESCE(excluded.class, events.class) \
             ELSE COALESCE(events.class, excluded.class) END",
            completed!("flags"),
            completed!("score"),
            completed!("onset_us"),
            completed!("time_quality"),
            completed!("duration_ms"),
            completed!("decided_after_ms"),
            completed!("windows"),
            completed!("level_dbfs"),
            completed!("noise_floor_dbfs"),
            completed!("scores"),
            completed!("model_tag"),
            " WHERE events.device_id = excluded.device_id RETURNING id, alert, canary",
        )
    };
}

/// Scores as a JSON array.
fn score_list(scores: &[u8]) -> String {
    serde_json::Value::from(scores).to_string()
}

impl Bulk for Sqlite {
    async fn see_devices(
        connection: &mut <Self as Database>::Connection,
        rows: Vec<(Uuid, String, String)>,
        received_us: i64,
    ) -> Done<()> {
        for rows in rows.chunks(ROWS) {
            let mut query = QueryBuilder::<Self>::new(devices!());
            query.push_values(rows, |mut row, (id, site, name)| {
                row.push_bind(*id).push_bind(site).push_bind(name).push_bind("unknown");
                row.push_bind(received_us).push_bind(received_us);
            });
            query.push(on_known_device!());
            query.build().persistent(rows.len() == ROWS).execute(&mut *connection).await?;
        }
        Ok(())
    }

    async fn insert_records(
        connection: &mut <Self as Database>::Connection,
        records: &[StoredRecord],
        received_us: i64,
    ) -> Done<Vec<Key>> {
        let mut fresh = Vec::new();
        for records in records.chunks(ROWS) {
            let mut query = QueryBuilder::<Self>::new(records!());
            query.push_values(records, |mut row, record| {
                row.push_bind(record.id.device.0);
                row.push_bind(i64::from(record.id.boot)).push_bind(i64::from(record.id.seq));
                row.push_bind(&record.site).push_bind(record.kind);
                row.push_bind(record.unix_us).push_bind(record.time_quality.name());
                row.push_bind(received_us);
            });
            query.push(on_known_record!());
            let query = query.build_query_as::<Key>().persistent(records.len() == ROWS);
            fresh.extend(query.fetch_all(&mut *connection).await?);
        }
        Ok(fresh)
    }

    async fn join_events(
        connection: &mut <Self as Database>::Connection,
        drafts: Vec<EventDraft>,
        received_us: i64,
    ) -> Done<Vec<Upserted>> {
        let mut touched = Vec::new();
        for drafts in drafts.chunks(ROWS) {
            let mut query = QueryBuilder::<Self>::new(events!());
            query.push_values(drafts, |mut row, draft| {
                row.push_bind(draft.id).push_bind(&draft.site).push_bind(draft.device);
                row.push_bind(&draft.class).push_bind(draft.class_index.map(i64::from));
                row.push_bind(draft.alert).push_bind(draft.canary);
                row.push_bind(i64::from(draft.flags)).push_bind(draft.complete).push_bind("open");
                row.push_bind(draft.score).push_bind(draft.onset_us);
                row.push_bind(draft.time_quality.name());
                row.push_bind(received_us).push_bind(draft.listed_us);
                row.push_bind(draft.duration_ms.map(i64::from));
                row.push_bind(draft.decided_after_ms.map(i64::from));
                row.push_bind(i64::from(draft.windows)).push_bind(draft.level_dbfs);
                row.push_bind(draft.noise_floor_dbfs);
                row.push_bind(draft.scores.as_deref().map(score_list));
                row.push_bind(&draft.model_tag);
            });
            query.push(on_known_event!());
            let query = query.build_query_as::<Upserted>().persistent(drafts.len() == ROWS);
            touched.extend(query.fetch_all(&mut *connection).await?);
        }
        Ok(touched)
    }
}

/// One value of every row.
fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

impl Bulk for Postgres {
    async fn see_devices(
        connection: &mut <Self as Database>::Connection,
        rows: Vec<(Uuid, String, String)>,
        received_us: i64,
    ) -> Done<()> {
        sqlx::query(concat!(
            devices!(),
            "SELECT id, site, name, 'unknown', $4, $4 \
             FROM UNNEST($1::uuid[], $2::text[], $3::text[]) AS t (id, site, name)",
            on_known_device!()
        ))
        .bind(column(&rows, |row| row.0))
        .bind(column(&rows, |row| row.1.clone()))
        .bind(column(&rows, |row| row.2.clone()))
        .bind(received_us)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn insert_records(
        connection: &mut <Self as Database>::Connection,
        records: &[StoredRecord],
        received_us: i64,
    ) -> Done<Vec<Key>> {
        sqlx::query_as(concat!(
            records!(),
            "SELECT device, boot, seq, site, kind, unix_us, quality, $8 FROM UNNEST($1::uuid[], \
             $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[]) \
             AS t (device, boot, seq, site, kind, unix_us, quality)",
            on_known_record!()
        ))
        .bind(column(records, |record| record.id.device.0))
        .bind(column(records, |record| i64::from(record.id.boot)))
        .bind(column(records, |record| i64::from(record.id.seq)))
        .bind(column(records, |record| record.site.clone()))
        .bind(column(records, |record| record.kind.to_owned()))
        .bind(column(records, |record| record.unix_us))
        .bind(column(records, |record| record.time_quality.name().to_owned()))
        .bind(received_us)
        .fetch_all(connection)
        .await
    }

    async fn join_events(
        connection: &mut <Self as Database>::Connection,
        drafts: Vec<EventDraft>,
        received_us: i64,
    ) -> Done<Vec<Upserted>> {
        sqlx::query_as(concat!(
            events!(),
            "SELECT id, site, device, class, class_index, alert, canary, flags, complete, 'open', \
             score, onset_us, quality, $21, listed_us, duration_ms, decided_ms, windows, level, \
             noise_floor, scores, model_tag FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], \
             $4::text[], $5::bigint[], $6::boolean[], $7::boolean[], $8::bigint[], $9::boolean[], \
             $10::float8[], $11::bigint[], $12::text[], $13::bigint[], $14::bigint[], \
             $15::bigint[], $16::bigint[], $17::float8[], $18::float8[], $19::text[], \
             $20::text[]) AS t (id, site, device, class, class_index, alert, canary, flags, \
             complete, score, onset_us, quality, listed_us, duration_ms, decided_ms, windows, \
             level, noise_floor, scores, model_tag)",
            on_known_event!()
        ))
        .bind(column(&drafts, |draft| draft.id))
        .bind(column(&drafts, |draft| draft.site.clone()))
        .bind(column(&drafts, |draft| draft.device))
        .bind(column(&drafts, |draft| draft.class.clone()))
        .bind(column(&drafts, |draft| draft.class_index.map(i64::from)))
        .bind(column(&drafts, |draft| draft.alert))
        .bind(column(&drafts, |draft| draft.canary))
        .bind(column(&drafts, |draft| i64::from(draft.flags)))
        .bind(column(&drafts, |draft| draft.complete))
        .bind(column(&drafts, |draft| draft.score))
        .bind(column(&drafts, |draft| draft.onset_us))
        .bind(column(&drafts, |draft| draft.time_quality.name().to_owned()))
        .bind(column(&drafts, |draft| draft.listed_us))
        .bind(column(&drafts, |draft| draft.duration_ms.map(i64::from)))
        .bind(column(&drafts, |draft| draft.decided_after_ms.map(i64::from)))
        .bind(column(&drafts, |draft| i64::from(draft.windows)))
        .bind(column(&drafts, |draft| draft.level_dbfs))
        .bind(column(&drafts, |draft| draft.noise_floor_dbfs))
        .bind(column(&drafts, |draft| draft.scores.as_deref().map(score_list)))
        .bind(column(&drafts, |draft| draft.model_tag.clone()))
        .bind(received_us)
        .fetch_all(connection)
        .await
    }
}
