//! One test per row of each table: state and event lead to what is sent, what the user is told, and the next state.

use super::{Bench, Client, ack_of, ms};
use crate::support::message::Request;
use vesperd::sip::Transport;
use vesperd::transaction::{CancelResult, RequestMatch, ResponseMatch, ServerId};

const UDP: &[Transport] = &[Transport::Udp];
const TCP: &[Transport] = &[Transport::Tcp];
const BOTH: &[Transport] = &[Transport::Udp, Transport::Tcp];

#[derive(Debug, Clone, Copy)]
enum Input {
    /// A client receives it, a server's user sends it.
    Status(u16),
    /// The request is received again.
    Retransmission,
    Ack,
    /// The next timer, and how long after entering the state it fires.
    Timer(&'static str, u64),
    TransportError,
}

use Input::*;

/// State, event, transports -> sent, told, state.
type TableRow =
    (&'static str, Input, &'static [Transport], &'static [&'static str], &'static [&'static str], &'static str);

/// RFC 3261 17.1.1 with RFC 6026 8.4.
const INVITE_CLIENT: &[TableRow] = &[
    ("(new)", Status(0), BOTH, &["INVITE"], &[], "Calling"),
    ("Calling", Timer("A", 500), UDP, &["INVITE"], &[], "Calling"),
    ("Calling", Timer("B", 32_000), TCP, &[], &["TimedOut", "Gone"], "Terminated"),
    ("Calling", TransportError, BOTH, &[], &["Failed", "Gone"], "Terminated"),
    ("Calling", Status(100), BOTH, &[], &["Deliver"], "Proceeding"),
    ("Calling", Status(200), BOTH, &[], &["Deliver"], "Accepted"),
    ("Calling", Status(486), UDP, &["ACK"], &["Deliver"], "Completed"),
    ("Calling", Status(486), TCP, &["ACK"], &["Deliver", "Gone"], "Terminated"),
    ("Proceeding", Status(180), BOTH, &[], &["Deliver"], "Proceeding"),
    ("Proceeding", Status(299), BOTH, &[], &["Deliver"], "Accepted"),
    ("Proceeding", Status(300), UDP, &["ACK"], &["Deliver"], "Completed"),
    ("Proceeding", Status(699), TCP, &["ACK"], &["Deliver", "Gone"], "Terminated"),
    ("Proceeding", TransportError, BOTH, &[], &[], "Proceeding"),
    ("Completed", Status(486), UDP, &["ACK"], &[], "Completed"),
    ("Completed", Status(200), UDP, &[], &[], "Completed"),
    ("Completed", Status(180), UDP, &[], &[], "Completed"),
    ("Completed", TransportError, UDP, &[], &["Failed", "Gone"], "Terminated"),
    ("Completed", Timer("D", 32_000), UDP, &[], &["Gone"], "Terminated"),
    ("Accepted", Status(200), BOTH, &[], &["Deliver"], "Accepted"),
    ("Accepted", Status(180), BOTH, &[], &[], "Accepted"),
    ("Accepted", Status(500), BOTH, &[], &[], "Accepted"),
    ("Accepted", TransportError, BOTH, &[], &[], "Accepted"),
    ("Accepted", Timer("M", 32_000), BOTH, &[], &["Gone"], "Terminated"),
];

