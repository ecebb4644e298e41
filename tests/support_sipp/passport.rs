//! PASSporTs by code of its own (RFC 8225): tokens with and without faults for callers, and the check of what the proxy signs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use serde_json::{Value, json};
use vesperd::pki::lab::{self, Credential, Flaw, Lab};

use super::case::{Call, TokenLook};
use super::message::Seen;
use super::place::random;
use super::run::Scene;

/// The caller's number in the scripts; Acme's certificate of the lab covers it.
pub const CALLER: &str = "12015550112";

/// Makes the lab of a case in its directory.
pub fn make_lab(directory: &std::path::Path) -> Lab {
    lab::create(&directory.join("lab"), unix(), &lab::Options::default()).expect("a lab")
}

/// `calls.csv`: Date; tokens; URL of the certificate of the first.
pub fn calls_csv(calls: &[Call], lab: &Lab, server: SocketAddr, number: &str) -> String {
    let mut csv = String::from("SEQUENTIAL\n");
    for (call, age) in calls.iter().zip(0..) {
        // Calls of one second would have the same claims: a token seen before is a replay (RFC 8224 12.1).
        let now = unix() - age;
        csv.push_str(&http_date(now + call.date));
        let tokens: Vec<_> = call.tokens.iter().map(|kind| token(kind, now, lab, server, number)).collect();
        for (token, _) in &tokens {
            let _ = write!(csv, ";{token}");
        }
        let _ = writeln!(csv, ";{}", tokens[0].1);
    }
    csv
}

/// A token of the named kind, and its `x5u`. The part before `/` is the credential: `vesper` is Acme's delegate certificate, `shaken` the
/// provider's, both inline (`x5c`); `served`, `missing` and `slow` are the provider's behind a URL of the certificate server; others have
/// the flaw they name. The part after it is what is wrong with the token, or `good`.
fn token(kind: &str, now: i64, lab: &Lab, server: SocketAddr, number: &str) -> (String, String) {
    let (credential, fault) = kind.split_once('/').unwrap_or_else(|| panic!("no token kind {kind}"));
    let flawed = |flaw| lab.flawed(flaw, unix()).expect("a credential");
    let made: Credential;
    let mut url = None;
    let (credential, ppt) = match credential {
        "vesper" => (&lab.acme.sti, None),
        "shaken" => (&lab.provider, Some("shaken")),
        "served" | "missing" | "slow" => {
            let file = if credential == "served" { "good" } else { credential };
            url = Some(format!("https://{server}/{file}.pem"));
            (&lab.provider, Some("shaken"))
        }
        other => {
            made = flawed(match other {
                "unknown-root" => Flaw::UnknownRoot,
                "no-sct" => Flaw::NoSct,
                "expired" => Flaw::Expired,
                "foreign-x5u" => Flaw::ForeignX5u,
                _ => panic!("no credential {other}"),
            });
            (&made, None)
        }
    };
    let called = number.trim_start_matches('+');
    let (mut iat, mut orig, mut dest, mut ppt) = (now, CALLER, called.to_owned(), ppt.map(str::to_owned));
    match fault {
        "good" | "bad-signature" => {}
        "stale" => iat -= 120,
        "future" => iat += 300,
        "other-caller" => orig = "12015550113",
        "foreign-caller" => orig = "12035550100",
        "other-callee" => dest = "12025559999".to_owned(),
        "unknown-ppt" => ppt = Some("unheard-of".to_owned()),
        _ => panic!("no token fault {fault}"),
    }
    let x5c: Vec<_> = credential.chain.iter().map(|der| STANDARD.encode(der)).collect();
    let x5u = url.clone().unwrap_or_else(|| credential.x5u.clone());
    let mut header = json!({"alg": "ES256", "typ": "passport", "x5u": x5u});
    if url.is_none() {
        header["x5c"] = json!(x5c);
    }
    let mut claims = json!({"dest": {"tn": [dest]}, "iat": iat, "orig": {"tn": orig}});
    if let Some(ppt) = ppt {
        header["ppt"] = json!(ppt);
        claims["attest"] = json!("A");
        claims["origid"] =
            json!(format!("{:08x}-0000-4000-8000-{:012x}", random() as u32, random() & 0xffff_ffff_ffff));
    }
    // Members come out in the order of their names (RFC 8225 9).
    let input = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let key = SigningKey::from_pkcs8_der(credential.pkcs8()).expect("a P-256 key");
    let mut signature = Signature::to_bytes(&key.sign(input.as_bytes())).to_vec();
    if fault == "bad-signature" {
        signature[40] ^= 1;
    }
    (format!("{input}.{}", encode(signature)), x5u)
}

