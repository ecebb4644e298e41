//! The semantic stage: the syntax of everything a proxy itself uses (V-1), first failure answers. What it does not use is never looked at.

use super::cseq::CSeq;
use super::error::{DropReason, Refusal};
use super::message::Message;
use super::name::Name;
use super::name_addr::NameAddr;
use super::scan::BAD_REQUEST_URI;
use super::text;
use super::uri::{Scheme, Uri};

/// What the semantic stage read on its way through a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestKeys<'a> {
    /// Call-ID, octet by octet significant.
    pub call_id: &'a [u8],
    /// From.
    pub from: NameAddr<'a>,
    /// To.
    pub to: NameAddr<'a>,
    /// CSeq; its method is the request's.
    pub cseq: CSeq<'a>,
    /// Max-Forwards; `None` if absent or above 255: forward with 70 (K-5).
    pub max_forwards: Option<u8>,
    /// The Request-URI; with `Leniency` it may stand in brackets or carry headers in the message.
    pub uri: Uri<'a>,
}

impl<'a> Message<'a> {
    /// Checks a request for the proxy role: see [`Message::read_request`].
    pub fn check_request(self) -> Result<(), Refusal> {
        self.read_request().map(|_| ())
    }

    /// Checks a request for the proxy role and hands over what it read, in this order: framing and start line, top Via, Max-Forwards, Route, Record-Route, Proxy-Require,
    /// Call-ID, From, To, CSeq, CSeq method, Request-URI.
    ///
    /// Left to the proxy, as they depend on its configuration: 416 (V-4), 483 (V-5), 482 (V-7), 420 (V-8), 407 (V-9).
    pub fn read_request(self) -> Result<RequestKeys<'a>, Refusal> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        self.top_via()?;
        self.check_via_count()?;
        let max_forwards = self.max_forwards()?;
        self.check_routes(Name::Route, Refusal::bad("Bad Route"))?;
        self.check_routes(Name::RecordRoute, Refusal::bad("Bad Record-Route"))?;
        if !self.values(Name::ProxyRequire).all(|v| text::is_token(v.value)) {
            return Err(Refusal::bad("Bad Proxy-Require"));
        }
        self.check_key_fields()?;
        let call_id = self.call_id().filter(|id| is_call_id(id)).ok_or(Refusal::bad("Bad Call-ID"))?;
        let (from, to, cseq) = (self.from()?, self.to()?, self.read_cseq()?);
        Ok(RequestKeys { call_id, from, to, cseq, max_forwards, uri: self.read_request_uri()? })
    }

    /// Checks a response for the proxy role; there is nobody to answer, so the failure is a reason to drop it.
    pub fn check_response(self) -> Result<(), DropReason> {
        if self.fault().is_some() {
            return Err(DropReason::Framing);
        }
        self.top_via().map_err(|_| DropReason::Via)?;
        self.check_via_count().map_err(|_| DropReason::Via)?;
        if self.is_repeated(Name::CallId) || !self.call_id().is_some_and(is_call_id) {
            return Err(DropReason::CallId);
        }
        if self.is_repeated(Name::From) || self.from().is_err() {
            return Err(DropReason::From);
        }
        if self.is_repeated(Name::To) || self.to().is_err() {
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

    /// Every value a name-addr; the top one with a SIP or SIPS URI.
    fn check_routes(self, name: Name, refusal: Refusal) -> Result<(), Refusal> {
        let limit = self.index().bounds.routes as usize;
        for (i, value) in self.values(name).enumerate() {
            let address = NameAddr::parse(value.value).map_err(|_| refusal)?;
            if value.is_unsplittable || !address.is_bracketed || i >= limit {
                return Err(refusal);
            }
            if i == 0 && name == Name::Route {
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
    fn read_cseq(self) -> Result<CSeq<'a>, Refusal> {
        let cseq = self.cseq()?;
        match self.method() {
            Some(method) if method == cseq.method => Ok(cseq),
            Some(method) if !method.is_known() => Err(Refusal::new(501, "Not Implemented")),
            _ => Err(Refusal::bad("CSeq Method Mismatch")),
        }
    }

    fn read_request_uri(self) -> Result<Uri<'a>, Refusal> {
        let bounds = &self.index().bounds;
        let mut uri = self.request_uri();
        if uri.len() > bounds.uri as usize {
            return Err(Refusal::new(414, "Request-URI Too Long"));
        }
        if bounds.bracketed_uri {
            uri = uri.strip_prefix(b"<").and_then(|u| u.strip_suffix(b">")).unwrap_or(uri);
        }
        let uri = Uri::parse(uri).map_err(|_| BAD_REQUEST_URI)?;
        if uri.headers.is_some() && !bounds.uri_headers {
            return Err(BAD_REQUEST_URI);
        }
        if uri.user.is_some_and(|u| u.len() > bounds.user as usize) {
            return Err(Refusal::new(414, "Request-URI Too Long"));
        }
        Ok(uri)
    }
}

/// Any visible octets (section 7): no LWS, no control octets.
fn is_call_id(value: &[u8]) -> bool {
    value.iter().all(|&b| b > b' ' && b != 0x7f)
}
