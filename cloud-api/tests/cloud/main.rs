//! The server under test: its database's laws, and the built program with real brokers and clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]

mod access;
mod backup;
mod databases;
mod fleet;
mod http;
mod ingest;
mod jobs;
mod kills;
mod learning;
mod live;
mod models;
mod openapi;
mod original;
#[cfg(feature = "otlp")]
mod otlp;
mod predict;
mod program;
mod roles;
mod rollout_laws;
mod rollouts;
mod schema;
mod server;
mod station;
mod store;
mod upkeep;
mod uploads;
