//! One case from start to verdict.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vesperd::pki::lab::Lab;

use super::baresip;
use super::case::{Case, Side, Transport};
use super::certificates;
use super::certsrv;
use super::judge::{Traces, judge};
use super::kamailio::Kamailio;
use super::passport;
use super::place::{Place, free_port};
use super::process::poll;
use super::proxy::Proxy;
use super::raw::Raw;
use super::records;
use super::sipp::Running;

/// What stands around the parties of a case.
pub struct Scene {
    pub place: Place,
    pub lab: Option<Lab>,
    directory: TempDir,
}

impl Scene {
    fn new(case: &Case) -> Self {
        let directory = TempDir::with_prefix("vesperd-sipp-").expect("a temporary directory");
        let mut place = Place::new();
        let is_callee = |side| side == Side::Callee;
        let of_sipp = case.sipp.iter().filter(|s| is_callee(s.side)).map(|s| s.transport);
        let of_sockets = case.socket.iter().filter(|s| is_callee(s.side)).map(|s| s.transport);
        let transport = of_sipp.chain(of_sockets).next().flatten().unwrap_or(case.transport);
        place.set("callee_transport", if transport == Transport::Udp { "udp" } else { "tcp" });
        let lab = (case.credentials || !case.calls.is_empty()).then(|| passport::make_lab(directory.path()));
        if let Some(lab) = &lab {
            place.set("provider_x5u", &lab.provider.x5u);
            place.set("acme_x5u", &lab.acme.sti.x5u);
            let ca_file = directory.path().join("web-ca.pem");
            let server = certsrv::start(place.server, lab.provider.chain_pem(), &ca_file);
            place.set("served_x5u", format!("https://{server}/good.pem"));
            let csv = passport::calls_csv(&case.calls, lab, server, &mut place);
            std::fs::write(directory.path().join("calls.csv"), csv).unwrap();
        }
        for (name, text) in &case.files {
            std::fs::write(directory.path().join(name), place.fill(text)).unwrap();
        }
        if case.kamailio.iter().any(|spec| spec.listen.iter().any(|address| address.starts_with("tls:"))) {
            certificates::issue(&mut place, directory.path());
        }
        let mut sides = HashSet::new();
        for socket in &case.socket {
            let (ip, own) = match socket.side {
                Side::Caller => (place.caller, "caller_port"),
                Side::Callee => (place.callee, "callee_port"),
            };
            // The first socket of a side has the side's own port.
            let is_first = sides.insert(own);
            let port = if is_first { place.port(own) } else { free_port(ip) };
            place.set(&format!("{}_port", socket.name), port);
        }
        place.set("caller_number", passport::CALLER);
        place.set("called_number", place.get("number").trim_start_matches('+').to_owned());
        Scene { place, lab, directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Runs a case against the proxy. Panics with all findings if there are any.
pub fn run(id: &str) {
    let case = Case::read(id);
    let scene = Scene::new(&case);
    let proxy = Proxy::start(&case.config, &scene.place, scene.path());
    let deadline = Instant::now() + Duration::from_secs(case.time_limit);
    let mut findings = Vec::new();

    let kamailios: Vec<_> =
        case.kamailio.iter().map(|spec| Kamailio::start(spec, &scene.place, scene.path())).collect();
    let mut sockets = Vec::new();
    for socket in &case.socket {
        sockets.push((socket.name.as_str(), Raw::open(socket, case.transport, &scene.place)));
    }
    let target = (scene.place.proxy, scene.place.port("a"));
    let (mut callees, mut callers) = start_sipp(&case, &scene, target, deadline);
    for step in &case.step {
        let (_, raw) = sockets.iter_mut().find(|(name, _)| *name == step.at).expect("a step at a known socket");
        if let Err(finding) = raw.step(step, &scene) {
            findings.push(finding);
            break;
        }
    }
    findings.extend(callers.iter_mut().filter_map(|caller| caller.wait(deadline)));
    findings.extend(baresip::call(&case.baresip, &scene.place, scene.path(), deadline));
    callees.iter_mut().for_each(Running::finish);
    findings.extend(callees.iter_mut().filter_map(|callee| callee.wait(deadline)));
    findings.extend(kamailios.into_iter().filter_map(|kamailio| kamailio.stop(deadline)));

    let mut traces: Traces = callers.iter().chain(&callees).map(|s| (s.spec.name.clone(), s.trace())).collect();
    traces.extend(sockets.into_iter().map(|(name, raw)| (name.to_owned(), raw.trace)));
    findings.extend(judge(&case.expect, &traces, &scene));
    if let Some(millis) = case.settle_ms {
        // Nothing to wait for but time: no transaction may be left when its timers are over.
        let until = Instant::now() + Duration::from_millis(millis);
        poll(until, || false);
    }
    if std::env::var_os("VESPERD_LONG").is_some() {
        findings.extend(leak(&case, scene.path()));
    }
    let (log, complaints) = proxy.stop();
    findings.extend(complaints);
    findings.extend(records::check(&case, &scene.path().join("calls.jsonl"), &traces));
    let wanted =
        case.log.iter().map(|text| scene.place.fill(text)).chain(case.settle_ms.map(|_| " live=0 ".to_owned()));
    findings
        .extend(wanted.filter(|text| !log.contains(text)).map(|text| format!("the log of the proxy lacks {text:?}")));
    assert!(findings.is_empty(), "{}", report(&case, &findings, &traces, &log));
}

/// Whether a transaction is left when all of their timers are over (sipp-conformance 1.3).
fn leak(case: &Case, directory: &Path) -> Option<String> {
    let t1 = case.config.get("timers").and_then(|timers| timers.get("t1_ms")).and_then(toml::Value::as_integer);
    let lifetime = Duration::from_millis(64 * t1.unwrap_or(100) as u64);
    let mut left = String::new();
    let is_settled = poll(Instant::now() + lifetime + Duration::from_secs(3), || {
        let mut stream = UnixStream::connect(directory.join("admin.sock")).expect("the proxy has a socket");
        stream.write_all(b"{\"command\":\"stats\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        left = answer["result"]["transactions"].to_string();
        left == "0"
    });
    (!is_settled).then(|| format!("{left} transactions are left when all timers are over"))
}

/// Runs the scripts of all cases that allow it against each other: what fails here is no fault of the proxy.
pub fn run_all_direct(ids: &[&str]) {
    let cases: Vec<_> = ids.iter().map(|id| Case::read(id)).filter(|case| case.direct).collect();
    std::thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| run_direct(case));
        }
    });
}

