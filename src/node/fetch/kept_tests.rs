//! What outlives a question: the cache over a restart, CRLs and lists from a real HTTPS server, hosts that hold their sockets, names that lead
//! inside.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, CustomExtension, IsCa,
    Issuer, KeyIdMethod, KeyPair, PublicKeyData, RevokedCertParams, SerialNumber,
};
use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};

use super::tests::{Server, ask};
use super::*;
use crate::cert::{ListKey, Log, LogList, LogState, Revocation, TnAuthList, TnEntry};
use crate::node::clock;

/// Waits for something that another thread brings about.
async fn until(mut is_so: impl FnMut() -> bool) {
    let patience = clock::instant() + Duration::from_secs(30);
    while !is_so() {
        assert!(clock::instant() < patience, "it does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Begins and ends a life of the side door.
async fn live(config: &Config, desk: Arc<Desk>, url: &str) -> Result<Chain, FetchError> {
    let thread = FetchThread::start(config.clone(), desk).unwrap();
    ask(&thread.fetcher(), url).await
}

#[tokio::test]
async fn the_cache_outlives_a_restart_and_is_not_believed() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = Config { state_directory: Some(directory.path().to_owned()), ..server.config() };
    let url = server.url("/chain.pem");
    assert!(live(&config, server.trusting(), &url).await.is_ok());
    assert_eq!(server.asked(), 1);
    let again = live(&config, server.trusting(), &url).await.unwrap();
    assert_eq!((&*again.certificates, server.asked()), (&server.chain[..], 1), "from the file");
    let file = directory.path().join("certificates.json");
    let text = std::fs::read_to_string(&file).unwrap();
    // Whoever writes into the file gets nothing in: another chain leads to no anchor, and is fetched.
    let other = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert;
    let forged = text.replace(&STANDARD.encode(&server.chain[0]), &STANDARD.encode(other.der()));
    assert_ne!(forged, text);
    for (content, fetches) in [(forged, 2), (text.replace("\"version\":1", "\"version\":2"), 3), ("junk".to_owned(), 4)]
    {
        std::fs::write(&file, content).unwrap();
        let got = live(&config, server.trusting(), &url).await.unwrap();
        assert_eq!((&*got.certificates, server.asked()), (&server.chain[..], fetches));
    }
    // Nor does what was trusted once count where it is not trusted any more; and it is not kept then.
    assert!(live(&config, Desk::new(Default::default()), &url).await.is_ok());
    assert_eq!(server.asked(), 5);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("/chain.pem"));
}

#[tokio::test]
async fn a_state_directory_that_can_not_be_used_is_told_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = Config { state_directory: Some(file.path().join("below-a-file")), ..Config::default() };
    let refused = FetchThread::start(config, Desk::new(Default::default())).err();
    assert!(matches!(refused, Some(FetchStartError::StateDirectory(..))));
}

/// Signs as the STI-PA would.
fn jws(key: &KeyPair, payload: &str) -> Vec<u8> {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(payload));
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
    let signature = signer.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

fn list_key(pair: &KeyPair) -> ListKey {
    let spki = STANDARD.encode(pair.subject_public_key_info());
    ListKey::from_pem(format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n").as_bytes()).unwrap()
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: Vec<u8>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), params, key }
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "SHAKEN 1234");
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec()
    }
}

fn anchor_list(roots: &[&Ca], sequence: u64, exp: i64) -> String {
    let roots: Vec<&str> = roots.iter().map(|root| root.pem.as_str()).collect();
    json!({"version": "1", "sequence": sequence, "exp": exp, "trustList": roots}).to_string()
}

