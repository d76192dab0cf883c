//! Versions of the envelope. A receiver accepts `MIN..=CURRENT`; a sender writes `CURRENT`.
//!
//! Enums on the wire are append-only and a released message never changes its fields: a change
//! is a new version, with golden bytes of its own in `tests/wire/golden_vN.rs`.

/// Oldest envelope version that is still decoded.
pub const MIN: u8 = 1;

/// Version that this build writes.
pub const CURRENT: u8 = 1;

const _: () = assert!(MIN <= CURRENT);
