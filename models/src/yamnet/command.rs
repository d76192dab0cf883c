//! `import-yamnet`, of the tools and of the station.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use super::accept::{Likeness, OTHER, SAME};
use super::download;
use crate::bundle::hex;
use crate::{durable, yamnet};

/// What to import.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A TFLite file of YAMNet v1, float32, float16 or int8, bare or in the .tar.gz it came in.
    #[arg(required_unless_present = "download")]
    file: Option<PathBuf>,
    /// Fetch it from where Google publishes it instead (16 MB).
    #[arg(long, conflicts_with = "file")]
    download: bool,
    /// Where to write the imported network. Default: $ECOSIGHT_YAMNET, else the user's data folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Reads or fetches a YAMNet, converts it, makes sure that it hears like the published one, and writes it to
/// `place` unless the arguments name another.
///
/// # Errors
/// The file cannot be read or is no YAMNet v1, with the remedy in the text; or the place cannot be
/// written.
pub fn run(arguments: &Arguments, place: PathBuf) -> anyhow::Result<ExitCode> {
    let (source, bytes) = match &arguments.file {
        Some(path) => (path.display().to_string(), read(path)?),
        None => ("the published YAMNet v1".to_owned(), fetch()?),
    };
    let source_sha256 = hex(&Sha256::digest(&bytes));
    let network = yamnet::read_tflite(&bytes).with_context(|| source.clone())?;
    let onnx = yamnet::to_onnx(&network, &source_sha256);
    let likeness = Likeness::measure(&onnx)
        .map_err(anyhow::Error::msg)
        .context("the imported network does not run")?;
    judge(&likeness, &source)?;
    let out = arguments.out.clone().unwrap_or(place);
    durable::write_file(&out, &onnx).with_context(|| {
        format!("can't write {}; name another place with --out FILE", out.display())
    })?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "imported  {source}")?;
    writeln!(stdout, "  SHA-256 {source_sha256}")?;
    writeln!(stdout, "  golden  embedding cosine {:.5} at least", likeness.lowest())?;
    writeln!(stdout, "wrote     {}", out.display())?;
    writeln!(stdout, "  SHA-256 {}", hex(&Sha256::digest(&onnx)))?;
    if !yamnet::candidates().contains(&out) {
        writeln!(
            stdout,
            "  Programs look for it elsewhere: set {}={}",
            yamnet::ENV,
            out.display()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses another network, and warns of one that is not quite the same.
fn judge(likeness: &Likeness, source: &str) -> anyhow::Result<()> {
    let lowest = likeness.lowest();
    let shown = likeness
        .cosines
        .iter()
        .map(|(sound, cosine)| format!("{} {cosine:.3}", sound.name()))
        .collect::<Vec<_>>()
        .join(", ");
    if lowest < OTHER {
        bail!(
            "{source}: built like YAMNet v1, but it does not hear like it (embedding cosines {shown}; \
             at least {OTHER} is needed): its weights are another network's, and heads made for \
             YAMNet v1 do not fit it; run `ecosight-models import-yamnet --download`"
        );
    }
    if lowest < SAME {
        eprintln!(
            "warning: {source}: hears a little unlike YAMNet v1 (embedding cosines {shown}; {SAME} is \
             usual): scores may differ from the published ones. \
             `ecosight-models import-yamnet --download` gets the original."
        );
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = yamnet::MAX_FILE_BYTES;
    let named = || path.display().to_string();
    let file = File::open(path).with_context(named)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).with_context(named)?;
    if bytes.len() as u64 > limit {
        bail!("{}: more than {limit} bytes: no YAMNet is that large", path.display());
    }
    yamnet::unpack(bytes).with_context(named)
}

fn fetch() -> anyhow::Result<Vec<u8>> {
    // Fails only if a provider is set already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fetched = download::download(&download::ADDRESSES, download::PUBLISHED_SHA256, |line| {
        eprintln!("{line}");
    });
    Ok(runtime.block_on(fetched)?)
}
