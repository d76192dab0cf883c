//! The server: takes in what stations send, keeps it, tells rangers, answers people and programs.
//!
//! ```text
//! station ─MQTT→ broker → link → ingest → store → alerts ─MQTT→ rangers
//!    └────HTTP→ clips                       └──→ live, http → page, programs
//! ```

pub mod access;
pub mod administer;
pub mod alerts;
pub mod archive;
pub mod backoff;
#[cfg(feature = "embedded-broker")]
pub mod broker;
pub mod chance;
pub mod cli;
pub mod clips;
pub mod clock;
pub mod config;
pub mod disk;
pub mod doctor;
pub mod documents;
pub mod export;
pub mod http;
pub mod inference;
pub mod ingest;
mod intake;
pub mod learn;
pub mod lifecycle;
pub mod link;
pub mod live;
pub mod log;
pub mod metric;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod picture;
pub mod registry;
pub mod releases;
pub mod review;
pub mod rollout;
pub mod samples;
pub mod server;
pub mod serving;
pub mod store;
pub mod tally;
pub mod training;
pub mod upkeep;
pub mod watch;
