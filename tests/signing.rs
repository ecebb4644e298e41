//! The authentication service's policy in the proxy core: who signs for which number, what is left out, diversions, rich call data,
//! priorities, messages, what the inside network says, and keys that lie elsewhere.

mod support;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::lab::{World, signer, signer_config};
use support::rig::{CALLER, NOW, Rig, Sent, addr, answer, listener, request, requests, routes, trunk, upstream};
use vesperd::passport::ppt::rcd::Assertion;
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::proxy::admission::TrunkLimits;
use vesperd::proxy::admission::rate::Rate;
use vesperd::proxy::overload::Role;
use vesperd::proxy::route::number::Shape;
use vesperd::proxy::signing::table::{Entry, Numbers, SigningRow, SigningTable};
use vesperd::proxy::signing::{Exempt, RichProfile};
use vesperd::proxy::{Answer, Config, Event, Need, NeedKind, On3xx, SignatureFailure, Signing, UdpOversize};
use vesperd::sip::hop::Transport;
use vesperd::stir::authentication::{SignError, Signer};
use vesperd::stir::{IdentitySource, Profile};

const CALLEE: &str = "198.51.100.20:5060";
const SPARE: &str = "198.51.100.21:5060";
/// Signers, by their place.
const PROVIDER: usize = 0;
const ACME: usize = 1;

/// Edges of a world.
trait Edges {
    /// The provider's signer by default, that of acme beside it; caller and callee trusted.
    fn config(&self) -> Config;
}

impl Edges for World {
    fn config(&self) -> Config {
        let mut config = Config {
            listeners: vec![listener(Transport::Udp, 5060)],
            trunks: vec![trunk("caller", &[CALLER]), trunk("callee", &[CALLEE]), trunk("spare", &[SPARE])],
            routes: routes(&[(Some(0), 1)]),
            signers: vec![self.provider(), signer(&self.lab.acme.sti, Profile::Vesper, None)],
            signer_names: vec!["provider".into(), "acme".into()],
            signer_rich: vec![None, None],
            ..Config::default()
        };
        config.trunks.iter_mut().for_each(|trunk| trunk.trusted = true);
        config.trunks[1].sign = Some(PROVIDER);
        config
    }
}