/// RFC 3261 17.1.2.
const NON_INVITE_CLIENT: &[TableRow] = &[
    ("(new)", Status(0), BOTH, &["OPTIONS"], &[], "Trying"),
    ("Trying", Timer("E", 500), UDP, &["OPTIONS"], &[], "Trying"),
    ("Trying", Timer("F", 32_000), TCP, &[], &["TimedOut", "Gone"], "Terminated"),
    ("Trying", TransportError, BOTH, &[], &["Failed", "Gone"], "Terminated"),
    ("Trying", Status(100), BOTH, &[], &["Deliver"], "Proceeding"),
    ("Trying", Status(200), UDP, &[], &["Deliver"], "Completed"),
    ("Trying", Status(404), TCP, &[], &["Deliver", "Gone"], "Terminated"),
    ("Proceeding", Timer("E", 500), UDP, &["OPTIONS"], &[], "Proceeding"),
    ("Proceeding", Timer("F", 32_000), TCP, &[], &["TimedOut", "Gone"], "Terminated"),
    ("Proceeding", TransportError, BOTH, &[], &["Failed", "Gone"], "Terminated"),
    ("Proceeding", Status(100), BOTH, &[], &["Deliver"], "Proceeding"),
    ("Proceeding", Status(503), UDP, &[], &["Deliver"], "Completed"),
    ("Proceeding", Status(200), TCP, &[], &["Deliver", "Gone"], "Terminated"),
    ("Completed", Status(100), UDP, &[], &[], "Completed"),
    ("Completed", Status(200), UDP, &[], &[], "Completed"),
    ("Completed", Status(500), UDP, &[], &[], "Completed"),
    ("Completed", TransportError, UDP, &[], &[], "Completed"),
    ("Completed", Timer("K", 5_000), UDP, &[], &["Gone"], "Terminated"),
];

/// RFC 3261 17.2.1 with RFC 6026 8.5 to 8.7.
const INVITE_SERVER: &[TableRow] = &[
    ("(new)", Retransmission, BOTH, &[], &[], "Proceeding"),
    ("Proceeding", Retransmission, BOTH, &["SIP/2.0 180"], &[], "Proceeding"),
    ("Proceeding", Status(183), BOTH, &["SIP/2.0 183"], &[], "Proceeding"),
    ("Proceeding", Status(200), BOTH, &["SIP/2.0 200"], &[], "Accepted"),
    ("Proceeding", Status(486), BOTH, &["SIP/2.0 486"], &[], "Completed"),
    ("Proceeding", TransportError, BOTH, &[], &["ResponseFailed"], "Proceeding"),
    ("Proceeding", Ack, BOTH, &[], &[], "Proceeding"),
    ("Accepted", Retransmission, BOTH, &[], &[], "Accepted"),
    ("Accepted", Status(200), BOTH, &["SIP/2.0 200"], &[], "Accepted"),
    ("Accepted", Status(180), BOTH, &[], &[], "Accepted"),
    ("Accepted", Status(486), BOTH, &[], &[], "Accepted"),
    ("Accepted", Ack, BOTH, &[], &["Deliver"], "Accepted"),
    ("Accepted", TransportError, BOTH, &[], &["ResponseFailed"], "Accepted"),
    ("Accepted", Timer("L", 32_000), BOTH, &[], &["Gone"], "Terminated"),
    ("Completed", Retransmission, BOTH, &["SIP/2.0 486"], &[], "Completed"),
    ("Completed", Timer("G", 500), UDP, &["SIP/2.0 486"], &[], "Completed"),
    ("Completed", Ack, UDP, &[], &[], "Confirmed"),
    ("Completed", Ack, TCP, &[], &["Gone"], "Terminated"),
    ("Completed", Timer("H", 32_000), TCP, &[], &["Unacknowledged", "Gone"], "Terminated"),
    ("Completed", TransportError, BOTH, &[], &["ResponseFailed"], "Completed"),
    ("Completed", Status(200), BOTH, &[], &[], "Completed"),
    ("Completed", Status(500), BOTH, &[], &[], "Completed"),
    ("Confirmed", Ack, UDP, &[], &[], "Confirmed"),
    ("Confirmed", Retransmission, UDP, &[], &[], "Confirmed"),
    ("Confirmed", Status(200), UDP, &[], &[], "Confirmed"),
    ("Confirmed", TransportError, UDP, &[], &[], "Confirmed"),
    ("Confirmed", Timer("I", 5_000), UDP, &[], &["Gone"], "Terminated"),
];

