//! TLS: whose certificates are shown and believed (RFC 3261 26.3, RFC 5922), and an established session over its TCP connection.
//!
//! The handshake needs a runtime and time; `node` runs it apart from the workers and hands the [`Session`] over.

mod identity;
mod session;
mod verifier;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use identity::{Identities, identities_of, proves};
pub use session::Session;

use crate::sip::hop::{ListenerId, PeerId};
use crate::transport::ws::Origins;
use verifier::{FromClients, FromServer};

/// What a client of a listener has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Nothing; it is not asked.
    #[default]
    None,
    /// A certificate if it has one (CN-3).
    Optional,
    /// A certificate that leads to the listener's CAs.
    Required,
}

/// A certificate chain, leaf first, and the private key of the leaf.
#[derive(Debug)]
pub struct Credential {
    /// DER certificates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Credential {
    /// Whether the key is that of the leaf.
    pub fn fits(&self) -> bool {
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider()).is_ok()
    }
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// How a listener presents itself and whom it lets in.
#[derive(Clone, Debug)]
pub struct Server {
    /// Shown by the name the client asks for; the first one to clients that ask for none of them (TL-5).
    pub credentials: Vec<Credential>,
    /// What clients have to show.
    pub client_auth: ClientAuth,
    /// CAs whose client certificates are believed.
    pub client_roots: Arc<RootCertStore>,
}

/// How a neighbour is recognized and how we present ourselves to it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Domain names, one of which the neighbour's certificate must prove; the first one is asked for (SNI).
    pub names: Vec<String>,
    /// A certificate for `*.example.com` proves `sip.example.com` too; RFC 5922 7.2 says it does not.
    pub allow_wildcard: bool,
    /// CAs whose certificates are believed.
    pub roots: Arc<RootCertStore>,
    /// Shown when the neighbour asks for one.
    pub credential: Option<Credential>,
}

/// Why a credential can not be used.
#[derive(Debug)]
pub enum CredentialError {
    /// TLS refuses the chain, the key, or the two together.
    Rejected(rustls::Error),
    /// The name a neighbour is known by is no domain name.
    BadName(String),
    /// The CAs can not be used to verify clients.
    NoRoots,
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => write!(f, "certificate and key are refused: {error}"),
            Self::BadName(name) => write!(f, "\"{name}\" is no domain name"),
            Self::NoRoots => f.write_str("there is no CA to verify clients with"),
        }
    }
}

impl std::error::Error for CredentialError {}

