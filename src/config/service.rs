//! The STIR engine as a service: `service` of a trunk, whose INVITEs are signed or judged and sent back, and `[stir_service]`, the same
//! over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::files::Files;
use super::mistake::{Fault, Warning};
use super::reader::{At, Section};
use super::tls;
use crate::node::service::{self, Token};
use crate::proxy::admission::Rate;
use crate::proxy::service::{Duty, Service};
use crate::proxy::{self, Trunk};
use crate::sip::hop::ListenerId;
use crate::stir::authentication::Signer;
use crate::transport::tls::{ClientAuth, Credentials};

/// Characters of a token that nobody guesses.
const MIN_TOKEN: usize = 16;

/// Reads the keys of a trunk whose `sign` and `verify` are known.
pub(super) fn read_trunk(section: &Section<'_, '_>, trunk: &Trunk, has_policy: bool) -> Option<Service> {
    let duty = section.choice("service", &[("sign", Duty::Sign), ("verify", Duty::Verify)]);
    let no_match = section.number("no_match", (400, 699)).and_then(|status| status.try_into().ok());
    let wrong = |key, reason, remedy| section.wrong(section.offset_of(key), key, Fault::Conflict { reason, remedy });
    let is_signing = trunk.signs() || !section.is_absent("sign") || !section.is_absent("signing_table");
    match duty {
        None if no_match.is_some() => wrong("no_match", "nothing is served to this trunk", "add service, or remove it"),
        Some(Duty::Sign) if !is_signing => {
            wrong("service", "nothing says who signs", "add sign = \"name of a [[signer]]\", or signing_table");
        }
        Some(Duty::Sign) if has_policy => wrong(
            "service",
            "its INVITEs would be verified before they are signed",
            "remove [trunk.verify], or make two trunks of it",
        ),
        Some(Duty::Verify) if !has_policy => wrong("service", "there is no policy to verify by", "add [trunk.verify]"),
        _ => {}
    }
    duty.map(|duty| Service { duty, no_match })
}

/// Reads `[stir_service]`. Trunks, signers and policies are known already.
pub(super) fn read(
    root: &Section<'_, '_>,
    files: &Files<'_>,
    proxy: &proxy::Config,
    warnings: &mut Vec<Warning>,
) -> Option<service::Config> {
    let section = root.section("stir_service")?;
    section.required("bind", "\"ip:port\"");
    let bind = section.read("bind", "\"ip:port\", such as \"192.0.2.1:8443\"", |text| text.parse::<SocketAddr>().ok());
    let mut config = service::Config::new(bind.map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |at| at.value));
    config.policies = read_policies(&section, proxy);
    config.tokens = read_tokens(&section, files);
    let (tls, knows_clients) = section.section("tls").and_then(|tls| read_tls(tls, files, warnings)).unzip();
    config.tls = tls;
    let per_second = section.number("requests_per_second", (1, 1_000_000)).map_or(1000, |number| number as u32);
    let burst = section.number("burst", (1, 1_000_000)).map_or(per_second, |number| number as u32);
    config.rate = Rate::new(per_second, burst);
    section.size("connections", (1, 65_536), &mut config.connections);
    if let Some(streams) = section.number("streams", (1, 65_536)) {
        config.streams = streams as u32;
    }
    section.size("queue", (1, 65_536), &mut config.queue);
    section.size("max_body_bytes", (1024, 1 << 20), &mut config.max_body);
    if let Some(seconds) = section.number("idle_timeout_seconds", (1, 3600)) {
        config.idle_timeout = Duration::from_secs(seconds);
    }
    if let Some(millis) = section.number("answer_timeout_ms", (10, 60_000)) {
        config.answer_timeout = Duration::from_millis(millis);
    }
    // A missing or unreadable file is a mistake of its own.
    let is_local = bind.is_none_or(|bind| bind.value.ip().is_loopback());
    let wants_tls = !section.is_absent("tls");
    let wants_tokens = !section.is_absent("tokens");
    let conflict =
        |reason, remedy| section.wrong(section.offset_of("bind"), "bind", Fault::Conflict { reason, remedy });
    if !is_local && !wants_tls {
        conflict(
            "what is asked would cross the network in plain text",
            "add [stir_service.tls], or bind a loopback address",
        );
    } else if !is_local && !wants_tokens && knows_clients == Some(false) {
        conflict("anybody could have calls signed", "add tokens, or client_auth = \"required\" to [stir_service.tls]");
    }
    section.finish();
    bind.map(|_| config)
}

