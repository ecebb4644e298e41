//! What the signer's certificate says: its path, its time, whom it speaks for, and what VESPER asks besides.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::constraints::Constraints;
use super::der::Numbers;
use super::json::Json;
use super::{Call, Demands, Family, Opened, Oracle, Profile, WINDOW, transparency};

const ES256_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const TN_AUTH_LIST: &str = "1.3.6.1.5.5.7.1.26";
/// Longest life of a leaf under VESPER.
const LONGEST: i64 = 90 * 86_400;

impl Oracle {
    /// Finds what is wrong with certificate and signature, and gives the constraints on the claims.
    pub(super) fn look_at_credential(
        &mut self,
        opened: &Opened,
        kind: Option<&str>,
        call: &Call,
        demands: &Demands,
        found: &mut BTreeSet<Family>,
    ) -> Constraints {
        let is_vesper = demands.profile == Profile::Vesper;
        let chain = match opened.head.get("x5c") {
            Some(x5c) => inline(x5c),
            // R17: VESPER asks for the chain in the token.
            None if is_vesper => None,
            None => opened.x5u.as_ref().and_then(|url| self.web.get(url).cloned()),
        };
        let chain = chain.filter(|chain| !chain.is_empty());
        let leaf = chain.as_ref().and_then(|chain| X509Certificate::from_der(&chain[0]).ok()).map(|(_, leaf)| leaf);
        let (Some(chain), Some(leaf)) = (&chain, leaf) else {
            found.insert(Family::Chain);
            return Constraints::None;
        };
        let (leads, leads_now) = self.openssl.paths_of(chain, call.now);
        let spki = leaf.public_key();
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
        let is_p256 = spki.algorithm.algorithm.to_id_string() == ES256_KEY && curve.as_deref() == Some(P256);
        let key = VerifyingKey::from_sec1_bytes(&spki.subject_public_key.data).ok().filter(|_| is_p256);
        // RFC 5280 section 4.2, which OpenSSL does not ask.
        let is_repeated = chain.iter().any(|der| repeats_an_extension(der));
        if !leads || key.is_none() || is_repeated {
            found.insert(Family::Chain);
        }
        let validity = leaf.validity();
        let (start, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let iat = opened.claims.iat;
        if (leads && !leads_now) || iat < start - WINDOW || iat > end + WINDOW {
            found.insert(Family::Validity);
        }
        let constraints = Constraints::of(&leaf);
        if !speaks(&leaf, &constraints, opened, kind, demands) {
            found.insert(Family::Number);
        }
        if !constraints.hold(&opened.claims) {
            found.insert(Family::Constraints);
        }
        if is_vesper {
            if end - start > LONGEST {
                found.insert(Family::Validity);
            }
            if demands.strict_claims && !opened.claims.names().all(|name| constraints.authorize(name)) {
                found.insert(Family::Constraints);
            }
            self.look_at_vesper(&leaf, chain, leads, opened, call, found);
        }
        let signature = URL_SAFE_NO_PAD.decode(&opened.signature).ok();
        let signature = signature.and_then(|octets| Signature::from_slice(&octets).ok());
        let fails =
            |(key, signature): (VerifyingKey, Signature)| key.verify(opened.input.as_bytes(), &signature).is_err();
        if key.zip(signature).is_none_or(fails) {
            found.insert(Family::Signature);
        }
        constraints
    }

    /// R24, R26, and the key identifiers of RFC 9060 section 7.
    fn look_at_vesper(
        &mut self,
        leaf: &X509Certificate<'_>,
        chain: &[Vec<u8>],
        leads: bool,
        opened: &Opened,
        call: &Call,
        found: &mut BTreeSet<Family>,
    ) {
        if leads {
            let mut path = chain.to_vec();
            if path.last() != Some(&self.anchor) {
                path.push(self.anchor.clone());
            }
            let path: Vec<_> = path.iter().map(|der| X509Certificate::from_der(der).unwrap().1).collect();
            if !path.windows(2).all(|pair| has_key_identifiers(&pair[0], &pair[1])) {
                found.insert(Family::Chain);
            }
            let issuer = path[1].public_key().raw;
            if !transparency::is_recorded(leaf, issuer, &self.logs, call.now, &mut self.openssl) {
                found.insert(Family::Transparency);
            }
        }
        let host = opened.x5u.as_deref().and_then(host);
        let same = |name: &&str| host.as_deref() == Some(&*name.trim_end_matches('.').to_ascii_lowercase());
        if !dns_names(leaf).iter().any(same) {
            found.insert(Family::Domain);
        }
    }
}

fn repeats_an_extension(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let mut known = BTreeSet::new();
    !certificate.extensions().iter().all(|extension| known.insert(extension.oid.to_id_string()))
}

fn inline(x5c: &Json) -> Option<Vec<Vec<u8>>> {
    x5c.texts()?.into_iter().map(|text| STANDARD.decode(text).ok()).collect()
}

/// Whether the certificate speaks for whom it has to: the caller, the diverting party (D-8), the namespaces.
fn speaks(
    leaf: &X509Certificate<'_>,
    constraints: &Constraints,
    opened: &Opened,
    kind: Option<&str>,
    demands: &Demands,
) -> bool {
    let list = leaf.extensions().iter().find(|extension| extension.oid.to_id_string() == TN_AUTH_LIST);
    let list = list.and_then(|list| Numbers::read(list.value));
    let has_code = list.as_ref().is_some_and(|list| list.has_code);
    let claims = &opened.claims;
    let number = match kind {
        Some("rph") => return constraints.names("rph") || (demands.providers_prioritize && has_code),
        // T-1: it speaks for itself.
        Some("rcd") if claims.get("iss").is_some() => return true,
        Some("div" | "div-o") => match &claims.div {
            Some(div) => div,
            None => return false,
        },
        _ => &claims.orig,
    };
    let Some(list) = list else { return false };
    match demands.profile {
        Profile::Shaken => list.has_code || list.covers(number),
        // R12, R23.
        Profile::Vesper => list.has_numbers() && list.covers(number),
    }
}

fn has_key_identifiers(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    let authority = below.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.is_some(),
        _ => false,
    });
    let is_subject = |extension: &ParsedExtension<'_>| matches!(extension, ParsedExtension::SubjectKeyIdentifier(_));
    authority && above.extensions().iter().any(|extension| is_subject(extension.parsed_extension()))
}

fn dns_names<'a>(leaf: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None }).collect()
}

/// The host of an https URL as it is compared: no port, no trailing dot, lower case; a name, not an address.
fn host(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !label.starts_with('-')
    };
    let is_name = host.split('.').all(is_label) && host.parse::<std::net::Ipv4Addr>().is_err();
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (scheme.eq_ignore_ascii_case("https") && is_name && is_port).then_some(host)
}
