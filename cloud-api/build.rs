//! Builds the crate again when the built page changes: its files are embedded one by one.

fn main() {
    println!("cargo:rerun-if-changed=dashboard/dist");
    println!("cargo:rerun-if-changed=migrations");
}
