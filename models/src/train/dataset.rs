//! Path: manifest (CSV) → this → recordings with label and group
//!
//! A manifest needs the columns `path` and `label`. `group` (or `recording_id`) names what must
//! stay on one side of every split; `source` and `licence` go into the model card; how a clip was
//! recorded (`original_rate_hz`) and from how far (`distance_m`) into the tables of the evaluation.

use std::path::{Path, PathBuf};

/// One labelled clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clip {
    /// The sound file.
    pub path: PathBuf,
    /// Path as the manifest writes it: the clip's name in reports.
    pub name: String,
    /// Label of the data set, not yet a class.
    pub label: String,
    /// Clips of one group never part. Without a group column a clip is its own group.
    pub group: String,
    /// Where it comes from; empty when not stated.
    pub source: String,
    /// Terms of use as stated; empty when not stated.
    pub licence: String,
    /// Samples a second of the recorder; `None` when not stated. What the file has may be more.
    pub rate_hz: Option<u32>,
    /// Metres from what is heard to the recorder; `None` when not stated.
    pub distance_m: Option<f32>,
}

/// Why a manifest cannot be used. The caller reports it and stops before any work is done.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Unreadable, or not CSV.
    #[error("manifest {path}: {source}")]
    Csv {
        /// The manifest.
        path: PathBuf,
        /// Why, with the line.
        source: csv::Error,
    },
    /// A needed column is missing.
    #[error(
        "manifest {path} has no column {column:?}; needed are path and label, optional are group \
         (or recording_id), source, licence, original_rate_hz and distance_m"
    )]
    Column {
        /// The manifest.
        path: PathBuf,
        /// The missing column.
        column: &'static str,
    },
    /// A needed field is empty.
    #[error("manifest {path}, line {line}: {column} is empty")]
    Empty {
        /// The manifest.
        path: PathBuf,
        /// Line of the record, from 1.
        line: u64,
        /// The empty field.
        column: &'static str,
    },
    /// A field that holds a number holds something else.
    #[error("manifest {path}, line {line}: {column} is {text:?}, expected a number above 0")]
    Number {
        /// The manifest.
        path: PathBuf,
        /// Line of the record, from 1.
        line: u64,
        /// The field.
        column: &'static str,
        /// What it holds.
        text: String,
    },
    /// A file is listed twice: it could land on both sides of a split.
    #[error("manifest {path}, line {line}: {name} is listed a second time")]
    Twice {
        /// The manifest.
        path: PathBuf,
        /// Line of the second record.
        line: u64,
        /// The file.
        name: String,
    },
    /// Listed sound files are not there.
    #[error("{missing} of {listed} files of {manifest} are not below {audio}, the first: {first}")]
    Missing {
        /// The manifest.
        manifest: PathBuf,
        /// Where they were looked for.
        audio: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many are listed.
        listed: usize,
        /// The first one that is missing.
        first: String,
    },
    /// No record at all.
    #[error("manifest {0} lists no clip")]
    NoClip(PathBuf),
}

/// Reads a manifest whose paths are relative to `audio`, and checks that the files are there.
///
/// # Errors
/// See [`DatasetError`]; every variant names the manifest, and the line where there is one.
pub fn read_manifest(manifest: &Path, audio: &Path) -> Result<Vec<Clip>, DatasetError> {
    let clips = read_listed(manifest, audio)?;
    let missing: Vec<&Clip> = clips.iter().filter(|clip| !clip.path.is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(DatasetError::Missing {
            manifest: manifest.to_owned(),
            audio: audio.to_owned(),
            missing: missing.len(),
            listed: clips.len(),
            first: first.name.clone(),
        });
    }
    Ok(clips)
}

