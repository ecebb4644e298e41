//! Signers of a running program: tables from files, certificates that are replaced while it runs, keys in a hardware module (SoftHSM).
#![allow(clippy::disallowed_methods, reason = "a test from outside has clocks of its own")]

mod support_module;
mod support_program;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use support_module::{PIN, import, in_module, lab, module, pem, token, verified, write_credential};
use support_program::{Program, socket};
use tempfile::TempDir;
use vesperd::config::Config;
use vesperd::node::clock;
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::pki::lab::Lab;
use vesperd::proxy::signing::Exempt;

const SIGNER: &str = "key = \"sp-key.pem\"";

fn configuration(gateway: SocketAddr, key: &str, x5u: &str) -> String {
    format!(
        r#"
[node]
workers = 2
http = "127.0.0.1:0"
log_level = "trace"
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
udp_oversize = "udp"
sign = "sp"
[[route]]
to = "gateway"
[[signer]]
name = "sp"
certificate = "sp.pem"
x5u = "{x5u}"
attest = "A"
{key}
"#
    )
}

/// The number behind a name on the page.
fn value(program: &Program, name: &str) -> Option<f64> {
    program.get("/metrics").lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn invite(from: &UdpSocket, call: &str) -> String {
    let via = from.local_addr().unwrap();
    format!(
        "INVITE sip:+12155550113@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK-{call}\r\n\
         From: <sip:+12155550112@192.0.2.8>;tag=a\r\nTo: <sip:+12155550113@192.0.2.9>\r\nCall-ID: {call}@test\r\n\
         CSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:{via}>\r\nContent-Length: 0\r\n\r\n"
    )
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 8192];
    let (count, _) = socket.recv_from(&mut buffer).expect("a message comes");
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

#[test]
fn a_replaced_certificate_is_taken_over_once_it_is_whole_and_calls_go_on_meanwhile() {
    let ((_first, old), (_second, new)) = (lab(), lab());
    let directory = TempDir::new().unwrap();
    let (gateway, caller) = (socket(), socket());
    write_credential(directory.path(), "sp", &old.provider);
    let text = configuration(gateway.local_addr().unwrap(), SIGNER, &old.provider.x5u);
    fs::write(directory.path().join("edge.toml"), text).unwrap();
    let program = Program::run(directory.path(), &[]);
    let call = |name: &str| {
        caller.send_to(invite(&caller, name).as_bytes(), program.sip).unwrap();
        loop {
            let copy = receive(&gateway);
            if copy.starts_with("INVITE ") && copy.contains(&format!("Call-ID: {name}@test")) {
                return copy;
            }
        }
    };
    assert!(verified(&call("one"), &old.provider.chain[0]).is_some());
    let left = value(&program, "vesperd_signer_not_after_seconds{signer=\"sp\"}").unwrap();
    assert!((80_000.0..86_400.0).contains(&left), "{left}");

    // The configuration file, half written by somebody, is none of this.
    fs::write(directory.path().join("edge.toml"), "[[listener]]\nnam").unwrap();
    fs::write(directory.path().join("sp.pem"), pem(&new.provider.chain)).unwrap();
    program.expect("what was replaced is not whole");
    assert!(verified(&call("two"), &old.provider.chain[0]).is_some(), "the old one goes on");
    fs::write(directory.path().join("sp-key.pem"), new.provider.key.serialize_pem()).unwrap();
    program.expect("what was replaced is in force");
    assert!(verified(&call("three"), &new.provider.chain[0]).is_some());
}

#[test]
fn a_hardware_module_signs_every_call_and_its_pin_is_nowhere() {
    const CALLS: usize = 300;
    let (_lab, lab) = lab();
    let directory = TempDir::new().unwrap();
    let (gateway, caller) = (socket(), socket());
    write_credential(directory.path(), "sp", &lab.provider);
    fs::remove_file(directory.path().join("sp-key.pem")).unwrap();
    let conf = token(directory.path(), &lab.provider);
    let text = configuration(gateway.local_addr().unwrap(), &in_module(&module(), "sti"), &lab.provider.x5u);
    fs::write(directory.path().join("edge.toml"), text).unwrap();
    let program = Program::run(directory.path(), &[("SOFTHSM2_CONF", &conf)]);
    let mut signed = 0;
    for call in 0..CALLS {
        caller.send_to(invite(&caller, &format!("c{call}")).as_bytes(), program.sip).unwrap();
        if call % 20 == 19 {
            // Retransmissions of ours may come in between.
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 20 {
                let copy = receive(&gateway);
                let id = copy.split("Call-ID: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
                let number: usize = id[1..].split('@').next().unwrap().parse().unwrap();
                if number + 20 > call && seen.insert(number) {
                    let claims = verified(&copy, &lab.provider.chain[0]).expect("signed by the module");
                    assert_eq!(claims["attest"], "A");
                    signed += 1;
                }
            }
        }
    }
    assert_eq!(signed, CALLS);
    let name = "vesperd_signer_queue_wait_seconds";
    assert_eq!(value(&program, &format!("{name}_count")), Some(CALLS as f64));
    let below = |quantile: f64| {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&format!("{name}_bucket{{le=\""))?.split_once("\"} ")?;
            (count.parse::<f64>().unwrap() >= quantile * CALLS as f64).then(|| bound.to_owned())
        };
        program.get("/metrics").lines().find_map(bucket).unwrap()
    };
    eprintln!("{CALLS} calls: wait in the queue at most {} s (p50), {} s (p99)", below(0.5), below(0.99));
    assert_eq!(value(&program, "vesperd_module_signatures_total{result=\"signed\"}"), Some(CALLS as f64));
    assert!(!program.log().contains(PIN), "the PIN is in the log");
}

