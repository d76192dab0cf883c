//! Events as the API lists them.

use std::fmt;
use std::str::FromStr;

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Backend, Store, StoreError, Verdict, reading, writing};

/// An event with its station, model and clip.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table events, and of those it refers to")]
pub struct EventRow {
    pub id: Uuid,
    pub device_id: Uuid,
    pub device_name: Option<String>,
    pub site_id: String,
    pub class: Option<String>,
    pub alert: bool,
    pub canary: bool,
    pub complete: bool,
    pub state: String,
    pub score: f64,
    pub onset_us: i64,
    pub time_quality: String,
    pub received_us: i64,
    pub listed_us: i64,
    pub duration_ms: Option<i64>,
    pub decided_after_ms: Option<i64>,
    pub windows: i64,
    pub level_dbfs: f64,
    pub noise_floor_dbfs: Option<f64>,
    pub scores: Option<String>,
    pub model_tag: String,
    pub model_name: Option<String>,
    pub model_version: Option<String>,
    pub model_classes: Option<String>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    pub uncertainty_m: Option<f64>,
    pub clip_status: Option<String>,
    pub clip_bytes: Option<i64>,
    pub clip_duration_ms: Option<i64>,
    pub clip_format: Option<String>,
    pub clip_sha256: Option<String>,
    pub verdict: Option<String>,
    pub verdict_cause: Option<String>,
    pub verdict_class: Option<String>,
    pub verdict_note: Option<String>,
    pub verdict_by: Option<String>,
    pub verdict_us: Option<i64>,
    pub acknowledged_by: Option<String>,
    pub acknowledged_us: Option<i64>,
}

/// Which events; `None` means any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Only those whose class alerts.
    pub alerts_only: bool,
    /// Of this site.
    pub site: Option<String>,
    /// Of one of these sites.
    pub sites: Option<Vec<String>>,
    /// Of this station.
    pub device: Option<Uuid>,
    /// Of this class.
    pub class: Option<String>,
    /// With this score or a higher one.
    pub min_score: Option<f64>,
    /// In this state.
    pub state: Option<String>,
    /// With this verdict; the inner `None` for those that nobody judged.
    pub verdict: Option<Option<Verdict>>,
    /// Listed at this time or later, µs.
    pub since_us: Option<i64>,
    /// Listed before this time, µs.
    pub until_us: Option<i64>,
    /// After this place in the list.
    pub after: Option<Cursor>,
}

/// A place in the list of events, newest first: that of the last event on the page before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// See the column `listed_us`.
    pub listed_us: i64,
    /// The event.
    pub id: Uuid,
}

impl Cursor {
    /// Before everything: where the first page begins.
    pub(super) const START: Self = Self { listed_us: i64::MAX, id: Uuid::max() };
}

macro_rules! select_event {
    ($rest:literal) => {
        concat!(
            "SELECT e.id, e.device_id, d.name AS device_name, e.site_id, e.class, e.alert, e.canary, \
             e.complete, e.state, e.score, e.onset_us, e.time_quality, e.received_us, e.listed_us, \
             e.duration_ms, e.decided_after_ms, e.windows, e.level_dbfs, e.noise_floor_dbfs, \
             e.scores, e.model_tag, m.name AS model_name, m.version AS model_version, \
             m.classes AS model_classes, d.latitude, d.longitude, d.uncertainty_m, \
             c.status AS clip_status, c.bytes AS clip_bytes, c.duration_ms AS clip_duration_ms, \
             c.format AS clip_format, c.sha256 AS clip_sha256, e.verdict, e.verdict_cause, \
             e.verdict_class, e.verdict_note, e.verdict_by, e.verdict_us, e.acknowledged_by, \
             e.acknowledged_us \
             FROM events e LEFT JOIN devices d ON d.id = e.device_id \
             LEFT JOIN models m ON m.tag = e.model_tag \
             LEFT JOIN clips c ON c.id = e.id AND c.device_id = e.device_id ",
            $rest
        )
    };
}

/// Adds to a query what a filter wants of events `e`, but for the place in the list.
macro_rules! conditions {
    ($query:ident, $filter:expr) => {
        if $filter.alerts_only {
            $query.push(" AND e.alert = TRUE");
        }
        if let Some(site) = &$filter.site {
            $query.push(" AND e.site_id = ").push_bind(site.clone());
        }
        if let Some(sites) = &$filter.sites {
            // No site at all matches nothing.
            $query.push(" AND e.site_id IN (NULL");
            for site in sites {
                $query.push(", ").push_bind(site.clone());
            }
            $query.push(")");
        }
        if let Some(score) = $filter.min_score {
            $query.push(" AND e.score >= ").push_bind(score);
        }
        if let Some(state) = &$filter.state {
            $query.push(" AND e.state = ").push_bind(state.clone());
        }
        match $filter.verdict {
            Some(Some(verdict)) => {
                $query.push(" AND e.verdict = ").push_bind(verdict.name());
            }
            Some(None) => {
                $query.push(" AND e.verdict IS NULL");
            }
            None => {}
        }
        if let Some(device) = $filter.device {
            $query.push(" AND e.device_id = ").push_bind(device);
        }
        if let Some(class) = &$filter.class {
            $query.push(" AND e.class = ").push_bind(class.clone());
        }
        if let Some(since) = $filter.since_us {
            $query.push(" AND e.listed_us >= ").push_bind(since);
        }
        if let Some(until) = $filter.until_us {
            $query.push(" AND e.listed_us < ").push_bind(until);
        }
    };
}

