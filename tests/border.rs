//! What crosses from one trunk to another, from the configuration file to the packet: trust domain (RFC 3325, RFC 3323), History-Info
//! (RFC 7044), Diversion (RFC 5806), 3xx and 416, own domains, Record-Route styles and Path.

mod support;

use std::net::SocketAddr;

use support::table::*;
use tempfile::TempDir;
use vesperd::config::{Config, Warning};
use vesperd::proxy::NextHop;
use vesperd::sip::hop::{Hop, ListenerId, Transport};
use vesperd::sip::{self, Framing, Index, Limits};

const ROUTE: &str = "[[route]]\nto = \"a\"\n";
const CALLED: &str = "sip:+4930123@192.0.2.1";

fn request(method: &str, uri: &str, from: &str, n: u32, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP {from};branch=z9hG4bKq{n}{method}\nMax-Forwards: 70\n{lines}From: <sip:+1201@pbx.example>;tag=1\n\
         To: <sip:+4930123@b.example>\nCall-ID: q{n}\nCSeq: 1 {method}\nContent-Length: 0\n\n"
    )
}

/// What reaches `to` of an INVITE with these lines.
fn forwarded(rig: &mut Rig, from: &str, n: u32, lines: &str) -> String {
    let out = rig.receive(from, &request("INVITE", CALLED, from, n, lines));
    assert_eq!(out.len(), 1, "{out:#?}");
    out[0].1.clone()
}

fn lines_of<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let start = format!("{name}: ");
    text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix(&start)).collect()
}

/// The response that goes to the PBX among what was sent.
fn upstream(out: &[(SocketAddr, String)]) -> &str {
    let found: Vec<_> =
        out.iter().filter(|(to, t)| t.starts_with("SIP/2.0") && [PBX, PBX2].contains(&&*to.to_string())).collect();
    assert_eq!(found.len(), 1, "{out:#?}");
    &found[0].1
}

const PAI: &str = "P-Asserted-Identity: <sip:+44@own.example>\n";

#[test]
fn e4_requests_and_responses_between_trusted_and_untrusted_trunks() {
    let lines = |privacy: &str| format!("{PAI}P-Preferred-Identity: <sip:x@y>\n{privacy}");
    for (from, to_trusted, privacy, asserted, preferred) in [
        (PBX, false, "", 0, 0),
        (PBX, true, "", 0, 0),
        (PBX2, true, "Privacy: id\n", 1, 1),
        (PBX2, false, "", 1, 1),
        (PBX2, false, "Privacy: id\n", 0, 1),
        (PBX2, false, "Privacy: none\n", 1, 1),
    ] {
        let trusted = if to_trusted { "trusted = true" } else { "" };
        let mut rig = Rig::between(&[("a", trusted)], ROUTE);
        let text = forwarded(&mut rig, from, 1, &lines(privacy));
        let found = (lines_of(&text, "P-Asserted-Identity").len(), lines_of(&text, "P-Preferred-Identity").len());
        assert_eq!(found, (asserted, preferred), "{from} {to_trusted} {privacy}");

        // And back: what the carrier asserts in its answers.
        for status in ["183 Progress", "200 OK", "486 Busy"] {
            let mut rig = Rig::between(&[("a", trusted)], ROUTE);
            let text = forwarded(&mut rig, from, 2, "");
            let out = rig.receive(A, &answer(&text, status, &lines("Privacy: id\n")));
            let kept = usize::from(to_trusted && from == PBX2);
            assert_eq!(lines_of(upstream(&out), "P-Asserted-Identity").len(), kept, "{from} {to_trusted} {status}");
        }
    }
    let mut rig = Rig::between(&[("a", "asserted_identity = \"withhold\"")], ROUTE);
    assert!(lines_of(&forwarded(&mut rig, PBX2, 3, PAI), "P-Asserted-Identity").is_empty());
}

#[test]
fn e5_critical_privacy_is_refused_at_the_boundary_and_the_levels_are_named() {
    let mut rig = Rig::new(ROUTE);
    let critical = "Privacy: header;session;critical\n";
    assert_eq!(rig.send(PBX2, "INVITE", CALLED, critical), "500 Privacy Not Provided: header, session");
    assert_eq!(rig.send(PBX2, "INVITE", CALLED, "Privacy: id;critical\n"), format!("{A} {CALLED}"));
    let mut rig = Rig::between(&[("b", "trusted = true")], "[[route]]\nto = [\"a\", \"b\"]\n");
    assert_eq!(rig.send(PBX2, "INVITE", CALLED, critical), format!("{B} {CALLED}"), "a trusted trunk may provide it");
    let mut rig = Rig::new(ROUTE);
    let text = forwarded(&mut rig, PBX2, 1, &format!("{PAI}Privacy: id;user\n"));
    assert_eq!(lines_of(&text, "Privacy"), ["user"], "id has been provided");
}

