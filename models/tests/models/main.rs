//! Behaviour and laws of `ecosight-models`, through its public face.
#![allow(missing_docs, reason = "tests")]
mod front_end;
mod golden;
