//! Shots that people heard and no station told of: what was asked of which station, and what a person
//! hears in the answer.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Cursor, Store, StoreError, reading, writing};

/// A report.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table missed_shots")]
pub struct MissedShotRow {
    pub id: Uuid,
    pub site_id: Option<String>,
    pub heard_us: i64,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    pub note: Option<String>,
    pub reported_by: String,
    pub reported_us: i64,
}

/// What was asked of a station, with how far its recording is.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(
    missing_docs,
    reason = "the columns of the table missed_shot_pulls, and of those it refers to"
)]
pub struct PullRow {
    pub id: Uuid,
    pub shot_id: Uuid,
    pub site_id: String,
    pub device_id: Uuid,
    pub device_name: Option<String>,
    pub from_us: i64,
    pub until_us: i64,
    pub heard: Option<bool>,
    pub class: Option<String>,
    pub sample_id: Option<Uuid>,
    pub judged_by: Option<String>,
    pub judged_us: Option<i64>,
    pub sent_us: Option<i64>,
    pub answer: Option<String>,
    pub clip_status: Option<String>,
}

macro_rules! shot_columns {
    () => {
        "id, site_id, heard_us, latitude, longitude, note, reported_by, reported_us"
    };
}

macro_rules! pulls {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.shot_id, p.site_id, p.device_id, d.name AS device_name, p.from_us, \
             p.until_us, p.heard, p.class, p.sample_id, p.judged_by, p.judged_us, m.sent_us, \
             m.answer, c.status AS clip_status FROM missed_shot_pulls p \
             LEFT JOIN devices d ON d.id = p.device_id LEFT JOIN commands m ON m.id = p.id \
             LEFT JOIN clips c ON c.id = p.id AND c.device_id = p.device_id ",
            $rest
        )
    };
}

impl Store {
    /// Notes a report with what is asked of which station.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn report_missed_shot(
        &self,
        shot: MissedShotRow,
        pulls: Vec<PullRow>,
    ) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(concat!(
                "INSERT INTO missed_shots (",
                shot_columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            ))
            .bind(shot.id)
            .bind(shot.site_id)
            .bind(shot.heard_us)
            .bind(shot.latitude)
            .bind(shot.longitude)
            .bind(shot.note)
            .bind(shot.reported_by)
            .bind(shot.reported_us)
            .execute(&mut *tx)
            .await?;
            for pull in pulls {
                sqlx::query(
                    "INSERT INTO missed_shot_pulls (id, shot_id, site_id, device_id, from_us, \
                     until_us) VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(pull.id)
                .bind(pull.shot_id)
                .bind(pull.site_id)
                .bind(pull.device_id)
                .bind(pull.from_us)
                .bind(pull.until_us)
                .execute(&mut *tx)
                .await?;
            }
        })
    }

    /// One report.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn missed_shot(&self, id: Uuid) -> Result<Option<MissedShotRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!("SELECT ", shot_columns!(), " FROM missed_shots WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?)
    }

    /// At most `limit` reports, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn missed_shots(
        &self,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<MissedShotRow>, StoreError> {
        let Cursor { listed_us, id } = after.unwrap_or(Cursor::START);
        Ok(reading!(self, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                shot_columns!(),
                " FROM missed_shots WHERE (reported_us, id) < ($1, $2) ORDER BY reported_us DESC, id DESC LIMIT $3"
            ))
            .bind(listed_us)
            .bind(id)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// What was asked for a report, by station.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn pulls(&self, shot: Uuid) -> Result<Vec<PullRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(pulls!("WHERE p.shot_id = $1 ORDER BY p.device_id"))
                .bind(shot)
                .fetch_all(pool)
                .await
        })?)
    }

    /// What was asked under this id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn pull(&self, id: Uuid) -> Result<Option<PullRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(pulls!("WHERE p.id = $1")).bind(id).fetch_optional(pool).await
        })?)
    }

    /// Notes what a person hears in a recording that was asked for.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn judge_pull(
        &self,
        id: Uuid,
        heard: Option<(String, Uuid)>,
        by: String,
        now_us: i64,
    ) -> Result<(), StoreError> {
        let is_heard = heard.is_some();
        let (class, sample) = heard.unzip();
        writing!(self, |tx| {
            sqlx::query(
                "UPDATE missed_shot_pulls SET heard = $2, class = $3, sample_id = $4, \
                 judged_by = $5, judged_us = $6 WHERE id = $1",
            )
            .bind(id)
            .bind(is_heard)
            .bind(class)
            .bind(sample)
            .bind(by)
            .bind(now_us)
            .execute(&mut *tx)
            .await?;
        })
    }
}

impl MissedShotRow {
    /// The place of this report in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.reported_us, id: self.id }
    }
}
