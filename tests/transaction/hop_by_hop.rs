//! ACK to 300-699 (RFC 3261 17.1.1.3) and CANCEL (9.1, K-2, K-3).

use super::{Bench, Client, hop, ms};
use crate::support::message::{Request, message, response_to};
use vesperd::sip::{Method, Name, Transport};
use vesperd::transaction::{CancelResult, RequestMatch, ResponseMatch};

/// An INVITE as a proxy sends it: two Vias, Routes on two lines, and what an ACK or CANCEL must not repeat.
const LINES: &str = "Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKupstream\r\n\
                     Route: <sip:p1.example;lr>, <sip:p2.example;lr>\r\nRoute: <sip:p3.example;lr>\r\n\
                     Require: 100rel\r\nProxy-Require: foo\r\nContact: <sip:alice@192.0.2.1>\r\n";

fn send(bench: &mut Bench) -> Client {
    let (id, branch) = bench.layer.reserve_client(7, 0).unwrap();
    let branch = String::from_utf8(branch.to_vec()).unwrap();
    let request = Request {
        transport: bench.transport,
        branch,
        cseq: 4_294_967_295,
        lines: LINES.into(),
        body: "v=0\r\n".into(),
        ..Request::default()
    };
    let bytes = request.to_bytes();
    bench.layer.send_request(bench.now, id, Method::Invite, hop(bench.transport), &bytes, &mut bench.out);
    bench.sent();
    Client { id, request: message(&bytes) }
}

/// Everything the two requests have in common.
fn check(bytes: &[u8], invite: &Client, method: &str, to: &str) {
    let (made, invite) = (message(bytes), invite.request.message());
    let made = made.message();
    assert!(made.fault().is_none() && made.check_request().is_ok());
    assert_eq!(made.method().unwrap().as_bytes(), method.as_bytes());
    assert_eq!(made.request_uri(), invite.request_uri());
    let vias: Vec<_> = made.values(Name::Via).map(|v| v.value).collect();
    assert_eq!(vias, [invite.values(Name::Via).next().unwrap().value], "the top Via alone");
    let routes: Vec<_> = made.values(Name::Route).map(|v| v.value).collect();
    assert_eq!(routes, [&b"<sip:p1.example;lr>"[..], b"<sip:p2.example;lr>", b"<sip:p3.example;lr>"]);
    assert_eq!(made.field(Name::From).unwrap().value(), invite.field(Name::From).unwrap().value());
    assert_eq!(made.field(Name::To).unwrap().value(), to.as_bytes());
    assert_eq!(made.call_id(), invite.call_id());
    assert_eq!(made.field(Name::CSeq).unwrap().value(), format!("4294967295 {method}").as_bytes());
    assert_eq!(made.max_forwards(), Ok(Some(70)));
    assert_eq!(made.content_length(), Some(0));
    for absent in [Name::Require, Name::ProxyRequire, Name::Contact] {
        assert!(made.field(absent).is_none(), "{absent:?}");
    }
}

#[test]
fn the_ack_repeats_the_invite_and_the_to_of_the_response() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut bench = Bench::new(transport);
        let client = send(&mut bench);
        bench.respond_to(&client, 486);
        let sent = bench.sent_bytes();
        assert_eq!(sent.len(), 1);
        check(&sent[0], &client, "ACK", "<sip:bob@biloxi.example>;tag=314159");
        if transport == Transport::Udp {
            bench.respond_to(&client, 486);
            assert_eq!(bench.sent_bytes(), sent, "a retransmitted response gets the same ACK");
        }
    }
}

#[test]
fn the_cancel_repeats_the_invite() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut bench = Bench::new(transport);
        let client = send(&mut bench);
        bench.respond_to(&client, 180);
        let reason = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";
        assert_eq!(bench.layer.cancel(bench.now, client.id, reason, &mut bench.out), CancelResult::Sent);
        let sent = bench.sent_bytes();
        assert_eq!(sent.len(), 1);
        check(&sent[0], &client, "CANCEL", "<sip:bob@biloxi.example>");
        let made = message(&sent[0]);
        let reason = made.message().field(Name::Reason).unwrap().value().to_vec();
        assert_eq!(reason, b"SIP;cause=200;text=\"Call completed elsewhere\"");
        assert_eq!(bench.layer.cancel(bench.now, client.id, b"", &mut bench.out), CancelResult::Sent);
        assert!(bench.sent().is_empty(), "one CANCEL per INVITE");
    }
}

#[test]
fn a_cancel_waits_for_a_provisional_and_keeps_its_lines() {
    let mut bench = Bench::new(Transport::Udp);
    let client = send(&mut bench);
    for _ in 0..2 {
        let result = bench.layer.cancel(bench.now, client.id, b"Reason: Q.850;cause=16\r\n", &mut bench.out);
        assert_eq!(result, CancelResult::Deferred);
    }
    assert!(bench.sent().is_empty());
    assert!(matches!(bench.respond_to(&client, 100), ResponseMatch::Deliver { .. }));
    let sent = bench.sent_bytes();
    assert_eq!(sent.len(), 1);
    assert!(String::from_utf8_lossy(&sent[0]).contains("\r\nReason: Q.850;cause=16\r\n"));
}

