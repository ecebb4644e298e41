//! The lab: what it issues passes the same checks that a verifier applies, and what is flawed fails exactly one of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{KeyPair, PublicKeyData};
use tempfile::TempDir;
use vesperd::cert::lint::{Level, Profile, lint};
use vesperd::cert::{
    Certificate, ChainVerdict, LogList, PathError, ScopeBasis, SctError, TrustAnchors, TrustStore, ValidityError,
    certificates_from_pem_or_der,
};
use vesperd::config::{Config, Warning};
use vesperd::pki::ca::profile::{DelegateProfile, MAX_LIFETIME};
use vesperd::pki::ca::{IssueError, Transparency};
use vesperd::pki::lab::{self, Flaw, KEY_MARK, Lab, LabError, MARKER_FILE, Options};

/// 2026-11-20T00:00:00Z.
const NOW: i64 = 1_795_132_800;
const SKEW: i64 = 60;

struct Fixture {
    directory: TempDir,
    lab: Lab,
}

fn fixture() -> Fixture {
    let directory = TempDir::new().unwrap();
    let lab = lab::create(directory.path(), NOW, &Options::default()).unwrap();
    Fixture { directory, lab }
}

impl Fixture {
    fn chain(&self, name: &str) -> Vec<Vec<u8>> {
        let pem = fs::read(self.directory.path().join(name)).unwrap();
        certificates_from_pem_or_der(&pem).into_iter().map(Result::unwrap).collect()
    }

    /// The trust store that a verifier builds from the lab's files.
    fn trust(&self) -> TrustStore {
        let root = self.chain("sti/root.pem");
        let anchors = TrustAnchors::from_ders(root.iter().map(Vec::as_slice)).unwrap();
        let logs = LogList::from_json(&fs::read(self.directory.path().join("log/log-list.json")).unwrap()).unwrap();
        TrustStore { anchors, logs, ..TrustStore::default() }
    }

    fn assess(&self, chain: &[Vec<u8>]) -> ChainVerdict {
        self.trust().assess(chain).unwrap()
    }
}

fn errors(der: &[u8], profile: Profile) -> Vec<&'static str> {
    let found = lint(&Certificate::from_der(der).unwrap(), profile);
    found.into_iter().filter(|finding| finding.level > Level::Notice).map(|finding| finding.id).collect()
}

#[test]
fn delegate_certificates_pass_every_check_of_a_verifier() {
    let fixture = fixture();
    for (name, number, domain) in [("acme", "12015550100", "acme.example"), ("globex", "12025550119", "globex.example")]
    {
        let chain = fixture.chain(&format!("{name}/sti.pem"));
        assert_eq!(chain.len(), 2, "leaf and issuing authority, no root");
        let verdict = fixture.assess(&chain);
        assert_eq!(verdict.path.as_ref().unwrap().scope, ScopeBasis::Proven, "RFC 9060: below a list that holds it");
        verdict.validity(NOW, 0).unwrap();
        verdict.check_scts(NOW, 0).unwrap();
        verdict.vesper_profile.unwrap();
        assert!(!verdict.long_lived);
        assert_eq!(verdict.leaf.dns_names(), [domain]);
        let scope = verdict.leaf.tn_auth_list().unwrap().unwrap();
        assert!(scope.covers(number) && !scope.covers("12015550120") && !scope.covers("12025550120"));
        assert_eq!(errors(&chain[0], Profile::Vesper), [""; 0]);
        assert_eq!(verdict.leaf.not_after() - verdict.leaf.not_before(), 86_400 + 300);
    }
}

#[test]
fn authorities_and_the_provider_keep_the_shaken_profile() {
    let fixture = fixture();
    for name in ["sti/root.pem", "sti/issuing.pem", "provider/shaken.pem"] {
        assert_eq!(errors(&fixture.chain(name)[0], Profile::Shaken), [""; 0], "{name}");
    }
    let verdict = fixture.assess(&fixture.chain("provider/shaken.pem"));
    assert_eq!(verdict.path.unwrap().scope, ScopeBasis::Proven);
    assert!(matches!(verdict.scts, Err(SctError::Absent)), "plain SHAKEN certificates carry no SCT");
}

