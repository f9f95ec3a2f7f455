//! An allocation's own socket, in its shared `alloc/` directory: how a prestart task in a container reaches the agent.
//!
//! The directory belongs to the allocation's tasks, who can put anything there. The socket is made beneath a descriptor
//! of the directory that was reached without following a symbolic link, and its permissions are set on the very inode
//! that was made; whatever a task puts in its place afterwards concerns only the task itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::net::UnixListener;

use super::serve::{self, LARGEST_BODY};
use crate::job::Refusal;
use crate::nomad::model::AllocId;
use crate::reconcile::Handle;
use crate::sys::{inode, resolve};

/// The socket's name.
pub const NAME: &str = "saddlebag.sock";
/// Connections at a time: an allocation has one hook, and a few tasks that may look.
const MOST_CONNECTIONS: usize = 8;
/// The first wait for Nomad to make the directory. Each wait is an eighth of the time that has passed, between this and
/// the longest: the directory is there some ten milliseconds before the hook asks, and the socket should be too.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The longest wait.
const LONGEST_LOOK: Duration = Duration::from_millis(250);

#[derive(Clone)]
struct Own {
    handle: Handle,
    alloc: AllocId,
}

/// Waits for Nomad to make the allocation's directory, makes the socket there, and serves it until it is ended.
pub async fn serve(alloc_root: PathBuf, alloc: AllocId, handle: Handle) {
    let begun = Instant::now();
    let listener = loop {
        let wait = match listen(&alloc_root, &alloc) {
            Ok(listener) => break listener,
            Err(ListenError::NotYet) => (begun.elapsed() / 8).clamp(FIRST_LOOK, LONGEST_LOOK),
            Err(ListenError::Other(error)) => {
                tracing::warn!(alloc = %alloc, %error, "no socket in the allocation's directory");
                LONGEST_LOOK
            }
        };
        tokio::time::sleep(wait).await;
    };
    // Made for each connection: kept ready for every allocation of a node it is most of an idle agent's memory.
    let own = Own { handle, alloc };
    serve::accept(listener, MOST_CONNECTIONS, move |_| Some(route(own.clone()))).await;
}

fn route(own: Own) -> Router {
    Router::new()
        .route("/v1/mount", post(mount))
        .route("/v1/status", get(status))
        .route("/v1/allocation/{prefix}", get(explain))
        .fallback(serve::no_such_path)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(own)
}

enum ListenError {
    /// Nomad has not made the directory yet.
    NotYet,
    Other(io::Error),
}

impl From<Errno> for ListenError {
    fn from(errno: Errno) -> Self {
        Self::Other(errno.into())
    }
}

impl From<io::Error> for ListenError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

fn open_shared(alloc_root: &Path, alloc: &AllocId) -> Result<OwnedFd, resolve::ResolveError> {
    let root = resolve::open_root(alloc_root)?;
    resolve::open_beneath(root.as_fd(), &Path::new(alloc.as_str()).join("alloc"))
}

fn listen(alloc_root: &Path, alloc: &AllocId) -> Result<UnixListener, ListenError> {
    let directory = match open_shared(alloc_root, alloc) {
        Ok(directory) => directory,
        Err(error) if error.is_missing() => return Err(ListenError::NotYet),
        Err(error) => return Err(ListenError::Other(io::Error::other(error))),
    };
    // A former agent's; or whatever a task has put there, which is the task's own loss. A directory is not removed.
    match rustix::fs::unlinkat(&directory, NAME, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Through the descriptor: an allocation's own path can be longer than the 107 bytes of a socket's (unix(7)).
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))?;
    let made = rustix::fs::openat(&directory, NAME, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&made)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket {
        // Every user of the allocation may ask for what is the allocation's.
        inode::set_mode(made.as_fd(), 0o666).map_err(io::Error::other)?;
    }
    Ok(listener)
}

async fn mount(State(own): State<Own>, body: axum::body::Bytes) -> Response {
    let request = match serve::read_request(&body) {
        Ok(request) => request,
        Err(refusal) => return serve::refuse(refusal),
    };
    if request.alloc.as_deref().is_some_and(|alloc| alloc != own.alloc.as_str()) {
        return serve::refuse(not_yours(&own.alloc));
    }
    match own.handle.mount(own.alloc, request.task).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn status(State(own): State<Own>) -> Response {
    match own.handle.status(Some(own.alloc)).await {
        Ok(status) => Json(status).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn explain(State(own): State<Own>, axum::extract::Path(prefix): axum::extract::Path<String>) -> Response {
    if !own.alloc.as_str().starts_with(&prefix) || prefix.is_empty() {
        return serve::refuse(not_yours(&own.alloc));
    }
    match own.handle.explain(own.alloc.to_string()).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

fn not_yours(alloc: &AllocId) -> Refusal {
    Refusal::not_permitted(format!("this socket acts for allocation {} and for no other", alloc.short()))
}
