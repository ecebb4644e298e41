//! The STIR engine over HTTP, between real sockets: what it signs verifies here, in a call, and by other code; who may not ask is told
//! no more than that.
#![allow(clippy::disallowed_methods, reason = "a test from outside has clocks of its own")]

#[path = "support_sipp/certsrv.rs"]
mod certsrv;
mod support_page;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use vesperd::config::Config;
use vesperd::node::{Edge, Observer, clock};
use vesperd::pki::lab::{self, Lab, Options};

/// Far longer than anything takes; a hang ends as a failure.
const PATIENCE: Duration = Duration::from_secs(20);
const CALLER: &str = "12015550100";
const CALLED: &str = "12155551213";

/// A laboratory, a server of its certificates, and a gateway.
struct World {
    directory: TempDir,
    lab: Lab,
    server: SocketAddr,
    gateway: UdpSocket,
    /// `call_budget_ms`.
    budget: u32,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let lab = lab::create(&directory.path().join("lab"), clock::unix(), &Options::default()).unwrap();
        let ca_file = directory.path().join("web-ca.pem");
        let server = certsrv::start("127.0.0.1".parse().unwrap(), lab.provider.chain_pem(), &ca_file);
        let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
        gateway.set_read_timeout(Some(PATIENCE)).unwrap();
        let numbers = format!("number,signer,attest\n{CALLER},good,B\n12015550199,-,\n");
        fs::write(directory.path().join("numbers.csv"), numbers).unwrap();
        Self { directory, lab, server, gateway, budget: 2000 }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `sbc` is the policy of the service. Calls from loopback are verified and go to the gateway.
    fn configuration(&self, service: &str) -> String {
        let (server, gateway, budget) = (self.server, self.gateway.local_addr().unwrap(), self.budget);
        let signer = |name: &str, file: &str, attest: &str| {
            format!(
                "[[signer]]\nname = \"{name}\"\ncertificate = \"lab/provider/shaken.pem\"\nkey = \"lab/provider/shaken.key\"\n\
                 x5u = \"https://{server}/{file}.pem\"\nattest = \"{attest}\"\n"
            )
        };
        let signers =
            [signer("good", "good", "A"), signer("slow", "slow", "A"), signer("partial", "good", "B")].concat();
        let trunk =
            |name: &str, peer: &str, rest: &str| format!("[[trunk]]\nname = \"{name}\"\npeers = \"{peer}\"\n{rest}");
        let verify = "[trunk.verify]\nprofile = \"shaken\"\n";
        format!(
            "[node]\nworkers = 2\nhttp = \"127.0.0.1:0\"\n[[listener]]\nname = \"udp\"\ntransport = \"udp\"\nbind = \"127.0.0.1:0\"\n\
             {}{}{}{}{}{}[[signing_table]]\nname = \"numbers\"\nfile = \"numbers.csv\"\n[[trunk]]\nname = \"gateway\"\nnext_hop = \"udp:{gateway}\"\n[[route]]\nto = \"gateway\"\n{signers}\
             [stir]\nanchors = \"lab/sti/root.pem\"\nlog_list = \"lab/log/log-list.json\"\n\
             [stir.fetch]\ntotal_timeout_ms = 4000\ncall_budget_ms = {budget}\nallow_any_port = true\nallow_private_addresses = true\nca_file = \"web-ca.pem\"\n{service}",
            trunk("callers", "127.0.0.0/8", verify),
            trunk("sbc", "192.0.2.1", &format!("sign = \"good\"\n{verify}")),
            trunk("signs-slow", "192.0.2.2", "sign = \"slow\"\n"),
            trunk("partial", "192.0.2.3", "sign = \"partial\"\n"),
            trunk("verifies", "192.0.2.4", verify),
            trunk("by-number", "192.0.2.5", "sign = \"good\"\nsigning_table = \"numbers\"\n"),
        )
    }

