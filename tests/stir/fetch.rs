//! Tokens whose certificate only an `x5u` names.
use super::support::*;
use serde_json::{Value, json};
use vesperd::cert::TrustStore;
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::url::UrlError;
use vesperd::stir::verification::{Check, Disposition, Failure, FetchFailure, FetchedChain, Outcome, Policy, Verifier};

const POLICY: Policy = Policy::shaken();

pub fn fetched(chain: &[Vec<u8>], fresh_until: i64) -> Result<FetchedChain, FetchFailure> {
    Ok(FetchedChain { certificates: chain.to_vec(), fresh_until })
}

fn header(x5u: &str) -> Value {
    json!({"alg": "ES256", "typ": "passport", "x5u": x5u})
}

fn call(credential: &Credential, x5u: &str) -> Vec<u8> {
    let token = credential.token(&header(x5u), &claims());
    invite(&[format!("Identity: {token};info=<{x5u}>")], "")
}

fn run(verifier: &mut Verifier, unix: i64, credential: &Credential, octets: &[u8]) -> Outcome {
    with(octets, |message| verifier.verify(unix, &POLICY, &credential.trust, None, message))
}

#[track_caller]
fn assert_need(outcome: Outcome, url: &str) {
    match outcome {
        Outcome::Need { x5u } => assert_eq!(&*x5u, url),
        Outcome::Done(verdict) => panic!("done: {verdict:?}"),
    }
}

#[test]
fn a_chain_is_asked_for_once() {
    let credential = Credential::shaken();
    let octets = call(&credential, X5U);
    let mut verifier = verifier();
    assert_need(run(&mut verifier, NOW, &credential, &octets), X5U);
    assert_need(run(&mut verifier, NOW, &credential, &octets), X5U);
    verifier.provide(NOW, &credential.trust, X5U, fetched(&credential.chain(), NOW + 100));
    for _ in 0..2 {
        assert_valid(&done(run(&mut verifier, NOW, &credential, &octets)));
    }
    // Fresh until NOW + 100, though the certificate lives on; the token is of then.
    let later = NOW + 101;
    let token = credential.token(&header(X5U), &json!({"dest":{"tn":[CALLEE]},"iat":later,"orig":{"tn":CALLER}}));
    let octets = invite(&[identity(&token)], "");
    assert_need(run(&mut verifier, later, &credential, &octets), X5U);
}

/// What came for a call serves that call, whatever calls were judged by in between.
#[test]
fn an_answer_is_for_the_store_that_it_was_asked_by() {
    let credential = Credential::shaken();
    let octets = call(&credential, X5U);
    let newer = TrustStore { epoch: 1, ..credential.trust.clone() };
    let mut verifier = verifier();
    assert_need(run(&mut verifier, NOW, &credential, &octets), X5U);
    assert_need(with(&octets, |message| verifier.verify(NOW, &POLICY, &newer, None, message)), X5U);
    verifier.provide(NOW, &credential.trust, X5U, fetched(&credential.chain(), NOW + 100));
    assert_valid(&done(run(&mut verifier, NOW, &credential, &octets)));
    assert_need(with(&octets, |message| verifier.verify(NOW, &POLICY, &newer, None, message)), X5U);
    verifier.provide(NOW, &newer, X5U, fetched(&credential.chain(), NOW + 100));
    assert_valid(&done(with(&octets, |message| verifier.verify(NOW, &POLICY, &newer, None, message))));
}

#[test]
fn failures_are_kept_for_half_a_minute() {
    let credential = Credential::shaken();
    let octets = call(&credential, X5U);
    let mut verifier = verifier();
    verifier.provide(NOW - 20, &credential.trust, X5U, Err(FetchFailure::Status(404)));
    let verdict = done(run(&mut verifier, NOW, &credential, &octets));
    assert_fault("404", &verdict, Check::Chain, Failure::Fetch(FetchFailure::Status(404)), 436);
    assert_eq!(verdict.rejection().unwrap().phrase, "Bad Identity Info");
    assert_need(run(&mut verifier, NOW + 11, &credential, &octets), X5U);
    for answer in [fetched(&[], NOW + 100), fetched(&[b"no certificate".to_vec()], NOW + 100)] {
        verifier.provide(NOW, &credential.trust, X5U, answer);
        let verdict = done(run(&mut verifier, NOW, &credential, &octets));
        assert_fault("answer", &verdict, Check::Chain, Failure::Fetch(FetchFailure::NotCertificates), 436);
    }
    verifier.provide(NOW, &credential.trust, X5U, fetched(&Credential::shaken().chain(), NOW + 100));
    let verdict = done(run(&mut verifier, NOW, &credential, &octets));
    let rejection = verdict.rejection().unwrap();
    assert_eq!((rejection.status, rejection.check), (437, Some(Check::Chain)), "another root");
}

