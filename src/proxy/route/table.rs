//! The route table: first match wins. A route is a list of conditions, all of which must hold, and one action (section 5 of the dossier).

use std::cell::OnceCell;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex::bytes::Regex;

use super::number::{Called, Shape};
use crate::passport::ppt::shaken::Attestation;
use crate::proxy::TrunkId;
use crate::proxy::admission::priority::Priority;
use crate::sip::{FieldName, Message, Method, Name, NameAddr, Uri};

/// A rule of the route table.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The trunks a request may come from; none is any.
    pub from: Vec<TrunkId>,
    /// What else must hold: all of it.
    pub when: Vec<Condition>,
    /// What becomes of the request.
    pub action: Action,
    /// What becomes of its Request-URI.
    pub shape: Shape,
}

/// What becomes of a request that a route matches.
#[derive(Clone, Debug)]
pub enum Action {
    /// It goes to the first of these trunks; to the others in turn if the failover classes of those before allow it.
    To(Vec<TrunkId>),
    /// The longest prefix in this table (its place in [`crate::proxy::Config::prefix_tables`]) says where; without one the route does
    /// not match.
    Table(usize),
    /// It is answered.
    Reject {
        /// 400 to 699.
        status: u16,
        /// Reason phrase.
        reason: Arc<str>,
    },
    /// It is answered 301 or 302.
    Redirect {
        /// Which.
        status: u16,
        /// The URI of Contact; without it the Request-URI as the route changes it.
        contact: Option<Arc<str>>,
    },
}

impl Default for Action {
    fn default() -> Self {
        Self::To(Vec::new())
    }
}

impl Route {
    /// Every request goes to this trunk.
    pub fn to(trunk: TrunkId) -> Self {
        Self { action: Action::To(vec![trunk]), ..Self::default() }
    }

    /// Requests of one trunk go to another.
    pub fn between(from: TrunkId, to: TrunkId) -> Self {
        Self { from: vec![from], ..Self::to(to) }
    }

    /// It is one for emergency calls: service URNs are understood then (V-4).
    pub(in crate::proxy) fn takes_emergencies(&self) -> bool {
        self.when.iter().any(|condition| matches!(condition, Condition::Emergency(true)))
    }

    /// It matches this request; an action of [`Action::Table`] has to be asked besides.
    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        (self.from.is_empty() || self.from.contains(&facts.ingress)) && self.when.iter().all(|c| c.holds(facts))
    }
}

/// What must hold for a route to match.
#[derive(Clone, Debug)]
pub enum Condition {
    /// One of these methods.
    Method(Vec<Box<str>>),
    /// The called number begins with one of these.
    Prefix(Vec<NumberPrefix>),
    /// What the Request-URI calls.
    Number(NumberKind),
    /// The Request-URI, as it is routed.
    Uri(Regex),
    /// The caller's number begins with one of these.
    CallerPrefix(Vec<NumberPrefix>),
    /// The caller's URI.
    Caller(Regex),
    /// A header is there, with a value like this.
    Header {
        /// Its name.
        name: FieldName,
        /// What one of its fields must look like; `None`: anything.
        matches: Option<Regex>,
    },
    /// The time of day and week.
    Time(Window),
    /// The attestation of the valid token is one of these.
    Attest(Vec<Attestation>),
    /// What verification found.
    Verdict(Verdict),
    /// It is an emergency call, or none.
    Emergency(bool),
}

/// Leading digits, perhaps behind a plus sign that must be there then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberPrefix {
    /// The number must be complete: it began with `+`, or the trunk's plan completed it.
    pub is_global: bool,
    /// Digits, `*` and `#`.
    pub digits: Box<str>,
}

impl NumberPrefix {
    /// From `+49`, `49` or `*67`; at most 32 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let is_good = |b: u8| b.is_ascii_digit() || matches!(b, b'*' | b'#');
        let is_number = !text.is_empty() && digits.len() <= 32 && digits.bytes().all(is_good);
        is_number.then(|| Self { is_global: digits.len() < text.len(), digits: digits.into() })
    }

    fn begins(&self, number: &Called) -> bool {
        (number.is_global || !self.is_global) && number.digits.starts_with(&*self.digits)
    }
}

/// Kinds of Request-URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    /// A number with its country code.
    Global,
    /// A number without: national, short, with `*` or `#`.
    Local,
    /// Any number.
    Any,
    /// No number.
    None,
}

/// Hours of some days of the week.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Monday is bit 0.
    pub days: u8,
    /// Minute of the day at which it begins.
    pub from: u16,
    /// Minute of the day at which it ends; not after `from`: on the next day.
    pub to: u16,
    /// Whose clock.
    pub zone: TimeZone,
}

impl Window {
    /// Whether it is open at `unix` seconds.
    pub fn contains(&self, unix: i64) -> bool {
        let Ok(time) = Timestamp::from_second(unix) else { return false };
        let local = self.zone.to_datetime(time);
        let today = local.weekday().to_monday_zero_offset();
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        let is_on = |day: i8| self.days >> day.rem_euclid(7) & 1 == 1;
        let (from, to) = (i32::from(self.from), i32::from(self.to));
        if from < to {
            return is_on(today) && (from..to).contains(&minute);
        }
        is_on(today) && minute >= from || is_on(today - 1) && minute < to
    }
}

