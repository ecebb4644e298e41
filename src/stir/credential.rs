//! Credentials and where they are kept: per worker, bounded, without locks.
//!
//! Three maps. `headers` finds everything about a token by its raw protected header; only headers whose token verified get in, so that
//! a stranger can not push out what is in use. `chains` finds the verdict on a chain by the SHA-256 of all its certificates; chains
//! without a path go to a small map of their own. `fetched` keeps what an `x5u` answered.
use super::verification::VerifierConfig;
use super::{Failure, FetchFailure};
use crate::cert::{CacheLimits, CertificateError, ChainCache, ChainVerdict, TrustStore};
use crate::passport::ProtectedHeader;
use crate::passport::ppt::Ppt;
use crate::stir::url::{HttpsUrl, UrlError};
use aws_lc_rs::digest;
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use std::sync::Arc;

/// A signer's certificate with what can be said about its chain.
#[derive(Debug)]
pub struct Credential {
    /// The verdict, or why there is no certificate to speak of.
    pub chain: Result<ChainVerdict, CertificateError>,
}

/// A protected header that has been read, with the credential it names.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) is_passport: bool,
    pub(super) is_es256: bool,
    /// The extension by name.
    pub(super) ppt: Option<String>,
    /// The extension, when supported.
    pub(super) supported: Option<Ppt>,
    pub(super) x5u: Option<String>,
    /// The chain came inline (`x5c`).
    pub(super) inline: bool,
    /// Host of `x5u` is a dNSName of the leaf (R26).
    pub(super) domain: Result<(), Failure>,
    pub(super) credential: Result<Arc<Credential>, Failure>,
    /// UNIX seconds until which the credential may be used without asking anew.
    until: i64,
}

/// A chain fetched from an `x5u`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedChain {
    /// DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// UNIX seconds until which HTTP says the answer is fresh.
    pub fresh_until: i64,
}

#[derive(Debug)]
struct Fetched {
    answer: Result<Vec<Vec<u8>>, FetchFailure>,
    until: i64,
}

/// What the look-up of a protected header gave.
pub(super) enum Found {
    Known(Arc<Known>),
    /// The chain is to be fetched from here first.
    Need(Box<str>),
}

#[derive(Debug)]
pub(super) struct Credentials {
    key: [u8; 16],
    negative_ttl: i64,
    max_fetched_age: i64,
    allow_any_port: bool,
    headers: ChainCache<Known>,
    chains: ChainCache<Credential>,
    pathless: ChainCache<Credential>,
    fetched: ChainCache<Fetched>,
    /// Headers that were known, and that were not.
    pub(super) counts: [u64; 2],
    /// Chains assessed, and the certificates in them.
    pub(super) assessed: [u64; 2],
}

impl Credentials {
    pub(super) fn new(config: &VerifierConfig, key: [u8; 16]) -> Self {
        let small = |max_entries| CacheLimits { max_entries, max_key_octets: max_entries.saturating_mul(512) };
        Self {
            key,
            negative_ttl: config.negative_ttl,
            max_fetched_age: config.max_fetched_age,
            allow_any_port: config.allow_any_port,
            headers: ChainCache::new(config.headers),
            chains: ChainCache::new(small(config.max_chains)),
            pathless: ChainCache::new(small(config.max_refused_chains)),
            fetched: ChainCache::new(small(config.max_fetched)),
            counts: [0; 2],
            assessed: [0; 2],
        }
    }

    fn hash(&self, octets: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(octets);
        hasher.finish()
    }

    /// The header under its raw text, if its token verified before.
    pub(super) fn known(&mut self, unix: i64, epoch: u64, raw: &[u8]) -> Option<Arc<Known>> {
        let hash = self.hash(raw);
        let known = self.headers.get(hash, raw, epoch, unix).map(Arc::clone);
        let [hits, misses] = &mut self.counts;
        *if known.is_some() { hits } else { misses } += 1;
        known
    }

    /// Keeps a header whose token has verified.
    pub(super) fn remember(&mut self, epoch: u64, raw: &[u8], known: Arc<Known>) {
        let hash = self.hash(raw);
        let until = known.until;
        self.headers.insert(hash, raw, epoch, until, known);
    }

