//! Sounds to learn from. The bytes are files (see `samples`).

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Backend, Cursor, Store, StoreError, reading, writing};

/// A sample as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SampleRow {
    /// Its id.
    pub id: Uuid,
    /// What is heard in it.
    pub class: String,
    /// What must stay on one side of every split.
    pub group_key: String,
    /// `upload`, `import`, `event` or `missed`; of an import, where it says it comes from.
    pub source: String,
    /// The event whose recording it is.
    pub event_id: Option<Uuid>,
    /// As the sender called it.
    pub file_name: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub bytes: i64,
    /// Length of the sound.
    pub duration_ms: i64,
    /// Sample rate of the file.
    pub rate_hz: i64,
    /// Channels of the file.
    pub channels: i64,
    /// When it came, µs.
    pub created_us: i64,
    /// When its class was last set, µs.
    pub labelled_us: i64,
    /// Where it was recorded, if a station did.
    pub site_id: Option<String>,
    /// The station that recorded it.
    pub device_id: Option<Uuid>,
    /// Terms of use.
    pub licence: String,
    /// Who said what is heard in it.
    pub verifier: Option<String>,
}

/// How many samples a class has.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ClassCount {
    /// The class.
    pub class: String,
    /// Its samples.
    pub samples: i64,
    /// The groups they come from.
    pub groups: i64,
}

macro_rules! columns {
    () => {
        "id, class, group_key, source, event_id, file_name, sha256, bytes, duration_ms, rate_hz, \
         channels, created_us, labelled_us, site_id, device_id, licence, verifier"
    };
}

/// Restricts a query to samples of some sites; no site at all matches nothing, and neither does a sample
/// that no station recorded.
macro_rules! of_sites {
    ($query:ident, $sites:expr) => {
        if let Some(sites) = $sites {
            $query.push(" AND site_id IN (NULL");
            for site in sites {
                $query.push(", ").push_bind(site.clone());
            }
            $query.push(")");
        }
    };
}

/// Builds and runs the query for how many samples classes have on one pool.
macro_rules! counts {
    ($db:ty, $pool:expr, $sites:expr) => {{
        let mut query = QueryBuilder::<$db>::new(
            "SELECT class, COUNT(*) AS samples, COUNT(DISTINCT group_key) AS groups \
             FROM samples WHERE TRUE",
        );
        of_sites!(query, $sites);
        query.push(" GROUP BY class ORDER BY class");
        query.build_query_as::<ClassCount>().fetch_all($pool).await
    }};
}

/// Builds and runs the list's query on one pool.
macro_rules! list {
    ($db:ty, $pool:expr, $sites:expr, $class:expr, $after:expr, $limit:expr) => {{
        let mut query =
            QueryBuilder::<$db>::new(concat!("SELECT ", columns!(), " FROM samples WHERE TRUE"));
        of_sites!(query, $sites);
        if let Some(class) = $class {
            query.push(" AND class = ").push_bind(class.to_owned());
        }
        if let Some(Cursor { listed_us, id }) = $after {
            query.push(" AND (created_us, id) < (").push_bind(listed_us);
            query.push(", ").push_bind(id).push(")");
        }
        query.push(" ORDER BY created_us DESC, id DESC LIMIT ").push_bind($limit);
        query.build_query_as::<SampleRow>().fetch_all($pool).await
    }};
}