#[test]
fn r10_one_changed_octet_of_the_certificate_breaks_the_sct() {
    let fixture = fixture();
    let chain = fixture.chain("acme/sti.pem");
    let key = Certificate::from_der(&chain[0]).unwrap();
    let at = chain[0].windows(12).position(|octets| octets == b"acme.example").unwrap();
    let mut forged = chain.clone();
    forged[0][at] = b'b';
    assert_eq!(Certificate::from_der(&forged[0]).unwrap().spki_der(), key.spki_der());
    // The issuer's signature breaks first; behind it the SCT is bad as well.
    assert!(matches!(fixture.assess(&forged).path, Err(PathError::Signature { .. })));
    let list = fixture.trust().logs;
    let log = list.iter().next().unwrap();
    let issuer = Certificate::from_der(&chain[1]).unwrap();
    let verifies = |leaf: &[u8]| {
        let entry = vesperd::cert::sct::Entry::of_certificate(leaf, issuer.spki_der()).unwrap();
        key.scts().unwrap().unwrap().scts[0].verifies(&entry, log.key())
    };
    assert!(verifies(&chain[0]) && !verifies(&forged[0]));
}

#[test]
fn each_flaw_breaks_its_own_check_and_no_other() {
    let fixture = fixture();
    let flawed = |flaw| fixture.lab.flawed(flaw, NOW).unwrap();
    let judge = |flaw| fixture.assess(&flawed(flaw).chain);

    let unknown = judge(Flaw::UnknownRoot);
    assert!(unknown.path.is_err());
    unknown.validity(NOW, SKEW).unwrap();
    unknown.vesper_profile.unwrap();

    let unlogged = judge(Flaw::NoSct);
    assert!(unlogged.path.is_ok() && matches!(unlogged.scts, Err(SctError::Absent)));

    let expired = judge(Flaw::Expired);
    assert!(expired.path.is_ok() && expired.check_scts(NOW, SKEW).is_ok());
    assert!(matches!(expired.validity(NOW, SKEW), Err(ValidityError::Expired { .. })));

    let constrained = judge(Flaw::Constrained);
    assert!(constrained.path.is_ok() && constrained.check_scts(NOW, SKEW).is_ok());
    let constraints = constrained.leaf.claim_constraints().unwrap().unwrap();
    let claims = |reason: &str| serde_json::json!({ "crn": reason }).as_object().unwrap().clone();
    constraints.check(&claims(lab::PERMITTED_CALL_REASON)).unwrap();
    constraints.check(&claims("Your bank")).unwrap_err();

    let foreign = flawed(Flaw::ForeignX5u);
    assert!(foreign.x5u.starts_with("https://globex.example/"));
    let verdict = fixture.assess(&foreign.chain);
    assert!(verdict.path.is_ok() && verdict.leaf.dns_names() == ["acme.example"]);
}

#[test]
fn keys_belong_to_their_certificates_and_are_marked_and_closed() {
    let fixture = fixture();
    let pairs = [
        ("sti/root.pem", "sti/root.key"),
        ("sti/issuing.pem", "sti/issuing.key"),
        ("web/ca.pem", "web/ca.key"),
        ("acme/sti.pem", "acme/sti.key"),
        ("acme/tls.pem", "acme/tls.key"),
        ("globex/sti.pem", "globex/sti.key"),
        ("globex/tls.pem", "globex/tls.key"),
        ("provider/shaken.pem", "provider/shaken.key"),
    ];
    for (certificate, key) in pairs {
        let path = fixture.directory.path().join(key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some(KEY_MARK), "{key}");
        let leaf = Certificate::from_der(&fixture.chain(certificate)[0]).unwrap();
        assert_eq!(KeyPair::from_pem(&text).unwrap().subject_public_key_info(), leaf.spki_der(), "{key}");
    }
    let log_key = fs::read_to_string(fixture.directory.path().join("log/log.key")).unwrap();
    let listed = fixture.trust().logs;
    assert_eq!(listed.iter().next().unwrap().spki, KeyPair::from_pem(&log_key).unwrap().subject_public_key_info());
}

