//! Which transaction a message belongs to.

use super::{Bench, ack_of, hop, ms};
use crate::support::message::{Request, message, response_to};
use vesperd::sip::Transport;
use vesperd::sip::hop::Hop;
use vesperd::transaction::branch::loop_hash_of;
use vesperd::transaction::{Config, RequestMatch, ResponseMatch, TableFull};

#[test]
fn x1_a_response_must_repeat_branch_and_method() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("INVITE");
    let good = String::from_utf8(response_to(client.request.message(), 180, "314159")).unwrap();
    for (what, from, to) in [
        ("another method", "CSeq: 1 INVITE", "CSeq: 1 BYE"),
        ("a CANCEL that was not sent", "CSeq: 1 INVITE", "CSeq: 1 CANCEL"),
        ("a method in lower case", "CSeq: 1 INVITE", "CSeq: 1 invite"),
        ("another cookie", "branch=z9hG4bK", "branch=z9hG4bk"),
        ("a foreign branch", "branch=z9hG4bK", "branch=z9hG4bKx"),
        ("no branch", "branch=", "tail="),
    ] {
        assert!(good.contains(from));
        assert_eq!(bench.receive_response(good.replacen(from, to, 1).as_bytes()), ResponseMatch::Unmatched, "{what}");
    }
    let start = good.find("z9hG4bK").unwrap();
    for at in start..start + 57 {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        assert_eq!(bench.receive_response(&bytes), ResponseMatch::Unmatched, "garbled at {}", at - start);
    }
    assert_eq!(bench.layer.stats().unmatched_responses, 6 + 57);
    assert!(bench.events().is_empty());
    assert!(matches!(bench.receive_response(good.as_bytes()), ResponseMatch::Deliver { .. }));
}

#[test]
fn x1_a_response_to_a_reserved_or_ended_transaction_is_unmatched() {
    let mut bench = Bench::new(Transport::Tcp);
    let (reserved, branch) = bench.layer.reserve_client(1, 0).unwrap();
    let branch = String::from_utf8(branch.to_vec()).unwrap();
    let response = response_to(message(&Request { branch, ..Request::default() }.to_bytes()).message(), 200, "x");
    assert_eq!(bench.receive_response(&response), ResponseMatch::Unmatched);
    bench.layer.release_client(reserved);
    assert_eq!(bench.live(), 0);
    // The same place, taken by another.
    let client = bench.send("OPTIONS");
    assert_eq!(bench.receive_response(&response), ResponseMatch::Unmatched);
    assert!(matches!(bench.respond_to(&client, 200), ResponseMatch::Deliver { .. }));
    assert_eq!(bench.respond_to(&client, 200), ResponseMatch::Unmatched);
    assert_eq!(bench.events(), ["Gone"], "once, and none for the one that was released");
}

#[test]
fn the_branch_carries_the_loop_hash() {
    let mut bench = Bench::new(Transport::Udp);
    let (_, branch) = bench.layer.reserve_client(1, 0xfeed_f00d_0000_0001).unwrap();
    assert_eq!(loop_hash_of(&branch), Some(0xfeed_f00d_0000_0001));
    let (_, other) = bench.layer.reserve_client(1, 0xfeed_f00d_0000_0001).unwrap();
    assert_ne!(branch, other);
    assert_eq!(loop_hash_of(b"z9hG4bK74bf9"), None);
}

#[test]
fn x2_c33_two_clients_may_use_one_branch() {
    let mut bench = Bench::new(Transport::Udp);
    let first = Request::default();
    let second = Request { sent_by: "198.51.100.9:5060".into(), call_id: "another".into(), ..Request::default() };
    let third = Request { sent_by: "192.0.2.1:5070".into(), ..Request::default() };
    let servers = [bench.open(&first), bench.open(&second), bench.open(&third)];
    bench.answer(servers[0], &first, 486);
    bench.answer(servers[1], &second, 180);
    bench.sent();
    assert_eq!(bench.receive(&second), RequestMatch::Absorbed);
    assert_eq!(bench.sent(), ["SIP/2.0 180 Said So"]);
    assert_eq!(bench.receive(&ack_of(&first)), RequestMatch::Absorbed);
    bench.answer(servers[1], &second, 200);
    assert_eq!(bench.receive(&ack_of(&second)), RequestMatch::Ack2xx { server: servers[1], user: 9 });
}

#[test]
fn x2_method_port_and_host_in_the_key() {
    let mut bench = Bench::new(Transport::Udp);
    let invite = Request { sent_by: "Alice.Example".into(), ..Request::default() };
    bench.open(&invite);
    for same in ["alice.example", "ALICE.example:5060"] {
        assert_eq!(
            bench.receive(&Request { sent_by: same.into(), ..invite.clone() }),
            RequestMatch::Absorbed,
            "{same}"
        );
    }
    for other in ["alice.example:5061", "alice.example.net", "alic.example"] {
        assert_eq!(bench.receive(&Request { sent_by: other.into(), ..invite.clone() }), RequestMatch::New, "{other}");
    }
    for method in ["BYE", "invite", "OPTIONS"] {
        assert_eq!(bench.receive(&Request { method: method.into(), ..invite.clone() }), RequestMatch::New, "{method}");
    }
    for branch in ["z9hG4bK74bf", "z9hG4bK74BF9", "z9hG4bK74bf99"] {
        assert_eq!(bench.receive(&Request { branch: branch.into(), ..invite.clone() }), RequestMatch::New, "{branch}");
    }
    // Everything else may differ: only the key counts.
    let altered = Request { call_id: "altered".into(), cseq: 9, from_tag: "altered".into(), ..invite };
    assert_eq!(bench.receive(&altered), RequestMatch::Absorbed);
}