    fn config(&self, service: &str) -> Config {
        let text = self.configuration(service);
        Config::parse(&text, &self.directory.path().join("edge.toml"), clock::unix()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn start(&self, service: &str) -> Edge {
        Edge::start(self.config(service), &Observer::default()).unwrap()
    }

    /// On loopback, for anybody.
    fn open(&self) -> Edge {
        self.start(
            "[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = [\"sbc\", \"signs-slow\", \"partial\", \"verifies\", \"by-number\"]\n",
        )
    }
}

/// A response: status, header fields, body.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn read(response: hyper::Response<Incoming>) -> Got {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers["content-type"], "application/json");
    let body = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {body:?}"));
    Got { status: parts.status, headers: parts.headers, body }
}

fn request(path: &str, body: &str) -> Request<Full<Bytes>> {
    let builder = Request::post(format!("http://service{path}")).header("content-type", "application/json");
    builder.header("host", "service").body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Got {
    let talk = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("an answer in time")
}

async fn post(address: SocketAddr, path: &str, body: &Value) -> Got {
    send(address, request(path, &body.to_string())).await
}

fn signing(attest: &str) -> Value {
    json!({"signingRequest": {"attest": attest, "orig": {"tn": CALLER}, "dest": {"tn": [CALLED]}, "iat": clock::unix(),
        "origid": "de305d54-75b4-431b-adb2-eb6b9e546014"}})
}

fn verification(identity: &str) -> Value {
    json!({"verificationRequest": {"from": {"tn": CALLER}, "to": {"tn": [CALLED]}, "time": clock::unix(), "identity": identity}})
}

async fn signed(address: SocketAddr, path: &str) -> String {
    let got = post(address, path, &signing("A")).await;
    assert_eq!(got.status, 200, "{}", got.body);
    got.body["signingResponse"]["identity"].as_str().unwrap().to_owned()
}

fn json_of(segment: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap()
}

/// The id in an error body.
fn problem(got: &Got) -> String {
    let error = &got.body["requestError"];
    let exception = error.get("serviceException").or(error.get("policyException")).unwrap_or_else(|| panic!("{error}"));
    assert!(exception["text"].is_string() && exception["variables"].is_array(), "{error}");
    format!("{} {}", got.status.as_u16(), exception["messageId"].as_str().unwrap())
}

fn invite(call: &str, identity: &str) -> String {
    format!(
        "INVITE sip:+{CALLED}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK{call};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:+{CALLER}@127.0.0.1>;tag=a\r\nTo: <sip:+{CALLED}@127.0.0.1>\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\
         Identity: {identity}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The first line of the next message that is no 100.
fn first_line(socket: &UdpSocket) -> String {
    let mut buffer = [0; 8192];
    loop {
        let n = socket.recv(&mut buffer).expect("a message in time");
        let line = String::from_utf8_lossy(&buffer[..n]).lines().next().unwrap().to_owned();
        if line != "SIP/2.0 100 Trying" {
            return line;
        }
    }
}

#[tokio::test]
async fn what_is_signed_over_http_verifies_over_http_in_a_call_and_elsewhere() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let mut asked = request("/stir/v1/signing", &signing("A").to_string());
    asked.headers_mut().insert("x-requestid", "AA97B177-9383-4934-8543-0F91A7A02836".parse().unwrap());
    let got = send(address, asked).await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.headers["x-requestid"], "AA97B177-9383-4934-8543-0F91A7A02836");
    let identity = got.body["signingResponse"]["identity"].as_str().unwrap().to_owned();

    // Elsewhere: other code, from the certificate alone.
    let (token, parameters) = identity.split_once(';').unwrap();
    let x5u = format!("https://{}/good.pem", world.server);
    assert_eq!(parameters, format!("info=<{x5u}>;alg=ES256;ppt=\"shaken\""));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    assert_eq!(json_of(header), json!({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": x5u}));
    let claims = json_of(claims);
    assert_eq!(
        (&claims["attest"], &claims["orig"], &claims["dest"], &claims["origid"]),
        (&json!("A"), &json!({"tn": CALLER}), &json!({"tn": [CALLED]}), &json!("de305d54-75b4-431b-adb2-eb6b9e546014"))
    );
    let key = VerifyingKey::from_public_key_der(&world.lab.provider.spki()).unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    key.verify(input.as_bytes(), &signature).unwrap();

    // Over HTTP: the first question waits for the certificate, the second finds it. A second question is no replay.
    for _ in 0..2 {
        let got = post(address, "/stir/v1/verification", &verification(&identity)).await;
        let response = &got.body["verificationResponse"];
        assert_eq!((got.status.as_u16(), &response["verstat"]), (200, &json!("TN-Validation-Passed")), "{}", got.body);
        assert_eq!((&response["jwt"]["claims"], &response["jwt"]["header"]["ppt"]), (&claims, &json!("shaken")));
        assert_eq!((&response["attest"], &response["orig"]), (&json!("A"), &json!({"tn": CALLER})));
        assert!(response.get("reasoncode").is_none() && got.headers.contains_key("x-requestid"), "{}", got.body);
    }

    // In a call: it goes on to the gateway. With another signature it does not.
    let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller.connect(edge.addresses()[0].2).unwrap();
    caller.send(invite("one", &identity).as_bytes()).unwrap();
    assert_eq!(first_line(&world.gateway), format!("INVITE sip:+{CALLED}@127.0.0.1 SIP/2.0"));
    let other = signed(address, "/stir/v1/signing").await;
    let cut = other.find(';').unwrap();
    let broken = format!(
        "{}{}{}",
        &other[..cut - 9],
        if &other[cut - 9..cut - 8] == "A" { "B" } else { "A" },
        &other[cut - 8..]
    );
    caller.send(invite("two", &broken).as_bytes()).unwrap();
    assert_eq!(first_line(&caller), "SIP/2.0 438 Invalid Identity Header");
    let got = post(address, "/stir/v1/verification", &verification(&broken)).await;
    assert_eq!(got.body["verificationResponse"]["reasoncode"], 438);

    // What a call has seen is no replay for a question that names no call; for one that names another, it is.
    let mut named = verification(&identity);
    named["verificationRequest"]["callid"] = json!("one");
    let got = post(address, "/stir/v1/verification", &named).await;
    assert_eq!(got.body["verificationResponse"]["verstat"], "TN-Validation-Passed");
    named["verificationRequest"]["callid"] = json!("another");
    let got = post(address, "/stir/v1/verification", &named).await;
    assert_eq!(got.body["verificationResponse"]["verstat"], "TN-Validation-Failed");
}

#[tokio::test]
async fn a_verdict_tells_code_and_phrase_and_no_more() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let identity = signed(address, "/stir/v1/signing").await;
    let ask = async |body: Value| {
        let got = post(address, "/stir/v1/verification", &body).await;
        assert_eq!(got.status, 200, "{}", got.body);
        got.body["verificationResponse"].clone()
    };
    let failed = |code: u16, phrase: &str| json!({"verstat": "TN-Validation-Failed", "reasoncode": code, "reasontext": phrase, "reasondesc": phrase});
    let with = |name: &str, value: Value| {
        let mut request = verification(&identity);
        request["verificationRequest"][name] = value;
        request
    };
    assert_eq!(ask(with("from", json!({"tn": "12015550101"}))).await, failed(438, "Invalid Identity Header"));
    assert_eq!(ask(with("to", json!({"tn": "12015550101"}))).await, failed(438, "Invalid Identity Header"));
    assert_eq!(ask(with("time", json!(1_632_413_071))).await, failed(403, "Stale Date"));
    let missing = identity.replace("/good.pem", "/none.pem");
    assert_eq!(ask(with("identity", json!(missing))).await, failed(438, "Invalid Identity Header"), "info is not x5u");
    let none = json!({"verstat": "No-TN-Validation", "reasoncode": 428, "reasontext": "Use Identity Header",
        "reasondesc": "Use Identity Header"});
    assert_eq!(ask(with("identity", Value::Null)).await, none);
    let unheard = identity.replace("\"shaken\"", "\"unheard\"");
    assert_eq!(ask(with("identity", json!(unheard))).await["reasontext"], "Use Supported PASSporT Format");
    // Out of reach: 404 of the server of certificates, which is asked only for what its token agrees to.
    let elsewhere = signed(address, "/signs-slow/stir/v1/signing").await;
    let response = ask(with("identity", json!(elsewhere))).await;
    assert_eq!(response, failed(436, "Bad Identity Info"), "its server never answers");

    // Several, by the names of 3GPP: each has its own result.
    let both = json!({"from": CALLER, "to": CALLED, "identityHeaders": [format!("Identity: {}", identity.replace("\"shaken\"", "\"unheard\"")), identity]});
    let response = ask(both).await;
    assert_eq!(
        (&response["verstat"], &response["verstatValue"]),
        (&json!("TN-Validation-Passed"), &json!("TN-Validation-Passed"))
    );
    let results: Vec<&Value> =
        response["verifyResults"].as_array().unwrap().iter().map(|r| &r["verifyResult"]).collect();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!("unchecked"), &json!("pass")));
    assert_eq!(results[1]["passport"], identity.split(';').next().unwrap());
    assert_eq!(response["jwt"]["claims"]["orig"]["tn"], CALLER);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_503_and_harms_nobody() {
    let world = World::new();
    let edge = world
        .start("[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = [\"sbc\", \"signs-slow\"]\nanswer_timeout_ms = 100\n");
    let address = edge.stir_service().unwrap();
    let slow = signed(address, "/signs-slow/stir/v1/signing").await;
    assert_eq!(problem(&post(address, "/stir/v1/verification", &verification(&slow)).await), "503 POL5030");
    let good = signed(address, "/stir/v1/signing").await;
    // The certificate of the good one may take as long on a busy machine; then it is there.
    let verified = async {
        loop {
            let got = post(address, "/stir/v1/verification", &verification(&good)).await;
            if got.status == 200 {
                break got.body["verificationResponse"]["verstat"].clone();
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, verified).await.unwrap(), "TN-Validation-Passed");
}

#[tokio::test]
async fn a_connection_is_idle_only_while_nothing_is_under_way() {
    let world = World { budget: 3500, ..World::new() };
    let edge = world.start(
        "[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = [\"sbc\", \"signs-slow\"]\nidle_timeout_seconds = 1\n",
    );
    let address = edge.stir_service().unwrap();
    let slow = signed(address, "/signs-slow/stir/v1/signing").await;
    let got = post(address, "/stir/v1/verification", &verification(&slow)).await;
    assert_eq!(got.body["verificationResponse"]["reasoncode"], 436, "after three times the idle time");
    let mut quiet = TcpStream::connect(address).await.unwrap();
    let mut octets = [0; 64];
    let end = tokio::io::AsyncReadExt::read(&mut quiet, &mut octets);
    assert_eq!(tokio::time::timeout(PATIENCE, end).await.expect("closed in time").unwrap(), 0);
}

#[tokio::test]
async fn policies_are_chosen_by_path_and_hold() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let sign = async |path: &str, body: Value| post(address, path, &body).await;
    // The signer of `partial` may attest B at most.
    assert_eq!(problem(&sign("/partial/stir/v1/signing", signing("A")).await), "403 POL4030");
    for attest in ["B", "C"] {
        let got = sign("/partial/stir/v1/signing", signing(attest)).await;
        let identity = got.body["signingResponse"]["identity"].as_str().unwrap();
        assert_eq!(json_of(identity.split('.').nth(1).unwrap())["attest"], attest);
    }
    assert_eq!(problem(&sign("/verifies/stir/v1/signing", signing("A")).await), "403 POL4030", "it has no signer");
    let identity = signed(address, "/sbc/stir/v1/signing").await;
    assert_eq!(problem(&post(address, "/partial/stir/v1/verification", &verification(&identity)).await), "403 POL4030");
    let got = post(address, "/verifies/stir/v1/verification", &verification(&identity)).await;
    assert_eq!(got.body["verificationResponse"]["verstat"], "TN-Validation-Passed");
    for path in ["/gateway/stir/v1/signing", "/nobody/stir/v1/signing", "/stir/v2/signing", "/"] {
        assert_eq!(problem(&sign(path, signing("A")).await), "404 SVC4003", "{path}");
    }
    let mut foreign = signing("A");
    foreign["signingRequest"]["orig"] = json!({"uri": "sip:bob@elsewhere.example"});
    assert_eq!(
        problem(&sign("/stir/v1/signing", foreign).await),
        "403 POL4030",
        "the certificate does not speak for it"
    );
    for (name, value) in [("iat", json!(1_632_413_071)), ("origid", json!("no uuid"))] {
        let mut request = signing("A");
        request["signingRequest"][name] = value;
        let got = sign("/stir/v1/signing", request).await;
        assert_eq!(problem(&got), "400 SVC4005");
        assert_eq!(got.body["requestError"]["serviceException"]["variables"][0], name);
    }
    let mut many = signing("A");
    many["signingRequest"]["dest"] = json!({"tn": ["12155551214", CALLED], "uri": ["sip:Bob@Example.com"]});
    let got = sign("/stir/v1/signing", many).await;
    let claims = json_of(got.body["signingResponse"]["identity"].as_str().unwrap().split('.').nth(1).unwrap());
    assert_eq!(claims["dest"], json!({"tn": [CALLED, "12155551214"], "uri": ["sip:bob@example.com"]}), "in order");
}

#[tokio::test]
async fn the_table_of_the_policy_says_who_signs_for_a_number_and_how_much_is_attested() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let path = "/by-number/stir/v1/signing";
    let of = |number: &str, attest: &str| {
        let mut request = signing(attest);
        request["signingRequest"]["orig"] = json!({"tn": number});
        request
    };
    assert_eq!(problem(&post(address, path, &of(CALLER, "A")).await), "403 POL4030", "its row attests B");
    assert_eq!(post(address, path, &of(CALLER, "B")).await.status, 200);
    assert_eq!(problem(&post(address, path, &of("12015550199", "C")).await), "403 POL4030", "its row has no signer");
    assert_eq!(post(address, path, &of("12015550113", "A")).await.status, 200, "in no row: by the trunk's own signer");
}

#[tokio::test]
async fn bad_requests_are_told_by_their_codes() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let good = signing("A").to_string();
    let with = async |change: &dyn Fn(&mut Request<Full<Bytes>>)| {
        let mut asked = request("/stir/v1/signing", &good);
        change(&mut asked);
        send(address, asked).await
    };
    let got = with(&|r| *r.method_mut() = hyper::Method::GET).await;
    assert_eq!((problem(&got).as_str(), &got.headers["allow"]), ("405 POL4050", &"POST".parse().unwrap()));
    let kind = |value: &'static str| {
        move |r: &mut Request<Full<Bytes>>| drop(r.headers_mut().insert("content-type", value.parse().unwrap()))
    };
    assert_eq!(problem(&with(&kind("text/plain")).await), "415 SVC4004");
    assert_eq!(problem(&with(&|r| drop(r.headers_mut().remove("content-type"))).await), "415 SVC4004");
    assert_eq!(
        problem(&with(&|r| drop(r.headers_mut().insert("accept", "text/xml".parse().unwrap()))).await),
        "406 SVC4002"
    );
    assert_eq!(problem(&with(&|r| *r.body_mut() = Full::default()).await), "400 SVC4000");
    for (body, expected) in [
        ("{", "400 SVC4006"),
        ("[1]", "400 SVC4006"),
        ("{\"signingRequest\":{}}", "400 SVC4001"),
        (&"[".repeat(50_000), "400 SVC4006"),
        (&format!("{{\"x\":\"{}\"}}", "y".repeat(70_000)), "413 POL4130"),
    ] {
        let got = send(address, request("/stir/v1/signing", body)).await;
        assert_eq!(problem(&got), expected, "{}", &body[..body.len().min(40)]);
        assert!(!got.body.to_string().contains("yyy"), "nothing of the request is repeated");
    }
    // More than a message may be: the bounds of SIP hold here too.
    let long = format!("{}.b.c;info=<https://x/y>", "a".repeat(20_000));
    assert_eq!(problem(&post(address, "/stir/v1/verification", &verification(&long)).await), "400 SVC4005");
}

