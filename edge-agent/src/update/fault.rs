//! Why a release is not installed, or does not stay.

use std::time::Duration;

use ecosight_shared::release::Refusal;

/// A reason. The station keeps or takes back the model before, and reports word and sentence.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// What was signed is not for this station, now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The message itself cannot be read.
    #[error("the wish cannot be read: {0}")]
    Unreadable(String),
    /// There is nowhere to fetch files from.
    #[error("cloud.url is not set, so that the station has nowhere to fetch files from")]
    NoServer,
    /// The disk is too full.
    #[error(
        "the disk has {free_mb} MB free, and {needed_mb} MB are needed with the reserve: make room, or \
         lower storage.reserve"
    )]
    NoSpace {
        /// Free, MB.
        free_mb: u64,
        /// Needed, MB.
        needed_mb: u64,
    },
    /// The disk refuses.
    #[error("the disk refuses: {0}")]
    Disk(String),
    /// The server does not hand it out.
    #[error("the server does not hand the files out: {0}")]
    NotServed(String),
    /// It did not come in time.
    #[error("the files did not come within {} h", limit.as_secs() / 3_600)]
    TooSlow {
        /// The time that was allowed.
        limit: Duration,
    },
    /// The server sends more than is signed.
    #[error("the server sends more of {file} than the {bytes} bytes that are signed")]
    TooLong {
        /// The file.
        file: String,
        /// Its length as it is signed.
        bytes: u64,
    },
    /// What came has another hash, again and again.
    #[error("{file} does not have the SHA-256 that is signed")]
    BadHash {
        /// The file.
        file: String,
    },
    /// The files are not one bundle, or not the one whose classes are signed.
    #[error("the files are not the bundle that is signed: {0}")]
    Mixed(String),
    /// It needs YAMNet, and there is none.
    #[error("the model needs YAMNet, which this station does not have: {0}")]
    NeedsYamnet(String),
    /// It cannot be loaded.
    #[error("the model cannot be loaded: {0}")]
    NotLoaded(String),
    /// The operator's thresholds do not fit it.
    #[error("{0}")]
    Thresholds(String),
    /// The process that loaded it was ended: by a limit, or by itself.
    #[error("the process that tried to load the model ended with {0}")]
    Crashed(String),
    /// It did not load and say its golden sounds in time.
    #[error("the model did not load and say its golden sounds within {} s", limit.as_secs())]
    Hangs {
        /// The time that was allowed.
        limit: Duration,
    },
    /// There is nothing to prove it by.
    #[error("the bundle has no golden sounds to prove it by")]
    NoGolden,
    /// It does not say here what it said where it was made.
    #[error("the golden sounds score {off:.3} off what the bundle states, and {allowed} may be")]
    Golden {
        /// Largest difference.
        off: f32,
        /// Largest that is allowed.
        allowed: f32,
    },
    /// It could not keep up.
    #[error("the model takes {took_ms} ms a window, and {allowed_ms} may be")]
    TooSlowModel {
        /// What it takes.
        took_ms: u64,
        /// What it may.
        allowed_ms: u64,
    },
    /// It was told to stop.
    #[error("the wish was taken back")]
    Withdrawn,
    /// It failed on windows while it was tried.
    #[error("the model failed on {failed} of {windows} windows while it was tried: {problem}")]
    Fails {
        /// Windows that it failed on.
        failed: u64,
        /// Windows that were tried.
        windows: u64,
        /// What it said last.
        problem: String,
    },
    /// It does not keep up with the sound while it is tried.
    #[error("the model fell {0} s behind the sound while it was tried")]
    FallsBehind(u64),
    /// It raises far more events than the model in use.
    #[error("on trial the model raised {new} events where the model in use raised {old}")]
    Floods {
        /// Of the model in use.
        old: u64,
        /// Of the one that is tried.
        new: u64,
    },
    /// The station ends again and again with it.
    #[error("the station was started {0} times with the model and never ran for long")]
    Unstable(u32),
    /// What lies in the slot cannot be loaded any more.
    #[error("the installed model cannot be loaded any more: {0}")]
    Unloadable(String),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

impl Fault {
    /// A word for programs; these never change.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Unreadable(_) => "malformed",
            Self::NoServer => "no_server",
            Self::NoSpace { .. } => "no_space",
            Self::Disk(_) => "disk",
            Self::NotServed(_) => "not_served",
            Self::TooSlow { .. } => "too_slow",
            Self::TooLong { .. } => "too_long",
            Self::BadHash { .. } => "bad_hash",
            Self::Mixed(_) => "mixed",
            Self::NeedsYamnet(_) => "needs_yamnet",
            Self::NotLoaded(_) => "not_loaded",
            Self::Thresholds(_) => "thresholds",
            Self::Crashed(_) => "crashed",
            Self::Hangs { .. } => "hangs",
            Self::NoGolden => "no_golden",
            Self::Golden { .. } => "golden_clips",
            Self::TooSlowModel { .. } => "slow_model",
            Self::Withdrawn => "withdrawn",
            Self::Fails { .. } => "fails",
            Self::FallsBehind(_) => "falls_behind",
            Self::Floods { .. } => "floods",
            Self::Unstable(_) => "unstable",
            Self::Unloadable(_) => "unloadable",
        }
    }

    /// Whether it lies with the bundle itself: then another attempt here would end the same.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(
            self,
            Self::Mixed(_)
                | Self::NotLoaded(_)
                | Self::Crashed(_)
                | Self::Hangs { .. }
                | Self::NoGolden
                | Self::Golden { .. }
                | Self::TooSlowModel { .. }
                | Self::Fails { .. }
                | Self::FallsBehind(_)
                | Self::Floods { .. }
                | Self::Unstable(_)
        )
    }
}
