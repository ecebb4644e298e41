//! Questions from beside the calls, in the proxy core: what they wait for and for how long, and what else is learnt from them.

#[allow(dead_code)]
#[path = "certificate/support.rs"]
mod pki;
#[allow(dead_code)]
#[path = "stir/support.rs"]
mod stir;
mod support;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pki::{Authority, NOW, ca_params, crl_point, shaken_params, subject_of};
use serde_json::{Value, json};
use stir::{CALLEE, CALLER, Credential, identity};
use support::rig::{Rig, listener, trunk};
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::proxy::service::{Duty, Kind, Question, Replied, Reply, Service};
use vesperd::proxy::{Answer, Config, Event, Need, NeedKind, Output, Residue, SignatureFailure, Snapshot, TrunkId};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::authentication::{SignError, Signer, SignerConfig};
use vesperd::stir::facts::{Facts, Party};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{FetchFailure, FetchedChain};
use vesperd::stir::{Policy, Profile};

const X5U: &str = "https://certs.example.com/sp.pem";

/// A trunk that signs by a key elsewhere and verifies.
fn rig(credential: &Credential, change: impl FnOnce(&mut Config)) -> Rig {
    let mut signer = SignerConfig::new(Profile::Shaken, credential.chain(), Vec::new(), X5U);
    signer.attestation = Some(Attestation::Full);
    signer.remote_key = Some("module".into());
    let mut config = Config {
        listeners: vec![listener(Transport::Udp, 5060)],
        trunks: vec![trunk("sbc", &["192.0.2.10:5060"])],
        signers: vec![Arc::new(Signer::new(signer).unwrap())],
        signer_names: vec!["sp".into()],
        need_timeout: Duration::from_millis(1300),
        certificate_timeout: Duration::from_millis(400),
        ..Config::default()
    };
    config.trunks[0].sign = Some(0);
    config.trunks[0].verify = Some(Policy::shaken());
    change(&mut config);
    let mut rig = Rig::of(Snapshot { config, trust: credential.trust.clone(), replay: ReplayTable::default() });
    rig.now.unix = NOW;
    rig
}

fn ask(rig: &mut Rig, kind: Kind) -> Output {
    let mut out = Output::default();
    rig.proxy.ask(rig.now, Question { id: 7, trunk: TrunkId(0), label: "asked".into(), kind }, &mut out);
    out
}

fn to_sign() -> Kind {
    let (orig, dest) = (Party::Tn(CALLER.into()), vec![Party::Tn(CALLEE.into())]);
    Kind::Sign(Facts { attest: Attestation::Full, orig, dest, iat: None, origid: None })
}

fn provide(rig: &mut Rig, need: &Need, answer: Answer) -> Output {
    let mut out = Output::default();
    rig.proxy.handle_answer(rig.now, need.id, answer, &mut out);
    out
}

/// What comes out when so much time has passed.
fn pass(rig: &mut Rig, time: Duration) -> Output {
    rig.now.instant += time;
    let mut out = Output::default();
    rig.proxy.handle_timeout(rig.now, &mut out);
    out
}

fn result(out: &mut Output) -> Replied {
    let Some(Reply { id: 7, result }) = out.replies.pop() else { panic!("no reply: {:?}", out.needs) };
    assert!(out.replies.is_empty());
    result
}

fn module(credential: &Credential, need: &Need) -> Answer {
    let NeedKind::Signature { key, input } = &need.kind else { panic!("{need:?}") };
    assert_eq!(&**key, "module");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &credential.key_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), input).unwrap();
    Answer::Signature(Ok(signature.as_ref().try_into().unwrap()))
}

#[test]
fn what_is_to_be_signed_waits_for_the_module() {
    let credential = Credential::shaken();
    let mut rig = rig(&credential, |_| {});
    let out = ask(&mut rig, to_sign());
    assert!(out.replies.is_empty() && out.needs.len() == 1 && rig.proxy.residue().parked == 1);
    assert_eq!(out.needs[0].deadline - rig.now.instant, Duration::from_millis(1300));
    let answer = module(&credential, &out.needs[0]);
    let Replied::Signed(value) = result(&mut provide(&mut rig, &out.needs[0], answer)) else { panic!("not signed") };
    let value = String::from_utf8(value).unwrap();
    let (token, parameters) = value.split_once(';').unwrap();
    assert_eq!(parameters, format!("info=<{X5U}>;alg=ES256;ppt=\"shaken\""));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let leaf = vesperd::cert::Certificate::from_der(&credential.chain()[0]).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, leaf.es256_point().unwrap());
    key.verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    assert_eq!(rig.proxy.residue(), Residue::default());
    assert!(provide(&mut rig, &out.needs[0], Answer::Signature(Err(SignatureFailure::Refused))).replies.is_empty());
}

