//! A watch with the patience that a test has with it.

use std::time::Instant;

use saddlebag::nomad::client::Client;
use saddlebag::nomad::watch::{News, Watch, WatchHandle};
use saddlebag::nomad::wire::Listing;
use tokio::sync::mpsc;

use super::PATIENCE;

/// A running watch, as a test looks at it.
pub struct Watched {
    pub news: mpsc::Receiver<News>,
    pub handle: WatchHandle,
}

impl Watched {
    pub fn start(client: Client) -> Self {
        let (sender, news) = mpsc::channel(16);
        let (watch, handle) = Watch::new(client, sender);
        tokio::spawn(watch.run());
        Self { news, handle }
    }

    pub async fn next(&mut self) -> News {
        tokio::time::timeout(PATIENCE, self.news.recv()).await.expect("news in time").expect("the watch goes on")
    }

    /// The next listing that satisfies; nothing but listings may come before it.
    pub async fn listing(&mut self, what: &str, good: impl Fn(&Listing) -> bool) -> Listing {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next().await {
                News::Listing(listing) if good(&listing) => return listing,
                News::Listing(_) => assert!(Instant::now() < deadline, "never listed: {what}"),
                other => panic!("while waiting for {what}: {other:?}"),
            }
        }
    }

    /// The reason of the next loss; what Nomad has still listed may come before it.
    pub async fn lost(&mut self) -> String {
        loop {
            match self.next().await {
                News::Lost(reason) => return reason,
                News::Listing(_) => {}
                other => panic!("while waiting for a loss: {other:?}"),
            }
        }
    }

    /// Waits for the connection, past reasons why there is none yet.
    pub async fn connected(&mut self) {
        loop {
            match self.next().await {
                News::Connected { .. } => return,
                News::Lost(reason) => println!("still lost: {reason}"),
                News::Listing(listing) => panic!("a listing before the connection: {listing:?}"),
            }
        }
    }
}