/// For networks that keep their SBC: `all` is served, and can be asked for over HTTP. Its signer's key is in the module.
fn serving(directory: &Path, lab: &Lab) -> String {
    write_credential(directory, "sp", &lab.provider);
    fs::remove_file(directory.join("sp-key.pem")).unwrap();
    let text = configuration("127.0.0.1:9".parse().unwrap(), &in_module(&module(), "sti"), &lab.provider.x5u);
    let served = "peers = \"127.0.0.0/8\"\nsign = \"sp\"\nservice = \"sign\"\n";
    let service = "[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"all\"\n";
    let text = text.replace("peers = \"127.0.0.0/8\"\n", served);
    fs::write(directory.join("edge.toml"), format!("{text}[timers]\nneed_timeout_ms = 1000\n{service}")).unwrap();
    token(directory, &lab.provider)
}

/// The whole response to a signing request.
fn asked(address: SocketAddr) -> String {
    let body = r#"{"signingRequest": {"attest": "A", "orig": {"tn": "12155550112"}, "dest": {"tn": ["12155550113"]}}}"#;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support_program::PATIENCE)).unwrap();
    let head = "POST /stir/v1/signing HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_hardware_module_signs_what_is_asked_by_redirect_and_over_http() {
    let ((_lab, lab), directory, caller) = (self::lab(), TempDir::new().unwrap(), socket());
    let conf = serving(directory.path(), &lab);
    let program = Program::run(directory.path(), &[("SOFTHSM2_CONF", &conf)]);
    let service = program.address("STIR service");
    for n in 0..20 {
        let name = format!("r{n}");
        caller.send_to(invite(&caller, &name).as_bytes(), program.sip).unwrap();
        let redirect = loop {
            let response = receive(&caller);
            if response.contains(&format!("Call-ID: {name}@test")) && !response.starts_with("SIP/2.0 100") {
                break response;
            }
        };
        assert!(redirect.starts_with("SIP/2.0 302 "), "{redirect}");
        assert_eq!(verified(&redirect, &lab.provider.chain[0]).expect("signed by the module")["attest"], "A");
        let answer = asked(service);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let identity = answer.split("\"identity\":\"").nth(1).unwrap();
        let claims = verified(&format!("Identity: {identity}"), &lab.provider.chain[0]).expect("signed by the module");
        assert_eq!((&claims["orig"]["tn"], &claims["dest"]["tn"][0]), (&"12155550112".into(), &"12155550113".into()));
    }
    assert_eq!(value(&program, "vesperd_module_signatures_total{result=\"signed\"}"), Some(40.0));
}

