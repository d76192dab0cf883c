//! `ecosight-models release`: keys, and the signing of bundles for stations. Everything here works
//! without a network, on the machine that has the key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use ecosight_models::bundle::hex;
use ecosight_models::release::{self, Terms};
use ecosight_models::{Bundle, durable};
use ecosight_shared::release::{
    Manifest, PublicKey, ReleaseRef, SecretKey, SignedManifest, parse_version, peek,
};
use ecosight_shared::{DeviceId, Slug};
use rand::TryRng as _;

/// Name of a key file in a folder that was named.
const KEY_FILE: &str = "release.key";
/// Bits that let others than the owner read or write.
const OTHERS: u32 = 0o077;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key to sign with; prints the public key that servers and stations are to trust.
    Keygen(KeygenArguments),
    /// Sign a bundle for stations: writes one file, to be imported at the server.
    Sign(SignArguments),
    /// Say whether a trusted key signed a release and whether it is whole.
    Verify(VerifyArguments),
    /// Say what a release claims to be, without asking who signed it.
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// The file to write the secret key to, or a folder for it. Nothing is overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SignArguments {
    /// The bundle: a directory with manifest.json.
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// A secret key as `release keygen` made it; once more for the next one as well.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// The version that is meant: a bundle of another one is not signed.
    #[arg(long = "version", value_name = "VERSION")]
    wanted: Option<String>,
    /// Must be higher than that of every release before; stations never go back.
    #[arg(long, value_name = "N")]
    counter: u64,
    /// After this no station installs it: 2027-01-31, or 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: i64,
    /// Only for this station (its UUID); once more for others.
    #[arg(long, value_name = "ID")]
    device: Vec<DeviceId>,
    /// Only for the stations of this site.
    #[arg(long, value_name = "SITE")]
    site: Option<Slug>,
    /// A way back from exactly this release, which is its file or NAME:VERSION:COUNTER. Stations that
    /// run it take this one in spite of a lower counter.
    #[arg(long, value_name = "RELEASE")]
    replaces: Option<String>,
    /// Oldest agent that can run it.
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    minimum_agent: String,
    /// The file to write. Nothing is overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The release.
    file: PathBuf,
    /// A public key as `release keygen` prints it; once more for others.
    #[arg(long, value_name = "KEY", required = true)]
    trusted: Vec<PublicKey>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The release.
    file: PathBuf,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Keygen(arguments) => keygen(&arguments.out),
        Command::Sign(arguments) => sign(arguments),
        Command::Verify(arguments) => verify(arguments),
        Command::Show(arguments) => show(&arguments.file),
    }
}

fn keygen(out: &Path) -> Result<ExitCode> {
    let path = if out.is_dir() { out.join(KEY_FILE) } else { out.to_owned() };
    let mut seed = [0; 32];
    rand::rngs::SysRng.try_fill_bytes(&mut seed).context("the system gives no random numbers")?;
    let key = SecretKey::from_seed(&seed);
    write_secret(&path, &key.to_text())?;
    writeln!(io::stdout().lock(), "{}", key.public())?;
    eprintln!(
        "{}: the secret key; keep it off servers and stations, with a copy in another place.\n\
         The line above is the public key: it belongs into releases.trusted_keys of the server and \
         update.trusted_keys of every station.",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Never over another file: whoever loses the key of a fleet has to visit every station.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{} is there already and is not overwritten", path.display())
        }
        _ => anyhow::Error::new(error).context(format!("cannot write {}", path.display())),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| durable::sync_folder_of(path));
    if written.is_err() {
        // Half a key is none.
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn read_secret(path: &Path) -> Result<SecretKey> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", name()))?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    ensure!(
        mode & OTHERS == 0,
        "{}: other users may read this key; chmod 600 it, and make another if one might have",
        name()
    );
    SecretKey::from_text(&text).with_context(name)
}

