//! The promise of the whole: no alert is lost and none is shown twice, whatever is killed; and a model
//! that somebody signed comes to a station and goes again.

mod run;
mod update;
mod world;
