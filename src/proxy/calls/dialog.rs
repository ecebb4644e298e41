//! The state of a dialog as a proxy on its way sees it (RFC 3261 12), and the BYE that can be made of it.

use std::borrow::Cow;

use super::{CONTACT, Call, FROM, Pieces, ROUTES};
use crate::proxy::Config;
use crate::sip::hop::Hop;
use crate::sip::text::push_decimal;
use crate::sip::{Message, Name, NameAddr, Uri, request_uri_repaired};

/// The two ends of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who sent the INVITE.
    Caller,
    /// Who answered it.
    Callee,
}

impl Side {
    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

/// What is kept of the 2xx.
const TO: usize = 0;
const TAG: usize = 1;
const TARGET: usize = 2;
const ROUTES_BACK: usize = 3;

/// One dialog of a call: there is one per To tag of a 2xx (RFC 3261 12.1.2).
#[derive(Debug)]
pub struct Dialog {
    answer: Pieces<4>,
    /// Contacts that took the place of the first ones (RFC 3261 12.2), caller and callee.
    moved: [Option<Box<[u8]>>; 2],
    /// Number of the last request that each side sent, caller and callee.
    cseq: [u32; 2],
    has_ended: bool,
    /// Where the INVITE went that was answered.
    next: Hop,
}

impl Dialog {
    /// The dialog that this 2xx makes; `None` without a To tag (RFC 2543).
    pub(super) fn of(response: Message<'_>, next: Hop) -> Option<Self> {
        let to = response.field(Name::To)?.unfolded();
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let target = contact_of(response).unwrap_or_default();
        let answer = Pieces::of([&to, response.to_tag()?, &target, &record_routes(response)]);
        Some(Dialog { answer, moved: [None, None], cseq: [cseq, 0], has_ended: false, next })
    }

    /// The callee's tag.
    pub fn tag(&self) -> &[u8] {
        self.answer.get(TAG)
    }

    /// Where the INVITE went that was answered.
    pub(super) fn next(&self) -> Hop {
        self.next
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// A request of one side came by.
    pub(super) fn saw(&mut self, side: Side, number: u32) {
        let [caller, callee] = &mut self.cseq;
        let last = if side == Side::Caller { caller } else { callee };
        *last = number.max(*last);
    }

    /// A side is reached at another place from now on.
    pub(super) fn moved(&mut self, call: &Pieces<6>, side: Side, contact: &[u8]) {
        if self.target(call, side) != contact {
            let [caller, callee] = &mut self.moved;
            *if side == Side::Caller { caller } else { callee } = Some(contact.into());
        }
    }

    /// Remote target of a side.
    fn target<'a>(&'a self, call: &'a Pieces<6>, side: Side) -> &'a [u8] {
        let [caller, callee] = &self.moved;
        match side {
            Side::Caller => caller.as_deref().unwrap_or(call.get(CONTACT)),
            Side::Callee => callee.as_deref().unwrap_or(self.answer.get(TARGET)),
        }
    }

    /// Route values from here to a side, in their order: to the callee those of the answer's Record-Route above ours, the nearest first
    /// (RFC 3261 12.1.2).
    fn path<'a>(&'a self, config: &Config, call: &'a Pieces<6>, side: Side) -> Vec<&'a [u8]> {
        let lines = if side == Side::Caller { call.get(ROUTES) } else { self.answer.get(ROUTES_BACK) };
        let mut path: Vec<_> = lines.split(|octet| *octet == b'\n').filter(|route| !route.is_empty()).collect();
        if side == Side::Callee {
            path.truncate(path.iter().position(|route| is_ours(config, route)).unwrap_or(0));
            path.reverse();
        }
        path
    }
}

/// A BYE to one side of a dialog, as its other side would send it.
pub(super) struct Bye<'a> {
    call: &'a Call,
    dialog: &'a Dialog,
    to: Side,
    /// Route values.
    path: Vec<&'a [u8]>,
}

impl<'a> Bye<'a> {
    /// `None` if the side gave no Contact: nobody knows where it is.
    pub(super) fn new(config: &Config, call: &'a Call, dialog: &'a Dialog, to: Side) -> Option<Self> {
        let is_known = !dialog.target(&call.invite, to).is_empty();
        is_known.then(|| Bye { call, dialog, to, path: dialog.path(config, &call.invite, to) })
    }

    /// The URI that says where it goes first.
    pub(super) fn next(&self) -> &'a [u8] {
        let uri = self.path.first().and_then(|route| NameAddr::parse(route).ok()).map(|address| address.uri);
        uri.unwrap_or(self.dialog.target(&self.call.invite, self.to))
    }

    /// Appends it. `via` is the value of our Via, `lines` further header lines, each with its CRLF.
    pub(super) fn write(&self, via: &[u8], lines: &[u8], out: &mut Vec<u8>) {
        let Bye { call, dialog, to, path } = self;
        let target = request_uri_repaired(dialog.target(&call.invite, *to));
        let strict = path.first().and_then(|route| strict_uri(route));
        let (from, addressee) = match to {
            Side::Callee => (call.invite.get(FROM), dialog.answer.get(TO)),
            Side::Caller => (dialog.answer.get(TO), call.invite.get(FROM)),
        };
        let [caller, callee] = dialog.cseq;
        let number = if *to == Side::Callee { caller } else { callee }.saturating_add(1);
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        put(&[b"BYE ", strict.unwrap_or(&target), b" SIP/2.0\r\nVia: ", via, b"\r\nMax-Forwards: 70\r\n"]);
        for route in path.iter().skip(usize::from(strict.is_some())) {
            put(&[b"Route: ", route, b"\r\n"]);
        }
        if strict.is_some() {
            put(&[b"Route: <", &target, b">\r\n"]); // RFC 3261 12.2.1.1
        }
        put(&[b"From: ", from, b"\r\nTo: ", addressee, b"\r\nCall-ID: ", call.call_id(), b"\r\nCSeq: "]);
        push_decimal(out, number);
        out.extend_from_slice(b" BYE\r\n");
        out.extend_from_slice(lines);
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
}

/// The URI of a route value that is a strict router's.
fn strict_uri(route: &[u8]) -> Option<&[u8]> {
    let uri = NameAddr::parse(route).ok()?.uri;
    Uri::parse(uri).is_ok_and(|parsed| !parsed.is_loose()).then_some(uri)
}

/// URI of the first Contact.
pub(super) fn contact_of(message: Message<'_>) -> Option<Cow<'_, [u8]>> {
    let value = message.values(Name::Contact).next()?.value;
    Some(Cow::Borrowed(NameAddr::parse(value).ok()?.uri))
}

/// The values of a Record-Route header, each on a line of its own.
pub(super) fn record_routes(message: Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for value in message.values(Name::RecordRoute) {
        push_route(&mut out, value.value);
    }
    out
}

fn push_route(out: &mut Vec<u8>, value: &[u8]) {
    if !out.is_empty() {
        out.push(b'\n');
    }
    out.extend(value.iter().map(|octet| if matches!(octet, b'\r' | b'\n') { b' ' } else { *octet }));
}

/// A value of Record-Route that this element wrote.
fn is_ours(config: &Config, route: &[u8]) -> bool {
    let uri = NameAddr::parse(route).ok().and_then(|address| Uri::parse(address.uri).ok());
    uri.is_some_and(|uri| uri.user.is_none() && uri.is_loose() && config.listener_of_route(&uri).is_some())
}
