//! Via values (RFC 3261 20.42, 18.2.1; RFC 3581).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Patch;
use super::host::{self, Host};
use super::params::{MAX_PARAMS, Params, Step, step};
use super::text::{self, Malformed, Span};

/// Why a Via whose protocol and sent-by are readable is still not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ViaFault {
    /// Not SIP/2.0 (V-3).
    Protocol,
    /// Empty or unreadable parameters, list elements, or a repeated one of those used.
    Params,
    /// A branch that is only the magic cookie.
    BareCookie,
}

/// The parsed parts of a Via value as offsets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ViaSpans {
    value: Span,
    transport: Span,
    host: Span,
    /// The host, if it is an address.
    address: Option<IpAddr>,
    /// 0 without one.
    port: u16,
    params: u32,
    branch: Span,
    /// The parameter from its `;`, and its value.
    received: (Span, Span),
    rport: (Span, Span),
    maddr: Span,
    pub(crate) fault: Option<ViaFault>,
}

impl ViaSpans {
    /// Reads the first value in `bytes[at..end]`, in the coordinates of `bytes`, into empty spans.
    ///
    /// `Err` if protocol and sent-by can not be read (nothing can be answered); lesser faults are kept.
    pub(crate) fn read(&mut self, bytes: &[u8], at: usize, end: usize) -> Result<(), Malformed> {
        let bytes = bytes.get(..end).ok_or(Malformed)?;
        let after = read_sent_protocol(bytes, at, self)?;
        let host_start = text::skip_lws(bytes, after);
        if host_start == after {
            return Err(Malformed);
        }
        let after = read_sent_by(bytes, host_start, self)?;
        self.params = after as u32;
        let value_end = read_params(bytes, after, self);
        self.value = Span::new(at..value_end);
        Ok(())
    }
}

/// One Via value.
#[derive(Debug, Clone, Copy)]
pub struct Via<'a> {
    bytes: &'a [u8],
    spans: ViaSpans,
}

/// The magic cookie of RFC 3261 8.1.1.7, byte-exact (V-4).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// What is to be written into a Via so that its sender is reachable (T-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) range: Range<usize>,
    kind: StampKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StampKind {
    Received(IpAddr),
    Rport(u16),
}

impl Stamp {
    /// Appends `;received=…` or `;rport=…`; IPv6 without brackets (RFC 5118 4.5).
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.kind {
            StampKind::Received(address) => {
                out.extend_from_slice(b";received=");
                push_address(out, address);
            }
            StampKind::Rport(port) => {
                out.extend_from_slice(b";rport=");
                text::push_decimal(out, u32::from(port));
            }
        }
    }
}

/// Appends an address in text, without brackets.
pub(crate) fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                text::push_decimal(out, u32::from(octet));
            }
        }
        IpAddr::V6(v6) => {
            use std::io::Write;
            let _ = write!(out, "{v6}"); // writing to a Vec can not fail
        }
    }
}

