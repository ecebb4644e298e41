//! Revocation as part of the verdict: what a CRL says, and what it means that there is none.
use super::pki::{TestCrl, crl_point, serial_of, subject_of};
use super::support::*;
use std::sync::Arc;
use vesperd::cert::{Certificate, Crl, TrustStore};
use vesperd::stir::verification::{Check, CheckResult, Failure, Mode, Policy};

const URL: &str = "https://crl.example/list.crl";

/// A SHAKEN credential of 30 days that names a CRL, and the key of whoever issues that.
struct Revocable {
    credential: Credential,
    crl_signer: Authority,
}

impl Revocable {
    fn new() -> Self {
        let crl_signer = Authority::root(ca_params("STI-PA CRL"));
        let mut params = shaken_params();
        params.not_after = params.not_before + time::Duration::days(30);
        params.custom_extensions.push(crl_point(URL, Some(&subject_of(&crl_signer.der))));
        Self { credential: Credential::issue_from(params, &[], NOW), crl_signer }
    }

    fn trust(&self, revoked: bool) -> TrustStore {
        let mut crl = TestCrl::indirect(&subject_of(&self.crl_signer.der));
        if revoked {
            let issuer = subject_of(&self.credential.hierarchy.intermediate.der);
            crl = crl.revoke(&serial_of(&self.credential.leaf.der), Some(&issuer));
        }
        let signers = [Certificate::from_der(&self.crl_signer.der).unwrap()];
        let crl = Crl::from_der(&crl.sign(&self.crl_signer.key), &signers, 10).unwrap();
        let mut trust = self.credential.trust.clone();
        trust.revocations = trust.revocations.with(URL, Arc::new(crl));
        trust
    }

    fn call(&self) -> Vec<u8> {
        invite(&[identity(&self.credential.token(&self.credential.header(), &claims()))], "")
    }
}

fn policy(mode: Mode) -> Policy {
    let mut policy = Policy::shaken();
    policy.modes.set(Check::Revocation, mode);
    policy
}

#[test]
fn a_revoked_certificate_is_refused_by_437_wherever_that_is_looked_at() {
    let world = Revocable::new();
    let (good, revoked) = (world.trust(false), world.trust(true));
    for mode in [Mode::Report, Mode::Enforce] {
        assert_valid(&verify(&policy(mode), &good, &world.call()));
        let verdict = verify(&policy(mode), &revoked, &world.call());
        assert_fault("revoked", &verdict, Check::Revocation, Failure::Revoked, 437);
    }
    assert_valid(&verify(&policy(Mode::Off), &revoked, &world.call()));
    assert_eq!(Policy::shaken().modes.get(Check::Revocation), Mode::Report, "the default");
    assert_eq!(Policy::vesper().modes.get(Check::Revocation), Mode::Report);
}

#[test]
fn a_crl_that_is_not_at_hand_is_policy() {
    let world = Revocable::new();
    let none = &world.credential.trust;
    let verdict = verify(&policy(Mode::Report), none, &world.call());
    assert!(verdict.is_valid() && verdict.rejection().is_none());
    let token = &verdict.tokens()[0];
    assert_eq!(token.checks.get(Check::Revocation), CheckResult::Unknown);
    assert!(token.lacks(), "so that it is fetched for calls to come");
    let verdict = verify(&policy(Mode::Enforce), none, &world.call());
    assert_fault("none", &verdict, Check::Revocation, Failure::CrlUnavailable, 437);
    let verdict = verify(&policy(Mode::Off), none, &world.call());
    assert_valid(&verdict);
    assert!(!verdict.tokens()[0].lacks());
    assert!(!verify(&policy(Mode::Report), &world.trust(false), &world.call()).tokens()[0].lacks());
}

/// A verdict that is kept is not asked about anew, a CRL is: the new one counts for the next call.
#[test]
fn a_new_crl_counts_at_once_for_what_is_warm() {
    let world = Revocable::new();
    let mut verifier = verifier();
    let octets = world.call();
    let mut run = |trust: &TrustStore| {
        with(&octets, |message| done(verifier.verify(NOW, &policy(Mode::Report), trust, None, message)))
    };
    for _ in 0..2 {
        assert_valid(&run(&world.trust(false)));
    }
    assert_fault("revoked", &run(&world.trust(true)), Check::Revocation, Failure::Revoked, 437);
}

#[test]
fn r37_a_short_lived_leaf_needs_no_crl() {
    let credential = Credential::vesper();
    let octets = invite(&[identity(&credential.token(&credential.header(), &claims()))], "");
    let mut policy = Policy::vesper();
    policy.modes.set(Check::Revocation, Mode::Enforce);
    assert_valid(&verify(&policy, &credential.trust, &octets));
}
