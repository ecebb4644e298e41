//! Embedded SCTs (RFC 6962 section 3): the TBSCertificate a log saw, and its signature over it.

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{DerSignature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use x509_parser::prelude::X509Certificate;

use super::WINDOW;
use super::der::{element, elements, only, write};
use super::openssl::OpenSsl;

const SCT_LIST: &str = "1.3.6.1.4.1.11129.2.4.2";
/// The same, as the contents of its DER.
const SCT_LIST_DER: [u8; 10] = [0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];

/// A log of the list.
#[derive(Clone)]
pub struct Log {
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Milliseconds of the last SCT that is trusted; `None`: it is not trusted.
    pub until: Option<u64>,
}

struct Sct<'a> {
    log: &'a [u8],
    timestamp: u64,
    extensions: &'a [u8],
    algorithms: [u8; 2],
    signature: &'a [u8],
}

/// Whether a trusted log has recorded the leaf by now.
pub fn is_recorded(
    leaf: &X509Certificate<'_>,
    issuer_spki: &[u8],
    logs: &[Log],
    now: i64,
    openssl: &mut OpenSsl,
) -> bool {
    let mut lists = leaf.extensions().iter().filter(|extension| extension.oid.to_id_string() == SCT_LIST);
    let (Some(list), None) = (lists.next(), lists.next()) else { return false };
    let Some(scts) = only(list.value, 0x04).and_then(read) else { return false };
    let Some(tbs) = without_scts(leaf.tbs_certificate.as_ref()) else { return false };
    let issuer = openssl.digest("sha256", issuer_spki);
    scts.iter().any(|sct| {
        let log = logs.iter().find(|log| openssl.digest("sha256", &log.spki) == sct.log);
        let Some((log, until)) = log.and_then(|log| Some((log, log.until?))) else { return false };
        let latest = u64::try_from((now + WINDOW) * 1000).unwrap();
        let is_in_time = sct.timestamp <= latest && sct.timestamp <= until;
        is_in_time && sct.algorithms == [4, 3] && is_signed(sct, &issuer, &tbs, log)
    })
}

fn is_signed(sct: &Sct<'_>, issuer: &[u8], tbs: &[u8], log: &Log) -> bool {
    let mut message = vec![0, 0];
    message.extend(sct.timestamp.to_be_bytes());
    message.extend([0, 1]);
    message.extend(issuer);
    message.extend(&(tbs.len() as u32).to_be_bytes()[1..]);
    message.extend(tbs);
    message.extend((sct.extensions.len() as u16).to_be_bytes());
    message.extend(sct.extensions);
    let key = VerifyingKey::from_public_key_der(&log.spki).ok();
    let signature = DerSignature::try_from(sct.signature).ok();
    key.zip(signature).is_some_and(|(key, signature)| key.verify(&message, &signature).is_ok())
}

/// The list; nothing when a length does not fit. SCTs of other versions are passed over.
fn read(list: &[u8]) -> Option<Vec<Sct<'_>>> {
    let (mut entries, rest) = vector(list)?;
    (rest.is_empty() && !entries.is_empty()).then_some(())?;
    let mut scts = Vec::new();
    while !entries.is_empty() {
        let (entry, rest) = vector(entries)?;
        entries = rest;
        if *entry.first()? != 0 {
            continue;
        }
        let (log, rest) = entry.get(1..)?.split_at_checked(32)?;
        let (timestamp, rest) = rest.split_first_chunk::<8>()?;
        let (extensions, rest) = vector(rest)?;
        let (&algorithms, rest) = rest.split_first_chunk::<2>()?;
        let (signature, rest) = vector(rest)?;
        rest.is_empty().then_some(())?;
        scts.push(Sct { log, timestamp: u64::from_be_bytes(*timestamp), extensions, algorithms, signature });
    }
    Some(scts)
}

fn vector(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// Every octet of the TBSCertificate but the one extension, and the lengths around it.
fn without_scts(tbs: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Vec::new();
    for (tag, value, whole) in elements(only(tbs, 0x30)?)? {
        if tag != 0xa3 {
            fields.extend(whole);
            continue;
        }
        let mut kept = Vec::new();
        for (_, extension, whole) in elements(only(value, 0x30)?)? {
            if !matches!(element(extension)?, (0x06, id, _) if id == SCT_LIST_DER) {
                kept.extend(whole);
            }
        }
        fields.extend(write(0xa3, &write(0x30, &kept)));
    }
    Some(write(0x30, &fields))
}
