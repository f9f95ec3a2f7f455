//! What looks into containers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::questions::Questions;
use crate::sys::memory;
use crate::sys::namespace::Search;
use crate::sys::own_table::OwnTable;

/// What is remembered between two looks, for all allocations together.
#[derive(Debug, Default)]
pub struct Cache {
    pub(super) search: Search,
    pub(super) own_table: OwnTable,
    /// File systems that are asked whether they are dead.
    pub(super) questions: Arc<Questions>,
    asked: AtomicUsize,
    /// The most that had asked at a time, since nobody had.
    most: AtomicUsize,
}

/// After so many looks in a row what they needed is worth being given back.
const MANY: usize = 100;

impl Cache {
    /// Asks for a look, from now on: whatever pass over processes and mounts begins later serves it, and all others that
    /// have asked by then. To be called when the need arises, not when the look begins.
    #[must_use]
    pub fn ask(self: &Arc<Self>) -> Asked {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(asked, Ordering::Relaxed);
        Asked { cache: Arc::clone(self), since: Instant::now() }
    }

    /// How often all processes were gone through, and how often the host's mount table was read.
    pub fn passes(&self) -> (u64, u64) {
        (self.search.passes(), self.own_table.reads())
    }
}

/// A look that was asked for and is not over yet.
#[derive(Debug)]
pub struct Asked {
    pub(super) cache: Arc<Cache>,
    pub(super) since: Instant,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // The last one: whoever asks from now on cannot use what was found before.
        if self.cache.asked.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cache.search.forget_last();
            self.cache.own_table.forget_last();
            if self.cache.most.swap(0, Ordering::Relaxed) >= MANY {
                memory::give_back();
            }
        }
    }
}
