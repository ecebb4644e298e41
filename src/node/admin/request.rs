//! Requests and answers of the admin socket, as they stand in JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::node::cdr::shorten;

/// One request. `docs/operation.md` describes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", deny_unknown_fields)]
pub enum Request {
    /// Calls that run.
    #[serde(rename = "calls list")]
    CallsList {
        /// Only those from or to this trunk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trunk: Option<String>,
        /// Only those whose caller or called number contains this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<String>,
        /// Only those in this state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
        /// At most so many.
        #[serde(default = "some_calls")]
        limit: usize,
    },
    /// Ends the calls of a Call-ID.
    #[serde(rename = "calls end")]
    CallsEnd {
        /// The Call-ID.
        call_id: String,
    },
    /// Sources that are banned.
    #[serde(rename = "bans list")]
    BansList {},
    /// Lifts a ban.
    #[serde(rename = "bans lift")]
    BansLift {
        /// Whose.
        address: IpAddr,
    },
    /// Members of trunks and how they stand.
    #[serde(rename = "targets list")]
    TargetsList {
        /// Only those of this trunk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trunk: Option<String>,
    },
    /// Puts a member into a state.
    #[serde(rename = "targets set")]
    TargetsSet {
        /// Name of a trunk it belongs to.
        trunk: String,
        /// Its id there.
        member: String,
        /// The state's name.
        state: String,
    },
    /// Chains that an `x5u` brought.
    #[serde(rename = "cache list")]
    CacheList {
        /// Only those of this host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// At most so many.
        #[serde(default = "some_entries")]
        limit: usize,
    },
    /// Puts a chain into the cache.
    #[serde(rename = "cache import")]
    CacheImport {
        /// The `x5u` it is for.
        x5u: String,
        /// The chain, leaf first.
        pem: String,
    },
    /// Takes chains out of the cache: by URL, by host, or all.
    #[serde(rename = "cache purge")]
    CachePurge {
        /// This one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        x5u: Option<String>,
        /// Those of this host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// All of them.
        #[serde(default)]
        all: bool,
    },
    /// Reads the configuration anew.
    #[serde(rename = "reload")]
    Reload {},
    /// Takes no new calls from now on.
    #[serde(rename = "drain")]
    Drain {},
    /// Counters.
    #[serde(rename = "stats")]
    Stats {},
}

impl Request {
    /// For a line of the log: the number that was asked for is shortened, a chain is left out.
    pub(super) fn for_log(&self) -> Self {
        let mut request = self.clone();
        match &mut request {
            Self::CallsList { number: Some(number), .. } => *number = shorten(number),
            Self::CacheImport { pem, .. } => pem.clear(),
            _ => {}
        }
        request
    }
}

fn some_entries() -> usize {
    10_000
}

fn some_calls() -> usize {
    1000
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was done.
    Done {
        /// What came of it.
        result: Value,
    },
    /// It was not.
    Refused {
        /// Why.
        error: String,
    },
}

impl Answer {
    pub(super) fn refused(error: impl Into<String>) -> Self {
        Self::Refused { error: error.into() }
    }
}

/// A call in the answer to `calls list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // named as in call records
pub struct CallEntry {
    pub call_id: String,
    pub caller: String,
    pub called: String,
    pub state: String,
    pub ingress: Option<String>,
    pub egress: Option<String>,
    pub member: Option<String>,
    pub received: String,
    pub answered: Option<String>,
    pub duration_seconds: u64,
    pub attempts: u16,
    pub verdict: String,
}

/// A member in the answer to `targets list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // named as in the configuration
pub struct TargetEntry {
    pub trunk: String,
    pub member: String,
    pub next_hop: String,
    pub state: String,
    pub priority: u16,
    pub weight: u16,
    pub tags: BTreeMap<String, String>,
    /// Calls that are there; `None` where they are not counted.
    pub calls: Option<u32>,
    pub max_calls: Option<u32>,
    /// It is pinged.
    pub pinged: bool,
    /// Failures in a row; once it is down they are not counted on.
    pub failures: u32,
    /// Moving average of its answers to pings, or the one it began with.
    pub latency_ms: Option<f64>,
}
