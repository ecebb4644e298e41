//! Where requests go, from the configuration file to the packet: route table, prefix tables, number shaping (kamailio-routing sections 2,
//! 5, 6; sip-proxy TG-1 to TG-4).

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use support::table::*;
use tempfile::TempDir;
use vesperd::config::Config;
use vesperd::proxy::Snapshot;
use vesperd::stir::TrustStore;
use vesperd::stir::replay::ReplayTable;

/// Where two routes `when` and anything else send calls.
fn branches(when: &str) -> Rig {
    Rig::new(&format!("[[route]]\nto = \"a\"\n{when}\n[[route]]\nto = \"b\"\n"))
}

fn at(address: &str, uri: &str) -> String {
    format!("{address} {uri}")
}

const NUMBER: &str = "sip:+4930123@192.0.2.1";

#[test]
fn from_is_a_trunk_a_list_or_a_pattern() {
    for (from, first, second) in [
        ("\"pbx-1\"", A, B),
        ("\"pbx-*\"", A, A),
        ("[\"a\", \"pbx-2\"]", B, A),
        ("\"*\"", A, A),
        ("[\"*-1\", \"*-2\"]", A, A),
    ] {
        let mut rig = branches(&format!("from = {from}"));
        assert_eq!(rig.call(NUMBER), at(first, NUMBER), "{from}");
        assert_eq!(rig.send(PBX2, "INVITE", NUMBER, ""), at(second, NUMBER), "{from}");
    }
}

#[test]
fn method_is_one_of_a_list() {
    let mut rig = branches("method = [\"MESSAGE\", \"INFO\"]");
    assert_eq!(rig.send(PBX, "MESSAGE", NUMBER, ""), at(A, NUMBER));
    assert_eq!(rig.send(PBX, "message", NUMBER, ""), at(B, NUMBER), "methods have case");
    assert_eq!(rig.call(NUMBER), at(B, NUMBER));
}

#[test]
fn prefix_is_digits_with_a_plus_or_without() {
    let mut rig = branches("prefix = [\"4930\", \"+44\", \"*6\"]");
    for (user, to) in
        [("+4930", A), ("4930", A), ("+49-3(0)", A), ("+4931", B), ("+442", A), ("442", B), ("*67", A), ("bob", B)]
    {
        let uri = format!("sip:{user}@192.0.2.1");
        assert_eq!(rig.call(&uri), at(to, &uri));
    }
    assert_eq!(rig.call("tel:+4930;npdi"), at(A, "tel:+4930;npdi"));
}

#[test]
fn number_is_a_kind() {
    for (kind, global, local, none) in [("global", A, B, B), ("local", B, A, B), ("any", A, A, B), ("none", B, B, A)] {
        let mut rig = branches(&format!("number = \"{kind}\""));
        for (uri, to) in
            [(NUMBER, global), ("sip:110@192.0.2.1", local), ("sip:bob@192.0.2.1", none), ("tel:110", local)]
        {
            assert_eq!(rig.call(uri), at(to, uri), "{kind}");
        }
    }
}

#[test]
fn uri_is_a_regular_expression() {
    let mut rig = branches("uri = '^sip:(bob|\\+4930\\d+)@'");
    for (uri, to) in [("sip:bob@192.0.2.1", A), (NUMBER, A), ("sip:bobby@192.0.2.1", B), ("sip:Bob@192.0.2.1", B)] {
        assert_eq!(rig.call(uri).split(' ').next().unwrap(), to, "{uri}");
    }
}

#[test]
fn caller_is_from_or_who_a_trusted_trunk_asserts() {
    let pai = "P-Asserted-Identity: \"x\" <sip:+442@a.example>, <tel:+443>\n";
    for when in ["caller_prefix = [\"+442\", \"1201555010\"]", "caller = '\\+442@|\\+12015550100@pbx'"] {
        let mut rig = branches(when);
        assert_eq!(rig.call(NUMBER), at(A, NUMBER), "From: {when}");
        let other = "From: <sip:+33@pbx.example>;tag=a\n";
        assert_eq!(rig.send(PBX, "INVITE", NUMBER, other), at(B, NUMBER), "{when}");
        assert_eq!(rig.send(PBX, "INVITE", NUMBER, &format!("{other}{pai}")), at(B, NUMBER), "not believed: {when}");
        assert_eq!(rig.send(PBX2, "INVITE", NUMBER, &format!("{other}{pai}")), at(A, NUMBER), "{when}");
    }
}

