//! Filers: reached, and asked whether they answer.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::backend::AttachError;
use crate::backend::server::{self, Question};

/// What every answer begins with. Any will do, an error included: it is asked whether somebody answers, and not what.
const ANSWER: &[u8] = b"HTTP/";

/// SeaweedFS writes an unusual port of its own protocol behind the usual one: `HOST:PORT.GRPCPORT`.
pub(super) fn http_address(filer: &str) -> &str {
    let port = filer.rfind(':').map_or(0, |colon| colon + 1);
    filer[port..].find('.').map_or(filer, |dot| &filer[..port + dot])
}

/// Connects to a filer; each of its addresses has `patience`.
///
/// # Errors
/// As [`server::connect`].
pub(super) fn connect(filer: &str, patience: Duration) -> io::Result<TcpStream> {
    server::connect(http_address(filer), patience)
}

/// Whether one of the filers accepts a connection and answers a request within `patience`.
///
/// # Errors
/// As [`server::find_answering`].
pub(super) fn ask_any(filers: &[String], patience: Duration) -> Result<(), AttachError> {
    let question = |filer: &String| {
        let at = http_address(filer);
        let asked =
            format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nUser-Agent: saddlebag\r\nConnection: close\r\n\r\n");
        let is_answer = |begin: &[u8]| begin == ANSWER;
        (at.to_owned(), Question { what: "filer", asked: Some(asked.into_bytes()), length: ANSWER.len(), is_answer })
    };
    server::find_answering(filers.iter().map(question).collect(), patience, Duration::ZERO).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
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
        let patience = Duration::from_secs(1);
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
