//! What this element writes into the URIs of its Record-Route and Path, to read it back later (RR-2): the two trunks of a call, and the
//! connection a browser is reached by (RFC 5626 5.2, RFC 7118 5). Both carry a keyed MAC, so that nobody else can make one up.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::proxy::{Listener, TrunkId};
use crate::sip::Uri;
use crate::sip::hop::ConnectionId;
use crate::sip::text::push_decimal;

/// The two trunks of a call, `in.out` as numbers.
const TRUNKS: &str = "vt";
/// MAC over the trunks and the Call-ID.
const MAC: &str = "vm";
/// The flow token: a connection and its MAC.
const FLOW: &str = "vf";
/// Stands for no trunk: none has this number.
const NOBODY: TrunkId = TrunkId(u16::MAX);

/// Secrets of the marks, the same in all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// For the trunks of a call. Calls outlive a restart, and so should this key. `None`: trunks are written and believed without a MAC.
    pub trunks: Option<[u8; 16]>,
    /// For flow tokens. A connection does not outlive the process, and neither may this key: its number can come again. `None`: no tokens.
    pub flow: Option<[u8; 16]>,
}

/// What goes into one own URI.
pub struct Marks<'a> {
    /// The secrets.
    pub keys: &'a Keys,
    /// The Call-ID of the request.
    pub call_id: &'a [u8],
    /// The trunk it came from.
    pub ingress: TrunkId,
    /// The trunk it goes to.
    pub egress: Option<TrunkId>,
}

impl Marks<'_> {
    /// Appends the trunks to a URI.
    pub fn write(&self, buf: &mut Vec<u8>) {
        let start = buf.len();
        buf.push(b';');
        buf.extend_from_slice(TRUNKS.as_bytes());
        buf.push(b'=');
        let value = buf.len();
        push_decimal(buf, self.ingress.0.into());
        buf.push(b'.');
        push_decimal(buf, self.egress.unwrap_or(NOBODY).0.into());
        let Some(key) = &self.keys.trunks else {
            if self.egress.is_none() {
                buf.truncate(start); // says nothing
            }
            return;
        };
        let mac = mac(key, buf.get(value..).unwrap_or_default(), self.call_id);
        buf.push(b';');
        buf.extend_from_slice(MAC.as_bytes());
        buf.push(b'=');
        push_hex(buf, mac);
    }
}

/// The trunks that an own URI names, for a request of this Call-ID; `None` where they are missing or not ours.
pub fn trunks_of(keys: &Keys, uri: &Uri<'_>, call_id: &[u8]) -> Option<(TrunkId, TrunkId)> {
    let value = uri.param(TRUNKS).flatten()?;
    if let Some(key) = &keys.trunks
        && uri.param(MAC).flatten().and_then(read_hex) != Some(mac(key, value, call_id))
    {
        return None;
    }
    let (ingress, egress) = std::str::from_utf8(value).ok()?.split_once('.')?;
    Some((TrunkId(ingress.parse().ok()?), TrunkId(egress.parse().ok()?)))
}

/// Appends a flow token to a URI of this listener.
pub fn write_flow(keys: &Keys, listener: &Listener, connection: ConnectionId, buf: &mut Vec<u8>) {
    let Some(key) = &keys.flow else { return };
    buf.push(b';');
    buf.extend_from_slice(FLOW.as_bytes());
    buf.push(b'=');
    push_hex(buf, connection.0);
    buf.push(b'.');
    push_hex(buf, flow_mac(key, listener, connection));
}

/// The connection that an own URI of this listener names.
pub fn flow_of(keys: &Keys, listener: &Listener, uri: &Uri<'_>) -> Option<ConnectionId> {
    let (key, value) = (keys.flow.as_ref()?, uri.param(FLOW).flatten()?);
    let dot = value.iter().position(|octet| *octet == b'.')?;
    let (connection, token) = (ConnectionId(read_hex(value.get(..dot)?)?), read_hex(value.get(dot + 1..)?)?);
    (token == flow_mac(key, listener, connection)).then_some(connection)
}

