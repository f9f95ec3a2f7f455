//! File systems that are asked whether they are dead. Looks into many containers come to the same one at the same time; one
//! that hangs holds each thread that asks it.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file system's device number.
type Device = (u32, u32);

/// The questions that have no answer yet, at most one for each file system.
#[derive(Debug, Default)]
pub struct Questions {
    open: Mutex<BTreeMap<Device, Instant>>,
    answered: Condvar,
}

impl Questions {
    /// Begins to ask a file system: whoever is told `true` does so, and then calls [`Questions::end`]. Where another asks
    /// already its answer is waited for, which is there at once or not at all: `false` where it has not come within
    /// `patience` of that question, or of this call.
    pub fn begin(&self, device: Device, patience: Duration) -> bool {
        let came = Instant::now();
        let mut open = self.lock();
        loop {
            let Some(asked) = open.get(&device) else {
                open.insert(device, Instant::now());
                return true;
            };
            let Some(left) = patience.checked_sub(asked.elapsed().max(came.elapsed())) else { return false };
            open = self.answered.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A file system has answered, or was not asked after all.
    pub fn end(&self, device: Device) {
        self.lock().remove(&device);
        self.answered.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Device, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Device = (0, 7);
    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn who_comes_while_another_asks_waits_for_the_answer_and_asks_then() {
        let questions = Questions::default();
        assert!(questions.begin(DEVICE, NEVER));
        assert!(questions.begin((0, 8), NEVER), "another file system has nothing to do with it");
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..20)
                .map(|_| {
                    scope.spawn(|| {
                        let may = questions.begin(DEVICE, NEVER);
                        let is_alone = questions.lock().contains_key(&DEVICE);
                        questions.end(DEVICE);
                        may && is_alone
                    })
                })
                .collect();
            // Some of them wait by now, whichever.
            std::thread::sleep(Duration::from_millis(20));
            assert!(others.iter().all(|other| !other.is_finished()), "somebody has not waited");
            questions.end(DEVICE);
            assert!(others.into_iter().all(|other| other.join().unwrap()));
        });
    }

    #[test]
    fn one_that_does_not_answer_is_asked_by_nobody_else_and_holds_them_for_a_while_only() {
        let questions = Questions::default();
        let patience = Duration::from_millis(50);
        assert!(questions.begin(DEVICE, patience));
        assert!(!questions.begin(DEVICE, patience));
        // It was asked long ago: this returns at once, whatever the patience that is left to this call.
        assert!(!questions.begin(DEVICE, patience));
        questions.end(DEVICE);
        assert!(questions.begin(DEVICE, patience));
    }
}
