//! The torture messages of RFC 4475 and RFC 5118 through the parser and its semantic stage, in the proxy role over UDP.
#![allow(clippy::disallowed_methods)] // the framer only compares the times it is given

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vesperd::sip::hop::is_sendable;
use vesperd::sip::stream::{Frame, StreamFramer};
use vesperd::sip::{
    Framing, Host, Index, Leniency, Limits, Message, Method, Name, NameAddr, Patch, Scheme, StartLine, Unusable, Uri,
    parse, respond,
};

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// Passes every check.
    Forward,
    /// Answered with this.
    Refuse(u16, &'static str),
    /// Refused with this by default, forwarded repaired for a trusted peer.
    Repair(&'static str),
    /// Dropped as no usable message.
    Unusable(Unusable),
    /// A response that is dropped.
    Drop,
}

use Verdict::{Drop, Forward, Refuse, Repair};

const RFC4475: &[(&str, Verdict)] = &[
    ("wsinv", Forward),
    ("intmeth", Forward),
    ("esc01", Forward),
    ("escnull", Forward),
    ("esc02", Forward),
    ("lwsdisp", Forward),
    ("longreq", Forward),
    ("dblreq", Forward),
    ("semiuri", Forward),
    ("transports", Forward),
    ("mpart01", Forward),
    ("unreason", Forward),
    ("noreason", Forward),
    ("badinv01", Refuse(400, "Bad Via")),
    ("clerr", Refuse(400, "Bad Content-Length")),
    ("ncl", Refuse(400, "Bad Content-Length")),
    ("scalar02", Refuse(400, "Bad CSeq")),
    ("scalarlg", Drop),
    ("quotbal", Refuse(400, "Bad To")),
    ("ltgtruri", Repair("Bad Request-URI")),
    ("lwsruri", Refuse(400, "Bad Request-URI")),
    ("lwsstart", Repair("Bad Request Line")),
    ("trws", Repair("Bad Request Line")),
    ("escruri", Repair("Bad Request-URI")),
    ("baddate", Forward),
    ("regbadct", Forward),
    ("badaspec", Refuse(400, "Bad To")),
    ("baddn", Refuse(400, "Header Section Not Closed")),
    ("badvers", Refuse(505, "Version Not Supported")),
    ("mismatch01", Refuse(400, "CSeq Method Mismatch")),
    ("mismatch02", Refuse(501, "Not Implemented")),
    ("bigcode", Verdict::Unusable(Unusable::Status)),
    ("badbranch", Repair("Bad Branch")),
    ("insuf", Refuse(400, "Missing Call-ID")),
    // 416, 420 and 483 depend on the proxy's configuration: here the message passes and the facts it decides by are asserted below.
    ("unkscm", Forward),
    ("novelsc", Forward),
    ("bext01", Forward),
    ("zeromf", Forward),
    ("unksm2", Forward),
    ("invut", Forward),
    ("regaut01", Forward),
    ("multi01", Refuse(400, "Multiple Call-ID")),
    ("mcl01", Refuse(400, "Bad Content-Length")),
    ("bcast", Forward),
    ("cparam01", Forward),
    ("cparam02", Forward),
    ("regescrt", Forward),
    ("sdp01", Forward),
    ("inv2543", Forward),
];

const RFC5118: &[(&str, Verdict)] = &[
    ("ipv6-good", Forward),
    ("ipv6-bad", Refuse(400, "Bad Request-URI")),
    ("port-ambiguous", Forward),
    ("port-unambiguous", Forward),
    ("via-received-param-with-delim", Forward),
    ("via-received-param-no-delim", Forward),
    ("ipv6-in-sdp", Forward),
    ("mult-ip-in-header", Forward),
    ("mult-ip-in-sdp", Forward),
    ("ipv4-mapped-ipv6", Forward),
    ("ipv6-bug-abnf-3-colons", Forward),
    ("ipv6-correct-abnf-2-colons", Forward),
];

fn directory(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(set)
}

fn read(set: &str, name: &str) -> Vec<u8> {
    std::fs::read(directory(set).join(name).with_extension("dat")).unwrap_or_else(|e| panic!("{set}/{name}: {e}"))
}

fn all() -> impl Iterator<Item = (&'static str, &'static str, Verdict, Vec<u8>)> {
    let set = |set: &'static str, table: &'static [(&str, Verdict)]| {
        table.iter().map(move |&(name, verdict)| (set, name, verdict, read(set, name)))
    };
    set("rfc4475", RFC4475).chain(set("rfc5118", RFC5118))
}

fn verdict(bytes: &[u8], limits: &Limits) -> Verdict {
    let mut index = Index::new();
    let message = match parse(bytes, &mut index, Framing::Datagram, limits) {
        Ok(message) => message,
        Err(unusable) => return Verdict::Unusable(unusable),
    };
    if !message.is_request() {
        return message.check_response().map_or(Drop, |()| Forward);
    }
    message.check_request().map_or_else(|refusal| Refuse(refusal.status, refusal.reason), |()| Forward)
}

fn trusted() -> Limits {
    Limits { leniency: Leniency::TRUSTED, ..Limits::default() }
}

fn with<T>(bytes: &[u8], limits: &Limits, look: impl FnOnce(Message<'_>) -> T) -> T {
    let mut index = Index::new();
    look(parse(bytes, &mut index, Framing::Datagram, limits).unwrap())
}

fn look<T>(name: &str, look: impl FnOnce(Message<'_>) -> T) -> T {
    let set = if RFC4475.iter().any(|(n, _)| *n == name) { "rfc4475" } else { "rfc5118" };
    with(&read(set, name), &Limits::default(), look)
}

fn source() -> SocketAddr {
    "198.51.100.7:5070".parse().unwrap()
}

#[test]
fn every_message_has_the_written_verdict() {
    for (set, name, expected, bytes) in all() {
        let strict = match expected {
            Repair(reason) => Refuse(400, reason),
            other => other,
        };
        assert_eq!(verdict(&bytes, &Limits::default()), strict, "{set}/{name}");
        let lenient = if matches!(expected, Repair(_)) { Forward } else { expected };
        assert_eq!(verdict(&bytes, &trusted()), lenient, "{set}/{name} from a trusted peer");
    }
}

#[test]
fn no_vector_is_skipped() {
    for (set, table, count) in [("rfc4475", RFC4475, 49), ("rfc5118", RFC5118, 12)] {
        let files: BTreeSet<String> = std::fs::read_dir(directory(set))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "dat"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let named: BTreeSet<String> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, named);
        assert_eq!(files.len(), count);
    }
}

#[test]
fn baddn_with_its_header_section_closed() {
    let mut bytes = read("rfc4475", "baddn");
    bytes.extend_from_slice(b"\r\n");
    assert_eq!(verdict(&bytes, &Limits::default()), Refuse(400, "Bad From"));
}

#[test]
fn repaired_messages_are_strict() {
    let limits = trusted();
    for (name, line) in [
        ("lwsstart", "INVITE sip:user@example.com SIP/2.0\r\n"),
        ("trws", "OPTIONS sip:remote-target@example.com SIP/2.0\r\n"),
        ("ltgtruri", "INVITE sip:user@example.com SIP/2.0\r\n"),
        ("escruri", "INVITE sip:user@example.com SIP/2.0\r\n"),
        ("ipv6-bug-abnf-3-colons", "OPTIONS sip:user@[2001:db8::c000:201] SIP/2.0\r\n"),
    ] {
        let set = if name.starts_with("ipv6") { "rfc5118" } else { "rfc4475" };
        let out = with(&read(set, name), &limits, |message| {
            let mut patch = Patch::new();
            message.repair(None, &mut patch);
            let mut out = Vec::new();
            patch.write(message.bytes(), &mut out);
            out
        });
        assert!(out.starts_with(line.as_bytes()), "{name}: {}", String::from_utf8_lossy(&out));
        assert_eq!(verdict(&out, &Limits::default()), Forward, "{name}");
    }
}

#[test]
fn strict_messages_need_no_repair() {
    for (set, name, verdict, bytes) in all() {
        if verdict == Forward && name != "ipv6-bug-abnf-3-colons" {
            with(&bytes, &Limits::default(), |message| {
                let mut patch = Patch::new();
                message.repair(None, &mut patch);
                assert!(patch.is_empty(), "{set}/{name}");
            });
        }
    }
}

#[test]
fn wsinv_is_understood_through_folds_and_compact_names() {
    look("wsinv", |m| {
        assert_eq!(m.max_forwards(), Ok(Some(68)));
        assert_eq!(m.to_tag(), Some(&b"1918181833n"[..]));
        assert_eq!(m.from_tag(), Some(&b"98asjd8"[..]));
        assert_eq!(m.from().unwrap().display, br#""J Rosenberg \\\"""#);
        assert_eq!(m.cseq().unwrap().number, 9);
        let vias: Vec<_> =
            m.values(Name::Via).map(|v| vesperd::sip::Via::parse(v.value).unwrap().host().to_vec()).collect();
        assert_eq!(vias, [&b"192.0.2.2"[..], b"spindle.example.com", b"192.168.255.111"]);
        assert_eq!(m.top_via().unwrap().branch(), Some(&b"390skdjuw"[..]));
        assert_eq!(m.top_via().unwrap().rfc3261_branch(), None);
        let deepest = m.values(Name::Via).last().unwrap();
        assert_eq!(vesperd::sip::Via::parse(deepest.value).unwrap().branch(), Some(&b"z9hG4bK30239"[..]));
        assert_eq!(m.field(Name::Subject).unwrap().value(), b"");
        let new = m.fields().find(|f| f.raw_name() == b"NewFangledHeader").unwrap();
        assert_eq!(new.unfolded().as_ref(), b"newfangled value continued newfangled value");
        assert_eq!(m.values(Name::Route).count(), 1);
        let contact = NameAddr::parse(m.field(Name::Contact).unwrap().value()).unwrap();
        assert_eq!(contact.params().map(|p| p.name).collect::<Vec<_>>(), [&b"newparam"[..], b"secondparam", b"q"]);
        assert_eq!(m.body().len(), 150);
    });
}

#[test]
fn unusual_but_valid_requests_keep_their_meaning() {
    look("intmeth", |m| {
        assert_eq!(m.method(), Some(Method::Other(b"!interesting-Method0123456789_*+`.%indeed'~")));
        let uri = Uri::parse(m.request_uri()).unwrap();
        assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
        assert_eq!(uri.password, Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..]));
        assert_eq!(m.from_tag(), Some(&b"_token~1'+`*%!-."[..]));
        assert_eq!(m.max_forwards(), Ok(Some(255)));
    });
    look("esc02", |m| {
        assert_eq!(m.method(), Some(Method::Other(b"RE%47IST%45R")));
        assert_eq!(m.fields_of(Name::Contact).count(), 2);
    });
    look("escnull", |m| assert_eq!(m.fields_of(Name::Contact).count(), 2));
    look("lwsdisp", |m| assert_eq!(m.from().unwrap().display, b"caller"));
    look("longreq", |m| assert_eq!(m.values(Name::Via).count(), 34));
    look("dblreq", |m| {
        assert_eq!(m.method(), Some(Method::Register));
        assert!(m.bytes().ends_with(b"\r\n\r\n") && m.body().is_empty());
        assert!(m.bytes().len() < read("rfc4475", "dblreq").len());
    });
    look("semiuri", |m| assert_eq!(Uri::parse(m.request_uri()).unwrap().user, Some(&b"user;par=u%40example.net"[..])));
    look("mpart01", |m| assert!(m.body().contains(&0) && m.content_length() == Some(m.body().len() as u32)));
    look("inv2543", |m| {
        assert_eq!((m.max_forwards(), m.from_tag()), (Ok(None), None));
        assert!(m.top_via().unwrap().branch().is_none() && m.content_length().is_none() && !m.body().is_empty());
    });
    for (name, params) in [("cparam01", 1), ("cparam02", 0)] {
        look(name, |m| {
            let contact = NameAddr::parse(m.field(Name::Contact).unwrap().value()).unwrap();
            assert_eq!(contact.params().count(), params, "{name}");
        });
    }
}

#[test]
fn reason_phrases() {
    look("unreason", |m| match m.start() {
        StartLine::Response { status: 200, reason } => {
            assert!(std::str::from_utf8(reason).unwrap().starts_with("= 2**3 * 5**2 \u{43d}\u{43e}"));
        }
        other => panic!("{other:?}"),
    });
    look("noreason", |m| assert_eq!(m.start(), StartLine::Response { status: 100, reason: b"" }));
}

#[test]
fn facts_for_the_answers_that_are_the_proxys() {
    for name in ["unkscm", "novelsc"] {
        look(name, |m| assert_eq!(Uri::parse(m.request_uri()).unwrap().scheme, Scheme::Other, "{name}"));
    }
    look("zeromf", |m| assert_eq!(m.max_forwards(), Ok(Some(0))));
    look("bext01", |m| {
        let tags: Vec<_> = m.values(Name::ProxyRequire).map(|v| v.value.to_vec()).collect();
        assert_eq!(tags, [&b"noProxiesSupportThis"[..], b"norDoAnyProxiesSupportThis"]);
    });
    look("bcast", |m| {
        let below = m.values(Name::Via).nth(1).unwrap();
        let below = vesperd::sip::Via::parse(below.value).unwrap();
        assert!(!is_sendable(below.host_parsed().ip().unwrap()));
    });
    look("baddate", |m| assert_eq!(vesperd::sip::date::parse(m.field(Name::Date).unwrap().value()), None));
    look("scalar02", |m| assert_eq!(m.max_forwards(), Ok(None)));
}

#[test]
fn ipv6_addresses_and_ports() {
    let uri = |name: &str| look(name, |m| Uri::parse(m.request_uri()).map(|u| (u.host.ip(), u.port)).unwrap());
    assert_eq!(uri("port-ambiguous"), ("2001:db8::10:5070".parse().ok(), None));
    assert_eq!(uri("port-unambiguous"), ("2001:db8::10".parse().ok(), Some(5070)));
    assert_eq!(uri("ipv6-bug-abnf-3-colons"), uri("ipv6-correct-abnf-2-colons"));
    let received = |name: &str| look(name, |m| m.top_via().unwrap().received_address());
    assert_eq!(received("via-received-param-with-delim"), "2001:db8::9:255".parse().ok());
    assert_eq!(received("via-received-param-no-delim"), received("via-received-param-with-delim"));
    for name in ["ipv6-good", "ipv4-mapped-ipv6"] {
        look(name, |m| assert!(matches!(m.top_via().unwrap().host_parsed(), Host::V6(_)), "{name}"));
    }
    look("mult-ip-in-header", |m| assert_eq!(m.values(Name::Via).count(), 3));
}

/// Sends `chunks` through a framer and describes everything that comes out.
fn frames<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut framer = StreamFramer::new();
    let limits = Limits::default();
    let now = Instant::now();
    let mut out = Vec::new();
    for chunk in chunks {
        framer.push(chunk, now);
        loop {
            match framer.next(&limits) {
                Ok(None) => break,
                Ok(Some(Frame::Message(r))) => {
                    out.push(format!("message {}", String::from_utf8_lossy(&framer.bytes()[r])))
                }
                Ok(Some(Frame::Broken(r))) => {
                    out.push(format!("broken {}", String::from_utf8_lossy(&framer.bytes()[r])))
                }
                Ok(Some(Frame::Ping | Frame::Pong)) => out.push("ping".to_owned()),
                Err(error) => {
                    out.push(error.to_string());
                    break;
                }
            }
        }
    }
    out.push(format!("pending {}", framer.pending()));
    out
}

