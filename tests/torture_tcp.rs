//! C-47: the torture messages of RFC 4475 and RFC 5118 over real TCP connections, a new one for each.

mod support_edge;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use support_edge::{start, tcp};
use vesperd::node::Edge;

/// Refused with these, in the order of the file names. What differs from UDP: the end of `inv2543` is unknown without a
/// Content-Length.
const REFUSED: &[(&str, &str)] = &[
    ("badaspec", "400"),
    ("badbranch", "400"),
    ("badinv01", "400"),
    ("badvers", "505"),
    ("bext01", "420"),
    ("escruri", "400"),
    ("insuf", "400"),
    ("inv2543", "400"),
    ("ipv6-bad", "400"),
    ("ltgtruri", "400"),
    ("lwsruri", "400"),
    ("lwsstart", "400"),
    ("mcl01", "400"),
    ("mismatch01", "400"),
    ("mismatch02", "501"),
    ("mpart01", "403"), // its Route leads elsewhere, and this is no open relay
    ("mult-ip-in-header", "481"),
    ("multi01", "400"),
    ("ncl", "400"),
    ("novelsc", "416"),
    ("quotbal", "400"),
    ("scalar02", "400"),
    ("trws", "400"),
    ("unkscm", "416"),
    ("via-received-param-with-delim", "481"),
    ("wsinv", "403"), // as mpart01
    ("zeromf", "483"),
];

/// Not answered: responses that nobody asked for, and requests whose end had not come when the connection ended.
const SILENT: &[&str] = &["baddn", "bcast", "bigcode", "clerr", "noreason", "scalarlg", "unreason"];

/// Too large for UDP (RFC 3261 18.1.1): the next hop is tried by TCP first.
const LARGE: &[&str] = &["longreq"];

/// Answers the good calls; of all others tells the first Via.
fn callee(tell: Sender<String>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let lines: Vec<&str> =
                request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
            let answer = format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"));
            if request.contains("good-call") {
                socket.send_to(answer.as_bytes(), from).unwrap();
            } else if let Some(via) = request.split("\r\n").find(|line| line.starts_with("Via:")) {
                let _ = tell.send(via.to_owned());
            }
        }
    });
    local
}

fn edge(tell: Sender<String>) -> Edge {
    let text = format!(
        r#"
[node]
workers = 1
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[listener]]
name = "tcp"
transport = "tcp"
bind = "127.0.0.1:0"
[[trunk]]
name = "caller"
peers = "127.0.0.0/8"
[[trunk]]
name = "callee"
next_hop = "udp:{}"
[[route]]
from = "caller"
to = "callee"
"#,
        callee(tell)
    );
    start(&text)
}

fn address(edge: &Edge) -> SocketAddr {
    support_edge::address(edge, "tcp")
}

/// Everything the edge says on a new connection that carries this and then ends.
fn exchange(edge: &Edge, message: &[u8]) -> String {
    let mut stream = tcp(address(edge));
    let _ = stream.write_all(message); // the edge may close before it has all
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said); // closing with input unread resets
    String::from_utf8_lossy(&said).into_owned()
}

/// A call that must work whatever came before.
fn good_call(edge: &Edge, after: &str) {
    let mut stream = tcp(address(edge));
    let via = stream.local_addr().unwrap();
    let request = format!(
        "OPTIONS sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/TCP {via};branch=z9hG4bK-{after}\r\n\
         From: <sip:12155550112@192.0.2.8>;tag=a\r\nTo: <sip:12155550113@192.0.2.9>\r\nCall-ID: good-call-{after}\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).unwrap_or_else(|error| panic!("after {after}: {error}"));
    assert!(buffer[..count].starts_with(b"SIP/2.0 200 "), "after {after}: {}", buffer[..count].escape_ascii());
}

fn final_statuses(said: &str) -> Vec<&str> {
    let lines = said.split("\r\n").filter_map(|line| line.strip_prefix("SIP/2.0 "));
    lines.map(|line| &line[..3]).filter(|status| !status.starts_with('1')).collect()
}

fn messages() -> Vec<(String, Vec<u8>)> {
    let directory = |set| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(set);
    let entries = ["rfc4475", "rfc5118"].into_iter().flat_map(|set| std::fs::read_dir(directory(set)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "dat"));
    let read = |path: std::path::PathBuf| {
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    };
    let mut messages: Vec<_> = paths.map(read).collect();
    messages.sort();
    assert_eq!(messages.len(), 61);
    messages
}

/// Each meets an edge that knows nothing: some share their branch, and would be retransmissions of each other.
#[test]
fn c47_each_message_is_refused_forwarded_or_dropped_as_it_should_be() {
    for (name, message) in messages() {
        let (tell, told) = channel();
        let edge = edge(tell);
        let said = exchange(&edge, &message);
        // What was forwarded is with the callee before the call that follows it.
        good_call(&edge, &name);
        let is_forwarded = told.try_iter().count() > 0;
        let refused: Vec<&str> = REFUSED.iter().filter(|(n, _)| *n == name).map(|(_, status)| *status).collect();
        assert_eq!(final_statuses(&said), refused, "{name}: {said}");
        let is_expected = refused.is_empty() && !SILENT.contains(&name.as_str());
        assert!(is_forwarded == is_expected || LARGE.contains(&name.as_str()), "{name}: {is_forwarded}");
        assert_eq!(edge.stop().restarts, 0, "{name}");
    }
}

#[test]
fn c47_one_edge_takes_them_all_and_a_good_call_after_each() {
    let (tell, _told) = channel();
    let edge = edge(tell);
    for (name, message) in messages() {
        exchange(&edge, &message);
        good_call(&edge, &name);
    }
    let summary = edge.stop();
    assert_eq!((summary.restarts, summary.tcp.accepted), (0, 2 * 61), "no message stopped the worker");
}
