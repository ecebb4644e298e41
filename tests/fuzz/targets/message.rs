//! Any octets through the parser, every view, the checks, and a forward; what is written must be readable again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vesperd::sip::identity::IdentityValue;
use vesperd::sip::{CSeq, Framing, Index, Leniency, Limits, Message, Name, NameAddr, Patch, TelUri, Uri, Via, parse, respond};

fuzz_target!(|input: &[u8]| {
    // Switches last, so that the torture messages are seeds as they are.
    let Some((&switches, bytes)) = input.split_last() else { return };
    let mut limits = Limits::default();
    if switches & 1 != 0 {
        limits.leniency = Leniency::TRUSTED;
    }
    if switches & 2 != 0 {
        limits = Limits { head: 600, value: 100, identity_value: 120, fields: 8, folds: 2, vias: 3, routes: 2, uri: 40, user: 20, ..limits };
    }
    let framing = if switches & 4 != 0 { Framing::Stream } else { Framing::Datagram };
    let mut index = Index::new();
    let Ok(message) = parse(bytes, &mut index, framing, &limits) else { return };
    read(message);
    if message.is_request() {
        answer(message);
    }
    let is_good = if message.is_request() { message.check_request().is_ok() } else { message.check_response().is_ok() };
    if is_good && framing == Framing::Datagram && switches & 2 == 0 {
        forward(message);
    }
});

fn source() -> std::net::SocketAddr {
    ([198, 51, 100, 7], 5070).into()
}

fn read(message: Message<'_>) {
    for field in message.fields() {
        let value = field.value();
        let _ = (Via::parse(value), CSeq::parse(value), IdentityValue::parse(value, field.value_range.clone()), field.unfolded());
        if let Ok(address) = NameAddr::parse(value) {
            let _ = (TelUri::parse(address.uri).map(|t| t.equals(&t)), address.params().count());
            if let Ok(uri) = Uri::parse(address.uri) {
                assert!(uri.equals(&uri));
            }
        }
        for value in message.values(field.name) {
            assert_eq!(message.bytes().get(value.range), Some(value.value));
        }
    }
}

fn answer(message: Message<'_>) {
    let mut out = Vec::new();
    respond::write(message, source(), 400, "Bad Request", Some(b"t"), b"", &mut out);
    let mut index = Index::new();
    let reply = parse(&out, &mut index, Framing::Stream, &Limits::default()).expect("an answer is a message");
    assert_eq!(reply.status(), Some(400));
    assert!(reply.body().is_empty());
    assert!(reply.fields().count() <= message.fields().count() + 1);
}

fn forward(message: Message<'_>) {
    let mut patch = Patch::new();
    if message.is_request() {
        patch.insert(message.headers_start(), b"Via: SIP/2.0/UDP own;branch=z9hG4bKo\r\n");
        message.top_via().expect("it was checked").stamp(source(), &mut patch);
        message.pop_values(Name::Route, 1, &mut patch);
    }
    message.repair(None, &mut patch);
    let mut out = Vec::new();
    patch.write(message.bytes(), &mut out);
    let (mut index, strict) = (Index::new(), Limits { head: 70_000, ..Limits::default() });
    let sent = parse(&out, &mut index, Framing::Datagram, &strict).expect("what is forwarded is a message");
    assert_eq!(sent.fault(), None);
    assert_eq!(sent.body(), message.body());
}
