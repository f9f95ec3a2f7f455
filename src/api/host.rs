//! The host's socket.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::{UnixListener, UnixStream};

use super::serve;
use super::types::{AttachRequest, DetachRequest};
use super::volumes::{DefinitionRequest, NameRequest};
use super::{follow, metrics};
use crate::config::LARGEST_DEFINITION;
use crate::job::{Kind, Refusal, Wish};
use crate::metrics::scrape::Scraper;
use crate::nomad::model::AllocId;
use crate::reconcile::{Handle, Selection};
use crate::sys::peer;

/// Connections at a time: as many hooks can wait.
const MOST_CONNECTIONS: usize = 512;
/// The largest body, in bytes: a volume's definition, of which every byte may be escaped.
const LARGEST_CHANGE: usize = 4 * LARGEST_DEFINITION;

#[derive(Clone)]
struct Caller {
    handle: Handle,
    may_act: bool,
}

/// Makes the socket. Everybody may connect; who is answered is decided by the peer's credentials, so that who may not
/// is told so.
///
/// # Errors
/// The kernel's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves it: root may do everything, members of `group` may look.
pub async fn serve(listener: UnixListener, handle: Handle, scraper: Scraper, group: Option<u32>) {
    serve::accept(listener, MOST_CONNECTIONS, move |stream| Some(route(stream, &handle, &scraper, group))).await;
}

fn route(stream: &UnixStream, handle: &Handle, scraper: &Scraper, group: Option<u32>) -> Router {
    let peer = peer::read_peer(stream.as_fd()).ok();
    let may_act = peer.as_ref().is_some_and(peer::Peer::is_root);
    let may_look = may_act || peer.as_ref().zip(group).is_some_and(|(peer, group)| peer.is_in_group(group));
    if !may_look {
        return Router::new().fallback(not_permitted);
    }
    Router::new()
        .route("/v1/mount", post(mount))
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .route("/v1/volume/register", post(register))
        .route("/v1/volume/create", post(create))
        .route("/v1/volume/deregister", post(deregister))
        .route("/v1/volume/delete", post(delete))
        .route("/v1/volumes", get(volumes))
        .route("/v1/status", get(status))
        .route("/v1/allocation/{prefix}", get(explain))
        .fallback(serve::no_such_path)
        .layer(DefaultBodyLimit::max(LARGEST_CHANGE))
        .with_state(Caller { handle: handle.clone(), may_act })
        .route(metrics::PATH, get(metrics::answer).with_state(scraper.clone()))
}

async fn not_permitted() -> Response {
    serve::refuse(Refusal::not_permitted("this socket answers root only").hint(
        "run it as root, or join the group that the agent's configuration names as status_group; a task uses its allocation's own socket",
    ))
}

async fn mount(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    if !caller.may_act {
        return serve::refuse(
            Refusal::not_permitted("only root may ask for mounts on this socket")
                .hint("a task uses its allocation's own socket, saddlebag.sock in NOMAD_ALLOC_DIR"),
        );
    }
    let request = match serve::read_request(&body) {
        Ok(request) => request,
        Err(refusal) => return serve::refuse(refusal),
    };
    let Some(alloc) = request.alloc else {
        return serve::refuse(Refusal {
            kind: Kind::Usage,
            message: "the request names no allocation".into(),
            hint: Some("send {\"alloc\": \"<NOMAD_ALLOC_ID>\", \"task\": \"<NOMAD_TASK_NAME>\"}".into()),
        });
    };
    let alloc = match AllocId::parse(&alloc) {
        Ok(alloc) => alloc,
        Err(error) => return serve::refuse(Refusal { kind: Kind::Usage, message: error.to_string(), hint: None }),
    };
    match caller.handle.mount(alloc, request.task).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

/// Only root changes what tasks see.
fn read_order<T: serde::de::DeserializeOwned>(caller: &Caller, body: &[u8]) -> Result<T, Refusal> {
    if !caller.may_act {
        return Err(Refusal::not_permitted("only root may attach and detach volumes"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal {
        kind: Kind::Usage,
        message: format!("the body is not a request: {error}"),
        hint: Some("send {\"alloc\": \"<id>\", \"volume\": \"<name>\"}".into()),
    })
}

async fn attach(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    let AttachRequest { alloc, volume, label, destination, tasks, read_only, on_failure } =
        match read_order(&caller, &body) {
            Ok(request) => request,
            Err(refusal) => return serve::refuse(refusal),
        };
    let wish = Wish { volume, label, destination, tasks, read_only, on_failure };
    match caller.handle.attach(alloc, wish).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn detach(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    let DetachRequest { alloc, volume, tasks, force } = match read_order(&caller, &body) {
        Ok(request) => request,
        Err(refusal) => return serve::refuse(refusal),
    };
    match caller.handle.detach(alloc, Selection { volume, tasks, force }).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

/// A reply, or why not.
fn answer(answer: Result<impl serde::Serialize, Refusal>) -> Response {
    match answer {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

/// Only root changes what volumes are.
fn read_change<T: serde::de::DeserializeOwned>(caller: &Caller, body: &[u8], form: &str) -> Result<T, Refusal> {
    if !caller.may_act {
        return Err(Refusal::not_permitted("only root may change volumes"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal {
        kind: Kind::Usage,
        message: format!("the body is not a request: {error}"),
        hint: Some(format!("send {form}")),
    })
}

const DEFINITION: &str = "{\"file\": \"pgdata.hcl\", \"text\": \"volume …\"}";
const NAME: &str = "{\"volume\": \"<name>\"}";

async fn register(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    match read_change(&caller, &body, DEFINITION) {
        Ok(DefinitionRequest { file, text }) => answer(caller.handle.register(file, text, false).await),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn create(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    match read_change(&caller, &body, DEFINITION) {
        Ok(DefinitionRequest { file, text }) => answer(caller.handle.register(file, text, true).await),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn deregister(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    match read_change(&caller, &body, NAME) {
        Ok(NameRequest { volume, .. }) => answer(caller.handle.deregister(volume).await),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn delete(State(caller): State<Caller>, body: axum::body::Bytes) -> Response {
    match read_change(&caller, &body, NAME) {
        Ok(NameRequest { volume, dynamic }) => answer(caller.handle.delete(volume, dynamic).await),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn volumes(State(caller): State<Caller>) -> Response {
    answer(caller.handle.volumes().await)
}

async fn status(State(caller): State<Caller>, RawQuery(query): RawQuery) -> Response {
    let follow = match follow::read(query.as_deref().unwrap_or_default()) {
        Ok(follow) => follow,
        Err(refusal) => return serve::refuse(refusal),
    };
    if let Some((index, wait)) = follow {
        return follow::answer(caller.handle.follow(index, wait).await);
    }
    match caller.handle.status(None).await {
        Ok(status) => Json(status).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn explain(State(caller): State<Caller>, axum::extract::Path(prefix): axum::extract::Path<String>) -> Response {
    match caller.handle.explain(prefix.chars().take(36).collect()).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}
