//! Identity fields made by hand, with real keys: right but for one fault.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::passport::claims::Destinations;
use crate::passport::ppt::shaken::{Attestation, origid};
use crate::passport::{Claims, Identity, jws, serialize};
use crate::pki::lab::Credential;

/// A token to be signed.
pub struct Draft<'a> {
    /// Who signs.
    pub credential: &'a Credential,
    /// Calling number.
    pub orig: &'a str,
    /// Called number.
    pub dest: &'a str,
    /// Unix seconds.
    pub iat: i64,
    /// SHAKEN claims with these 16 random octets as `origid`.
    pub shaken: Option<[u8; 16]>,
    /// Call reason, the claim `crn`.
    pub reason: Option<&'a str>,
    /// Flip one bit of the signature.
    pub is_tampered: bool,
}

/// The key of a credential can not sign ES256; the lab makes none such.
#[derive(Debug)]
pub struct KeyRefused;

impl Draft<'_> {
    /// The value of the Identity field (RFC 8224 section 4): full form, chain in `x5c`, `info` equal to `x5u`.
    pub fn sign(&self) -> Result<String, KeyRefused> {
        let ppt = self.shaken.map(|_| "shaken");
        let mut header = Vec::new();
        serialize::write_header(ppt, &self.credential.chain, Some(&self.credential.x5u), &mut header);
        let mut claims = Claims::baseline(
            Identity::Tn(self.orig.into()),
            Destinations::one(Identity::Tn(self.dest.into())),
            self.iat,
        );
        if let Some(random) = self.shaken {
            claims.attest = Some(Attestation::Full.letter().into());
            claims.origid = Some(origid(random).as_str().to_owned().into());
        }
        claims.others.extend(self.reason.map(|reason| ("crn".into(), reason.into())));
        let mut payload = Vec::new();
        serialize::write_claims(&claims, &mut payload);

        let mut token = Vec::new();
        jws::encode(&header, &mut token);
        token.push(b'.');
        jws::encode(&payload, &mut token);
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.credential.pkcs8());
        let signature = key.map_err(|_| KeyRefused)?.sign(&SystemRandom::new(), &token).map_err(|_| KeyRefused)?;
        let mut signature = signature.as_ref().to_vec();
        if self.is_tampered {
            signature[0] ^= 1;
        }
        token.push(b'.');
        jws::encode(&signature, &mut token);
        let ppt = ppt.map(|ppt| format!(";ppt=\"{ppt}\"")).unwrap_or_default();
        Ok(format!("{};info=<{}>;alg=ES256{ppt}", String::from_utf8_lossy(&token), self.credential.x5u))
    }
}
