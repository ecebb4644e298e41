//! Responses whose way back is gone (T-4; RFC 3261 18.2.2, RFC 3263 5): over a new connection, then to the places that the sent-by names;
//! for neighbours only.

mod support;

use support::rig::{Rig, Sent, addr, answer, listener, request, requests, routes, seconds, trunk};
use vesperd::proxy::{Answer, Config, LocateFailure, Need, NeedKind, NextHop, Residue, Target, TrunkId};
use vesperd::sip::hop::{ConnectionId, PeerId};
use vesperd::sip::{Transport, Uri};

const GATEWAY: &str = "198.51.100.1:5071";
/// Not the port of the caller's Via: that one listens, this one has called.
const FROM: &str = "192.0.2.10:49152";
const HOME: &str = "192.0.2.10:5060";
const OTHER: [&str; 2] = ["192.0.2.11:5064", "192.0.2.12:5064"];

fn config() -> Config {
    let mut caller = trunk("caller", &[]);
    caller.peers = vec!["192.0.2.10/32".parse().unwrap()];
    Config {
        listeners: vec![
            listener(Transport::Udp, 5060),
            listener(Transport::Tcp, 5060),
            listener(Transport::Tls, 5061),
            listener(Transport::Ws, 80),
        ],
        trunks: vec![caller, trunk("gateways", &[GATEWAY])],
        routes: routes(&[(None, 1)]),
        locate: true,
        ..Config::default()
    }
}

/// A request that came with this Via, and where it went.
fn forwarded(rig: &mut Rig, transport: Transport, method: &str, via: &str) -> (Vec<Sent>, Sent) {
    let listener = match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
        _ => 3,
    };
    let text = request(method, "", "").replace("SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1;rport", via);
    let (out, _) = rig.receive_all(transport, listener, FROM, &text);
    let sent = requests(&out, method)[0].clone();
    (out, sent)
}

/// What the proxy asks for after this could not be sent, and what it sends.
fn fail(rig: &mut Rig, sent: &Sent) -> (Vec<Sent>, Vec<Need>) {
    rig.fail_all(sent.tag)
}

fn target_of(need: &Need) -> Target {
    let NeedKind::Locate { target } = &need.kind else { panic!("{need:?}") };
    target.clone()
}

fn located(transport: Transport, places: &[&str]) -> Answer {
    Answer::Locate(Ok(places.iter().map(|place| NextHop { transport, remote: addr(place) }).collect()))
}

fn is_by_a_new_connection(sent: &Sent, to: &str) -> bool {
    sent.is_to(to) && sent.hop.connection.is_none() && sent.hop.peer == Some(PeerId(0))
}

fn settle(mut rig: Rig) {
    rig.settle();
    assert_eq!(rig.proxy.residue(), Residue::default());
}

#[test]
fn t4_2_a_response_takes_a_new_connection_and_the_next_ones_follow() {
    let mut rig = Rig::new(config());
    let (_, invite) = forwarded(&mut rig, Transport::Tcp, "INVITE", "SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bK1");
    let ringing = rig.receive(GATEWAY, &answer(&invite, 180, "")).remove(0);
    assert_eq!(ringing.hop.connection, Some(ConnectionId(1)));
    let (again, needs) = fail(&mut rig, &ringing);
    assert!(needs.is_empty());
    assert!(is_by_a_new_connection(&again[0], HOME), "{again:#?}");
    assert_eq!((again.len(), &again[0].text), (1, &ringing.text), "the same octets");
    let ok = rig.receive(GATEWAY, &answer(&invite, 200, ""));
    assert!(is_by_a_new_connection(&ok[0], HOME));
    // There is no other place: the sent-by is that address.
    assert!(fail(&mut rig, &ok[0]).0.is_empty());
    assert_eq!((rig.proxy.stats().failed_responses, rig.proxy.stats().rerouted_responses), (2, 1));
    settle(rig);
}

