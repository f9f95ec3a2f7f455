//! A way to a server that a test can let fall silent.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// Hands on every connection that comes to its address, as long as this process lives.
pub struct Relay {
    at: SocketAddr,
    is_silent: Arc<AtomicBool>,
}

/// A port that is nobody else's, and at which nobody listens yet: a connection to it is refused.
pub struct Reserved {
    socket: OwnedFd,
    at: SocketAddr,
}

impl Reserved {
    /// Any that is free.
    pub fn new() -> anyhow::Result<Self> {
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let at = SocketAddr::try_from(net::getsockname(&socket)?)?;
        Ok(Self { socket, at })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.at
    }
}

impl Relay {
    /// A relay at such a port to the server at `to`, HOST:PORT.
    pub fn start(Reserved { socket, at }: Reserved, to: String) -> anyhow::Result<Self> {
        net::listen(&socket, 64)?;
        let listener = TcpListener::from(socket);
        let is_silent = Arc::<AtomicBool>::default();
        let silence = Arc::clone(&is_silent);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&to) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                let silence = Arc::clone(&silence);
                std::thread::spawn(move || hand_on(near, far, || ()));
                std::thread::spawn(move || {
                    hand_on(far_too, near_too, || {
                        while silence.load(Ordering::SeqCst) {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    });
                });
            }
        });
        Ok(Self { at, is_silent })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Whether what the server says is held back from now on. What it is told arrives all the same.
    pub fn silence(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }
}

/// Copies until one of them closes; `wait` comes before each write.
fn hand_on(mut from: TcpStream, mut to: TcpStream, wait: impl Fn()) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        wait();
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
