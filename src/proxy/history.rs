//! Where a request has been: History-Info (RFC 7044, E-6) and Diversion (RFC 5806, E-7) for a copy that goes elsewhere.

use super::failover::Outcome;
use super::plan::{Change, Retarget};
use super::response_context::Local;
use crate::sip::text::push_decimal;
use crate::sip::{Message, Name, NameAddr, Patch, Scheme, Uri};
use crate::transaction::ClientId;

/// RFC 7044 10.1.2, RFC 3323 4.1.1.3.
const ANONYMOUS: &[u8] = b"sip:anonymous@anonymous.invalid";
/// Longest hi-index that is extended.
const MAX_INDEX: usize = 128;

/// What one request's copies have in common, and what became of those that were sent.
#[derive(Debug, Default)]
pub struct History {
    entries: Vec<Sent>,
}

/// A copy that was sent.
#[derive(Debug)]
struct Sent {
    client: ClientId,
    uri: Vec<u8>,
    parameter: Parameter,
    /// The status it ended with.
    ended: Option<u16>,
}

/// How the target of an entry was found (RFC 7044 10.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    /// No change.
    Same,
    /// The same user elsewhere, or written differently.
    Contact,
    /// Another user.
    Mapped,
}

impl Parameter {
    fn of(retarget: Option<&Retarget>) -> Self {
        match retarget.map(|retarget| retarget.change) {
            None => Self::Same,
            Some(Change::Form) => Self::Contact,
            Some(Change::Number | Change::Deflection) => Self::Mapped,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Same => b"np",
            Self::Contact => b"rc",
            Self::Mapped => b"mp",
        }
    }
}

impl History {
    /// Notes a copy.
    pub fn sent(&mut self, client: ClientId, uri: &[u8], retarget: Option<&Retarget>) {
        self.entries.push(Sent { client, uri: uri.to_vec(), parameter: Parameter::of(retarget), ended: None });
    }

    /// Notes how a copy ended: what its entry says in the copies that follow it.
    pub fn ended(&mut self, client: ClientId, outcome: Outcome) {
        let status = match outcome {
            Outcome::Answered(status) => Some(status),
            Outcome::Local(Local::Timeout) => Some(408),
            Outcome::Local(Local::Unavailable) => Some(503),
            Outcome::Local(Local::Cancelled | Local::Refused { .. }) => None,
        };
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.client == client) {
            entry.ended = status.or(entry.ended);
        }
    }

    /// Appends the entries that a copy to `uri` carries besides those received: one for the Request-URI as it came, if the last hop
    /// left it out, those of failed copies with why, and its own. `hides` anonymises a host.
    pub fn write(
        &self,
        request: Message<'_>,
        received: &[u8],
        uri: &[u8],
        retarget: Option<&Retarget>,
        hides: &impl Fn(&[u8]) -> bool,
        out: &mut Vec<u8>,
    ) {
        let Some((parent, is_known)) = parent_index(request, received) else { return };
        if !is_known {
            write_entry(received, None, &parent, None, hides, out);
        }
        let mut number = 0;
        let mut entry = |uri: &[u8], reason, parameter, is_written| {
            number += 1;
            if is_written {
                let mut index = parent.clone();
                index.push(b'.');
                push_decimal(&mut index, number);
                write_entry(uri, reason, &index, Some((parameter, &parent)), hides, out);
            }
        };
        for sent in &self.entries {
            entry(&sent.uri, sent.ended, sent.parameter, sent.ended.is_some());
        }
        entry(uri, None, Parameter::of(retarget), true);
    }
}

/// Whether whoever sent a request is to find History-Info in the responses to it (RFC 7044 5): it says so, or has written some itself.
pub fn is_asked_for(request: Message<'_>) -> bool {
    let is_tag = |value: &[u8]| value.eq_ignore_ascii_case(b"histinfo");
    request.field(Name::HistoryInfo).is_some() || request.values(Name::Supported).any(|tag| is_tag(tag.value))
}

