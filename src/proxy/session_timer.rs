//! Session timers in the proxy role (RFC 4028 8, E-3). By default they are only observed: an interval in a 2xx bounds how long a call is
//! remembered. A trunk may have timers of its own: then INVITEs and UPDATEs from it get an interval, or a longer or shorter one.

use std::ops::Range;
use std::time::Duration;

use super::{ContextKey, Proxy};
use crate::sip::text::{decimal, push_decimal};
use crate::sip::{Message, Method, Name, Patch};

/// No interval may be shorter (RFC 4028 4), in seconds. It is also the Min-SE of a request that has none.
pub const SHORTEST: u32 = 90;

/// Session timers of a trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// The interval that its sessions get, and the longest they may have; seconds.
    pub expires: u32,
    /// The shortest they may have; seconds, at least 90.
    pub min_se: u32,
}

/// What is done to a request, and remembered for its answer (RFC 4028 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Treatment {
    /// The interval it leaves with; seconds.
    expires: u32,
    /// The Min-SE it leaves with, if that changes.
    min_se: Option<u32>,
    /// Who sent it knows session timers.
    is_supported: bool,
}

/// The interval is too short, and who sent it can be told so: 422 with this Min-SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSmall {
    pub min_se: u32,
}

/// A delta-seconds value at the start of a field, and where its digits stand in the message.
fn seconds_of(message: Message<'_>, name: Name) -> Option<(u32, Range<usize>)> {
    let field = message.field(name)?;
    let digits = field.value().iter().take_while(|octet| octet.is_ascii_digit()).count();
    let seconds = decimal(field.value().get(..digits)?)?;
    Some((seconds, field.value_range.start..field.value_range.start + digits))
}

/// The interval of Session-Expires, if there is a readable one.
pub(super) fn interval_of(message: Message<'_>) -> Option<u32> {
    seconds_of(message, Name::SessionExpires).map(|(seconds, _)| seconds)
}

fn has_option(message: Message<'_>, name: Name) -> bool {
    message.values(name).any(|option| option.value.eq_ignore_ascii_case(b"timer"))
}

/// Decides about an INVITE or UPDATE from a trunk with session timers.
///
/// # Errors
/// 422 (RFC 4028 8.1): only to who supports timers, as nobody else understands it.
pub(super) fn treat(timer: SessionTimer, request: Message<'_>) -> Result<Option<Treatment>, TooSmall> {
    if !matches!(request.method(), Some(Method::Invite | Method::Update)) {
        return Ok(None);
    }
    let is_supported = has_option(request, Name::Supported) || has_option(request, Name::Require);
    let told_min = seconds_of(request, Name::MinSe).map(|(seconds, _)| seconds);
    let floor = told_min.unwrap_or(SHORTEST).max(SHORTEST);
    let keep = |expires, min_se| Ok(Some(Treatment { expires, min_se, is_supported }));
    match interval_of(request) {
        None if request.field(Name::SessionExpires).is_some() => Ok(None), // unreadable: not ours to judge (V-2)
        None => keep(timer.expires.max(floor), None),
        Some(asked) if asked < timer.min_se && is_supported => Err(TooSmall { min_se: timer.min_se }),
        Some(asked) if asked < timer.min_se => {
            let min_se = floor.max(timer.min_se);
            keep(asked.max(min_se), (told_min != Some(min_se)).then_some(min_se))
        }
        Some(asked) => keep(asked.min(timer.expires).max(floor), None),
    }
}

impl Treatment {
    /// Adds the edits to a copy of the request. `refresher` stays as it is, and none is made up.
    pub fn write(self, request: Message<'_>, patch: &mut Patch) {
        set(request, Name::SessionExpires, self.expires, patch);
        if let Some(min_se) = self.min_se {
            set(request, Name::MinSe, min_se, patch);
        }
    }

    /// The interval that this element adds to a 2xx: the callee knows no timers and the caller does (RFC 4028 8.2).
    fn added_to(self, response: Message<'_>) -> Option<u32> {
        (self.is_supported && response.field(Name::SessionExpires).is_none()).then_some(self.expires)
    }
}

fn set(request: Message<'_>, name: Name, seconds: u32, patch: &mut Patch) {
    match seconds_of(request, name) {
        Some((old, _)) if old == seconds => {}
        Some((_, digits)) => patch.replace_with(digits, |buf| push_decimal(buf, seconds)),
        None => patch.insert_with(request.headers_end(), |buf| {
            buf.extend_from_slice(name.as_str().as_bytes());
            buf.extend_from_slice(b": ");
            push_decimal(buf, seconds);
            buf.extend_from_slice(b"\r\n");
        }),
    }
}