const TOKENS: &str =
    "Identity: a.b.c;info=<https://a.example/>;ppt=shaken\ny: d.e.f;info=<https://a.example/>;ppt=\"div\"\n";

#[test]
fn s6_a_trunk_outside_the_domain_of_tokens_gets_none_in_requests_and_responses() {
    let said = "Date: Tue, 24 Nov 2026 12:00:00 GMT\nReason: STIR ;cause=438 ;ppi=\"..c\"\n";
    let others = |text: &str| lines_of(text, "Date").len() + lines_of(text, "Reason").len();
    let tokens = |text: &str| lines_of(text, "Identity").len() + lines_of(text, "y").len();
    for (keys, left) in [("", 2), ("identity = \"forward\"", 2), ("identity = \"remove\"", 0)] {
        let mut rig = Rig::between(&[("a", keys)], ROUTE);
        let text = forwarded(&mut rig, PBX2, 1, &format!("{TOKENS}{said}"));
        assert_eq!((tokens(&text), others(&text)), (left, 2), "{text}");
        let out = rig.receive(A, &answer(&text, "200 OK", &format!("{TOKENS}{said}Contact: <sip:b@198.51.100.1>\n")));
        assert_eq!(tokens(upstream(&out)), 2, "the other side is inside");
        // Inside the dialog, without a transaction too.
        let route = format!("Route: {}\n{TOKENS}", lines_of(&text, "Record-Route")[0]);
        for method in ["ACK", "UPDATE"] {
            let text = request(method, "sip:b@198.51.100.1", PBX2, 1, &route).replace("b.example>", "b.example>;tag=b");
            let (to, text) = rig.receive(PBX2, &text).remove(0);
            assert_eq!((to.to_string().as_str(), tokens(&text)), (A, left), "{method} {text}");
        }

        // Its own calls are verified by others: they go in with their tokens, and what answers them comes without.
        let mut rig = Rig::between(&[("a", keys)], "[[route]]\nfrom = \"a\"\nto = \"pbx-2\"\n");
        let text = rig.receive(A, &request("INVITE", CALLED, A, 2, TOKENS)).remove(0).1;
        assert_eq!(tokens(&text), 2, "{text}");
        for status in ["183 Progress", "302 Moved", "438 Invalid Identity Header"] {
            let mut rig = Rig::between(&[("a", keys)], "[[route]]\nfrom = \"a\"\nto = \"pbx-2\"\n");
            let text = rig.receive(A, &request("INVITE", CALLED, A, 2, TOKENS)).remove(0).1;
            let out = rig.receive(PBX2, &answer(&text, status, &format!("{TOKENS}{said}")));
            let back = out.iter().find(|(to, _)| to.to_string() == A).map(|(_, text)| text.as_str()).unwrap();
            assert_eq!((tokens(back), others(back)), (left, 2), "{status}");
        }
    }
}

#[test]
fn e6_history_info_is_added_with_the_reasons_of_failures() {
    let add = "history_info = \"add\"";
    let failover = format!("{add}\nfailover_on = \"480\"");
    let mut rig =
        Rig::between(&[("a", &failover), ("b", add)], "[[route]]\nto = [\"a\", \"b\"]\nstrip = 3\nadd = \"+4989\"\n");
    let first = forwarded(&mut rig, PBX, 1, "");
    assert_eq!(
        lines_of(&first, "History-Info"),
        [format!("<{CALLED}>;index=1"), "<sip:+498930123@192.0.2.1>;index=1.1;mp=1".into()]
    );
    let out = rig.receive(A, &answer(&first, "480 Away", ""));
    let (to, second) = requests(&out, "INVITE").remove(0);
    assert_eq!(to, B);
    assert_eq!(
        lines_of(&second, "History-Info"),
        [
            format!("<{CALLED}>;index=1"),
            "<sip:+498930123@192.0.2.1?Reason=SIP%3Bcause%3D480>;index=1.1;mp=1".into(),
            "<sip:+498930123@192.0.2.1>;index=1.2;mp=1".into()
        ]
    );
    let mut rig = Rig::between(&[("a", "history_info = \"remove\"")], ROUTE);
    let lines = "History-Info: <sip:a@b>;index=1\nhistory-info: <sip:c@b>;index=1.1\n";
    assert!(!forwarded(&mut rig, PBX, 1, lines).to_lowercase().contains("history-info"));
    let mut rig = Rig::new(ROUTE);
    assert!(forwarded(&mut rig, PBX, 1, lines).contains("history-info: <sip:c@b>;index=1.1"));
}

