//! What the station promises, tested by law.

mod clips;
mod config;
mod outbox;
mod resume;
mod sources;
mod support;
mod uplink;
mod uploads;
