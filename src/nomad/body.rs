//! An answer's body, read without ever holding much of it.

use std::io::{self, BufReader, Read};

use reqwest::Response;
use serde::de::DeserializeSeed;
use tokio::sync::mpsc;

/// Up to this many bytes are read and parsed in place; more goes to a thread, so that nothing else waits.
const SMALL: usize = 128 * 1024;

/// How many pieces wait for the parser; the kernel holds back the rest.
const PIECES: usize = 4;

/// Why a body could not be read.
#[derive(Debug)]
pub(super) enum BodyError {
    Network(reqwest::Error),
    TooLong,
    Malformed(serde_json::Error),
    CutShort,
}

/// Reads the body as JSON, at most `limit` bytes of it.
///
/// A long body is parsed as it comes: a node's listing can have many megabytes, nearly all of which is skipped, and
/// what an allocator has once held at a stretch it seldom gives back.
/// The seed decides what is kept of it.
pub(super) async fn read_json<T, S>(seed: S, mut response: Response, limit: u64) -> Result<T, BodyError>
where
    T: Send + 'static,
    S: for<'de> DeserializeSeed<'de, Value = T> + Send + 'static,
{
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(BodyError::TooLong);
    }
    let mut start = Vec::new();
    while start.len() <= SMALL {
        match response.chunk().await.map_err(BodyError::Network)? {
            Some(piece) => start.extend_from_slice(&piece),
            None => {
                return parse(seed, serde_json::Deserializer::from_slice(&start)).map_err(BodyError::Malformed);
            }
        }
        if start.len() as u64 > limit {
            return Err(BodyError::TooLong);
        }
    }

    let mut read = start.len() as u64;
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(PIECES);
    let parser = tokio::task::spawn_blocking(move || {
        let pieces = Pieces { current: start, position: 0, receiver };
        parse(seed, serde_json::Deserializer::from_reader(BufReader::with_capacity(16 * 1024, pieces)))
    });
    let fed = async {
        while let Some(piece) = response.chunk().await.map_err(BodyError::Network)? {
            read += piece.len() as u64;
            if read > limit {
                return Err(BodyError::TooLong);
            }
            if sender.send(piece.to_vec()).await.is_err() {
                // The parser has found an error, and says below which.
                break;
            }
        }
        Ok(())
    }
    .await;
    // Where the network failed the parser sees an early end; the network's own words say more.
    drop(sender);
    let parsed = parser.await.map_err(|_| BodyError::CutShort)?;
    fed?;
    parsed.map_err(BodyError::Malformed)
}

/// Reads all of it.
fn parse<'de, S, R>(seed: S, mut from: serde_json::Deserializer<R>) -> serde_json::Result<S::Value>
where
    S: DeserializeSeed<'de>,
    R: serde_json::de::Read<'de>,
{
    let value = seed.deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

/// Pieces of a body as a reader, for a thread that may block.
struct Pieces {
    current: Vec<u8>,
    position: usize,
    receiver: mpsc::Receiver<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            match self.receiver.blocking_recv() {
                Some(piece) => (self.current, self.position) = (piece, 0),
                None => return Ok(0),
            }
        }
        let rest = &self.current[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

/// The beginning of an answer that is a message, fit to be shown.
pub(super) async fn read_message(mut response: Response) -> String {
    const MOST: usize = 300;
    let mut text = Vec::new();
    while text.len() < MOST
        && let Ok(Some(piece)) = response.chunk().await
    {
        text.extend_from_slice(&piece[..piece.len().min(MOST)]);
    }
    let text = String::from_utf8_lossy(&text);
    text.trim().chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nomad::wire::ListingSeed;

    /// Serves one body at a loopback address, and asks for it.
    async fn answer(body: String) -> Response {
        let app = axum::Router::new().fallback(move || async { body });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        client.get(url).send().await.unwrap()
    }

    /// As many allocations, each with a job of 8 KiB that asks for no storage but for the last.
    fn listing(count: usize) -> String {
        let filler = "x".repeat(8 * 1024);
        let one = |n: usize| {
            let key = if n + 1 == count { "storage_volume" } else { "owner" };
            format!(
                r#"{{"ID":"00000000-0000-0000-0000-{n:012x}","TaskGroup":"g","Job":{{"Payload":"{filler}","TaskGroups":
                [{{"Name":"g","Meta":{{"{key}":"v"}},"Tasks":[{{"Name":"t","Templates":[{{"X":[1,2.5,null]}}]}}]}}]}}}}"#
            )
        };
        format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(","))
    }

    #[tokio::test]
    async fn a_thousand_allocations_leave_what_asks_for_storage() {
        for count in [1, 10, 1000] {
            let read = read_json(ListingSeed::default(), answer(listing(count)).await, 1 << 30).await.unwrap();
            assert_eq!((read.ids.len(), read.others, read.allocations.len()), (count, count - 1, 1));
            assert_eq!(read.allocations[0].group_meta["storage_volume"], "v");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read() {
        for count in [2, 1000] {
            let read = read_json(ListingSeed::default(), answer(listing(count)).await, 10_000).await;
            assert!(matches!(read, Err(BodyError::TooLong)), "{read:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_early_or_is_no_json_is_an_error() {
        for count in [2, 1000] {
            let mut body = listing(count);
            body.pop();
            let read = read_json(ListingSeed::default(), answer(body).await, 1 << 30).await;
            assert!(matches!(read, Err(BodyError::Malformed(_))), "{read:?}");
        }
        let nested = "[".repeat(1_000_000);
        let read = read_json(ListingSeed::default(), answer(nested).await, 1 << 30).await;
        assert!(matches!(read, Err(BodyError::Malformed(_))), "{read:?}");
    }
}
