//! A hardware module that hangs: the calls that need it go on without a signature when their time is over, all others notice nothing, nothing
//! grows, a reload says what is wrong, and the program ends when it is told to.
#![allow(clippy::disallowed_methods, reason = "a test from outside has clocks of its own")]

mod support_module;
mod support_program;

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support_module::{hanging_module, in_module, lab, module, token, verified, write_credential};
use support_program::{PATIENCE, Program, socket};
use tempfile::TempDir;
use vesperd::pki::lab::Lab;

const THREADS: usize = 2;
const QUEUE: usize = 3;
/// How long a call waits.
const NEED: Duration = Duration::from_millis(2000);
/// How much later than it has to something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Three signers with the same certificate, and the calls that each of them signs: by the key in the module that hangs, by the key in one
/// that does not, by a key in memory.
const KINDS: [&str; 3] = ["hangs", "healthy", "memory"];

struct World {
    directory: TempDir,
    lab: Lab,
    _lab: TempDir,
    gateways: [UdpSocket; 3],
    caller: UdpSocket,
    environment: [(&'static str, String); 3],
}

impl World {
    fn new() -> Self {
        let ((_lab, lab), directory) = (lab(), TempDir::new().unwrap());
        write_credential(directory.path(), "sp", &lab.provider);
        let conf = token(directory.path(), &lab.provider);
        let hang = directory.path().join("hang").display().to_string();
        let environment = [("SOFTHSM2_CONF", conf), ("HANG_BEHIND", module()), ("HANG_WHILE", hang)];
        let world =
            Self { directory, lab, _lab, gateways: [socket(), socket(), socket()], caller: socket(), environment };
        fs::write(world.path().join("edge.toml"), world.configuration()).unwrap();
        world
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// While this file is there, the module hangs.
    fn hang(&self) -> PathBuf {
        self.path().join("hang")
    }

    fn configuration(&self) -> String {
        let need = NEED.as_millis();
        let mut text = format!(
            "[node]\nworkers = 2\nhttp = \"127.0.0.1:0\"\ndrain_timeout_seconds = 1\n[timers]\nneed_timeout_ms = {need}\n\
             [stir.hsm]\nthreads = {THREADS}\nqueue = {QUEUE}\ncheck_timeout_ms = 1000\n\
             [[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n[[trunk]]\nname = \"all\"\npeers = \"127.0.0.0/8\"\n"
        );
        let keys = [
            in_module(&hanging_module(self.path()), "sti"),
            in_module(&module(), "sti"),
            "key = \"sp-key.pem\"".to_owned(),
        ];
        for (number, (kind, key)) in KINDS.iter().zip(keys).enumerate() {
            let (gateway, x5u) = (self.gateways[number].local_addr().unwrap(), &self.lab.provider.x5u);
            text += &format!(
                "[[trunk]]\nname = \"{kind}\"\nnext_hop = \"udp:{gateway}\"\nudp_oversize = \"udp\"\nsign = \"{kind}\"\n\
                 [[route]]\nprefix = \"+1202555{number}\"\nto = \"{kind}\"\n\
                 [[signer]]\nname = \"{kind}\"\ncertificate = \"sp.pem\"\nx5u = \"{x5u}\"\nattest = \"A\"\n{key}\n"
            );
        }
        text
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Makes so many calls of a kind; what the gateway got of each, and how long it took.
    fn call(&self, program: &Program, kind: usize, name: &str, count: usize) -> Vec<(String, Duration)> {
        let began = Instant::now();
        for call in 0..count {
            self.caller.send_to(self.invite(kind, &format!("{name}-{call}")).as_bytes(), program.sip).unwrap();
        }
        self.copies(kind, name, count, began)
    }

    fn invite(&self, kind: usize, call: &str) -> String {
        let via = self.caller.local_addr().unwrap();
        format!(
            "INVITE sip:+1202555{kind}113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK-{call}-{kind}\r\n\
             From: <sip:+12155550112@192.0.2.8>;tag=a\r\nTo: <sip:+1202555{kind}113@192.0.2.9>\r\nCall-ID: {call}-{kind}@test\r\n\
             CSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:{via}>\r\nContent-Length: 0\r\n\r\n"
        )
    }

    /// The first copy of each call with this name. Repetitions, and copies of calls before, are passed over.
    fn copies(&self, kind: usize, name: &str, count: usize, began: Instant) -> Vec<(String, Duration)> {
        let (mut seen, mut buffer) = (BTreeMap::new(), [0; 8192]);
        while seen.len() < count {
            let (length, _) = self.gateways[kind]
                .recv_from(&mut buffer)
                .unwrap_or_else(|e| panic!("{name} {kind}: {} of {count} copies: {e}", seen.len()));
            let copy = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let id = copy.split("Call-ID: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
            if id.starts_with(&format!("{name}-")) {
                seen.entry(id).or_insert_with(|| (copy, began.elapsed()));
            }
        }
        seen.into_values().collect()
    }

    fn is_signed(&self, copy: &str) -> bool {
        verified(copy, &self.lab.provider.chain[0]).is_some()
    }
}

fn value(program: &Program, name: &str) -> f64 {
    let page = program.get("/metrics");
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

#[test]
fn calls_that_need_it_go_on_in_time_and_the_others_do_not_notice() {
    const CALLS: usize = 20;
    let world = World::new();
    let mut program = Program::run(world.path(), &world.environment());
    for (kind, name) in KINDS.iter().enumerate() {
        assert!(world.is_signed(&world.call(&program, kind, "before", 1)[0].0), "{name}");
    }

    fs::write(world.hang(), "").unwrap();
    let began = Instant::now();
    for call in 0..CALLS {
        world.caller.send_to(world.invite(0, &format!("during-{call}")).as_bytes(), program.sip).unwrap();
    }
    // Meanwhile: another module's key and one in memory.
    for kind in [1, 2] {
        for call in 0..CALLS {
            let (copy, took) = world.call(&program, kind, &format!("during{call}"), 1).remove(0);
            assert!(world.is_signed(&copy) && took < NEED, "{}: {took:?}\n{copy}", KINDS[kind]);
        }
    }
    // So many are in the module or wait for it until their time is over; the others go on at once.
    let copies = world.copies(0, "during", CALLS, began);
    assert!(copies.iter().all(|(copy, took)| !copy.contains("\r\nIdentity: ") && *took < NEED + SLACK), "{copies:#?}");
    let waited = copies.iter().filter(|(_, took)| *took >= NEED - Duration::from_millis(100)).count();
    // Fewer than there is room for only if the threads were slow to take theirs out of the queue.
    assert!((QUEUE..=THREADS + QUEUE).contains(&waited), "{waited}");
    let full = "vesperd_queue_drops_total{queue=\"signer\"}";
    assert_eq!(value(&program, full), (CALLS - waited) as f64, "the queue is bounded");

    // A reload is refused and says why, and nothing has changed.
    program.signal("HUP");
    program.expect("the module does not answer in time");
    assert!(world.is_signed(&world.call(&program, 1, "reload", 1)[0].0));
    assert!(world.is_signed(&world.call(&program, 2, "reload", 1)[0].0));

    // It comes back: what waited in the queue is thrown away, new calls are signed.
    fs::remove_file(world.hang()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let late = "vesperd_module_signatures_total{result=\"late\"}";
    while value(&program, late) < (waited - THREADS) as f64 {
        assert!(Instant::now() < deadline, "they stay in the queue");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    for (copy, _) in world.call(&program, 0, "after", 3) {
        assert!(world.is_signed(&copy));
    }

    // It hangs again, and the program is told to end.
    fs::write(world.hang(), "").unwrap();
    for (copy, _) in world.call(&program, 0, "last", THREADS) {
        assert!(!copy.contains("\r\nIdentity: "));
    }
    let told = Instant::now();
    program.signal("TERM");
    assert!(program.end().success());
    assert!(told.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", told.elapsed());
}

#[test]
fn a_module_that_hangs_at_the_start_is_told_and_the_program_ends() {
    let world = World::new();
    fs::write(world.hang(), "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vesperd"));
    command.args(["run", "--config", "edge.toml"]).current_dir(world.path()).envs(world.environment());
    command.stdin(Stdio::null()).stderr(fs::File::create(world.path().join("log")).unwrap());
    let (mut child, began) = (command.spawn().unwrap(), Instant::now());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it waits for the module");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    };
    let log = fs::read_to_string(world.path().join("log")).unwrap();
    assert!(status.code() == Some(3) && log.contains("the module does not answer in time"), "{status}: {log}");
}
