//! Serving connections. A client that sends nothing, or its head a byte at a time, is cut, so that it
//! does not hold a place for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::access::Peer;
use crate::config::HttpConfig;

/// Connections that wait to be taken. One that finds no room, as with the usual 128 when some hundred clients
/// come at once, is tried again by its client only a second later.
const BACKLOG: u32 = 1_024;

/// Why the server cannot be reached. The program ends; the operator frees the port or names another.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for HTTP on {address}: {source}; stop what uses port {} (ss -ltnp shows it) or \
     give another with --listen",
    address.port()
)]
pub struct ListenError {
    /// The address asked for.
    address: SocketAddr,
    /// What the system said.
    source: io::Error,
}

/// Takes the port; within a runtime.
///
/// # Errors
/// [`ListenError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    listening(address).map_err(|source| ListenError { address, source })
}

fn listening(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again must not wait for connections of the one before to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then lets requests that have begun end, for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: HttpConfig,
    stop: CancellationToken,
    drain: Duration,
) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    let places = Arc::new(Semaphore::new(config.max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to end.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection without TCP_NODELAY");
        }
        let requests = Arc::new(Requests::default());
        let stream = TokioIo::new(Watched::new(stream, config.idle_timeout, requests.clone()));
        let service = TowerToHyperService::new(router.clone());
        let service = Counted { service, requests, peer: Peer(address) };
        let connection = graceful.watch(protocol.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "connection cut");
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        warn!("some requests were cut: they had not ended within {} s", drain.as_secs());
    }
}

/// The requests of one connection that are being worked on.
#[derive(Debug, Default)]
struct Requests {
    active: AtomicUsize,
    /// One has ended since somebody looked.
    ended: AtomicBool,
}

/// Counts one request while it is worked on.
struct Working(Arc<Requests>);

impl Working {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.active.fetch_add(1, Ordering::SeqCst);
        Self(requests.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Counted<S> {
    service: S,
    requests: Arc<Requests>,
    peer: Peer,
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        let working = Working::new(&self.requests);
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(working);
            answer
        })
    }
}

/// A stream that fails after a time without a byte in either direction, unless the quiet is our own:
/// while a request is worked on, its client has nothing to send.
struct Watched {
    stream: TcpStream,
    limit: Duration,
    quiet: Pin<Box<Sleep>>,
    requests: Arc<Requests>,
}

impl Watched {
    fn new(stream: TcpStream, limit: Duration, requests: Arc<Requests>) -> Self {
        Self { stream, limit, quiet: Box::pin(sleep(limit)), requests }
    }

    /// Notes a byte.
    fn restart(&mut self) {
        let until = Instant::now() + self.limit;
        self.quiet.as_mut().reset(until);
    }

    /// Ready with an error once it has been quiet for too long.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let ended = self.requests.ended.swap(false, Ordering::SeqCst);
        if ended || self.requests.active.load(Ordering::SeqCst) > 0 {
            self.restart();
        }
        ready!(self.quiet.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing happened for too long"))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                self.restart();
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_quiet(cx).map(Err),
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(result) => {
                self.restart();
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_quiet(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, slices) {
            Poll::Ready(result) => {
                self.restart();
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_quiet(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
