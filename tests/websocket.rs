//! SIP over WebSocket between real sockets (RFC 7118; W-1 to W-4): a browser of the library's making in front of a whole edge, a UDP
//! neighbour behind it.

mod support_edge;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use support_edge::{SelfSigned, address, receive, start, tcp, tls, udp_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::{Error, HandshakeError, Message, WebSocket, client};
use vesperd::node::Edge;
use vesperd::proxy::digest::Algorithm;

/// An edge with a WebSocket listener, behind which stands a UDP neighbour.
fn edge(neighbour: SocketAddr, listener: &str, more: &str) -> Edge {
    start(&format!(
        r#"
{more}
[[listener]]
name = "web"
bind = "127.0.0.1:0"
trunk = "browsers"
{listener}
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "browsers"
peers = "203.0.113.1"
[[trunk]]
name = "neighbour"
next_hop = "udp:{neighbour}"
[[route]]
from = "browsers"
to = "neighbour"
"#
    ))
}

const PLAIN: &str = "transport = \"ws\"\norigins = \"https://phone.example\"";

/// Not at the address of the browsers, whose trunk it would be.
fn udp() -> UdpSocket {
    udp_at("127.0.0.2")
}

/// Opens a WebSocket over a stream; the status of a refusal.
fn open<S: Read + Write>(stream: S, protocol: Option<&str>, origin: Option<&str>) -> Result<WebSocket<S>, StatusCode> {
    let mut request = "ws://edge.example/".into_client_request().unwrap();
    let mut put = |name: &'static str, value: Option<&str>| {
        value.map(|value| request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap()));
    };
    put("sec-websocket-protocol", protocol);
    put("origin", origin);
    match client(request, stream) {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], "sip");
            assert!(!response.headers().contains_key("sec-websocket-extensions"), "no permessage-deflate");
            Ok(socket)
        }
        Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status()),
        Err(error) => panic!("{error}"),
    }
}

fn browser(edge: &Edge) -> WebSocket<TcpStream> {
    open(tcp(address(edge, "web")), Some("sip"), Some("https://phone.example")).unwrap()
}