#[test]
fn the_configurations_load_and_tell_that_their_keys_are_a_labs() {
    let fixture = fixture();
    let load = |name| Config::load(&fixture.directory.path().join(name), NOW).unwrap_or_else(|error| panic!("{error}"));
    let originating = load("originating.toml");
    let terminating = load("terminating.toml");
    assert_eq!(originating.proxy.signers.len(), 1);
    assert_eq!(terminating.trust.anchors.len(), 1);
    assert_eq!(terminating.trust.logs.len(), 1);
    let marked = originating
        .warnings
        .iter()
        .any(|warning| matches!(warning, Warning::LabKey { path } if path.ends_with("acme/sti.key")));
    assert!(marked, "{:?}", originating.warnings);
    let others = |warning: &&Warning| !matches!(warning, Warning::LabKey { .. });
    assert_eq!(originating.warnings.iter().chain(&terminating.warnings).find(others), None);
    let profiles: Vec<_> =
        terminating.proxy.trunks.iter().filter_map(|trunk| Some(trunk.verify.as_ref()?.profile)).collect();
    assert_eq!(profiles, [vesperd::stir::Profile::Vesper, vesperd::stir::Profile::Shaken]);
}

#[test]
fn the_authority_refuses_what_its_profile_or_its_scope_does_not_allow() {
    let lab = fixture().lab;
    let good = DelegateProfile {
        organization: "Acme".to_owned(),
        dns_name: "acme.example".to_owned(),
        scope: lab.acme.scope.clone(),
        constraints: None,
        lifetime: 86_400,
    };
    let attempt = |profile: &DelegateProfile, logs: &[_]| {
        let key = KeyPair::generate().unwrap();
        lab.issuing.issue_delegate(profile, &key, NOW, Transparency::Embed(logs))
    };
    let logs = [&lab.log];
    attempt(&good, &logs).unwrap();
    assert!(matches!(attempt(&good, &[]), Err(IssueError::NoLog)), "R10");
    let long = DelegateProfile { lifetime: MAX_LIFETIME + 1, ..good.clone() };
    assert!(matches!(attempt(&long, &logs), Err(IssueError::Lifetime { .. })), "R5");
    for name in ["Acme.example", "*.acme.example", "acme.example.", "localhost", "a..b", "-a.example", ""] {
        let profile = DelegateProfile { dns_name: name.to_owned(), ..good.clone() };
        assert!(matches!(attempt(&profile, &logs), Err(IssueError::DnsName { .. })), "R14: {name}");
    }
    let list = |entry| vesperd::cert::TnAuthList::new(vec![entry]).unwrap();
    let code = list(vesperd::cert::TnEntry::Spc(lab::SERVICE_PROVIDER_CODE.to_owned()));
    assert!(
        matches!(attempt(&DelegateProfile { scope: code, ..good.clone() }, &logs), Err(IssueError::NoNumber)),
        "R12"
    );
    let foreign = list(vesperd::cert::TnEntry::One("13035550100".to_owned()));
    let outside = attempt(&DelegateProfile { scope: foreign, ..good }, &logs);
    assert!(matches!(outside, Err(IssueError::UnprovenScope)), "RFC 9060 4.1");
}

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn only_a_lab_is_ever_replaced() {
    let fixture = fixture();
    let path = fixture.directory.path();
    let before = fs::read(path.join("acme/sti.pem")).unwrap();
    assert!(matches!(lab::create(path, NOW, &Options::default()), Err(LabError::Exists { .. })));
    assert_eq!(fs::read(path.join("acme/sti.pem")).unwrap(), before);

    lab::create(path, NOW, &Options { overwrite: true, ..Options::default() }).unwrap();
    assert_ne!(fs::read(path.join("acme/sti.pem")).unwrap(), before);
    assert!(path.join(MARKER_FILE).exists());

    let other = TempDir::new().unwrap();
    for name in ["thesis.tex", MARKER_FILE] {
        fs::write(other.path().join(name), "years of work").unwrap();
        let refused = lab::create(other.path(), NOW, &Options { overwrite: true, ..Options::default() });
        assert!(matches!(refused, Err(LabError::NotEmpty { .. })), "{name}");
    }
    assert_eq!(names(other.path()), 2);
}
