//! Sites, how stations come and go, and what they are told.

use sqlx::FromRow;
use uuid::Uuid;

use super::devices::TelemetryRow;
use super::{Store, StoreError, reading, writing};

/// A site.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct SiteRow {
    /// As in topics.
    pub id: String,
    /// For people.
    pub name: String,
    /// IANA name.
    pub time_zone: String,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// Its stations.
    pub devices: i64,
}

/// A code by which a station gets its credentials, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Hash of the code.
    pub code_sha256: String,
    /// Where the station belongs.
    pub site: String,
    /// What it is called.
    pub device_name: String,
    /// Now, µs.
    pub now_us: i64,
    /// When the code ends, µs.
    pub expires_us: i64,
}

/// A station's credentials as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct CredentialRow {
    /// The station.
    pub device_id: Uuid,
    /// Where it was enrolled.
    pub site_id: String,
    /// As Mosquitto's password file has it.
    pub mqtt_hash: String,
}

/// A command to a station.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table commands")]
pub struct CommandRow {
    pub id: Uuid,
    pub device_id: Uuid,
    pub name: String,
    pub payload: String,
    pub created_us: i64,
    pub created_by: String,
    pub expires_us: i64,
    pub sent_us: Option<i64>,
    pub answered_us: Option<i64>,
    pub answer: Option<String>,
}

