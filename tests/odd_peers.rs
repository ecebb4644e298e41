//! Gateways and callers that do what they should not, and lawful things that are seldom seen. Whatever they do: every request is answered
//! once, what is forwarded can be read by the next element, and nothing is left behind.

mod support;

use support::rig::{CALLER, Rig, Sent, addr, answer, listener, request, requests, routes, seconds, trunk, upstream};
use vesperd::proxy::{Answer, Config, Event, Forking, NextHop, Place, Target};
use vesperd::sip::{Transport, Uri};

const GATEWAYS: [&str; 2] = ["198.51.100.1:5071", "198.51.100.2:5072"];

/// Caller and gateways over UDP; the caller may come by TCP too.
fn config(gateways: usize, forking: Forking) -> Config {
    let mut gateways = trunk("gateways", &GATEWAYS[..gateways]);
    gateways.forking = forking;
    Config {
        listeners: vec![listener(Transport::Udp, 5060), listener(Transport::Tcp, 5060)],
        trunks: vec![trunk("caller", &[CALLER]), gateways],
        routes: routes(&[(Some(0), 1)]),
        ..Config::default()
    }
}

fn invite(rig: &mut Rig) -> Sent {
    requests(&rig.receive(CALLER, &request("INVITE", "", "")), "INVITE")[0].clone()
}

fn from(sent: &Sent) -> String {
    sent.hop.remote.to_string()
}

/// The answer without the Via behind ours, or with this instead.
fn without_way_back(text: &str, instead: &str) -> String {
    let (first, rest) = text.split_once("Via: SIP/2.0/UDP 192.0.2.10").expect("the caller's Via");
    format!("{first}{instead}{}", rest.split_once('\n').unwrap().1)
}

// ---- responses that nobody could be given

#[test]
fn r3_a_final_response_without_a_way_back_ends_its_branch() {
    for status in [200, 302, 486, 503, 603] {
        for instead in ["", "Via: x\n", "Via: SIP/2.0/UDP\n"] {
            let mut rig = Rig::new(config(1, Forking::default()));
            let sent = invite(&mut rig);
            let text = without_way_back(&answer(&sent, status, ""), instead);
            let out = rig.receive(&from(&sent), &text);
            assert_eq!(upstream(&out), [500], "{status} {instead}");
            assert_eq!(rig.proxy.stats().dropped_responses, 1);
            rig.settle();
        }
    }
}

#[test]
fn r3_the_next_candidate_is_tried_after_it() {
    let mut rig = Rig::new(config(2, Forking::default()));
    let sent = invite(&mut rig);
    let out = rig.receive(&from(&sent), &without_way_back(&answer(&sent, 486, ""), ""));
    let second = requests(&out, "INVITE")[0].clone();
    assert!(second.is_to(GATEWAYS[1]));
    assert_eq!(upstream(&rig.receive(GATEWAYS[1], &answer(&second, 200, ""))), [200]);
    rig.settle();
}

#[test]
fn r3_a_provisional_response_without_a_way_back_is_dropped() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let sent = invite(&mut rig);
    let out = rig.receive(&from(&sent), &without_way_back(&answer(&sent, 180, ""), ""));
    assert!(out.is_empty());
    assert_eq!(upstream(&rig.receive(&from(&sent), &answer(&sent, 200, ""))), [200]);
    rig.settle();
}

// ---- what leaves can be read in one way only

#[test]
fn f9_a_response_without_content_length_gets_one() {
    for (status, body, kept) in [(200, "v=0\r\n", 5), (183, "v=0\r\n", 5), (486, "busy", 4), (200, "", 0)] {
        let mut rig = Rig::new(config(1, Forking::default()));
        let (out, _) = rig.receive_all(Transport::Tcp, 1, CALLER, &request("INVITE", "", ""));
        let sent = requests(&out, "INVITE")[0].clone();
        let text = answer(&sent, status, "").replace("Content-Length: 0\n", "Content-Type: text/plain\n");
        let out = rig.receive(&from(&sent), &(text + body));
        let up = out.iter().find(|s| s.status() == Some(status)).unwrap();
        assert_eq!((up.hop.transport, up.line("Content-Length")), (Transport::Tcp, &*kept.to_string()), "{}", up.text);
        assert!(up.text.ends_with(&format!("\r\n\r\n{body}")), "the body stays as it is");
    }
}

