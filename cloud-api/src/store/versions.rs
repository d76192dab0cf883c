//! Versions of the model, and which of them serves. Both are only ever added to.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Attempt, Cursor, Store, StoreError, reading, writing};

/// A version as the database knows it. Its files are a directory (see `registry`).
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table model_versions")]
pub struct VersionRow {
    pub id: Uuid,
    pub sha256: String,
    pub tag: String,
    pub name: String,
    pub version: String,
    pub origin: String,
    pub parent_sha256: Option<String>,
    pub job_id: Option<Uuid>,
    pub data_sha256: Option<String>,
    pub samples: Option<i64>,
    pub seed: Option<i64>,
    pub code_version: String,
    pub gate: Option<String>,
    pub created_us: i64,
    pub created_by: String,
}

/// A change of the version that serves.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table model_activations")]
pub struct ActivationRow {
    pub number: i64,
    pub version_id: Uuid,
    pub before_id: Option<Uuid>,
    pub cause: String,
    pub reason: String,
    pub done_by: String,
    pub done_us: i64,
}

/// A change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewActivation {
    /// What is to serve.
    pub version: Uuid,
    /// Only if this serves now; what was compared with it is worth nothing otherwise.
    pub instead_of: Option<Uuid>,
    /// `start`, `gate`, `person` or `rollback`.
    pub cause: &'static str,
    /// A sentence.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Now, µs.
    pub now_us: i64,
}

macro_rules! columns {
    () => {
        "id, sha256, tag, name, version, origin, parent_sha256, job_id, data_sha256, samples, seed, \
         code_version, gate, created_us, created_by"
    };
}

macro_rules! activation_columns {
    () => {
        "number, version_id, before_id, cause, reason, done_by, done_us"
    };
}

const LATEST: &str = concat!(
    "SELECT ",
    activation_columns!(),
    " FROM model_activations ORDER BY number DESC LIMIT 1"
);

/// Adds a version unless its content is known; gives the row that holds.
macro_rules! register {
    ($tx:expr, $row:expr) => {{
        let row: VersionRow = $row;
        let sha256 = row.sha256.clone();
        sqlx::query(concat!(
            "INSERT INTO model_versions (",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
             ON CONFLICT (sha256) DO NOTHING"
        ))
        .bind(row.id)
        .bind(row.sha256)
        .bind(row.tag)
        .bind(row.name)
        .bind(row.version)
        .bind(row.origin)
        .bind(row.parent_sha256)
        .bind(row.job_id)
        .bind(row.data_sha256)
        .bind(row.samples)
        .bind(row.seed)
        .bind(row.code_version)
        .bind(row.gate)
        .bind(row.created_us)
        .bind(row.created_by)
        .execute(&mut *$tx)
        .await?;
        sqlx::query_as::<_, VersionRow>(concat!(
            "SELECT ",
            columns!(),
            " FROM model_versions WHERE sha256 = $1"
        ))
        .bind(sha256)
        .fetch_one(&mut *$tx)
        .await?
    }};
}

/// Adds an activation; `None` if another version serves than the one it is to replace.
macro_rules! activate {
    ($db:ty, $tx:expr, $new:expr) => {{
        let new: NewActivation = $new;
        sqlx::query(<$db as Dialect>::LOCK).execute(&mut *$tx).await?;
        let latest: Option<ActivationRow> =
            sqlx::query_as(LATEST).fetch_optional(&mut *$tx).await?;
        let serving = latest.as_ref().map(|row| row.version_id);
        if new.instead_of.is_some() && new.instead_of != serving {
            None
        } else {
            let row = ActivationRow {
                number: latest.map_or(1, |row| row.number + 1),
                version_id: new.version,
                before_id: serving,
                cause: new.cause.to_owned(),
                reason: new.reason,
                done_by: new.by,
                done_us: new.now_us,
            };
            sqlx::query(concat!(
                "INSERT INTO model_activations (",
                activation_columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7)"
            ))
            .bind(row.number)
            .bind(row.version_id)
            .bind(row.before_id)
            .bind(&row.cause)
            .bind(&row.reason)
            .bind(&row.done_by)
            .bind(row.done_us)
            .execute(&mut *$tx)
            .await?;
            Some(row)
        }
    }};
}

/// What the databases say differently: SQLite has one writer; in PostgreSQL changes wait for each
/// other.
trait Dialect {
    const LOCK: &'static str;
}

impl Dialect for sqlx::Sqlite {
    const LOCK: &'static str = "SELECT 1";
}

impl Dialect for sqlx::Postgres {
    const LOCK: &'static str = "LOCK TABLE model_activations IN EXCLUSIVE MODE";
}

