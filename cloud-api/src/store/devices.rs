//! Stations, the models they name, and how they are.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};

/// A station with its newest telemetry.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct DeviceRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its site.
    pub site_id: String,
    /// `online`, `offline` or `unknown`, by its own word.
    pub state: String,
    /// When anything last came from it.
    pub last_seen_us: i64,
    /// Version of its agent, once it told.
    pub agent_version: Option<String>,
    /// Its model, once it told.
    pub model_tag: Option<String>,
    /// Name of that model's bundle.
    pub model_name: Option<String>,
    /// Version of that model's bundle.
    pub model_version: Option<String>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// Metres.
    pub uncertainty_m: Option<f64>,
    /// How it said it is, `StationHealth` in JSON, once it told.
    pub health: Option<String>,
}

/// One minute's telemetry.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the fields are those of the message")]
pub struct TelemetryRow {
    pub device_id: Uuid,
    pub unix_us: i64,
    pub uptime_s: i64,
    pub windows: i64,
    pub inference_p50_us: i64,
    pub inference_p99_us: i64,
    pub dropped_samples: i64,
    pub gaps: i64,
    pub outbox_records: i64,
    pub outbox_oldest_s: i64,
    pub clips_pending: i64,
    pub disk_free_mib: i64,
    pub cpu_temperature_c: Option<f64>,
    pub noise_floor_dbfs: f64,
    pub source: String,
}

macro_rules! select_device {
    ($rest:literal) => {
        concat!(
            "SELECT d.id, d.name, d.site_id, d.state, d.last_seen_us, d.agent_version, d.model_tag, \
             m.name AS model_name, m.version AS model_version, \
             d.latitude, d.longitude, d.uncertainty_m, d.health \
             FROM devices d LEFT JOIN models m ON m.tag = d.model_tag ",
            $rest
        )
    };
}

/// The newest telemetry of stations, each found by the primary key: a station has a row a minute.
macro_rules! select_telemetry {
    ($rest:literal) => {
        concat!(
            "SELECT t.device_id, t.unix_us, t.uptime_s, t.windows, t.inference_p50_us, \
             t.inference_p99_us, t.dropped_samples, t.gaps, t.outbox_records, t.outbox_oldest_s, \
             t.clips_pending, t.disk_free_mib, t.cpu_temperature_c, t.noise_floor_dbfs, t.source \
             FROM devices d JOIN telemetry t ON t.device_id = d.id \
             AND t.boot = (SELECT n.boot FROM telemetry n WHERE n.device_id = d.id \
             ORDER BY n.boot DESC, n.seq DESC LIMIT 1) \
             AND t.seq = (SELECT n.seq FROM telemetry n WHERE n.device_id = d.id \
             ORDER BY n.boot DESC, n.seq DESC LIMIT 1) ",
            $rest
        )
    };
}

impl Store {
    /// All stations by site and name, each with its newest telemetry.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn devices(&self) -> Result<Vec<(DeviceRow, Option<TelemetryRow>)>, StoreError> {
        let devices: Vec<DeviceRow> = reading!(self, |pool| {
            sqlx::query_as(select_device!(
                "WHERE d.retired_us IS NULL ORDER BY d.site_id, d.name, d.id"
            ))
            .fetch_all(pool)
            .await
        })?;
        let telemetry: Vec<TelemetryRow> = reading!(self, |pool| {
            sqlx::query_as(select_telemetry!("WHERE d.retired_us IS NULL")).fetch_all(pool).await
        })?;
        let mut newest: std::collections::HashMap<Uuid, TelemetryRow> =
            telemetry.into_iter().map(|row| (row.device_id, row)).collect();
        let with_telemetry = |device: DeviceRow| {
            let telemetry = newest.remove(&device.id);
            (device, telemetry)
        };
        Ok(devices.into_iter().map(with_telemetry).collect())
    }

    /// Stations heard from after `after_us`: id and when.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn devices_seen(
        &self,
        after_us: i64,
        limit: i64,
    ) -> Result<Vec<(Uuid, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, last_seen_us FROM devices WHERE last_seen_us > $1 \
                 ORDER BY last_seen_us LIMIT $2",
            )
            .bind(after_us)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// One station.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn device(
        &self,
        id: Uuid,
    ) -> Result<Option<(DeviceRow, Option<TelemetryRow>)>, StoreError> {
        let device: Option<DeviceRow> = reading!(self, |pool| {
            sqlx::query_as(select_device!("WHERE d.id = $1 AND d.retired_us IS NULL"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        let Some(device) = device else { return Ok(None) };
        let telemetry: Option<TelemetryRow> = reading!(self, |pool| {
            sqlx::query_as(select_telemetry!("WHERE d.id = $1")).bind(id).fetch_optional(pool).await
        })?;
        Ok(Some((device, telemetry)))
    }

    /// How many stations last said of themselves to be what.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn device_states(&self) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT state, COUNT(*) FROM devices WHERE retired_us IS NULL GROUP BY state",
            )
            .fetch_all(pool)
            .await
        })?)
    }

    /// Keeps the class list of a model, as of the server's own bundle.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn remember_model(
        &self,
        tag: &str,
        name: &str,
        version: &str,
        classes: &[String],
    ) -> Result<(), StoreError> {
        let (tag, name, version) = (tag.to_owned(), name.to_owned(), version.to_owned());
        let classes = serde_json::Value::from(classes).to_string();
        writing!(self, |tx| {
            sqlx::query(UPSERT_MODEL)
                .bind(tag)
                .bind(name)
                .bind(version)
                .bind(classes)
                .execute(&mut *tx)
                .await?;
        })
    }
}

/// A model named without its classes, as by an older agent, must not erase them.
pub(super) const UPSERT_MODEL: &str = "INSERT INTO models (tag, name, version, classes) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (tag) DO UPDATE SET name = excluded.name, \
     version = excluded.version, classes = CASE WHEN excluded.classes = '[]' \
     THEN models.classes ELSE excluded.classes END";
