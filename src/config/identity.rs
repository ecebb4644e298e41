//! `[[signer]]`, `[trunk.verify]`, `[stir]`: who signs, who is believed.

use std::collections::HashMap;
use std::sync::Arc;

use super::connected;
use super::files::Files;
use super::mistake::{Fault, Warning};
use super::network::{Network, read_name, refer};
use super::numbers;
use super::reader::{At, Section};
use super::service;
use super::signing::{self, LETTERS, Profiles, SOURCES};
use super::trust;
use crate::cert::{Certificate, TrustPolicy, TrustStore};
use crate::node::renewal::Watched;
use crate::node::signer::Module;
use crate::node::{fetch, signer};
use crate::passport::DialPlan;
use crate::proxy;
use crate::stir::authentication::{Signer, SignerConfig, SignerError};
use crate::stir::replay::ReplayConfig;
use crate::stir::{Callers, Check, IdentitySource, Methods, Mode, OnFailure, Policy, Profile};

pub(super) const PROFILES: [(&str, Profile); 2] = [("shaken", Profile::Shaken), ("vesper", Profile::Vesper)];
const MODES: [(&str, Mode); 3] = [("off", Mode::Off), ("report", Mode::Report), ("enforce", Mode::Enforce)];

const ON_FAILURE: [(&str, OnFailure); 3] =
    [("reject", OnFailure::Reject), ("continue", OnFailure::Continue), ("reason", OnFailure::ContinueWithReason)];
const CALLERS: [(&str, Callers); 3] = [("judge", Callers::Judge), ("pass", Callers::Pass), ("reject", Callers::Reject)];

/// Keys of the checks in `[trunk.verify]`.
const CHECKS: [(&str, Check); Check::ALL.len()] = [
    ("token", Check::Token),
    ("chain", Check::Chain),
    ("validity", Check::Validity),
    ("revocation", Check::Revocation),
    ("number", Check::TnAuthorization),
    ("sct", Check::Sct),
    ("domain", Check::DomainBinding),
    ("signature", Check::Signature),
    ("freshness", Check::Freshness),
    ("claims", Check::Claims),
    ("constraints", Check::Constraints),
    ("strict_serialization", Check::Serialization),
    ("replay", Check::Replay),
];

/// What this part of the file says, besides what goes into [`proxy::Config`].
#[derive(Default)]
pub(super) struct Identity {
    pub trust: TrustStore,
    /// Keys of `[stir]` that are there; what they name may still be wrong, which is a mistake of its own.
    has_anchors: bool,
    has_logs: bool,
    pub replay: ReplayConfig,
    /// Name and end of validity of each signer's certificate.
    pub signers: Vec<(String, i64)>,
    pub fetch: fetch::Config,
    /// Keys in hardware modules.
    pub keys: signer::Config,
    /// Files of signers that may be replaced while the edge runs.
    pub watched: Vec<Watched>,
}

pub(super) fn read(
    root: &Section<'_, '_>,
    network: Network<'_, '_>,
    files: &Files<'_>,
    proxy: &mut proxy::Config,
    warnings: &mut Vec<Warning>,
) -> Identity {
    let mut identity = Identity::default();
    let stir = root.section("stir");
    let dial_plan = stir.as_ref().and_then(|stir| stir.section("dial_plan")).map(read_dial_plan).unwrap_or_default();
    proxy.verifier.dial_plan = dial_plan.clone();
    if let Some(stir) = stir {
        read_stir(stir, files, &mut identity, proxy, warnings);
    }
    let profiles = Profiles::read(root, files);
    let (mut names, mut rich) = (HashMap::new(), Vec::new());
    for (position, mut section) in root.sections("signer").into_iter().enumerate() {
        let name = read_name(&mut section, "signer", position, &mut names);
        rich.push(refer(&section, "rcd", "rcd_profile", &profiles.names).map(|at| at.value));
        if let Some((signer, not_after)) = read_signer(&section, files, &dial_plan, &mut identity, warnings) {
            proxy.signers.push(Arc::new(signer));
            proxy.signer_names.push(name.as_str().into());
            identity.signers.push((name, not_after));
        }
        section.finish();
    }
    let (profile_names, profiles) = profiles.finish(&names);
    let profile = |place: Option<usize>| place.and_then(|place| profiles.get(place)).cloned().flatten();
    proxy.signer_rich = rich.into_iter().map(profile).collect();
    let known = signing::Known { signers: &names, profile_names: &profile_names, profiles: &profiles };
    let tables = signing::read_tables(root, files, &known, proxy);
    let mut trunks = std::mem::take(&mut proxy.trunks);
    for (section, trunk) in network.trunks.into_iter().zip(&mut trunks) {
        signing::read_trunk(&section, trunk, &names, &tables, dial_plan.country_code.as_deref());
        if let Some(verify) = section.section("verify") {
            trunk.verify = Some(read_policy(verify, trunk.trusted, &identity));
        }
        if let Some(section) = section.section("connected") {
            trunk.connected = connected::read(section, trunk, (&names, &tables), proxy, &identity);
        }
        signing::check_border(&section, trunk);
        trunk.service = service::read_trunk(&section, trunk, trunk.verify.is_some());
        section.finish();
    }
    proxy.trunks = trunks;
    identity
}

