//! Servers: whether their glusterd answers.
//!
//! Asked by the first question of every GlusterFS program, which changes nothing: which programs it serves (`GF_DUMP` in
//! rpc/rpc-lib of GlusterFS, over ONC RPC, RFC 5531). A process that hangs accepts connections all the same, so that only an
//! answer tells. Where connections are encrypted, an accepted one has to do.

use std::time::Duration;

use crate::backend::AttachError;
use crate::backend::server::{self, Question};

/// A mark that the answer has too.
const XID: u32 = 0x5add_1eb6;
/// `GF_DUMP`, version 1, procedure `DUMP` (rpc-clnt.c and protocol-common.h).
const DUMP: [u32; 3] = [123_451_501, 1, 1];
/// A fragment that is the last one (RFC 5531, 11).
const LAST: u32 = 1 << 31;
/// How long a server that comes before the one that answered first may still take.
const GRACE: Duration = Duration::from_millis(200);

/// The servers, beginning with the first that answers within `patience`; the others follow as they stand.
///
/// # Errors
/// As [`server::find_answering`].
pub(super) fn order(
    servers: &[String],
    port: u16,
    is_encrypted: bool,
    patience: Duration,
) -> Result<Vec<String>, AttachError> {
    let question = |server: &String| {
        let asked = (!is_encrypted).then(question);
        let is_answer = |begin: &[u8]| begin.ends_with(&XID.to_be_bytes());
        (at(server, port), Question { what: "glusterd", asked, length: 8, is_answer })
    };
    let best = server::find_answering(servers.iter().map(question).collect(), patience, GRACE)?;
    let others = servers.iter().enumerate().filter(|(number, _)| *number != best).map(|(_, server)| server);
    Ok(servers.get(best).into_iter().chain(others).cloned().collect())
}

/// `HOST:PORT`; an IPv6 address has brackets there.
fn at(server: &str, port: u16) -> String {
    if server.contains(':') && !server.starts_with('[') {
        format!("[{server}]:{port}")
    } else {
        format!("{server}:{port}")
    }
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
    use std::io::{Read as _, Write as _};
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
        let patience = Duration::from_secs(1);
        assert!(matches!(order(&[hung], port, false, patience), Err(AttachError::NoReply { .. })));
        assert!(matches!(order(&[gone], port, false, patience), Err(AttachError::Unreachable { .. })));
        drop(hangs);
    }
}