/// What verification found out about an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A token is valid.
    Passed,
    /// There is one, and none is valid.
    Failed,
    /// There is none, or nobody looked.
    #[default]
    None,
}

/// The verdict with the attestation of the valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verified {
    /// What was found.
    pub verdict: Verdict,
    /// `attest` of the token that is valid.
    pub attest: Option<Attestation>,
}

/// What conditions ask about a request; what takes time to find out is found out when it is first asked.
pub(super) struct Facts<'a> {
    request: Message<'a>,
    pub ingress: TrunkId,
    /// P-Asserted-Identity of the request is believed.
    is_trusted: bool,
    /// The Request-URI as it is routed.
    pub uri: &'a [u8],
    verified: Verified,
    unix: i64,
    emergency_numbers: &'a [String],
    called: OnceCell<Option<Called>>,
    caller: OnceCell<Option<Caller<'a>>>,
}

/// Who calls: the asserted identity of a trusted trunk, else From.
struct Caller<'a> {
    uri: &'a [u8],
    number: Option<Called>,
}

/// What [`Facts`] are made of besides the request.
pub(super) struct Circumstances<'a> {
    pub ingress: TrunkId,
    pub is_trusted: bool,
    pub verified: Verified,
    pub unix: i64,
    pub emergency_numbers: &'a [String],
}

impl<'a> Facts<'a> {
    pub fn new(request: Message<'a>, uri: &'a [u8], c: Circumstances<'a>) -> Self {
        Self {
            request,
            uri,
            ingress: c.ingress,
            is_trusted: c.is_trusted,
            verified: c.verified,
            unix: c.unix,
            emergency_numbers: c.emergency_numbers,
            called: OnceCell::new(),
            caller: OnceCell::new(),
        }
    }

    /// Its method.
    pub fn method(&self) -> Option<Method<'a>> {
        self.request.method()
    }

    /// The called number, if it is one.
    pub fn called(&self) -> Option<&Called> {
        self.called.get_or_init(|| Called::of(&Uri::parse(self.uri).ok()?)).as_ref()
    }

    fn caller(&self) -> Option<&Caller<'a>> {
        let find = || {
            let asserted = || {
                let first = self.request.values(Name::PAssertedIdentity).next()?;
                NameAddr::parse(first.value).ok().map(|address| address.uri)
            };
            let asserted = self.is_trusted.then(asserted).flatten();
            let uri = asserted.or_else(|| self.request.from().ok().map(|from| from.uri))?;
            Some(Caller { uri, number: Uri::parse(uri).ok().and_then(|uri| Called::of(&uri)) })
        };
        self.caller.get_or_init(find).as_ref()
    }
}

impl Condition {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Method(methods) => {
                let own = facts.request.method();
                own.is_some_and(|own| methods.iter().any(|method| method.as_bytes() == own.as_bytes()))
            }
            Self::Prefix(prefixes) => facts.called().is_some_and(|n| prefixes.iter().any(|p| p.begins(n))),
            Self::Number(kind) => match facts.called() {
                None => *kind == NumberKind::None,
                Some(called) => match kind {
                    NumberKind::Global => called.is_global,
                    NumberKind::Local => !called.is_global,
                    NumberKind::Any => true,
                    NumberKind::None => false,
                },
            },
            Self::Uri(regex) => regex.is_match(facts.uri),
            Self::CallerPrefix(prefixes) => {
                let number = facts.caller().and_then(|caller| caller.number.as_ref());
                number.is_some_and(|n| prefixes.iter().any(|p| p.begins(n)))
            }
            Self::Caller(regex) => facts.caller().is_some_and(|caller| regex.is_match(caller.uri)),
            Self::Header { name, matches } => {
                let is_like = |value: &[u8]| matches.as_ref().is_none_or(|regex| regex.is_match(value));
                name.fields_of(facts.request).any(|field| is_like(&field.unfolded()))
            }
            Self::Time(window) => window.contains(facts.unix),
            Self::Attest(letters) => facts.verified.attest.is_some_and(|letter| letters.contains(&letter)),
            Self::Verdict(verdict) => facts.verified.verdict == *verdict,
            Self::Emergency(wanted) => {
                let priority = Priority::of(facts.request, facts.emergency_numbers, facts.is_trusted);
                (priority == Priority::Emergency) == *wanted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    #[test]
    fn verdict_and_attestation_of_the_valid_token_are_asked() {
        let text = b"INVITE sip:+4930@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n";
        let mut index = Index::new();
        let request = parse(text, &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let holds = |condition: &Condition, verdict, attest| {
            let verified = Verified { verdict, attest };
            let (ingress, unix) = (TrunkId(0), 0);
            let circumstances = Circumstances { ingress, is_trusted: false, verified, unix, emergency_numbers: &[] };
            condition.holds(&Facts::new(request, request.request_uri(), circumstances))
        };
        let attest = Condition::Attest(vec![Attestation::Full, Attestation::Partial]);
        assert!(holds(&attest, Verdict::Passed, Some(Attestation::Partial)));
        assert!(!holds(&attest, Verdict::Passed, Some(Attestation::Gateway)));
        assert!(!holds(&attest, Verdict::None, None));
        let all = [Verdict::Passed, Verdict::Failed, Verdict::None];
        for wanted in all {
            for found in all {
                assert_eq!(holds(&Condition::Verdict(wanted), found, None), wanted == found);
            }
        }
    }
}
