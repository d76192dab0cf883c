//! Behaviour and laws of `ecosight-models`, through its public face.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests write their own files")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]
mod allocations;
mod audio;
mod bundle;
mod classify;
mod compact;
mod detector;
mod distant_shots;
mod download;
mod front_end;
mod golden;
mod import;
mod release;
mod scene;
#[cfg(feature = "train")]
mod second_ear;
mod tflite_writer;
#[cfg(feature = "train")]
mod training;
