//! Rich call data through the whole service: what is shown, what is not and why, and Call-Info (RFC 9795, RFC 9796).
use super::compact::cv;
use super::parties::*;
use super::support::*;
use serde_json::{Value, json};
use vesperd::passport::digest::Hash;
use vesperd::passport::ppt::Ppt;
use vesperd::passport::ppt::rcd::inline_digest;
use vesperd::sip::Patch;
use vesperd::stir::call_info::{self, CallInfoLimits, is_rich_call_data};
use vesperd::stir::rich_call_data::{Card, Element, Why};
use vesperd::stir::verification::{
    Check, CheckResult, Disposition, Failure, IdentitySource, Overall, Policy, RichCallData, Role, Verdict,
};

const POLICY: Policy = Policy::shaken();
const PHOTO: &str = "sha256-RojgWwU6xUtI4q82+kHPyHm1JKbm7+663bMvzymhkl4";

fn rich(members: &Value) -> Value {
    let mut payload = json!({"dest": {"tn": [B]}, "iat": NOW, "orig": {"tn": A}});
    members.as_object().unwrap().iter().for_each(|(name, value)| payload[name] = value.clone());
    payload
}

fn shown(verdict: &Verdict) -> Option<&RichCallData> {
    verdict.rich_call_data().next()
}

#[test]
fn c9_data_of_the_callers_own_side() {
    let world = World::new();
    let rcd = json!({"nam": "Caller", "apn": "12025551000", "icn": "https://example.com/q.png"});
    let rcdi = json!({"/icn": PHOTO, "/nam": inline_digest(&rcd, "/nam", Hash::Sha384).unwrap()});
    let members = json!({"rcd": rcd, "rcdi": rcdi, "crn": "Delivery at noon"});
    let mut attested = shaken(B);
    members.as_object().unwrap().iter().for_each(|(name, value)| attested[name] = value.clone());
    for (ppt, payload) in [("rcd", rich(&members)), ("", rich(&members)), ("shaken", attested)] {
        let verdict = world.verify(&POLICY, &call(B, &[world.number(A).line(ppt, &payload)]));
        assert_valid(&verdict);
        let data = shown(&verdict).unwrap();
        assert!(data.is_first_party());
        assert_eq!((data.name.as_deref(), data.reason.as_deref()), (Some("Caller"), Some("Delivery at noon")));
        assert_eq!(data.alternate_number.as_deref(), Some("12025551000"));
        let icon = data.icon.as_ref().unwrap();
        assert_eq!((&*icon.url, icon.integrity.as_deref()), ("https://example.com/q.png", Some(PHOTO)));
        assert_eq!((&data.card, data.unverified.as_slice()), (&None, &[][..]));
    }
    assert!(shown(&world.verify(&POLICY, &call(B, &[world.provider().line("shaken", &shaken(B))]))).is_none());
}

#[test]
fn c8_an_rcd_token_speaks_for_the_number_by_its_certificate() {
    let world = World::new();
    let line = |party: Party| party.line("rcd", &rich(&json!({"rcd": {"nam": "Caller"}})));
    assert!(world.verify(&POLICY, &call(B, &[line(world.number(A))])).is_valid());
    let verdict = world.verify(&POLICY, &call(B, &[line(world.number(B))]));
    assert_fault("scope", &verdict, Check::TnAuthorization, Failure::NumberNotAuthorized, 437);
    assert!(shown(&verdict).is_none());
}