#[test]
fn framing_does_not_depend_on_read_boundaries() {
    for (set, name, _, bytes) in all() {
        // Keepalives before and between, so that every split falls into them as well.
        let stream = [b"\r\n\r\n".as_slice(), &bytes, b"\r\n\r\n\r\n", &bytes].concat();
        let whole = frames([&stream[..]]);
        assert_eq!(frames(stream.chunks(1)), whole, "{set}/{name} octet by octet");
        for at in 1..stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(frames([head, tail]), whole, "{set}/{name} split at {at}");
        }
    }
}

#[test]
fn messages_that_a_stream_reads_otherwise() {
    let kinds = |name: &str| {
        let mut kinds: Vec<String> =
            frames([&read("rfc4475", name)[..]]).iter().map(|f| f.split(' ').next().unwrap().to_owned()).collect();
        kinds.pop();
        kinds
    };
    // Two requests; the Content-Length of the second is five octets short of its body.
    assert_eq!(kinds("dblreq"), ["message", "message", "not"]);
    assert_eq!(kinds("clerr"), [""; 0], "waits for the rest");
    assert_eq!(kinds("baddn"), [""; 0], "waits for the rest");
    for name in ["ncl", "mcl01", "inv2543"] {
        assert_eq!(kinds(name), ["broken"], "{name}");
    }
}

