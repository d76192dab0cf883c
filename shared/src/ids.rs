//! Identifiers: who sent a record, which record it is, which event it tells of.

use core::fmt;
use core::str::FromStr;

use heapless::String;
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

/// A station. A UUID, made once at enrolment; 16 bytes on the wire, hyphenated text in topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(#[serde(with = "uuid::serde::compact")] pub Uuid);

/// One event heard by one station. A UUIDv7 that follows from the event's first record, so that
/// the compact alert frame need not carry it: see [`EventId::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(#[serde(with = "uuid::serde::compact")] pub Uuid);

/// The position of a record in a station's history. Order is by (boot, seq), never by clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// The station that wrote the record.
    pub device: DeviceId,
    /// Starts of the agent on this station so far, counted from 1 and kept on its disk.
    pub boot: u32,
    /// Records written since that start, counted from 1.
    pub seq: u32,
}

/// First four bytes of a bundle's SHA-256: enough to tell a fleet's models apart on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelTag(pub [u8; 4]);

/// Longest site or device name, in bytes.
pub const SLUG_MAX_LEN: usize = 32;

/// A name that is safe in a topic, a path and a file name: `a-z`, `0-9` and `-`, 1 to 32 bytes,
/// neither beginning nor ending with `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String<SLUG_MAX_LEN>", into = "String<SLUG_MAX_LEN>")]
pub struct Slug(String<SLUG_MAX_LEN>);

/// Why a text is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseIdError {
    /// Not a UUID.
    Uuid,
    /// Not 8 hexadecimal digits.
    ModelTag,
    /// Empty, too long, or with a character outside `a-z`, `0-9`, `-`.
    Slug,
}

impl EventId {
    /// The id of the event whose first record is `record`, written at `unix_us`.
    ///
    /// A UUIDv7 of that millisecond whose 74 random bits are a hash of (device, boot, seq):
    /// the station, the cloud and a satellite gateway derive the same id from the header alone,
    /// and two stations do not collide within a millisecond.
    #[must_use]
    pub fn of(record: RecordId, unix_us: i64) -> Self {
        let millis = u64::try_from(unix_us / 1_000).unwrap_or(0);
        let device = record.device.0.as_u128();
        let position = (u64::from(record.boot) << 32) | u64::from(record.seq);
        let high = mix(mix((device >> 64) as u64) ^ position);
        let low = mix(high ^ mix(device as u64));
        let mut random = [0_u8; 10];
        random[..8].copy_from_slice(&low.to_be_bytes());
        random[8..].copy_from_slice(&high.to_be_bytes()[..2]);
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

/// The 64-bit finaliser of MurmurHash3 (Appleby, public domain): a bijection with full avalanche.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

impl Slug {
    /// The text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` may be a name.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=SLUG_MAX_LEN).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-')
    }
}

impl FromStr for Slug {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if !Self::is_valid(text) {
            return Err(ParseIdError::Slug);
        }
        String::try_from(text).map(Self).map_err(|_| ParseIdError::Slug)
    }
}

impl TryFrom<String<SLUG_MAX_LEN>> for Slug {
    type Error = ParseIdError;

    fn try_from(text: String<SLUG_MAX_LEN>) -> Result<Self, ParseIdError> {
        text.as_str().parse()
    }
}

impl From<Slug> for String<SLUG_MAX_LEN> {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

impl FromStr for DeviceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError::Uuid)
    }
}

impl FromStr for EventId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError::Uuid)
    }
}

impl FromStr for ModelTag {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let is_tag = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_tag {
            return Err(ParseIdError::ModelTag);
        }
        u32::from_str_radix(text, 16)
            .map(|tag| Self(tag.to_be_bytes()))
            .map_err(|_| ParseIdError::ModelTag)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Display for ModelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.device, self.boot, self.seq)
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uuid => "expected a UUID such as 018f4d7e-0000-7000-8000-000000000001",
            Self::ModelTag => "expected 8 hexadecimal digits",
            Self::Slug => "expected 1 to 32 of a-z, 0-9 and '-', not at either end",
        })
    }
}

impl core::error::Error for ParseIdError {}
