//! The trust store: anchors, logs and policy as one immutable snapshot.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};

use super::anchors::TrustAnchors;
use super::certificate::{Certificate, CertificateError};
use super::crl::Revocations;
use super::log_list::LogList;
use super::path::{self, PathError, PathFacts, ScopeBasis};
use super::referenced::ReferencedLists;
use super::sct::Entry;
use super::verdict::{ChainVerdict, ProfileError, SctCounts, SctError, SctFacts, ValidSct};

/// Bounds on what is taken from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most certificates in a chain; default 6.
    pub max_certificates: usize,
    /// Most octets of DER in one certificate; default 8192.
    pub max_certificate_octets: usize,
    /// Most octets of DER in a chain; default 18432, which is 24 KiB of base64.
    pub max_chain_octets: usize,
    /// Most certificate signatures verified for one chain; default 12.
    pub max_signatures: usize,
    /// Most SCT signatures verified for one chain; default 8.
    pub max_sct_signatures: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_certificates: 6,
            max_certificate_octets: 8 * 1024,
            max_chain_octets: 18 * 1024,
            max_signatures: 12,
            max_sct_signatures: 8,
        }
    }
}

/// When numbers may rest on a service provider code of the CA above, without number-to-code data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnprovenSpc {
    /// Never.
    Never,
    /// When a trusted log recorded the certificate, so that its issuance can be audited.
    #[default]
    WithSct,
    /// Always.
    Always,
}

/// What a chain must satisfy beyond RFC 5280. [`Default`] is the safe choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Accept RSA signatures (2048 bits and more) on certificates, RFC 8226 section 4's transitional measure; default true.
    pub allow_rsa_issuers: bool,
    /// Accept a leaf whose path holds no CA with a TNAuthList, as all SHAKEN leaves are; default true.
    pub allow_direct_ca: bool,
    /// Numbers that rest on a service provider code above; default [`UnprovenSpc::WithSct`].
    pub unproven_spc: UnprovenSpc,
    /// Count the anchor's validity too; default true.
    pub check_anchor_validity: bool,
    /// Certificate policies (dotted) of which every certificate below the anchor must name one; empty, the default, asks for none.
    pub certificate_policies: Vec<String>,
    /// SCTs of how many different trusted logs a leaf needs; default 1.
    pub min_sct_logs: usize,
    /// Lifetime of a VESPER leaf from which on it is remarked, seconds; default 7 days.
    pub vesper_warn_lifetime: i64,
    /// Longest lifetime of a VESPER leaf, seconds; default 90 days.
    pub vesper_max_lifetime: i64,
    /// Ask a VESPER leaf for exactly one dNSName (B4); default false, at least one.
    pub vesper_single_dns_name: bool,
}

impl Default for TrustPolicy {
    fn default() -> Self {
        const DAY: i64 = 86_400;
        Self {
            allow_rsa_issuers: true,
            allow_direct_ca: true,
            unproven_spc: UnprovenSpc::default(),
            check_anchor_validity: true,
            certificate_policies: Vec::new(),
            min_sct_logs: 1,
            vesper_warn_lifetime: 7 * DAY,
            vesper_max_lifetime: 90 * DAY,
            vesper_single_dns_name: false,
        }
    }
}

/// Anchors, logs, limits and policy: an immutable snapshot, shared by `Arc` and replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct TrustStore {
    /// The trust anchors.
    pub anchors: TrustAnchors,
    /// The trusted logs.
    pub logs: LogList,
    /// Bounds on chains.
    pub limits: Limits,
    /// What chains must satisfy.
    pub policy: TrustPolicy,
    /// Revocation lists at hand. They are asked at each use and may be replaced without a new epoch.
    pub revocations: Revocations,
    /// TNAuthLists at hand that certificates name by reference.
    pub referenced: ReferencedLists,
    /// Generation of this snapshot: whoever replaces a store by another raises it, so that verdicts made under the old one are not
    /// used under the new (the epoch of [`ChainCache`](super::ChainCache)).
    pub epoch: u64,
}