/// A CA of its own with a server and a client certificate.
fn tls_files(world: &World) -> PathBuf {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_file = world.file("ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    for name in ["localhost", "client"] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        world.file(&format!("{name}.pem"), &certificate.pem());
        world.file(&format!("{name}.key"), &key.serialize_pem());
    }
    ca_file
}

async fn tls(
    world: &World,
    address: SocketAddr,
    alpn: &[u8],
    shows: bool,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.directory.path().join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let file = |name: &str| world.directory.path().join(name);
    let mut config = if shows {
        let chain = vec![CertificateDer::from_pem_file(file("client.pem")).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(file("client.key")).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

const TLS: &str = "[stir_service.tls]\ncertificate = \"localhost.pem\"\nkey = \"localhost.key\"\n";

#[tokio::test]
async fn over_http2_with_client_certificates() {
    let world = World::new();
    tls_files(&world);
    let edge = world.start(&format!(
        "[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"sbc\"\n{TLS}client_auth = \"required\"\nclient_ca = \"ca.pem\"\n"
    ));
    let address = edge.stir_service().unwrap();
    let stream = tls(&world, address, b"h2", true).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Many at once on one connection.
    let many = (0..20).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            read(sender.send_request(request("/stir/v1/signing", &signing("A").to_string())).await.unwrap()).await
        })
    });
    for one in many.collect::<Vec<_>>() {
        let got = tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap();
        assert!(got.status == 200 && got.body["signingResponse"]["identity"].is_string(), "{}", got.body);
    }
    // Who shows no certificate gets no answer: TLS 1.3 tells him with the first octets he reads.
    let refused = async {
        let stream = tls(&world, address, b"http/1.1", false).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let answered = sender.send_request(request("/stir/v1/signing", &signing("A").to_string())).await;
        answered.map_err(std::io::Error::other)
    };
    assert!(tokio::time::timeout(PATIENCE, refused).await.unwrap().is_err());
}

