//! The caller: a small SIP user agent client over real sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Dialog, Leg, status_of};
use crate::node::clock;
use crate::sip::stream::{Frame, StreamError, StreamFramer};
use crate::sip::{Framing, Index, Limits, Message, OwnedMessage, Transport, parse};

/// T1 of RFC 3261 17.1.1.1: over UDP a request is sent again after it, and after twice that, and so on.
const T1: Duration = Duration::from_millis(500);

/// Why a call came to no end.
#[derive(Debug)]
pub enum CallError {
    /// A socket failed.
    Io(io::Error),
    /// The edge closed the connection.
    Closed,
    /// The edge sent something that is no SIP stream.
    Stream(StreamError),
    /// A request could not be built.
    Request(rsip::Error),
    /// A 200 without a usable Contact.
    NoTarget,
    /// No final response in time.
    Silence,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the edge closed the connection"),
            Self::Stream(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::NoTarget => f.write_str("the answer names no Contact"),
            Self::Silence => f.write_str("no final response in time"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rsip::Error> for CallError {
    fn from(error: rsip::Error) -> Self {
        Self::Request(error)
    }
}

/// How a call went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Final status of the INVITE.
    pub status: u16,
    /// Its phrase.
    pub phrase: String,
    /// A 180 came before.
    pub rang: bool,
    /// The call was established, and its BYE answered by 200.
    pub hung_up: bool,
}

/// Calls through `edge`, hangs up as soon as the call is answered; `invite` is the request of `leg`. Over UDP `socket` is used, which
/// listens on the leg's address; over TCP a new connection.
///
/// # Errors
/// [`CallError`]; [`CallError::Silence`] after `bound`.
pub async fn call(
    socket: &UdpSocket,
    edge: SocketAddr,
    leg: &Leg,
    invite: &str,
    bound: Duration,
) -> Result<Answer, CallError> {
    let conversation = async {
        let mut wire = match leg.transport {
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => {
                let stream = TcpStream::connect(edge).await?;
                stream.set_nodelay(true)?;
                Wire::Tcp { stream, framer: Box::default() }
            }
            Transport::Udp => Wire::Udp { socket, edge },
        };
        converse(&mut wire, leg, invite).await
    };
    timeout(bound, conversation).await.unwrap_or(Err(CallError::Silence))
}

async fn converse(wire: &mut Wire<'_>, leg: &Leg, invite: &str) -> Result<Answer, CallError> {
    let mut rang = false;
    let last = wire.transact(leg, invite, b"INVITE", |status| rang |= status == 180).await?;
    let last = last.message();
    let (status, phrase) = status_of(last).unwrap_or_default();
    if status >= 300 {
        wire.send(&leg.ack_refusal(last)?).await?;
        return Ok(Answer { status, phrase, rang, hung_up: false });
    }
    let dialog = Dialog::of(last).ok_or(CallError::NoTarget)?;
    wire.send(&leg.ack(&dialog)?).await?;
    let end = wire.transact(leg, &leg.bye(&dialog)?, b"BYE", |_| ()).await?;
    Ok(Answer { status, phrase, rang, hung_up: end.message().status() == Some(200) })
}

/// The way to the edge.
enum Wire<'a> {
    Udp { socket: &'a UdpSocket, edge: SocketAddr },
    Tcp { stream: TcpStream, framer: Box<StreamFramer> },
}

impl Wire<'_> {
    async fn send(&mut self, request: &str) -> io::Result<()> {
        match self {
            Self::Udp { socket, edge } => socket.send_to(request.as_bytes(), *edge).await.map(|_| ()),
            Self::Tcp { stream, .. } => stream.write_all(request.as_bytes()).await,
        }
    }

    /// Sends a request and waits for its final response; `provisional` sees the status of the others.
    async fn transact(
        &mut self,
        leg: &Leg,
        request: &str,
        method: &[u8],
        mut provisional: impl FnMut(u16),
    ) -> Result<OwnedMessage, CallError> {
        self.send(request).await?;
        let (mut wait, mut is_silent) = (T1, true);
        loop {
            let response = match timeout(wait, self.receive()).await {
                Ok(response) => response?,
                Err(_) => {
                    wait *= 2;
                    if is_silent && matches!(self, Self::Udp { .. }) {
                        self.send(request).await?;
                    }
                    continue;
                }
            };
            let Some(response) = response.filter(|response| belongs(response.message(), leg, method)) else { continue };
            is_silent = false;
            match response.message().status() {
                Some(status) if status >= 200 => return Ok(response),
                Some(status) => provisional(status),
                None => {}
            }
        }
    }

    /// The next message; `None` for what is none. Nothing is lost when the wait is given up.
    async fn receive(&mut self) -> Result<Option<OwnedMessage>, CallError> {
        match self {
            Self::Udp { socket, .. } => {
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).await?;
                Ok(read(&buffer[..length], Framing::Datagram))
            }
            Self::Tcp { stream, framer } => loop {
                if let Some(frame) = framer.next(&Limits::default()).map_err(CallError::Stream)? {
                    let (Frame::Message(range) | Frame::Broken(range)) = frame else { continue };
                    return Ok(read(&framer.bytes()[range], Framing::Stream));
                }
                let mut buffer = [0; 16_384];
                match stream.read(&mut buffer).await? {
                    0 => return Err(CallError::Closed),
                    length => framer.push(&buffer[..length], clock::instant()),
                }
            },
        }
    }
}

fn read(octets: &[u8], framing: Framing) -> Option<OwnedMessage> {
    let mut index = Index::new();
    parse(octets, &mut index, framing, &Limits::default()).ok().map(OwnedMessage::from)
}

/// A response to this method of this call: others are stragglers of earlier calls.
fn belongs(message: Message<'_>, leg: &Leg, method: &[u8]) -> bool {
    message.call_id() == Some(leg.call_id.as_bytes())
        && message.cseq().is_ok_and(|cseq| cseq.method.as_bytes() == method)
}
