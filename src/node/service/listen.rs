//! Connections of the service.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::answer::answer;
use super::{Orders, Shared};

/// Wait after a failure to accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Octets of the header fields of one request.
const MAX_HEAD: usize = 16 * 1024;

/// Accepts until the drain begins: whoever connects then is refused by the system and asks another server at once.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(shared.settings.borrow().config.connections.max(1)));
    let mut orders = shared.workers.orders.clone();
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = drained(&mut orders) => break,
        };
        let (Ok(permit), Ok((stream, remote))) = (permit, accepted) else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = connection(shared, stream, remote).await {
                tracing::debug!(%remote, %error, "connection of the STIR service"); // strangers decide how often
            }
            drop(permit);
        });
    }
    drop(listener);
    std::future::pending::<()>().await; // the connections end by themselves, or with the thread
}

/// Ready once the edge takes no new calls.
async fn drained(orders: &mut watch::Receiver<Orders>) {
    if orders.wait_for(|orders| orders.drain).await.is_err() {
        std::future::pending().await // the edge is gone, and soon this thread
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr) -> io::Result<()> {
    let settings = Arc::clone(&shared.settings.borrow());
    let _ = stream.set_nodelay(true);
    match &settings.config.tls {
        None => exchange(shared, stream, remote).await,
        Some(tls) => {
            let acceptor = TlsAcceptor::from(Arc::clone(tls));
            let session = timeout(settings.config.idle_timeout, acceptor.accept(stream)).await;
            exchange(shared, session.map_err(|_| io::ErrorKind::TimedOut)??, remote).await
        }
    }
}

/// What a connection is used for.
#[derive(Default)]
struct Activity {
    /// Requests of those who may ask.
    heard: AtomicU64,
    /// Requests that have no answer yet.
    under_way: AtomicUsize,
}

/// A request that has no answer yet.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests of one connection, until it has been idle for long or the edge drains: what is under way then is answered first.
async fn exchange<S>(shared: Arc<Shared>, stream: S, remote: SocketAddr) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (idle, streams) = {
        let settings = shared.settings.borrow();
        (settings.config.idle_timeout, settings.config.streams)
    };
    let mut orders = shared.workers.orders.clone();
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
        move |request| {
            let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
            async move {
                let _busy = Busy::new(&activity.under_way);
                Ok::<_, Infallible>(answer(&shared, remote.ip(), request, &activity.heard).await)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(MAX_HEAD);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(streams).max_header_list_size(MAX_HEAD as u32);
    http2.keep_alive_interval(idle).keep_alive_timeout(idle);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut look = interval(idle);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.tick().await; // at once
    let (mut before, mut is_ending) = (0, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = drained(&mut orders), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                let now = activity.heard.load(Ordering::Relaxed);
                if now != before || activity.under_way.load(Ordering::Relaxed) > 0 {
                    before = now;
                } else if is_ending {
                    return Err(io::ErrorKind::TimedOut.into());
                } else {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
