//! The fault matrix of draft-wendt-stir-vesper-07 4.4.2 and section 6: R21 to R29, every single fault by itself.
use super::support::*;
use serde_json::json;
use vesperd::cert::{
    ClaimConstraints, ConstraintKind, LogState, PermittedValues, ProfileError, SctCounts, SctError, ValidityError, oid,
};
use vesperd::passport::ClaimsError;
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::stir::url::UrlError;
use vesperd::stir::verification::{
    Check, CheckResult, Disposition, Failure, Mode, Modes, OnFailure, Policy, Profile, Verdict,
};

const POLICY: Policy = Policy::vesper();

fn call(credential: &Credential, header: &serde_json::Value, payload: &serde_json::Value) -> Verdict {
    verify(&POLICY, &credential.trust, &invite(&[identity(&credential.token(header, payload))], ""))
}

fn plain(credential: &Credential) -> Verdict {
    call(credential, &credential.header(), &claims())
}

#[test]
fn a_vesper_call_is_valid() {
    let credential = Credential::vesper();
    let verdict = plain(&credential);
    assert_valid(&verdict);
    let token = sole(&verdict);
    assert_eq!(token.profile, Profile::Vesper);
    assert_eq!(token.orig.as_deref(), Some(CALLER));
    let asked = |check: &Check| *check != Check::Serialization;
    assert!(Check::ALL.into_iter().filter(asked).all(|check| token.checks.get(check) == CheckResult::Passed));
    let leaf = &token.credential.as_ref().unwrap().chain.as_ref().unwrap().leaf;
    assert_eq!(leaf.dns_names(), [HOST]);
}

#[test]
fn r21_signature() {
    let credential = Credential::vesper();
    let good = credential.token(&credential.header(), &claims());
    let flipped = {
        let (input, signature) = good.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        format!("{input}.{first}{}", &signature[1..])
    };
    let verdict = verify(&POLICY, &credential.trust, &invite(&[identity(&flipped)], ""));
    assert_fault("flipped", &verdict, Check::Signature, Failure::Signature, 438);
    // Another number of the same certificate, and From altered to fit: only the signature tells.
    let other =
        credential.token(&credential.header(), &json!({"dest":{"tn":[CALLEE]},"iat":NOW,"orig":{"tn":"12015550101"}}));
    let (mut parts, foreign): (Vec<&str>, Vec<&str>) = (good.split('.').collect(), other.split('.').collect());
    parts[1] = foreign[1];
    let octets = request("12015550101", CALLEE, CALLEE, "c", &[identity(&parts.join("."))], "");
    let verdict = verify(&POLICY, &credential.trust, &octets);
    assert_fault("payload", &verdict, Check::Signature, Failure::Signature, 438);
}

#[test]
fn r22_chain() {
    let credential = Credential::vesper();
    let stranger = Credential::vesper();
    let octets = invite(&[identity(&credential.token(&credential.header(), &claims()))], "");
    let mut elsewhere = stranger.trust.clone();
    elsewhere.logs = credential.trust.logs.clone();
    let verdict = verify(&POLICY, &elsewhere, &octets);
    assert_fault("unknown root", &verdict, Check::Chain, Failure::Path, 437);

    let with_chain = |edit: fn(&mut Vec<serde_json::Value>)| {
        let mut header = credential.header();
        edit(header["x5c"].as_array_mut().unwrap());
        call(&credential, &header, &claims())
    };
    let verdict = with_chain(|x5c| drop(x5c.pop()));
    assert_fault("missing intermediate", &verdict, Check::Chain, Failure::Path, 437);
    // The intermediate in front is no signer's certificate at all, so more than the chain is wrong; the chain decides.
    let verdict = with_chain(|x5c| x5c.reverse());
    let rejection = verdict.rejection().unwrap();
    assert_eq!((rejection.status, rejection.check), (437, Some(Check::Chain)));
    let verdict = with_chain(|x5c| x5c.push(x5c[0].clone()));
    assert_fault("duplicate", &verdict, Check::Chain, Failure::Path, 437);
    // The root may come along.
    let root = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &credential.hierarchy.root.der);
    let mut header = credential.header();
    header["x5c"].as_array_mut().unwrap().push(root.into());
    assert_valid(&call(&credential, &header, &claims()));
}

