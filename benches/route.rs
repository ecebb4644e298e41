//! What a route costs as its prefix table grows from 10 to 1,000,000 prefixes: the look-up alone, and a whole INVITE through the proxy; what it costs
//! to find the signer of a number.
#![allow(missing_docs)] // criterion's macros

use std::cell::LazyCell;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vesperd::proxy::route::prefix::{Prefix, PrefixRoute, PrefixTable};
use vesperd::proxy::route::table::Action;
use vesperd::proxy::signing::table::{Entry, Numbers, SigningRow, SigningTable};
use vesperd::proxy::{Config, Listener, NextHop, Now, Output, Proxy, Route, Snapshot, Trunk, TrunkId};
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::{IdentitySource, TrustStore};

/// The largest is for measuring, not for seeing that the bench runs.
const SIZES: &[usize] = if cfg!(debug_assertions) { &[10, 1_000] } else { &[10, 1_000, 100_000, 1_000_000] };
/// The same for numbers that have a signer.
const NUMBERS: &[usize] = if cfg!(debug_assertions) { &[1, 1_000] } else { &[1, 1_000, 1_000_000] };
const CALLER: ([u8; 4], u16) = ([192, 0, 2, 10], 5060);
const CALLEE: ([u8; 4], u16) = ([198, 51, 100, 20], 5060);

/// Spread evenly, the same in every run.
fn numbers() -> impl Iterator<Item = u64> + Clone {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// The nine first digits, and prefixes of 4 to 9 digits: more of them are long, as in a table of real numbers.
fn table(size: usize) -> PrefixTable {
    let random = numbers().map(|n| (1_000_000_000 + n % 8_999_999_999, n >> 40));
    let random = random.map(|(digits, n)| digits.to_string()[..[4, 6, 7, 7, 8, 8, 9, 9][n as usize % 8]].to_owned());
    let mut seen = std::collections::BTreeSet::new();
    seen.extend((1..10).map(|n: u32| n.to_string()));
    for digits in random {
        if seen.len() >= size {
            break;
        }
        seen.insert(digits);
    }
    let prefixes = seen.iter().zip(2..).filter_map(|(digits, line)| Prefix::new(digits, line % 4, line)).collect();
    let routes = (0..4).map(|_| PrefixRoute { to: vec![TrunkId(1)], ..PrefixRoute::default() }).collect();
    PrefixTable::new("t".into(), routes, prefixes).expect("no prefix twice")
}

fn lookup(c: &mut Criterion) {
    let called: Vec<String> =
        numbers().skip(7).take(4096).map(|n| (100_000_000_000 + n % 899_999_999_999).to_string()).collect();
    let mut group = c.benchmark_group("longest_prefix");
    for &size in SIZES {
        let table = LazyCell::new(|| {
            let table = table(size);
            eprintln!("{} prefixes: {} octets", table.len(), table.memory());
            table
        });
        let mut next = called.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(table.find(next.next().expect("endless"))).is_some());
        });
    }
    group.finish();
}

/// Ten digits, of as many numbers of the signing table.
fn known(size: usize) -> impl Iterator<Item = u64> + Clone {
    numbers().map(|n| 1_000_000_000 + n % 8_999_999_999).take(size)
}

/// Numbers of eleven digits, half of them in ranges of ten, and a few prefixes.
fn signing_table(size: usize) -> SigningTable {
    let seen: std::collections::BTreeSet<u64> = known(size).collect();
    let texts = seen.iter().enumerate().map(|(n, number)| match n % 2 {
        0 => format!("+{number}0"),
        _ => format!("+{number}0-+{number}9"),
    });
    let prefixes = (1..10).map(|n: u32| format!("+{n}*"));
    let entries = texts.chain(prefixes).zip(0..).map(|(text, line)| Entry {
        numbers: Numbers::parse(&text).expect("numbers"),
        row: line % 4,
        line,
    });
    let rows = (0..4).map(|n| SigningRow { signer: Some(n), ..SigningRow::default() }).collect();
    SigningTable::new("t".into(), IdentitySource::From, rows, entries.collect()).expect("no row twice")
}

