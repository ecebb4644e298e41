//! What the authentication service makes beside the token for the number: diversions, rich call data, priorities, messages. All of it
//! is given to the verification service.
use super::parties::*;
use super::support::*;
use serde_json::{Value, json};
use vesperd::passport::ppt::rcd::Assertion;
use vesperd::passport::ppt::{Ppt, shaken::Attestation};
use vesperd::passport::{Config, Identity, Token};
use vesperd::sip::Name;
use vesperd::sip::identity::IdentityValue;
use vesperd::stir::IdentitySource;
use vesperd::stir::authentication::{Diverted, SignError, Signer, SignerConfig, Speaker};
use vesperd::stir::verification::{Check, Disposition, Failure, Policy, Retarget};

const STRICT: Policy = Policy { strict_retarget: true, ..Policy::shaken() };
const P: &str = "https://provider.example/c.pem";
const Q: &str = "https://b.example/c.pem";
const R: &str = "https://c.example/c.pem";

fn lines_of<T: PartialEq>(sign: impl FnOnce(&mut Vec<u8>) -> Result<T, SignError>) -> Result<Vec<String>, SignError> {
    let mut lines = Vec::new();
    let result = sign(&mut lines);
    assert_eq!(result.is_err(), lines.is_empty(), "all or nothing");
    result.map(|_| String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect())
}

fn shaken_signer(party: &Party) -> Signer {
    let config = SignerConfig { attestation: Some(Attestation::Full), ..party.config(P) };
    Signer::new(config).unwrap()
}

fn sign(signer: &Signer, octets: &[u8]) -> Vec<String> {
    with(octets, |request| lines_of(|lines| signer.sign(NOW, request, [1; 16], lines))).unwrap()
}

fn divert(signer: &Signer, unix: i64, octets: &[u8], to: &str) -> Result<Vec<String>, SignError> {
    let target = format!("sip:+{to}@c.example;user=phone");
    with(octets, |request| lines_of(|lines| signer.sign_diversion(unix, request, target.as_bytes(), lines)))
}

/// The payloads of the Identity lines.
fn payloads(lines: &[String]) -> Vec<Value> {
    let identities = lines.iter().filter_map(|line| line.strip_prefix("Identity: "));
    identities
        .map(|value| {
            let field = IdentityValue::parse(value.as_bytes(), 0..value.len()).unwrap();
            let Ok(Token::Full(jws)) = Token::parse(field.digest, &Config::default()) else { panic!("full form") };
            let mut payload = Vec::new();
            serde_json::from_slice(jws.decode_payload(&mut payload).unwrap()).unwrap()
        })
        .collect()
}

#[test]
fn d4_to_d8_a_diversion_that_verifies() {
    let world = World::new();
    let (provider, b, c) = (world.provider(), world.number(B), world.number(C));
    let mut lines = sign(&shaken_signer(&provider), &call(B, &[]));
    let first = divert(&b.signer(Q), NOW, &call(B, &lines), C).unwrap();
    assert!(first[0].ends_with(&format!(";info=<{Q}>;alg=ES256;ppt=\"div\"")), "D-13: {}", first[0]);
    assert_eq!(payloads(&first), [div(B, C)], "D-7: nothing else is copied, and the Date that is there stays");
    lines.extend(first);
    let signers = [(P, &provider), (Q, &b), (R, &c)];
    let verdict = world.verify_signed(&STRICT, &signers, &call(C, &lines));
    assert_eq!((verdict.is_valid(), verdict.retarget()), (true, Some(Retarget::Proven)), "{:?}", verdict.tokens());
    // D-15: a second one goes on from the first, not from the token before it.
    let second = divert(&c.signer(R), NOW, &call(C, &lines), D).unwrap();
    assert_eq!(payloads(&second), [div(C, D)]);
    lines.extend(second);
    let verdict = world.verify_signed(&STRICT, &signers, &call(D, &lines));
    let order: Vec<_> = verdict.diversions().iter().map(Identity::text).collect();
    assert_eq!((verdict.is_valid(), order), (true, vec![B, C]));
}

