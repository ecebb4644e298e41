//! The page for operators: `/metrics`, `/healthz`, `/readyz`. Own thread, own runtime; it only reads what the workers have written down.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::metrics::Published;
use super::side_thread::SideThread;

/// Connections at the same time; more wait.
const MAX_CONNECTIONS: usize = 64;
/// For a request to come in.
const PATIENCE: Duration = Duration::from_secs(10);

/// The thread; ends when it is dropped.
pub struct HttpThread {
    address: SocketAddr,
    _thread: SideThread,
}

impl HttpThread {
    /// Binds and starts.
    ///
    /// # Errors
    /// The address can not be bound, the thread not started.
    pub fn start(address: SocketAddr, published: Arc<Published>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let thread = SideThread::start("http", move || async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serve(listener, published).await,
                Err(error) => tracing::error!(%error, "the page for operators"),
            }
        })?;
        Ok(Self { address, _thread: thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: tokio::net::TcpListener, published: Arc<Published>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors, most likely
            continue;
        };
        let published = Arc::clone(&published);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &published);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // What a client does wrong ends its connection and concerns nobody else.
            let _ = tokio::time::timeout(2 * PATIENCE, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, published: &Published) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, "text/plain; version=0.0.4", published.prometheus()),
        (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/readyz") if published.is_draining() => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".to_owned())
        }
        (&Method::GET, "/readyz") => (StatusCode::OK, "text/plain", "ready\n".to_owned()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "/metrics /healthz /readyz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