#[test]
fn f2_h6_repeated_framing_fields_leave_once() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let text = request("INVITE", "", "Max-Forwards: 7\n").replace("Length: 0\n\n", "Length: 5\nl: 005\n\nhello");
    let out = rig.receive(CALLER, &text);
    let sent = requests(&out, "INVITE")[0].clone();
    assert_eq!(sent.line("Max-Forwards"), "6", "the smaller one counts");
    assert_eq!(sent.line("Content-Length"), "5");
    assert!(!sent.text.contains("\nl:") && sent.text.ends_with("\r\n\r\nhello"));
    let text = answer(&sent, 200, "").replace("Length: 0\n\n", "Length: 5\nl: 5\n\nhello");
    let out = rig.receive(&from(&sent), &text);
    assert_eq!(out[0].line("Content-Length"), "5");
    assert!(!out[0].text.contains("\nl:"));
}

// ---- gateways that are silent or slow

fn patient_for(fr: u64) -> Forking {
    Forking { fr: Some(seconds(fr)), ..Forking::default() }
}

/// An INVITE to a trunk that is a name with these addresses.
fn invite_to_name(rig: &mut Rig, extra: &str, addresses: &[&str]) -> Sent {
    let (_, needs) = rig.receive_all(Transport::Udp, 0, CALLER, &request("INVITE", "", extra));
    let hop = |a: &&str| NextHop { transport: Transport::Udp, remote: addr(a) };
    let out = rig.provide(needs[0].id, Answer::Locate(Ok(addresses.iter().map(hop).collect())));
    requests(&out, "INVITE")[0].clone()
}

fn by_name(forking: Forking) -> Rig {
    let mut config = config(1, forking);
    let target = Target::of_uri(&Uri::parse(b"sip:gw.example").unwrap()).unwrap();
    config.trunks[1].next_hops = vec![Place::Locate(target)];
    config.locate = true;
    Rig::new(config)
}

#[test]
fn d5_a_silent_address_of_a_name_is_followed_by_the_next_one() {
    let addresses = [GATEWAYS[0], GATEWAYS[1], "198.51.100.3:5073"];
    for (extra, shares) in [("", ["30", "15", "15"]), ("Max-Breadth: 3\n", ["1", "1", "1"])] {
        let mut rig = by_name(patient_for(4));
        let first = invite_to_name(&mut rig, extra, &addresses);
        assert!(first.is_to(addresses[0]));
        assert_eq!(first.line("Max-Breadth"), shares[0]);
        for (address, share) in addresses.iter().zip(shares).skip(1) {
            let out = rig.pass(seconds(4) + seconds(1) / 10);
            let next = out.iter().find(|s| s.is_to(address)).expect("the next address");
            assert_eq!(next.line("Max-Breadth"), share);
        }
        assert_eq!(upstream(&rig.pass(seconds(5)))[..1], [408]);
        rig.settle();
    }
}

#[test]
fn d8_a_call_that_can_still_be_answered_is_waited_for_when_the_budget_is_over() {
    for answered in [200, 487] {
        let mut rig = Rig::new(config(2, Forking { fr_inv: Some(seconds(90)), ..Forking::default() }));
        let sent = invite(&mut rig);
        rig.receive(&from(&sent), &answer(&sent, 100, ""));
        let out = rig.pass(seconds(91));
        assert!(!requests(&out, "CANCEL").is_empty());
        assert!(upstream(&out).is_empty() && requests(&out, "INVITE").is_empty(), "60 s are over: {out:#?}");
        let out = rig.receive(&from(&sent), &answer(&sent, answered, ""));
        assert_eq!(upstream(&out), [if answered == 200 { 200 } else { 408 }]);
        rig.settle();
    }
}

// ---- what is counted and kept

#[test]
fn requests_without_an_answer_are_counted_as_they_come_and_go() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let sent = invite(&mut rig);
    let message = request("MESSAGE", "", "").replace("z9hG4bK1", "z9hG4bK2").replace("c1@", "c2@");
    rig.receive(CALLER, &message);
    assert_eq!(rig.proxy.unanswered(), 2);
    rig.receive(&from(&sent), &answer(&sent, 180, ""));
    assert_eq!(rig.proxy.unanswered(), 2);
    rig.receive(&from(&sent), &answer(&sent, 200, ""));
    rig.receive(&from(&sent), &answer(&sent, 200, ""));
    assert_eq!(rig.proxy.unanswered(), 1, "a repeated 200 counts once");
    rig.pass(seconds(40));
    assert_eq!((rig.proxy.unanswered(), rig.proxy.live()), (0, 0), "the MESSAGE was never answered (N-2)");
}