fn claims(identity: &str) -> Value {
    let payload = identity.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The claims of the tokens of the one copy that leaves.
fn tokens(sent: &[Sent]) -> Vec<Value> {
    let copies: Vec<_> = sent.iter().filter(|s| s.status().is_none()).collect();
    assert_eq!(copies.len(), 1, "{sent:?}");
    copies[0].lines("Identity").into_iter().map(claims).collect()
}

fn call(config: Config, lines: &str) -> Vec<Value> {
    tokens(&Rig::new(config).receive(CALLER, &request("INVITE", "", lines)))
}

fn table(rows: &[(&str, SigningRow)]) -> Arc<SigningTable> {
    let entries = rows.iter().zip(0..).map(|((numbers, _), row)| Entry {
        numbers: Numbers::parse(numbers).unwrap(),
        row,
        line: row + 2,
    });
    let said = rows.iter().map(|(_, row)| row.clone()).collect();
    Arc::new(SigningTable::new("numbers".into(), IdentitySource::AssertedThenFrom, said, entries.collect()).unwrap())
}

fn by(signer: usize) -> SigningRow {
    SigningRow { signer: Some(signer), ..SigningRow::default() }
}

#[test]
fn the_table_names_signer_and_attestation_of_a_number_and_the_trunk_those_of_the_others() {
    let world = World::new();
    let with = |rows: &[(&str, SigningRow)], change: &dyn Fn(&mut Config)| {
        let mut config = world.config();
        config.signing_tables = vec![table(rows)];
        config.trunks[1].signing = Signing { table: Some(0), ..Signing::default() };
        change(&mut config);
        let mut rig = Rig::new(config);
        let sent = rig.receive(CALLER, &request("INVITE", "", ""));
        (tokens(&sent), rig.events)
    };
    // From is +12015550100, which acme has.
    let (made, _) = with(&[("+12015550100", by(ACME)), ("+1*", by(PROVIDER))], &|_| {});
    assert_eq!((made.len(), &made[0]["attest"]), (1, &Value::Null), "acme makes plain tokens");
    let row = SigningRow { attestation: Some(Attestation::Partial), ..by(PROVIDER) };
    assert_eq!(with(&[("+1201555*", row)], &|_| {}).0[0]["attest"], "B");
    let lower = |config: &mut Config| config.trunks[1].signing.attestation = Some(Attestation::Gateway);
    assert_eq!(with(&[("+44*", by(ACME))], &lower).0[0]["attest"], "C", "not in the table");
    assert_eq!(with(&[("+44*", by(ACME))], &|_| {}).0[0]["attest"], "A");
    assert!(with(&[("+44*", by(ACME))], &|config| config.trunks[1].sign = None).0.is_empty());
    let (made, events) = with(&[("+12015550100", SigningRow::default())], &|_| {});
    assert!(made.is_empty() && events.is_empty(), "not signed because the table says so: {events:?}");
    // A certificate is not used for what it does not cover, whatever the table says.
    let other = |config: &mut Config| config.trunks[0].trusted = true;
    let mut config = world.config();
    config.signing_tables = vec![table(&[("+1*", by(ACME))])];
    config.trunks[1].signing.table = Some(0);
    other(&mut config);
    let mut rig = Rig::new(config);
    let pai = "P-Asserted-Identity: <sip:+12015550999@a.example>\r\n";
    assert!(tokens(&rig.receive(CALLER, &request("INVITE", "", pai))).is_empty());
    assert!(matches!(rig.events[..], [Event::Unsigned { error: SignError::NotAuthorized, .. }]), "{:?}", rig.events);
}

#[test]
fn the_number_that_is_looked_for_is_asserted_by_whom_is_trusted() {
    let world = World::new();
    let mut config = world.config();
    config.signing_tables = vec![table(&[("+12015550111", by(ACME))])];
    config.trunks[1].signing.table = Some(0);
    let pai = "P-Asserted-Identity: <sip:+12015550111@a.example>\r\n";
    assert_eq!(call(config.clone(), pai)[0]["orig"]["tn"], "12015550111");
    config.trunks[0].trusted = false;
    let made = call(config, pai);
    assert_eq!(
        (&made[0]["orig"]["tn"], &made[0]["attest"]),
        (&json!("12015550100"), &json!("A")),
        "From, by the default"
    );
}

/// Whatever source the signers have of their own, the one that chose among them holds for every token.
#[test]
fn all_tokens_of_a_call_speak_of_the_same_caller() {
    let world = World::new();
    let mut config = world.config();
    config.signing_tables = vec![table(&[("+12015550111", by(PROVIDER)), ("+12015550100", by(ACME))])];
    config.signer_rich[PROVIDER] = profile(Some(ACME), Some("Directory Ltd"));
    let signing = &mut config.trunks[1].signing;
    (signing.table, signing.messages, signing.priorities) = (Some(0), true, vec!["ets".into()]);
    let lines = "P-Asserted-Identity: <sip:+12015550111@a.example>\r\nResource-Priority: ets.1\r\n";
    let callers = |made: &[Value]| made.iter().map(|made| made["orig"]["tn"].clone()).collect::<Vec<_>>();
    let made = call(config.clone(), lines);
    assert!(made[1].get("rcd").is_some() && made[2].get("rph").is_some(), "{made:?}");
    assert_eq!(callers(&made), ["12015550111"; 3]);
    let message = Rig::new(config).receive(CALLER, &request("MESSAGE", "", lines));
    assert_eq!(callers(&tokens(&message)), ["12015550111"]);
}

#[test]
fn destinations_that_are_not_signed() {
    let world = World::new();
    for (exempt, is_signed) in [
        (Exempt::Prefix("1215".into()), false),
        (Exempt::Prefix("1216".into()), true),
        (Exempt::International { country_code: "1".into() }, true),
        (Exempt::International { country_code: "49".into() }, false),
        (Exempt::Emergency, true),
    ] {
        let mut config = world.config();
        config.trunks[1].signing.exempt = vec![exempt.clone()];
        assert_eq!(!call(config, "").is_empty(), is_signed, "{exempt:?}");
    }
    let mut config = world.config();
    config.trunks[1].signing.exempt = vec![Exempt::Emergency];
    config.guard.emergency_numbers = vec!["+12155551213".into(), "12155551213".into()];
    assert!(call(config, "").is_empty());
}

const ORIGID: &str = "123e4567-e89b-12d3-a456-426655440000";

#[test]
fn what_the_inside_network_says_of_signatures_is_heard_from_trusted_trunks_and_goes_no_further() {
    let world = World::new();
    let lines = |letter: &str| format!("P-Attestation-Indicator: {letter}\r\nP-Origination-ID: {ORIGID}\r\n");
    let made = call(world.config(), &lines("B"));
    assert_eq!((&made[0]["attest"], &made[0]["origid"]), (&json!("B"), &json!(ORIGID)));
    let mut ceiling = world.config();
    ceiling.trunks[1].signing.attestation = Some(Attestation::Partial);
    assert_eq!(call(ceiling.clone(), &lines("A"))[0]["attest"], "B", "not above the policy's");
    assert_eq!(call(ceiling, &lines("C"))[0]["attest"], "C");
    assert!(call(world.config(), "P-Identity-Bypass: 1\r\n").is_empty());
    assert_eq!(call(world.config(), "P-Identity-Bypass: false\r\n").len(), 1);

    let mut untrusted = world.config();
    untrusted.trunks[0].trusted = false;
    let made = call(untrusted.clone(), &format!("{}P-Identity-Bypass: yes\r\n", lines("C")));
    assert_eq!((made.len(), &made[0]["attest"]), (1, &json!("A")));
    assert_ne!(made[0]["origid"], ORIGID);

    // What leaves: the bypass never, the others between trusted trunks only.
    let all = format!("{}P-Identity-Bypass: yes\r\nX-Other: kept\r\n", lines("C"));
    let left = |config: Config| {
        let sent = Rig::new(config).receive(CALLER, &request("INVITE", "", &all));
        let copy = requests(&sent, "INVITE")[0].clone();
        ["P-Identity-Bypass", "P-Attestation-Indicator", "P-Origination-ID", "X-Other"]
            .map(|name| copy.lines(name).len())
    };
    assert_eq!(left(world.config()), [0, 1, 1, 1]);
    assert_eq!(left(untrusted), [0, 0, 0, 1]);
    let mut outside = world.config();
    outside.trunks[1].trusted = false;
    assert_eq!(left(outside), [0, 0, 0, 1]);
    let mut renamed = world.config();
    renamed.identity_headers.attestation = "X-Attest".into();
    assert_eq!(call(renamed.clone(), "X-Attest: C\r\n")[0]["attest"], "C");
    assert_eq!(call(renamed, &lines("C"))[0]["attest"], "A");
}

/// An Identity line of somebody who called +12155551213 (acme's neighbour) from +12015550100.
fn signed_line(world: &World) -> String {
    let sent = Rig::new(world.config()).receive(CALLER, &request("INVITE", "", ""));
    let copy = requests(&sent, "INVITE")[0];
    format!("Date: {}\r\nIdentity: {}\r\n", copy.line("Date"), copy.line("Identity"))
}

/// The provider diverts: the route changes the number that was called.
fn diverting(world: &World, target: &str) -> Config {
    let mut config = world.config();
    config.trunks[1].signing.divert = true;
    config.routes[0].shape = Shape { strip: 12, add: target.into(), host: Some("b.example".into()) };
    config
}

#[test]
fn d1_d5_d11_a_call_sent_on_to_another_number_gets_one_div_and_keeps_its_identity() {
    let world = World::new();
    let line = signed_line(&world);
    let sent = Rig::new(diverting(&world, "+12155559999")).receive(CALLER, &request("INVITE", "", &line));
    let copy = requests(&sent, "INVITE")[0];
    assert!(copy.first_line().contains("+12155559999"), "{}", copy.first_line());
    let made = tokens(&sent);
    assert_eq!(made.len(), 2, "{made:?}");
    assert!(
        copy.lines("Identity")[0] == line.split("Identity: ").nth(1).unwrap().trim_end(),
        "the original stays, first"
    );
    let div = &made[1];
    assert_eq!(div["div"], json!({"tn": "12155551213"}));
    assert_eq!(div["dest"], json!({"tn": ["12155559999"]}));
    assert_eq!((&div["orig"], &div["iat"]), (&made[0]["orig"], &made[0]["iat"]));
    assert!(div.get("attest").is_none() && div.get("opt").is_none(), "D-7, D-9");
    assert!(copy.lines("Identity")[1].contains("ppt=\"div\""), "D-13");
}

/// D-6: a call that was long under way gets a Date of the present time, and only one, whether it brings a Date or not (H-6).
#[test]
fn d6_a_late_diversion_has_one_date() {
    let world = World::new();
    let line = signed_line(&world);
    let bare = line.split_once("\r\n").unwrap().1;
    for lines in [&*line, bare] {
        let mut rig = Rig::new(diverting(&world, "+12155559999"));
        rig.now.unix += 600;
        let sent = rig.receive(CALLER, &request("INVITE", "", lines));
        let made = tokens(&sent);
        assert_eq!((made.len(), &made[1]["iat"]), (2, &json!(NOW + 600)), "{made:?}");
        assert_eq!(requests(&sent, "INVITE")[0].lines("Date"), ["Sat, 21 Nov 2026 00:10:00 GMT"]);
    }
}

#[test]
fn d2_d10_no_div_for_the_same_number_without_identity_or_where_it_is_not_wanted() {
    let world = World::new();
    let line = signed_line(&world);
    let same = diverting(&world, "+1-215-555-1213");
    assert_eq!(call(same, &line).len(), 1, "D-2");
    let made = call(diverting(&world, "+12155559999"), "");
    assert!(made.len() == 1 && made[0].get("div").is_none(), "D-10: {made:?}");
    let mut unwanted = diverting(&world, "+12155559999");
    unwanted.trunks[1].signing.divert = false;
    assert_eq!(call(unwanted, &line).len(), 1);
}

#[test]
fn d8_a_diversion_is_signed_by_a_certificate_for_the_number_that_was_called_or_not_at_all() {
    let world = World::new();
    let line = signed_line(&world);
    let mut config = diverting(&world, "+12155559999");
    config.trunks[1].sign = Some(ACME); // which has not 12155551213
    let mut rig = Rig::new(config.clone());
    assert_eq!(tokens(&rig.receive(CALLER, &request("INVITE", "", &line))).len(), 1);
    assert!(matches!(rig.events[..], [Event::Unsigned { error: SignError::NotAuthorized, .. }]), "{:?}", rig.events);
    config.signing_tables = vec![table(&[("+12155551213", by(PROVIDER))])];
    config.trunks[1].signing.table = Some(0);
    assert_eq!(call(config, &line).len(), 2, "the table knows whose it is");
}

#[test]
fn d15_a_chain_of_five_gets_no_sixth() {
    let world = World::new();
    let mut line = signed_line(&world);
    let mut called = "+12155551213".to_owned();
    for step in 0..6 {
        let target = format!("+1215555{}", 2000 + step);
        let text = request("INVITE", "", &line).replacen("sip:+12155551213", &format!("sip:{called}"), 1);
        let sent = Rig::new(diverting(&world, &target)).receive(CALLER, &text);
        let copy = requests(&sent, "INVITE")[0];
        let identities = copy.lines("Identity");
        assert_eq!(identities.len(), 1 + (step + 1).min(5), "step {step}");
        let all: String = identities.iter().map(|identity| format!("Identity: {identity}\r\n")).collect();
        line = format!("Date: {}\r\n{all}", copy.line("Date"));
        called = format!("+1215555{}", 2000 + step);
    }
}

#[test]
fn a_followed_3xx_is_a_diversion() {
    let world = World::new();
    let line = signed_line(&world);
    let mut config = world.config();
    config.trunks[1].signing.divert = true;
    config.trunks[1].on_3xx = On3xx::Recurse;
    let mut rig = Rig::new(config);
    let sent = rig.receive(CALLER, &request("INVITE", "", &line));
    let copy = requests(&sent, "INVITE")[0].clone();
    assert_eq!(copy.lines("Identity").len(), 1);
    let moved = answer(&copy, 302, &format!("Contact: <sip:+12155558888@{CALLEE}>\n"));
    let sent = rig.receive(CALLEE, &moved);
    let copy = requests(&sent, "INVITE")[0];
    let made: Vec<Value> = copy.lines("Identity").into_iter().map(claims).collect();
    assert_eq!(made.len(), 2, "{sent:?}");
    assert_eq!((&made[1]["div"]["tn"], &made[1]["dest"]["tn"][0]), (&json!("12155551213"), &json!("12155558888")));
}

#[test]
fn a_followed_3xx_to_a_destination_that_is_left_out_is_not_signed_and_the_other_way_round() {
    let world = World::new();
    for (left_out, signed) in [("1216", [true, false]), ("1215", [false, true])] {
        let mut config = world.config();
        config.trunks[1].on_3xx = On3xx::Recurse;
        config.trunks[1].signing.exempt = vec![Exempt::Prefix(left_out.into())];
        let mut rig = Rig::new(config);
        let sent = rig.receive(CALLER, &request("INVITE", "", ""));
        let first = requests(&sent, "INVITE")[0].clone();
        let moved = answer(&first, 302, &format!("Contact: <sip:+12165558888@{CALLEE}>\n"));
        let sent = rig.receive(CALLEE, &moved);
        let second = requests(&sent, "INVITE")[0];
        assert_eq!(
            [first.lines("Identity").len(), second.lines("Identity").len()],
            signed.map(usize::from),
            "{left_out}"
        );
    }
}

fn profile(signer: Option<usize>, issuer: Option<&str>) -> Option<Arc<RichProfile>> {
    let assertion = Assertion::new(Some(json!({"nam": "Acme Ltd"})), None, Some("Delivery".into())).unwrap();
    Some(Arc::new(RichProfile { assertion, signer, issuer: issuer.map(str::to_owned) }))
}

#[test]
fn c8_c9_rich_call_data_goes_into_the_token_of_the_same_certificate_and_beside_it_by_another() {
    let world = World::new();
    let mut config = world.config();
    config.signer_rich[PROVIDER] = profile(None, None);
    let made = call(config.clone(), "");
    assert_eq!((made.len(), &made[0]["rcd"]["nam"], &made[0]["crn"]), (1, &json!("Acme Ltd"), &json!("Delivery")));
    assert_eq!(made[0]["attest"], "A");
    config.signer_rich[PROVIDER] = profile(Some(ACME), None);
    let made = call(config.clone(), "");
    assert_eq!((made.len(), made[0].get("rcd"), &made[1]["rcd"]["nam"]), (2, None, &json!("Acme Ltd")));
    assert_eq!(made[1].get("iss"), None);
    config.signer_rich[PROVIDER] = profile(Some(ACME), Some("Directory Ltd"));
    assert_eq!(call(config.clone(), "")[1]["iss"], "Directory Ltd", "T-2");
    // By the row, instead of the signer's own.
    config.signing_tables = vec![table(&[("+12015550100", SigningRow { rich: profile(None, None), ..by(PROVIDER) })])];
    config.trunks[1].signing.table = Some(0);
    let made = call(config, "");
    assert_eq!((made.len(), &made[0]["rcd"]["nam"]), (1, &json!("Acme Ltd")));
}

#[test]
fn r1_r4_priorities_of_trusted_trunks_are_signed_apart() {
    let world = World::new();
    let mut config = world.config();
    config.trunks[1].signing.priorities = vec!["ets".into(), "wps".into()];
    let lines = "Resource-Priority: ets.1, dsn.flash\r\nResource-Priority: wps.3\r\n";
    let made = call(config.clone(), lines);
    assert_eq!((made.len(), &made[1]["rph"]), (2, &json!({"auth": ["ets.1", "wps.3"]})));
    assert_eq!(call(config.clone(), "Resource-Priority: dsn.flash\r\n").len(), 1);
    assert_eq!(call(config.clone(), "").len(), 1);
    config.trunks[0].trusted = false;
    assert_eq!(call(config, lines).len(), 1, "RFC 4412 4.6.1");
}

#[test]
fn m1_m2_messages_are_signed_where_it_is_wanted() {
    let world = World::new();
    let mut config = world.config();
    let text = request("MESSAGE", "", "").replace("Content-Length: 0\n\n", "Content-Length: 5\n\nhello");
    assert!(tokens(&Rig::new(config.clone()).receive(CALLER, &text)).is_empty());
    config.trunks[1].signing.messages = true;
    let made = tokens(&Rig::new(config.clone()).receive(CALLER, &text));
    assert_eq!(made[0]["msgi"], "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=");
    assert!(call(config, "")[0].get("msgi").is_none(), "M-3");
}

#[test]
fn h6_a_message_with_two_dates_is_refused_where_it_would_be_signed() {
    let dates = "Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nDate: Sat, 21 Nov 2026 00:00:01 GMT\r\n";
    let mut config = World::new().config();
    for is_signed in [false, true] {
        config.trunks[1].signing.messages = is_signed;
        let sent = Rig::new(config.clone()).receive(CALLER, &request("MESSAGE", "", dates));
        assert_eq!(
            (upstream(&sent), requests(&sent, "MESSAGE").len()),
            if is_signed { (vec![400], 0) } else { (vec![], 1) }
        );
    }
}

#[test]
fn e10_reasons_about_our_tokens_go_no_further() {
    let world = World::new();
    let mut rig = Rig::new(world.config());
    let sent = rig.receive(CALLER, &request("INVITE", "", ""));
    let copy = requests(&sent, "INVITE")[0].clone();
    let signature = copy.line("Identity").split(';').next().unwrap().rsplit('.').next().unwrap().to_owned();
    let reason = |ppi: &str| format!("STIR ;cause=438 ;text=\"Invalid Identity Header\" ;ppi=\"..{ppi}\"");
    let lines = format!("Reason: {}, Q.850;cause=16\nReason: {}\n", reason(&signature), reason("bm90IG91cnM"));
    for status in [183, 486] {
        let sent = rig.receive(CALLEE, &answer(&copy, status, &lines));
        let up = sent.iter().find(|s| s.is_to(CALLER)).unwrap();
        assert_eq!(up.lines("Reason"), ["Q.850;cause=16", &reason("bm90IG91cnM")], "{status}");
    }
    assert_eq!(rig.proxy.stats().reasons_removed, 2);
    assert!(rig.events.iter().filter(|event| matches!(event, Event::Disputed { .. })).count() == 2, "{:?}", rig.events);
}

#[test]
fn facts_that_are_stated_are_signed_by_the_same_table() {
    use vesperd::proxy::service::{Kind, Question, Replied};
    use vesperd::stir::facts::{Facts, FactsError, Party};
    let world = World::new();
    let mut config = world.config();
    let low = SigningRow { attestation: Some(Attestation::Gateway), ..by(PROVIDER) };
    config.signing_tables = vec![table(&[("+1201*", low), ("+44*", SigningRow::default())])];
    config.trunks[1].signing.table = Some(0);
    let mut rig = Rig::new(config);
    let mut ask = |orig: &str, attest| {
        let (orig, dest) = (Party::Tn(orig.into()), vec![Party::Tn("+12155551213".into())]);
        let kind = Kind::Sign(Facts { attest, orig, dest, iat: None, origid: None });
        let question = Question { id: 1, trunk: vesperd::proxy::TrunkId(1), label: "x".into(), kind };
        let mut out = vesperd::proxy::Output::default();
        rig.proxy.ask(rig.now, question, &mut out);
        out.replies.pop().unwrap().result
    };
    assert!(matches!(ask("+12125550100", Attestation::Full), Replied::Signed(_)), "in no row");
    assert!(matches!(ask("+12015550100", Attestation::Gateway), Replied::Signed(_)));
    assert!(matches!(ask("+12015550100", Attestation::Partial), Replied::NotSigned(FactsError::AboveCeiling)));
    assert!(matches!(ask("+4420", Attestation::Gateway), Replied::NoPolicy));
}

fn one_after_the_other(config: &mut Config) {
    config.routes = vec![vesperd::proxy::Route {
        action: vesperd::proxy::route::table::Action::To(vec![vesperd::proxy::TrunkId(1), vesperd::proxy::TrunkId(2)]),
        ..vesperd::proxy::Route::default()
    }];
}

/// What a next hop says of a token of ours.
fn disputed(copy: &Sent) -> String {
    let signature = copy.line("Identity").split(';').next().unwrap().rsplit('.').next().unwrap();
    format!("Reason: STIR ;cause=438 ;text=\"Invalid Identity Header\" ;ppi=\"..{signature}\"\n")
}

#[test]
fn a_message_that_moves_on_to_a_trunk_that_wants_none_signed_leaves_its_token_behind() {
    let mut config = World::new().config();
    config.trunks[1].signing.messages = true;
    config.trunks[2].sign = Some(PROVIDER);
    one_after_the_other(&mut config);
    let mut rig = Rig::new(config);
    let sent = rig.receive(CALLER, &request("MESSAGE", "", ""));
    let first = requests(&sent, "MESSAGE")[0].clone();
    assert_eq!(first.lines("Identity").len(), 1);
    let sent = rig.fail(first.tag);
    let second = requests(&sent, "MESSAGE")[0].clone();
    assert!(second.is_to(SPARE) && second.lines("Identity").is_empty(), "{}", second.text);
    let sent = rig.receive(SPARE, &answer(&second, 200, &disputed(&first)));
    assert!(sent[0].is_to(CALLER) && sent[0].lines("Reason").is_empty(), "{}", sent[0].text);
}

/// The provider's key lies elsewhere.
fn remote(world: &World, config: &mut Config) -> EcdsaKeyPair {
    let credential = &world.lab.provider;
    let mut signer = signer_config(credential, Profile::Shaken, Some(Attestation::Full));
    (signer.key, signer.remote_key) = (Vec::new(), Some("module".into()));
    config.signers[PROVIDER] = Arc::new(Signer::new(signer).unwrap());
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &credential.key.serialize_der()).unwrap()
}