fn read_signer(
    section: &Section<'_, '_>,
    files: &Files<'_>,
    dial_plan: &DialPlan,
    identity: &mut Identity,
    warnings: &mut Vec<Warning>,
) -> Option<(Signer, i64)> {
    let certificate = section.required("certificate", "a PEM file with the chain, leaf first");
    let has_module = !section.is_absent("pkcs11");
    let module = signing::read_module(section, files);
    let key = match has_module {
        true => section.string("key"),
        false => section.required("key", "a PEM file with the private key of the leaf (PKCS#8 or SEC1, P-256)"),
    };
    if let Some(key) = key.filter(|_| has_module) {
        let reason = "the key is in the hardware module";
        section.wrong(key.offset, "key", Fault::Conflict { reason, remedy: "remove key, or pkcs11" });
    }
    let x5u = section.required("x5u", "the https URL where the chain is published");
    let profile = section.choice("profile", &PROFILES).unwrap_or(Profile::Shaken);
    let attestation = section.choice("attest", &LETTERS);
    let identity_source = section.choice("identity_source", &SOURCES).unwrap_or(IdentitySource::From);
    let date_tolerance = section.number("date_tolerance_seconds", (1, 3600));

    let (certificate, x5u) = (certificate?, x5u?);
    let key = match has_module {
        true => certificate,
        false => key?,
    };
    let (certificate_path, key_path) = (files.path(certificate.value), files.path(key.value));
    let watched = [&certificate_path, &key_path].map(|path| Watched::now(path.clone())); // before they are read
    let chain = files
        .read_certificates(&certificate_path, warnings)
        .map_err(|fault| section.wrong(certificate.offset, "certificate", fault));
    let key_file = match has_module {
        true => Ok(Vec::new()),
        false => files.read_credential(&key_path, warnings).map_err(|fault| section.wrong(key.offset, "key", fault)),
    };
    let (chain, key_file) = (chain.ok()?, key_file.ok()?);
    identity.watched.extend(watched);
    match chain.first().and_then(|leaf| Some((leaf, outside_validity(leaf, files.unix, &certificate_path)?))) {
        Some((leaf, Fault::Expired { path, not_after })) if files.in_force.contains(leaf) => {
            warnings.push(Warning::ExpiredSigner { certificate: path, not_after });
        }
        Some((_, fault)) => {
            section.wrong(certificate.offset, "certificate", fault);
            return None;
        }
        None => {}
    }
    if let Some(why) = disbelief(&chain, profile, identity, files.unix) {
        warnings.push(Warning::Disbelieved { certificate: certificate_path.clone(), why });
    }
    let not_after = chain.first().and_then(|leaf| Certificate::from_der(leaf).ok()).map_or(0, |leaf| leaf.not_after());
    let mut config = SignerConfig::new(profile, chain, key_file, x5u.value);
    config.remote_key = has_module.then_some(()).and(module.as_ref().map(Module::name));
    if has_module && module.is_none() {
        return None;
    }
    config.attestation = attestation;
    config.identity_source = identity_source;
    config.dial_plan = dial_plan.clone();
    config.date_tolerance = date_tolerance.and_then(|n| n.try_into().ok()).unwrap_or(config.date_tolerance);
    match Signer::new(config) {
        Ok(signer) => {
            if let (Some(module), Some(point)) = (module, signer.certificate().es256_point()) {
                identity.keys.keys.push(signer::Key { module, point: point.to_vec() });
            }
            let remarks = signer.warnings().iter();
            warnings.extend(remarks.map(|&warning| Warning::Signer { certificate: certificate_path.clone(), warning }));
            Some((signer, not_after))
        }
        Err(SignerError::KeyMismatch) => {
            let fault = Fault::KeyMismatch { key: key_path, certificate: certificate_path };
            section.wrong(key.offset, "key", fault);
            None
        }
        Err(error) => {
            let (at, name) = match error {
                SignerError::Key => (key, "key"),
                SignerError::Url(_) => (x5u, "x5u"),
                _ => (certificate, "certificate"),
            };
            section.wrong(at.offset, name, Fault::Signer(error));
            None
        }
    }
}

