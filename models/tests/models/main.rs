//! Behaviour and laws of `ecosight-models`, through its public face.
#![allow(missing_docs, reason = "tests")]
mod scene;
