//! Releases for load and fault runs: signed as real ones are, with made-up files.

use anyhow::{Context, Result};
use ecosight_shared::release::archive::write_head;
use ecosight_shared::release::{
    BUNDLE_MANIFEST, FORMAT, Manifest, ReleaseFile, ReleaseRef, SecretKey, SignedManifest,
    classes_sha256,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// Year 2100: simulated stations have no time to wait.
const EXPIRES_UNIX_S: i64 = 4_102_444_800;

/// A release, as a file to be uploaded.
#[derive(Clone, Debug)]
pub struct SignedRelease {
    /// What is signed.
    pub manifest: Manifest,
    /// That, with its signature.
    pub signed: SignedManifest,
    /// The file.
    pub archive: Vec<u8>,
}

/// Signs a release whose second file has `bytes` random bytes; the version decides which.
///
/// # Errors
/// If the manifest breaks a law of releases.
pub fn sign_release(
    key: &SecretKey,
    version: &str,
    counter: u64,
    bytes: usize,
    replaces: Option<ReleaseRef>,
) -> Result<SignedRelease> {
    let seed: [u8; 32] = Sha256::digest(version).into();
    let mut head = vec![0; bytes];
    ChaCha8Rng::from_seed(seed).fill_bytes(&mut head);
    let bundle = format!("{{\"made_up\": \"{version}\"}}").into_bytes();
    let files = [(BUNDLE_MANIFEST, bundle), ("head.onnx", head)];
    let described = files.iter().map(|(path, content)| ReleaseFile::of(path, content));
    let manifest = Manifest {
        format: FORMAT,
        name: "made-up".into(),
        version: version.to_owned(),
        counter,
        minimum_agent: "0.1.0".into(),
        expires_unix_s: EXPIRES_UNIX_S,
        devices: Vec::new(),
        site: None,
        replaces,
        classes_sha256: classes_sha256(&["gun_shot", "background"]),
        files: described.collect(),
    };
    let signed = SignedManifest::sign(&manifest, &[key]).context("cannot sign")?;
    let mut archive = Vec::new();
    write_head(&mut archive, &signed)?;
    for (_, content) in &files {
        archive.extend(content);
    }
    Ok(SignedRelease { manifest, signed, archive })
}