#[test]
fn e6_history_of_our_own_domain_is_anonymous_beyond_the_boundary() {
    let routes = format!("{ROUTE}[routing]\ndomains = \"own.example\"\n");
    let lines = "History-Info: <sip:boss@own.example>;index=1,<sip:x@other.example>;index=1.1\nPrivacy: history\n";
    let mut rig = Rig::between(&[("a", "history_info = \"add\"")], &routes);
    let text = forwarded(&mut rig, PBX2, 1, lines);
    assert_eq!(
        lines_of(&text, "History-Info"),
        [
            "<sip:anonymous@anonymous.invalid>;index=1,<sip:x@other.example>;index=1.1",
            "<sip:anonymous@anonymous.invalid>;index=1.1.0",
            "<sip:anonymous@anonymous.invalid>;index=1.1.0.1;np=1.1.0"
        ]
    );
    assert!(lines_of(&text, "Privacy").is_empty());
}

#[test]
fn e4_an_ack_tells_no_more_than_its_invite() {
    let ack = |rig: &mut Rig, from: &str, invite: &str, to: &str| {
        let route = format!("Route: {}\n", lines_of(invite, "Record-Route")[0]);
        let text = request("ACK", to, from, 1, &format!("{route}{PAI}Privacy: id\n"));
        rig.receive(from, &text.replace("+4930123@b.example>", "+4930123@b.example>;tag=b")).remove(0)
    };
    for (from, to_trusted, asserted) in [(PBX2, true, 1), (PBX2, false, 0), (PBX, true, 0)] {
        let trusted = if to_trusted { "trusted = true" } else { "" };
        let mut rig = Rig::between(&[("a", trusted)], ROUTE);
        let invite = forwarded(&mut rig, from, 1, "");
        rig.receive(A, &answer(&invite, "200 OK", "Contact: <sip:b@198.51.100.1>\n"));
        let (to, text) = ack(&mut rig, from, &invite, "sip:b@198.51.100.1");
        assert_eq!((to.to_string().as_str(), &text[..3]), (A, "ACK"));
        assert_eq!(lines_of(&text, "P-Asserted-Identity").len(), asserted, "{text}");
    }
}

#[test]
fn e6_history_info_names_the_target_that_redirected() {
    let mut rig = Rig::between(
        &[("a", "on_3xx = \"recurse\"\nhistory_info = \"add\""), ("b", "history_info = \"add\"")],
        "[[route]]\nprefix = \"+499\"\nto = \"b\"\n[[route]]\nto = \"a\"\nstrip = 3\nadd = \"+4989\"\n",
    );
    let first = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&first, "302 Moved", "Contact: <sip:+499@192.0.2.1>\n"));
    let (_, second) = requests(&out, "INVITE").remove(0);
    let entries = lines_of(&second, "History-Info").join("\n");
    assert!(entries.contains("<sip:+498930123@192.0.2.1?Reason=SIP%3Bcause%3D302>;index=1.1"), "{entries}");
}

#[test]
fn e7_diversion_names_the_number_that_was_called() {
    let rules = "diversion = \"add\"\n[trunk.numbers_out]\nformat = \"digits\"";
    let mut rig = Rig::between(&[("a", rules)], "[[route]]\nto = \"a\"\n");
    let text = forwarded(&mut rig, PBX, 1, "Diversion: <sip:old@x>;reason=no-answer\n");
    assert!(text.starts_with("INVITE sip:4930123@"), "the same number, written otherwise");
    assert_eq!(lines_of(&text, "Diversion").len(), 1);
    let mut rig = Rig::between(&[("a", "diversion = \"add\"")], "[[route]]\nto = \"a\"\nstrip = 3\nadd = \"+4989\"\n");
    let text = forwarded(&mut rig, PBX, 1, "Diversion: <sip:old@x>;reason=no-answer\n");
    assert_eq!(
        lines_of(&text, "Diversion"),
        [&format!("<{CALLED}>;reason=unconditional;counter=1"), "<sip:old@x>;reason=no-answer"]
    );
}