#[test]
fn a_module_that_has_lost_its_token_is_503_by_redirect_and_over_http() {
    let ((_lab, lab), directory, caller) = (self::lab(), TempDir::new().unwrap(), socket());
    let conf = serving(directory.path(), &lab);
    let program = Program::run(directory.path(), &[("SOFTHSM2_CONF", &conf)]);
    let service = program.address("STIR service");
    // Before any thread has a session: what there is of the token goes, and with it the key.
    fs::remove_dir_all(directory.path().join("tokens")).unwrap();
    caller.send_to(invite(&caller, "gone").as_bytes(), program.sip).unwrap();
    let answer = loop {
        let response = receive(&caller);
        if !response.starts_with("SIP/2.0 100") {
            break response;
        }
    };
    assert!(answer.starts_with("SIP/2.0 503 Service Unavailable"), "{answer}");
    let answer = asked(service);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("POL5030"), "{answer}");
}

/// Another process gives the key of a token another label.
fn rename_key(conf: &str) {
    let mut this = Command::new(std::env::current_exe().unwrap());
    let output = this.args(["--exact", "renames_the_key"]).env("SOFTHSM2_CONF", conf).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Without a token to work on it makes one, and is run again.
#[test]
fn renames_the_key() {
    if std::env::var_os("SOFTHSM2_CONF").is_none() {
        let ((_lab, lab), directory) = (lab(), TempDir::new().unwrap());
        return rename_key(&token(directory.path(), &lab.provider));
    }
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
    use cryptoki::object::Attribute;
    let library = Pkcs11::new(module()).unwrap();
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = library.get_slots_with_initialized_token().unwrap()[0];
    let session = library.open_rw_session(slot).unwrap();
    session.login(cryptoki::session::UserType::User, Some(&cryptoki::types::AuthPin::new(PIN.into()))).unwrap();
    let keys = session.find_objects(&[Attribute::Label(b"sti".to_vec())]).unwrap();
    assert!(!keys.is_empty());
    keys.into_iter().for_each(|key| session.update_attributes(key, &[Attribute::Label(b"old".to_vec())]).unwrap());
}

/// The old key is still in the token, and threads have it open.
#[test]
fn a_key_that_was_replaced_under_its_label_signs_after_the_reload() {
    let ((_first, old), (_second, new)) = (lab(), lab());
    let directory = TempDir::new().unwrap();
    let (gateway, caller) = (socket(), socket());
    write_credential(directory.path(), "sp", &old.provider);
    let conf = token(directory.path(), &old.provider);
    let text = configuration(gateway.local_addr().unwrap(), &in_module(&module(), "sti"), &old.provider.x5u);
    fs::write(directory.path().join("edge.toml"), format!("{text}[stir.hsm]\nthreads = 1\n")).unwrap();
    let program = Program::run(directory.path(), &[("SOFTHSM2_CONF", &conf)]);
    let call = |name: &str| {
        caller.send_to(invite(&caller, name).as_bytes(), program.sip).unwrap();
        loop {
            let copy = receive(&gateway);
            if copy.starts_with("INVITE ") && copy.contains(&format!("Call-ID: {name}@test")) {
                return copy;
            }
        }
    };
    assert!(verified(&call("one"), &old.provider.chain[0]).is_some());

    rename_key(&conf);
    import(directory.path(), &new.provider);
    fs::write(directory.path().join("sp.pem"), pem(&new.provider.chain)).unwrap();
    program.expect("what was replaced is in force");
    assert!(verified(&call("two"), &new.provider.chain[0]).is_some(), "by the key that was checked");
}

#[test]
fn a_key_that_is_not_there_or_another_s_is_refused_at_the_start() {
    let ((_lab, lab), (_other, other)) = (lab(), lab());
    let directory = TempDir::new().unwrap();
    write_credential(directory.path(), "sp", &lab.provider);
    let conf = token(directory.path(), &other.provider);
    for (label, why) in [("nobody", "no private EC key"), ("sti", "not that of the signer's certificate")] {
        let text = configuration("127.0.0.1:9".parse().unwrap(), &in_module(&module(), label), &lab.provider.x5u);
        fs::write(directory.path().join("edge.toml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_vesperd"))
            .args(["run", "--config", "edge.toml"])
            .current_dir(directory.path())
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains(why) && !said.contains(PIN), "{said}");
    }
}