/// The next message with content.
fn next<S: Read + Write>(browser: &mut WebSocket<S>) -> String {
    loop {
        match browser.read().expect("a message comes") {
            Message::Text(text) => return text.to_string(),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A request of a browser, whose Via and Contact name no host there is.
fn from_browser(method: &str, call: &str, cseq: u32, uri: &str, to_tag: &str, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/WS df7jal23ls0d.invalid;branch=z9hG4bK-{call}-{method}\r\n{lines}\
         From: <sip:12155550112@phone.example>;tag=a\r\nTo: <sip:12155550113@edge.example>{to_tag}\r\nCall-ID: {call}@web\r\n\
         CSeq: {cseq} {method}\r\nMax-Forwards: 70\r\nContact: <sip:u1@df7jal23ls0d.invalid;transport=ws;ob>\r\n\r\n"
    )
}

/// All values of a field, in order.
fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    message.split("\r\n").filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

fn answer(request: &str, status: &str, lines: &str) -> String {
    let copied = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"];
    let kept: Vec<_> = request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
    let to = values(request, "To")[0];
    let tag = if to.contains(";tag=") { "" } else { ";tag=b" };
    format!("SIP/2.0 {status}\r\n{}\r\nTo: {to}{tag}\r\n{lines}Content-Length: 0\r\n\r\n", kept.join("\r\n"))
}

/// An in-dialog request of the UDP side along its route set.
fn from_neighbour(method: &str, call: &str, own: SocketAddr, routes: &[&str]) -> String {
    let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    format!(
        "{method} sip:u1@df7jal23ls0d.invalid;transport=ws;ob SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-{call}-{method}\r\n\
         {routes}From: <sip:12155550113@edge.example>;tag=b\r\nTo: <sip:12155550112@phone.example>;tag=a\r\n\
         Call-ID: {call}@web\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A call from the browser to the neighbour, up to its ACK; the INVITE as it arrived.
fn establish<S: Read + Write>(browser: &mut WebSocket<S>, neighbour: &UdpSocket, call: &str) -> String {
    browser.send(Message::text(from_browser("INVITE", call, 1, "sip:12155550113@edge.example", "", ""))).unwrap();
    let (invite, edge) = receive(neighbour);
    let contact = format!("Contact: <sip:{}>\r\n", neighbour.local_addr().unwrap());
    neighbour.send_to(answer(&invite, "200 OK", &contact).as_bytes(), edge).unwrap();
    assert!(next(browser).starts_with("SIP/2.0 100 "));
    let ok = next(browser);
    assert!(ok.starts_with("SIP/2.0 200 ") && values(&ok, "Via").len() == 1, "{ok}");
    let routes: String = values(&ok, "Record-Route").iter().rev().map(|route| format!("Route: {route}\r\n")).collect();
    let target = format!("sip:{}", neighbour.local_addr().unwrap());
    browser.send(Message::text(from_browser("ACK", call, 1, &target, ";tag=b", &routes))).unwrap();
    let (ack, _) = receive(neighbour);
    assert!(ack.starts_with("ACK ") && values(&ack, "Route").is_empty(), "{ack}");
    invite
}

/// The neighbour hangs up a call along the route set of its INVITE.
fn hang_up_from_behind<S: Read + Write>(
    browser: &mut WebSocket<S>,
    neighbour: &UdpSocket,
    edge: &Edge,
    call: &str,
    invite: &str,
) {
    let own = neighbour.local_addr().unwrap();
    let bye = from_neighbour("BYE", call, own, &values(invite, "Record-Route"));
    neighbour.send_to(bye.as_bytes(), address(edge, "udp")).unwrap();
    let received = next(browser);
    assert!(received.starts_with("BYE sip:u1@df7jal23ls0d.invalid"), "{received}");
    assert!(
        values(&received, "Via")[0].starts_with("SIP/2.0/WS") && values(&received, "Route").is_empty(),
        "{received}"
    );
    browser.send(Message::text(answer(&received, "200 OK", ""))).unwrap();
    assert!(receive(neighbour).0.starts_with("SIP/2.0 200 OK"));
}

#[test]
fn w2_calls_over_ws_and_byes_from_both_sides() {
    let neighbour = udp();
    // With two workers half of the calls live in another worker than the connection.
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, "[node]\nworkers = 2");
    let mut browser = browser(&edge);
    for n in 0..8 {
        let call = format!("call{n}");
        let invite = establish(&mut browser, &neighbour, &call);
        let (vias, routes) = (values(&invite, "Via"), values(&invite, "Record-Route"));
        assert!(
            vias[0].starts_with("SIP/2.0/UDP") && vias[1].starts_with("SIP/2.0/WS df7jal23ls0d.invalid"),
            "{invite}"
        );
        assert!(routes[0].contains(";transport=udp;lr"), "RR-4: {invite}");
        assert!(routes[1].contains(";transport=ws;lr") && routes[1].contains(";vf="), "W-3: {invite}");
        if n % 2 == 0 {
            hang_up_from_behind(&mut browser, &neighbour, &edge, &call, &invite);
            continue;
        }
        let routes: String = routes.iter().rev().map(|route| format!("Route: {route}\r\n")).collect();
        let target = format!("sip:{}", neighbour.local_addr().unwrap());
        browser.send(Message::text(from_browser("BYE", &call, 2, &target, ";tag=b", &routes))).unwrap();
        let (bye, from) = receive(&neighbour);
        assert!(bye.starts_with("BYE "), "{bye}");
        neighbour.send_to(answer(&bye, "200 OK", "").as_bytes(), from).unwrap();
        assert!(next(&mut browser).starts_with("SIP/2.0 200 OK"));
    }
    let summary = edge.stop();
    assert_eq!((summary.tcp.accepted, summary.tcp.opened), (1, 0), "T-4: nothing is opened towards a browser");
}

#[test]
fn w3_a_browser_that_is_gone_can_not_be_reached() {
    let neighbour = udp();
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, "[node]\nworkers = 2");
    for n in 0..6 {
        let (mut browser, call) = (browser(&edge), format!("gone{n}"));
        let invite = establish(&mut browser, &neighbour, &call);
        browser.close(None).unwrap();
        while browser.read().is_ok() {}
        let own = neighbour.local_addr().unwrap();
        let bye = from_neighbour("BYE", &call, own, &values(&invite, "Record-Route"));
        neighbour.send_to(bye.as_bytes(), address(&edge, "udp")).unwrap();
        let (refused, _) = receive(&neighbour);
        assert!(refused.starts_with("SIP/2.0 430 Flow Failed"), "{refused}");
        // A token that somebody made up.
        let routes: Vec<String> = values(&invite, "Record-Route").iter().map(|route| flip_token(route)).collect();
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        neighbour.send_to(from_neighbour("INFO", &call, own, &routes).as_bytes(), address(&edge, "udp")).unwrap();
        assert!(receive(&neighbour).0.starts_with("SIP/2.0 430 Flow Failed"));
    }
}

/// Changes the last digit of the flow token.
fn flip_token(route: &str) -> String {
    let Some(at) = route.find(";vf=") else { return route.to_owned() };
    let last = at + ";vf=".len() + 16 + 1 + 15;
    let mut bytes = route.as_bytes().to_vec();
    bytes[last] = if bytes[last] == b'0' { b'1' } else { b'0' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn w3_whoever_registers_is_reached_by_the_path_it_registered_by() {
    let registrar = udp();
    let edge = edge(registrar.local_addr().unwrap(), PLAIN, "");
    let mut browser = browser(&edge);
    browser
        .send(Message::text(from_browser(
            "REGISTER",
            "reg",
            1,
            "sip:edge.example",
            "",
            "Supported: path, outbound\r\n",
        )))
        .unwrap();
    let (register, from) = receive(&registrar);
    let paths = values(&register, "Path");
    assert!(paths.len() == 1 && paths[0].contains(";transport=ws;lr;vf=") && paths[0].ends_with(";ob>"), "{register}");
    registrar.send_to(answer(&register, "200 OK", &format!("Path: {}\r\n", paths[0])).as_bytes(), from).unwrap();
    assert!(next(&mut browser).starts_with("SIP/2.0 200 OK"));

    let own = registrar.local_addr().unwrap();
    let invite = from_neighbour("INVITE", "back", own, &paths).replace(";tag=a", "");
    let invite = invite.replace("Content-Length", &format!("Contact: <sip:{own}>\r\nContent-Length"));
    registrar.send_to(invite.as_bytes(), address(&edge, "udp")).unwrap();
    let received = next(&mut browser);
    assert!(received.starts_with("INVITE sip:u1@df7jal23ls0d.invalid"), "{received}");
    browser
        .send(Message::text(answer(&received, "200 OK", "Contact: <sip:u1@df7jal23ls0d.invalid;transport=ws>\r\n")))
        .unwrap();
    assert!(receive(&registrar).0.starts_with("SIP/2.0 100 "));
    let (ok, _) = receive(&registrar);
    let mut routes = values(&ok, "Record-Route");
    assert!(
        routes[0].contains(";transport=ws;lr") && routes[0].contains(";vf="),
        "the upper one is the browser's: {ok}"
    );
    routes.reverse();
    let ack = from_neighbour("ACK", "back", own, &routes);
    registrar.send_to(ack.as_bytes(), address(&edge, "udp")).unwrap();
    assert!(next(&mut browser).starts_with("ACK "));
    // And the browser hangs up along its own route set.
    let lines: String = values(&received, "Record-Route").iter().map(|route| format!("Route: {route}\r\n")).collect();
    let bye = from_browser("BYE", "back", 7, &format!("sip:{own}"), ";tag=b", &lines);
    browser.send(Message::text(bye)).unwrap();
    assert!(receive(&registrar).0.starts_with("BYE "));

    // Another process knows nothing of this connection.
    let path = paths[0].to_owned();
    let port = address(&edge, "web").port();
    drop((browser, edge));
    let again = crate::edge(own, PLAIN, "");
    let path = path.replace(&format!(":{port};"), &format!(":{};", address(&again, "web").port()));
    let invite = from_neighbour("INVITE", "later", own, &[&path]).replace(";tag=a", "");
    registrar.send_to(invite.as_bytes(), address(&again, "udp")).unwrap();
    let refused = std::iter::from_fn(|| Some(receive(&registrar).0)).find(|message| message.contains("CSeq: 1 INVITE"));
    let refused = if refused.as_ref().is_some_and(|first| first.starts_with("SIP/2.0 100")) {
        receive(&registrar).0
    } else {
        refused.unwrap()
    };
    assert!(refused.starts_with("SIP/2.0 4"), "not into the void: {refused}");
}

#[test]
fn w1_subprotocol_and_origin_decide_who_gets_in() {
    let edge = edge(udp().local_addr().unwrap(), PLAIN, "");
    let at = || tcp(address(&edge, "web"));
    assert_eq!(open(at(), None, None).unwrap_err(), 400);
    assert_eq!(open(at(), Some("xmpp, msrp"), None).unwrap_err(), 400);
    assert_eq!(open(at(), Some("sip"), Some("https://elsewhere.example")).unwrap_err(), 403);
    assert_eq!(open(at(), Some("sip"), Some("https://phone.example.elsewhere")).unwrap_err(), 403);
    for origin in [Some("https://PHONE.example"), None] {
        let mut socket = open(at(), Some("sip"), origin).expect("the page of the list, and who is no browser");
        socket.send(Message::Ping("in".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("in".into()));
    }

    let closed = crate::edge(udp().local_addr().unwrap(), "transport = \"ws\"", "");
    assert_eq!(open(tcp(address(&closed, "web")), Some("sip"), Some("https://phone.example")).unwrap_err(), 403);
    let all = crate::edge(udp().local_addr().unwrap(), "transport = \"ws\"\norigins = \"*\"", "");
    assert!(open(tcp(address(&all, "web")), Some("sip"), Some("https://any.example")).is_ok());
    // No HTTP at all, and no WebSocket.
    for words in ["OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/WS x.invalid\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut socket = at();
        socket.write_all(words.as_bytes()).unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(edge.stop().tcp.accepted, 2);
}

fn options(call: &str) -> String {
    from_browser("OPTIONS", call, 1, "sip:12155550113@edge.example", "", "")
}

#[test]
fn w1_text_binary_and_fragments_are_messages_all_the_same() {
    let neighbour = udp();
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, "");
    let mut browser = browser(&edge);
    browser.send(Message::text(options("text"))).unwrap();
    assert!(values(&receive(&neighbour).0, "Call-ID")[0].starts_with("text"));
    browser.send(Message::binary(options("binary").into_bytes())).unwrap();
    assert!(values(&receive(&neighbour).0, "Call-ID")[0].starts_with("binary"));
    // In three frames, with a ping between them.
    let whole = options("fragments");
    let (first, rest) = whole.split_at(40);
    let (second, third) = rest.split_at(1);
    let frame = |part: &str, code, is_last| {
        Message::Frame(Frame::message(part.as_bytes().to_vec(), OpCode::Data(code), is_last))
    };
    browser.send(frame(first, Data::Text, false)).unwrap();
    browser.send(Message::Ping("are you there".into())).unwrap();
    browser.send(frame(second, Data::Continue, false)).unwrap();
    browser.send(frame(third, Data::Continue, true)).unwrap();
    assert_eq!(browser.read().unwrap(), Message::Pong("are you there".into()));
    let (request, from) = receive(&neighbour);
    assert!(values(&request, "Call-ID")[0].starts_with("fragments"));
    // An answer that is no UTF-8 leaves in a binary message.
    let answer = answer(&request, "200 OK", "Subject: #\r\n").into_bytes();
    let answer: Vec<u8> = answer.into_iter().map(|octet| if octet == b'#' { 0xe9 } else { octet }).collect();
    neighbour.send_to(&answer, from).unwrap();
    let Message::Binary(bytes) = browser.read().unwrap() else { panic!("not binary") };
    assert!(bytes.starts_with(b"SIP/2.0 200 OK") && bytes.contains(&0xe9));
    // KA-1, W-4: a keepalive inside a message; half of one, and nothing at all, are nothing.
    for blank in ["", "\r\n", "\r\n\r\n"] {
        browser.send(Message::text(blank)).unwrap();
    }
    assert_eq!(next(&mut browser), "\r\n");
    // F-9: a Content-Length that is not the message's.
    let longer = options("length").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n");
    browser.send(Message::text(longer)).unwrap();
    assert!(next(&mut browser).starts_with("SIP/2.0 400 "));
}

/// The code of the peer's close frame; the stream must end behind it.
fn close_code<S: Read + Write>(browser: &mut WebSocket<S>) -> Option<CloseCode> {
    let mut code = None;
    loop {
        match browser.read() {
            Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code),
            Ok(_) => {}
            Err(_) => return code,
        }
    }
}

#[test]
fn w4_what_is_no_message_ends_the_connection_with_the_reason() {
    let neighbour = udp();
    let limits = "[limits]\nmessage_bytes = 4096\nhead_bytes = 2048\nmessage_timeout_ms = 100";
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, limits);
    let ends = |act: &dyn Fn(&mut WebSocket<TcpStream>)| {
        let mut browser = browser(&edge);
        act(&mut browser);
        close_code(&mut browser)
    };
    assert_eq!(ends(&|browser| browser.send(Message::text("x".repeat(8000))).unwrap()), Some(CloseCode::Size));
    let fragments = ends(&|browser| {
        for (code, is_last) in [(Data::Text, false), (Data::Continue, false), (Data::Continue, true)] {
            let frame = Frame::message(vec![b'x'; 3000], OpCode::Data(code), is_last);
            let _ = browser.send(Message::Frame(frame)); // the edge may have closed before the last one
        }
    });
    assert_eq!(fragments, Some(CloseCode::Size));
    assert_eq!(
        ends(&|browser| browser.send(Message::text("hello there\r\n\r\n")).unwrap()),
        Some(CloseCode::Unsupported)
    );
    // Frames against RFC 6455: not masked; a reserved opcode; text that is no UTF-8; a continuation of nothing.
    let raw = |octets: &'static [u8]| ends(&|browser| browser.get_mut().write_all(octets).unwrap());
    assert_eq!(raw(b"\x81\x02hi"), Some(CloseCode::Protocol));
    assert_eq!(raw(b"\x83\x80\0\0\0\0"), Some(CloseCode::Protocol));
    assert_eq!(raw(b"\x80\x81\0\0\0\0x"), Some(CloseCode::Protocol));
    assert_eq!(raw(b"\x81\x82\0\0\0\0\xff\xff"), Some(CloseCode::Invalid));
    // F-7: the rest of a message does not come.
    assert_eq!(raw(b"\x81\xfe\x04\x00\0\0\0\0OPTIONS"), Some(CloseCode::Policy));
    // A good message on another connection still works.
    let mut other = browser(&edge);
    other.send(Message::text(options("after"))).unwrap();
    receive(&neighbour);
    let utf8: Utf8Bytes = "bye".into();
    other.send(Message::Ping(utf8.into())).unwrap();
    assert!(matches!(other.read().unwrap(), Message::Pong(_)));
    other.close(None).unwrap();
    assert_eq!(close_code(&mut other), None);
}

#[test]
fn kr11_a_browser_is_its_listeners_trunk_or_whom_its_credentials_prove() {
    let (neighbour, directory) = (udp(), tempfile::tempdir().unwrap());
    let users = directory.path().join("users");
    fs::write(&users, "alice:edge.example:MD5:0123456789abcdef0123456789abcdef\n").unwrap();
    let config = format!(
        r#"
[[listener]]
name = "web"
transport = "ws"
bind = "127.0.0.1:0"
trunk = "browsers"
origins = "*"
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "browsers"
[trunk.digest]
realm = "edge.example"
users = "{}"
algorithms = "MD5"
[[trunk]]
name = "neighbour"
next_hop = "udp:{}"
[[route]]
from = "browsers"
to = "neighbour"
"#,
        users.display(),
        neighbour.local_addr().unwrap()
    );
    let edge = start(&config);
    let mut browser = browser(&edge);
    browser.send(Message::text(options("who"))).unwrap();
    let challenge = next(&mut browser);
    assert!(challenge.starts_with("SIP/2.0 407 ") && challenge.contains("realm=\"edge.example\""), "{challenge}");
    let nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    let mut call = |name: &str, hash: &str| {
        let uri = "sip:12155550113@edge.example";
        let request = Algorithm::Md5.hash(&[b"OPTIONS", uri.as_bytes()]);
        let count = if name == "wrong" { "00000001" } else { "00000002" };
        let parts = [hash, nonce, count, "c", "auth", std::str::from_utf8(request.as_bytes()).unwrap()];
        let response = Algorithm::Md5.hash(&parts.map(str::as_bytes));
        let credentials = format!(
            "Proxy-Authorization: Digest username=\"alice\", realm=\"edge.example\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{}\", algorithm=MD5, cnonce=\"c\", qop=auth, nc={count}\r\n",
            std::str::from_utf8(response.as_bytes()).unwrap()
        );
        browser.send(Message::text(from_browser("OPTIONS", name, 1, uri, "", &credentials))).unwrap();
    };
    call("wrong", "ffffffffffffffffffffffffffffffff");
    call("right", "0123456789abcdef0123456789abcdef");
    let (relayed, from) = receive(&neighbour);
    assert!(relayed.contains("Call-ID: right@web\r\n") && !relayed.contains("Proxy-Authorization"), "{relayed}");
    neighbour.send_to(answer(&relayed, "200 OK", "").as_bytes(), from).unwrap();
    // The two belong to different workers, perhaps: either may be the first.
    let mut answers = [next(&mut browser), next(&mut browser)];
    answers.sort();
    let [ok, challenged] = answers;
    assert!(ok.starts_with("SIP/2.0 200 ") && values(&ok, "Call-ID") == ["right@web"], "{ok}");
    assert!(challenged.starts_with("SIP/2.0 407 ") && values(&challenged, "Call-ID") == ["wrong@web"], "{challenged}");
}

/// The end of a stream on which nothing comes; whether it has ended or something came instead.
fn is_closed(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0)) // or an error: nobody closed it in time
}

/// N connections that say nothing hold their places of their prefix from the moment they are accepted.
#[test]
fn who_opens_no_websocket_counts_for_its_prefix_all_the_same() {
    let neighbour = udp();
    let limits = "[node]\nworkers = 1\n[limits]\nmax_connections_per_prefix = 3\n[tls]\nhandshake_timeout_ms = 60000\n";
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, limits);
    let silent: Vec<TcpStream> = (0..3).map(|_| tcp(address(&edge, "web"))).collect();
    assert!(is_closed(&tcp(address(&edge, "web"))), "the fourth");
    drop(silent);
    // As soon as the edge has seen their end there is room.
    let opened = std::iter::repeat_with(|| {
        let request = "ws://edge.example/".into_client_request().unwrap();
        let mut request = request;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("sip"));
        client(request, tcp(address(&edge, "web"))).is_ok()
    });
    assert!(opened.take(1000).any(|is_open| is_open));
    assert!(edge.stop().tcp.refused_prefix > 0);
}

