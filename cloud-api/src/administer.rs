//! What the operator does beside serving: accounts, keys, Mosquitto's files, exports.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ecosight_models::{durable, one_line};
use ecosight_shared::DeviceId;

use crate::access::{Passwords, Role, Secret, Topics, mosquitto_hash};
use crate::chance::Chance;
use crate::cli::{self, ReleasesCommand, RolloutsCommand};
use crate::clips::Clips;
use crate::clock::{Clock, parse_rfc3339, rfc3339};
use crate::config::Config;
use crate::export::{self, ExportError, ExportFormat, Sink};
use crate::log;
use crate::rollout::{Input, Rollouts};
use crate::server::{data_dir, open_releases, open_store};
use crate::store::{CredentialRow, Deed, EventFilter, NewKey, NewUser, Store, Verdict};

/// Who the audit log says did it.
const ACTOR: &str = "operator";
/// Lines of a list.
const LISTED: i64 = 200;
/// A station that has just been enrolled waits so long for the broker to know it.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn store(config: &Config) -> Result<Store> {
    open_store(config, &data_dir(config)?).await
}

pub(crate) async fn note(
    store: &Store,
    action: &'static str,
    target: String,
    detail: String,
) -> Result<()> {
    let (at_us, actor) = (Clock::system().now_us(), ACTOR.to_owned());
    Ok(store.log_deed(Deed { at_us, actor, action, target, detail }).await?)
}

/// Makes an administrator and prints the password, if it was not given.
///
/// # Errors
/// If the name is taken, the password cannot be used, or the database cannot be written.
pub async fn create_admin(config: &Config, options: &cli::CreateAdmin) -> Result<()> {
    let (chance, clock) = (Chance::system(), Clock::system());
    let name = crate::samples::checked_name("name", &options.name)?;
    let made = if options.stdin { None } else { Some(Secret::code(&chance)) };
    let password = match &made {
        Some(made) => made.reveal().to_owned(),
        None => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).context("cannot read the password")?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    let hashed = Passwords::default().hash(&password, &chance).await;
    let password = hashed.map_err(anyhow::Error::msg)?;
    let store = store(config).await?;
    let (id, now_us) = (chance.id(&clock), clock.now_us());
    let user = NewUser { id, name: name.clone(), password, role: Role::Admin, sites: None, now_us };
    if store.create_user(user).await?.is_none() {
        bail!("there is a user {name} already");
    }
    note(&store, "user.create", format!("user:{name}"), Role::Admin.name().into()).await?;
    store.close().await;
    match made {
        Some(made) => log::print(&format!("{}\n", made.reveal())),
        None => Ok(()),
    }
}

/// Makes a key and prints its secret.
///
/// # Errors
/// If the database cannot be written.
pub async fn create_api_key(config: &Config, options: &cli::CreateApiKey) -> Result<()> {
    let (chance, clock) = (Chance::system(), Clock::system());
    let secret = Secret::key(&chance);
    let name = crate::samples::checked_name("name", &options.name)?;
    let key = NewKey {
        id: chance.id(&clock),
        name: name.clone(),
        secret_sha256: secret.hashed(),
        role: options.role,
        sites: (!options.sites.is_empty()).then(|| options.sites.clone()),
        created_by: ACTOR.into(),
        expires_us: None,
        now_us: clock.now_us(),
    };
    let store = store(config).await?;
    store.create_key(key).await?;
    note(&store, "key.create", format!("key:{name}"), options.role.name().into()).await?;
    store.close().await;
    log::print(&format!("{}\n", secret.reveal()))
}

/// Writes Mosquitto's password and ACL files, and goes on doing so if asked to.
///
/// # Errors
/// If the database cannot be read, the folder cannot be written, or the command fails; once it follows,
/// that is logged and tried again.
pub async fn mosquitto_acl(config: &Config, options: &cli::MosquittoAcl) -> Result<()> {
    let store = store(config).await?;
    let server = match &options.server_password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let secret = Secret::given(text.trim_end_matches(['\r', '\n']));
            Some(mosquitto_hash(&secret, Chance::system().bytes()))
        }
        None => None,
    };
    let mut written = None;
    let stations = write_access(&store, options, server.as_deref(), &mut written).await?;
    log::print(&hint(&options.out, stations))?;
    if options.follow {
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let followed = write_access(&store, options, server.as_deref(), &mut written).await;
            if let Err(error) = followed {
                tracing::warn!(
                    "the broker's files are not up to date, trying again: {}",
                    one_line(&*error)
                );
            }
        }
    }
    store.close().await;
    Ok(())
}

