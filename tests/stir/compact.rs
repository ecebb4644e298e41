//! The constructed vectors CV1 to CV3 through the whole service, full and compact form, and every derivation of them that has to fail.
use super::fetch::fetched;
use super::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use vesperd::cert::TrustStore;
use vesperd::passport::JwsError;
use vesperd::passport::ppt::{Ppt, shaken::Attestation};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{Check, Disposition, Failure, Outcome, Overall, Policy, Verdict};

const URL: &str = "https://www.example.com/cert.cer";
/// Fri, 25 Sep 2015 19:12:25 GMT
const THEN: i64 = 1_443_208_345;
const DATE: &str = "Date: Fri, 25 Sep 2015 19:12:25 GMT";
const SDP: &str = "v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n\
a=fingerprint:sha-256 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1\r\n\
a=fingerprint:sha-256 02:1A:CC:54:27:AB:EB:9C:53:3F:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1:7A:03:A2:7D:F9:B0:7F:46:19:B2\r\n";

fn vector(name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(include_str!("../vectors/passport/tokens.json")).unwrap();
    all.into_iter().find(|vector| vector["name"] == name).unwrap()
}

fn part(name: &str, part: &str) -> String {
    vector(name)[part].as_str().unwrap().to_owned()
}

/// A SHAKEN certificate of 2015 for the key the vectors are signed with.
fn world() -> (TrustStore, Vec<Vec<u8>>) {
    let pem = include_str!("../vectors/passport/rfc8946.key.pem");
    let secret = p256::SecretKey::from_sec1_pem(pem).unwrap();
    let der = p256::pkcs8::EncodePrivateKey::to_pkcs8_der(&secret).unwrap();
    let key = rcgen::KeyPair::try_from(der.as_bytes()).unwrap();
    let back = |mut params: rcgen::CertificateParams| {
        set_validity(&mut params, THEN - DAY, THEN + DAY);
        params
    };
    let root = Authority::root(back(ca_params("Root CA")));
    let intermediate = root.issue(back(ca_params("Intermediate CA")));
    let leaf = intermediate.issue_with(back(shaken_params()), key);
    (trusting(&root), vec![leaf.der, intermediate.der])
}

/// The full form of a vector.
pub fn cv(name: &str) -> String {
    part(name, "token")
}

