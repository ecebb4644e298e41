//! Loops and spirals (RFC 5393 4.2; sip-proxy L-1 to L-4): where a request comes from is part of what it is.

mod support;

use support::rig::{CALLER, Rig, Sent, listener, request, requests, routes, trunk, upstream};
use vesperd::proxy::dispatcher::Algorithm;
use vesperd::proxy::route::table::NumberPrefix;
use vesperd::proxy::{Condition, Config, Route, TrunkId};
use vesperd::sip::Transport;

const SCREENING: &str = "198.51.100.1:5060";
const PBX: &str = "198.51.100.2:5060";

/// Trunks 0 to 2: carrier, screening server, PBX.
fn config(rules: &[(Option<u16>, u16)]) -> Config {
    Config {
        listeners: vec![listener(Transport::Udp, 5060), listener(Transport::Udp, 5070)],
        trunks: vec![trunk("carrier", &[CALLER]), trunk("screening", &[SCREENING]), trunk("pbx", &[PBX])],
        routes: routes(rules),
        ..Config::default()
    }
}

/// The request as a proxy sends it back: with its own Via on top and nothing else changed.
fn back(sent: &Sent, pass: u32) -> String {
    sent.text
        .replacen("Via: ", &format!("Via: SIP/2.0/UDP {SCREENING};branch=z9hG4bKback{pass}\r\nVia: "), 1)
        .replace("Record-Route: ", "X-Record-Route: ")
}

#[test]
fn l2_a_call_that_a_screening_server_sends_back_unchanged_goes_on() {
    let mut rig = Rig::new(config(&[(Some(0), 1), (Some(1), 2)]));
    let out = rig.receive(CALLER, &request("INVITE", "", ""));
    let to_screening = requests(&out, "INVITE")[0].clone();
    assert!(to_screening.is_to(SCREENING));
    let out = rig.receive(SCREENING, &back(&to_screening, 1));
    let to_pbx = requests(&out, "INVITE");
    assert!(to_pbx.len() == 1 && to_pbx[0].is_to(PBX), "a spiral, no loop: {out:#?}");
}

#[test]
fn l3_a_loop_is_found_when_it_comes_the_same_way_again() {
    let mut rig = Rig::new(config(&[(None, 1)]));
    let out = rig.receive(CALLER, &request("INVITE", "", ""));
    let first = requests(&out, "INVITE")[0].clone();
    let out = rig.receive(SCREENING, &back(&first, 1));
    let second = requests(&out, "INVITE")[0].clone();
    assert!(second.is_to(SCREENING), "another trunk than the first time");
    let out = rig.receive(SCREENING, &back(&second, 2));
    assert!(out.len() == 1 && out[0].first_line() == "SIP/2.0 482 Loop Detected", "{out:#?}");
    assert_eq!(upstream(&out), [0u16; 0]);
}

#[test]
fn l2_the_listener_is_part_of_it() {
    let mut rig = Rig::new(config(&[(None, 1)]));
    let first = requests(&rig.receive(SCREENING, &request("INVITE", "", "")), "INVITE")[0].clone();
    let (out, _) = rig.receive_all(Transport::Udp, 1, SCREENING, &back(&first, 1));
    let second = requests(&out, "INVITE")[0].clone();
    let (out, _) = rig.receive_all(Transport::Udp, 1, SCREENING, &back(&second, 2));
    assert_eq!(out[0].first_line(), "SIP/2.0 482 Loop Detected");
}

#[test]
fn l2_what_routes_look_at_is_part_of_it() {
    let mut config = config(&[(None, 1)]);
    let screened = Condition::Header { name: "X-Screened".into(), matches: None };
    config.routes.insert(0, Route { when: vec![screened], ..Route::to(TrunkId(2)) });
    let mut rig = Rig::new(config);
    // It comes from the screening server already the first time, so only the header tells the passes apart.
    let first = requests(&rig.receive(SCREENING, &request("INVITE", "", "")), "INVITE")[0].clone();
    assert!(first.is_to(SCREENING));
    let screened = back(&first, 1).replace("Call-ID: ", "X-Screened: yes\r\nCall-ID: ");
    let second = requests(&rig.receive(SCREENING, &screened), "INVITE")[0].clone();
    assert!(second.is_to(PBX), "a spiral, no loop");
}