impl<'a> Via<'a> {
    /// Reads one whole value, strictly: nothing may stand behind it.
    pub fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
        let mut spans = ViaSpans::default();
        spans.read(value, text::skip_lws(value, 0), value.len())?;
        let is_clean =
            spans.fault != Some(ViaFault::Params) && text::skip_lws(value, spans.value.end as usize) == value.len();
        if is_clean { Ok(Self { bytes: value, spans }) } else { Err(Malformed) }
    }

    pub(crate) fn from_spans(bytes: &'a [u8], spans: ViaSpans) -> Self {
        Self { bytes, spans }
    }

    /// The transport token, as received; unknown ones are legal (V-2).
    pub fn transport(self) -> &'a [u8] {
        self.spans.transport.of(self.bytes)
    }

    /// sent-by host as received, IPv6 in brackets.
    pub fn host(self) -> &'a [u8] {
        self.spans.host.of(self.bytes)
    }

    /// sent-by host, read.
    pub fn host_parsed(self) -> Host<'a> {
        match self.spans.address {
            Some(IpAddr::V4(v4)) => Host::V4(v4),
            Some(IpAddr::V6(v6)) => Host::V6(v6),
            None => Host::Name(self.host()),
        }
    }

    /// sent-by port, if written.
    pub fn port(self) -> Option<u16> {
        (self.spans.port != 0).then_some(self.spans.port)
    }

    /// The branch parameter.
    pub fn branch(self) -> Option<&'a [u8]> {
        Some(self.spans.branch.of(self.bytes)).filter(|b| !b.is_empty())
    }

    /// The branch, if it carries the magic cookie and something behind it (V-4, X-4).
    pub fn rfc3261_branch(self) -> Option<&'a [u8]> {
        self.branch().filter(|b| b.len() > MAGIC_COOKIE.len() && b.starts_with(MAGIC_COOKIE))
    }

    /// The received parameter, if it has a value.
    pub fn received(self) -> Option<&'a [u8]> {
        Some(self.spans.received.1.of(self.bytes)).filter(|v| !v.is_empty())
    }

    /// The received parameter as an address, with or without brackets.
    pub fn received_address(self) -> Option<IpAddr> {
        self.received().and_then(host::received_address)
    }

    /// `None`: no rport. `Some(None)`: asked for. `Some(Some(port))`: filled in (an unreadable value counts as asked for).
    pub fn rport(self) -> Option<Option<u16>> {
        let (range, value) = self.spans.rport;
        (!range.is_empty()).then(|| text::port(value.of(self.bytes)))
    }

    /// The maddr parameter.
    pub fn maddr(self) -> Option<&'a [u8]> {
        Some(self.spans.maddr.of(self.bytes)).filter(|m| !m.is_empty())
    }

    /// All parameters in order; their ranges are in message coordinates.
    pub fn params(self) -> Params<'a> {
        let value = self.bytes.get(..self.spans.value.end as usize).unwrap_or_default();
        Params::new(value, self.spans.params as usize)
    }

    /// Range of this value (not of its line) in the message.
    pub fn range(self) -> Range<usize> {
        self.spans.value.range()
    }

    /// What T-3 wants written for a message that came from `source`: `received` if the sent-by is a name or another address, or
    /// if `rport` is asked for; `rport` only if asked for. What the sender wrote there itself is overwritten.
    pub(crate) fn stamps(self, source: SocketAddr) -> [Option<Stamp>; 2] {
        let source_ip = source.ip().to_canonical();
        let end = self.spans.value.end as usize;
        let (received, rport) = (self.spans.received.0, self.spans.rport.0);
        let is_needed = !rport.is_empty()
            || !received.is_empty()
            || self.spans.address.map(|ip| ip.to_canonical()) != Some(source_ip);
        let rport = (!rport.is_empty()).then(|| Stamp { range: rport.range(), kind: StampKind::Rport(source.port()) });
        let received = is_needed.then(|| Stamp {
            range: if received.is_empty() { end..end } else { received.range() },
            kind: StampKind::Received(source_ip),
        });
        match (&received, &rport) {
            (Some(a), Some(b)) if b.range.start < a.range.start => [rport, received],
            _ => [received, rport],
        }
    }

    /// Adds the edits of T-3 for a message that came from `source`.
    pub fn stamp(self, source: SocketAddr, patch: &mut Patch) {
        for stamp in self.stamps(source).into_iter().flatten() {
            patch.replace_with(stamp.range.clone(), |out| stamp.write(out));
        }
    }
}

/// `SIP / 2.0 / TRANSPORT`; sets the transport and returns the position behind it.
fn read_sent_protocol(bytes: &[u8], at: usize, spans: &mut ViaSpans) -> Result<usize, Malformed> {
    let transport = if text::span(bytes, at, at + 8).eq_ignore_ascii_case(b"SIP/2.0/") {
        text::skip_lws(bytes, at + 8)
    } else {
        let name_end = text::skip_token(bytes, at);
        let version = slash(bytes, name_end)?;
        let version_end = text::skip_token(bytes, version);
        if name_end == at || version_end == version {
            return Err(Malformed);
        }
        let is_sip = text::span(bytes, at, name_end).eq_ignore_ascii_case(b"SIP")
            && text::span(bytes, version, version_end) == b"2.0";
        if !is_sip {
            spans.fault = Some(ViaFault::Protocol);
        }
        slash(bytes, version_end)?
    };
    let end = text::skip_token(bytes, transport);
    if end == transport {
        return Err(Malformed);
    }
    spans.transport = Span::new(transport..end);
    Ok(end)
}

