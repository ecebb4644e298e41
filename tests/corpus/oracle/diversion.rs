//! Chains of diversions over the fields of a request (RFC 8946 section 4.2), and what each field is worth in the end.

use std::collections::BTreeSet;

use super::{Call, Demands, Family, Finding, Judged, Looked, Token, WINDOW, only};

/// Whom a token speaks of.
#[derive(Clone, Debug)]
pub struct Ends {
    pub orig: String,
    pub dest: Vec<String>,
    pub div: Option<String>,
}

/// What the chains of a request lead to.
struct Chains<'a> {
    looked: &'a [Looked],
    call: &'a Call,
    demands: &'a Demands,
    /// Tokens on a whole chain.
    proven: BTreeSet<usize>,
    /// Diversions that end at a field of an unknown kind: their chain is ignored with it (step 5).
    ignored: BTreeSet<usize>,
}

impl Chains<'_> {
    /// Goes back from the last token of a path to what was diverted by it; each token is used once.
    fn extend(&mut self, path: &[usize]) {
        let Some(Looked::Token(last)) = path.last().map(|at| &self.looked[*at]) else { return };
        for (at, looked) in self.looked.iter().enumerate().filter(|(at, _)| !path.contains(at)) {
            let fits = |ends: &Ends| {
                ends.orig == last.ends.orig && last.ends.div.as_ref().is_some_and(|div| ends.dest.contains(div))
            };
            match looked {
                Looked::Ignored(Some(ends)) if fits(ends) => self.ignored.extend(path),
                Looked::Token(token) if fits(&token.ends) && self.is_sound(token, false) => {
                    let longer = [path, &[at]].concat();
                    if !token.is_div() {
                        self.proven.extend(longer);
                    } else if longer.len() <= self.demands.max_diversions {
                        self.extend(&longer);
                    }
                }
                _ => {}
            }
        }
    }

    /// Steps 2 to 5 of a token by itself: the outermost one has to be fresh, the others may be older.
    fn is_sound(&self, token: &Token, is_outermost: bool) -> bool {
        let window = if is_outermost { WINDOW } else { WINDOW.max(self.demands.diverted_window) };
        token.faults.is_empty() && is_fresh(token.age, window)
    }

    fn reaches(&self, token: &Token) -> bool {
        token.ends.dest.contains(&self.call.target)
    }
}

pub fn is_fresh(age: i64, window: i64) -> bool {
    age <= window && age >= -WINDOW
}

pub fn settle(looked: &[Looked], call: &Call, demands: &Demands) -> Vec<Judged> {
    let mut chains = Chains { looked, call, demands, proven: BTreeSet::new(), ignored: BTreeSet::new() };
    for (at, looked) in looked.iter().enumerate() {
        // Step 1: the outermost leads to the Request-URI.
        if let Looked::Token(token) = looked
            && token.is_div()
            && chains.reaches(token)
            && chains.is_sound(token, true)
        {
            chains.extend(&[at]);
        }
    }
    looked.iter().enumerate().map(|(at, looked)| judge(at, looked, &chains)).collect()
}

fn judge(at: usize, looked: &Looked, chains: &Chains<'_>) -> Judged {
    let token = match looked {
        Looked::Ignored(_) => return Judged::of(Finding::Ignored),
        Looked::Unreadable => return Judged::of(only(Family::Token)),
        Looked::Token(token) => token,
    };
    let is_proven = chains.proven.contains(&at);
    let mut found = token.faults.clone();
    if !is_proven && !is_fresh(token.age, WINDOW) {
        found.insert(Family::Freshness);
    }
    if token.is_div() {
        if found.is_empty() && !is_proven && chains.ignored.contains(&at) {
            return Judged::of(Finding::Ignored);
        }
        if !is_proven {
            found.insert(Family::Claims);
        }
    } else if !is_proven && !chains.reaches(token) {
        // RFC 8224 12.1.1 leaves retargeting open; RFC 8946 does not look at To.
        let kind = token.kind.as_deref();
        let may_be_retargeted = kind == Some("rph") || (!chains.demands.strict_retarget && kind != Some("div-o"));
        if !(may_be_retargeted && token.ends.dest.contains(&chains.call.to)) {
            found.insert(Family::Claims);
        }
    }
    if !found.is_empty() {
        return Judged::of(Finding::Invalid(found));
    }
    Judged { finding: Finding::Valid, attest: token.attest.clone(), rich: token.rich.clone() }
}
