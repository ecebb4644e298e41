//! The trusted transparency logs, in the layout of the public log list, version 3.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::signature::ParsedPublicKey;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::alg_id;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::der::{self, Reader};
use super::sct;

/// Why a log list is refused. `log` is the description, or else the log id, of the guilty log.
#[derive(Debug)]
pub enum LogListError {
    /// Not the JSON of a log list.
    Json(serde_json::Error),
    /// `log_id` or `key` is not base64, or the id does not have 32 octets.
    Base64 {
        /// Which log.
        log: String,
    },
    /// The key is not a P-256 SubjectPublicKeyInfo.
    Key {
        /// Which log.
        log: String,
    },
    /// `log_id` is not the SHA-256 of the key.
    LogId {
        /// Which log.
        log: String,
    },
    /// A state timestamp is not an RFC 3339 date after 1970.
    Timestamp {
        /// Which log.
        log: String,
    },
    /// The same log twice.
    Repeated {
        /// Which log.
        log: String,
    },
    /// More than [`LogList::MAX_LOGS`] logs.
    TooMany,
}

impl fmt::Display for LogListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "log list: {error}"),
            Self::Base64 { log } => write!(f, "log {log}: log_id or key is not base64 of the right length"),
            Self::Key { log } => write!(f, "log {log}: the key is not a P-256 SubjectPublicKeyInfo"),
            Self::LogId { log } => write!(f, "log {log}: log_id is not the SHA-256 of the key"),
            Self::Timestamp { log } => write!(f, "log {log}: the state's timestamp is not an RFC 3339 date"),
            Self::Repeated { log } => write!(f, "log {log} is listed twice"),
            Self::TooMany => f.write_str("log list: too many logs"),
        }
    }
}

impl std::error::Error for LogListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            _ => None,
        }
    }
}

/// The state of a log; the time is since when, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// Applied for, not yet trusted.
    Pending(u64),
    /// Trusted, not yet everywhere.
    Qualified(u64),
    /// Trusted.
    Usable(u64),
    /// Takes no more submissions; earlier SCTs stay good.
    ReadOnly(u64),
    /// Only SCTs from before are good.
    Retired(u64),
    /// Never trusted.
    Rejected(u64),
}

impl LogState {
    /// Whether an SCT with this timestamp (milliseconds) lies in the log's operating interval.
    #[must_use]
    pub fn accepts(&self, timestamp: u64) -> bool {
        match *self {
            Self::Usable(_) | Self::Qualified(_) => true,
            Self::ReadOnly(since) | Self::Retired(since) => timestamp <= since,
            Self::Pending(_) | Self::Rejected(_) => false,
        }
    }
}

/// One trusted log.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its name for people.
    pub description: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub id: [u8; 32],
    /// Its DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Maximum merge delay, seconds.
    pub mmd: u64,
    /// Its state.
    pub state: LogState,
    /// Base URL of the RFC 6962 API, if it has one.
    pub url: Option<String>,
    key: ParsedPublicKey,
}

impl Log {
    /// A log with a P-256 key.
    ///
    /// # Errors
    /// [`LogListError::Key`].
    pub fn new(
        description: &str,
        spki: &[u8],
        mmd: u64,
        state: LogState,
        url: Option<String>,
    ) -> Result<Self, LogListError> {
        let key =
            p256_point(spki).and_then(sct::log_key).ok_or_else(|| LogListError::Key { log: description.to_owned() })?;
        Ok(Self {
            description: description.to_owned(),
            id: sct::sha256(spki),
            spki: spki.to_vec(),
            mmd,
            state,
            url,
            key,
        })
    }

    /// The key that verifies its SCTs.
    #[must_use]
    pub fn key(&self) -> &ParsedPublicKey {
        &self.key
    }
}

/// The point of a P-256 SubjectPublicKeyInfo.
pub(super) fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    let mut fields = Reader::new(der::only(spki, der::SEQUENCE).ok()?);
    let algorithm = fields.contents(der::SEQUENCE).ok()?;
    let bits = fields.contents(der::BIT_STRING).ok()?;
    fields.finish().ok()?;
    (algorithm == alg_id::ECDSA_P256.as_ref()).then_some(bits.strip_prefix(&[0])?)
}

/// All trusted logs, by id.
#[derive(Clone, Debug, Default)]
pub struct LogList {
    logs: BTreeMap<[u8; 32], (String, Log)>,
}

impl LogList {
    /// Most logs read from a list.
    pub const MAX_LOGS: usize = 1024;

    /// No logs: no SCT validates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a log under its operator's name.
    ///
    /// # Errors
    /// [`LogListError::Repeated`], [`LogListError::TooMany`].
    pub fn add(&mut self, operator: &str, log: Log) -> Result<(), LogListError> {
        if self.logs.len() == Self::MAX_LOGS {
            return Err(LogListError::TooMany);
        }
        if self.logs.contains_key(&log.id) {
            return Err(LogListError::Repeated { log: log.description });
        }
        self.logs.insert(log.id, (operator.to_owned(), log));
        Ok(())
    }