#[test]
fn t4_2_a_2xx_to_an_invite_is_repeated_by_who_sent_it_and_then_takes_the_other_way() {
    let mut rig = Rig::new(config());
    let (_, invite) = forwarded(&mut rig, Transport::Tcp, "INVITE", "SIP/2.0/TCP gw.example;branch=z9hG4bK1");
    let text = answer(&invite, 200, "");
    let ok = rig.receive(GATEWAY, &text).remove(0);
    assert!(fail(&mut rig, &ok).0.is_empty(), "a 2xx is not kept");
    let again = rig.receive(GATEWAY, &text);
    assert!(is_by_a_new_connection(&again[0], HOME), "{again:#?}");
    let (_, needs) = fail(&mut rig, &again[0]);
    assert!(rig.provide(needs[0].id, located(Transport::Tcp, &OTHER)).is_empty());
    assert!(is_by_a_new_connection(&rig.receive(GATEWAY, &text)[0], OTHER[0]));
    settle(rig);
}

#[test]
fn d11_without_a_connection_the_sent_by_is_located_and_every_place_is_tried_once() {
    for (transport, via, asked) in [
        (Transport::Tcp, "TCP GW.example.", "sip:gw.example;transport=tcp"),
        (Transport::Tcp, "TCP gw.example:5064", "sip:gw.example:5064;transport=tcp"),
        // What 3263 5 has for TLS is a `_sips` service, as for a sips URI.
        (Transport::Tls, "TLS gw.example", "sips:gw.example;transport=tls"),
    ] {
        let mut rig = Rig::new(config());
        let (_, sent) = forwarded(&mut rig, transport, "MESSAGE", &format!("SIP/2.0/{via};branch=z9hG4bK1;rport"));
        let ok = rig.receive(GATEWAY, &answer(&sent, 200, "")).remove(0);
        let (again, _) = fail(&mut rig, &ok);
        let (_, needs) = fail(&mut rig, &again[0]);
        assert_eq!(target_of(&needs[0]), Target::of_uri(&Uri::parse(asked.as_bytes()).unwrap()).unwrap());
        assert!(fail(&mut rig, &again[0]).1.is_empty(), "it is asked for once");
        let tried = again[0].hop.remote.to_string();
        let places = [&tried, OTHER[0], "192.0.2.13:5064", OTHER[1]];
        let mut answer = located(transport, &places);
        if let Answer::Locate(Ok(hops)) = &mut answer {
            std::sync::Arc::get_mut(hops).unwrap()[2].transport = Transport::Udp; // not what the Via says
        }
        let mut last = rig.provide(needs[0].id, answer).remove(0);
        for place in OTHER {
            assert!(is_by_a_new_connection(&last, place), "{last:#?}");
            assert_eq!((&last.text, last.hop.transport), (&ok.text, transport));
            let (next, needs) = fail(&mut rig, &last);
            assert!(needs.is_empty());
            match next.into_iter().next() {
                Some(next) => last = next,
                None => assert_eq!(place, OTHER[1]),
            }
        }
        settle(rig);
    }
}

#[test]
fn t4_5_a_datagram_without_rport_goes_to_the_sent_by_if_its_source_takes_none() {
    for (via, goes_on) in
        [("gw.example", true), ("gw.example;rport", false), ("10.0.0.9:5064", true), ("x.invalid", false)]
    {
        let mut rig = Rig::new(config());
        let via = format!("SIP/2.0/UDP {via};branch=z9hG4bK1");
        let (out, _) = forwarded(&mut rig, Transport::Udp, "INVITE", &via);
        let trying = out.iter().find(|sent| sent.status() == Some(100)).unwrap();
        let (mut again, needs) = fail(&mut rig, trying);
        if let [need] = &needs[..] {
            again = rig.provide(need.id, located(Transport::Udp, &["10.0.0.9:5064"]));
        }
        let places: Vec<String> = again.iter().map(|sent| sent.hop.remote.to_string()).collect();
        assert_eq!(places, if goes_on { vec!["10.0.0.9:5064"] } else { vec![] }, "{via}");
        settle(rig);
    }
}

