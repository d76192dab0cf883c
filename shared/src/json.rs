//! JSON documents on MQTT, for people's tools: alerts and status.
//!
//! Fields are snake_case, times RFC 3339 UTC. Receivers ignore fields they do not know.

use std::string::String;
use std::vec::Vec;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Payload of `…/alert` (from the station) and of `…/alerts/{class}` (from the cloud).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertDocument {
    /// Always [`AlertDocument::SCHEMA`].
    pub schema: String,
    /// Show an event once, however often it arrives: this is its key.
    pub event_id: Uuid,
    /// The station that heard it.
    pub device_id: Uuid,
    /// That station's name.
    pub device_name: String,
    /// The site it belongs to.
    pub site_id: String,
    /// What was heard.
    pub class: String,
    /// How surely, 0 to 1.
    pub score: f32,
    /// Onset, RFC 3339 UTC.
    pub time: String,
    /// How good the station's clock was: `unknown`, `free-running`, `network` or `gps`.
    pub time_quality: String,
    /// Level of the loudest 20 ms, dBFS.
    pub level_dbfs: f32,
    /// Windows over the threshold at the time of writing.
    pub windows: u32,
    /// Injected by the station to prove that it hears: not a real shot.
    pub canary: bool,
    /// The model that heard it.
    pub model: ModelInfo,
    /// Where the station stands, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Page of the event; only from the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Payload of `…/status`: retained, and the last will with `state` `offline`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// Always [`StatusDocument::SCHEMA`].
    pub schema: String,
    /// Whether the station is connected.
    pub state: ConnectionState,
    /// The station.
    pub device_id: Uuid,
    /// Its name.
    pub device_name: String,
    /// Its site.
    pub site_id: String,
    /// When this was written, RFC 3339 UTC; for a last will, when the connection was made.
    pub time: String,
    /// Version of the agent.
    pub agent_version: String,
    /// The model in use, with the class list that indices in alerts refer to.
    pub model: ModelInfo,
    /// Where the station stands, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// Whether a station is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Connected.
    Online,
    /// Gone, by its own word or its last will.
    Offline,
}

/// Which model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// [`crate::ModelTag`] as 8 hexadecimal digits.
    pub tag: String,
    /// Class names in the order of the model's outputs; empty in alerts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

/// A position on Earth, WGS 84.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Latitude in degrees, −90 to 90.
    pub lat: f64,
    /// Longitude in degrees, −180 to 180.
    pub lon: f64,
    /// Radius in which the station is, in metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_m: Option<f32>,
}

impl AlertDocument {
    /// Schema name and version.
    pub const SCHEMA: &'static str = "ecosight.alert/1";
}

impl StatusDocument {
    /// Schema name and version.
    pub const SCHEMA: &'static str = "ecosight.status/1";
}
