//! `vesperd bans`: the sources that a running edge does not listen to.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::admin::{Connection, list, text};
use crate::node::admin::Request;

const EXAMPLES: &str = "\
Examples:
  vesperd bans list
  vesperd bans lift 203.0.113.7

Exit codes:
  0  done
  1  refused: the address is not banned
  2  the socket can not be reached, or usage";

/// List or lift bans of a running edge.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BansCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the sources that are banned.
    #[command(after_help = EXAMPLES)]
    List,
    /// Lift the ban of an address.
    #[command(after_help = EXAMPLES)]
    Lift {
        /// The address.
        address: IpAddr,
    },
}

impl BansCommand {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let connection = self.connection;
        match self.action {
            Action::List => connection.ask(&Request::BansList {}, |result| {
                for ban in list(result, "bans") {
                    println!("{} {} {} s", text(ban, "network"), text(ban, "cause"), text(ban, "seconds_left"));
                }
            }),
            Action::Lift { address } => {
                connection.ask(&Request::BansLift { address }, |result| println!("lifted {}", text(result, "lifted")))
            }
        }
    }
}
