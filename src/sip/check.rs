//! The semantic stage: the syntax of everything a proxy itself uses (V-1), first failure answers. What it does not use is never looked at.

use super::cseq;
use super::error::{DropReason, Refusal};
use super::message::Message;
use super::name::Name;
use super::name_addr::{NameAddr, is_bracketed};
use super::scan::BAD_REQUEST_URI;
use super::text;
use super::uri::{Scheme, Uri};

impl Message<'_> {
    /// Checks a request for the proxy role, in this order: framing and start line, top Via, Max-Forwards, Route, Record-Route,
    /// Proxy-Require, Call-ID, From, To, CSeq, CSeq method, Request-URI.
    ///
    /// Left to the proxy, as they depend on its configuration: 416 (V-4), 483 (V-5), 482 (V-7), 420 (V-8), 407 (V-9).
    pub fn check_request(self) -> Result<(), Refusal> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        self.check_top_via()?;
        self.check_via_count()?;
        self.max_forwards()?;
        self.check_routes(Name::Route, Refusal::bad("Bad Route"))?;
        self.check_routes(Name::RecordRoute, Refusal::bad("Bad Record-Route"))?;
        if !self.values(Name::ProxyRequire).all(|v| text::is_token(v.value)) {
            return Err(Refusal::bad("Bad Proxy-Require"));
        }
        self.check_key_fields()?;
        if !self.call_id().is_some_and(is_call_id) {
            return Err(Refusal::bad("Bad Call-ID"));
        }
        self.index().from.ok_or(Refusal::bad("Bad From"))?;
        self.index().to.ok_or(Refusal::bad("Bad To"))?;
        self.check_cseq_method()?;
        self.check_request_uri()
    }

    /// Checks a response for the proxy role; there is nobody to answer, so the failure is a reason to drop it.
    pub fn check_response(self) -> Result<(), DropReason> {
        if self.fault().is_some() {
            return Err(DropReason::Framing);
        }
        self.check_top_via().map_err(|_| DropReason::Via)?;
        self.check_via_count().map_err(|_| DropReason::Via)?;
        if self.is_repeated(Name::CallId) || !self.call_id().is_some_and(is_call_id) {
            return Err(DropReason::CallId);
        }
        if self.is_repeated(Name::From) || self.index().from.is_none() {
            return Err(DropReason::From);
        }
        if self.is_repeated(Name::To) || self.index().to.is_none() {
            return Err(DropReason::To);
        }
        if self.is_repeated(Name::CSeq) || self.cseq().is_err() {
            return Err(DropReason::CSeq);
        }
        Ok(())
    }

    /// A Via takes 13 octets at least, which bounds their number; they are split and counted only if that bound is over the limit.
    fn check_via_count(self) -> Result<(), Refusal> {
        let limit = self.index().bounds.vias as usize;
        let bound: usize = self.entries_of(Name::Via).map(|e| 1 + (e.value_end - e.value_start) as usize / 13).sum();
        if bound > limit && self.values(Name::Via).count() > limit {
            return Err(Refusal::new(483, "Too Many Hops"));
        }
        Ok(())
    }

    /// Every value has the shape of a name-addr; the top Route, which is used, is read whole and must be SIP or SIPS.
    fn check_routes(self, name: Name, refusal: Refusal) -> Result<(), Refusal> {
        let limit = self.index().bounds.routes as usize;
        let mut values = self.values(name);
        let mut count = 0;
        while let Some(value) = values.next_element() {
            count += 1;
            if value.is_unsplittable || count > limit || !is_bracketed(value.value) {
                return Err(refusal);
            }
            if count == 1 && name == Name::Route {
                let address = NameAddr::parse(value.value).map_err(|_| refusal)?;
                let uri = Uri::parse(address.uri).map_err(|_| refusal)?;
                if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }

    /// Each of the key fields stands there once (H-6, H-7).
    fn check_key_fields(self) -> Result<(), Refusal> {
        const KEYS: [(Name, Refusal, Refusal); 4] = [
            (Name::CallId, Refusal::bad("Missing Call-ID"), Refusal::bad("Multiple Call-ID")),
            (Name::From, Refusal::bad("Missing From"), Refusal::bad("Multiple From")),
            (Name::To, Refusal::bad("Missing To"), Refusal::bad("Multiple To")),
            (Name::CSeq, Refusal::bad("Missing CSeq"), Refusal::bad("Multiple CSeq")),
        ];
        for (name, missing, multiple) in KEYS {
            if self.index().first(name).is_none() {
                return Err(missing);
            }
            if self.is_repeated(name) {
                return Err(multiple);
            }
        }
        Ok(())
    }

    /// K-6: a mismatch is 400 for a known method, 501 for an unknown one.
    fn check_cseq_method(self) -> Result<(), Refusal> {
        let value = self.field(Name::CSeq).map(|f| f.value()).unwrap_or_default();
        let (_, method) = cseq::split(value).map_err(|_| Refusal::bad("Bad CSeq"))?;
        match self.method() {
            Some(own) if own.as_bytes() == method => Ok(()),
            Some(own) if !own.is_known() => Err(Refusal::new(501, "Not Implemented")),
            _ => Err(Refusal::bad("CSeq Method Mismatch")),
        }
    }

    fn check_request_uri(self) -> Result<(), Refusal> {
        let bounds = &self.index().bounds;
        let uri = self.request_uri();
        if uri.len() > bounds.uri as usize {
            return Err(Refusal::new(414, "Request-URI Too Long"));
        }
        let uri = Uri::parse(uri).map_err(|_| BAD_REQUEST_URI)?;
        if uri.headers.is_some() && !bounds.uri_headers {
            return Err(BAD_REQUEST_URI);
        }
        if uri.user.is_some_and(|u| u.len() > bounds.user as usize) {
            return Err(Refusal::new(414, "Request-URI Too Long"));
        }
        Ok(())
    }
}

/// Any visible octets (section 7): no LWS, no control octets.
fn is_call_id(value: &[u8]) -> bool {
    !value.iter().fold(false, |bad, &b| bad | (b <= b' ') | (b == 0x7f))
}

#[cfg(test)]
mod tests {
    use super::super::{Framing, Index, Limits, parse};
    use super::*;

    const GOOD: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n\
        Max-Forwards: 70\r\n\
        Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>\r\n\
        Record-Route: <sip:p0.example.com;lr>\r\n\
        From: <sip:alice@example.com>;tag=1\r\n\
        To: <sip:bob@example.com>\r\n\
        Call-ID: c1\r\n\
        CSeq: 1 INVITE\r\n\r\n";

    fn check(message: &str) -> Result<(), (u16, &'static str)> {
        check_with(message, &Limits::default())
    }

    fn check_with(message: &str, limits: &Limits) -> Result<(), (u16, &'static str)> {
        let mut index = Index::new();
        let message = parse(message.as_bytes(), &mut index, Framing::Datagram, limits).unwrap();
        message.check_request().map_err(|r| (r.status, r.reason))
    }

    #[test]
    fn v1_each_part_with_its_own_phrase() {
        assert_eq!(check(GOOD), Ok(()));
        for (part, replacement, status, reason) in [
            ("SIP/2.0/UDP 192.0.2.1", "SIP/3.0/UDP 192.0.2.1", 400, "Bad Via"),
            (";branch=z9hG4bKx", ";;branch=z9hG4bKx", 400, "Bad Via"),
            (";branch=z9hG4bKx", ";branch=z9hG4bKx,", 400, "Bad Via"),
            (";branch=z9hG4bKx", ";branch=z9hG4bK", 400, "Bad Branch"),
            ("Max-Forwards: 70", "Max-Forwards: x", 400, "Bad Max-Forwards"),
            ("Max-Forwards: 70", "Max-Forwards:", 400, "Bad Max-Forwards"),
            ("<sip:p1.example.com;lr>,", "<sip:p1.example.com;lr>,,", 400, "Bad Route"),
            ("<sip:p1.example.com;lr>", "sip:p1.example.com;lr", 400, "Bad Route"),
            ("<sip:p1.example.com;lr>", "<tel:+1>", 400, "Bad Route"),
            ("<sip:p1.example.com;lr>", "<sip:p1.example.com;lr", 400, "Bad Route"),
            ("<sip:p1.example.com;lr>", "\"p1 <sip:p1.example.com;lr>", 400, "Bad Route"),
            ("<sip:p0.example.com;lr>", "sip:p0.example.com", 400, "Bad Record-Route"),
            ("Max-Forwards: 70", "Proxy-Require: a b", 400, "Bad Proxy-Require"),
            ("Call-ID: c1\r\n", "", 400, "Missing Call-ID"),
            ("Call-ID: c1\r\n", "Call-ID: c1\r\ni: c1\r\n", 400, "Multiple Call-ID"),
            ("Call-ID: c1", "Call-ID:", 400, "Bad Call-ID"),
            ("Call-ID: c1", "Call-ID: c 1", 400, "Bad Call-ID"),
            ("To: <sip:bob@example.com>\r\n", "", 400, "Missing To"),
            ("To: <", "t: <sip:x@y>\r\nTo: <", 400, "Multiple To"),
            ("To: <", "To: \"Bob <", 400, "Bad To"),
            (";tag=1", ";tag=1;tag=2", 400, "Bad From"),
            ("CSeq: 1 INVITE\r\n", "", 400, "Missing CSeq"),
            ("CSeq: 1 INVITE", "CSeq: 4294967296 INVITE", 400, "Bad CSeq"),
            ("CSeq: 1 INVITE", "CSeq: 1 ACK", 400, "CSeq Method Mismatch"),
            ("INVITE sip", "NEWMETHOD sip", 501, "Not Implemented"),
            ("sip:bob@example.com SIP", "sip:bob@example..com SIP", 400, "Bad Request-URI"),
            ("sip:bob@example.com SIP", "sip:bob@example.com?a=b SIP", 400, "Bad Request-URI"),
            ("sip:bob@example.com SIP", "bob@example.com SIP", 400, "Bad Request-URI"),
        ] {
            let message = GOOD.replacen(part, replacement, 1);
            assert_ne!(message, GOOD, "{part} does not occur");
            assert_eq!(check(&message), Err((status, reason)), "{replacement}");
        }
    }

    #[test]
    fn v2_v3_what_a_proxy_does_not_use_is_no_error() {
        for (part, replacement) in [
            ("Max-Forwards: 70", "Max-Forwards: 300"),
            ("Max-Forwards: 70\r\n", ""),
            ("Max-Forwards: 70", "Contact: ;;,,\r\nDate: yesterday\r\nIdentity: ?"),
            ("INVITE", "invite"),
            ("sip:bob@example.com SIP", "unknown:anything SIP"),
            ("<sip:p2.example.com;lr>", "<http://p2>"),
            (";tag=1", ""),
        ] {
            assert_eq!(check(&GOOD.replace(part, replacement)), Ok(()), "{replacement}");
        }
    }

    #[test]
    fn limits_one_under_and_one_over() {
        let limits = Limits { vias: 3, routes: 2, uri: 60, user: 20, ..Limits::default() };
        let vias = |n: usize| {
            let more = ", SIP/2.0/UDP h".repeat(n - 1);
            check_with(&GOOD.replace(";branch=z9hG4bKx", &format!(";branch=z9hG4bKx{more}")), &limits)
        };
        assert_eq!((vias(3), vias(4)), (Ok(()), Err((483, "Too Many Hops"))));
        let routes =
            |n: usize| check_with(&GOOD.replace("<sip:p1.example.com;lr>,", &"<sip:p>,".repeat(n - 1)), &limits);
        assert_eq!((routes(2), routes(3)), (Ok(()), Err((400, "Bad Route"))));
        let uri = |n: usize| {
            check_with(&GOOD.replace("sip:bob@example.com SIP", &format!("sip:{} SIP", "h".repeat(n - 4))), &limits)
        };
        assert_eq!((uri(60), uri(61)), (Ok(()), Err((414, "Request-URI Too Long"))));
        let user = |n: usize| check_with(&GOOD.replace("sip:bob@", &format!("sip:{}@", "u".repeat(n))), &limits);
        assert_eq!((user(20), user(21)), (Ok(()), Err((414, "Request-URI Too Long"))));
    }

    #[test]
    fn responses_are_dropped_with_a_reason() {
        let good = GOOD.replace("INVITE sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK");
        let check = |message: &str| {
            let mut index = Index::new();
            parse(message.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap().check_response()
        };
        assert_eq!(check(&good), Ok(()));
        for (part, replacement, reason) in [
            ("Max-Forwards: 70", "Content-Length: 9", DropReason::Framing),
            (";branch", ";;branch", DropReason::Via),
            ("Call-ID: c1\r\n", "", DropReason::CallId),
            ("From: <", "From: ", DropReason::From),
            ("To: <", "t: <a:b>\r\nTo: <", DropReason::To),
            ("CSeq: 1", "CSeq: one", DropReason::CSeq),
        ] {
            assert_eq!(check(&good.replacen(part, replacement, 1)), Err(reason), "{replacement}");
        }
    }

    #[test]
    fn h6_the_smallest_max_forwards_counts() {
        let message = GOOD.replace("Max-Forwards: 70", "Max-Forwards: 70\r\nMax-Forwards: 007\r\nMax-Forwards: 999");
        let mut index = Index::new();
        let message = parse(message.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        assert_eq!(message.max_forwards(), Ok(Some(7)));
    }
}