#[test]
fn e2_answers_never_echo_what_could_not_be_delimited() {
    for (set, name, verdict, bytes) in all() {
        let mut index = Index::new();
        let Ok(message) = parse(&bytes, &mut index, Framing::Datagram, &Limits::default()) else { continue };
        if !message.is_request() {
            continue;
        }
        let mut out = Vec::new();
        respond::write(message, source(), 400, "Bad Request", Some(b"t1"), b"Server: x\r\n", &mut out);
        let mut reply_index = Index::new();
        let reply = parse(&out, &mut reply_index, Framing::Stream, &Limits::default())
            .unwrap_or_else(|e| panic!("{set}/{name}: {e}\n{}", String::from_utf8_lossy(&out)));
        assert_eq!(reply.fault(), None, "{set}/{name}");
        assert_eq!(reply.status(), Some(400));
        assert_eq!(reply.body(), b"");
        assert_eq!(reply.call_id(), message.call_id(), "{set}/{name}");
        assert_eq!(reply.fields_of(Name::Via).count(), message.fields_of(Name::Via).count(), "{set}/{name}");
        let foreign = reply.fields().find(|f| {
            !matches!(
                f.name,
                Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq | Name::ContentLength | Name::Server
            )
        });
        assert!(foreign.is_none(), "{set}/{name}: {foreign:?}");
        // Only names that were compact, the stamp, the tag and the fixed lines may make it longer than the request.
        assert!(out.len() <= message.bytes().len() + 160, "{set}/{name}");
        if verdict == Forward {
            assert!(reply.check_response().is_ok(), "{set}/{name}");
            assert!(reply.to_tag().is_some(), "{set}/{name}");
            assert_eq!(reply.from().unwrap().uri, message.from().unwrap().uri);
        }
    }
}

