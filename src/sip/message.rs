//! A view of one received message: everything is a span of the received octets, parsed when asked for.

use std::borrow::Cow;
use std::ops::Range;

use super::cseq::CSeq;
use super::error::Refusal;
use super::index::{Entry, Index};
use super::list::Values;
use super::method::Method;
use super::name::Name;
use super::name_addr::{AddressSpans, NameAddr};
use super::patch::Patch;
use super::text::{self, span};
use super::uri::request_uri_repaired;
use super::via::{Via, ViaFault};

/// A received message over its octets and its index. `Copy`; every offset counts from the first octet of [`Message::bytes`].
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    index: &'a Index,
}

/// The start line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartLine<'a> {
    /// `Method Request-URI SIP/2.0`
    Request {
        /// The method.
        method: Method<'a>,
        /// The Request-URI as received.
        uri: &'a [u8],
    },
    /// `SIP/2.0 status reason`
    Response {
        /// 100 to 699.
        status: u16,
        /// Reason phrase as received; may be empty or hold any octets but CR and LF.
        reason: &'a [u8],
    },
}

/// One header field.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// Which header it is.
    pub name: Name,
    /// The whole line with its folds and line end: removing it removes the field.
    pub line: Range<usize>,
    /// The value without LWS at its ends; folds inside it stay.
    pub value_range: Range<usize>,
    raw_name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Field<'a> {
    fn new(bytes: &'a [u8], entry: &Entry) -> Self {
        let (start, value) = (entry.start as usize, entry.value_start as usize..entry.value_end as usize);
        Self {
            name: entry.name,
            line: start..entry.end as usize,
            raw_name: span(bytes, start, start + entry.name_len as usize),
            value: span(bytes, value.start, value.end),
            value_range: value,
        }
    }

    /// The name as received.
    pub fn raw_name(&self) -> &'a [u8] {
        self.raw_name
    }

    /// The value as received, without LWS at its ends; it may contain folds (H-2).
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// The value with every fold as one SP: what is to be compared, signed, logged or written anew (H-2).
    pub fn unfolded(&self) -> Cow<'a, [u8]> {
        text::unfold(self.value)
    }
}

impl<'a> Message<'a> {
    pub(crate) fn new(bytes: &'a [u8], index: &'a Index) -> Self {
        Self { bytes, index }
    }

