//! Connected identity (RFC 9970) in the proxy core: two edges, the one of the caller and the one of the callee; names are the ids of the
//! requirements.

mod support;

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::lab::{World, signer};
use support::rig::{CALLER, NOW, Rig, Sent, answer, listener, request, requests, routes, seconds, trunk};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::passport::{Claims, claims::Destinations, claims::Identity, serialize};
use vesperd::proxy::route::number::Shape;
use vesperd::proxy::signing::RichProfile;
use vesperd::proxy::signing::table::{Entry, Numbers, SigningRow, SigningTable};
use vesperd::proxy::{Answer, Config, ConnectedIdentity, Event, NeedKind, Snapshot};
use vesperd::sip::hop::Transport;
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{FetchFailure, FetchedChain, Verdict};
use vesperd::stir::{Check, Failure, IdentitySource, Mode, Policy, Profile, Retarget, TrustStore};

const CALLEE: &str = "198.51.100.20:5060";
/// A number of globex, and one that only the provider speaks for.
const GLOBEX: &str = "+12025550100";
const CAROL: &str = "+12155551214";
/// Signers, by their place.
const ACME: usize = 0;
const GLOBEX_SIGNER: usize = 1;
const PROVIDER: usize = 2;
const RELIABLE: &str = "Require: 100rel\nRSeq: 1\n";
const FINGERPRINT: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
    m=audio 4000 RTP/SAVP 0\r\na=fingerprint:sha-256 02:1A:CC:54:27:AB:EB:9C:53:3F:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1:7A:03:A2:7D:F9:B0:7F:46:19:B2\r\n";

/// Two edges with a call between them.
struct Pair {
    calling: Rig,
    called: Rig,
    /// The INVITE that reached the callee.
    invite: Sent,
}

/// The edges of acme and of globex in one world of certificates.
trait Edges {
    fn config(&self) -> Config;
    fn calling(&self, policy: Policy) -> Config;
    fn called(&self, sign: usize) -> Config;
    fn between(&self, calling: Config, called: Config, number: &str) -> Pair;

    fn dial(&self, policy: Policy, called: Config, number: &str) -> Pair {
        self.between(self.calling(policy), called, number)
    }

    fn pair(&self, policy: Policy, called: Config) -> Pair {
        self.dial(policy, called, GLOBEX)
    }
}

impl Edges for World {
    /// Trunks: 0 the caller, 1 the callee.
    fn config(&self) -> Config {
        let mut config = Config {
            listeners: vec![listener(Transport::Udp, 5060)],
            trunks: vec![trunk("caller", &[CALLER]), trunk("callee", &[CALLEE])],
            routes: routes(&[(Some(0), 1)]),
            signers: vec![
                signer(&self.lab.acme.sti, Profile::Vesper, None),
                signer(&self.lab.globex.sti, Profile::Vesper, None),
                signer(&self.lab.provider, Profile::Shaken, Some(Attestation::Full)),
            ],
            signer_names: vec!["acme".into(), "globex".into(), "provider".into()],
            signer_rich: vec![None, None, None],
            observe: true,
            ..Config::default()
        };
        config.trunks[1].trusted = true;
        config
    }

    /// Acme's edge: signs the INVITE, verifies who answers.
    fn calling(&self, policy: Policy) -> Config {
        let mut config = self.config();
        config.trunks[1].sign = Some(ACME);
        config.trunks[1].connected.verify = Some(policy);
        config
    }

    /// Globex's edge: signs for who has answered.
    fn called(&self, sign: usize) -> Config {
        let mut config = self.config();
        config.listeners[0].advertise_host = "203.0.113.1".into();
        config.trunks[0].connected =
            ConnectedIdentity { sign: Some(sign), early: true, ..ConnectedIdentity::default() };
        config
    }

    fn between(&self, calling: Config, called: Config, number: &str) -> Pair {
        let mut calling = Rig::trusting(calling, self.trust());
        let mut called = Rig::trusting(called, self.trust());
        let sent = calling.receive(CALLER, &to(number, &request("INVITE", "", "")));
        let sent = called.receive(CALLER, &requests(&sent, "INVITE")[0].text);
        let invite = requests(&sent, "INVITE")[0].clone();
        calling.events.clear();
        Pair { calling, called, invite }
    }
}

