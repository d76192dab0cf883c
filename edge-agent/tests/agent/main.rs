//! What the station promises, tested by law.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]

mod bundle;
mod clips;
mod config;
mod outbox;
mod resume;
mod sources;
mod station;
mod support;
mod uplink;
mod uploads;
