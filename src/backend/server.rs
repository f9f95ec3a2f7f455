//! Servers of a storage system: whether one of several that can stand for each other answers.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::AttachError;

/// A question to a server, and how its answer begins.
pub struct Question {
    /// What the servers are, for people: `filer`, `glusterd`.
    pub what: &'static str,
    /// The bytes that are sent; none where an accepted connection is answer enough.
    pub asked: Option<Vec<u8>>,
    /// How many bytes of the answer are looked at.
    pub length: usize,
    /// Whether these are such a server's.
    pub is_answer: fn(&[u8]) -> bool,
}

/// How far a server has come.
enum Word {
    Connected,
    Ended(Result<(), AttachError>),
}

/// Which server answers within `patience`: the first one to do so, or one that stands before it in the list and answers
/// not later than `grace` after that. All are asked at once: one that hangs hides no other. A name server that hangs leaves
/// a thread behind. Each server is its address and its question.
///
/// # Errors
/// What the first of the list says of itself, where none answers.
pub fn find_answering(
    servers: Vec<(String, Question)>,
    patience: Duration,
    grace: Duration,
) -> Result<usize, AttachError> {
    let deadline = Instant::now() + patience;
    let mut heard = vec![false; servers.len()];
    let Some(first) = servers.first().map(|(server, question)| (server.clone(), question.what)) else {
        return Ok(0);
    };
    let unreachable = |source| AttachError::Unreachable { what: first.1, server: first.0.clone(), source };
    let (sender, words) = mpsc::channel();
    for (number, (server, question)) in servers.into_iter().enumerate() {
        let sender = sender.clone();
        let thread = std::thread::Builder::new().name(question.what.into());
        let started = thread.spawn(move || {
            let connected = || drop(sender.send((number, Word::Connected)));
            let ended = ask(&server, &question, deadline, patience, connected);
            let _ = sender.send((number, Word::Ended(ended)));
        });
        started.map_err(AttachError::host("start a thread"))?;
    }
    drop(sender);
    // What is said of the first one does not depend on whose deadline is noticed first, its thread's or this one's.
    let mut of_first = unreachable(io::ErrorKind::TimedOut.into());
    let (mut best, mut until): (Option<usize>, _) = (None, deadline);
    // Until everybody before the best one has been heard.
    while heard.iter().take(best.unwrap_or(heard.len())).any(|heard| !heard) {
        let Ok((number, word)) = words.recv_timeout(until.saturating_duration_since(Instant::now())) else { break };
        match word {
            Word::Connected if number == 0 => {
                of_first = AttachError::NoReply { what: first.1, server: first.0.clone(), after: patience };
            }
            Word::Connected => {}
            Word::Ended(ended) => {
                heard[number] = true;
                match ended {
                    Ok(()) if best.is_none_or(|best| number < best) => {
                        best = Some(number);
                        until = until.min(Instant::now() + grace);
                    }
                    Err(error) if number == 0 => of_first = error,
                    _ => {}
                }
            }
        }
    }
    best.ok_or(of_first)
}

fn ask(
    server: &str,
    question: &Question,
    deadline: Instant,
    patience: Duration,
    connected: impl FnOnce(),
) -> Result<(), AttachError> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let unreachable = |source| AttachError::Unreachable { what: question.what, server: server.to_owned(), source };
    let mut stream = connect(server, left()).map_err(unreachable)?;
    connected();
    let Some(asked) = &question.asked else { return Ok(()) };
    let mut talk = || -> io::Result<()> {
        stream.set_write_timeout(Some(left()))?;
        stream.write_all(asked)?;
        stream.set_read_timeout(Some(left()))?;
        let mut begin = vec![0; question.length];
        stream.read_exact(&mut begin)?;
        if (question.is_answer)(&begin) {
            Ok(())
        } else {
            Err(io::Error::other(format!("it does not speak as a {} does", question.what)))
        }
    };
    talk().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AttachError::NoReply { what: question.what, server: server.to_owned(), after: patience }
        }
        _ => unreachable(source),
    })
}

/// Connects to `HOST:PORT`; each of its addresses has `patience`.
///
/// # Errors
/// The last address's, or that there is none.
pub fn connect(server: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
