//! Path: window → **backbone** → features
//!
//! The imported network, running: log-mel patches in, inner exits, embedding and scores out.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::bytes::Buf;

use super::export::{ARCHITECTURE_KEY, SOURCE_KEY};
use super::network::{CLASSES, EMBEDDING_LEN, INNER_CHANNELS};
use super::place;
use crate::fused::{KernelChoice, LayerTime, Machine, UnknownKernels};
use crate::logmel::{BANDS, PATCH_FRAMES};
use crate::network_plan::Plan;
use crate::onnx;

/// What the network gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Layer 12: 512 means, then 512 maxima over time and frequency.
    L12,
    /// Layer 14: 512 means, then 512 maxima over time and frequency.
    L14,
    /// Mean of the last layer.
    Embedding,
    /// Scores of the AudioSet classes.
    Scores,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::L12, Self::L14, Self::Embedding, Self::Scores];

    /// Name of the graph's output.
    #[must_use]
    pub fn output(self) -> &'static str {
        match self {
            Self::L12 => "l12",
            Self::L14 => "l14",
            Self::Embedding => "embedding",
            Self::Scores => "scores",
        }
    }

    /// Numbers per window.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::L12 | Self::L14 => 2 * INNER_CHANNELS,
            Self::Embedding => EMBEDDING_LEN,
            Self::Scores => CLASSES,
        }
    }

    /// The exit behind the stream `name`, such as `yamnet.l14`.
    #[must_use]
    pub fn of_stream(name: &str) -> Option<Self> {
        let output = name.strip_prefix("yamnet.")?;
        Self::ALL.into_iter().find(|exit| exit.output() == output)
    }
}

/// Numbers in one input patch.
pub const PATCH_LEN: usize = PATCH_FRAMES * BANDS;

/// Largest file that is taken for an imported network.
const MAX_FILE_BYTES: usize = 64 << 20;