#[test]
fn r17_x5c() {
    let credential = Credential::vesper();
    let with_x5c = |x5c: serde_json::Value| {
        let mut header = credential.header();
        header["x5c"] = x5c;
        call(&credential, &header, &claims())
    };
    for x5c in [json!([]), json!(["AAAA AAAA"]), json!([1]), json!("AAAA"), json!(vec!["AAAA"; 7])] {
        let verdict = with_x5c(x5c.clone());
        let rejection = verdict.rejection().unwrap();
        assert_eq!((rejection.status, rejection.check), (437, Some(Check::Chain)), "{x5c}");
        assert!(matches!(failures(sole(&verdict))[..], [(Check::Chain, Failure::X5c(_))]), "{x5c}");
    }
    let verdict = with_x5c(json!(["AAAA"]));
    assert_eq!(failures(sole(&verdict)), [(Check::Chain, Failure::Certificate)]);
    let mut header = credential.header();
    header.as_object_mut().unwrap().remove("x5c");
    let verdict = call(&credential, &header, &claims());
    assert_fault("no x5c", &verdict, Check::Chain, Failure::NoX5c, 437);
}

#[test]
fn r23_number() {
    let credential = Credential::vesper();
    for (number, covered) in [
        ("12015550100", true),
        ("12015550109", true),
        ("12015550099", false),
        ("12015550110", false),
        ("2015550100", false),
    ] {
        let payload = json!({"dest":{"tn":[CALLEE]},"iat":NOW,"orig":{"tn":number}});
        let token = identity(&credential.token(&credential.header(), &payload));
        let verdict = verify(&POLICY, &credential.trust, &request(number, CALLEE, CALLEE, "c", &[token], ""));
        if covered {
            assert_valid(&verdict);
        } else {
            assert_fault(number, &verdict, Check::TnAuthorization, Failure::NumberNotAuthorized, 437);
        }
    }
}

#[test]
fn r12_a_provider_code_alone_is_no_number() {
    let credential = Credential::issue(vesper_params(&[spc("709J")]), NOW - HOUR);
    let failure = Failure::Profile(ProfileError::NoNumber);
    assert_fault("SPC only", &plain(&credential), Check::TnAuthorization, failure, 437);
    let mut params = leaf_params();
    params.subject_alt_names = vec![rcgen::SanType::DnsName(HOST.try_into().unwrap())];
    let credential = Credential::issue(params, NOW - HOUR);
    assert_fault("no TNAuthList", &plain(&credential), Check::TnAuthorization, Failure::NoTnAuthList, 437);
}

