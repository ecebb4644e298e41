//! `[trunk.connected]`: connected identity on responses to and from a trunk (RFC 9970).

use super::identity::{Identity, PROFILES, demand_trust};
use super::mistake::Fault;
use super::network::{Names, refer};
use super::reader::Section;
use crate::proxy::{Config, ConnectedIdentity, Trunk};
use crate::stir::{Policy, Profile};

/// What is done where the answer has no good `rsp`.
#[derive(Clone, Copy, PartialEq)]
enum Posture {
    Off,
    Preferred,
    Required,
}

const POSTURES: [(&str, Posture); 3] =
    [("off", Posture::Off), ("preferred", Posture::Preferred), ("required", Posture::Required)];

/// Reads the section of a trunk whose `[trunk.verify]` is known already.
pub(super) fn read(
    section: Section<'_, '_>,
    trunk: &Trunk,
    (signers, tables): (&Names, &Names),
    proxy: &Config,
    identity: &Identity,
) -> ConnectedIdentity {
    let mut connected = ConnectedIdentity {
        sign: refer(&section, "sign", "signer", signers).map(|at| at.value),
        table: refer(&section, "signing_table", "signing_table", tables).map(|at| at.value),
        rich: section.bool("rcd", false),
        discloses_diversions: section.bool("diversions", false),
        early: section.bool("early", true),
        verify: None,
        refuses_diversions: !section.bool("diverted", true),
    };
    let conflict = |key: &'static str, reason, remedy| {
        section.wrong(section.offset_of(key), key, Fault::Conflict { reason, remedy });
    };
    let rows = connected.table.and_then(|table| proxy.signing_tables.get(table)).map(|table| table.signers());
    for (key, places) in [("sign", connected.sign.into_iter().collect()), ("signing_table", rows.unwrap_or_default())] {
        let is_remote = |place: &usize| proxy.signers.get(*place).is_some_and(|signer| signer.remote_key().is_some());
        if places.iter().any(is_remote) {
            conflict(key, "a response does not wait for a hardware module", "name signers whose keys are in files");
        }
    }
    for key in ["rcd", "diversions", "early"] {
        if !section.is_absent(key) && !connected.signs() {
            conflict(key, "responses to this trunk are not signed", "add sign or signing_table, or remove it");
        }
    }
    let profile = section.choice("profile", &PROFILES);
    let posture = section.choice("verify", &POSTURES).unwrap_or(Posture::Off);
    if posture == Posture::Required {
        let remedy = "set \"preferred\": the finding is in call records, metrics and the verdict header";
        conflict("verify", "a proxy can not end a call that somebody else has answered", remedy);
    }
    if profile.is_some() && (posture == Posture::Off || trunk.verify.is_some()) {
        let reason = "answers are not verified, or by what [trunk.verify] says";
        conflict("profile", reason, "remove it");
    }
    if posture == Posture::Off && !section.is_absent("diverted") {
        conflict("diverted", "answers are not verified", "add verify, or remove it");
    }
    if posture != Posture::Off {
        connected.verify = Some(trunk.verify.unwrap_or_else(|| {
            let policy = if profile == Some(Profile::Vesper) { Policy::vesper() } else { Policy::shaken() };
            demand_trust(&section, &policy, identity);
            policy
        }));
    }
    section.finish();
    connected
}