/// Why the network can't be used. The caller reports it and stops: without the network no window
/// can be judged.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// No file in any of the usual places.
    #[error(
        "YAMNet is not imported yet: none of {} is there; run `ecosight-models import-yamnet \
         --download`, or with a TFLite file of YAMNet v1 at hand `ecosight-models import-yamnet FILE`",
        shown(places)
    )]
    Missing {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// The file can't be read.
    #[error(
        "{}: {source}; import YAMNet again with `ecosight-models import-yamnet`, or name the imported \
         file",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what the importer writes.
    #[error(
        "{}: {what}; import YAMNet again with `ecosight-models import-yamnet`",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The kernels that were asked for can't run here.
    #[error(transparent)]
    Kernels(#[from] UnknownKernels),
}

fn shown(places: &[PathBuf]) -> String {
    places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The network did not run; the text is tract's. The caller counts the window as lost.
#[derive(Debug, thiserror::Error)]
#[error("YAMNet failed on a window: {0}")]
pub struct BackboneRunError(pub(crate) String);

/// The network, ready to run. Clones share one plan; any thread may use it.
#[derive(Clone)]
pub struct Backbone {
    exits: Vec<Exit>,
    plan: Plan,
    source_sha256: String,
}

/// Windows that run at once where they come in bulk.
pub const BATCH: usize = 8;

impl Backbone {
    /// Loads the network for the exits `wanted`, none computed in vain.
    ///
    /// `path`: the imported file; `None`: the first of the usual places that has one.
    /// `batching`: prepare for [`BATCH`] windows at once as well. Fused layers share one copy of
    /// their weights; tract's own operators keep a second one for it, about 20 MB.
    ///
    /// # Errors
    /// [`BackboneError`], which says how to import it.
    pub fn load(
        path: Option<&Path>,
        wanted: &[Exit],
        batching: bool,
    ) -> Result<Self, BackboneError> {
        Self::load_with(path, wanted, batching, KernelChoice::Automatic)
    }

    /// [`Self::load`] with a choice of what the convolutions run on.
    ///
    /// # Errors
    /// As [`Self::load`]; [`BackboneError::Kernels`] if this processor can't run what is chosen.
    pub fn load_with(
        path: Option<&Path>,
        wanted: &[Exit],
        batching: bool,
        kernels: KernelChoice,
    ) -> Result<Self, BackboneError> {
        kernels.kernels()?;
        let path = match path {
            Some(path) => path.to_owned(),
            None => place::find()?,
        };
        let pieces = read(&path)?;
        Self::from_onnx(pieces, wanted, batching, kernels)
            .map_err(|what| BackboneError::Unusable { path, what })
    }

    /// The same from the bytes of an imported file; the error says what is wrong with them.
    pub(crate) fn from_onnx(
        file: impl Buf,
        wanted: &[Exit],
        batching: bool,
        kernels: KernelChoice,
    ) -> Result<Self, String> {
        let mut model = onnx::decode_checked(file).map_err(|error| error.to_string())?;
        if onnx::metadata(&model, ARCHITECTURE_KEY) != Some(super::ARCHITECTURE) {
            return Err(format!(
                "this ONNX file was not written by `ecosight-models import-yamnet` (no {})",
                super::ARCHITECTURE
            ));
        }
        let source_sha256 = onnx::metadata(&model, SOURCE_KEY).unwrap_or_default().to_owned();
        let names: Vec<&str> = wanted.iter().map(|exit| exit.output()).collect();
        onnx::prune(&mut model, &names).map_err(|error| error.to_string())?;
        let kernels = kernels.kernels().map_err(|error| error.to_string())?;
        let batch = if batching { BATCH } else { 1 };
        let plan = Plan::prepare(model, &[1, PATCH_FRAMES, BANDS], batch, kernels)
            .map_err(|error| format!("tract refuses the network: {error}"))?;
        Ok(Self { exits: wanted.to_vec(), plan, source_sha256 })
    }

    /// What comes out of [`Self::run`], in that order.
    #[must_use]
    pub fn exits(&self) -> &[Exit] {
        &self.exits
    }

    /// What the machine can do on one thread, and how long each fused layer takes with `windows` at
    /// once (`None` if nothing is fused): for benchmarks.
    #[must_use]
    pub fn roofline(&self, windows: usize, rounds: usize) -> Option<(Machine, Vec<LayerTime>)> {
        self.plan.roofline(windows, rounds)
    }

    /// SHA-256, hex, of the file that was imported.
    #[must_use]
    pub fn source_sha256(&self) -> &str {
        &self.source_sha256
    }

    /// Runs the network on patches of [`PATCH_LEN`] numbers each (96 frames of 64 log-mel bands).
    /// Per patch, in order: the exits' numbers, one after the other.
    ///
    /// # Errors
    /// [`BackboneRunError`] if tract fails, or if a patch has another length.
    pub fn run(&self, patches: &[&[f32]]) -> Result<Vec<Vec<f32>>, BackboneRunError> {
        if let Some(bad) = patches.iter().find(|patch| patch.len() != PATCH_LEN) {
            return Err(BackboneRunError(format!(
                "a patch has {} numbers, expected {PATCH_LEN}",
                bad.len()
            )));
        }
        let mut results = Vec::with_capacity(patches.len());
        let mut rest = patches;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.plan.at_once(rest.len()));
            self.run_at_once(now, &mut results)?;
            rest = later;
        }
        Ok(results)
    }

    fn run_at_once(
        &self,
        patches: &[&[f32]],
        results: &mut Vec<Vec<f32>>,
    ) -> Result<(), BackboneRunError> {
        let batch = patches.len();
        let outputs = self
            .plan
            .run(&patches.concat())
            .map_err(|error| BackboneRunError(error.to_string()))?;
        let whole =
            self.exits.iter().zip(&outputs).all(|(exit, out)| out.len() == batch * exit.width());
        if !whole || outputs.len() != self.exits.len() {
            return Err(BackboneRunError("an output has an unexpected length".to_owned()));
        }
        for i in 0..batch {
            let mut numbers = Vec::with_capacity(self.exits.iter().map(|exit| exit.width()).sum());
            for (exit, output) in self.exits.iter().zip(&outputs) {
                numbers.extend_from_slice(&output[i * exit.width()..(i + 1) * exit.width()]);
            }
            results.push(numbers);
        }
        Ok(())
    }
}

/// The file in pieces.
///
/// One allocation of its whole size would teach the C library's allocator, once freed, to keep twice
/// as much for later: 30 MB that a small station would never get back.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first piece is done with.
    done: usize,
    remaining: usize,
}

/// Length of a piece.
const PIECE: usize = 256 << 10;

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[self.done..])
    }

    fn advance(&mut self, count: usize) {
        self.done += count;
        self.remaining -= count;
        while let Some(piece) = self.pieces.front()
            && self.done >= piece.len()
        {
            self.done -= piece.len();
            self.pieces.pop_front();
        }
    }
}

fn read(path: &Path) -> Result<Pieces, BackboneError> {
    let wrap = |source| BackboneError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(wrap)?;
    let mut content = Pieces::default();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut file).take(PIECE as u64).read_to_end(&mut piece).map_err(wrap)?;
        if piece.is_empty() {
            return Ok(content);
        }
        content.remaining += piece.len();
        content.pieces.push_back(piece);
        if content.remaining > MAX_FILE_BYTES {
            return Err(BackboneError::Unusable {
                path: path.to_owned(),
                what: format!("more than {MAX_FILE_BYTES} bytes"),
            });
        }
    }
}