/// T-1 to T-6: a third party needs no authority over the number, makes no call valid, and is heard only beside a token that does.
#[test]
fn t3_third_parties_are_heard_beside_a_valid_token() {
    let world = World::new();
    let third = world.party(&[one("12025559999")]);
    let members = json!({"rcd": {"nam": "Caller"}, "iss": "Example Retail"});
    let theirs = third.line("rcd", &rich(&members));
    let own = world.provider().line("shaken", &shaken(B));
    let verdict = world.verify(&POLICY, &call(B, &[theirs.clone(), own.clone()]));
    assert!(verdict.is_valid());
    let token = &verdict.tokens()[0];
    assert_eq!((token.role, token.ppt, token.disposition), (Role::ThirdParty, Some(Ppt::Rcd), Disposition::Valid));
    assert_eq!(token.checks.get(Check::TnAuthorization), CheckResult::NotApplicable);
    assert_eq!(verdict.valid().unwrap().ppt, Some(Ppt::Shaken));
    let data = shown(&verdict).unwrap();
    let issuer = data.issuer.as_ref().unwrap();
    assert_eq!((&*issuer.name, issuer.is_subject, data.name.as_deref()), ("Example Retail", true, Some("Caller")));
    // T-3: alone it is no proof of the number, and is not used.
    let verdict = world.verify(&POLICY, &call(B, std::slice::from_ref(&theirs)));
    assert_eq!((verdict.overall(), verdict.rejection()), (Overall::NoIdentity, None));
    assert!(shown(&verdict).is_none());
    let tampered = own.replace(signature(&own), &"A".repeat(86));
    let verdict = world.verify(&POLICY, &call(B, &[theirs.clone(), tampered]));
    assert!(!verdict.is_valid() && shown(&verdict).is_none());
    // T-2: it may not pass for another without being told apart.
    let other = third.line("rcd", &rich(&json!({"rcd": {"nam": "Caller"}, "iss": "Your Bank"})));
    let verdict = world.verify(&POLICY, &call(B, &[own.clone(), other]));
    assert!(!shown(&verdict).unwrap().issuer.as_ref().unwrap().is_subject);
    // T-4: about another caller it is not used, and a failure of it never refuses the call.
    let stray = set(rich(&members), "orig", json!({"tn": "12015550109"}));
    let verdict = world.verify(&POLICY, &call(B, &[own.clone(), third.line("rcd", &stray)]));
    assert!(verdict.is_valid() && shown(&verdict).is_none());
    let verdict = world.verify(&POLICY, &call(B, &[third.line("rcd", &stray)]));
    assert_eq!((verdict.overall(), verdict.rejection()), (Overall::NoIdentity, None));
    // The caller's own data goes first.
    let first = world.number(A).line("rcd", &rich(&json!({"rcd": {"nam": "Caller"}, "crn": "mine"})));
    let verdict = world.verify(&POLICY, &call(B, &[theirs, first]));
    let reasons: Vec<_> = verdict.rich_call_data().map(|data| data.reason.as_deref()).collect();
    assert_eq!(reasons, [Some("mine"), None]);
}

#[test]
fn c11_a_wrong_digest_takes_the_part_not_the_number() {
    let world = World::new();
    let rcd = json!({"nam": "Caller", "icn": "https://example.com/q.png", "apn": "12025551000"});
    for (rcdi, gone) in [
        (json!({"/icn": PHOTO, "/nam": PHOTO}), vec![(Element::Name, Why::Digest)]),
        (json!({"/nam": inline_digest(&rcd, "/nam", Hash::Sha256).unwrap()}), vec![(Element::Icon, Why::NoDigest)]),
        (json!({"/icn": PHOTO, "/apn": "sha256-AA"}), vec![(Element::AlternateNumber, Why::Digest)]),
    ] {
        let line = world.number(A).line("rcd", &rich(&json!({"rcd": rcd, "rcdi": rcdi})));
        let verdict = world.verify(&POLICY, &call(B, &[line]));
        assert_valid(&verdict);
        let data = shown(&verdict).unwrap();
        let is_gone = |element| gone.iter().any(|(other, _)| *other == element);
        assert_eq!(data.name.is_none(), is_gone(Element::Name));
        assert_eq!(data.icon.is_none(), is_gone(Element::Icon));
        assert_eq!(data.alternate_number.is_none(), is_gone(Element::AlternateNumber));
        assert_eq!(data.unverified, gone);
    }
}

