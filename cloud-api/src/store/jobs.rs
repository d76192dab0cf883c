//! Work that outlives a request, done at least once by one worker at a time.
//!
//! A worker claims a job for the length of a lease and renews it while it works. If it dies, the lease
//! runs out and another attempt begins, up to a limit. Every word of a worker names its attempt: what
//! a worker says whose attempt is over changes nothing.

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Backend, Cursor, Store, StoreError, reading, writing};

/// Attempts that a job has before it is given up.
pub(super) const MAX_ATTEMPTS: i64 = 5;

/// A job as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table jobs")]
pub struct JobRow {
    pub id: Uuid,
    pub kind: String,
    pub payload: String,
    pub state: String,
    pub created_us: i64,
    pub run_at_us: i64,
    pub started_us: Option<i64>,
    pub finished_us: Option<i64>,
    pub attempts: i64,
    pub max_attempts: i64,
    pub lease_owner: Option<String>,
    pub progress: Option<String>,
    pub result: Option<String>,
    pub error: Option<String>,
}

/// A job to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Its id.
    pub id: Uuid,
    /// What is to be done.
    pub kind: &'static str,
    /// JSON.
    pub payload: String,
    /// At most one unfinished job has this key.
    pub unique_key: Option<String>,
    /// Now, µs.
    pub now_us: i64,
}

/// The attempt that a worker speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The job.
    pub id: Uuid,
    /// Which attempt.
    pub number: i64,
    /// The worker.
    pub owner: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this result, JSON.
    Succeeded(String),
    /// For good: another attempt would end the same.
    Failed(String),
    /// Perhaps not for good: another attempt may begin at this time, µs.
    Retry(String, i64),
    /// By nobody's fault: another attempt may begin at this time, µs, and this one does not count.
    Interrupted(String, i64),
}

macro_rules! columns {
    () => {
        "id, kind, payload, state, created_us, run_at_us, started_us, finished_us, attempts, \
         max_attempts, lease_owner, progress, result, error"
    };
}

