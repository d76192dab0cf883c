//! `ecosight-models`: judge sound files, look into bundles, import YAMNet, train and evaluate.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