#[test]
fn handshakes_above_the_rate_are_closed_and_counted() {
    let neighbour = udp();
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, "[tls]\nhandshakes_per_second = 1\n");
    let many: Vec<TcpStream> = (0..30).map(|_| tcp(address(&edge, "web"))).collect();
    let closed = many.iter().rev().any(is_closed);
    assert!(closed, "thirty in far less than thirty seconds");
    assert!(edge.stop().worker.excess_handshakes > 0);
}

#[test]
fn kr10_a_denied_source_is_closed_before_its_handshake() {
    let neighbour = udp();
    for (deny, is_denied) in [("127.0.0.1", true), ("192.0.2.1", false)] {
        let edge = edge(neighbour.local_addr().unwrap(), PLAIN, &format!("[guard]\ndeny = \"{deny}\"\n"));
        if is_denied {
            assert!(is_closed(&tcp(address(&edge, "web"))));
            assert_eq!(edge.stop().worker.refused_sources, 1);
        } else {
            browser(&edge);
            assert_eq!(edge.stop().worker.refused_sources, 0);
        }
    }
}

#[test]
fn w2_calls_over_wss() {
    let (neighbour, certificate) = (udp(), SelfSigned::new());
    let listener = format!("transport = \"wss\"\norigins = \"*\"\n{}", certificate.listener());
    let edge = edge(neighbour.local_addr().unwrap(), &listener, "");
    let client = certificate.client();
    let connect = || tls(&client, address(&edge, "web"), "edge.example");
    assert_eq!(open(connect(), Some("msrp"), None).unwrap_err(), 400);
    let mut browser = open(connect(), Some("sip"), Some("https://any.example")).unwrap();
    for call in ["one", "two"] {
        let invite = establish(&mut browser, &neighbour, call);
        assert!(values(&invite, "Record-Route")[1].contains(";transport=ws;lr"), "{invite}");
        let own = neighbour.local_addr().unwrap();
        let bye = from_neighbour("BYE", call, own, &values(&invite, "Record-Route"));
        neighbour.send_to(bye.as_bytes(), address(&edge, "udp")).unwrap();
        let received = next(&mut browser);
        assert!(values(&received, "Via")[0].starts_with("SIP/2.0/WSS "), "{received}");
        browser.send(Message::text(answer(&received, "200 OK", ""))).unwrap();
        assert!(receive(&neighbour).0.starts_with("SIP/2.0 200 OK"));
    }
    // A long message crosses both ways: records, frames and socket buffers are not of its size.
    browser
        .send(Message::text(options("long").replace("\r\n\r\n", &format!("\r\nSubject: {}\r\n\r\n", "y".repeat(7000)))))
        .unwrap();
    let (request, from) = receive(&neighbour);
    neighbour
        .send_to(answer(&request, "200 OK", &format!("Subject: {}\r\n", "z".repeat(7000))).as_bytes(), from)
        .unwrap();
    assert!(next(&mut browser).contains("zzz"));
}

/// Frames without content, faster than they are read: others on the same worker are served all the same.
#[test]
fn a_browser_that_never_stops_does_not_keep_a_worker_to_itself() {
    let neighbour = udp();
    let edge = edge(neighbour.local_addr().unwrap(), PLAIN, "[node]\nworkers = 1\n");
    let pong = [0x8a, 0x80, 0, 0, 0, 0];
    let part = [0x00, 0x80, 0, 0, 0, 0]; // a fragment of a message that never ends
    for (first, frame) in [(&[][..], pong), (&[0x01, 0x80, 0, 0, 0, 0][..], part)] {
        let mut flood = browser(&edge).get_ref().try_clone().unwrap();
        flood.write_all(first).unwrap();
        let frames = frame.repeat(20_000);
        std::thread::spawn(move || while flood.write_all(&frames).is_ok() {});
    }
    let own = neighbour.local_addr().unwrap();
    for call in 0..5 {
        let text = from_neighbour("OPTIONS", &format!("served-{call}"), own, &[]);
        neighbour.send_to(text.as_bytes(), address(&edge, "udp")).unwrap();
        assert!(receive(&neighbour).0.starts_with("SIP/2.0 "));
    }
}