#[test]
fn header_is_there_or_looks_like() {
    let mut rig = branches("header = { name = \"X-Class\", matches = '^(gold|silver)$' }");
    for (lines, to) in [
        ("", B),
        ("X-Class: gold\n", A),
        ("x-class:  silver \n", A),
        ("X-Class: tin\n", B),
        ("X-Class: tin\nX-Class: gold\n", A),
        ("X-Other: gold\n", B),
    ] {
        assert_eq!(rig.send(PBX, "INVITE", NUMBER, lines), at(to, NUMBER), "{lines}");
    }
    let mut rig = branches("header = [{ name = \"Subject\" }, { name = \"k\", matches = \"100rel\" }]");
    assert_eq!(
        rig.send(PBX, "INVITE", NUMBER, "s: x\nSupported: timer, 100rel\n"),
        at(A, NUMBER),
        "compact and long, both"
    );
    assert_eq!(rig.send(PBX, "INVITE", NUMBER, "s: x\n"), at(B, NUMBER));
}

#[test]
fn time_is_days_and_hours_of_a_zone() {
    let mut rig = branches("time = { days = \"mon-fri\", from = \"12:00\", to = \"13:00\", zone = \"UTC\" }");
    assert_eq!(rig.call(NUMBER), at(A, NUMBER));
    rig.now.unix += 3600;
    assert_eq!(rig.call(NUMBER), at(B, NUMBER));
    rig.now.unix += 23 * 3600 + 86_400 * 3;
    assert_eq!(rig.call(NUMBER), at(B, NUMBER), "noon on Saturday");
    let mut rig = branches("time = { days = [\"tue\"], from = \"13:00\", zone = \"Europe/Berlin\" }");
    assert_eq!(rig.call(NUMBER), at(A, NUMBER));
}

#[test]
fn emergency_calls_have_their_route() {
    let mut rig = branches("emergency = true");
    for (uri, to) in [("urn:service:sos", A), ("urn:service:sos.fire", A), (NUMBER, B)] {
        assert_eq!(rig.call(uri), at(to, uri), "V-4: a service URN is understood where emergency calls have a route");
    }
    assert_eq!(rig.call("urn:service:counseling"), "416 Unsupported URI Scheme");
    let mut rig = Rig::new(
        "[guard]\nemergency_numbers = [\"110\"]\n[[route]]\nemergency = true\nto = \"a\"\n[[route]]\nto = \"b\"\n",
    );
    assert_eq!(rig.call("sip:110@192.0.2.1"), at(A, "sip:110@192.0.2.1"));
    assert_eq!(branches("").call("urn:service:sos"), "416 Unsupported URI Scheme");
}

#[test]
fn trunks_of_a_list_are_tried_in_turn_by_the_classes_of_the_one_that_failed() {
    let answer = |request: &str, status: &str| {
        let copy =
            |name: &str| request.lines().filter(|l| l.starts_with(name)).map(|l| format!("{l}\n")).collect::<String>();
        format!(
            "SIP/2.0 {status}\n{}{}{};tag=b\n{}{}Content-Length: 0\n\n",
            copy("Via:"),
            copy("From:"),
            copy("To:").trim_end(),
            copy("Call-ID:"),
            copy("CSeq:")
        )
    };
    let invites = |out: &[(SocketAddr, String)]| {
        out.iter()
            .filter(|(_, t)| t.starts_with("INVITE"))
            .map(|(to, t)| (to.to_string(), t.clone()))
            .collect::<Vec<_>>()
    };
    let mut rig = Rig::between(&[("a", "failover_on = [\"404\", \"5xx\"]")], "[[route]]\nto = [\"a\", \"b\"]\n");
    let begin = |rig: &mut Rig| {
        rig.calls += 1;
        let n = rig.calls;
        let out = rig.receive(PBX, &format!(
            "INVITE {NUMBER} SIP/2.0\nVia: SIP/2.0/UDP {PBX};branch=z9hG4bKf{n}\nMax-Forwards: 70\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\nCall-ID: f{n}\nCSeq: 1 INVITE\nContent-Length: 0\n\n"
        ));
        invites(&out).remove(0)
    };
    let (to, first) = begin(&mut rig);
    assert_eq!(to, A);
    let (to, second) = invites(&rig.receive(A, &answer(&first, "404 Not Found"))).remove(0);
    assert_eq!(to, B, "404 is in the class of a");
    let (to, third) = invites(&rig.receive(B, &answer(&second, "503 Busy"))).remove(0);
    assert_eq!(to, B2, "503 in that of b");
    let last = rig.receive(B2, &answer(&third, "404 Not Found"));
    assert!(last.iter().any(|(to, t)| to.to_string() == PBX && t.starts_with("SIP/2.0 404")));
    let (_, first) = begin(&mut rig);
    let (_, second) = invites(&rig.receive(A, &answer(&first, "404 Not Found"))).remove(0);
    assert!(invites(&rig.receive(B, &answer(&second, "404 Not Found"))).is_empty(), "404 is not in the class of b");
}

