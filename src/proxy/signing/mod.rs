//! The authentication service's policy (RFC 8224 6.1): which certificate speaks for a call, what its tokens say, which calls go unsigned.
//!
//! `table` knows the signer of a number, `exempt` the destinations that are left out, `headers` what the inside network says of it, `wait` what
//! happens while a hardware module signs.

mod exempt;
mod headers;
pub mod table;
mod wait;

use std::rc::Rc;
use std::sync::Arc;

pub use exempt::Exempt;
pub use headers::IdentityHeaders;
pub use table::{SigningRow, SigningTable};
pub(super) use wait::Unfinished;

use super::calls::Signed;
use super::identity::MULTIPLE_DATE;
use super::plan::{Change, Retarget};
use super::request_context::RequestContext;
use super::response_context::Local;
use super::{Config, ContextKey, Event, Now, Output, Proxy, Trunk, TrunkId};
use crate::passport::CanonicalIdentity;
use crate::passport::ppt::rcd::Assertion;
use crate::passport::ppt::shaken::{self, Attestation};
use crate::sip::identity::IdentityValue;
use crate::sip::{Message, Method, Name, date};
use crate::stir::authentication::{self, SignError, Signer, Speaker, Wish};
use crate::stir::facts::Party;
use crate::stir::{IdentitySource, reason};
use crate::transaction::ClientId;

/// Most diversions in one chain.
const MAX_DIVERSIONS: usize = 5;

/// How requests to a trunk are signed, besides its default signer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signing {
    /// Index into [`Config::signing_tables`].
    pub table: Option<usize>,
    /// `attest` of numbers that are in no table, instead of the signer's own.
    pub attestation: Option<Attestation>,
    /// Calls for these are not signed.
    pub exempt: Vec<Exempt>,
    /// Where our routing changes the number, the diversion is signed (RFC 8946).
    pub divert: bool,
    /// Namespaces of Resource-Priority that are signed (RFC 8443).
    pub priorities: Vec<String>,
    /// MESSAGE requests are signed (RFC 9475).
    pub messages: bool,
}

/// Rich call data of callers (RFC 9795).
#[derive(Clone, Debug, PartialEq)]
pub struct RichProfile {
    /// The claims.
    pub assertion: Assertion,
    /// The signer of a token of its own; `None` puts the claims into the token for the number.
    pub signer: Option<usize>,
    /// Who speaks in such a token, if it is not the caller's own side (T-2).
    pub issuer: Option<String>,
}

/// What a context's lines were made for.
#[derive(Clone, Debug)]
pub(super) struct SignedFor {
    trunk: TrunkId,
    /// The URI that the call was sent on to, if that is signed.
    diverted: Option<Rc<Retarget>>,
    /// Nothing is signed: a trusted trunk or the destination wants it so.
    is_left_alone: bool,
}

/// Who signs a call, and what he says.
struct Choice<'c> {
    place: usize,
    signer: &'c Signer,
    source: IdentitySource,
    attestation: Option<Attestation>,
    rich: Option<&'c RichProfile>,
}

/// Lines under way.
#[derive(Default)]
struct Made {
    lines: Vec<u8>,
    /// Keys that lie elsewhere, in the order of the blanks.
    keys: Vec<Arc<str>>,
    signed: Option<Arc<Signed>>,
    renews_date: bool,
}

impl Made {
    /// Notes whose blanks were added by the latest lines.
    fn note(&mut self, signer: &Signer, tokens: usize) {
        if let Some(key) = signer.remote_key() {
            self.keys.extend(std::iter::repeat_n(key, tokens).cloned());
        }
    }
}

impl Trunk {
    /// Requests to it may get tokens of ours.
    pub fn signs(&self) -> bool {
        self.sign.is_some() || self.signing.table.is_some()
    }
}