impl Store {
    /// Adds a version; the same content is one version, and what is given back is the row that was
    /// there.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn register_version(&self, version: VersionRow) -> Result<VersionRow, StoreError> {
        writing!(self, |tx| { register!(tx, version) })
    }

    /// Makes a version the one that serves; `None` if another serves than it is to replace.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn activate_version(
        &self,
        activation: NewActivation,
    ) -> Result<Option<ActivationRow>, StoreError> {
        writing!(self, |tx| { activate!(Db, tx, activation) })
    }

    /// Ends a training attempt with its version, which serves from then on if `activation` says so:
    /// all of it, or, where the attempt was over already, nothing (`None`). The flag says whether the
    /// version serves: it does not if meanwhile somebody chose another.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the caller tries again, or leaves it to the lease.
    pub async fn conclude_training(
        &self,
        attempt: &Attempt,
        version: VersionRow,
        activation: Option<NewActivation>,
        result: String,
        now_us: i64,
    ) -> Result<Option<bool>, StoreError> {
        let attempt = attempt.clone();
        writing!(self, |tx| {
            let done = sqlx::query(
                "UPDATE jobs SET state = 'succeeded', lease_owner = NULL, lease_until_us = NULL, \
                 progress = NULL, finished_us = $4, result = $5, error = NULL \
                 WHERE id = $1 AND attempts = $2 AND lease_owner = $3 AND state = 'running'",
            )
            .bind(attempt.id)
            .bind(attempt.number)
            .bind(attempt.owner)
            .bind(now_us)
            .bind(result)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 1 {
                let registered = register!(tx, version);
                let serves = match activation {
                    Some(new) => {
                        let new = NewActivation { version: registered.id, ..new };
                        activate!(Db, tx, new).is_some()
                    }
                    None => false,
                };
                Some(serves)
            } else {
                None
            }
        })
    }

    /// One version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn version(&self, id: Uuid) -> Result<Option<VersionRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM model_versions WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// The version with this content.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn version_of(&self, sha256: &str) -> Result<Option<VersionRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM model_versions WHERE sha256 = $1"))
                .bind(sha256)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// The version that a training gave.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn version_of_job(&self, job: Uuid) -> Result<Option<VersionRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", columns!(), " FROM model_versions WHERE job_id = $1"))
                .bind(job)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// At most `limit` versions, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn versions(
        &self,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<VersionRow>, StoreError> {
        let Cursor { listed_us, id } = after.unwrap_or(Cursor::START);
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM model_versions WHERE (created_us, id) < ($1, $2) ORDER BY created_us DESC, id DESC LIMIT $3"
            ))
            .bind(listed_us)
            .bind(id)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// How the version that serves came to do so; `None` before the first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn serving(&self) -> Result<Option<ActivationRow>, StoreError> {
        Ok(reading!(self, |pool| sqlx::query_as(LATEST).fetch_optional(pool).await)?)
    }

    /// At most `limit` changes of the version that serves, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn activations(&self, limit: i64) -> Result<Vec<ActivationRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                activation_columns!(),
                " FROM model_activations ORDER BY number DESC LIMIT $1"
            ))
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }
}

impl VersionRow {
    /// The place of this version in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.created_us, id: self.id }
    }
}

/// What a rollback goes back to, from changes newest first: the version that served before the one
/// that serves was chosen. Rolling back again goes one further back, and never forth to what was left.
#[must_use]
pub fn before(changes: &[ActivationRow]) -> Option<Uuid> {
    let serving = changes.first()?.version_id;
    let chosen = changes.iter().find(|row| row.version_id == serving && row.cause != "rollback")?;
    chosen.before_id.filter(|before| *before != serving)
}

#[cfg(test)]
mod tests {
    use super::{ActivationRow, before};
    use uuid::Uuid;

    fn history(steps: &[(u8, &str)]) -> Vec<ActivationRow> {
        let id = |n: u8| Uuid::from_bytes([n; 16]);
        let mut rows: Vec<ActivationRow> = Vec::new();
        for (number, (version, cause)) in (1..).zip(steps) {
            rows.insert(
                0,
                ActivationRow {
                    number,
                    version_id: id(*version),
                    before_id: rows.first().map(|row| row.version_id),
                    cause: (*cause).into(),
                    reason: String::new(),
                    done_by: String::new(),
                    done_us: 0,
                },
            );
        }
        rows
    }

    #[test]
    fn rolling_back_twice_goes_back_twice() {
        let target = |steps: &[(u8, &str)]| before(&history(steps)).map(|id| id.as_bytes()[0]);
        assert_eq!(target(&[]), None);
        assert_eq!(target(&[(1, "start")]), None);
        assert_eq!(target(&[(1, "start"), (2, "gate")]), Some(1));
        assert_eq!(target(&[(1, "start"), (2, "gate"), (3, "person")]), Some(2));
        assert_eq!(
            target(&[(1, "start"), (2, "gate"), (3, "person"), (2, "rollback")]),
            Some(1),
            "never forth to 3"
        );
        let all = [(1, "start"), (2, "gate"), (3, "person"), (2, "rollback"), (1, "rollback")];
        assert_eq!(target(&all), None);
    }
}
