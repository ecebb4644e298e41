//! What a case file (`sipp-scenarios/cases/*.toml`) may say. `sipp-scenarios/README.md` explains it to its reader.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

pub type Words = BTreeMap<String, String>;

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub purpose: String,
    /// Transport of parties that name none.
    pub transport: Transport,
    /// Seconds for everything between start and stop of the proxy.
    pub time_limit: u64,
    /// Laid over `sipp-scenarios/proxy.toml`.
    #[serde(default)]
    pub config: toml::Table,
    /// Text in the log of the proxy; its last line tells the counters.
    #[serde(default)]
    pub log: Vec<String>,
    /// Wait so long before the proxy is stopped: then no transaction may be left.
    pub settle_ms: Option<u64>,
    /// Make a lab of certificates even if no call has a token.
    #[serde(default)]
    pub credentials: bool,
    /// Files beside the configuration, by name.
    #[serde(default)]
    pub files: Words,
    /// Tokens of each call, one line of `calls.csv` per call.
    #[serde(default, rename = "call")]
    pub calls: Vec<Call>,
    #[serde(default)]
    pub sipp: Vec<Sipp>,
    #[serde(default)]
    pub socket: Vec<Socket>,
    #[serde(default)]
    pub kamailio: Vec<Kamailio>,
    #[serde(default)]
    pub baresip: Vec<Baresip>,
    #[serde(default)]
    pub step: Vec<Step>,
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// Fields that some call record must have.
    #[serde(default, rename = "record")]
    pub records: Vec<toml::Table>,
    /// The scripts must also get along without a proxy between them.
    #[serde(default)]
    pub direct: bool,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Udp,
    Tcp,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Caller,
    Callee,
}

/// One SIPp process. Those of the callee's side are started first and asked to stop when all callers have ended.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Sipp {
    pub name: String,
    pub side: Side,
    /// Below `sipp-scenarios/`.
    pub scenario: String,
    pub transport: Option<Transport>,
    /// Calls that a caller makes.
    #[serde(default = "one")]
    pub calls: u32,
    /// Where a caller sends to, `address:port`; without it the proxy.
    pub target: Option<String>,
    /// It stands at ::1, a callee at `{callee6_port}`.
    #[serde(default)]
    pub ipv6: bool,
    /// Port of a caller; 0 is a free one.
    #[serde(default)]
    pub port: u16,
    /// A caller that begins when this other one has ended.
    pub after: Option<String>,
    /// Further arguments of SIPp.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// A real Kamailio that relays everything to one next hop and record-routes; with `stir` its secsipid module works on INVITEs.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Kamailio {
    pub name: String,
    /// `udp:address:port`, and so on.
    pub listen: Vec<String>,
    /// SIP URI.
    pub next_hop: String,
    pub stir: Option<Secsipid>,
}

/// What the secsipid module does to INVITEs that begin a call.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Secsipid {
    /// Signs them as the lab's provider, `info` at the certificate server.
    Sign,
    /// Answers 438 unless the Identity verifies: signature, validity, chain to the lab's root.
    Verify,
}

/// A real user agent. The callee answers by itself; the caller calls, waits until the call stands, and hangs up.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Baresip {
    pub name: String,
    pub side: Side,
    /// Its own `address:port`.
    pub listen: String,
    /// SIP URI of its account, in angle brackets, with parameters behind.
    pub account: String,
    /// SIP URI that a caller calls.
    pub calls: Option<String>,
}

/// A socket of the raw helper.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    pub name: String,
    pub side: Side,
    pub transport: Option<Transport>,
}

/// A line of `calls.csv`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub tokens: Vec<String>,
    /// Seconds from now to the Date.
    #[serde(default)]
    pub date: i64,
}

