//! The raw helper: sends octets as they are over UDP or TCP, whole or in pieces, and says what must come back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Type};

use super::case::{Side, Socket, Step, Transport};
use super::judge::look_at;
use super::message::{Seen, find};
use super::place::{Place, fill_with, random};
use super::process::poll;
use super::run::Scene;

/// The longest wait for one message.
const PATIENCE: Duration = Duration::from_secs(8);

pub struct Raw {
    name: String,
    side: Side,
    transport: Transport,
    local: SocketAddr,
    proxy: SocketAddr,
    wire: Wire,
    /// Octets of a stream that make no message yet.
    pending: Vec<u8>,
    started: Instant,
    pub trace: Vec<Seen>,
}

enum Wire {
    Udp(UdpSocket),
    Stream(TcpStream),
    Listener(TcpListener),
}

impl Raw {
    /// Binds the socket to the port known as `{name_port}`.
    pub fn open(socket: &Socket, transport: Transport, place: &Place) -> Self {
        let transport = socket.transport.unwrap_or(transport);
        let (ip, port) = match socket.side {
            Side::Caller => (place.caller, "a"),
            Side::Callee => (place.callee, "b"),
        };
        let local = SocketAddr::new(ip, place.port(&format!("{}_port", socket.name)));
        let proxy = SocketAddr::new(place.proxy, place.port(port));
        let wire = match (transport, socket.side) {
            (Transport::Udp, _) => Wire::Udp(UdpSocket::bind(local).unwrap()),
            (Transport::Tcp, Side::Callee) => Wire::Listener(TcpListener::bind(local).unwrap()),
            (Transport::Tcp, Side::Caller) => Wire::Stream(connect(ip, proxy)),
        };
        let (name, side, started) = (socket.name.clone(), socket.side, Instant::now());
        Raw { name, side, transport, local, proxy, wire, pending: Vec::new(), started, trace: Vec::new() }
    }

    /// One step; the finding if it goes wrong.
    pub fn step(&mut self, step: &Step, scene: &Scene) -> Result<(), String> {
        let title = format!("{} {}", self.name, step.title);
        self.act(step, scene).map_err(|why| format!("step {}: {why}", title.trim()))
    }

    fn act(&mut self, step: &Step, scene: &Scene) -> Result<(), String> {
        if step.anew {
            self.renew();
        }
        if let Some(octets) = self.outgoing(step, &scene.place)? {
            self.send(&octets, step.chunk.unwrap_or(usize::MAX));
        }
        if !step.operator.is_empty() {
            self.operate(&step.operator, scene)?;
        }
        if let Some(wanted) = &step.receive {
            let seen = self.receive(wanted, &step.skip)?;
            look_at(&seen, &step.look, scene)?;
        }
        if let Some(millis) = step.silence_ms {
            let until = Instant::now() + Duration::from_millis(millis);
            while let Some(seen) = self.next(until)? {
                if !is_any(&seen, &step.skip) {
                    return Err(format!("there should be silence, but {} came", seen.start_line()));
                }
            }
        }
        if step.closed { self.wait_for_close() } else { Ok(()) }
    }

