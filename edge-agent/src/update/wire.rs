//! Path: broker → uplink → update → uplink → broker
//!
//! What an update has to say, in the order in which it was written down, until the broker has it. The
//! newest word is said again at every connection: the broker may be another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ecosight_shared::json::{UpdateDocument, UpdateStep};
use tokio::sync::{Notify, mpsc};

/// Words that wait while there is no connection; the oldest goes first.
const WAITING_MAX: usize = 32;
/// Wishes that wait.
const WISHES: usize = 4;

/// The uplink's side.
#[derive(Clone, Debug)]
pub struct Line {
    wishes: mpsc::Sender<Vec<u8>>,
    words: Words,
}

/// Words on their way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Words {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    said: Mutex<Said>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Said {
    waiting: VecDeque<UpdateDocument>,
    last: Option<UpdateDocument>,
}

/// The two ends: for the uplink, and for whoever carries wishes out.
#[must_use]
pub fn line() -> (Line, mpsc::Receiver<Vec<u8>>, Words) {
    let (wishes, wished) = mpsc::channel(WISHES);
    let words = Words::default();
    (Line { wishes, words: words.clone() }, wished, words)
}

impl Line {
    /// A desired document came. One that finds no room is passed over: the broker keeps it, and a
    /// newer one follows.
    pub(crate) fn wish(&self, payload: Vec<u8>) {
        if self.wishes.try_send(payload).is_err() {
            tracing::warn!("a wish is passed over: too many wait");
        }
    }

    /// The next word; waits for one.
    pub(crate) async fn next(&self) -> Vec<u8> {
        loop {
            let news = self.words.inner.news.notified();
            let next = self.words.said().waiting.pop_front();
            if let Some(json) = next.and_then(|word| serde_json::to_vec(&word).ok()) {
                return json;
            }
            news.await;
        }
    }

    /// A connection was made: the newest word is said anew, behind those that wait.
    pub(crate) fn repeat(&self) {
        let mut said = self.words.said();
        if said.waiting.is_empty() {
            let last = said.last.clone();
            said.waiting.extend(last);
        }
        drop(said);
        self.words.inner.news.notify_one();
    }
}

impl Words {
    /// Says it. The figures of a trial replace those that nobody has seen yet.
    pub fn say(&self, word: UpdateDocument) {
        let mut said = self.said();
        said.last = Some(word.clone());
        let again = said
            .waiting
            .back()
            .is_some_and(|last| last.step == UpdateStep::Trial && last.at == word.at);
        if again {
            said.waiting.pop_back();
        }
        said.waiting.push_back(word);
        if said.waiting.len() > WAITING_MAX {
            said.waiting.pop_front();
        }
        drop(said);
        self.inner.news.notify_one();
    }

    /// What was said last.
    #[must_use]
    pub fn last(&self) -> Option<UpdateDocument> {
        self.said().last.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.inner.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
