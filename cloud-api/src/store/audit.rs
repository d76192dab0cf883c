//! What was done, by whom. Rows are only ever added; each one's hash covers the one before.

use sha2::{Digest, Sha256};
use sqlx::FromRow;

use super::{Store, StoreError, hex, reading, writing};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AuditRow {
    /// Its place, from 1.
    pub number: i64,
    /// When, µs.
    pub at_us: i64,
    /// Who.
    pub actor: String,
    /// What, as in `login` or `key.create`.
    pub action: String,
    /// To what.
    pub target: String,
    /// What else is worth knowing.
    pub detail: String,
    /// Over this line and the one before, hexadecimal.
    pub hash: String,
}

/// A line to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// When, µs.
    pub at_us: i64,
    /// Who.
    pub actor: String,
    /// What.
    pub action: &'static str,
    /// To what.
    pub target: String,
    /// What else is worth knowing.
    pub detail: String,
}

/// Each text with its length before it: no two lines have the same bytes.
pub(super) fn line_hash(before: &str, number: i64, at_us: i64, texts: [&str; 4]) -> String {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(number.to_le_bytes());
    hash.update(at_us.to_le_bytes());
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

/// What the databases say differently: SQLite has one writer; in PostgreSQL lines wait for each other.
pub(super) trait Dialect {
    const LOCK: &'static str;
}

impl Dialect for sqlx::Sqlite {
    const LOCK: &'static str = "SELECT 1";
}

impl Dialect for sqlx::Postgres {
    const LOCK: &'static str = "LOCK TABLE audit IN EXCLUSIVE MODE";
}

/// Adds a line within a transaction: what it tells of is done with it, or not at all.
macro_rules! append_deed {
    ($tx:ident, $deed:expr) => {{
        use $crate::store::audit::{Deed, Dialect, line_hash};
        sqlx::query(<Db as Dialect>::LOCK).execute(&mut *$tx).await?;
        let last: Option<(i64, String)> =
            sqlx::query_as("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")
                .fetch_optional(&mut *$tx)
                .await?;
        let (number, before) = last.map_or((1, String::new()), |(n, hash)| (n + 1, hash));
        let Deed { at_us, actor, action, target, detail } = $deed;
        let hash = line_hash(&before, number, at_us, [&actor, action, &target, &detail]);
        sqlx::query(
            "INSERT INTO audit (number, at_us, actor, action, target, detail, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(number)
        .bind(at_us)
        .bind(actor)
        .bind(action)
        .bind(target)
        .bind(detail)
        .bind(hash)
        .execute(&mut *$tx)
        .await?;
    }};
}

pub(super) use append_deed;

impl Store {
    /// Adds a line.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; what is to be logged is then not done.
    pub async fn log_deed(&self, deed: Deed) -> Result<(), StoreError> {
        writing!(self, |tx| { append_deed!(tx, deed) })
    }

    /// At most `limit` lines before line `before`, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn deeds(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT number, at_us, actor, action, target, detail, hash FROM audit \
                 WHERE number < $1 ORDER BY number DESC LIMIT $2",
            )
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// The first line that is not as it was written, or whose neighbour is missing; `None` if the log
    /// is whole.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn audit_fault(&self) -> Result<Option<i64>, StoreError> {
        const PAGE: i64 = 1_000;
        let (mut number, mut before) = (0, String::new());
        loop {
            let page: Vec<AuditRow> = reading!(self, |pool| {
                sqlx::query_as(
                    "SELECT number, at_us, actor, action, target, detail, hash FROM audit \
                     WHERE number > $1 ORDER BY number LIMIT $2",
                )
                .bind(number)
                .bind(PAGE)
                .fetch_all(pool)
                .await
            })?;
            if page.is_empty() {
                return Ok(None);
            }
            for row in page {
                number += 1;
                let texts = [&*row.actor, &*row.action, &*row.target, &*row.detail];
                let hash = line_hash(&before, number, row.at_us, texts);
                if row.number != number || row.hash != hash {
                    return Ok(Some(number));
                }
                before = row.hash;
            }
        }
    }
}