fn to(number: &str, request: &str) -> String {
    request.replace("+12155551213", number)
}

impl Pair {
    /// The callee answers; what its edge sends on.
    fn answered(&mut self, status: u16, extra: &str) -> Sent {
        let text = answer(&self.invite, status, extra);
        self.sent_on(&text)
    }

    fn sent_on(&mut self, text: &str) -> Sent {
        let sent = self.called.receive(CALLEE, text);
        sent.iter().find(|sent| sent.status().is_some()).expect("a response goes on").clone()
    }

    /// The same at the caller's edge: what goes to the caller, and what was found.
    fn heard(&mut self, text: &str) -> (Sent, Option<Verdict>) {
        let sent = self.calling.receive(CALLEE, text);
        let response = sent.iter().find(|sent| sent.status().is_some()).expect("a response goes on").clone();
        (response, self.verdict())
    }

    fn verdict(&mut self) -> Option<Verdict> {
        let events = std::mem::take(&mut self.calling.events);
        events.into_iter().find_map(|event| match event {
            Event::Connected { verdict, .. } => Some(*verdict),
            _ => None,
        })
    }

    /// The number that is proven to have answered with a 200.
    fn connects(&mut self, extra: &str) -> Option<String> {
        let text = self.answered(200, extra).text;
        self.heard(&text).1.and_then(|verdict| reached(&verdict))
    }
}

fn reached(verdict: &Verdict) -> Option<String> {
    verdict.valid().and_then(|token| token.connected.as_ref()).map(|party| party.text().to_owned())
}

fn failed(verdict: &Verdict) -> Vec<Check> {
    verdict.tokens().iter().flat_map(|token| token.checks.failures().map(|(check, _)| check)).collect()
}

fn claims(identity: &str) -> Value {
    let payload = identity.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// `Content-Type` and a body in place of none.
fn with_body(response: &str, body: &str) -> String {
    response.replace(
        "Content-Length: 0\n\n",
        &format!("Content-Type: application/sdp\nContent-Length: {}\n\n{body}", body.len()),
    )
}

/// RFC 9970 appendix-like vector CV5: what is signed, octet by octet.
#[test]
fn cv5_header_and_payload_of_an_rsp() {
    let cv5 = "eyJhbGciOiJFUzI1NiIsInBwdCI6InJzcCIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly93d3cuZXhhbXBsZS5jb20vY2VydC5jZXIifQ.eyJkZXN0Ijp7InRuIjpbIjEyMTU1NTUxMjEzIl19LCJpYXQiOjE0NDMyMDgzNDcsIm9yaWciOnsidG4iOiIxMjE1NTU1MTIxMiJ9fQ";
    let (mut header, mut payload) = (Vec::new(), Vec::new());
    let url = "https://www.example.com/cert.cer";
    serialize::write_header::<&[u8]>(Some("rsp"), &[], Some(url), &mut header);
    let tn = |number: &'static str| Identity::Tn(number.into());
    let said = Claims::baseline(tn("12155551212"), Destinations::one(tn("12155551213")), 1_443_208_347);
    serialize::write_claims(&said, &mut payload);
    assert_eq!(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)), cv5);
}

#[test]
fn case_1_the_party_that_was_called_answers_and_is_proven() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let sent = pair.answered(200, "");
    let identity = sent.line("Identity");
    assert!(identity.ends_with(";ppt=\"rsp\""), "N-2: {identity}");
    let said = claims(identity);
    assert_eq!(said, json!({"dest": {"tn": ["12025550100"]}, "iat": NOW, "orig": {"tn": "12015550100"}}));
    let (heard, verdict) = pair.heard(&sent.text);
    assert_eq!(heard.line("Identity"), identity, "it passes on to the caller");
    assert_eq!(reached(&verdict.unwrap()).as_deref(), Some("12025550100"));
    assert_eq!(pair.called.proxy.stats().connected_signed, 1);
    assert_eq!(pair.calling.proxy.stats().connected_verified, 1);
    // Copies of the answer have the same octets, and are not judged again (step 8).
    assert_eq!(pair.answered(200, "").text, sent.text);
    assert!(pair.heard(&sent.text).1.is_none());
    assert_eq!(pair.calling.proxy.stats().connected_verified, 1);
}