impl Store {
    /// Sites that were described, and those that stations named, by id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sites(&self) -> Result<Vec<SiteRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT i.id, COALESCE(s.name, i.id) AS name, \
                 COALESCE(s.time_zone, 'UTC') AS time_zone, s.latitude, s.longitude, \
                 (SELECT COUNT(*) FROM devices d WHERE d.site_id = i.id \
                 AND d.retired_us IS NULL) AS devices \
                 FROM (SELECT id FROM sites UNION SELECT site_id FROM devices) i \
                 LEFT JOIN sites s ON s.id = i.id ORDER BY i.id",
            )
            .fetch_all(pool)
            .await
        })?)
    }

    /// Describes a site.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn describe_site(&self, site: SiteRow, now_us: i64) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "INSERT INTO sites (id, name, time_zone, latitude, longitude, created_us) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET \
                 name = excluded.name, time_zone = excluded.time_zone, \
                 latitude = excluded.latitude, longitude = excluded.longitude",
            )
            .bind(site.id)
            .bind(site.name)
            .bind(site.time_zone)
            .bind(site.latitude)
            .bind(site.longitude)
            .bind(now_us)
            .execute(&mut *tx)
            .await?;
        })
    }

    /// Telemetry of a station received from `since_us` until before `until_us`, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn telemetry_series(
        &self,
        device: Uuid,
        since_us: i64,
        until_us: i64,
        limit: i64,
    ) -> Result<Vec<TelemetryRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT device_id, unix_us, uptime_s, windows, inference_p50_us, inference_p99_us, \
                 dropped_samples, gaps, outbox_records, outbox_oldest_s, clips_pending, \
                 disk_free_mib, cpu_temperature_c, noise_floor_dbfs, source FROM telemetry \
                 WHERE device_id = $1 AND unix_us >= $2 AND unix_us < $3 \
                 ORDER BY boot DESC, seq DESC LIMIT $4",
            )
            .bind(device)
            .bind(since_us)
            .bind(until_us)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Keeps an enrolment code; forgets those that ended.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn offer_enrolment(&self, enrolment: Enrolment) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("DELETE FROM enrolments WHERE expires_us < $1 AND used_us IS NULL")
                .bind(enrolment.now_us)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "INSERT INTO enrolments (code_sha256, site_id, device_name, created_us, \
                 expires_us) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(enrolment.code_sha256)
            .bind(enrolment.site)
            .bind(enrolment.device_name)
            .bind(enrolment.now_us)
            .bind(enrolment.expires_us)
            .execute(&mut *tx)
            .await?;
        })
    }

    /// Uses a code for a station, whose credentials are kept; gives site and name. `None` if the code
    /// is none, was used, or has ended.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn enrol(
        &self,
        code_sha256: String,
        device: Uuid,
        secret_sha256: String,
        mqtt_hash: String,
        now_us: i64,
    ) -> Result<Option<(String, String)>, StoreError> {
        writing!(self, |tx| {
            let used: Option<(String, String)> = sqlx::query_as(
                "UPDATE enrolments SET used_us = $3, device_id = $2 WHERE code_sha256 = $1 \
                 AND used_us IS NULL AND expires_us > $3 RETURNING site_id, device_name",
            )
            .bind(code_sha256)
            .bind(device)
            .bind(now_us)
            .fetch_optional(&mut *tx)
            .await?;
            if let Some((site, name)) = &used {
                sqlx::query(
                    "INSERT INTO credentials (device_id, site_id, secret_sha256, mqtt_hash, \
                     created_us) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (device_id) DO UPDATE SET \
                     site_id = excluded.site_id, secret_sha256 = excluded.secret_sha256, \
                     mqtt_hash = excluded.mqtt_hash, created_us = excluded.created_us, \
                     revoked_us = NULL",
                )
                .bind(device)
                .bind(site)
                .bind(secret_sha256)
                .bind(mqtt_hash)
                .bind(now_us)
                .execute(&mut *tx)
                .await?;
                sqlx::query(
                    "INSERT INTO devices (id, site_id, name, state, first_seen_us, last_seen_us) \
                     VALUES ($1, $2, $3, 'unknown', $4, $4) ON CONFLICT (id) DO UPDATE SET \
                     site_id = excluded.site_id, name = excluded.name, retired_us = NULL",
                )
                .bind(device)
                .bind(site)
                .bind(name)
                .bind(now_us)
                .execute(&mut *tx)
                .await?;
            }
            used
        })
    }

    /// The site of a station with that secret, if its credentials hold.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn station_site(
        &self,
        device: Uuid,
        secret_sha256: &str,
    ) -> Result<Option<String>, StoreError> {
        let site: Option<(String,)> = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT site_id FROM credentials WHERE device_id = $1 AND secret_sha256 = $2 \
                 AND revoked_us IS NULL",
            )
            .bind(device)
            .bind(secret_sha256)
            .fetch_optional(pool)
            .await
        })?;
        Ok(site.map(|(site,)| site))
    }

    /// Credentials that hold, by station.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn credentials(&self) -> Result<Vec<CredentialRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT device_id, site_id, mqtt_hash FROM credentials WHERE revoked_us IS NULL \
                 ORDER BY device_id",
            )
            .fetch_all(pool)
            .await
        })?)
    }

    /// Takes a station down: its credentials end, and it is shown no more. False if there is none.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn retire_device(&self, device: Uuid, now_us: i64) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "UPDATE credentials SET revoked_us = $2 \
                 WHERE device_id = $1 AND revoked_us IS NULL",
            )
            .bind(device)
            .bind(now_us)
            .execute(&mut *tx)
            .await?;
            sqlx::query("UPDATE devices SET retired_us = $2 WHERE id = $1 AND retired_us IS NULL")
                .bind(device)
                .bind(now_us)
                .execute(&mut *tx)
                .await?
                .rows_affected()
                == 1
        })
    }

    /// Notes a command.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn note_command(&self, command: CommandRow) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "INSERT INTO commands (id, device_id, name, payload, created_us, created_by, \
                 expires_us) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(command.id)
            .bind(command.device_id)
            .bind(command.name)
            .bind(command.payload)
            .bind(command.created_us)
            .bind(command.created_by)
            .bind(command.expires_us)
            .execute(&mut *tx)
            .await?;
        })
    }

    /// Notes that the broker took a command.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn command_sent(&self, id: Uuid, now_us: i64) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("UPDATE commands SET sent_us = $2 WHERE id = $1")
                .bind(id)
                .bind(now_us)
                .execute(&mut *tx)
                .await?;
        })
    }

    /// The newest commands to a station.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn commands(&self, device: Uuid, limit: i64) -> Result<Vec<CommandRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, device_id, name, payload, created_us, created_by, expires_us, sent_us, \
                 answered_us, answer FROM commands WHERE device_id = $1 \
                 ORDER BY created_us DESC, id DESC LIMIT $2",
            )
            .bind(device)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }
}
