//! What must hold for any octets: no panic, no invented octets, and agreement with a second parser where that one is right.
#![allow(clippy::disallowed_methods)] // the framer only compares the times it is given

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::Index as Pick;
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::HeadersExt;
use vesperd::sip::identity::IdentityValue;
use vesperd::sip::stream::{Frame, StreamFramer};
use vesperd::sip::{
    CSeq, Framing, Host, Index, Leniency, Limits, Message, Name, NameAddr, OwnedMessage, Patch, StartLine, TelUri, Uri,
    Via, parse, request_uri_repaired, respond,
};

fn corpus() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> = ["rfc4475", "rfc5118"]
        .iter()
        .flat_map(|set| std::fs::read_dir(root.join(set)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "dat"))
        .collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn source() -> SocketAddr {
    "198.51.100.7:5070".parse().unwrap()
}

/// Small enough that the torture messages reach them.
fn tight() -> Limits {
    Limits {
        message: 3000,
        head: 1500,
        value: 200,
        identity_value: 200,
        fields: 20,
        folds: 3,
        vias: 4,
        routes: 2,
        uri: 60,
        user: 30,
        leniency: Leniency::TRUSTED,
        ..Limits::default()
    }
}

/// Everything a proxy does with a message; `None` if it may not be forwarded.
fn forward(message: Message<'_>, patch: &mut Patch) -> Option<Vec<u8>> {
    patch.clear();
    if message.is_request() {
        message.check_request().ok()?;
        patch.insert(message.headers_start(), b"Via: SIP/2.0/UDP own.example;branch=z9hG4bKown\r\n");
        message.top_via().unwrap().stamp(source(), patch);
        match (message.field(Name::MaxForwards), message.max_forwards().unwrap()) {
            (Some(field), Some(hops)) if !message.is_repeated(Name::MaxForwards) => {
                patch.replace(field.value_range, hops.saturating_sub(1).to_string().as_bytes());
            }
            (Some(_), _) => {}
            (None, _) => patch.insert(message.headers_end(), b"Max-Forwards: 70\r\n"),
        }
        message.pop_values(Name::Route, 1, patch);
        message.repair(None, patch);
    } else {
        message.check_response().ok()?;
        message.pop_values(Name::Via, 1, patch);
        message.repair(None, patch);
    }
    let mut out = Vec::new();
    patch.write(message.bytes(), &mut out);
    Some(out)
}

/// Reads everything there is to read.
fn read_all(message: Message<'_>) {
    let whole = message.bytes();
    match message.start() {
        StartLine::Request { method, uri } => {
            assert!(whole.starts_with(method.as_bytes()));
            assert_eq!(&whole[message.request_uri_range()], uri);
            let _ = request_uri_repaired(uri);
        }
        StartLine::Response { status, .. } => assert!((100..=699).contains(&status)),
    }
    let mut end = message.headers_start();
    for field in message.fields() {
        assert!(field.line.start >= end && field.line.end <= whole.len());
        end = field.line.end;
        assert_eq!(&whole[field.value_range.clone()], field.value());
        assert!(whole[field.line.clone()].starts_with(field.raw_name()));
        assert!(!field.unfolded().contains(&b'\n'));
        let _ = (
            Via::parse(field.value()),
            CSeq::parse(field.value()),
            IdentityValue::parse(field.value(), field.value_range.clone()),
        );
        if let Ok(address) = NameAddr::parse(field.value()) {
            let _ =
                (Uri::parse(address.uri).map(|u| u.equals(&u)), TelUri::parse(address.uri), address.params().count());
        }
        for value in message.values(field.name) {
            assert_eq!(&whole[value.range.clone()], value.value);
            assert!(value.line.start <= value.cut.start && value.cut.end <= value.line.end);
        }
    }
    assert!(message.headers_end() == end && end <= message.body_start());
    assert!(whole.ends_with(message.body()));
    let _ = (message.call_id(), message.cseq(), message.from_tag(), message.to_tag(), message.max_forwards());
    let via = message.reply_via();
    let _ = (via.transport(), via.host(), via.port(), via.rport(), via.received_address(), via.params().count());
    assert_eq!(OwnedMessage::from(message).message().bytes(), whole);
}