#[test]
fn r24_sct() {
    let without = Credential::issue_from(vesper_params(&numbers()), &[], NOW);
    assert_fault("none", &plain(&without), Check::Sct, Failure::Sct(SctError::Absent), 437);

    let log = TestLog::new();
    let mut unknown = Credential::issue_from(vesper_params(&numbers()), &[&log], NOW - HOUR);
    let few = |counts| Failure::Sct(SctError::TooFew(counts));
    let failure = few(SctCounts { unknown_log: 1, ..SctCounts::default() });
    assert_fault("unknown log", &plain(&unknown), Check::Sct, failure, 437);
    unknown.trust.logs.add("example", log.listed(LogState::Rejected(0))).unwrap();
    let failure = few(SctCounts { untrusted_log: 1, ..SctCounts::default() });
    assert_fault("rejected log", &plain(&unknown), Check::Sct, failure, 437);

    // An SCT of one leaf in another: the signature is over another certificate.
    let log = TestLog::new();
    let hierarchy = Hierarchy::new();
    let donor = hierarchy.intermediate.issue_logged(vesper_params(&[one("1")]), &[&log], milliseconds(NOW - HOUR), 0);
    let list = donor.params.custom_extensions.last().unwrap();
    let mut params = vesper_params(&numbers());
    params.custom_extensions.push(extension(&oid::SCT_LIST, list.content().to_vec()));
    let leaf = hierarchy.intermediate.issue(params);
    let mut trust = hierarchy.store.clone();
    trust.logs.add("example", log.listed(LogState::Usable(0))).unwrap();
    let transplanted = Credential { hierarchy, leaf, trust };
    let failure = few(SctCounts { bad_signature: 1, ..SctCounts::default() });
    assert_fault("bad signature", &plain(&transplanted), Check::Sct, failure, 437);

    let timestamp = milliseconds(NOW + 61);
    let future = Credential::issue(vesper_params(&numbers()), NOW + 61);
    assert_fault("future", &plain(&future), Check::Sct, Failure::Sct(SctError::Future { timestamp }), 437);
    assert_valid(&plain(&Credential::issue(vesper_params(&numbers()), NOW + 60)));
}

fn constrained(include: &[&str], permitted: &[(&str, &[&str])], exclude: &[&str]) -> Credential {
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let permitted = permitted
        .iter()
        .map(|(claim, values)| PermittedValues { claim: (*claim).into(), values: text(values) })
        .collect();
    let kind = if exclude.is_empty() { ConstraintKind::Basic } else { ConstraintKind::Enhanced };
    let constraints = ClaimConstraints::new(kind, text(include), permitted, text(exclude)).unwrap();
    let id = if exclude.is_empty() { &oid::JWT_CLAIM_CONSTRAINTS } else { &oid::ENHANCED_JWT_CLAIM_CONSTRAINTS };
    let mut params = vesper_params(&numbers());
    params.custom_extensions.push(extension(id, constraints.to_der()));
    Credential::issue(params, NOW - HOUR)
}

fn shaken_call(credential: &Credential, attest: Option<&str>, policy: &Policy) -> Verdict {
    let (mut header, mut payload) = (credential.header(), claims());
    header["ppt"] = "shaken".into();
    payload["origid"] = "123e4567-e89b-12d3-a456-426655440000".into();
    if let Some(attest) = attest {
        payload["attest"] = attest.into();
    }
    let line = identity_ppt(&credential.token(&header, &payload), "shaken");
    verify(policy, &credential.trust, &invite(&[line], ""))
}

#[test]
fn r25_constraints() {
    let violation = Failure::ConstraintViolation;
    let credential = constrained(&[], &[("attest", &["A"])], &[]);
    let verdict = shaken_call(&credential, Some("A"), &POLICY);
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).attest, Some(Attestation::Full));
    let verdict = shaken_call(&credential, Some("B"), &POLICY);
    assert_fault("permittedValues", &verdict, Check::Constraints, violation, 438);
    let credential = constrained(&["attest"], &[], &[]);
    assert_fault("mustInclude", &plain(&credential), Check::Constraints, violation, 438);
    let credential = constrained(&[], &[], &["attest"]);
    let verdict = shaken_call(&credential, Some("A"), &POLICY);
    assert_fault("mustExclude", &verdict, Check::Constraints, violation, 438);
    // RFC 9118 section 3 item 3: excluding a base claim voids the extension.
    assert_valid(&plain(&constrained(&["attest"], &[], &["orig"])));
}

#[test]
fn r13_unauthorized_claims_are_dropped_or_refused() {
    let strict = Policy { strict_claims: true, ..POLICY };
    let silent = Credential::vesper();
    let verdict = shaken_call(&silent, Some("A"), &POLICY);
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).attest, None, "not authorized, so not believed");
    let verdict = shaken_call(&silent, Some("A"), &strict);
    assert_fault("strict", &verdict, Check::Constraints, Failure::UnauthorizedClaim, 438);
    let baseline = invite(&[identity(&silent.token(&silent.header(), &claims()))], "");
    assert_valid(&verify(&strict, &silent.trust, &baseline));
    let named = constrained(&["attest", "origid"], &[], &[]);
    assert_valid(&shaken_call(&named, Some("A"), &strict));
}

