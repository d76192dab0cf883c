//! On PostgreSQL events lie in one table for each month of their ids, `events_2026_11`, so that the
//! indices that ingest writes to stay small and a month that is over can be dropped whole.
//!
//! An id is a UUIDv7, whose first 48 bits are milliseconds since 1970. What no month takes, because
//! its clock was wrong or its table is not made yet, lies in `events_other`. Which table a row is in
//! changes no answer: months are made, and rows moved to them, whenever there is time.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::{Builder, Uuid};

use super::{Backend, Store, StoreError, to_the_end};

/// Earlier ids come from stations without a clock: they stay together.
const EARLIEST: Date = jiff::civil::date(2020, 1, 1);
/// One process at a time changes which months there are.
const MONTHS_LOCK: i64 = 0x6563_6f5f_6d6f_6e74;
/// Whoever waits for a table that is to be dropped holds up everybody else.
const DROP_PATIENCE: &str = "SET LOCAL lock_timeout = '2s'";

/// A month of UTC, by its first day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Month(Date);

impl Month {
    /// The month of a time; that of 1970-01-01 for one that no calendar holds.
    fn of(unix_us: i64) -> Self {
        let time = Timestamp::from_microsecond(unix_us).unwrap_or(Timestamp::UNIX_EPOCH);
        Self(TimeZone::UTC.to_datetime(time).date().first_of_month())
    }

    fn of_id(id: Uuid) -> Self {
        let millis = i64::try_from(id.as_u128() >> 80).unwrap_or(0);
        Self::of(millis.saturating_mul(1_000))
    }

    fn next(self) -> Self {
        Self(self.0.saturating_add(1.month()))
    }

    fn before(self) -> Self {
        Self(self.0.saturating_sub(1.month()))
    }

    /// Not above any id of the month, and above all ids of the month before.
    fn first_id(self) -> Uuid {
        let first = TimeZone::UTC.to_timestamp(self.0.at(0, 0, 0, 0));
        let first = first.map_or(0, |first| first.as_millisecond());
        Builder::from_u128(u128::from(first.unsigned_abs()) << 80).into_uuid()
    }

    fn table(self) -> String {
        self.0.strftime("events_%Y_%m").to_string()
    }

    fn parse(table: &str) -> Option<Self> {
        let month = table.strip_prefix("events_")?.replace('_', "-");
        format!("{month}-01").parse().ok().map(Self)
    }
}

impl Store {
    /// Makes the tables of this month and the next, and of every month that waiting rows belong to.
    /// Gives the names of those it made; nothing on SQLite, which has one table for all.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn prepare_months(&self, now_us: i64) -> Result<Vec<String>, StoreError> {
        let Backend::Pg { pool } = self.backend.clone() else { return Ok(Vec::new()) };
        to_the_end(async move {
            let this = Month::of(now_us);
            let mut made = Vec::new();
            let mut connection = pool.acquire().await?;
            for month in [this, this.next()] {
                made.extend(make(&mut connection, month).await?);
            }
            // From the latest one on: rows are read there first.
            let mut end = this;
            while let Some(month) = latest_waiting(&mut connection, end).await? {
                made.extend(make(&mut connection, month).await?);
                end = month;
            }
            Ok(made)
        })
        .await
    }

    /// Drops the tables of months before the last one in which no event is left; gives their names.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; a table that others use too long is left for the next time.
    pub async fn drop_empty_months(&self, now_us: i64) -> Result<Vec<String>, StoreError> {
        let Backend::Pg { pool } = self.backend.clone() else { return Ok(Vec::new()) };
        to_the_end(async move {
            let mut dropped = Vec::new();
            let mut connection = pool.acquire().await?;
            for month in months(&mut connection).await? {
                if month < Month::of(now_us).before()
                    && drop_if_empty(&mut connection, month).await?
                {
                    dropped.push(month.table());
                }
            }
            Ok(dropped)
        })
        .await
    }
}