#[tokio::test]
async fn authorities_come_from_the_signed_list_and_what_is_refused_changes_nothing() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (pa, one, two, stranger) = (KeyPair::generate().unwrap(), Ca::new("One"), Ca::new("Two"), Ca::new("Stranger"));
    let later = clock::unix() + 1000;
    let source = AnchorSource {
        place: Place::Url(server.url("/anchors.jwt")),
        key: list_key(&pa),
        grace: Duration::from_secs(3600),
    };
    let keeper = KeeperConfig { anchors: Some(source), ..KeeperConfig::default() };
    let mut config = Config { state_directory: Some(directory.path().to_owned()), keeper, ..server.config() };
    server.put("/anchors.jwt", &jws(&pa, &anchor_list(&[&one], 5, later)));
    let desk = Desk::new(Default::default());
    let thread = FetchThread::start(config.clone(), Arc::clone(&desk)).unwrap();
    until(|| desk.current().anchors.len() == 1).await;
    let epoch = desk.current().epoch;
    // A lower number, another's signature, no list: the anchors stay.
    let forged = jws(&KeyPair::generate().unwrap(), &anchor_list(&[&stranger], 9, later));
    let old = jws(&pa, &anchor_list(&[&stranger], 4, later));
    let again = |thread: &FetchThread| {
        thread.configure(config.clone());
    };
    for (n, refused) in [forged, old, b"junk".to_vec()].into_iter().enumerate() {
        server.put("/anchors.jwt", &refused);
        again(&thread);
        until(|| server.asked() >= 2 + n).await;
    }
    server.put("/anchors.jwt", &jws(&pa, &anchor_list(&[&two], 6, later)));
    again(&thread);
    until(|| desk.current().epoch > epoch).await;
    let anchors = desk.current().anchors.clone();
    assert_eq!(anchors.iter().map(|anchor| anchor.der()).collect::<Vec<_>>(), [&two.der[..]], "only the next list");
    drop(thread);
    // Another life, and the server is gone: the list that was good last counts at once. Past its end too, for the grace.
    config.keeper.anchors.as_mut().unwrap().place = Place::Url("https://127.0.0.1:1/anchors.jwt".to_owned());
    let desk = Desk::new(Default::default());
    let _thread = FetchThread::start(config, Arc::clone(&desk)).unwrap();
    assert_eq!(desk.current().anchors.len(), 1);
}

#[tokio::test]
async fn what_another_key_signed_or_unsigned_came_from_another_place_counts_no_more_after_a_reload() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (old, new, one, two) =
        (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), Ca::new("One"), Ca::new("Two"));
    let later = clock::unix() + 1000;
    let mut logs = LogList::new();
    logs.add("o", Log::new("log", &old.subject_public_key_info(), 60, LogState::Usable(0), None).unwrap()).unwrap();
    server.put("/old.jwt", &jws(&old, &anchor_list(&[&one], 9, later)));
    server.put("/new.jwt", &jws(&new, &anchor_list(&[&two], 1, later)));
    server.put("/logs.json", logs.to_json().as_bytes());
    let config = |anchors: &str, key: &KeyPair, logs: &str| {
        let grace = Duration::from_secs(3600);
        let anchors = AnchorSource { place: Place::Url(server.url(anchors)), key: list_key(key), grace };
        let logs = ListSource { place: Place::Url(server.url(logs)), key: None };
        let keeper = KeeperConfig { anchors: Some(anchors), logs: Some(logs), ..KeeperConfig::default() };
        Config { state_directory: Some(directory.path().to_owned()), keeper, ..server.config() }
    };
    let desk = Desk::new(Default::default());
    let thread = FetchThread::start(config("/old.jwt", &old, "/logs.json"), Arc::clone(&desk)).unwrap();
    let stands = || (desk.current().anchors.len(), desk.current().logs.len());
    until(|| stands() == (1, 1)).await;
    // The same key, but nothing at the new place: what it signed stays.
    thread.configure(config("/nothing", &old, "/logs.json"));
    let asked = server.asked();
    until(|| server.asked() >= asked + 2).await;
    assert_eq!(stands(), (1, 1));
    thread.configure(config("/nothing", &new, "/nothing"));
    until(|| stands() == (0, 0)).await;
    thread.configure(config("/new.jwt", &new, "/logs.json"));
    until(|| stands() == (1, 1)).await;
    let anchors = desk.current().anchors.clone();
    assert_eq!(
        anchors.iter().map(|anchor| anchor.der()).collect::<Vec<_>>(),
        [&two.der[..]],
        "the other key counts anew"
    );
    // Nor does what was kept on disk count for another place.
    drop(thread);
    let desk = Desk::new(Default::default());
    let _thread = FetchThread::start(config("/new.jwt", &new, "/nothing"), Arc::clone(&desk)).unwrap();
    assert_eq!((desk.current().anchors.len(), desk.current().logs.len()), (1, 0));
}

