//! Verifying and signing one INVITE with a VESPER token, beside the bare cryptographic operation over the same octets.
#![allow(missing_docs)] // criterion's macros

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, ParsedPublicKey};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use vesperd::cert::{Certificate, LogState, TrustStore};
use vesperd::passport::{Token, jws};
use vesperd::sip::identity::IdentityValue;
use vesperd::sip::{Framing, Index, Limits, Message, Name, parse};
use vesperd::stir::authentication::{Signer, SignerConfig};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{Outcome, Policy, Profile, Verifier, VerifierConfig};

#[allow(dead_code)]
#[path = "../tests/stir/bombs.rs"]
mod bombs;
#[allow(dead_code)]
#[path = "../tests/certificate/support.rs"]
mod pki;
use pki::{HOUR, Hierarchy, NOW, TestLog, range, vesper_params};

const X5U: &str = "https://exampleretail.example/sti/leaf.pem";
/// Calls with different tokens, so that the replay table works as it does in service.
const CALLS: usize = 1024;

struct World {
    trust: TrustStore,
    signer: Signer,
    key: Vec<u8>,
    unsigned: Vec<u8>,
    calls: Vec<Vec<u8>>,
}

fn invite(call: usize, lines: &str) -> Vec<u8> {
    format!(
        "INVITE sip:+12155551213@b.example;user=phone SIP/2.0\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bK{call}\r\n\
Max-Forwards: 70\r\nFrom: <sip:+12015550100@a.example;user=phone>;tag=1\r\n\
To: <sip:+1215555{call:04}@b.example;user=phone>\r\nCall-ID: {call}@host.example\r\nCSeq: 1 INVITE\r\n\
{lines}Contact: <sip:a.example;transport=tcp>\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn with<T>(octets: &[u8], f: impl FnOnce(Message<'_>) -> T) -> T {
    let mut index = Index::new();
    let message = parse(octets, &mut index, Framing::Stream, &Limits::default()).expect("a request");
    f(message)
}

fn world() -> World {
    let log = TestLog::new();
    let hierarchy = Hierarchy::new();
    let params = vesper_params(&[range("12015550100", 10)]);
    let sct = u64::try_from((NOW - HOUR) * 1000).expect("after 1970");
    let leaf = hierarchy.intermediate.issue_logged(params, &[&log], sct, 0);
    let mut trust = hierarchy.store.clone();
    trust.logs.add("example", log.listed(LogState::Usable(0))).expect("new log");
    let key = leaf.key.serialize_der();
    let config = SignerConfig::new(Profile::Vesper, hierarchy.chain(&leaf), key.clone(), X5U);
    let signer = Signer::new(config).expect("a VESPER credential");
    let sign = |call: usize| {
        let mut lines = Vec::new();
        with(&invite(call, ""), |request| signer.sign(NOW, request, [0; 16], &mut lines)).expect("signs");
        invite(call, &String::from_utf8(lines).expect("ASCII"))
    };
    let calls = (0..CALLS).map(sign).collect();
    World { trust, unsigned: invite(1, ""), calls, key, signer }
}

fn verify(verifier: &mut Verifier, world: &World, replay: &ReplayTable, request: Message<'_>) {
    match verifier.verify(NOW, &Policy::vesper(), &world.trust, Some(replay), request) {
        Outcome::Done(verdict) => assert!(verdict.is_valid()),
        Outcome::Need { x5u } => panic!("needs {x5u}"),
    }
}

/// A signing input and its signature.
type Signed = (Vec<u8>, [u8; 64]);

/// The signing input and signature of each call, and the key: what the bare operation works on.
fn bare(world: &World) -> (ParsedPublicKey, Vec<Signed>) {
    let mut key = None;
    let each = |octets: &Vec<u8>| {
        with(octets, |request| {
            let field = request.field(Name::Identity).expect("signed");
            let value = IdentityValue::parse(field.value(), field.value_range.clone()).expect("own output");
            let Ok(Token::Full(token)) = Token::parse(value.digest, &Default::default()) else { panic!("own output") };
            if key.is_none() {
                let header = vesperd::passport::ProtectedHeader::parse(token.header, &Default::default()).expect("own");
                let leaf = Certificate::from_der(&header.x5c[0]).expect("own output");
                let point = leaf.es256_point().expect("P-256").to_vec();
                key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok();
            }
            (token.signing_input.to_vec(), jws::decode_signature(token.signature).expect("64 octets"))
        })
    };
    let inputs = world.calls.iter().map(each).collect();
    (key.expect("at least one call"), inputs)
}

fn verification(c: &mut Criterion) {
    let world = world();
    let (key, inputs) = bare(&world);
    let mut group = c.benchmark_group("stir_verify");
    group.bench_function("bare_ecdsa", |b| {
        let mut calls = inputs.iter().cycle();
        b.iter(|| {
            let (input, signature) = calls.next().expect("endless");
            key.verify_sig(black_box(input), black_box(signature)).expect("good signature");
        });
    });
    group.bench_function("warm", |b| {
        let mut indexes: Vec<Index> = world.calls.iter().map(|_| Index::new()).collect();
        let limits = Limits::default();
        let requests: Vec<Message<'_>> = world
            .calls
            .iter()
            .zip(&mut indexes)
            .map(|(octets, index)| parse(octets, index, Framing::Stream, &limits).expect("a request"))
            .collect();
        let mut verifier = Verifier::new(VerifierConfig::default(), [1; 16]);
        let mut replay = ReplayTable::default();
        verify(&mut verifier, &world, &replay, requests[0]);
        let mut next = 0;
        b.iter(|| {
            if next == requests.len() {
                (replay, next) = (ReplayTable::default(), 0);
            }
            verify(&mut verifier, &world, &replay, black_box(requests[next]));
            next += 1;
        });
    });
    group.bench_function("cold", |b| {
        let replay = ReplayTable::default();
        with(&world.calls[0], |request| {
            b.iter_batched_ref(
                || Verifier::new(VerifierConfig::default(), [1; 16]),
                |verifier| verify(verifier, &world, &replay, black_box(request)),
                BatchSize::SmallInput,
            );
        });
    });
    group.finish();
}

/// What hostile requests cost, beside one good verification without any cache. The ratios are in docs/stir-conformance.md.
fn hostile(c: &mut Criterion) {
    let hierarchy = Hierarchy::new();
    let leaf = hierarchy.intermediate.issue(pki::shaken_params());
    let mut group = c.benchmark_group("stir_hostile");
    let mut measure = |name: &str, octets: &[u8]| {
        bombs::wide(octets, |request| {
            group.bench_function(name, |b| {
                b.iter_batched_ref(
                    || Verifier::new(VerifierConfig::default(), [1; 16]),
                    |verifier| verifier.verify(NOW, &Policy::shaken(), &hierarchy.store, None, black_box(request)),
                    BatchSize::SmallInput,
                );
            });
        });
    };
    measure("one good call", &bombs::good(&hierarchy, &leaf));
    for (name, octets) in bombs::all(&hierarchy, &leaf) {
        measure(name, &octets);
    }
    group.finish();
}

fn signing(c: &mut Criterion) {
    let world = world();
    let (_, inputs) = bare(&world);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &world.key).expect("own key");
    let mut group = c.benchmark_group("stir_sign");
    group.bench_function("bare_ecdsa", |b| {
        b.iter(|| pair.sign(&SystemRandom::new(), black_box(&inputs[0].0)).expect("signs"));
    });
    group.bench_function("identity_and_date_lines", |b| {
        let mut lines = Vec::with_capacity(8192);
        with(&world.unsigned, |request| {
            b.iter(|| {
                lines.clear();
                world.signer.sign(NOW, black_box(request), [7; 16], &mut lines).expect("signs");
            });
        });
    });
    group.finish();
}

