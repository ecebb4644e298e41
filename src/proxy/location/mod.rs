//! Location of SIP servers (RFC 3263): what is asked, and what needs no asking.

pub mod order;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::NextHop;
use crate::sip::hop::{Transport, is_sendable};
use crate::sip::{Host, Scheme, Uri};

/// Whom a URI names: its `maddr`, or else its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetHost {
    /// An address in figures.
    Ip(IpAddr),
    /// A name in lower case, without a dot at its end.
    Name(Arc<str>),
}

/// What RFC 3263 is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// TARGET of RFC 3263 4.
    pub host: TargetHost,
    /// The port, if written.
    pub port: Option<u16>,
    /// The transport, if named.
    pub transport: Option<Transport>,
    /// The URI is a `sips` one: TLS on every hop (RFC 3261 26.2.2).
    pub secure: bool,
}

/// Why a target has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocateFailure {
    /// There is no such name, or it has no address.
    NoSuchName,
    /// No answer in time, or an error of the server.
    NoAnswer,
    /// It can be reached by no transport or address family of ours.
    Unsupported,
    /// Too many questions are open already.
    Busy,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        match &self.host {
            TargetHost::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            TargetHost::Ip(ip) => write!(f, "{ip}")?,
            TargetHost::Name(name) => f.write_str(name)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.transport
            .map_or(Ok(()), |transport| write!(f, ";transport={}", transport.via_token().to_ascii_lowercase()))
    }
}

impl Target {
    /// The target of a SIP or SIPS URI: `maddr` before host. `None` for other schemes and for transports unknown here.
    pub fn of_uri(uri: &Uri<'_>) -> Option<Target> {
        if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
            return None;
        }
        let transport = match uri.param("transport").flatten() {
            Some(token) => Some(Transport::from_token(token)?),
            None => None,
        };
        let maddr = uri.param("maddr").flatten().and_then(|host| Host::leading(host).ok());
        let host = maddr.map_or(uri.host, |(host, _)| host);
        let host = match (host.ip(), host) {
            (Some(ip), _) => TargetHost::Ip(ip),
            (None, Host::Name(name)) => {
                let name = std::str::from_utf8(name).ok()?.trim_end_matches('.');
                TargetHost::Name(name.to_ascii_lowercase().into())
            }
            (None, _) => return None,
        };
        Some(Target { host, port: uri.port, transport, secure: uri.scheme == Scheme::Sips })
    }

    /// The transport where nothing else is said (RFC 3263 4.1).
    pub fn likely_transport(&self) -> Transport {
        self.transport.unwrap_or(if self.secure { Transport::Tls } else { Transport::Udp })
    }

    /// The one place that a target in figures means: no DNS is asked (RFC 3263 4.1, 4.2). `None` for a name, and for an address that
    /// nothing may be sent to.
    pub fn direct(&self) -> Option<NextHop> {
        let TargetHost::Ip(ip) = self.host else { return None };
        let ip = Some(ip).filter(|ip| is_sendable(*ip))?;
        let transport = match (self.secure, self.transport) {
            (true, Some(Transport::Ws | Transport::Wss)) => Transport::Wss,
            (true, _) => Transport::Tls,
            (false, named) => named.unwrap_or(Transport::Udp),
        };
        Some(NextHop { transport, remote: SocketAddr::new(ip, self.port.unwrap_or(transport.default_port())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Option<Target> {
        Target::of_uri(&Uri::parse(uri.as_bytes()).unwrap())
    }

    fn direct(uri: &str) -> Option<(Transport, String)> {
        target(uri)?.direct().map(|hop| (hop.transport, hop.remote.to_string()))
    }

    #[test]
    fn figures_need_no_question() {
        assert_eq!(direct("sip:a@192.0.2.1"), Some((Transport::Udp, "192.0.2.1:5060".into())));
        assert_eq!(direct("sip:192.0.2.1:5070;transport=tcp"), Some((Transport::Tcp, "192.0.2.1:5070".into())));
        assert_eq!(direct("sips:a@[2001:db8::1]"), Some((Transport::Tls, "[2001:db8::1]:5061".into())));
        assert_eq!(direct("sips:a@192.0.2.1;transport=tcp"), Some((Transport::Tls, "192.0.2.1:5061".into())));
        assert_eq!(direct("sip:a@far.example;maddr=192.0.2.9"), Some((Transport::Udp, "192.0.2.9:5060".into())));
        assert_eq!(direct("sip:a@255.255.255.255"), None);
        assert_eq!(direct("sip:far.example"), None);
    }

    #[test]
    fn names_are_asked_for_as_they_are_written() {
        let found = target("sip:a@Far.Example.:5070;transport=TCP").unwrap();
        assert_eq!(found.host, TargetHost::Name("far.example".into()));
        assert_eq!((found.port, found.transport, found.secure), (Some(5070), Some(Transport::Tcp), false));
        assert_eq!(target("tel:+12155551213"), None);
        assert_eq!(target("sip:a@far.example;transport=sctp"), None);
    }
}
