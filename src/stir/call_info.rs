//! Call-Info for rich call data (RFC 9796): written from a verdict towards those who show it, and taken from those who must not say it.
use super::rich_call_data::{Card, Linked, RichCallData};
use super::{Verdict, reason};
use crate::sip::{Message, Name, Params, Patch, text};

/// Bounds on what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallInfoLimits {
    /// Longest value, octets; a longer one is left out.
    pub max_value: usize,
    /// Longest call reason, characters (RFC 9796 section 6 recommends 64); a longer one is left out.
    pub max_reason: usize,
}

impl Default for CallInfoLimits {
    fn default() -> Self {
        Self { max_value: 4096, max_reason: 64 }
    }
}

/// Appends Call-Info lines for the rich call data of a verdict, the caller's own side before third parties. At most one card is named
/// per call (section 5). Gives the number of lines.
pub fn write_lines(verdict: &Verdict, limits: &CallInfoLimits, out: &mut Vec<u8>) -> usize {
    verdict.rich_call_data().next().map_or(0, |data| write(data, limits, out))
}

/// The same for one set of data.
pub fn write(data: &RichCallData, limits: &CallInfoLimits, out: &mut Vec<u8>) -> usize {
    let mut lines = 0;
    let mut line = |value: &[u8]| {
        let fits = value.len() <= limits.max_value;
        if fits {
            out.extend_from_slice(b"Call-Info: ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
            lines += 1;
        }
        fits
    };
    if let Some(icon) = &data.icon {
        line(&linked(icon, "icon"));
    }
    let is_short = |reason: &&str| reason.chars().count() <= limits.max_reason && !reason.chars().any(char::is_control);
    let reason = data.reason.as_deref().filter(is_short);
    let with_reason = |mut value: Vec<u8>| {
        if let Some(reason) = reason {
            value.extend_from_slice(b";call-reason=");
            quote(reason, &mut value);
        }
        value
    };
    let card = data.card.as_ref().map(|card| match card {
        Card::Inline(json) => {
            let mut value = b"<data:application/json,".to_vec();
            percent_encode(json, &mut value);
            value.extend_from_slice(b">;purpose=jcard;verified=\"true\"");
            value
        }
        Card::Link(link) => linked(link, "jcard"),
    });
    let is_written = card.is_some_and(|card| line(&with_reason(card)));
    if !is_written && (reason.is_some() || data.name.is_some()) {
        line(&with_reason(b"<data:>;purpose=jcard;verified=\"true\"".to_vec()));
    }
    lines
}

fn linked(link: &Linked, purpose: &str) -> Vec<u8> {
    let integrity = link.integrity.as_deref().map(|digest| format!(";integrity=\"{digest}\"")).unwrap_or_default();
    format!("<{}>;purpose={purpose};verified=\"true\"{integrity}", link.url).into_bytes()
}

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for octet in text.bytes() {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(octet);
    }
    out.push(b'"');
}

/// RFC 3986 section 2.1: all but unreserved characters.
fn percent_encode(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            out.push(octet);
        } else {
            out.extend([b'%', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]);
        }
    }
}

/// Whether a Call-Info value speaks of rich call data: `purpose=jcard`, `call-reason`, `verified` or `integrity` (RFC 9796 section 4:
/// nobody on the way may add such, so those of untrusted peers are to be taken out). So does one whose parameters can not be read: the
/// next one might read them.
pub fn is_rich_call_data(value: &[u8]) -> bool {
    let (start, parameters) = parameters(value);
    let mut end = start;
    for parameter in parameters {
        end = start + parameter.range.end;
        let is_card = || parameter.value.is_some_and(|value| text::unquote(value).eq_ignore_ascii_case(b"jcard"));
        let is_ours = ["call-reason", "verified", "integrity"].into_iter().any(|name| parameter.is(name));
        if is_ours || (parameter.is("purpose") && is_card()) {
            return true;
        }
    }
    value.get(end..).is_some_and(|rest| !text::trim(rest).is_empty())
}

/// Takes such values out of a request. Gives their number.
pub fn strip(request: Message<'_>, patch: &mut Patch) -> usize {
    reason::remove_values(request, Name::CallInfo, is_rich_call_data, patch)
}

/// The first `call-reason` of a request.
pub(super) fn call_reason(request: Message<'_>) -> Option<String> {
    let mut values = request.values(Name::CallInfo);
    values.find_map(|value| {
        let reason = parameters(value.value).1.find("call-reason")?.value?;
        String::from_utf8(text::unfold(&text::unquote(reason)).into_owned()).ok()
    })
}

/// What follows the URI in angle brackets, which in Call-Info may be the empty `data:`, and where it starts.
fn parameters(value: &[u8]) -> (usize, Params<'_>) {
    let start = memchr::memchr(b'>', value).map_or(0, |end| end + 1);
    (start, Params::of(value.get(start..).unwrap_or_default()))
}