/// What the raw helper does next: send, then receive, then listen to silence; each is optional.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub at: String,
    #[serde(default)]
    pub title: String,
    /// Octets to send; a line end becomes CRLF.
    pub send: Option<String>,
    /// Sent as they stand: no line end is changed.
    #[serde(default)]
    pub verbatim: bool,
    /// Or an ordinary request of this method, with changes.
    pub request: Option<String>,
    /// Or an answer with this status and phrase to the last request that came in here, with changes.
    pub reply: Option<String>,
    /// Method of the request that `reply` answers, when it is not the last one.
    pub reply_to: Option<String>,
    /// Or the octets of the message sent here so many before: 0 is the first.
    pub again: Option<usize>,
    /// Request-URI of `request`.
    pub uri: Option<String>,
    /// SIP version of `request`.
    pub version: Option<String>,
    /// Header fields left out of `request` or `reply`.
    #[serde(default)]
    pub without: Vec<String>,
    /// Header fields with another value.
    #[serde(default)]
    pub with: Words,
    /// Lines to add.
    #[serde(default)]
    pub add: Vec<String>,
    #[serde(default)]
    pub body: String,
    /// Or a body of so many octets.
    pub body_octets: Option<usize>,
    /// TCP: octets per write.
    pub chunk: Option<usize>,
    /// Do it over a new connection or socket.
    #[serde(default)]
    pub anew: bool,
    /// A method, or a status with (the beginning of) a phrase.
    pub receive: Option<String>,
    /// Statuses and methods that may come before it.
    #[serde(default)]
    pub skip: Vec<String>,
    #[serde(flatten)]
    pub look: Look,
    /// Nothing may come for so long.
    pub silence_ms: Option<u64>,
    /// `vesperd` with these arguments, asked of the proxy over its socket, before anything is received.
    #[serde(default)]
    pub operator: Vec<String>,
    /// TCP: the proxy closes the connection.
    #[serde(default)]
    pub closed: bool,
}

/// What a message must look like.
#[derive(Deserialize, Debug, Clone, Default)]
pub struct Look {
    /// Exact value of the first field of each name.
    #[serde(default)]
    pub header: Words,
    /// Text in some field of that name.
    #[serde(default)]
    pub contains: Words,
    /// Text in no field of that name.
    #[serde(default)]
    pub omits: Words,
    /// How many list elements.
    #[serde(default)]
    pub elements: BTreeMap<String, usize>,
    /// Names that are not there.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Text in the start line.
    pub start_line: Option<String>,
}

/// A statement about the message traces. Selectors read `party direction what`: `callee < INVITE` is an INVITE that the callee
/// received, `caller > CANCEL` one that the caller sent, `caller < 200 BYE` a response with its CSeq method.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// About each message that this selects; there must be one unless `count = 0`.
    pub message: Option<String>,
    pub count: Option<usize>,
    pub min: Option<usize>,
    /// As many as this other selector finds.
    pub as_many_as: Option<String>,
    #[serde(flatten)]
    pub look: Look,
    /// Equal to the message of the same call and CSeq number that this selects, in these fields ...
    pub same_as: Option<String>,
    #[serde(default)]
    pub same: Vec<String>,
    /// ... in the first element of these ...
    #[serde(default)]
    pub same_first: Vec<String>,
    /// ... in the Request-URI ...
    #[serde(default)]
    pub same_uri: bool,
    /// ... in all octets of the body ...
    #[serde(default)]
    pub same_body: bool,
    /// ... and in all fields but these, in the same order.
    pub all_but: Option<Vec<String>>,
    /// Each follows the one before it in every call.
    #[serde(default)]
    pub order: Vec<String>,
    /// Milliseconds from the first message of `order` to the last, at most.
    pub within_ms: Option<u64>,
    /// Milliseconds between these messages of one party, at least.
    #[serde(default)]
    pub gaps_ms: Vec<u64>,
    /// Each has, for each of these, an Identity with a good signature of the case's own credential and these claims.
    pub token: Option<TokenLook>,
    /// The same of several.
    #[serde(default)]
    pub tokens: Vec<TokenLook>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct TokenLook {
    /// Which Identity of the message; without it there must be one only.
    pub at: Option<usize>,
    pub ppt: Option<String>,
    pub attest: Option<String>,
    pub x5c: bool,
    pub orig: String,
    pub dest: String,
    /// Further claims.
    #[serde(default)]
    pub claims: toml::Table,
}

fn one() -> u32 {
    1
}

/// Root of the scenarios.
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp-scenarios")
}

impl Case {
    pub fn read(id: &str) -> Self {
        let path = root().join("cases").join(format!("{id}.toml"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let case: Case = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(case.id, id, "{}: id and file name differ", path.display());
        assert!(
            !(case.purpose.is_empty() || case.expect.is_empty() && case.step.is_empty() && case.baresip.is_empty()),
            "{id} judges nothing"
        );
        case
    }
}