#[test]
fn n6_only_reliable_provisional_responses_say_it_and_only_where_that_is_wanted() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    assert!(pair.answered(180, "").lines("Identity").is_empty(), "unreliable");
    let early = pair.answered(183, RELIABLE);
    assert_eq!(claims(early.line("Identity"))["dest"], json!({"tn": ["12025550100"]}));
    assert_eq!(pair.answered(183, RELIABLE).text, early.text, "a copy has the same octets");
    let next = pair.answered(183, "Require: 100rel\nRSeq: 2\n");
    assert_ne!(next.line("Identity"), early.line("Identity"));
    assert!(pair.heard(&early.text).1.is_none(), "good, and the 200 will say it again");
    assert_eq!(pair.connects("").as_deref(), Some("12025550100"), "the same token twice in one call is no replay");
    let mut called = world.called(GLOBEX_SIGNER);
    called.trunks[0].connected.early = false;
    let mut pair = world.pair(Policy::vesper(), called);
    assert!(pair.answered(183, RELIABLE).lines("Identity").is_empty());
}

#[test]
fn n3_nobody_is_signed_for_by_a_certificate_that_does_not_cover_him() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(ACME));
    let sent = pair.answered(200, "");
    assert!(sent.lines("Identity").is_empty());
    let (_, verdict) = pair.heard(&sent.text);
    assert!(!verdict.unwrap().is_valid());
    assert_eq!(pair.calling.proxy.stats().connected_missing, 1);
    assert_eq!(pair.called.proxy.stats().unsigned, 0, "not ours is no failure");
}

/// A 200 for Carol by a certificate that speaks for her, without the diversion.
fn carols(world: &World, extra: &dyn Fn(&mut Config)) -> Pair {
    let mut called = world.called(PROVIDER);
    called.trunks[1].sign = Some(PROVIDER);
    called.trunks[1].signing.divert = true;
    called.trunks[0].connected.discloses_diversions = true;
    called.routes[0].shape = Shape { strip: 12, add: CAROL.into(), host: Some("b.example".into()) };
    extra(&mut called);
    world.pair(Policy { accept_plain_stir: true, ..Policy::vesper() }, called)
}

/// The chain that the provider's x5u leads to is at hand at the caller's edge.
fn fetched(world: &World, pair: &mut Pair, text: &str) -> Option<Verdict> {
    let (sent, needs) = pair.calling.receive_all(Transport::Udp, 0, CALLEE, text);
    assert!(sent.iter().any(|sent| sent.is_to(CALLER)), "it goes on at once");
    let need = needs.first()?;
    let NeedKind::Certificate { x5u } = &need.kind else { panic!("{need:?}") };
    assert_eq!(**x5u, *world.lab.provider.x5u);
    let chain = FetchedChain { certificates: world.lab.provider.chain.clone(), fresh_until: NOW + 3600 };
    assert!(pair.calling.provide(need.id, Answer::Certificate(Ok(chain))).is_empty(), "nobody is told again");
    pair.verdict()
}

#[test]
fn case_3_n7_n8_a_diverted_call_names_the_party_reached_and_brings_its_diversions() {
    let world = World::new();
    let mut pair = carols(&world, &|_| {});
    assert_eq!(pair.invite.lines("Identity").len(), 2, "the INVITE went on with a div");
    let sent = pair.answered(200, "");
    let identities = sent.lines("Identity");
    assert_eq!(identities.len(), 2);
    assert_eq!(claims(identities[0])["dest"], json!({"tn": ["12155551214"]}), "N-7");
    assert_eq!(identities[1], pair.invite.lines("Identity")[1], "N-8: the very div of the INVITE");
    let verdict = fetched(&world, &mut pair, &sent.text).unwrap();
    assert_eq!(reached(&verdict).as_deref(), Some("12155551214"), "{:?}", failed(&verdict));
    let diversions: Vec<_> = verdict.diversions().iter().map(|identity| identity.text()).collect();
    assert_eq!(diversions, ["12025550100"]);
}