/// What a faulty request is answered with must itself be a faultless response.
fn answer(message: Message<'_>) {
    let mut out = Vec::new();
    respond::write(message, source(), 400, "Bad Request", Some(b"tag"), b"", &mut out);
    let mut index = Index::new();
    // A top Via line whose head is sound always stays readable; nothing else may break the response.
    let reply = parse(&out, &mut index, Framing::Stream, &Limits::default()).unwrap();
    assert_eq!((reply.status(), reply.fault(), reply.body()), (Some(400), None, &b""[..]));
    assert!(reply.fields().count() <= message.fields().count() + 1);
}

/// Whatever a trusted peer was forgiven, it leaves here as strict as any other.
fn assert_strict(out: &[u8]) {
    let mut index = Index::new();
    let sent = parse(out, &mut index, Framing::Datagram, &Limits::default()).unwrap();
    assert_eq!(sent.check_request(), Ok(()), "{}", String::from_utf8_lossy(out));
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Pick, u8),
    Remove(Pick, u8),
    Insert(Pick, Vec<u8>),
    Copy(Pick, Pick, u8),
    Truncate(Pick),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let pieces = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        "\0",
        ";",
        ",",
        "\"",
        "<",
        ">",
        "\\",
        " ",
        "\t",
        ":",
        "%",
        "%00",
        "@",
        "[",
        "]",
        "(",
        ")",
        "=",
        "?",
        "&",
        "\r\n ",
        "Via: SIP/2.0/UDP h\r\n",
        "Content-Length: 3\r\n",
        "l: 5\r\n",
        "Route: <sip:r;lr>,,\r\n",
        "To: <a:b>\r\n",
        "\u{fffd}",
        ";received=1.2.3.4",
        ";rport",
        ";branch=z9hG4bK",
        ";tag=1",
        "SIP/2.0",
        "4294967296",
        "\r\n\r\n",
    ]);
    prop_oneof![
        (any::<Pick>(), any::<u8>()).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        (any::<Pick>(), 1u8..20).prop_map(|(at, n)| Mutation::Remove(at, n)),
        (any::<Pick>(), pieces).prop_map(|(at, text)| Mutation::Insert(at, text.as_bytes().to_vec())),
        (any::<Pick>(), any::<Pick>(), 1u8..80).prop_map(|(from, to, n)| Mutation::Copy(from, to, n)),
        any::<Pick>().prop_map(Mutation::Truncate),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: Vec<Mutation>) -> Vec<u8> {
    for mutation in mutations {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        match mutation {
            Mutation::Flip(at, bits) => bytes[at.index(len)] ^= bits,
            Mutation::Remove(at, n) => {
                let at = at.index(len);
                bytes.drain(at..(at + usize::from(n)).min(len));
            }
            Mutation::Insert(at, text) => {
                let at = at.index(len + 1);
                bytes.splice(at..at, text);
            }
            Mutation::Copy(from, to, n) => {
                let (from, to) = (from.index(len), to.index(len));
                let piece = bytes[from..(from + usize::from(n)).min(len)].to_vec();
                bytes.splice(to..to, piece);
            }
            Mutation::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(corpus()), prop::collection::vec(mutation(), 0..6))
        .prop_map(|(bytes, mutations)| mutated(bytes, mutations))
}

/// 2000 cases, or more if `PROPTEST_CASES` says so.
fn config() -> ProptestConfig {
    let base = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    ProptestConfig { cases: base.cases.max(2000), ..base }
}

fn lines(message: Message<'_>, but: &[Name]) -> Vec<Vec<u8>> {
    message.fields().filter(|f| !but.contains(&f.name)).map(|f| message.bytes()[f.line].to_vec()).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mutated_torture_messages_never_panic(bytes in message()) {
        let (mut index, mut patch) = (Index::new(), Patch::new());
        let trusted = Limits { leniency: Leniency::TRUSTED, ..Limits::default() };
        for limits in [Limits::default(), trusted.clone(), tight()] {
            for framing in [Framing::Datagram, Framing::Stream] {
                if let Ok(message) = parse(&bytes, &mut index, framing, &limits) {
                    read_all(message);
                    let out = forward(message, &mut patch);
                    if let Some(out) = out.filter(|_| message.is_request() && framing == Framing::Datagram && limits == trusted) {
                        assert_strict(&out);
                    }
                    if message.is_request() && limits == Limits::default() {
                        answer(message);
                    }
                }
            }
        }
    }

    #[test]
    fn parts_of_any_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Uri::parse(&bytes), Via::parse(&bytes), NameAddr::parse(&bytes), CSeq::parse(&bytes), TelUri::parse(&bytes));
        let _ = (Host::parse(&bytes), vesperd::sip::received_address(&bytes), vesperd::sip::date::parse(&bytes));
        let _ = (IdentityValue::parse(&bytes, 0..bytes.len()), Name::new(&bytes));
        let _ = parse(&bytes, &mut Index::new(), Framing::Datagram, &Limits::default());
    }

    /// What a proxy does not touch leaves octet for octet as it came, and what it wrote passes its own strict checks.
    #[test]
    fn forwarding_keeps_untouched_octets(bytes in message()) {
        let (mut index, mut patch) = (Index::new(), Patch::new());
        let Ok(message) = parse(&bytes, &mut index, Framing::Datagram, &Limits::default()) else { return Ok(()) };
        let Some(out) = forward(message, &mut patch) else { return Ok(()) };
        let mut out_index = Index::new();
        let sent = parse(&out, &mut out_index, Framing::Datagram, &Limits::default());
        // A response whose only Via was ours has nobody left to go to.
        let Ok(sent) = sent else { prop_assert!(!message.is_request()); return Ok(()) };
        prop_assert_eq!(sent.fault(), None);
        prop_assert_eq!(sent.body(), message.body());
        let touched = [Name::Via, Name::MaxForwards, Name::Route];
        prop_assert_eq!(lines(sent, &touched), lines(message, &touched));
        let values = |m: Message<'_>, name, skip| m.values(name).skip(skip).map(|v| v.value.to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(values(sent, Name::Route, 0), values(message, Name::Route, usize::from(message.is_request())));
        if message.is_request() {
            // The check reads the first Route, which was the second one before.
            let is_readable = message.values(Name::Route).nth(1).is_none_or(|v| NameAddr::parse(v.value).is_ok());
            prop_assert!(sent.check_request().is_ok() || !is_readable);
            prop_assert_eq!(values(sent, Name::Via, 2), values(message, Name::Via, 1));
            prop_assert_eq!(sent.top_via().unwrap().host(), b"own.example");
        } else {
            prop_assert_eq!(values(sent, Name::Via, 0), values(message, Name::Via, 1));
        }
    }

    /// Writing without edits gives the same octets, and reading them the same message.
    #[test]
    fn parse_and_write_is_a_fixed_point(bytes in message()) {
        let mut index = Index::new();
        let Ok(message) = parse(&bytes, &mut index, Framing::Datagram, &Limits::default()) else { return Ok(()) };
        let mut out = Vec::new();
        Patch::new().write(message.bytes(), &mut out);
        prop_assert_eq!(&out, message.bytes());
        let mut again_index = Index::new();
        let again = parse(&out, &mut again_index, Framing::Datagram, &Limits::default()).unwrap();
        prop_assert_eq!(again.fault(), message.fault());
        prop_assert_eq!(again.start(), message.start());
        prop_assert_eq!(lines(again, &[]), lines(message, &[]));
        prop_assert_eq!(again.body(), message.body());
    }

    /// Popping `n` values leaves exactly the others, however they are spread over lines.
    #[test]
    fn v6_values_are_popped_one_by_one(lines in prop::collection::vec(1usize..5, 1..5), n in 0usize..20, compact in any::<bool>()) {
        let mut text = "OPTIONS sip:a@b SIP/2.0\r\n".to_owned();
        let mut count = 0;
        for values in &lines {
            let hops: Vec<_> = (0..*values).map(|i| format!("SIP/2.0/UDP h{};branch=z9hG4bK\"a,b\"", count + i)).collect();
            text += &format!("{}: {}\r\nSubject: x\r\n", if compact { "v" } else { "Via" }, hops.join(" ,\r\n "));
            count += values;
        }
        text += "\r\n";
        let mut index = Index::new();
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let mut patch = Patch::new();
        message.pop_values(Name::Via, n, &mut patch);
        let mut out = Vec::new();
        patch.write(message.bytes(), &mut out);
        let out = String::from_utf8(out).unwrap();
        for i in 0..count {
            prop_assert_eq!(out.contains(&format!("h{i};")), i >= n, "h{} of {}", i, out);
        }
        prop_assert_eq!(out.matches("Subject: x\r\n").count(), lines.len());
        prop_assert!(!out.contains(": \r\n") && !out.contains(":\r\n"), "{}", out);
    }

    #[test]
    fn streams_do_not_depend_on_read_boundaries(messages in prop::collection::vec(message(), 1..4), cuts in prop::collection::vec(any::<Pick>(), 0..12)) {
        let stream = messages.concat();
        let run = |cuts: &[usize]| {
            let (mut framer, limits, now) = (StreamFramer::new(), Limits::default(), Instant::now());
            let mut seen = Vec::new();
            let mut from = 0;
            for to in cuts.iter().copied().chain([stream.len()]) {
                framer.push(&stream[from..to], now);
                from = to;
                loop {
                    match framer.next(&limits) {
                        Ok(Some(Frame::Message(r))) => seen.push(framer.bytes()[r].to_vec()),
                        Ok(Some(Frame::Ping | Frame::Pong)) => seen.push(b"ping".to_vec()),
                        Ok(Some(Frame::Broken(r))) => seen.push([b"broken", &framer.bytes()[r]].concat()),
                        Ok(None) => break,
                        Err(error) => { seen.push(error.to_string().into_bytes()); break }
                    }
                }
            }
            seen
        };
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
        at.sort_unstable();
        prop_assert_eq!(run(&at), run(&[]));
    }

    /// Where rsip reads a message at all, both read the same out of a plain one.
    #[test]
    fn rsip_agrees_on_plain_messages(
        method in prop::sample::select(vec!["INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "MESSAGE", "UPDATE"]),
        user in "[a-z]{1,8}", host in "[a-z]{1,8}\\.example\\.(com|net)", port in 1024u16..65535, sequence in any::<u32>(),
        hops in 0u8..255, tag in "[A-Za-z0-9]{1,16}", branch in "z9hG4bK[A-Za-z0-9.]{1,24}", call in "[A-Za-z0-9]{1,20}@[a-z]{1,8}",
        display in "(\"[A-Za-z ]{1,12}\" )?", body in "[ -~]{0,60}",
    ) {
        let text = format!(
            "{method} sip:{user}@{host}:{port} SIP/2.0\r\nVia: SIP/2.0/TCP {host}:{port};branch={branch}\r\n\
             Max-Forwards: {hops}\r\nFrom: {display}<sip:{user}@{host}>;tag={tag}\r\nTo: <sip:{user}@{host}>\r\nCall-ID: {call}\r\n\
             CSeq: {sequence} {method}\r\nSubject: {user} {tag}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let theirs = rsip::Request::try_from(text.as_bytes()).unwrap();
        let mut index = Index::new();
        let ours = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        prop_assert_eq!(ours.check_request(), Ok(()));
        prop_assert_eq!(ours.method().unwrap().as_bytes(), theirs.method.to_string().into_bytes());
        prop_assert_eq!(ours.request_uri(), theirs.uri.to_string().into_bytes());
        prop_assert_eq!(ours.body(), &theirs.body[..]);
        prop_assert_eq!(ours.call_id().unwrap(), theirs.call_id_header().unwrap().value().as_bytes());
        prop_assert_eq!(ours.max_forwards().unwrap().map(u32::from), theirs.max_forwards_header().unwrap().num().ok());
        prop_assert_eq!(ours.cseq().unwrap().number, theirs.cseq_header().unwrap().typed().unwrap().seq);
        let from = theirs.from_header().unwrap().typed().unwrap();
        prop_assert_eq!(ours.from_tag().unwrap(), from.tag().unwrap().value().as_bytes());
        prop_assert_eq!(ours.from().unwrap().uri, from.uri.to_string().into_bytes());
        let via = theirs.via_header().unwrap().typed().unwrap();
        prop_assert_eq!(ours.top_via().unwrap().branch().unwrap(), via.branch().unwrap().value().as_bytes());
        prop_assert_eq!(ours.top_via().unwrap().port(), via.uri.port().map(|p| *p.value()));
        prop_assert_eq!(ours.fields().count(), theirs.headers.iter().count());
    }
}

/// Why rsip frames and writes nothing here: what it does to messages that a proxy has to pass on.
#[test]
fn rsip_is_no_parser_for_a_proxy() {
    let base = "OPTIONS sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
                Call-ID: c\r\nCSeq: 1 OPTIONS\r\n";
    let ours = |text: &[u8]| {
        let mut index = Index::new();
        parse(text, &mut index, Framing::Datagram, &Limits::default()).is_ok_and(|m| m.check_request().is_ok())
    };
    // Refused by rsip, legal, and accepted here.
    for legal in [
        base.replace("sip:a@b.example", "sip:[2001:db8::1]"),
        base.replace("sip:a@b.example", "tel:+12155551212"),
        base.replace("OPTIONS", "NEWMETHOD"),
        base.replace("Call-ID:", "Call-ID :"),
        base.replace(": c", ":\r\n c"),
    ] {
        let text = format!("{legal}\r\n");
        assert!(rsip::Request::try_from(text.as_bytes()).is_err(), "{text}");
        assert!(ours(text.as_bytes()), "{text}");
    }
    // A dot in the user part makes it part of the host.
    let dotted = format!("{}\r\n", base.replace("sip:a@b.example", "sip:a.g.bell@example.com"));
    assert_eq!(rsip::Request::try_from(dotted.as_bytes()).unwrap().uri.user(), None);
    // A binary body does not survive.
    let binary = [base.as_bytes(), b"\r\n\xff\xfe\0"].concat();
    let written: Vec<u8> = rsip::Request::try_from(&binary[..]).unwrap().into();
    assert!(!written.ends_with(b"\xff\xfe\0"));
    // Content-Length is not looked at; accepted there, refused here.
    let short = format!("{base}Content-Length: 50\r\n\r\nhello");
    assert!(rsip::Request::try_from(short.as_bytes()).is_ok());
    assert!(!ours(short.as_bytes()));
}

#[test]
fn f2_a_datagram_without_content_length_is_held_to_the_size_of_a_message_too() {
    let base = "MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
                Call-ID: c\r\nCSeq: 1 MESSAGE\r\n";
    let limits = Limits { message: 1000, ..Limits::default() };
    for line in ["", "Content-Length: 900\r\n"] {
        let text = format!("{base}{line}\r\n{}", "x".repeat(900));
        let mut index = Index::new();
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &limits).unwrap();
        assert_eq!(message.check_request().map_err(|refusal| refusal.status), Err(413), "{line}");
        let parsed = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        assert!(parsed.check_request().is_ok());
    }
}
