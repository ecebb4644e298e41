//! Where a message came from or goes to: copyable data, no sockets.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Framing;

/// A transport of RFC 3261 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream under TLS.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket under TLS.
    Wss,
}

impl Transport {
    /// Retransmission is the transport's own business (T-10).
    pub fn is_reliable(self) -> bool {
        self != Self::Udp
    }

    /// The token of the Via `sent-protocol`.
    pub fn via_token(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// Octets travel under TLS: what a `sips` URI demands (RFC 3261 26.2.2).
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Messages of a WebSocket (RFC 7118): they come over connections that browsers open, and go nowhere else.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// How messages are told apart: on a WebSocket by its own messages, as datagrams are (F-9).
    pub fn framing(self) -> Framing {
        if matches!(self, Self::Tcp | Self::Tls) { Framing::Stream } else { Framing::Datagram }
    }

    /// Port used where none is written (T-2).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// The transport a Via token or a `transport` URI parameter names, in any case.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss]
            .into_iter()
            .find(|t| t.via_token().as_bytes().eq_ignore_ascii_case(token))
    }
}

/// A listening socket, numbered by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// A stream connection; never reused within the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// A neighbour as the transport knows it; equals the number of its trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub u16);

/// One end of one transport leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Transport of the leg.
    pub transport: Transport,
    /// Own socket the message came in on or leaves from (T-11).
    pub local: ListenerId,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The connection, on a reliable transport, once there is one.
    pub connection: Option<ConnectionId>,
    /// Whom a new TLS connection is opened to: decides SNI, the names its certificate may bear, and our own certificate.
    pub peer: Option<PeerId>,
}

/// Set in the tags of responses: nothing comes back for what bears it.
pub const RESPONSE_TAG: u64 = 1 << 63;

/// One message in an [`Outbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub hop: Hop,
    /// Where its octets lie; see [`Outbox::bytes_of`].
    pub range: Range<usize>,
    /// Repeated in a report of failure; 0 if nobody cares.
    pub tag: u64,
}

/// What is to be sent: the octets of a batch in one arena. Machines write it, transports read it.
#[derive(Debug, Default)]
pub struct Outbox {
    arena: Vec<u8>,
    items: Vec<Transmit>,
}

impl Outbox {
    /// Nothing to send, nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the messages, keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.items.clear();
    }

    /// Nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a message.
    pub fn push(&mut self, hop: Hop, tag: u64, bytes: &[u8]) {
        self.push_with(hop, tag, |arena| arena.extend_from_slice(bytes));
    }

    /// Adds the message that `write` appends to the arena; what lies there already is not to be touched.
    pub fn push_with(&mut self, hop: Hop, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        self.items.push(Transmit { hop, range: start..self.arena.len(), tag });
    }

    /// The messages in the order they were added.
    pub fn items(&self) -> &[Transmit] {
        &self.items
    }

    /// The octets of one of [`Self::items`].
    pub fn bytes_of(&self, item: &Transmit) -> &[u8] {
        self.arena.get(item.range.clone()).unwrap_or_default()
    }
}

/// A unicast address a message may be sent to: not unspecified, multicast or broadcast (RFC 4475 3.3.10).
pub fn is_sendable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_ports() {
        assert_eq!(Transport::from_token(b"tls"), Some(Transport::Tls));
        assert_eq!(Transport::from_token(b"SCTP"), None);
        assert_eq!(Transport::Tls.default_port(), 5061);
        assert!(!Transport::Udp.is_reliable() && Transport::Tcp.is_reliable());
    }

    #[test]
    fn an_outbox_gives_back_what_was_put_in() {
        let hop = |port| Hop {
            transport: Transport::Udp,
            local: ListenerId(0),
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
            connection: None,
            peer: None,
        };
        let mut out = Outbox::new();
        out.push(hop(1), 7, b"one");
        out.push_with(hop(2), 0, |arena| arena.extend_from_slice(b"two"));
        let seen: Vec<_> = out.items().iter().map(|t| (t.hop.remote.port(), t.tag, out.bytes_of(t))).collect();
        assert_eq!(seen, [(1, 7, &b"one"[..]), (2, 0, b"two")]);
        out.clear();
        assert!(out.is_empty() && out.items().is_empty());
    }

    #[test]
    fn nothing_goes_to_everybody() {
        for bad in ["255.255.255.255", "224.0.0.1", "0.0.0.0", "::", "ff02::1", "::ffff:255.255.255.255"] {
            assert!(!is_sendable(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_sendable("192.0.2.1".parse().unwrap()) && is_sendable("2001:db8::1".parse().unwrap()));
    }
}
