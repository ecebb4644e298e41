//! `vesperd check-config`: what is wrong with a configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::{Config, ConfigError, Environment};
use crate::node::clock;

const EXAMPLES: &str = "\
Examples:
  vesperd check-config /etc/vesperd/edge.toml
  VESPERD__NODE__WORKERS=2 vesperd check-config --show edge.toml
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
    /// Print the configuration that is in force: the file with what environment variables override, without secrets. Keys that are
    /// not there have their defaults.
    #[arg(long)]
    show: bool,
}

impl CheckConfigCommand {
    /// Checks and prints.
    pub fn run(self) -> ExitCode {
        let environment = Environment::of_process();
        match Config::load_with(&self.file, &environment, clock::unix()) {
            Ok(config) => {
                for warning in &config.warnings {
                    eprintln!("warning: {warning}");
                }
                if self.show {
                    return match Config::show(&self.file, &environment) {
                        Ok(text) => {
                            print!("{text}");
                            ExitCode::SUCCESS
                        }
                        Err(error) => {
                            eprintln!("{error}");
                            exit_code(&error)
                        }
                    };
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