struct Desk {
    directory: TempDir,
    lab: Lab,
    _lab: TempDir,
}

impl Desk {
    fn new() -> Self {
        let (_lab, lab) = lab();
        let directory = TempDir::new().unwrap();
        write_credential(directory.path(), "sp", &lab.provider);
        Self { directory, lab, _lab }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn load(&self, trunk: &str, more: &str) -> Result<Config, Vec<String>> {
        let text = configuration("192.0.2.1:5060".parse().unwrap(), SIGNER, &self.lab.provider.x5u);
        let text = text.replace("sign = \"sp\"", trunk);
        let path = self.directory.path().join("edge.toml");
        Config::parse(&format!("{text}{more}"), &path, clock::unix()).map_err(|mistakes| {
            let place = self.directory.path().display().to_string() + "/";
            mistakes.to_string().replace(&place, "").lines().map(str::to_owned).collect()
        })
    }
}

#[test]
fn an_expired_leaf_that_is_in_force_does_not_keep_others_from_being_renewed() {
    let desk = Desk::new();
    let text = configuration("192.0.2.1:5060".parse().unwrap(), SIGNER, &desk.lab.provider.x5u);
    let (path, later) = (desk.directory.path().join("edge.toml"), clock::unix() + 30 * 86_400);
    let leaf = desk.lab.provider.chain[0].clone();
    let read = |in_force: &[Vec<u8>]| {
        Config::parse_again(&text, &path, &vesperd::config::Environment::default(), later, in_force)
    };
    assert!(read(&[]).err().unwrap().to_string().contains("expired"));
    assert!(read(&[desk.lab.acme.sti.chain[0].clone()]).is_err(), "another's");
    let config = read(&[leaf]).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.to_string().contains("its signer signs no more")));
}

const TABLE: &str = "[[signing_table]]\nname = \"numbers\"\nfile = \"numbers.csv\"\n";

#[test]
fn a_table_of_numbers_is_read() {
    let desk = Desk::new();
    desk.write("p.json", "{\"nam\": \"Acme\", \"crn\": \"Hello\"}");
    desk.write("numbers.csv", "number,signer,attest,rcd\n+4930123456,sp,B,\n+4930*,sp,,acme\n4940000-4940999,-,,\n");
    let profile = "[[rcd_profile]]\nname = \"acme\"\nfile = \"p.json\"\n";
    let trunk = "signing_table = \"numbers\"\nsign_attest = \"C\"\nsign = \"sp\"\ndivert = true\nunsigned_to = [\"emergency\", \"+883\"]\n\
                 sign_priority = \"ets\"\nsign_messages = true\n";
    let headers = "[stir.headers]\nbypass = \"X-Leave\"\nattestation = \"X-Attest\"\norigination = \"X-Origin\"\n[stir.hsm]\nthreads = 2\nqueue = 10\n";
    let config =
        desk.load(trunk, &format!("{TABLE}{profile}{headers}")).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let proxy = &config.proxy;
    let table = &proxy.signing_tables[0];
    let found = |number: &str| table.find(number).map(|row| (row.signer, row.attestation, row.rich.is_some()));
    assert_eq!(found("4930123456"), Some((Some(0), Some(Attestation::Partial), false)));
    assert_eq!(found("49309"), Some((Some(0), None, true)));
    assert_eq!(found("4940500"), Some((None, None, false)));
    assert_eq!((found("1"), table.len()), (None, 3));
    let signing = &proxy.trunks[1].signing;
    assert_eq!((signing.table, signing.attestation, signing.divert), (Some(0), Some(Attestation::Gateway), true));
    assert_eq!(signing.exempt, [Exempt::Emergency, Exempt::Prefix("883".into())]);
    assert_eq!((&signing.priorities[..], signing.messages), (&["ets".to_owned()][..], true));
    assert_eq!(proxy.identity_headers.bypass, "X-Leave");
    assert_eq!((config.keys.threads, config.keys.queue, config.watched.len()), (2, 10, 2));
}

