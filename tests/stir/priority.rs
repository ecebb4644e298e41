//! Resource-Priority (RFC 8443, RFC 9027): what is proven, what is stripped, and that it never decides about the call.
use super::parties::*;
use super::support::*;
use serde_json::{Value, json};
use vesperd::sip::Patch;
use vesperd::stir::priority::strip_unproven;
use vesperd::stir::verification::{
    Check, Disposition, Failure, Mode, Overall, Policy, PriorityAuthority, Role, Verdict,
};

const POLICY: Policy = Policy::shaken();

fn rph(values: &[&str]) -> Value {
    json!({"dest": {"tn": [B]}, "iat": NOW, "orig": {"tn": A}, "rph": {"auth": values}})
}

fn header(values: &str) -> String {
    format!("Resource-Priority: {values}")
}

/// The Resource-Priority lines that are left.
fn left(verdict: &Verdict, octets: &[u8]) -> (usize, Vec<String>) {
    with(octets, |message| {
        let mut patch = Patch::new();
        let removed = strip_unproven(message, verdict, &mut patch);
        let mut out = Vec::new();
        patch.write(message.bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        (removed, text.lines().filter_map(|line| line.strip_prefix("Resource-Priority: ")).map(str::to_owned).collect())
    })
}

#[test]
fn r1_r3_what_is_signed_stays_and_the_rest_is_stripped() {
    let world = World::new();
    let lines = [
        world.provider().line("rph", &rph(&["ETS.0", "wps.1"])),
        world.provider().line("shaken", &shaken(B)),
        header("ets.0, esnet.1"),
        header("wps.1"),
    ];
    let octets = call(B, &lines);
    let verdict = world.verify(&POLICY, &octets);
    assert!(verdict.is_valid());
    assert_eq!(verdict.tokens()[0].role, Role::Priority);
    for (value, is_proven) in [("ets.0", true), ("Ets.0", true), ("wps.1", true), ("esnet.1", false), ("ets.1", false)]
    {
        assert_eq!(verdict.is_priority_proven(value.as_bytes()), is_proven, "{value}");
    }
    assert_eq!(left(&verdict, &octets), (1, vec!["ets.0".to_owned(), "wps.1".into()]));
}

/// R-2: a claim of one authority leaves the values of another to that one's token.
#[test]
fn r2_two_authorities_two_tokens() {
    let world = World::new();
    let provider = world.provider();
    let lines = [provider.line("rph", &rph(&["ets.0"])), provider.line("rph", &rph(&["wps.1"])), header("ets.0,wps.1")];
    let octets = call(B, &lines);
    assert_eq!(left(&world.verify(&POLICY, &octets), &octets).0, 0);
    let octets = call(B, &[lines[1].clone(), lines[2].clone()]);
    assert_eq!(left(&world.verify(&POLICY, &octets), &octets), (1, vec!["wps.1".into()]));
}

#[test]
fn r2_authority_over_a_namespace() {
    let world = World::new();
    let permitted: &[(&str, &[&str])] = &[("rph", &[r#"{"auth":["ets.0"]}"#])];
    let strict = Policy { priority_authority: PriorityAuthority::Constraints, ..POLICY };
    for (party, policy, value, expected) in [
        (world.provider(), POLICY, "ets.0", None),
        (world.provider(), strict, "ets.0", Some((Check::TnAuthorization, Failure::NamespaceNotAuthorized))),
        // The number in the certificate says nothing of namespaces.
        (world.number(A), POLICY, "ets.0", Some((Check::TnAuthorization, Failure::NamespaceNotAuthorized))),
        (world.constrained(&[one(D)], &[], permitted), strict, "ets.0", None),
        (world.constrained(&[one(D)], &["rph"], &[]), strict, "wps.4", None),
        (
            world.constrained(&[one(D)], &[], permitted),
            strict,
            "wps.0",
            Some((Check::Constraints, Failure::ConstraintViolation)),
        ),
    ] {
        let octets = call(B, &[party.line("rph", &rph(&[value])), header(value)]);
        let verdict = world.verify(&policy, &octets);
        assert_eq!(failures(sole(&verdict)).first().copied(), expected, "{value}");
        assert_eq!(verdict.is_priority_proven(value.as_bytes()), expected.is_none());
    }
}

/// A priority token is no proof of the number, and its failure refuses nobody; it is told in Reason like any other.
#[test]
fn r3_it_neither_makes_nor_breaks_a_call() {
    let world = World::new();
    let good = world.provider().line("rph", &rph(&["ets.0"]));
    let bad = good.replace(signature(&good), &"A".repeat(86));
    let unreadable = "Identity: a.b;info=<https://a.example/>;ppt=\"rph\"".to_owned();
    for (line, disposition) in [
        (good.clone(), Disposition::Valid),
        (bad.clone(), Disposition::Invalid(Check::Signature)),
        (unreadable, Disposition::Invalid(Check::Token)),
    ] {
        let octets = call(B, &[line, header("ets.0")]);
        let verdict = world.verify(&POLICY, &octets);
        assert_eq!((verdict.overall(), verdict.rejection()), (Overall::NoIdentity, None), "{disposition:?}");
        assert_eq!(verdict.tokens()[0].disposition, disposition);
        assert_eq!(left(&verdict, &octets).0, usize::from(disposition != Disposition::Valid));
        let required = Policy { require_identity: true, ..POLICY };
        let rejection = world.verify(&required, &octets).rejection().unwrap();
        assert_eq!((rejection.status, rejection.phrase), (428, "Use Identity Header"));
    }
    let octets = call(B, &[world.provider().line("shaken", &shaken(B)), bad, header("ets.0")]);
    let verdict = world.verify(&POLICY, &octets);
    assert_eq!((verdict.is_valid(), verdict.rejection()), (true, None));
    let mut reasons = Vec::new();
    vesperd::stir::reason::write_lines(&verdict, &mut reasons);
    assert!(String::from_utf8(reasons).unwrap().starts_with("Reason: STIR ;cause=438"));
    // Without any token nothing is proven.
    let octets = call(B, &[header("ets.0, wps.1")]);
    assert_eq!(left(&world.verify(&POLICY, &octets), &octets), (2, vec![]));
}

#[test]
fn r4_freshness_and_the_header_it_speaks_of() {
    let world = World::new();
    let stale = set(rph(&["ets.0"]), "iat", NOW - 61);
    let verdict = world.verify(&POLICY, &call(B, &[world.provider().line("rph", &stale), header("ets.0")]));
    assert_eq!(failures(sole(&verdict)), [(Check::Freshness, Failure::Stale { age: 61 })]);
    for lines in [vec![], vec![header("wps.0")]] {
        let mut all = vec![world.provider().line("rph", &rph(&["ets.0"]))];
        all.extend(lines);
        let verdict = world.verify(&POLICY, &call(B, &all));
        assert_eq!(failures(sole(&verdict)), [(Check::Claims, Failure::PriorityMismatch)]);
    }
    let other = set(rph(&["ets.0"]), "orig", json!({"tn": "12015550109"}));
    let verdict = world.verify(&POLICY, &call(B, &[world.provider().line("rph", &other), header("ets.0")]));
    assert_eq!(failures(sole(&verdict)), [(Check::Claims, Failure::OrigMismatch)]);
}

#[test]
fn r6_an_emergency_call() {
    let world = World::new();
    let urn = set(rph(&["esnet.1"]), "dest", json!({"uri": ["urn:service:sos"]}));
    let text = String::from_utf8(call(B, &[world.provider().line("rph", &urn), header("esnet.1")])).unwrap();
    let sos = text.replace(&format!("sip:+{B}@b.example;user=phone"), "urn:service:sos");
    assert!(world.verify(&POLICY, sos.as_bytes()).is_priority_proven(b"esnet.1"));
    // Routed on to the emergency centre, it keeps its priority under a strict policy too.
    let strict = Policy { strict_retarget: true, ..POLICY };
    let routed = sos.replacen("INVITE urn:service:sos", "INVITE sip:psap@esinet.example", 1);
    assert!(world.verify(&strict, routed.as_bytes()).is_priority_proven(b"esnet.1"));
    let dialled = set(rph(&["esnet.1"]), "dest", json!({"tn": ["911"]}));
    let text = String::from_utf8(call(B, &[world.provider().line("rph", &dialled), header("esnet.1")])).unwrap();
    let text = text.replace(&format!("sip:+{B}@b.example;user=phone"), "sip:911@b.example;user=phone");
    assert!(world.verify(&POLICY, text.as_bytes()).is_priority_proven(b"esnet.1"));
}

#[test]
fn r7_r8_a_call_back() {
    let world = World::new();
    let back = set(rph(&["esnet.0"]), "sph", "psap-callback");
    let token = world.provider().line("rph", &back);
    let verdict = |lines: &[&str]| {
        let mut all = vec![token.clone(), header("esnet.0")];
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        world.verify(&POLICY, &call(B, &all))
    };
    assert!(verdict(&["Priority: psap-callback"]).is_priority_proven(b"esnet.0"));
    assert!(verdict(&["priority: PSAP-Callback"]).is_priority_proven(b"esnet.0"));
    for lines in [&[][..], &["Priority: emergency"]] {
        assert_eq!(failures(sole(&verdict(lines))), [(Check::Claims, Failure::PriorityMismatch)]);
    }
    let other = set(rph(&["esnet.0"]), "sph", "something");
    let verdict = world.verify(&POLICY, &call(B, &[world.provider().line("rph", &other), header("esnet.0")]));
    assert_eq!(sole(&verdict).disposition, Disposition::Invalid(Check::Token));
}

/// RFC 8946: a priority goes along with a diverted call, when the diversion is proven, and not else.
#[test]
fn r1_a_chain_of_diversions_proves_a_priority() {
    let world = World::new();
    let (provider, b) = (world.provider(), world.number(B));
    let rph_line = provider.line("rph", &rph(&["ets.0"]));
    let chain = [provider.line("shaken", &shaken(B)), rph_line.clone(), b.line("div", &div(B, C)), header("ets.0")];
    let octets = request(A, C, C, "c", &chain, "");
    let verdict = world.verify(&POLICY, &octets);
    assert!(verdict.tokens().iter().all(|token| token.disposition == Disposition::Valid), "{:?}", verdict.tokens());
    assert_eq!(left(&verdict, &octets), (0, vec!["ets.0".to_owned()]));
    // Without it the token is for another call, even where nobody is refused for that.
    let mut lenient = POLICY;
    lenient.modes.set(Check::Claims, Mode::Report);
    for (policy, disposition) in [(POLICY, Disposition::Invalid(Check::Claims)), (lenient, Disposition::Valid)] {
        let octets = request(A, C, C, "c", &[rph_line.clone(), header("ets.0")], "");
        let verdict = world.verify(&policy, &octets);
        assert_eq!(sole(&verdict).disposition, disposition);
        assert_eq!(left(&verdict, &octets), (1, vec![]));
    }
    // In one field, with the values of the request looked at.
    let div_o = field("div-o", &b.token("div-o", &set(div(B, C), "opt", provider.token("rph", &rph(&["ets.0"])))));
    let octets = request(A, C, C, "c", &[div_o.clone(), header("ets.0, wps.0")], "");
    let verdict = world.verify(&POLICY, &octets);
    assert_valid_priority(&verdict);
    assert_eq!(left(&verdict, &octets), (1, vec!["ets.0".to_owned()]));
    let verdict = world.verify(&POLICY, &request(A, C, C, "c", &[div_o], ""));
    assert_eq!(failures(sole(&verdict)), [(Check::Claims, Failure::PriorityMismatch)]);
}

fn assert_valid_priority(verdict: &Verdict) {
    let token = sole(verdict);
    assert_eq!((failures(token), token.disposition, token.role), (vec![], Disposition::Valid, Role::Priority));
}
