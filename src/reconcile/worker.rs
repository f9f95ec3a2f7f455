//! Workers: a thread for each source, and one for this host's own directories. What waits on a server waits in its own
//! worker, and nobody else does.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;

use crate::backend::SourceKey;
use crate::nomad::model::AllocId;

/// A step of work; what it returns goes back to the reconciler.
pub type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// A worker's stack, in bytes: the steps are shallow, and there is a worker for every source.
const STACK: usize = 256 << 10;

/// Who does the work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Desk {
    /// The worker of a source: may wait on its server.
    Source(SourceKey),
    /// One of a few that look into containers for a source: what is mounted there is the containers' affair, and may
    /// keep whoever looks waiting.
    Inside(SourceKey, u8),
    /// This host's own directories and mounts: never waits on a server.
    Host,
    /// The ledger's disk.
    Ledger,
}

impl Desk {
    /// So many look into containers for one source.
    const INSIDE: u8 = 4;

    /// Where the containers of an allocation are looked into for a source; always the same, so that what is done there is
    /// done in its order.
    pub fn inside(source: &SourceKey, alloc: &AllocId) -> Self {
        let sum = alloc.as_str().bytes().fold(0_u8, u8::wrapping_add);
        Self::Inside(source.clone(), sum % Self::INSIDE)
    }
}

/// The workers, each started at its first work.
pub struct Workers<T> {
    desks: HashMap<Desk, Sender<Work<T>>>,
    results: UnboundedSender<T>,
}

impl<T: Send + 'static> Workers<T> {
    /// Workers whose results go to `results`.
    pub fn new(results: UnboundedSender<T>) -> Self {
        Self { desks: HashMap::new(), results }
    }

    /// Hands work to a desk; it is done in the order in which it came there.
    ///
    /// # Errors
    /// The work itself and the kernel's reason, where no thread can be started.
    pub fn submit(&mut self, desk: Desk, work: Work<T>) -> Result<(), (Work<T>, io::Error)> {
        let mut work = work;
        if let Some(sender) = self.desks.get(&desk) {
            match sender.send(work) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(back)) => work = back,
            }
        }
        let (sender, receiver) = mpsc::channel::<Work<T>>();
        let results = self.results.clone();
        let name = match &desk {
            Desk::Source(key) => key.0.chars().take(15).collect(),
            Desk::Inside(key, number) => key.0.chars().take(13).chain(['-', char::from(b'0' + number)]).collect(),
            Desk::Host => "host".to_owned(),
            Desk::Ledger => "ledger".to_owned(),
        };
        let started = thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            for work in receiver {
                // A panic is an error of this program. What it was at is known to nobody then but to the ledger and the
                // kernel, and the next agent asks both.
                let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
                    tracing::error!("a worker panicked; the agent ends, and the next one takes over");
                    std::process::abort();
                };
                // The reconciler is gone: so is everyone whom the result could concern.
                if results.send(result).is_err() {
                    break;
                }
            }
        });
        if let Err(error) = started {
            return Err((work, error));
        }
        // Its receiver lives in the thread just started.
        let _ = sender.send(work);
        self.desks.insert(desk, sender);
        Ok(())
    }
}
