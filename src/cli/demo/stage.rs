//! The stage: a lab, two edges, two phones and a provider's switch, all on loopback.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::callee;
use super::caller::{self, CallError};
use super::cases::{Case, Token, TokenError};
use super::message::Leg;
use super::report::{Finding, Record};
use crate::config::{Config, ConfigError};
use crate::node::{Edge, Observer, StartError, clock};
use crate::pki::lab::{self, Addresses, Lab, LabError, Options};
use crate::proxy::Event;
use crate::sip::date;

/// Longest time a call may take.
const CALL_BOUND: Duration = Duration::from_secs(3);
/// Longest wait for the verdict of a call that is over.
const VERDICT_BOUND: Duration = Duration::from_millis(500);
/// Events that wait to be read.
const EVENTS: usize = 64;
/// Attempts to set the stage when ports are taken in between.
const STAGE_ATTEMPTS: usize = 3;
/// Attempts to find a port that is free for UDP and TCP.
const PORT_ATTEMPTS: usize = 32;

/// Why the demo can not begin.
#[derive(Debug)]
pub enum StageError {
    /// No socket, no thread, no random octets.
    Io(io::Error),
    /// No lab.
    Lab(LabError),
    /// The lab's configuration is refused.
    Config(ConfigError),
    /// An edge does not start.
    Start(StartError),
    /// A token can not be made.
    Token(TokenError),
    /// A request can not be built.
    Request(rsip::Error),
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Lab(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Token(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StageError {}

impl From<io::Error> for StageError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Everything that runs. Dropping it ends it.
pub struct Stage {
    /// Where everybody listens.
    pub addresses: Addresses,
    lab: Lab,
    caller: tokio::net::UdpSocket,
    provider: tokio::net::UdpSocket,
    verdicts: mpsc::Receiver<Event>,
    _edges: [Edge; 2],
}

impl Stage {
    /// Makes a lab in `directory` and starts everything in it. Needs a `LocalSet`.
    ///
    /// Between the choice of a port and the edge that binds it, another process may take it: then all begins again.
    pub fn set(directory: &Path) -> Result<Self, StageError> {
        let mut stage = Self::try_set(directory, false);
        for _ in 1..STAGE_ATTEMPTS {
            if !matches!(stage, Err(StageError::Start(_))) {
                break;
            }
            stage = Self::try_set(directory, true);
        }
        stage
    }

    fn try_set(directory: &Path, overwrite: bool) -> Result<Self, StageError> {
        let (caller, provider) = (udp()?, udp()?);
        let callee = both()?;
        // The edges bind these themselves, at once.
        let (originating, terminating) = (both()?, both()?);
        let addresses = Addresses {
            originating: originating.1.local_addr()?,
            terminating: terminating.1.local_addr()?,
            caller: caller.local_addr()?,
            provider: provider.local_addr()?,
            callee: callee.1.local_addr()?,
        };
        let options = Options { addresses, overwrite, ..Options::default() };
        let lab = lab::create(directory, clock::unix(), &options).map_err(StageError::Lab)?;
        drop((originating, terminating));
        let (observer, verdicts) = mpsc::channel(EVENTS);
        let edges = [
            start(&directory.join("originating.toml"), &Observer::new(observer.clone()))?,
            start(&directory.join("terminating.toml"), &Observer::new(observer))?,
        ];
        callee.1.set_nonblocking(true)?;
        let (udp, tcp) = (in_tokio(callee.0)?, tokio::net::TcpListener::from_std(callee.1)?);
        tokio::task::spawn_local(callee::serve(udp, tcp, hex(random()?)));
        Ok(Self { addresses, lab, caller: in_tokio(caller)?, provider: in_tokio(provider)?, verdicts, _edges: edges })
    }

    /// Makes one call and tells what came of it.
    pub async fn play(&mut self, case: &'static Case) -> Result<Record, StageError> {
        let now = clock::unix();
        let (edge, socket) = match case.token {
            Token::ByEdge => (self.addresses.originating, &self.caller),
            Token::Shaken => (self.addresses.terminating, &self.provider),
            _ => (self.addresses.terminating, &self.caller),
        };
        let (from, to) = ((case.from(), self.lab.acme.domain), (case.to(), self.lab.globex.domain));
        let leg = Leg::new(case.transport, socket.local_addr()?, from, to, random()?);
        let identity = case.identity(&self.lab, now, random()?).map_err(StageError::Token)?;
        let mut date = Vec::new();
        date::write(u64::try_from(now).unwrap_or(0), &mut date);
        let invite = leg.invite(identity.as_deref(), &String::from_utf8_lossy(&date)).map_err(StageError::Request)?;
        let begin = clock::instant();
        let answer = caller::call(socket, edge, &leg, &invite, CALL_BOUND).await;
        let took = begin.elapsed();
        let finding = match &answer {
            Err(CallError::Silence) | Ok(_) => self.finding(case, &leg.call_id).await,
            Err(_) => Finding::default(),
        };
        Ok(Record { case, answer: answer.map_err(|error| error.to_string()), finding, took })
    }

    /// What the edges found about a call: Globex's about the caller, Acme's about who has answered.
    async fn finding(&mut self, case: &Case, call_id: &str) -> Finding {
        let (mut caller, mut callee) = (None, None);
        let verdicts = async {
            while caller.is_none() || (callee.is_none() && case.answered_by().is_some()) {
                match self.verdicts.recv().await {
                    Some(Event::Verified { call_id: own, verdict, .. }) if *own == *call_id.as_bytes() => {
                        caller = Some(Finding::of(&verdict));
                    }
                    Some(Event::Connected { call_id: own, verdict, .. }) if *own == *call_id.as_bytes() => {
                        let party = verdict.valid().and_then(|token| token.connected.as_ref());
                        callee = party.map(|party| party.text().to_owned());
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let _in_time = timeout(VERDICT_BOUND, verdicts).await;
        Finding { answered_by: callee, ..caller.unwrap_or_default() }
    }
}

/// An edge as `vesperd run` starts it, with an event for each verified call.
fn start(path: &Path, observer: &Observer) -> Result<Edge, StageError> {
    let mut config = Config::load(path, clock::unix()).map_err(StageError::Config)?;
    config.proxy.observe = true;
    Edge::start(config, observer).map_err(StageError::Start)
}

/// A free UDP port.
fn udp() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
}

/// A port that is free for UDP and TCP.
fn both() -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let udp = udp()?;
        let address: SocketAddr = udp.local_addr()?;
        attempts -= 1;
        match TcpListener::bind(address) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

fn in_tokio(socket: UdpSocket) -> io::Result<tokio::net::UdpSocket> {
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

fn random() -> io::Result<[u8; 16]> {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| io::Error::other("the system gives no random octets"))?;
    Ok(octets)
}

fn hex(octets: [u8; 16]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
