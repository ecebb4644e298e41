//! The called side: what may be said of the party that was reached (N-7 to N-11), and the token that says it.
use super::{Asserted, Tokens};
use crate::passport::claims::Destinations;
use crate::passport::ppt::Ppt;
use crate::passport::ppt::rcd::Assertion;
use crate::passport::{Claims, Identity};
use crate::sip::Message;
use crate::stir::authentication::{SignError, Signer};

/// How a call came to the party that it has reached, as its tokens say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach<'t> {
    /// The caller (O-2: of the token whose chain reaches the party).
    pub caller: &'t Identity<'static>,
    /// Identity values of the diversions that lead there, the last one first; empty if the call was meant for the party.
    pub diversions: Vec<&'t [u8]>,
}

impl Tokens {
    /// How the call came to this party; `None` if no token says so: then there is nothing to be signed (N-10).
    pub fn reach(&self, party: &Identity<'_>) -> Option<Reach<'_>> {
        let is_number = |token: &&Asserted| token.div.is_none();
        let meant = |token: &&Asserted| token.dest.contains(party);
        if let Some(token) = self.0.iter().filter(is_number).find(meant) {
            return Some(Reach { caller: &token.orig, diversions: Vec::new() });
        }
        // Each diversion once, breadth first: by whom it was found, from the one that leads to the party.
        let mut found: Vec<Option<Option<usize>>> = vec![None; self.0.len()];
        let mut queue: Vec<usize> = Vec::new();
        for (at, token) in self.0.iter().enumerate() {
            if token.div.is_some() && token.dest.contains(party) {
                found.iter_mut().skip(at).take(1).for_each(|slot| *slot = Some(None));
                queue.push(at);
            }
        }
        let mut next = 0;
        while let Some(&at) = queue.get(next) {
            next += 1;
            let Some(diverted) = self.0.get(at) else { continue };
            for (place, token) in self.0.iter().enumerate() {
                let fits =
                    token.orig == diverted.orig && diverted.div.as_ref().is_some_and(|div| token.dest.contains(div));
                if !fits || found.get(place).is_none_or(Option::is_some) {
                    continue;
                }
                found.iter_mut().skip(place).take(1).for_each(|slot| *slot = Some(Some(at)));
                if token.div.is_some() {
                    queue.push(place);
                    continue;
                }
                let mut diversions: Vec<&[u8]> = Vec::new();
                let mut step = Some(at);
                while let Some(token) = step.and_then(|step| self.0.get(step)) {
                    diversions.push(&token.value);
                    step = step.and_then(|step| found.get(step).copied().flatten().flatten());
                }
                diversions.reverse();
                return Some(Reach { caller: &token.orig, diversions });
            }
        }
        None
    }
}

impl Signer {
    /// Appends an Identity line with a token of `ppt=rsp` to a response: the call of `caller` has reached `reached`, at the present time
    /// `unix`; with `mky` for the SDP of the response (step 5 of the called side). `rich` is sent by wish of the called party only (N-25).
    ///
    /// # Errors
    /// [`SignError`]: the certificate does not cover `reached` (N-3), is not valid now, or its key lies elsewhere: a response does not wait.
    /// Nothing is appended then.
    pub fn sign_response(
        &self,
        unix: i64,
        caller: &Identity<'_>,
        reached: &Identity<'_>,
        response: Message<'_>,
        rich: Option<&Assertion>,
        lines: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        self.check_validity(unix)?;
        self.check_authority(reached)?;
        if self.remote_key().is_some() {
            return Err(SignError::KeyElsewhere);
        }
        let mut claims = Claims::baseline(caller.borrowed(), Destinations::one(reached.borrowed()), unix);
        let keys = crate::stir::signalling::media_keys(response);
        claims.mky = (!keys.is_empty()).then_some(keys);
        if let Some(rich) = rich {
            rich.add_to(&mut claims);
        }
        self.write_line(Ppt::Rsp, &claims, lines)
    }
}
