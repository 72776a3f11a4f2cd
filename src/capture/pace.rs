//! When a commit that was noticed is captured: soon when nothing follows it, as
//! one batch with what follows when there is more, and never later than the
//! interval that the user set.

use std::time::{Duration, Instant};

/// Commits that nobody follows up within this time are captured.
const SETTLE: Duration = Duration::from_millis(40);

/// Commits seen and not yet captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When the first of them was noticed.
    pub first: Instant,
    /// When the newest of them was noticed.
    pub newest: Instant,
}

/// The moment at which to capture.
pub fn capture_at(waiting: &Waiting, interval: Duration) -> Instant {
    let settled = waiting.newest + SETTLE.min(interval);
    settled.min(waiting.first + interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lone_commit_does_not_wait_for_the_interval() {
        let now = Instant::now();
        assert_eq!(capture_at(&Waiting { first: now, newest: now }, SECOND), now + SETTLE);
    }

    #[test]
    fn a_burst_becomes_one_batch() {
        let start = Instant::now();
        let burst = Waiting { first: start, newest: start + Duration::from_millis(300) };
        assert_eq!(capture_at(&burst, SECOND), start + Duration::from_millis(340));
    }

    #[test]
    fn steady_commits_wait_no_longer_than_the_interval() {
        let start = Instant::now();
        let steady = Waiting { first: start, newest: start + Duration::from_millis(990) };
        assert_eq!(capture_at(&steady, SECOND), start + SECOND);
        let short = Duration::from_millis(10);
        assert_eq!(capture_at(&Waiting { first: start, newest: start }, short), start + short);
    }
}
