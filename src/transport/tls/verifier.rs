//! Verification of certificates by the rules of SIP: the path by webpki, extended key usage by RFC 5924 (TL-3), names by RFC 5922.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::{identities_of, proves};

/// id-kp-sipDomain, 1.3.6.1.5.5.7.3.20 (RFC 5924 4.1).
const SIP_DOMAIN: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 20];
/// anyExtendedKeyUsage, 2.5.29.37.0 (RFC 5280 4.2.1.12).
const ANY: &[u8] = &[85, 29, 37, 0];

/// Purposes of which a certificate needs one, if it names any (TL-3). Public CAs issue the first two only.
fn purposes() -> [KeyUsage; 4] {
    [KeyUsage::server_auth(), KeyUsage::client_auth(), KeyUsage::required(SIP_DOMAIN), KeyUsage::required(ANY)]
}

/// Whether a path leads from the certificate to one of the roots at this time, for a purpose that SIP accepts.
fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let mut last = CertificateError::UnknownIssuer;
    for purpose in purposes() {
        let path = certificate.verify_for_usage(algorithms, &roots.roots, intermediates, now, purpose, None, None);
        match path {
            Ok(_) => return Ok(()),
            Err(webpki::Error::RequiredEkuNotFoundContext(_)) => last = CertificateError::InvalidPurpose,
            Err(webpki::Error::CertExpired { .. }) => return Err(CertificateError::Expired.into()),
            Err(webpki::Error::CertNotValidYet { .. }) => return Err(CertificateError::NotValidYet.into()),
            Err(webpki::Error::UnknownIssuer) => return Err(CertificateError::UnknownIssuer.into()),
            Err(_) => last = CertificateError::BadSignature,
        }
    }
    Err(last.into())
}

/// For connections that this element opens.
#[derive(Debug)]
pub(super) struct FromServer {
    roots: Arc<RootCertStore>,
    names: Vec<String>,
    allow_wildcard: bool,
    provider: Arc<CryptoProvider>,
}

impl FromServer {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        names: Vec<String>,
        allow_wildcard: bool,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { roots, names, allow_wildcard, provider }
    }
}

impl ServerCertVerifier for FromServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_path(leaf, intermediates, &self.roots, &self.provider, now)?;
        let identities = identities_of(leaf);
        // D-9, RFC 5922 7.3: the name the neighbour is configured by, whatever DNS made of it.
        if self.names.iter().any(|name| proves(&identities, name, self.allow_wildcard)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// For connections that others open. Which names they prove decides later which trunk they are (TL-4).
#[derive(Debug)]
pub(super) struct FromClients {
    roots: Arc<RootCertStore>,
    hints: Vec<DistinguishedName>,
    is_mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl FromClients {
    pub(super) fn new(roots: Arc<RootCertStore>, is_mandatory: bool, provider: Arc<CryptoProvider>) -> Self {
        Self { hints: roots.subjects(), roots, is_mandatory, provider }
    }
}

impl ClientCertVerifier for FromClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify_path(leaf, intermediates, &self.roots, &self.provider, now)?;
        if self.is_mandatory && identities_of(leaf).is_empty() {
            return Err(CertificateError::NotValidForName.into()); // TL-4: it proves no domain
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
