//! The agent's own sockets, which are there for as long as it runs: whoever empties the run directory under it (a
//! cleaner of temporary files, a person) takes them away, and they are made anew.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;

use super::{AgentError, host, make_folder};
use crate::api;
use crate::config::Config;
use crate::metrics::scrape::Scraper;
use crate::reconcile::Handle;
use crate::sys::removals::Removals;

/// How long after a socket could not be made it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A socket that is served.
struct Bound {
    path: PathBuf,
    /// Device and inode of the name, by which another one's is told from it.
    name: (u64, u64),
    served: JoinHandle<()>,
}

/// Which socket.
#[derive(Clone, Copy)]
enum Which {
    Questions,
    Host,
}

/// Both sockets.
pub(super) struct Sockets {
    config: Arc<Config>,
    handle: Handle,
    scraper: Scraper,
    group: Option<u32>,
    questions: Bound,
    host: Bound,
    removed: UnboundedReceiver<()>,
    // Ends its thread when it is dropped.
    _watch: Option<Removals>,
}

impl Sockets {
    /// Makes both and serves them.
    pub(super) fn listen(
        config: Arc<Config>,
        handle: Handle,
        scraper: Scraper,
        group: Option<u32>,
    ) -> Result<Self, AgentError> {
        let (sender, removed) = mpsc::unbounded_channel();
        // Before they are there: a removal right after is told.
        let watch = Removals::watch(&config.run_dir, move |_| sender.send(()).is_ok())
            .inspect_err(|error| tracing::error!(%error, "the run directory is not watched: sockets that are removed from it stay away"))
            .ok();
        let bind = |which| {
            let path = path_of(&config, which);
            serve(&config, which, &handle, &scraper, group).map_err(host(format!("listen at {}", path.display())))
        };
        let (questions, socket) = (bind(Which::Questions)?, bind(Which::Host)?);
        Ok(Self { config, handle, scraper, group, questions, host: socket, removed, _watch: watch })
    }

    /// Makes them anew whenever they are gone. Ends never.
    pub(super) async fn keep(mut self) {
        let mut is_whole = true;
        loop {
            tokio::select! {
                told = self.removed.recv() => if told.is_none() { return std::future::pending().await },
                () = tokio::time::sleep(TRY_AGAIN), if !is_whole => {}
            }
            // Many names go at once: one look is enough for all that are gone already.
            while self.removed.try_recv().is_ok() {}
            is_whole = self.restore();
        }
    }

    fn restore(&mut self) -> bool {
        let mut is_whole = true;
        for which in [Which::Questions, Which::Host] {
            let bound = match which {
                Which::Questions => &mut self.questions,
                Which::Host => &mut self.host,
            };
            if name_of(&bound.path).is_ok_and(|name| name == bound.name) {
                continue;
            }
            let made = make_folder(&self.config.run_dir, 0o755)
                .map_err(io::Error::other)
                .and_then(|()| serve(&self.config, which, &self.handle, &self.scraper, self.group));
            match made {
                Ok(again) => {
                    tracing::warn!(socket = %again.path.display(), "the socket was removed under this agent; it is made anew");
                    // Calls that came over the old one go on.
                    std::mem::replace(bound, again).served.abort();
                }
                Err(error) => {
                    tracing::error!(socket = %bound.path.display(), %error, "the socket was removed under this agent, and cannot be made anew yet");
                    is_whole = false;
                }
            }
        }
        is_whole
    }
}

fn path_of(config: &Config, which: Which) -> PathBuf {
    match which {
        Which::Questions => config.question_socket(),
        Which::Host => config.socket(),
    }
}

fn serve(config: &Config, which: Which, handle: &Handle, scraper: &Scraper, group: Option<u32>) -> io::Result<Bound> {
    let path = path_of(config, which);
    let handle = handle.clone();
    let served = match which {
        Which::Questions => tokio::spawn(api::question::serve(api::question::listen(&path)?, handle)),
        Which::Host => tokio::spawn(api::host::serve(api::host::listen(&path)?, handle, scraper.clone(), group)),
    };
    Ok(Bound { name: name_of(&path)?, path, served })
}

fn name_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = path.symlink_metadata()?;
    Ok((found.dev(), found.ino()))
}