impl TrustStore {
    /// Judges a chain of DER certificates, leaf first. Costs at most [`Limits::max_signatures`] and [`Limits::max_sct_signatures`]
    /// verifications. The verdict does not depend on the present time. It may be kept as long as the store stays the same, but no longer
    /// than [`ChainVerdict::holds_until`]: TNAuthLists by reference go out of date.
    ///
    /// # Errors
    /// When there is no leaf to verify anything with, or the chain exceeds the limits.
    pub fn assess(&self, chain_der: &[impl AsRef<[u8]>]) -> Result<ChainVerdict, CertificateError> {
        self.check_limits(chain_der)?;
        let (leaf_der, issuers_der) = chain_der.split_first().ok_or(CertificateError::EmptyChain)?;
        let leaf = Certificate::from_der(leaf_der.as_ref())?;
        if leaf.is_precertificate() {
            return Err(CertificateError::Precertificate);
        }
        let key = leaf
            .es256_point()
            .and_then(|point| ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok())
            .ok_or_else(|| CertificateError::NotEs256 { key: leaf.key_description() })?;
        let mut chain = vec![leaf];
        let mut unreadable = None;
        for (above, der) in issuers_der.iter().enumerate() {
            match Certificate::from_der(der.as_ref()) {
                Ok(certificate) => chain.push(certificate),
                Err(error) => {
                    unreadable.get_or_insert(PathError::Unreadable { index: above + 1, error });
                }
            }
        }
        let (referenced_until, missing_lists) = self.resolve_references(&mut chain);
        let mut path = match unreadable {
            Some(error) => Err(error),
            None => path::validate(&chain, &self.anchors, &self.limits, &self.policy),
        };
        let scts = self.check_scts(&chain[0], path.as_ref().ok());
        if matches!(&path, Ok(facts) if facts.scope == ScopeBasis::UnprovenSpc)
            && !self.allows_unproven_spc(scts.is_ok())
        {
            path = Err(PathError::UnprovenScope);
        }
        let (not_before, not_after) = match &path {
            Ok(facts) => (facts.not_before, facts.not_after),
            Err(_) => path::window(chain.iter()),
        };
        let leaf = chain.swap_remove(0);
        let lifetime = leaf.not_after().saturating_sub(leaf.not_before());
        Ok(ChainVerdict {
            vesper_profile: self.check_vesper_profile(&leaf, path.as_ref().ok(), lifetime),
            long_lived: lifetime > self.policy.vesper_warn_lifetime,
            leaf,
            path,
            not_before,
            not_after,
            scts,
            referenced_until,
            missing_lists,
            key,
        })
    }

    /// RFC 9060 section 6: a list by reference counts as if by value. Gives until when what is known of them holds, and which are missing.
    fn resolve_references(&self, chain: &mut [Certificate]) -> (i64, Vec<String>) {
        let (mut until, mut missing) = (i64::MAX, Vec::new());
        for certificate in chain.iter_mut().filter(|certificate| certificate.tn_auth_list().is_none()) {
            let Some(uri) = certificate.tn_auth_list_uris().first().cloned() else { continue };
            match self.referenced.get(&uri) {
                Some(found) => {
                    until = until.min(found.fresh_until);
                    certificate.adopt_tn_auth_list(found.list.clone());
                }
                None => missing.push(uri),
            }
        }
        (until, missing)
    }

    fn check_limits(&self, chain: &[impl AsRef<[u8]>]) -> Result<(), CertificateError> {
        if chain.len() > self.limits.max_certificates {
            return Err(CertificateError::TooManyCertificates { count: chain.len() });
        }
        let mut total = 0usize;
        for certificate in chain {
            let octets = certificate.as_ref().len();
            total = total.saturating_add(octets);
            if octets > self.limits.max_certificate_octets {
                return Err(CertificateError::TooLarge { octets });
            }
        }
        if total > self.limits.max_chain_octets {
            return Err(CertificateError::TooLarge { octets: total });
        }
        Ok(())
    }