#[tokio::test]
async fn a_list_past_its_end_counts_for_the_grace_only() {
    let directory = tempfile::tempdir().unwrap();
    let (pa, root) = (KeyPair::generate().unwrap(), Ca::new("Root"));
    let path = directory.path().join("list.jwt");
    std::fs::write(&path, jws(&pa, &anchor_list(&[&root], 1, clock::unix() - 100))).unwrap();
    for (grace, anchors) in [(3600, 1), (50, 0)] {
        let key = list_key(&pa);
        let source = AnchorSource { place: Place::File(path.clone()), key, grace: Duration::from_secs(grace) };
        let keeper = KeeperConfig { anchors: Some(source), ..KeeperConfig::default() };
        let desk = Desk::new(Default::default());
        let _thread = FetchThread::start(Config { keeper, ..Config::default() }, Arc::clone(&desk)).unwrap();
        assert_eq!(desk.current().anchors.len(), anchors);
    }
}

#[tokio::test]
async fn logs_come_from_a_list_that_is_fetched() {
    let server = Server::start().await;
    let (log, signer) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut list = LogList::new();
    list.add("o", Log::new("log", &log.subject_public_key_info(), 60, LogState::Usable(0), None).unwrap()).unwrap();
    server.put("/logs.json", list.to_json().as_bytes());
    server.put("/logs.jws", &jws(&signer, &list.to_json()));
    for (path, key, logs) in
        [("/logs.json", None, 1), ("/logs.jws", Some(list_key(&signer)), 1), ("/logs.json", Some(list_key(&signer)), 0)]
    {
        let source = ListSource { place: Place::Url(server.url(path)), key };
        let keeper = KeeperConfig { logs: Some(source), ..KeeperConfig::default() };
        let desk = Desk::new(Default::default());
        let before = server.asked();
        let thread = FetchThread::start(Config { keeper, ..server.config() }, Arc::clone(&desk)).unwrap();
        until(|| desk.current().logs.len() == logs && server.asked() > before).await;
        drop(thread);
        assert_eq!(desk.current().logs.len(), logs, "{path}");
    }
}

#[tokio::test]
async fn a_crl_is_fetched_when_a_certificate_names_it_and_only_a_newer_one_takes_its_place() {
    let server = Server::start().await;
    let root = Ca::new("Root");
    let serial = SerialNumber::from_slice(&[0x42; 8]);
    let url = server.url("/list.crl");
    let leaf = root.leaf(|params| {
        params.serial_number = Some(serial.clone());
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url.clone()] }];
    });
    let crl = |number: u64, revoked: bool, age: i64| {
        let at = |seconds| time::OffsetDateTime::from_unix_timestamp(clock::unix() + seconds).unwrap();
        let entry = RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: at(-10),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(-age),
            next_update: at(3600),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: if revoked { vec![entry] } else { vec![] },
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&Issuer::from_params(&root.params, &root.key)).unwrap().der().to_vec()
    };
    let mut trust = crate::cert::TrustStore::default();
    trust.anchors.add_der(&root.der).unwrap();
    let desk = Desk::new(trust);
    let chain = desk.current().assess(&[leaf]).unwrap();
    let status = || {
        let trust = desk.current();
        trust.revocations.worst(chain.revocable(), clock::unix(), 60)
    };
    assert_eq!((chain.revocable().len(), status()), (1, Revocation::Unavailable));
    server.put("/list.crl", &crl(2, false, 20));
    let thread = FetchThread::start(server.config(), Arc::clone(&desk)).unwrap();
    let credential = Arc::new(Credential { chain: desk.current().assess(&[chain.leaf.der().to_vec()]) });
    thread.fetcher().lacks(Arc::clone(&credential));
    until(|| status() == Revocation::Good).await;
    assert_eq!(desk.current().epoch, 0, "what is warm stays warm");
    // An older one, with everything else in order, changes nothing; a newer one counts.
    for (content, expected) in [(crl(1, true, 30), Revocation::Good), (crl(3, true, 10), Revocation::Revoked)] {
        let before = server.asked();
        server.put("/list.crl", &content);
        let (answer, purged) = tokio::sync::oneshot::channel();
        assert!(thread.commands().try_send(Command::Purge { which: Which::All, answer }).is_ok());
        purged.await.unwrap();
        until(|| server.asked() > before && (expected == Revocation::Good || status() == expected)).await;
        assert_eq!(status(), expected);
    }
}

/// A leaf whose TNAuthList lies at a URI.
fn by_reference(root: &Ca, uri: &str) -> Vec<u8> {
    let tlv = crate::cert::der::element;
    let access = [tlv(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 0x0e]), tlv(0x86, uri.as_bytes())].concat();
    let access = tlv(0x30, &tlv(0x30, &access));
    root.leaf(|params| {
        params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access));
    })
}