/// Why verifiers with the same anchors and logs would not believe a chain (C4.4, T1.5); nobody knows where there are none. What can not be
/// read is left to [`Signer::new`] to name.
fn disbelief(chain: &[Vec<u8>], profile: Profile, identity: &Identity, unix: i64) -> Option<String> {
    if identity.trust.anchors.is_empty() {
        return None;
    }
    let verdict = identity.trust.assess(chain).ok()?;
    if let Err(error) = &verdict.path {
        return Some(error.to_string());
    }
    let is_logged = profile == Profile::Shaken || identity.trust.logs.is_empty();
    if is_logged { None } else { verdict.check_scts(unix, Policy::vesper().skew).err().map(|error| error.to_string()) }
}

/// A leaf that can not be read is left to [`Signer::new`] to name.
pub(super) fn outside_validity(leaf: &[u8], unix: i64, path: &std::path::Path) -> Option<Fault> {
    let leaf = Certificate::from_der(leaf).ok()?;
    let path = path.to_owned();
    if unix > leaf.not_after() {
        return Some(Fault::Expired { path, not_after: leaf.not_after() });
    }
    (unix < leaf.not_before()).then(|| Fault::NotYetValid { path, not_before: leaf.not_before() })
}

fn read_policy(section: Section<'_, '_>, is_trusted: bool, identity: &Identity) -> Policy {
    let mut policy = match section.choice("profile", &PROFILES) {
        Some(Profile::Vesper) => Policy::vesper(),
        _ => Policy::shaken(),
    };
    section.required("profile", "\"shaken\" or \"vesper\"");
    for (key, check) in CHECKS {
        if let Some(mode) = section.choice(key, &MODES) {
            policy.modes.set(check, mode);
        }
    }
    policy.on_failure = section.choice("on_failure", &ON_FAILURE).unwrap_or(policy.on_failure);
    policy.anonymous = section.choice("anonymous", &CALLERS).unwrap_or(policy.anonymous);
    policy.unknown = section.choice("unknown", &CALLERS).unwrap_or(policy.unknown);
    let seconds = |key, setting: &mut i64| {
        *setting = section.number(key, (1, 86_400)).and_then(|number| number.try_into().ok()).unwrap_or(*setting);
    };
    seconds("freshness_seconds", &mut policy.freshness);
    seconds("skew_seconds", &mut policy.skew);
    policy.diverted_freshness = policy.diverted_freshness.max(policy.freshness);
    read_diverted_freshness(&section, &mut policy);
    section.size("max_diversions", (1, 10), &mut policy.max_diversions);
    section.size("max_identities", (1, 64), &mut policy.max_identities);
    read_methods(&section, &mut policy);
    let treatments = [("keep", false), ("strip-unproven", true)];
    policy.strip_unproven_priority = section.choice("resource_priority", &treatments).unwrap_or_default();
    policy.require_identity = section.bool("require_identity", policy.require_identity);
    policy.strict_retarget = section.bool("strict_retarget", policy.strict_retarget);
    policy.rcd_prefers_token = section.bool("rcd_prefers_token", policy.rcd_prefers_token);
    policy.allow_missing_mky = section.bool("allow_missing_mky", policy.allow_missing_mky);
    policy.strict_claims = section.bool("strict_claims", policy.strict_claims);
    policy.accept_plain_stir = section.bool("accept_plain_stir", policy.accept_plain_stir);
    if let Some(source) = section.choice("identity_source", &SOURCES) {
        policy.identity_source = source;
        if source == IdentitySource::AssertedThenFrom && !is_trusted {
            let reason = "P-Asserted-Identity counts only from a trusted trunk";
            let remedy = "set trusted = true in the trunk or identity_source = \"from\"";
            section.wrong(section.offset_of("identity_source"), "identity_source", Fault::Conflict { reason, remedy });
        }
    }
    demand_trust(&section, &policy, identity);
    section.finish();
    policy
}

/// What the policy asks can be answered.
pub(super) fn demand_trust(section: &Section<'_, '_>, policy: &Policy, identity: &Identity) {
    if policy.modes.get(Check::Chain) != Mode::Off && !identity.has_anchors {
        let reason = "no chain can be valid without trust anchors";
        let remedy = "add anchors to [stir], or set chain = \"off\"";
        section.wrong(section.offset(), "chain", Fault::Conflict { reason, remedy });
    }
    if policy.profile == Profile::Vesper && policy.modes.get(Check::Sct) != Mode::Off && !identity.has_logs {
        let reason = "no SCT can be valid without transparency logs";
        let remedy = "add log_list to [stir], or set sct = \"off\"";
        section.wrong(section.offset(), "sct", Fault::Conflict { reason, remedy });
    }
}