/// RFC 3261 17.2.2 with RFC 4320.
const NON_INVITE_SERVER: &[TableRow] = &[
    ("(new)", Retransmission, BOTH, &[], &[], "Trying"),
    ("Trying", Retransmission, BOTH, &[], &[], "Trying"),
    ("Trying", Timer("N-1", 3_500), BOTH, &[], &["TryingDue"], "Trying"),
    ("Trying", Status(100), TCP, &["SIP/2.0 100"], &[], "Proceeding"),
    ("Trying", Status(100), UDP, &[], &[], "Trying"),  // N-1: too early
    ("Trying", Status(180), BOTH, &[], &[], "Trying"), // N-1
    ("Trying", Status(408), BOTH, &[], &[], "Trying"), // N-2
    ("Trying", Status(200), BOTH, &["SIP/2.0 200"], &[], "Completed"),
    ("Trying", TransportError, BOTH, &[], &[], "Trying"),
    ("Proceeding", Retransmission, BOTH, &["SIP/2.0 100"], &[], "Proceeding"),
    ("Proceeding", Status(100), BOTH, &["SIP/2.0 100"], &[], "Proceeding"),
    ("Proceeding", Status(183), BOTH, &[], &[], "Proceeding"), // N-1
    ("Proceeding", Status(408), BOTH, &[], &[], "Proceeding"), // N-2
    ("Proceeding", Status(480), BOTH, &["SIP/2.0 480"], &[], "Completed"),
    ("Proceeding", TransportError, BOTH, &[], &["ResponseFailed"], "Proceeding"),
    ("Proceeding", Timer("N-2", 28_500), BOTH, &[], &["Gone"], "Terminated"),
    ("Completed", Retransmission, BOTH, &["SIP/2.0 200"], &[], "Completed"),
    ("Completed", Status(500), BOTH, &[], &[], "Completed"),
    ("Completed", TransportError, BOTH, &[], &["ResponseFailed"], "Completed"),
    ("Completed", Timer("J", 32_000), UDP, &[], &["Gone"], "Terminated"),
    ("Completed", Timer("J", 5_000), TCP, &[], &["Gone"], "Terminated"), // T-4: for what can not be delivered
];

/// Runs one row on one transport; what was sent, told, and the state that follows.
fn run_client(method: &str, row: &TableRow, transport: Transport) -> (Vec<String>, Vec<&'static str>, String) {
    let (state, input, ..) = *row;
    let mut bench = Bench::new(transport);
    let client = bench.send(method);
    let status = match state {
        "Proceeding" => Some(183),
        "Completed" if method == "INVITE" => Some(486),
        "Completed" | "Accepted" => Some(200),
        _ => None,
    };
    if let Some(status) = status {
        bench.sent();
        assert!(matches!(bench.respond_to(&client, status), ResponseMatch::Deliver { user: 7, .. }));
        bench.sent();
    }
    if state != "(new)" {
        bench.sent();
    }
    let mut told = Vec::new();
    match input {
        Status(0) => {}
        Status(status) => match bench.respond_to(&client, status) {
            ResponseMatch::Deliver { client: id, user } => {
                assert_eq!((id, user), (client.id, 7));
                told.push("Deliver");
            }
            other => assert_eq!(other, ResponseMatch::Absorbed),
        },
        Timer(name, after) => assert_eq!(bench.fire(), ms(after), "Timer {name}"),
        TransportError => bench.layer.transport_failed(bench.now, client.id.tag()),
        Retransmission | Ack => unreachable!("of servers"),
    }
    told.extend(bench.events());
    let sent = bench.sent();
    (sent, told, client_state(&mut bench, method, &client, row.5))
}

/// Finds the state by what only that state does.
fn client_state(bench: &mut Bench, method: &str, client: &Client, expected: &str) -> String {
    if bench.live() == 0 {
        assert_eq!(bench.layer.timers(), 0, "no timer outlives its transaction");
        return "Terminated".into();
    }
    if method == "INVITE" {
        return match bench.layer.cancel(bench.now, client.id, b"", &mut bench.out) {
            CancelResult::Deferred => "Calling",
            CancelResult::Sent => "Proceeding",
            CancelResult::TooLate if bench.respond_to(client, 200) == ResponseMatch::Absorbed => "Completed",
            CancelResult::TooLate => "Accepted",
        }
        .into();
    }
    if bench.transport.is_reliable() {
        return expected.into(); // without Timer E, Trying and Proceeding behave alike
    }
    // Trying sends with growing intervals, Proceeding every T2, Completed never.
    bench.fire();
    if bench.live() == 0 {
        return "Completed".into();
    }
    if bench.fire() == ms(4_000) { "Proceeding" } else { "Trying" }.into()
}

