//! Whether a station may install a release.

use core::fmt;
use std::string::{String, ToString};

use super::{MAX_MANIFEST_LEN, MAX_SIGNATURES, Manifest, PublicKey, ReleaseRef, SignedManifest};
use crate::DeviceId;
use crate::release::KeyId;

/// Furthest that a counter may jump ahead of the highest seen: about three years, for makers who
/// count in seconds. One wrong release must not use the numbers up for all that come after. A station
/// that has seen none yet counts from the time, in unix seconds: whoever counts by ones is below it, and
/// whoever counts in seconds is at it.
pub const MAX_COUNTER_STEP: u64 = 100_000_000;

/// Who asks whether it may install.
#[derive(Clone, Copy, Debug)]
pub struct Station<'a> {
    /// Keys whose releases it installs: the current one and the next.
    pub trusted: &'a [PublicKey],
    /// Its id.
    pub device: DeviceId,
    /// Its site.
    pub site: &'a str,
    /// Version of its agent.
    pub agent_version: &'a str,
    /// The time, unix seconds, never earlier than any that it has seen before; nothing if its clock
    /// was never set.
    pub now_unix_s: Option<i64>,
}

/// What it knows from before, kept outside of what a release replaces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory<'a> {
    /// Highest counter that it ever accepted.
    pub highest: Option<Highest>,
    /// The release that it runs; nothing: what it was built with.
    pub active: Option<&'a ReleaseRef>,
    /// Bundles that failed here, by their hash.
    pub blocked: &'a [[u8; 32]],
}

/// The highest counter accepted, and of which release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Highest {
    /// The counter.
    pub counter: u64,
    /// [`SignedManifest::id`]: the same release may come again, another with its counter may not.
    pub release: [u8; 32],
}

/// A release that may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What it is.
    pub manifest: Manifest,
    /// [`SignedManifest::id`]
    pub id: [u8; 32],
    /// Whose signature held.
    pub key: KeyId,
}

/// Why a release is not installed. The station keeps what it has and reports the code and the
/// sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something is beyond its limit.
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit: bytes, or how many.
        limit: u64,
    },
    /// A part is not what it should be.
    Malformed {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It has no signature.
    Unsigned,
    /// This station trusts no key at all.
    NoTrustedKey,
    /// It is signed, but by no key that is trusted.
    WrongKey,
    /// A trusted key is said to have signed it and did not: it was changed.
    BadSignature,
    /// Made for a newer program.
    UnknownFormat {
        /// What it says.
        format: u8,
    },
    /// The same bundle failed here before.
    Blocked,
    /// It is for other stations.
    OtherDevice,
    /// It is for another site.
    OtherSite {
        /// That site.
        site: String,
    },
    /// The agent is too old for it.
    AgentTooOld {
        /// What it needs.
        minimum: String,
        /// What there is.
        agent: String,
    },
    /// The clock was never set: whether it has expired cannot be known.
    ClockUnset,
    /// Its time is over.
    Expired {
        /// Since when, unix seconds.
        at: i64,
    },
    /// An older release, or another one with the same counter.
    Replayed {
        /// Its counter.
        counter: u64,
        /// The highest seen.
        highest: u64,
    },
    /// Its counter jumps so far ahead that hardly any would be left.
    FastForward {
        /// Its counter.
        counter: u64,
        /// The highest seen; before the first, the time, unix seconds.
        highest: u64,
    },
}

impl Refusal {
    pub(crate) fn malformed(part: &'static str, problem: impl fmt::Display) -> Self {
        Self::Malformed { part, problem: problem.to_string() }
    }

    /// A word for programs; these never change.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Unsigned => "unsigned",
            Self::NoTrustedKey => "no_trusted_key",
            Self::WrongKey => "wrong_key",
            Self::BadSignature => "bad_signature",
            Self::UnknownFormat { .. } => "unknown_format",
            Self::Blocked => "blocked",
            Self::OtherDevice => "other_device",
            Self::OtherSite { .. } => "other_site",
            Self::AgentTooOld { .. } => "agent_too_old",
            Self::ClockUnset => "clock_unset",
            Self::Expired { .. } => "expired",
            Self::Replayed { .. } => "replayed",
            Self::FastForward { .. } => "fast_forward",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, limit } => write!(f, "{what} exceeds {limit}"),
            Self::Malformed { part, problem } => write!(f, "{part}: {problem}"),
            Self::Unsigned => f.write_str("the release has no signature"),
            Self::NoTrustedKey => {
                f.write_str("this station trusts no key; set update.trusted_keys")
            }
            Self::WrongKey => f.write_str("the release is signed by no key that is trusted here"),
            Self::BadSignature => {
                f.write_str("the signature does not hold: the manifest was changed after signing")
            }
            Self::UnknownFormat { format } => {
                write!(f, "the manifest has format {format}, this program reads {}", super::FORMAT)
            }
            Self::Blocked => f.write_str("the same bundle failed on this station before"),
            Self::OtherDevice => f.write_str("the release is for other stations"),
            Self::OtherSite { site } => write!(f, "the release is for the site {site}"),
            Self::AgentTooOld { minimum, agent } => {
                write!(f, "the release needs agent {minimum} or newer, this one is {agent}")
            }
            Self::ClockUnset => {
                f.write_str("the clock was never set, so that nobody knows what has expired")
            }
            Self::Expired { at } => write!(f, "the release expired at unix second {at}"),
            Self::Replayed { counter, highest } => write!(
                f,
                "counter {counter} is no newer than {highest}, which this station has had"
            ),
            Self::FastForward { counter, highest } => {
                write!(f, "counter {counter} is more than {MAX_COUNTER_STEP} ahead of {highest}")
            }
        }
    }
}