#[test]
fn n12_only_the_party_that_was_called_may_answer_where_that_is_wanted() {
    let world = World::new();
    let mut calling = world.calling(Policy { accept_plain_stir: true, ..Policy::vesper() });
    calling.trunks[1].connected.refuses_diversions = true;
    let pair = carols(&world, &|_| {});
    let mut pair = Pair { calling: Rig::trusting(calling, world.trust()), ..pair };
    let sent = pair.calling.receive(CALLER, &to(GLOBEX, &request("INVITE", "", "")));
    let own = requests(&sent, "INVITE")[0];
    let text = pair.answered(200, "").text;
    // The branch is that of another edge's copy; the Via of this one takes its place.
    let via = text.split("\r\n").find(|line| line.starts_with("Via: ")).unwrap();
    let text = text.replace(via, &format!("Via: {}", own.lines("Via")[0]));
    let verdict = fetched(&world, &mut pair, &text).unwrap();
    assert_eq!(failed(&verdict).first(), Some(&Check::Claims));
    assert!(!verdict.is_valid());
}

#[test]
fn case_2_n9_another_party_without_its_diversion_is_not_believed() {
    let world = World::new();
    let mut pair = carols(&world, &|_| {});
    let sent = pair.answered(200, "");
    let div = format!("Identity: {}\r\n", sent.lines("Identity")[1]);
    let verdict = fetched(&world, &mut pair, &sent.text.replace(&div, "")).unwrap();
    assert!(!verdict.is_valid());
    assert_eq!(failed(&verdict), [Check::Claims]);
    assert_eq!(pair.calling.proxy.stats().connected_failed, 1);
}

#[test]
fn n10_n13_without_a_signed_diversion_or_the_will_to_tell_it_there_is_no_rsp() {
    let world = World::new();
    let mut untold = carols(&world, &|config| config.trunks[0].connected.discloses_diversions = false);
    assert!(untold.answered(200, "").lines("Identity").is_empty(), "N-13");
    let mut unsigned = carols(&world, &|config| config.trunks[1].signing.divert = false);
    assert!(unsigned.answered(200, "").lines("Identity").is_empty(), "N-10");
}

#[test]
fn n7_whom_the_trusted_network_says_it_reached_counts_not_whom_it_was_sent_to() {
    let world = World::new();
    let asserted = format!("P-Asserted-Identity: <sip:{CAROL}@globex.example>\n");
    let mut pair = world.pair(Policy::vesper(), world.called(PROVIDER));
    assert!(pair.answered(200, &asserted).lines("Identity").is_empty(), "no div leads to Carol");
    let mut called = world.called(GLOBEX_SIGNER);
    called.trunks[1].trusted = false;
    let mut pair = world.pair(Policy::vesper(), called);
    assert_eq!(claims(pair.answered(200, &asserted).line("Identity"))["dest"], json!({"tn": ["12025550100"]}));
}

#[test]
fn o5_an_rsp_for_another_than_the_network_asserts_is_not_believed() {
    let world = World::new();
    let policy = Policy { identity_source: IdentitySource::AssertedThenFrom, ..Policy::vesper() };
    for (number, is_good) in [(GLOBEX, true), (CAROL, false)] {
        let mut pair = world.pair(policy, world.called(GLOBEX_SIGNER));
        let text = pair.answered(200, "").text;
        let asserted = format!("P-Asserted-Identity: <tel:{number}>\r\nContent-Length: 0");
        let verdict = pair.heard(&text.replace("Content-Length: 0", &asserted)).1.unwrap();
        assert_eq!(verdict.is_valid(), is_good, "{number}");
    }
}

#[test]
fn case_4_n22_an_rsp_in_a_request_is_ignored() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let rsp = format!("Identity: {}\n", pair.answered(200, "").line("Identity"));
    let mut config = world.config();
    config.trunks[0].verify = Some(Policy::vesper());
    let mut far = Rig::trusting(config, world.trust());
    let sent = far.receive(CALLER, &request("INVITE", "", &rsp));
    assert_eq!(sent.iter().filter_map(Sent::status).collect::<Vec<_>>(), [100, 428], "as if there were none");
}

#[test]
fn case_5_n20_another_party_in_one_dialog_is_not_believed() {
    let world = World::new();
    let mut pair = carols(&world, &|_| {});
    // 183 names the party called, by globex; the 200 names Carol, with its chain.
    let mut other = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let early = other.answered(183, RELIABLE).text;
    pair.calling.receive(CALLEE, &early);
    let sent = pair.answered(200, "");
    let verdict = fetched(&world, &mut pair, &sent.text).unwrap();
    assert!(!verdict.is_valid());
    assert!(failed(&verdict).contains(&Check::Claims), "{:?}", failed(&verdict));
}