#[tokio::test]
async fn tokens_and_rates_belong_to_clients_and_are_read_anew() {
    let world = World::new();
    tls_files(&world);
    let service = format!(
        "[stir_service]\nbind = \"127.0.0.1:0\"\npolicy = \"sbc\"\ntokens = \"tokens\"\nrequests_per_second = 1\nburst = 3\n{TLS}"
    );
    world.file("tokens", "# clients\nalpha 0123456789abcdef\nbeta fedcba9876543210\n");
    let edge = world.start(&service);
    let address = edge.stir_service().unwrap();
    let ask = async |token: Option<&str>| {
        let stream = tls(&world, address, b"http/1.1", false).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut asked = request("/stir/v1/signing", &signing("A").to_string());
        if let Some(token) = token {
            asked.headers_mut().insert("authorization", token.parse().unwrap());
        }
        tokio::time::timeout(PATIENCE, async { read(sender.send_request(asked).await.unwrap()).await }).await.unwrap()
    };
    let (alpha, beta) = ("Bearer 0123456789abcdef", "Bearer fedcba9876543210");
    for _ in 0..3 {
        assert_eq!(ask(Some(alpha)).await.status, 200);
    }
    assert_eq!(problem(&ask(Some(alpha)).await), "429 POL4290", "its burst is over");
    assert_eq!(ask(Some(beta)).await.status, 200, "which is no concern of another client's");
    for wrong in [None, Some("Bearer 0123456789abcdee"), Some("Basic 0123456789abcdef")] {
        let got = ask(wrong).await;
        assert_eq!(
            (problem(&got).as_str(), &got.headers["www-authenticate"]),
            ("401 POL4010", &"Bearer".parse().unwrap())
        );
    }
    assert_eq!(problem(&ask(Some("Bearer 0123456789abcdef0")).await), "429 POL4290", "guesses are counted by address");

    world.file("tokens", "gamma 0123456789abcdef-new\n");
    edge.reload(world.config(&service)).unwrap();
    assert_eq!(problem(&ask(Some(beta)).await), "401 POL4010");
    assert_eq!(ask(Some("Bearer 0123456789abcdef-new")).await.status, 200);
    let moved = service.replace("127.0.0.1:0", "127.0.0.1:9");
    assert_eq!(edge.reload(world.config(&moved)).unwrap(), ["stir_service.bind"], "with a restart");
    assert_eq!(edge.reload(world.config("")).unwrap(), ["[stir_service]"]);
    assert_eq!(ask(Some("Bearer 0123456789abcdef-new")).await.status, 200, "as before");
}

