//! What is wrong with a configuration file: where, and what would be right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::cert::{AnchorError, LogListError, PemError, SignedListError};
use crate::proxy::digest::UsersError;
use crate::stir::authentication::{SignerError, SignerWarning};
use crate::transport::tls::CredentialError;

/// One mistake in a configuration file.
#[derive(Debug)]
pub struct Mistake {
    /// The configuration file.
    pub file: PathBuf,
    /// Line in it, from 1; 0 for an environment variable.
    pub line: usize,
    /// The environment variable that overrides the key, if it is one that is wrong.
    pub variable: Option<String>,
    /// The key, such as `trunk "carrier".peers`; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Kinds of mistakes.
#[derive(Debug)]
pub enum Fault {
    /// Not TOML; the parser's words.
    Syntax(String),
    /// Not a key of this table.
    UnknownKey {
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A key that must be there is not.
    Missing {
        /// What it would hold.
        expected: &'static str,
    },
    /// A value of another TOML type.
    WrongType {
        /// What the file has.
        found: &'static str,
        /// What it should have.
        expected: &'static str,
    },
    /// A number outside its range.
    OutOfRange {
        /// Smallest and largest value allowed.
        range: (u64, u64),
    },
    /// A word that is none of the choices.
    NoSuchChoice {
        /// The word.
        found: String,
        /// The choices.
        choices: Vec<&'static str>,
    },
    /// A text that can not be read.
    Unreadable {
        /// The text.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// A name that nothing in the file has.
    UnknownName {
        /// The name.
        name: String,
        /// What should have it: `trunk`, `listener`, `signer`.
        kind: &'static str,
        /// Names there are.
        known: Vec<String>,
    },
    /// The same name, address or network a second time.
    Duplicate {
        /// What is there twice.
        what: String,
        /// Where it stands first.
        first_line: usize,
    },
    /// A file that can not be read.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// A file that was read and is not what it should be.
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A private key that does not belong to the certificate.
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A leaf certificate that is over.
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// End of its validity, Unix seconds.
        not_after: i64,
    },
    /// A leaf certificate that is not valid yet.
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// Begin of its validity, Unix seconds.
        not_before: i64,
    },
    /// A file that is no PEM with certificates.
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        error: PemError,
    },
    /// A certificate that can not be a trust anchor.
    Anchor {
        /// The file.
        path: PathBuf,
        /// Why.
        error: AnchorError,
    },
    /// A list of transparency logs that can not be read.
    LogList {
        /// The file.
        path: PathBuf,
        /// Why.
        error: LogListError,
    },
    /// A signed list, or the key it is signed by.
    SignedList {
        /// The file.
        path: PathBuf,
        /// Why.
        error: SignedListError,
    },
    /// A credential that can not sign.
    Signer(SignerError),
    /// A file of users.
    Users {
        /// The file.
        path: PathBuf,
        /// Why; no line of it is repeated.
        error: UsersError,
    },
    /// A regular expression that is none.
    Pattern(regex::Error),
    /// A row of a file.
    Row {
        /// The file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// Values that do not go together.
    Conflict {
        /// Why.
        reason: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Certificates and keys that TLS refuses.
    Tls(CredentialError),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variable {
            Some(variable) => write!(f, "environment variable {variable}: ")?,
            None => write!(f, "{}:{}: ", self.file.display(), self.line)?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.fault.fmt(f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(words) => write!(f, "{words}"),
            Self::UnknownKey { nearest: Some(nearest) } => write!(f, "unknown key; did you mean `{nearest}`?"),
            Self::UnknownKey { nearest: None } => write!(f, "unknown key; remove it"),
            Self::Missing { expected } => write!(f, "missing; give {expected}"),
            Self::WrongType { found, expected } => write!(f, "is a {found}; give {expected}"),
            Self::OutOfRange { range: (low, high) } => {
                write!(f, "out of range; give a whole number from {low} to {high}")
            }
            Self::NoSuchChoice { found, choices } => write!(f, "\"{found}\" is none of \"{}\"", choices.join("\", \"")),
            Self::Unreadable { found, expected } => write!(f, "\"{found}\" can not be read; give {expected}"),
            Self::UnknownName { name, kind, known } if known.is_empty() => {
                write!(f, "there is no {kind} \"{name}\"; add a [[{kind}]] with this name")
            }
            Self::UnknownName { name, kind, known } => {
                write!(f, "there is no {kind} \"{name}\"; there is \"{}\"", known.join("\", \""))
            }
            Self::Duplicate { what, first_line } => {
                write!(f, "{what} is used already on line {first_line}; choose another")
            }
            Self::File { path, kind: io::ErrorKind::NotFound } => write!(f, "{}: no such file", path.display()),
            Self::File { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::Content { path, expected } => write!(f, "{}: not {expected}", path.display()),
            Self::KeyMismatch { key, certificate } => {
                let (key, certificate) = (key.display(), certificate.display());
                write!(
                    f,
                    "{key} is not the private key of the first certificate in {certificate}; give the key it was issued for"
                )
            }
            Self::Expired { path, not_after } => {
                write!(f, "{}: the first certificate expired {}; renew it", path.display(), day(*not_after))
            }
            Self::NotYetValid { path, not_before } => {
                let day = day(*not_before);
                write!(f, "{}: the first certificate is valid from {day} only; check the clock", path.display())
            }
            Self::Pem { path, error } => write!(f, "{}: {error}; give a PEM file with certificates", path.display()),
            Self::Anchor { path, error } => write!(f, "{}: {error}; remove it or give CA certificates", path.display()),
            Self::LogList { path, error } => write!(f, "{}: {error}", path.display()),
            Self::SignedList { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Users { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Signer(error) => write!(f, "{error}"),
            Self::Pattern(regex::Error::CompiledTooBig(_)) => {
                write!(f, "the regular expression is too large; give a smaller one")
            }
            Self::Pattern(error) => {
                // The last line says what is wrong; the others draw where.
                let words = error.to_string();
                write!(
                    f,
                    "no regular expression: {}",
                    words.lines().last().unwrap_or_default().trim_start_matches("error: ")
                )
            }
            Self::Row { path, line, why } => write!(f, "{}:{line}: {why}", path.display()),
            Self::Conflict { reason, remedy } => write!(f, "{reason}; {remedy}"),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

/// `2026-11-21 01:00:00 UTC`, or the bare number for times no calendar has.
fn day(unix: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix).map_or_else(
        |_| unix.to_string(),
        |t| format!("{} {:02}:{:02}:{:02} UTC", t.date(), t.hour(), t.minute(), t.second()),
    )
}

/// All mistakes of a file, in order of lines. Never empty.
#[derive(Debug)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, mistake)| {
            if i > 0 {
                writeln!(f)?;
            }
            mistake.fmt(f)
        })
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file itself can not be read.
    Unreadable(PathBuf, io::Error),
    /// It was read and is wrong.
    Mistakes(Mistakes),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Mistakes(mistakes) => mistakes.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Something lawful that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// RFC 3261 18.2.1 wants TCP wherever there is UDP (T-1).
    UdpWithoutTcp {
        /// The listener's name.
        listener: String,
    },
    /// A key or certificate made by `vesperd lab`: its private key may lie anywhere.
    LabKey {
        /// The file.
        path: PathBuf,
    },
    /// A credential that signs, but not as it should.
    Signer {
        /// The certificate's file.
        certificate: PathBuf,
        /// What is remarked.
        warning: SignerWarning,
    },
    /// A verifier that trusts what this file trusts does not believe a signer's certificate.
    Disbelieved {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        why: String,
    },
    /// The leaf of a signer that is in force has expired: it signs no more.
    ExpiredSigner {
        /// The certificate's file.
        certificate: PathBuf,
        /// End of its validity, Unix seconds.
        not_after: i64,
    },
    /// A leaf for TLS that is in force has expired: peers refuse it.
    ExpiredTls {
        /// The certificate's file.
        certificate: PathBuf,
        /// End of its validity, Unix seconds.
        not_after: i64,
    },
    /// Two trunks have a next hop in common: which of them a request from there comes from is decided by their order (KR-11).
    SharedNextHop {
        /// The trunk that its requests belong to.
        first: String,
        /// The other one.
        second: String,
        /// The next hop.
        next_hop: String,
    },
    /// Record-Route names a TLS listener by `transport=tls`, which RFC 5658 6.2 forbids and most understand: nobody chose it.
    RecordRouteOverTls {
        /// The trunk's name.
        trunk: String,
    },
    /// A timer that RFC 3261 wants longer.
    ShortTimer {
        /// The key in `[timers]`.
        key: &'static str,
        /// What it should be.
        standard: &'static str,
    },
    /// What is to be made at the start has no directory to stand in, at least not yet.
    NoDirectory {
        /// The key.
        key: &'static str,
        /// The directory.
        directory: PathBuf,
    },
    /// `x5u` may name private addresses: whoever sends an INVITE chooses the URL.
    PrivateFetch,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UdpWithoutTcp { listener } => {
                write!(
                    f,
                    "listener \"{listener}\": UDP without TCP on the same address (RFC 3261 18.2.1); large requests have no way"
                )
            }
            Self::ShortTimer { key, standard } => {
                write!(f, "timers.{key}: RFC 3261 wants {standard}; good in closed networks only")
            }
            Self::NoDirectory { key, directory } => {
                write!(f, "{key}: there is no directory {}; without it the edge does not start", directory.display())
            }
            Self::LabKey { path } => write!(f, "{}: made by `vesperd lab`, for laboratories only", path.display()),
            Self::Signer { certificate, warning } => write!(f, "{}: {warning}", certificate.display()),
            Self::Disbelieved { certificate, why } => {
                let path = certificate.display();
                write!(f, "{path}: with the anchors and logs of [stir] verifiers would refuse its tokens: {why}")
            }
            Self::ExpiredSigner { certificate, not_after } => {
                write!(f, "{}: expired {}; its signer signs no more", certificate.display(), day(*not_after))
            }
            Self::ExpiredTls { certificate, not_after } => {
                write!(f, "{}: expired {}; peers refuse it", certificate.display(), day(*not_after))
            }
            Self::SharedNextHop { first, second, next_hop } => write!(
                f,
                "trunk \"{second}\": requests from {next_hop} belong to trunk \"{first}\", which has the same next hop and stands first"
            ),
            Self::RecordRouteOverTls { trunk } => write!(
                f,
                "trunk \"{trunk}\": its Record-Route says transport=tls, which RFC 5658 6.2 forbids; choose rr_style = \"transport-tls\", \"sips\" or \"naptr-host\""
            ),
            Self::PrivateFetch => {
                write!(f, "stir.fetch.allow_private_addresses: callers can make this host fetch from private networks")
            }
        }
    }
}

/// Line of an offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

/// Collects mistakes while a file is read.
pub(super) struct Collector<'a> {
    file: &'a Path,
    text: &'a str,
    variables: Vec<String>,
    list: Vec<Mistake>,
}

impl<'a> Collector<'a> {
    /// What stands behind the text at [`Self::base`] and on is what these environment variables say, one place for each.
    pub fn new(file: &'a Path, text: &'a str, variables: Vec<String>) -> Self {
        Self { file, text, variables, list: Vec::new() }
    }

    /// The place of the first environment variable.
    pub fn base(&self) -> usize {
        self.text.len() + 1
    }

    fn variable(&self, offset: usize) -> Option<&String> {
        self.variables.get(offset.checked_sub(self.base())?)
    }

    pub fn add(&mut self, offset: usize, key: String, fault: Fault) {
        let variable = self.variable(offset).cloned();
        self.list.push(Mistake { file: self.file.to_owned(), line: self.line(offset), variable, key, fault });
    }

    pub fn line(&self, offset: usize) -> usize {
        if self.variable(offset).is_some() { 0 } else { line_of(self.text, offset) }
    }

    /// `Err` with everything noted so far, if anything is.
    pub fn finish(&mut self) -> Result<(), Mistakes> {
        let mut list = std::mem::take(&mut self.list);
        list.sort_by_key(|mistake| mistake.line);
        if list.is_empty() { Ok(()) } else { Err(Mistakes(list)) }
    }
}
