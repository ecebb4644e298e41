//! `vesperd import`: lists of a Kamailio as configuration.

mod address;
mod algorithm;
mod dispatcher;
mod print;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::printable;
use algorithm::Wanted;

const EXAMPLES: &str = "\
Examples:
  vesperd import dispatcher /etc/kamailio/dispatcher.list > trunks.toml
  vesperd import dispatcher --algorithm 4 --algorithm 2=8 dispatcher.list
  vesperd import address /etc/kamailio/address >> trunks.toml

Prints tables for a configuration, to be pasted beside its listeners. What can not be carried over as it is, or is worth a look, is
told on the standard error output, with its line.

Exit codes:
  0  everything was carried over, with remarks at most
  1  some lines were not
  2  the file can not be read, or usage";

/// Turn lists of a Kamailio into configuration.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A dispatcher.list: each set becomes a trunk with members.
    #[command(after_help = EXAMPLES)]
    Dispatcher {
        /// The algorithm, by Kamailio's number or by name, of all sets or as SET=ALGORITHM of one; the list itself does not say it.
        #[arg(long, value_name = "[SET=]ALGORITHM")]
        algorithm: Vec<Wanted>,
        /// The header field that algorithm 7 looks at.
        #[arg(long, value_name = "NAME")]
        hash_header: Option<String>,
        /// The list.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// An address file of the permissions module: each group becomes a trunk with peers.
    #[command(after_help = EXAMPLES)]
    Address {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// What came of a list.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// TOML.
    text: String,
    /// To be told.
    remarks: Vec<Remark>,
}

/// Something about a line of the list, or about all of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// From 1; 0 is the list as a whole.
    line: usize,
    /// The line, or a part of it, has no counterpart in what was printed.
    is_loss: bool,
    /// What and why.
    text: String,
}

impl Imported {
    fn remark(&mut self, line: usize, text: impl Into<String>) {
        self.remarks.push(Remark { line, is_loss: false, text: text.into() });
    }

    fn loss(&mut self, line: usize, text: impl Into<String>) {
        self.remarks.push(Remark { line, is_loss: true, text: text.into() });
    }
}

impl ImportCommand {
    /// Reads and prints.
    pub fn run(self) -> ExitCode {
        let (file, imported) = match self.what {
            What::Dispatcher { algorithm, hash_header, file } => {
                let read = read(&file).map(|text| dispatcher::import(&text, &algorithm, hash_header.as_deref()));
                (file, read)
            }
            What::Address { file } => {
                let read = read(&file).map(|text| address::import(&text));
                (file, read)
            }
        };
        let Ok(mut imported) = imported else { return ExitCode::from(2) };
        imported.remarks.sort_by_key(|remark| remark.line);
        for Remark { line, is_loss, text } in &imported.remarks {
            let place = if *line > 0 { format!(":{line}") } else { String::new() };
            let kind = if *is_loss { "not carried over: " } else { "" };
            eprintln!("{}{place}: {kind}{}", file.display(), printable(text));
        }
        print!("{}", imported.text);
        ExitCode::from(u8::from(imported.remarks.iter().any(|remark| remark.is_loss)))
    }
}

/// The file as text; octets that are no UTF-8 can only be in what is passed on as a tag.
fn read(file: &Path) -> Result<String, ()> {
    match std::fs::read(file) {
        Ok(octets) => Ok(String::from_utf8_lossy(&octets).into_owned()),
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            Err(())
        }
    }
}

/// The fields of each line that has any, with its number: comments begin with `#`, at the start or behind white space.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    text.lines().enumerate().filter_map(|(number, line)| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take_while(|field| !field.starts_with('#')).collect();
        (!fields.is_empty()).then_some((number + 1, fields))
    })
}