/// Reads a manifest whose files may lie elsewhere, as in an archive.
///
/// # Errors
/// See [`DatasetError`]; every variant names the manifest, and the line where there is one.
pub fn read_listed(manifest: &Path, audio: &Path) -> Result<Vec<Clip>, DatasetError> {
    let csv_error = |source| DatasetError::Csv { path: manifest.to_owned(), source };
    let mut reader = csv::Reader::from_path(manifest).map_err(csv_error)?;
    let header = reader.headers().map_err(csv_error)?.clone();
    let column = |name: &str| header.iter().position(|field| field.trim() == name);
    let needed = |name: &'static str| {
        column(name).ok_or(DatasetError::Column { path: manifest.to_owned(), column: name })
    };
    let (path, label) = (needed("path")?, needed("label")?);
    let group = column("group").or_else(|| column("recording_id"));
    let (source, licence) = (column("source"), column("licence"));
    let (rate, distance) = (column("original_rate_hz"), column("distance_m"));

    let mut clips = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |index: usize| record.get(index).unwrap_or_default().trim().to_owned();
        let filled = |index: usize, column: &'static str| match field(index) {
            text if text.is_empty() => {
                Err(DatasetError::Empty { path: manifest.to_owned(), line, column })
            }
            text => Ok(text),
        };
        let number = |index: Option<usize>, column: &'static str| match index.map(&field) {
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => match text.parse::<f32>() {
                Ok(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(DatasetError::Number { path: manifest.to_owned(), line, column, text }),
            },
        };
        let name = filled(path, "path")?;
        if !seen.insert(name.clone()) {
            return Err(DatasetError::Twice { path: manifest.to_owned(), line, name });
        }
        clips.push(Clip {
            path: audio.join(&name),
            label: filled(label, "label")?,
            group: group.map_or_else(|| name.clone(), &field),
            source: source.map(&field).unwrap_or_default(),
            licence: licence.map(&field).unwrap_or_default(),
            rate_hz: number(rate, "original_rate_hz")?.map(|rate| rate as u32),
            distance_m: number(distance, "distance_m")?,
            name,
        });
    }
    for clip in &mut clips {
        if clip.group.is_empty() {
            clip.group.clone_from(&clip.name);
        }
    }
    if clips.is_empty() {
        return Err(DatasetError::NoClip(manifest.to_owned()));
    }
    Ok(clips)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "test fixtures need no durable write")]
mod tests {
    use super::*;

    fn manifest(text: &str, files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.csv");
        std::fs::write(&path, text).unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), b"").unwrap();
        }
        (dir, path)
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let text = "label,licence,path,recording_id,more,original_rate_hz,distance_m\n\
                    dog,\"CC BY, 3.0\",a.wav,r1,x,8000,\n";
        let (dir, path) = manifest(text, &["a.wav"]);
        let clips = read_manifest(&path, dir.path()).unwrap();
        let clip = &clips[0];
        assert_eq!((clip.label.as_str(), clip.group.as_str()), ("dog", "r1"));
        assert_eq!(clip.licence, "CC BY, 3.0");
        assert_eq!(clip.source, "");
        assert_eq!((clip.rate_hz, clip.distance_m), (Some(8_000), None));
    }

    #[test]
    fn a_clip_without_a_group_is_its_own() {
        let (dir, path) = manifest("path,label\na.wav,dog\nb.wav,dog\n", &["a.wav", "b.wav"]);
        let clips = read_manifest(&path, dir.path()).unwrap();
        assert_ne!(clips[0].group, clips[1].group);
    }

    #[test]
    fn faults_name_the_line_and_the_column() {
        let fault = |text: &str| {
            let (dir, path) = manifest(text, &["a.wav"]);
            read_manifest(&path, dir.path()).unwrap_err().to_string()
        };
        assert!(fault("file,label\na.wav,dog\n").contains("\"path\""));
        assert!(fault("path,label\na.wav,dog\na.wav,\n").contains("line 3"));
        assert!(fault("path,label\na.wav,dog\na.wav,dog\n").contains("second time"));
        assert!(fault("path,label\na.wav,dog\nb.wav,dog\n").contains("1 of 2 files"));
        assert!(fault("path,label\n").contains("no clip"));
        assert!(fault("path,label\na.wav\n").contains("line: 2"));
        let far = fault("path,label,distance_m\na.wav,dog,far\n");
        assert!(
            far.contains("line 2") && far.contains("distance_m") && far.contains("far"),
            "{far}"
        );
    }
}
