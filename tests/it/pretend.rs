//! Time that tests make up. It passes as it does in the daemon: a database is
//! stepped when it asked for it, and otherwise looked at every five seconds.

use std::time::{Duration, Instant, SystemTime};

use brooklet::capture::{Database, Stepped};

/// A clock that only moves when told to.
pub(crate) struct Pretend {
    now: Instant,
    wall: SystemTime,
}

/// What happened while time passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) steps: u64,
    /// Steps that the database had asked for.
    pub(crate) asked: u64,
}

/// How often the daemon looks at a database that nobody wakes.
const POLL: Duration = Duration::from_secs(5);

impl Pretend {
    pub(crate) fn new() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn wall(&self) -> SystemTime {
        self.wall
    }

    /// A file event: the log was written to.
    pub(crate) fn event(&mut self, followed: &mut Database) -> Stepped {
        let stepped = followed.step(self.now, self.wall);
        assert_eq!(stepped.trouble, None);
        stepped
    }

    /// Lets time pass after an event.
    pub(crate) fn pass(&mut self, followed: &mut Database, span: Duration) -> Passed {
        let end = self.now + span;
        let mut passed = Passed::default();
        loop {
            let stepped = self.event(followed);
            passed.steps += 1;
            let again = stepped.again.filter(|at| *at < self.now + POLL);
            let next = again.unwrap_or(self.now + POLL).max(self.now + Duration::from_micros(100));
            if next > end {
                self.skip(end - self.now);
                return passed;
            }
            passed.asked += u64::from(again.is_some());
            self.skip(next - self.now);
        }
    }

    /// Lets time pass without a look.
    pub(crate) fn skip(&mut self, span: Duration) {
        self.now += span;
        self.wall += span;
    }
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Bytes that this thread has read from files so far, cached or not. Threads are
/// counted one by one, so that tests beside this one do not show.
pub(crate) fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().trim().parse().unwrap()
}

/// What taking up a database reads to see whether it is alone: every lock on this machine.
pub(crate) fn bytes_of_locks() -> u64 {
    let text = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // Some come and go.
    u64::try_from(text.len() + text.len() / 10).unwrap()
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 up to but not including `sides`.
    pub(crate) fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap() % sides
    }
}
