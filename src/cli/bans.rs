//! `vesperd bans`: the sources that a running edge does not listen to.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Connection, text};
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
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the sources that are banned.
    #[command(after_help = EXAMPLES)]
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Lift the ban of an address.
    #[command(after_help = EXAMPLES)]
    Lift {
        /// The address.
        address: IpAddr,
        #[command(flatten)]
        connection: Connection,
    },
}

impl BansCommand {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        match self.action {
            Action::List { connection } => connection.ask(&Request::BansList {}, |result| {
                for ban in result.get("bans").and_then(Value::as_array).into_iter().flatten() {
                    println!("{} {} {} s", text(ban, "network"), text(ban, "cause"), text(ban, "seconds_left"));
                }
            }),
            Action::Lift { address, connection } => {
                connection.ask(&Request::BansLift { address }, |result| println!("lifted {}", text(result, "lifted")))
            }
        }
    }
}
