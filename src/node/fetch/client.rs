//! One fetch over HTTPS: resolve, check the address, connect to exactly that address, TLS, GET, read a bounded body.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AGE, CACHE_CONTROL, DATE, EXPIRES, HOST, HeaderMap, HeaderName, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::guard::{self, Target};
use super::{Config, FetchError};
use crate::sip::date;

/// Addresses of one host that are tried before the fetch fails.
const MAX_ADDRESSES: usize = 2;

/// A chain as it came, and how long the server says it may be kept.
pub(super) struct Fetched {
    pub certificates: Arc<[Vec<u8>]>,
    pub fresh: Option<Duration>,
}

/// A body as it came, likewise.
pub(super) struct Body {
    pub bytes: Bytes,
    pub fresh: Option<Duration>,
}

/// What is fetched, and its bounds.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// Media type that is asked for.
    pub accept: &'static str,
    /// Most octets.
    pub max_body: usize,
    /// For everything.
    pub timeout: Duration,
}

pub(super) struct Client {
    config: Config,
    tls: TlsConnector,
    /// Without one (no name servers known) the system is asked.
    resolver: Option<TokioResolver>,
}

impl Client {
    /// To be made in the runtime that it is used in.
    pub fn new(config: Config, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: tls.into(), resolver: resolver(&config), config }
    }

    pub fn allows_any_port(&self) -> bool {
        self.config.allow_any_port
    }

    /// Fetches one chain within the total timeout.
    pub async fn fetch(&self, target: &Target) -> Result<Fetched, FetchError> {
        let (max_body, timeout) = (self.config.max_body, self.config.total_timeout);
        let wish = Wish { accept: "application/pem-certificate-chain", max_body, timeout };
        let body = self.body(target, wish).await?;
        Ok(Fetched { certificates: certificates(&body.bytes, self.config.max_certificates)?, fresh: body.fresh })
    }

    /// Fetches something else.
    pub async fn body(&self, target: &Target, wish: Wish) -> Result<Body, FetchError> {
        timeout(wish.timeout, self.body_untimed(target, wish)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn body_untimed(&self, target: &Target, wish: Wish) -> Result<Body, FetchError> {
        let stream = self.connect(target).await?;
        let tls = self.tls.connect(target.server_name.clone(), stream).await.map_err(|error| tls_error(&error))?;
        let response = self.get(target, wish.accept, TokioIo::new(tls)).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16())); // redirects too: they are not followed
        }
        let fresh = freshness(response.headers());
        let bytes = read(response.into_body(), wish.max_body).await?;
        Ok(Body { bytes, fresh })
    }

    /// The address is checked after resolution and used for the connection: a second lookup could answer otherwise.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let mut failure = FetchError::Resolve;
        let mut tries = 0;
        for address in self.addresses(target).await? {
            if !self.config.allow_private_addresses && !guard::is_public(address.ip()) {
                failure = FetchError::AddressRefused(address.ip());
                continue;
            }
            tries += 1;
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
            if tries == MAX_ADDRESSES {
                break;
            }
        }
        Err(failure)
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, FetchError> {
        if let Ok(literal) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(literal, target.port)]);
        }
        let Some(resolver) = &self.resolver else {
            let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
            return found.map(Iterator::collect).map_err(|_| FetchError::Resolve);
        };
        // The dot says that no search domain is to be tried.
        let name = format!("{}.", target.host.trim_end_matches('.'));
        let found = resolver.lookup_ip(name).await.map_err(|_| FetchError::Resolve)?;
        Ok(found.iter().map(|address| SocketAddr::new(address, target.port)).collect())
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, FetchError> {
        match timeout(self.config.connect_timeout, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| FetchError::Connect(error.kind())),
            Err(_) => Err(FetchError::Connect(std::io::ErrorKind::TimedOut)),
        }
    }

    async fn get<S>(&self, target: &Target, accept: &str, stream: TokioIo<S>) -> Result<Response<Incoming>, FetchError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let request = Request::get(&target.path)
            .header(HOST, &target.authority)
            .header(ACCEPT, accept)
            .header(USER_AGENT, "vesperd")
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::UrlRefused)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|_| FetchError::Http)?;
        // Ends by itself when the response body has been read or dropped.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|_| FetchError::Http)
    }
}