#[test]
fn d2_d8_d10_d15_when_no_diversion_is_signed() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let lines = sign(&shaken_signer(&provider), &call(B, &[]));
    let signer = b.signer(Q);
    assert_eq!(divert(&signer, NOW, &call(B, &[]), C), Err(SignError::NoIdentity), "D-10");
    assert_eq!(divert(&signer, NOW, &call(B, &lines), B), Err(SignError::NotRetargeted), "D-2");
    assert_eq!(divert(&signer, NOW, &call(C, &lines), D), Err(SignError::NothingToDivert), "it was meant for B");
    assert_eq!(divert(&world.number(C).signer(R), NOW, &call(B, &lines), C), Err(SignError::NotAuthorized), "D-8");
    let unreadable = ["Identity: a.b.c;info=<https://a.example/>".to_owned()];
    assert_eq!(divert(&signer, NOW, &call(B, &unreadable), C), Err(SignError::NothingToDivert));
    let aged = |age: i64| [provider.line("shaken", &set(shaken(B), "iat", NOW - age))];
    assert_eq!(divert(&signer, NOW, &call(B, &aged(10_801)), C), Err(SignError::StaleToken { age: 10_801 }));
    assert_eq!(divert(&signer, NOW, &call(B, &aged(-61)), C), Err(SignError::StaleToken { age: -61 }));
    let with = |request: &[u8]| {
        super::support::with(request, |request| {
            let mut lines = Vec::new();
            signer.sign_diversion(NOW, request, b"nonsense", &mut lines)
        })
    };
    assert_eq!(with(&call(B, &lines)), Err(SignError::NotRetargeted));
}

/// D-6: the time of the call is kept while it is fresh; later on the diversion has its own, and Date has to follow.
#[test]
fn d6_the_time_of_a_diversion() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    for (age, iat) in [(0, NOW), (60, NOW - 60), (61, NOW), (3600, NOW), (-5, NOW)] {
        let line = provider.line("shaken", &set(shaken(B), "iat", NOW - age));
        let octets = call(B, &[line]);
        let (result, lines) = with(&octets, |request| {
            let mut lines = Vec::new();
            let result = b.signer(Q).sign_diversion(NOW, request, format!("tel:+{C}").as_bytes(), &mut lines);
            (result, String::from_utf8(lines).unwrap())
        });
        assert_eq!(result, Ok(Diverted { tokens: 1, renews_date: age > 60 }));
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "Date: Thu, 01 Jan 2026 00:00:00 GMT", "I-5");
        assert_eq!(payloads(&lines)[0]["iat"], iat, "{age}");
    }
}

/// D-14: several tokens of one caller and destination are diverted by one; tokens of two callers by two. A compact form says what the
/// request says.
#[test]
fn d14_one_div_for_each_caller() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let other = set(shaken(B), "orig", json!({"tn": "12015550109"}));
    let lines = [
        provider.line("shaken", &shaken(B)),
        provider.line("rcd", &set(set(shaken(B), "crn", "x"), "iat", NOW - 5)),
        provider.line("shaken", &other),
        provider.line("shaken", &shaken(D)),
    ];
    let signed = divert(&b.signer(Q), NOW, &call(B, &lines), C).unwrap();
    let origins: Vec<_> = payloads(&signed).iter().map(|payload| payload["orig"]["tn"].clone()).collect();
    assert_eq!(origins, [A, "12015550109"]);
    assert_eq!(signed.iter().filter(|line| line.starts_with("Date: ")).count(), 1);
    let compact = format!("Identity: ..{};info=<{P}>", "A".repeat(86));
    let lines = [compact, "Date: Thu, 01 Jan 2026 00:00:00 GMT".to_owned()];
    assert_eq!(payloads(&divert(&b.signer(Q), NOW, &call(B, &lines), C).unwrap()), [div(B, C)]);
}

#[test]
fn d17_a_div_o_that_verifies() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let token = provider.token("shaken", &shaken(B));
    let make = |token: &str, present: &str, target: &str| {
        let mut out = Vec::new();
        let result = b.signer(Q).write_div_o(NOW, token.as_bytes(), present.as_bytes(), target.as_bytes(), &mut out);
        result.map(|()| String::from_utf8(out).unwrap())
    };
    let (present, target) = (format!("tel:+{B}"), format!("sip:+{C}@c.example;user=phone"));
    let made = make(&token, &present, &target).unwrap();
    let line = format!("Identity: {made};info=<{Q}>;ppt=\"div-o\"");
    let verdict = world.verify_signed(&STRICT, &[(Q, &b)], &call(C, &[line]));
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).ppt, Some(Ppt::DivO));
    assert_eq!(make(&token, &present, &present), Err(SignError::NotRetargeted));
    assert_eq!(make(&token, &target, &present), Err(SignError::NothingToDivert));
    let compact = format!("..{}", token.rsplit('.').next().unwrap());
    assert_eq!(make(&compact, &present, &target), Err(SignError::NoIdentity), "D-17");
}

