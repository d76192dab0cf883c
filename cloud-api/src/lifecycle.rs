//! The tasks of the server: which run, and how they end.
//!
//! The first signal makes `/readyz` say that the server ends; after a grace, in which others send no more
//! here, the intake stops and what has begun ends, within a limit. A second one ends
//! the process at once. A task that ends by itself is a fault: everything stops, and the exit code
//! says so. systemd learns of every step.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Running tasks, each with its name.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
    leaving: CancellationToken,
    stop: CancellationToken,
}

/// The two signals that stop a service.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Tasks {
    /// Cancelled when the server is about to end: what it does goes on, and no more should be sent here.
    #[must_use]
    pub fn leaving(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Cancelled when the tasks are to end.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that runs until [`Tasks::stop`] is cancelled.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Starts a task that cannot fail and runs until [`Tasks::stop`] is cancelled.
    pub fn spawn_until_stop(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn(name, async move {
            task.await;
            Ok(())
        });
    }

    /// Waits for a signal, or for a task that ends on its own.
    ///
    /// # Errors
    /// The task that ended, and why.
    pub async fn run(&mut self, signals: &mut Signals) -> Result<()> {
        tokio::select! {
            name = signals.next() => {
                info!(signal = name, "stopping");
                Ok(())
            }
            ended = self.set.join_next() => match ended {
                Some(ended) => Err(died(ended)),
                None => bail!("there is nothing to run"),
            }
        }
    }

    /// Says for `grace` that the server ends, then lets every task end, for at most `limit` or until
    /// another signal.
    ///
    /// # Errors
    /// The first task that failed, or those that were still running.
    pub async fn end(
        &mut self,
        signals: &mut Signals,
        grace: Duration,
        limit: Duration,
    ) -> Result<()> {
        notify(&[NotifyState::Stopping]);
        self.leaving.cancel();
        tokio::select! {
            () = sleep(grace) => {}
            name = signals.next() => bail!("cut short by {name}"),
        }
        self.stop.cancel();
        let mut result = Ok(());
        let all = async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok((name, Ok(()))) = ended {
                    debug!(task = name, "ended");
                } else if result.is_ok() {
                    result = Err(died(ended));
                }
            }
        };
        tokio::select! {
            ended = timeout(limit, all) => ended.context("some tasks did not end in time")?,
            name = signals.next() => bail!("cut short by {name}"),
        }
        result
    }
}

fn died(ended: Result<(&'static str, Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("the task {name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("the task {name} failed")),
        Err(error) => anyhow!("a task panicked: {error}"),
    }
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        Ok(Self { interrupt, terminate })
    }

    /// Waits for one and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Tells systemd, where it runs us, that the server is up, and from then on that it is alive.
pub async fn report(stop: CancellationToken) -> Result<()> {
    notify(&[NotifyState::Ready]);
    let Some(limit) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return Ok(());
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(limit / 3) => {}
        }
    }
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell systemd");
    }
}
