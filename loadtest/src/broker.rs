//! Mosquitto in a folder of its own, to be stopped, killed and started again.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tempfile::TempDir;

use crate::{Program, ProgramError, free_port};

const BINARIES: [&str; 2] = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
const START_LIMIT: Duration = Duration::from_secs(10);

/// A Mosquitto of its own, on a private port of the loopback address.
#[derive(Debug)]
pub struct Broker {
    binary: PathBuf,
    config: PathBuf,
    port: u16,
    running: Option<Program>,
    folder: TempDir,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Mosquitto is not installed: skip, or install the package `mosquitto`.
    #[error("Mosquitto is not installed (looked for {}); install the package mosquitto", BINARIES.join(", "))]
    NotInstalled,
    /// Its folder or configuration could not be written.
    #[error("the broker's folder: {0}")]
    Folder(#[from] io::Error),
    /// It could not be started or stopped.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It started but does not accept connections.
    #[error("the broker does not listen on port {port}; its log:\n{log}")]
    Silent {
        /// The port it should listen on.
        port: u16,
        /// The end of its log.
        log: String,
    },
}

impl Broker {
    /// Starts a broker that keeps sessions and queued messages across an orderly restart.
    ///
    /// # Errors
    /// [`BrokerError`]; a caller that may go without a broker checks for `NotInstalled`.
    pub fn start() -> Result<Self, BrokerError> {
        Self::start_for(None)
    }

    /// Starts one that lets nobody in but whom the files `passwords` and `acl` of a folder name, as
    /// `ecosight-cloud mosquitto-acl` writes them.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_closed(access: &Path) -> Result<Self, BrokerError> {
        Self::start_for(Some(access))
    }

    fn start_for(access: Option<&Path>) -> Result<Self, BrokerError> {
        let binary = BINARIES.iter().map(PathBuf::from).find(|path| path.exists());
        let binary = binary.ok_or(BrokerError::NotInstalled)?;
        let folder = TempDir::new()?;
        let port = free_port()?;
        let config = folder.path().join("mosquitto.conf");
        write_config(&config, folder.path(), port, access)?;
        let mut broker = Self { binary, config, port, running: None, folder };
        broker.run()?;
        Ok(broker)
    }

    /// Its address for `mqtt` options.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again after [`Broker::stop`] or [`Broker::kill_9`].
    ///
    /// # Errors
    /// [`BrokerError`] if it does not come up.
    pub fn run(&mut self) -> Result<(), BrokerError> {
        let arguments = ["-c".as_ref(), self.config.as_os_str()];
        let program = Program::start("mosquitto", &self.binary, arguments, self.folder.path())?;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
            if Instant::now() >= deadline {
                return Err(BrokerError::Silent { port: self.port, log: program.log_tail() });
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.running = Some(program);
        Ok(())
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Program::id)
    }

    /// Stops it in order: it saves its sessions.
    ///
    /// # Errors
    /// [`BrokerError::Program`] if it does not stop.
    pub fn stop(&mut self) -> Result<(), BrokerError> {
        if let Some(mut program) = self.running.take() {
            program.terminate(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Kills it: what it has not saved is gone.
    ///
    /// # Errors
    /// [`BrokerError::Program`] if it cannot be signalled.
    pub fn kill_9(&mut self) -> Result<(), BrokerError> {
        if let Some(mut program) = self.running.take() {
            program.kill_9()?;
        }
        Ok(())
    }
}

/// Started as root, Mosquitto changes to a user of its own, which could not write its folder; hence
/// `user root`, which other users' brokers ignore.
#[allow(
    clippy::disallowed_methods,
    reason = "a configuration for a test's broker need not be durable"
)]
fn write_config(path: &Path, folder: &Path, port: u16, access: Option<&Path>) -> io::Result<()> {
    let folder = folder.display();
    let who = match access.map(Path::display) {
        Some(access) => format!(
            "allow_anonymous false\npassword_file {access}/passwords\nacl_file {access}/acl"
        ),
        None => "allow_anonymous true".to_owned(),
    };
    let text = format!(
        "listener {port} 127.0.0.1\n{who}\nuser root\npersistence true\n\
         persistence_location {folder}/\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_dest stderr\n"
    );
    fs::write(path, text)
}