    fn allows_unproven_spc(&self, recorded: bool) -> bool {
        match self.policy.unproven_spc {
            UnprovenSpc::Never => false,
            UnprovenSpc::WithSct => recorded,
            UnprovenSpc::Always => true,
        }
    }

    /// RFC 6962 section 5.2 for each SCT, all but the present time.
    fn check_scts(&self, leaf: &Certificate, path: Option<&PathFacts>) -> Result<SctFacts, SctError> {
        const EARLY_MS: i64 = 48 * 3600 * 1000;
        let list = leaf.scts().ok_or(SctError::Absent)?.map_err(|error| SctError::Malformed(*error))?;
        let issuer_spki = &path.ok_or(SctError::NoPath)?.issuer_spki;
        let entry = Entry::of_certificate(leaf.der(), issuer_spki).map_err(SctError::Tbs)?;
        let mut counts = SctCounts { unknown_version: list.unknown_versions, ..SctCounts::default() };
        let mut valid: Vec<ValidSct> = Vec::new();
        let mut unusual_timestamp = false;
        let mut budget = self.limits.max_sct_signatures;
        for sct in &list.scts {
            let Some(log) = self.logs.get(&sct.log_id) else {
                counts.unknown_log += 1;
                continue;
            };
            // Two SCTs of one log count once, by the earlier.
            let same_log = valid.iter().position(|other| other.log_id == sct.log_id);
            if !log.state.accepts(sct.timestamp) {
                counts.untrusted_log += 1;
            } else if budget == 0 || same_log.is_some_and(|at| valid[at].timestamp <= sct.timestamp) {
                counts.skipped += 1;
            } else {
                budget -= 1;
                if sct.verifies(&entry, log.key()) {
                    let at = i64::try_from(sct.timestamp).unwrap_or(i64::MAX);
                    unusual_timestamp |= at < leaf.not_before().saturating_mul(1000).saturating_sub(EARLY_MS)
                        || at > leaf.not_after().saturating_mul(1000);
                    let good = ValidSct { log_id: sct.log_id, timestamp: sct.timestamp };
                    match same_log {
                        Some(at) => valid[at] = good,
                        None => valid.push(good),
                    }
                } else {
                    counts.bad_signature += 1;
                }
            }
        }
        counts.valid = valid.len();
        // Without any SCT nothing is recorded, whatever the policy's number says.
        let required = self.policy.min_sct_logs.max(1);
        if valid.len() < required {
            return Err(SctError::TooFew(counts));
        }
        Ok(SctFacts { valid, counts, required, unusual_timestamp })
    }

    fn check_vesper_profile(
        &self,
        leaf: &Certificate,
        path: Option<&PathFacts>,
        lifetime: i64,
    ) -> Result<(), ProfileError> {
        let Some(Ok(list)) = leaf.tn_auth_list() else {
            return Err(ProfileError::TnAuthList);
        };
        if !list.has_tn_entry() {
            return Err(ProfileError::NoNumber);
        }
        match leaf.dns_names().len() {
            0 => return Err(ProfileError::NoDnsName),
            2.. if self.policy.vesper_single_dns_name => return Err(ProfileError::SeveralDnsNames),
            _ => {}
        }
        if matches!(leaf.claim_constraints(), Some(Err(_))) {
            return Err(ProfileError::ClaimConstraints);
        }
        if path.is_some_and(|facts| facts.missing_key_identifier) {
            return Err(ProfileError::MissingKeyIdentifier);
        }
        if lifetime > self.policy.vesper_max_lifetime {
            return Err(ProfileError::Lifetime { seconds: lifetime });
        }
        Ok(())
    }
}
