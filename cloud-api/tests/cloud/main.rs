//! The server under test: its database's laws, and the built program with real brokers and clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]

mod databases;
mod http;
mod ingest;
mod live;
mod predict;
mod program;
mod schema;
mod server;
mod station;
mod store;
mod uploads;