    fn operate(&self, arguments: &[String], scene: &Scene) -> Result<(), String> {
        let fill = |text: &String| fill_with(text, |word| self.word(word, "", &scene.place));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vesperd"));
        command.args(arguments.iter().map(fill)).args(["--socket", "admin.sock"]).current_dir(scene.path());
        let output = command.output().map_err(|e| e.to_string())?;
        let said = [output.stdout, output.stderr].concat();
        if output.status.success() { Ok(()) } else { Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&said))) }
    }

    fn outgoing(&self, step: &Step, place: &Place) -> Result<Option<Vec<u8>>, String> {
        if let Some(index) = step.again {
            let sent = self.trace.iter().filter(|m| m.sent).nth(index).ok_or("nothing was sent yet")?;
            return Ok(Some(sent.bytes.clone()));
        }
        let id = format!("{:016x}", random());
        let fill = |text: &str| fill_with(text, |word| self.word(word, &id, place));
        let text = match (&step.send, &step.request, &step.reply) {
            (Some(text), ..) if step.verbatim => return Ok(Some(fill(text).into_bytes())),
            (Some(text), ..) => fill(text),
            (_, Some(method), _) => fill(&request(method, step)),
            (.., Some(status)) => fill(&self.reply(status, step)?),
            _ => return Ok(None),
        };
        Ok(Some(text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()))
    }

    /// `{id}`, `{port}`, `{transport}`, `{sent.Name}`, `{last.Name}`, `{request.Name}` (the last request received), `{invite.Name}` (the last INVITE received), with `.parameter`, `.uri` or (Record-Route) `.routes` (for the caller) or `.routes_back` (for the callee) behind it.
    fn word(&self, word: &str, id: &str, place: &Place) -> Option<String> {
        match word {
            "id" => return Some(id.to_owned()),
            "port" => return Some(self.local.port().to_string()),
            "transport" => return Some(if self.transport == Transport::Udp { "UDP" } else { "TCP" }.to_owned()),
            _ => {}
        }
        let mut parts = word.splitn(3, '.');
        let kind = parts.next()?;
        let is_it: fn(&Seen) -> bool = match kind {
            "sent" => |m| m.sent,
            "last" => |m| !m.sent,
            "request" => |m| !m.sent && m.status().is_none(),
            "invite" => |m| !m.sent && m.start_line().starts_with("INVITE "),
            _ => return Some(place.fill(&format!("{{{word}}}"))).filter(|filled| !filled.starts_with('{')),
        };
        let (name, part) = (parts.next()?, parts.next());
        let message = self.trace.iter().rev().find(|m| is_it(m))?;
        let value = message.value(name)?;
        match part {
            None => Some(value),
            Some("uri") => Some(value.split_once('<')?.1.split_once('>')?.0.to_owned()),
            Some("routes") => {
                Some(message.elements(name).iter().rev().map(|route| format!("Route: {route}\n")).collect())
            }
            Some("routes_back") => {
                Some(message.elements(name).iter().map(|route| format!("Route: {route}\n")).collect())
            }
            Some(parameter) => {
                let (_, rest) = value.split_once(&format!(";{parameter}="))?;
                Some(rest.split([';', ',', ' ']).next()?.to_owned())
            }
        }
    }

    /// An answer to the last request that came in here (of the method in `reply_to`).
    fn reply(&self, status: &str, step: &Step) -> Result<String, String> {
        let is_it = |m: &&Seen| {
            !m.sent && m.status().is_none() && step.reply_to.as_ref().is_none_or(|method| *method == m.method())
        };
        let request = self.trace.iter().rev().find(is_it).ok_or("there is no request to answer")?;
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, mut value) in request.fields() {
            if name == "To" && !value.contains(";tag=") {
                value.push_str(&format!(";tag=callee{}", self.local.port()));
            }
            if ["Via", "From", "To", "Call-ID", "CSeq", "Record-Route"].contains(&name.as_str()) {
                fields.push((name, value));
            }
        }
        fields.push(("Contact".into(), "<sip:callee@{callee}:{port};transport={transport}>".into()));
        fields.push(("Content-Length".into(), body_of(step).replace("\n", "\r\n").len().to_string()));
        Ok(compose(format!("SIP/2.0 {status}"), fields, step))
    }

    fn send(&mut self, octets: &[u8], chunk: usize) {
        let (at, bytes) = (self.started.elapsed(), octets.to_vec());
        self.trace.push(Seen { at, sent: true, bytes });
        match &mut self.wire {
            Wire::Udp(socket) => {
                socket.send_to(octets, self.proxy).unwrap();
            }
            Wire::Stream(stream) => {
                for piece in octets.chunks(chunk) {
                    // A proxy that refuses in the middle closes; what it said is judged, not this.
                    if stream.write_all(piece).is_err() {
                        break;
                    }
                }
            }
            Wire::Listener(_) => panic!("{} sends before the proxy has connected", self.name),
        }
    }

    /// The next message that is not to be skipped; it must be the wanted one.
    fn receive(&mut self, wanted: &str, skip: &[String]) -> Result<Seen, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.next(deadline)?.ok_or_else(|| format!("no {wanted} came"))?;
            if is_it(&seen, wanted) {
                return Ok(seen);
            }
            if !is_any(&seen, skip) {
                return Err(format!("{:?} came instead of {wanted}", seen.start_line()));
            }
        }
    }

    /// The next message, or none before `deadline`.
    fn next(&mut self, deadline: Instant) -> Result<Option<Seen>, String> {
        loop {
            if let Some(bytes) = take_message(&mut self.pending, self.transport) {
                let seen = Seen { at: self.started.elapsed(), sent: false, bytes };
                self.trace.push(seen.clone());
                return Ok(Some(seen));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read(left)? {
                return Ok(None);
            }
        }
    }

    /// Reads what comes within `left`; false if nothing does.
    fn read(&mut self, left: Duration) -> Result<bool, String> {
        let mut buffer = vec![0; 65_536];
        let read = match &mut self.wire {
            Wire::Udp(socket) => {
                socket.set_read_timeout(Some(left)).unwrap();
                let from = socket.recv_from(&mut buffer);
                if let Ok((_, from)) = from
                    && from != self.proxy
                {
                    if self.side == Side::Caller {
                        return Err(format!("a datagram came from {from} instead of {}", self.proxy));
                    }
                    self.proxy = from; // which listener it leaves by is the proxy's choice; answers go back there
                }
                from.map(|(n, _)| n)
            }
            Wire::Stream(stream) => {
                stream.set_read_timeout(Some(left)).unwrap();
                stream.read(&mut buffer)
            }
            Wire::Listener(listener) => {
                listener.set_nonblocking(true).unwrap();
                let mut accepted = None;
                poll(Instant::now() + left, || {
                    accepted = listener.accept().ok();
                    accepted.is_some()
                });
                let Some((stream, _)) = accepted else { return Ok(false) };
                stream.set_nonblocking(false).unwrap();
                self.wire = Wire::Stream(stream);
                return Ok(true);
            }
        };
        match read {
            Ok(0) => Err("the proxy closed the connection".to_owned()),
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) => Err(format!("{e}")),
        }
    }

    fn wait_for_close(&mut self) -> Result<(), String> {
        let Wire::Stream(stream) = &mut self.wire else { return Err("no connection to close".to_owned()) };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read(&mut [0; 4096]) {
            Ok(0) => Ok(()),
            Ok(_) => Err("octets came instead of the end of the connection".to_owned()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err("the connection stays open".to_owned())
            }
            Err(_) => Ok(()), // reset
        }
    }

    /// A new connection, or a new socket on another port.
    fn renew(&mut self) {
        self.pending.clear();
        if let Wire::Stream(stream) = &self.wire {
            let _ = stream.shutdown(Shutdown::Both);
        }
        match self.transport {
            Transport::Tcp => self.wire = Wire::Stream(connect(self.local.ip(), self.proxy)),
            Transport::Udp => {
                let socket = UdpSocket::bind((self.local.ip(), 0)).unwrap();
                self.local = socket.local_addr().unwrap();
                self.wire = Wire::Udp(socket);
            }
        }
    }
}

