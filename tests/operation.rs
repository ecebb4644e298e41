//! The program as an operator sees it: signals, the page, the log.
#![allow(clippy::disallowed_methods, reason = "a test from outside has clocks of its own")]

mod support_page;
mod support_program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use support_page::Family;
use support_program::{PATIENCE, Program, socket};

/// `{gateway}` in the text is where the trunk leads.
fn configuration(gateway: SocketAddr, more: &str) -> String {
    format!(
        r#"
[node]
workers = 2
http = "127.0.0.1:0"
drain_timeout_seconds = 15
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "all"
peers = "127.0.0.0/8"
[[trunk]]
name = "gateway"
next_hop = "udp:{gateway}"
[[route]]
to = "gateway"
{more}
"#
    )
}

impl Program {
    fn start(gateway: SocketAddr) -> Self {
        Self::start_with(gateway, "")
    }

    fn start_with(gateway: SocketAddr, more: &str) -> Self {
        Self::start_in(gateway, more, &[])
    }

    fn start_in(gateway: SocketAddr, more: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_from(&configuration(gateway, more), environment)
    }
}

fn request(method: &str, from: &UdpSocket, call: &str) -> String {
    let via = from.local_addr().unwrap();
    format!(
        "{method} sip:12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK-{call}\r\n\
         From: <sip:12155550112@192.0.2.8>;tag=a\r\nTo: <sip:12155550113@192.0.2.9>\r\nCall-ID: {call}@test\r\n\
         CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContact: <sip:{via}>\r\nContent-Length: 0\r\n\r\n"
    )
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 4096];
    let (count, from) = socket.recv_from(&mut buffer).expect("a message comes");
    (String::from_utf8(buffer[..count].to_vec()).unwrap(), from)
}

/// The next message that is not a 100.
fn receive_final(socket: &UdpSocket) -> String {
    loop {
        let (message, _) = receive(socket);
        if !message.starts_with("SIP/2.0 100") {
            return message;
        }
    }
}

fn answer(request: &str, status: &str) -> String {
    let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"];
    let lines: Vec<_> = request.split("\r\n").filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
    format!("SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"))
}

#[test]
fn a_reload_changes_the_way_of_new_requests_and_a_bad_file_changes_nothing() {
    let (first, second, caller) = (socket(), socket(), socket());
    let program = Program::start(first.local_addr().unwrap());
    let file = program.file("edge.toml");
    caller.send_to(request("OPTIONS", &caller, "one").as_bytes(), program.sip).unwrap();
    assert!(receive(&first).0.contains("Call-ID: one@test"));

    fs::write(&file, "[[listener]]\nnam = \"udp\"\n").unwrap();
    program.signal("HUP");
    program.expect("did you mean `name`?");
    program.expect("the old one stays");
    caller.send_to(request("OPTIONS", &caller, "two").as_bytes(), program.sip).unwrap();
    let seen = std::iter::from_fn(|| Some(receive(&first).0)).find(|message| !message.contains("one@test"));
    assert!(seen.unwrap().contains("Call-ID: two@test"));

    fs::write(&file, configuration(second.local_addr().unwrap(), "[limits]\nudp_mtu = 1400\n")).unwrap();
    program.signal("HUP");
    program.expect("reload: trunk \"gateway\".next_hop changed");
    program.expect("reload: limits added");
    program.expect("the new configuration is in force");
    caller.send_to(request("OPTIONS", &caller, "three").as_bytes(), program.sip).unwrap();
    assert!(receive(&second).0.contains("Call-ID: three@test"));

    fs::write(&file, configuration(second.local_addr().unwrap(), "").replace("name = \"udp\"", "name = \"other\""))
        .unwrap();
    program.signal("HUP");
    program.expect("listener \"other\" was added, removed or changed; that needs a restart");
    let page = program.get("/metrics");
    assert!(page.contains("vesperd_reloads_total{result=\"taken\"} 1\n"), "{page}");
    assert!(page.contains("vesperd_reloads_total{result=\"refused\"} 2\n"), "{page}");
}