#[test]
fn reject_says_what_the_operator_says() {
    let mut rig = Rig::new(
        "[[route]]\nprefix = \"+900\"\nreject = { status = 603, reason = \"Kein Anschluß\" }\n[[route]]\nprefix = \"+800\"\nreject = { status = 403 }\n",
    );
    assert_eq!(rig.call("sip:+9001@192.0.2.1"), "603 Kein Anschluß");
    assert_eq!(rig.call("sip:+8001@192.0.2.1"), "403 Rejected");
    assert_eq!(rig.call("sip:+7001@192.0.2.1"), "404 Not Found");
}

#[test]
fn redirect_names_a_contact() {
    let contact = |rig: &mut Rig| {
        let out = rig.receive(PBX, &format!("INVITE {NUMBER} SIP/2.0\nVia: SIP/2.0/UDP {PBX};branch=z9hG4bKr\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\nCall-ID: r\nCSeq: 1 INVITE\nContent-Length: 0\n\n"));
        let text = &out[0].1;
        (text.lines().next().unwrap().to_owned(), text.lines().find(|l| l.starts_with("Contact:")).unwrap().to_owned())
    };
    let mut rig = Rig::new("[[route]]\nredirect = { status = 301, contact = \"sip:desk@b.example\" }\n");
    assert_eq!(contact(&mut rig), ("SIP/2.0 301 Moved Permanently".into(), "Contact: <sip:desk@b.example>".into()));
    let mut rig = Rig::new("[[route]]\nredirect = {}\nstrip = 1\nadd = \"00\"\nset_uri_host = \"gw.example:5070\"\n");
    assert_eq!(
        contact(&mut rig),
        ("SIP/2.0 302 Moved Temporarily".into(), "Contact: <sip:004930123@gw.example:5070>".into())
    );
}

#[test]
fn shaping_is_per_copy_and_changes_only_the_request_uri() {
    let numbers = "[trunk.numbers_out]\nformat = \"national\"\ncountry_code = \"49\"\ninternational_prefix = \"00\"\ntrunk_prefix = \"0\"\nuser_phone = true\n";
    let mut rig = Rig::between(
        &[("b", numbers)],
        "[[route]]\nstrip = 3\nadd = \"+4989\"\nto = [\"a\", \"b\"]\nset_uri_host = \"gw.example\"\n",
    );
    let invite = format!(
        "INVITE sip:+4930123@192.0.2.1;x=y SIP/2.0\nVia: SIP/2.0/UDP {PBX};branch=z9hG4bKs\nMax-Forwards: 70\nFrom: <sip:+49@b>;tag=1\nTo: <sip:+4930123@192.0.2.1>\nCall-ID: s\nCSeq: 1 INVITE\nContent-Length: 0\n\n"
    );
    let first = rig.receive(PBX, &invite).remove(0).1;
    assert!(first.starts_with("INVITE sip:+498930123@gw.example;x=y SIP/2.0\r\n"), "{first}");
    let copy = |name: &str| first.lines().filter(|l| l.starts_with(name)).map(|l| format!("{l}\n")).collect::<String>();
    let refusal = format!(
        "SIP/2.0 503 No\n{}{}{}{}{}Content-Length: 0\n\n",
        copy("Via:"),
        copy("From:"),
        copy("To:"),
        copy("Call-ID:"),
        copy("CSeq:")
    );
    let out = rig.receive(A, &refusal);
    let second = &out.iter().find(|(_, t)| t.starts_with("INVITE")).unwrap().1;
    assert!(second.starts_with("INVITE sip:08930123@gw.example;x=y;user=phone SIP/2.0\r\n"), "not stacked: {second}");
    for text in [&first, second] {
        assert!(
            text.contains("\r\nTo: <sip:+4930123@192.0.2.1>\r\n") && text.contains("\r\nFrom: <sip:+49@b>;tag=1\r\n")
        );
    }
}

#[test]
fn numbers_in_are_what_is_routed_and_sent_on() {
    let numbers = "[trunk.numbers_in]\ncountry_code = \"49\"\ninternational_prefix = \"00\"\ntrunk_prefix = \"0\"\nnational_min = 3\nnational_max = 11\ne164_min = 12\n";
    let mut rig =
        Rig::between(&[("pbx-1", numbers)], "[[route]]\nprefix = \"+4930\"\nto = \"a\"\n[[route]]\nto = \"b\"\n");
    assert_eq!(rig.call("sip:030123@192.0.2.1;user=phone"), at(A, "sip:+4930123@192.0.2.1;user=phone"));
    assert_eq!(rig.call("sip:004930123@192.0.2.1"), at(A, "sip:+4930123@192.0.2.1"));
    assert_eq!(rig.call("sip:110@192.0.2.1"), at(B, "sip:+49110@192.0.2.1"), "three digits are national in this plan");
    assert_eq!(
        rig.send(PBX2, "INVITE", "sip:030123@192.0.2.1", ""),
        at(B, "sip:030123@192.0.2.1"),
        "another trunk, as it came"
    );
}

