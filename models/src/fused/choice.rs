//! Which kernels run: chosen once, when a network is loaded.

use std::fmt;
use std::str::FromStr;

use super::kernels::Kernels;

/// Environment variable that overrides the choice: a name as [`KernelChoice`] takes it.
pub const KERNELS_ENV: &str = "ECOSIGHT_KERNELS";

/// How the convolutions of a network run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// What the environment variable [`KERNELS_ENV`] says; without it the quickest that this
    /// processor has. On processors other than x86-64 that is tract's own, whose kernels for Arm
    /// are hand-written.
    #[default]
    Automatic,
    /// tract's own operators, nothing fused.
    Tract,
    /// Fused layers in plain Rust.
    Portable,
    /// Fused layers with AVX2 and FMA.
    Avx2,
    /// Fused layers with AVX-512F.
    Avx512,
}

/// A name or a processor that does not fit. The caller reports it and stops.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnknownKernels {
    /// There are no such kernels.
    #[error("`{0}` names no kernels: {KERNELS_ENV} may be auto, tract, portable, avx2 or avx512")]
    Name(String),
    /// The processor lacks the instructions.
    #[error("this processor can't run the kernels `{0}`: set {KERNELS_ENV} to auto")]
    Processor(KernelChoice),
}

impl KernelChoice {
    /// All of them.
    const ALL: [Self; 5] = [Self::Automatic, Self::Tract, Self::Portable, Self::Avx2, Self::Avx512];

    fn name(self) -> &'static str {
        match self {
            Self::Automatic => "auto",
            Self::Tract => "tract",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// What will run here, by the name that the configuration uses.
    ///
    /// # Errors
    /// [`UnknownKernels`] if the environment variable or this processor does not fit.
    pub fn resolved(self) -> Result<&'static str, UnknownKernels> {
        Ok(self.kernels()?.map_or(Self::Tract.name(), Kernels::name))
    }

    /// The kernels; `None` is tract's own.
    pub(crate) fn kernels(self) -> Result<Option<Kernels>, UnknownKernels> {
        let wanted = match self {
            Self::Automatic => match std::env::var(KERNELS_ENV) {
                Ok(name) => name.parse()?,
                Err(std::env::VarError::NotPresent) => Self::Automatic,
                Err(std::env::VarError::NotUnicode(name)) => {
                    return Err(UnknownKernels::Name(name.display().to_string()));
                }
            },
            chosen => chosen,
        };
        let available = Kernels::available();
        match wanted {
            Self::Tract => Ok(None),
            Self::Automatic if cfg!(target_arch = "x86_64") => Ok(available.first().copied()),
            Self::Automatic => Ok(None),
            named => {
                let found = available.into_iter().find(|kernels| kernels.name() == named.name());
                found.map(Some).ok_or(UnknownKernels::Processor(named))
            }
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for KernelChoice {
    type Err = UnknownKernels;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| UnknownKernels::Name(name.to_owned()))
    }
}