/// `*LWS "/" *LWS` (V-1).
fn slash(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let at = text::skip_lws(bytes, at);
    if bytes.get(at) == Some(&b'/') { Ok(text::skip_lws(bytes, at + 1)) } else { Err(Malformed) }
}

/// `host [ *LWS ":" *LWS port ]`; returns the position behind it.
fn read_sent_by(bytes: &[u8], at: usize, spans: &mut ViaSpans) -> Result<usize, Malformed> {
    let rest = text::span(bytes, at, bytes.len());
    let (host, len) = Host::leading(rest)?;
    let end = at + len;
    spans.host = Span::new(at..end);
    spans.address = host.ip();
    let colon = text::skip_lws(bytes, end);
    if bytes.get(colon) != Some(&b':') {
        return Ok(end);
    }
    let port = text::skip_lws(bytes, colon + 1);
    let digits = text::span(bytes, port, bytes.len()).iter().take_while(|b| b.is_ascii_digit()).count();
    spans.port = text::port(text::span(bytes, port, port + digits)).ok_or(Malformed)?;
    Ok(port + digits)
}

/// Reads the parameters, notes faults, and returns the end of the value (its last octet that could be read).
fn read_params(bytes: &[u8], start: usize, spans: &mut ViaSpans) -> usize {
    let mut at = start;
    let mut bad = false;
    for _ in 0..MAX_PARAMS {
        match step(bytes, at) {
            Step::End => return finish(bytes, at, bad, spans),
            Step::Comma(comma) => {
                // An empty list element (H-9).
                let next = text::skip_lws(bytes, comma + 1);
                bad |= matches!(bytes.get(next), None | Some(b','));
                return finish(bytes, at, bad, spans);
            }
            Step::Bad => break,
            Step::Param(param) => {
                let value = param.value.map_or(Span::default(), |v| {
                    let end = param.range.end;
                    Span::new(end - v.len()..end)
                });
                let range = Span::new(param.range.clone());
                bad |= note_param(param.name, range, value, spans);
                at = param.range.end;
            }
        }
    }
    finish(bytes, at, true, spans)
}

/// Keeps a parameter that is used; true if it is the second of its name.
fn note_param(name: &[u8], range: Span, value: Span, spans: &mut ViaSpans) -> bool {
    let slot = match name.len() {
        6 if name.eq_ignore_ascii_case(b"branch") => &mut spans.branch,
        5 if name.eq_ignore_ascii_case(b"maddr") => &mut spans.maddr,
        5 if name.eq_ignore_ascii_case(b"rport") => {
            return !std::mem::replace(&mut spans.rport, (range, value)).0.is_empty();
        }
        8 if name.eq_ignore_ascii_case(b"received") => {
            return !std::mem::replace(&mut spans.received, (range, value)).0.is_empty();
        }
        _ => return false,
    };
    !std::mem::replace(slot, value).is_empty()
}