#[test]
fn rfc_9118_section_6_both_constraint_extensions() {
    let constraints = ClaimConstraints::new(ConstraintKind::Basic, vec!["mky".into()], vec![], vec![]).unwrap();
    let mut params = vesper_params(&numbers());
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, constraints.to_der()));
    params.custom_extensions.push(extension(&oid::ENHANCED_JWT_CLAIM_CONSTRAINTS, constraints.to_der()));
    let credential = Credential::issue(params, NOW - HOUR);
    assert_fault("both", &plain(&credential), Check::Constraints, Failure::BadConstraints, 437);
}

#[test]
fn r26_domain() {
    let credential = Credential::vesper();
    let with_url = |url: &str| {
        let mut header = credential.header();
        header["x5u"] = url.into();
        let line = format!("Identity: {};info=<{url}>", credential.token(&header, &claims()));
        verify(&POLICY, &credential.trust, &invite(&[line], ""))
    };
    for url in [
        "https://exampleretail.example",
        "https://EXAMPLEretail.example/other/path?x=y",
        "https://exampleretail.example.:8443/",
    ] {
        assert_valid(&with_url(url));
    }
    for (url, failure) in [
        ("https://other.example/leaf.pem", Failure::HostNotInCertificate),
        ("https://sti.exampleretail.example/leaf.pem", Failure::HostNotInCertificate),
        ("https://example/leaf.pem", Failure::HostNotInCertificate),
        ("https://exampleretail.example.evil.example/", Failure::HostNotInCertificate),
        ("https://exampleretaii.example/", Failure::HostNotInCertificate),
        ("https://xn--exampleretil-rcb.example/", Failure::HostNotInCertificate),
        ("https://exampleretail.example@evil.example/", Failure::Url(UrlError::UserInfo)),
        ("https://evil.example/?exampleretail.example", Failure::HostNotInCertificate),
        ("https://evil.example/#exampleretail.example", Failure::HostNotInCertificate),
        ("http://exampleretail.example/leaf.pem", Failure::Url(UrlError::Scheme)),
        ("https://192.0.2.7/leaf.pem", Failure::HostNotInCertificate),
        ("https://exampleretail_example/leaf.pem", Failure::Url(UrlError::Host)),
        ("https://exampl\u{435}retail.example/", Failure::Url(UrlError::Octet)),
    ] {
        assert_fault(url, &with_url(url), Check::DomainBinding, failure, 438);
    }
}

#[test]
fn r14_names_in_the_certificate() {
    let named = |names: &[&str]| {
        let mut params = vesper_params(&numbers());
        params.subject_alt_names =
            names.iter().map(|name| rcgen::SanType::DnsName((*name).try_into().unwrap())).collect();
        Credential::issue(params, NOW - HOUR)
    };
    let profile = Failure::Profile;
    assert_fault("none", &plain(&named(&[])), Check::DomainBinding, profile(ProfileError::NoDnsName), 438);
    assert_fault("wildcard", &plain(&named(&["*.example"])), Check::DomainBinding, Failure::HostNotInCertificate, 438);
    let mut two = named(&["other.example", HOST]);
    assert_valid(&plain(&two));
    two.trust.policy.vesper_single_dns_name = true;
    assert_fault("two", &plain(&two), Check::DomainBinding, profile(ProfileError::SeveralDnsNames), 438);
}

