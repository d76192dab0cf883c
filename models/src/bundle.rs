//! stub: to be replaced
#![allow(missing_docs, reason = "stub")]
use ecosight_shared::ModelTag;
/// What a bundle says of itself (manifest, verified and parsed).
#[derive(Clone, Debug)]
pub struct Bundle {
    pub name: String,
    pub version: String,
    pub sha256: [u8; 32],
    pub tag: ModelTag,
    pub classes: Vec<String>,
    pub detector: crate::detector::DetectorConfig,
}
