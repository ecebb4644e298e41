//! SHAKEN: what a provider's certificate may sign, and where the caller's number is read.
use super::fetch::fetched;
use super::support::*;
use serde_json::{Value, json};
use vesperd::stir::verification::{Check, CheckResult, Failure, IdentitySource, Policy, Verdict};

const POLICY: Policy = Policy::shaken();

fn header() -> Value {
    json!({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": X5U})
}

fn shaken_claims() -> Value {
    let mut payload = claims();
    payload["attest"] = "A".into();
    payload["origid"] = "123e4567-e89b-12d3-a456-426655440000".into();
    payload
}

fn call(credential: &Credential, policy: &Policy, payload: &Value, lines: &[String]) -> Verdict {
    let mut all = vec![identity_ppt(&credential.token(&header(), payload), "shaken")];
    all.extend_from_slice(lines);
    let mut verifier = verifier();
    verifier.provide(NOW, &credential.trust, X5U, fetched(&credential.chain(), NOW + DAY));
    done(with(&invite(&all, ""), |message| verifier.verify(NOW, policy, &credential.trust, None, message)))
}

#[test]
fn a_provider_speaks_for_any_number() {
    let credential = Credential::shaken();
    let verdict = call(&credential, &POLICY, &shaken_claims(), &[]);
    assert_valid(&verdict);
    let token = sole(&verdict);
    assert_eq!(token.checks.get(Check::Sct), CheckResult::NotApplicable);
    assert_eq!(token.checks.get(Check::DomainBinding), CheckResult::NotApplicable);
    assert_eq!(token.checks.get(Check::Replay), CheckResult::NotApplicable, "no table was given");
}

#[test]
fn a_delegate_speaks_for_its_numbers() {
    let delegate = |entries: &[vesperd::cert::TnEntry]| {
        let mut params = leaf_params();
        params.custom_extensions.push(tn_extension(entries));
        Credential::issue_from(params, &[], NOW)
    };
    assert_valid(&call(&delegate(&[one(CALLER)]), &POLICY, &shaken_claims(), &[]));
    let verdict = call(&delegate(&[one("12015550101")]), &POLICY, &shaken_claims(), &[]);
    assert_fault("other number", &verdict, Check::TnAuthorization, Failure::NumberNotAuthorized, 437);
    let none = Credential::issue_from(leaf_params(), &[], NOW);
    let verdict = call(&none, &POLICY, &shaken_claims(), &[]);
    assert_fault("no TNAuthList", &verdict, Check::TnAuthorization, Failure::NoTnAuthList, 437);
}

#[test]
fn an_asserted_identity_counts_only_where_the_policy_says_so() {
    let credential = Credential::shaken();
    let mut payload = shaken_claims();
    payload["orig"]["tn"] = "12015550155".into();
    let asserted = ["P-Asserted-Identity: <sip:+12015550155@a.example;user=phone>, <tel:+12015550156>".to_owned()];
    let verdict = call(&credential, &POLICY, &payload, &asserted);
    assert_fault("From", &verdict, Check::Claims, Failure::OrigMismatch, 438);
    let trusted = Policy { identity_source: IdentitySource::AssertedThenFrom, ..POLICY };
    assert_valid(&call(&credential, &trusted, &payload, &asserted));
    payload["orig"]["tn"] = "12015550156".into();
    assert_valid(&call(&credential, &trusted, &payload, &asserted));
    assert_valid(&call(&credential, &trusted, &shaken_claims(), &asserted));
    payload["orig"]["tn"] = "12015550157".into();
    let verdict = call(&credential, &trusted, &payload, &asserted);
    assert_fault("neither", &verdict, Check::Claims, Failure::OrigMismatch, 438);
}

#[test]
fn dest_may_list_several() {
    let credential = Credential::shaken();
    let mut payload = shaken_claims();
    payload["dest"] = json!({"tn": ["12155550000", CALLEE], "uri": ["sip:bob@b.example"]});
    assert_valid(&call(&credential, &POLICY, &payload, &[]));
}

#[test]
fn an_inline_chain_serves_shaken_too() {
    let credential = Credential::shaken();
    let token = credential.token(&credential.header(), &claims());
    assert_valid(&verify(&POLICY, &credential.trust, &invite(&[identity(&token)], "")));
}
