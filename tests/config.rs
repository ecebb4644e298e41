//! The configuration: every mistake with its line and remedy, every example file loads and runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use tempfile::TempDir;
use vesperd::cert::{Log, LogList, LogState};
use vesperd::config::{Config, ConfigError, LogFormat, Warning};
use vesperd::node::{Edge, Observer, clock};
use vesperd::proxy::route::table::{Action, Condition, NumberPrefix};
use vesperd::proxy::{Codes, Forking, NextHop, Relay503, TrunkId, UdpOversize};
use vesperd::sip::hop::{ListenerId, Transport};
use vesperd::stir::{Check, IdentitySource, Mode, OnFailure, Profile};

/// A TNAuthList with the service provider code 1234, DER.
const TN_AUTH_LIST: &[u8] = &[0x30, 0x08, 0xa0, 0x06, 0x16, 0x04, b'1', b'2', b'3', b'4'];

/// A directory with the files that configurations of this test name.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: TempDir::new().unwrap() };
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, key()).unwrap();
        let leaf = |not_before, not_after, key: &KeyPair| {
            let mut leaf = CertificateParams::default();
            leaf.custom_extensions =
                vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 26], TN_AUTH_LIST.to_vec())];
            leaf.not_before = rcgen::date_time_ymd(not_before, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(not_after, 1, 1);
            leaf.signed_by(key, &root).unwrap().pem() + &root.pem()
        };
        let (own, other) = (key(), key());
        desk.write("sp-chain.pem", &leaf(2020, 4000, &own));
        desk.write("sp-key.pem", &own.serialize_pem());
        desk.write("other-key.pem", &other.serialize_pem());
        desk.write("plain.pem", &CertificateParams::default().self_signed(&own).unwrap().pem());
        desk.write("expired.pem", &leaf(2020, 2021, &own));
        desk.write("early.pem", &leaf(3000, 4000, &own));
        desk.write("lab-key.pem", &format!("# vesperd lab\n{}", own.serialize_pem()));
        desk.write("junk.pem", "junk");
        desk.write("anchors/root.pem", &root.pem());
        desk.write("anchors/README", "not a certificate, and not looked at");
        desk.write("empty/README", "nothing");
        let mut logs = LogList::new();
        let log = Log::new("log", &other.subject_public_key_info(), 86_400, LogState::Usable(0), None).unwrap();
        logs.add("operator", log).unwrap();
        desk.write("log-list.json", &logs.to_json());
        desk
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn load(&self, text: &str) -> Result<Config, ConfigError> {
        Config::load(&self.write("test.toml", text), clock::unix())
    }

    fn good(&self, text: &str) -> Config {
        self.load(text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The mistakes as `LINE: KEY: what`.
    fn mistakes(&self, text: &str) -> Vec<String> {
        match self.load(text) {
            Err(ConfigError::Mistakes(mistakes)) => {
                let file = format!("{}:", self.directory.path().join("test.toml").display());
                let directory = format!("{}/", self.directory.path().display());
                let lines = mistakes.to_string();
                lines.lines().map(|line| line.strip_prefix(&file).unwrap().replace(&directory, "")).collect()
            }
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// The least that is good: lines 1 to 8.
const LEAST: &str = r#"[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1:0"
[[trunk]]
name = "carrier"
peers = "192.0.2.0/24"
next_hop = "udp:192.0.2.1"
"#;

#[test]
fn the_least_is_filled_with_defaults() {
    let config = Desk::new().good(LEAST);
    let listener = &config.proxy.listeners[0];
    assert_eq!((listener.advertise_host.as_str(), listener.advertise_port), ("127.0.0.1", 0));
    let trunk = &config.proxy.trunks[0];
    assert_eq!(trunk.peers, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(
        trunk.next_hops,
        [NextHop { transport: Transport::Udp, remote: "192.0.2.1:5060".parse().unwrap() }.into()]
    );
    assert_eq!((trunk.listener, trunk.trusted, trunk.udp_oversize), (ListenerId(0), false, UdpOversize::Tcp));
    assert!(trunk.sign.is_none() && trunk.verify.is_none() && config.proxy.routes.is_empty());
    assert_eq!((config.node.workers, config.node.log, config.node.log_level.as_str()), (0, LogFormat::Text, "info"));
    assert_eq!(config.node.udp.buffer, 4 << 20);
    assert_eq!(config.proxy.timer_c, Duration::from_secs(185));
    assert!(!config.fetch.allow_private_addresses && !config.fetch.allow_any_port);
    assert_eq!(config.warnings, [Warning::UdpWithoutTcp { listener: "udp".into() }]);
}

#[test]
fn every_setting_reaches_its_place() {
    let config = Desk::new().good(
        r#"
[node]
workers = 3
log = "json"
log_level = "warn,vesperd::node=debug"
udp_buffer_bytes = 65536
log_verified_calls = true
[[listener]]
name = "udp"
transport = "udp"
bind = "0.0.0.0:5060"
advertise = "SBC.example.com:5070"
names = ["Edge.example.com", "192.0.2.7:5060", "2001:db8::7"]
[[listener]]
name = "tcp"
transport = "tcp"
bind = "[::1]:5060"
[[trunk]]
name = "a"
peers = ["2001:db8::7", "192.0.2.77/24"]
next_hop = ["tcp:[2001:db8::1]:5070", "udp:192.0.2.1"]
listener = "tcp"
trusted = true
udp_oversize = "reject"
sign = "sp"
[trunk.verify]
profile = "vesper"
on_failure = "continue"
require_identity = false
freshness_seconds = 30
sct = "report"
revocation = "enforce"
replay = "off"
identity_source = "asserted"
[[trunk]]
name = "b"
next_hop = "udp:192.0.2.2"
[[signer]]
name = "sp"
certificate = "sp-chain.pem"
key = "sp-key.pem"
x5u = "https://certificates.example.com/sp.pem"
attest = "A"
[[route]]
from = "a"
prefix = "1212"
to = "b"
[stir]
anchors = ["anchors", "anchors/root.pem"]
log_list = "log-list.json"
replay_entries = 1000
state_directory = "state"
list_refresh_minutes = 5
[stir.anchor_list]
location = "https://sti-pa.example/list"
key = "plain.pem"
grace_hours = 1
[stir.crl]
urls = "https://sti-pa.example/crl"
issuers = "anchors/root.pem"
refresh_minutes = 10
[stir.dial_plan]
country_code = "1"
[stir.fetch]
allow_any_port = true
total_timeout_ms = 1500
call_budget_ms = 250
breaker_failures = 5
prefetch_percent = 70
ca_file = "anchors/root.pem"
[timers]
t1_ms = 100
timer_c_seconds = 200
[limits]
fields = 100
max_connections_per_prefix = 7
"#,
    );
    assert_eq!((config.node.workers, config.node.log), (3, LogFormat::Json));
    assert_eq!((config.node.udp.buffer, config.proxy.observe), (65_536, true));
    assert_eq!(config.node.tcp.max_per_prefix, 7);
    let proxy = &config.proxy;
    let names: Vec<_> = proxy.listeners.iter().map(|l| (l.advertise_host.as_str(), l.advertise_port)).collect();
    assert_eq!(names, [("sbc.example.com", 5070), ("[::1]", 5060)]);
    let further: Vec<_> = proxy.listeners[0].names.iter().map(|(host, port)| (host.as_str(), *port)).collect();
    assert_eq!(further, [("edge.example.com", 5070), ("192.0.2.7", 5060), ("[2001:db8::7]", 5070)]);
    let trunk = &proxy.trunks[0];
    assert_eq!(trunk.peers, ["2001:db8::7/128".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]);
    assert_eq!(trunk.next_hops[0].address(), Some("[2001:db8::1]:5070".parse().unwrap()));
    assert_eq!((trunk.listener, trunk.trusted, trunk.udp_oversize), (ListenerId(1), true, UdpOversize::Reject));
    assert_eq!(proxy.trunks[1].listener, ListenerId(0), "the first of the next hop's transport");
    let policy = trunk.verify.as_ref().unwrap();
    assert_eq!((policy.profile, policy.on_failure, policy.freshness), (Profile::Vesper, OnFailure::Continue, 30));
    assert_eq!((policy.modes.get(Check::Sct), policy.modes.get(Check::Replay)), (Mode::Report, Mode::Off));
    assert_eq!((policy.modes.get(Check::Chain), policy.require_identity), (Mode::Enforce, false));
    assert_eq!(policy.identity_source, IdentitySource::AssertedThenFrom);
    assert_eq!((trunk.sign, proxy.signers.len()), (Some(0), 1));
    assert!(
        matches!(&proxy.routes[0].when[..], [Condition::Prefix(p)] if *p == [NumberPrefix::parse("1212").unwrap()])
    );
    assert_eq!(proxy.routes[0].from, [TrunkId(0)]);
    assert!(matches!(&proxy.routes[0].action, Action::To(to) if *to == [TrunkId(1)]));
    assert_eq!((config.trust.anchors.len(), config.trust.logs.len()), (1, 1));
    assert_eq!(config.replay.capacity, 1000);
    assert_eq!(proxy.verifier.dial_plan.country_code.as_deref(), Some("1"));
    assert!(config.fetch.allow_any_port && proxy.verifier.allow_any_port);
    assert_eq!(config.fetch.total_timeout, Duration::from_millis(1500));
    assert_eq!(proxy.certificate_timeout, Duration::from_millis(250));
    assert_eq!((config.fetch.breaker.failures, config.fetch.prefetch_percent), (5, 70));
    assert!(config.fetch.state_directory.as_ref().is_some_and(|path| path.ends_with("state")));
    let keeper = &config.fetch.keeper;
    assert_eq!(keeper.list_interval, Duration::from_secs(300));
    let list = keeper.anchors.as_ref().unwrap();
    assert_eq!(list.place, vesperd::node::fetch::Place::Url("https://sti-pa.example/list".to_owned()));
    assert_eq!(list.grace, Duration::from_secs(3600));
    assert_eq!((&keeper.crl_urls[..], keeper.crl_issuers.len()), (&["https://sti-pa.example/crl".to_owned()][..], 1));
    assert_eq!(keeper.crl_interval, Duration::from_secs(600));
    assert_eq!(policy.modes.get(Check::Revocation), Mode::Enforce);
    assert_eq!((proxy.transaction.t1, proxy.timer_c), (Duration::from_millis(100), Duration::from_secs(200)));
    assert_eq!(proxy.parser.fields, 100);
}

#[test]
fn all_mistakes_come_at_once_in_order_of_lines() {
    let mistakes = Desk::new().mistakes(
        r#"[node]
worker = 2
log = "xml"
[[listener]]
name = "udp"
transport = "udp"
bind = "127.0.0.1"
[[trunk]]
name = "carrier"
peer = "192.0.2.0/24"
trusted = "yes"
[[route]]
from = "carier"
[limits]
fields = 5
[timer]
"#,
    );
    assert_eq!(
        mistakes,
        [
            "2: node.worker: unknown key; did you mean `workers`?",
            "3: node.log: \"xml\" is none of \"text\", \"json\"",
            "7: listener \"udp\".bind: \"127.0.0.1\" can not be read; give \"ip:port\", such as \"192.0.2.1:5060\" or \
             \"[2001:db8::1]:5060\"",
            "8: trunk \"carrier\": has neither peers nor next_hop, tls nor digest, so nothing can come from it or go to it; add \
             peers, next_hop, [trunk.tls] or [trunk.digest]",
            "10: trunk \"carrier\".peer: unknown key; did you mean `peers`?",
            "11: trunk \"carrier\".trusted: is a string; give true or false",
            "12: route.to: missing; give the name of a [[trunk]]",
            "13: route.from: there is no trunk \"carier\"; there is \"carrier\"",
            "15: limits.fields: out of range; give a whole number from 16 to 10000",
            "16: timer: unknown key; did you mean `timers`?",
        ]
    );
}

#[test]
fn each_kind_of_mistake_names_its_line_and_its_remedy() {
    let desk = Desk::new();
    let signer =
        |rest: &str| format!("{LEAST}sign = \"sp\"\n[[signer]]\nname = \"sp\"\nx5u = \"https://a.example/c\"\n{rest}");
    let cases = [
        (
            format!("{LEAST}[[trunk]]\nname = \"in\"\npeers = \"192.0.2.99\"\n[[route]]\nto = \"in\"\n"),
            "13: route.to: the trunk has no next_hop, so nothing can go to it; give it one, or name another trunk",
        ),
        (
            format!("{LEAST}[[route]]\nfrom = []\nto = \"carrier\"\n"),
            "10: route.from: the list is empty; name what it is for",
        ),
        ("[node]\nworkers = 2x\n".to_owned(), "2: "),
        (String::new(), "1: listener: missing; give at least one [[listener]]"),
        (LEAST.replace("127.0.0.1:0", "0.0.0.0:5060"), "4: listener \"udp\".bind: others need a name"),
        (LEAST.replace("bind = \"127.0.0.1:0\"", ""), "1: listener \"udp\".bind: missing; give \"ip:port\""),
        (
            LEAST.replace("[[trunk]]", "names = [\"a\", \"b_\"]\n[[trunk]]"),
            "5: listener \"udp\".names: \"b_\" can not be read",
        ),
        (
            LEAST.replace("[[trunk]]", "advertise = \"a b\"\n[[trunk]]"),
            "5: listener \"udp\".advertise: \"a b\" can not be read",
        ),
        (LEAST.replace("192.0.2.0/24", "192.0.2.0/33"), "7: trunk \"carrier\".peers: \"192.0.2.0/33\" can not be read"),
        (
            LEAST.replace("udp:192.0.2.1", "sip.example.com"),
            "8: trunk \"carrier\".next_hop: \"sip.example.com\" can not be read",
        ),
        (
            LEAST.replace("udp:192.0.2.1", "tcp:192.0.2.1"),
            "8: trunk \"carrier\".next_hop: there is no listener of this transport",
        ),
        (
            LEAST.replace("udp:192.0.2.1", "udp:[2001:db8::1]"),
            "8: trunk \"carrier\".next_hop: there is no listener of this transport",
        ),
        (
            LEAST.replace("udp:192.0.2.1", "tls:192.0.2.1"),
            "8: trunk \"carrier\".next_hop: there is no listener of this transport and address family to leave by",
        ),
        (
            format!("{LEAST}listener = \"tcp\""),
            "9: trunk \"carrier\".listener: there is no listener \"tcp\"; there is \"udp\"",
        ),
        (
            format!(
                "{LEAST}listener = \"tcp\"\n[[listener]]\nname = \"tcp\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:0\""
            ),
            "9: trunk \"carrier\".listener: the listener has another transport",
        ),
        (format!("{LEAST}sign = \"sp\""), "9: trunk \"carrier\".sign: there is no signer \"sp\"; add a [[signer]]"),
        (
            format!("{LEAST}[[trunk]]\nname = \"carrier\"\npeers = \"192.0.2.9\""),
            "10: trunk \"carrier\".name: \"carrier\" is used already on line 6",
        ),
        (
            format!("{LEAST}[[trunk]]\nname = \"b\"\npeers = \"192.0.2.0/24\""),
            "11: trunk \"b\".peers: 192.0.2.0/24 is used already on line 7",
        ),
        (
            LEAST.replace("127.0.0.1:0", "127.0.0.1:5060")
                + "[[listener]]\nname = \"b\"\ntransport = \"udp\"\nbind = \"127.0.0.1:5060\"",
            "12: listener \"b\".bind: UDP 127.0.0.1:5060 is used already on line 4",
        ),
        (
            format!("{LEAST}[[route]]\nto = \"carrier\"\nprefix = \"+1x\""),
            "11: route.prefix: \"+1x\" can not be read; give leading digits",
        ),
        (format!("{LEAST}[node]\nlog_level = \"a=b=c\""), "10: node.log_level: \"a=b=c\" can not be read"),
        (
            format!("{LEAST}[trunk.verify]\nchain = \"off\""),
            "9: trunk \"carrier\".verify.profile: missing; give \"shaken\" or \"vesper\"",
        ),
        (
            format!("{LEAST}[trunk.verify]\nprofile = \"shaken\""),
            "9: trunk \"carrier\".verify.chain: no chain can be valid",
        ),
        (
            format!("{LEAST}[trunk.verify]\nprofile = \"vesper\"\nchain = \"off\""),
            "9: trunk \"carrier\".verify.sct: no SCT can be valid",
        ),
        (
            format!("{LEAST}[trunk.verify]\nprofile = \"shaken\"\nchain = \"off\"\nidentity_source = \"asserted\""),
            "12: trunk \"carrier\".verify.identity_source: P-Asserted-Identity counts only from a trusted trunk",
        ),
        (format!("{LEAST}[stir]\nanchors = \"no\""), "10: stir.anchors: no: no such file"),
        (format!("{LEAST}[stir]\nanchors = \"junk.pem\""), "10: stir.anchors: junk.pem: no CERTIFICATE block"),
        (format!("{LEAST}[stir]\nanchors = \"empty\""), "10: stir.anchors: empty: not a directory with"),
        (format!("{LEAST}[stir]\nlog_list = \"junk.pem\""), "10: stir.log_list: junk.pem: "),
        (format!("{LEAST}[stir.fetch]\nca_file = \"no\""), "10: stir.fetch.ca_file: no: no such file"),
        (signer("key = \"sp-key.pem\""), "10: signer \"sp\".certificate: missing; give a PEM file"),
        (signer("key = \"no\"\ncertificate = \"sp-chain.pem\""), "13: signer \"sp\".key: no: no such file"),
        (
            signer("key = \"other-key.pem\"\ncertificate = \"sp-chain.pem\""),
            "13: signer \"sp\".key: other-key.pem is not the private key of the first certificate in sp-chain.pem",
        ),
        (
            signer("key = \"junk.pem\"\ncertificate = \"sp-chain.pem\""),
            "13: signer \"sp\".key: the private key is no P-256 key",
        ),
        (
            signer("key = \"sp-key.pem\"\ncertificate = \"expired.pem\""),
            "14: signer \"sp\".certificate: expired.pem: the first certificate expired 2021-01-01 00:00:00 UTC; renew it",
        ),
        (
            signer("key = \"sp-key.pem\"\ncertificate = \"early.pem\""),
            "14: signer \"sp\".certificate: early.pem: the first certificate is valid from 3000-01-01 00:00:00 UTC only",
        ),
        (
            signer("key = \"sp-key.pem\"\ncertificate = \"plain.pem\""),
            "14: signer \"sp\".certificate: the certificate has no readable TNAuthList",
        ),
    ];
    let service =
        |rest: &str| format!("{LEAST}[trunk.verify]\nprofile = \"shaken\"\nchain = \"off\"\n[stir_service]\n{rest}");
    let local = "bind = \"127.0.0.1:0\"\n";
    desk.write("tokens", "# clients\nalpha short\n");
    desk.write("no-tokens", "# clients\n");
    let services = [
        (format!("{LEAST}service = \"sign\""), "9: trunk \"carrier\".service: nothing says who signs; add sign"),
        (format!("{LEAST}service = \"verify\""), "9: trunk \"carrier\".service: there is no policy to verify by"),
        (format!("{LEAST}no_match = 404"), "9: trunk \"carrier\".no_match: nothing is served to this trunk"),
        (service("policy = \"carrier\""), "12: stir_service.bind: missing; give \"ip:port\""),
        (service(local), "12: stir_service.policy: missing; give the name of a [[trunk]]"),
        (service(&format!("{local}policy = \"nobody\"")), "14: stir_service.policy: there is no trunk \"nobody\""),
        (
            format!("{LEAST}[stir_service]\n{local}policy = \"carrier\""),
            "11: stir_service.policy: the trunk neither signs nor verifies",
        ),
        (
            service("policy = \"carrier\"\nbind = \"192.0.2.1:8443\""),
            "14: stir_service.bind: what is asked would cross the network in plain text",
        ),
        (
            service(&format!("{local}policy = \"carrier\"\ntokens = \"tokens\"")),
            "15: stir_service.tokens: tokens:2: the token is too short; give one of 16 characters or more",
        ),
        (
            service(&format!("{local}policy = \"carrier\"\ntokens = \"no-tokens\"")),
            "15: stir_service.tokens: no-tokens: not lines of",
        ),
        (
            service(
                "policy = \"carrier\"\nbind = \"192.0.2.1:1\"\n[stir_service.tls]\ncertificate = \"plain.pem\"\nkey = \"sp-key.pem\"",
            ),
            "14: stir_service.bind: anybody could have calls signed",
        ),
        (
            signer(
                "key = \"sp-key.pem\"\ncertificate = \"sp-chain.pem\"\n[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"carrier\"",
            ),
            "17: stir_service.policy: a signer of the trunk attests nothing",
        ),
    ];
    for (text, expected) in cases.into_iter().chain(services) {
        let mistakes = desk.mistakes(&text);
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with(expected),
            "{text}\nexpected {expected}\nfound {mistakes:#?}"
        );
    }
}

#[test]
fn a_signer_that_fails_does_not_make_its_name_unknown() {
    let text = format!("{LEAST}sign = \"sp\"\n[[signer]]\nname = \"sp\"\n");
    let mistakes = Desk::new().mistakes(&text);
    assert_eq!(mistakes.len(), 3, "certificate, key and x5u are missing, nothing else: {mistakes:#?}");
}

#[test]
fn c4_4_t1_5_a_signer_whom_its_own_anchors_and_logs_do_not_believe_is_told() {
    const NOW: i64 = 1_795_219_200;
    let directory = TempDir::new().unwrap();
    let lab = vesperd::pki::lab::create(directory.path(), NOW, &vesperd::pki::lab::Options::default()).unwrap();
    let told = |change: &dyn Fn(String) -> String| {
        let text = change(fs::read_to_string(directory.path().join("originating.toml")).unwrap());
        let path = directory.path().join("changed.toml");
        fs::write(&path, text).unwrap();
        let config = Config::load(&path, NOW).unwrap_or_else(|error| panic!("{error}"));
        let why = |warning: &Warning| match warning {
            Warning::Disbelieved { why, .. } => Some(why.clone()),
            _ => None,
        };
        config.warnings.iter().find_map(why)
    };
    assert_eq!(told(&|text| text), None, "{}", lab.acme.organization);
    let path = told(&|text| text.replace("sti/root.pem", "web/ca.pem")).expect("another root");
    assert!(path.contains("anchor"), "{path}");
    let desk = Desk::new();
    fs::copy(desk.directory.path().join("log-list.json"), directory.path().join("other-logs.json")).unwrap();
    let scts = told(&|text| text.replace("log/log-list.json", "other-logs.json")).expect("another log");
    assert!(scts.contains("log"), "{scts}");
}

#[test]
fn a_key_from_the_laboratory_is_told() {
    let desk = Desk::new();
    let config = desk.good(&format!(
        "{LEAST}[[signer]]\nname = \"sp\"\nx5u = \"https://a.example/c\"\nkey = \"lab-key.pem\"\ncertificate = \"sp-chain.pem\""
    ));
    let lab = Warning::LabKey { path: desk.directory.path().join("lab-key.pem") };
    assert!(config.warnings.contains(&lab), "{:?}", config.warnings);
}

#[test]
fn a_file_that_is_not_there_is_no_mistake_in_it() {
    let error = Config::load(Path::new("/nonexistent/edge.toml"), 0).err().unwrap();
    assert!(matches!(error, ConfigError::Unreadable(..)), "{error}");
}

/// Example files with the files they name beside them, their addresses replaced by loopback ones with free ports.
fn examples() -> Vec<(String, Desk, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        all.push((path.file_name().unwrap().to_string_lossy().into_owned(), Desk::new(), text));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn every_example_loads() {
    let names: Vec<String> = examples()
        .into_iter()
        .map(|(name, desk, text)| {
            desk.load(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            name
        })
        .collect();
    assert_eq!(names, ["originating-edge.toml", "terminating-edge.toml", "transit.toml"]);
}

#[test]
fn every_example_starts_and_stops() {
    for (name, desk, text) in examples() {
        let local = |line: &str| {
            if line.starts_with("bind = ") { "bind = \"127.0.0.1:0\"".to_owned() } else { line.to_owned() }
        };
        let text = text.lines().map(local).collect::<Vec<_>>().join("\n");
        let config = desk.good(&text);
        let listeners = config.proxy.listeners.len();
        let edge = Edge::start(config, &Observer::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(edge.addresses().len(), listeners);
        assert!(edge.addresses().iter().all(|(_, _, address)| address.port() != 0), "{name}: {:?}", edge.addresses());
        assert_eq!(edge.stop().restarts, 0);
    }
}

#[test]
fn r2_timers_below_the_standard_are_remarked() {
    let config = Desk::new().good(&format!("{LEAST}[timers]\ntimer_c_seconds = 180\ntimer_d_ms = 31999\n"));
    let remarked = config.warnings.iter().filter(|w| matches!(w, Warning::ShortTimer { .. })).count();
    assert_eq!(remarked, 2, "{:?}", config.warnings);
    let config = Desk::new().good(&format!("{LEAST}[timers]\ntimer_c_seconds = 181\ntimer_d_ms = 32000\n"));
    assert!(!config.warnings.iter().any(|w| matches!(w, Warning::ShortTimer { .. })));
}

#[test]
fn forking_and_failover_of_a_trunk() {
    let trunk = |lines: &str| format!("{LEAST}{lines}");
    let config = Desk::new().good(&trunk(
        "fork = \"parallel\"\nfr_ms = 4000\nfr_inv_ms = 90000\nfailover_on = [\"transport\", \"404\", \"5xx\"]\n\
         failover_after_18x = true\nrelay_503 = \"480\"\n[timers]\nfailover_budget_seconds = 30\n\
         [limits]\nmax_breadth = 10\nunmatched_cancel = \"forward\"\n",
    ));
    let forking = &config.proxy.trunks[0].forking;
    assert!(forking.parallel && forking.failover.after_18x);
    assert_eq!((forking.fr, forking.fr_inv), (Some(Duration::from_secs(4)), Some(Duration::from_secs(90))));
    assert!(!forking.failover.on_timeout && forking.failover.on_transport);
    assert_eq!(forking.failover.on, [Codes::Status(404), Codes::Class(5)]);
    assert_eq!(config.proxy.trunks[0].relay_503, Relay503::Map(480));
    assert_eq!((config.proxy.failover_budget, config.proxy.max_breadth), (Duration::from_secs(30), 10));
    assert!(config.proxy.forward_unmatched_cancel);

    let plain = Desk::new().good(LEAST);
    let (fr, fr_inv) = (Some(Duration::from_secs(5)), Some(Duration::from_secs(120)));
    assert_eq!(plain.proxy.trunks[0].forking, Forking { fr, fr_inv, ..Forking::default() });
    let off = Desk::new().good(&trunk("fr_ms = 0\nfr_inv_ms = 0\n"));
    assert_eq!(off.proxy.trunks[0].forking, Forking::default());
    assert!(!plain.proxy.forward_unmatched_cancel);
    for (line, part) in [
        ("failover_on = \"603\"", "callee's own word"),
        ("failover_on = \"often\"", "failover_on"),
        ("relay_503 = \"200\"", "relay_503"),
        ("fork = \"both\"", "fork"),
    ] {
        let mistakes = Desk::new().mistakes(&trunk(line));
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with("9: ") && mistakes[0].contains(part),
            "{line}: {mistakes:?}"
        );
    }
}

/// The verification policy and what is told of verdicts: every key, and what is refused.
#[test]
fn policies_of_verification_and_what_trunks_are_told() {
    use vesperd::stir::{Callers, Methods};
    let text = |trunk: &str, verify: &str| {
        format!(
            "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
             [[trunk]]\nname = \"a\"\npeers = \"192.0.2.3\"\n{trunk}\n[trunk.verify]\nprofile = \"shaken\"\nchain = \"off\"\n{verify}\n"
        )
    };
    let read = |trunk: &str, verify: &str| with_variables(&text(trunk, verify), &[]);
    let config = read(
        "trusted = true\nverstat = true\nverstat_attestation = true\nverdict_header = \"X-Identity-Verdict\"\n\
         attestation_header = \"P-Attestation-Indicator\"\norigination_header = \"P-Origination-ID\"\ncall_info = true",
        "on_failure = \"reason\"\nanonymous = \"reject\"\nunknown = \"pass\"\nmethods = [\"INVITE\"]\nresource_priority = \"strip-unproven\"\n\
         strict_serialization = \"enforce\"\nfreshness_seconds = 30\ndiverted_freshness_seconds = 10800\nmax_diversions = 3\n\
         rcd_prefers_token = true\nstrict_retarget = true",
    );
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let trunk = &config.proxy.trunks[0];
    let policy = trunk.verify.as_ref().unwrap();
    assert_eq!((policy.on_failure, policy.anonymous), (OnFailure::ContinueWithReason, Callers::Reject));
    assert_eq!((policy.unknown, policy.methods), (Callers::Pass, Methods { invite: true, message: false }));
    assert_eq!((policy.freshness, policy.diverted_freshness, policy.max_diversions), (30, 10_800, 3));
    assert!(policy.strip_unproven_priority && policy.rcd_prefers_token && policy.strict_retarget);
    assert_eq!(policy.modes.get(Check::Serialization), Mode::Enforce);
    let told = &trunk.discloses;
    assert!(trunk.headers.verstat && told.verstat_attestation && told.call_info);
    let names = [&told.verdict, &told.attestation, &told.origination].map(|name| name.as_deref().unwrap());
    assert_eq!(names, ["X-Identity-Verdict", "P-Attestation-Indicator", "P-Origination-ID"]);

    let usual = read("", "freshness_seconds = 90").unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let usual = usual.proxy.trunks[0].verify.unwrap();
    assert_eq!((usual.modes.get(Check::Serialization), usual.diverted_freshness), (Mode::Off, 90));
    assert_eq!(usual.methods, Methods { invite: true, message: true });

    for (trunk, verify, part) in [
        ("verdict_header = \"X-Verdict\"", "", "trust domain"),
        ("trusted = true\nverdict_header = \"From\"", "", "verdict_header"),
        ("trusted = true\nattestation_header = \"f\"", "", "attestation_header"),
        ("trusted = true\norigination_header = \"a b\"", "", "origination_header"),
        ("verstat_attestation = true", "", "verstat_attestation"),
        ("", "methods = []", "nothing would be verified"),
        ("", "methods = [\"BYE\"]", "methods"),
        ("", "anonymous = \"433\"", "anonymous"),
        ("", "diverted_freshness_seconds = 10", "younger than others"),
        ("", "diverted_freshness_seconds = 10801", "diverted_freshness_seconds"),
        ("", "max_diversions = 0", "max_diversions"),
    ] {
        let mistakes = read(trunk, verify).map(drop).unwrap_err();
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{trunk} {verify}: {mistakes:?}");
    }
}

/// Connected identity: every key, and what is refused.
#[test]
fn connected_identity_of_a_trunk() {
    use vesperd::proxy::ConnectedIdentity;
    let desk = Desk::new();
    let text = |verify: &str, connected: &str| {
        format!(
            "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
             [[signer]]\nname = \"s\"\ncertificate = \"sp-chain.pem\"\nkey = \"sp-key.pem\"\nx5u = \"https://vesper.example/c\"\n\
             [[trunk]]\nname = \"a\"\npeers = \"192.0.2.3\"\n{verify}\n[trunk.connected]\n{connected}\n\
             [stir]\nanchors = \"anchors\"\n"
        )
    };
    let read = |verify: &str, connected: &str| desk.good(&text(verify, connected)).proxy.trunks[0].connected.clone();
    assert_eq!(read("", ""), ConnectedIdentity { early: true, ..ConnectedIdentity::default() });
    let all = read("", "sign = \"s\"\nrcd = true\ndiversions = true\nearly = false\nverify = \"preferred\"");
    assert_eq!((all.sign, all.rich, all.discloses_diversions, all.early), (Some(0), true, true, false));
    assert_eq!(all.verify, Some(vesperd::stir::Policy::shaken()));
    let verify = "[trunk.verify]\nprofile = \"shaken\"\nchain = \"off\"";
    assert_eq!(read(verify, "verify = \"preferred\"").verify.unwrap().modes.get(Check::Chain), Mode::Off);
    assert_eq!(read("", "verify = \"off\"").verify, None);
    for (verify, connected, part) in [
        ("", "sign = \"t\"", "t"),
        ("", "signing_table = \"t\"", "t"),
        ("", "rcd = true", "are not signed"),
        ("", "early = false", "are not signed"),
        ("", "diversions = true", "are not signed"),
        ("", "verify = \"required\"", "can not end a call"),
        ("", "verify = \"yes\"", "preferred"),
        ("", "profile = \"vesper\"", "not verified"),
        (verify, "verify = \"preferred\"\nprofile = \"vesper\"", "by what [trunk.verify] says"),
        ("", "verify = \"preferred\"\nprofile = \"vesper\"", "transparency logs"),
        ("", "diverted = false", "not verified"),
        ("", "posture = \"off\"", "posture"),
    ] {
        let mistakes = desk.mistakes(&text(verify, connected));
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{connected}: {mistakes:?}");
    }
}

// ---- the environment

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment =
        vesperd::config::Environment::new(variables.iter().map(|(name, value)| (name.into(), value.into())));
    let config = Config::parse_with(text, Path::new("edge.toml"), &environment, 1_795_219_200);
    config.map_err(|mistakes| mistakes.to_string().lines().map(str::to_owned).collect())
}

const SMALL: &str = "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"192.0.2.1:5060\"\n\
    [[trunk]]\nname = \"far-away\"\nnext_hop = \"udp:192.0.2.2:5060\"\nfr_ms = 3000\n\
    [[trunk]]\nname = \"near\"\npeers = \"192.0.2.3\"\n[[route]]\nto = \"far-away\"\n";

#[test]
fn variables_override_keys_of_tables_and_of_lists_and_add_what_is_not_there() {
    let config = with_variables(
        SMALL,
        &[
            ("VESPERD__NODE__WORKERS", "2"),
            ("VESPERD__NODE__LOG", "json"),
            ("VESPERD__TRUNK__far_away__FR_MS", "4000"),
            ("VESPERD__TRUNK__NEAR__LIMITS__MAX_CONCURRENT_CALLS", "7"),
            ("VESPERD__TRUNK__near__PEERS", "[\"192.0.2.4\", \"192.0.2.5\"]"),
            ("VESPERD__LISTENER__1__BIND", "192.0.2.9:5070"),
            ("VESPERD__ROUTE__1__FROM", "near"),
            ("VESPERD__CDR__FILE", "stdout"),
            ("VESPERD_OTHER", "1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    assert_eq!((config.node.workers, config.node.log), (2, vesperd::config::LogFormat::Json));
    assert_eq!(config.proxy.trunks[0].forking.fr, Some(std::time::Duration::from_millis(4000)));
    assert_eq!(config.proxy.trunks[1].peers.len(), 2);
    assert!(config.proxy.guard.limits[1].as_ref().unwrap().counts_calls());
    assert_eq!(config.proxy.listeners[0].bind.to_string(), "192.0.2.9:5070");
    assert_eq!(config.proxy.routes[0].from.len(), 1);
    assert!(config.cdr.is_some());
}

#[test]
fn mistakes_in_variables_are_named_like_those_in_the_file() {
    let mistakes = with_variables(
        SMALL,
        &[
            ("VESPERD__NODE__WORKERS", "many"),
            ("VESPERD__NODE__WORKRES", "2"),
            ("VESPERD__NOTHING__AT_ALL", "2"),
            ("VESPERD__TRUNK__nobody__FR_MS", "4000"),
            ("VESPERD__TRUNK__near__FR_MS", "999999999"),
            ("VESPERD__TRUNK__near", "1"),
            ("VESPERD__ROUTE__2__TO", "near"),
            ("VESPERD__", "x"),
        ],
    )
    .err()
    .expect("mistakes");
    let has = |start: &str, text: &str| {
        let start = format!("environment variable {start}: ");
        assert!(mistakes.iter().any(|m| m.starts_with(&start) && m.contains(text)), "{start}{text}\n{mistakes:#?}");
    };
    has("VESPERD__NODE__WORKERS", "node.workers: is a string; give a whole number");
    has("VESPERD__NODE__WORKRES", "node.workres: unknown key; did you mean `workers`?");
    has("VESPERD__NOTHING__AT_ALL", "nothing: unknown key");
    has("VESPERD__TRUNK__nobody__FR_MS", "there is no trunk \"nobody\"; there is \"far-away\", \"near\"");
    has("VESPERD__TRUNK__near__FR_MS", "trunk \"near\".fr_ms: out of range");
    has("VESPERD__TRUNK__near", "names no key");
    has("VESPERD__ROUTE__2__TO", "there is no route \"2\"");
    has("VESPERD__", "unknown key");
    assert_eq!(mistakes.len(), 8, "{mistakes:#?}");
}

#[test]
fn a_next_hop_is_named_once_in_either_form() {
    let listener =
        "[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:5060\"\n[[trunk]]\nname = \"t\"\n";
    let short = "next_hop = [\"udp:192.0.2.1:5060\",\n\"udp:192.0.2.2:5060\",\n\"udp:192.0.2.1\"]\n";
    let mistakes = Config::parse(&format!("{listener}{short}"), Path::new("edge.toml"), 0).err().unwrap().to_string();
    assert!(mistakes.starts_with("edge.toml:9: ") && mistakes.contains("udp:192.0.2.1:5060"), "{mistakes}");
    assert!(
        Config::parse(&format!("{listener}{}", short.replace("2.1\"", "2.3\"")), Path::new("edge.toml"), 0).is_ok()
    );
}

#[test]
fn every_signer_of_a_policy_s_table_attests_something() {
    let desk = Desk::new();
    desk.write("numbers.csv", "number,signer\n+4930*,sp\n");
    let text = |attest: &str| {
        format!(
            "{LEAST}signing_table = \"numbers\"\n[[signing_table]]\nname = \"numbers\"\nfile = \"numbers.csv\"\n\
             [[signer]]\nname = \"sp\"\nx5u = \"https://a.example/c\"\nkey = \"sp-key.pem\"\n{attest}\
             certificate = \"sp-chain.pem\"\n[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"carrier\"\n"
        )
    };
    desk.good(&text("attest = \"B\"\n"));
    let mistakes = desk.mistakes(&text(""));
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].contains("stir_service.policy: a signer of the trunk attests nothing"), "{mistakes:#?}");
}

/// The end of one certificate must not keep the others from being renewed.
#[test]
fn an_expired_leaf_for_tls_that_is_in_force_is_a_warning() {
    let desk = Desk::new();
    let with = |certificate: &str| format!("certificate = \"{certificate}\"\nkey = \"sp-key.pem\"\n");
    let text = |listener: &str, trunk: &str, service: &str| {
        format!(
            "{LEAST}sign = \"sp\"\n[trunk.tls]\nnames = \"sip.example.com\"\n{}[[listener]]\nname = \"tls\"\ntransport = \"tls\"\n\
             bind = \"127.0.0.1:0\"\n{}[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"carrier\"\n[stir_service.tls]\n{}\
             [[signer]]\nname = \"sp\"\nx5u = \"https://a.example/c\"\nattest = \"A\"\n{}",
            with(trunk),
            with(listener),
            with(service),
            with("sp-chain.pem")
        )
    };
    let (path, now) = (desk.directory.path().join("test.toml"), clock::unix());
    let again = |text: &str, unix, in_force: &[Vec<u8>]| {
        Config::parse_again(text, &path, &vesperd::config::Environment::default(), unix, in_force)
    };
    for text in [
        text("expired.pem", "sp-chain.pem", "sp-chain.pem"),
        text("sp-chain.pem", "expired.pem", "sp-chain.pem"),
        text("sp-chain.pem", "sp-chain.pem", "expired.pem"),
    ] {
        let before = again(&text, 1_590_000_000, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(before.tls_leaves.len(), 3);
        let mistakes = again(&text, now, &[]).err().expect("not in force").to_string();
        assert!(mistakes.lines().count() == 1 && mistakes.contains("expired 2021-01-01"), "{mistakes}");
        let config = again(&text, now, &before.tls_leaves).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let told = |warning: &Warning| matches!(warning, Warning::ExpiredTls { certificate, .. } if certificate.ends_with("expired.pem"));
        assert_eq!(config.warnings.iter().filter(|warning| told(warning)).count(), 1, "{:?}", config.warnings);
        assert_eq!(config.tls_leaves.len(), 3, "still in force at the next reload");
    }
}
