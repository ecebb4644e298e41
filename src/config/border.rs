//! What crosses the border to a trunk and back: `asserted_identity`, `asserted`, `identity`, `history_info`, `diversion`, `on_3xx`, `on_3xx_identity`, `rr_style`, what it is told
//! of verdicts; `[routing]`.

use std::collections::HashMap;
use std::sync::Arc;

use super::mistake::{Fault, Warning};
use super::network::host_and_port;
use super::reader::Section;
use crate::proxy::trust::{HeaderRules, Passing};
use crate::proxy::{self, Disclosure, On3xx, Place, RrStyle, Trunk};
use crate::sip::text::is_token;
use crate::sip::{Name, Scheme, Uri};

const PASSING: [(&str, Passing); 3] = [("pass", Passing::Pass), ("add", Passing::Add), ("remove", Passing::Remove)];
const STYLES: [(&str, RrStyle); 3] =
    [("transport-tls", RrStyle::TransportTls), ("sips", RrStyle::Sips), ("naptr-host", RrStyle::NaptrHost)];

/// The keys of one trunk.
pub(super) struct Border {
    pub headers: HeaderRules,
    pub discloses: Disclosure,
    pub asserted: Option<Arc<str>>,
    pub on_3xx: On3xx,
    pub redirect_tokens: bool,
    pub rr_style: RrStyle,
}

/// Reads the keys of a trunk.
pub(super) fn read(trunk: &Section<'_, '_>, next_hops: &[Place], name: &str, warnings: &mut Vec<Warning>) -> Border {
    let withholds_identity = trunk.choice("asserted_identity", &[("keep", false), ("withhold", true)]);
    if trunk.is_absent("rr_style") && next_hops.iter().any(|place| place.transport().is_secure()) {
        warnings.push(Warning::RecordRouteOverTls { trunk: name.to_owned() });
    }
    let expected = "\"pass\", \"recurse\" or a status from \"400\" to \"699\"";
    let on_3xx = trunk.read("on_3xx", expected, |text| match text {
        "pass" => Some(On3xx::Pass),
        "recurse" => Some(On3xx::Recurse),
        _ => text.parse().ok().filter(|status| text.len() == 3 && (400..=699).contains(status)).map(On3xx::Map),
    });
    let on_3xx = on_3xx.map(|at| at.value).unwrap_or_default();
    let redirect_tokens = trunk.choice("on_3xx_identity", &[("drop", false), ("use", true)]).unwrap_or_default();
    if redirect_tokens && on_3xx != On3xx::Recurse {
        let (reason, remedy) = ("its 3xx are not followed", "add on_3xx = \"recurse\"");
        trunk.wrong(trunk.offset_of("on_3xx_identity"), "on_3xx_identity", Fault::Conflict { reason, remedy });
    }
    Border {
        headers: HeaderRules {
            withholds_identity: withholds_identity.unwrap_or_default(),
            history_info: trunk.choice("history_info", &PASSING).unwrap_or_default(),
            diversion: trunk.choice("diversion", &PASSING).unwrap_or_default(),
            withholds_tokens: trunk.choice("identity", &[("forward", false), ("remove", true)]).unwrap_or_default(),
            verstat: trunk.bool("verstat", false),
        },
        discloses: read_disclosure(trunk),
        asserted: read_asserted(trunk),
        redirect_tokens,
        on_3xx,
        rr_style: trunk.choice("rr_style", &STYLES).unwrap_or_default(),
    }
}

