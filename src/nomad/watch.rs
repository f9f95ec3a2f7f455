//! Watches the allocations of this machine's node.
//!
//! One future asks who and where this node is, and then for its allocations, again and again by blocking queries. After
//! any error it begins anew with the first question: Nomad may have come back as another node. It keeps no state but
//! the index, and gives each listing whole, so that its receiver compares and never has to add up.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::client::Client;
use super::error::{ClientError, one_line};
use super::model::Node;
use super::pace::{Backoff, Pace};
use super::wire::Listing;

/// How long Nomad may hold back an answer in which nothing changed.
///
/// It is also how long an allocation's disappearance may stay unnoticed: Nomad's servers delete the allocations of a
/// purged job together with the job, before the client has stopped their tasks, and no index of those that are left
/// moves. Whoever learns of it otherwise (a directory that is gone, the guard's question) calls
/// [`WatchHandle::refresh_now`]. And what is not listed any more may still be running.
pub const WAIT: Duration = Duration::from_secs(300);

/// At most one listing in this time, but for the first few after a quiet time.
const INTERVAL: Duration = Duration::from_millis(50);
const BURST: u32 = 4;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MOST_DELAY: Duration = Duration::from_secs(5);

/// What the watch has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nomad answers. Comes before the first listing, and again before the first one after each [`News::Lost`].
    Connected {
        /// This machine's node.
        node: Node,
        /// Where Nomad keeps allocations, if it says so (see [`super::wire::AgentSelf::alloc_dir`]).
        alloc_dir: Option<PathBuf>,
        /// Nomad's version.
        version: String,
        /// The node's id, as the agent itself gives it.
        node_id: String,
    },
    /// All allocations of the node, as they are now.
    Listing(Listing),
    /// Nomad cannot be asked, and why, in one line that also says what to do. Said once for each reason, while the
    /// watch goes on trying.
    Lost(String),
}

/// Why the watch has nothing to list.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "Nomad's agent at {address} is no client but a server, so it has no allocations; \
         run saddlebag on Nomad's clients, or set Nomad's address to the agent of this machine"
    )]
    NoClient { address: String },
    #[error("Nomad's agent at {address} has no node id yet; its client is still starting")]
    NoNodeYet { address: String },
}

/// A watch that has yet to be run.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    news: mpsc::Sender<News>,
    refresh: Arc<Notify>,
    wait: Duration,
    pace: Pace,
    refresh_pace: Pace,
}

/// Asks a running watch for a listing at once.
#[derive(Debug, Clone)]
pub struct WatchHandle {
    refresh: Arc<Notify>,
}

impl WatchHandle {
    /// Makes the watch list the allocations now, beside the query that Nomad holds back. Calls that come before it has
    /// begun are one. Does nothing while Nomad is lost: then it is asked anyway.
    pub fn refresh_now(&self) {
        self.refresh.notify_one();
    }
}

/// What ended the listing of a node.
enum End {
    Error(ClientError),
    Closed,
}

impl Watch {
    /// A watch that tells its news to `news`.
    pub fn new(client: Client, news: mpsc::Sender<News>) -> (Self, WatchHandle) {
        let refresh = Arc::new(Notify::new());
        let handle = WatchHandle { refresh: Arc::clone(&refresh) };
        let pace = || Pace::new(INTERVAL, BURST);
        (Self { client, news, refresh, wait: WAIT, pace: pace(), refresh_pace: pace() }, handle)
    }

    /// The same with another time for blocking queries than [`WAIT`].
    #[must_use]
    pub fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Watches until nobody receives the news any more. Never fails: what goes wrong is news.
    ///
    /// May be dropped at any moment; nothing is left behind.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        let mut said: Option<String> = None;
        loop {
            let news = self.news.clone();
            let found = tokio::select! {
                found = self.discover() => found,
                () = news.closed() => return,
            };
            let reason = match found {
                Err(error) => one_line(&error),
                Ok((connected, first, node_id)) => {
                    said = None;
                    backoff.reset();
                    if !self.tell(connected).await {
                        return;
                    }
                    match self.follow(&node_id, first).await {
                        End::Closed => return,
                        End::Error(error) => one_line(&error),
                    }
                }
            };
            if said.as_ref() != Some(&reason) {
                if !self.tell(News::Lost(reason.clone())).await {
                    return;
                }
                said = Some(reason);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = news.closed() => return,
            }
        }
    }

    /// Finds this machine's node, and lists its allocations for a first time: only a token that may do both is good.
    async fn discover(&mut self) -> Result<(News, Listing, String), WatchError> {
        let address = || self.client.address().to_owned();
        let agent = self.client.agent_self().await?;
        if !agent.is_client {
            return Err(WatchError::NoClient { address: address() });
        }
        let Some(node_id) = agent.node_id else {
            return Err(WatchError::NoNodeYet { address: address() });
        };
        let node = self.client.node(&node_id).await?;
        self.pace.wait().await;
        let first = self.client.allocations_now(&node_id).await?;
        let connected =
            News::Connected { node, alloc_dir: agent.alloc_dir, version: agent.version, node_id: node_id.clone() };
        Ok((connected, first, node_id))
    }

    /// Tells the first listing and every one after it, until an error.
    async fn follow(&mut self, node_id: &str, first: Listing) -> End {
        let Self { client, news, refresh, wait, pace, refresh_pace } = self;
        let mut index = first.index.max(1);
        if news.send(News::Listing(first)).await.is_err() {
            return End::Closed;
        }
        loop {
            let asked = index;
            let mut held_back = pin!(async {
                pace.wait().await;
                client.allocations(node_id, asked, *wait).await
            });
            // Until the query has ended, or a refresh has shown that its index is old.
            let got = loop {
                let refreshed = tokio::select! {
                    got = &mut held_back => match got {
                        Ok(listing) if is_backwards(index, &listing) => break client.allocations_now(node_id).await,
                        got => break got,
                    },
                    () = news.closed() => return End::Closed,
                    () = refresh.notified() => {
                        refresh_pace.wait().await;
                        client.allocations_now(node_id).await
                    }
                };
                match refreshed {
                    // Something may have disappeared, which moves no index; the query goes on.
                    Ok(listing) if listing.index == index => {
                        if news.send(News::Listing(listing)).await.is_err() {
                            return End::Closed;
                        }
                    }
                    refreshed => break refreshed,
                }
            };
            let listing = match got {
                Ok(listing) => listing,
                Err(error) => return End::Error(error),
            };
            // A query with 0 never blocks, so the documentation of blocking queries wants 1 at least.
            index = listing.index.max(1);
            if news.send(News::Listing(listing)).await.is_err() {
                return End::Closed;
            }
        }
    }

    async fn tell(&self, news: News) -> bool {
        self.news.send(news).await.is_ok()
    }
}

/// Whether a listing's index is below the one that was asked with.
///
/// The newest allocation was collected, the servers' state was restored, or a server answered that lags behind. In the
/// last case the listing lacks what is there, so it is told to nobody and the leader is asked instead; its index is
/// then the new beginning, as the documentation of blocking queries wants it.
fn is_backwards(index: u64, listing: &Listing) -> bool {
    listing.index.max(1) < index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(index: u64) -> Listing {
        Listing { index, ..Listing::default() }
    }

    #[test]
    fn only_a_lower_index_is_backwards() {
        assert!(is_backwards(20, &listing(19)));
        assert!(!is_backwards(20, &listing(20)));
        assert!(!is_backwards(20, &listing(21)));
    }

    #[test]
    fn an_index_of_zero_is_taken_for_one() {
        assert!(!is_backwards(1, &listing(0)));
    }
}