impl Proxy {
    /// Whether a request may go to a trunk that wants it signed.
    ///
    /// # Errors
    /// 400 for one whose date is not certain (H-6).
    pub(super) fn may_sign(
        &mut self,
        key: ContextKey,
        egress: Option<TrunkId>,
        request: Message<'_>,
    ) -> Result<(), Local> {
        let snapshot = self.snapshot_of(key);
        let Some(trunk) = egress.and_then(|id| snapshot.config.trunk(id)) else { return Ok(()) };
        let is_meant = self.context(key).is_some_and(|context| context.is_for_signing(trunk, request.method()));
        if is_meant && request.is_repeated(Name::Date) { Err(MULTIPLE_DATE.into()) } else { Ok(()) }
    }

    /// Signs a request that begins something for the trunk of a candidate, and its diversion if the candidate has another number;
    /// once, unless another one wants it otherwise. What can not be signed goes unsigned (I-3): the call is worth more. Gives the keys
    /// that have to be asked elsewhere before the lines are complete.
    pub(super) fn sign_candidate(
        &mut self,
        now: Now,
        key: ContextKey,
        request: Message<'_>,
        egress: Option<TrunkId>,
        retarget: Option<&Rc<Retarget>>,
        out: &mut Output,
    ) -> Vec<Arc<str>> {
        let snapshot = self.snapshot_of(key);
        let config = &snapshot.config;
        let Some((id, trunk)) = egress.and_then(|id| Some((id, config.trunk(id)?))) else { return Vec::new() };
        let Some(context) = self.context(key).filter(|_| trunk.signs()) else { return Vec::new() };
        if !context.is_for_signing(trunk, request.method()) {
            context.lines_become(Vec::new()); // another trunk wanted them, not this one
            (context.signed, context.signed_for, context.renews_date) = (None, None, false);
            return Vec::new();
        }
        let is_trusted = config.trunk(context.ingress).is_some_and(|trunk| trunk.trusted);
        let uri = retarget.map_or(request.request_uri(), |retarget| &retarget.uri);
        let (plan, emergency) = (&config.verifier.dial_plan, &config.guard.emergency_numbers);
        let is_left_alone = is_trusted && config.identity_headers.asks_bypass(request)
            || exempt::is_exempt(&trunk.signing.exempt, request, uri, plan, emergency);
        let diverted = retarget.filter(|retarget| {
            let is_other = matches!(retarget.change, Change::Number | Change::Deflection);
            let is_signed = || !retarget.tokens_for(request, &[], config).is_empty(); // by who redirected the call
            trunk.signing.divert && is_other && request.field(Name::Identity).is_some() && !is_signed()
        });
        let wanted = SignedFor { trunk: id, diverted: diverted.cloned(), is_left_alone };
        if context.signed_for.as_ref().is_some_and(|before| before.serves(&wanted, config)) {
            return Vec::new();
        }
        let mut made = Made::default();
        if is_left_alone {
            self.stats.exempt += 1;
        } else {
            let ask = Ask { now, request, trunk, id, is_trusted };
            self.sign_number(config, ask, &mut made, out);
            self.sign_priority(config, ask, &mut made, out);
            if let Some(retarget) = diverted {
                self.sign_diversion(config, ask, retarget, &mut made, out);
            }
        }
        self.stats.signed += u64::from(made.keys.is_empty() && made.signed.is_some());
        let Some(context) = self.context(key) else { return Vec::new() };
        context.lines_become(made.lines);
        (context.signed, context.signed_for, context.renews_date) = (made.signed, Some(wanted), made.renews_date);
        made.keys
    }

