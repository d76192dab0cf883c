//! How often one caller may ask. In memory, of this process, and bounded: whoever makes up addresses
//! only pushes out others' buckets that are full again anyway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Callers remembered at one time.
const REMEMBERED: usize = 10_000;

/// Token buckets by caller.
#[derive(Debug)]
pub(super) struct Limit {
    /// Tokens of a full bucket.
    burst: f64,
    /// Tokens a second.
    rate: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limit {
    pub(super) fn new(burst: u32, per: Duration) -> Self {
        let (burst, rate) = (f64::from(burst), f64::from(burst) / per.as_secs_f64());
        Self { burst, rate, buckets: Mutex::default() }
    }

    /// Says how long until there is a token, if there is none; takes none.
    pub(super) fn check(&self, caller: &str, now: Instant) -> Result<(), Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = buckets.get(caller).map_or(self.burst, |bucket| self.filled(bucket, now));
        if tokens < 1.0 { Err(self.until_next(tokens)) } else { Ok(()) }
    }

    fn until_next(&self, tokens: f64) -> Duration {
        Duration::from_secs_f64((1.0 - tokens) / self.rate)
    }

    /// Takes a token; else says how long until there is one.
    pub(super) fn take(&self, caller: &str, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(caller) {
            let full = |bucket: &Bucket| self.filled(bucket, now) >= self.burst;
            buckets.retain(|_, bucket| !full(bucket));
            if buckets.len() >= REMEMBERED {
                let longest = buckets.iter().min_by_key(|(_, bucket)| bucket.at);
                if let Some(name) = longest.map(|(name, _)| name.clone()) {
                    buckets.remove(&name);
                }
            }
        }
        let bucket =
            buckets.entry(caller.to_owned()).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = self.filled(bucket, now);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(self.until_next(bucket.tokens));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Gives a token back: the caller did nothing wrong.
    pub(super) fn give_back(&self, caller: &str) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(caller) {
            bucket.tokens = (bucket.tokens + 1.0).min(self.burst);
        }
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + passed * self.rate).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Limit, REMEMBERED};

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (limit, start) = (Limit::new(5, Duration::from_secs(10)), Instant::now());
        assert!((0..5).all(|_| limit.take("a", start).is_ok()));
        let wait = limit.take("a", start).unwrap_err();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
        assert!(limit.take("b", start).is_ok(), "others have their own");
        let later = start + Duration::from_millis(2_001);
        assert!(limit.take("a", later).is_ok());
        assert!(limit.take("a", later).is_err());
        assert!(limit.check("a", later).is_err());
        limit.give_back("a");
        assert!(limit.check("a", later).is_ok());
        assert!(limit.take("a", later).is_ok(), "looking takes nothing");
    }

    #[test]
    fn made_up_callers_cost_no_memory() {
        let (limit, now) = (Limit::new(2, Duration::from_secs(60)), Instant::now());
        for n in 0..REMEMBERED + 500 {
            assert!(limit.take(&n.to_string(), now).is_ok());
        }
        assert!(limit.buckets.lock().unwrap().len() <= REMEMBERED);
    }
}