#[test]
fn c9_c13_rich_call_data_in_the_token_for_the_number_or_its_own() {
    let world = World::new();
    let provider = world.provider();
    let rich = Assertion::new(Some(json!({"nam": "Caller"})), None, Some("Delivery".into())).unwrap();
    let octets = call(B, &[]);
    let one = with(&octets, |request| {
        lines_of(|lines| shaken_signer(&provider).sign_rich(false, NOW, request, [1; 16], Some(&rich), lines))
    });
    let one = one.unwrap();
    assert!(one[1].ends_with(";ppt=\"shaken\""), "one token for both");
    let own = with(&octets, |request| {
        lines_of(|lines| provider.signer(P).sign_rcd(Speaker::Caller, IdentitySource::From, NOW, request, &rich, lines))
    });
    let own = own.unwrap();
    assert!(own[1].ends_with(";ppt=\"rcd\""));
    for lines in [one, own] {
        let verdict = world.verify_signed(&STRICT, &[(P, &provider)], &call(B, &lines));
        assert_valid(&verdict);
        let data = verdict.rich_call_data().next().unwrap();
        assert_eq!((data.name.as_deref(), data.reason.as_deref()), (Some("Caller"), Some("Delivery")));
    }
}

#[test]
fn t1_t2_a_third_party_signs_beside() {
    let world = World::new();
    let (provider, third) = (world.provider(), world.number(D));
    let rich = Assertion::reason("Delivery");
    let octets = call(B, &[]);
    let mut lines = sign(&shaken_signer(&provider), &octets);
    let more = with(&call(B, &lines), |request| {
        let signer = third.signer(R);
        assert_eq!(
            lines_of(|lines| signer.sign_rcd(Speaker::Caller, IdentitySource::From, NOW, request, &rich, lines)),
            Err(SignError::NotAuthorized)
        );
        lines_of(|lines| {
            signer.sign_rcd(Speaker::ThirdParty("Example Retail"), IdentitySource::From, NOW, request, &rich, lines)
        })
    });
    let more = more.unwrap();
    assert_eq!(payloads(&more)[0]["iss"], "Example Retail");
    lines.extend(more);
    let verdict = world.verify_signed(&STRICT, &[(P, &provider), (R, &third)], &call(B, &lines));
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid));
    let data = verdict.rich_call_data().next().unwrap();
    assert!(!data.is_first_party() && data.issuer.as_ref().unwrap().is_subject);
}

#[test]
fn r2_r4_r5_priorities_that_verify() {
    let world = World::new();
    let (provider, number) = (world.provider(), world.number(A));
    let sign = |signer: &Signer, lines: &[&str], namespaces: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let octets = call(B, &lines);
        with(&octets, |request| lines_of(|out| signer.sign_rph(IdentitySource::From, NOW, request, namespaces, out)))
    };
    let signer = provider.signer(P);
    let priority = "Resource-Priority: ets.0, esnet.1, wps.2";
    let made = sign(&signer, &[priority], &["ETS", "wps"]).unwrap();
    assert_eq!(payloads(&made)[0]["rph"], json!({"auth": ["ets.0", "wps.2"]}), "R-5: of these namespaces alone");
    let mut all = made;
    all.push(priority.into());
    let verdict = world.verify_signed(&STRICT, &[(P, &provider)], &call(B, &all));
    assert!(verdict.is_priority_proven(b"ets.0") && verdict.is_priority_proven(b"wps.2"));
    assert!(!verdict.is_priority_proven(b"esnet.1"));
    let back = ["Resource-Priority: esnet.0", "Priority: psap-callback"];
    assert_eq!(payloads(&sign(&signer, &back, &["esnet"]).unwrap())[0]["sph"], "psap-callback", "R-8");
    assert_eq!(payloads(&sign(&signer, &back[..1], &["esnet"]).unwrap())[0].get("sph"), None);
    assert_eq!(sign(&signer, &[priority], &["q735"]), Err(SignError::NoPriority));
    assert_eq!(sign(&signer, &[], &["ets"]), Err(SignError::NoPriority), "R-4");
    assert_eq!(sign(&signer, &["Resource-Priority: esnet.7"], &["esnet"]), Err(SignError::NoPriority), "R-6");
    assert_eq!(sign(&number.signer(Q), &[priority], &["ets"]), Err(SignError::NotAuthorized), "R-2");
    let message = String::from_utf8(call(B, &[priority.into()])).unwrap().replace("INVITE", "MESSAGE");
    let refused = with(message.as_bytes(), |request| {
        lines_of(|lines| signer.sign_rph(IdentitySource::From, NOW, request, &["ets"], lines))
    });
    assert_eq!(refused, Err(SignError::Method), "R-4");
}