/// Everything a handshake needs to know, made once per configuration.
#[derive(Clone, Default, Debug)]
pub struct Credentials {
    servers: HashMap<ListenerId, Arc<ServerConfig>>,
    clients: HashMap<PeerId, (Arc<ClientConfig>, ServerName<'static>)>,
    /// Pages that may open a WebSocket.
    origins: HashMap<ListenerId, Arc<Origins>>,
    /// Listeners that ask clients for a certificate.
    asking: HashSet<ListenerId>,
    /// Who proves which name.
    names: Vec<(PeerId, Vec<String>, bool)>,
}

impl Credentials {
    /// Adds a listener.
    ///
    /// # Errors
    /// Credentials that do not go together.
    pub fn add_server(&mut self, listener: ListenerId, server: Server) -> Result<(), CredentialError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(CredentialError::Rejected)?;
        let builder = match server.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            _ if server.client_roots.is_empty() => return Err(CredentialError::NoRoots),
            auth => builder.with_client_cert_verifier(Arc::new(FromClients::new(
                server.client_roots,
                auth == ClientAuth::Required,
                provider(),
            ))),
        };
        if server.client_auth != ClientAuth::None {
            self.asking.insert(listener);
        }
        let keys = server.credentials.into_iter().map(ByName::certified).collect::<Result<_, _>>()?;
        self.servers.insert(listener, Arc::new(builder.with_cert_resolver(Arc::new(ByName { keys }))));
        Ok(())
    }

    /// Adds a listener for WebSockets, whose TLS, if it has any, is added by [`Credentials::add_server`].
    pub fn add_web(&mut self, listener: ListenerId, origins: Origins) {
        self.origins.insert(listener, Arc::new(origins));
    }

    /// Adds a neighbour.
    ///
    /// # Errors
    /// Credentials that do not go together, or names that are none.
    pub fn add_client(&mut self, peer: PeerId, client: Client) -> Result<(), CredentialError> {
        let first = client.names.first().cloned().unwrap_or_default();
        let name = ServerName::try_from(first.clone()).map_err(|_| CredentialError::BadName(first))?;
        let verifier = FromServer::new(client.roots, client.names.clone(), client.allow_wildcard, provider());
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(CredentialError::Rejected)?
            .dangerous() // rustls' word for a verifier of one's own: RFC 5922 has rules of its own for names
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match client.credential {
            Some(own) => builder.with_client_auth_cert(own.chain, own.key).map_err(CredentialError::Rejected)?,
            None => builder.with_no_client_auth(),
        };
        self.clients.insert(peer, (Arc::new(config), name));
        self.names.push((peer, client.names, client.allow_wildcard));
        Ok(())
    }

    /// The same with other numbers for the neighbours.
    pub fn renumbered(&self, number: impl Fn(PeerId) -> PeerId) -> Self {
        let clients = self.clients.iter().map(|(peer, client)| (number(*peer), client.clone())).collect();
        let names =
            self.names.iter().map(|(peer, names, wildcard)| (number(*peer), names.clone(), *wildcard)).collect();
        let Self { servers, origins, asking, .. } = self.clone();
        Self { servers, origins, asking, clients, names }
    }

    /// Whether clients of a listener may prove by a certificate who they are.
    pub fn asks_clients(&self, listener: ListenerId) -> bool {
        self.asking.contains(&listener)
    }

    /// For a handshake on a listener.
    pub fn server(&self, listener: ListenerId) -> Option<Arc<ServerConfig>> {
        self.servers.get(&listener).cloned()
    }

    /// For the opening of a WebSocket on a listener.
    pub fn origins(&self, listener: ListenerId) -> Option<Arc<Origins>> {
        self.origins.get(&listener).cloned()
    }

    /// For a handshake with a neighbour: the settings and the name to ask for.
    pub fn client(&self, peer: PeerId) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.clients.get(&peer).cloned()
    }

    /// The one neighbour that these proven identities belong to; `None` if it is none or several.
    pub fn peer_of(&self, identities: &Identities) -> Option<PeerId> {
        let proven = |names: &[String], wildcard| names.iter().any(|name| proves(identities, name, wildcard));
        let mut fitting = self.names.iter().filter(|(_, names, wildcard)| proven(names, *wildcard));
        fitting.next().filter(|_| fitting.next().is_none()).map(|(peer, ..)| *peer)
    }
}

/// The credentials in force. A reload replaces them for handshakes to come; connections stay.
#[derive(Clone, Debug, Default)]
pub struct Store(Arc<RwLock<Arc<Credentials>>>);

impl Store {
    /// With these to begin with.
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self(Arc::new(RwLock::new(credentials)))
    }

    /// Those in force; asked once per handshake.
    pub fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// From now on.
    pub fn replace(&self, credentials: Arc<Credentials>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = credentials;
    }
}

/// TL-7.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Chooses the certificate by the name the client asks for (TL-5).
#[derive(Debug)]
struct ByName {
    keys: Vec<(Identities, Arc<CertifiedKey>)>,
}

impl ByName {
    fn certified(credential: Credential) -> Result<(Identities, Arc<CertifiedKey>), CredentialError> {
        let names = credential.chain.first().map(|leaf| identities_of(leaf)).unwrap_or_default();
        let key = CertifiedKey::from_der(credential.chain, credential.key, &provider());
        Ok((names, Arc::new(key.map_err(CredentialError::Rejected)?)))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let named = asked.and_then(|name| self.keys.iter().find(|(names, _)| proves(names, name, true)));
        named.or(self.keys.first()).map(|(_, key)| Arc::clone(key))
    }
}