impl Proxy {
    /// Adds what a 2xx lacks to the edits under way.
    pub(super) fn add_session(&mut self, key: ContextKey, response: Message<'_>) {
        if response.status().is_none_or(|status| status / 100 != 2) {
            return;
        }
        let Some(treatment) = self.context(key).and_then(|context| context.session) else { return };
        if let Some(expires) = treatment.added_to(response) {
            self.patch.insert_with(response.headers_end(), |buf| {
                buf.extend_from_slice(b"Session-Expires: ");
                push_decimal(buf, expires);
                buf.extend_from_slice(b";refresher=uac\r\nRequire: timer\r\n");
            });
        }
    }

    /// How long the session lives by this 2xx, if it says so or we do. A shorter interval than the configuration knows counts as that:
    /// nobody escapes a limit on calls by it.
    pub(super) fn session_by(&mut self, key: ContextKey, response: Message<'_>) -> Option<Duration> {
        let shortest = self.snapshot.config.min_session;
        let added = || self.context(key)?.session?.added_to(response);
        let seconds = interval_of(response).or_else(added)?;
        Some(Duration::from_secs(seconds.into()).max(shortest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    const TIMER: SessionTimer = SessionTimer { expires: 1800, min_se: 120 };

    /// What the timer fields are when the request leaves, or the Min-SE of the 422.
    fn treated(lines: &str) -> Result<Vec<String>, u32> {
        let text = format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\n{lines}l: 0\r\n\r\n");
        let mut index = Index::new();
        let request = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let treatment = treat(TIMER, request).map_err(|too_small| too_small.min_se)?;
        let (mut patch, mut out) = (Patch::new(), Vec::new());
        treatment.iter().for_each(|treatment| treatment.write(request, &mut patch));
        patch.write(text.as_bytes(), &mut out);
        let out = String::from_utf8(out).unwrap();
        Ok(out
            .split("\r\n")
            .filter(|l| l.contains("-SE") || l.contains("Expires") || l.starts_with('x'))
            .map(str::to_owned)
            .collect())
    }

    #[test]
    fn e3_the_matrix_of_rfc_4028_8_1() {
        let supported = "Supported: 100rel, timer\r\n";
        type Expected = Result<&'static [&'static str], u32>;
        let cases: [(&str, &str, Expected); 14] = [
            // Nothing asked: inserted, never with a refresher, never under Min-SE.
            ("", "", Ok(&["Session-Expires: 1800"])),
            (supported, "", Ok(&["Session-Expires: 1800"])),
            ("", "Min-SE: 3600\r\n", Ok(&["Min-SE: 3600", "Session-Expires: 3600"])),
            // Longer than ours: lowered, not under Min-SE; refresher untouched.
            (supported, "Session-Expires: 7200;refresher=uas\r\n", Ok(&["Session-Expires: 1800;refresher=uas"])),
            (supported, "x: 7200 ;refresher=uac\r\n", Ok(&["x: 1800 ;refresher=uac"])),
            (supported, "Session-Expires: 7200\r\nMin-SE: 3600\r\n", Ok(&["Session-Expires: 3600", "Min-SE: 3600"])),
            // Between: untouched.
            (supported, "Session-Expires: 900\r\n", Ok(&["Session-Expires: 900"])),
            ("", "Session-Expires: 120\r\n", Ok(&["Session-Expires: 120"])),
            // Under its own Min-SE: raised to it.
            (supported, "Session-Expires: 200\r\nMin-SE: 300\r\n", Ok(&["Session-Expires: 300", "Min-SE: 300"])),
            // Too small: 422 to who knows timers, raised for who does not.
            (supported, "Session-Expires: 119\r\n", Err(120)),
            ("Require: timer\r\n", "Session-Expires: 60\r\nMin-SE: 60\r\n", Err(120)),
            ("", "Session-Expires: 60\r\n", Ok(&["Session-Expires: 120", "Min-SE: 120"])),
            ("", "Session-Expires: 60\r\nMin-SE: 60\r\n", Ok(&["Session-Expires: 120", "Min-SE: 120"])),
            // Unreadable: not ours.
            (supported, "Session-Expires: soon\r\n", Ok(&["Session-Expires: soon"])),
        ];
        for (support, lines, wanted) in cases {
            let wanted = wanted.map(|lines| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
            assert_eq!(treated(&format!("{support}{lines}")), wanted, "{support}{lines}");
        }
    }

    #[test]
    fn e3_other_requests_are_left_alone() {
        let text = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nSession-Expires: 10\r\n\r\n";
        let mut index = Index::new();
        let request = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        assert_eq!(treat(TIMER, request), Ok(None));
    }
}
