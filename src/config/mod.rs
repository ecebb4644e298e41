//! The configuration file: TOML in, valid types out. All mistakes are found in one go, each with its line and a remedy; unknown keys
//! are mistakes. Files that the configuration names (keys, certificates, log lists) are read and checked here too, so that what
//! starts is known to work.
//!
//! `reader` takes tables apart; `network` knows listeners and trunks, `members` the next hops of a trunk, `numbers` and `border` what crosses
//! to it and back, `routes` and `prefix_file` where requests go, `guard` floods and limits, `identity` signers and verification, `trust` what
//! is believed and fetched, `signing` who signs for which numbers, `operation` call records and the admin socket, `service` the STIR engine
//! as a service, `limits` the rest; `files` reads certificates and keys.

mod border;
mod connected;
mod dns;
mod environment;
mod files;
mod forking;
mod guard;
mod identity;
mod limits;
mod members;
mod mistake;
mod network;
mod numbers;
mod operation;
mod prefix_file;
mod reader;
mod routes;
mod rows;
mod service;
mod signing;
mod tls;
mod trust;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use crate::cert::TrustStore;
use crate::node::renewal::Watched;
use crate::node::{admin, cdr, fetch, handshake, resolve, service as stir_service, signer};
use crate::proxy;
use crate::stir::replay::ReplayConfig;
use crate::transport::tls::Credentials;
use crate::transport::{tcp, udp};

pub use environment::Environment;
pub(crate) use files::is_certificate_file;
pub use limits::LogFormat;
pub use mistake::{ConfigError, Fault, Mistake, Mistakes, Warning};

use mistake::Collector;
use reader::Section;

/// A valid configuration.
#[derive(Clone)]
pub struct Config {
    /// Workers, log, sockets.
    pub node: Node,
    /// Listeners, trunks, routes, signers, timers, limits.
    pub proxy: proxy::Config,
    /// Roots that certificates of signers must lead to, transparency logs whose SCTs count.
    pub trust: TrustStore,
    /// Memory for tokens seen.
    pub replay: ReplayConfig,
    /// The fetching of certificates.
    pub fetch: fetch::Config,
    /// Certificates for TLS.
    pub tls: Arc<Credentials>,
    /// Leaves of these, and of the STIR service's, DER.
    pub tls_leaves: Vec<Vec<u8>>,
    /// Bounds on TLS handshakes.
    pub handshakes: handshake::Config,
    /// Name resolution.
    pub resolve: resolve::Config,
    /// Records of calls, if any are wanted.
    pub cdr: Option<cdr::Config>,
    /// The socket for operators, if there is to be one.
    pub admin: Option<admin::Config>,
    /// The STIR engine over HTTP, if it is wanted.
    pub service: Option<stir_service::Config>,
    /// Name of each signer, and when its certificate ends (Unix seconds).
    pub signers: Vec<(String, i64)>,
    /// Keys of signers that lie in hardware modules, and the threads that use them.
    pub keys: signer::Config,
    /// Files of signers that may be replaced while the edge runs, as they were before they were read: what they hold then is read anew.
    pub watched: Vec<Watched>,
    /// Lawful, but to be known.
    pub warnings: Vec<Warning>,
}

/// The program itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Worker threads; 0 is one per core.
    pub workers: usize,
    /// How log lines look.
    pub log: LogFormat,
    /// What is logged: a level, or directives such as `info,vesperd::node=debug`.
    pub log_level: String,
    /// Parcels that wait between two workers.
    pub lane_capacity: usize,
    /// UDP sockets.
    pub udp: udp::Config,
    /// TCP connections.
    pub tcp: tcp::Config,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http: Option<SocketAddr>,
    /// The longest that the end waits for requests under way.
    pub drain_timeout: Duration,
}

impl Config {
    /// Reads a file. `unix` is the present time: certificates of signers must be valid now.
    pub fn load(path: &Path, unix: i64) -> Result<Self, ConfigError> {
        Self::load_with(path, &Environment::default(), unix)
    }