fn sign(arguments: &SignArguments) -> Result<ExitCode> {
    let keys = arguments.key.iter().map(|path| read_secret(path)).collect::<Result<Vec<_>>>()?;
    let ids: Vec<_> = keys.iter().map(|key| key.public().id()).collect();
    for (place, id) in ids.iter().enumerate() {
        ensure!(!ids[..place].contains(id), "the key {id} is named twice");
    }
    let bundle = Bundle::open(&arguments.bundle)?;
    if let Some(wanted) = &arguments.wanted {
        let version = &bundle.version;
        ensure!(
            wanted == version,
            "{} has version {version}, not {wanted}",
            arguments.bundle.display()
        );
    }
    ensure!(arguments.expires > now_unix_s(), "--expires: that time is over");
    ensure!(
        parse_version(&arguments.minimum_agent).is_some(),
        "--minimum-agent: expected a version such as 0.1.0"
    );
    let replaces = arguments.replaces.as_deref().map(replaced).transpose()?;
    let terms = Terms {
        counter: arguments.counter,
        minimum_agent: arguments.minimum_agent.clone(),
        expires_unix_s: arguments.expires,
        devices: arguments.device.clone(),
        site: arguments.site.clone(),
        replaces,
    };
    let keys: Vec<&SecretKey> = keys.iter().collect();
    let signed = release::sign(&arguments.bundle, &terms, &keys, &arguments.out)?;
    let mut out = io::stdout().lock();
    print(&mut out, &signed, &peek(&signed)?)?;
    writeln!(out, "wrote      {}", arguments.out.display())?;
    Ok(ExitCode::SUCCESS)
}

/// A release by its file, or by its name, version and counter.
fn replaced(text: &str) -> Result<ReleaseRef> {
    let path = Path::new(text);
    if path.is_file() {
        return Ok(peek(&release::head(path)?)?.reference());
    }
    let mut parts = text.split(':');
    let (Some(name), Some(version), Some(counter), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("--replaces {text}: there is no such file, and it is no NAME:VERSION:COUNTER");
    };
    let counter = counter.parse().context("--replaces: the counter")?;
    Ok(ReleaseRef { name: name.into(), version: version.into(), counter })
}

fn verify(arguments: &VerifyArguments) -> Result<ExitCode> {
    let verified = release::check(&arguments.file, &arguments.trusted)?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}: whole, and signed by the trusted key {}",
        verified.manifest.title(),
        verified.key
    )?;
    if verified.manifest.expires_unix_s <= now_unix_s() {
        writeln!(out, "its time is over: no station installs it any more")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(file: &Path) -> Result<ExitCode> {
    let signed = release::head(file)?;
    let manifest = peek(&signed)?;
    let mut out = io::stdout().lock();
    print(&mut out, &signed, &manifest)?;
    for file in &manifest.files {
        writeln!(out, "  {:<20} {:>10} bytes  {}", file.path, file.bytes, hex(&file.sha256))?;
    }
    writeln!(out, "nobody has looked at the signatures: `release verify` does")?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, signed: &SignedManifest, manifest: &Manifest) -> io::Result<()> {
    let expires = jiff::Timestamp::from_second(manifest.expires_unix_s);
    let listed = |texts: Vec<String>| {
        if texts.is_empty() { "any".to_owned() } else { texts.join(", ") }
    };
    writeln!(out, "release    {}, counter {}", manifest.title(), manifest.counter)?;
    writeln!(out, "identity   {}", hex(&signed.id()))?;
    writeln!(out, "expires    {}", expires.map_or_else(|e| e.to_string(), |t| t.to_string()))?;
    writeln!(out, "agent      {} or newer", manifest.minimum_agent)?;
    writeln!(
        out,
        "stations   {}",
        listed(manifest.devices.iter().map(ToString::to_string).collect())
    )?;
    writeln!(
        out,
        "site       {}",
        listed(manifest.site.iter().map(ToString::to_string).collect())
    )?;
    if let Some(ReleaseRef { name, version, counter }) = &manifest.replaces {
        writeln!(out, "way back   from {name}-{version}, counter {counter}")?;
    }
    let keys = signed.signatures.iter().map(|signature| signature.key.to_string()).collect();
    writeln!(out, "signed by  {}", listed(keys))?;
    writeln!(out, "size       {} bytes in {} files", manifest.total_bytes(), manifest.files.len())
}

/// A day, of which the end is meant, or a moment.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_second());
    }
    let day = text.parse::<jiff::civil::Date>();
    let day = day.map_err(|_| format!("{text:?} is no day such as 2027-01-31, nor a time"))?;
    let end = jiff::tz::TimeZone::UTC.to_timestamp(day.at(23, 59, 59, 0));
    Ok(end.map_err(|error| error.to_string())?.as_second())
}

#[allow(clippy::disallowed_methods, reason = "the clock of whoever signs")]
fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