#[test]
fn case_6_forks_are_told_apart_by_their_to_tags() {
    let world = World::new();
    let mut pair = carols(&world, &|_| {});
    let mut other = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let early = other.answered(183, RELIABLE).text.replace("tag=b1", "tag=b2");
    pair.calling.receive(CALLEE, &early);
    let sent = pair.answered(200, "");
    assert!(fetched(&world, &mut pair, &sent.text).unwrap().is_valid());
}

#[test]
fn case_7_without_the_ppt_parameter_the_token_is_ignored_or_invalid() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let text = pair.answered(200, "").text.replace(";ppt=\"rsp\"", "");
    assert!(!pair.heard(&text).1.unwrap().is_valid());
}

#[test]
fn case_8_n4_a_refusal_carries_none_and_none_is_read_there() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let rsp = pair.answered(183, RELIABLE).line("Identity").to_owned();
    let text = answer(&pair.invite, 486, "");
    let refused = pair.sent_on(&text);
    assert!(refused.lines("Identity").is_empty());
    let text = refused.text.replace("Content-Length: 0", &format!("Identity: {rsp}\r\nContent-Length: 0"));
    assert!(pair.heard(&text).1.is_none());
}

#[test]
fn case_9_an_rsp_for_another_caller_is_not_believed() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let rsp = pair.answered(200, "").line("Identity").to_owned();
    // A call from another number of acme to the same number.
    let mut calling = Rig::trusting(world.calling(Policy::vesper()), world.trust());
    let invite = to(GLOBEX, &request("INVITE", "", "")).replace("+12015550100", "+12015550110");
    let sent = calling.receive(CALLER, &invite);
    let copy = requests(&sent, "INVITE")[0].clone();
    calling.receive(CALLEE, &answer(&copy, 200, &format!("Identity: {rsp}\n")));
    let verdict = calling.events.iter().find_map(|event| match event {
        Event::Connected { verdict, .. } => Some(verdict),
        _ => None,
    });
    assert_eq!(failed(verdict.unwrap()), [Check::Claims]);
}

#[test]
fn case_10_a_certificate_for_the_caller_says_nothing_of_the_callee() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let good = pair.answered(200, "");
    let (token, parameters) = good.line("Identity").split_once(';').unwrap();
    let payload = token.split('.').nth(1).unwrap();
    let acme = &world.lab.acme.sti;
    let mut header = Vec::new();
    serialize::write_header(Some("rsp"), &acme.chain, Some(&acme.x5u), &mut header);
    let input = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &acme.key.serialize_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    let parameters = parameters.replace(&world.lab.globex.sti.x5u, &acme.x5u);
    let hijacked = format!("{input}.{};{parameters}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    let verdict = pair.heard(&good.text.replace(good.line("Identity"), &hijacked)).1.unwrap();
    assert_eq!(failed(&verdict), [Check::TnAuthorization]);
    assert_eq!(pair.calling.proxy.stats().connected_failed, 1);
}

#[test]
fn case_11_n26_an_answer_to_a_call_without_a_token_has_none_and_none_counts() {
    let world = World::new();
    let mut config = world.called(GLOBEX_SIGNER);
    config.trunks[1].sign = Some(ACME); // a token of our own asks for nothing
    let mut called = Rig::trusting(config, world.trust());
    let sent = called.receive(CALLER, &to(GLOBEX, &request("INVITE", "", "")));
    let copy = requests(&sent, "INVITE")[0].clone();
    let sent = called.receive(CALLEE, &answer(&copy, 200, ""));
    assert!(sent[0].lines("Identity").is_empty());
    let rsp = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER)).answered(200, "").line("Identity").to_owned();
    let mut config = world.calling(Policy::vesper());
    config.trunks[1].sign = None;
    let mut calling = Rig::trusting(config, world.trust());
    let sent = calling.receive(CALLER, &to(GLOBEX, &request("INVITE", "", "")));
    let copy = requests(&sent, "INVITE")[0].clone();
    let sent = calling.receive(CALLEE, &answer(&copy, 200, &format!("Identity: {rsp}\n")));
    assert_eq!(sent[0].status(), Some(200));
    assert_eq!(calling.proxy.stats().connected_unasked, 1);
    assert!(!calling.events.iter().any(|event| matches!(event, Event::Connected { .. })));
}