#[test]
fn nothing_is_kept_of_a_request_that_is_answered_and_over() {
    let parallel = Forking { parallel: true, ..Forking::default() };
    // A busy gateway; one that is never answered; two of which one answers late.
    let mut rig = Rig::new(config(1, Forking::default()));
    let sent = invite(&mut rig);
    rig.receive(&from(&sent), &answer(&sent, 486, ""));
    assert_eq!((rig.proxy.live(), rig.proxy.kept()), (1, 0), "answered from what was stored");

    let mut rig = Rig::new(config(1, Forking::default()));
    let sent = invite(&mut rig);
    rig.fail(sent.tag);
    assert_eq!((rig.proxy.live(), rig.proxy.kept()), (1, 0), "answered by us");

    let mut rig = Rig::new(config(2, parallel));
    let out = rig.receive(CALLER, &request("INVITE", "", ""));
    let sent: Vec<_> = requests(&out, "INVITE").into_iter().cloned().collect();
    rig.receive(&from(&sent[1]), &answer(&sent[1], 180, ""));
    rig.receive(&from(&sent[0]), &answer(&sent[0], 200, ""));
    assert!(rig.proxy.kept() > 0, "the other one still rings");
    rig.receive(&from(&sent[1]), &answer(&sent[1], 487, ""));
    assert_eq!((rig.proxy.live(), rig.proxy.kept()), (1, 0));
    rig.settle();
}

// ---- CANCEL, and what comes late

#[test]
fn k5_a_cancelled_call_whose_gateway_is_gone_is_answered_487() {
    for refuses in [true, false] {
        let mut rig = Rig::new(config(1, Forking::default()));
        let sent = invite(&mut rig);
        assert_eq!(upstream(&rig.receive(CALLER, &request("CANCEL", "", ""))), [200]);
        let out = if refuses { rig.fail(sent.tag) } else { rig.pass(seconds(33)) };
        assert_eq!(upstream(&out)[..1], [487]);
        rig.settle();
    }
}

#[test]
fn k8_timer_c_ends_a_silent_branch_whole() {
    let mut config = config(1, Forking::default());
    config.transaction.t1 = seconds(4); // Timer B is later than Timer C
    let mut rig = Rig::new(config);
    let sent = invite(&mut rig);
    assert_eq!(upstream(&rig.pass(seconds(186)))[..1], [408]);
    assert!(requests(&rig.pass(seconds(68)), "INVITE").is_empty(), "the copy of 252 s does not leave");
    let out = rig.receive(&from(&sent), &answer(&sent, 180, ""));
    assert_eq!(requests(&out, "CANCEL").len(), 1, "and cancelled when it wakes up");
    rig.settle();
}

#[test]
fn fr_leaves_a_lone_non_invite_to_its_retransmissions() {
    let mut rig = Rig::new(config(1, patient_for(4)));
    let out = rig.receive(CALLER, &request("MESSAGE", "", ""));
    let sent = out[0].clone();
    assert_eq!(requests(&rig.pass(seconds(31)), "MESSAGE").len(), 9, "Timer E");
    assert_eq!(upstream(&rig.receive(&from(&sent), &answer(&sent, 200, ""))), [200]);
    rig.settle();
}

#[test]
fn r9_an_answer_after_the_refusal_is_counted_and_told() {
    let mut rig = Rig::new(config(1, patient_for(4)));
    let sent = invite(&mut rig);
    assert_eq!(upstream(&rig.pass(seconds(5)))[..1], [408]);
    let (responses, _) = (rig.proxy.stats().responses, rig.events.drain(..));
    assert!(rig.receive(&from(&sent), &answer(&sent, 200, "")).is_empty());
    let stats = rig.proxy.stats();
    assert_eq!((stats.responses, stats.late_answers), (responses, 1));
    let told = |e: &Event| matches!(e, Event::Refused { status: None, reason: "Answered Too Late", .. });
    assert!(rig.events.iter().any(told), "{:?}", rig.events);
    rig.settle();
}

