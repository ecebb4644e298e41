//! Any octets as an Identity header field, taken apart to the last certificate in its `x5c`; what begins like JSON is the claims and the
//! header of a token, what begins like a certificate is one. What can be written again is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vesperd::cert::{Certificate, ClaimConstraints, TnAuthList, certificates_from_pem_or_der, lint, oid, sct};
use vesperd::passport::{Claims, Config, ProtectedHeader, Token, jws, ppt::shaken, serialize};
use vesperd::sip::identity::IdentityValue;

fuzz_target!(|input: &[u8]| match input.first() {
    Some(b'{') => {
        read_claims(input);
        let mut segment = Vec::new();
        jws::encode(input, &mut segment);
        read_header(&segment);
    }
    Some(0x30 | b'-') => certificates_from_pem_or_der(input).into_iter().flatten().for_each(|der| read_certificate(&der)),
    _ => read_field(input),
});

fn read_field(input: &[u8]) {
    let Ok(field) = IdentityValue::parse(input, 0..input.len()) else { return };
    let Ok(token) = Token::parse(field.digest, &Config::default()) else { return };
    if let Ok(signature) = jws::decode_signature(token.signature()) {
        let mut text = Vec::new();
        jws::encode(&signature, &mut text);
        assert_eq!(jws::decode_signature(&text), Ok(signature));
        // The alphabet of plain base64 and padding are tolerated; there is no third spelling.
        let is_plain = token.signature().iter().any(|octet| b"+/=".contains(octet));
        assert!(is_plain || text == token.signature());
    }
    let Token::Full(jws) = token else { return };
    let mut payload = Vec::new();
    if let Ok(json) = jws.decode_payload(&mut payload) {
        read_claims(json);
    }
    read_header(jws.header);
}

fn read_claims(json: &[u8]) {
    let config = Config::default();
    let Ok(claims) = Claims::parse(json, &config) else { return };
    let all = claims.to_map();
    assert_eq!(all.len(), claims.names().count());
    let _ = (shaken::check(&claims), claims.orig.tn(), claims.orig.text());
    if all.values().any(has_fraction) {
        return; // a signer writes integers only
    }
    let mut written = Vec::new();
    serialize::write_claims(&claims, &mut written);
    let again = Claims::parse(&written, &config).expect("what is written can be read");
    assert_eq!(again.to_map(), all);
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

fn read_header(segment: &[u8]) {
    let config = Config::default();
    let Ok(header) = ProtectedHeader::parse(segment, &config) else { return };
    let _ = (header.require_passport(), header.supported_ppt());
    assert!(header.x5c.len() <= config.max_certificates);
    for der in &header.x5c {
        assert!(der.len() <= config.max_certificate);
        read_certificate(der);
    }
    let mut written = Vec::new();
    serialize::write_header(header.ppt.as_deref(), &header.x5c, header.x5u.as_deref(), &mut written);
    let mut segment = Vec::new();
    jws::encode(&written, &mut segment);
    let again = ProtectedHeader::parse(&segment, &config).expect("what is written can be read");
    assert_eq!((again.ppt, again.x5c, again.x5u), (header.ppt, header.x5c, header.x5u));
}

fn read_certificate(der: &[u8]) {
    let Ok(certificate) = Certificate::from_der(der) else { return };
    assert_eq!(certificate.der(), der);
    let _ = (certificate.subject(), certificate.issuer(), certificate.serial_hex(), certificate.key_description());
    let _ = (certificate.names_host("sti.example.com"), certificate.es256_point(), certificate.rsa_bits());
    let _ = (lint::lint(&certificate, lint::Profile::of(&certificate)), certificate.authorizes_claim("rcd"));
    if let Some(Ok(list)) = certificate.tn_auth_list() {
        let again = TnAuthList::from_der(&list.to_der()).expect("what is written can be read");
        assert_eq!(again.entries(), list.entries());
        let _ = list.covers("12155551213");
    }
    if let Some(Ok(constraints)) = certificate.claim_constraints() {
        let again = ClaimConstraints::from_der(constraints.kind(), &constraints.to_der());
        assert_eq!(again.as_ref(), Ok(constraints));
    }
    let _ = (certificate.scts(), sct::tbs_without(der, &oid::SCT_LIST));
}
