//! `vesperd check-config`: what is wrong with a configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::{Config, ConfigError};
use crate::node::clock;

const EXAMPLES: &str = "\
Examples:
  vesperd check-config /etc/vesperd/edge.toml
  vesperd check-config edge.toml && systemctl restart vesperd

Exit codes:
  0  the configuration is good; warnings, if any, are on the standard error output
  1  the configuration has mistakes: one per line, FILE:LINE: KEY: what is wrong; what to do
  2  the file can not be read, or usage";

/// Check a configuration, with the keys, certificates and lists it names, and list all mistakes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckConfigCommand {
    /// The configuration file (TOML).
    file: PathBuf,
}

impl CheckConfigCommand {
    /// Checks and prints.
    pub fn run(self) -> ExitCode {
        match Config::load(&self.file, clock::unix()) {
            Ok(config) => {
                for warning in &config.warnings {
                    eprintln!("warning: {warning}");
                }
                let (proxy, file) = (&config.proxy, self.file.display());
                let (listeners, trunks, routes) = (proxy.listeners.len(), proxy.trunks.len(), proxy.routes.len());
                let signers = proxy.signers.len();
                println!("{file}: good; listeners {listeners}, trunks {trunks}, routes {routes}, signers {signers}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                exit_code(&error)
            }
        }
    }
}

/// 1 for mistakes, 2 for a file that can not be read.
pub(super) fn exit_code(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Mistakes(_) => ExitCode::from(1),
        ConfigError::Unreadable(..) => ExitCode::from(2),
    }
}
