//! Servers: whether their glusterd answers.
//!
//! Asked by the first question of every GlusterFS program, which changes nothing: which programs it serves (`GF_DUMP` in
//! rpc/rpc-lib of GlusterFS, over ONC RPC, RFC 5531). A process that hangs accepts connections all the same, so that only an
//! answer tells. Where connections are encrypted, an accepted one has to do.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::backend::AttachError;

const WHAT: &str = "glusterd";
/// A mark that the answer has too.
const XID: u32 = 0x5add_1eb6;
/// `GF_DUMP`, version 1, procedure `DUMP` (rpc-clnt.c and protocol-common.h).
const DUMP: [u32; 3] = [123_451_501, 1, 1];
/// A fragment that is the last one (RFC 5531, 11).
const LAST: u32 = 1 << 31;
/// How long a server that comes before the one that answered first may still take.
const GRACE: Duration = Duration::from_millis(200);

/// The servers, beginning with the first that answers within `patience`; the others follow as they stand. All are asked at
/// once. A name server that hangs leaves a thread behind.
///
/// # Errors
/// What the first one says of itself, where none answers.
pub(super) fn order(
    servers: &[String],
    port: u16,
    is_encrypted: bool,
    patience: Duration,
) -> Result<Vec<String>, AttachError> {
    let deadline = Instant::now() + patience;
    let (sender, answers) = mpsc::channel();
    for (number, server) in servers.iter().enumerate() {
        let (sender, asked) = (sender.clone(), server.clone());
        let thread = std::thread::Builder::new().name("glusterd".into());
        let ask = move || sender.send((number, ask(&asked, port, is_encrypted, deadline, patience)));
        thread.spawn(ask).map_err(AttachError::host("start a thread"))?;
    }
    drop(sender);
    let (mut best, mut worst): (Option<usize>, Option<(usize, AttachError)>) = (None, None);
    let mut until = deadline + patience / 20;
    let mut heard = vec![false; servers.len()];
    // Until everybody before the best one has been heard.
    while heard.iter().take(best.unwrap_or(servers.len())).any(|heard| !heard) {
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((number, answer)) => {
                heard[number] = true;
                match answer {
                    Ok(()) if best.is_none_or(|best| number < best) => {
                        best = Some(number);
                        until = until.min(Instant::now() + GRACE);
                    }
                    Ok(()) => {}
                    Err(error) if worst.as_ref().is_none_or(|(first, _)| number < *first) => {
                        worst = Some((number, error));
                    }
                    Err(_) => {}
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Some(best) = best {
        let others = servers.iter().enumerate().filter(|(number, _)| *number != best).map(|(_, server)| server);
        return Ok(servers.get(best).into_iter().chain(others).cloned().collect());
    }
    let server = servers.first().cloned().unwrap_or_default();
    let source = io::Error::from(io::ErrorKind::TimedOut);
    Err(worst.map_or(AttachError::Unreachable { what: WHAT, server, source }, |(_, error)| error))
}

fn ask(server: &str, port: u16, is_encrypted: bool, deadline: Instant, patience: Duration) -> Result<(), AttachError> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let named = || format!("{server}:{port}");
    let unreachable = |source| AttachError::Unreachable { what: WHAT, server: named(), source };
    let mut stream = connect(server, port, left()).map_err(unreachable)?;
    if is_encrypted {
        return Ok(());
    }
    let mut talk = || -> io::Result<()> {
        stream.set_write_timeout(Some(left()))?;
        stream.write_all(&question())?;
        stream.set_read_timeout(Some(left()))?;
        let mut begin = [0; 8];
        stream.read_exact(&mut begin)?;
        if begin.ends_with(&XID.to_be_bytes()) {
            Ok(())
        } else {
            Err(io::Error::other("it does not speak as glusterd does"))
        }
    };
    talk().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AttachError::NoReply { what: WHAT, server: named(), after: patience }
        }
        _ => unreachable(source),
    })
}

fn connect(server: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (server, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A call without credentials (`AUTH_NONE`), with the one argument that it has: a number that nobody reads.
fn question() -> Vec<u8> {
    let [program, version, procedure] = DUMP;
    let call = [XID, 0, 2, program, version, procedure, 0, 0, 0, 0, 0, 0];
    let length = u32::try_from(call.len() * 4).unwrap_or_default();
    std::iter::once(LAST | length).chain(call).flat_map(u32::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A listener at an address that is this machine's own and nobody else's.
    fn listen(address: &str, port: u16) -> (TcpListener, u16) {
        let listener = TcpListener::bind((address, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    fn answer(listener: TcpListener) {
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut asked = [0; 52];
                // Some only connect.
                if stream.read_exact(&mut asked).is_ok() {
                    let _ = stream.write_all(&[&(LAST | 4).to_be_bytes()[..], &asked[4..8]].concat());
                }
            }
        });
    }

    #[test]
    fn a_server_that_hangs_is_passed_over_and_asked_last_of_none() {
        let (hangs, port) = listen("127.0.0.2", 0);
        let (answers, _) = listen("127.0.0.3", port);
        let (hung, gone) = (String::from("127.0.0.2"), String::from("127.0.0.4"));
        let well = String::from("127.0.0.3");
        answer(answers);
        let patience = Duration::from_secs(10);
        let all = [gone.clone(), hung.clone(), well.clone()];
        assert_eq!(order(&all, port, false, patience).unwrap(), [well.clone(), gone.clone(), hung.clone()]);
        // Encrypted, nobody can tell that it hangs.
        assert_eq!(order(&all[1..], port, true, patience).unwrap()[0], hung);
        // Whoever waits in vain has a twentieth of this to say so.
        let patience = Duration::from_secs(5);
        assert!(matches!(order(&[hung], port, false, patience), Err(AttachError::NoReply { .. })));
        assert!(matches!(order(&[gone], port, false, patience), Err(AttachError::Unreachable { .. })));
        drop(hangs);
    }
}
