//! Chains of diversions (RFC 8946 4.2): from a `div` token that leads to the Request-URI back to the token the call was first signed with.
use super::checks::is_for_chain;
use super::connected::Sent;
use super::judge::{Opened, Request, Seal, settle};
use super::{Check, CheckResult, Checks, Disposition, Failure, Mode, Policy, TokenVerdict, Verdict};
use crate::passport::ppt::Ppt;
use crate::passport::{CanonicalIdentity, DialPlan, Identity};

/// What the chains need of a token, kept for the requests that carry a diversion.
pub(super) struct Link {
    /// Its place in the verdict.
    pub(super) token: usize,
    ppt: Ppt,
    orig: Identity<'static>,
    dest: Vec<Identity<'static>>,
    div: Option<Identity<'static>>,
    /// Its destination is the Request-URI.
    reaches: bool,
    seal: Seal,
    /// How the search came here.
    found: Option<Found>,
}

#[derive(Clone, Copy)]
struct Found {
    /// The diversion that this token was meant for; none for the outermost.
    by: Option<usize>,
    /// Diversions from the outermost up to here.
    depth: usize,
}

impl Link {
    pub(super) fn new(opened: &Opened<'_>, cx: &Request<'_>, plan: &DialPlan) -> Self {
        let claims = opened.claims;
        let canonical = |identity: &Identity<'_>| canonical(identity, plan);
        Self {
            token: 0,
            ppt: opened.ppt,
            orig: canonical(&claims.orig),
            dest: claims.dest.iter().map(|identity| canonical(&identity)).collect(),
            div: claims.div.as_ref().map(canonical),
            reaches: claims.dest.iter().any(|identity| cx.signalling.is_target(&identity, plan)),
            seal: opened.seal,
            found: None,
        }
    }

    fn is_div(&self) -> bool {
        self.ppt == Ppt::Div
    }

    /// This token was meant for the party that the diversion names.
    fn was_meant_for(&self, diversion: &Link) -> bool {
        diversion.div.as_ref().is_some_and(|div| self.dest.contains(div))
    }
}

