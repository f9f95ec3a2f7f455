//! The guard's questions: a line of JSON each way, over a socket that only root can open.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::guard::question::{ANSWER_WITHIN, AnswerLine, Question};
use crate::reconcile::Handle;
use crate::sys::peer;

/// The longest question, in bytes: a path and a few numbers.
const LONGEST_QUESTION: u64 = 16 << 10;

/// Makes the socket, mode 0600.
///
/// # Errors
/// The kernel's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until it is ended.
pub async fn serve(listener: UnixListener, handle: Handle) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if peer::read_peer(stream.as_fd()).is_ok_and(|peer| peer.is_root()) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    // Past this the guard has denied by itself.
                    let _ = tokio::time::timeout(ANSWER_WITHIN, answer(stream, handle)).await;
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a question of the guard was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, handle: Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST_QUESTION)).read_line(&mut line).await?;
    let question: Question = serde_json::from_str(&line)?;
    let answer = handle.question(question).await;
    let mut text = serde_json::to_vec(&AnswerLine { answer })?;
    text.push(b'\n');
    write.write_all(&text).await
}
