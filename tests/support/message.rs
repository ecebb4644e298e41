//! Messages for tests: text in, views out.

use vesperd::sip::{Framing, Index, Limits, Message, OwnedMessage, Transport, parse};

/// Reads octets that are a message.
pub fn message(bytes: &[u8]) -> OwnedMessage {
    try_message(bytes).unwrap_or_else(|| panic!("no message: {}", String::from_utf8_lossy(bytes)))
}

/// Reads octets that may be none.
pub fn try_message(bytes: &[u8]) -> Option<OwnedMessage> {
    let mut index = Index::new();
    Some(OwnedMessage::from(parse(bytes, &mut index, Framing::Datagram, &Limits::default()).ok()?))
}

/// First line without its end.
pub fn start_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned()
}

/// What a request is made of; the defaults make an INVITE from alice to bob.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub uri: String,
    pub transport: Transport,
    pub sent_by: String,
    pub branch: String,
    pub from_tag: String,
    pub to_tag: Option<String>,
    pub call_id: String,
    pub cseq: u32,
    /// Further header lines, each with its CRLF.
    pub lines: String,
    pub body: String,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: "INVITE".into(),
            uri: "sip:bob@biloxi.example".into(),
            transport: Transport::Udp,
            sent_by: "192.0.2.1:5060".into(),
            branch: "z9hG4bK74bf9".into(),
            from_tag: "9fxced76sl".into(),
            to_tag: None,
            call_id: "3848276298220188511@atlanta.example".into(),
            cseq: 1,
            lines: String::new(),
            body: String::new(),
        }
    }
}

impl Request {
    /// As it stands on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { method, uri, transport, sent_by, branch, from_tag, call_id, cseq, lines, body, .. } = self;
        let to_tag = self.to_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{} {sent_by};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@atlanta.example>;tag={from_tag}\r\nTo: <sip:bob@biloxi.example>{to_tag}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            transport.via_token(),
            body.len(),
        )
        .into_bytes()
    }
}

/// A response to a request: Via, From, Call-ID and CSeq repeated, a To tag added unless there is one or the status is 100.
pub fn response_to(request: Message<'_>, status: u16, to_tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let source = "192.0.2.99:5060".parse().expect("an address");
    vesperd::sip::respond::write(request, source, status, "Said So", Some(to_tag.as_bytes()), b"", &mut out);
    out
}