/// Writes the files if they are not as `written` says; gives how many stations they name.
async fn write_access(
    store: &Store,
    options: &cli::MosquittoAcl,
    server: Option<&str>,
    written: &mut Option<(String, String)>,
) -> Result<usize> {
    let stations = store.credentials().await?;
    let files = mosquitto_files(&options.server_user, server, &stations);
    if written.as_ref() == Some(&files) {
        return Ok(stations.len());
    }
    for (name, text) in [("passwords", &files.0), ("acl", &files.1)] {
        let path = options.out.join(name);
        durable::write_file(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(command) = &options.then {
        let ended = tokio::process::Command::new("sh").args(["-c", command]).status().await;
        let ended = ended.with_context(|| format!("cannot run {command:?}"))?;
        if !ended.success() {
            bail!("{command:?}: {ended}");
        }
    }
    *written = Some(files);
    Ok(stations.len())
}

fn hint(out: &Path, stations: usize) -> String {
    let out = out.display();
    format!(
        "{stations} stations. In mosquitto.conf:\n  allow_anonymous false\n  \
         password_file {out}/passwords\n  acl_file {out}/acl\n  max_inflight_messages 0\n\
         Then: kill -HUP of Mosquitto, now and after every enrolment or retirement; or \
         leave that to --follow and --then.\n"
    )
}

/// Passwords and ACL: a station reaches its own subtree only, the server everything.
fn mosquitto_files(
    server_user: &str,
    server_hash: Option<&str>,
    stations: &[CredentialRow],
) -> (String, String) {
    let mut passwords = String::new();
    if let Some(hash) = server_hash {
        let _ = writeln!(passwords, "{server_user}:{hash}");
    }
    let mut acl = format!("user {server_user}\ntopic readwrite ecosight/v1/#\n");
    for station in stations {
        let _ = writeln!(passwords, "{}:{}", station.device_id, station.mqtt_hash);
        let device = DeviceId(station.device_id);
        let site = station.site_id.as_str();
        let _ = write!(acl, "\nuser {}\n", station.device_id);
        let Topics { write, read } = Topics::of_station(site, device);
        for topic in write {
            let _ = writeln!(acl, "topic write {topic}");
        }
        for topic in read {
            let _ = writeln!(acl, "topic read {topic}");
        }
    }
    (passwords, acl)
}

/// Takes in a release, or lists those that are here.
///
/// # Errors
/// If the release is refused, or the database or the data directory cannot be used.
pub async fn releases(config: &Config, what: &ReleasesCommand) -> Result<()> {
    let data_dir = data_dir(config)?;
    let store = open_store(config, &data_dir).await?;
    let mut text = String::new();
    match what {
        ReleasesCommand::Import { file } => {
            let (clock, chance) = (Clock::system(), Chance::system());
            let releases = open_releases(config, &data_dir, &store, &clock, &chance)?;
            let taken = releases.import(file, ACTOR).await;
            let (row, is_new) = taken.with_context(|| format!("cannot take {}", file.display()))?;
            if is_new {
                let detail = format!("{}, counter {}", row.title(), row.counter);
                note(&store, "release.take", row.id.to_string(), detail).await?;
            }
            let _ = writeln!(text, "{}", row.id);
        }
        ReleasesCommand::List => {
            for row in store.releases(None, LISTED).await? {
                let (title, expires) = (row.title(), rfc3339(row.expires_us));
                let _ = writeln!(text, "{}  {title}  {}  {expires}", row.id, row.counter);
            }
        }
    }
    store.close().await;
    log::print(&text)
}

/// Lists rollouts, or steers one.
///
/// # Errors
/// If there is no such rollout, it cannot be what is wanted, or the database cannot be used.
pub async fn rollouts(config: &Config, what: RolloutsCommand) -> Result<()> {
    let store = store(config).await?;
    let wish = match what {
        RolloutsCommand::List => None,
        RolloutsCommand::Start { id } => Some((id, Input::Start)),
        RolloutsCommand::Pause { id } => Some((id, Input::Pause)),
        RolloutsCommand::Resume { id } => Some((id, Input::Resume)),
        RolloutsCommand::Halt { id, reason } => Some((id, Input::Halt(reason))),
        RolloutsCommand::Rollback { id, reason } => Some((id, Input::RollBack(reason))),
    };
    let rows = match wish {
        Some((id, input)) => {
            let rollouts = Rollouts::new(store.clone(), Clock::system(), Arc::default());
            vec![rollouts.act(id, &input, ACTOR).await?]
        }
        None => store.rollouts(None, LISTED).await?,
    };
    let mut text = String::new();
    for row in rows {
        let title = store.release(row.release_id).await?.map(|release| release.title());
        let (title, reason) = (title.unwrap_or_default(), row.reason.unwrap_or_default());
        let (state, cohort) = (&row.state, row.cohort + 1);
        let _ = writeln!(text, "{}  {title}  {state}  cohort {cohort}  {reason}", row.id);
    }
    store.close().await;
    log::print(&text)
}

/// Writes an export to standard output.
///
/// # Errors
/// If the database cannot be read, or nobody reads on.
pub async fn export(config: &Config, options: &cli::Export) -> Result<()> {
    if options.format == ExportFormat::Clips && std::io::stdout().is_terminal() {
        bail!("a ZIP file is nothing for a terminal; write it to a file, as in > clips.zip");
    }
    let verdict = match options.verdict.as_deref() {
        None => None,
        Some("none") => Some(None),
        Some(text) => {
            let verdict: Verdict =
                text.parse().map_err(|what| anyhow!("--verdict: {what}, or \"none\""))?;
            Some(Some(verdict))
        }
    };
    let time = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match parse_rfc3339(text) {
            Some(time) => Ok(Some(time)),
            None => bail!("{name}: {text:?} is no time such as 2026-03-01T18:00:00Z"),
        },
    };
    let filter = EventFilter {
        site: options.site.clone(),
        device: options.device,
        class: options.class.clone(),
        min_score: options.min_score,
        state: options.state.clone(),
        verdict,
        since_us: time("--since", &options.since)?,
        until_us: time("--until", &options.until)?,
        ..EventFilter::default()
    };
    let data_dir = data_dir(config)?;
    let store = open_store(config, &data_dir).await?;
    let clips = Clips::reading(data_dir.join("clips"), store.clone(), Clock::system());
    let count = export::write(&store, Some(&clips), options.format, filter, &mut Stdout).await?;
    store.close().await;
    tracing::info!(%count, format = %options.format, "exported");
    Ok(())
}

struct Stdout;

impl Sink for Stdout {
    async fn take(&mut self, part: Vec<u8>) -> Result<(), ExportError> {
        std::io::stdout().write_all(&part).map_err(|_| ExportError::Gone)
    }
}
