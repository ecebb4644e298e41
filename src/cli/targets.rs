//! `vesperd targets`: the members of a running edge's trunks.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Connection, list, text};
use crate::node::admin::Request;
use crate::proxy::dispatcher::MemberState;

const EXAMPLES: &str = "\
Examples:
  vesperd targets list
  vesperd targets list --trunk carrier --json
  vesperd targets set carrier gw1 draining
  vesperd targets set carrier gw1 active

States:
  active    it serves, as if it had never failed
  trying    it serves, and counts as having failed once
  inactive  it counts as down, until it answers
  disabled  no new dialogs, no pings
  draining  no new dialogs

Requests of dialogs always go to their member, whatever its state. Active, trying and inactive are where health goes on from; disabled and
draining stay until the next set, a restart, or a reload that gives the member another state. A state is that of the destination: a member
of another trunk that leads to the same next hop by the same listener has it too.

Exit codes:
  0  done
  1  refused: no such trunk or member
  2  the socket can not be reached, or usage";

/// List the members of a running edge's trunks, or set their states.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TargetsCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List members and how they stand.
    #[command(after_help = EXAMPLES)]
    List {
        /// Only those of this trunk.
        #[arg(long, value_name = "NAME")]
        trunk: Option<String>,
    },
    /// Put a member into a state.
    #[command(after_help = EXAMPLES)]
    Set {
        /// Name of the trunk.
        trunk: String,
        /// Id of the member, as `targets list` shows it.
        member: String,
        /// The state.
        #[arg(value_parser = PossibleValuesParser::new(MemberState::ALL.map(MemberState::as_str)))]
        state: String,
    },
}

impl TargetsCommand {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let connection = self.connection;
        match self.action {
            Action::List { trunk } => connection.ask(&Request::TargetsList { trunk }, show_list),
            Action::Set { trunk, member, state } => {
                connection.ask(&Request::TargetsSet { trunk, member, state }, |result| {
                    println!("{} {} {}", text(result, "trunk"), text(result, "member"), text(result, "state"));
                })
            }
        }
    }
}

fn show_list(result: &Value) {
    for target in list(result, "targets") {
        let pinged = if target.get("pinged").and_then(Value::as_bool) == Some(true) { ", pinged" } else { "" };
        println!(
            "{} {} {} {} calls {} of {}, failures {}, latency {} ms{pinged}",
            text(target, "trunk"),
            text(target, "member"),
            text(target, "state"),
            text(target, "next_hop"),
            text(target, "calls"),
            text(target, "max_calls"),
            text(target, "failures"),
            text(target, "latency_ms"),
        );
    }
}
