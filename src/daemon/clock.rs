//! An alarm clock for all databases, or for all their replicas: each has at most
//! one time set, and one thread sleeps until the earliest.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Times at which somebody wants to be called.
#[derive(Debug)]
pub(super) struct Clock<K> {
    times: Mutex<Times<K>>,
    earlier: Condvar,
}

#[derive(Debug)]
struct Times<K> {
    order: BTreeSet<(Instant, K)>,
    of: HashMap<K, Instant>,
    stopped: bool,
}

impl<K> Default for Clock<K> {
    fn default() -> Self {
        let times = Times { order: BTreeSet::new(), of: HashMap::new(), stopped: false };
        Self { times: Mutex::new(times), earlier: Condvar::new() }
    }
}

impl<K: Copy + Ord + Hash> Times<K> {
    fn clear(&mut self, who: K) {
        if let Some(at) = self.of.remove(&who) {
            self.order.remove(&(at, who));
        }
    }
}

impl<K: Copy + Ord + Hash> Clock<K> {
    /// Sets the time of one in place of the one it had.
    pub(super) fn set(&self, who: K, at: Option<Instant>) {
        let mut times = self.times.lock().expect("no holder of this lock panics");
        times.clear(who);
        if let Some(at) = at {
            times.of.insert(who, at);
            times.order.insert((at, who));
            if times.order.first() == Some(&(at, who)) {
                self.earlier.notify_one();
            }
        }
    }

    /// Ends [`Clock::next`].
    pub(super) fn stop(&self) {
        self.times.lock().expect("no holder of this lock panics").stopped = true;
        self.earlier.notify_all();
    }

    /// Sleeps until somebody's time has come and takes it; `None` when stopped.
    pub(super) fn next(&self) -> Option<K> {
        let mut times = self.times.lock().expect("no holder of this lock panics");
        loop {
            if times.stopped {
                return None;
            }
            let now = Instant::now();
            times = match times.order.first().copied() {
                Some((at, who)) if at <= now => {
                    times.clear(who);
                    return Some(who);
                }
                Some((at, _)) => self.earlier.wait_timeout(times, at - now).expect("no holder of this lock panics").0,
                None => self.earlier.wait(times).expect("no holder of this lock panics"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::DatabaseId;
    use std::time::Duration;

    #[test]
    fn they_come_in_the_order_of_their_times_and_a_new_time_replaces_the_old() {
        let clock = Clock::default();
        let now = Instant::now();
        let ms = |n| Some(now + Duration::from_millis(n));
        let [a, b, c] = [1, 2, 3].map(DatabaseId::new);
        clock.set(a, ms(30));
        clock.set(b, ms(10));
        clock.set(c, ms(5));
        clock.set(c, ms(20));
        clock.set(b, None);
        clock.set(b, ms(1));
        assert_eq!([clock.next(), clock.next(), clock.next()], [Some(b), Some(c), Some(a)]);
        clock.stop();
        assert_eq!(clock.next(), None);
    }
}
