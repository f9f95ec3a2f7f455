//! How often Nomad is asked: never more than so many times a second, and slower after errors.

use std::time::Duration;

use tokio::time::Instant;

use crate::chance;

/// Lets a few requests through at once after a quiet time, and then one in each interval.
///
/// Nomad answers a blocking query at once whenever anything on the node changed, which during the start of a few
/// hundred tasks is all the time, each answer holding the whole node.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    burst: u32,
    /// When the allowance will be whole again.
    full_at: Instant,
}

impl Pace {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full_at: Instant::now() }
    }

    /// Waits until one more request is due, and counts it.
    ///
    /// Counts only at its end, so that it may be dropped while it waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.delay(Instant::now())).await;
        self.full_at = self.full_at.max(Instant::now()) + self.interval;
    }

    fn delay(&self, now: Instant) -> Duration {
        let used = self.full_at.saturating_duration_since(now);
        (used + self.interval).saturating_sub(self.interval * self.burst)
    }
}

/// How long to wait after an error: doubling up to a limit, with jitter, until a success.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next delay: between three quarters of the nominal one and the whole of it.
    pub(super) fn next_delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.most);
        let quarter = nominal / 4;
        nominal - quarter.mul_f64(chance::fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_requests_after_a_quiet_time_pass_at_once() {
        let mut pace = Pace::new(Duration::from_millis(50), 3);
        let start = Instant::now();
        for _ in 0..3 {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        for _ in 0..3 {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_is_held_to_the_interval() {
        let mut pace = Pace::new(Duration::from_millis(50), 3);
        let start = Instant::now();
        for _ in 0..23 {
            pace.wait().await;
        }
        let spent = start.elapsed();
        assert!(spent >= Duration::from_millis(1000) && spent < Duration::from_millis(1100), "{spent:?}");
    }

    #[test]
    fn delays_double_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut nominal = Duration::from_millis(100);
        for _ in 0..10 {
            let delay = backoff.next_delay();
            assert!(delay <= nominal && delay >= nominal * 3 / 4, "{delay:?} of {nominal:?}");
            nominal = (nominal * 2).min(Duration::from_secs(5));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
