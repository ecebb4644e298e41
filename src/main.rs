//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use vesperd::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