fn finish(bytes: &[u8], at: usize, bad: bool, spans: &mut ViaSpans) -> usize {
    if spans.fault.is_none() {
        spans.fault = if bad {
            Some(ViaFault::Params)
        } else if spans.branch.of(bytes) == MAGIC_COOKIE {
            Some(ViaFault::BareCookie)
        } else {
            None
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Via<'_> {
        Via::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn v1_grammar_variants() {
        let v = via(
            "SIP / 2.0 / UDP     first.example.com : 4000 ;ttl=16\r\n ;maddr = 224.2.0.1 ; branch\r\n\t=z9hG4bKa7c6a8dlze.1",
        );
        assert_eq!(v.transport(), b"UDP");
        assert_eq!((v.host(), v.port()), (&b"first.example.com"[..], Some(4000)));
        assert_eq!(v.maddr(), Some(&b"224.2.0.1"[..]));
        assert_eq!(v.rfc3261_branch(), Some(&b"z9hG4bKa7c6a8dlze.1"[..]));
        assert_eq!(v.params().count(), 3);

        let v = via("sip/2.0/TLS-SCTP [2001:db8::9:1]:5061;RPORT;Received=;oc-algo=\"loss,rate\";x");
        assert_eq!(v.transport(), b"TLS-SCTP");
        assert_eq!(v.host(), b"[2001:db8::9:1]");
        assert_eq!((v.rport(), v.received(), v.branch()), (Some(None), None, None));
        assert_eq!(via("SIP/2.0/UDP a;rport=4711").rport(), Some(Some(4711)));
    }

    #[test]
    fn v1_refused() {
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/2.0 host",
            "SIP/2.0/UDPhost",
            "SIP/2.0/UDP host:0",
            "SIP/2.0/UDP host:70000",
            "SIP/2.0/UDP 2001:db8::1",
            "SIP/2.0/UDP a;;b",
            "SIP/2.0/UDP a;",
            "SIP/2.0/UDP a,",
            "SIP/2.0/UDP a b",
            "SIP/2.0/UDP a;branch=x;branch=y",
            "SIP/2.0/UDP a;x=\"",
            "SIP/2.0/UDP <a>",
        ] {
            assert!(Via::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn v4_cookie_is_byte_exact() {
        assert_eq!(via("SIP/2.0/UDP a;branch=Z9hG4bKx").rfc3261_branch(), None);
        assert_eq!(via("SIP/2.0/UDP a;branch=z9hG4bK").rfc3261_branch(), None);
        assert_eq!(via("SIP/2.0/UDP a;branch=").branch(), None);
    }

    fn stamped(text: &str, source: &str) -> String {
        let mut patch = Patch::new();
        via(text).stamp(source.parse().unwrap(), &mut patch);
        let mut out = Vec::new();
        patch.write(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn addresses_are_written_as_the_library_does() {
        for text in ["0.0.0.0", "1.20.255.100", "255.255.255.255", "10.0.9.99", "2001:db8::1", "::ffff:192.0.2.1"] {
            let mut out = Vec::new();
            push_address(&mut out, text.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn t3_stamping() {
        let cases = [
            ("SIP/2.0/UDP 192.0.2.1;branch=b", "192.0.2.1:5060", "SIP/2.0/UDP 192.0.2.1;branch=b"),
            ("SIP/2.0/UDP a.b;branch=b", "192.0.2.1:5060", "SIP/2.0/UDP a.b;branch=b;received=192.0.2.1"),
            ("SIP/2.0/UDP 10.0.0.1;branch=b", "192.0.2.1:9", "SIP/2.0/UDP 10.0.0.1;branch=b;received=192.0.2.1"),
            (
                "SIP/2.0/UDP 192.0.2.1;rport;branch=b",
                "192.0.2.1:9",
                "SIP/2.0/UDP 192.0.2.1;rport=9;branch=b;received=192.0.2.1",
            ),
            (
                "SIP/2.0/UDP 10.0.0.1;received=6.6.6.6;x;rport=666",
                "192.0.2.1:9",
                "SIP/2.0/UDP 10.0.0.1;received=192.0.2.1;x;rport=9",
            ),
            (
                "SIP/2.0/UDP 10.0.0.1;rport=666;x;received=6.6.6.6",
                "192.0.2.1:9",
                "SIP/2.0/UDP 10.0.0.1;rport=9;x;received=192.0.2.1",
            ),
            ("SIP/2.0/UDP 192.0.2.1;received=6.6.6.6", "192.0.2.1:9", "SIP/2.0/UDP 192.0.2.1;received=192.0.2.1"),
            (
                "SIP/2.0/UDP [2001:db8::1];rport",
                "[2001:db8::2]:9",
                "SIP/2.0/UDP [2001:db8::1];rport=9;received=2001:db8::2",
            ),
            ("SIP/2.0/UDP [2001:DB8:0::1]", "[2001:db8::1]:9", "SIP/2.0/UDP [2001:DB8:0::1]"),
            ("SIP/2.0/UDP 192.0.2.1", "[::ffff:192.0.2.1]:9", "SIP/2.0/UDP 192.0.2.1"),
        ];
        for (before, source, after) in cases {
            assert_eq!(stamped(before, source), after);
        }
    }
}
