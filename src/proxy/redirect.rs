//! 3xx responses (RFC 3261 16.7 item 4; R-4): passed on, answered otherwise, or followed to those we know.

use std::rc::Rc;

use super::failover::Outcome;
use super::plan::Retarget;
use super::request_context::Branch;
use super::route::target;
use super::upstream::Kept;
use super::{Config, ContextKey, Now, Output, Proxy};
use crate::sip::{Message, Name, NameAddr, Scheme, Uri};
use crate::stir::redirected::{self, Redirection};
use crate::transaction::ClientId;

/// Contacts followed for one request at most.
const MAX_FOLLOWED: usize = 5;

/// What becomes of a 3xx of a trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum On3xx {
    /// It goes to the caller.
    #[default]
    Pass,
    /// The caller gets this status instead, 400 to 699, without Contact.
    Map(u16),
    /// Its Contacts are tried where the route table leads, or, for those at a trunk, where it leads to that trunk: following others would be a toll fraud waiting to happen.
    Recurse,
}

/// A Contact with its preference in thousandths.
struct Offer<'a> {
    uri: &'a [u8],
    value: &'a [u8],
    q: u16,
}

impl Proxy {
    /// Follows the Contacts of a 3xx as far as that is allowed. What is left to tell the caller: the response, with the Contacts that
    /// were not followed.
    pub(super) fn follow(&mut self, now: Now, key: ContextKey, client: ClientId, response: Message<'_>) -> Kept {
        let snapshot = self.snapshot_of(key);
        let ingress = self.context(key).map(|c| c.ingress);
        let chance = self.chance(now, ingress);
        let Some(context) = self.context(key).filter(|c| !c.is_closed()) else { return Kept::Whole };
        let (ingress, verified) = (context.ingress, context.verified);
        let branch = context.branch_mut(client);
        let is_secure = branch.as_ref().is_some_and(|branch| branch.is_secure);
        let tokens = branch.map(|branch| tokens(&snapshot.config, branch, response)).unwrap_or_default();
        let offers = offers(response);
        let mut left = Vec::new();
        let mut is_followed = false;
        let mut followed = std::mem::take(&mut context.followed);
        let mut plan = super::plan::Plan::default();
        for offer in &offers {
            let is_new = followed.len() < MAX_FOLLOWED && !followed.iter().any(|uri| **uri == *offer.uri);
            let uri = crate::sip::request_uri_repaired(offer.uri);
            // Never from sips to less.
            let may = is_new && (!is_secure || Uri::parse(&uri).is_ok_and(|uri| uri.scheme == Scheme::Sips));
            let found = may.then(|| {
                self.with_request(key, |_, request| {
                    target::redirected(&snapshot.config, request, ingress, &uri, chance, verified)
                })
            });
            match found.flatten().flatten() {
                Some(mut found) => {
                    found.carry(&tokens);
                    followed.push(offer.uri.into());
                    plan.append(found, None);
                    is_followed = true;
                }
                None => left.push(offer.value.to_vec()),
            }
        }
        if let Some(context) = self.context(key) {
            context.followed = followed;
            context.plan.prepend(plan);
        }
        match (is_followed, left.is_empty()) {
            (false, _) => Kept::Whole,
            (true, true) => Kept::Nothing,
            (true, false) => Kept::Contacts(left.join(&b", "[..])),
        }
    }

    /// After a 3xx whose Contacts are tried: unlike after other ends of a branch, what comes next was allowed already.
    pub(super) fn after_followed(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        status: u16,
        out: &mut Output,
    ) {
        if let Some(context) = self.context(key) {
            context.history.ended(client, Outcome::Answered(status)); // RFC 7044 10.2
        }
        self.count_branch_end(key, client);
        self.conclude(now, key, out);
    }
}

impl Retarget {
    /// The Identity lines that lead a copy of a request there, with these lines of our own (D-18).
    pub(super) fn tokens_for(&self, request: Message<'_>, own: &[u8], config: &Config) -> Vec<u8> {
        redirected::lines(request, own, &self.tokens, &self.uri, &config.verifier.dial_plan)
    }
}

/// The diversions that lead from a branch to where its 3xx names, if they are wanted and there are any: after those that led to it.
fn tokens(config: &Config, branch: &Branch, response: Message<'_>) -> Vec<Rc<Redirection>> {
    let is_wanted = branch.egress.and_then(|id| config.trunk(id)).is_some_and(|trunk| trunk.redirect_tokens);
    let new = if is_wanted { redirected::read(response, &config.verifier.dial_plan) } else { Vec::new() };
    let earlier = branch.retarget.iter().flat_map(|retarget| retarget.tokens.iter().cloned());
    if new.is_empty() { new } else { earlier.chain(new).collect() }
}

/// The Contacts of a response, the preferred ones first.
fn offers(response: Message<'_>) -> Vec<Offer<'_>> {
    let mut offers: Vec<_> = response
        .values(Name::Contact)
        .take(16)
        .filter_map(|value| {
            let address = NameAddr::parse(value.value).ok()?;
            let q = address.params().find("q").and_then(|param| param.value).map_or(1000, thousandths);
            Some(Offer { uri: address.uri, value: value.value, q })
        })
        .collect();
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.q));
    offers
}

/// `0.7` as 700; nonsense is the least.
fn thousandths(q: &[u8]) -> u16 {
    match q {
        [b'1', ..] => 1000,
        [b'0', b'.', digits @ ..] => {
            let digit = |n: usize| digits.get(n).filter(|d| d.is_ascii_digit()).map_or(0, |d| u16::from(d - b'0'));
            digit(0) * 100 + digit(1) * 10 + digit(2)
        }
        _ => 0,
    }
}