#[test]
fn r28_validity() {
    // The leaf lives from NOW - 1 h to NOW + 23 h.
    let credential = Credential::vesper();
    let (start, end) = (NOW - HOUR, NOW - HOUR + DAY);
    let mut early = Credential::issue(vesper_params(&numbers()), NOW - DAY);
    early.trust.logs = early.trust.logs.clone();
    let at = |credential: &Credential, unix: i64| {
        let mut payload = claims();
        payload["iat"] = unix.into();
        let line = identity(&credential.token(&credential.header(), &payload));
        verify_at(unix, &POLICY, &credential.trust, &invite(&[line], ""))
    };
    for unix in [start, end, end + 60] {
        assert_valid(&at(&credential, unix));
    }
    assert_valid(&at(&early, start - 60));
    let expired = Failure::Validity(ValidityError::Expired { not_after: end });
    assert_fault("expired", &at(&credential, end + 61), Check::Validity, expired, 437);
    let not_yet = Failure::Validity(ValidityError::NotYetValid { not_before: start });
    assert_fault("not yet valid", &at(&early, start - 61), Check::Validity, not_yet, 437);
}

#[test]
fn r5_a_long_life() {
    let mut params = vesper_params(&numbers());
    set_validity(&mut params, NOW - HOUR, NOW + 91 * DAY);
    let credential = Credential::issue(params, NOW - HOUR);
    let seconds = 91 * DAY + HOUR;
    let failure = Failure::Profile(ProfileError::Lifetime { seconds });
    assert_fault("91 days", &plain(&credential), Check::Validity, failure, 437);
}

#[test]
fn r29_freshness() {
    let credential = Credential::vesper();
    let octets = invite(&[identity(&credential.token(&credential.header(), &claims()))], "");
    for unix in [NOW - 60, NOW, NOW + 60] {
        assert_valid(&verify_at(unix, &POLICY, &credential.trust, &octets));
    }
    let verdict = verify_at(NOW + 61, &POLICY, &credential.trust, &octets);
    assert_fault("stale", &verdict, Check::Freshness, Failure::Stale { age: 61 }, 403);
    assert_eq!(verdict.rejection().unwrap().phrase, "Stale Date");
    let verdict = verify_at(NOW - 61, &POLICY, &credential.trust, &octets);
    assert_fault("future", &verdict, Check::Freshness, Failure::Future { ahead: 61 }, 403);
}

#[test]
fn claims_against_the_request() {
    let credential = Credential::vesper();
    let line = [identity(&credential.token(&credential.header(), &claims()))];
    let other = request("12015550101", CALLEE, CALLEE, "c", &line, "");
    assert_fault("I-27", &verify(&POLICY, &credential.trust, &other), Check::Claims, Failure::OrigMismatch, 438);
    let other = request(CALLER, "12155551299", "12155551299", "c", &line, "");
    assert_fault("dest", &verify(&POLICY, &credential.trust, &other), Check::Claims, Failure::DestMismatch, 438);
    // To is as signed, the Request-URI is not: valid by RFC 8224, but said.
    let retargeted = request(CALLER, CALLEE, "12155551299", "c", &line, "");
    let verdict = verify(&POLICY, &credential.trust, &retargeted);
    assert_valid(&verdict);
    assert!(sole(&verdict).retargeted);
    let strict = Policy { strict_retarget: true, ..POLICY };
    let verdict = verify(&strict, &credential.trust, &retargeted);
    assert_fault("strict", &verdict, Check::Claims, Failure::Retargeted, 438);
    // The Request-URI is as signed, To is not (a forking or number-translating upstream).
    let translated = request(CALLER, "12155551299", CALLEE, "c", &line, "");
    assert_valid(&verify(&POLICY, &credential.trust, &translated));
}

