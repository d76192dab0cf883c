//! Secrets that are shown once and kept as hashes only.
//!
//! They are random and long, so one round of SHA-2 is as good as any number of them: there is nothing
//! to guess.

use std::fmt;

use sha2::{Digest, Sha256, Sha512};

use crate::chance::Chance;
use crate::store::hex;

/// A secret of 256 random bits, as its owner sends it: a prefix that says what it is, and 64
/// hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Digits of an enrolment code, which people type: without those that look alike.
const CODE_DIGITS: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
const CODE_LEN: usize = 16;

impl Secret {
    /// A new API key.
    #[must_use]
    pub fn key(chance: &Chance) -> Self {
        Self(format!("esk_{}", hex(&chance.bytes::<32>())))
    }

    /// A new password of a station.
    #[must_use]
    pub fn station(chance: &Chance) -> Self {
        Self(format!("esd_{}", hex(&chance.bytes::<32>())))
    }

    /// A new token of a session.
    #[must_use]
    pub fn session(chance: &Chance) -> Self {
        Self(format!("ess_{}", hex(&chance.bytes::<32>())))
    }

    /// A new code for one enrolment: 80 bits in groups of four.
    #[must_use]
    pub fn code(chance: &Chance) -> Self {
        let mut code = String::new();
        for (place, byte) in chance.bytes::<CODE_LEN>().into_iter().enumerate() {
            if place > 0 && place.is_multiple_of(4) {
                code.push('-');
            }
            code.push(char::from(CODE_DIGITS[usize::from(byte) % CODE_DIGITS.len()]));
        }
        Self(code)
    }

    /// A secret that somebody else made.
    #[must_use]
    pub fn given(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn hashed(&self) -> String {
        hashed(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is kept of a secret that a caller sent.
pub(crate) fn hashed(secret: &str) -> String {
    hex(&Sha256::digest(secret.trim().as_bytes()))
}

/// The secret as a line of Mosquitto's password file has it after the name: `$6$`, the salt and
/// SHA-512 of secret and salt, both in base64.
#[must_use]
pub fn mosquitto_hash(secret: &Secret, salt: [u8; 12]) -> String {
    let hash = Sha512::new().chain_update(secret.0.as_bytes()).chain_update(salt).finalize();
    format!("$6${}${}", base64(&salt), base64(&hash))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = 0_u32;
        for place in 0..3 {
            word = word << 8 | u32::from(chunk.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The bytes that base64 stands for; `None` if it is none.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Secret, base64, from_base64, mosquitto_hash};
    use crate::chance::Chance;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        assert!(from_base64("a b").is_none());
    }

    #[test]
    fn a_secret_is_never_shown_by_accident() {
        let chance = Chance::from_fn(|bytes| bytes.fill(7));
        let secret = Secret::key(&chance);
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.reveal().len(), 4 + 64);
        let code = Secret::code(&chance);
        assert_eq!(code.reveal().len(), 19);
        assert!(mosquitto_hash(&secret, [0; 12]).starts_with("$6$AAAAAAAAAAAAAAAA$"));
    }
}
