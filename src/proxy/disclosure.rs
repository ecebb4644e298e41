//! What a trunk is told of the verdict on a caller, and what is taken from those who must not say it: verstat, the verdict as a header,
//! attestation and origination, Call-Info of verified rich call data (RFC 9796).

use super::trust::Crossing;
use super::{Config, Trunk};
use crate::passport::DialPlan;
use crate::sip::{Message, Name, Patch};
use crate::stir::call_info::{self, CallInfoLimits};
use crate::stir::mark::{self, Mark};
use crate::stir::{Verdict, verdict_line};

/// Usual names of headers that tell attestation and origination. Nobody outside the trust domain may say them.
pub const USUAL_NAMES: [&str; 4] =
    ["P-Attestation-Indicator", "P-Origination-ID", "Attestation-Info", "Origination-Id"];

/// What a trunk is told of verified requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disclosure {
    /// `verstat` on P-Asserted-Identity or From ends with the attestation: `TN-Validation-Passed-A`. Whether there is one at all is
    /// [`super::trust::HeaderRules::verstat`].
    pub verstat_attestation: bool,
    /// The verdict ([`verdict_line`]) in a header of this name.
    pub verdict: Option<Box<str>>,
    /// `attest` of the valid token in a header of this name.
    pub attestation: Option<Box<str>>,
    /// `origid` of the valid token in a header of this name.
    pub origination: Option<Box<str>>,
    /// Call-Info for verified rich call data.
    pub call_info: bool,
}

impl Disclosure {
    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.verdict, &self.attestation, &self.origination].into_iter().filter_map(|name| name.as_deref())
    }

    /// Something is told.
    fn is_any(&self) -> bool {
        self.call_info || self.names().next().is_some()
    }
}

/// Headers that tell verdicts inside the trust domain, and whether any trunk is told anything: from all trunks.
#[derive(Debug)]
pub struct Disclosed {
    names: Vec<Box<str>>,
    is_any: bool,
}

impl Disclosed {
    /// Of these trunks.
    pub fn of(trunks: &[Trunk]) -> Self {
        let mut names: Vec<Box<str>> = USUAL_NAMES.into_iter().map(Box::from).collect();
        for name in trunks.iter().flat_map(|trunk| trunk.discloses.names()) {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        }
        let is_any = trunks.iter().any(|trunk| trunk.discloses.is_any() || trunk.headers.verstat);
        Self { names, is_any }
    }
}

impl Config {
    /// Whether verdicts have to be kept for those who are told of them.
    pub(super) fn discloses(&self) -> bool {
        self.disclosed.get(|| Disclosed::of(&self.trunks)).is_any
    }
}

/// What is told of one copy.
#[derive(Clone, Copy)]
pub struct Telling<'a> {
    /// What was found.
    pub verdict: &'a Verdict,
    /// Present time, UNIX seconds.
    pub unix: i64,
    /// What the trunk it goes to is told.
    pub rules: &'a Disclosure,
    /// How numbers are read.
    pub plan: &'a DialPlan,
}

impl<'a> Telling<'a> {
    /// The mark of the copy's number, if the trunk that it goes to wants one.
    pub fn mark(&self, crossing: Crossing) -> Option<Mark<'a>> {
        crossing.rules.verstat.then(|| Mark::of(self.verdict, self.rules.verstat_attestation, self.plan))
    }
}

/// Adds the edits to a copy of a request: takes out what the trunk it came from must not say and the one it goes to is not told; says
/// what is to be told. `asserted`: P-Asserted-Identity of our own is added to the copy, and marked there.
pub fn write(
    request: Message<'_>,
    config: &Config,
    crossing: Crossing,
    telling: Option<Telling<'_>>,
    asserted: Option<&str>,
    patch: &mut Patch,
) {
    let disclosed = config.disclosed.get(|| Disclosed::of(&config.trunks));
    let is_inside = crossing.from_trusted && crossing.to_trusted;
    let is = |name: &str, own: &[u8]| name.as_bytes().eq_ignore_ascii_case(own);
    for field in request.fields().filter(|field| field.name == Name::Other) {
        let own = field.raw_name();
        let is_replaced = telling.is_some_and(|telling| telling.rules.names().any(|name| is(name, own)));
        let is_foreign = !is_inside && disclosed.names.iter().any(|name| is(name, own));
        if is_replaced || is_foreign || config.identity_headers.ends_here(own, is_inside) {
            patch.remove(field.line);
        }
    }
    let mut lines = Vec::new();
    if let Some(telling) = telling {
        telling.write_lines(&mut lines);
    }
    let own = telling.filter(|telling| telling.rules.call_info);
    let written = own.map_or(0, |own| call_info::write_lines(own.verdict, &CallInfoLimits::default(), &mut lines));
    if (!crossing.from_trusted || written > 0) && request.field(Name::CallInfo).is_some() {
        call_info::strip(request, patch);
    }
    if !lines.is_empty() {
        patch.insert(request.headers_end(), &lines);
    }
    let mark = telling.and_then(|telling| telling.mark(crossing));
    let marked = mark.and_then(|mark| asserted.and_then(|asserted| mark.marked(asserted)));
    if mark.is_some() && crossing.from_trusted {
        mark::strip(request, patch);
    }
    if let (Some(mark), None) = (mark, &marked) {
        mark.set(request, crossing.from_trusted && crossing.tells_identity(request), patch);
    }
    if let Some(asserted) = marked.as_deref().or(asserted.map(str::as_bytes)) {
        let line = [b"P-Asserted-Identity: ", asserted, b"\r\n"].concat();
        patch.insert(request.headers_end(), &line);
    }
}

impl Telling<'_> {
    fn write_lines(&self, lines: &mut Vec<u8>) {
        let token = self.verdict.valid();
        let mut line = |name: &Option<Box<str>>, value: &[u8]| {
            if let Some(name) = name {
                [name.as_bytes(), b": ", value, b"\r\n"].iter().for_each(|part| lines.extend_from_slice(part));
            }
        };
        if let Some(token) = token {
            token.attest.iter().for_each(|attest| line(&self.rules.attestation, attest.letter().as_bytes()));
            token.origid.iter().for_each(|origid| line(&self.rules.origination, origid.as_str().as_bytes()));
        }
        if self.rules.verdict.is_some() {
            let mut value = Vec::new();
            verdict_line::write_value(self.verdict, self.unix, &mut value);
            line(&self.rules.verdict, &value);
        }
    }
}