pub(super) const ENQUEUE: &str = concat!(
    "INSERT INTO jobs (id, kind, payload, state, unique_key, created_us, run_at_us, attempts, \
     max_attempts) VALUES ($1, $2, $3, 'queued', $4, $5, $5, 0, $6) ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);

/// Queues a job within a transaction; `None` if one with the same key is not finished yet.
macro_rules! enqueue {
    ($tx:expr, $job:expr) => {{
        let job: $crate::store::NewJob = $job;
        sqlx::query_as::<_, $crate::store::JobRow>($crate::store::jobs::ENQUEUE)
            .bind(job.id)
            .bind(job.kind)
            .bind(job.payload)
            .bind(job.unique_key)
            .bind(job.now_us)
            .bind($crate::store::jobs::MAX_ATTEMPTS)
            .fetch_optional(&mut *$tx)
            .await?
    }};
}

pub(super) use enqueue;

/// What the databases say differently: with PostgreSQL several workers claim at one time, and none
/// waits for another's row; SQLite has one writer.
trait Dialect {
    const CLAIM: &'static str;
}

macro_rules! claim {
    ($lock:literal) => {
        concat!(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_owner = $1, \
             lease_until_us = $2, started_us = COALESCE(started_us, $3), progress = NULL \
             WHERE id = (SELECT id FROM jobs WHERE state IN ('queued', 'running') \
             AND (state = 'queued' OR lease_until_us < $3) AND run_at_us <= $3 \
             AND attempts < max_attempts ORDER BY run_at_us, id LIMIT 1",
            $lock,
            ") RETURNING ",
            columns!()
        )
    };
}

impl Dialect for sqlx::Sqlite {
    const CLAIM: &'static str = claim!("");
}

impl Dialect for sqlx::Postgres {
    const CLAIM: &'static str = claim!(" FOR UPDATE SKIP LOCKED");
}

/// Builds and runs the list's query on one pool.
macro_rules! list {
    ($db:ty, $pool:expr, $kind:expr, $after:expr, $limit:expr) => {{
        let mut query =
            QueryBuilder::<$db>::new(concat!("SELECT ", columns!(), " FROM jobs WHERE TRUE"));
        if let Some(kind) = $kind {
            query.push(" AND kind = ").push_bind(kind.to_owned());
        }
        if let Some(Cursor { listed_us, id }) = $after {
            query.push(" AND (created_us, id) < (").push_bind(listed_us);
            query.push(", ").push_bind(id).push(")");
        }
        query.push(" ORDER BY created_us DESC, id DESC LIMIT ").push_bind($limit);
        query.build_query_as::<JobRow>().fetch_all($pool).await
    }};
}

impl Store {
    /// Queues a job; `None` if one with the same key is not finished yet.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn enqueue(&self, job: NewJob) -> Result<Option<JobRow>, StoreError> {
        writing!(self, |tx| { enqueue!(tx, job) })
    }

    /// Claims the job that is due for longest, until `lease_until_us`. A job whose every attempt died
    /// is given up on the way.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn claim_job(
        &self,
        owner: &str,
        now_us: i64,
        lease_until_us: i64,
    ) -> Result<Option<(JobRow, Attempt)>, StoreError> {
        let owner = owner.to_owned();
        let name = owner.clone();
        let claimed: Option<JobRow> = writing!(self, |tx| {
            sqlx::query(
                "UPDATE jobs SET state = 'failed', finished_us = $1, lease_owner = NULL, \
                 error = COALESCE(error, 'every attempt died without a word') \
                 WHERE state = 'running' AND lease_until_us < $1 AND attempts >= max_attempts",
            )
            .bind(now_us)
            .execute(&mut *tx)
            .await?;
            sqlx::query_as(<Db as Dialect>::CLAIM)
                .bind(owner)
                .bind(lease_until_us)
                .bind(now_us)
                .fetch_optional(&mut *tx)
                .await?
        })?;
        Ok(claimed.map(|job| {
            let attempt = Attempt { id: job.id, number: job.attempts, owner: name };
            (job, attempt)
        }))
    }

    /// Renews a lease and notes what is being done; false if the attempt is over: stop.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn renew_lease(
        &self,
        attempt: &Attempt,
        lease_until_us: i64,
        progress: Option<String>,
    ) -> Result<bool, StoreError> {
        let attempt = attempt.clone();
        writing!(self, |tx| {
            let done = sqlx::query(
                "UPDATE jobs SET lease_until_us = $4, progress = COALESCE($5, progress) \
                 WHERE id = $1 AND attempts = $2 AND lease_owner = $3 AND state = 'running'",
            )
            .bind(attempt.id)
            .bind(attempt.number)
            .bind(attempt.owner)
            .bind(lease_until_us)
            .bind(progress)
            .execute(&mut *tx)
            .await?;
            done.rows_affected() == 1
        })
    }

    /// Ends an attempt; false if it was over already, and nothing is noted.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the caller tries again, or leaves it to the lease.
    pub async fn end_attempt(
        &self,
        attempt: &Attempt,
        outcome: Outcome,
        now_us: i64,
    ) -> Result<bool, StoreError> {
        let attempt = attempt.clone();
        let (result, error, retry_us, more) = match outcome {
            Outcome::Succeeded(result) => (Some(result), None, None, 0),
            Outcome::Failed(error) => (None, Some(error), None, 0),
            Outcome::Retry(error, at_us) => (None, Some(error), Some(at_us), 0),
            // Numbers of attempts are never used again, so the limit rises instead.
            Outcome::Interrupted(error, at_us) => (None, Some(error), Some(at_us), 1_i64),
        };
        writing!(self, |tx| {
            let done = sqlx::query(
                "UPDATE jobs SET lease_owner = NULL, lease_until_us = NULL, progress = NULL, \
                 state = CASE WHEN $4 IS NOT NULL THEN 'succeeded' \
                 WHEN $6 IS NOT NULL AND attempts < max_attempts + $8 THEN 'queued' \
                 ELSE 'failed' END, \
                 finished_us = CASE WHEN $6 IS NOT NULL AND attempts < max_attempts + $8 THEN NULL \
                 ELSE $7 END, run_at_us = COALESCE($6, run_at_us), result = $4, error = $5, \
                 max_attempts = max_attempts + $8 \
                 WHERE id = $1 AND attempts = $2 AND lease_owner = $3 AND state = 'running'",
            )
            .bind(attempt.id)
            .bind(attempt.number)
            .bind(attempt.owner)
            .bind(result)
            .bind(error)
            .bind(retry_us)
            .bind(now_us)
            .bind(more)
            .execute(&mut *tx)
            .await?;
            done.rows_affected() == 1
        })
    }

    /// The unfinished job with this key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn unfinished_job(&self, key: &str) -> Result<Option<JobRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM jobs WHERE unique_key = $1 AND state IN ('queued', 'running')"
            ))
            .bind(key)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// One job.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn job(&self, id: Uuid) -> Result<Option<JobRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM jobs WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// At most `limit` jobs, newest first, of one kind or all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn jobs(
        &self,
        kind: Option<&str>,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<JobRow>, StoreError> {
        Ok(match &self.backend {
            Backend::Lite { read, .. } => list!(sqlx::Sqlite, read, kind, after, limit)?,
            Backend::Pg { pool } => list!(sqlx::Postgres, pool, kind, after, limit)?,
        })
    }
}

impl JobRow {
    /// The place of this job in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.created_us, id: self.id }
    }
}