fn list() -> TnAuthList {
    TnAuthList::new(vec![TnEntry::One("12025550100".to_owned())]).unwrap()
}

/// A server with two chains, `/1.pem` and `/2.pem`, and their lists; a desk that trusts them.
async fn with_lists() -> (Server, Arc<Desk>) {
    let (server, root) = (Server::start().await, Ca::new("Root"));
    for n in 1..=2 {
        server.put(&format!("/tn{n}"), &list().to_der());
        server.put(&format!("/{n}.pem"), &by_reference(&root, &server.url(&format!("/tn{n}"))));
    }
    let mut trust = crate::cert::TrustStore::default();
    trust.anchors.add_der(&root.der).unwrap();
    (server, Desk::new(trust))
}

#[tokio::test]
async fn a_list_by_reference_is_there_when_the_chain_is_and_is_kept_up_to_date() {
    let (server, desk) = with_lists().await;
    let thread = FetchThread::start(server.config(), Arc::clone(&desk)).unwrap();
    let chain = ask(&thread.fetcher(), &server.url("/1.pem")).await.unwrap();
    let verdict = desk.current().assess(&chain.certificates).unwrap();
    assert!(verdict.leaf.tn_auth_list().unwrap().unwrap().covers("12025550100"));
    assert!(verdict.holds_until() < clock::unix() + 86_400 + 60, "it is looked at again");
    assert_eq!(server.asked(), 2);
    // What is kept up to date is looked at when the cache is purged.
    let (answer, purged) = tokio::sync::oneshot::channel();
    assert!(thread.commands().try_send(Command::Purge { which: Which::All, answer }).is_ok());
    purged.await.unwrap();
    until(|| server.asked() == 3).await;
}

#[tokio::test]
async fn a_list_by_reference_that_is_the_same_leaves_warm_what_is_warm() {
    let (server, desk) = with_lists().await;
    let uri = server.url("/tn1");
    let list = list();
    let config = server.config();
    let client = client::Client::new(config.clone(), Arc::new(tls_config(&config).unwrap()));
    keeper::fetch_lists(std::slice::from_ref(&uri), i64::MAX, 64, &client, &desk).await;
    let epoch = desk.current().epoch;
    let other = TnAuthList::new(vec![TnEntry::One("12025550199".to_owned())]).unwrap();
    for (list, expected) in [(&list, epoch), (&other, epoch + 1), (&other, epoch + 1)] {
        server.put("/tn1", &list.to_der());
        keeper::fetch_lists(std::slice::from_ref(&uri), i64::MAX, 64, &client, &desk).await;
        let trust = desk.current();
        assert_eq!((trust.epoch, &trust.referenced.get(&uri).unwrap().list), (expected, list));
    }
}

#[tokio::test]
async fn lists_by_reference_are_bounded() {
    let (server, desk) = with_lists().await;
    let keeper = KeeperConfig { max_lists: 1, ..KeeperConfig::default() };
    let thread = FetchThread::start(Config { keeper, ..server.config() }, Arc::clone(&desk)).unwrap();
    for path in ["/1.pem", "/2.pem", "/1.pem"] {
        ask(&thread.fetcher(), &server.url(path)).await.unwrap();
    }
    assert!(desk.learned().referenced.get(&server.url("/tn1")).is_some());
    assert_eq!((desk.learned().referenced.len(), server.asked()), (1, 3), "two chains, one list");
}

#[tokio::test]
async fn rfc9060_12_a_list_by_reference_counts_no_longer_than_its_time_and_is_renewed_before() {
    let server = Server::start().await;
    server.put("/tn", &list().to_der());
    let (config, desk) = (server.config(), Desk::new(Default::default()));
    let client = Arc::new(client::Client::new(config.clone(), Arc::new(tls_config(&config).unwrap())));
    let mut keeper = keeper::Keeper::new(&config, client, Arc::clone(&desk));
    let (now, kept, other) = (clock::unix(), server.url("/tn"), "https://a.example/tn");
    let end = now + 100;
    desk.learn(crate::node::trust::Verdicts::AreMadeAnew, |learned| {
        for uri in [&kept, other] {
            let list = Arc::new(crate::cert::ReferencedList { list: list(), fresh_until: end });
            learned.referenced = learned.referenced.with(uri, list);
        }
    });
    let due = now + 80;
    keeper.adopt(keeper::FirstLook { uri: kept.as_str().into(), not_after: now + 86_400, due });
    keeper.tick(due - 1);
    assert_eq!(server.asked(), 0);
    keeper.tick(due);
    keeper.work().await;
    assert_eq!((server.asked(), desk.learned().referenced.len()), (1, 2));
    let epoch = desk.current().epoch;
    keeper.tick(end);
    assert!(desk.learned().referenced.get(other).is_none(), "nobody keeps it up to date, and its time is over");
    assert!(desk.learned().referenced.get(&kept).is_some_and(|list| list.fresh_until > end));
    assert_eq!(desk.current().epoch, epoch + 1, "verdicts that rest on it are made anew");
}

