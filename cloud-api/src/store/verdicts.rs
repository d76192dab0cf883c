//! What people say of events. The verdict that holds stands beside its event; every one that was ever
//! given is kept. A sample follows its verdict: until it has, the event is marked as due.

use std::fmt;
use std::str::FromStr;

use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};

/// What a person says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the station took it for.
    Confirmed,
    /// It is nothing that a station should tell of.
    Rejected,
    /// It is of another class.
    Relabelled,
}

/// What a false alarm was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "words that rangers use")]
pub enum Cause {
    Thunder,
    Branch,
    Fireworks,
    Backfire,
    Hail,
    Speech,
    Canary,
    Other,
}

/// A verdict as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenVerdict {
    /// Of the line in the history.
    pub id: Uuid,
    /// What is judged.
    pub event: Uuid,
    /// What is said; `None` takes back what was said before.
    pub verdict: Option<Verdict>,
    /// What a false alarm was.
    pub cause: Option<Cause>,
    /// What is heard, where that is another class.
    pub class: Option<String>,
    /// In the person's words.
    pub note: Option<String>,
    /// Who says it.
    pub by: String,
    /// Now, µs.
    pub now_us: i64,
}

/// A line of an event's history.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table verdicts")]
pub struct VerdictRow {
    pub id: Uuid,
    pub event_id: Uuid,
    pub verdict: String,
    pub cause: Option<String>,
    pub class: Option<String>,
    pub note: Option<String>,
    pub given_by: String,
    pub given_us: i64,
}

/// What the history says where a verdict was taken back.
const WITHDRAWN: &str = "withdrawn";

impl Store {
    /// Gives a verdict, or takes one back; false if there is no such event. Saying the same again
    /// changes nothing and is not noted.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn give_verdict(&self, given: GivenVerdict) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            let verdict = given.verdict.map(Verdict::name);
            let cause = given.cause.map(Cause::name);
            // One statement, so that of two people who judge at one time one comes after the other.
            let changed: Option<(String,)> = sqlx::query_as(
                "UPDATE events SET verdict = $2, verdict_cause = $3, verdict_class = $4, \
                 verdict_note = $5, verdict_by = $6, verdict_us = $7, sample_due = TRUE \
                 WHERE id = $1 AND NOT (COALESCE(verdict, '') = COALESCE($2, '') \
                 AND COALESCE(verdict_cause, '') = COALESCE($3, '') \
                 AND COALESCE(verdict_class, '') = COALESCE($4, '') \
                 AND COALESCE(verdict_note, '') = COALESCE($5, '')) RETURNING site_id",
            )
            .bind(given.event)
            .bind(verdict)
            .bind(cause)
            .bind(&given.class)
            .bind(&given.note)
            .bind(verdict.map(|_| given.by.clone()))
            .bind(verdict.map(|_| given.now_us))
            .fetch_optional(&mut *tx)
            .await?;
            match changed {
                Some((site,)) => {
                    sqlx::query(
                        "INSERT INTO verdicts (id, site_id, event_id, verdict, cause, class, note, \
                         given_by, given_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    )
                    .bind(given.id)
                    .bind(site)
                    .bind(given.event)
                    .bind(verdict.unwrap_or(WITHDRAWN))
                    .bind(cause)
                    .bind(given.class)
                    .bind(given.note)
                    .bind(given.by)
                    .bind(given.now_us)
                    .execute(&mut *tx)
                    .await?;
                    true
                }
                None => {
                    let known: Option<(Uuid,)> =
                        sqlx::query_as("SELECT id FROM events WHERE id = $1")
                            .bind(given.event)
                            .fetch_optional(&mut *tx)
                            .await?;
                    known.is_some()
                }
            }
        })
    }

    /// Every verdict that was given on an event, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn verdicts(&self, event: Uuid) -> Result<Vec<VerdictRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, event_id, verdict, cause, class, note, given_by, given_us \
                 FROM verdicts WHERE event_id = $1 ORDER BY given_us, id",
            )
            .bind(event)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Events whose sample has to follow a verdict, and can: their recording is here, or none is
    /// wanted any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn samples_due(&self, limit: i64) -> Result<Vec<Uuid>, StoreError> {
        let rows: Vec<(Uuid,)> = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT e.id FROM events e LEFT JOIN clips c ON c.id = e.id \
                 AND c.device_id = e.device_id WHERE e.sample_due \
                 AND (c.status = 'stored' OR e.verdict IS NULL) ORDER BY e.id LIMIT $1",
            )
            .bind(limit)
            .fetch_all(pool)
            .await
        })?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Whether the sample of an event has to follow its verdict.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn is_sample_due(&self, event: Uuid) -> Result<bool, StoreError> {
        let due: Option<(bool,)> = reading!(self, |pool| {
            sqlx::query_as("SELECT sample_due FROM events WHERE id = $1")
                .bind(event)
                .fetch_optional(pool)
                .await
        })?;
        Ok(due.is_some_and(|(due,)| due))
    }

    /// Notes that the sample of an event follows the verdict of that time. A later verdict keeps its
    /// mark.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn sample_followed(
        &self,
        event: Uuid,
        verdict_us: Option<i64>,
    ) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "UPDATE events SET sample_due = FALSE \
                 WHERE id = $1 AND COALESCE(verdict_us, -1) = $2",
            )
            .bind(event)
            .bind(verdict_us.unwrap_or(-1))
            .execute(&mut *tx)
            .await?;
        })
    }
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 3] = [Self::Confirmed, Self::Rejected, Self::Relabelled];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Relabelled => "relabelled",
        }
    }
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 8] = [
        Self::Thunder,
        Self::Branch,
        Self::Fireworks,
        Self::Backfire,
        Self::Hail,
        Self::Speech,
        Self::Canary,
        Self::Other,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thunder => "thunder",
            Self::Branch => "branch",
            Self::Fireworks => "fireworks",
            Self::Backfire => "backfire",
            Self::Hail => "hail",
            Self::Speech => "speech",
            Self::Canary => "canary",
            Self::Other => "other",
        }
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(&Self::ALL, Self::name, text)
    }
}

impl FromStr for Cause {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(&Self::ALL, Self::name, text)
    }
}

fn one_of<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
