//! `keep` of RFC 6223 (KA-3): who asks whether it may send keepalives is answered where its trunk allows it.

mod support;

use support::rig::{Rig, answer, listener, request, requests, routes, trunk};
use vesperd::proxy::Config;
use vesperd::sip::Transport;

const CALLER: &str = "192.0.2.10:5060";
const GATEWAY: &str = "198.51.100.1:5071";

fn config(keep: Option<u16>, answers_stun: bool) -> Config {
    let mut caller = trunk("caller", &[CALLER]);
    caller.keep = keep;
    Config {
        listeners: vec![listener(Transport::Udp, 5060), listener(Transport::Tcp, 5060)],
        trunks: vec![caller, trunk("gateways", &[GATEWAY])],
        routes: routes(&[(Some(0), 1)]),
        answers_stun,
        ..Config::default()
    }
}

/// The caller's Via in the response to a request whose Via ends so.
fn told(config: Config, transport: Transport, method: &str, status: u16, asked: &str) -> String {
    let mut rig = Rig::new(config);
    let token = transport.via_token();
    let via = format!("SIP/2.0/{token} 192.0.2.10:5060{asked};branch=z9hG4bK1");
    let text = request(method, "", "").replace("SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1;rport", &via);
    let (out, _) = rig.receive_all(transport, u16::from(transport == Transport::Tcp), CALLER, &text);
    let sent = requests(&out, method)[0].clone();
    assert!(!sent.lines("Via")[0].contains("keep"), "it is between neighbours");
    let out = rig.receive(GATEWAY, &answer(&sent, status, ""));
    let response = out.iter().find(|sent| sent.is_to(CALLER)).expect("the response");
    response.line("Via").strip_prefix(&format!("SIP/2.0/{token} 192.0.2.10:5060")).unwrap().to_owned()
}

#[test]
fn ka3_what_makes_a_registration_or_a_dialog_tells_the_seconds() {
    let seconds = |method, status, asked| told(config(Some(30), false), Transport::Tcp, method, status, asked);
    for (method, status) in [("INVITE", 200), ("INVITE", 183), ("REGISTER", 200), ("SUBSCRIBE", 202)] {
        assert_eq!(seconds(method, status, ";keep"), ";keep=30;branch=z9hG4bK1", "{method} {status}");
    }
    assert_eq!(seconds("INVITE", 200, ";Keep=;x"), ";keep=30;x;branch=z9hG4bK1");
    assert_eq!(seconds("INVITE", 200, ";keep=7"), ";keep=7;branch=z9hG4bK1", "not ours to write");
    assert_eq!(seconds("INVITE", 200, ""), ";branch=z9hG4bK1", "nobody asked");
    for (method, status) in [("INVITE", 486), ("REGISTER", 403), ("MESSAGE", 200), ("OPTIONS", 200)] {
        assert_eq!(seconds(method, status, ";keep"), ";keep;branch=z9hG4bK1", "{method} {status}");
    }
}

#[test]
fn ka3_only_where_the_trunk_allows_it_and_its_keepalives_are_answered() {
    let via = |keep, answers_stun, transport| told(config(keep, answers_stun), transport, "INVITE", 200, ";keep");
    assert_eq!(via(None, true, Transport::Tcp), ";keep;branch=z9hG4bK1");
    assert_eq!(via(Some(0), false, Transport::Tcp), ";keep=0;branch=z9hG4bK1", "as often as it likes");
    assert_eq!(via(Some(25), false, Transport::Udp), ";keep;branch=z9hG4bK1", "STUN is swallowed");
    assert_eq!(via(Some(25), true, Transport::Udp), ";keep=25;branch=z9hG4bK1");
}
