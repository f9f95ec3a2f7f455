//! HTTP over a socket, with bounds on everything that a peer can send or delay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::types::{ErrorReply, MountRequest};
use crate::job::{Kind, Refusal};

/// The largest body that is read, in bytes: requests are a few dozen.
pub const LARGEST_BODY: usize = 16 << 10;
/// The largest head of a request, in bytes; the smallest that the server allows.
const LARGEST_HEAD: usize = 16 << 10;
/// How long a peer may take to send a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live, all in all. Hooks are answered well before.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);

/// What connections come from.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static;

    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts connections, at most `most` at a time, until the socket fails or the task is ended.
pub async fn accept<L, F>(listener: L, most: usize, route: F)
where
    L: Listener,
    F: Fn(&L::Stream) -> Option<Router> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: those in use will end.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(router) = route(&stream) else { continue };
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            // A peer that sends garbage or goes away gets its answer from the server, or needs none.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

/// A request for mounts; whatever its content type says, since plain curl says something else.
///
/// # Errors
/// A refusal that shows what is expected.
pub fn read_request(body: &[u8]) -> Result<MountRequest, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(MountRequest::default());
    }
    serde_json::from_slice(body).map_err(|error| Refusal {
        kind: Kind::Usage,
        message: format!("the body is not a request: {error}"),
        hint: Some("send {\"task\": \"<name of the prestart task>\"}".into()),
    })
}

/// The answer to a request that failed.
pub fn refuse(refusal: Refusal) -> Response {
    let status = match refusal.kind {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::NotPermitted => StatusCode::FORBIDDEN,
        Kind::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::TryAgain => StatusCode::GATEWAY_TIMEOUT,
    };
    let reply = ErrorReply { exit_code: refusal.kind.exit_code(), error: refusal };
    (status, axum::Json(reply)).into_response()
}

/// A path that no socket has.
pub async fn no_such_path() -> Response {
    let refusal = Refusal {
        kind: Kind::Usage,
        message: "there is no such path".into(),
        hint: Some("POST /v1/mount, GET /v1/status, GET /v1/allocation/<id>; on the host's socket GET /metrics".into()),
    };
    let mut response = refuse(refusal);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
