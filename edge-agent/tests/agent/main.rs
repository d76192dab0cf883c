//! What the station promises, tested by law.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]

mod bearer;
mod budget;
mod bundle;
mod canary;
mod clips;
mod clock;
mod commands;
mod config;
mod correction;
mod endurance;
mod machine;
mod microphone;
mod mount;
mod outbox;
mod page;
mod privacy;
mod reel;
mod resume;
#[cfg(feature = "microphone")]
mod sound_card;
mod sources;
mod station;
mod support;
mod tls;
mod torn;
mod trace;
mod update;
mod uplink;
mod uploads;
