//! The STI-PA's list of trusted authorities (certificates dossier section 8).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData};
use serde_json::{Value, json};
use vesperd::cert::{AnchorList, ListKey, SignedListError, open};

use super::support::{Authority, NOW, ca_params, es256, leaf_params, p256};

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn certificate(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

fn sign(key: &KeyPair, header: &Value, payload: &Value) -> Vec<u8> {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", encode(header), encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(es256(key, input.as_bytes()));
    format!("{input}.{signature}\n").into_bytes()
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "ES256", "x5u": "https://elsewhere.example/believe-me.pem"})
}

fn payload(roots: &[&Authority], sequence: u64) -> Value {
    let list: Vec<String> = roots.iter().map(|root| certificate(&root.der)).collect();
    json!({"version": "1.0", "sequence": sequence, "exp": NOW + 1000, "trustList": list, "extensions": {}})
}

fn key_of(pair: &KeyPair) -> ListKey {
    ListKey::from_pem(pem("PUBLIC KEY", &pair.subject_public_key_info()).as_bytes()).unwrap()
}

#[test]
fn anchors_come_from_a_list_signed_by_the_configured_key() {
    let (pair, one, two) = (p256(), Authority::root(ca_params("One ROOT")), Authority::root(ca_params("Two ROOT")));
    let token = sign(&pair, &header(), &payload(&[&one, &two], 5));
    let list = AnchorList::read(&token, &key_of(&pair), None).unwrap();
    assert_eq!((list.version.as_str(), list.sequence, list.exp, list.anchors.len()), ("1.0", 5, NOW + 1000, 2));
    // The key may come as a certificate.
    let own = CertificateParams::default().self_signed(&pair).unwrap();
    assert!(AnchorList::read(&token, &ListKey::from_pem(own.pem().as_bytes()).unwrap(), None).is_ok());
    assert!(matches!(AnchorList::read(&token, &key_of(&p256()), None), Err(SignedListError::Signature)));
}

#[test]
fn no_other_signature_is_believed() {
    let (pair, root) = (p256(), Authority::root(ca_params("ROOT")));
    let read = |token: &[u8]| AnchorList::read(token, &key_of(&pair), None);
    let claims = payload(&[&root], 1);
    for alg in ["none", "HS256", "RS256", "es256"] {
        let token = sign(&pair, &json!({"alg": alg}), &claims);
        assert!(matches!(read(&token), Err(SignedListError::Algorithm { .. })), "{alg}");
    }
    let token = String::from_utf8(sign(&pair, &header(), &claims)).unwrap();
    let [head, _, signature] = token.trim().split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let swapped = URL_SAFE_NO_PAD.encode(payload(&[&root], 2).to_string());
    assert!(matches!(read(format!("{head}.{swapped}.{signature}").as_bytes()), Err(SignedListError::Signature)));
    assert!(matches!(read(format!("{head}.{swapped}.").as_bytes()), Err(SignedListError::Signature)));
    for junk in ["", "a", "a.b", "a.b.c", "!.!.!"] {
        assert!(read(junk.as_bytes()).is_err(), "{junk}");
    }
}

#[test]
fn the_sequence_never_goes_back() {
    let (pair, root) = (p256(), Authority::root(ca_params("ROOT")));
    let read = |sequence, known| {
        AnchorList::read(&sign(&pair, &header(), &payload(&[&root], sequence)), &key_of(&pair), known)
    };
    assert!(read(7, Some(7)).is_ok() && read(8, Some(7)).is_ok());
    assert!(matches!(read(6, Some(7)), Err(SignedListError::Sequence { offered: 6, known: 7 })));
}

#[test]
fn a_list_counts_to_its_end_and_the_grace() {
    let (pair, root) = (p256(), Authority::root(ca_params("ROOT")));
    let list = AnchorList::read(&sign(&pair, &header(), &payload(&[&root], 1)), &key_of(&pair), None).unwrap();
    assert!(list.check_expiry(NOW + 999, 0).is_ok() && list.check_expiry(NOW + 1099, 100).is_ok());
    assert!(matches!(list.check_expiry(NOW + 1000, 0), Err(SignedListError::Expired { .. })));
    assert!(list.check_expiry(NOW + 1100, 100).is_err());
}

#[test]
fn an_entry_that_can_not_be_an_anchor_does_not_spoil_the_others() {
    let (pair, root) = (p256(), Authority::root(ca_params("ROOT")));
    let leaf = root.issue(leaf_params());
    let mut claims = payload(&[&root, &leaf], 1);
    let list = claims["trustList"].as_array_mut().unwrap();
    list.push("no certificate".into());
    list.push(STANDARD.encode(&Authority::root(ca_params("Bare ROOT")).der).into());
    let read = |claims: &Value| AnchorList::read(&sign(&pair, &header(), claims), &key_of(&pair), None);
    let list = read(&claims).unwrap();
    assert_eq!(list.anchors.len(), 2);
    assert_eq!(list.left_out.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(read(&payload(&[&leaf], 1)), Err(SignedListError::Anchors { listed: 1 })));
    assert!(matches!(read(&payload(&[], 1)), Err(SignedListError::Anchors { listed: 0 })));
    assert!(matches!(read(&json!({"exp": 1, "trustList": []})), Err(SignedListError::Json(_))));
}

#[test]
fn a_key_is_p256() {
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    for text in ["".to_owned(), "junk".to_owned(), pem("PUBLIC KEY", &other.subject_public_key_info())] {
        assert!(matches!(ListKey::from_pem(text.as_bytes()), Err(SignedListError::Key)));
    }
}

#[test]
fn any_text_may_be_in_such_an_envelope() {
    let pair = p256();
    let text = json!({"operators": []});
    assert_eq!(open(&sign(&pair, &header(), &text), &key_of(&pair)).unwrap(), text.to_string().into_bytes());
}
