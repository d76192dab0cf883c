//! What the station promises, tested by law.

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
