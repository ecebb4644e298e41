//! Requests that are made to cost a verifier more than they cost their sender.
use super::pki::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use vesperd::sip::{Framing, Index, Limits, Message, parse};

const X5U: &str = "https://exampleretail.example/sti/leaf.pem";

/// Bounds of a message so wide that all of them get to the verifier.
pub fn wide<T>(octets: &[u8], f: impl FnOnce(Message<'_>) -> T) -> T {
    let most = 8 << 20;
    let limits =
        Limits { message: most, head: most, value: most, identity_value: most, fields: 4096, ..Limits::default() };
    let mut index = Index::new();
    f(parse(octets, &mut index, Framing::Stream, &limits).expect("a request"))
}

fn claims() -> Value {
    json!({"dest": {"tn": ["12155551213"]}, "iat": NOW, "orig": {"tn": "12015550100"}})
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn header(chain: &[Vec<u8>]) -> Value {
    let x5c: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    json!({"alg": "ES256", "typ": "passport", "x5c": x5c, "x5u": X5U})
}

fn token(leaf: &Authority, header: &Value, payload: &str) -> String {
    let input = format!("{}.{}", encode(&header.to_string()), encode(payload));
    let signature = es256(&leaf.key, input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn line(token: &str) -> String {
    format!("Identity: {token};info=<{X5U}>\r\n")
}

fn request(lines: &str) -> Vec<u8> {
    format!(
        "INVITE sip:+12155551213@b.example;user=phone SIP/2.0\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
From: <sip:+12015550100@a.example;user=phone>;tag=1\r\nTo: <sip:+12155551213@b.example;user=phone>\r\nCall-ID: bomb@host.example\r\n\
CSeq: 1 INVITE\r\n{lines}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// One good call: what the others are measured by.
pub fn good(hierarchy: &Hierarchy, leaf: &Authority) -> Vec<u8> {
    request(&line(&token(leaf, &header(&hierarchy.chain(leaf)), &claims().to_string())))
}

/// The bombs, with their names. Their certificates are of `hierarchy` where that makes them worse.
pub fn all(hierarchy: &Hierarchy, leaf: &Authority) -> Vec<(&'static str, Vec<u8>)> {
    let chain = hierarchy.chain(leaf);
    let good = header(&chain);
    let text = claims().to_string();
    // Each with a certificate of its own, so that no cache helps.
    let stranger = Hierarchy::new();
    let foreign = |_| {
        let leaf = stranger.intermediate.issue(shaken_params());
        line(&token(&leaf, &header(&stranger.chain(&leaf)), &text))
    };
    let distinct: Vec<String> = (0..32).map(foreign).collect();
    let fields: String = (0..1000).map(|place| distinct[place % distinct.len()].as_str()).collect();
    let broken = line(&token(leaf, &good, &text)).replace(".ey", ".fy");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = good.clone();
        change(&mut header);
        request(&line(&token(leaf, &header, &text)))
    };
    let many = |count: usize| chain.iter().cycle().take(count).map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
    let deep = format!("{{\"x\":{}{},{}", "[".repeat(4000), "]".repeat(4000), &text[1..]);
    let broad: String = (0..2000).map(|place| format!("\"x{place}\":{place},")).collect();
    let mut nested = token(leaf, &good, &text);
    for _ in 0..12 {
        let mut head = good.clone();
        head["ppt"] = "div-o".into();
        let mut claims = claims();
        claims["div"] = json!({"tn": "12155551213"});
        claims["opt"] = nested.into();
        nested = token(leaf, &head, &claims.to_string());
    }
    vec![
        ("1000 fields of strangers", request(&fields)),
        ("1000 fields that are no tokens", request(&broken.repeat(1000))),
        ("1000 fields of one token", request(&line(&token(leaf, &good, &text)).repeat(1000))),
        ("1 MB of x5c", with(&|header| header["x5c"] = json!(["A".repeat(1 << 20)]))),
        ("64 certificates", with(&|header| header["x5c"] = json!(many(64)))),
        ("as many certificates as are read", with(&|header| header["x5c"] = json!(many(6)))),
        ("deep JSON", request(&line(&token(leaf, &good, &deep)))),
        ("broad JSON", request(&line(&token(leaf, &good, &format!("{{{broad}{}", &text[1..]))))),
        ("tokens in tokens", request(&line(&nested).replace(";info", ";ppt=div-o;info"))),
    ]
}