#[test]
fn c10_nothing_of_a_token_that_is_built_wrong() {
    let world = World::new();
    for (members, claim) in [
        (json!({"rcd": {}}), "nam"),
        (json!({"rcd": {"nam": "a", "icn": "http://example.com/q.png"}, "crn": "x"}), "icn"),
        (json!({"rcdi": {"/nam": PHOTO}, "crn": "x"}), "rcdi"),
    ] {
        let verdict = world.verify(&POLICY, &call(B, &[world.number(A).line("rcd", &rich(&members))]));
        assert_eq!(verdict.rejection().map(|rejection| rejection.status), Some(438), "{claim}");
        assert!(shown(&verdict).is_none());
    }
    // Constraints of the certificate bind (4.4): this name or none.
    let permitted: &[(&str, &[&str])] = &[("rcd", &[r#"{"nam":"Caller"}"#])];
    let party = world.constrained(&[one(A)], &[], permitted);
    let verdict = world.verify(&POLICY, &call(B, &[party.line("rcd", &rich(&json!({"rcd": {"nam": "Caller"}})))]));
    assert_valid(&verdict);
    let verdict = world.verify(&POLICY, &call(B, &[party.line("rcd", &rich(&json!({"rcd": {"nam": "Other"}})))]));
    assert_fault("constraint", &verdict, Check::Constraints, Failure::ConstraintViolation, 438);
    assert!(shown(&verdict).is_none());
}

#[test]
fn c14_the_signed_name_and_the_shown_one() {
    let world = World::new();
    let line = |name: &str| world.number(A).line("rcd", &rich(&json!({"rcd": {"nam": name}})));
    let verdict = world.verify(&POLICY, &call(B, &[line("Somebody")]));
    assert_valid(&verdict);
    let data = shown(&verdict).unwrap();
    assert_eq!((data.name.as_deref(), data.unverified.as_slice()), (None, &[(Element::Name, Why::DisplayName)][..]));
    let trusting = Policy { rcd_prefers_token: true, ..POLICY };
    let verdict = world.verify(&trusting, &call(B, &[line("Somebody")]));
    assert_eq!(shown(&verdict).unwrap().name.as_deref(), Some("Somebody"));
    // An asserted name counts where the policy looks at it; escapes are resolved.
    let asserted = format!("P-Asserted-Identity: \"Some \\\"body\\\"\" <sip:+{A}@a.example;user=phone>");
    let believed = Policy { identity_source: IdentitySource::AssertedThenFrom, ..POLICY };
    for (policy, expected) in [(POLICY, None), (believed, Some("Some \"body\""))] {
        let verdict = world.verify(&policy, &call(B, &[line("Some \"body\""), asserted.clone()]));
        assert_eq!(shown(&verdict).unwrap().name.as_deref(), expected);
    }
    // No name is no complaint.
    let verdict = world.verify(&POLICY, &call(B, &[line("")]));
    assert_eq!((shown(&verdict).unwrap().name.as_deref(), shown(&verdict).unwrap().unverified.len()), (None, 0));
}

/// CV8 in full, and what a signer that compresses makes of it: name and reason come from the request (C-15, RFC 9795 12.2).
#[test]
fn c15_compact_forms_of_name_and_reason() {
    let token = cv("CV8 rcd");
    let verdict = super::compact::rcd_call(&token, "\"Q Branch Spy Gadgets\" ", &[]);
    assert_valid(&verdict);
    let data = shown(&verdict).unwrap();
    assert_eq!(
        (data.name.as_deref(), data.reason.as_deref()),
        (Some("Q Branch Spy Gadgets"), Some("Delivery at noon"))
    );
    // CV8 has rcdi, which no compact form has: it can not be rebuilt.
    let compact = format!("..{}", token.rsplit('.').next().unwrap());
    let reason = "Call-Info: <data:>;purpose=jcard;call-reason=\"Delivery at noon\"".to_owned();
    let verdict = super::compact::rcd_call(&compact, "\"Q Branch Spy Gadgets\" ", std::slice::from_ref(&reason));
    assert_fault("rcdi", &verdict, Check::Signature, Failure::Signature, 438);
    // One without rcdi can.
    let claims = json!({"crn": "Delivery at noon", "dest": {"tn": ["12155551213"]}, "iat": 1_443_208_345,
        "orig": {"tn": "12155551212"}, "rcd": {"nam": "Q Branch Spy Gadgets"}});
    let full = super::compact::sign("rcd", &claims);
    let compact = format!("..{}", full.rsplit('.').next().unwrap());
    let verdict = super::compact::rcd_call(&compact, "\"Q Branch Spy Gadgets\" ", std::slice::from_ref(&reason));
    assert_valid(&verdict);
    assert_eq!(shown(&verdict).unwrap().name.as_deref(), Some("Q Branch Spy Gadgets"));
    for (name, reason) in [("Other ", &[reason][..]), ("\"Q Branch Spy Gadgets\" ", &[])] {
        let verdict = super::compact::rcd_call(&compact, name, reason);
        assert_fault("other", &verdict, Check::Signature, Failure::Signature, 438);
    }
}

/// R13: under VESPER the certificate has to authorize the claims; otherwise they are dropped.
#[test]
fn r13_claims_that_a_vesper_certificate_does_not_authorize() {
    let credential = Credential::vesper();
    let payload = rich(&json!({"rcd": {"nam": "Caller"}, "crn": "x"}));
    let octets = invite(&[identity(&credential.token(&credential.header(), &payload))], "");
    let verdict = verify(&Policy::vesper(), &credential.trust, &octets);
    assert_valid(&verdict);
    let data = shown(&verdict).unwrap();
    assert_eq!((data.name.as_deref(), data.reason.as_deref()), (None, None));
    assert_eq!(data.unverified, [(Element::Name, Why::NotAuthorized), (Element::Reason, Why::NotAuthorized)]);
}

fn call_info(members: &Value) -> Vec<String> {
    let world = World::new();
    let verdict = world.verify(&POLICY, &call(B, &[world.number(A).line("rcd", &rich(members))]));
    assert_valid(&verdict);
    let mut out = Vec::new();
    let count = call_info::write_lines(&verdict, &CallInfoLimits::default(), &mut out);
    let lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count);
    lines
}

/// The table of RFC 9796: what each part becomes.
#[test]
fn call_info_of_rfc_9796() {
    let icon = json!({"nam": "Caller", "icn": "https://example.com/photos/q-256x256.png"});
    assert_eq!(
        call_info(&json!({"rcd": icon, "rcdi": {"/icn": PHOTO}, "crn": "Rendezvous for \"Little\" Nellie"})),
        [
            format!(
                "Call-Info: <https://example.com/photos/q-256x256.png>;purpose=icon;verified=\"true\";integrity=\"{PHOTO}\""
            ),
            "Call-Info: <data:>;purpose=jcard;verified=\"true\";call-reason=\"Rendezvous for \\\"Little\\\" Nellie\""
                .into(),
        ]
    );
    assert_eq!(call_info(&json!({"rcd": {"nam": "Caller"}})), ["Call-Info: <data:>;purpose=jcard;verified=\"true\""]);
    let link = json!({"nam": "Caller", "jcl": "https://example.com/c.json"});
    assert_eq!(
        call_info(&json!({"rcd": link, "rcdi": {"/jcl": PHOTO}, "crn": "x"})),
        [format!(
            "Call-Info: <https://example.com/c.json>;purpose=jcard;verified=\"true\";integrity=\"{PHOTO}\";call-reason=\"x\""
        )]
    );
    let card = json!(["vcard", [["version", {}, "text", "4.0"], ["fn", {}, "text", "Q Bränch <x>"]]]);
    let lines = call_info(&json!({"rcd": {"nam": "Caller", "jcd": card}}));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let data = line.strip_prefix("Call-Info: <data:application/json,").unwrap();
    let (data, parameters) = data.split_once('>').unwrap();
    assert_eq!(parameters, ";purpose=jcard;verified=\"true\"");
    assert!(data.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"%-._~".contains(&octet)));
    let decoded: Vec<u8> = data
        .split('%')
        .enumerate()
        .flat_map(|(at, part)| match at {
            0 => part.as_bytes().to_vec(),
            _ => [vec![u8::from_str_radix(&part[..2], 16).unwrap()], part.as_bytes()[2..].to_vec()].concat(),
        })
        .collect();
    assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), card);
}

