//! A corpus of tokens, made by a seeded generator: good ones, hand-mutated ones, ones with an octet changed anywhere, chains of them, and
//! such under odd certificates. A verifier of its own ([`oracle`]) says what each is worth; `vesperd` has to say the same, and to name
//! one of the faults it finds.

mod cases;
mod oracle;
#[allow(dead_code)]
#[path = "../certificate/support.rs"]
mod pki;
#[allow(dead_code)]
#[path = "../support/rng.rs"]
mod rng;
#[allow(dead_code)]
#[path = "../stir/support.rs"]
mod stir;

use std::collections::{BTreeMap, BTreeSet};

use cases::{Case, Corpus};
use oracle::{Call, Demands, Family, Finding, Judged, Oracle, Part, Profile, Rich};
use pki::{DAY, NOW};
use stir::{request, verifier, with};
use vesperd::cert::TrustStore;
use vesperd::passport::digest::LabelledDigest;
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::rich_call_data::{Card, Element, Linked};
use vesperd::stir::verification::{
    Check, Disposition, FetchFailure, FetchedChain, IdentitySource, Outcome, Policy, PriorityAuthority, RichCallData,
    TokenVerdict, Verdict,
};

const SEED: u64 = 0x7e57_0041;

fn family(check: Check) -> Option<Family> {
    Some(match check {
        Check::Token => Family::Token,
        Check::Chain => Family::Chain,
        Check::Validity => Family::Validity,
        Check::TnAuthorization => Family::Number,
        Check::Sct => Family::Transparency,
        Check::Signature => Family::Signature,
        Check::Claims => Family::Claims,
        Check::Constraints => Family::Constraints,
        Check::DomainBinding => Family::Domain,
        Check::Freshness => Family::Freshness,
        _ => return None,
    })
}

fn part(element: Element) -> Part {
    match element {
        Element::Name => Part::Name,
        Element::AlternateNumber => Part::Number,
        Element::Icon => Part::Icon,
        Element::Card => Part::Card,
        Element::Reason => Part::Reason,
        Element::Other => Part::Other,
    }
}

fn policy(demands: &Demands, call: &Call) -> Policy {
    let priority_authority =
        if demands.providers_prioritize { PriorityAuthority::Provider } else { PriorityAuthority::Constraints };
    let profile = match demands.profile {
        Profile::Shaken => Policy::shaken(),
        Profile::Vesper => Policy::vesper(),
    };
    let is_asserted = call.asserted.is_some();
    Policy {
        identity_source: if is_asserted { IdentitySource::AssertedThenFrom } else { IdentitySource::From },
        strict_retarget: demands.strict_retarget,
        strict_claims: demands.strict_claims,
        max_diversions: demands.max_diversions,
        diverted_freshness: demands.diverted_window,
        priority_authority,
        ..profile
    }
}

/// The request as it is on the wire.
fn octets(call: &Call, fields: &[String]) -> Vec<u8> {
    let mut lines: Vec<String> = fields.iter().map(|value| format!("Identity: {value}")).collect();
    let time = |date: i64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(date).unwrap());
    lines.extend(call.date.map(|date| format!("Date: {}", httpdate::fmt_http_date(time(date)))));
    lines.extend(call.asserted.iter().map(|number| format!("P-Asserted-Identity: <tel:+{number}>")));
    lines.extend(call.priorities.iter().map(|value| format!("Resource-Priority: {value}")));
    lines.extend(call.priority.iter().map(|value| format!("Priority: {value}")));
    lines.extend(call.reason.iter().map(|reason| format!("Call-Info: <data:>;purpose=jcard;call-reason=\"{reason}\"")));
    let octets = request(&call.from, &call.to, &call.target, "call-1@host.example", &lines, &call.body);
    let text = String::from_utf8(octets).unwrap();
    let text = match call.method {
        "INVITE" => text,
        method => text.replace("INVITE", method).replace("application/sdp", "text/plain"),
    };
    let shown = if call.shown.is_empty() { String::new() } else { format!("\"{}\" ", call.shown) };
    text.replace("\"Caller\" <", &format!("{shown}<")).into_bytes()
}

fn ours(corpus: &Corpus, trust: &TrustStore, case: &Case) -> Verdict {
    let (octets, policy, replay) =
        (octets(&case.call, &case.fields), policy(&case.demands, &case.call), ReplayTable::default());
    with(&octets, |message| {
        let mut verifier = verifier();
        for _ in 0..=case.fields.len() {
            let x5u = match verifier.verify(NOW, &policy, trust, Some(&replay), message) {
                Outcome::Done(verdict) => return verdict,
                Outcome::Need { x5u } => x5u,
            };
            let chain = corpus.web.get(&*x5u).cloned();
            let answer = chain.map(|certificates| FetchedChain { certificates, fresh_until: NOW + DAY });
            verifier.provide(NOW, trust, &x5u, answer.ok_or(FetchFailure::Connect));
        }
        panic!("{} asks for ever", case.name)
    })
}

