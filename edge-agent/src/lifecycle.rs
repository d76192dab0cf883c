//! How the agent starts, is told to stop, and ends.
//!
//! The first SIGTERM or SIGINT asks: capture stops, events are closed, clips written, the outbox
//! sent as far as it goes, within ten seconds. The second one ends the process at once; whatever
//! is on disk is safe, since it has to survive a power cut as well. A task that ends by itself
//! before it was asked is a failure, and the process exits with code 1 for systemd to restart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ecosight_models::one_line;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Pulse};
use crate::outbox::Outbox;
use ecosight_shared::SourceState;

/// Time from the first signal to the end.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Of it, for taking leave of the broker.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The tasks of the agent, by name.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
}

/// What is told to the tasks, stage by stage.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Capture no more.
    pub capture: CancellationToken,
    /// Nothing more will be written: send the rest and end.
    pub drain: CancellationToken,
    /// End now.
    pub stop: CancellationToken,
}

/// Name of the task whose end is the end of the stream.
pub const RECORDER: &str = "recorder";

impl Tasks {
    /// Runs a task.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Runs a thread that blocks, as a task.
    pub fn thread(
        &mut self,
        name: &'static str,
        body: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _ = done.send(body());
            })
            .with_context(|| format!("cannot start the thread {name}"))?;
        self.spawn(name, async move { outcome.await.context("it panicked")? });
        Ok(())
    }

    /// Waits for the end: of the stream if `exit_at_end`, by a signal, or by a failure.
    ///
    /// # Errors
    /// A task failed.
    pub async fn supervise(
        mut self,
        stages: &Stages,
        mut signals: Signals,
        exit_at_end: bool,
    ) -> Result<()> {
        let mut failure = None;
        let mut recorder_ended = false;
        let mut again = None;
        loop {
            tokio::select! {
                () = signals.next() => {
                    if again.is_some() {
                        tracing::warn!("stopped at once; what is on disk is safe");
                        std::process::exit(130);
                    }
                    tracing::info!("stopping: closing events and sending what is left");
                    again = Some(stop_in_time(stages.clone()));
                }
                ended = self.set.join_next() => {
                    let Some(ended) = ended else { break };
                    let (name, outcome) = ended.context("a task panicked")?;
                    if let Err(error) = outcome {
                        tracing::error!(task = name, error = one_line(&*error), "task failed");
                        failure.get_or_insert(error.context(format!("{name} failed")));
                        again.get_or_insert_with(|| stop_in_time(stages.clone()));
                    }
                    recorder_ended |= name == RECORDER;
                }
            }
            // All that was heard is on disk now: the rest may end when it has sent it.
            if recorder_ended && (again.is_some() || exit_at_end) && !stages.drain.is_cancelled() {
                tracing::info!("nothing more to hear: sending what is left");
                stages.drain.cancel();
            }
        }
        if let Some(deadline) = again {
            deadline.abort();
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals come here and do not end the process.
    ///
    /// # Errors
    /// The system refuses handlers.
    pub fn listen() -> Result<Self> {
        let handler = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Stops capture now, the sending in time, and the process if even that hangs.
fn stop_in_time(stages: Stages) -> JoinHandle<()> {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    stages.capture.cancel();
    tokio::spawn(async move {
        tokio::time::sleep(DEADLINE - LAST_WORDS).await;
        stages.drain.cancel();
        stages.stop.cancel();
        tokio::time::sleep(LAST_WORDS).await;
        tracing::error!("not stopped in time");
        std::process::exit(1);
    })
}

/// Feeds systemd's watchdog as long as the station works: the source is read, sound becomes
/// windows, and the outbox answers. Nothing else may feed it, and no timer alone does.
pub async fn feed_watchdog(health: Arc<Health>, outbox: Outbox) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut last = health.pulse();
    loop {
        tokio::time::sleep(limit / 3).await;
        let answer = tokio::time::timeout(limit / 3, outbox.level()).await;
        let now = health.pulse();
        if matches!(answer, Ok(Ok(_))) && is_alive(last, now) {
            let status = format!("{} windows heard, source {}", now.windows, now.source.name());
            let _ = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
        } else {
            tracing::error!(?last, ?now, "no progress, the watchdog is not fed");
        }
        last = now;
    }
}

/// Whether the station got on between two looks.
#[must_use]
pub fn is_alive(last: Pulse, now: Pulse) -> bool {
    match now.source {
        SourceState::Ended => true,
        // A microphone that is away is retried; a new process would not find it either.
        SourceState::Starting
        | SourceState::Recovering
        | SourceState::Escalated
        | SourceState::Failed => now.reads > last.reads,
        SourceState::Healthy | SourceState::Alarmed => {
            now.frames > last.frames && now.windows > last.windows
        }
    }
}
