//! The promises of the whole: a code is all that a station needs, and no alert is lost and none is shown
//! twice, whatever is killed.

mod enrolment;
mod latency;
mod run;
mod world;