#[test]
fn a_prefix_table_knows_the_longest() {
    let table = "prefix,trunk,trunk,strip,add\n49,b,,,\n4930,a,b,3,0\n1212,b,,,\n";
    let routes = "[[prefix_table]]\nname = \"world\"\nfile = \"world.csv\"\n[[route]]\nfrom = \"pbx-*\"\ntable = \"world\"\n[[route]]\nprefix = \"9\"\nto = \"a\"\n";
    let mut rig = Rig::with(NETWORK, routes, &[("world.csv", table)]);
    assert_eq!(rig.call(NUMBER), at(A, "sip:030123@192.0.2.1"));
    assert_eq!(rig.call("sip:+4940@192.0.2.1"), at(B, "sip:+4940@192.0.2.1"));
    assert_eq!(
        rig.call("sip:99@192.0.2.1"),
        at(A, "sip:99@192.0.2.1"),
        "what is not in the table meets the next route"
    );
    assert_eq!(rig.call("sip:+4@192.0.2.1"), "484 Address Incomplete", "TG-3");
    assert_eq!(rig.call("sip:+5@192.0.2.1"), "404 Not Found");
    assert_eq!(rig.call("sip:bob@192.0.2.1"), "404 Not Found");
    assert_eq!(rig.call("sip:192.0.2.1"), "484 Address Incomplete", "nobody is called");

    // What SIGHUP does: the file is read anew, calls from now on go by it.
    std::fs::write(rig.files.path().join("world.csv"), "prefix,trunk\n4930,b\n").unwrap();
    let mut config = parse(&format!("{NETWORK}{routes}"), rig.files.path()).proxy;
    config.listeners[0].name = "udp".into();
    rig.proxy.set_snapshot(Arc::new(Snapshot { config, trust: TrustStore::default(), replay: ReplayTable::default() }));
    assert_eq!(rig.call(NUMBER), at(B, NUMBER));
}

#[test]
fn the_operator_is_told_what_is_wrong_with_routes() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("t.csv"), "prefix,trunk\n49,zz\n").unwrap();
    let cases = [
        ("from = \"x*\"\nto = \"a\"", "from: there is no trunk \"x*\"; there is \"a\", \"b\", \"pbx-1\", \"pbx-2\""),
        ("to = [\"a\", \"c\"]", "to: there is no trunk \"c\""),
        (
            "to = \"a\"\nreject = { status = 403 }",
            "reject: a route does one thing; give one of to, table, reject, redirect",
        ),
        ("to = \"a\"\nuri = \"(\"", "uri: no regular expression: unclosed group"),
        ("to = \"a\"\nuri = '(x{900}){900}'", "uri: the regular expression is too large"),
        ("to = \"a\"\nattest = \"D\"", "attest: \"D\" can not be read; give \"A\", \"B\" or \"C\""),
        ("to = \"a\"\nverdict = \"ok\"", "verdict: \"ok\" is none of \"passed\", \"failed\", \"none\""),
        ("to = \"a\"\ntime = { from = \"8\" , zone = \"UTC\" }", "time.from: \"8\" can not be read"),
        ("to = \"a\"\ntime = { from = \"08:00\" }", "time.zone: missing; give an offset"),
        ("to = \"a\"\nheader = { matches = \"x\" }", "header.name: missing"),
        ("to = \"a\"\nheader = { name = \"a b\" }", "header.name: \"a b\" can not be read"),
        ("to = \"a\"\nadd = \"x\"", "add: \"x\" can not be read; give digits"),
        ("to = \"a\"\nset_uri_host = \"a b\"", "set_uri_host: \"a b\" can not be read"),
        ("reject = { status = 302 }", "reject.status: out of range; give a whole number from 400 to 699"),
        ("reject = { status = 403, reason = \"a\\nb\" }", "reject.reason: \"a\nb\" can not be read"),
        ("redirect = { status = 303 }", "redirect.status: out of range; give a whole number from 301 to 302"),
        ("table = \"t\"", "there is no prefix_table \"t\""),
        ("table = \"t\"\n[[prefix_table]]\nname = \"t\"\nfile = \"none.csv\"", "file: "),
        ("table = \"t\"\n[[prefix_table]]\nname = \"t\"\nfile = \"t.csv\"", "t.csv:2: there is no trunk \"zz\""),
    ];
    for (route, expected) in cases {
        let text = format!("{NETWORK}[[route]]\n{route}\n");
        let told = match Config::parse(&text, &directory.path().join("edge.toml"), NOON) {
            Ok(_) => panic!("good: {route}"),
            Err(mistakes) => mistakes.to_string(),
        };
        assert!(told.contains(expected), "{told}\ninstead of\n{expected}");
    }
}
