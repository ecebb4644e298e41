//! Gateways and callers that do what they should not, and lawful things that are seldom seen. Whatever they do: every request is answered
//! once, what is forwarded can be read by the next element, and nothing is left behind.

mod support;

use support::rig::{
    CALLER, Rig, Sent, addr, answer, listener, request, requests, routes, seconds, trunk, upstream,
};
use vesperd::proxy::{Config, Forking};
use vesperd::sip::Transport;

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
