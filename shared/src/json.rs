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

/// Payload of `…/status` as a station sends it: [`StatusDocument`] and how the station is. A
/// receiver that only knows the first ignores the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StationStatus {
    /// Who it is, and whether it is connected.
    #[serde(flatten)]
    pub status: StatusDocument,
    /// How it is; absent in a last will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<StationHealth>,
}

/// How a station is, for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StationHealth {
    /// State of the sound source, see [`crate::SourceState::name`].
    pub source: String,
    /// What is wrong with the sound, in words; empty if nothing is.
    pub source_faults: Vec<String>,
    /// When the whole path from sound to the cloud's receipt was last proved, RFC 3339 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<String>,
    /// How good the clock is, see [`crate::TimeQuality::name`].
    pub time_quality: String,
    /// Offset of the clock as its NTP client states it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<f64>,
    /// Whether speech is taken out of recordings: `on`, `off`, or `blind` where the model cannot
    /// tell speech and so no recording is kept.
    pub speech_redaction: String,
    /// The false-alarm budget by class, where one is set.
    pub budgets: Vec<BudgetReport>,
    /// Sound on the station's disk that `cmd/pull` can fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingReport>,
    /// Bytes of clips sent today, UTC.
    pub clip_bytes_today: u64,
    /// Alerts sent by the low-bandwidth bearer since the start.
    pub bearer_sent: u64,
    /// Where the model in use lies: `factory`, or the slot `a` or `b` of an installed release.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_slot: String,
    /// The last canary that was heard since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryReport>,
    /// What was lost since the start.
    pub losses: LossReport,
    /// How the machine is fed; absent where its kernel tells nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerReport>,
}

/// How a canary was heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CanaryReport {
    /// When it was let out, RFC 3339 UTC.
    pub time: String,
    /// What it scored.
    pub score: f32,
    /// What an event of its class must score to alarm. A synthetic shot may stay below: it proves the path.
    pub threshold: f32,
}

/// What a station lost since its start, each counted where it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossReport {
    /// Samples at 16 kHz that are known to be missing.
    pub dropped_samples: u64,
    /// Interruptions of the sound.
    pub gaps: u32,
    /// Overruns that the sound driver told of; how much each cost nobody knows.
    pub overruns: u64,
    /// Windows that the model failed on.
    pub failed_windows: u64,
    /// Clips that were not written, or removed before they were uploaded.
    pub clips_given_up: u64,
    /// Clips that are WAV because their FLAC differed from the sound.
    pub flac_failures: u64,
    /// Pieces of half a minute that are missing in the ring.
    pub ring_pieces: u64,
    /// Telemetry that the disk refused.
    pub telemetry_refused: u64,
    /// Records that could not be written at all.
    pub records_lost: u64,
    /// Alerts that went because the outbox held too many records.
    pub alerts_given_up: u64,
    /// Detections that went because the outbox held too many records, or the disk was full.
    pub detections_given_up: u64,
    /// Telemetry that went for the same reasons.
    pub telemetry_given_up: u64,
}

/// How a machine is fed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PowerReport {
    /// What holds the processor back now: `under-voltage`, `frequency capped`, `throttled`,
    /// `soft temperature limit`.
    pub limits: Vec<String>,
    /// What held it back since the machine started.
    pub limits_since_boot: Vec<String>,
    /// Voltage of the supply, where a sensor tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supply_v: Option<f32>,
}

/// What a false-alarm budget does to a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetReport {
    /// The class.
    pub class: String,
    /// The budget: false alarms a week.
    pub per_week: f64,
    /// `learning` (the bundle's threshold holds), `met`, or `cannot`.
    pub state: String,
    /// Hours of background that this rests on.
    pub heard_hours: f64,
    /// The threshold in use.
    pub threshold: f32,
    /// The bundle's threshold.
    pub bundle_threshold: f32,
    /// False alarms a week to be expected at the threshold in use; absent while learning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_per_week: Option<f64>,
    /// Part of the events that were heard at this threshold in the bundle's evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// The same at the bundle's threshold: the difference is the cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_recall: Option<f64>,
}

/// Sound kept on a station's disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingReport {
    /// Start of the oldest, RFC 3339 UTC.
    pub from: String,
    /// End of the newest, RFC 3339 UTC.
    pub to: String,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// Payload of `…/cmd/pull`: asks for a while of sound that no event caught.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullCommand {
    /// Id under which the clip is uploaded; the answer names it. The same id asks for the same.
    pub id: Uuid,
    /// Begin, RFC 3339.
    pub from: String,
    /// End, RFC 3339; at most two minutes later.
    pub to: String,
}

