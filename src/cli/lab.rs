//! `vesperd lab`: a complete STI ecosystem in a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::node::clock;
use crate::pki::lab::{self, Lab, LabError, Options};

const EXAMPLES: &str = "\
Examples:
  vesperd lab init ./lab
  vesperd lab init --hours 168 --force ./lab
  vesperd cert show ./lab/acme/sti.pem

Exit codes:
  0  the lab is there
  1  it is not: the directory holds something else, or can not be written
  2  usage";

const SECONDS_PER_HOUR: i64 = 3600;

/// Make a lab: authorities, a transparency log, certificates, keys and configurations to try vesperd with.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LabCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a new lab.
    #[command(after_help = EXAMPLES)]
    Init {
        /// Replace the lab that is there: new keys, new certificates. Anything but a lab is left alone.
        #[arg(long)]
        force: bool,
        /// Lifetime of the end-entity certificates in hours, 1 to 168.
        #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(i64).range(1..=168))]
        hours: i64,
        /// Where; missing, empty, or a lab.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

impl LabCommand {
    /// Runs the command on the process's standard streams.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Action::Init { force, hours, directory } = self.action;
        let options = Options { overwrite: force, lifetime: hours * SECONDS_PER_HOUR, ..Options::default() };
        match lab::create(&directory, clock::unix(), &options) {
            Ok(lab) => {
                println!("{}", describe(&lab, hours));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("vesperd lab: {error}");
                if let LabError::NotEmpty { .. } = error {
                    eprintln!("A lab is a directory that holds {}.", lab::MARKER_FILE);
                }
                ExitCode::FAILURE
            }
        }
    }
}

fn describe(lab: &Lab, hours: i64) -> String {
    let at = lab.directory.display();
    format!(
        "A lab is in {at}: {acme} ({acme_domain}) can call {globex} ({globex_domain}).
Certificates are good for {hours} h; `vesperd lab init --force {at}` makes new ones.

Look around:
  cat {at}/{marker}
  vesperd cert show {at}/acme/sti.pem
Run the two edges:
  vesperd run --config {at}/originating.toml
  vesperd run --config {at}/terminating.toml
See calls between them pass and fail:
  vesperd demo",
        acme = lab.acme.organization,
        acme_domain = lab.acme.domain,
        globex = lab.globex.organization,
        globex_domain = lab.globex.domain,
        marker = lab::MARKER_FILE,
    )
}
