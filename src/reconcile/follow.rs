//! Who follows the status: an answer for each change, in the manner of Nomad's blocking queries.
//!
//! Nothing is done for it while nobody follows. While somebody does, whatever happens to the reconciler has the status
//! compared with what was told last, at most once in [`PAUSE`].

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::events::Timer;
use super::reconciler::Reconciler;
use crate::api::types::Status;
use crate::job::{Kind, Refusal};

/// The shortest time between two looks: what happens together is told together.
const PAUSE: Duration = Duration::from_millis(100);
/// How soon it is looked again while a worker is at something: that it hangs is told by time alone.
const AT_WORK: Duration = Duration::from_secs(1);
/// The longest that an answer is held back.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// So many may follow at a time.
const MOST: usize = 64;

/// Who waits, and what was told last.
pub(super) struct Followers {
    /// Counts the changes that somebody could have seen. It begins with the time, so that an index of a former agent's
    /// is none of this one's.
    index: u64,
    fingerprint: Option<u64>,
    waiting: Vec<Follower>,
    due: Option<Instant>,
    /// What the loop did last concerns nobody who follows.
    quiet: bool,
}

struct Follower {
    index: u64,
    until: Instant,
    reply: oneshot::Sender<Result<Status, Refusal>>,
}

impl Default for Followers {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let index = u64::try_from(since).unwrap_or(1);
        Self { index, fingerprint: None, waiting: Vec::new(), due: None, quiet: false }
    }
}

impl Reconciler {
    /// Answers once the status is another than the one with this index, or after that wait.
    pub(super) fn take_follower(
        &mut self,
        index: u64,
        wait: Duration,
        reply: oneshot::Sender<Result<Status, Refusal>>,
    ) {
        self.followers.quiet = true;
        let status = self.indexed_status();
        if status.index != index || wait.is_zero() {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(status));
            return;
        }
        self.followers.waiting.retain(|follower| !follower.reply.is_closed());
        if self.followers.waiting.len() >= MOST {
            let message = format!("{MOST} others follow the status already");
            let _ = reply.send(Err(Refusal { kind: Kind::TryAgain, message, hint: None }));
            return;
        }
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        self.followers.waiting.push(Follower { index, until, reply });
        self.set_timer(until, Timer::Follow);
        self.look_again_while_at_work();
    }

    /// Has those who follow looked after, once something has happened.
    pub(super) fn stir_followers(&mut self) {
        if !std::mem::take(&mut self.followers.quiet) && !self.followers.waiting.is_empty() {
            self.look_for_followers_in(PAUSE);
        }
    }

    fn look_for_followers_in(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        if self.followers.due.is_none_or(|due| due > at) {
            self.followers.due = Some(at);
            self.set_timer(at, Timer::Follow);
        }
    }

    fn look_again_while_at_work(&mut self) {
        let is_at_work = |status: &str| matches!(status, "attaching" | "detaching");
        let sources = self.sources.values().any(|source| is_at_work(super::report::source_state(source)));
        let mut bindings = self.entries.values().flat_map(|entry| entry.bindings.values());
        if sources || bindings.any(|live| live.in_flight.is_some()) {
            self.look_for_followers_in(AT_WORK);
        }
    }

    /// The timer of those who follow.
    pub(super) fn serve_followers(&mut self) {
        self.followers.quiet = true;
        let now = Instant::now();
        self.followers.due.take_if(|due| *due <= now);
        self.followers.waiting.retain(|follower| !follower.reply.is_closed());
        if self.followers.waiting.is_empty() {
            return;
        }
        let status = self.indexed_status();
        let is_due = |follower: &mut Follower| follower.index != status.index || follower.until <= now;
        for follower in self.followers.waiting.extract_if(.., is_due) {
            let _ = follower.reply.send(Ok(status.clone()));
        }
        if !self.followers.waiting.is_empty() {
            self.look_again_while_at_work();
        }
    }

    /// The status with its index, which moves where it has changed.
    fn indexed_status(&mut self) -> Status {
        let mut status = self.status(None);
        let fingerprint = fingerprint(&status);
        if self.followers.fingerprint.replace(fingerprint).is_some_and(|before| before != fingerprint) {
            self.followers.index += 1;
        }
        status.index = self.followers.index;
        status
    }
}

/// What of a status is a change when it changes: not what passes with time alone.
fn fingerprint(status: &Status) -> u64 {
    struct Feed(DefaultHasher);
    impl io::Write for Feed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut steady = status.clone();
    (steady.index, steady.uptime_seconds) = (0, 0);
    for source in &mut steady.sources {
        (source.age_seconds, source.memory_bytes) = (0, None);
    }
    for binding in &mut steady.bindings {
        binding.age_seconds = 0;
    }
    let mut feed = Feed(DefaultHasher::new());
    // Neither JSON nor the hasher can fail on it.
    let _ = serde_json::to_writer(&mut feed, &steady);
    feed.0.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Status {
        let source = json!({
            "name": "main", "kind": "seaweedfs", "state": "attached", "mount_point": null, "pid": 7,
            "memory_bytes": 1, "bindings": 1, "age_seconds": 1, "reason": null
        });
        let binding = json!({
            "volume": "pgdata", "alloc": "a", "namespace": "default", "job": "db", "group": "db", "task": "pg",
            "destination": "local/pgdata", "source": "main", "read_only": false, "state": "mounted",
            "age_seconds": 1, "reason": null
        });
        let nomad = json!({
            "address": "http://127.0.0.1:4646", "connected": true, "version": null, "node_id": null,
            "node_name": null, "reason": null
        });
        let guard = json!({ "running": true, "pid": 8, "reason": null });
        let status = json!({
            "version": "0.1.0", "pid": 1, "uptime_seconds": 1, "nomad": nomad, "guard": guard,
            "sources": [source], "bindings": [binding]
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_passes_with_time_alone_is_no_change() {
        let (before, mut after) = (status(), status());
        (after.index, after.uptime_seconds) = (9, 9);
        (after.sources[0].age_seconds, after.sources[0].memory_bytes) = (9, Some(9));
        after.bindings[0].age_seconds = 9;
        assert_eq!(fingerprint(&before), fingerprint(&after));
    }

    #[test]
    fn whatever_else_differs_is_a_change() {
        let before = fingerprint(&status());
        let changes: [fn(&mut Status); 5] = [
            |status| status.bindings[0].state = "failed".into(),
            |status| status.sources[0].pid = Some(9),
            |status| status.nomad.connected = false,
            |status| status.guard.pid = None,
            |status| status.bindings.clear(),
        ];
        for change in changes {
            let mut after = status();
            change(&mut after);
            assert_ne!(fingerprint(&after), before, "{after:?}");
        }
    }
}
