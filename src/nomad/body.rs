//! An answer's body, read without ever holding much of it.

use std::io::{self, BufReader, Read};

use reqwest::Response;
use serde::de::DeserializeOwned;
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
pub(super) async fn read_json<T>(mut response: Response, limit: u64) -> Result<T, BodyError>
where
    T: DeserializeOwned + Send + 'static,
{
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(BodyError::TooLong);
    }
    let mut start = Vec::new();
    while start.len() <= SMALL {
        match response.chunk().await.map_err(BodyError::Network)? {
            Some(piece) => start.extend_from_slice(&piece),
            None => return serde_json::from_slice(&start).map_err(BodyError::Malformed),
        }
        if start.len() as u64 > limit {
            return Err(BodyError::TooLong);
        }
    }

    let mut read = start.len() as u64;
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(PIECES);
    let parser = tokio::task::spawn_blocking(move || {
        let pieces = Pieces { current: start, position: 0, receiver };
        serde_json::from_reader(BufReader::with_capacity(16 * 1024, pieces))
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