impl core::error::Error for Refusal {}

/// Judges a release. First the signature; only then is anything of it read; then, in this order,
/// its limits, the block list, whom it is for, the agent it needs, its time and its counter.
///
/// # Errors
/// The first reason against it.
pub fn verify(
    signed: &SignedManifest,
    station: &Station<'_>,
    memory: &Memory<'_>,
) -> Result<Verified, Refusal> {
    let Verified { manifest, id, key } = inspect(signed, station.trusted)?;
    admit(&manifest, station)?;
    if manifest.bundle_sha256().is_some_and(|bundle| memory.blocked.contains(&bundle)) {
        return Err(Refusal::Blocked);
    }
    count(&manifest, id, station, memory)?;
    Ok(Verified { manifest, id, key })
}

/// Reads a release that is not to be installed here: who signed it, and its limits. Whether a station
/// may install it, that station judges.
///
/// # Errors
/// The first reason against it.
pub fn inspect(signed: &SignedManifest, trusted: &[PublicKey]) -> Result<Verified, Refusal> {
    let key = authenticate(signed, trusted)?;
    let manifest = Manifest::decode(&signed.manifest)?;
    Ok(Verified { manifest, id: signed.id(), key })
}

/// Reads a release for people to look at, without asking who signed it: nothing of it may be believed.
///
/// # Errors
/// It is no manifest, or is beyond a limit.
pub fn peek(signed: &SignedManifest) -> Result<Manifest, Refusal> {
    Manifest::decode(&signed.manifest)
}

/// The trusted key whose signature holds.
fn authenticate(signed: &SignedManifest, trusted: &[PublicKey]) -> Result<KeyId, Refusal> {
    if signed.manifest.len() > MAX_MANIFEST_LEN {
        return Err(Refusal::TooLarge { what: "the manifest", limit: MAX_MANIFEST_LEN as u64 });
    }
    if signed.signatures.len() > MAX_SIGNATURES {
        let limit = MAX_SIGNATURES as u64;
        return Err(Refusal::TooLarge { what: "the list of signatures", limit });
    }
    if trusted.is_empty() {
        return Err(Refusal::NoTrustedKey);
    }
    if signed.signatures.is_empty() {
        return Err(Refusal::Unsigned);
    }
    let mut refusal = Refusal::WrongKey;
    for signature in &signed.signatures {
        for key in trusted.iter().filter(|key| key.id() == signature.key) {
            if key.verifies(&signed.manifest, signature) {
                return Ok(signature.key);
            }
            refusal = Refusal::BadSignature;
        }
    }
    Err(refusal)
}

/// Whether it is for this station, now.
fn admit(manifest: &Manifest, station: &Station<'_>) -> Result<(), Refusal> {
    if !manifest.devices.is_empty() && !manifest.devices.contains(&station.device) {
        return Err(Refusal::OtherDevice);
    }
    if let Some(site) = &manifest.site
        && site.as_str() != station.site
    {
        return Err(Refusal::OtherSite { site: site.to_string() });
    }
    if parse_version(station.agent_version) < parse_version(&manifest.minimum_agent) {
        return Err(Refusal::AgentTooOld {
            minimum: manifest.minimum_agent.clone(),
            agent: station.agent_version.to_owned(),
        });
    }
    match station.now_unix_s {
        None => Err(Refusal::ClockUnset),
        Some(now) if now >= manifest.expires_unix_s => {
            Err(Refusal::Expired { at: manifest.expires_unix_s })
        }
        Some(_) => Ok(()),
    }
}

fn count(
    manifest: &Manifest,
    id: [u8; 32],
    station: &Station<'_>,
    memory: &Memory<'_>,
) -> Result<(), Refusal> {
    let counter = manifest.counter;
    let time = station.now_unix_s.and_then(|now| u64::try_from(now).ok()).unwrap_or(0);
    let from = memory.highest.map_or(time, |highest| highest.counter);
    if counter > from.saturating_add(MAX_COUNTER_STEP) {
        return Err(Refusal::FastForward { counter, highest: from });
    }
    let Some(Highest { counter: highest, release }) = memory.highest else { return Ok(()) };
    let way_back = memory.active.is_some() && manifest.replaces.as_ref() == memory.active;
    let is_newer = counter > highest || (counter == highest && id == release);
    if is_newer || way_back { Ok(()) } else { Err(Refusal::Replayed { counter, highest }) }
}

/// `major.minor.patch` and, after a hyphen, a pre-release that comes before it; nothing if it is no
/// such version. The result orders as versions do.
#[must_use]
pub fn parse_version(text: &str) -> Option<(u64, u64, u64, bool)> {
    let text = text.split_once('+').map_or(text, |(version, _)| version);
    let (numbers, is_final) = match text.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (text, true),
    };
    let mut parts = numbers.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if digits { part.parse::<u64>().ok() } else { None }
    });
    let version = (parts.next()??, parts.next()??, parts.next()??, is_final);
    if parts.next().is_some() { None } else { Some(version) }
}
