//! TLS of `[[listener]]` and `[trunk.tls]`: certificates shown, certificates believed.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::files::Files;
use super::identity::outside_validity;
use super::mistake::{Fault, Warning};
use super::reader::{At, Section};
use crate::node::handshake;
use crate::transport::tls::{Client, ClientAuth, Credential, Credentials, Server};

/// What the file says about TLS.
#[derive(Default)]
pub(super) struct Tls {
    pub credentials: Credentials,
    pub handshakes: handshake::Config,
}

const CERTIFICATE: &str = "a PEM file with the chain, leaf first";
const KEY: &str = "a PEM file with the private key of the leaf";
const CAS: &str = "a PEM file with CA certificates";

/// `[tls]`: bounds on handshakes.
pub(super) fn read_bounds(root: &Section<'_, '_>, bounds: &mut handshake::Config) {
    let Some(section) = root.section("tls") else { return };
    if let Some(number) = section.number("handshake_timeout_ms", (100, 60_000)) {
        bounds.timeout = std::time::Duration::from_millis(number);
    }
    section.size("max_handshakes", (1, 100_000), &mut bounds.max_in_flight);
    section.size("handshake_queue", (1, 1_000_000), &mut bounds.queue);
    if let Some(number) = section.number("handshakes_per_second", (1, 1_000_000)) {
        bounds.per_second = number as u32;
    }
    section.finish();
}

/// The keys of a listener of transport `tls`.
pub(super) fn read_server(section: &Section<'_, '_>, files: &Files<'_>, warnings: &mut Vec<Warning>) -> Option<Server> {
    section.required("certificate", CERTIFICATE);
    section.required("key", KEY);
    let first = read_credential(section, files, warnings);
    let further = section.sections("sni").into_iter().filter_map(|sni| {
        let credential = read_credential(&sni, files, warnings);
        sni.finish();
        credential
    });
    let further: Vec<_> = further.collect();
    let choices = [("none", ClientAuth::None), ("optional", ClientAuth::Optional), ("required", ClientAuth::Required)];
    let client_auth = section.choice("client_auth", &choices).unwrap_or_default();
    if client_auth != ClientAuth::None {
        section.required("client_ca", CAS);
    }
    let client_roots = read_roots(section, "client_ca", files, warnings);
    if client_auth == ClientAuth::None && client_roots.is_some() {
        let (reason, remedy) =
            ("no client is asked for a certificate", "add client_auth = \"optional\" or \"required\"");
        section.wrong(section.offset_of("client_ca"), "client_ca", Fault::Conflict { reason, remedy });
    }
    let credentials = std::iter::once(first?).chain(further).collect();
    Some(Server { credentials, client_auth, client_roots: Arc::new(client_roots.unwrap_or_else(RootCertStore::empty)) })
}

/// `[trunk.tls]`.
pub(super) fn read_client(section: Section<'_, '_>, files: &Files<'_>, warnings: &mut Vec<Warning>) -> Option<Client> {
    let expected = "domain names, one of which its certificate proves, such as [\"sip.example.com\"]";
    if section.is_absent("names") {
        section.missing("names", expected);
    }
    let names = section.read_list("names", expected, |name| {
        let is_name = rustls::pki_types::DnsName::try_from(name).is_ok();
        is_name.then(|| name.to_ascii_lowercase())
    });
    let allow_wildcard = section.bool("allow_wildcard", false);
    let own_roots = read_roots(&section, "ca", files, warnings);
    let roots = match own_roots {
        Some(roots) => roots,
        None => system_roots(),
    };
    let has_credential = !section.is_absent("certificate") || !section.is_absent("key");
    if has_credential {
        section.required("certificate", CERTIFICATE);
        section.required("key", KEY);
    }
    let credential = read_credential(&section, files, warnings);
    section.finish();
    let names: Vec<String> = names.into_iter().map(|name| name.value).collect();
    (!names.is_empty()).then(|| Client { names, allow_wildcard, roots: Arc::new(roots), credential })
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn read_roots(
    section: &Section<'_, '_>,
    key: &'static str,
    files: &Files<'_>,
    warnings: &mut Vec<Warning>,
) -> Option<RootCertStore> {
    let At { value, offset } = section.string(key)?;
    let path = files.path(value);
    let certificates =
        files.read_certificates(&path, warnings).map_err(|fault| section.wrong(offset, key, fault)).ok()?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.into_iter().map(CertificateDer::from));
    if added == 0 {
        section.wrong(offset, key, Fault::Content { path, expected: CAS });
    }
    Some(roots)
}

/// `certificate` and `key` of a table, if both are there and go together.
fn read_credential(section: &Section<'_, '_>, files: &Files<'_>, warnings: &mut Vec<Warning>) -> Option<Credential> {
    let (certificate, key) = (section.string("certificate"), section.string("key"));
    let (certificate, key) = (certificate?, key?);
    let (certificate_path, key_path) = (files.path(certificate.value), files.path(key.value));
    let chain = files.read_certificates(&certificate_path, warnings);
    let chain = chain.map_err(|fault| section.wrong(certificate.offset, "certificate", fault));
    let file = files.read_credential(&key_path, warnings).map_err(|fault| section.wrong(key.offset, "key", fault));
    let (chain, file) = (chain.ok()?, file.ok()?);
    if let Some(leaf) = chain.first() {
        match outside_validity(leaf, files.unix, &certificate_path) {
            Some(Fault::Expired { path, not_after }) if files.in_force.contains(leaf) => {
                warnings.push(Warning::ExpiredTls { certificate: path, not_after });
            }
            Some(fault) => {
                section.wrong(certificate.offset, "certificate", fault);
                return None;
            }
            None => {}
        }
        files.tls_leaves.borrow_mut().push(leaf.clone());
    }
    let Ok(private) = PrivateKeyDer::from_pem_slice(&file) else {
        section.wrong(key.offset, "key", Fault::Content { path: key_path, expected: KEY });
        return None;
    };
    let credential = Credential { chain: chain.into_iter().map(CertificateDer::from).collect(), key: private };
    if credential.fits() {
        Some(credential)
    } else {
        let fault = Fault::KeyMismatch { key: key_path, certificate: certificate_path };
        section.wrong(key.offset, "key", fault);
        None
    }
}