#[test]
fn m1_m2_a_message_that_verifies() {
    let world = World::new();
    let provider = world.provider();
    let message = |lines: &[String], body: &str| {
        let octets = request(A, B, B, "c", lines, body);
        String::from_utf8(octets).unwrap().replace("INVITE", "MESSAGE").replace("application/sdp", "text/plain")
    };
    let unsigned = message(&[], "Hello");
    let lines = with(unsigned.as_bytes(), |request| {
        lines_of(|lines| provider.signer(P).sign_message(IdentitySource::From, NOW, request, lines))
    });
    let lines = lines.unwrap();
    assert!(payloads(&lines)[0]["msgi"].as_str().unwrap().ends_with('='), "emitted with padding");
    let verify = |body: &str| world.verify_signed(&STRICT, &[(P, &provider)], message(&lines, body).as_bytes());
    assert_valid(&verify("Hello"));
    assert_fault("body", &verify("hello"), Check::Claims, Failure::BodyMismatch, 438);
    let invite = call(B, &[]);
    let refused = with(&invite, |request| {
        lines_of(|lines| provider.signer(P).sign_message(IdentitySource::From, NOW, request, lines))
    });
    assert_eq!(refused, Err(SignError::Method));
}

/// P-12: every kind but a diversion carries the fingerprints of the SDP.
#[test]
fn p12_d7_media_keys_in_all_tokens_but_diversions() {
    let world = World::new();
    let provider = world.provider();
    let sdp = "v=0\r\na=fingerprint:sha-256 AB:CD\r\n";
    let priority = "Resource-Priority: ets.0".to_owned();
    let octets = request(A, B, B, "c", std::slice::from_ref(&priority), sdp);
    let signer = provider.signer(P);
    let rich = Assertion::reason("x");
    let mut lines = vec![priority];
    with(&octets, |request| {
        let mut out = Vec::new();
        signer.sign(NOW, request, [1; 16], &mut out).unwrap();
        signer.sign_rcd(Speaker::Caller, IdentitySource::From, NOW, request, &rich, &mut out).unwrap();
        signer.sign_rph(IdentitySource::From, NOW, request, &["ets"], &mut out).unwrap();
        lines.extend(String::from_utf8(out).unwrap().lines().map(str::to_owned));
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("Date: ")).count(), 1, "one Date for three tokens");
    for payload in payloads(&lines) {
        assert_eq!(payload["mky"], json!([{"alg": "sha-256", "dig": "ABCD"}]));
    }
    let diverted = with(&request(A, B, B, "c", &lines, sdp), |request| {
        lines_of(|out| signer.sign_diversion(NOW, request, format!("tel:+{C}").as_bytes(), out))
    });
    lines.extend(diverted.unwrap());
    assert!(payloads(&lines)[3].get("mky").is_none());
    let verdict = world.verify_signed(&STRICT, &[(P, &provider)], &request(A, B, C, "c", &lines, sdp));
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid), "{:?}", verdict.tokens());
    let other = sdp.replace("AB:CD", "AB:CE");
    let verdict = world.verify_signed(&STRICT, &[(P, &provider)], &request(A, B, C, "c", &lines, &other));
    assert!(!verdict.is_valid() && !verdict.is_priority_proven(b"ets.0"));
}

/// The certificate forbids what it forbids, also in these tokens.
#[test]
fn constraints_bind_the_signer() {
    let world = World::new();
    let permitted: &[(&str, &[&str])] = &[("crn", &["Delivery"])];
    let party = world.constrained(&[spc("709J")], &[], permitted);
    let octets = call(B, &[]);
    let sign = |reason: &str| {
        let rich = Assertion::reason(reason);
        with(&octets, |request| {
            lines_of(|lines| {
                party.signer(P).sign_rcd(Speaker::Caller, IdentitySource::From, NOW, request, &rich, lines)
            })
        })
    };
    assert!(sign("Delivery").is_ok());
    assert!(matches!(sign("Other"), Err(SignError::Constraint(_))));
    with(&octets, |request| assert!(request.field(Name::Identity).is_none()));
}