#[test]
fn urls_that_are_not_asked() {
    let credential = Credential::shaken();
    for (url, failure) in [
        ("http://a.example/c.pem", UrlError::Scheme),
        ("https://user@a.example/c.pem", UrlError::UserInfo),
        ("https://a.example/c.pem?x=1", UrlError::QueryOrFragment),
        ("https://a.example:8444/c.pem", UrlError::PortNotAllowed),
        ("https://a_b.example/c.pem", UrlError::Host),
    ] {
        let verdict = done(run(&mut verifier(), NOW, &credential, &call(&credential, url)));
        assert_fault(url, &verdict, Check::Chain, Failure::Url(failure), 436);
    }
    let url = "https://a.example:8443/c.pem";
    assert_need(run(&mut verifier(), NOW, &credential, &call(&credential, url)), url);
    let config = vesperd::stir::verification::VerifierConfig { allow_any_port: true, ..Default::default() };
    let url = "https://a.example:9000/c.pem";
    assert_need(run(&mut Verifier::new(config, [0; 16]), NOW, &credential, &call(&credential, url)), url);
}

#[test]
fn nothing_is_fetched_in_vain() {
    let credential = Credential::vesper();
    let octets = call(&credential, X5U);
    // VESPER wants x5c.
    let verdict = verify(&Policy::vesper(), &credential.trust, &octets);
    assert_fault("VESPER", &verdict, Check::Chain, Failure::NoX5c, 437);
    // With plain STIR allowed it is fetched, and held to that.
    let lax = Policy { accept_plain_stir: true, ..Policy::vesper() };
    let mut verifier = verifier();
    let run = |verifier: &mut Verifier, octets: &[u8]| {
        with(octets, |message| verifier.verify(NOW, &lax, &credential.trust, None, message))
    };
    assert_need(run(&mut verifier, &octets), X5U);
    // info is not x5u; another algorithm; an unknown kind; a payload that can not be read.
    let token = credential.token(&header(X5U), &claims());
    let mut none = header(X5U);
    none["alg"] = "none".into();
    let mut foo = header(X5U);
    foo["ppt"] = "foo".into();
    for line in [
        format!("Identity: {token};info=<https://other.example/>"),
        identity(&credential.token(&none, &claims())),
        identity(&credential.token(&foo, &claims())),
        identity(&credential.token(&header(X5U), &json!({"iat": 1}))),
    ] {
        assert!(matches!(run(&mut verifier, &invite(&[line], "")), Outcome::Done(_)));
    }
    // I-29: a valid token beside it settles the matter.
    let inline = identity(&credential.token(&credential.header(), &claims()));
    let verdict = done(run(&mut verifier, &invite(&[identity(&token), inline], "")));
    assert!(verdict.is_valid());
    let dispositions: Vec<_> = verdict.tokens().iter().map(|token| token.disposition).collect();
    assert_eq!(dispositions, [Disposition::Unchecked, Disposition::Valid]);
}

#[test]
fn a_call_that_can_not_wait() {
    let credential = Credential::shaken();
    let octets = call(&credential, X5U);
    let mut verifier = verifier();
    let table = ReplayTable::default();
    let mut without = |x5u: &str| {
        with(&octets, |message| {
            let (trust, failure) = (&credential.trust, FetchFailure::Timeout);
            verifier.verify_without(NOW, &POLICY, trust, Some(&table), message, x5u, failure)
        })
    };
    assert_fault("timeout", &without(X5U), Check::Chain, Failure::Fetch(FetchFailure::Timeout), 436);
    assert_fault("another", &without("https://b.example/"), Check::Chain, Failure::Fetch(FetchFailure::Busy), 436);
    // Nothing of it is remembered.
    assert_need(run(&mut verifier, NOW, &credential, &octets), X5U);
}

#[test]
fn what_strangers_send_does_not_push_out_what_is_in_use() {
    let credential = Credential::vesper();
    let mut config = vesperd::stir::verification::VerifierConfig::default();
    (config.max_refused_chains, config.headers.max_entries) = (4, 4);
    let mut verifier = Verifier::new(config, [0; 16]);
    let good = invite(&[identity(&credential.token(&credential.header(), &claims()))], "");
    let mut run = |trust: &vesperd::cert::TrustStore, octets: &[u8]| {
        done(with(octets, |message| verifier.verify(NOW, &Policy::vesper(), trust, None, message)))
    };
    let first = sole(&run(&credential.trust, &good)).credential.clone().unwrap();
    let stranger = Credential::vesper();
    for n in 0..40 {
        // A chain of another root under a new header each time, and our own chain with a token nobody signed.
        let (mut theirs, mut ours) = (stranger.header(), credential.header());
        theirs["x5u"] = format!("{X5U}?{n}").into();
        ours["x5u"] = format!("{X5U}?{n}").into();
        let forged = stranger.token(&ours, &claims());
        for token in [stranger.token(&theirs, &claims()), forged] {
            let line = format!("Identity: {token};info=<{X5U}?{n}>");
            assert!(!run(&credential.trust, &invite(&[line], "")).is_valid());
        }
    }
    let again = sole(&run(&credential.trust, &good)).credential.clone().unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &again));
}