/// The index of the entry for the received Request-URI, and whether it is there already (RFC 7044 9.1, 10.3). `None`: there is no more
/// room, or the last entry can not be read.
fn parent_index(request: Message<'_>, received: &[u8]) -> Option<(Vec<u8>, bool)> {
    let Some(last) = request.values(Name::HistoryInfo).last() else { return Some((b"1".to_vec(), false)) };
    let address = NameAddr::parse(last.value).ok()?;
    let index = address.params().find("index")?.value?;
    let is_index = index.len() <= MAX_INDEX && index.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    if !is_index || index.is_empty() {
        return None;
    }
    let bare = address.uri.split(|b| *b == b'?').next().unwrap_or_default();
    let is_known = bare == received;
    Some(if is_known { (index.to_vec(), true) } else { ([index, b".0"].concat(), false) })
}

fn write_entry(
    uri: &[u8],
    reason: Option<u16>,
    index: &[u8],
    parameter: Option<(Parameter, &[u8])>,
    hides: &impl Fn(&[u8]) -> bool,
    out: &mut Vec<u8>,
) {
    let parsed = Uri::parse(uri).ok();
    let is_hidden = parsed.as_ref().is_some_and(|uri| hides(uri.host_bytes));
    let has_headers = parsed.as_ref().is_some_and(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips));
    out.extend_from_slice(b"History-Info: <");
    out.extend_from_slice(if is_hidden { ANONYMOUS } else { uri });
    if let Some(status) = reason.filter(|_| has_headers) {
        out.extend_from_slice(b"?Reason=SIP%3Bcause%3D");
        push_decimal(out, status.into());
    }
    out.extend_from_slice(b">;index=");
    out.extend_from_slice(index);
    if let Some((parameter, parent)) = parameter {
        out.push(b';');
        out.extend_from_slice(parameter.name());
        out.push(b'=');
        out.extend_from_slice(parent);
    }
    out.extend_from_slice(b"\r\n");
}

/// Replaces entries of our own domain (RFC 7044 10.1.2): all if the message asks for it, else those that ask for themselves.
pub fn anonymise(message: Message<'_>, own: impl Fn(&[u8]) -> bool, patch: &mut Patch) {
    let asks_for_all = super::trust::Privacy::of(message).hides_history();
    for value in message.values(Name::HistoryInfo) {
        let Ok(address) = NameAddr::parse(value.value) else { continue };
        let Ok(uri) = Uri::parse(address.uri) else { continue };
        let asks = || {
            uri.headers.is_some_and(|h| h.to_ascii_lowercase().split(|b| *b == b'&').any(|h| h == b"privacy=history"))
        };
        if own(&uri.host_bytes.to_ascii_lowercase()) && (asks_for_all || asks()) {
            // The whole name-addr: a display name tells as much as the URI (10.1.2).
            let start = (address.uri.as_ptr() as usize).saturating_sub(value.value.as_ptr() as usize);
            let end = start + address.uri.len();
            if value.value.get(end) == Some(&b'>') {
                let name_addr = value.range.start..value.range.start + end + 1;
                patch.replace(name_addr, &[b"<", ANONYMOUS, b">"].concat());
            } else {
                patch.replace(value.range.start + start..value.range.start + end, ANONYMOUS);
            }
        }
    }
}

