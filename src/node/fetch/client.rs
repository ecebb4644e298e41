//! One fetch over HTTPS: resolve, check the address, connect to exactly that address, TLS, GET, read a bounded body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::guard::{self, Target};
use super::{Config, FetchError};

/// Addresses of one host that are tried before the fetch fails.
const MAX_ADDRESSES: usize = 2;

/// A chain as it came, and how long the server says it may be kept.
pub(super) struct Fetched {
    pub certificates: Arc<[Vec<u8>]>,
    pub max_age: Option<Duration>,
}

pub(super) struct Client {
    config: Config,
    tls: TlsConnector,
}

impl Client {
    pub fn new(config: Config, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { config, tls: tls.into() }
    }

    /// Fetches one chain within the total timeout.
    pub async fn fetch(&self, x5u: &str) -> Result<Fetched, FetchError> {
        timeout(self.config.total_timeout, self.fetch_untimed(x5u)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn fetch_untimed(&self, x5u: &str) -> Result<Fetched, FetchError> {
        let target = guard::target(x5u, self.config.allow_any_port)?;
        let stream = self.connect(&target).await?;
        let tls = self.tls.connect(target.server_name.clone(), stream).await.map_err(|error| tls_error(&error))?;
        let response = self.get(&target, TokioIo::new(tls)).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16())); // redirects too: they are not followed
        }
        let max_age = max_age(response.headers());
        let body = self.read(response.into_body()).await?;
        Ok(Fetched { certificates: certificates(&body, self.config.max_certificates)?, max_age })
    }

    /// The address is checked after resolution and used for the connection: a second lookup could answer otherwise.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let resolved =
            tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(|_| FetchError::Resolve)?;
        let mut failure = FetchError::Resolve;
        let mut tries = 0;
        for address in resolved {
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

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, FetchError> {
        match timeout(self.config.connect_timeout, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| FetchError::Connect(error.kind())),
            Err(_) => Err(FetchError::Connect(std::io::ErrorKind::TimedOut)),
        }
    }

    async fn get<S>(&self, target: &Target, stream: TokioIo<S>) -> Result<Response<Incoming>, FetchError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let request = Request::get(&target.path)
            .header(HOST, &target.authority)
            .header(ACCEPT, "application/pem-certificate-chain")
            .header(USER_AGENT, "vesperd")
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::UrlRefused)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|_| FetchError::Http)?;
        // Ends by itself when the response body has been read or dropped.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|_| FetchError::Http)
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, FetchError> {
        match Limited::new(body, self.config.max_body).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
            Err(_) => Err(FetchError::Http),
        }
    }
}

fn tls_error(error: &std::io::Error) -> FetchError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    tls.map_or_else(|| FetchError::Connect(error.kind()), |tls| FetchError::Tls(tls.clone()))
}

/// `Cache-Control: max-age`; `no-store` and `no-cache` count as zero (the caller has a floor).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives =
        || headers.get_all(CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    if directives().any(|d| matches!(d.trim().to_ascii_lowercase().as_str(), "no-store" | "no-cache")) {
        return Some(Duration::ZERO);
    }
    directives().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("max-age").then_some(Duration::from_secs(seconds))
    })
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
    fn max_age_is_read_from_any_directive() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(of("public, Max-Age=3600"), Some(3600));
        assert_eq!(of("max-age=\"5\""), Some(5));
        assert_eq!(of("max-age=300, no-store"), Some(0));
        assert_eq!(of("max-age=soon"), None);
        assert_eq!(of("s-maxage=9"), None);
        assert_eq!(max_age(&HeaderMap::new()), None);
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
