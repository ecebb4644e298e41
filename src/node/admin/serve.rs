//! Connections of the admin socket, and what each command does.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::request::{Answer, CallEntry, Request, TargetEntry};
use super::{Filter, Means, Order, Page, Question, SeenCall};
use crate::node::cdr::{Clock, hop};
use crate::node::clock;
use crate::node::fetch::{Command, Which};
use crate::proxy::admission::Source;
use crate::proxy::dispatcher::{MemberReport, MemberState};
use crate::proxy::{CallState, EndedCalls};

/// Longest request, in octets.
const MAX_REQUEST: u64 = 64 * 1024;
/// Most calls in one answer.
const MAX_CALLS: usize = 100_000;
/// Most entries of the cache in one answer.
const MAX_ENTRIES: usize = 100_000;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The longest wait for a worker, for the program to reload, and for a client to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn accept(listener: &UnixListener, permits: &Arc<Semaphore>, means: &Arc<Means>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let means = Arc::clone(means);
                connections.spawn(async move {
                    // A peer that goes away in the middle has what it wanted.
                    let _ = converse(stream, &means, PATIENCE).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin socket: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: UnixStream, means: &Means, patience: Duration) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(MAX_REQUEST);
        let Ok(read) = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await else { return Ok(()) };
        if read? == 0 {
            return Ok(());
        }
        let is_whole = line.last() == Some(&b'\n') || (line.len() as u64) < MAX_REQUEST;
        let answer = match serde_json::from_slice::<Request>(&line) {
            _ if !is_whole => Answer::refused("the request is too long"),
            Ok(request) => {
                tracing::info!(request = ?request.for_log(), "admin");
                answer(request, means).await.unwrap_or_else(Answer::refused)
            }
            Err(error) => Answer::refused(format!("not a request: {error}")),
        };
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        // Who does not read gives its place to others.
        let written = tokio::time::timeout(patience, stream.write_all(&text)).await;
        written.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        if !is_whole {
            return Ok(());
        }
    }
}

fn done(result: impl Serialize) -> Result<Answer, String> {
    serde_json::to_value(result).map(|result| Answer::Done { result }).map_err(|error| error.to_string())
}

/// Does what a request asks. A new command is a variant of [`Request`] and an arm here.
async fn answer(request: Request, means: &Means) -> Result<Answer, String> {
    match request {
        Request::CallsList { trunk, number, state, limit } => {
            let filter = Filter {
                trunk: trunk.map(|name| means.names.number(&name).ok_or(format!("no trunk \"{name}\""))).transpose()?,
                number: number.map(String::into_bytes),
                state: state.map(|name| state_of(&name)).transpose()?,
            };
            done(list_calls(means, &filter, limit.min(MAX_CALLS)).await?)
        }
        Request::CallsEnd { call_id } => done(end_calls(means, &call_id).await?),
        Request::BansList {} => done(bans(means)),
        Request::BansLift { address } => {
            let bans = Arc::clone(&means.orders.borrow().snapshot.config.guard.bans);
            match bans.lift(Source::of(address), clock::instant()) {
                true => done(json!({ "lifted": address })),
                false => Err(format!("{address} is not banned")),
            }
        }
        Request::TargetsList { trunk } => done(json!({ "targets": targets(means, trunk.as_deref())? })),
        Request::TargetsSet { trunk, member, state } => {
            let found = MemberState::named(&state);
            let found = found.ok_or_else(|| {
                format!("no state \"{state}\": {}", MemberState::ALL.map(MemberState::as_str).join(", "))
            })?;
            means.published.set_member_state(&trunk, &member, found).map_err(|error| error.to_string())?;
            done(json!({ "trunk": trunk, "member": member, "state": found.as_str() }))
        }
        Request::CacheList { host, limit } => {
            let limit = limit.min(MAX_ENTRIES);
            let entries = order(means, |answer| Command::List { host, limit, answer }).await?;
            done(json!({ "cut": entries.len() >= limit, "entries": entries }))
        }
        Request::CacheImport { x5u, pem } => done(order(means, |answer| Command::Import { x5u, pem, answer }).await??),
        Request::CachePurge { x5u, host, all } => {
            let which = match (x5u, host, all) {
                (Some(x5u), None, false) => Which::Url(x5u),
                (None, Some(host), false) => Which::Host(host),
                (None, None, true) => Which::All,
                _ => return Err("give one of x5u, host and all".to_owned()),
            };
            done(json!({ "purged": order(means, |answer| Command::Purge { which, answer }).await? }))
        }
        Request::Reload {} => {
            let (answer, taken) = oneshot::channel();
            means.program.try_send(Order::Reload(answer)).map_err(|_| "nobody reloads here".to_owned())?;
            let changes = tokio::time::timeout(PATIENCE, taken).await.map_err(|_| "the reload takes too long")?;
            done(json!({ "changes": changes.map_err(|_| "nobody reloads here")?? }))
        }
        Request::Drain {} => {
            means.published.set_draining();
            means.orders.send_modify(|orders| orders.drain = true);
            done(json!({ "draining": true }))
        }
        Request::Stats {} => done(stats(means)),
    }
}