#[test]
fn x2_the_default_port_is_that_of_the_transport() {
    let mut bench = Bench::new(Transport::Tls);
    let invite = Request { transport: Transport::Tls, sent_by: "a.example".into(), ..Request::default() };
    bench.open(&invite);
    assert_eq!(bench.receive(&Request { sent_by: "a.example:5061".into(), ..invite.clone() }), RequestMatch::Absorbed);
    assert_eq!(bench.receive(&Request { sent_by: "a.example:5060".into(), ..invite }), RequestMatch::New);
}

#[test]
fn x4_rfc2543_requests_are_told_apart_by_their_fields() {
    for branch in ["1", "z9hG4bK", "Z9hG4bK776"] {
        let mut bench = Bench::new(Transport::Udp);
        let invite = Request { branch: branch.into(), ..Request::default() };
        let server = bench.open(&invite);
        assert_eq!(bench.receive(&invite), RequestMatch::Absorbed, "{branch}");
        for other in [
            Request { uri: "sip:carol@biloxi.example".into(), ..invite.clone() },
            Request { from_tag: "other".into(), ..invite.clone() },
            Request { to_tag: Some("other".into()), ..invite.clone() },
            Request { call_id: "other".into(), ..invite.clone() },
            Request { cseq: 2, ..invite.clone() },
            Request { sent_by: "192.0.2.2:5060".into(), ..invite.clone() },
            Request { method: "OPTIONS".into(), ..invite.clone() },
        ] {
            assert_eq!(bench.receive(&other), RequestMatch::New, "{other:?}");
        }
        let cancel = Request { method: "CANCEL".into(), ..invite.clone() };
        assert_eq!(bench.receive(&cancel), RequestMatch::Cancel { invite: server, user: 9 });

        bench.answer(server, &invite, 486);
        bench.sent();
        let stranger = Request { to_tag: Some("other".into()), ..ack_of(&invite) };
        assert_eq!(bench.receive(&stranger), RequestMatch::UnmatchedAck, "its To tag is not that of the response");
        assert_eq!(bench.receive(&Request { to_tag: None, ..ack_of(&invite) }), RequestMatch::UnmatchedAck);
        assert_eq!(bench.receive(&ack_of(&invite)), RequestMatch::Absorbed);
        assert_eq!(bench.fire(), ms(5_000), "Timer I: the ACK was taken");
    }
}

#[test]
fn x4_rfc2543_ack_to_a_2xx() {
    let mut bench = Bench::new(Transport::Udp);
    let invite = Request { branch: "1".into(), ..Request::default() };
    let server = bench.open(&invite);
    bench.answer(server, &invite, 200);
    assert_eq!(bench.receive(&ack_of(&invite)), RequestMatch::Ack2xx { server, user: 9 });
}

#[test]
fn an_ack_on_a_branch_of_its_own_is_unmatched() {
    let mut bench = Bench::new(Transport::Udp);
    let invite = Request::default();
    let server = bench.open(&invite);
    bench.answer(server, &invite, 200);
    let ack = Request { branch: "z9hG4bKnew".into(), ..ack_of(&invite) };
    assert_eq!(bench.receive(&ack), RequestMatch::UnmatchedAck);
}

#[test]
fn x8_a_full_table_refuses_and_recovers() {
    let mut bench = Bench::with(Transport::Tcp, Config { max_server: 2, max_client: 1, ..Config::default() });
    let request = |n: u32| Request { method: "OPTIONS".into(), branch: format!("z9hG4bK{n}"), ..Request::default() };
    let first = bench.open(&request(1));
    bench.open(&request(2));
    let third = message(&request(3).to_bytes());
    let refused = bench.layer.open_server(bench.now, third.message(), hop(Transport::Tcp), 9);
    assert_eq!(refused, Err(TableFull { limit: 2 }));
    bench.answer(first, &request(1), 200);
    bench.advance(ms(5_001)); // Timer J
    bench.open(&request(3));

    let client = bench.send("INVITE");
    assert_eq!(bench.layer.reserve_client(0, 0).unwrap_err(), TableFull { limit: 1 });
    bench.respond_to(&client, 180);
    bench.layer.cancel(bench.now, client.id, b"", &mut bench.out);
    assert_eq!(bench.layer.live().1, 2, "there is always room for the CANCEL");
    bench.respond_to(&client, 487);
    assert!(bench.layer.reserve_client(0, 0).is_ok());
    assert_eq!(bench.layer.stats().table_full, 2);
}