#[test]
fn step_5_the_token_binds_the_keys_of_the_answered_media() {
    let world = World::new();
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let text = with_body(&answer(&pair.invite, 200, ""), FINGERPRINT);
    let sent = pair.sent_on(&text);
    assert_eq!(claims(sent.line("Identity"))["mky"][0]["alg"], "sha-256");
    let other = sent.text.replace("02:1A:CC", "03:1A:CC");
    let verdict = pair.heard(&other).1.unwrap();
    assert_eq!(failed(&verdict), [Check::Claims], "somebody has put his own key in");
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let text = with_body(&answer(&pair.invite, 200, ""), FINGERPRINT);
    let sent = pair.sent_on(&text).text;
    assert!(pair.heard(&sent).1.unwrap().is_valid());
}

#[test]
fn n25_rich_call_data_go_back_only_where_that_is_wanted() {
    let world = World::new();
    let named = |is_wanted| {
        let mut called = world.called(PROVIDER);
        let assertion =
            vesperd::passport::ppt::rcd::Assertion::new(Some(json!({"nam": "Globex Desk"})), None, None).unwrap();
        called.signer_rich[PROVIDER] = Some(Arc::new(RichProfile { assertion, signer: None, issuer: None }));
        called.trunks[0].connected.rich = is_wanted;
        let mut pair = world.pair(Policy::shaken(), called);
        claims(pair.answered(200, "").line("Identity"))["rcd"]["nam"].clone()
    };
    assert_eq!(named(false), Value::Null);
    assert_eq!(named(true), "Globex Desk");
}

#[test]
fn numbers_opt_in_one_by_one() {
    let world = World::new();
    let row = |signer| SigningRow { signer, ..SigningRow::default() };
    let entries = [("+12025550100", 0, 2), ("+12025550110", 1, 3)].map(|(numbers, row, line)| Entry {
        numbers: Numbers::parse(numbers).unwrap(),
        row,
        line,
    });
    let rows = vec![row(Some(GLOBEX_SIGNER)), row(None)];
    let table = SigningTable::new("numbers".into(), IdentitySource::From, rows, entries.into()).unwrap();
    let mut called = world.called(GLOBEX_SIGNER);
    called.signing_tables = vec![Arc::new(table)];
    called.trunks[0].connected.table = Some(0);
    called.trunks[0].connected.sign = None;
    for (number, count) in [("+12025550100", 1), ("+12025550110", 0), ("+12025550111", 0)] {
        let mut pair = world.dial(Policy::vesper(), called.clone(), number);
        assert_eq!(pair.answered(200, "").lines("Identity").len(), count, "{number}");
    }
}

#[test]
fn freshness_is_that_of_the_answer_however_long_it_rang() {
    let world = World::new();
    let mut pair = carols(&world, &|_| {});
    for rig in [&mut pair.calling, &mut pair.called] {
        rig.receive(CALLEE, "SIP/2.0 180 Ringing\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKnone\nCSeq: 1 INVITE\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>;tag=2\nCall-ID: x\n\n");
        rig.now.unix += 100;
        rig.now.instant += seconds(100);
    }
    let sent = pair.answered(200, "");
    assert_eq!(claims(sent.lines("Identity")[0])["iat"], NOW + 100);
    assert_eq!(claims(sent.lines("Identity")[1])["iat"], NOW, "step 6: it keeps the INVITE's time");
    let verdict = fetched(&world, &mut pair, &sent.text).unwrap();
    assert!(verdict.is_valid(), "{:?}", failed(&verdict));
    // An old one is not: it comes from another call.
    let mut pair = world.pair(Policy::vesper(), world.called(GLOBEX_SIGNER));
    let text = pair.answered(200, "").text;
    pair.calling.now.unix += 100;
    assert_eq!(failed(&pair.heard(&text).1.unwrap()), [Check::Freshness]);
}