fn input(need: &Need) -> &[u8] {
    match &need.kind {
        NeedKind::Signature { key, input } if **key == *"module" => input,
        other => panic!("{other:?}"),
    }
}

fn signature(key: &EcdsaKeyPair, need: &Need) -> Answer {
    let signature = key.sign(&SystemRandom::new(), input(need)).unwrap();
    Answer::Signature(Ok(signature.as_ref().try_into().unwrap()))
}

fn invite(rig: &mut Rig, lines: &str) -> (Vec<Sent>, Vec<Need>) {
    rig.receive_all(Transport::Udp, 0, CALLER, &request("INVITE", "", lines))
}

#[test]
fn a_call_waits_for_its_signature_and_leaves_with_it() {
    let world = World::new();
    let mut config = world.config();
    let key = remote(&world, &mut config);
    let mut rig = Rig::new(config);
    let (sent, needs) = invite(&mut rig, "");
    assert_eq!((upstream(&sent), sent.len(), needs.len()), (vec![100], 1, 1), "it is parked");
    let sent = rig.provide(needs[0].id, signature(&key, &needs[0]));
    let copy = requests(&sent, "INVITE")[0].clone();
    let identity = copy.line("Identity");
    assert!(!identity.contains('*'), "{identity}");
    let token = identity.split(';').next().unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(signed.as_bytes(), input(&needs[0]));
    let public = world.lab.provider.chain[0].clone();
    let public = vesperd::cert::Certificate::from_der(&public).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public.es256_point().unwrap());
    public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    assert_eq!(claims(identity)["attest"], "A");
    assert_eq!((rig.proxy.stats().signed, rig.proxy.stats().unsigned), (1, 0));
    // Answers to nobody change nothing.
    assert!(rig.provide(needs[0].id, Answer::Signature(Err(SignatureFailure::Refused))).is_empty());
    rig.receive(CALLEE, &answer(&copy, 486, ""));
    rig.settle();
    assert_eq!(rig.proxy.residue().parked, 0);
}