/// Builds and runs the query for how many events there are on one pool.
macro_rules! count {
    ($db:ty, $pool:expr, $filter:expr) => {{
        let mut query =
            QueryBuilder::<$db>::new("SELECT COUNT(*) AS matched FROM events e WHERE TRUE");
        conditions!(query, $filter);
        query.build_query_scalar::<i64>().fetch_one($pool).await
    }};
}

/// Builds and runs the list's query on one pool.
macro_rules! list {
    ($db:ty, $pool:expr, $filter:expr, $limit:expr) => {{
        let mut query = QueryBuilder::<$db>::new(select_event!("WHERE TRUE"));
        conditions!(query, $filter);
        if let Some(Cursor { listed_us, id }) = $filter.after {
            query.push(" AND (e.listed_us, e.id) < (").push_bind(listed_us);
            query.push(", ").push_bind(id).push(")");
        }
        query.push(" ORDER BY e.listed_us DESC, e.id DESC LIMIT ").push_bind($limit);
        query.build_query_as::<EventRow>().fetch_all($pool).await
    }};
}

/// Builds and runs the query for what is to be reviewed on one pool.
macro_rules! unjudged {
    ($db:ty, $pool:expr, $sites:expr, $since_us:expr, $limit:expr) => {{
        let mut query = QueryBuilder::<$db>::new(select_event!(
            "WHERE e.verdict IS NULL AND NOT e.canary AND c.status = 'stored' AND e.listed_us >= "
        ));
        query.push_bind($since_us);
        if let Some(sites) = $sites {
            query.push(" AND e.site_id IN (NULL");
            for site in sites {
                query.push(", ").push_bind(site.clone());
            }
            query.push(")");
        }
        query.push(" ORDER BY e.listed_us DESC, e.id DESC LIMIT ").push_bind($limit);
        query.build_query_as::<EventRow>().fetch_all($pool).await
    }};
}

/// Builds and runs the query for some ids on one pool.
macro_rules! by_id {
    ($db:ty, $pool:expr, $ids:expr) => {{
        let mut query = QueryBuilder::<$db>::new(select_event!("WHERE e.id IN ("));
        let mut list = query.separated(", ");
        for id in $ids {
            list.push_bind(*id);
        }
        query.push(") ORDER BY e.listed_us, e.id");
        query.build_query_as::<EventRow>().persistent(false).fetch_all($pool).await
    }};
}

impl Store {
    /// At most `limit` events, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn events(
        &self,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<Vec<EventRow>, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => list!(sqlx::Sqlite, read, filter, limit)?,
            Backend::Pg { pool } => list!(sqlx::Postgres, pool, filter, limit)?,
        })
    }

    /// How many events a filter picks, wherever in the list.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count_events(&self, filter: &EventFilter) -> Result<i64, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => count!(sqlx::Sqlite, read, filter)?,
            Backend::Pg { pool } => count!(sqlx::Postgres, pool, filter)?,
        })
    }

    /// The events with these ids, in the order of the list, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn events_by_id(&self, ids: &[Uuid]) -> Result<Vec<EventRow>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(match &self.backend {
            Backend::Lite { read, .. } => by_id!(sqlx::Sqlite, read, ids)?,
            Backend::Pg { pool } => by_id!(sqlx::Postgres, pool, ids)?,
        })
    }

    /// Events that came after `after_us`, oldest first: id, whether their class alerts, and when.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn events_received(
        &self,
        after_us: i64,
        limit: i64,
    ) -> Result<Vec<(Uuid, bool, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, alert, received_us FROM events WHERE received_us > $1 \
                 ORDER BY received_us LIMIT $2",
            )
            .bind(after_us)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Notes that somebody takes an open alert; false if there is none: somebody else took it, most
    /// likely.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn acknowledge(
        &self,
        event: Uuid,
        by: String,
        now_us: i64,
    ) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "UPDATE events SET state = 'acknowledged', acknowledged_by = $2, \
                 acknowledged_us = $3 WHERE id = $1 AND alert = TRUE AND state = 'open'",
            )
            .bind(event)
            .bind(by)
            .bind(now_us)
            .execute(&mut *tx)
            .await?
            .rows_affected()
                == 1
        })
    }

    /// How many events people rejected, by what they were; `unknown` where nobody said.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn false_alarms(&self) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT COALESCE(verdict_cause, 'unknown') AS cause, COUNT(*) AS events \
                 FROM events WHERE verdict = 'rejected' \
                 GROUP BY COALESCE(verdict_cause, 'unknown')",
            )
            .fetch_all(pool)
            .await
        })?)
    }

    /// The newest events with a recording that nobody judged, of these sites or of all, from
    /// `since_us` on. Canaries are no matter of opinion.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn unjudged_events(
        &self,
        sites: Option<&[String]>,
        since_us: i64,
        limit: i64,
    ) -> Result<Vec<EventRow>, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => unjudged!(sqlx::Sqlite, read, sites, since_us, limit)?,
            Backend::Pg { pool } => unjudged!(sqlx::Postgres, pool, sites, since_us, limit)?,
        })
    }

    /// One event.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn event(&self, id: Uuid) -> Result<Option<EventRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_event!("WHERE e.id = $1")).bind(id).fetch_optional(pool).await
        })?)
    }
}

impl EventRow {
    /// The place of this event in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.listed_us, id: self.id }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.listed_us, self.id.simple())
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (listed_us, id) = text.split_once('.').ok_or(())?;
        let id = Uuid::try_parse(id).map_err(|_| ())?;
        Ok(Self { listed_us: listed_us.parse().map_err(|_| ())?, id })
    }
}
