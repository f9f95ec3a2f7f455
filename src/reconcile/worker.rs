//! Workers: a thread for each source, and one for this host's own directories. What waits on a server waits in its own
//! worker, and nobody else does.

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;

use crate::backend::SourceKey;

/// A step of work; what it returns goes back to the reconciler.
type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// A worker's stack, in bytes: the steps are shallow, and there is a worker for every source.
const STACK: usize = 256 << 10;

/// Who does the work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Desk {
    /// The worker of a source: may wait on its server.
    Source(SourceKey),
    /// This host's own directories and mounts: never waits on a server.
    Host,
    /// The ledger's disk.
    Ledger,
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
    /// The kernel's, where no thread can be started; the work is not done then.
    pub fn submit(&mut self, desk: Desk, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<()> {
        let mut work: Work<T> = Box::new(work);
        if let Some(sender) = self.desks.get(&desk) {
            match sender.send(work) {
                Ok(()) => return Ok(()),
                // Its thread ended in a panic: another one takes the desk.
                Err(mpsc::SendError(back)) => work = back,
            }
        }
        let (sender, receiver) = mpsc::channel::<Work<T>>();
        let results = self.results.clone();
        let name = match &desk {
            Desk::Source(key) => key.0.chars().take(15).collect(),
            Desk::Host => "host".to_owned(),
            Desk::Ledger => "ledger".to_owned(),
        };
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            for work in receiver {
                // The reconciler is gone: so is everyone whom the result could concern.
                if results.send(work()).is_err() {
                    break;
                }
            }
        })?;
        // Its receiver lives in the thread just started.
        let _ = sender.send(work);
        self.desks.insert(desk, sender);
        Ok(())
    }

    /// Ends the worker of a source that is gone, once its queue is done.
    pub fn close(&mut self, key: &SourceKey) {
        self.desks.remove(&Desk::Source(key.clone()));
    }
}