#[test]
fn i3_without_a_signature_in_time_the_call_leaves_unsigned() {
    let world = World::new();
    for how in ["refused", "deadline", "full"] {
        let mut config = world.config();
        remote(&world, &mut config);
        if how == "full" {
            config.max_parked = 0;
        }
        let mut rig = Rig::new(config);
        let (mut sent, needs) = invite(&mut rig, "");
        match how {
            "refused" => sent = rig.provide(needs[0].id, Answer::Signature(Err(SignatureFailure::Refused))),
            "deadline" => sent = rig.pass(Duration::from_millis(2100)),
            _ => assert!(needs.is_empty()),
        }
        let copy = requests(&sent, "INVITE").first().copied().unwrap_or_else(|| panic!("{how}: {sent:?}"));
        assert!(copy.lines("Identity").is_empty() && copy.lines("Date").is_empty(), "{how}: {}", copy.text);
        assert!(
            matches!(rig.events[..], [Event::Unsigned { error: SignError::Signature, .. }]),
            "{how}: {:?}",
            rig.events
        );
        assert_eq!((rig.proxy.stats().signed, rig.proxy.stats().unsigned), (0, 1), "{how}");
    }
}

/// RFC 7339 6.3: half is half, though a call that waits for its signature is taken up twice.
#[test]
fn c59_a_call_that_waits_for_its_signature_is_asked_once_whether_it_may_go() {
    let world = World::new();
    let mut config = world.config();
    let key = remote(&world, &mut config);
    config.guard.overload = vec![Role::default(), Role { client: true, ..Role::default() }];
    let mut rig = Rig::new(config);
    let mut call = |number: u32| {
        let text = request("INVITE", "", "").replace("z9hG4bK1", &format!("z9hG4bK{number}"));
        let text = text.replace("c1@", &format!("c{number}@"));
        let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &text);
        let sent = needs.first().map(|need| rig.provide(need.id, signature(&key, need))).unwrap_or_default();
        let copy = requests(&sent, "INVITE").first().map(|copy| (*copy).clone())?;
        if number == 0 {
            let load = ";oc=50;oc-algo=\"loss\";oc-validity=500000;oc-seq=7.1";
            let answered = answer(&copy, 503, "").replacen(";oc;oc-algo=\"loss,rate\"", load, 1);
            assert!(answered.contains(load), "{answered}");
            rig.receive(CALLEE, &answered);
        }
        Some(copy)
    };
    assert!(call(0).is_some());
    let passed = (1..=1000).filter(|number| call(*number).is_some()).count();
    assert!((430..=570).contains(&passed), "{passed}");
}

