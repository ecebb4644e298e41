//! The command line: one file per subcommand.

mod admin;
pub mod bans;
pub mod cache;
pub mod calls;
pub mod cert;
pub mod check_config;
pub mod demo;
mod difference;
pub mod import;
pub mod lab;
mod log;
pub mod passport;
pub mod run;
mod supervisor;
pub mod targets;

use std::borrow::Cow;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  vesperd demo
  vesperd lab init ./lab
  vesperd check-config /etc/vesperd/edge.toml
  vesperd run --config /etc/vesperd/edge.toml
  vesperd cert lint --profile vesper leaf.pem
  vesperd import dispatcher /etc/kamailio/dispatcher.list

Every subcommand has its own examples and exit codes: vesperd <COMMAND> --help";

/// SIP edge proxy with inline caller identity: STIR/SHAKEN and VESPER signing and verification.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunCommand),
    CheckConfig(check_config::CheckConfigCommand),
    Calls(calls::CallsCommand),
    Bans(bans::BansCommand),
    Targets(targets::TargetsCommand),
    Cache(cache::CacheCommand),
    Cert(cert::CertCommand),
    Passport(passport::PassportCommand),
    Import(import::ImportCommand),
    Lab(lab::LabCommand),
    Demo(demo::DemoCommand),
}

impl Cli {
    /// Runs the chosen subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(command) => command.run(),
            Command::CheckConfig(command) => command.run(),
            Command::Calls(command) => command.run(),
            Command::Bans(command) => command.run(),
            Command::Targets(command) => command.run(),
            Command::Cache(command) => command.run(),
            Command::Cert(command) => command.run(),
            Command::Passport(command) => command.run(),
            Command::Import(command) => command.run(),
            Command::Lab(command) => command.run(),
            Command::Demo(command) => command.run(),
        }
    }
}

/// Text of strangers must not drive the terminal: without control characters.
fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("plain"), "plain");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