#[test]
fn without_a_signature_in_time_there_is_an_end_too() {
    let credential = Credential::shaken();
    for how in ["refused", "deadline", "full"] {
        let mut rig = rig(&credential, |config| config.max_parked = if how == "full" { 0 } else { 10 });
        let mut out = ask(&mut rig, to_sign());
        if how != "full" {
            let [need] = &out.needs[..] else { panic!("{how}") };
            assert!(pass(&mut rig, Duration::from_millis(1200)).replies.is_empty(), "there is time");
            out = match how {
                "refused" => provide(&mut rig, need, Answer::Signature(Err(SignatureFailure::Refused))),
                _ => pass(&mut rig, Duration::from_millis(150)),
            };
        }
        assert!(matches!(result(&mut out), Replied::NoSignature), "{how}");
        assert!(
            matches!(&out.events[..], [Event::Unsigned { call_id, error: SignError::Signature, .. }] if **call_id == *b"asked"),
            "{how}"
        );
        assert_eq!(rig.proxy.residue(), Residue::default(), "{how}");
    }
    // What would not be signed anyway asks no module.
    let mut rig = rig(&credential, |config| config.trunks[0].signing.attestation = Some(Attestation::Gateway));
    let mut out = ask(&mut rig, to_sign());
    assert!(out.needs.is_empty() && matches!(result(&mut out), Replied::NotSigned(_)));
}

/// A credential whose certificate names a CRL that nobody has.
fn revocable() -> Credential {
    let crl_signer = Authority::root(ca_params("STI-PA CRL"));
    let mut params = shaken_params();
    params.not_after = params.not_before + time::Duration::days(30);
    params.custom_extensions.push(crl_point("https://crl.example/list.crl", Some(&subject_of(&crl_signer.der))));
    Credential::issue_from(params, &[], NOW)
}

fn to_verify(credential: &Credential, header: &Value) -> Kind {
    let line = identity(&credential.token(header, &stir::claims()));
    Kind::Verify { invite: stir::invite(&[line], ""), knows_call: false }
}

/// A token whose chain has to be fetched.
fn by_url() -> Value {
    json!({"alg": "ES256", "typ": "passport", "x5u": stir::X5U})
}

#[test]
fn a_crl_that_only_a_question_named_is_fetched_for_later() {
    for (credential, lacking) in [(revocable(), 1), (Credential::shaken(), 0)] {
        let mut rig = rig(&credential, |_| {});
        let mut out = ask(&mut rig, to_verify(&credential, &credential.header()));
        let Replied::Judged(verdict) = result(&mut out) else { panic!("not judged") };
        assert!(verdict.is_valid());
        assert_eq!(out.lacking.len(), lacking);

        // The same by SIP redirect.
        let duty = Service { duty: Duty::Verify, no_match: None };
        let mut rig = self::rig(&credential, |config| config.trunks[0].service = Some(duty));
        let line = identity(&credential.token(&credential.header(), &stir::claims()));
        let octets = stir::invite(&[line], "");
        let (mut index, mut out) = (Index::new(), Output::default());
        let message = sip::parse(&octets, &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let remote = "192.0.2.10:5060".parse().unwrap();
        let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None };
        rig.proxy.handle_message(rig.now, source, message, &mut out);
        assert_eq!((rig.proxy.stats().served_verdicts, out.lacking.len()), (1, lacking));
    }
}

#[test]
fn a_question_waits_for_its_certificate_as_long_as_a_call_does() {
    let credential = revocable();
    let mut rig = rig(&credential, |_| {});
    let out = ask(&mut rig, to_verify(&credential, &by_url()));
    let [need] = &out.needs[..] else { panic!("{:?}", out.needs) };
    assert!(matches!(&need.kind, NeedKind::Certificate { x5u } if **x5u == *stir::X5U));
    assert_eq!(need.deadline - rig.now.instant, Duration::from_millis(400), "call_budget_ms, not need_timeout_ms");
    assert!(pass(&mut rig, Duration::from_millis(390)).replies.is_empty());
    let Replied::Judged(verdict) = result(&mut pass(&mut rig, Duration::from_millis(20))) else { panic!("not judged") };
    assert!(!verdict.is_valid());

    // What was too late, or could not be asked for, is not remembered; what comes is, and what that lacks is fetched.
    for failure in [FetchFailure::Timeout, FetchFailure::Busy] {
        let out = ask(&mut rig, to_verify(&credential, &by_url()));
        let mut out = provide(&mut rig, &out.needs[0], Answer::Certificate(Err(failure)));
        assert!(matches!(result(&mut out), Replied::Judged(verdict) if !verdict.is_valid()), "{failure:?}");
    }
    let out = ask(&mut rig, to_verify(&credential, &by_url()));
    let chain = FetchedChain { certificates: credential.chain(), fresh_until: NOW + 3600 };
    let mut out = provide(&mut rig, &out.needs[0], Answer::Certificate(Ok(chain)));
    assert!(matches!(result(&mut out), Replied::Judged(verdict) if verdict.is_valid()));
    assert_eq!(out.lacking.len(), 1);
    assert_eq!(rig.proxy.residue(), Residue::default());
}
