//! `vesperd cache`: the chains that a running edge has fetched from an `x5u`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Connection, text};
use crate::config::is_certificate_file;
use crate::node::admin::Request;

const EXAMPLES: &str = "\
Examples:
  vesperd cache list
  vesperd cache list --host certs.example.com --json
  vesperd cache import https://certs.example.com/sti/2026.pem chain.pem
  vesperd cache import https://certs.example.com/sti/ ./chains
  vesperd cache purge --url https://certs.example.com/sti/2026.pem
  vesperd cache purge --host certs.example.com
  vesperd cache purge --all

A chain that is imported has to lead to a trust anchor, leaf first; it serves to the end of its validity. From a directory every .pem, .crt,
.cer and .der file is imported, under the URL followed by the file's name. What is purged is fetched anew when it is asked for.

States:
  fresh   it serves
  stale   it serves while it is fetched anew
  failed  there is no chain; asked again when that is over

Exit codes:
  0  done
  1  refused: a chain without a trust anchor, a file that can not be read
  2  the socket can not be reached, or usage";

/// List, import or purge the chains that a running edge keeps.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CacheCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the chains.
    #[command(after_help = EXAMPLES)]
    List {
        /// Only those of this host.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        limit: usize,
        #[command(flatten)]
        connection: Connection,
    },
    /// Put a chain in, or all chains of a directory.
    #[command(after_help = EXAMPLES)]
    Import {
        /// The x5u; with a directory what stands before the names of its files.
        url: String,
        /// A PEM file, or a directory of them.
        path: PathBuf,
        #[command(flatten)]
        connection: Connection,
    },
    /// Take chains out.
    #[command(after_help = EXAMPLES)]
    Purge {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// This one.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Those of this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

impl CacheCommand {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        match self.action {
            Action::List { host, limit, connection } => connection.ask(&Request::CacheList { host, limit }, |result| {
                result.get("entries").and_then(Value::as_array).into_iter().flatten().for_each(show);
            }),
            Action::Import { url, path, connection } => import(&url, &path, &connection),
            Action::Purge { which: Which { url, host, all }, connection } => {
                let request = Request::CachePurge { x5u: url, host, all };
                connection.ask(&request, |result| println!("purged {}", text(result, "purged")))
            }
        }
    }
}

fn show(entry: &Value) {
    println!("{}", line(entry));
}

/// What stands in it of a certificate is text of strangers.
fn line(entry: &Value) -> String {
    let codes = entry.get("spc").and_then(Value::as_array);
    let codes = codes.into_iter().flatten().filter_map(Value::as_str);
    let codes: Vec<String> = codes.map(|code| code.escape_debug().to_string()).collect();
    format!(
        "{} {} \"{}\" spc {} not-after {} {} hits {} host {}{}",
        text(entry, "x5u"),
        text(entry, "state"),
        text(entry, "subject"),
        if codes.is_empty() { "-".to_owned() } else { codes.join(",") },
        entry.get("not_after").and_then(Value::as_i64).map_or_else(|| "-".to_owned(), date),
        text(entry, "source"),
        text(entry, "hits"),
        text(entry, "host"),
        match entry.get("error").and_then(Value::as_str) {
            Some(error) => format!(" ({})", error.escape_debug()),
            None => String::new(),
        },
    )
}

fn date(unix: i64) -> String {
    use time::format_description::well_known::Rfc3339;
    let date = time::OffsetDateTime::from_unix_timestamp(unix).ok().and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| unix.to_string())
}

fn import(url: &str, path: &Path, connection: &Connection) -> ExitCode {
    let files = match files(url, path) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(1);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for (x5u, file) in files {
        let request = match std::fs::read(&file) {
            Ok(octets) => Request::CacheImport { x5u, pem: as_pem(octets) },
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                code = ExitCode::from(1);
                continue;
            }
        };
        let result = connection.ask(&request, show);
        if result != ExitCode::SUCCESS {
            eprintln!("{}: not imported", file.display());
            code = result;
        }
    }
    code
}

/// A DER file as PEM text, for it travels as text.
fn as_pem(octets: Vec<u8>) -> String {
    use base64::Engine;
    match String::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => {
            let der = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
        }
    }
}

fn files(url: &str, path: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    if !path.is_dir() {
        return Ok(vec![(url.to_owned(), path.to_owned())]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if let (true, Some(name)) = (is_certificate_file(&file), file.file_name().and_then(|name| name.to_str())) {
            files.push((format!("{}/{name}", url.trim_end_matches('/')), file));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(std::io::Error::other("no .pem, .crt, .cer or .der file"));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_certificate_says_cannot_drive_the_terminal() {
        let entry = json!({
            "x5u": "https://a.example/\u{1b}[1m", "state": "fresh", "subject": "CN=\u{1b}]0;a\u{7}",
            "spc": ["12\u{1b}[2J", "345\u{9b}"], "not_after": 0, "source": "fetched", "hits": 1, "host": "up",
            "error": "\r\n",
        });
        let line = line(&entry);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.contains("spc 12\\u{1b}[2J,345"), "{line}");
    }
}
