//! Recordings: what is expected, under way, stored. The bytes are files (see `clips`).

use std::fmt;
use std::str::FromStr;

use ecosight_models::bundle::hex;
use ecosight_shared::ClipFormat;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};

/// A recording as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ClipRow {
    /// The event it proves.
    pub id: Uuid,
    /// The station that made it.
    pub device_id: Uuid,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub bytes: i64,
    /// Length of the sound.
    pub duration_ms: i64,
    /// `flac` or `wav`.
    pub format: String,
    /// See [`ClipStatus`].
    pub status: String,
}

/// How far a recording has come. It never goes back from `Stored`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipStatus {
    /// A detection told of it.
    Expected,
    /// Its upload has begun.
    Uploading,
    /// Whole, verified and on disk.
    Stored,
}

/// What a station says of a recording before it sends the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipDeclaration {
    /// The event it proves.
    pub event: Uuid,
    /// The station.
    pub device: Uuid,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Size of the file.
    pub bytes: u32,
    /// Length of the sound.
    pub duration_ms: u32,
    /// Container.
    pub format: ClipFormat,
}

/// The answer to a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Nobody had told of it before.
    New(ClipRow),
    /// It was known just so.
    Known(ClipRow),
    /// Another recording, or another station's, is known under this event: refuse.
    Conflict(ClipRow),
}

impl Store {
    /// Takes a declaration.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn declare_clip(&self, clip: &ClipDeclaration) -> Result<Declared, StoreError> {
        let new: Option<ClipRow> = self.insert_clip(clip.clone()).await?;
        if let Some(row) = new {
            return Ok(Declared::New(row));
        }
        let Some(row) = self.clip(clip.event).await? else {
            return Err(StoreError::Unavailable(sqlx::Error::RowNotFound));
        };
        let same = row.device_id == clip.device
            && row.sha256 == hex(&clip.sha256)
            && row.bytes == i64::from(clip.bytes);
        Ok(if same { Declared::Known(row) } else { Declared::Conflict(row) })
    }

    async fn insert_clip(&self, clip: ClipDeclaration) -> Result<Option<ClipRow>, StoreError> {
        writing!(self, |tx| {
            sqlx::query_as(
                "INSERT INTO clips (id, device_id, sha256, bytes, duration_ms, format, status) \
                 VALUES ($1, $2, $3, $4, $5, $6, 'uploading') ON CONFLICT (id) DO NOTHING \
                 RETURNING id, device_id, sha256, bytes, duration_ms, format, status",
            )
            .bind(clip.event)
            .bind(clip.device)
            .bind(hex(&clip.sha256))
            .bind(i64::from(clip.bytes))
            .bind(i64::from(clip.duration_ms))
            .bind(clip.format.extension())
            .fetch_optional(&mut *tx)
            .await?
        })
    }

    /// One recording.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn clip(&self, id: Uuid) -> Result<Option<ClipRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, device_id, sha256, bytes, duration_ms, format, status FROM clips \
                 WHERE id = $1",
            )
            .bind(id)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// Notes how far a recording has come. `sha256` guards against a declaration that changed on the
    /// way; false if it did.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn set_clip_status(
        &self,
        id: Uuid,
        sha256: &str,
        status: ClipStatus,
        now_us: i64,
    ) -> Result<bool, StoreError> {
        let sha256 = sha256.to_owned();
        let stored_us = (status == ClipStatus::Stored).then_some(now_us);
        writing!(self, |tx| {
            let done = sqlx::query(
                "UPDATE clips SET status = $3, stored_us = $4 \
                 WHERE id = $1 AND sha256 = $2 AND status <> 'stored'",
            )
            .bind(id)
            .bind(sha256)
            .bind(status.name())
            .bind(stored_us)
            .execute(&mut *tx)
            .await?;
            done.rows_affected() == 1
        })
    }
}

impl ClipRow {
    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> ClipStatus {
        self.status.parse().unwrap_or(ClipStatus::Expected)
    }

    /// Its container.
    #[must_use]
    pub fn format(&self) -> ClipFormat {
        if self.format == ClipFormat::Wav.extension() { ClipFormat::Wav } else { ClipFormat::Flac }
    }
}

impl ClipStatus {
    /// The word used in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Uploading => "uploading",
            Self::Stored => "stored",
        }
    }
}

impl FromStr for ClipStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Expected, Self::Uploading, Self::Stored];
        all.into_iter().find(|status| status.name() == text).ok_or(())
    }
}

impl fmt::Display for ClipStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