/// `methods`: INVITE and MESSAGE are verified unless one of them is left out.
fn read_methods(section: &Section<'_, '_>, policy: &mut Policy) {
    let method = |text: &str| match text {
        "INVITE" => Some(Methods { invite: true, message: false }),
        "MESSAGE" => Some(Methods { invite: false, message: true }),
        _ => None,
    };
    let listed = section.read_list("methods", "\"INVITE\" or \"MESSAGE\"", method);
    if section.is_absent("methods") {
        return;
    }
    let has = |of: fn(&Methods) -> bool| listed.iter().any(|listed| of(&listed.value));
    policy.methods = Methods { invite: has(|methods| methods.invite), message: has(|methods| methods.message) };
    if section.is_empty_list("methods") {
        let (reason, remedy) = ("nothing would be verified", "list INVITE, MESSAGE or both, or remove [trunk.verify]");
        section.wrong(section.offset_of("methods"), "methods", Fault::Conflict { reason, remedy });
    }
}

/// The outermost diversion is held to `freshness_seconds`, the tokens behind it to this (RFC 8946 4.2).
fn read_diverted_freshness(section: &Section<'_, '_>, policy: &mut Policy) {
    let key = "diverted_freshness_seconds";
    let Some(seconds) = section.number(key, (1, 10_800)).and_then(|number| i64::try_from(number).ok()) else { return };
    if seconds < policy.freshness {
        let reason = "a diverted token would have to be younger than others";
        let remedy = "raise it to freshness_seconds at least";
        section.wrong(section.offset_of(key), key, Fault::Conflict { reason, remedy });
    }
    policy.diverted_freshness = seconds;
}

fn read_dial_plan(section: Section<'_, '_>) -> DialPlan {
    let mut plan = numbers::read_plan(&section);
    if let Some(fewest) = section.number("bare_digits", (1, 15)) {
        plan.bare_digits = usize::try_from(fewest).ok();
    }
    section.finish();
    plan
}

fn read_stir(
    section: Section<'_, '_>,
    files: &Files<'_>,
    identity: &mut Identity,
    proxy: &mut proxy::Config,
    warnings: &mut Vec<Warning>,
) {
    section.is_absent("dial_plan"); // is read already
    identity.has_anchors = !section.is_absent("anchors") || !section.is_absent("anchor_list");
    identity.has_logs = !section.is_absent("log_list");
    for At { value: path, offset } in
        section.read_list("anchors", "files or directories", |text| Some(files.path(text)))
    {
        if let Err(fault) = files.read_anchors(&path, &mut identity.trust.anchors, warnings) {
            section.wrong(offset, "anchors", fault);
        }
    }
    identity.fetch.state_directory = section.string("state_directory").map(|at| files.path(at.value));
    trust::read(&section, files, identity, warnings);
    let TrustPolicy { min_sct_logs, allow_rsa_issuers, allow_direct_ca, check_anchor_validity, .. } =
        &mut identity.trust.policy;
    section.size("min_sct_logs", (1, 16), min_sct_logs);
    *allow_rsa_issuers = section.bool("allow_rsa_issuers", *allow_rsa_issuers);
    *allow_direct_ca = section.bool("allow_direct_ca", *allow_direct_ca);
    *check_anchor_validity = section.bool("check_anchor_validity", *check_anchor_validity);
    section.size("replay_entries", (1, 100_000_000), &mut identity.replay.capacity);
    let entries = (1, 10_000_000);
    if let Some(headers) = section.section("headers") {
        signing::read_headers(headers, &mut proxy.identity_headers);
    }
    if let Some(hsm) = section.section("hsm") {
        signing::read_hsm(hsm, &mut identity.keys);
    }
    section.size("cached_headers", entries, &mut proxy.verifier.headers.max_entries);
    section.size("cached_chains", entries, &mut proxy.verifier.max_chains);
    section.size("cached_refused_chains", entries, &mut proxy.verifier.max_refused_chains);
    section.size("cached_fetches", entries, &mut proxy.verifier.max_fetched);
    if let Some(fetch) = section.section("fetch") {
        trust::read_fetch(fetch, files, &mut identity.fetch, &mut proxy.certificate_timeout, warnings);
        proxy.verifier.allow_any_port = identity.fetch.allow_any_port;
    }
    section.finish();
}
