//! What the SIP request itself says about caller, callee, time and media (RFC 8224 6.2 step 2: the originator is taken from the
//! signalling, never from the token, I-27).
use super::IdentitySource;
use crate::passport::media_key::{self, MediaKey};
use crate::passport::{CanonicalIdentity, DialPlan, Identity};
use crate::sip::{Message, Name, NameAddr, date, text};
use std::borrow::Cow;

/// Most fingerprints taken from one body.
const MAX_FINGERPRINTS: usize = 64;

/// The canonical identities of a request. Telephone numbers are on the stack.
pub(super) struct Signalling {
    /// P-Asserted-Identity has at most two values (RFC 3325 section 9.1).
    asserted: [Option<CanonicalIdentity>; 2],
    from: Option<CanonicalIdentity>,
    to: Option<CanonicalIdentity>,
    request_uri: Option<CanonicalIdentity>,
    /// Date, UNIX seconds; `None` when absent or unreadable.
    pub(super) date: Option<i64>,
}

impl Signalling {
    pub(super) fn of(request: Message<'_>, source: IdentitySource, plan: &DialPlan) -> Self {
        let canonical = |uri: &[u8]| CanonicalIdentity::from_uri(uri, plan);
        let mut asserted = [None, None];
        if source == IdentitySource::AssertedThenFrom {
            let values = request.values(Name::PAssertedIdentity).filter_map(|value| NameAddr::parse(value.value).ok());
            for (slot, address) in asserted.iter_mut().zip(values) {
                *slot = canonical(address.uri);
            }
        }
        Self {
            asserted,
            from: request.from().ok().and_then(|from| canonical(from.uri)),
            to: request.to().ok().and_then(|to| canonical(to.uri)),
            request_uri: canonical(request.request_uri()),
            date: request
                .field(Name::Date)
                .and_then(|field| date::parse(field.value()))
                .and_then(|d| i64::try_from(d).ok()),
        }
    }

    /// The caller: the first asserted identity, else From.
    pub(super) fn caller(&self) -> Option<&CanonicalIdentity> {
        self.asserted.iter().flatten().next().or(self.from.as_ref())
    }

    /// Whether a claim names the caller by any field the policy looks at.
    pub(super) fn is_caller(&self, claim: &Identity<'_>, plan: &DialPlan) -> bool {
        self.asserted.iter().flatten().chain(&self.from).any(|identity| names(identity, claim, plan))
    }

    /// The callee as To has it.
    pub(super) fn callee(&self) -> Option<&CanonicalIdentity> {
        self.to.as_ref()
    }

    /// Whether a claim names To.
    pub(super) fn is_callee(&self, claim: &Identity<'_>, plan: &DialPlan) -> bool {
        self.to.as_ref().is_some_and(|to| names(to, claim, plan))
    }

    /// Whether a claim names the Request-URI.
    pub(super) fn is_target(&self, claim: &Identity<'_>, plan: &DialPlan) -> bool {
        self.request_uri.as_ref().is_some_and(|uri| names(uri, claim, plan))
    }
}

/// The display name of From, without quotes, empty when there is none; then those of P-Asserted-Identity where the policy looks at it.
pub(super) fn display_names(request: Message<'_>, source: IdentitySource) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let plain = |address: NameAddr<'_>| text::unfold(&text::unquote(text::trim(address.display))).into_owned();
    let asserted = (source == IdentitySource::AssertedThenFrom).then(|| request.values(Name::PAssertedIdentity));
    let asserted = asserted.into_iter().flatten().filter_map(|value| NameAddr::parse(value.value).ok());
    request.from().into_iter().chain(asserted.take(2)).map(move |address| Cow::Owned(plain(address)))
}

/// A URI claim is compared in canonical form, whether or not its signer wrote it so.
fn names(identity: &CanonicalIdentity, claim: &Identity<'_>, plan: &DialPlan) -> bool {
    if identity.is(claim) {
        return true;
    }
    match (identity, claim) {
        (CanonicalIdentity::Uri(_), Identity::Uri(uri)) => {
            CanonicalIdentity::from_uri(uri.as_bytes(), plan).as_ref() == Some(identity)
        }
        _ => false,
    }
}

/// What `mky` has to be for this request: the fingerprints of its SDP, also inside a multipart body.
pub(super) fn media_keys(request: Message<'_>) -> Vec<MediaKey<'static>> {
    let body = request.body();
    if body.is_empty() || !media_key::sdp_has_fingerprint(body) {
        return Vec::new();
    }
    let content_type = request.field(Name::ContentType);
    let is_sdp = content_type.is_some_and(|field| {
        let value = field.value();
        let starts = |kind: &[u8]| value.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind));
        starts(b"application/sdp") || starts(b"multipart/")
    });
    if is_sdp { media_key::from_sdp(body, MAX_FINGERPRINTS) } else { Vec::new() }
}