/// What the limits of the next hop refuse is not signed first, by a key here or elsewhere.
#[test]
fn kr6_a_call_above_a_limit_of_its_next_hop_is_not_signed() {
    let world = World::new();
    let limited = |rate, calls| {
        let mut config = world.config();
        config.guard.limits = vec![None, Some(TrunkLimits::new(rate, calls, 486))];
        config
    };
    let numbered = |number: u32| {
        let text = request("INVITE", "", "").replace("z9hG4bK1", &format!("z9hG4bK{number}"));
        text.replace("c1@", &format!("c{number}@"))
    };
    for config in [limited(Some(Rate::new(1, 1)), None), limited(None, Some(1))] {
        let mut rig = Rig::new(config.clone());
        assert_eq!(requests(&rig.receive(CALLER, &numbered(1)), "INVITE").len(), 1);
        assert_eq!(upstream(&rig.receive(CALLER, &numbered(2))), [100, 486]);
        assert_eq!((rig.proxy.stats().signed, rig.proxy.stats().limited), (1, 1));

        let mut config = config;
        config.guard.limits[1] = limited(Some(Rate::new(1, 1)), Some(1)).guard.limits[1].clone();
        let key = remote(&world, &mut config);
        let mut rig = Rig::new(config);
        let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &numbered(1));
        assert_eq!(requests(&rig.provide(needs[0].id, signature(&key, &needs[0])), "INVITE").len(), 1, "asked once");
        let (sent, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &numbered(2));
        assert_eq!((upstream(&sent), needs.len(), rig.proxy.stats().limited), (vec![100, 486], 0, 1));
    }
}