#[test]
fn the_verdict_on_the_answer_is_told_inside_and_nobody_else_may_say_it() {
    let world = World::new();
    let mut calling = world.calling(Policy::vesper());
    calling.trunks[0].trusted = true;
    calling.trunks[1].trusted = false;
    calling.trunks[0].discloses.verdict = Some("X-Verdict".into());
    let mut pair = world.between(calling, world.called(GLOBEX_SIGNER), GLOBEX);
    let text = pair.answered(200, "").text;
    let forged = text.replace("Content-Length: 0", "X-Verdict: valid;name=verified\r\nContent-Length: 0");
    let (heard, _) = pair.heard(&forged);
    let told = heard.line("X-Verdict");
    assert!(told.starts_with("valid;profile=vesper;ppt=rsp"), "{told}");
    assert!(told.contains("connected=\"12025550100\""), "{told}");
}

/// A dialog may be old by the time: what is trusted now counts.
#[test]
fn an_answer_is_judged_by_what_is_trusted_when_its_certificate_comes() {
    let world = World::new();
    let mut called = world.called(PROVIDER);
    called.trunks[0].connected.early = false;
    let mut pair = world.pair(Policy { accept_plain_stir: true, ..Policy::vesper() }, called);
    let text = pair.answered(200, "").text;
    let (_, needs) = pair.calling.receive_all(Transport::Udp, 0, CALLEE, &text);
    let config = pair.calling.proxy.snapshot().config.clone();
    let trust = TrustStore { epoch: 1, ..TrustStore::default() };
    pair.calling.proxy.set_snapshot(Arc::new(Snapshot { config, trust, replay: ReplayTable::default() }));
    let chain = FetchedChain { certificates: world.lab.provider.chain.clone(), fresh_until: NOW + 3600 };
    assert!(pair.calling.provide(needs[0].id, Answer::Certificate(Ok(chain))).is_empty());
    let chain = pair.verdict().unwrap().tokens()[0].checks.get(Check::Chain);
    assert_eq!(chain.failure(), Some(Failure::Path), "the root is not trusted any more");
}

#[test]
fn a_certificate_that_can_not_be_had_leaves_the_answer_unproven() {
    let world = World::new();
    let mut called = world.called(PROVIDER);
    called.trunks[0].connected.early = false;
    let mut pair = world.pair(Policy { accept_plain_stir: true, ..Policy::vesper() }, called);
    let text = pair.answered(200, "").text;
    let (sent, needs) = pair.calling.receive_all(Transport::Udp, 0, CALLEE, &text);
    assert_eq!(sent.iter().filter(|sent| sent.is_to(CALLER)).count(), 1);
    let answer = Answer::Certificate(Err(FetchFailure::Timeout));
    assert!(pair.calling.provide(needs[0].id, answer).is_empty());
    assert_eq!(failed(&pair.verdict().unwrap()), [Check::Chain]);
    // The copy of the answer asks for nothing, and everything ends.
    let (_, needs) = pair.calling.receive_all(Transport::Udp, 0, CALLEE, &text);
    assert!(needs.is_empty());
    pair.calling.settle();
    pair.called.settle();
}

/// The diversion of a call that is valid without it: not waited for, but there for the next call.
#[test]
fn a_chain_that_no_call_waits_for_is_fetched_beside() {
    let world = World::new();
    let invite = carols(&world, &|_| {}).invite.text;
    let mut policy = Policy { accept_plain_stir: true, ..Policy::vesper() };
    policy.modes.set(Check::Replay, Mode::Off);
    let mut config = world.config();
    config.trunks[0].verify = Some(policy);
    let mut far = Rig::trusting(config, world.trust());
    let mut receive = |name: &str| {
        let text =
            invite.replace("branch=z9hG4bK", &format!("branch=z9hG4bK{name}")).replace("c1@", &format!("{name}@"));
        let (sent, needs) = far.receive_all(Transport::Udp, 0, CALLER, &text);
        assert_eq!(requests(&sent, "INVITE").len(), 1, "it goes on at once");
        let verdict = far.events.drain(..).find_map(|event| match event {
            Event::Verified { verdict, .. } => Some(verdict),
            _ => None,
        });
        for need in &needs {
            far.provide(need.id, world.fetched());
        }
        (verdict.unwrap().retarget(), needs.len())
    };
    assert_eq!(receive("one"), (Some(Retarget::Unproven), 1));
    assert_eq!(receive("two"), (Some(Retarget::Proven), 0));
    far.settle();
}
