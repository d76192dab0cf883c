//! Path: releases → **rollout** → store → link → stations, and their reports back
//!
//! A release goes to stations cohort by cohort. [`machine`] decides, [`engine`] asks it and writes
//! down what it says; desired documents go out from the database until the broker has them.

pub mod documents;
pub mod engine;
pub mod field;
pub mod machine;
pub mod plan;
#[cfg(test)]
mod tests;

pub use engine::{Carrier, RolloutError, Rollouts};
pub use field::FieldCounts;
pub use machine::{Device, Facts, Impossible, Input, Rollout, State, Step, Transition, step};
pub use plan::{Cohort, FalseAlarmRule, Plan, Rules, Target};