/// Asks name servers itself: a name server that hangs holds up one fetch, not a thread of a pool that all would share.
fn resolver(config: &Config) -> Option<TokioResolver> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if config.name_servers.is_empty() {
        match Resolver::builder(provider) {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(%error, "no name servers known: the system is asked for the hosts of x5u");
                return None;
            }
        }
    } else {
        let servers = config.name_servers.iter().map(|server| name_server(*server)).collect();
        Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
    };
    let options = builder.options_mut();
    options.timeout = config.connect_timeout;
    options.attempts = 1; // one repetition
    options.ndots = 0;
    options.cache_size = 4096;
    options.positive_max_ttl = Some(Duration::from_secs(300));
    options.negative_max_ttl = Some(config.negative_ttl);
    builder.build().ok()
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        connection
    };
    let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
    NameServerConfig::new(server.ip(), true, connections)
}

async fn read(body: Incoming, max: usize) -> Result<Bytes, FetchError> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(_) => Err(FetchError::Http),
    }
}

fn tls_error(error: &std::io::Error) -> FetchError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    tls.map_or_else(|| FetchError::Connect(error.kind()), |tls| FetchError::Tls(tls.clone()))
}

/// How long the answer stays fresh from now on (RFC 9111 section 4.2): `max-age`, or else Expires less Date, less the Age it has. `no-store`
/// and `no-cache` count as zero (the caller has a floor).
fn freshness(headers: &HeaderMap) -> Option<Duration> {
    let directives =
        || headers.get_all(CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    if directives().any(|d| matches!(d.trim().to_ascii_lowercase().as_str(), "no-store" | "no-cache")) {
        return Some(Duration::ZERO);
    }
    let max_age = directives().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("max-age").then_some(seconds)
    });
    let time = |name: HeaderName| headers.get(name).and_then(|value| date::parse(value.as_bytes()));
    let lifetime = max_age.or_else(|| {
        headers.get(EXPIRES)?;
        // An Expires that is no date, such as 0, is in the past.
        Some(time(EXPIRES).map_or(0, |expires| expires.saturating_sub(time(DATE).unwrap_or(expires))))
    })?;
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    Some(Duration::from_secs(lifetime.saturating_sub(age)))
}

/// PEM with up to `max` certificates, or one certificate as DER.
fn certificates(body: &[u8], max: usize) -> Result<Arc<[Vec<u8>]>, FetchError> {
    let mut chain: Vec<Vec<u8>> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(body) {
        match certificate {
            Ok(_) if chain.len() == max => return Err(FetchError::TooManyCertificates),
            Ok(certificate) => chain.push(certificate.to_vec()),
            Err(PemError::NoItemsFound) => break,
            Err(_) => return Err(FetchError::NotCertificates),
        }
    }
    if chain.is_empty() && body.first() == Some(&0x30) {
        chain.push(body.to_vec());
    }
    // A page that is not a certificate ends here, with a name of its own, and not as a bad signature later.
    let readable =
        chain.iter().all(|der| matches!(x509_parser::parse_x509_certificate(der), Ok((rest, _)) if rest.is_empty()));
    if chain.is_empty() || !readable {
        return Err(FetchError::NotCertificates);
    }
    Ok(chain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_max_age_or_expires_less_age() {
        let of = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            freshness(&headers).map(|age| age.as_secs())
        };
        let (date, later) = (("date", "Tue, 24 Nov 2026 10:00:00 GMT"), ("expires", "Tue, 24 Nov 2026 11:00:00 GMT"));
        for (lines, expected) in [
            (&[("cache-control", "public, Max-Age=3600")][..], Some(3600)),
            (&[("cache-control", "max-age=\"5\"")], Some(5)),
            (&[("cache-control", "max-age=300, no-store")], Some(0)),
            (&[("cache-control", "public"), ("cache-control", "max-age=300"), ("age", "100")], Some(200)),
            (&[("cache-control", "max-age=300"), ("age", "400")], Some(0)),
            (&[date, later], Some(3600)),
            (&[date, later, ("age", "600")], Some(3000)),
            (&[date, later, ("cache-control", "max-age=5")], Some(5)),
            (&[date, ("expires", "0")], Some(0)),
            (&[("cache-control", "max-age=soon")], None),
            (&[("cache-control", "s-maxage=9")], None),
            (&[("age", "5")], None),
            (&[], None),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_body_is_pem_or_one_der_certificate() {
        let certificate = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert;
        let pem = certificate.pem();
        assert_eq!(certificates(pem.as_bytes(), 6).unwrap().as_ref(), [certificate.der().to_vec()]);
        assert_eq!(certificates(certificate.der(), 6).unwrap().len(), 1);
        assert_eq!(certificates(pem.repeat(6).as_bytes(), 6).unwrap().len(), 6);
        assert!(matches!(certificates(pem.repeat(7).as_bytes(), 6), Err(FetchError::TooManyCertificates)));
        for junk in
            [&b""[..], b"<html>", b"0not der", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"]
        {
            assert!(matches!(certificates(junk, 6), Err(FetchError::NotCertificates)));
        }
    }
}