#[test]
fn a_final_response_makes_a_deferred_cancel_void() {
    for status in [200, 486] {
        let mut bench = Bench::new(Transport::Udp);
        let client = send(&mut bench);
        bench.layer.cancel(bench.now, client.id, b"", &mut bench.out);
        bench.respond_to(&client, status);
        assert!(!bench.sent().iter().any(|line| line.starts_with("CANCEL")));
        assert_eq!(bench.layer.cancel(bench.now, client.id, b"", &mut bench.out), CancelResult::TooLate);
        bench.run_out();
        assert_eq!((bench.events(), bench.live()), (vec!["Gone"], 0));
    }
}

/// A CANCEL under way on UDP, its octets sent.
fn cancelled(bench: &mut Bench) -> (Client, Vec<u8>) {
    let client = send(bench);
    bench.respond_to(&client, 180);
    bench.layer.cancel(bench.now, client.id, b"", &mut bench.out);
    let cancel = bench.sent_bytes().pop().unwrap();
    (client, cancel)
}

#[test]
fn the_cancel_is_a_transaction_of_its_own_that_tells_nobody() {
    let mut bench = Bench::new(Transport::Udp);
    let (client, cancel) = cancelled(&mut bench);
    assert_eq!(bench.layer.live(), (0, 2));
    bench.advance(ms(1_600));
    assert_eq!(bench.sent_bytes(), [cancel.clone(), cancel.clone()], "Timer E");
    let ok = response_to(message(&cancel).message(), 200, "314159");
    assert_eq!(bench.receive_response(&ok), ResponseMatch::Absorbed);
    assert_eq!(bench.receive_response(&ok), ResponseMatch::Absorbed);
    bench.advance(ms(5_000));
    assert_eq!((bench.layer.live(), bench.events(), bench.sent()), ((0, 1), vec![], vec![]), "Timer K");
    assert!(matches!(bench.respond_to(&client, 487), ResponseMatch::Deliver { .. }));
    assert_eq!(bench.sent().len(), 1, "the ACK to the 487");
    bench.run_out();
    assert_eq!((bench.events(), bench.live(), bench.layer.timers()), (vec!["Gone"], 0, 0));
}

#[test]
fn k3_a_cancelled_invite_without_a_final_ends_after_64_t1() {
    let mut bench = Bench::new(Transport::Udp);
    let (client, cancel) = cancelled(&mut bench);
    let ok = response_to(message(&cancel).message(), 200, "314159");
    bench.receive_response(&ok);
    bench.advance(ms(10_000));
    // Another provisional response does not give it more time.
    assert!(matches!(bench.respond_to(&client, 183), ResponseMatch::Deliver { .. }));
    bench.advance(ms(21_990));
    assert_eq!(bench.events(), Vec::<&str>::new());
    bench.advance(ms(10));
    assert_eq!((bench.events(), bench.live()), (vec!["CancelTimedOut", "Gone"], 0));
    assert_eq!(bench.respond_to(&client, 487), ResponseMatch::Unmatched);
}

#[test]
fn a_cancel_nobody_answers_ends_with_its_invite() {
    let mut bench = Bench::new(Transport::Udp);
    cancelled(&mut bench);
    let copies = bench.run_out().len();
    assert_eq!((copies, bench.events(), bench.live()), (10, vec!["CancelTimedOut", "Gone"], 0));
    assert_eq!(bench.layer.timers(), 0);
}

#[test]
fn k6_a_2xx_that_crosses_the_cancel_is_delivered() {
    let mut bench = Bench::new(Transport::Tcp);
    let (client, _) = cancelled(&mut bench);
    assert!(matches!(bench.respond_to(&client, 200), ResponseMatch::Deliver { .. }));
    bench.run_out();
    assert_eq!((bench.events(), bench.live(), bench.layer.timers()), (vec!["Gone"], 0, 0));
}

#[test]
fn only_an_invite_is_cancelled() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("OPTIONS");
    bench.respond_to(&client, 100);
    assert_eq!(bench.layer.cancel(bench.now, client.id, b"", &mut bench.out), CancelResult::TooLate);
    let (reserved, _) = bench.layer.reserve_client(1, 2).unwrap();
    assert_eq!(bench.layer.cancel(bench.now, reserved, b"", &mut bench.out), CancelResult::TooLate);
}

#[test]
fn a_received_cancel_names_its_invite_once_and_its_copies_are_answered() {
    let mut bench = Bench::new(Transport::Udp);
    let invite = Request::default();
    let cancel = Request { method: "CANCEL".into(), ..invite.clone() };
    assert_eq!(bench.receive(&cancel), RequestMatch::UnmatchedCancel);
    let server = bench.open(&invite);
    assert_eq!(bench.receive(&cancel), RequestMatch::Cancel { invite: server, user: 9 });
    let own = bench.open(&cancel);
    assert_eq!(bench.receive(&cancel), RequestMatch::Absorbed);
    assert!(bench.sent().is_empty(), "not answered yet");
    bench.answer(own, &cancel, 200);
    assert_eq!(bench.receive(&cancel), RequestMatch::Absorbed);
    assert_eq!(bench.sent(), ["SIP/2.0 200 Said So", "SIP/2.0 200 Said So"]);
    bench.answer(server, &invite, 487);
    assert_eq!(bench.receive(&Request { branch: "z9hG4bKother".into(), ..cancel }), RequestMatch::UnmatchedCancel);
    bench.run_out();
    assert_eq!(bench.live(), 0);
}
