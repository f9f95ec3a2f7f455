//! Asks the agent: HTTP/1.1 over a unix socket, one request on one connection, one bounded answer, one deadline.
//!
//! `saddlebag mount` stands before every start of a job, so nothing is set up here that one request does not need.

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::types::ErrorReply;
use crate::cli::exit::{Failure, NOT_PERMITTED, TRY_AGAIN, UNAVAILABLE, with_causes};

/// The longest answer that is read, in bytes: tens of thousands of bindings.
const MAX_ANSWER: usize = 16 << 20;

/// How long [`ask_once`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest path that fits into `sun_path` with its end (unix(7)).
const MAX_SUN_PATH: usize = 107;

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or this user may not connect.
    #[error("no connection to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection ended before the answer did: the agent was killed, or restarted.
    #[error("the agent closed the connection before its answer was complete")]
    Cut(#[source] Box<dyn Error + Send + Sync>),
    /// The deadline came first.
    #[error("the agent did not answer in time")]
    Deadline,
    /// What came is not what an agent says.
    #[error("what answers at {} does not speak like saddlebag's agent: {what}", socket.display())]
    Garbage {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The agent understood and said no.
    #[error("{}", .0.error)]
    Refused(ErrorReply),
    /// The agent said no without a reason that can be read.
    #[error("the agent answered with status {0} and no reason")]
    Status(StatusCode),
}

impl AskError {
    /// Whether nobody listens there now, so that another socket, or another time, may do better.
    pub fn is_nobody_there(&self) -> bool {
        // A socket whose backlog is full answers EAGAIN; one that is being replaced may be a plain file for an instant.
        matches!(self, Self::Connect { .. })
    }

    /// Whether the kernel did not permit the connection.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// How a verb that asks once ends; `mount`, which asks until its deadline, has sentences of its own.
impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let message = with_causes(&error);
        match error {
            AskError::Refused(reply) => Self::from(reply),
            AskError::Connect { .. } if error.is_not_permitted() => Self::new(NOT_PERMITTED, message)
                .hint("run it as root, or as a member of the group that may look (status_group in the configuration)"),
            AskError::Connect { .. } => Self::new(UNAVAILABLE, message)
                .hint("is the agent running on this machine? `systemctl status saddlebag` says so"),
            AskError::Cut(_) | AskError::Deadline => Self::new(TRY_AGAIN, message),
            AskError::Garbage { .. } | AskError::Status(_) => Self::new(UNAVAILABLE, message).hint(
                "is it another program's socket, or an agent of another version? `saddlebag version` shows this one's",
            ),
        }
    }
}

/// One question, and where its answer's end is: an HTTP request without a connection.
#[derive(Debug, Clone)]
pub struct Question {
    method: Method,
    path: String,
    body: Bytes,
}

impl Question {
    /// Asks to see something. The path is sent as it is: a caller checks what it puts in.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new() }
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// Where the body cannot be written as JSON.
    pub fn post(path: impl Into<String>, body: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { method: Method::POST, path: path.into(), body: serde_json::to_vec(body)?.into() })
    }
}

/// Runs what asks, on this thread alone.
///
/// # Errors
/// Where the kernel gives no event queue.
pub fn block_on<T>(asks: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?.block_on(asks))
}

/// Asks once, from a verb that has nothing else to do; the agent answers it from memory, so [`PATIENCE`] is plenty.
///
/// # Errors
/// A [`Failure`] that says why there is no answer.
pub fn ask_once<T: DeserializeOwned>(socket: &Path, question: Question) -> Result<T, Failure> {
    block_on(ask(socket, question, Instant::now() + PATIENCE))
        .map_err(|error| Failure::new(UNAVAILABLE, format!("no event queue from the kernel: {error}")))?
        .map_err(Failure::from)
}

/// Asks.
///
/// # Errors
/// [`AskError`] says why there is no answer.
pub async fn ask<T: DeserializeOwned>(socket: &Path, question: Question, deadline: Instant) -> Result<T, AskError> {
    let (status, answer) = tokio::time::timeout_at(deadline.into(), exchange(socket, question))
        .await
        .map_err(|_| AskError::Deadline)??;
    if status.is_success() {
        serde_json::from_slice(&answer)
            .map_err(|error| garbage(socket, format!("its answer is not the JSON that is expected ({error})")))
    } else {
        Err(serde_json::from_slice(&answer).map_or(AskError::Status(status), AskError::Refused))
    }
}

/// Sends the question and reads the answer to its end.
async fn exchange(socket: &Path, question: Question) -> Result<(StatusCode, Bytes), AskError> {
    let stream = connect(socket).await.map_err(|source| AskError::Connect { socket: socket.to_owned(), source })?;
    let failed = |error: hyper::Error| {
        if error.is_parse() { garbage(socket, error.to_string()) } else { AskError::Cut(Box::new(error)) }
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the answer, or with this runtime; what it would report comes out of the request, too.
    tokio::spawn(connection);

    let mut request = hyper::Request::new(Full::new(question.body));
    *request.method_mut() = question.method;
    *request.uri_mut() =
        question.path.parse().map_err(|error| garbage(socket, format!("no path {:?} ({error})", question.path)))?;
    let headers = request.headers_mut();
    headers.insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("saddlebag"));
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));

    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(garbage(socket, format!("its answer is longer than {} MiB", MAX_ANSWER >> 20)))
        }
        Err(error) => Err(AskError::Cut(error)),
    }
}

fn garbage(socket: &Path, what: String) -> AskError {
    AskError::Garbage { socket: socket.to_owned(), what }
}

/// Connects to the socket, whatever the length of its path: below a deep data directory an allocation's own socket
/// has a longer one than `sun_path` holds, and is then reached through its opened folder.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().as_bytes().len() <= MAX_SUN_PATH {
        return UnixStream::connect(socket).await;
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)).await
}
