//! Behaviour and laws of `ecosight-models`, through its public face.
#![allow(missing_docs, reason = "tests")]
mod audio;
mod detector;
mod distant_shots;
mod front_end;
mod golden;