async fn months(connection: &mut PgConnection) -> Result<Vec<Month>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'events'::regclass ORDER BY c.relname",
    )
    .fetch_all(connection)
    .await?;
    Ok(tables.iter().filter_map(|table| Month::parse(table)).collect())
}

/// The latest month before `end` of which a row lies in `events_other`.
async fn latest_waiting(
    connection: &mut PgConnection,
    end: Month,
) -> Result<Option<Month>, sqlx::Error> {
    let latest: Option<Uuid> = sqlx::query_scalar(
        "SELECT id FROM events_other WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT 1",
    )
    .bind(Month(EARLIEST).first_id())
    .bind(end.first_id())
    .fetch_optional(connection)
    .await?;
    Ok(latest.map(Month::of_id))
}

/// Makes the table of a month and moves to it what waits for it; `None` if it is there.
async fn make(connection: &mut PgConnection, month: Month) -> Result<Option<String>, sqlx::Error> {
    let table = month.table();
    let mut tx = sqlx::Connection::begin(connection).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MONTHS_LOCK).execute(&mut *tx).await?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&table)
        .fetch_one(&mut *tx)
        .await?;
    if there {
        return Ok(None);
    }
    let (first, end) = (month.first_id(), month.next().first_id());
    // Attaching needs this lock in the end; taken first, nothing can arrive between move and attach.
    let steps = [
        "LOCK TABLE events_other IN ACCESS EXCLUSIVE MODE".to_owned(),
        format!("CREATE TABLE {table} (LIKE events INCLUDING ALL)"),
        format!(
            "WITH moved AS (DELETE FROM events_other WHERE id >= '{first}' AND id < '{end}' \
             RETURNING *) INSERT INTO {table} SELECT * FROM moved"
        ),
        format!(
            "ALTER TABLE events ATTACH PARTITION {table} FOR VALUES FROM ('{first}') TO ('{end}')"
        ),
    ];
    for step in steps {
        sqlx::query(AssertSqlSafe(step)).persistent(false).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Some(table))
}

async fn drop_if_empty(connection: &mut PgConnection, month: Month) -> Result<bool, sqlx::Error> {
    let table = month.table();
    let holds = format!("SELECT EXISTS (SELECT 1 FROM {table})");
    let holds = || sqlx::query_scalar::<_, bool>(AssertSqlSafe(holds.clone())).persistent(false);
    if holds().fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let mut tx = sqlx::Connection::begin(connection).await?;
    sqlx::query(DROP_PATIENCE).execute(&mut *tx).await?;
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await?;
    // A late record may have come before the lock.
    if holds().fetch_one(&mut *tx).await? {
        return Ok(false);
    }
    let drop = AssertSqlSafe(format!("DROP TABLE {table}"));
    sqlx::query(drop).persistent(false).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use ecosight_shared::{DeviceId, EventId, RecordId};
    use uuid::Uuid;

    use super::Month;

    #[test]
    fn ids_fall_into_the_month_of_their_time() {
        // 2025-12-31T23:59:59.999Z and a millisecond later.
        let record = RecordId { device: DeviceId(Uuid::max()), boot: 1, seq: 1 };
        let last = EventId::of(record, 1_767_225_599_999_000).0;
        let first = EventId::of(record, 1_767_225_600_000_000).0;
        let (december, january) = (Month::of_id(last), Month::of_id(first));
        assert_eq!(
            (december.table(), january.table()),
            ("events_2025_12".into(), "events_2026_01".into())
        );
        assert_eq!((december.next(), january.before()), (january, december));
        assert!(
            december.first_id() < last && last < january.first_id() && january.first_id() < first
        );
        assert_eq!(Month::parse(&december.table()), Some(december));
        assert_eq!(Month::parse("events_other"), None);
    }

    #[test]
    fn absurd_times_have_a_month() {
        for unix_us in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(Month::of(unix_us).0.day(), 1);
        }
        assert_eq!(Month::of_id(Uuid::max()).0.day(), 1);
    }
}