    /// The token for the caller's number, or for a message.
    fn sign_number(&mut self, config: &Config, ask: Ask<'_>, made: &mut Made, out: &mut Output) {
        let Ask { now, request, trunk, id, is_trusted } = ask;
        if request.field(Name::Identity).is_some() {
            return; // a call that carries an identity keeps it
        }
        let Some(choice) = choose(config, trunk, request, is_trusted) else { return };
        let given = is_trusted.then(|| config.identity_headers.origination(request)).flatten();
        let drawn = self.unpredictable();
        let drawn_text = shaken::origid(drawn);
        let (text, origid) = given.unwrap_or((drawn_text.as_str(), drawn));
        let inside = choice.rich.filter(|rich| rich.signer.is_none_or(|signer| signer == choice.place));
        let mut sign_with = |rich: Option<&RichProfile>| {
            let rich = rich.map(|rich| &rich.assertion);
            let wish = Wish { source: choice.source, attestation: choice.attestation, origid: text, rich };
            choice.signer.sign_as(now.unix, request, &wish, &mut made.lines)
        };
        let result = if request.method() == Some(Method::Message) {
            choice.signer.sign_message(choice.source, now.unix, request, &mut made.lines)
        } else {
            match sign_with(inside) {
                // The certificate does not let this be said; the number is worth a token of its own.
                Err(SignError::Constraint(_)) if inside.is_some() => sign_with(None),
                result => result,
            }
        };
        match result {
            Ok(()) => {
                made.note(choice.signer, 1);
                let signer = config.signer_names.get(choice.place).cloned().unwrap_or_default();
                made.signed = Some(Arc::new(Signed { signer, attestation: choice.attestation, origid }));
            }
            Err(error) => return self.unsigned(request, id, error, out),
        }
        let apart = choice.rich.filter(|rich| rich.signer.is_some() && inside.is_none());
        if let (Some(rich), Some(Method::Invite)) = (apart, request.method()) {
            self.sign_rich(config, ask, rich, &choice, made, out);
        }
    }

    /// Rich call data in a token of its own, by another certificate (C-8, T-1).
    fn sign_rich(
        &mut self,
        config: &Config,
        ask: Ask<'_>,
        rich: &RichProfile,
        choice: &Choice<'_>,
        made: &mut Made,
        out: &mut Output,
    ) {
        let Some(signer) = rich.signer.and_then(|place| config.signers.get(place)) else { return };
        let speaker = rich.issuer.as_deref().map_or(Speaker::Caller, Speaker::ThirdParty);
        match signer.sign_rcd(speaker, choice.source, ask.now.unix, ask.request, &rich.assertion, &mut made.lines) {
            Ok(()) => made.note(signer, 1),
            Err(error) => self.unsigned(ask.request, ask.id, error, out),
        }
    }

    /// The token for Resource-Priority (RFC 8443), unless the request brings one.
    fn sign_priority(&mut self, config: &Config, ask: Ask<'_>, made: &mut Made, out: &mut Output) {
        let Ask { now, request, trunk, id, is_trusted } = ask;
        let is_wanted = !trunk.signing.priorities.is_empty() && request.field(Name::ResourcePriority).is_some();
        // RFC 4412 4.6.1: the priority of whoever may not ask for it is not signed either.
        if !is_wanted || !is_trusted || request.method() != Some(Method::Invite) || count(request, b"rph") > 0 {
            return;
        }
        let Some(choice) = choose(config, trunk, request, is_trusted) else { return };
        let namespaces: Vec<&str> = trunk.signing.priorities.iter().map(String::as_str).collect();
        match choice.signer.sign_rph(choice.source, now.unix, request, &namespaces, &mut made.lines) {
            Ok(()) => made.note(choice.signer, 1),
            Err(SignError::NoPriority) => {} // of other namespaces
            Err(error) => self.unsigned(request, id, error, out),
        }
    }