#[test]
fn call_info_is_bounded_and_holds_no_lines() {
    let long = "x".repeat(65);
    assert!(call_info(&json!({"crn": long})).is_empty());
    assert!(call_info(&json!({"crn": "a\r\nVia: SIP/2.0/UDP evil"})).is_empty());
    let url = format!("https://example.com/{}", "a".repeat(5000));
    let lines = call_info(&json!({"rcd": {"nam": "Caller", "icn": url}, "rcdi": {"/icn": PHOTO}}));
    assert_eq!(lines, ["Call-Info: <data:>;purpose=jcard;verified=\"true\""]);
    // A card that is too long leaves its place to what else there is to say.
    let card = json!(["vcard", [["version", {}, "text", "4.0"], ["fn", {}, "text", "y".repeat(5000)]]]);
    let lines = call_info(&json!({"rcd": {"nam": "Caller", "jcd": card}, "crn": "x"}));
    assert_eq!(lines, ["Call-Info: <data:>;purpose=jcard;verified=\"true\";call-reason=\"x\""]);
    let world = World::new();
    let line = world.number(A).line("rcd", &rich(&json!({"rcd": {"nam": "Caller", "jcd": ["vcard", [["version", {}, "text", "4.0"], ["fn", {}, "text", "Q"]]]}})));
    let verdict = world.verify(&POLICY, &call(B, &[line]));
    assert!(matches!(shown(&verdict).unwrap().card, Some(Card::Inline(_))));
}