    pub(crate) fn index(self) -> &'a Index {
        self.index
    }

    /// The message: without leading CRLFs, and without what followed the body in a datagram.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The start line.
    pub fn start(self) -> StartLine<'a> {
        match self.index.start.status {
            0 => StartLine::Request { method: self.method_unchecked(), uri: self.request_uri() },
            status => StartLine::Response { status, reason: self.rest() },
        }
    }

    fn rest(self) -> &'a [u8] {
        span(self.bytes, self.index.start.rest_start as usize, self.index.start.rest_end as usize)
    }

    fn method_unchecked(self) -> Method<'a> {
        Method::new(span(self.bytes, 0, self.index.start.method_end as usize))
    }

    /// This is a request.
    pub fn is_request(self) -> bool {
        self.index.start.status == 0
    }

    /// The method of a request.
    pub fn method(self) -> Option<Method<'a>> {
        self.is_request().then(|| self.method_unchecked())
    }

    /// The status code of a response, 100 to 699.
    pub fn status(self) -> Option<u16> {
        Some(self.index.start.status).filter(|&s| s != 0)
    }

    /// The Request-URI as received, without tolerated brackets; empty in a response.
    pub fn request_uri(self) -> &'a [u8] {
        if self.is_request() { self.rest() } else { &[] }
    }

    /// Where the Request-URI stands; empty in a response.
    pub fn request_uri_range(self) -> Range<usize> {
        if self.is_request() { self.index.start.rest_start as usize..self.index.start.rest_end as usize } else { 0..0 }
    }

    /// First octet behind the start line: where new top headers go.
    pub fn headers_start(self) -> usize {
        self.index.start.end as usize
    }

    /// Position of the empty line behind the header fields (the end of what was read if there is none): where new last headers go.
    pub fn headers_end(self) -> usize {
        self.index.entries.last().map_or(self.headers_start(), |e| e.end as usize)
    }

    /// What is wrong with framing or start line, if it is to be answered; a response with a fault is to be dropped.
    pub fn fault(self) -> Option<Refusal> {
        self.index.fault
    }

    /// All header fields in order.
    pub fn fields(self) -> impl Iterator<Item = Field<'a>> {
        self.index.entries.iter().map(move |e| Field::new(self.bytes, e))
    }

    /// The first field of this name. For [`Name::Other`] use [`Message::fields`] and compare the raw name.
    pub fn field(self, name: Name) -> Option<Field<'a>> {
        let entry = self.index.first(name).and_then(|i| self.index.entries.get(i))?;
        Some(Field::new(self.bytes, entry))
    }

    /// All fields of this name in order.
    pub fn fields_of(self, name: Name) -> impl Iterator<Item = Field<'a>> {
        self.entries_of(name).map(move |e| Field::new(self.bytes, e))
    }

    pub(crate) fn entries_of(self, name: Name) -> impl Iterator<Item = &'a Entry> {
        let entries = match self.index.first(name) {
            None => &[],
            Some(first) if self.index.is_repeated(name) => self.index.entries.get(first..).unwrap_or_default(),
            Some(first) => self.index.entries.get(first..=first).unwrap_or_default(),
        };
        entries.iter().filter(move |e| e.name == name)
    }

    /// More than one field line has this name.
    pub fn is_repeated(self, name: Name) -> bool {
        self.index.is_repeated(name)
    }

    /// The values of a header over all its lines, in order; lists are split at commas (H-4, H-5). Empty elements are skipped
    /// except in Via, Route and Record-Route (H-9).
    pub fn values(self, name: Name) -> Values<'a> {
        Values::new(self, name)
    }

    /// Removes the first `count` values of a list header, over as many lines as they fill (V-6).
    pub fn pop_values(self, name: Name, count: usize, patch: &mut Patch) {
        let mut open: Option<(usize, Range<usize>)> = None;
        for value in self.values(name).take(count) {
            let line = value.line.clone();
            open = Some(match open.take() {
                Some((start, cut)) if start == line.start => (start, cut.start..value.cut.end.max(cut.end)),
                other => {
                    if let Some((_, cut)) = other {
                        patch.remove(cut);
                    }
                    (line.start, value.cut.clone())
                }
            });
            if let Some((_, cut)) = open.as_mut().filter(|_| value.is_last_of_line) {
                *cut = line;
            }
        }
        if let Some((_, cut)) = open {
            patch.remove(cut);
        }
    }

    /// The body: opaque octets.
    pub fn body(self) -> &'a [u8] {
        span(self.bytes, self.index.body as usize, self.bytes.len())
    }

    /// First octet of the body.
    pub fn body_start(self) -> usize {
        (self.index.body as usize).min(self.bytes.len())
    }

    /// The Content-Length as sent, if there is a valid one.
    pub fn content_length(self) -> Option<u32> {
        self.index.content_length
    }

    /// The top Via. `Err`: 400, its protocol is not SIP/2.0, a parameter is malformed or repeated, or the branch is the bare cookie.
    pub fn top_via(self) -> Result<Via<'a>, Refusal> {
        self.check_top_via().map(|()| self.reply_via())
    }

    pub(crate) fn check_top_via(self) -> Result<(), Refusal> {
        match self.index.via.fault {
            None => Ok(()),
            Some(ViaFault::BareCookie) if self.index.bounds.bare_cookie => Ok(()),
            Some(ViaFault::BareCookie) => Err(Refusal::bad("Bad Branch")),
            Some(ViaFault::Protocol | ViaFault::Params) => Err(Refusal::bad("Bad Via")),
        }
    }

    /// The top Via as far as it could be read: enough to send a refusal to. Protocol, sent-by and the parameters before a fault are sound.
    pub fn reply_via(self) -> Via<'a> {
        Via::from_spans(self.bytes, self.index.via)
    }

    /// The first Call-ID, unless empty.
    pub fn call_id(self) -> Option<&'a [u8]> {
        self.field(Name::CallId).map(|f| f.value()).filter(|v| !v.is_empty())
    }

    /// The first CSeq.
    pub fn cseq(self) -> Result<CSeq<'a>, Refusal> {
        let field = self.field(Name::CSeq).ok_or(Refusal::bad("Missing CSeq"))?;
        CSeq::parse(field.value()).map_err(|_| Refusal::bad("Bad CSeq"))
    }

    /// The first From.
    pub fn from(self) -> Result<NameAddr<'a>, Refusal> {
        let spans = self.index.from.as_ref();
        self.address(Name::From, spans, Refusal::bad("Missing From"), Refusal::bad("Bad From"))
    }

    /// The first To.
    pub fn to(self) -> Result<NameAddr<'a>, Refusal> {
        self.address(Name::To, self.index.to.as_ref(), Refusal::bad("Missing To"), Refusal::bad("Bad To"))
    }

    fn address(
        self,
        name: Name,
        spans: Option<&AddressSpans>,
        missing: Refusal,
        bad: Refusal,
    ) -> Result<NameAddr<'a>, Refusal> {
        let value = self.index.value(name).ok_or(missing)?;
        let spans = spans.ok_or(bad)?;
        Ok(NameAddr::from_spans(span(self.bytes, value.start, value.end), spans))
    }

    /// The From tag, if From is readable and has one.
    pub fn from_tag(self) -> Option<&'a [u8]> {
        self.from().ok().and_then(|a| a.tag())
    }

    /// The To tag, if To is readable and has one.
    pub fn to_tag(self) -> Option<&'a [u8]> {
        self.to().ok().and_then(|a| a.tag())
    }

    /// Max-Forwards: the smallest if there are several (H-6); `None` if absent or above 255 (treat as 70, K-5); `Err` if not a number.
    pub fn max_forwards(self) -> Result<Option<u8>, Refusal> {
        let mut smallest = None;
        for entry in self.entries_of(Name::MaxForwards) {
            let value = span(self.bytes, entry.value_start as usize, entry.value_end as usize);
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::bad("Bad Max-Forwards"));
            }
            let hops = text::decimal(value).and_then(|v| u8::try_from(v).ok());
            smallest = match (smallest, hops) {
                (Some(a), Some(b)) => Some(std::cmp::min::<u8>(a, b)),
                (a, b) => a.or(b),
            };
        }
        Ok(smallest)
    }

    /// Adds the edits after which there is exactly one Content-Length (F-2, F-9): a stream can not be cut into messages without it, and
    /// of two the next element may believe the other. Those there are have been found equal.
    pub fn settle_content_length(self, patch: &mut Patch) {
        if self.index.first(Name::ContentLength).is_none() {
            patch.insert_with(self.headers_end(), |out| {
                out.extend_from_slice(b"Content-Length: ");
                text::push_decimal(out, self.body().len() as u32);
                out.extend_from_slice(b"\r\n");
            });
        }
        self.fields_of(Name::ContentLength).skip(1).for_each(|field| patch.remove(field.line));
    }

    /// Adds the edits that make a request strict before it is forwarded: single spaces, `SIP/2.0` and CRLF in the request line, CRLF for
    /// every tolerated bare LF, and the Request-URI: `new_uri` if given, else the received one without what it must not carry
    /// (S-5 to S-7, F-6). Adds nothing to a strict message whose URI stays.
    /// To be called behind all other edits: what they add at the end of a line has to stand before its CR.
    pub fn repair(self, new_uri: Option<&[u8]>, patch: &mut Patch) {
        let start = &self.index.start;
        if self.is_request() {
            let line_end = start.end as usize;
            let uri = new_uri.map_or_else(|| request_uri_repaired(self.request_uri()), Cow::Borrowed);
            if uri.as_ref() != self.request_uri() {
                patch.replace(self.request_uri_range(), &uri);
            }
            replace_if_other(self.bytes, start.method_end as usize..start.rest_start as usize, b" ", patch);
            replace_if_other(self.bytes, start.rest_end as usize..line_end, b" SIP/2.0\r\n", patch);
        }
        if self.index.has_bare_lf {
            let from = if self.is_request() { start.end as usize } else { 0 };
            for at in memchr::memchr_iter(b'\n', span(self.bytes, from, self.index.body as usize)).map(|n| n + from) {
                if at.checked_sub(1).and_then(|i| self.bytes.get(i)) != Some(&b'\r') {
                    patch.insert(at, b"\r");
                }
            }
        }
    }
}

fn replace_if_other(bytes: &[u8], range: Range<usize>, wanted: &[u8], patch: &mut Patch) {
    if span(bytes, range.start, range.end) != wanted {
        patch.replace(range, wanted);
    }
}

/// A message that owns its octets: what a transaction keeps. Two allocations.
#[derive(Debug, Clone)]
pub struct OwnedMessage {
    bytes: Vec<u8>,
    index: Index,
}

impl OwnedMessage {
    /// The view of it.
    pub fn message(&self) -> Message<'_> {
        Message { bytes: &self.bytes, index: &self.index }
    }
}

impl From<Message<'_>> for OwnedMessage {
    fn from(message: Message<'_>) -> Self {
        Self { bytes: message.bytes.to_vec(), index: message.index.clone() }
    }
}
