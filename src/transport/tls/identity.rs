//! SIP domain identities of a certificate (RFC 5922 7.1, 7.2; TL-1, TL-2). Pure.

use std::sync::Arc;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Domain names that a certificate proves, lower case.
pub type Identities = Vec<Arc<str>>;

/// The names a certificate stands for: the hosts of its SIP URIs (those without a user part); only if it has none, its DNS names.
/// A common name proves nothing. Empty for what can not be read.
pub fn identities_of(certificate: &[u8]) -> Identities {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = &names.value.general_names;
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => host_of_sip_uri(uri),
        _ => None,
    });
    let of_uris: Identities = uris.map(lower).collect();
    if !of_uris.is_empty() {
        return of_uris;
    }
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(lower(name)),
        _ => None,
    });
    dns.collect()
}

/// Whether one of the identities is this domain: whole names, without regard to case. A wildcard is itself and nothing else, unless
/// `allow_wildcard`: then its star stands for exactly one label.
pub fn proves(identities: &[Arc<str>], domain: &str, allow_wildcard: bool) -> bool {
    let domain = domain.trim_end_matches('.');
    identities.iter().any(|identity| {
        identity.eq_ignore_ascii_case(domain)
            || allow_wildcard
                && identity.strip_prefix("*.").zip(domain.split_once('.')).is_some_and(|(parent, (label, rest))| {
                    !label.is_empty() && parent.contains('.') && parent.eq_ignore_ascii_case(rest)
                })
    })
}

/// `sip:example.com`, not `sip:user@example.com`; scheme in any case, parameters ignored.
fn host_of_sip_uri(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    let host = rest.split([';', '?']).next()?;
    let is_host = scheme.eq_ignore_ascii_case("sip") && !host.contains('@') && !host.is_empty();
    is_host.then(|| host.split_once(':').map_or(host, |(host, _)| host))
}

fn lower(name: &str) -> Arc<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name.push(rcgen::DnType::CommonName, "common.example");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn names(of: Vec<SanType>) -> Vec<String> {
        identities_of(&certificate(of)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tl1_sip_uris_before_dns_names_and_no_common_name() {
        assert_eq!(names(vec![uri("sip:Example.com"), dns("other.example")]), ["example.com"]);
        assert_eq!(names(vec![uri("sip:bob@example.com"), dns("Other.example")]), ["other.example"]);
        assert_eq!(names(vec![uri("https://example.com"), uri("sip:a.example:5061;x=y")]), ["a.example"]);
        assert_eq!(names(vec![]), [""; 0]);
        assert!(identities_of(b"no certificate").is_empty());
    }

    #[test]
    fn tl2_whole_names_only() {
        let identities: Identities = vec!["example.com".into(), "*.example.net".into()];
        assert!(proves(&identities, "EXAMPLE.com", false) && proves(&identities, "example.com.", false));
        for other in ["sip.example.com", "example.co", "com", "", "sip.example.net"] {
            assert!(!proves(&identities, other, false), "{other}");
        }
        assert!(proves(&identities, "*.example.net", false), "a wildcard is itself");
        assert!(proves(&identities, "sip.example.net", true));
        for other in ["a.b.example.net", "example.net", ".example.net"] {
            assert!(!proves(&identities, other, true), "{other}");
        }
        assert!(!proves(&["*.com".into()], "example.com", true), "not a whole top level");
    }
}