    /// Adds all of another list; what it says of a log that is here too counts.
    pub fn extend(&mut self, other: &Self) {
        self.logs.extend(other.logs.iter().map(|(id, log)| (*id, log.clone())));
    }

    /// Reads `operators[].logs[]` and `operators[].tiled_logs[]`; unknown members are ignored.
    ///
    /// # Errors
    /// Names the guilty log.
    pub fn from_json(json: &[u8]) -> Result<Self, LogListError> {
        let document: Document = serde_json::from_slice(json).map_err(LogListError::Json)?;
        let mut list = Self::new();
        for operator in document.operators {
            for entry in operator.logs.into_iter().chain(operator.tiled_logs) {
                list.add(&operator.name, entry.into_log()?)?;
            }
        }
        Ok(list)
    }

    /// The list in the same layout, operators and logs in a stable order.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut operators: BTreeMap<&str, Vec<LogEntry>> = BTreeMap::new();
        for (operator, log) in self.logs.values() {
            operators.entry(operator).or_default().push(LogEntry::from_log(log));
        }
        let operators = operators
            .into_iter()
            .map(|(name, logs)| Operator { name: name.to_owned(), logs, tiled_logs: Vec::new() })
            .collect();
        // Strings and numbers only: nothing that could fail to serialize.
        serde_json::to_string_pretty(&Document { operators }).unwrap_or_default()
    }

    /// The log with this id.
    #[must_use]
    pub fn get(&self, id: &[u8; 32]) -> Option<&Log> {
        self.logs.get(id).map(|(_, log)| log)
    }

    /// All logs, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Log> {
        self.logs.values().map(|(_, log)| log)
    }

    /// How many logs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    operators: Vec<Operator>,
}

#[derive(Serialize, Deserialize)]
struct Operator {
    #[serde(default)]
    name: String,
    #[serde(default)]
    logs: Vec<LogEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tiled_logs: Vec<LogEntry>,
}

#[derive(Serialize, Deserialize)]
struct LogEntry {
    #[serde(default)]
    description: String,
    log_id: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    mmd: u64,
    state: StateEntry,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateEntry {
    Pending(Since),
    Qualified(Since),
    Usable(Since),
    ReadOnly(Since),
    Retired(Since),
    Rejected(Since),
}

#[derive(Serialize, Deserialize)]
struct Since {
    timestamp: String,
}

impl LogEntry {
    fn into_log(self) -> Result<Log, LogListError> {
        let log = if self.description.is_empty() { self.log_id.clone() } else { self.description.clone() };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| LogListError::Base64 { log: log.clone() });
        let id = <[u8; 32]>::try_from(decode(&self.log_id)?).map_err(|_| LogListError::Base64 { log: log.clone() })?;
        let spki = decode(&self.key)?;
        let state = self.state.read().ok_or_else(|| LogListError::Timestamp { log: log.clone() })?;
        let read = Log::new(&self.description, &spki, self.mmd, state, self.url)
            .map_err(|_| LogListError::Key { log: log.clone() })?;
        if read.id == id { Ok(read) } else { Err(LogListError::LogId { log }) }
    }

    fn from_log(log: &Log) -> Self {
        Self {
            description: log.description.clone(),
            log_id: STANDARD.encode(log.id),
            key: STANDARD.encode(&log.spki),
            url: log.url.clone(),
            mmd: log.mmd,
            state: StateEntry::write(log.state),
        }
    }
}

impl StateEntry {
    fn read(&self) -> Option<LogState> {
        let (Self::Pending(since)
        | Self::Qualified(since)
        | Self::Usable(since)
        | Self::ReadOnly(since)
        | Self::Retired(since)
        | Self::Rejected(since)) = self;
        let at = OffsetDateTime::parse(&since.timestamp, &Rfc3339).ok()?;
        let at = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()?;
        Some(match self {
            Self::Pending(_) => LogState::Pending(at),
            Self::Qualified(_) => LogState::Qualified(at),
            Self::Usable(_) => LogState::Usable(at),
            Self::ReadOnly(_) => LogState::ReadOnly(at),
            Self::Retired(_) => LogState::Retired(at),
            Self::Rejected(_) => LogState::Rejected(at),
        })
    }

    fn write(state: LogState) -> Self {
        let (LogState::Pending(at)
        | LogState::Qualified(at)
        | LogState::Usable(at)
        | LogState::ReadOnly(at)
        | LogState::Retired(at)
        | LogState::Rejected(at)) = state;
        // A date beyond the year 9999 has no RFC 3339 form; it reads as "from the beginning".
        let timestamp = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
            .ok()
            .and_then(|date| date.format(&Rfc3339).ok())
            .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned());
        let since = Since { timestamp };
        match state {
            LogState::Pending(_) => Self::Pending(since),
            LogState::Qualified(_) => Self::Qualified(since),
            LogState::Usable(_) => Self::Usable(since),
            LogState::ReadOnly(_) => Self::ReadOnly(since),
            LogState::Retired(_) => Self::Retired(since),
            LogState::Rejected(_) => Self::Rejected(since),
        }
    }
}