    /// The diversion from the number that was called to the one it is sent on to (RFC 8946 4.1), by a certificate for the former (D-8).
    fn sign_diversion(
        &mut self,
        config: &Config,
        ask: Ask<'_>,
        retarget: &Retarget,
        made: &mut Made,
        out: &mut Output,
    ) {
        let Ask { now, request, trunk, id, .. } = ask;
        if count(request, b"div") >= MAX_DIVERSIONS {
            return self.unsigned(request, id, SignError::TooManyDiversions, out);
        }
        let called = CanonicalIdentity::from_uri(request.request_uri(), &config.verifier.dial_plan);
        let Some(called) = called else { return };
        let row = match &called {
            CanonicalIdentity::Tn(number) => table_of(config, trunk).and_then(|table| table.find(number)),
            CanonicalIdentity::Uri(_) => None,
        };
        let places = [row.and_then(|row| row.signer), trunk.sign];
        let mut signers = places.into_iter().flatten().filter_map(|place| config.signers.get(place));
        let Some(signer) = signers.find(|signer| signer.speaks_for(&called.as_identity())) else {
            return self.unsigned(request, id, SignError::NotAuthorized, out);
        };
        match signer.sign_diversion(now.unix, request, &retarget.uri, &mut made.lines) {
            Ok(diverted) => {
                made.note(signer, diverted.tokens);
                self.stats.diversions += diverted.tokens as u64;
                // A request without a Date has got one with the token, of the present time.
                if diverted.renews_date && request.field(Name::Date).is_some() {
                    made.renews_date = true;
                    made.lines.extend_from_slice(b"Date: ");
                    date::write(u64::try_from(now.unix).unwrap_or(0), &mut made.lines);
                    made.lines.extend_from_slice(b"\r\n");
                }
            }
            Err(SignError::NotRetargeted) => {} // D-2: the same number, written otherwise
            Err(error) => self.unsigned(request, id, error, out),
        }
    }

    /// RFC 9410 7: what somebody says of tokens of ours is for us, not for the caller: it goes.
    pub(super) fn remove_own_reasons(&mut self, key: ContextKey, response: Message<'_>) -> usize {
        if response.field(Name::Reason).is_none() {
            return 0; // nearly always
        }
        let mut patch = std::mem::take(&mut self.patch);
        let removed = self.context(key).map_or(0, |context| {
            let earlier = context.earlier_signatures.iter().map(|own| &**own);
            let own: Vec<&[u8]> = signatures(&context.lines).chain(earlier).collect();
            if own.is_empty() { 0 } else { reason::remove_own(response, &own, &mut patch) }
        });
        self.patch = patch;
        removed
    }

    /// The same, first of all: it is counted and logged.
    pub(super) fn note_own_reasons(
        &mut self,
        key: ContextKey,
        client: ClientId,
        response: Message<'_>,
        out: &mut Output,
    ) {
        self.patch.clear();
        let removed = self.remove_own_reasons(key, response);
        self.patch.clear();
        let egress = self.context(key).and_then(|context| context.branch_mut(client)?.egress);
        let Some(trunk) = egress.filter(|_| removed > 0) else { return };
        self.stats.reasons_removed += removed as u64;
        let reason = response.field(Name::Reason).map(|field| field.unfolded().into_owned()).unwrap_or_default();
        let call_id = response.call_id().unwrap_or_default().into();
        out.events.push(Event::Disputed { call_id, trunk, reason: reason.into() });
    }

    /// A token that could not be made.
    fn unsigned(&mut self, request: Message<'_>, trunk: TrunkId, error: SignError, out: &mut Output) {
        self.stats.unsigned += 1;
        let call_id = request.call_id().unwrap_or_default().into();
        out.events.push(Event::Unsigned { call_id, trunk, error });
    }
}

/// A request that is to be signed.
#[derive(Clone, Copy)]
struct Ask<'a> {
    now: Now,
    request: Message<'a>,
    /// Where it goes.
    trunk: &'a Trunk,
    id: TrunkId,
    /// It comes from a trunk whose assertions are believed.
    is_trusted: bool,
}

impl RequestContext {
    /// It begins something that this trunk wants signed.
    fn is_for_signing(&self, trunk: &Trunk, method: Option<Method<'_>>) -> bool {
        let is_message = || trunk.signing.messages && method == Some(Method::Message);
        trunk.signs() && self.is_initial && (self.is_invite || is_message())
    }

    /// Other lines take the place of those that copies had so far. What is said of the former tokens is for us still (RFC 9410 7).
    fn lines_become(&mut self, lines: Vec<u8>) {
        let before = std::mem::replace(&mut self.lines, lines);
        self.earlier_signatures.extend(signatures(&before).map(Box::from));
    }
}