/// A token is good in a URI of its listener, and nowhere else.
fn flow_mac(key: &[u8; 16], listener: &Listener, connection: ConnectionId) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write_u64(connection.0);
    hasher.write_u16(listener.advertise_port);
    hasher.write(listener.advertise_host.as_bytes());
    hasher.finish()
}

/// 64 bits: a guess must be tried here, one request each.
fn mac(key: &[u8; 16], value: &[u8], call_id: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write_usize(value.len());
    hasher.write(value);
    hasher.write(call_id);
    hasher.finish()
}

fn push_hex(buf: &mut Vec<u8>, value: u64) {
    for shift in (0..16).rev() {
        let digit = (value >> (shift * 4) & 0xf) as u8;
        buf.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

fn read_hex(text: &[u8]) -> Option<u64> {
    if text.len() != 16 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::hop::Transport;

    const KEYS: Keys = Keys { trunks: Some([1; 16]), flow: Some([2; 16]) };

    fn written(keys: &Keys, egress: Option<TrunkId>) -> String {
        let mut uri = b"sip:192.0.2.1;lr".to_vec();
        Marks { keys, call_id: b"call", ingress: TrunkId(3), egress }.write(&mut uri);
        String::from_utf8(uri).unwrap()
    }

    fn trunks(keys: &Keys, uri: &str, call_id: &[u8]) -> Option<(TrunkId, TrunkId)> {
        trunks_of(keys, &Uri::parse(uri.as_bytes()).unwrap(), call_id)
    }

    #[test]
    fn rr2_trunks_hold_for_their_call_and_key_only() {
        let uri = written(&KEYS, Some(TrunkId(4)));
        let both = Some((TrunkId(3), TrunkId(4)));
        assert_eq!(trunks(&KEYS, &uri, b"call"), both);
        assert_eq!(trunks(&KEYS, &uri, b"another call"), None);
        assert_eq!(trunks(&KEYS, &uri.replace("vt=3.4", "vt=3.5"), b"call"), None);
        assert_eq!(trunks(&KEYS, "sip:192.0.2.1;lr;vt=3.4", b"call"), None);
        assert_eq!(trunks(&Keys { trunks: Some([9; 16]), ..KEYS }, &uri, b"call"), None);
        let none = Keys::default();
        assert_eq!(
            (written(&none, Some(TrunkId(4))).as_str(), written(&none, None).as_str()),
            ("sip:192.0.2.1;lr;vt=3.4", "sip:192.0.2.1;lr")
        );
        assert_eq!(trunks(&none, &uri, b"any"), both);
        assert_eq!(trunks(&KEYS, &written(&KEYS, None), b"call"), Some((TrunkId(3), NOBODY)));
    }

    #[test]
    fn w3_a_flow_token_can_not_be_made_up() {
        let mut uri = b"sip:192.0.2.1;lr".to_vec();
        let listener = |host: &str, port| Listener {
            name: String::new(),
            transport: Transport::Wss,
            bind: ([192, 0, 2, 1], 443).into(),
            advertise_host: host.into(),
            advertise_port: port,
            names: Vec::new(),
        };
        let own = listener("192.0.2.1", 443);
        write_flow(&KEYS, &own, ConnectionId(0x1234_5678_9abc_def0), &mut uri);
        let uri = String::from_utf8(uri).unwrap();
        let read_at = |keys: &Keys, at: &Listener, uri: &str| flow_of(keys, at, &Uri::parse(uri.as_bytes()).unwrap());
        let read = |keys: &Keys, uri: &str| read_at(keys, &own, uri);
        for other in [listener("192.0.2.1", 8443), listener("192.0.2.2", 443)] {
            assert_eq!(read_at(&KEYS, &other, &uri), None, "it was made for another listener");
        }
        assert_eq!(read(&KEYS, &uri), Some(ConnectionId(0x1234_5678_9abc_def0)));
        assert_eq!(read(&KEYS, &uri.replace("def0.", "def1.")), None);
        assert_eq!(read(&Keys { flow: Some([3; 16]), ..KEYS }, &uri), None, "after a restart");
        for bad in ["sip:h;lr;vf", "sip:h;lr;vf=", "sip:h;lr;vf=1.2", "sip:h;lr;vf=+234567812345678.1234567812345678"] {
            assert_eq!(read(&KEYS, bad), None);
        }
    }
}