/// Every second number is in the table, the others are found by prefix.
fn signer(c: &mut Criterion) {
    const ASKED: usize = 1 << 16;
    let mut group = c.benchmark_group("signer_of_a_number");
    for &size in NUMBERS {
        let others = numbers().skip(7).map(|n| 10_000_000_000 + n % 89_999_999_999);
        let known = known(size).cycle().map(|number| number * 10);
        let calling: Vec<String> =
            known.zip(others).flat_map(|(known, other)| [known, other]).take(ASKED).map(|n| n.to_string()).collect();
        let table = LazyCell::new(|| {
            let table = signing_table(size);
            eprintln!("{} rows: {} octets", table.len(), table.memory());
            table
        });
        let mut next = calling.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(table.find(next.next().expect("endless"))).is_some());
        });
    }
    group.finish();
}

fn config(table: PrefixTable) -> Config {
    let trunk = |name: &str, remote: ([u8; 4], u16)| Trunk {
        name: name.into(),
        next_hops: vec![NextHop { transport: Transport::Udp, remote: remote.into() }.into()],
        ..Trunk::default()
    };
    Config {
        listeners: vec![Listener {
            name: "udp".into(),
            transport: Transport::Udp,
            bind: SocketAddr::from(([192, 0, 2, 1], 5060)),
            advertise_host: "192.0.2.1".into(),
            advertise_port: 5060,
            names: Vec::new(),
        }],
        trunks: vec![trunk("caller", CALLER), trunk("callee", CALLEE)],
        routes: vec![Route { from: vec![TrunkId(0)], action: Action::Table(0), ..Route::default() }],
        prefix_tables: vec![table],
        ..Config::default()
    }
}

/// An INVITE for a number, and its 486 and ACK, so that the tables of the proxy stay small.
fn invite(c: &mut Criterion) {
    let mut group = c.benchmark_group("refused_invite_by_table");
    for &size in SIZES {
        #[allow(clippy::disallowed_methods)] // the clock of the bench begins anywhere
        let mut now = Now { instant: Instant::now(), unix: 1_795_219_200 };
        let mut proxy = None; // made when it is measured
        let (mut index, mut out, mut random, mut n) = (Index::new(), Output::default(), numbers(), 0u64);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            let proxy = proxy.get_or_insert_with(|| {
                let (config, trust) = (config(table(size)), TrustStore::default());
                Proxy::new(Arc::new(Snapshot { config, trust, replay: ReplayTable::default() }), [7; 32], now)
            });
            b.iter(|| {
                n += 1;
                now.instant += Duration::from_micros(200);
                let called = 100_000_000_000 + random.next().expect("endless") % 899_999_999_999;
                let text = format!(
                    "INVITE sip:+{called}@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{n}\r\nMax-Forwards: 70\r\n\
                     From: <sip:+12015550100@192.0.2.10>;tag=a{n}\r\nTo: <sip:+{called}@192.0.2.1>\r\nCall-ID: c{n}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
                );
                out.outbox.clear();
                if proxy.poll_timeout().is_some_and(|at| at <= now.instant) {
                    proxy.handle_timeout(now, &mut out);
                }
                let mut receive = |from: ([u8; 4], u16), text: &[u8]| {
                    let source = Hop { transport: Transport::Udp, local: ListenerId(0), remote: from.into(), connection: None, peer: None };
                    out.outbox.clear();
                    let message = sip::parse(text, &mut index, Framing::Datagram, &Limits::default()).expect("well formed");
                    proxy.handle_message(now, source, message, &mut out);
                    out.outbox.items().last().map(|t| out.outbox.bytes_of(t).to_vec()).expect("something is sent")
                };
                let forwarded = receive(CALLER, text.as_bytes());
                let mut seen = Index::new();
                let forwarded = sip::parse(&forwarded, &mut seen, Framing::Datagram, &Limits::default()).expect("well formed");
                let mut busy = Vec::new();
                sip::respond::write(forwarded, CALLER.into(), 486, "Busy Here", Some(b"b"), b"", &mut busy);
                black_box(receive(CALLEE, &busy).len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, signer, invite);
criterion_main!(benches);