#[test]
fn tags_of_the_ended_and_of_others_do_nothing() {
    let mut bench = Bench::new(Transport::Tcp);
    let client = bench.send("OPTIONS");
    bench.respond_to(&client, 200);
    bench.events();
    for tag in [0, client.id.tag(), u64::MAX, 1, 1 << 63, 0xdead_beef] {
        bench.layer.transport_failed(bench.now, tag);
    }
    assert_eq!((bench.events(), bench.layer.stats().transport_failures), (vec![], 0));
}

/// Whoever sends ICMP errors without having seen the request can not name its branch.
#[test]
fn t9_a_returned_request_fails_the_transaction_it_quotes_and_no_other() {
    for method in ["INVITE", "OPTIONS"] {
        let mut bench = Bench::new(Transport::Udp);
        let (hit, spared) = (bench.send(method), bench.send(method));
        let remote = hop(Transport::Udp).remote;
        let quoted = hit.request.message().bytes().to_vec();
        let text = String::from_utf8(quoted.clone()).unwrap();
        let start = text.find("branch=z9hG4bK").unwrap() + "branch=z9hG4bK".len();
        for at in start..start + 50 {
            let mut forged = quoted.clone();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert!(!bench.layer.returned(bench.now, &forged, remote), "octet {at}");
        }
        let response = response_to(hit.request.message(), 200, "1");
        let other_method = text.replacen(method, "MESSAGE", 1);
        for wrong in [&quoted[..start], b"", &response, other_method.as_bytes()] {
            assert!(!bench.layer.returned(bench.now, wrong, remote));
        }
        for elsewhere in ["192.0.2.77:5061", "192.0.2.78:5060"] {
            assert!(!bench.layer.returned(bench.now, &quoted, elsewhere.parse().unwrap()), "{elsewhere}");
        }
        assert!(bench.events().is_empty());
        assert!(bench.layer.returned(bench.now, &quoted, remote));
        assert_eq!(bench.events(), ["Failed", "Gone"]);
        assert!(!bench.layer.returned(bench.now, &quoted, remote), "once");
        bench.respond_to(&spared, 200);
        assert_eq!(bench.layer.stats().transport_failures, 1);
    }
}

#[test]
fn t8_a_returned_response_fails_the_transaction_it_quotes_and_may_go_elsewhere() {
    for method in ["INVITE", "OPTIONS", "X-OTHER"] {
        let mut bench = Bench::new(Transport::Udp);
        let request = |n: u32| Request { method: method.into(), branch: format!("z9hG4bK{n}"), ..Request::default() };
        let (hit, _spared) = (bench.open(&request(1)), bench.open(&request(2)));
        bench.answer(hit, &request(1), 486);
        let quoted = bench.sent_bytes().remove(0);
        let remote = hop(Transport::Udp).remote;
        let text = String::from_utf8(quoted.clone()).unwrap();
        let cut = text.find("CSeq").unwrap();
        for elsewhere in ["192.0.2.77:5061", "192.0.2.78:5060"] {
            assert!(!bench.layer.returned(bench.now, &quoted, elsewhere.parse().unwrap()), "{elsewhere}");
        }
        let other_branch = text.replace("z9hG4bK1", "z9hG4bK3");
        let other_method = text.replace(&format!(" {method}\r\n"), " MESSAGE\r\n");
        for wrong in [&quoted[..text.find("z9hG4bK").unwrap()], other_branch.as_bytes(), other_method.as_bytes()] {
            assert!(!bench.layer.returned(bench.now, wrong, remote));
        }
        assert!(bench.events().is_empty());
        assert!(bench.layer.returned(bench.now, &quoted, remote));
        assert_eq!(bench.events(), ["ResponseFailed"]);
        // Where the quotation ends before CSeq, the usual methods are tried.
        assert_eq!(bench.layer.returned(bench.now, &quoted[..cut], remote), method != "X-OTHER");
        bench.events();

        let other = Hop { remote: "192.0.2.80:5070".parse().unwrap(), ..hop(Transport::Udp) };
        bench.layer.redirect_server(bench.now, hit, other, &mut bench.out);
        let sent = &bench.out.items()[0];
        assert_eq!((sent.hop, bench.out.bytes_of(sent)), (other, &quoted[..]), "the same response");
        assert!(!bench.layer.returned(bench.now, &quoted, remote), "it is there no more");
        assert!(bench.layer.returned(bench.now, &quoted, other.remote));
    }
}

#[test]
fn t9_after_a_final_response_a_returned_request_changes_nothing() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("OPTIONS");
    bench.respond_to(&client, 200);
    bench.layer.returned(bench.now, client.request.message().bytes(), hop(Transport::Udp).remote);
    assert!(bench.events().is_empty());
    let client = bench.send("INVITE");
    bench.respond_to(&client, 180);
    bench.layer.returned(bench.now, client.request.message().bytes(), hop(Transport::Udp).remote);
    assert!(bench.events().is_empty(), "somebody is ringing");
}
