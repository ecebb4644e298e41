//! A proxy core on a clock of its own, and written messages for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vesperd::proxy::{
    Answer, Config, Listener, Need, NeedId, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId,
};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index};
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

pub const US: &str = "192.0.2.1";
/// Unix time when a rig begins.
pub const NOW: i64 = 1_795_219_200;
pub const CALLER: &str = "192.0.2.10:5060";

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn listener(transport: Transport, port: u16) -> Listener {
    Listener {
        name: format!("{}-{port}", transport.via_token()),
        transport,
        bind: format!("{US}:{port}").parse().unwrap(),
        advertise_host: US.into(),
        advertise_port: port,
        names: Vec::new(),
    }
}

/// A trunk with these UDP next hops.
pub fn trunk(name: &str, hops: &[&str]) -> Trunk {
    let hop = |h: &&str| NextHop { transport: Transport::Udp, remote: addr(h) }.into();
    Trunk { name: name.into(), next_hops: hops.iter().map(hop).collect(), ..Trunk::default() }
}

/// Route rules from a trunk, or from any, to a trunk.
pub fn routes(rules: &[(Option<u16>, u16)]) -> Vec<Route> {
    rules
        .iter()
        .map(|(from, to)| Route { from: from.map(TrunkId).into_iter().collect(), ..Route::to(TrunkId(*to)) })
        .collect()
}

/// One message that left.
#[derive(Debug, Clone)]
pub struct Sent {
    pub hop: Hop,
    pub tag: u64,
    pub text: String,
}

impl Sent {
    pub fn first_line(&self) -> &str {
        self.text.split("\r\n").next().unwrap()
    }

    pub fn lines(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        self.text.split("\r\n").take_while(|l| !l.is_empty()).filter_map(|l| l.strip_prefix(&start)).collect()
    }

    pub fn line(&self, name: &str) -> &str {
        let lines = self.lines(name);
        assert_eq!(lines.len(), 1, "one {name} in\n{}", self.text);
        lines[0]
    }

    pub fn is_to(&self, address: &str) -> bool {
        self.hop.remote == addr(address)
    }

    pub fn status(&self) -> Option<u16> {
        self.first_line().strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }
}

pub struct Rig {
    pub proxy: Proxy,
    pub now: Now,
    pub events: Vec<vesperd::proxy::Event>,
    index: Index,
    limits: sip::Limits,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        Self::trusting(config, TrustStore::default())
    }

    /// One that believes some certificates.
    pub fn trusting(config: Config, trust: TrustStore) -> Self {
        Self::of(Snapshot { config, trust, replay: ReplayTable::default() })
    }

    pub fn of(snapshot: Snapshot) -> Self {
        let now = Now { instant: super::epoch(), unix: NOW };
        let limits = snapshot.config.parser.clone();
        let proxy = Proxy::new(Arc::new(snapshot), [7; 32], now);
        Rig { proxy, now, events: Vec::new(), index: Index::new(), limits }
    }

    pub fn receive(&mut self, from: &str, text: &str) -> Vec<Sent> {
        self.receive_all(Transport::Udp, 0, from, text).0
    }

    /// What is sent, and what is needed. Line ends may be written as LF.
    pub fn receive_all(
        &mut self,
        transport: Transport,
        listener: u16,
        from: &str,
        text: &str,
    ) -> (Vec<Sent>, Vec<Need>) {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        self.receive_raw(transport, listener, from, text.as_bytes())
    }

    pub fn receive_raw(
        &mut self,
        transport: Transport,
        listener: u16,
        from: &str,
        bytes: &[u8],
    ) -> (Vec<Sent>, Vec<Need>) {
        let connection = transport.is_reliable().then_some(sip::ConnectionId(1));
        let source = Hop { transport, local: ListenerId(listener), remote: addr(from), connection, peer: None };
        let mut out = Output::default();
        let is_lenient = self.proxy.is_lenient_with(source);
        let leniency = if is_lenient { sip::Leniency::TRUSTED } else { self.limits.leniency };
        let limits = sip::Limits { leniency, ..self.limits.clone() };
        let message = sip::parse(bytes, &mut self.index, Framing::Datagram, &limits).expect("indexable");
        self.proxy.handle_message(self.now, source, message, &mut out);
        (self.sent(&mut out), out.needs)
    }

    pub fn provide(&mut self, need: NeedId, answer: Answer) -> Vec<Sent> {
        let mut out = Output::default();
        self.proxy.handle_answer(self.now, need, answer, &mut out);
        self.sent(&mut out)
    }

    /// Advances the clock, running every timer that comes due on the way.
    pub fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now.instant + time;
        let mut all = Vec::new();
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now.instant = self.now.instant.max(at);
            let mut out = Output::default();
            self.proxy.handle_timeout(self.now, &mut out);
            all.extend(self.sent(&mut out));
        }
        self.now.instant = end;
        all
    }

    pub fn fail(&mut self, tag: u64) -> Vec<Sent> {
        self.fail_all(tag).0
    }

    /// What is sent, and what is needed, after this could not be delivered.
    pub fn fail_all(&mut self, tag: u64) -> (Vec<Sent>, Vec<Need>) {
        let mut out = Output::default();
        self.proxy.handle_transport_failure(self.now, tag, &mut out);
        (self.sent(&mut out), out.needs)
    }

    /// Everything ends, and nothing is left.
    pub fn settle(&mut self) -> Vec<Sent> {
        let out = self.pass(seconds(600));
        assert_eq!(self.proxy.live(), 0, "a context leaked");
        assert_eq!(self.proxy.unanswered(), 0);
        out
    }

    fn sent(&mut self, out: &mut Output) -> Vec<Sent> {
        let text = |t| String::from_utf8(out.outbox.bytes_of(t).to_vec()).unwrap();
        let sent = out.outbox.items().iter().map(|t| Sent { hop: t.hop, tag: t.tag, text: text(t) }).collect();
        self.events.append(&mut out.events);
        sent
    }
}

/// A request of the caller.
pub fn request(method: &str, to_tag: &str, extra: &str) -> String {
    format!(
        "{method} sip:+12155551213@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1;rport\nMax-Forwards: 70\n{extra}\
         From: <sip:+12015550100@192.0.2.10>;tag=a1\nTo: <sip:+12155551213@192.0.2.1>{to_tag}\nCall-ID: c1@192.0.2.10\n\
         CSeq: 1 {method}\nContent-Length: 0\n\n"
    )
}

/// An answer to a request that was received.
pub fn answer(request: &Sent, status: u16, extra: &str) -> String {
    let copy = |name: &str| request.lines(name).iter().map(|v| format!("{name}: {v}\n")).collect::<String>();
    let to = request.line("To");
    let tag = if status == 100 || to.contains("tag=") { "" } else { ";tag=b1" };
    format!(
        "SIP/2.0 {status} Said So\n{}{}{}To: {to}{tag}\n{}{}{extra}Content-Length: 0\n\n",
        copy("Via"),
        copy("Record-Route"),
        copy("From"),
        copy("Call-ID"),
        copy("CSeq")
    )
}

/// Statuses that went to the caller.
pub fn upstream(out: &[Sent]) -> Vec<u16> {
    out.iter().filter(|s| s.is_to(CALLER)).filter_map(Sent::status).collect()
}

/// Requests of this method that left.
pub fn requests<'a>(out: &'a [Sent], method: &str) -> Vec<&'a Sent> {
    out.iter().filter(|s| s.first_line().starts_with(&format!("{method} "))).collect()
}