#[test]
fn e8_e9_e10_e12_what_a_proxy_passes_untouched() {
    let lines = "Date: Tue, 24 Nov 2026 12:00:00 GMT\nReason: Q.850;cause=16, SIP;cause=302\nReason: STIR;cause=438\nResource-Priority: ets.0\n";
    let mut rig = Rig::between(&[("a", "failover_on = [\"5xx\", \"4xx\"]")], "[[route]]\nto = [\"a\", \"b\"]\n");
    let text = forwarded(&mut rig, PBX, 1, lines);
    for line in lines.lines() {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    for (n, status) in [(2, "607 Unwanted"), (3, "608 Rejected")] {
        let text = forwarded(&mut rig, PBX, n, "");
        let info = "Call-Info: <https://block.example/j>;purpose=jwscard\nReason: Q.850;cause=21\n";
        let out = rig.receive(A, &answer(&text, status, info));
        assert!(requests(&out, "INVITE").is_empty(), "no failover");
        let up = upstream(&out);
        assert!(up.starts_with(&format!("SIP/2.0 {status}\r\n")), "{up}");
        assert!(info.lines().all(|line| up.lines().any(|l| l == line)), "{up}");
    }
}

#[test]
fn r4_3xx_passes_is_mapped_or_followed() {
    let contacts =
        "Contact: <sip:c@evil.example>;q=0.9, <sip:+498@198.51.100.2>;q=0.5\nContact: <sip:+499@192.0.2.1>\n";
    let mut rig = Rig::new(ROUTE);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", contacts));
    assert!(upstream(&out).starts_with("SIP/2.0 302 Moved") && lines_of(upstream(&out), "Contact").len() == 2);

    let mut rig = Rig::between(&[("a", "on_3xx = \"480\"")], ROUTE);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", contacts));
    let up = upstream(&out);
    assert!(up.starts_with("SIP/2.0 480 Temporarily Unavailable\r\n") && lines_of(up, "Contact").is_empty(), "{up}");

    let routes = "[[route]]\nprefix = [\"+498\", \"+499\"]\nto = \"b\"\n[[route]]\nto = \"a\"\n";
    // A trunk's address is followed only where the table leads (a toll fraud otherwise).
    let past = "Contact: <sip:+882@198.51.100.2>\n";
    let mut rig = Rig::between(&[("a", "on_3xx = \"recurse\"")], routes);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", past));
    assert!(requests(&out, "INVITE").is_empty() && upstream(&out).starts_with("SIP/2.0 302"), "{out:#?}");

    let mut rig =
        Rig::between(&[("a", "on_3xx = \"recurse\"\ndiversion = \"add\""), ("b", "diversion = \"add\"")], routes);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", contacts));
    let (to, second) = requests(&out, "INVITE").remove(0);
    assert_eq!(
        (to.as_str(), second.lines().next().unwrap()),
        (B, "INVITE sip:+499@192.0.2.1 SIP/2.0"),
        "the preferred one of ours, by the table"
    );
    assert_eq!(lines_of(&second, "Diversion"), [format!("<{CALLED}>;reason=deflection;counter=1")]);
    assert_eq!(requests(&out, "INVITE").len(), 1);
    let out = rig.receive(B, &answer(&second, "503 No", ""));
    let (to, third) = requests(&out, "INVITE").remove(0);
    assert_eq!((to.as_str(), third.lines().next().unwrap()), (B2, "INVITE sip:+499@192.0.2.1 SIP/2.0"));
    let out = rig.receive(B2, &answer(&third, "503 No", ""));
    let (to, fourth) = requests(&out, "INVITE").remove(0);
    assert_eq!(
        (to.as_str(), fourth.lines().next().unwrap()),
        (B, "INVITE sip:+498@198.51.100.2 SIP/2.0"),
        "a trunk's address"
    );
    let out = rig.receive(B, &answer(&fourth, "404 No", ""));
    let up = upstream(&out);
    assert!(up.starts_with("SIP/2.0 302 Moved\r\n"), "{up}");
    assert_eq!(lines_of(up, "Contact"), ["<sip:c@evil.example>;q=0.9"], "what was not followed is left to the caller");
}

#[test]
fn r4_redirects_end() {
    let mut rig = Rig::between(&[("a", "on_3xx = \"recurse\"")], ROUTE);
    let mut text = forwarded(&mut rig, PBX, 1, "");
    for n in 0..5 {
        let out = rig.receive(A, &answer(&text, "302 Moved", &format!("Contact: <sip:+49{n}@192.0.2.1>\n")));
        text = requests(&out, "INVITE").remove(0).1;
    }
    let out = rig.receive(A, &answer(&text, "302 Moved", "Contact: <sip:+499@192.0.2.1>\n"));
    assert!(upstream(&out).starts_with("SIP/2.0 302"), "five were enough");

    let mut rig = Rig::between(&[("a", "on_3xx = \"recurse\"")], ROUTE);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", "Contact: <sip:+490@192.0.2.1>\n"));
    let text = requests(&out, "INVITE").remove(0).1;
    let out = rig.receive(A, &answer(&text, "302 Moved", "Contact: <sip:+490@192.0.2.1>\n"));
    assert!(upstream(&out).starts_with("SIP/2.0 302"), "nowhere twice");
    let mut rig = Rig::between(&[("a", "on_3xx = \"recurse\"")], ROUTE);
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(A, &answer(&text, "302 Moved", "Contact: <sip:c@evil.example>, <sip:198.51.100.99>\n"));
    assert!(requests(&out, "INVITE").is_empty() && lines_of(upstream(&out), "Contact").len() == 1, "nobody we know");
}

#[test]
fn r4_a_416_to_our_tel_uri_is_tried_again_as_sip() {
    let mut rig = Rig::between(&[("a", "[trunk.numbers_out]\nuri = \"tel\"")], ROUTE);
    let text = forwarded(&mut rig, PBX, 1, "");
    assert!(text.starts_with("INVITE tel:+4930123 SIP/2.0"), "{text}");
    let out = rig.receive(A, &answer(&text, "416 Unsupported URI Scheme", ""));
    let (to, second) = requests(&out, "INVITE").remove(0);
    assert_eq!(
        (to.as_str(), second.lines().next().unwrap()),
        (A, "INVITE sip:+4930123@198.51.100.1:5060;user=phone SIP/2.0")
    );
    let out = rig.receive(A, &answer(&second, "416 Unsupported URI Scheme", ""));
    assert!(upstream(&out).starts_with("SIP/2.0 416"), "once");
    let out = rig.receive(PBX, &request("INVITE", "tel:+4930123", PBX, 2, ""));
    let out = rig.receive(A, &answer(&out[0].1, "416 Unsupported URI Scheme", ""));
    assert!(upstream(&out).starts_with("SIP/2.0 416"), "a tel URI that came as one stays one");
    let mut rig = Rig::between(&[("b", "[trunk.numbers_out]\nuri = \"tel\"")], "[[route]]\nto = \"b\"\n");
    let text = forwarded(&mut rig, PBX, 1, "");
    let out = rig.receive(B, &answer(&text, "416 Unsupported URI Scheme", ""));
    let (to, second) = requests(&out, "INVITE").remove(0);
    assert_eq!(
        (to.as_str(), second.lines().next().unwrap()),
        (B, "INVITE sip:+4930123@198.51.100.2:5060;user=phone SIP/2.0"),
        "before the other members"
    );
}

#[test]
fn tg1_tg4_only_our_own_domains_are_routed() {
    let routes = format!("{ROUTE}[routing]\ndomains = [\"Own.example\", \"b.example\"]\n");
    let mut rig = Rig::between(&[("pbx-1", "relay = true")], &routes);
    for uri in ["sip:+49@OWN.example", "sip:+49@192.0.2.1:5060", "sip:+49@b.example;user=phone", "tel:+49"] {
        assert_eq!(rig.send(PBX2, "INVITE", uri, ""), format!("{A} {uri}"));
    }
    for uri in ["sip:+49@other.example", "sip:+49@198.51.100.77", "sip:+49@own.example;maddr=198.51.100.77"] {
        assert_eq!(rig.send(PBX2, "INVITE", uri, ""), "403 Not Relaying", "{uri}");
    }
    assert_eq!(
        rig.call("sip:+49@198.51.100.77"),
        "198.51.100.77:5060 sip:+49@198.51.100.77",
        "who may is relayed to the domain itself"
    );
}

#[test]
fn t7_a_listener_is_known_by_its_further_names_too() {
    let directory = TempDir::new().unwrap();
    let names = "bind = \"192.0.2.1:5060\"\nnames = [\"edge.example\", \"[2001:db8::1]:5090\"]\n";
    let domains = "[routing]\ndomains = [\"own.example\"]\n";
    let network = NETWORK.replacen("bind = \"192.0.2.1:5060\"\n", names, 1);
    let mut rig = Rig::of(parse(&format!("{network}{ROUTE}{domains}"), directory.path()).proxy);
    let mut call = 0;
    let mut send = |method: &str, uri: &str, extra: &str| {
        call += 1;
        let out = rig.receive(PBX, &request(method, uri, PBX, call, extra));
        out.into_iter().find(|(_, text)| !text.starts_with("SIP/2.0 100")).map(|(to, text)| (to.to_string(), text))
    };
    for (host, is_ours) in [
        ("192.0.2.1", true),
        ("Edge.example", true),
        ("edge.example.:5060", true),
        ("[2001:db8:0::1]:5090", true),
        ("edge.example:5090", false),
        ("[2001:db8::1]", false),
        ("other.example", false),
    ] {
        // OPTIONS to this element is answered by it.
        let (_, text) = send("OPTIONS", &format!("sip:{host}"), "").unwrap();
        assert_eq!(text.starts_with("SIP/2.0 200"), is_ours, "{host}: {text}");
        // RT-3: a Route that names it is taken off; one that names somebody else is not for strangers to give (RT-4).
        let (to, text) = send("INVITE", "sip:+49@192.0.2.1", &format!("Route: <sip:{host};lr>\n")).unwrap();
        assert_eq!(to == A && lines_of(&text, "Route").is_empty(), is_ours, "{host}: {text}");
    }
    // TG-4: for the domain of a Request-URI the port does not count.
    for (host, is_ours) in
        [("EDGE.example.", true), ("[2001:DB8::1]", true), ("own.example", true), ("x.example", false)]
    {
        let (to, text) = send("INVITE", &format!("sip:+49@{host}"), "").unwrap();
        assert_eq!(to == A, is_ours, "{host}: {text}");
    }
    // A response whose Via names it reaches its transaction: it is the one that the branch says.
    let (_, sent) = send("INVITE", "sip:+49@192.0.2.1", "").unwrap();
    let answer = |host: &str| {
        let vias = lines_of(&sent, "Via").join(", ").replacen("192.0.2.1:5060", host, 1);
        let line = |name: &str| format!("{name}: {}\n", lines_of(&sent, name)[0]);
        let rest = ["From", "To", "Call-ID", "CSeq"].map(line).concat();
        format!("SIP/2.0 180 Ringing\nVia: {vias}\n{rest}Content-Length: 0\n\n")
    };
    assert!(rig.receive(A, &answer("x.example:5060")).is_empty(), "T-7: not ours");
    assert_eq!(rig.receive(A, &answer("edge.example:5060")).len(), 1);
}

#[test]
fn rr5_record_route_styles_of_a_tls_side_come_back() {
    let network = |style: &str| {
        format!(
            "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n[[trunk]]\nname = \"pbx\"\nnext_hop = \"udp:{PBX}\"\n\
             [[trunk]]\nname = \"a\"\nnext_hop = \"udp:{A}\"\n{style}\n{ROUTE}"
        )
    };
    let directory = TempDir::new().unwrap();
    for (style, wanted) in [
        ("transport-tls", "<sip:edge.example:5061;transport=tls;lr;vt=0.1>"),
        ("sips", "<sips:edge.example:5061;lr;vt=0.1>"),
        ("naptr-host", "<sip:edge.example;lr;vl=5061;vt=0.1>"),
    ] {
        // A TLS listener needs a certificate; the core does not ask for it.
        let mut config = parse(&network(&format!("rr_style = \"{style}\"")), directory.path()).proxy;
        let mut tls = config.listeners[0].clone();
        (tls.transport, tls.advertise_host, tls.advertise_port) = (Transport::Tls, "edge.example".into(), 5061);
        tls.bind = "192.0.2.1:5061".parse().unwrap();
        config.listeners.push(tls);
        config.keys = Default::default();
        let hop = vesperd::proxy::NextHop { transport: Transport::Tls, remote: "198.51.100.1:5061".parse().unwrap() };
        config.trunks[1].next_hops = vec![hop.into()];
        config.trunks[1].listener = ListenerId(1);
        let mut rig = Rig::of(config);
        let text = forwarded(&mut rig, PBX, 1, "");
        assert_eq!(lines_of(&text, "Record-Route"), [wanted, "<sip:192.0.2.1:5060;transport=udp;lr;vt=0.1>"]);
        // The callee's BYE along this route set.
        let bye = format!(
            "BYE sip:+1201@192.0.2.10:5066 SIP/2.0\nVia: SIP/2.0/TLS {A};branch=z9hG4bKbye\nMax-Forwards: 70\nRoute: {wanted}, <sip:192.0.2.1:5060;transport=udp;lr;vt=0.1>\n\
             From: <sip:b@b>;tag=b\nTo: <sip:a@a>;tag=1\nCall-ID: q1\nCSeq: 1 BYE\nContent-Length: 0\n\n"
        );
        let out = receive_by(&mut rig, Transport::Tls, 1, "198.51.100.1:5061", &bye);
        assert_eq!(
            (out[0].0.to_string().as_str(), lines_of(&out[0].1, "Route").len()),
            ("192.0.2.10:5066", 0),
            "{style}"
        );
    }
}

#[test]
fn rr3_sips_stays_sips_and_on_tls() {
    let mut rig = Rig::new(ROUTE);
    assert_eq!(rig.call("sips:+49@192.0.2.1"), "480 No Next Hop over TLS");
    let mut rig = Rig::between(&[("a", "[trunk.numbers_out]\nuri = \"tel\"")], ROUTE);
    assert_eq!(
        rig.call("sips:+49@192.0.2.1"),
        "480 No Next Hop over TLS",
        "a trunk that writes tel is no way out of TLS"
    );
    assert_eq!(rig.call("sip:+49@192.0.2.1"), format!("{A} tel:+49"));
}

#[test]
fn r4_rr3_a_416_to_our_tel_uri_of_a_sips_uri_is_tried_again_as_sips() {
    let text = NETWORK.replace("#a\n", "[trunk.numbers_out]\nuri = \"tel\"\n");
    let mut config = parse(&format!("{text}{ROUTE}"), std::path::Path::new("")).proxy;
    config.listeners.push(support::rig::listener(Transport::Tls, 5061));
    config.trunks[2].next_hops = vec![NextHop { transport: Transport::Tls, remote: A.parse().unwrap() }.into()];
    let mut rig = Rig::of(config);
    let out = rig.receive(PBX, &request("INVITE", "sips:+4930123@192.0.2.1", PBX, 1, ""));
    let (_, first) = requests(&out, "INVITE").remove(0);
    assert!(first.starts_with("INVITE tel:+4930123 SIP/2.0"), "{first}");
    let out = rig.receive(A, &answer(&first, "416 Unsupported URI Scheme", ""));
    let (to, second) = requests(&out, "INVITE").remove(0);
    assert_eq!(
        (to.as_str(), second.lines().next().unwrap()),
        (A, "INVITE sips:+4930123@198.51.100.1:5060;user=phone SIP/2.0")
    );
}

#[test]
fn e6_history_info_in_responses_is_for_who_asks_for_it() {
    let entry = "History-Info: <sip:a@x>;index=1\n";
    for (n, (asks, kept)) in [
        ("", 0),
        ("Supported: timer\n", 0),
        ("Supported: timer, HISTINFO\n", 1),
        ("k: histinfo\n", 1),
        ("History-Info: <sip:b@x>;index=1\n", 1),
    ]
    .into_iter()
    .enumerate()
    {
        for status in ["183 Progress", "200 OK", "486 Busy"] {
            let mut rig = Rig::new(ROUTE);
            let text = forwarded(&mut rig, PBX, n as u32, asks);
            let out = rig.receive(A, &answer(&text, status, &format!("{entry}{entry}")));
            assert_eq!(lines_of(upstream(&out), "History-Info").len(), 2 * kept, "{asks} {status}");
        }
    }
}

#[test]
fn e11_a_register_gets_our_path_if_its_trunk_wants_one() {
    let register = |rig: &mut Rig| {
        let out = rig.receive(PBX, &request("REGISTER", "sip:192.0.2.1", PBX, 1, "Path: <sip:p.example;lr>\n"));
        out[0].1.clone()
    };
    let text = register(&mut Rig::new(ROUTE));
    assert_eq!((lines_of(&text, "Path"), lines_of(&text, "Record-Route").len()), (vec!["<sip:p.example;lr>"], 0));
    let mut rig = Rig::between(&[("a", "path = true")], ROUTE);
    let text = register(&mut rig);
    let path = lines_of(&text, "Path");
    assert_eq!(path.len(), 2, "ours on top");
    assert!(path[0].starts_with("<sip:192.0.2.1:5060;lr;vp;vt=0.2"), "{path:?}");
    // The registrar's call to whoever registered, along the path; it is another call.
    let route = format!("Route: {}\n", path[0]);
    let out = rig.receive(A, &request("INVITE", "sip:desk@192.0.2.10:5077", A, 9, &route));
    assert_eq!((out[0].0.to_string().as_str(), lines_of(&out[0].1, "Route").len()), ("192.0.2.10:5077", 0));
    // RT-4: whoever registered sees the path in the 200. It is no pass for it or others, and leads nowhere else.
    let last = |rig: &mut Rig, uri: &str, from: &str, n: u32, tag: &str| {
        let text = request("INVITE", uri, from, n, &route)
            .replace("+4930123@b.example>", &format!("+4930123@b.example>{tag}"));
        rig.receive(from, &text).remove(0)
    };
    for (n, tag) in [(20, ""), (30, ";tag=b")] {
        for (i, (uri, from)) in [
            ("sip:+882@203.0.113.9", PBX),
            ("sip:+882@198.51.100.2", PBX),
            ("sip:+882@203.0.113.9", A),
            ("sip:+882@192.0.2.11", A),
        ]
        .into_iter()
        .enumerate()
        {
            let (to, text) = last(&mut rig, uri, from, n + i as u32, tag);
            let named = uri.rsplit('@').next().unwrap();
            assert_ne!(to.ip().to_string(), named, "{from} {uri} {tag}: {text}");
        }
    }
}

#[test]
fn what_the_operator_is_told() {
    let directory = TempDir::new().unwrap();
    let read = |text: &str| Config::parse(text, &directory.path().join("edge.toml"), NOON);
    for (line, expected) in [
        ("on_3xx = \"302\"", "on_3xx: \"302\" can not be read; give \"pass\", \"recurse\" or a status"),
        ("history_info = \"drop\"", "history_info: \"drop\" is none of \"pass\", \"add\", \"remove\""),
        ("identity = \"drop\"", "identity: \"drop\" is none of \"forward\", \"remove\""),
        ("on_3xx_identity = \"use\"", "on_3xx_identity: its 3xx are not followed; add on_3xx = \"recurse\""),
        ("rr_style = \"tls\"", "rr_style: \"tls\" is none of \"transport-tls\", \"sips\", \"naptr-host\""),
        ("asserted_identity = true", "asserted_identity: is a boolean"),
        ("[routing]\ndomains = []", "routing.domains: no domain is listed"),
        ("[routing]\ndomains = \"a b\"", "routing.domains: \"a b\" can not be read"),
    ] {
        let told = match read(&NETWORK.replace("#b\n", &format!("{line}\n"))) {
            Ok(_) => panic!("good: {line}"),
            Err(mistakes) => mistakes.to_string(),
        };
        assert!(told.contains(expected), "{told}");
    }
    let warned = Warning::RecordRouteOverTls { trunk: "a".into() };
    assert!(warned.to_string().contains("rr_style"));
    let shared = read(&NETWORK.replace("#b\n", "[[trunk]]\nname = \"twin\"\nnext_hop = \"udp:198.51.100.1:5060\"\n"));
    let warned = Warning::SharedNextHop { first: "a".into(), second: "twin".into(), next_hop: format!("udp:{A}") };
    assert!(shared.unwrap_or_else(|m| panic!("{m}")).warnings.contains(&warned), "KR-11");
}

fn receive_by(rig: &mut Rig, transport: Transport, listener: u16, from: &str, text: &str) -> Vec<(SocketAddr, String)> {
    let text = text.replace('\n', "\r\n");
    let connection = transport.is_reliable().then_some(sip::ConnectionId(1));
    let source = Hop { transport, local: ListenerId(listener), remote: from.parse().unwrap(), connection, peer: None };
    let mut index = Index::new();
    let message = sip::parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
    rig.take(source, message)
}