#[test]
fn the_field_and_the_header_agree() {
    let credential = Credential::vesper();
    let token = credential.token(&credential.header(), &claims());
    let mut rs256 = credential.header();
    rs256["alg"] = "RS256".into();
    let mut jwt = credential.header();
    jwt["typ"] = "JWT".into();
    let mut shaken = credential.header();
    shaken["ppt"] = "shaken".into();
    let header = |header: &serde_json::Value| credential.token(header, &claims());
    for (name, line, failure, status) in [
        ("alg param", format!("Identity: {token};info=<{X5U}>;alg=RS256"), Failure::Algorithm, 437),
        ("alg header", identity(&header(&rs256)), Failure::Algorithm, 437),
        ("info", format!("Identity: {token};info=<{X5U}x>"), Failure::InfoMismatch, 438),
        ("ppt param alone", identity_ppt(&token, "shaken"), Failure::PptMismatch, 438),
        ("ppt header alone", identity(&header(&shaken)), Failure::PptMismatch, 438),
        (
            "shaken claims",
            identity_ppt(&header(&shaken), "shaken"),
            Failure::Extension(ClaimsError::Missing("attest")),
            438,
        ),
    ] {
        let verdict = verify(&POLICY, &credential.trust, &invite(&[line], ""));
        assert_fault(name, &verdict, Check::Token, failure, status);
    }
    let verdict = verify(&POLICY, &credential.trust, &invite(&[identity(&header(&jwt))], ""));
    assert_eq!(
        verdict.rejection().map(|rejection| (rejection.status, rejection.check)),
        Some((438, Some(Check::Token)))
    );
    let good = format!("Identity: {token} ; ppt_not=x; info = <{X5U}>");
    assert_valid(&verify(&POLICY, &credential.trust, &invite(&[good], "")));
}

#[test]
fn replay_is_told_by_the_call_id() {
    let credential = Credential::vesper();
    let line = [identity(&credential.token(&credential.header(), &claims()))];
    let table = vesperd::stir::replay::ReplayTable::default();
    let mut one = verifier();
    let mut other = verifier();
    let mut send = |worker: usize, call_id: &str, policy: &Policy| {
        let verifier = if worker == 1 { &mut one } else { &mut other };
        let octets = request(CALLER, CALLEE, CALLEE, call_id, &line, "");
        done(with(&octets, |message| verifier.verify(NOW, policy, &credential.trust, Some(&table), message)))
    };
    assert_valid(&send(1, "first", &POLICY));
    assert_valid(&send(2, "first", &POLICY));
    assert_fault("replay", &send(2, "second", &POLICY), Check::Replay, Failure::Replayed, 438);
    let mut lax = POLICY;
    lax.modes.set(Check::Replay, Mode::Off);
    assert!(send(1, "third", &lax).is_valid());
    lax.modes.set(Check::Replay, Mode::Report);
    let reported = send(1, "third", &lax);
    assert!(reported.is_valid());
    assert_eq!(failures(sole(&reported)), [(Check::Replay, Failure::Replayed)]);
}

#[test]
fn an_invalid_copy_does_not_make_the_true_call_a_replay() {
    let credential = Credential::vesper();
    let line = [identity(&credential.token(&credential.header(), &claims()))];
    let table = vesperd::stir::replay::ReplayTable::default();
    let mut verifier = verifier();
    let mut send = |from: &str, call_id: &str| {
        let octets = request(from, CALLEE, CALLEE, call_id, &line, "");
        done(with(&octets, |message| verifier.verify(NOW, &POLICY, &credential.trust, Some(&table), message)))
    };
    assert!(!send("12015550101", "thief").is_valid());
    assert_valid(&send(CALLER, "owner"));
}

