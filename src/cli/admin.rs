//! Asking a running edge over its admin socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::printable;
use crate::node::admin::{Answer, Request};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the edge is reached and the answer is shown: flattened into a command, for all its actions.
#[derive(Debug, Args)]
pub struct Connection {
    /// The socket of the running edge: `[admin] socket`.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/vesperd/admin.sock")]
    socket: PathBuf,
    /// The answer as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

impl Connection {
    /// Asks, and shows the answer by `show`.
    pub fn ask(&self, request: &Request, show: impl FnOnce(&Value)) -> ExitCode {
        let answer = match self.exchange(request) {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("{}: {error}", self.socket.display());
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                    eprintln!(
                        "no edge listens there: has its configuration [admin] socket, and is it this one (--socket)?"
                    );
                }
                return ExitCode::from(2);
            }
        };
        match answer {
            Answer::Done { result } if self.json => println!("{result}"),
            Answer::Done { result } => show(&result),
            Answer::Refused { error } => {
                error.lines().for_each(|line| eprintln!("{}", printable(line)));
                return ExitCode::from(1);
            }
        }
        ExitCode::SUCCESS
    }

    fn exchange(&self, request: &Request) -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// The objects of a list in an answer.
pub fn list<'a>(result: &'a Value, key: &str) -> &'a [Value] {
    result.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A member of an object as text for people: `-` for nothing.
pub fn text(object: &Value, key: &str) -> String {
    match object.get(key) {
        Some(Value::String(text)) => text.escape_debug().to_string(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}
