//! Asks an NFS server whether it answers: the procedure NULL of its program (RFC 5531, RFC 1813, RFC 7530). It needs no
//! rights, no mount, and no privileged port.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The RPC program of NFS.
const PROGRAM: u32 = 100_003;
/// The most of a reply that is read, in bytes: one to NULL has 24.
const LONGEST_REPLY: u32 = 4096;
/// The bit of a record's length that says that it is the last one of its message.
const LAST: u32 = 1 << 31;

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It serves that version.
    Serves,
    /// It serves others, from the one to the other.
    OtherVersions(u32, u32),
    /// It is no NFS server, or refuses to talk.
    Refuses,
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Silence {
    /// No connection.
    NoConnection(io::Error),
    /// A connection, and nothing more.
    NoReply,
}

/// The addresses of a server, by the transport's family.
///
/// # Errors
/// The name cannot be resolved, or has no address of that family.
pub(super) fn resolve(server: &str, port: u16, is_ipv6: bool) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = (server, port).to_socket_addrs()?.filter(|found| found.is_ipv6() == is_ipv6).collect();
    if found.is_empty() {
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("the name has no {family} address")));
    }
    Ok(found)
}

/// Asks the first address that takes a connection, for at most `patience` in all.
///
/// # Errors
/// [`Silence`].
pub(super) fn ask(addresses: &[SocketAddr], version: u32, patience: Duration) -> Result<Reply, Silence> {
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(address, left()) {
            Ok(stream) => return talk(stream, version, left()),
            Err(error) => last = error,
        }
    }
    Err(Silence::NoConnection(last))
}

fn talk(mut stream: TcpStream, version: u32, patience: Duration) -> Result<Reply, Silence> {
    // The least of a thing that no other connection uses.
    let number = std::process::id();
    let exchange = || -> io::Result<Option<Reply>> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.write_all(&call(number, version))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length & LAST == 0 || length & !LAST > LONGEST_REPLY {
            return Ok(Some(Reply::Refuses));
        }
        let mut reply = Vec::new();
        stream.take(u64::from(length & !LAST)).read_to_end(&mut reply)?;
        Ok(parse(&reply, number))
    };
    match exchange() {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Ok(Reply::Refuses),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(Silence::NoReply)
        }
        Err(error) => Err(Silence::NoConnection(error)),
    }
}

/// One record: a call of NULL, by nobody.
fn call(number: u32, version: u32) -> Vec<u8> {
    // Message type CALL, RPC version 2, program, version, procedure, credential and verifier: none, of no bytes.
    let words = [number, 0, 2, PROGRAM, version, 0, 0, 0, 0, 0];
    let length = LAST | u32::try_from(words.len() * 4).unwrap_or_default();
    std::iter::once(length).chain(words).flat_map(u32::to_be_bytes).collect()
}

/// What a reply says; `None` where it is none.
fn parse(reply: &[u8], number: u32) -> Option<Reply> {
    let mut words =
        reply.chunks_exact(4).map(|word| word.iter().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte)));
    if words.next()? != number || words.next()? != 1 {
        return None;
    }
    // MSG_DENIED
    if words.next()? != 0 {
        return Some(Reply::Refuses);
    }
    let (_flavor, length) = (words.next()?, words.next()?);
    for _ in 0..length.div_ceil(4) {
        words.next()?;
    }
    Some(match words.next()? {
        0 => Reply::Serves,
        // PROG_MISMATCH
        2 => Reply::OtherVersions(words.next()?, words.next()?),
        _ => Reply::Refuses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_call_is_one_record_of_forty_bytes() {
        let call = call(7, 4);
        assert_eq!(call.len(), 44);
        assert_eq!(call[..24], words(&[0x8000_0028, 7, 0, 2, 100_003, 4])[..]);
    }

    #[test]
    fn a_reply_says_whether_the_version_is_served() {
        assert_eq!(parse(&words(&[7, 1, 0, 0, 0, 0]), 7), Some(Reply::Serves));
        // A verifier of five bytes is padded to eight.
        assert_eq!(parse(&words(&[7, 1, 0, 1, 5, 0, 0, 0]), 7), Some(Reply::Serves));
        assert_eq!(parse(&words(&[7, 1, 0, 0, 0, 2, 3, 3]), 7), Some(Reply::OtherVersions(3, 3)));
        assert_eq!(parse(&words(&[7, 1, 0, 0, 0, 1]), 7), Some(Reply::Refuses));
        assert_eq!(parse(&words(&[7, 1, 1, 0, 0, 0]), 7), Some(Reply::Refuses));
        for no_reply in [words(&[8, 1, 0, 0, 0, 0]), words(&[7, 0, 0, 0, 0, 0]), words(&[7, 1]), b"HTTP".to_vec()] {
            assert_eq!(parse(&no_reply, 7), None);
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up_and_one_that_is_gone_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Instant::now();
        assert!(matches!(ask(&[address], 4, Duration::from_millis(200)), Err(Silence::NoReply)));
        assert!(asked.elapsed() < Duration::from_secs(5));
        drop(listener);
        assert!(matches!(ask(&[address], 4, Duration::from_millis(200)), Err(Silence::NoConnection(_))));
    }

    #[test]
    fn who_speaks_another_protocol_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let speaks = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"SSH-2.0-x\r\n"));
        assert!(matches!(ask(&[address], 4, Duration::from_secs(5)), Ok(Reply::Refuses)));
        speaks.join().unwrap().unwrap();
    }

    #[test]
    fn a_name_is_resolved_in_the_family_of_the_transport() {
        assert_eq!(resolve("127.0.0.1", 2049, false).unwrap(), ["127.0.0.1:2049".parse().unwrap()]);
        assert_eq!(resolve("::1", 2049, true).unwrap(), ["[::1]:2049".parse().unwrap()]);
        assert!(resolve("::1", 2049, false).unwrap_err().to_string().contains("IPv4"));
    }
}