/// Hosts that hold their sockets take every fetch there may be, and the warm are answered all the same.
#[tokio::test]
async fn what_is_warm_is_answered_while_every_fetch_hangs() {
    let server = Server::start().await;
    let config = Config { max_in_flight: 2, total_timeout: Duration::from_secs(120), ..server.config() };
    let thread = FetchThread::start(config, server.trusting()).unwrap();
    let warm = server.url("/chain.pem");
    ask(&thread.fetcher(), &warm).await.unwrap();
    let (answer_to, mut answers) = mpsc::channel(64);
    let deadline = clock::instant() + Duration::from_secs(120);
    for id in 0..40 {
        let x5u = server.url(&format!("/silent{}", if id == 0 { "" } else { "/x" })).into();
        let question = Question { id, x5u, deadline, answer_to: answer_to.clone() };
        assert!(thread.fetcher().ask(question).is_ok());
    }
    // Sockets that nobody serves: connected, and then nothing.
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for id in 0..4 {
        let x5u = format!("https://{}/{id}", held.local_addr().unwrap()).into();
        assert!(thread.fetcher().ask(Question { id, x5u, deadline, answer_to: answer_to.clone() }).is_ok());
    }
    for _ in 0..100 {
        ask(&thread.fetcher(), &warm).await.unwrap();
    }
    let early: Vec<u64> = std::iter::from_fn(|| answers.try_recv().ok()).map(|answered| answered.id).collect();
    assert!(!early.contains(&0), "the silent one still waits");
}

/// Answers every question for an address with these, and counts questions.
async fn name_server(addresses: &'static [Ipv4Addr]) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let labels = query[12..length].iter().position(|octet| *octet == 0).unwrap();
            let question = &query[12..12 + labels + 5];
            let is_a = question[labels + 2] == 1;
            let records = if is_a { addresses } else { &[] };
            counter.fetch_add(usize::from(is_a), Ordering::SeqCst);
            let mut reply = [&query[..2], &[0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0], question].concat();
            for record in records {
                reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]); // TTL 0: whoever asks twice gets another answer
                reply.extend(record.octets());
            }
            let _ = socket.send_to(&reply, from).await;
        }
    });
    (address, asked)
}

/// DNS rebinding: the answer is looked at once and the connection goes to what was looked at, or nowhere.
#[tokio::test]
async fn a_name_that_leads_inside_is_refused_after_one_look() {
    let server = Server::start().await;
    static INSIDE: [Ipv4Addr; 3] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254)];
    let (names, asked) = name_server(&INSIDE).await;
    let config = Config { name_servers: vec![names], allow_private_addresses: false, ..server.config() };
    let url = format!("https://certs.example:{}/chain.pem", server.address().port());
    let refused = live(&config, Desk::new(Default::default()), &url).await;
    assert!(matches!(refused, Err(FetchError::AddressRefused(_))), "{refused:?}");
    assert_eq!((asked.load(Ordering::SeqCst), server.asked()), (1, 0));
    // Where it is allowed, the connection is made, and the certificate of another name ends it.
    let config = Config { allow_private_addresses: true, ..config };
    let refused = live(&config, Desk::new(Default::default()), &url).await;
    assert!(matches!(refused, Err(FetchError::Tls(_))), "{refused:?}");
    assert_eq!((asked.load(Ordering::SeqCst), server.asked()), (2, 0));
}

#[tokio::test]
async fn dead_hosts_and_names_that_are_not_there_have_their_own_errors() {
    let server = Server::start().await;
    let (names, _) = name_server(&[]).await;
    let config = Config { name_servers: vec![names], ..server.config() };
    let desk = || Desk::new(Default::default());
    assert_eq!(live(&config, desk(), "https://nowhere.example/").await, Err(FetchError::Resolve));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = live(&config, desk(), &format!("https://{closed}/")).await;
    assert_eq!(refused, Err(FetchError::Connect(io::ErrorKind::ConnectionRefused)));
}