fn run_server(method: &str, row: &TableRow, transport: Transport) -> (Vec<String>, Vec<&'static str>, String) {
    let (state, input, ..) = *row;
    let mut bench = Bench::new(transport);
    let request = Request { method: method.into(), transport, ..Request::default() };
    let server = bench.open(&request);
    match (method, state) {
        ("INVITE", "Proceeding") => bench.answer(server, &request, 180),
        ("INVITE", "Accepted") => bench.answer(server, &request, 200),
        ("INVITE", "Completed" | "Confirmed") => bench.answer(server, &request, 486),
        ("OPTIONS", "Proceeding") => {
            assert_eq!(bench.fire(), ms(3_500));
            bench.answer(server, &request, 100);
        }
        ("OPTIONS", "Completed") => bench.answer(server, &request, 200),
        _ => {}
    }
    if state == "Confirmed" {
        assert_eq!(bench.receive(&ack_of(&request)), RequestMatch::Absorbed);
    }
    bench.events();
    bench.sent();
    let mut told = Vec::new();
    match input {
        Status(status) => bench.answer(server, &request, status),
        Retransmission => assert_eq!(bench.receive(&request), RequestMatch::Absorbed),
        Ack => match bench.receive(&ack_of(&request)) {
            RequestMatch::Ack2xx { server: id, user } => {
                assert_eq!((id, user), (server, 9));
                told.push("Deliver");
            }
            other => assert_eq!(other, RequestMatch::Absorbed),
        },
        Timer(name, after) => assert_eq!(bench.fire(), ms(after), "Timer {name}"),
        TransportError => bench.layer.transport_failed(bench.now, server.tag()),
    }
    told.extend(bench.events());
    let sent = bench.sent();
    (sent, told, server_state(&mut bench, &request, server))
}

fn server_state(bench: &mut Bench, request: &Request, server: ServerId) -> String {
    if bench.live() == 0 {
        assert_eq!(bench.layer.timers(), 0, "no timer outlives its transaction");
        return "Terminated".into();
    }
    assert_eq!(bench.receive(request), RequestMatch::Absorbed);
    let again = bench.sent().pop().unwrap_or_default();
    if request.method != "INVITE" {
        return match again.get(..9) {
            None => "Trying",
            Some("SIP/2.0 1") => "Proceeding",
            Some(_) => "Completed",
        }
        .into();
    }
    if bench.receive(&ack_of(request)) != RequestMatch::Absorbed {
        return "Accepted".into();
    }
    if !again.is_empty() && !again.starts_with("SIP/2.0 1") {
        return "Completed".into();
    }
    bench.answer(server, request, 199);
    if bench.sent().is_empty() { "Confirmed" } else { "Proceeding" }.into()
}

/// Checks every row of a table and reports all that fail.
fn check_table(
    table: &[TableRow],
    method: &str,
    run: impl Fn(&str, &TableRow, Transport) -> (Vec<String>, Vec<&'static str>, String),
) {
    let mut wrong = Vec::new();
    for row in table {
        let (state, input, transports, sends, tells, next) = *row;
        for &transport in transports {
            let (sent, told, state_after) = run(method, row, transport);
            let sent_as_said = sent.len() == sends.len() && sent.iter().zip(sends).all(|(s, e)| s.starts_with(e));
            if !sent_as_said || told != tells || state_after != next {
                wrong.push(format!(
                    "{state} {input:?} on {transport:?}: sent {sent:?}, told {told:?}, then {state_after}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{method}:\n{}", wrong.join("\n"));
}

#[test]
fn invite_client_rows() {
    check_table(INVITE_CLIENT, "INVITE", run_client);
}

#[test]
fn non_invite_client_rows() {
    check_table(NON_INVITE_CLIENT, "OPTIONS", run_client);
}

#[test]
fn invite_server_rows() {
    check_table(INVITE_SERVER, "INVITE", run_server);
}

#[test]
fn non_invite_server_rows() {
    check_table(NON_INVITE_SERVER, "OPTIONS", run_server);
}