/// A request that comes from the screening server, and comes back from there changed, as the next pass sees it.
fn second_pass(config: Config, change: impl Fn(String) -> String) -> Vec<Sent> {
    let mut rig = Rig::new(config);
    let first = requests(&rig.receive(SCREENING, &request("INVITE", "", "")), "INVITE")[0].clone();
    let unchanged = rig.receive(SCREENING, &back(&first, 1));
    assert_eq!(unchanged[0].first_line(), "SIP/2.0 482 Loop Detected");
    rig.receive(SCREENING, &change(back(&first, 2)))
}

fn trusted_screening(when: Condition) -> Config {
    let mut config = config(&[(None, 1)]);
    config.trunks[1].trusted = true;
    config.routes.insert(0, Route { when: vec![when], ..Route::to(TrunkId(2)) });
    config
}

#[test]
fn l2_the_caller_is_part_of_it_where_a_route_asks_who_calls() {
    let by_regex = Condition::Caller(regex::bytes::Regex::new("^sip:[+]4930").unwrap());
    let by_prefix = Condition::CallerPrefix(vec![NumberPrefix::parse("+4930").unwrap()]);
    for condition in [by_regex, by_prefix] {
        let asserted = |text: String| text.replace("Call-ID: ", "P-Asserted-Identity: <sip:+49301@a>\r\nCall-ID: ");
        let out = second_pass(trusted_screening(condition.clone()), asserted);
        assert!(requests(&out, "INVITE").first().is_some_and(|sent| sent.is_to(PBX)), "{out:#?}");
        let other_from = |text: String| text.replace("<sip:+12015550100@", "<sip:+49301@");
        let out = second_pass(trusted_screening(condition), other_from);
        assert!(requests(&out, "INVITE").first().is_some_and(|sent| sent.is_to(PBX)), "{out:#?}");
    }
}

#[test]
fn l2_the_priority_is_part_of_it_where_a_route_asks_for_emergencies() {
    let marked = |text: String| text.replace("Call-ID: ", "Resource-Priority: esnet.1\r\nCall-ID: ");
    let out = second_pass(trusted_screening(Condition::Emergency(true)), marked);
    assert!(requests(&out, "INVITE").first().is_some_and(|sent| sent.is_to(PBX)), "{out:#?}");
}

#[test]
fn l2_what_a_hash_looks_at_is_part_of_it() {
    let other_to = |text: String| text.replace("To: <sip:+12155551213@", "To: <sip:+4930@");
    let other_from = |text: String| text.replace("From: <sip:+12015550100@", "From: <sip:+4930@");
    let customer = |text: String| text.replace("Call-ID: ", "X-Customer: 7\r\nCall-ID: ");
    type Change = fn(String) -> String;
    let cases: [(Algorithm, &str, Change); 5] = [
        (Algorithm::ToHash, "", other_to),
        (Algorithm::FromHash, "", other_from),
        (Algorithm::KeyHash, "t", other_to),
        (Algorithm::KeyHash, "From", other_from),
        (Algorithm::KeyHash, "X-Customer", customer),
    ];
    for (algorithm, header, change) in cases {
        let mut config = config(&[(None, 1)]);
        config.trunks[1].dispatcher.algorithm = algorithm;
        config.trunks[1].dispatcher.hash_header = header.into();
        let out = second_pass(config, change);
        assert_eq!(requests(&out, "INVITE").len(), 1, "{algorithm:?}: {out:#?}");
    }
}