#[test]
fn every_check_can_be_switched_off_or_only_reported() {
    // One credential and call with a fault for every check but the first.
    let mut params = vesper_params(&[one("18005550000")]);
    set_validity(&mut params, NOW - 2 * DAY, NOW - DAY);
    params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    let constraints = ClaimConstraints::new(ConstraintKind::Basic, vec!["rcd".into()], vec![], vec![]).unwrap();
    params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, constraints.to_der()));
    let credential = Credential::issue_from(params, &[], NOW);
    let payload = json!({"dest":{"tn":["1"]},"iat":NOW - 500,"orig":{"tn":CALLER}});
    let token = credential.token(&credential.header(), &payload);
    let (input, _) = token.rsplit_once('.').unwrap();
    let octets = invite(&[identity(&format!("{input}.{}", "A".repeat(86)))], "");
    let trust = Credential::vesper().trust;
    let faulty = [
        Check::Chain,
        Check::Validity,
        Check::TnAuthorization,
        Check::Sct,
        Check::Signature,
        Check::Claims,
        Check::Constraints,
        Check::DomainBinding,
        Check::Freshness,
    ];
    let report = Policy { modes: Modes::all(Mode::Report), ..POLICY };
    let verdict = verify(&report, &trust, &octets);
    assert!(verdict.is_valid());
    assert_eq!(verdict.rejection(), None);
    assert_eq!(failures(sole(&verdict)).iter().map(|(check, _)| *check).collect::<Vec<_>>(), faulty);
    let off = Policy { modes: Modes::all(Mode::Off), ..POLICY };
    let verdict = verify(&off, &trust, &octets);
    assert!(verdict.is_valid());
    for check in faulty {
        let mut only = off;
        only.modes.set(check, Mode::Enforce);
        let verdict = verify(&only, &trust, &octets);
        assert_eq!(sole(&verdict).disposition, Disposition::Invalid(check));
        assert_eq!(verdict.rejection().map(|rejection| rejection.check), Some(Some(check)));
        let patient = Policy { on_failure: OnFailure::Continue, ..only };
        let verdict = verify(&patient, &trust, &octets);
        assert!(!verdict.is_valid());
        assert_eq!(verdict.rejection(), None);
    }
}

#[test]
fn a_warm_verification_finds_what_a_cold_one_found() {
    let credential = Credential::vesper();
    let octets = invite(&[identity(&credential.token(&credential.header(), &claims()))], "");
    let mut verifier = verifier();
    let mut trust = credential.trust.clone();
    let mut run = |unix: i64, trust: &vesperd::cert::TrustStore| {
        done(with(&octets, |message| verifier.verify(unix, &POLICY, trust, None, message)))
    };
    let (cold, warm) = (run(NOW, &trust), run(NOW, &trust));
    assert!(cold.is_valid() && warm.is_valid());
    assert_eq!(sole(&cold).checks, sole(&warm).checks);
    let same = |a: &Verdict, b: &Verdict| {
        let of = |verdict: &Verdict| sole(verdict).credential.clone().unwrap();
        std::sync::Arc::ptr_eq(&of(a), &of(b))
    };
    assert!(same(&cold, &warm));
    // Another trust store is another world.
    trust.anchors = vesperd::cert::TrustAnchors::new();
    trust.epoch += 1;
    let verdict = run(NOW, &trust);
    assert_eq!(failures(sole(&verdict)), [(Check::Chain, Failure::Path)]);
    assert!(!same(&cold, &verdict));
    // A warm entry does not outlive the certificate.
    let verdict = run(NOW + 2 * DAY, &credential.trust);
    assert!(failures(sole(&verdict)).iter().any(|(check, _)| *check == Check::Validity));
}

#[test]
fn plain_stir_only_when_allowed() {
    let credential = Credential::vesper();
    let uri = json!({"dest":{"tn":[CALLEE]},"iat":NOW,"orig":{"uri":format!("sip:shop@{HOST}")}});
    let line = identity(&credential.token(&credential.header(), &uri));
    let octets = String::from_utf8(invite(&[line], "")).unwrap();
    let octets = octets.replace(&format!("sip:+{CALLER}@a.example;user=phone"), &format!("sip:Shop@{HOST}"));
    let verdict = verify(&POLICY, &credential.trust, octets.as_bytes());
    assert_fault("URI", &verdict, Check::TnAuthorization, Failure::NotTelephoneNumber, 437);
    let lax = Policy { accept_plain_stir: true, ..POLICY };
    let verdict = verify(&lax, &credential.trust, octets.as_bytes());
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).profile, Profile::Shaken);
    let foreign = octets.replace(&format!("sip:Shop@{HOST}"), "sip:shop@bank.example");
    assert!(!verify(&lax, &credential.trust, foreign.as_bytes()).is_valid());
}
