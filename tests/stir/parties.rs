//! Several signers under one root, and calls with several tokens.
use super::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::CertificateParams;
use serde_json::{Value, json};
use vesperd::cert::{ClaimConstraints, ConstraintKind, PermittedValues, TnEntry, oid};
use vesperd::stir::authentication::{Signer, SignerConfig};
use vesperd::stir::verification::{Policy, Profile, Verdict};

pub const A: &str = CALLER;
pub const B: &str = CALLEE;
pub const C: &str = "12155551214";
pub const D: &str = "12155551215";
pub const ORIGID: &str = "123e4567-e89b-12d3-a456-426655440000";

pub struct World {
    pub hierarchy: Hierarchy,
}

/// A certificate under the root of the world.
pub struct Party {
    pub leaf: Authority,
    chain: Vec<Vec<u8>>,
}

impl World {
    pub fn new() -> Self {
        Self { hierarchy: Hierarchy::new() }
    }

    pub fn party(&self, entries: &[TnEntry]) -> Party {
        let mut params = leaf_params();
        params.custom_extensions.push(tn_extension(entries));
        self.issue(params)
    }

    pub fn number(&self, number: &str) -> Party {
        self.party(&[one(number)])
    }

    pub fn provider(&self) -> Party {
        self.party(&[spc("709J")])
    }

    pub fn constrained(&self, entries: &[TnEntry], include: &[&str], permitted: &[(&str, &[&str])]) -> Party {
        let mut params = leaf_params();
        params.custom_extensions.push(tn_extension(entries));
        let permitted = permitted.iter().map(|(claim, values)| PermittedValues {
            claim: (*claim).to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        });
        let include = include.iter().map(|claim| (*claim).to_owned()).collect();
        let constraints = ClaimConstraints::new(ConstraintKind::Basic, include, permitted.collect(), vec![]).unwrap();
        params.custom_extensions.push(extension(&oid::JWT_CLAIM_CONSTRAINTS, constraints.to_der()));
        self.issue(params)
    }

    pub fn issue(&self, params: CertificateParams) -> Party {
        let leaf = self.hierarchy.intermediate.issue(params);
        Party { chain: self.hierarchy.chain(&leaf), leaf }
    }

    /// As [`World::verify`], with the chains of signers known under [`X5U`] of theirs.
    pub fn verify_signed(&self, policy: &Policy, signers: &[(&str, &Party)], octets: &[u8]) -> Verdict {
        let mut verifier = verifier();
        for (x5u, party) in signers {
            verifier.provide(NOW, &self.hierarchy.store, x5u, super::fetch::fetched(&party.chain, NOW + DAY));
        }
        let replay = vesperd::stir::replay::ReplayTable::default();
        done(with(octets, |message| verifier.verify(NOW, policy, &self.hierarchy.store, Some(&replay), message)))
    }

    pub fn verify(&self, policy: &Policy, octets: &[u8]) -> Verdict {
        verify(policy, &self.hierarchy.store, octets)
    }
}

impl Party {
    pub fn token(&self, ppt: &str, payload: &Value) -> String {
        let x5c: Vec<String> = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
        let mut header = json!({"alg": "ES256", "typ": "passport", "x5c": x5c, "x5u": X5U});
        if !ppt.is_empty() {
            header["ppt"] = ppt.into();
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(&header), encode(payload));
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(es256(&self.leaf.key, input.as_bytes())))
    }

    /// The Identity line with such a token.
    pub fn line(&self, ppt: &str, payload: &Value) -> String {
        field(ppt, &self.token(ppt, payload))
    }

    /// A signer whose chain is published there.
    pub fn signer(&self, x5u: &str) -> Signer {
        Signer::new(self.config(x5u)).unwrap()
    }

    pub fn config(&self, x5u: &str) -> SignerConfig {
        SignerConfig::new(Profile::Shaken, self.chain.clone(), self.leaf.key.serialize_der(), x5u)
    }
}

pub fn field(ppt: &str, token: &str) -> String {
    if ppt.is_empty() { identity(token) } else { identity_ppt(token, ppt) }
}

pub fn shaken(dest: &str) -> Value {
    json!({"attest": "A", "dest": {"tn": [dest]}, "iat": NOW, "orig": {"tn": A}, "origid": ORIGID})
}

pub fn div(from: &str, to: &str) -> Value {
    json!({"dest": {"tn": [to]}, "div": {"tn": from}, "iat": NOW, "orig": {"tn": A}})
}

/// A call from [`A`] whose To is [`B`].
pub fn call(uri: &str, lines: &[String]) -> Vec<u8> {
    request(A, B, uri, "call-1@host.example", lines, "")
}

pub fn set(mut payload: Value, name: &str, value: impl Into<Value>) -> Value {
    payload[name] = value.into();
    payload
}

/// The signature segment of the token in an Identity line.
pub fn signature(line: &str) -> &str {
    let token = line.trim_start_matches("Identity: ").split(';').next().unwrap();
    token.rsplit('.').next().unwrap()
}