/// Names of trunks that have something to ask for, and can stand in a path.
fn read_policies(section: &Section<'_, '_>, proxy: &proxy::Config) -> Vec<String> {
    let expected = "the name of a [[trunk]], of letters, digits, - . _ and ~";
    if section.is_absent("policy") {
        section.missing("policy", expected);
    }
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~');
    let names = section.read_list("policy", expected, |name| {
        (!name.is_empty() && name.bytes().all(is_plain)).then(|| name.to_owned())
    });
    let wrong = |at: &At<String>, fault| section.wrong(at.offset, "policy", fault);
    for at in &names {
        let Some(trunk) = proxy.trunks.iter().find(|trunk| trunk.name == at.value) else {
            let known = proxy.trunks.iter().map(|trunk| trunk.name.clone()).collect();
            wrong(at, Fault::UnknownName { name: at.value.clone(), kind: "trunk", known });
            continue;
        };
        if !trunk.signs() && trunk.verify.is_none() {
            let reason = "the trunk neither signs nor verifies";
            wrong(at, Fault::Conflict { reason, remedy: "give it sign, signing_table or [trunk.verify]" });
        } else if signers_of(trunk, proxy).any(|signer| signer.attestation().is_none()) {
            let reason = "a signer of the trunk attests nothing";
            wrong(at, Fault::Conflict { reason, remedy: "give the [[signer]] attest, the most that it may attest" });
        }
    }
    names.into_iter().map(|at| at.value).collect()
}

/// Who signs for a trunk: its own signer, and those of its table.
fn signers_of<'p>(trunk: &Trunk, proxy: &'p proxy::Config) -> impl Iterator<Item = &'p Arc<Signer>> {
    let table = trunk.signing.table.and_then(|place| proxy.signing_tables.get(place));
    let of_rows = table.into_iter().flat_map(|table| table.signers());
    trunk.sign.into_iter().chain(of_rows).filter_map(|place| proxy.signers.get(place))
}

/// A file with a client's name and its token on each line; lines that begin with `#` are remarks. Mistakes repeat nothing of it.
fn read_tokens(section: &Section<'_, '_>, files: &Files<'_>) -> Vec<Token> {
    let Some(At { value, offset }) = section.string("tokens") else { return Vec::new() };
    let path = files.path(value);
    let text = match files.read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(fault) => {
            section.wrong(offset, "tokens", fault);
            return Vec::new();
        }
    };
    let mut tokens: Vec<Token> = Vec::new();
    let mut is_empty = true;
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        is_empty = false;
        let wrong = |why: &str| {
            section.wrong(offset, "tokens", Fault::Row { path: path.clone(), line: number, why: why.to_owned() });
        };
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(name), Some(secret), None) if secret.len() >= MIN_TOKEN => {
                let token = Token::new(name.to_owned(), secret.as_bytes());
                if tokens.iter().any(|other| other.name == token.name) {
                    wrong("the client is there twice; give each another name");
                }
                tokens.push(token);
            }
            (Some(_), Some(_), None) => wrong("the token is too short; give one of 16 characters or more"),
            _ => wrong("not two words; give a client's name and its token"),
        }
    }
    if is_empty {
        section.wrong(offset, "tokens", Fault::Content { path, expected: "lines of a client's name and its token" });
    }
    tokens
}

/// `[stir_service.tls]`, with the keys of a TLS listener; whether clients must show a certificate.
fn read_tls(
    section: Section<'_, '_>,
    files: &Files<'_>,
    warnings: &mut Vec<Warning>,
) -> Option<(Arc<rustls::ServerConfig>, bool)> {
    let server = tls::read_server(&section, files, warnings);
    let offset = section.offset();
    let (mut credentials, only) = (Credentials::default(), ListenerId(0));
    let knows_clients = server.as_ref().is_some_and(|server| server.client_auth == ClientAuth::Required);
    if let Err(error) = credentials.add_server(only, server?) {
        section.wrong(offset, "certificate", Fault::Tls(error));
    }
    section.finish();
    let mut config = rustls::ServerConfig::clone(&*credentials.server(only)?);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Some((Arc::new(config), knows_clients))
}
