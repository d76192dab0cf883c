//! Where the imported network lies on this machine.

use std::path::PathBuf;

use super::backbone::BackboneError;

/// Variable that names the imported file.
pub const ENV: &str = "ECOSIGHT_YAMNET";
/// File name in a data folder.
const FILE: &str = "yamnet.onnx";
/// Where packages keep it, for all users.
const SYSTEM: &str = "/var/lib/ecosight/models/yamnet.onnx";

/// The places that are looked at, first to last: `$ECOSIGHT_YAMNET` alone if it is set, else the
/// user's data folder and then the system's.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set(ENV) {
        return vec![path.into()];
    }
    let user = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    user.map(|data| data.join("ecosight").join(FILE))
        .into_iter()
        .chain([PathBuf::from(SYSTEM)])
        .collect()
}

/// Whether somebody named the place: then it is that file or none.
#[must_use]
pub fn is_named() -> bool {
    std::env::var_os(ENV).is_some_and(|value| !value.is_empty())
}

/// Where an import goes if no place is named: the first candidate.
#[must_use]
pub fn default_path() -> PathBuf {
    candidates().into_iter().next().unwrap_or_else(|| PathBuf::from(SYSTEM))
}

/// Where it goes for all users of this machine, if no place is named.
#[must_use]
pub fn system_path() -> PathBuf {
    if is_named() { default_path() } else { PathBuf::from(SYSTEM) }
}

/// The first candidate that is there.
///
/// # Errors
/// [`BackboneError::Missing`], which says how to import it.
pub fn find() -> Result<PathBuf, BackboneError> {
    let places = candidates();
    match places.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(BackboneError::Missing { places }),
    }
}