#[test]
fn sigterm_lets_a_ringing_call_be_answered_and_takes_no_other() {
    let (gateway, caller) = (socket(), socket());
    let mut program = Program::start(gateway.local_addr().unwrap());
    assert!(program.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(program.get("/readyz").starts_with("HTTP/1.1 200"));
    caller.send_to(request("INVITE", &caller, "ringing").as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive(&gateway);
    gateway.send_to(answer(&invite, "180 Ringing").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 180"));

    program.signal("TERM");
    program.expect("draining");
    assert!(program.get("/readyz").starts_with("HTTP/1.1 503"));
    let late = socket();
    late.send_to(request("INVITE", &late, "late").as_bytes(), program.sip).unwrap();
    assert!(receive_final(&late).starts_with("SIP/2.0 503"));
    assert!(program.is_running(), "a call is ringing");

    gateway.send_to(answer(&invite, "200 OK").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 200"));
    assert!(program.end().success());
    assert!(program.log().contains("unanswered=1") && !program.log().contains("drain timeout"), "{}", program.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (gateway, caller) = (socket(), socket());
    let mut program = Program::start(gateway.local_addr().unwrap());
    caller.send_to(request("INVITE", &caller, "ringing").as_bytes(), program.sip).unwrap();
    receive(&gateway);
    program.signal("TERM");
    program.expect("draining");
    program.signal("INT");
    assert!(program.end().success());
    program.expect("stopped by a second signal");
}

/// The page once this holds.
fn page_with(program: &Program, holds: impl Fn(&BTreeMap<String, Family>) -> bool) -> BTreeMap<String, Family> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = program.get("/metrics");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        let page = support_page::read(body);
        if holds(&page) {
            return page;
        }
        assert!(Instant::now() < deadline, "{body}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn the_page_counts_what_happened_in_a_format_that_a_scraper_reads() {
    let (gateway, caller) = (socket(), socket());
    let program = Program::start_with(gateway.local_addr().unwrap(), OPERATED);
    caller.send_to(request("OPTIONS", &caller, "counted").as_bytes(), program.sip).unwrap();
    let (options, edge) = receive(&gateway);
    gateway.send_to(answer(&options, "200 OK").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 200"));
    caller.send_to(request("INVITE", &caller, "ringing").as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive(&gateway);
    gateway.send_to(answer(&invite, "180 Ringing").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 180"));
    // Each worker tells its counts by itself, within a second.
    let page = page_with(&program, |page| {
        let responses =
            |code, direction| page["vesperd_responses_total"].sum(&[("code", code), ("direction", direction)]) >= 1.0;
        page["vesperd_calls"].sum(&[("trunk", "gateway"), ("direction", "to")]) == 1.0
            && page["vesperd_transactions_begun_total"].sum(&[]) >= 2.0
            && responses("200", "received")
            && responses("180", "sent")
    });
    let sum = |name: &str, labels: &[(&str, &str)]| page[name].sum(labels);
    assert_eq!(sum("vesperd_requests_total", &[("method", "OPTIONS"), ("transport", "udp")]), 1.0);
    assert_eq!(sum("vesperd_responses_total", &[("code", "200"), ("direction", "received")]), 1.0);
    assert_eq!(sum("vesperd_responses_total", &[("code", "100"), ("direction", "sent")]), 1.0);
    assert_eq!(sum("vesperd_responses_total", &[("code", "180"), ("direction", "sent")]), 1.0);
    assert_eq!(sum("vesperd_calls", &[("direction", "from")]), 1.0);
    assert_eq!(sum("vesperd_transactions_begun_total", &[]), 2.0);
    gateway.send_to(answer(&invite, "486 Busy Here").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 486"));
    let page = page_with(&program, |page| {
        page["vesperd_calls_ended_total"].sum(&[("ended_by", "refusal")]) == 1.0
            && page["vesperd_call_records_total"].sum(&[("fate", "written")]) == 1.0
    });
    assert_eq!(page["vesperd_calls"].sum(&[]), 0.0);
    let durations = &page["vesperd_request_duration_seconds"];
    let count = |method| {
        durations
            .samples
            .iter()
            .filter(|s| s.0.ends_with("_count") && s.1["method"] == method)
            .map(|s| s.2)
            .sum::<f64>()
    };
    assert_eq!((count("INVITE"), count("other")), (1.0, 1.0));
    assert!(program.get("/nothing").starts_with("HTTP/1.1 404"));
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operation.md")).unwrap();
    let is_described = |name: &str| ["`", "{"].iter().any(|end| document.contains(&format!("`{name}{end}")));
    let missing: Vec<_> = page.keys().filter(|name| !is_described(name)).collect();
    assert!(missing.is_empty(), "not in docs/operation.md: {missing:?}");
}

/// A command beside the program: exit code, standard output, standard error output.
fn command(program: &Program, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vesperd"))
        .args(arguments)
        .args(["--socket", "admin.sock"])
        .current_dir(program.file(""))
        .output()
        .unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Waits until a file has so many lines of JSON.
fn records(program: &Program, file: &str, count: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(program.file(file)).unwrap_or_default();
        if text.ends_with('\n') && text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        assert!(Instant::now() < deadline, "{file}: {text}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

const OPERATED: &str = "[cdr]\nfile = \"calls.jsonl\"\nnumbers = \"shortened\"\n[admin]\nsocket = \"admin.sock\"\n";

#[test]
fn a_call_is_listed_ended_and_recorded_and_the_file_can_be_rotated() {
    use std::os::unix::fs::PermissionsExt;
    let (gateway, caller) = (socket(), socket());
    let mut program = Program::start_with(gateway.local_addr().unwrap(), OPERATED);
    let mode = fs::metadata(program.file("admin.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    caller.send_to(request("INVITE", &caller, "ringing").as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive(&gateway);
    gateway.send_to(answer(&invite, "180 Ringing").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 180"));

    let (code, list, _) = command(&program, &["calls", "list", "--json", "--trunk", "gateway", "--state", "ringing"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let call = &list["calls"][0];
    assert_eq!((code, &list["cut"], list["calls"].as_array().unwrap().len()), (0, &false.into(), 1));
    assert_eq!(
        (&call["call_id"], &call["state"], &call["ingress"]),
        (&"ringing@test".into(), &"ringing".into(), &"all".into())
    );
    assert_eq!(call["member"], format!("udp:{}", gateway.local_addr().unwrap()));
    let (_, list, _) = command(&program, &["calls", "list", "--number", "999"]);
    assert_eq!(list, "0 calls\n");
    let (code, _, error) = command(&program, &["calls", "list", "--trunk", "nobody"]);
    assert_eq!((code, error.as_str()), (1, "no trunk \"nobody\"\n"));

    let (code, said, _) = command(&program, &["calls", "end", "ringing@test"]);
    assert_eq!((code, said.as_str()), (0, "cancelled 1, hung up 0\n"));
    let cancel =
        std::iter::from_fn(|| Some(receive(&gateway).0)).find(|message| message.starts_with("CANCEL")).unwrap();
    gateway.send_to(answer(&cancel, "200 OK").as_bytes(), edge).unwrap();
    gateway.send_to(answer(&invite, "487 Request Terminated").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 487"));
    let record = records(&program, "calls.jsonl", 1).remove(0);
    let told = |key: &str| record[key].to_string();
    assert_eq!(
        (told("call_id"), told("ended_by"), told("status")),
        ("\"ringing@test\"".into(), "\"admin\"".into(), "487".into())
    );
    assert_eq!(
        (told("caller"), told("ingress"), told("egress")),
        ("\"1215555xxxx\"".into(), "\"all\"".into(), "\"gateway\"".into())
    );
    let received = record["received"].as_str().unwrap();
    assert!(received.len() == "2026-11-24T23:59:00.123Z".len() && received.ends_with('Z'), "{received}");
    assert_eq!(command(&program, &["calls", "end", "ringing@test"]).0, 1, "it is over");

    // logrotate: the file is renamed, and the new one is begun at SIGHUP.
    fs::rename(program.file("calls.jsonl"), program.file("calls.jsonl.1")).unwrap();
    program.signal("HUP");
    program.expect("the new configuration is in force");
    caller.send_to(request("INVITE", &caller, "busy").as_bytes(), program.sip).unwrap();
    let invite =
        std::iter::from_fn(|| Some(receive(&gateway).0)).find(|message| message.contains("busy@test")).unwrap();
    gateway.send_to(answer(&invite, "486 Busy Here").as_bytes(), edge).unwrap();
    let record = records(&program, "calls.jsonl", 1).remove(0);
    assert_eq!((&record["call_id"], &record["status"]), (&"busy@test".into(), &486.into()));
    assert_eq!(records(&program, "calls.jsonl.1", 1).len(), 1);

    let (code, bans, _) = command(&program, &["bans", "list"]);
    assert_eq!((code, bans.as_str()), (0, ""));
    assert_eq!(command(&program, &["bans", "lift", "203.0.113.7"]).0, 1);
    program.signal("TERM");
    assert!(program.end().success());
    assert!(!program.file("admin.sock").exists());
    assert_eq!(command(&program, &["calls", "list"]).0, 2, "nobody is there");
}

#[test]
fn chains_are_imported_listed_and_purged_once_their_root_is_trusted() {
    use vesperd::pki::lab::{self, Options};
    let gateway = socket();
    let mut program = Program::start_with(gateway.local_addr().unwrap(), OPERATED);
    lab::create(&program.file("lab"), vesperd::node::clock::unix(), &Options::default()).unwrap();
    let (url, chain) = ("https://certs.example/sp.pem", "lab/provider/shaken.pem");
    let (code, _, error) = command(&program, &["cache", "import", url, chain]);
    assert_eq!(code, 1, "no trust anchor: {error}");
    let trusting = format!("{OPERATED}[stir]\nanchors = \"lab/sti/root.pem\"\nstate_directory = \"state\"\n");
    fs::write(program.file("edge.toml"), configuration(gateway.local_addr().unwrap(), &trusting)).unwrap();
    program.signal("HUP");
    program.expect("the new configuration is in force");
    let (code, said, error) = command(&program, &["cache", "import", url, chain]);
    assert_eq!(code, 0, "{error}");
    assert!(
        said.starts_with(&format!("{url} fresh")) && said.contains("spc 709J") && said.contains("imported"),
        "{said}"
    );
    fs::create_dir(program.file("chains")).unwrap();
    for name in ["a.pem", "b.pem"] {
        fs::copy(program.file(chain), program.file("chains").join(name)).unwrap();
    }
    assert_eq!(command(&program, &["cache", "import", "https://other.example/x/", "chains"]).0, 0);
    for refused in ["http://certs.example/sp.pem", "https://user@certs.example/", "junk"] {
        assert_eq!(command(&program, &["cache", "import", refused, chain]).0, 1, "{refused}");
    }
    let (_, list, _) = command(&program, &["cache", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let urls: Vec<_> = list["entries"].as_array().unwrap().iter().map(|entry| entry["x5u"].as_str().unwrap()).collect();
    assert_eq!(urls, [url, "https://other.example/x/a.pem", "https://other.example/x/b.pem"]);
    let entry = &list["entries"][0];
    assert_eq!((&entry["trusted"], &entry["hits"], &entry["host"]), (&true.into(), &0.into(), &"up".into()));
    let (_, one, _) = command(&program, &["cache", "list", "--host", "certs.example"]);
    assert_eq!(one.lines().count(), 1);
    assert_eq!(command(&program, &["cache", "purge", "--url", url]).1, "purged 1\n");
    assert_eq!(command(&program, &["cache", "purge", "--url", url]).1, "purged 0\n");
    assert_eq!(command(&program, &["cache", "purge", "--host", "Other.example"]).1, "purged 2\n");
    assert_eq!(command(&program, &["cache", "purge", "--all"]).1, "purged 0\n");
    assert_eq!(command(&program, &["cache", "purge"]).0, 2);
    assert!(!program.log().contains("BEGIN CERTIFICATE"), "chains do not go into the log");
    program.signal("TERM");
    assert!(program.end().success());
}

/// A pipe that nobody reads and that holds no more: the writer of records is stuck in its first one.
fn full_pipe(path: &std::path::Path) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let mut pipe = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while pipe.write(b"x").is_ok() {}
    pipe
}

#[test]
fn records_that_find_the_queue_full_are_counted_and_calls_go_on() {
    let (gateway, caller) = (socket(), socket());
    let directory = tempfile::tempdir().unwrap();
    let mut pipe = full_pipe(&directory.path().join("calls"));
    let more = format!("[cdr]\nfile = \"{}\"\nqueue = 1\n", directory.path().join("calls").display());
    let mut program = Program::start_with(gateway.local_addr().unwrap(), &more);
    // At most two find a place, the one being written and the one in the queue; nobody waits for either.
    for call in 0..10 {
        caller.send_to(request("INVITE", &caller, &format!("call{call}")).as_bytes(), program.sip).unwrap();
        // The ACK of the call before comes first.
        let mut received = std::iter::repeat_with(|| receive(&gateway));
        let (invite, edge) = received.find(|(message, _)| message.contains(&format!("call{call}@test"))).unwrap();
        gateway.send_to(answer(&invite, "486 Busy Here").as_bytes(), edge).unwrap();
        assert!(receive_final(&caller).starts_with("SIP/2.0 486"));
    }
    let page = page_with(&program, |page| page["vesperd_calls_ended_total"].sum(&[("ended_by", "refusal")]) == 10.0);
    let dropped = page["vesperd_call_records_total"].sum(&[("fate", "dropped")]);
    assert!((8.0..=9.0).contains(&dropped), "{dropped}");
    assert_eq!(page["vesperd_queue_drops_total"].sum(&[("queue", "cdr")]), dropped);
    assert_eq!(page["vesperd_call_records_total"].sum(&[("fate", "written")]), 0.0);
    // Somebody reads again: what had found a place is written, and nothing of it is torn.
    let mut text = Vec::new();
    let kept = 10 - dropped as usize;
    let deadline = Instant::now() + PATIENCE;
    let lines = |text: &[u8]| text.iter().filter(|octet| **octet == b'\n').count();
    while lines(&text) < kept {
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&text));
        let _ = pipe.read_to_end(&mut text); // would block at the end
    }
    let records = String::from_utf8(text).unwrap();
    for (line, call) in records.trim_start_matches('x').lines().zip(0..) {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["status"], 486, "{line}");
        assert!(call > 0 || record["call_id"] == "call0@test", "{line}");
    }
    page_with(&program, |page| page["vesperd_call_records_total"].sum(&[("fate", "written")]) == (10.0 - dropped));
    program.signal("TERM");
    assert!(program.end().success());
}

/// The end of the program does not wait for ever for who reads its records.
#[test]
fn the_program_ends_though_nobody_reads_its_records() {
    let (gateway, caller) = (socket(), socket());
    let directory = tempfile::tempdir().unwrap();
    let _pipe = full_pipe(&directory.path().join("calls"));
    let more = format!("[cdr]\nfile = \"{}\"\n", directory.path().join("calls").display());
    let mut program = Program::start_with(gateway.local_addr().unwrap(), &more);
    caller.send_to(request("INVITE", &caller, "busy").as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive(&gateway);
    gateway.send_to(answer(&invite, "486 Busy Here").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 486"));
    program.signal("TERM");
    assert!(program.end().success());
    program.expect("the last call records were not written in time");
}

#[test]
fn the_socket_reloads_drains_and_refuses_what_it_does_not_know() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;
    let (gateway, caller) = (socket(), socket());
    let program = Program::start_with(gateway.local_addr().unwrap(), OPERATED);
    let mut stream = BufReader::new(UnixStream::connect(program.file("admin.sock")).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |request: &str| -> serde_json::Value {
        writeln!(stream.get_mut(), "{request}").unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    for bad in ["", "{}", "[1]", "{\"command\":\"calls\"}", "{\"command\":\"stats\",\"more\":1}", "\u{7f}"] {
        assert!(ask(bad)["error"].as_str().unwrap().starts_with("not a request"), "{bad}");
    }
    assert_eq!(ask("{\"command\":\"stats\"}")["result"]["draining"], false);
    let more = format!("{OPERATED}[limits]\nudp_mtu = 1400\n");
    fs::write(program.file("edge.toml"), configuration(gateway.local_addr().unwrap(), &more)).unwrap();
    fs::rename(program.file("calls.jsonl"), program.file("calls.jsonl.1")).unwrap();
    assert_eq!(ask("{\"command\":\"reload\"}")["result"]["changes"], serde_json::json!(["limits added"]));
    fs::write(program.file("edge.toml"), "nonsense = 1\n").unwrap();
    assert!(ask("{\"command\":\"reload\"}")["error"].as_str().unwrap().contains("unknown key"));
    assert_eq!(ask("{\"command\":\"drain\"}")["result"]["draining"], true);
    program.expect("Drain");
    let deadline = Instant::now() + PATIENCE;
    while !program.get("/readyz").starts_with("HTTP/1.1 503") {
        assert!(Instant::now() < deadline);
    }
    caller.send_to(request("INVITE", &caller, "late").as_bytes(), program.sip).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 503"));
    let record = records(&program, "calls.jsonl", 1).remove(0);
    assert_eq!(
        (&record["status"], &record["own_status"], &record["ended_by"]),
        (&503.into(), &true.into(), &"refusal".into())
    );
}

/// The environment says how the log looks; each line about a message names its call, in text and in JSON.
#[test]
fn lines_of_the_log_name_the_call_in_text_and_in_json() {
    let (gateway, caller) = (socket(), socket());
    let looped = request("INVITE", &caller, "looped").replace("Max-Forwards: 70", "Max-Forwards: 0");
    let program = Program::start(gateway.local_addr().unwrap());
    caller.send_to(looped.as_bytes(), program.sip).unwrap();
    assert!(program.expect("refused").contains("call_id=\"looped@test\""));
    let program = Program::start_in(gateway.local_addr().unwrap(), "", &[("VESPERD__NODE__LOG", "json")]);
    caller.send_to(looped.as_bytes(), program.sip).unwrap();
    let line: serde_json::Value = serde_json::from_str(&program.expect("refused")).unwrap();
    assert_eq!((&line["fields"]["call_id"], &line["fields"]["status"]), (&"looped@test".into(), &483.into()));
    assert!(program.log().lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

/// Numbers of trunks mean nothing to whoever reads the log.
#[test]
fn lines_of_the_log_name_trunks_in_text_and_in_json() {
    let (gateway, caller) = (socket(), socket());
    let verifying = "[[trunk]]\nname = \"carrier\"\npeers = \"127.0.0.1\"\n\
                     [trunk.verify]\nprofile = \"shaken\"\nrequire_identity = true\nchain = \"off\"\n";
    let invite = request("INVITE", &caller, "unsigned");
    let program = Program::start_with(gateway.local_addr().unwrap(), verifying);
    caller.send_to(invite.as_bytes(), program.sip).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 428"));
    assert!(program.expect("verified").contains(" trunk=\"carrier\" "), "{}", program.log());
    // A trunk that a reload brings has its name too.
    let more = verifying.replace("carrier", "another");
    fs::write(program.file("edge.toml"), configuration(gateway.local_addr().unwrap(), &more)).unwrap();
    program.signal("HUP");
    program.expect("the new configuration is in force");
    caller.send_to(invite.replace("unsigned", "second").as_bytes(), program.sip).unwrap();
    assert!(program.expect("call_id=\"second@test\"").contains(" trunk=\"another\" "), "{}", program.log());
    let json = [("VESPERD__NODE__LOG", "json")];
    let program = Program::start_in(gateway.local_addr().unwrap(), verifying, &json);
    caller.send_to(invite.as_bytes(), program.sip).unwrap();
    let line: serde_json::Value = serde_json::from_str(&program.expect("\"verified\"")).unwrap();
    assert_eq!((&line["fields"]["trunk"], &line["fields"]["valid"]), (&"carrier".into(), &false.into()), "{line}");
}

/// A request of the gateway's in the dialog that this INVITE began.
fn from_gateway(method: &str, invite: &str, gateway: &UdpSocket, n: u32) -> String {
    let field = |name: &str| invite.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let target = field("Contact: ").trim_matches(['<', '>']).to_owned();
    let routes = invite.lines().filter_map(|line| line.strip_prefix("Record-Route: "));
    let routes: String = routes.map(|route| format!("Route: {}\r\n", route.trim())).collect();
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK-{n}\r\n{routes}From: {};tag=b\r\nTo: {}\r\n\
         Call-ID: {}\r\nCSeq: {n} {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        gateway.local_addr().unwrap(),
        field("To: "),
        field("From: "),
        field("Call-ID: ")
    )
}

#[test]
fn c78_calls_outlive_a_kill_and_their_marks_do_if_the_key_does() {
    let (gateway, caller) = (socket(), socket());
    let plain = configuration(gateway.local_addr().unwrap(), "");
    let strict = plain.replace("[node]", "[node]\nroute_key = \"route.key\"\nrequire_route_mac = true");
    let mut program = Program::start(gateway.local_addr().unwrap());
    let mut number = 0;
    let mut is_relayed = |program: &Program, method: &str, invite: &str| {
        number += 1;
        gateway.send_to(from_gateway(method, invite, &gateway, number).as_bytes(), program.sip).unwrap();
        let messages = std::iter::repeat_with(|| receive(&caller).0);
        messages.take(50).any(|message| message.starts_with(method)) // answers to earlier requests come between
    };
    let call = |program: &Program, name: &str| {
        caller.send_to(request("INVITE", &caller, name).as_bytes(), program.sip).unwrap();
        let (invite, _) = receive(&gateway);
        gateway
            .send_to(answer(&invite, "200 OK").replace("192.0.2.9>", "192.0.2.9>;tag=b").as_bytes(), program.sip)
            .unwrap();
        assert!(receive_final(&caller).starts_with("SIP/2.0 200"));
        invite
    };
    // Without a key of its own the program draws another one: the call goes on all the same.
    let invite = call(&program, "soft");
    assert!(invite.contains(";vm="), "{invite}");
    program.restart(&plain);
    assert!(is_relayed(&program, "BYE", &invite));

    fs::write(program.file("route.key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    program.restart(&strict);
    let invite = call(&program, "strict");
    program.restart(&strict);
    assert!(is_relayed(&program, "INFO", &invite));
    // Another key: nobody can tell whose call this is.
    fs::write(program.file("route.key"), "ffffffffffffffffffffffffffffffff\n").unwrap();
    program.restart(&strict);
    while receive_pending(&gateway).is_some() {}
    gateway.send_to(from_gateway("BYE", &invite, &gateway, 99).as_bytes(), program.sip).unwrap();
    let (refused, _) = receive(&gateway);
    assert!(refused.starts_with("SIP/2.0 403 Not Our Route"), "{refused}");
}

/// A request of the caller's in the dialog of an INVITE as the gateway saw it.
fn from_caller(method: &str, invite: &str, caller: &UdpSocket, gateway: &UdpSocket, n: u32) -> String {
    let route = invite.lines().find_map(|line| line.strip_prefix("Record-Route: ")).unwrap().trim();
    let name = format!("{method}-{n}");
    let call_id = invite.lines().find_map(|line| line.strip_prefix("Call-ID: ")).unwrap().trim();
    request(method, caller, &name)
        .replace(" sip:12155550113@192.0.2.9 ", &format!(" sip:{} ", gateway.local_addr().unwrap()))
        .replace("To: <sip:12155550113@192.0.2.9>", "To: <sip:12155550113@192.0.2.9>;tag=b")
        .replace(&format!("{name}@test"), call_id)
        .replace("CSeq: 1", &format!("Route: {route}\r\nCSeq: {n}"))
}

/// The next request of a call that is not an ACK.
fn receive_of(socket: &UdpSocket, method: &str, call: &str) -> (String, SocketAddr) {
    let call_id = format!("Call-ID: {call}@test\r\n");
    let mut received = std::iter::repeat_with(|| receive(socket)).take(50);
    received.find(|(message, _)| message.starts_with(method) && message.contains(&call_id)).expect("it comes")
}

#[test]
fn kr4_an_operator_drains_a_gateway_and_puts_it_back() {
    let (first, second, caller) = (socket(), socket(), socket());
    let member = |id: &str, at: &UdpSocket, more: &str| {
        format!("[[trunk.member]]\nid = \"{id}\"\nnext_hop = \"udp:{}\"\n{more}", at.local_addr().unwrap())
    };
    let members = [member("gw1", &first, "max_calls = 9\ntags = { site = \"north\" }\n"), member("gw2", &second, "")];
    let plain = configuration(first.local_addr().unwrap(), OPERATED);
    let next_hop = format!("next_hop = \"udp:{}\"\n", first.local_addr().unwrap());
    assert!(plain.contains(&next_hop));
    let text = plain.replace(&next_hop, &format!("algorithm = \"serial\"\n{}", members.concat()));
    let program = Program::start_from(&text, &[]);
    let targets = || -> serde_json::Value {
        let (code, list, error) = command(&program, &["targets", "list", "--json", "--trunk", "gateway"]);
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&list).unwrap()
    };
    let set = |arguments: [&str; 3]| {
        let [trunk, member, state] = arguments;
        command(&program, &["targets", "set", trunk, member, state])
    };
    let call = |name: &str| caller.send_to(request("INVITE", &caller, name).as_bytes(), program.sip).unwrap();

    call("one");
    let (invite, edge) = receive_of(&first, "INVITE", "one");
    let taken = answer(&invite, "200 OK").replace("192.0.2.9>", "192.0.2.9>;tag=b");
    first.send_to(taken.as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 200"));
    let list = targets();
    assert_eq!(list["targets"].as_array().unwrap().len(), 2);
    let one = &list["targets"][0];
    assert_eq!((&one["trunk"], &one["member"], &one["state"]), (&"gateway".into(), &"gw1".into(), &"active".into()));
    assert_eq!((&one["calls"], &one["max_calls"], &one["pinged"]), (&1.into(), &9.into(), &false.into()));
    assert_eq!((&one["tags"]["site"], &one["latency_ms"]), (&"north".into(), &serde_json::Value::Null));

    assert_eq!(set(["gateway", "gw1", "draining"]), (0, "gateway gw1 draining\n".into(), String::new()));
    assert_eq!(targets()["targets"][0]["state"], "draining");
    call("two");
    let (invite_two, _) = receive_of(&second, "INVITE", "two");
    let strays: Vec<_> = std::iter::from_fn(|| receive_pending(&first)).collect();
    assert!(strays.iter().all(|message| !message.contains("two@test")), "not even tried: {strays:?}");
    second.send_to(answer(&invite_two, "486 Busy Here").as_bytes(), edge).unwrap();
    assert!(receive_final(&caller).starts_with("SIP/2.0 486"));
    // The dialog goes on where it is: a re-INVITE is no new call.
    for (n, method) in [(2, "INVITE"), (3, "BYE")] {
        caller.send_to(from_caller(method, &invite, &caller, &first, n).as_bytes(), program.sip).unwrap();
        let (seen, _) = receive_of(&first, method, "one");
        first.send_to(answer(&seen, "200 OK").as_bytes(), edge).unwrap();
        assert!(receive_final(&caller).contains(&format!("CSeq: {n} {method}")));
    }
    program.signal("HUP");
    program.expect("the new configuration is in force");
    let (code, list, _) = command(&program, &["targets", "list"]);
    let line = list.lines().next().unwrap();
    assert!(code == 0 && line.starts_with("gateway gw1 draining udp:127.0.0.1:"), "a reload keeps it: {list}");
    assert!(line.ends_with("calls 0 of 9, failures 0, latency - ms"), "{line}");

    assert_eq!(set(["gateway", "gw1", "active"]).0, 0);
    call("three");
    receive_of(&first, "INVITE", "three");
    let refused = |arguments, status, why: &str| {
        let (code, _, error) = set(arguments);
        assert!(code == status && error.contains(why), "{arguments:?}: {code} {error}");
    };
    refused(["gateway", "gw3", "active"], 1, "no member \"gw3\"; there are \"gw1\", \"gw2\"");
    refused(["nobody", "gw1", "active"], 1, "no trunk \"nobody\"");
    refused(["gateway", "gw1", "broken"], 2, "possible values: active, trying, inactive, disabled, draining");
    let (code, _, error) = command(&program, &["targets", "list", "--trunk", "nobody"]);
    assert_eq!((code, error.as_str()), (1, "no trunk \"nobody\"\n"));
}

/// What has come already.
fn receive_pending(socket: &UdpSocket) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = [0; 4096];
    let received =
        socket.recv_from(&mut buffer).ok().map(|(count, _)| String::from_utf8_lossy(&buffer[..count]).into_owned());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    received
}

#[test]
fn kr10_a_ban_closes_connections_until_it_is_lifted() {
    let gateway = socket();
    let text = configuration(gateway.local_addr().unwrap(), "[guard]\n[admin]\nsocket = \"admin.sock\"\n");
    // Whoever comes from 127.0.0.3 is nobody's, and what scanners call themselves gets it banned.
    let listener =
        "[[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\"\n[[trunk]]\nname = \"all\"";
    let text = text.replace("peers = \"127.0.0.0/8\"", "peers = \"127.0.0.2\"").replacen(
        "[[trunk]]\nname = \"all\"",
        listener,
        1,
    );
    let program = Program::start_from(&text, &[]);
    let line = program.expect("listener=\"tcp\"");
    let sip: SocketAddr = line.split("address=").nth(1).unwrap().trim().parse().unwrap();
    let scanner = UdpSocket::bind("127.0.0.3:0").unwrap();
    let call =
        request("OPTIONS", &scanner, "scan").replace("Max-Forwards", "User-Agent: friendly-scanner\r\nMax-Forwards");
    scanner.send_to(call.as_bytes(), program.sip).unwrap();
    program.expect("banned");
    let (code, bans, _) = command(&program, &["bans", "list"]);
    assert!(code == 0 && bans.starts_with("127.0.0.3") && bans.lines().count() == 1, "{bans}");
    let is_served = || {
        let from = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        from.bind(&SocketAddr::from(([127, 0, 0, 3], 0)).into()).unwrap();
        from.connect(&sip.into()).unwrap();
        let mut stream: TcpStream = from.into();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"\r\n\r\n"); // a ping
        matches!(stream.read(&mut [0; 8]), Ok(2))
    };
    assert!(!is_served());
    let (code, said, _) = command(&program, &["bans", "lift", "127.0.0.3"]);
    assert_eq!((code, said.as_str()), (0, "lifted 127.0.0.3\n"));
    assert_eq!(command(&program, &["bans", "list"]).1, "");
    assert!(is_served());
    assert_eq!(command(&program, &["bans", "lift", "127.0.0.3"]).0, 1, "there is no other");
    let page = page_with(&program, |page| page["vesperd_connections_total"].sum(&[("opened_by", "peer")]) == 1.0);
    assert_eq!(page["vesperd_connections_refused_total"].sum(&[("reason", "source")]), 1.0);
}

/// Gives a call to the gateway, which answers it.
fn answered_call(program: &Program, caller: &UdpSocket, gateway: &UdpSocket, name: &str) {
    caller.send_to(request("INVITE", caller, name).as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive_of(gateway, "INVITE", name);
    let ok = answer(&invite, "200 OK").replace("192.0.2.9>", "192.0.2.9>;tag=b");
    gateway.send_to(ok.as_bytes(), edge).unwrap();
    assert!(receive_final(caller).starts_with("SIP/2.0 200"));
}

/// The same, but the gateway is busy: the call is over, and its record is due.
fn busy_call(program: &Program, caller: &UdpSocket, gateway: &UdpSocket, name: &str) {
    caller.send_to(request("INVITE", caller, name).as_bytes(), program.sip).unwrap();
    let (invite, edge) = receive_of(gateway, "INVITE", name);
    gateway.send_to(answer(&invite, "486 Busy Here").as_bytes(), edge).unwrap();
    assert!(receive_final(caller).starts_with("SIP/2.0 486"));
}

#[test]
fn a_reload_takes_over_records_and_level_of_the_log_and_names_what_needs_a_restart() {
    let (gateway, caller) = (socket(), socket());
    let program = Program::start_with(gateway.local_addr().unwrap(), OPERATED);
    let reload = |text: &str| {
        fs::write(program.file("edge.toml"), text).unwrap();
        let (before, said) = (program.log().len(), || program.log());
        program.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = said()[before..].to_owned();
            let ends = ["the new configuration is in force", "not taken over"];
            if ends.iter().any(|end| log.contains(end)) {
                return log;
            }
            assert!(Instant::now() < deadline, "{log}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    };
    let at = gateway.local_addr().unwrap();
    let changed = configuration(
        at,
        "[cdr]\nfile = \"other.jsonl\"\nqueue = 7\n[admin]\nsocket = \"admin.sock\"\nmode = \"0660\"\n\
         [dns]\nattempts = 3\n[tls]\nmax_handshakes = 9\n",
    )
    .replace("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:1\"\nlog_level = \"error\"\nudp_buffer_bytes = 65536");
    let log = reload(&changed.replace("log_level = \"error\"\n", ""));
    for key in ["node.http", "node.udp_buffer_bytes", "[admin]", "cdr.queue", "[dns]", "[tls]"] {
        assert!(log.contains(&format!("reload: {key} needs a restart: not in force yet")), "{key}: {log}");
    }
    assert!(!log.contains("[cdr] needs") && log.contains("in force, but for what needs a restart"), "{log}");
    // The file and the form of numbers are in force.
    busy_call(&program, &caller, &gateway, "moved");
    let record = records(&program, "other.jsonl", 1).remove(0);
    assert_eq!((&record["call_id"], &record["caller"]), (&"moved@test".into(), &"12155550112".into()));
    assert_eq!(fs::read_to_string(program.file("calls.jsonl")).unwrap(), "");

    // A file that can not be opened is told before anything changes.
    let log = reload(&changed.replace("other.jsonl", "nowhere/calls"));
    assert!(log.contains("cdr.file nowhere/calls: entity not found") && log.contains("not taken over"), "{log}");
    // Without the table records are written on until the restart.
    let log = reload(&configuration(at, "").replace("http = \"127.0.0.1:0\"\n", ""));
    assert!(log.contains("reload: [cdr] needs a restart") && log.contains("reload: node.http needs"), "{log}");
    busy_call(&program, &caller, &gateway, "still");
    assert_eq!(records(&program, "other.jsonl", 2)[1]["call_id"], "still@test");

    // As it began, nothing is left to be done by a restart.
    let log = reload(&configuration(at, OPERATED));
    assert!(!log.contains("needs a restart"), "{log}");
    let debug = configuration(at, OPERATED).replace("[node]", "[node]\nlog_level = \"warn\"");
    fs::write(program.file("edge.toml"), &debug).unwrap();
    let (code, said, _) = command(&program, &["calls", "end", "nobody"]);
    assert_eq!((code, said.as_str()), (1, ""));
    program.expect("CallsEnd");
    let before = program.log().len();
    program.signal("HUP");
    page_with(&program, |page| page["vesperd_reloads_total"].sum(&[("result", "taken")]) == 4.0);
    assert_eq!(command(&program, &["calls", "end", "nobody"]).0, 1);
    assert!(!program.log()[before..].contains("INFO"), "only warnings from now on: {}", &program.log()[before..]);
}

#[test]
fn no_record_of_a_call_that_stands_is_lost_at_the_end() {
    let (gateway, caller) = (socket(), socket());
    let mut program = Program::start_with(gateway.local_addr().unwrap(), "[cdr]\nfile = \"calls\"\nqueue = 1\n");
    let calls: Vec<String> = (0..40).map(|n| format!("stands-{n}")).collect();
    calls.iter().for_each(|name| answered_call(&program, &caller, &gateway, name));
    program.signal("TERM");
    assert!(program.end().success());
    let mut stopped: Vec<String> = records(&program, "calls", calls.len())
        .iter()
        .filter(|record| record["ended_by"] == "stop")
        .map(|record| record["call_id"].as_str().unwrap().trim_end_matches("@test").to_owned())
        .collect();
    let mut calls = calls;
    stopped.sort();
    calls.sort();
    assert_eq!(stopped, calls);
}

#[test]
fn the_file_of_records_is_opened_anew_though_their_queue_is_full() {
    let (gateway, caller) = (socket(), socket());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls");
    let mut pipe = full_pipe(&path);
    let more = format!("[cdr]\nfile = \"{}\"\nqueue = 1\n", path.display());
    let program = Program::start_with(gateway.local_addr().unwrap(), &more);
    (0..4).for_each(|n| busy_call(&program, &caller, &gateway, &format!("waits-{n}")));
    page_with(&program, |page| page["vesperd_queue_drops_total"].sum(&[("queue", "cdr")]) >= 2.0);
    fs::rename(&path, directory.path().join("calls.old")).unwrap();
    program.signal("HUP");
    program.expect("the new configuration is in force");
    // The disk is as fast as before.
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    while !path.exists()
        || page_with(&program, |_| true)["vesperd_call_records_total"].sum(&[("fate", "written")]) < 1.0
    {
        assert!(Instant::now() < deadline);
        let _ = pipe.read_to_end(&mut text);
    }
    busy_call(&program, &caller, &gateway, "after");
    let text = || fs::read_to_string(&path).unwrap();
    while !text().contains("after@test") {
        assert!(Instant::now() < deadline, "{}", text());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
