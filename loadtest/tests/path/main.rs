//! The promise of the whole: no alert is lost and none is shown twice, whatever is killed.

mod run;
mod world;