#[test]
fn call_info_of_strangers_is_taken_out() {
    for (value, is_rich) in [
        ("<https://a.example/i.png>;purpose=icon", false),
        ("<https://a.example/>;purpose=info", false),
        ("<https://a.example/i.png>;purpose=icon;verified=\"true\"", true),
        ("<https://a.example/i.png>;purpose=icon;Verified=true", true),
        ("<https://a.example/i.png>;purpose=icon;integrity=\"sha256-x\"", true),
        ("<data:>;purpose=JCARD", true),
        ("<data:>;purpose=\"jcard\"", true),
        ("<data:>;call-reason=\"x\"", true),
        ("<data:>;purpose=info ; call-reason = \"x\"", true),
        ("<https://a.example/>;purpose=info;\"x\";verified=\"true\"", true),
    ] {
        assert_eq!(is_rich_call_data(value.as_bytes()), is_rich, "{value}");
    }
    let lines = [
        "Call-Info: <data:>;purpose=jcard;verified=\"true\"".to_owned(),
        "Call-Info: <https://a.example/1>;purpose=info, <data:>;call-reason=\"a,b\", <https://a.example/2>".into(),
        "Call-Info: <https://a.example/3>;purpose=icon".into(),
    ];
    let octets = call(B, &lines);
    with(&octets, |message| {
        let mut patch = Patch::new();
        assert_eq!(call_info::strip(message, &mut patch), 2);
        let mut out = Vec::new();
        patch.write(message.bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let left: Vec<&str> = text.lines().filter(|line| line.starts_with("Call-Info")).collect();
        assert_eq!(
            left,
            [
                "Call-Info: <https://a.example/1>;purpose=info, <https://a.example/2>",
                "Call-Info: <https://a.example/3>;purpose=icon",
            ]
        );
    });
}
