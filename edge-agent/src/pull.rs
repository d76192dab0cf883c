//! Path: broker → uplink → pull → outbox → upload
//!
//! Commands of the cloud. There is one: `cmd/pull` asks for a while of sound that no event caught.
//! The station cuts it from its ring, puts it among the clips that wait for upload, and answers on
//! `…/reply`. A command that comes twice is answered twice and done once.

use std::sync::Arc;

use ecosight_shared::EventId;
use ecosight_shared::json::{CommandReply, PullCommand, PulledClip};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::clip::{self, guano};
use crate::clock::rfc3339;
use crate::outbox::{ClipRow, Outbox, OutboxError, Priority};
use crate::recorder::{Identity, Storage};
use crate::reel::Reel;

/// A command as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Last level of its topic.
    pub name: String,
    /// JSON.
    pub payload: Vec<u8>,
}

/// Commands that wait.
pub const QUEUE: usize = 8;

/// Carries commands out.
pub struct Puller {
    /// The sound that is kept; nothing if none is.
    pub reel: Option<Arc<Reel>>,
    /// Where clips go.
    pub storage: Storage,
    /// What waits for upload.
    pub outbox: Outbox,
    /// Who answers.
    pub identity: Arc<Identity>,
}

impl Puller {
    /// Answers until nobody asks any more.
    ///
    /// # Errors
    /// The outbox has stopped.
    pub async fn run(
        self,
        mut commands: mpsc::Receiver<Command>,
        replies: mpsc::Sender<CommandReply>,
    ) -> Result<(), OutboxError> {
        while let Some(command) = commands.recv().await {
            let reply = self.answer(&command).await?;
            match &reply.problem {
                Some(problem) => tracing::warn!(command = reply.command, problem, "refused"),
                None => tracing::info!(command = reply.command, id = reply.id, "carried out"),
            }
            if replies.send(reply).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn answer(&self, command: &Command) -> Result<CommandReply, OutboxError> {
        let refuse = |id: Option<String>, problem: String| CommandReply {
            command: command.name.clone(),
            id: id.unwrap_or_default(),
            status: "refused".to_owned(),
            problem: Some(problem),
            clip: None,
        };
        if command.name != "pull" {
            let problem = "this station has no such command; it has: pull".to_owned();
            return Ok(refuse(None, problem));
        }
        let asked: PullCommand = match serde_json::from_slice(&command.payload) {
            Ok(asked) => asked,
            Err(error) => return Ok(refuse(None, format!("not understood: {error}"))),
        };
        let id = asked.id.to_string();
        let known = self.outbox.clips().await?.into_iter().find(|row| row.event.0 == asked.id);
        if let Some(row) = known {
            return Ok(accepted(command, &id, &row, String::new()));
        }
        let Some(reel) = self.reel.clone() else {
            return Ok(refuse(Some(id), "this station keeps no sound: ring.keep is 0".to_owned()));
        };
        let (from, to) = match (crate::why::time(&asked.from), crate::why::time(&asked.to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(problem), _) | (_, Err(problem)) => return Ok(refuse(Some(id), problem)),
        };
        let (storage, identity) = (self.storage.clone(), Arc::clone(&self.identity));
        let cut = tokio::task::spawn_blocking(move || -> Result<_, String> {
            let recording = reel.cut(from, to).map_err(|error| error.to_string())?;
            let about = guano::of_recording(&identity, &recording);
            let stem = format!("pull-{}", asked.id);
            let file = clip::save(&storage.clips, &stem, &recording.samples, &about);
            Ok((file.map_err(|error| error.to_string())?, recording.time.unix_us))
        });
        let (file, begin_us) = match cut.await {
            Ok(Ok(cut)) => cut,
            Ok(Err(problem)) => return Ok(refuse(Some(id), problem)),
            Err(error) => return Ok(refuse(Some(id), error.to_string())),
        };
        let row = row_of(asked.id, &file);
        match self.outbox.add_clip(row.clone(), Priority::Detection, begin_us).await {
            Ok(()) => Ok(accepted(command, &id, &row, rfc3339(begin_us))),
            Err(OutboxError::Stopped) => Err(OutboxError::Stopped),
            Err(error) => {
                let _ = std::fs::remove_file(self.storage.clips.join(&file.name));
                Ok(refuse(Some(id), error.to_string()))
            }
        }
    }
}

fn row_of(id: Uuid, file: &clip::ClipFile) -> ClipRow {
    ClipRow {
        event: EventId(id),
        name: file.name.clone(),
        sha256: file.reference.sha256,
        bytes: u64::from(file.reference.bytes),
        duration_ms: file.reference.duration_ms,
        format: file.reference.format,
    }
}

fn accepted(command: &Command, id: &str, row: &ClipRow, from: String) -> CommandReply {
    CommandReply {
        command: command.name.clone(),
        id: id.to_owned(),
        status: "accepted".to_owned(),
        problem: None,
        clip: Some(PulledClip {
            sha256: row.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: row.bytes,
            duration_ms: row.duration_ms,
            format: row.format.extension().to_owned(),
            from,
        }),
    }
}