/// The requirement is a ratio: a warm verification and the bare one in alternating rounds, so that whatever disturbs the machine
/// disturbs both.
#[allow(clippy::disallowed_methods)] // a benchmark reads the clock
fn ratio(_: &mut Criterion) {
    let is_given = |flag: &str| std::env::args().any(|arg| arg == flag);
    if !is_given("--bench") || is_given("--profile-time") {
        return; // run as a test, or under a profiler
    }
    let world = world();
    let (key, inputs) = bare(&world);
    let limits = Limits::default();
    let mut indexes: Vec<Index> = world.calls.iter().map(|_| Index::new()).collect();
    let octets = world.calls.iter().zip(&mut indexes);
    let requests: Vec<Message<'_>> =
        octets.map(|(octets, index)| parse(octets, index, Framing::Stream, &limits).expect("a request")).collect();
    let mut verifier = Verifier::new(VerifierConfig::default(), [1; 16]);
    verify(&mut verifier, &world, &ReplayTable::default(), requests[0]);
    let mut shortest = [f64::MAX; 2];
    for _ in 0..20 {
        let replay = ReplayTable::default();
        for (requests, inputs) in requests.chunks(16).zip(inputs.chunks(16)) {
            let start = std::time::Instant::now();
            inputs.iter().for_each(|(input, signature)| key.verify_sig(black_box(input), signature).expect("good"));
            let middle = std::time::Instant::now();
            requests.iter().for_each(|request| verify(&mut verifier, &world, &replay, black_box(*request)));
            let took = [middle - start, middle.elapsed()].map(|time| time.as_secs_f64() * 1e6 / requests.len() as f64);
            shortest = [shortest[0].min(took[0]), shortest[1].min(took[1])];
        }
    }
    let [bare, warm] = shortest;
    println!(
        "shortest rounds: bare ECDSA {bare:.1} us, warm verification {warm:.1} us, {:.2} times as long",
        warm / bare
    );
}

criterion_group!(benches, verification, hostile, signing, ratio);
criterion_main!(benches);