/// A token like the vectors', signed with their key.
pub fn sign(ppt: &str, payload: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({"alg": "ES256", "ppt": ppt, "typ": "passport", "x5u": URL});
    let input = format!("{}.{}", encode(&header), encode(payload));
    let secret = p256::SecretKey::from_sec1_pem(include_str!("../vectors/passport/rfc8946.key.pem")).unwrap();
    let key = p256::ecdsa::SigningKey::from(secret);
    let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(&key, input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

/// A call of the vectors' parties with a token of `ppt=rcd`, this display name, and these lines.
pub fn rcd_call(token: &str, name: &str, lines: &[String]) -> Verdict {
    let mut call = Call::new(token, ";ppt=\"rcd\"");
    call.lines.extend_from_slice(lines);
    call.verify_edited(&POLICY, |text| text.replace("\"Caller\" ", name))
}

/// A message of theirs.
pub fn message_call(token: &str, body: &'static str) -> Verdict {
    let call = Call { body, ..Call::new(token, ";ppt=\"msg\"") };
    call.verify_edited(&POLICY, |text| text.replace("INVITE", "MESSAGE"))
}

struct Call {
    from: &'static str,
    to: &'static str,
    lines: Vec<String>,
    body: &'static str,
    unix: i64,
}

impl Call {
    fn new(token: &str, parameters: &str) -> Self {
        let identity = format!("Identity: {token};info=<{URL}>{parameters}");
        let (from, to) = ("sip:+12155551212@a.example;user=phone", "sip:+12155551213@b.example;user=phone");
        Self { from, to, lines: vec![DATE.into(), identity], body: "", unix: THEN }
    }

    fn verify(&self, policy: &Policy) -> Verdict {
        self.verify_edited(policy, |text| text)
    }

    fn verify_edited(&self, policy: &Policy, edit: impl FnOnce(String) -> String) -> Verdict {
        let (trust, chain) = world();
        let mut octets = edit(String::from_utf8(invite(&self.lines, self.body)).unwrap());
        octets = octets.replace(&format!("sip:+{CALLER}@a.example;user=phone"), self.from);
        octets = octets.replace(&format!("sip:+{CALLEE}@b.example;user=phone"), self.to);
        let replay = ReplayTable::default();
        let mut verifier = verifier();
        verifier.provide(self.unix, &trust, URL, fetched(&chain, self.unix + DAY));
        match with(octets.as_bytes(), |message| verifier.verify(self.unix, policy, &trust, Some(&replay), message)) {
            Outcome::Done(verdict) => verdict,
            Outcome::Need { x5u } => panic!("needs {x5u}"),
        }
    }
}

const POLICY: Policy = Policy::shaken();

fn cv1(form: &str) -> Call {
    Call::new(&part("CV1 baseline", form), ";alg=ES256")
}

fn cv2(form: &str) -> Call {
    let token = part("CV2 baseline+mky", form);
    Call { to: "sip:Alice@example.com;transport=tcp", body: SDP, ..Call::new(&token, "") }
}

#[test]
fn cv1_cv2_cv3_are_valid() {
    for form in ["token", "compact"] {
        let verdict = cv1(form).verify(&POLICY);
        assert_valid(&verdict);
        assert_eq!(sole(&verdict).ppt, Some(Ppt::Baseline));
        assert_valid(&cv2(form).verify(&POLICY));
    }
    let verdict = Call::new(&part("CV3 shaken", "token"), ";ppt=\"shaken\"").verify(&POLICY);
    assert_valid(&verdict);
    assert_eq!(sole(&verdict).attest, Some(Attestation::Full));
    let bare = Call::new(&part("CV3 shaken", "token"), ";ppt=shaken;alg=ES256").verify(&POLICY);
    assert_valid(&bare);
}

#[test]
fn a_flipped_signature_bit() {
    for form in ["token", "compact"] {
        let token = part("CV1 baseline", form);
        let (head, signature) = token.rsplit_once('.').unwrap();
        let mut octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
        octets[40] ^= 1;
        let flipped = format!("{head}.{}", URL_SAFE_NO_PAD.encode(octets));
        let verdict = Call::new(&flipped, "").verify(&POLICY);
        assert_fault(form, &verdict, Check::Signature, Failure::Signature, 438);
    }
}

#[test]
fn signatures_of_another_length() {
    let token = part("CV1 baseline", "token");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let der = p256::ecdsa::Signature::from_slice(&raw).unwrap().to_der();
    for octets in [&raw[..63], der.as_bytes()] {
        let verdict = Call::new(&format!("{head}.{}", URL_SAFE_NO_PAD.encode(octets)), "").verify(&POLICY);
        let failure = Failure::Jws(JwsError::SignatureLength { octets: octets.len() });
        assert_fault("length", &verdict, Check::Signature, failure, 438);
    }
}

#[test]
fn another_algorithm_is_an_unsupported_credential() {
    let verdict = Call::new(&part("CV1 baseline", "token"), ";alg=RS256").verify(&POLICY);
    assert_fault("RS256", &verdict, Check::Token, Failure::Algorithm, 437);
}

#[test]
fn info_is_x5u() {
    let mut call = cv1("token");
    call.lines[1] = format!("Identity: {};info=<https://www.example.com/CERT.cer>", part("CV1 baseline", "token"));
    let verdict = call.verify(&POLICY);
    let rejection = verdict.rejection().unwrap();
    assert_eq!((rejection.status, rejection.check), (438, Some(Check::Token)));
    assert_eq!(sole(&verdict).checks.get(Check::Token).failure(), Some(Failure::InfoMismatch));
}

#[test]
fn i21_an_unknown_extension_is_ignored() {
    let call = Call::new(&part("CV1 baseline", "token"), ";ppt=\"foo\"");
    let verdict = call.verify(&POLICY);
    assert_eq!((verdict.overall(), verdict.rejection()), (Overall::NoIdentity, None));
    assert_eq!(sole(&verdict).disposition, Disposition::Ignored);
    let required = Policy { require_identity: true, ..POLICY };
    let rejection = call.verify(&required).rejection().unwrap();
    assert_eq!((rejection.status, rejection.phrase), (428, "Use Supported PASSporT Format"));
    // The header alone names it.
    let verdict = Call::new(&part("CV5 rsp no diversion", "token"), "").verify(&POLICY);
    assert_eq!(sole(&verdict).disposition, Disposition::Ignored);
    // RFC 8862: a marker for end points; an element between them does not support it and blocks nothing for it.
    let verdict = Call::new(&part("CV1 baseline", "token"), ";ppt=\"msec\"").verify(&POLICY);
    assert_eq!((sole(&verdict).disposition, verdict.rejection()), (Disposition::Ignored, None));
}

#[test]
fn i30_no_identity_at_all() {
    let (trust, _) = world();
    let verdict = verify(&POLICY, &trust, &invite(&[], ""));
    assert_eq!((verdict.overall(), verdict.rejection(), verdict.tokens().len()), (Overall::NoIdentity, None, 0));
    let required = Policy { require_identity: true, ..POLICY };
    let rejection = verify(&required, &trust, &invite(&[], "")).rejection().unwrap();
    assert_eq!((rejection.status, rejection.phrase), (428, "Use Identity Header"));
}

#[test]
fn i24_a_stale_date() {
    for form in ["token", "compact"] {
        let verdict = Call { unix: THEN + 61, ..cv1(form) }.verify(&POLICY);
        assert_fault(form, &verdict, Check::Freshness, Failure::Stale { age: 61 }, 403);
        assert_valid(&Call { unix: THEN + 60, ..cv1(form) }.verify(&POLICY));
    }
}

#[test]
fn i25_date_altered_by_five_seconds() {
    let altered = |form| {
        let mut call = cv1(form);
        call.lines[0] = "Date: Fri, 25 Sep 2015 19:12:30 GMT".into();
        call.verify(&POLICY)
    };
    assert_valid(&altered("token"));
    assert_fault("compact", &altered("compact"), Check::Signature, Failure::Signature, 438);
}

#[test]
fn i31_a_stale_date_beside_a_fresh_iat_needs_replay_state() {
    let mut call = cv1("token");
    call.lines[0] = "Date: Fri, 25 Sep 2015 19:11:24 GMT".into();
    assert_valid(&call.verify(&POLICY));
    let mut forgetful = POLICY;
    forgetful.modes.set(Check::Replay, vesperd::stir::Mode::Off);
    let verdict = call.verify(&forgetful);
    assert_fault("no replay state", &verdict, Check::Freshness, Failure::StaleDate { age: 61 }, 403);
}

#[test]
fn without_date() {
    let mut full = cv1("token");
    full.lines.remove(0);
    assert_valid(&full.verify(&POLICY));
    let mut compact = cv1("compact");
    compact.lines.remove(0);
    assert_fault("compact", &compact.verify(&POLICY), Check::Token, Failure::Compact, 438);
}

#[test]
fn i27_from_is_another() {
    let from = "sip:+12155551219@a.example;user=phone";
    let verdict = Call { from, ..cv1("token") }.verify(&POLICY);
    assert_fault("full", &verdict, Check::Claims, Failure::OrigMismatch, 438);
    let verdict = Call { from, ..cv1("compact") }.verify(&POLICY);
    assert_fault("compact", &verdict, Check::Signature, Failure::Signature, 438);
}

#[test]
fn s3_shaken_has_no_compact_form() {
    let token = part("CV3 shaken", "token");
    let compact = format!("..{}", token.rsplit('.').next().unwrap());
    let verdict = Call::new(&compact, ";ppt=\"shaken\"").verify(&POLICY);
    assert_fault("compact shaken", &verdict, Check::Token, Failure::Compact, 438);
}

#[test]
fn p12_media_keys() {
    let token = part("CV2 baseline+mky", "token");
    let alice = |body| Call { body, ..cv2("token") };
    let verdict = alice("").verify(&POLICY);
    assert_fault("no SDP", &verdict, Check::Claims, Failure::MediaKeyMismatch, 438);
    let one = "v=0\r\na=fingerprint:sha-256 4A:AD\r\n";
    assert_fault("other", &alice(one).verify(&POLICY), Check::Claims, Failure::MediaKeyMismatch, 438);
    assert!(token.len() > 300);
    let missing = Call { body: SDP, ..cv1("token") };
    assert_fault("missing", &missing.verify(&POLICY), Check::Claims, Failure::MediaKeyMissing, 438);
    assert_valid(&missing.verify(&Policy { allow_missing_mky: true, ..POLICY }));
    // Compact: rebuilt from the SDP, so another fingerprint is another signature.
    let verdict = Call { body: one, ..cv2("compact") }.verify(&POLICY);
    assert_fault("compact", &verdict, Check::Signature, Failure::Signature, 438);
}

#[test]
fn unreadable_fields() {
    let (trust, _) = world();
    for (line, failure, status) in [
        ("Identity: ;info=<https://a.example/>", Failure::Field, 438),
        ("Identity: a.b.c;info=<https://a.example/", Failure::Field, 438),
        ("Identity: a.b.c", Failure::NoInfo, 436),
        ("Identity: a.b;info=<https://a.example/>", Failure::Jws(JwsError::Segments), 438),
        (
            "Identity: a.b.c;info=<https://a.example/>",
            Failure::Jws(JwsError::Base64(vesperd::passport::jws::Segment::Payload)),
            438,
        ),
    ] {
        let verdict = verify(&POLICY, &trust, &invite(&[line.into()], ""));
        assert_fault(line, &verdict, Check::Token, failure, status);
        // It is never valid, but a policy may leave the call alone.
        let mut lax = POLICY;
        lax.modes = vesperd::stir::Modes::all(vesperd::stir::Mode::Report);
        let verdict = verify(&lax, &trust, &invite(&[line.into()], ""));
        assert_eq!((verdict.is_valid(), verdict.rejection()), (false, None), "{line}");
    }
}

#[test]
fn string_iat_is_invalid_in_production() {
    let token = part("RFC 8225 7.1", "token");
    let (trust, _) = world();
    let line = format!("Identity: {token};info=<https://cert.example.org/passport.cer>");
    let verdict = verify(&POLICY, &trust, &invite(&[line], ""));
    let failure = Failure::Payload(vesperd::passport::ClaimsError::Malformed("iat"));
    assert_fault("string iat", &verdict, Check::Token, failure, 438);
}