#[test]
fn d11_who_can_not_be_located_is_asked_for_once() {
    for (transport, via) in [(Transport::Udp, "UDP gw.example"), (Transport::Tcp, "TCP gw.example")] {
        let mut rig = Rig::new(config());
        let (_, sent) = forwarded(&mut rig, transport, "INVITE", &format!("SIP/2.0/{via};branch=z9hG4bK1"));
        let text = answer(&sent, 200, "");
        let ok = rig.receive(GATEWAY, &text).remove(0);
        let (_, mut needs) = fail(&mut rig, &ok);
        if transport.is_reliable() {
            let again = rig.receive(GATEWAY, &text).remove(0); // over a new connection
            needs = fail(&mut rig, &again).1;
        }
        assert!(rig.provide(needs[0].id, Answer::Locate(Err(LocateFailure::NoSuchName))).is_empty());
        for _ in 0..3 {
            let again = rig.receive(GATEWAY, &text).remove(0);
            let (sent, needs) = fail(&mut rig, &again);
            assert!(sent.is_empty() && needs.is_empty(), "{via}: {sent:#?} {needs:?}");
        }
        settle(rig);
    }
}

#[test]
fn a_strangers_via_makes_us_send_nowhere() {
    for (transport, via) in
        [(Transport::Udp, "UDP gw.example"), (Transport::Tcp, "TCP gw.example"), (Transport::Tcp, "TCP 192.0.2.10")]
    {
        let mut config = config();
        config.trunks[0].peers.clear();
        config.default_trunks = vec![Some(TrunkId(0)); 4]; // taken for the caller by the listener alone
        let mut rig = Rig::new(config);
        let (_, sent) = forwarded(&mut rig, transport, "MESSAGE", &format!("SIP/2.0/{via};branch=z9hG4bK1"));
        let ok = rig.receive(GATEWAY, &answer(&sent, 200, "")).remove(0);
        let (again, needs) = fail(&mut rig, &ok);
        assert!(again.is_empty() && needs.is_empty(), "{again:#?}");
        assert_eq!((rig.proxy.stats().failed_responses, rig.proxy.stats().rerouted_responses), (1, 0));
        settle(rig);
    }
}

#[test]
fn w3_a_browser_has_its_connection_or_none() {
    let mut rig = Rig::new(config());
    let (_, sent) = forwarded(&mut rig, Transport::Ws, "MESSAGE", "SIP/2.0/WS gw.example;branch=z9hG4bK1");
    let ok = rig.receive(GATEWAY, &answer(&sent, 200, "")).remove(0);
    let (again, needs) = fail(&mut rig, &ok);
    assert!(again.is_empty() && needs.is_empty());
    settle(rig);
}

#[test]
fn nothing_waits_for_an_answer_that_does_not_come_or_for_a_transaction_that_is_over() {
    let begin = || {
        let mut rig = Rig::new(config());
        let (_, sent) = forwarded(&mut rig, Transport::Udp, "MESSAGE", "SIP/2.0/UDP gw.example;branch=z9hG4bK1");
        let ok = rig.receive(GATEWAY, &answer(&sent, 200, "")).remove(0);
        let (_, mut needs) = fail(&mut rig, &ok);
        assert_eq!(rig.proxy.residue().parked, 1);
        (rig, needs.remove(0))
    };
    let (mut rig, _) = begin();
    rig.pass(Config::default().need_timeout + seconds(1));
    assert_eq!(rig.proxy.residue().parked, 0);
    settle(rig);
    let (mut rig, need) = begin();
    assert!(rig.provide(need.id, Answer::Locate(Err(LocateFailure::NoSuchName))).is_empty());
    settle(rig);
    let mut config = config();
    config.need_timeout = seconds(100); // longer than Timer J
    let mut rig = Rig::new(config);
    let (_, sent) = forwarded(&mut rig, Transport::Udp, "MESSAGE", "SIP/2.0/UDP gw.example;branch=z9hG4bK1");
    let ok = rig.receive(GATEWAY, &answer(&sent, 200, "")).remove(0);
    let (_, needs) = fail(&mut rig, &ok);
    rig.pass(seconds(33));
    assert_eq!(rig.proxy.residue(), Residue::default());
    assert!(rig.provide(needs[0].id, located(Transport::Udp, &OTHER)).is_empty());
}
