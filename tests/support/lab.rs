//! A lab of certificates, made when a rig begins, and what signs and believes by them.

use std::sync::Arc;

use tempfile::TempDir;
use vesperd::cert::TrustAnchors;
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::pki::lab::{self, Credential, Lab, Options};
use vesperd::proxy::Answer;
use vesperd::stir::authentication::{Signer, SignerConfig};
use vesperd::stir::verification::FetchedChain;
use vesperd::stir::{Profile, TrustStore};

use super::rig::NOW;

pub struct World {
    _directory: TempDir,
    pub lab: Lab,
}

impl World {
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let lab = lab::create(directory.path(), NOW, &Options::default()).unwrap();
        Self { _directory: directory, lab }
    }

    /// Whoever believes in the lab's root and its log.
    pub fn trust(&self) -> TrustStore {
        let anchors = TrustAnchors::from_ders([self.lab.root.certificate().der()]).unwrap();
        TrustStore { anchors, logs: self.lab.log_list.clone(), ..TrustStore::default() }
    }

    /// The provider's signer: SHAKEN with full attestation, its certificate named by `x5u` only.
    pub fn provider(&self) -> Arc<Signer> {
        signer(&self.lab.provider, Profile::Shaken, Some(Attestation::Full))
    }

    /// What its `x5u` leads to.
    pub fn chain(&self) -> FetchedChain {
        FetchedChain { certificates: self.lab.provider.chain.clone(), fresh_until: NOW + 3600 }
    }

    /// The same as the answer to a need.
    pub fn fetched(&self) -> Answer {
        Answer::Certificate(Ok(self.chain()))
    }
}

/// A signer with its key in memory, but for what is said of its policy.
pub fn signer_config(credential: &Credential, profile: Profile, attestation: Option<Attestation>) -> SignerConfig {
    let (chain, key) = (credential.chain.clone(), credential.key.serialize_der());
    SignerConfig { attestation, ..SignerConfig::new(profile, chain, key, credential.x5u.clone()) }
}

pub fn signer(credential: &Credential, profile: Profile, attestation: Option<Attestation>) -> Arc<Signer> {
    Arc::new(Signer::new(signer_config(credential, profile, attestation)).unwrap())
}