#[tokio::test]
async fn a_drain_waits_for_answers_and_takes_no_new_connection() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let identity = signed(address, "/signs-slow/stir/v1/signing").await;
    let waiting = tokio::spawn(async move { post(address, "/stir/v1/verification", &verification(&identity)).await });
    let until = async |holds: &dyn Fn() -> bool| {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it comes about");
    };
    until(&|| edge.published().unanswered() == 1).await;
    edge.drain();
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("the door closes");
    let got = waiting.await.unwrap();
    assert_eq!(got.body["verificationResponse"]["reasoncode"], 436, "answered all the same, at its deadline");
    until(&|| edge.published().unanswered() == 0).await;
    edge.stop();
}

#[tokio::test]
async fn the_page_tells_of_it() {
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let identity = signed(address, "/stir/v1/signing").await;
    post(address, "/stir/v1/verification", &verification(&identity)).await;
    post(address, "/stir/v1/verification", &verification("a.b.c")).await;
    post(address, "/nowhere", &json!({})).await;
    post(address, "/stir/v1/signing", &json!({})).await;
    let page = support_page::read(&edge.published().prometheus());
    let total = &page["vesperd_stir_service_requests_total"];
    for (endpoint, result) in [
        ("signing", "signed"),
        ("verification", "passed"),
        ("verification", "failed"),
        ("other", "not-found"),
        ("signing", "bad-request"),
    ] {
        assert!((total.sum(&[("endpoint", endpoint), ("result", result)]) - 1.0).abs() < 0.5, "{endpoint} {result}");
    }
    let durations = &page["vesperd_stir_service_duration_seconds"];
    let count =
        durations.samples.iter().filter(|(name, ..)| name.ends_with("_count")).map(|(.., value)| value).sum::<f64>();
    assert!((count - 4.0).abs() < 0.5);
}