    /// Reads a header for the first time. `inline_only`: do not ask for what has to be fetched.
    pub(super) fn look_up(
        &mut self,
        unix: i64,
        trust: &TrustStore,
        header: ProtectedHeader,
        inline_only: bool,
    ) -> Found {
        let url = header.x5u.as_deref().map_or(Err(UrlError::Scheme), HttpsUrl::parse);
        let inline = !header.x5c.is_empty();
        let (credential, until) = if inline {
            let credential = self.assess(unix, trust, &header.x5c);
            let until = window_end(&credential);
            (Ok(credential), until)
        } else if inline_only {
            (Err(Failure::NoX5c), unix)
        } else {
            let x5u = header.x5u.as_deref().unwrap_or_default();
            match url.and_then(|url| url.fetchable(self.allow_any_port)) {
                Err(error) => (Err(Failure::Url(error)), unix),
                Ok(()) => match self.fetched(unix, trust.epoch, x5u) {
                    None => return Found::Need(x5u.into()),
                    Some(fetched) => match &fetched.answer {
                        Err(failure) => (Err(Failure::Fetch(*failure)), unix),
                        Ok(chain) => {
                            let credential = self.assess(unix, trust, chain);
                            let until = window_end(&credential).min(fetched.until);
                            (usable(credential), until)
                        }
                    },
                },
            }
        };
        let domain = match (&credential, url) {
            (_, Err(error)) => Err(Failure::Url(error)),
            (Ok(credential), Ok(url)) => names_host(credential, &url),
            (Err(failure), Ok(_)) => Err(*failure),
        };
        Found::Known(Arc::new(Known {
            is_passport: header.require_passport().is_ok(),
            is_es256: header.alg == "ES256",
            supported: header.supported_ppt(),
            ppt: header.ppt,
            x5u: header.x5u,
            inline,
            domain,
            credential,
            until,
        }))
    }

    fn fetched(&mut self, unix: i64, epoch: u64, x5u: &str) -> Option<Arc<Fetched>> {
        let hash = self.hash(x5u.as_bytes());
        self.fetched.get(hash, x5u.as_bytes(), epoch, unix).map(Arc::clone)
    }

    /// Keeps what an `x5u` answered, for calls that are judged in this epoch: a chain while it is fresh, a failure for the negative time.
    pub(super) fn provide(&mut self, unix: i64, epoch: u64, x5u: &str, answer: Result<FetchedChain, FetchFailure>) {
        let (answer, until) = match answer {
            Ok(chain) if chain.certificates.is_empty() => (Err(FetchFailure::NotCertificates), 0),
            // At least as long as a failure: the request that asked has to find it.
            Ok(chain) => (Ok(chain.certificates), chain.fresh_until.min(unix.saturating_add(self.max_fetched_age))),
            Err(failure) => (Err(failure), 0),
        };
        let until = until.max(unix.saturating_add(self.negative_ttl));
        let hash = self.hash(x5u.as_bytes());
        self.fetched.insert(hash, x5u.as_bytes(), epoch, until, Arc::new(Fetched { answer, until }));
    }

    fn assess(&mut self, unix: i64, trust: &TrustStore, chain: &[Vec<u8>]) -> Arc<Credential> {
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in chain {
            // Lengths keep two chains from having one text.
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let key = context.finish();
        let key = key.as_ref();
        let hash = self.hash(key);
        for cache in [&mut self.chains, &mut self.pathless] {
            if let Some(credential) = cache.get(hash, key, trust.epoch, unix) {
                return Arc::clone(credential);
            }
        }
        let [chains, certificates] = &mut self.assessed;
        (*chains, *certificates) = (*chains + 1, *certificates + chain.len() as u64);
        let credential = Arc::new(Credential { chain: trust.assess(chain) });
        if has_path(&credential) {
            // Kept a negative time even when expired, so that an expired chain is not assessed for every call.
            let until = window_end(&credential).max(unix.saturating_add(self.negative_ttl));
            self.chains.insert(hash, key, trust.epoch, until, Arc::clone(&credential));
        } else {
            let until = unix.saturating_add(self.negative_ttl);
            self.pathless.insert(hash, key, trust.epoch, until, Arc::clone(&credential));
        }
        credential
    }
}

fn has_path(credential: &Credential) -> bool {
    credential.chain.as_ref().is_ok_and(|chain| chain.path.is_ok())
}

fn window_end(credential: &Credential) -> i64 {
    credential.chain.as_ref().map_or(i64::MIN, ChainVerdict::holds_until)
}

/// A fetched answer that is no certificate is a bad `info` (436), not an unsupported credential.
fn usable(credential: Arc<Credential>) -> Result<Arc<Credential>, Failure> {
    match &credential.chain {
        Ok(_) | Err(CertificateError::NotEs256 { .. } | CertificateError::Precertificate) => Ok(credential),
        Err(_) => Err(Failure::Fetch(FetchFailure::NotCertificates)),
    }
}

fn names_host(credential: &Credential, url: &HttpsUrl<'_>) -> Result<(), Failure> {
    let names = credential.chain.as_ref().map_or(&[][..], |chain| chain.leaf.dns_names());
    if names.iter().any(|name| url.is_host(name)) { Ok(()) } else { Err(Failure::HostNotInCertificate) }
}
