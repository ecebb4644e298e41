//! `vesperd demo`: calls that pass and calls that must not, through two edges on loopback.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

mod callee;
mod caller;
mod cases;
mod identity;
mod message;
mod report;
mod stage;

use crate::node::clock;
use report::Record;
use stage::{Stage, StageError};

const EXAMPLES: &str = "\
Examples:
  vesperd demo
  vesperd demo --json | jq '.calls[] | {name, ok}'
  vesperd demo --keep ./lab      the certificates, keys and configurations it used stay there

Exit codes:
  0  every call went as it must
  1  some call did not, or the demo could not begin
  2  usage";

/// See calls being signed, verified and refused: two edges and two phones on this machine, no root needed, a few seconds.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoCommand {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Make the lab here, and leave it; the directory must be missing or empty.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl DemoCommand {
    /// Runs the command on the process's standard streams.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.play() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("vesperd demo: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Whether all went as it must.
    fn play(&self) -> Result<bool, StageError> {
        let begin = clock::instant();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let scratch;
        let directory = match &self.keep {
            Some(directory) => directory.as_path(),
            None => {
                scratch = tempfile::TempDir::with_prefix("vesperd-demo-")?;
                scratch.path()
            }
        };
        let records = tokio::task::LocalSet::new().block_on(&runtime, self.calls(directory))?;
        let took = begin.elapsed();
        if self.json {
            say(&format!("{:#}", report::json(&records, took)));
        } else {
            say(&report::summary(&records, took));
            match &self.keep {
                Some(kept) => say(&format!("Certificates, keys and configurations are in {}.", kept.display())),
                None => say("Look at the certificates and configurations behind it: vesperd lab init ./lab"),
            }
        }
        Ok(records.iter().all(Record::is_as_expected))
    }

    async fn calls(&self, directory: &Path) -> Result<Vec<Record>, StageError> {
        let mut stage = Stage::set(directory)?;
        if !self.json {
            say(&report::opening(&stage.addresses));
        }
        let mut records = Vec::with_capacity(cases::CASES.len());
        for (case, number) in cases::CASES.iter().zip(1..) {
            let record = stage.play(case).await?;
            if !self.json {
                say(report::passage(number, &record).trim_end());
            }
            records.push(record);
        }
        Ok(records)
    }
}

/// A line for whoever reads. A closed pipe is the reader's choice: the exit code still tells.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