#[test]
fn k5_a_call_that_waits_for_its_signature_can_be_cancelled_at_once() {
    let world = World::new();
    let mut config = world.config();
    let key = remote(&world, &mut config);
    let mut rig = Rig::new(config);
    let (_, needs) = invite(&mut rig, "");
    let sent = rig.receive(CALLER, &request("CANCEL", "", ""));
    assert_eq!(upstream(&sent), [200, 487]);
    assert!(rig.provide(needs[0].id, signature(&key, &needs[0])).is_empty(), "too late");
    rig.settle();
}

#[test]
fn every_token_of_a_copy_gets_its_signature_and_the_next_hop_the_same_ones() {
    let world = World::new();
    let mut config = world.config();
    config.trunks[1] = support::rig::trunk("callee", &[CALLEE, SPARE]);
    config.trunks[1].udp_oversize = UdpOversize::Udp;
    config.trunks[1].trusted = true;
    config.trunks[1].sign = Some(PROVIDER);
    config.trunks[1].signing.priorities = vec!["ets".into()];
    let key = remote(&world, &mut config);
    let mut rig = Rig::new(config);
    let (_, needs) = invite(&mut rig, "Resource-Priority: ets.1\r\n");
    let mut out = vesperd::proxy::Output::default();
    rig.proxy.handle_answer(rig.now, needs[0].id, signature(&key, &needs[0]), &mut out);
    assert_eq!((out.needs.len(), out.outbox.items().len()), (1, 0), "the second token waits");
    assert_ne!(input(&out.needs[0]), input(&needs[0]));
    let sent = rig.provide(out.needs[0].id, signature(&key, &out.needs[0]));
    let first = requests(&sent, "INVITE")[0].clone();
    assert_eq!(first.lines("Identity").len(), 2);
    let sent = rig.fail(first.tag);
    let second = requests(&sent, "INVITE")[0];
    assert!(second.is_to(SPARE));
    assert_eq!(second.lines("Identity"), first.lines("Identity"), "no module is asked twice");
}