impl Store {
    /// Keeps a sample. A file with the same content is one sample: it takes the new class, and the event
    /// and station that it turns out to be of; what is given back is the row that was there.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn keep_sample(&self, sample: SampleRow) -> Result<SampleRow, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(concat!(
                "INSERT INTO samples (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
                 $16, $17) ON CONFLICT (sha256) DO UPDATE SET class = excluded.class, \
                 labelled_us = CASE WHEN samples.class = excluded.class THEN samples.labelled_us \
                 ELSE excluded.labelled_us END, \
                 verifier = COALESCE(excluded.verifier, samples.verifier), \
                 event_id = COALESCE(samples.event_id, excluded.event_id), \
                 site_id = COALESCE(samples.site_id, excluded.site_id), \
                 device_id = COALESCE(samples.device_id, excluded.device_id) RETURNING ",
                columns!()
            ))
            .bind(sample.id)
            .bind(sample.class)
            .bind(sample.group_key)
            .bind(sample.source)
            .bind(sample.event_id)
            .bind(sample.file_name)
            .bind(sample.sha256)
            .bind(sample.bytes)
            .bind(sample.duration_ms)
            .bind(sample.rate_hz)
            .bind(sample.channels)
            .bind(sample.created_us)
            .bind(sample.labelled_us)
            .bind(sample.site_id)
            .bind(sample.device_id)
            .bind(sample.licence)
            .bind(sample.verifier)
            .fetch_one(&mut *tx)
            .await?
        })
    }

    /// Gives a sample another class, as `verifier` says; `None` if there is no such sample.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn relabel_sample(
        &self,
        id: Uuid,
        class: String,
        verifier: String,
        now_us: i64,
    ) -> Result<Option<SampleRow>, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(concat!(
                "UPDATE samples SET labelled_us = CASE WHEN class = $2 THEN labelled_us ELSE $4 END, \
                 class = $2, verifier = $3 WHERE id = $1 RETURNING ",
                columns!()
            ))
            .bind(id)
            .bind(class)
            .bind(verifier)
            .bind(now_us)
            .fetch_optional(&mut *tx)
            .await?
        })
    }

    /// Forgets a sample; gives what was known of it. The caller removes the file.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn forget_sample(&self, id: Uuid) -> Result<Option<SampleRow>, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(concat!("DELETE FROM samples WHERE id = $1 RETURNING ", columns!()))
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?
        })
    }

    /// One sample.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sample(&self, id: Uuid) -> Result<Option<SampleRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM samples WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// The sample made of an event's recording.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sample_of_event(&self, event: Uuid) -> Result<Option<SampleRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM samples WHERE event_id = $1"))
                .bind(event)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// Recordings that candidates are judged on and never trained on: key, the class that each was
    /// chosen for, and when, µs.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn test_groups(&self) -> Result<Vec<(String, String, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as("SELECT group_key, class, chosen_us FROM test_groups ORDER BY group_key")
                .fetch_all(pool)
                .await
        })?)
    }

    /// Sets recordings of a class aside for judging, for good. Nothing happens where the class has
    /// some already: it is chosen once. Gives what is then set aside, over all classes.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn set_aside(
        &self,
        class: String,
        groups: Vec<String>,
        now_us: i64,
    ) -> Result<(), StoreError> {
        writing!(self, |tx| {
            let chosen: Option<(String,)> =
                sqlx::query_as("SELECT class FROM test_groups WHERE class = $1 LIMIT 1")
                    .bind(&class)
                    .fetch_optional(&mut *tx)
                    .await?;
            if chosen.is_none() {
                for group in groups {
                    sqlx::query(
                        "INSERT INTO test_groups (group_key, class, chosen_us)                          VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    )
                    .bind(group)
                    .bind(&class)
                    .bind(now_us)
                    .execute(&mut *tx)
                    .await?;
                }
            }
        })
    }

    /// At most `limit` samples, newest first, of one class or all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn samples(
        &self,
        class: Option<&str>,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<SampleRow>, StoreError> {
        self.samples_seen(None, class, after, limit).await
    }

    /// The same as somebody sees it who may see these sites; `None` for all, and for what no station
    /// recorded.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn samples_seen(
        &self,
        sites: Option<&[String]>,
        class: Option<&str>,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<SampleRow>, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => list!(sqlx::Sqlite, read, sites, class, after, limit)?,
            Backend::Pg { pool } => list!(sqlx::Postgres, pool, sites, class, after, limit)?,
        })
    }

    /// The sample with this content.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sample_of_content(&self, sha256: &str) -> Result<Option<SampleRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM samples WHERE sha256 = $1"))
                .bind(sha256)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// Classes by name, with how many samples of these sites they have; `None` for all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sample_counts(
        &self,
        sites: Option<&[String]>,
    ) -> Result<Vec<ClassCount>, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => counts!(sqlx::Sqlite, read, sites)?,
            Backend::Pg { pool } => counts!(sqlx::Postgres, pool, sites)?,
        })
    }

    /// Samples that came or changed their class after `since_us`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn samples_since(&self, since_us: i64) -> Result<i64, StoreError> {
        let (count,): (i64,) = reading!(self, |pool| {
            sqlx::query_as("SELECT COUNT(*) FROM samples WHERE labelled_us > $1")
                .bind(since_us)
                .fetch_one(pool)
                .await
        })?;
        Ok(count)
    }
}

impl SampleRow {
    /// The place of this sample in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.created_us, id: self.id }
    }
}