#[test]
fn x8_a_full_table_still_takes_what_belongs_to_a_call() {
    let mut config = config(1, Forking::default());
    config.transaction.max_server = 16;
    let mut rig = Rig::new(config);
    let numbered = |method: &str, n: u32, tag: &str| {
        let text = request(method, tag, "").replace("z9hG4bK1", &format!("z9hG4bK{n}"));
        text.replace("c1@", &format!("c{n}@"))
    };
    let mut taken = 0;
    for n in 0..20 {
        let out = rig.receive(CALLER, &numbered("INVITE", n, ""));
        taken += requests(&out, "INVITE").len();
        assert!(upstream(&out) == [100] || upstream(&out) == [503], "{out:#?}");
    }
    assert_eq!(taken, 15);
    let route = "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\nFrom: ";
    let bye = numbered("BYE", 30, ";tag=b1").replace("From: ", route);
    assert_eq!(requests(&rig.receive(CALLER, &bye), "BYE").len(), 1);
    // Now it is full to the last entry; a CANCEL is obeyed and answered all the same.
    assert_eq!(upstream(&rig.receive(CALLER, &numbered("CANCEL", 3, ""))), [200]);
    rig.settle();
}

#[test]
fn t5_a_large_request_to_an_address_of_no_trunk_leaves_by_tcp() {
    let mut config = config(1, Forking::default());
    config.trunks[0].trusted = true; // without marks nobody else is relayed to strangers (RT-4)
    let mut rig = Rig::new(config);
    let route = format!("Route: <sip:192.0.2.1:5060;lr>\nX-Long: {}\n", "x".repeat(1_400));
    let text = request("UPDATE", ";tag=b1", &route).replace("sip:+12155551213@192.0.2.1 ", "sip:b@203.0.113.7 ");
    let out = rig.receive(CALLER, &text);
    let sent = requests(&out, "UPDATE")[0].clone();
    assert!(sent.is_to("203.0.113.7:5060") && sent.hop.transport == Transport::Tcp, "{sent:#?}");
    let again = rig.fail(sent.tag);
    assert_eq!(again[0].hop.transport, Transport::Udp, "refused: by UDP after all");
}

// ---- who we are

#[test]
fn k7_our_own_addresses_are_known_in_any_spelling() {
    let mut config = config(1, Forking::default());
    config.listeners[0].advertise_host = "[2001:db8::1]".into();
    config.listeners[1].advertise_host = "edge.example".into();
    for (host, is_ours) in [
        ("[2001:db8::1]", true),
        ("[2001:DB8:0:0::0001]", true),
        ("[2001:db8::2]", false),
        ("EDGE.example.", true),
        ("edge.example.net", false),
        ("edge.example..", false),
    ] {
        let mut rig = Rig::new(config.clone());
        let route = format!("Route: <sip:{host}:5060;lr;vt=0.1>\n");
        let text = request("BYE", ";tag=b1", &route).replace("sip:+12155551213@192.0.2.1 ", "sip:b@198.51.100.7 ");
        let out = rig.receive(CALLER, &text);
        assert_eq!(requests(&out, "BYE").len(), usize::from(is_ours), "{host}: {out:#?}");
    }
}

/// An ACK to a 2xx with this Request-URI.
fn ack(uri: &str, route: &str) -> String {
    request("ACK", ";tag=b1", route).replace("sip:+12155551213@192.0.2.1 ", &format!("{uri} "))
}

#[test]
fn f12_an_ack_without_our_route_passes_where_its_source_may_relay() {
    for trusted in [false, true] {
        let mut config = config(1, Forking::default());
        config.trunks[0].trusted = trusted;
        let mut rig = Rig::new(config);
        let out = rig.receive(CALLER, &ack("sip:b@198.51.100.77:5062", ""));
        assert_eq!(out.iter().filter(|s| s.is_to("198.51.100.77:5062")).count(), usize::from(trusted));
        let out = rig.receive(CALLER, &ack("sip:+12155551213@192.0.2.1", ""));
        assert_eq!(out.iter().filter(|s| s.is_to(GATEWAYS[0])).count(), usize::from(trusted), "as its BYE would go");
        assert!(rig.receive(CALLER, &ack("sip:192.0.2.1:5060", "")).is_empty());
    }
}

#[test]
fn f12_an_ack_for_this_element_is_dropped() {
    let mut rig = Rig::new(config(1, Forking::default()));
    let route = "Route: <sip:192.0.2.1:5060;lr;vt=0.1>\n";
    assert!(rig.receive(CALLER, &ack("sip:b@192.0.2.1:5060", route)).is_empty(), "it would come back to us");
    assert_eq!(rig.receive(CALLER, &ack("sip:b@198.51.100.77:5062", route)).len(), 1);
}

