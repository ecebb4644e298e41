//! Whatever happens in whatever order: every transaction ends once, nothing is left, and no memory grows in steady state.

use super::{Bench, Client, ack_of, ms};
use crate::support::message::Request;
use proptest::prelude::*;
use std::collections::BTreeMap;
use vesperd::sip::Transport;
use vesperd::transaction::{Event, ServerId};

#[derive(Debug, Clone)]
enum Step {
    Send { invite: bool },
    Response { client: usize, status: u16 },
    Cancel { client: usize },
    Abandon { client: usize },
    FailClient { client: usize },
    Request { branch: u8, method: u8 },
    Answer { server: usize, status: u16 },
    FailServer { server: usize },
    Reserve { release: bool },
    Wait { millis: u64 },
}

fn status() -> impl Strategy<Value = u16> {
    prop_oneof![Just(100u16), Just(180), Just(183), Just(200), Just(299), Just(302), Just(408), Just(487), Just(699)]
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..64;
    prop_oneof![
        2 => any::<bool>().prop_map(|invite| Step::Send { invite }),
        5 => (n.clone(), status()).prop_map(|(client, status)| Step::Response { client, status }),
        2 => n.clone().prop_map(|client| Step::Cancel { client }),
        1 => n.clone().prop_map(|client| Step::Abandon { client }),
        1 => n.clone().prop_map(|client| Step::FailClient { client }),
        5 => (0u8..4, 0u8..4).prop_map(|(branch, method)| Step::Request { branch, method }),
        4 => (n.clone(), status()).prop_map(|(server, status)| Step::Answer { server, status }),
        1 => n.prop_map(|server| Step::FailServer { server }),
        1 => any::<bool>().prop_map(|release| Step::Reserve { release }),
        4 => prop_oneof![0u64..100, 100u64..40_000].prop_map(|millis| Step::Wait { millis }),
    ]
}

/// A bench that remembers what it opened and counts how each ended.
struct Run {
    bench: Bench,
    clients: Vec<Client>,
    servers: Vec<(ServerId, Request)>,
    ended: BTreeMap<u64, u32>,
}

impl Run {
    fn new(transport: Transport) -> Self {
        Self { bench: Bench::new(transport), clients: Vec::new(), servers: Vec::new(), ended: BTreeMap::new() }
    }

    fn take(&mut self, step: &Step) {
        let bench = &mut self.bench;
        let client = |n: &usize| self.clients.get(n % self.clients.len().max(1));
        let server = |n: &usize| self.servers.get(n % self.servers.len().max(1));
        match step {
            Step::Send { invite } => {
                let client = bench.send(if *invite { "INVITE" } else { "OPTIONS" });
                self.clients.push(client);
            }
            Step::Response { client: n, status } => {
                if let Some(client) = client(n) {
                    bench.respond_to(client, *status);
                }
            }
            Step::Cancel { client: n } => {
                if let Some(client) = client(n) {
                    bench.layer.cancel(bench.now, client.id, b"Reason: SIP\r\n", &mut bench.out);
                }
            }
            Step::Abandon { client: n } => {
                if let Some(client) = client(n) {
                    bench.layer.abandon(client.id);
                }
            }
            Step::FailClient { client: n } => {
                if let Some(client) = client(n) {
                    bench.layer.transport_failed(bench.now, client.id.tag());
                }
            }
            Step::Request { branch, method } => {
                let method = ["INVITE", "OPTIONS", "CANCEL", "ACK"][usize::from(*method)];
                let request = Request {
                    method: method.into(),
                    // One branch in four is of RFC 2543.
                    branch: format!("{}{branch}", if *branch == 0 { "" } else { "z9hG4bK" }),
                    transport: bench.transport,
                    ..Request::default()
                };
                use vesperd::transaction::RequestMatch::{Cancel, New, UnmatchedCancel};
                if method == "ACK" {
                    bench.receive(&ack_of(&request));
                } else if matches!(bench.receive(&request), New | Cancel { .. } | UnmatchedCancel) {
                    let server = bench.open(&request);
                    self.servers.push((server, request));
                }
            }
            Step::Answer { server: n, status } => {
                if let Some((server, request)) = server(n) {
                    bench.answer(*server, request, *status);
                }
            }
            Step::FailServer { server: n } => {
                if let Some((server, _)) = server(n) {
                    bench.layer.transport_failed(bench.now, server.tag());
                }
            }
            Step::Reserve { release } => {
                let (id, _) = bench.layer.reserve_client(1, 2).unwrap();
                if !release {
                    bench.layer.send_request(
                        bench.now,
                        id,
                        vesperd::sip::Method::Invite,
                        super::hop(bench.transport),
                        b"not a message",
                        &mut bench.out,
                    );
                    bench.layer.abandon(id);
                    bench.layer.transport_failed(bench.now, id.tag());
                }
                bench.layer.release_client(id);
            }
            Step::Wait { millis } => bench.advance(ms(*millis)),
        }
        bench.sent();
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(event) = self.bench.layer.poll_event() {
            let id = match event {
                Event::ClientGone { client, .. } => client.tag(),
                Event::ServerGone { server, .. } => server.tag(),
                _ => continue,
            };
            *self.ended.entry(id).or_default() += 1;
        }
    }

    /// What a user does at last: an answer to every INVITE, a CANCEL for every INVITE sent.
    fn finish(&mut self) {
        let bench = &mut self.bench;
        for (server, request) in &self.servers {
            bench.answer(*server, request, 487);
        }
        for client in &self.clients {
            bench.layer.cancel(bench.now, client.id, b"", &mut bench.out);
        }
        bench.sent();
        bench.advance(ms(100_000));
        self.collect();
    }
}

/// One INVITE through both sides: received, answered, sent, rejected, acknowledged; then everything runs out.
fn one_round(bench: &mut Bench, n: u32) {
    let invite = Request { branch: format!("z9hG4bK{n}"), body: "v".repeat(300), ..Request::default() };
    let server = bench.open(&invite);
    bench.answer(server, &invite, 100);
    let client = bench.send("INVITE");
    bench.respond_to(&client, 180);
    bench.answer(server, &invite, 180);
    bench.layer.cancel(bench.now, client.id, b"Reason: SIP;cause=600\r\n", &mut bench.out);
    bench.respond_to(&client, 487);
    bench.answer(server, &invite, 487);
    bench.receive(&ack_of(&invite));
    bench.sent();
    bench.events();
}

#[test]
fn steady_state_makes_no_buffers() {
    let mut bench = Bench::new(Transport::Udp);
    let round = |bench: &mut Bench, n: u32| {
        (0..20).for_each(|m| one_round(bench, 20 * n + m));
        bench.run_out();
        assert_eq!(bench.live(), 0);
        bench.events();
    };
    round(&mut bench, 0);
    let made = bench.layer.buffers_made();
    (1..50).for_each(|n| round(&mut bench, n));
    assert_eq!(bench.layer.buffers_made(), made);
    assert!(made > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_transaction_ends_once_and_leaves_nothing(
        reliable in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new(if reliable { Transport::Tcp } else { Transport::Udp });
        for step in &steps {
            run.take(step);
        }
        run.finish();
        prop_assert_eq!(run.bench.layer.live(), (0, 0));
        prop_assert_eq!(run.bench.layer.timers(), 0);
        prop_assert_eq!(run.bench.layer.poll_timeout(), None);
        prop_assert!(run.ended.values().all(|&times| times == 1));
        for id in run.clients.iter().map(|c| c.id.tag()).chain(run.servers.iter().map(|s| s.0.tag())) {
            prop_assert_eq!(run.ended.get(&id), Some(&1));
        }
    }
}
