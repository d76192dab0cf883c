//! Behaviour and laws of `ecosight-models`, through its public face.
#![allow(missing_docs, reason = "tests")]
mod bundle;
mod classify;
mod front_end;
mod golden;
mod import;
mod tflite_writer;