/// What a trunk is told of verdicts. Headers that tell them are for the trust domain; `verstat` and Call-Info are for phones too.
fn read_disclosure(trunk: &Section<'_, '_>) -> Disclosure {
    let verstat_attestation = trunk.bool("verstat_attestation", false);
    if verstat_attestation && !trunk.bool("verstat", false) {
        let (reason, remedy) = ("there is no verstat that it could be part of", "add verstat = true");
        trunk.wrong(trunk.offset_of("verstat_attestation"), "verstat_attestation", Fault::Conflict { reason, remedy });
    }
    let expected = "the name of a header that means nothing else, such as \"X-Identity-Verdict\"";
    let is_free = |text: &str| is_token(text.as_bytes()) && text.len() > 1 && Name::new(text.as_bytes()) == Name::Other;
    let header = |key| {
        let name = trunk.read(key, expected, |text| is_free(text).then(|| Box::from(text)))?;
        if !trunk.bool("trusted", false) {
            let reason = "the trunk is not in the trust domain";
            let remedy = "set trusted = true, or tell it nothing";
            trunk.wrong(name.offset, key, Fault::Conflict { reason, remedy });
        }
        Some(name.value)
    };
    Disclosure {
        verstat_attestation,
        verdict: header("verdict_header"),
        attestation: header("attestation_header"),
        origination: header("origination_header"),
        call_info: trunk.bool("call_info", false),
    }
}

/// `asserted`: who a trunk is that has to prove it; at most one SIP or SIPS URI and one tel URI (RFC 3325 9.1).
fn read_asserted(trunk: &Section<'_, '_>) -> Option<Arc<str>> {
    let expected = "a sip, sips or tel URI, such as \"sip:+4930123456@example.com\"";
    let uris = trunk.read_list("asserted", expected, |text| {
        let uri = Uri::parse(text.as_bytes()).ok().filter(|uri| uri.headers.is_none())?;
        let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'<' | b'>'));
        let is_tel = uri.scheme == Scheme::Tel;
        (is_plain && (is_tel || matches!(uri.scheme, Scheme::Sip | Scheme::Sips))).then(|| (is_tel, text.to_owned()))
    });
    if trunk.is_absent("asserted") {
        return None;
    }
    let wrong = |reason, remedy| {
        trunk.wrong(trunk.offset_of("asserted"), "asserted", Fault::Conflict { reason, remedy });
    };
    if uris.iter().filter(|uri| uri.value.0).count() > 1 || uris.iter().filter(|uri| !uri.value.0).count() > 1 {
        wrong("more than one URI of a kind is asserted", "give one sip or sips URI, one tel URI, or one of each");
    }
    if trunk.bool("trusted", false) {
        wrong("a trusted trunk asserts identities itself", "remove asserted, or trusted");
    }
    if trunk.is_absent("digest") {
        wrong("nothing proves that it is who it is said to be", "add [trunk.digest], or remove asserted");
    }
    let values: Vec<String> = uris.iter().map(|uri| format!("<{}>", uri.value.1)).collect();
    (!values.is_empty()).then(|| values.join(", ").into())
}

/// Reads `[routing]`, and what the trunks together ask for.
pub(super) fn read_routing(root: &Section<'_, '_>, proxy: &mut proxy::Config, warnings: &mut Vec<Warning>) {
    proxy.keeps_history = proxy.trunks.iter().any(|trunk| trunk.headers.history_info == Passing::Add);
    warn_of_shared_next_hops(&proxy.trunks, warnings);
    let Some(section) = root.section("routing") else { return };
    let domain = |text: &str| host_and_port(text).filter(|(_, port)| port.is_none()).map(|(host, _)| host);
    let domains = section.read_list("domains", "a host name or address", domain);
    if !section.is_absent("domains") && domains.is_empty() {
        let reason = "no domain is listed";
        let remedy = "list at least one, or leave domains out to be responsible for all";
        section.wrong(section.offset_of("domains"), "domains", Fault::Conflict { reason, remedy });
    }
    proxy.domains = domains.into_iter().map(|at| at.value).collect();
    section.finish();
}

/// KR-11: a gateway may be in several trunks, but its requests come from one.
fn warn_of_shared_next_hops(trunks: &[Trunk], warnings: &mut Vec<Warning>) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for trunk in trunks {
        for hop in trunk.next_hops.iter().filter(|hop| hop.address().is_some()) {
            let next_hop = hop.to_string();
            let first = *owners.entry(next_hop.clone()).or_insert(&trunk.name);
            if first != trunk.name {
                let (first, second) = (first.to_owned(), trunk.name.clone());
                warnings.push(Warning::SharedNextHop { first, second, next_hop });
            }
        }
    }
}
