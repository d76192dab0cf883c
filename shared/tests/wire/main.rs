//! What stations and cloud rely on when they speak to each other.

mod golden_v1;
mod laws;
mod samples;
mod topics;
