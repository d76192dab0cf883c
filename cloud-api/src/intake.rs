//! Path: http → **intake** → clips, releases
//!
//! The pace of an upload: a sender that stalls, or trickles, gives its place to others.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

/// An upload without a byte for this long is cut.
const STALL_LIMIT: Duration = Duration::from_secs(15);
/// After this grace an upload must keep to its least rate.
const GRACE: Duration = Duration::from_secs(15);

/// An upload on its way.
pub(crate) struct Intake {
    started: Instant,
    taken: u64,
    least_rate: u64,
}

impl Intake {
    /// One that begins now, and must bring `least_rate` bytes a second.
    pub(crate) fn begin(least_rate: u64) -> Self {
        Self { started: Instant::now(), taken: 0, least_rate }
    }

    /// Bytes that were counted.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub(crate) async fn next<E: Display>(
        &self,
        bytes: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Option<Bytes>, String> {
        match timeout(STALL_LIMIT, bytes.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => Err(error.to_string()),
            Err(_) => Err("no byte came for too long".into()),
        }
    }

    /// Counts bytes that were written.
    ///
    /// # Errors
    /// That the upload is too slow, for people.
    pub(crate) fn count(&mut self, len: usize) -> Result<(), String> {
        self.taken += len as u64;
        let elapsed = self.started.elapsed();
        if elapsed > GRACE && self.taken < elapsed.as_secs() * self.least_rate {
            return Err(format!("slower than {} bytes a second", self.least_rate));
        }
        Ok(())
    }
}
