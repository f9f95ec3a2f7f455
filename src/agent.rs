//! The agent's start-up and shutdown, in order:
//!
//! 1. the run directory and the lock that keeps a second agent away;
//! 2. the reconciler, which recalls the ledger and begins to restore what it names, before Nomad is heard at all;
//! 3. the sockets; 4. the guard, found or started, and watched; 5. the watch over Nomad's allocations;
//! 6. readiness, once everything that was mounted before is mounted again or has failed.
//!
//! Its end takes nothing away: mounts, mount programs and the guard live on, and the next agent finds them.

mod sockets;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, oneshot};

use crate::api;
use crate::backend::logs;
use crate::backend::program::{Running, is_under_systemd};
use crate::config::Config;
use crate::guard::{self, GuardClient};
use crate::metrics::scrape::Scraper;
use crate::nomad::client::Client;
use crate::nomad::settings::{Settings, SettingsError};
use crate::nomad::token::{Secret, TokenSource};
use crate::nomad::watch::Watch;
use crate::reconcile::Handle;
use crate::reconcile::error::whole;
use crate::reconcile::events::Done;
use crate::reconcile::reconciler::{Reconciler, StartError};
use crate::sys::{memory, process, users};
use sockets::Sockets;

/// How long the guard may take to say hello.
const HELLO: Duration = Duration::from_secs(2);
/// The first wait before a guard that does not answer is looked for again; doubled up to [`LONGEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How long a former agent may take to die.
const DYING: Duration = Duration::from_secs(2);
/// The longest such wait.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// Why the agent ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The run directory or the lock.
    #[error("cannot use {}", .path.display())]
    Place {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another agent runs.
    #[error("another agent runs with state_dir {}", .0.display())]
    Another(PathBuf),
    /// It is not root.
    #[error("the agent mounts file systems and must run as root")]
    NotRoot,
    /// The group of the configuration.
    #[error("there is no group {0:?}, which the configuration names as status_group")]
    NoGroup(String),
    /// The settings of the connection to Nomad.
    #[error("Nomad cannot be asked with these settings")]
    Nomad(#[from] SettingsError),
    /// The reconciler.
    #[error("cannot start")]
    Start(#[from] StartError),
    /// The runtime, a socket or a signal.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> AgentError {
    let what = what.into();
    move |source| AgentError::Host { what, source }
}

/// Runs until SIGTERM or SIGINT; mounts stay.
///
/// # Errors
/// What keeps an agent from starting.
pub fn run(config: Config) -> Result<(), AgentError> {
    if !rustix::process::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    memory::share_one_heap();
    raise_descriptor_limit();
    // One thread for everything that only waits; what may block has workers of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(host("start the runtime"))?;
    runtime.block_on(serve(Arc::new(config)))?;
    // A worker may hang on a dead server: it is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Every allocation that may ask has a socket of its own: the usual soft limit of 1,024 is one of many, the hard one is
/// what the administrator means.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

async fn serve(config: Arc<Config>) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(host("take SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(host("take SIGINT"))?;
    let hangup = signal(SignalKind::hangup()).map_err(host("take SIGHUP"))?;
    tokio::spawn(answer_hangups(hangup));
    make_folder(&config.run_dir, 0o755)?;
    make_folder(&config.state_dir, 0o711)?;
    let _lock = lock(&config)?;
    let group = match &config.status_group {
        Some(name) => Some(users::find_group(name).ok_or_else(|| AgentError::NoGroup(name.clone()))?),
        None => None,
    };

    let client = Client::new(&settings(&config))?;
    let (news_sender, news) = mpsc::channel(16);
    let (watch, watch_handle) = Watch::new(client.clone(), news_sender);
    let (handle, asks) = Handle::new();
    let (settled_sender, settled) = oneshot::channel();
    let guard_client = GuardClient::new(config.guard_socket());
    let reconciler = Reconciler::new(
        Arc::clone(&config),
        guard_client.clone(),
        handle.clone(),
        client,
        watch_handle,
        settled_sender,
    )?;

    if let Err(error) = logs::keep_small(vec![config.logs_dir(), config.run_dir.clone()]) {
        tracing::warn!(%error, "the logs of mount programs and of the guard are not kept small");
    }
    let scraper = Scraper::new(reconciler.metrics(), handle.clone(), guard_client.clone());
    let sockets = Sockets::listen(Arc::clone(&config), handle.clone(), scraper.clone(), group)?;
    if let Some(address) = config.metrics_address {
        tokio::spawn(api::metrics::serve(address, scraper));
    }
    watch_guard(Arc::clone(&config), guard_client, reconciler.results())?;
    tokio::spawn(watch.run());
    tokio::spawn(sockets.keep());
    tokio::spawn(tell_systemd(settled, handle));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %config.socket().display(), "the agent runs");
    tokio::select! {
        () = reconciler.run(asks, news) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tell(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("the agent ends; every mount stays");
    Ok(())
}

/// Elsewhere SIGHUP asks a daemon to read its configuration again. Here a restart does, and costs no task anything.
async fn answer_hangups(mut hangup: tokio::signal::unix::Signal) {
    while hangup.recv().await.is_some() {
        tracing::warn!("SIGHUP changes nothing: a changed configuration is read by `systemctl restart saddlebag`");
    }
}

fn make_folder(path: &PathBuf, mode: u32) -> Result<(), AgentError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| AgentError::Place { path: path.clone(), source })
}

/// Two agents on one state directory would undo each other's work.
///
/// A killed agent's lock can outlive it: a worker of it that waits for a server that hangs, or for the disk, ends only
/// when it is answered, and until then the kernel keeps the descriptors of all. So the lock names its holder, and one
/// whose main thread is gone holds nothing.
fn lock(config: &Config) -> Result<File, AgentError> {
    let path = config.state_dir.join("agent.lock");
    let place = |source| AgentError::Place { path: path.clone(), source };
    // Whoever takes a dead one's lock over does so alone; it is held for moments, by nobody who waits for a server.
    let turn = open_lock(&config.state_dir.join("agent.turn")).map_err(place)?;
    rustix::fs::flock(&turn, FlockOperation::LockExclusive).map_err(|errno| place(errno.into()))?;
    let patience = Instant::now() + DYING;
    let (file, locked) = loop {
        let file = open_lock(&path).map_err(place)?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        // One that was killed just now is there for a moment still.
        if locked.is_ok() || holder_is_gone(&path) || Instant::now() > patience {
            break (file, locked);
        }
        std::thread::sleep(FIRST_LOOK);
    };
    let file = match locked {
        Ok(()) => file,
        Err(rustix::io::Errno::WOULDBLOCK) if holder_is_gone(&path) => {
            tracing::warn!(
                "the former agent was killed, and a thread of it still waits in the kernel: its lock is taken over"
            );
            fs::remove_file(&path).map_err(place)?;
            let file = open_lock(&path).map_err(place)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| place(errno.into()))?;
            file
        }
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(AgentError::Another(config.state_dir.clone())),
        Err(errno) => return Err(place(errno.into())),
    };
    let pid = i32::try_from(std::process::id()).map_err(|error| place(io::Error::other(error)))?;
    // Always as long, and written over what is there: on a full disk that needs no room.
    let holder = format!("{pid:<10} {:<20}\n", process::start_time(pid).map_err(place)?);
    if let Err(error) = file.write_all_at(holder.as_bytes(), 0) {
        tracing::warn!(%error, "the lock does not name this agent: the disk of the state directory is full or read-only");
        // Better nobody's name than a dead one's. On a disk that is read-only it stays, and nobody can remove the file.
        let _ = file.set_len(0);
    }
    Ok(file)
}

fn open_lock(path: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path) {
        // What is mounted has to be looked after all the same; a file that is there can be locked.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        opened => opened,
    }
}

/// Whether the process that the lock names is gone, or only what the kernel has not let go of it is left.
fn holder_is_gone(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(started))) = (words.next(), words.next()) else { return false };
    let Ok(pid) = i32::try_from(pid) else { return false };
    match process::start_time(pid) {
        Ok(found) => found != started || process::is_zombie(pid),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// How the configuration reaches Nomad.
pub(crate) fn settings(config: &Config) -> Settings {
    let nomad = &config.nomad;
    let token = match (&nomad.token_file, &nomad.token) {
        (Some(file), _) => TokenSource::File(file.clone()),
        (None, Some(token)) => TokenSource::Fixed(Secret::new(token.expose())),
        (None, None) => TokenSource::None,
    };
    Settings {
        address: nomad.address.clone(),
        token,
        ca_file: nomad.ca_file.clone(),
        cert_file: nomad.cert_file.clone(),
        key_file: nomad.key_file.clone(),
        tls_server_name: nomad.tls_server_name.clone(),
        skip_verify: nomad.skip_verify,
    }
}

/// Finds the guard, or starts one, and does so again whenever it ends: told by its pidfd, not by asking it.
fn watch_guard(config: Arc<Config>, client: GuardClient, results: UnboundedSender<Done>) -> Result<(), AgentError> {
    let exe = std::env::current_exe().map_err(host("find the own executable"))?;
    let watch = move || {
        let mut wait = FIRST_LOOK;
        loop {
            // Under systemd the guard is a unit of its own, which systemd starts again; elsewhere it is ours to start.
            let hello = if is_under_systemd() && std::env::var_os("NOTIFY_SOCKET").is_some() {
                client.hello(HELLO)
            } else {
                guard::ensure_running(&config.run_dir, &exe, &[])
            };
            match hello {
                Ok(hello) => {
                    let running = i32::try_from(hello.pid).map_err(io::Error::other).and_then(Running::watch);
                    if results.send(Done::Guard(Ok(hello))).is_err() {
                        return;
                    }
                    if let Ok(running) = running {
                        wait = FIRST_LOOK;
                        running.wait();
                        tracing::warn!(pid = running.pid, "the guard has ended; its successor is looked for");
                    }
                }
                Err(error) => {
                    if results.send(Done::Guard(Err(whole(&error)))).is_err() {
                        return;
                    }
                }
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    };
    std::thread::Builder::new()
        .name("guard-watch".into())
        .stack_size(256 << 10)
        .spawn(watch)
        .map(drop)
        .map_err(host("start the thread that watches the guard"))
}

/// Readiness, and then the watchdog: each sign of life is an answer of the reconciler itself.
async fn tell_systemd(settled: oneshot::Receiver<()>, handle: Handle) {
    if settled.await.is_err() {
        return;
    }
    tracing::info!("ready");
    tell(&[sd_notify::NotifyState::Ready]);
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let nobody = crate::nomad::model::AllocId::parse("00000000-0000-0000-0000-000000000000");
    loop {
        tokio::time::sleep(period / 3).await;
        if handle.status(nobody.clone().ok()).await.is_ok() {
            tell(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
