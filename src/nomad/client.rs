//! Questions to Nomad's HTTP API.

mod looks;

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::de::{DeserializeOwned, DeserializeSeed};

pub use looks::{AgentSettings, Driver};

use super::body::{self, BodyError};
use super::error::{ClientError, Context, Right};
use super::model::{AllocId, Allocation, Node};
use super::settings::{self, Connection, Settings, SettingsError};
use super::token::Token;
use super::wire::{AgentSelf, Listing, ListingSeed, WireAllocation, WireNode, WireSelf};

/// How long an answer may take that Nomad does not hold back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest listing that is read. 1,000 allocations have about 8 MiB.
const MAX_LISTING: u64 = 256 * 1024 * 1024;

/// The longest answer about one thing. A job may have some MiB of templates.
const MAX_OBJECT: u64 = 32 * 1024 * 1024;

/// A client of one Nomad agent. Cheap to clone; all clones share connections and token.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    context: Context,
    token: Token,
    kept: Mutex<Arc<HashSet<AllocId>>>,
}

impl Client {
    /// Makes a client. Reads the certificate files, connects nowhere.
    ///
    /// # Errors
    /// [`SettingsError`] where the address is none or a certificate file is unusable.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let connection = settings::connection(settings)?;
        let shown = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let context = Context {
            address: settings.address.clone(),
            name: connection.name.clone(),
            ca_file: shown(&settings.ca_file),
            cert_file: shown(&settings.cert_file),
        };
        let token = Token::new(settings.token.clone());
        Ok(Self { inner: Arc::new(Inner { connection, context, token, kept: Mutex::default() }) })
    }

    /// Listings name this allocation from now on, also where its job asks for no storage.
    pub fn keep(&self, alloc: &AllocId) {
        let mut kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.contains(alloc) {
            Arc::make_mut(&mut kept).insert(alloc.clone());
        }
    }

    /// Ends what [`Client::keep`] began.
    pub fn keep_no_longer(&self, alloc: &AllocId) {
        let mut kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.contains(alloc) {
            Arc::make_mut(&mut kept).remove(alloc);
        }
    }

    /// Nomad's address as configured.
    pub fn address(&self) -> &str {
        &self.inner.context.address
    }

    /// What the agent says of itself (`GET /v1/agent/self`, needs `agent:read`).
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn agent_self(&self) -> Result<AgentSelf, ClientError> {
        let request = Request::new("/v1/agent/self", Right::AgentRead);
        let wire: WireSelf = self.read(&request, self.ask(&request).await?).await?;
        Ok(wire.into())
    }

    /// A node (`GET /v1/node/:id`, needs `node:read`).
    ///
    /// # Errors
    /// [`ClientError::NodeUnknown`] where the servers do not know it (yet), and any other of [`ClientError`].
    pub async fn node(&self, id: &str) -> Result<Node, ClientError> {
        let request = Request::new(format!("/v1/node/{}", checked(id)?), Right::NodeRead);
        let wire: WireNode = match self.ask(&request).await {
            Err(ClientError::Unexpected { status: StatusCode::NOT_FOUND, .. }) => {
                return Err(ClientError::NodeUnknown { id: id.to_owned() });
            }
            answer => self.read(&request, answer?).await?,
        };
        Ok(wire.into())
    }

    /// The node's allocations, ended ones included (`GET /v1/node/:id/allocations`, needs `node:read`).
    ///
    /// With an index other than 0 Nomad holds its answer back until something has a higher one, or until `wait` is
    /// over (Nomad adds up to a sixteenth to it, and cuts it at 10 minutes). The answer may come from any server.
    ///
    /// Two things that Nomad's documentation leaves to be found out: allocations in namespaces where the token lacks
    /// `read-job` are left out without a word (see [`AgentSelf::allocations`] and [`Client::may_read_jobs`]), and the
    /// index is the highest of those that there *are*, so that an allocation's disappearance ends no wait.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn allocations(&self, node_id: &str, index: u64, wait: Duration) -> Result<Listing, ClientError> {
        let mut request = Request::listing(node_id, "?stale")?;
        if index > 0 {
            request.path.push_str(&format!("&index={index}&wait={}ms", wait.as_millis()));
            request.timeout += wait + wait / 16;
        }
        self.list(&request).await
    }

    /// The node's allocations at this moment, as the leader knows them; as any server does where there is no leader.
    ///
    /// What a server that lags behind leaves out has not ended, so a first look must not be at such a one.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn allocations_now(&self, node_id: &str) -> Result<Listing, ClientError> {
        match self.list(&Request::listing(node_id, "")?).await {
            Err(ClientError::Unavailable { .. }) => self.list(&Request::listing(node_id, "?stale")?).await,
            listing => listing,
        }
    }

    async fn list(&self, request: &Request) -> Result<Listing, ClientError> {
        let response = self.ask(request).await?;
        let index = index_of(&response);
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let listing = self.read_as(ListingSeed { kept }, request, response).await?;
        Ok(Listing { index, ..listing })
    }

    /// One allocation (`GET /v1/allocation/:id`, needs `read-job` in its namespace). None where there is no such one,
    /// and also where the token may not read it.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn allocation(&self, id: &AllocId) -> Result<Option<Allocation>, ClientError> {
        let request = Request::new(format!("/v1/allocation/{id}"), Right::ReadJob);
        let wire: WireAllocation = match self.ask(&request).await {
            Err(ClientError::Unexpected { status: StatusCode::NOT_FOUND, .. }) => return Ok(None),
            // What Nomad says, with status 500, of one that is there and may not be read.
            Err(ClientError::Unavailable { message, .. }) if message.starts_with("Unknown allocation") => {
                return Ok(None);
            }
            answer => self.read(&request, answer?).await?,
        };
        Ok(Some(wire.into()))
    }

    /// Whether the token may read the jobs of a namespace (asks for one of its allocations, needs nothing else).
    ///
    /// A listing of a node cannot tell: it leaves out what the token may not read.
    ///
    /// # Errors
    /// Any of [`ClientError`] but the denial that this is about.
    pub async fn may_read_jobs(&self, namespace: &str) -> Result<bool, ClientError> {
        let escaped: String = namespace.bytes().map(escape).collect();
        let request = Request::new(format!("/v1/allocations?stale&per_page=1&namespace={escaped}"), Right::ReadJob);
        match self.ask(&request).await {
            Err(ClientError::Denied { .. } | ClientError::TokenNeeded { .. }) => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// Restarts one running task, as `nomad alloc restart -task` does (`PUT /v1/client/allocation/:id/restart`, needs
    /// `alloc-lifecycle` in the job's namespace). Nomad counts it as no failure of the task's.
    ///
    /// # Errors
    /// Any of [`ClientError`]; [`ClientError::Unavailable`] also where the task does not run.
    pub async fn restart_task(&self, alloc: &AllocId, task: &str) -> Result<(), ClientError> {
        let request = Request::new(format!("/v1/client/allocation/{alloc}/restart"), Right::AllocLifecycle);
        let body = serde_json::json!({ "TaskName": task });
        self.send(&request, self.put(&request).json(&body)).await.map(drop)
    }

    /// Stops an allocation and has its job placed anew, as `nomad alloc stop` does (`PUT /v1/allocation/:id/stop`, needs
    /// `alloc-lifecycle` in the job's namespace).
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn stop_allocation(&self, alloc: &AllocId) -> Result<(), ClientError> {
        let request = Request::new(format!("/v1/allocation/{alloc}/stop"), Right::AllocLifecycle);
        self.send(&request, self.put(&request)).await.map(drop)
    }

    fn put(&self, request: &Request) -> reqwest::RequestBuilder {
        let connection = &self.inner.connection;
        connection.http.put(format!("{}{}", connection.base, request.path))
    }

    async fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        let connection = &self.inner.connection;
        self.send(request, connection.http.get(format!("{}{}", connection.base, request.path))).await
    }

    async fn send(&self, request: &Request, sent: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let Inner { context, token, .. } = &*self.inner;
        let header = token.read_header()?;
        let mut sent = sent.timeout(request.timeout);
        if let Some(value) = header {
            sent = sent.header("X-Nomad-Token", value);
        }
        let response = sent.send().await.map_err(|error| context.failed(&request.path, request.timeout, error))?;
        if response.status() == StatusCode::OK { Ok(response) } else { Err(self.refused(request, response).await) }
    }

    async fn refused(&self, request: &Request, response: Response) -> ClientError {
        let status = response.status();
        let message = body::read_message(response).await;
        let (address, path) = (self.inner.context.address.clone(), request.path.clone());
        match status {
            StatusCode::FORBIDDEN if message.contains("token not found") => ClientError::TokenUnknown,
            StatusCode::FORBIDDEN if !self.inner.token.is_configured() => {
                ClientError::TokenNeeded { path, right: request.right }
            }
            StatusCode::FORBIDDEN => ClientError::Denied { path, right: request.right },
            // Go's HTTP server says this where TLS was expected.
            StatusCode::BAD_REQUEST if message.contains("HTTP request to an HTTPS server") => {
                ClientError::TlsOnly { address }
            }
            status if status.is_server_error() => ClientError::Unavailable { address, path, status, message },
            _ => ClientError::Unexpected { address, path, status, message },
        }
    }

    async fn read<T>(&self, request: &Request, response: Response) -> Result<T, ClientError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.read_as(PhantomData, request, response).await
    }

    async fn read_as<T, S>(&self, seed: S, request: &Request, response: Response) -> Result<T, ClientError>
    where
        T: Send + 'static,
        S: for<'de> DeserializeSeed<'de, Value = T> + Send + 'static,
    {
        let context = &self.inner.context;
        let (address, path) = (context.address.clone(), request.path.clone());
        body::read_json(seed, response, request.limit).await.map_err(|error| match error {
            BodyError::Network(error) => context.failed(&path, request.timeout, error),
            BodyError::TooLong => ClientError::TooLong { address, path, limit: request.limit },
            BodyError::Malformed(source) => ClientError::Malformed { address, path, source },
            BodyError::CutShort => ClientError::CutShort { path },
        })
    }
}

/// One question.
struct Request {
    /// With its query, where it has one.
    path: String,
    /// The right that a refusal means is lacking.
    right: Right,
    limit: u64,
    timeout: Duration,
}

impl Request {
    fn new(path: impl Into<String>, right: Right) -> Self {
        Self { path: path.into(), right, limit: MAX_OBJECT, timeout: ANSWER_TIMEOUT }
    }

    fn listing(node_id: &str, query: &str) -> Result<Self, ClientError> {
        let path = format!("/v1/node/{}/allocations{query}", checked(node_id)?);
        Ok(Self { limit: MAX_LISTING, ..Self::new(path, Right::NodeRead) })
    }
}

/// Takes an id only if it can be nothing but one component of a path.
fn checked(id: &str) -> Result<&str, ClientError> {
    let clean = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if clean { Ok(id) } else { Err(ClientError::NodeUnknown { id: id.chars().take(64).collect() }) }
}

/// A byte as it may stand in a query.
fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

fn index_of(response: &Response) -> u64 {
    let header = response.headers().get("X-Nomad-Index");
    header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}