fn state_of(name: &str) -> Result<CallState, String> {
    let found = CallState::NAMES.into_iter().find(|(_, known)| *known == name).map(|(state, _)| state);
    found.ok_or_else(|| format!("no state \"{name}\": trying, ringing, answered or ending"))
}

async fn list_calls(means: &Means, filter: &Filter, limit: usize) -> Result<Value, String> {
    let mut calls = Vec::new();
    let clock = Clock { instant: clock::instant(), millis: clock::unix_millis() };
    for worker in &means.workers {
        let mut place = Some(0);
        while let Some(from) = place.filter(|_| calls.len() < limit) {
            let (answer, page) = oneshot::channel();
            let question = Question::Calls { place: from, filter: filter.clone(), answer };
            let Page { calls: found, next } = ask(worker, question, page).await?;
            calls.extend(found.into_iter().map(|call| entry_of(means, clock, call)));
            place = next;
        }
    }
    let is_cut = calls.len() >= limit;
    calls.truncate(limit);
    Ok(json!({ "calls": calls, "cut": is_cut }))
}

fn entry_of(means: &Means, clock: Clock, call: SeenCall) -> CallEntry {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let name = |trunk| means.names.of(trunk).to_string();
    let since = call.answered.map_or(Duration::ZERO, |at| clock.instant.saturating_duration_since(at));
    CallEntry {
        call_id: shown_call_id(&call.call_id),
        caller: text(&call.caller),
        called: text(&call.called),
        state: call.state.name().to_owned(),
        ingress: call.ingress.map(name),
        egress: call.egress.map(name),
        member: call.next.as_ref().map(hop),
        received: clock.wall(call.started),
        answered: call.answered.map(|at| clock.wall(at)),
        duration_seconds: since.as_secs(),
        attempts: call.attempts,
        verdict: call.verdict.to_owned(),
    }
}

/// The Call-ID is taken as it stands, as in call records, or as `calls list` shows it.
async fn end_calls(means: &Means, call_id: &str) -> Result<Value, String> {
    let (mut total, meant) = (EndedCalls::default(), meant_call_id(call_id));
    let forms = [call_id.as_bytes(), &meant].into_iter().take(if meant == call_id.as_bytes() { 1 } else { 2 });
    for form in forms {
        for worker in &means.workers {
            let (answer, ended) = oneshot::channel();
            let ended = ask(worker, Question::End { call_id: form.to_vec(), answer }, ended).await?;
            total.cancelled += ended.cancelled;
            total.hung_up += ended.hung_up;
        }
    }
    if total == EndedCalls::default() {
        return Err(format!("no call \"{call_id}\""));
    }
    Ok(json!({ "cancelled": total.cancelled, "hung_up": total.hung_up }))
}

/// A Call-ID for people and shells: what is not visible ASCII, and the backslash, as `\xHH`.
fn shown_call_id(call_id: &[u8]) -> String {
    let mut text = String::with_capacity(call_id.len());
    for octet in call_id {
        match octet {
            b'!'..=b'~' if *octet != b'\\' => text.push(char::from(*octet)),
            _ => text.push_str(&format!("\\x{octet:02x}")),
        }
    }
    text
}

/// What [`shown_call_id`] has shown; a backslash that begins nothing stands for itself.
fn meant_call_id(text: &str) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let code =
            rest.strip_prefix(b"\\x").and_then(|rest| rest.get(..2)).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(octet) => {
                octets.push(octet);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                octets.push(*first);
                rest = behind;
            }
        }
    }
    octets
}