/// What fetched content has a digest that is handed on, and whether it is that of the content.
fn content(data: &RichCallData, call: &Call) -> BTreeMap<String, bool> {
    let card = match &data.card {
        Some(Card::Link(link)) => Some(link),
        _ => None,
    };
    let judged = |link: &Linked| {
        let octets = call.content.get(&*link.url)?;
        let digest = LabelledDigest::parse(link.integrity.as_deref()?).unwrap();
        Some((link.url.to_string(), digest.is_of(octets)))
    };
    [data.icon.as_ref(), card].into_iter().flatten().filter_map(judged).collect()
}

/// Why both verdicts on a token differ.
fn difference(expected: &Judged, token: &TokenVerdict, call: &Call) -> Option<String> {
    let agrees = match (&expected.finding, token.disposition) {
        (Finding::Valid, Disposition::Valid) | (Finding::Ignored, Disposition::Ignored) => true,
        (Finding::Invalid(families), Disposition::Invalid(check)) => {
            family(check).is_some_and(|family| families.contains(&family))
        }
        _ => false,
    };
    if !agrees {
        let found: Vec<_> = token.checks.failures().collect();
        return Some(format!("{}, not {:?} {found:?}", expected.finding, token.disposition));
    }
    if token.disposition != Disposition::Valid {
        return None;
    }
    let attest = token.attest.map(|attest| attest.letter().to_owned());
    if expected.attest != attest {
        return Some(format!("attest {:?}, not {attest:?}", expected.attest));
    }
    let rich = token.rich_call_data.as_deref().map(|data| Rich {
        refused: data.unverified.iter().map(|(element, _)| part(*element)).collect::<BTreeSet<_>>(),
        content: content(data, call),
    });
    (expected.rich != rich).then(|| format!("{:?}, not {rich:?}", expected.rich))
}

#[test]
fn every_token_of_the_corpus_is_worth_what_another_verifier_says() {
    let corpus = Corpus::new(SEED);
    let trust = corpus.trust();
    let mut oracle = Oracle::new(&corpus.hierarchy.root.der, corpus.log_list(), corpus.web.clone());
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut contents = [0; 2];
    let mut refused = BTreeSet::new();
    for case in &corpus.cases {
        let expected = oracle.judge(&case.fields, &case.call, &case.demands);
        let verdict = ours(&corpus, &trust, case);
        assert_eq!(verdict.tokens().len(), expected.len(), "{} {}", case.class, case.name);
        for (place, (expected, token)) in expected.iter().zip(verdict.tokens()).enumerate() {
            let difference = difference(expected, token, &case.call);
            wrong.extend(difference.map(|text| format!("{} {} [{place}]: {text}", case.class, case.name)));
            let word = match &expected.finding {
                Finding::Invalid(families) => format!("{:?}", families.first().unwrap()),
                other => other.to_string(),
            };
            *counts.entry((case.class, word)).or_default() += 1;
            refused.extend(expected.rich.iter().flat_map(|rich| rich.refused.iter().copied()));
            for holds in expected.rich.iter().flat_map(|rich| rich.content.values()) {
                contents[usize::from(*holds)] += 1;
            }
        }
    }
    let tokens: usize = counts.values().sum();
    println!("{} requests, {tokens} tokens, {} questions to openssl", corpus.cases.len(), oracle.asked());
    counts.iter().for_each(|((class, word), count)| println!("{class}: {word} {count}"));
    assert!(wrong.is_empty(), "{} of {tokens}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(corpus.cases.len() >= 734, "{}", corpus.cases.len());
    assert!(contents.iter().all(|count| *count > 0), "fetched content: {contents:?}");
    for word in [
        "valid",
        "ignored",
        "Token",
        "Chain",
        "Validity",
        "Number",
        "Transparency",
        "Signature",
        "Claims",
        "Constraints",
        "Domain",
        "Freshness",
    ] {
        assert!(counts.keys().any(|(_, own)| own == word), "no token is {word}");
    }
    // Good ones alone are in one class; everywhere else both verdicts are told apart.
    let classes: BTreeSet<&str> = counts.keys().map(|(class, _)| *class).filter(|class| *class != "shape").collect();
    for class in classes {
        let of = |is_wanted: fn(&str) -> bool| counts.keys().any(|(own, word)| *own == class && is_wanted(word));
        assert!(of(|word| word == "valid"), "{class}: none is valid");
        assert!(of(|word| word != "valid" && word != "ignored"), "{class}: none is invalid");
    }
    for part in [Part::Name, Part::Number, Part::Icon, Part::Card, Part::Reason, Part::Other] {
        assert!(refused.contains(&part), "{part:?} is never refused");
    }
}