/// Checks the one Identity of a message: grammar, header, claims against the request, signature by the leaf in `x5c` or the lab's signer.
pub fn check(seen: &Seen, look: &TokenLook, scene: &Scene) -> Result<(), String> {
    let identities = seen.field_values("Identity");
    let [identity] = &identities[..] else {
        return Err(format!("{} Identity fields: {identities:?}", identities.len()));
    };
    let (token, parameters) = identity.split_once(';').ok_or("no parameters")?;
    let parts: Vec<_> = token.trim().split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err(format!("no three parts: {token}")) };
    let json = |part| decode(part).and_then(|b| serde_json::from_slice::<Value>(&b).map_err(|e| e.to_string()));
    let (head, body) = (json(header)?, json(claims)?);

    let expect = |what: &str, found: &Value, wanted: Value| {
        if *found == wanted { Ok(()) } else { Err(format!("{what} is {found} instead of {wanted}")) }
    };
    expect("typ", &head["typ"], json!("passport"))?;
    expect("alg", &head["alg"], json!("ES256"))?;
    expect("ppt", &head["ppt"], json!(look.ppt))?;
    expect("attest", &body["attest"], json!(look.attest))?;
    expect("orig", &body["orig"], json!({"tn": scene.place.fill(&look.orig)}))?;
    expect("dest", &body["dest"], json!({"tn": [scene.place.fill(&look.dest)]}))?;
    if look.attest.is_some() {
        let origid = body["origid"].as_str().unwrap_or_default();
        let groups: Vec<_> = origid.split('-').map(str::len).collect();
        if groups != [8, 4, 4, 4, 12] || !origid.chars().all(|c| c == '-' || c.is_ascii_hexdigit()) {
            return Err(format!("origid is no UUID: {origid}"));
        }
    }
    let x5u = head["x5u"].as_str().unwrap_or_default();
    if !parameters.contains(&format!("info=<{x5u}>")) || !x5u.starts_with("https://") {
        return Err(format!("info is not the x5u {x5u}: {parameters}"));
    }
    if let Some(ppt) = &look.ppt
        && !parameters.contains(&format!("ppt=\"{ppt}\""))
    {
        return Err(format!("no ppt parameter: {parameters}"));
    }
    let iat = body["iat"].as_i64().ok_or("no iat")?;
    // The time of an answer is its own (RFC 9970).
    let is_answer = look.ppt.as_deref() == Some("rsp");
    let date = seen.value("Date").or_else(|| is_answer.then(|| http_date(iat))).ok_or("no Date")?;
    if (-1..=1).all(|off| http_date(iat + off) != date) || (unix() - iat).abs() > 60 {
        return Err(format!("iat {iat} ({}) and Date {date} differ", http_date(iat)));
    }
    let chain = head["x5c"].as_array();
    if chain.is_some() != look.x5c {
        return Err(format!("x5c {}", if look.x5c { "is missing" } else { "is there" }));
    }
    let lab = scene.lab.as_ref().ok_or("the case has no credentials")?;
    let leaf = match chain.and_then(|chain| chain.first()) {
        Some(leaf) => STANDARD.decode(leaf.as_str().unwrap_or_default()).map_err(|e| e.to_string())?,
        None => lab.provider.leaf().to_vec(),
    };
    if ![&lab.acme.sti, &lab.provider].iter().any(|credential| credential.leaf() == leaf) {
        return Err("x5c does not begin with a certificate of the lab".to_owned());
    }
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).map_err(|e| e.to_string())?;
    let key = VerifyingKey::from_public_key_der(leaf.public_key().raw).map_err(|e| e.to_string())?;
    let signature = Signature::from_slice(&decode(signature)?).map_err(|e| e.to_string())?;
    key.verify(format!("{header}.{claims}").as_bytes(), &signature).map_err(|e| format!("signature: {e}"))
}

fn encode(octets: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(text).map_err(|e| e.to_string())
}

/// Seconds since 1970.
pub fn unix() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() as i64)
}

/// The SIP-date of a moment (RFC 3261 20.17).
fn http_date(unix: i64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(unix as u64))
}
