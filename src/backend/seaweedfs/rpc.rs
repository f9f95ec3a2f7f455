//! One call of the gRPC interface of a filer, or of a running `weed mount` (grpc.io, "gRPC over HTTP2"), with a deadline.
//!
//! `weed mount` speaks to the filer in no other way, so where this cannot be reached nothing can be mounted either.

use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::{Method, Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::filer;
use super::security::{self, SecurityError};

/// The longest answer that is read, in bytes: the rules of a filer with thousands of volumes.
const LARGEST_ANSWER: usize = 16 << 20;
/// By so much is the port of a filer's gRPC side above its usual one (weed/pb/server_address.go).
const GRPC_PORT_ABOVE: u16 = 10_000;
/// The status of a call that went well (grpc.io, "Status codes").
const OK: u32 = 0;

/// Why a call did not go well.
#[derive(Debug, thiserror::Error)]
pub(super) enum RpcError {
    /// No filer of the list could be spoken to.
    #[error("no filer can be spoken to: {filer}: {reason}")]
    Unreachable {
        /// The last that was tried.
        filer: String,
        /// Why not.
        reason: String,
    },
    /// It cannot be found out how to speak to it.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The filer says no.
    #[error("filer {filer} says: {message} (status {code})")]
    Refused {
        /// Which.
        filer: String,
        /// gRPC's status.
        code: u32,
        /// Its words.
        message: String,
    },
    /// This host cannot ask.
    #[error("cannot ask: {0}")]
    Host(#[from] std::io::Error),
}

impl RpcError {
    /// Whether the same may go well in a moment.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The filers of a backend, and how they are spoken to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filers<'a> {
    /// `HOST:PORT` or `HOST:PORT.GRPCPORT` of each.
    pub addresses: &'a [String],
    /// `security.toml`, where there is one.
    pub security: Option<&'a Path>,
    /// How long all of it may take.
    pub patience: Duration,
}

impl Filers<'_> {
    /// Calls a method of the service `filer_pb.SeaweedFiler` at the first filer that can be spoken to, and returns the
    /// bytes of its answer.
    ///
    /// # Errors
    /// [`RpcError`].
    pub(super) fn call(&self, method: &str, request: &[u8]) -> Result<Vec<u8>, RpcError> {
        let deadline = Instant::now() + self.patience;
        let tls = match self.security {
            Some(file) => security::client_of(file)?.map(|config| TlsConnector::from(std::sync::Arc::new(config))),
            None => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut last = RpcError::Unreachable { filer: String::new(), reason: "the list is empty".into() };
        for (number, address) in self.addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            // Whoever hangs leaves some of the time to the next.
            let share = left / u32::try_from(self.addresses.len() - number).unwrap_or(1).max(1);
            let path = format!("/filer_pb.SeaweedFiler/{method}");
            match runtime.block_on(call_one(address, tls.clone(), &path, request, share)) {
                Ok(answer) => return Ok(answer),
                Err(error @ RpcError::Unreachable { .. }) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// Calls a method, by its path, of whoever listens at a socket of this host, in plain.
///
/// # Errors
/// [`RpcError`], with the socket in the filer's place.
pub(super) fn call_socket(
    socket: &Path,
    method: &str,
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, RpcError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let at = socket.display().to_string();
    let unreachable = |reason: String| RpcError::Unreachable { filer: at.clone(), reason };
    let call = async {
        let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| unreachable(error.to_string()))?;
        talk(stream, &at, "http", "localhost", method, request).await
    };
    runtime.block_on(async {
        match tokio::time::timeout(patience, call).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable(format!("no answer within {} ms", patience.as_millis()))),
        }
    })
}

/// `HOST:PORT` of the gRPC side.
fn grpc_address(filer: &str) -> Option<String> {
    let (host, port) = filer.rsplit_once(':')?;
    let port = match port.split_once('.') {
        Some((_, grpc)) => grpc.parse().ok()?,
        None => port.parse::<u16>().ok()?.checked_add(GRPC_PORT_ABOVE)?,
    };
    Some(format!("{host}:{port}"))
}

async fn call_one(
    address: &str,
    tls: Option<TlsConnector>,
    method: &str,
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, RpcError> {
    let unreachable = |reason: String| RpcError::Unreachable { filer: address.to_owned(), reason };
    let at = grpc_address(address).ok_or_else(|| unreachable("it has no port for gRPC".into()))?;
    let talk = async {
        let stream = filer::connect(&at, patience).map_err(|error| unreachable(error.to_string()))?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        match tls {
            None => talk(stream, address, "http", &at, method, request).await,
            Some(tls) => {
                let host = at.rsplit_once(':').map_or(at.as_str(), |(host, _)| host).trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned()).map_err(|error| unreachable(error.to_string()))?;
                let stream = tls.connect(name, stream).await.map_err(|error| unreachable(error.to_string()))?;
                talk(stream, address, "https", &at, method, request).await
            }
        }
    };
    match tokio::time::timeout(patience, talk).await {
        Ok(answer) => answer,
        Err(_) => Err(unreachable(format!("no answer within {} ms", patience.as_millis()))),
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    filer: &str,
    scheme: &str,
    authority: &str,
    method: &str,
    request: &[u8],
) -> Result<Vec<u8>, RpcError> {
    let failed = |error: &dyn std::error::Error| {
        let reason = error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        RpcError::Unreachable { filer: filer.to_owned(), reason }
    };
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let uri: Uri = format!("{scheme}://{authority}{method}").parse().map_err(std::io::Error::other)?;
    // A message is framed by whether it is compressed, and by its length.
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(request.len()).map_err(std::io::Error::other)?.to_be_bytes());
    body.extend_from_slice(request);
    let mut call = Request::new(Full::new(Bytes::from(body)));
    *call.method_mut() = Method::POST;
    *call.uri_mut() = uri;
    call.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    call.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    let (head, body) = sender.send_request(call).await.map_err(|e| failed(&e))?.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| failed(error.as_ref()))?;
    connection.abort();
    // A server that has nothing to say puts its status into the head.
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = status_of(&trailers).or_else(|| status_of(&head.headers));
    match status {
        Some((OK, _)) => {}
        Some((code, message)) => return Err(RpcError::Refused { filer: filer.to_owned(), code, message }),
        None => {
            let reason = format!("it does not speak gRPC (HTTP status {})", head.status.as_u16());
            return Err(RpcError::Unreachable { filer: filer.to_owned(), reason });
        }
    }
    let bytes = body.to_bytes();
    let message = bytes.get(..5).and_then(|head| {
        let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
        bytes.get(5..)?.get(..usize::try_from(length).ok()?)
    });
    let message = message.filter(|_| bytes.first() == Some(&0));
    message
        .map(<[u8]>::to_vec)
        .ok_or_else(|| RpcError::Unreachable { filer: filer.to_owned(), reason: "its answer has no message".into() })
}

fn status_of(headers: &HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    // A server's words are not trusted: no control character of them reaches a terminal.
    Some((code, message.chars().filter(|c| !c.is_control()).take(400).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grpc_side_is_where_seaweedfs_puts_it() {
        assert_eq!(grpc_address("10.0.0.1:8888").as_deref(), Some("10.0.0.1:18888"));
        assert_eq!(grpc_address("filer.example:8888.9999").as_deref(), Some("filer.example:9999"));
        assert_eq!(grpc_address("[::1]:8888").as_deref(), Some("[::1]:18888"));
        assert_eq!(grpc_address("filer:60000"), None);
    }

    #[test]
    fn a_filer_that_is_not_there_or_speaks_otherwise_is_told_of_within_its_time() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = other.accept().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let addresses = [format!("127.0.0.1:1.{port}")];
        let filers = Filers { addresses: &addresses, security: None, patience: Duration::from_secs(10) };
        let error = filers.call("Ping", &[]).unwrap_err();
        assert!(error.is_temporary(), "{error}");
    }
}
