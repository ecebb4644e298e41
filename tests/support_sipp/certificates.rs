//! A certification authority for SIP over TLS, and a certificate for each party.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::place::Place;

/// Writes `{tls_ca}`, and for the proxy (`own`) and its neighbours `{own_chain}`, `{own_key}` and so on; the names are `own.example` ....
pub fn issue(place: &mut Place, directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Test CA");
    let mut write = |word: &str, pem: String| {
        let path = directory.join(format!("{word}.pem"));
        std::fs::write(&path, pem).unwrap();
        place.set(word, path.display());
    };
    write("tls_ca", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    for party in ["own", "front", "back"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![format!("{party}.example")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, party);
        write(&format!("{party}_chain"), params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{party}_key"), key.serialize_pem());
    }
}
