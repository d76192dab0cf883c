//! A built binary as a child process, with its output in files.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

/// How often a waiting function looks again.
const POLL: Duration = Duration::from_millis(20);

/// A running child. It is killed when dropped, so that a failed test leaves nothing behind.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

/// Why a program could not be run or did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The binary could not be started: is it built?
    #[error("cannot start {program}: {source}")]
    Start {
        /// Path or name of the binary.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It did not end in time; it has been killed. The log says what it was doing.
    #[error("{name} did not end within {limit:?}; its log:\n{log}")]
    Stuck {
        /// The name it was started under.
        name: String,
        /// The time it was given.
        limit: Duration,
        /// The end of its log.
        log: String,
    },
    /// Waiting for it or signalling it failed.
    #[error("{name}: {source}")]
    Wait {
        /// The name it was started under.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Path of a binary of this workspace, built by the same profile as the running test.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap_or_default();
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("target/debug"));
    profile.join(name)
}

impl Program {
    /// Starts `binary`; its output is appended to `log_dir/name.out` and `log_dir/name.log`.
    ///
    /// # Errors
    /// [`ProgramError::Start`] if the logs cannot be opened or the binary cannot be run.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        binary: &Path,
        arguments: impl IntoIterator<Item = A>,
        log_dir: &Path,
    ) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::Start { program: binary.display().to_string(), source };
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let log = log_dir.join(format!("{name}.log"));
        let child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(append(&log_dir.join(format!("{name}.out"))).map_err(failed)?)
            .stderr(append(&log).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// [`ProgramError::Wait`] if the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProgramError> {
        self.child.try_wait().map_err(|source| self.failed(source))
    }

    /// Kills it as the kernel's out-of-memory killer does: no warning, no clean-up.
    ///
    /// # Errors
    /// [`ProgramError::Wait`] if it cannot be signalled.
    pub fn kill_9(&mut self) -> Result<(), ProgramError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|source| self.failed(source))
    }

    /// Asks it to stop (SIGTERM) and waits.
    ///
    /// # Errors
    /// [`ProgramError::Stuck`] if it has not ended within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus, ProgramError> {
        if self.ended()?.is_none() {
            // The `kill` command spares the crate an unsafe call into libc.
            let sent = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
            sent.map_err(|source| self.failed(source))?;
        }
        self.wait(limit)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`ProgramError::Stuck`] if it has not ended within `limit`; it is killed then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, ProgramError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill_9()?;
                let (name, log) = (self.name.clone(), self.log_tail());
                return Err(ProgramError::Stuck { name, limit, log });
            }
            thread::sleep(POLL);
        }
    }

    /// The last lines of what it wrote to standard error.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn failed(&self, source: io::Error) -> ProgramError {
        ProgramError::Wait { name: self.name.clone(), source }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