/// Payload of `…/reply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    /// Name of the command that is answered.
    pub command: String,
    /// Its id; empty if it could not be read.
    pub id: String,
    /// `accepted` or `refused`.
    pub status: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What will be uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PulledClip>,
}

/// A clip that was cut on command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledClip {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Length of the sound.
    pub duration_ms: u32,
    /// `flac` or `wav`.
    pub format: String,
    /// When its first sample was heard, RFC 3339 UTC; empty in the answer to a repetition.
    pub from: String,
}

/// Payload of `…/desired`: retained; what the station should run. An empty payload or no model: it
/// keeps what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredDocument {
    /// Always [`DesiredDocument::VERSION`].
    pub v: u8,
    /// The release to install.
    pub model: Option<DesiredModel>,
    /// When this was decided, RFC 3339 UTC. A station that has refused tries again when it is asked
    /// anew.
    pub time: String,
}

/// A release that a station should install.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredModel {
    /// What its maker signed.
    #[serde(flatten)]
    pub signed: SignedDocument,
    /// Path on the server below which every file lies under its SHA-256 in hexadecimal.
    pub files: String,
    /// How long it is tried beside the old one, seconds; a station may insist on more.
    pub trial_s: u32,
}

/// A signed release manifest in JSON, see `release::SignedManifest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDocument {
    /// `<name>-<version>`, for people: only what is signed counts.
    pub release: String,
    /// The manifest's bytes in base64.
    pub manifest: String,
    /// By one key or more.
    pub signatures: Vec<SignatureDocument>,
}

/// One signature in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureDocument {
    /// Id of the key, 16 hexadecimal digits.
    pub key: String,
    /// The 64 bytes in base64.
    pub signature: String,
}

/// Payload of `…/update`: retained; how the station's newest update goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateDocument {
    /// Always [`UpdateDocument::VERSION`].
    pub v: u8,
    /// The station.
    pub device: Uuid,
    /// `<name>-<version>` of the release.
    pub release: String,
    /// SHA-256 of the signed manifest, hexadecimal: exactly which release; empty if none could be
    /// read.
    pub manifest: String,
    /// Counter of the release; nothing while its signature was not verified.
    pub counter: Option<u64>,
    /// What was done last. It was written to the station's disk before this was sent.
    pub step: UpdateStep,
    /// Why it was refused or rolled back, a sentence.
    pub reason: Option<String>,
    /// The same, a word for programs.
    pub code: Option<String>,
    /// When that step was done, RFC 3339 UTC by the station's clock.
    pub at: String,
    /// The model that judges now.
    pub active: ActiveModel,
    /// What the trial has shown so far.
    pub trial: Option<TrialReport>,
}

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateStep {
    /// Its signature, time, counter and addressee are right.
    Accepted,
    /// Its files are being fetched.
    Downloading,
    /// All files are there, with the right hashes.
    Verified,
    /// A process of its own could load it.
    Loaded,
    /// Its golden sounds score here as they did where it was made.
    Proved,
    /// It judges beside the old model, which still decides.
    Trial,
    /// It decides.
    Committed,
    /// It was not installed.
    Refused,
    /// It ran, on trial or for good, and the model before it is back.
    RolledBack,
}

/// Which model judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveModel {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// [`crate::ModelTag`] as 8 hexadecimal digits.
    pub tag: String,
}

/// Two models on the same sound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialReport {
    /// Windows that both have judged.
    pub windows: u64,
    /// Windows that the new one failed on.
    pub failed: u64,
    /// Events of the old one.
    pub events_old: u64,
    /// Events of the new one.
    pub events_new: u64,
    /// Part of the windows in which both say the same of every class that raises events; 0 to 1.
    pub agreement: f64,
    /// Time that the new one takes, in times of the old one's.
    pub slowness: f64,
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

impl DesiredDocument {
    /// Version of the document.
    pub const VERSION: u8 = 1;
}

impl UpdateDocument {
    /// Version of the document.
    pub const VERSION: u8 = 1;
}

impl UpdateStep {
    /// Whether nothing more will come of it.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Committed | Self::Refused | Self::RolledBack)
    }

    /// As documents spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Loaded => "loaded",
            Self::Proved => "proved",
            Self::Trial => "trial",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::RolledBack => "rolled_back",
        }
    }
}
