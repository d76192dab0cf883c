//! Passwords of people: Argon2id, off the threads that serve, a few at a time.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::chance::Chance;

/// OWASP's floor for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Each takes its memory and tens of milliseconds of a core.
const AT_ONE_TIME: usize = 2;
/// Shorter ones are guessed.
const MIN_LEN: usize = 12;
const MAX_LEN: usize = 1_024;

/// Hashes and verifies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Passwords {
    places: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONE_TIME)) }
    }
}

impl Passwords {
    /// Hashes a new password.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn hash(&self, password: &str, chance: &Chance) -> Result<String, String> {
        if !(MIN_LEN..=MAX_LEN).contains(&password.len()) {
            return Err(format!("a password has {MIN_LEN} to {MAX_LEN} bytes"));
        }
        let (password, salt) = (password.to_owned(), chance.bytes::<16>());
        let hashed = self.work(move || {
            let hash = argon2().hash_password_with_salt(password.as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
        });
        hashed.await.unwrap_or_else(|| Err("it cannot be hashed".into()))
    }

    /// Whether a password is the one that was hashed. Without a hash, because there is no such user,
    /// it takes as long and says no.
    pub async fn verify(&self, password: &str, hash: Option<&str>) -> bool {
        if password.len() > MAX_LEN {
            return false;
        }
        // Of a password that nobody has.
        const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let known = hash.is_some();
        let (password, hash) = (password.to_owned(), hash.unwrap_or(NOBODY).to_owned());
        let verified = self.work(move || {
            let hash = PasswordHash::new(&hash).ok()?;
            Some(argon2().verify_password(password.as_bytes(), &hash).is_ok())
        });
        verified.await.flatten().unwrap_or(false) && known
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        worked.await.ok()
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or(Params::DEFAULT);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::Passwords;
    use crate::chance::Chance;

    #[tokio::test]
    async fn only_the_right_password_is_right() {
        let (passwords, chance) = (Passwords::default(), Chance::from_fn(|bytes| bytes.fill(9)));
        assert!(passwords.hash("too short", &chance).await.is_err());
        let hash = passwords.hash("correct horse battery", &chance).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("correct horse battery", Some(&hash)).await);
        assert!(!passwords.verify("correct horse batterz", Some(&hash)).await);
        assert!(!passwords.verify("correct horse battery", None).await);
        assert!(!passwords.verify("", None).await);
    }
}
