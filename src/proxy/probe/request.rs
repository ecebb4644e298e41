//! The request that a ping is (KR-7): its own From tag and Call-ID, our Via, no dialog, no route.

use std::io::Write as _;

use super::Probing;
use crate::proxy::{Listener, NextHop};
use crate::sip::hop::Transport;

/// What a ping consists of.
pub struct Ping<'a> {
    /// Method, From, Max-Forwards.
    pub probing: &'a Probing,
    /// The listener it leaves by.
    pub listener: &'a Listener,
    /// Where it goes.
    pub at: NextHop,
    /// The URI of whom it asks.
    pub uri: &'a str,
    /// Branch of our Via.
    pub branch: &'a [u8],
    /// Its Call-ID.
    pub call_id: &'a str,
    /// Its From tag.
    pub tag: &'a [u8; 16],
}

/// The URI of an address.
pub fn uri_of(at: NextHop) -> String {
    match at.transport {
        Transport::Udp => format!("sip:{}", at.remote),
        transport => format!("sip:{};transport={}", at.remote, transport.via_token().to_ascii_lowercase()),
    }
}

/// Appends it to `out`.
pub fn write(ping: &Ping<'_>, out: &mut Vec<u8>) {
    let Ping { probing, listener, at, uri, call_id, .. } = ping;
    let (method, transport) = (&probing.method, at.transport.via_token());
    let (host, port) = (&listener.advertise_host, listener.advertise_port);
    let tag = u128::from_be_bytes(*ping.tag);
    let rport = if at.transport == Transport::Udp { ";rport" } else { "" };
    // Writing to a vector does not fail.
    let _ = write!(out, "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {host}:{port};branch=");
    out.extend_from_slice(ping.branch);
    let _ = write!(out, "{rport}\r\nMax-Forwards: {}\r\nFrom: <", probing.max_forwards);
    let _ = match &probing.from {
        Some(from) => write!(out, "{from}"),
        None => write!(out, "sip:ping@{host}"),
    };
    let _ = write!(
        out,
        ">;tag={tag:032x}\r\nTo: <{uri}>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\nAccept: application/sdp\r\nContent-Length: 0\r\n\r\n"
    );
}
