//! The judge: checks what a case expects against the message traces of its parties.

use std::collections::BTreeMap;

use super::case::{Expect, Look};
use super::message::Seen;
use super::passport;
use super::run::Scene;

/// Messages by the name of the party.
pub type Traces = BTreeMap<String, Vec<Seen>>;

/// Findings; empty when all is as expected.
pub fn judge(expectations: &[Expect], traces: &Traces, scene: &Scene) -> Vec<String> {
    expectations
        .iter()
        .filter_map(|e| check(e, traces, scene).err().map(|why| format!("{why}\n    in {e:?}")))
        .collect()
}

fn check(e: &Expect, traces: &Traces, scene: &Scene) -> Result<(), String> {
    if !e.order.is_empty() {
        check_order(e, traces)?;
    }
    let Some(selector) = &e.message else { return Ok(()) };
    let found = select(traces, selector)?;
    if let Some(count) = e.count {
        verify(found.len() == count, || format!("{selector}: {} messages instead of {count}", found.len()))?;
    }
    if let Some(other) = &e.as_many_as {
        let count = select(traces, other)?.len();
        verify(found.len() == count, || format!("{} times {selector}, but {count} times {other}", found.len()))?;
    }
    let least = e.min.unwrap_or(usize::from(e.count.is_none()));
    verify(found.len() >= least, || format!("{selector}: only {} messages", found.len()))?;
    for (pair, least) in found.windows(2).zip(&e.gaps_ms) {
        let gap = pair[1].at.saturating_sub(pair[0].at).as_millis();
        verify(gap >= u128::from(*least), || format!("{selector}: {gap} ms apart instead of {least}"))?;
    }
    for seen in found {
        look_at(seen, &e.look, scene)?;
        if let Some(other) = &e.same_as {
            let twin = select(traces, other)?
                .into_iter()
                .find(|twin| twin.call_id() == seen.call_id() && twin.cseq_number() == seen.cseq_number())
                .ok_or_else(|| format!("no {other} belongs to {}", seen.start_line()))?;
            check_same(e, seen, twin)?;
        }
        for token in e.token.iter().chain(&e.tokens) {
            passport::check(seen, token, scene)?;
        }
    }
    Ok(())
}

fn verify(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// The messages that `party direction what` names.
fn select<'a>(traces: &'a Traces, selector: &str) -> Result<Vec<&'a Seen>, String> {
    let mut words = selector.split_whitespace();
    let (Some(party), Some(direction), Some(what)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("bad selector {selector}"));
    };
    let method = words.next();
    let trace = traces.get(party).ok_or_else(|| format!("nobody is called {party}"))?;
    let is_it = |seen: &&Seen| {
        seen.sent == (direction == ">")
            && match seen.status() {
                Some(status) => what == status.to_string() && method.is_none_or(|m| m == seen.method()),
                None => what == "*" || what == seen.method(),
            }
    };
    Ok(trace.iter().filter(is_it).collect())
}

/// Checks one message by itself. Words in `{}` are filled in.
pub fn look_at(seen: &Seen, look: &Look, scene: &Scene) -> Result<(), String> {
    let line = seen.start_line();
    let fill = |text: &str| scene.place.fill(text);
    for (name, value) in &look.header {
        let (found, value) = (seen.value(name), fill(value));
        verify(found.as_deref() == Some(&value), || format!("{line}: {name} is {found:?} instead of {value:?}"))?;
    }
    for (name, text) in &look.contains {
        let (found, text) = (seen.field_values(name), fill(text));
        verify(found.iter().any(|v| v.contains(&text)), || format!("{line}: no {text:?} in {name} {found:?}"))?;
    }
    for (name, text) in &look.omits {
        let (found, text) = (seen.field_values(name), fill(text));
        verify(!found.iter().any(|v| v.contains(&text)), || format!("{line}: {text:?} in {name} {found:?}"))?;
    }
    for (name, count) in &look.elements {
        let found = seen.elements(name);
        verify(found.len() == *count, || format!("{line}: {name} has not {count} elements: {found:?}"))?;
    }
    for name in &look.lacks {
        let found = seen.value(name);
        verify(found.is_none(), || format!("{line}: there is a {name}: {found:?}"))?;
    }
    if let Some(text) = look.start_line.as_deref().map(fill) {
        verify(line.contains(&text), || format!("{line}: not {text:?}"))?;
    }
    Ok(())
}

fn check_same(e: &Expect, seen: &Seen, twin: &Seen) -> Result<(), String> {
    let line = seen.start_line();
    for name in &e.same {
        let (ours, theirs) = (seen.field_values(name), twin.field_values(name));
        verify(ours == theirs, || format!("{line}: {name} was {theirs:?} and is {ours:?}"))?;
    }
    for name in &e.same_first {
        let (ours, theirs) = (seen.elements(name), twin.elements(name));
        verify(ours.first() == theirs.first(), || format!("{line}: first {name} was {theirs:?} and is {ours:?}"))?;
    }
    if e.same_uri {
        let uri = |m: &Seen| m.start_line().split(' ').nth(1).map(str::to_owned);
        verify(uri(seen) == uri(twin), || format!("{line}: not the Request-URI of {}", twin.start_line()))?;
    }
    if e.same_body {
        verify(seen.body() == twin.body(), || format!("{line}: the body is another one"))?;
    }
    if let Some(names) = &e.all_but {
        let rest = |m: &Seen| -> Vec<_> {
            m.fields().into_iter().filter(|(name, _)| !names.iter().any(|n| n.eq_ignore_ascii_case(name))).collect()
        };
        let (ours, theirs) = (rest(seen), rest(twin));
        verify(ours == theirs, || format!("{line}: header fields were\n    {theirs:?}\n  and are\n    {ours:?}"))?;
    }
    Ok(())
}

/// In every call that has the first message: each selector's first message comes after the one before it.
fn check_order(e: &Expect, traces: &Traces) -> Result<(), String> {
    let first = e.order.first().map_or(Ok(Vec::new()), |s| select(traces, s))?;
    verify(!first.is_empty(), || format!("no {:?}", e.order.first()))?;
    for start in first {
        let (mut last, mut end) = (None, start.at);
        for selector in &e.order {
            let party = selector.split_whitespace().next().unwrap_or_default();
            let trace = &traces[party];
            let candidates = select(traces, selector)?;
            let place = trace.iter().position(|m| {
                m.call_id() == start.call_id() && candidates.iter().any(|candidate| std::ptr::eq(*candidate, m))
            });
            verify(place.is_some(), || format!("no {selector} in call {}", start.call_id()))?;
            verify(last.is_none() || place > last, || {
                format!("{selector} came too early in call {}", start.call_id())
            })?;
            last = place;
            end = place.map_or(end, |at| trace[at].at);
        }
        if let Some(limit) = e.within_ms {
            let took = end.saturating_sub(start.at).as_millis();
            verify(took <= u128::from(limit), || format!("{:?} took {took} ms instead of {limit}", e.order))?;
        }
    }
    Ok(())
}