    /// The same with what the environment overrides.
    pub fn load_with(path: &Path, environment: &Environment, unix: i64) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.to_owned(), error))?;
        Self::parse_with(&text, path, environment, unix).map_err(ConfigError::Mistakes)
    }

    /// Reads a text that stands, or would stand, in the file `path`: relative paths in it begin at the file's directory.
    pub fn parse(text: &str, path: &Path, unix: i64) -> Result<Self, Mistakes> {
        Self::parse_with(text, path, &Environment::default(), unix)
    }

    /// The file as it is in force, as TOML: with what the environment overrides, without comments and secrets.
    ///
    /// # Errors
    /// It can not be read, or is no TOML; whether it is a configuration is not asked.
    pub fn show(path: &Path, environment: &Environment) -> Result<String, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.to_owned(), error))?;
        let (mut table, _) = DeTable::parse_recoverable(&text);
        environment.apply(table.get_mut(), text.len() + 1);
        Ok(environment::shown(table.get_ref()))
    }

    /// The same with what the environment overrides.
    pub fn parse_with(text: &str, path: &Path, environment: &Environment, unix: i64) -> Result<Self, Mistakes> {
        Self::parse_again(text, path, environment, unix, &[])
    }

    /// The same for a program that runs, with the leaf certificates in force (DER), of signers and for TLS: one of these that has expired is
    /// no mistake but a warning, for its end must not keep the others from being renewed.
    pub fn parse_again(
        text: &str,
        path: &Path,
        environment: &Environment,
        unix: i64,
        in_force: &[Vec<u8>],
    ) -> Result<Self, Mistakes> {
        let mut collector = Collector::new(path, text, environment.names());
        let (mut table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            collector.add(
                error.span().map_or(0, |span| span.start),
                String::new(),
                Fault::Syntax(error.message().to_owned()),
            );
        }
        if !errors.is_empty() {
            // What a broken file seems to mean would only add mistakes that are none.
            collector.finish()?;
        }
        for (offset, key, fault) in environment.apply(table.get_mut(), collector.base()) {
            collector.add(offset, key, fault);
        }
        let collector = RefCell::new(collector);
        let root = Section::new(table.get_ref(), 0..0, String::new(), &collector);
        let mut warnings = Vec::new();
        let files = files::Files {
            base: path.parent().unwrap_or(Path::new("")),
            unix,
            in_force,
            tls_leaves: RefCell::default(),
        };

        let (node, mut proxy) = limits::read(&root, &files, &mut warnings);
        let mut tls = tls::Tls::default();
        tls::read_bounds(&root, &mut tls.handshakes);
        let mut resolve = resolve::Config::default();
        proxy.locate = dns::read(&root, &mut resolve);
        proxy.answers_stun = node.udp.answers_stun;
        let network = network::Network::read(&root, &files, &mut proxy, &mut tls, &mut warnings);
        guard::read(&root, &network, &files, &mut proxy);
        let identity = identity::read(&root, network, &files, &mut proxy, &mut warnings);
        let service = service::read(&root, &files, &proxy, &mut warnings);
        let cdr = operation::read_cdr(&root, &files, &mut warnings);
        let admin = operation::read_admin(&root, &files, &mut warnings);
        proxy.records = cdr.is_some() || node.http.is_some();
        root.finish();
        collector.borrow_mut().finish()?;
        let identity::Identity { trust, replay, mut fetch, signers, keys, watched, .. } = identity;
        fetch.name_servers.clone_from(&resolve.servers);
        Ok(Self {
            node,
            proxy,
            trust,
            replay,
            fetch,
            tls: tls.credentials.into(),
            tls_leaves: files.tls_leaves.into_inner(),
            handshakes: tls.handshakes,
            resolve,
            cdr,
            admin,
            service,
            signers,
            keys,
            watched,
            warnings,
        })
    }
}