/// URIs compare in canonical form, whether or not their signers wrote them so.
pub(super) fn canonical(identity: &Identity<'_>, plan: &DialPlan) -> Identity<'static> {
    let uri = match identity {
        Identity::Uri(uri) => CanonicalIdentity::from_uri(uri.as_bytes(), plan),
        Identity::Tn(_) => None,
    };
    match uri {
        Some(CanonicalIdentity::Uri(uri)) => Identity::Uri(uri.into()),
        _ => identity.borrowed().into_owned(),
    }
}

/// Joins the tokens of a request to chains and settles what they prove. A chain uses each token once, so that a circle ends; the cost is
/// bounded by the cube of [`Policy::max_identities`].
pub(super) fn resolve(cx: &Request<'_>, links: &mut [Link], verdict: &mut Verdict) {
    search(cx, links, verdict);
    let innermost: Vec<usize> = (0..links.len())
        .filter(|&at| links.get(at).is_some_and(|link| !link.is_div() && link.found.is_some()))
        .collect();
    let mut proven = vec![false; links.len()];
    for at in innermost {
        let path = path(links, at);
        let mut holds = true;
        for (place, &step) in path.iter().enumerate() {
            let is_outermost = place + 1 == path.len();
            holds &= links.get(step).is_some_and(|link| accept(cx, link, is_outermost, verdict));
        }
        if !holds {
            continue;
        }
        let diversions = path.iter().filter_map(|&step| links.get(step)?.div.clone());
        // A div-o token at the inner end has diversions of its own, which came before; its own div is among them.
        let skipped = usize::from(links.get(at).is_some_and(|link| link.div.is_some()));
        let diversions: Vec<_> = diversions.skip(skipped).collect();
        if let Some(token) = links.get(at).and_then(|link| verdict.tokens_mut().get_mut(link.token)) {
            token.diversions.extend(diversions);
        }
        prove(&path, &mut proven);
    }
    other_ways(cx, links, verdict, &mut proven);
    let others = links.iter().zip(proven).filter(|(link, is_proven)| link.is_div() && !is_proven);
    for (link, _) in others {
        conclude_unproven(cx, link, links, verdict);
    }
}

/// Finds every token that a diversion leading here goes back to, breadth first.
fn search(cx: &Request<'_>, links: &mut [Link], verdict: &Verdict) {
    let mut queue: Vec<usize> = Vec::new();
    for (at, link) in links.iter_mut().enumerate() {
        if link.is_div() && link.reaches && is_sound(cx, link, true, verdict) {
            link.found = Some(Found { by: None, depth: 1 });
            queue.push(at);
        }
    }
    let mut next = 0;
    while let Some(&at) = queue.get(next) {
        next += 1;
        let Some((depth, matches)) = links.get(at).and_then(|diversion| {
            let fits = |(place, link): (usize, &Link)| {
                let is_open = place != at && link.found.is_none() && link.orig == diversion.orig;
                (is_open && link.was_meant_for(diversion) && is_sound(cx, link, false, verdict)).then_some(place)
            };
            Some((diversion.found?.depth, links.iter().enumerate().filter_map(fits).collect::<Vec<_>>()))
        }) else {
            continue;
        };
        for place in matches {
            let Some(link) = links.get_mut(place) else { continue };
            if !link.is_div() {
                link.found = Some(Found { by: Some(at), depth });
            } else if depth < cx.policy.max_diversions {
                link.found = Some(Found { by: Some(at), depth: depth + 1 });
                queue.push(place);
            }
        }
    }
}

fn prove(path: &[usize], proven: &mut [bool]) {
    path.iter().for_each(|&step| proven.iter_mut().skip(step).take(1).for_each(|proven| *proven = true));
}

/// D-16 asks each diversion for an earlier token, and several may lead back to the same one: those beside the shortest chain are found
/// here. Nothing is looked for when the shortest ones prove all.
fn other_ways(cx: &Request<'_>, links: &[Link], verdict: &mut Verdict, proven: &mut [bool]) {
    let is_open = |proven: &[bool]| links.iter().zip(proven).any(|(link, is_proven)| link.is_div() && !is_proven);
    // A chain is built token by token; so many times that is tried, each time with a look at all of them.
    let mut budget = links.len().saturating_mul(links.len());
    for (at, link) in links.iter().enumerate() {
        if is_open(proven) && link.is_div() && link.reaches && is_sound(cx, link, true, verdict) {
            go_back(cx, links, verdict, proven, &mut vec![at], &mut budget);
        }
    }
}

/// From the last diversion of a path to what it diverted, and on from there.
fn go_back(
    cx: &Request<'_>,
    links: &[Link],
    verdict: &mut Verdict,
    proven: &mut [bool],
    path: &mut Vec<usize>,
    budget: &mut usize,
) {
    let Some(diversion) = path.last().and_then(|at| links.get(*at)) else { return };
    for (place, link) in links.iter().enumerate() {
        let is_new = !path.contains(&place) && link.orig == diversion.orig;
        if !is_new || !link.was_meant_for(diversion) || !is_sound(cx, link, false, verdict) {
            continue;
        }
        let Some(left) = budget.checked_sub(1) else { return };
        *budget = left;
        let is_whole = !link.is_div();
        if is_whole || path.len() < cx.policy.max_diversions {
            path.push(place);
            if !is_whole {
                go_back(cx, links, verdict, proven, path, budget);
            } else if holds(cx, links, path, verdict) {
                prove(path, proven);
            }
            path.pop();
        }
    }
}

/// Accepts the tokens of a whole path, the outermost first; gives whether all are valid.
fn holds(cx: &Request<'_>, links: &[Link], path: &[usize], verdict: &mut Verdict) -> bool {
    let mut steps = path.iter().enumerate();
    steps.all(|(place, &step)| links.get(step).is_some_and(|link| accept(cx, link, place == 0, verdict)))
}

/// From an innermost token outwards.
fn path(links: &[Link], innermost: usize) -> Vec<usize> {
    let mut path = vec![innermost];
    let by = |at: &usize| links.get(*at).and_then(|link| link.found).and_then(|found| found.by);
    while let Some(outer) = path.last().and_then(by).filter(|_| path.len() <= links.len()) {
        path.push(outer);
    }
    path
}

/// The checks of a token as part of a chain: what the chain makes up for counts as passed. The outermost diversion has to be fresh, the
/// others less so (step 4).
fn relaxed(cx: &Request<'_>, link: &Link, is_outermost: bool, checks: &Checks) -> Checks {
    let mut checks = *checks;
    if checks.get(Check::Claims).failure().is_some_and(is_for_chain) {
        checks.set(Check::Claims, CheckResult::Passed);
    }
    if let (false, Some(Failure::Stale { .. } | Failure::StaleDate { .. })) =
        (is_outermost, checks.get(Check::Freshness).failure())
    {
        let unix = cx.answers.map_or(cx.unix, |sent| sent.at);
        let fresh = super::checks::diverted_freshness(link.seal.iat, unix, cx.policy);
        checks.set(Check::Freshness, fresh);
    }
    checks
}

/// The same for a response (N-18): from the party that an `rsp` names back to one that our INVITE was meant for. A diversion that comes
/// back is judged by whether an `rsp` needs it, and by nothing else.
pub(super) fn resolve_response(cx: &Request<'_>, sent: &Sent, links: &mut [Link], verdict: &mut Verdict) {
    let answers: Vec<usize> =
        (0..links.len()).filter(|&at| links.get(at).is_some_and(|link| link.ppt == Ppt::Rsp)).collect();
    for at in answers {
        let is_open = |link: &Link| {
            let token = verdict.tokens().get(link.token);
            token.is_some_and(|token| token.checks.get(Check::Claims).failure() == Some(Failure::DestMismatch))
        };
        if !links.get(at).is_some_and(|link| is_open(link) && is_sound(cx, link, true, verdict)) {
            continue;
        }
        let Some(path) = lead_back(cx, sent, links, at, verdict) else { continue };
        let mut diversions = Vec::new();
        for &step in &path {
            let Some(link) = links.get(step) else { continue };
            accept(cx, link, step == at, verdict);
            diversions.extend(link.div.clone());
        }
        diversions.reverse();
        if let Some(token) = links.get(at).and_then(|link| verdict.tokens_mut().get_mut(link.token)) {
            token.diversions = diversions;
        }
    }
}

/// From an `rsp` over its diversions to the first of them, breadth first; each is used once.
fn lead_back(cx: &Request<'_>, sent: &Sent, links: &mut [Link], at: usize, verdict: &Verdict) -> Option<Vec<usize>> {
    links.iter_mut().for_each(|link| link.found = None);
    links.get_mut(at)?.found = Some(Found { by: None, depth: 0 });
    let mut queue = vec![at];
    let mut next = 0;
    while let Some(&outer) = queue.get(next) {
        next += 1;
        let (orig, wanted, depth) = match links.get(outer) {
            Some(link) => {
                let wanted = link.div.clone().map_or_else(|| link.dest.clone(), |div| vec![div]);
                (link.orig.clone(), wanted, link.found.map_or(0, |found| found.depth))
            }
            None => continue,
        };
        for place in 0..links.len() {
            let Some(link) = links.get(place) else { continue };
            let fits = link.is_div() && link.found.is_none() && link.orig == orig && depth < cx.policy.max_diversions;
            let leads = link.dest.iter().any(|dest| wanted.contains(dest));
            if !fits || !leads || !is_sound(cx, link, false, verdict) {
                continue;
            }
            let is_first = link.div.as_ref().is_some_and(|div| sent.tokens.was_meant_for(div));
            if let Some(link) = links.get_mut(place) {
                link.found = Some(Found { by: Some(outer), depth: depth + 1 });
            }
            if is_first {
                let mut path = path(links, place);
                path.reverse();
                return Some(path);
            }
            queue.push(place);
        }
    }
    None
}

fn is_sound(cx: &Request<'_>, link: &Link, is_outermost: bool, verdict: &Verdict) -> bool {
    let Some(token) = verdict.tokens().get(link.token) else { return false };
    let checks = relaxed(cx, link, is_outermost, &token.checks);
    matches!(checks.fault(cx.policy), None | Some(Check::Replay)) && checks.get(Check::Replay).failure().is_none()
}

/// Makes a token of a chain valid, unless it was used in another call. Gives whether it is.
fn accept(cx: &Request<'_>, link: &Link, is_outermost: bool, verdict: &mut Verdict) -> bool {
    let Some(token) = verdict.tokens_mut().get_mut(link.token) else { return false };
    if token.disposition != Disposition::Valid {
        token.checks = relaxed(cx, link, is_outermost, &token.checks);
        settle(cx, &link.seal, longest(cx.policy), token);
    } else if token.checks.get(Check::Claims).failure().is_some() {
        // Valid since nobody enforces them; they hold now.
        token.checks = relaxed(cx, link, is_outermost, &token.checks);
    }
    token.disposition == Disposition::Valid
}

fn longest(policy: &Policy) -> i64 {
    policy.freshness.max(policy.diverted_freshness)
}

/// A diversion that belongs to no chain says why, and never is valid by itself. What it was meant for may be in a field that was not
/// looked into: then it is left open like that one.
fn conclude_unproven(cx: &Request<'_>, link: &Link, links: &[Link], verdict: &mut Verdict) {
    let is_any = |wanted| verdict.tokens().iter().any(|token: &TokenVerdict| token.disposition == wanted);
    let (is_unchecked, is_ignored) = (is_any(Disposition::Unchecked), is_any(Disposition::Ignored));
    let too_many = link.found.is_some_and(|found| found.depth >= cx.policy.max_diversions);
    let earlier = || links.iter().filter(|other| other.token != link.token && other.was_meant_for(link));
    let is_outermost =
        !links.iter().any(|other| other.token != link.token && other.is_div() && link.was_meant_for(other));
    let failure = if !link.reaches && is_outermost {
        Failure::DivTarget
    } else if earlier().next().is_some() && earlier().all(|other| other.orig != link.orig) {
        Failure::DivOrig
    } else if too_many && earlier().any(Link::is_div) {
        Failure::TooManyDiversions
    } else {
        Failure::DivIncomplete
    };
    let Some(token) = verdict.tokens_mut().get_mut(link.token) else { return };
    let is_own = token.checks.failures().any(|(check, failure)| check != Check::Claims || !is_for_chain(failure));
    if !is_own && failure == Failure::DivIncomplete && (is_unchecked || is_ignored) {
        token.disposition = if is_unchecked { Disposition::Unchecked } else { Disposition::Ignored };
        return;
    }
    let is_asked = cx.policy.modes.get(Check::Claims) != Mode::Off;
    if is_asked && token.checks.get(Check::Claims).failure().is_none_or(is_for_chain) {
        token.checks.set(Check::Claims, CheckResult::Failed(failure));
    }
    token.disposition = token.checks.fault(cx.policy).map_or(token.disposition, Disposition::Invalid);
}
