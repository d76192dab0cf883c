//! The wire contract between stations and the cloud.
//!
//! Everything that crosses the network is defined here and nowhere else: identifiers, the
//! binary [`Envelope`] and its messages, the JSON that people's tools read, and the MQTT
//! [`Topic`] tree. The crate is `no_std` without its default feature `std`, which only adds
//! the JSON documents; its feature `release` adds signed releases of models.

#![cfg_attr(not(feature = "std"), no_std)]

mod envelope;
mod ids;
#[cfg(feature = "std")]
pub mod json;
mod messages;
#[cfg(feature = "release")]
pub mod release;
mod topics;
pub mod version;

pub use envelope::{
    CRC_LEN, DecodeError, EncodeError, Envelope, HEADER_LEN, Header, Kind, MAX_ENVELOPE_LEN,
    TimeQuality,
};
pub use ids::{DeviceId, EventId, ModelTag, ParseIdError, RecordId, SLUG_MAX_LEN, Slug};
pub use messages::{
    ALERT_FRAME_MAX_LEN, Alert, CLASS_NAME_MAX_LEN, ClipFormat, ClipRef, Detection, Flags, Message,
    Receipt, SeqRange, SourceState, Telemetry,
};
pub use topics::{ParseTopicError, Topic};
