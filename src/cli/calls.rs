//! `vesperd calls`: the calls of a running edge.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Connection, list, text};
use super::printable;
use crate::node::admin::Request;

const EXAMPLES: &str = "\
Examples:
  vesperd calls list
  vesperd calls list --trunk carrier --state ringing --limit 20
  vesperd calls list --number 12155551213 --json
  vesperd calls end 3848276298220188511@atlanta.example

To end a call that rings, the edge cancels it; the caller gets 487. To end one that was answered, it sends BYE to both sides in the name of
the other. The record of the call says ended_by \"admin\".

Exit codes:
  0  done
  1  refused: no such call, trunk or state
  2  the socket can not be reached, or usage";

/// List or end calls of a running edge.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CallsCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the calls that run.
    #[command(after_help = EXAMPLES)]
    List {
        /// Only those from or to this trunk.
        #[arg(long, value_name = "NAME")]
        trunk: Option<String>,
        /// Only those whose caller or called number contains this.
        #[arg(long, value_name = "DIGITS")]
        number: Option<String>,
        /// Only those in this state.
        #[arg(long, value_parser = ["trying", "ringing", "answered", "ending"])]
        state: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// End the call with this Call-ID.
    #[command(after_help = EXAMPLES)]
    End {
        /// The Call-ID, as `calls list` shows it.
        call_id: String,
    },
}

impl CallsCommand {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let connection = self.connection;
        match self.action {
            Action::List { trunk, number, state, limit } => {
                connection.ask(&Request::CallsList { trunk, number, state, limit }, show_list)
            }
            Action::End { call_id } => connection.ask(&Request::CallsEnd { call_id }, |result| {
                println!("cancelled {}, hung up {}", text(result, "cancelled"), text(result, "hung_up"));
            }),
        }
    }
}

fn show_list(result: &Value) {
    let calls = list(result, "calls");
    for call in calls {
        println!(
            "{} {} {} -> {} {} -> {} {} s {}",
            text(call, "received"),
            text(call, "state"),
            text(call, "caller"),
            text(call, "called"),
            text(call, "ingress"),
            text(call, "egress"),
            text(call, "duration_seconds"),
            // As it can be given back to `calls end`: not escaped.
            printable(call.get("call_id").and_then(Value::as_str).unwrap_or("-")),
        );
    }
    let more = if result.get("cut").and_then(Value::as_bool) == Some(true) { ", and more" } else { "" };
    println!("{} calls{more}", calls.len());
}