/// Asks a worker; it may be busy, but not for long.
async fn ask<T>(
    worker: &tokio::sync::mpsc::Sender<Question>,
    question: Question,
    answer: oneshot::Receiver<T>,
) -> Result<T, String> {
    let asked = async {
        worker.send(question).await.map_err(|_| ())?;
        answer.await.map_err(|_| ())
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(())) | Err(_) => Err("a worker does not answer".to_owned()),
    }
}

/// Asks the side door; it answers between two of its works.
async fn order<T>(means: &Means, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        means.fetch.send(command(answer)).await.map_err(|_| ())?;
        answered.await.map_err(|_| ())
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(())) | Err(_) => Err("the fetch thread does not answer".to_owned()),
    }
}

fn bans(means: &Means) -> Value {
    let now = clock::instant();
    let bans = Arc::clone(&means.orders.borrow().snapshot.config.guard.bans);
    let list = bans.list(now).into_iter().map(|ban| {
        let left = ban.left.as_secs();
        json!({ "network": ban.network.to_string(), "cause": ban.cause.to_string(), "seconds_left": left })
    });
    json!({ "bans": list.collect::<Vec<_>>() })
}

/// The members of all trunks, or of one.
fn targets(means: &Means, trunk: Option<&str>) -> Result<Vec<TargetEntry>, String> {
    if let Some(name) = trunk {
        means.names.number(name).ok_or_else(|| format!("no trunk \"{name}\""))?;
    }
    let reports = means.published.members().into_iter();
    Ok(reports.filter(|report| trunk.is_none_or(|name| report.trunk == name)).map(target).collect())
}

fn target(report: MemberReport) -> TargetEntry {
    TargetEntry {
        trunk: report.trunk,
        member: report.member,
        next_hop: report.next_hop,
        state: report.state.as_str().to_owned(),
        priority: report.priority,
        weight: report.weight,
        tags: report.tags.into_iter().collect(),
        calls: report.calls,
        max_calls: report.max_calls,
        pinged: report.is_probed,
        failures: report.failures,
        latency_ms: report.latency.map(|latency| latency.as_micros() as f64 / 1000.0),
    }
}

fn stats(means: &Means) -> Value {
    let total = means.published.summary();
    let counters: serde_json::Map<String, Value> =
        total.proxy.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    json!({
        "calls": total.calls,
        "unanswered": total.unanswered,
        "transactions": total.live,
        "draining": means.published.is_draining(),
        "worker_restarts": total.restarts,
        "counters": counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_call_id_that_is_shown_can_be_given_back() {
        let all: Vec<u8> = (0..=255).collect();
        for call_id in
            [&all[..], b"a'b\"c\\d`$e@host", b"\\x41", b"\\", b"\\x4", b"\xff\x00 \r\n", "\u{202e}".as_bytes()]
        {
            let shown = shown_call_id(call_id);
            assert!(shown.bytes().all(|octet| octet.is_ascii_graphic()), "{shown}");
            assert_eq!(meant_call_id(&shown), call_id, "{shown}");
        }
        assert_eq!(shown_call_id(b"a'b\"c%d@host"), "a'b\"c%d@host", "nothing that is legal but for the backslash");
        assert_eq!(meant_call_id("a\\b\\xg1"), b"a\\b\\xg1", "as it stands");
    }

    #[test]
    fn the_log_does_not_get_the_number_that_was_asked_for() {
        let request = Request::CallsList { trunk: None, number: Some("+1-215-555-1212".into()), state: None, limit: 1 };
        let logged = format!("{:?}", request.for_log());
        assert!(logged.contains("+1-215-555-xxxx") && !logged.contains("1212"), "{logged}");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_gives_its_place_to_others() {
        let means = Means {
            workers: Vec::new(),
            orders: tokio::sync::watch::channel(crate::node::worker::Orders::new(Arc::new(crate::proxy::Snapshot {
                config: crate::proxy::Config::default(),
                trust: crate::cert::TrustStore::default(),
                replay: crate::stir::replay::ReplayTable::default(),
            })))
            .0,
            published: Arc::default(),
            names: crate::node::names::TrunkNames::default(),
            program: tokio::sync::mpsc::channel(1).0,
            fetch: tokio::sync::mpsc::channel(1).0,
        };
        let (mut client, served) = UnixStream::pair().unwrap();
        // Without patience: what can not be written at once is not waited for.
        let talk = tokio::spawn(async move { converse(served, &means, Duration::ZERO).await });
        // It asks for as long as anybody listens, and never reads.
        while client.write_all(b"{\"command\":\"stats\"}\n").await.is_ok() {}
        assert_eq!(talk.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}
