//! Filers: reached, and asked whether they answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::backend::AttachError;

/// Any answer to this will do, an error included: it is asked whether somebody answers, and not what.
const REQUEST: &str = "GET /healthz HTTP/1.1\r\nUser-Agent: saddlebag\r\nConnection: close\r\n";
/// What every answer begins with.
const ANSWER: [u8; 5] = *b"HTTP/";

/// SeaweedFS writes an unusual port of its own protocol behind the usual one: `HOST:PORT.GRPCPORT`.
pub(super) fn http_address(filer: &str) -> &str {
    let port = filer.rfind(':').map_or(0, |colon| colon + 1);
    filer[port..].find('.').map_or(filer, |dot| &filer[..port + dot])
}

/// Connects to a filer; each of its addresses has `patience`.
///
/// # Errors
/// The last address's, or that there is none.
pub(super) fn connect(filer: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in http_address(filer).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether one of the filers accepts a connection and answers a request within `patience`. All are asked at once: one
/// that hangs hides no other. A name server that hangs leaves a thread behind.
///
/// # Errors
/// What the first one says of itself, where none answers.
pub(super) fn ask_any(filers: &[String], patience: Duration) -> Result<(), AttachError> {
    let deadline = Instant::now() + patience;
    let (sender, answers) = mpsc::channel();
    for (number, filer) in filers.iter().enumerate() {
        let (sender, asked) = (sender.clone(), filer.clone());
        let thread = std::thread::Builder::new().name("filer".into());
        let started = thread.spawn(move || sender.send((number, ask(&asked, deadline, patience))));
        started.map_err(AttachError::host("start a thread"))?;
    }
    drop(sender);
    let mut worst: Option<(usize, AttachError)> = None;
    let mut heard = 0;
    while heard < filers.len() {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now()) + patience / 20) {
            Ok((_, Ok(()))) => return Ok(()),
            Ok((number, Err(error))) => {
                heard += 1;
                if worst.as_ref().is_none_or(|(first, _)| number < *first) {
                    worst = Some((number, error));
                }
            }
            Err(_) => break,
        }
    }
    let (what, source) = ("filer", io::Error::from(io::ErrorKind::TimedOut));
    match (worst, filers.first()) {
        (Some((_, error)), _) => Err(error),
        (None, Some(server)) => Err(AttachError::Unreachable { what, server: server.clone(), source }),
        (None, None) => Ok(()),
    }
}

fn ask(filer: &str, deadline: Instant, patience: Duration) -> Result<(), AttachError> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let unreachable = |source| AttachError::Unreachable { what: "filer", server: filer.to_owned(), source };
    let mut stream = connect(filer, left()).map_err(unreachable)?;
    let mut talk = || -> io::Result<()> {
        stream.set_write_timeout(Some(left()))?;
        stream.write_all(format!("{REQUEST}Host: {}\r\n\r\n", http_address(filer)).as_bytes())?;
        stream.set_read_timeout(Some(left()))?;
        let mut begin = [0; ANSWER.len()];
        stream.read_exact(&mut begin)?;
        if begin == ANSWER { Ok(()) } else { Err(io::Error::other("it does not speak HTTP")) }
    };
    talk().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AttachError::NoReply { what: "filer", server: filer.to_owned(), after: patience }
        }
        _ => unreachable(source),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

    use rustix::net::{self, AddressFamily, SocketType};

    use super::*;

    #[test]
    fn a_filer_is_reached_at_its_first_port() {
        assert_eq!(http_address("10.0.0.1:8888.18888"), "10.0.0.1:8888");
        assert_eq!(http_address("filer.example:8888"), "filer.example:8888");
        assert_eq!(http_address("[::1]:8888.1"), "[::1]:8888");
    }

    #[test]
    fn a_filer_that_accepts_and_says_nothing_is_told_from_one_that_is_not_there() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().map(|at| (silent, at.to_string())).unwrap();
        // Bound, so that nobody else gets the port, and listening to nobody.
        let unheard = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&unheard, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gone = SocketAddr::try_from(net::getsockname(&unheard).unwrap()).unwrap().to_string();
        // Whoever waits in vain has a twentieth of this to say so.
        let patience = Duration::from_secs(10);
        assert!(matches!(ask_any(std::slice::from_ref(&silent.1), patience), Err(AttachError::NoReply { .. })));
        assert!(matches!(ask_any(std::slice::from_ref(&gone), patience), Err(AttachError::Unreachable { .. })));
        let answers = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = answers.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = answers.accept().unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        assert!(ask_any(&[gone, silent.1, at], Duration::from_secs(60)).is_ok());
    }
}
