//! What stations and cloud rely on when they speak to each other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it is wrong")]

mod golden_v1;
mod laws;
mod release;
mod samples;
mod topics;