impl SignedFor {
    /// Lines made for this are good for that, too.
    fn serves(&self, wanted: &SignedFor, config: &Config) -> bool {
        let said = |id| config.trunk(id).map(|trunk| (trunk.sign, &trunk.signing));
        let is_alike = self.diverted == wanted.diverted && self.is_left_alone == wanted.is_left_alone;
        is_alike && (self.trunk == wanted.trunk || said(self.trunk) == said(wanted.trunk))
    }
}

fn table_of<'c>(config: &'c Config, trunk: &Trunk) -> Option<&'c SigningTable> {
    config.signing_tables.get(trunk.signing.table?).map(|table| &**table)
}

/// The signer of a caller that somebody states, and the most it attests of him.
pub(super) fn signer_of<'c>(
    config: &'c Config,
    trunk: &Trunk,
    caller: &Party,
) -> Option<(&'c Arc<Signer>, Option<Attestation>)> {
    let row = table_of(config, trunk).and_then(|table| match caller.canonical(&config.verifier.dial_plan)? {
        CanonicalIdentity::Tn(number) => table.find(&number),
        CanonicalIdentity::Uri(_) => None,
    });
    speaker(config, trunk, row).map(|(_, signer, most)| (signer, most))
}

/// Who signs, by his place among the signers, and the most he attests: by the row of the number, else by the trunk.
fn speaker<'c>(
    config: &'c Config,
    trunk: &Trunk,
    row: Option<&SigningRow>,
) -> Option<(usize, &'c Arc<Signer>, Option<Attestation>)> {
    let (place, policy) = match row {
        Some(row) => (row.signer?, row.attestation),
        None => (trunk.sign?, trunk.signing.attestation),
    };
    let signer = config.signers.get(place)?;
    Some((place, signer, policy.or(signer.attestation())))
}

/// The signer of the caller's number: by the table, else the trunk's own.
fn choose<'c>(config: &'c Config, trunk: &'c Trunk, request: Message<'_>, is_trusted: bool) -> Option<Choice<'c>> {
    let believed = |source| if is_trusted { source } else { IdentitySource::From };
    let row = table_of(config, trunk).and_then(|table| {
        let source = believed(table.source);
        match authentication::caller(request, source, &config.verifier.dial_plan)? {
            CanonicalIdentity::Tn(number) => Some((source, table.find(&number)?)),
            CanonicalIdentity::Uri(_) => None,
        }
    });
    let (place, signer, ceiling) = speaker(config, trunk, row.map(|(_, row)| row))?;
    let given = is_trusted.then(|| config.identity_headers.attestation(request)).flatten();
    let own = || config.signer_rich.get(place).and_then(Option::as_ref);
    let rich = row.and_then(|(_, row)| row.rich.as_ref()).or_else(own);
    Some(Choice {
        place,
        signer,
        source: row.map_or(believed(signer.identity_source()), |(source, _)| source),
        attestation: ceiling.map(|ceiling| given.map_or(ceiling, |given| lower(ceiling, given))),
        rich: rich.map(|rich| &**rich),
    })
}

/// The one that says less.
fn lower(one: Attestation, other: Attestation) -> Attestation {
    let rank = |attestation| match attestation {
        Attestation::Full => 0,
        Attestation::Partial => 1,
        Attestation::Gateway => 2,
    };
    if rank(one) >= rank(other) { one } else { other }
}

/// The signatures of the tokens on these lines.
fn signatures(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = lines.split(|octet| *octet == b'\n').filter_map(|line| line.strip_prefix(b"Identity: "));
    lines.filter_map(|line| line.split(|octet| *octet == b';').next()?.rsplit(|octet| *octet == b'.').next())
}

/// Identity fields of a request with this `ppt`.
fn count(request: Message<'_>, ppt: &[u8]) -> usize {
    let fields = request.values(Name::Identity).filter_map(|value| IdentityValue::parse(value.value, value.range).ok());
    fields.filter(|field| field.ppt == Some(ppt)).count()
}