/// Connects from an address of the party's own, by which the proxy knows its trunk.
fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.into()
}

/// An ordinary request with the changes of the step.
fn request(method: &str, step: &Step) -> String {
    let uri = step.uri.as_deref().unwrap_or("sip:{number}@{proxy}:{a}");
    let version = step.version.as_deref().unwrap_or("SIP/2.0");
    let fields = [
        ("Via", "SIP/2.0/{transport} {caller}:{port};branch=z9hG4bK{id};rport"),
        ("Max-Forwards", "70"),
        ("From", "<sip:+12015550112@{caller};user=phone>;tag=f{id}"),
        ("To", "<sip:{number}@{proxy};user=phone>"),
        ("Call-ID", "c{id}"),
        ("CSeq", &format!("1 {method}")),
        ("Contact", "<sip:caller@{caller}:{port};transport={transport}>"),
        ("Content-Length", &body_of(step).replace('\n', "\r\n").len().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    compose(format!("{method} {uri} {version}"), fields.to_vec(), step)
}

fn compose(start_line: String, mut fields: Vec<(String, String)>, step: &Step) -> String {
    fields.retain(|(name, _)| !step.without.contains(name));
    for (name, value) in &step.with {
        match fields.iter_mut().find(|(n, _)| n == name) {
            Some(field) => field.1.clone_from(value),
            None => fields.insert(fields.len().saturating_sub(1), (name.clone(), value.clone())),
        }
    }
    let mut text = start_line + "\n";
    text.extend(fields.iter().map(|(name, value)| format!("{name}: {value}\n")));
    // A word may stand for lines that end themselves.
    text.extend(step.add.iter().map(|line| {
        if line.ends_with(".routes}") || line.ends_with(".routes_back}") { line.clone() } else { format!("{line}\n") }
    }));
    text + "\n" + &body_of(step)
}

fn body_of(step: &Step) -> String {
    step.body_octets.map_or_else(|| step.body.clone(), |n| "x".repeat(n))
}

/// Takes one message off the front: a datagram is one, a stream is cut by Content-Length.
fn take_message(pending: &mut Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
    if transport == Transport::Udp {
        return (!pending.is_empty()).then(|| std::mem::take(pending));
    }
    while pending.starts_with(b"\r\n") {
        pending.drain(..2);
    }
    let head = find(pending, b"\r\n\r\n")? + 4;
    let seen = Seen { at: Duration::ZERO, sent: false, bytes: pending[..head].to_vec() };
    let body = seen.value("Content-Length").and_then(|n| n.parse().ok()).unwrap_or(0);
    (pending.len() >= head + body).then(|| pending.drain(..head + body).collect())
}

/// A method, or a status with the beginning of its phrase.
fn is_it(seen: &Seen, wanted: &str) -> bool {
    let line = seen.start_line();
    line.strip_prefix("SIP/2.0 ").unwrap_or(&line).starts_with(wanted)
}

fn is_any(seen: &Seen, list: &[String]) -> bool {
    list.iter().any(|wanted| is_it(seen, wanted))
}