#[test]
fn branches_to_two_trunks_wait_each_for_its_own() {
    let world = World::new();
    let mut config = world.config();
    config.trunks[2].sign = Some(PROVIDER);
    config.trunks[2].signing.attestation = Some(Attestation::Gateway);
    one_after_the_other(&mut config);
    let key = remote(&world, &mut config);
    let mut rig = Rig::new(config);
    let (_, needs) = invite(&mut rig, "");
    let sent = rig.provide(needs[0].id, signature(&key, &needs[0]));
    let first = requests(&sent, "INVITE")[0].clone();
    assert_eq!(claims(first.line("Identity"))["attest"], "A");
    let mut out = vesperd::proxy::Output::default();
    rig.proxy.handle_transport_failure(rig.now, first.tag, &mut out);
    assert_eq!(out.needs.len(), 1, "the next trunk wants another token");
    let sent = rig.provide(out.needs[0].id, signature(&key, &out.needs[0]));
    let second = requests(&sent, "INVITE")[0];
    assert!(second.hop.remote == addr(SPARE));
    assert_eq!(claims(second.line("Identity"))["attest"], "C");
}

/// RFC 9410 7.
#[test]
fn e10_branches_at_one_time_have_tokens_of_their_own_and_what_is_said_of_either_is_for_us() {
    let world = World::new();
    let mut config = world.config();
    config.trunks[1] = support::rig::trunk("callee", &[CALLEE, SPARE]);
    config.trunks[1].sign = Some(PROVIDER);
    config.trunks[1].forking.parallel = true;
    let key = remote(&world, &mut config);
    let mut rig = Rig::new(config);
    let (_, needs) = invite(&mut rig, "");
    assert_eq!(needs.len(), 2);
    let copies = [0, 1].map(|place: usize| {
        let sent = rig.provide(needs[place].id, signature(&key, &needs[place]));
        requests(&sent, "INVITE")[0].clone()
    });
    assert_ne!(copies[0].line("Identity"), copies[1].line("Identity"));
    for (copy, from) in copies.iter().zip([CALLEE, SPARE]) {
        let sent = rig.receive(from, &answer(copy, 183, &disputed(copy)));
        let up = sent.iter().find(|s| s.is_to(CALLER)).unwrap();
        assert!(up.lines("Reason").is_empty(), "{from}: {}", up.text);
    }
}