#[test]
fn r9_the_late_200_of_a_slow_gateway_is_the_answer_while_its_successor_rings() {
    let mut rig = Rig::new(config(2, Forking { fr_inv: Some(seconds(120)), ..patient_for(5) }));
    let slow = invite(&mut rig);
    let second = requests(&rig.pass(seconds(6)), "INVITE").into_iter().find(|s| s.is_to(GATEWAYS[1])).unwrap().clone();
    rig.receive(GATEWAYS[1], &answer(&second, 180, ""));
    let out = rig.receive(&from(&slow), &answer(&slow, 200, ""));
    assert_eq!(upstream(&out), [200]);
    assert!(requests(&out, "CANCEL")[0].is_to(GATEWAYS[1]));
    rig.receive(GATEWAYS[1], &answer(&second, 487, ""));
    assert_eq!(rig.proxy.stats().late_answers, 0);
    rig.settle();
}

#[test]
fn h2_folds_are_not_written_again() {
    let fold = |text: &str| text.replace(">;tag=a1", ">\n ;tag=a1").replace("To: <", "To: \"B\n C\" <");
    let route = "Route: <sip:192.0.2.1;lr>,\n <sip:198.51.100.1:5071;lr>\n";
    let mut config = config(1, Forking::default());
    config.trunks[0].trusted = true;
    let mut rig = Rig::new(config);
    let out = rig.receive(CALLER, &fold(&request("INVITE", "", route)));
    let sent = requests(&out, "INVITE")[0].clone();
    let plain = Sent { text: sent.text.replace("\r\n ", " "), ..sent.clone() };
    rig.receive(&from(&sent), &answer(&plain, 180, ""));
    let cancel = fold(&request("CANCEL", "", "Reason: SIP\n ;cause=487\n"));
    let out = rig.receive(CALLER, &cancel);
    let own = requests(&out, "CANCEL")[0].clone();
    assert!(!own.text.contains("\r\n "), "{}", own.text);
    assert_eq!(own.line("From"), "<sip:+12015550100@192.0.2.10> ;tag=a1");
    assert_eq!(own.line("Reason"), "SIP ;cause=487");
    let out = rig.receive(&from(&sent), &answer(&plain, 487, "").replace(";tag=b1", "\n ;tag=b1"));
    let ack = requests(&out, "ACK")[0].clone();
    assert!(!ack.text.contains("\r\n ") && ack.line("To").ends_with("> ;tag=b1"), "{}", ack.text);
}

// ---- small faults of syntax

#[test]
fn s5_s6_s7_f6_what_a_lenient_trunk_sends_leaves_in_order() {
    let text = request("INVITE", "", "").replace(
        "INVITE sip:+12155551213@192.0.2.1 SIP/2.0",
        "INVITE  <sip:+12155551213@192.0.2.1?Subject=x>\t SIP/2.0 ",
    );
    for lenient in [false, true] {
        let mut config = config(2, Forking::default());
        config.trunks[0].lenient = lenient;
        config.trunks[1].lenient = lenient;
        config.routes = routes(&[(Some(0), 1)]);
        let mut rig = Rig::new(config);
        let (out, _) = rig.receive_raw(Transport::Udp, 0, CALLER, text.as_bytes());
        if !lenient {
            assert_eq!(upstream(&out), [400]);
            continue;
        }
        let is_strict = |s: &Sent| s.text.matches('\n').count() == s.text.matches("\r\n").count();
        let first = requests(&out, "INVITE")[0].clone();
        assert_eq!(first.first_line(), "INVITE sip:+12155551213@192.0.2.1 SIP/2.0");
        assert!(is_strict(&first) && is_strict(&out[0]), "{}", first.text);
        // Another attempt is made from what is kept of it.
        let out = rig.receive(&from(&first), &answer(&first, 503, ""));
        let second = requests(&out, "INVITE")[0].clone();
        assert!(is_strict(&second) && second.first_line() == first.first_line());
        // Responses too: one that is forwarded at once, and one that is stored.
        let (out, _) = rig.receive_raw(Transport::Udp, 0, GATEWAYS[1], answer(&second, 180, "").as_bytes());
        assert!(upstream(&out) == [180] && is_strict(&out[0]), "{out:#?}");
        let challenge = "Proxy-Authenticate: Digest realm=\"a\",\n nonce=\"1\"\n";
        let (out, _) = rig.receive_raw(Transport::Udp, 0, GATEWAYS[1], answer(&second, 407, challenge).as_bytes());
        assert!(upstream(&out) == [407] && out.iter().all(is_strict), "{out:#?}");
        rig.settle();
    }
}