/// What the document shows a client to send is taken, and answered as it shows.
#[tokio::test]
async fn the_examples_of_the_document_are_true() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stir-service.md")).unwrap();
    let world = World::new();
    let edge = world.open();
    let address = edge.stir_service().unwrap();
    let mut identity = String::new();
    let mut examples = 0;
    for example in document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let path = example.split_once("8443").unwrap().1.split_whitespace().next().unwrap();
        let data = example.split("--data '").nth(1).unwrap().split('\'').next().unwrap();
        let mut body: Value = serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"));
        for asked in body.as_object_mut().unwrap().values_mut() {
            ["iat", "time"].iter().for_each(|name| {
                if let Some(time) = asked.get_mut(*name) {
                    *time = json!(clock::unix());
                }
            });
            if let Some(shown) = asked.get_mut("identity") {
                assert!(shown.as_str().unwrap().contains("..."));
                *shown = json!(identity);
            }
        }
        let got = post(address, path, &body).await;
        let shown =
            document.split(example).nth(1).unwrap().split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let shown: Value = serde_json::from_str(shown).unwrap_or_else(|e| panic!("{e}: {shown}"));
        let names = |value: &Value| {
            let (envelope, inner) = value.as_object().unwrap().iter().next().unwrap();
            let mut names: Vec<String> = inner.as_object().unwrap().keys().cloned().collect();
            names.sort();
            (envelope.clone(), names)
        };
        assert_eq!(names(&got.body), names(&shown), "{}", got.body);
        if let Some(signed) = got.body["signingResponse"]["identity"].as_str() {
            identity = signed.to_owned();
        }
        examples += 1;
    }
    assert_eq!(examples, 2);
}