/// D-6: a diversion of a call that was under way for long has the present time, and Date follows it; without the diversion Date is that
/// of the caller's token.
#[test]
fn d6_date_is_renewed_with_the_diversion_and_not_without_it() {
    let world = World::new();
    let identity = signed_line(&world).lines().last().unwrap().to_owned();
    let (old, new) = ("Sat, 21 Nov 2026 00:00:00 GMT", "Sat, 21 Nov 2026 00:01:40 GMT");
    let mut config = diverting(&world, "+12155559999");
    config.trunks[1].signing.priorities = vec!["ets".into()];
    let rig = |config: &Config| {
        let mut rig = Rig::new(config.clone());
        rig.now.unix += 100;
        rig
    };
    let copy = |sent: &[Sent]| requests(sent, "INVITE")[0].clone();
    for date in [format!("Date: {old}\n"), String::new()] {
        let sent = rig(&config).receive(CALLER, &request("INVITE", "", &format!("{date}{identity}\n")));
        let copy = copy(&sent);
        assert_eq!((copy.line("Date"), copy.lines("Identity").len()), (new, 2), "{}", copy.text);
    }
    let key = remote(&world, &mut config);
    let refused = || Answer::Signature(Err(SignatureFailure::Refused));
    let mut waiting = rig(&config);
    let (_, needs) = invite(&mut waiting, &format!("Date: {old}\n{identity}\n"));
    let left = copy(&waiting.provide(needs[0].id, refused()));
    assert_eq!((left.line("Date"), left.lines("Identity").len()), (old, 1), "{}", left.text);
    // Another token, of the Date that was received, is signed before the diversion fails.
    let date = "Sat, 21 Nov 2026 00:01:35 GMT";
    let mut waiting = rig(&config);
    let (_, needs) = invite(&mut waiting, &format!("Date: {date}\n{identity}\nResource-Priority: ets.1\n"));
    let mut out = vesperd::proxy::Output::default();
    waiting.proxy.handle_answer(waiting.now, needs[0].id, signature(&key, &needs[0]), &mut out);
    let left = copy(&waiting.provide(out.needs[0].id, refused()));
    assert_eq!((left.line("Date"), left.lines("Identity").len()), (date, 2), "{}", left.text);
    assert!(claims(left.lines("Identity")[1]).get("rph").is_some());
}