fn run_direct(case: &Case) {
    let scene = Scene::new(case);
    let deadline = Instant::now() + Duration::from_secs(case.time_limit);
    let target = (scene.place.callee, scene.place.port("callee_port"));
    let (mut callees, mut callers) = start_sipp(case, &scene, target, deadline);
    let mut findings: Vec<_> = callers.iter_mut().filter_map(|caller| caller.wait(deadline)).collect();
    callees.iter_mut().for_each(Running::finish);
    findings.extend(callees.iter_mut().filter_map(|callee| callee.wait(deadline)));
    assert!(findings.is_empty(), "{}: {} (without a proxy)\n{}", case.id, case.purpose, findings.join("\n"));
}

/// Starts the callees, then the callers.
fn start_sipp<'a>(
    case: &'a Case,
    scene: &Scene,
    target: (std::net::IpAddr, u16),
    deadline: Instant,
) -> (Vec<Running<'a>>, Vec<Running<'a>>) {
    let start = |side| {
        let mut started: Vec<Running<'_>> = Vec::new();
        for spec in case.sipp.iter().filter(|spec| spec.side == side) {
            if let Some(first) = started.iter_mut().find(|s| Some(&s.spec.name) == spec.after.as_ref()) {
                first.wait(deadline); // how it ended is judged later
            }
            let limit = deadline.saturating_duration_since(Instant::now());
            started.push(Running::start(spec, case.transport, target, &scene.place, scene.path(), limit));
        }
        started
    };
    let callees = start(Side::Callee);
    (callees, start(Side::Caller))
}

fn report(case: &Case, findings: &[String], traces: &Traces, log: &str) -> String {
    let mut text = format!("{}: {}\n", case.id, case.purpose);
    for finding in findings {
        let _ = writeln!(text, "- {finding}");
    }
    for (name, trace) in traces {
        let _ = writeln!(text, "\n=== messages of {name}");
        for seen in trace {
            let direction = if seen.sent { "sent" } else { "received" };
            let _ = writeln!(text, "--- {direction} at {:?}\n{}", seen.at, String::from_utf8_lossy(&seen.bytes));
        }
    }
    let _ = writeln!(text, "\n=== log of the proxy\n{log}");
    text
}
