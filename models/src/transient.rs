//! Path: logmel → transient → head
#![allow(missing_docs, reason = "bodies follow")]
/// Numbers in one window's `transient` feature stream.
pub const LEN: usize = 45;
/// What each number is, in the stream's order.
pub fn names() -> &'static [&'static str; LEN] {
    &[""; LEN]
}