#[test]
fn mistakes_of_tables_and_trunks_name_their_line_and_remedy() {
    let desk = Desk::new();
    let with = |csv: &str| {
        desk.write("numbers.csv", csv);
        desk.load("signing_table = \"numbers\"", TABLE).err().unwrap_or_default()
    };
    let ends = |mistakes: Vec<String>, wanted: &[&str]| {
        assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
        for (mistake, wanted) in mistakes.iter().zip(wanted) {
            assert!(mistake.contains(wanted), "{mistake} has not {wanted}");
        }
    };
    ends(
        with("number,signer,attest\n4x,sp,A\n49,nobody,A\n49,,A\n49,sp,D\n49,sp,A,more\n"),
        &[
            "numbers.csv:2: \"4x\" names no numbers",
            "numbers.csv:3: there is no signer \"nobody\"",
            "numbers.csv:4: no signer",
            "numbers.csv:5: attest \"D\" is none of A, B, C",
            "numbers.csv:6: 4 cells under 3 columns",
        ],
    );
    ends(with("number,signer\n10-50,sp\n40-60,sp\n"), &["numbers.csv:3: the range overlaps that of line 2"]);
    ends(with("number,signer\n49*,sp\n+49*,sp\n"), &["numbers.csv:3: the numbers stand on line 2 already"]);
    ends(with("49,sp\n"), &["numbers.csv:1: unknown column \"49\""]);
    let trunk = |keys: &str| desk.load(keys, "").err().unwrap_or_default();
    ends(trunk("divert = true"), &["nobody signs requests to this trunk; add sign or signing_table, or remove it"]);
    for signs in ["sign = \"sp\"", "sign = \"sp\"\nservice = \"sign\""] {
        let mistakes = trunk(&format!("{signs}\nidentity = \"remove\""));
        ends(mistakes.clone(), &["requests to this trunk would be signed, and lose the token again; remove identity"]);
        assert!(
            mistakes[0].starts_with("edge.toml:") && mistakes[0].contains("trunk \"gateway\".identity"),
            "S-6 {mistakes:?}"
        );
    }
    let connected = desk.load("identity = \"remove\"\n[trunk.connected]\nsign = \"sp\"", "").err().unwrap_or_default();
    ends(connected, &["connected identity needs tokens in both directions; remove identity"]);
    assert!(desk.load("identity = \"remove\"", "").unwrap().proxy.trunks[1].headers.withholds_tokens);
    ends(trunk("sign = \"sp\"\nunsigned_to = \"international\""), &["give country_code in [stir.dial_plan]"]);
    ends(trunk("sign = \"sp\"\nunsigned_to = \"abroad\""), &["\"abroad\" can not be read"]);
    ends(trunk("sign = \"sp\"\nsign_priority = \"ets.1\""), &["\"ets.1\" can not be read"]);
    desk.write("p.toml", "icn = \"https://a.example/logo.png\"\n");
    let profile = "[[rcd_profile]]\nname = \"acme\"\nfile = \"p.toml\"\n";
    let load = || desk.load("sign = \"sp\"", profile);
    ends(load().err().unwrap_or_default(), &["icn refers to content without digest"]);
    desk.write("logo.png", "a picture");
    desk.write("p.toml", "icn = \"https://a.example/logo.png\"\ncontent = { \"/icn\" = \"logo.png\" }\n");
    assert!(load().is_ok(), "C-5: the digest is computed");
    desk.write("p.toml", "nam = \"A\"\nname = \"B\"\n");
    ends(load().err().unwrap_or_default(), &["`name` is no claim"]);
    ends(
        desk.load("sign = \"sp\"", &format!("{profile}issuer = \"Directory\"\n")).err().unwrap_or_default(),
        &["`name` is no claim", "somebody else speaks with a certificate of his own"],
    );
}
