//! Workers: a thread for each source, and one for this host's own directories. What waits on a server waits in its own
//! worker, and nobody else does.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

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
    /// Looks after mounts that nothing explains, by the device of their file system: it may wait on its server, whose
    /// source is not known.
    Found(u32, u32),
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

/// How long a worker that looks into containers, or after what was found, waits for more work before it ends: they come and
/// go, and a node with many sources has no use for all of them at once.
const IDLE: Duration = Duration::from_secs(10);

/// The workers, each started at its first work.
pub struct Workers<T> {
    desks: HashMap<Desk, Line<T>>,
    results: UnboundedSender<T>,
}

/// The way to a worker.
struct Line<T> {
    sender: Sender<Work<T>>,
    /// It takes no more work. Whoever hands it some holds this meanwhile, so that none is left lying.
    has_ended: Arc<Mutex<bool>>,
}

/// The next work; none where no more comes.
fn take<T>(receiver: &Receiver<Work<T>>, idle: Option<Duration>, has_ended: &Mutex<bool>) -> Option<Work<T>> {
    let Some(idle) = idle else { return receiver.recv().ok() };
    match receiver.recv_timeout(idle) {
        Ok(work) => Some(work),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let mut has_ended = has_ended.lock().unwrap_or_else(PoisonError::into_inner);
            let last = receiver.try_recv().ok();
            *has_ended = last.is_none();
            last
        }
    }
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
        if let Some(line) = self.desks.get(&desk) {
            let has_ended = line.has_ended.lock().unwrap_or_else(PoisonError::into_inner);
            if !*has_ended {
                match line.sender.send(work) {
                    Ok(()) => return Ok(()),
                    Err(mpsc::SendError(back)) => work = back,
                }
            }
        }
        let (sender, receiver) = mpsc::channel::<Work<T>>();
        let results = self.results.clone();
        let name = match &desk {
            Desk::Source(key) => key.0.chars().take(15).collect(),
            Desk::Inside(key, number) => format!("look-{number}-{}", key.0).chars().take(15).collect(),
            Desk::Found(major, minor) => format!("found-{major}:{minor}").chars().take(15).collect(),
            Desk::Host => "host".to_owned(),
            Desk::Ledger => "ledger".to_owned(),
        };
        let idle = matches!(desk, Desk::Inside(..) | Desk::Found(..)).then_some(IDLE);
        let has_ended = Arc::<Mutex<bool>>::default();
        let ends = Arc::clone(&has_ended);
        let started = thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            while let Some(work) = take(&receiver, idle, &ends) {
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
        self.desks.insert(desk, Line { sender, has_ended });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_ends_for_want_of_work_leaves_none_lying() {
        let (sender, receiver) = mpsc::channel::<Work<u32>>();
        let has_ended = Mutex::new(false);
        sender.send(Box::new(|| 1)).unwrap();
        let short = Some(Duration::from_millis(1));
        assert_eq!(take(&receiver, short, &has_ended).map(|work| work()), Some(1));
        assert!(!*has_ended.lock().unwrap());
        assert!(take(&receiver, short, &has_ended).is_none() && *has_ended.lock().unwrap());
    }

    #[test]
    fn work_for_a_worker_that_has_ended_has_another_one_started() {
        let (results, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut workers = Workers::new(results);
        let desk = Desk::Inside(SourceKey("host-1".to_owned()), 0);
        for number in [1, 2] {
            assert!(workers.submit(desk.clone(), Box::new(move || number)).is_ok());
            assert_eq!(told.blocking_recv(), Some(number));
            // As the worker does when nothing has come for long.
            *workers.desks[&desk].has_ended.lock().unwrap() = true;
        }
    }
}