/// The Diversion line of a copy that goes to another number than the one that was called (E-7): on top, naming that one.
pub fn write_diversion(request: Message<'_>, called: &[u8], change: Change, patch: &mut Patch) {
    let reason: &[u8] = match change {
        Change::Form => return,
        Change::Number => b"unconditional",
        Change::Deflection => b"deflection",
    };
    let top = request.field(Name::Diversion).map_or(request.headers_end(), |field| field.line.start);
    patch.insert_with(top, |buf| {
        buf.extend_from_slice(b"Diversion: <");
        buf.extend_from_slice(called);
        buf.extend_from_slice(b">;reason=");
        buf.extend_from_slice(reason);
        buf.extend_from_slice(b";counter=1\r\n");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    fn written(
        lines: &str,
        received: &str,
        sent: &[(&str, Change, Option<u16>)],
        uri: &str,
        change: Option<Change>,
    ) -> String {
        let text = format!("INVITE {received} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\n{lines}\r\n");
        let mut index = Index::new();
        let request = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let mut layer = crate::transaction::Layer::new(crate::transaction::Config::default(), [0; 16], epoch());
        let retarget = |uri: &str, change| Retarget::new(uri.as_bytes(), change);
        let mut history = History::default();
        for (uri, change, status) in sent {
            let client = layer.reserve_client(0, 0).unwrap().0;
            history.sent(client, uri.as_bytes(), Some(&retarget(uri, *change)));
            if let Some(status) = status {
                history.ended(client, Outcome::Answered(*status));
            }
        }
        let mut out = Vec::new();
        let retarget = change.map(|change| retarget(uri, change));
        history.write(
            request,
            received.as_bytes(),
            uri.as_bytes(),
            retarget.as_ref(),
            &|host| host == b"secret",
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[allow(clippy::disallowed_methods)] // an Instant can be had in no other way
    fn epoch() -> std::time::Instant {
        std::time::Instant::now()
    }

    #[test]
    fn e6_indices() {
        let first = "History-Info: <sip:a@x>;index=1\r\n";
        assert_eq!(
            written("", "sip:a@x", &[], "sip:a@x", None),
            format!("{first}History-Info: <sip:a@x>;index=1.1;np=1\r\n")
        );
        let moved = "History-Info: <sip:b@y>;index=1.1;mp=1\r\n";
        assert_eq!(
            written(first, "sip:a@x", &[], "sip:b@y", Some(Change::Number)),
            moved,
            "the last entry names the Request-URI"
        );
        let with_reason = "History-Info: <sip:z@x>;index=1, <sip:a@x?Reason=SIP%3Bcause%3D302>;index=1.2;mp=1\r\n";
        assert_eq!(
            written(with_reason, "sip:a@x", &[], "sip:b@y", Some(Change::Form)),
            "History-Info: <sip:b@y>;index=1.2.1;rc=1.2\r\n"
        );
        let gap = "History-Info: <sip:q@x>;index=1.1.2\r\n";
        assert_eq!(
            written(gap, "sip:a@x", &[], "sip:b@y", Some(Change::Number)),
            "History-Info: <sip:a@x>;index=1.1.2.0\r\nHistory-Info: <sip:b@y>;index=1.1.2.0.1;mp=1.1.2.0\r\n"
        );
        for unreadable in ["History-Info: <sip:q@x>\r\n", "History-Info: <sip:q@x>;index=x\r\n", "History-Info: \"\r\n"]
        {
            assert_eq!(written(unreadable, "sip:a@x", &[], "sip:b@y", None), "");
        }
    }

    #[test]
    fn e6_failed_copies_are_told_with_their_reason() {
        let sent = [
            ("sip:b@y", Change::Number, Some(486)),
            ("tel:+1", Change::Number, Some(408)),
            ("sip:d@y", Change::Form, None),
        ];
        assert_eq!(
            written("", "sip:a@x", &sent, "sip:e@y", Some(Change::Deflection)),
            "History-Info: <sip:a@x>;index=1\r\nHistory-Info: <sip:b@y?Reason=SIP%3Bcause%3D486>;index=1.1;mp=1\r\n\
             History-Info: <tel:+1>;index=1.2;mp=1\r\nHistory-Info: <sip:e@y>;index=1.4;mp=1\r\n",
            "no Reason in a tel URI; a copy that still waits is no history, but has its number"
        );
        assert_eq!(
            written("", "sip:a@secret", &[], "sip:b@y", None),
            "History-Info: <sip:anonymous@anonymous.invalid>;index=1\r\nHistory-Info: <sip:b@y>;index=1.1;np=1\r\n"
        );
    }
}
