//! What goes first when not everything can go (O-4, E-12).

use crate::sip::{Message, Method, Name, Scheme, Uri};

/// How much a request matters, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// An emergency call: never throttled.
    Emergency,
    /// It ends a call or confirms one.
    Ending,
    /// Part of a call.
    InDialog,
    /// A new call.
    NewCall,
    /// Whatever else begins something: OPTIONS, REGISTER, SUBSCRIBE.
    Other,
}

impl Priority {
    /// The priority of a request. `is_trusted`: its Resource-Priority is believed (RFC 4412 4.6.1: only from who may use it).
    pub fn of(request: Message<'_>, emergency_numbers: &[String], is_trusted: bool) -> Self {
        let method = request.method();
        if is_emergency(request, emergency_numbers) || is_trusted && has_emergency_resource(request) {
            return Priority::Emergency;
        }
        match method {
            Some(Method::Bye | Method::Ack | Method::Cancel) => Priority::Ending,
            _ if request.to_tag().is_some() => Priority::InDialog,
            Some(Method::Prack) => Priority::InDialog,
            Some(Method::Invite) => Priority::NewCall,
            _ => Priority::Other,
        }
    }

    /// It begins something that can as well be refused at once.
    pub fn may_be_shed(self) -> bool {
        matches!(self, Priority::NewCall | Priority::Other)
    }
}

/// `urn:service:sos` or one below it (RFC 5031).
pub fn is_service_sos(uri: &[u8]) -> bool {
    let sos = b"urn:service:sos";
    let below = uri.split_at_checked(sos.len()).filter(|(head, _)| head.eq_ignore_ascii_case(sos));
    below.is_some_and(|(_, rest)| matches!(rest.first(), None | Some(b'.')))
}

/// The Request-URI is `urn:service:sos` or one below it (RFC 5031), or a configured number.
fn is_emergency(request: Message<'_>, numbers: &[String]) -> bool {
    let uri = request.request_uri();
    if is_service_sos(uri) {
        return true;
    }
    if numbers.is_empty() {
        return false;
    }
    let Ok(uri) = Uri::parse(uri) else { return false };
    let called = if uri.scheme == Scheme::Tel { uri.opaque } else { uri.user.unwrap_or_default() };
    let called = called.split(|octet| *octet == b';').next().unwrap_or_default();
    numbers.iter().any(|number| number.as_bytes() == called)
}

/// A value of the namespace `esnet` (RFC 7135).
fn has_emergency_resource(request: Message<'_>) -> bool {
    let is_esnet = |value: &[u8]| value.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"esnet."));
    request.field(Name::ResourcePriority).is_some()
        && request
            .fields_of(Name::ResourcePriority)
            .any(|field| field.value().split(|octet| *octet == b',').any(|value| is_esnet(value.trim_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    fn of(uri: &str, method: &str, lines: &str, trusted: bool) -> Priority {
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nCall-ID: c\r\n\
             CSeq: 1 {method}\r\n{lines}\r\n"
        );
        let mut index = Index::new();
        let request = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        Priority::of(request, &["112".to_owned()], trusted)
    }

    #[test]
    fn e12_emergency_calls_are_known_by_uri_number_and_a_trusted_resource() {
        let to = "To: <sip:x@y>\r\n";
        assert_eq!(of("urn:service:sos", "INVITE", to, false), Priority::Emergency);
        assert_eq!(of("URN:service:SOS.fire", "INVITE", to, false), Priority::Emergency);
        assert_eq!(of("urn:service:sosx", "INVITE", to, false), Priority::NewCall);
        assert_eq!(of("sip:112@h;user=phone", "INVITE", to, false), Priority::Emergency);
        assert_eq!(of("tel:112;phone-context=+49", "INVITE", to, false), Priority::Emergency);
        assert_eq!(of("sip:1123@h", "INVITE", to, false), Priority::NewCall);
        let esnet = "To: <sip:x@y>\r\nResource-Priority: wps.1, esnet.0\r\n";
        assert_eq!(of("sip:1@h", "INVITE", esnet, true), Priority::Emergency);
        assert_eq!(of("sip:1@h", "INVITE", esnet, false), Priority::NewCall);
    }

    #[test]
    fn o4_the_order_of_the_rest() {
        let (new, old) = ("To: <sip:x@y>\r\n", "To: <sip:x@y>;tag=2\r\n");
        let seen = [
            of("sip:1@h", "BYE", old, false),
            of("sip:1@h", "INVITE", old, false),
            of("sip:1@h", "INVITE", new, false),
            of("sip:1@h", "OPTIONS", new, false),
        ];
        assert_eq!(seen, [Priority::Ending, Priority::InDialog, Priority::NewCall, Priority::Other]);
        assert!(seen.is_sorted() && seen.map(Priority::may_be_shed) == [false, false, true, true]);
    }
}
