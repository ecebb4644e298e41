//! What the two endpoints say: requests of the caller, built with rsip, and answers of the callee, copied by span.

use std::net::SocketAddr;

use rsip::headers::UntypedHeader;
use rsip::{Header, Method, Request, Uri, Version, headers};

use crate::sip::{Message, Name, StartLine, Transport};

/// One audio stream without encryption: no fingerprints, so tokens need no `mky`.
const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\n";

/// The caller's side of one call.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Transport to the edge.
    pub transport: Transport,
    /// Where the caller listens.
    pub local: SocketAddr,
    /// Unique to the call.
    pub call_id: String,
    from: String,
    to: String,
    request_uri: String,
    branch: String,
}

/// What the caller needs for requests inside the dialog (RFC 3261 12.1.2).
#[derive(Clone, Debug)]
pub struct Dialog {
    to: String,
    target: String,
    routes: Vec<String>,
}

impl Leg {
    /// A call between two numbers (digits, no `+`). `random` makes it unlike any other.
    pub fn new(
        transport: Transport,
        local: SocketAddr,
        from: (&str, &str),
        to: (&str, &str),
        random: [u8; 16],
    ) -> Self {
        let unique: String = random.iter().map(|octet| format!("{octet:02x}")).collect();
        let uri = |(number, domain): (&str, &str)| format!("sip:+{number}@{domain};user=phone");
        Self {
            transport,
            local,
            from: format!("<{}>;tag={}", uri(from), &unique[..16]),
            to: format!("<{}>", uri(to)),
            request_uri: uri(to),
            branch: format!("z9hG4bK{}", &unique[16..]),
            call_id: format!("{unique}@demo"),
        }
    }

    /// The INVITE. `identity` is the value of an Identity field, `date` of the Date field.
    pub fn invite(&self, identity: Option<&str>, date: &str) -> Result<String, rsip::Error> {
        let mut fields = vec![
            headers::Contact::new(format!("<sip:caller@{};transport={}>", self.local, self.token().to_lowercase()))
                .into(),
            headers::Date::new(date).into(),
            headers::ContentType::new("application/sdp").into(),
        ];
        fields.extend(identity.map(|value| Header::Other("Identity".into(), value.into())));
        self.request(Method::Invite, &self.request_uri, &self.branch, &self.to, fields, SDP)
    }

    /// The ACK to a final response other than 2xx: same branch, To of the response (RFC 3261 17.1.1.3).
    pub fn ack_refusal(&self, response: Message<'_>) -> Result<String, rsip::Error> {
        let to = text(response, Name::To);
        self.request(Method::Ack, &self.request_uri, &self.branch, &to, Vec::new(), "")
    }

    /// The ACK to a 2xx: a transaction of its own (RFC 3261 13.2.2.4).
    pub fn ack(&self, dialog: &Dialog) -> Result<String, rsip::Error> {
        self.within(dialog, Method::Ack)
    }

    /// The end of the call.
    pub fn bye(&self, dialog: &Dialog) -> Result<String, rsip::Error> {
        self.within(dialog, Method::Bye)
    }

    fn within(&self, dialog: &Dialog, method: Method) -> Result<String, rsip::Error> {
        let branch = format!("{}.{method}", self.branch);
        let routes = dialog.routes.iter().map(|route| headers::Route::new(route.as_str()).into()).collect();
        self.request(method, &dialog.target, &branch, &dialog.to, routes, "")
    }

    fn request(
        &self,
        method: Method,
        uri: &str,
        branch: &str,
        to: &str,
        fields: Vec<Header>,
        body: &str,
    ) -> Result<String, rsip::Error> {
        // RFC 3261 12.2.1.1: one more than the INVITE's; an ACK has the INVITE's own.
        let sequence = if method == Method::Bye { 2 } else { 1 };
        let mut all: Vec<Header> = vec![
            headers::Via::new(format!("SIP/2.0/{} {};branch={branch};rport", self.token(), self.local)).into(),
            headers::MaxForwards::new("70").into(),
            headers::From::new(self.from.as_str()).into(),
            headers::To::new(to).into(),
            headers::CallId::new(self.call_id.as_str()).into(),
            headers::CSeq::new(format!("{sequence} {method}")).into(),
        ];
        all.extend(fields);
        all.push(headers::ContentLength::new(body.len().to_string()).into());
        let uri = Uri::try_from(uri)?;
        let request =
            Request { method, uri, version: Version::V2, headers: all.into(), body: body.as_bytes().to_vec() };
        Ok(request.to_string())
    }

    fn token(&self) -> &'static str {
        self.transport.via_token()
    }
}

impl Dialog {
    /// Of the 2xx that made it: To with its tag, Contact as target, Record-Route in reverse.
    pub fn of(answer: Message<'_>) -> Option<Self> {
        let contact = text(answer, Name::Contact);
        let target = contact.split_once('<')?.1.split_once('>')?.0.to_owned();
        let mut routes: Vec<String> = answer.values(Name::RecordRoute).map(|route| lossy(route.value)).collect();
        routes.reverse();
        Some(Self { to: text(answer, Name::To), target, routes })
    }
}

/// The callee's answer: Via, From, To, Call-ID, CSeq and Record-Route as received; a tag where To has none.
pub fn answer(request: Message<'_>, status: u16, phrase: &str, contact: &str, tag: &str) -> Vec<u8> {
    let mut out = format!("SIP/2.0 {status} {phrase}\r\n").into_bytes();
    for field in request.fields() {
        match field.name {
            Name::Via | Name::From | Name::CallId | Name::CSeq | Name::RecordRoute => {
                out.extend_from_slice(&request.bytes()[field.line]);
            }
            Name::To => {
                out.extend_from_slice(b"To: ");
                out.extend_from_slice(&field.unfolded());
                if request.to_tag().is_none() {
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(tag.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
    }
    let is_answer = status == 200 && request.method().is_some_and(|method| method.as_bytes() == b"INVITE");
    let body = if is_answer { SDP } else { "" };
    let mut rest = format!("Contact: <{contact}>\r\n");
    if is_answer {
        rest.push_str("Content-Type: application/sdp\r\n");
    }
    rest.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Status and phrase of a response.
pub fn status_of(response: Message<'_>) -> Option<(u16, String)> {
    match response.start() {
        StartLine::Response { status, reason } => Some((status, lossy(reason))),
        StartLine::Request { .. } => None,
    }
}

fn text(message: Message<'_>, name: Name) -> String {
    message.field(name).map(|field| lossy(&field.unfolded())).unwrap_or_default()
}

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
