//! The promises of the whole: a code is all that a station needs; no alert is lost and none is shown twice,
//! whatever is killed; and a model that somebody signed comes to a station and goes again.

mod enrolment;
mod latency;
mod run;
mod update;
mod world;
