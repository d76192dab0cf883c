//! Reads the golden vectors that the optional folder `shared` holds: `yamnet/golden/*.npz`
//! (a zip of little-endian f32 NumPy arrays) and the clips that `index.csv` names.
//!
//! The folder is `$ECOSIGHT_SHARED`, else `../shared` beside the repository. Without it the
//! tests that need it say so and pass, but not in CI.
#![allow(dead_code, reason = "each test module uses its part")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// `Some(folder)` if the optional folder is there. Otherwise says `skipped`, or fails in CI and where
/// `ECOSIGHT_SHARED` promised it.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let promised = std::env::var_os("ECOSIGHT_SHARED");
    let root = promised
        .clone()
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    assert!(promised.is_none(), "ECOSIGHT_SHARED is set, but {} is not there", path.display());
    assert!(std::env::var_os("CI").is_none(), "CI needs {}", path.display());
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// One array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

impl Array {
    /// Row `i` of the first axis.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        let len: usize = self.shape[1..].iter().product();
        &self.data[i * len..(i + 1) * len]
    }
}

/// All arrays of an npz file by name (`log_mel`, `embedding`, `scores`, perhaps `waveform`).
pub(crate) fn read_npz(path: &Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap();
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | (u16_at(at + 2) << 16);
    // End of central directory: the last 22 bytes, as NumPy writes no comment.
    let end = bytes.len() - 22;
    assert_eq!(&bytes[end..end + 4], b"PK\x05\x06", "{} is no plain zip", path.display());
    let mut arrays = BTreeMap::new();
    let mut entry = u32_at(end + 16);
    for _ in 0..u16_at(end + 10) {
        assert_eq!(&bytes[entry..entry + 4], b"PK\x01\x02");
        let (method, packed, name_len) =
            (u16_at(entry + 10), u32_at(entry + 20), u16_at(entry + 28));
        let name = std::str::from_utf8(&bytes[entry + 46..entry + 46 + name_len]).unwrap();
        let local = u32_at(entry + 42);
        let data_at = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let data = &bytes[data_at..data_at + packed];
        let npy = match method {
            0 => data.to_vec(),
            8 => {
                let mut npy = Vec::new();
                flate2::read::DeflateDecoder::new(data).read_to_end(&mut npy).unwrap();
                npy
            }
            other => panic!("zip method {other}"),
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), parse_npy(&npy));
        entry += 46 + name_len + u16_at(entry + 30) + u16_at(entry + 32);
    }
    arrays
}

/// Version 1 of the npy format: magic, version, u16 header length, a Python dictionary, data.
fn parse_npy(bytes: &[u8]) -> Array {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data_at = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..data_at]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| s.parse().unwrap())
        .collect();
    let data: Vec<f32> =
        bytes[data_at..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(data.len(), shape.iter().product::<usize>());
    Array { shape, data }
}

/// One golden case of `index.csv`.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) npz: PathBuf,
    /// The clip, of which the first 5 s are meant; `None` where the npz holds the waveform.
    pub(crate) clip: Option<PathBuf>,
    pub(crate) windows: usize,
    pub(crate) top1: usize,
}

/// All golden cases, or `None` (said) without the optional folder.
pub(crate) fn cases() -> Option<Vec<Case>> {
    let dir = shared("yamnet/golden")?;
    let index = std::fs::read_to_string(dir.join("index.csv")).unwrap();
    let mut cases = Vec::new();
    for line in index.lines().skip(1) {
        // The second column of the synthetic cases holds a comma, so take fields from both ends.
        let (file, rest) = line.split_once(',').unwrap();
        let fields: Vec<&str> = rest.rsplitn(4, ',').collect();
        let clip = fields[3].strip_suffix(" (first 5 s)").map(|p| dir.join("../..").join(p));
        cases.push(Case {
            name: file.trim_end_matches(".npz").to_owned(),
            npz: dir.join(file),
            clip,
            windows: fields[2].parse().unwrap(),
            top1: fields[1].parse().unwrap(),
        });
    }
    assert!(cases.len() >= 10, "index.csv names {} cases only", cases.len());
    Some(cases)
}

/// 16 kHz mono samples of a case: from the npz, else the clip's first 5 s.
pub(crate) fn waveform(case: &Case, arrays: &BTreeMap<String, Array>) -> Vec<f32> {
    if let Some(waveform) = arrays.get("waveform") {
        return waveform.data.clone();
    }
    let limits = ecosight_models::audio::DecodeLimits { max_bytes: 1 << 26, max_seconds: 600.0 };
    let path = case.clip.as_ref().expect("a clip or a waveform");
    let mut reader = ecosight_models::audio::AudioReader::open(path, &limits).unwrap();
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        samples.extend_from_slice(block);
    }
    samples.truncate(5 * 16_000);
    samples
}