#[test]
fn insuf_is_answered_with_what_there_is() {
    look("insuf", |m| {
        let mut out = Vec::new();
        respond::write(m, source(), 400, "Missing Call-ID", Some(b"t1"), b"", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "SIP/2.0 400 Missing Call-ID\r\nCSeq: 193942 INVITE\r\n\
             Via: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf;received=198.51.100.7\r\nContent-Length: 0\r\n\r\n"
        );
    });
}

/// Why traffic never passes through rsip's parser: what it does with valid messages.
#[test]
fn rsip_refuses_valid_messages_and_alters_a_binary_body() {
    let valid = [
        "wsinv",
        "intmeth",
        "esc01",
        "escnull",
        "esc02",
        "lwsdisp",
        "longreq",
        "dblreq",
        "semiuri",
        "transports",
        "mpart01",
        "unreason",
        "noreason",
        "unkscm",
        "novelsc",
        "unksm2",
        "bext01",
        "invut",
        "regaut01",
        "bcast",
        "zeromf",
        "cparam01",
        "cparam02",
        "regescrt",
        "sdp01",
        "inv2543",
    ];
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/rfc4475/{name}.dat"));
        std::fs::read(path).unwrap()
    };
    let refused: Vec<_> =
        valid.into_iter().filter(|name| rsip::SipMessage::try_from(read(name).as_slice()).is_err()).collect();
    assert_eq!(refused, ["wsinv", "intmeth", "esc01", "esc02", "longreq", "semiuri", "unkscm"]);
    let multipart = read("mpart01");
    let written: Vec<u8> = rsip::SipMessage::try_from(multipart.as_slice()).unwrap().into();
    let body = |message: &[u8]| message[message.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4..].to_vec();
    assert_ne!(body(&written), body(&multipart));
}
