//! One alarm clock for all databases: each has at most one time set, and one
//! thread sleeps until the earliest.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::status::DatabaseId;

/// Times at which databases want to be stepped.
#[derive(Debug, Default)]
pub(super) struct Clock {
    times: Mutex<Times>,
    earlier: Condvar,
}

#[derive(Debug, Default)]
struct Times {
    order: BTreeSet<(Instant, DatabaseId)>,
    of: HashMap<DatabaseId, Instant>,
    stopped: bool,
}

impl Times {
    fn clear(&mut self, database: DatabaseId) {
        if let Some(at) = self.of.remove(&database) {
            self.order.remove(&(at, database));
        }
    }
}

impl Clock {
    /// Sets the time of a database in place of the one it had.
    pub(super) fn set(&self, database: DatabaseId, at: Option<Instant>) {
        let mut times = self.times.lock().expect("no holder of this lock panics");
        times.clear(database);
        if let Some(at) = at {
            times.of.insert(database, at);
            times.order.insert((at, database));
            if times.order.first() == Some(&(at, database)) {
                self.earlier.notify_one();
            }
        }
    }

    /// Ends [`Clock::next`].
    pub(super) fn stop(&self) {
        self.times.lock().expect("no holder of this lock panics").stopped = true;
        self.earlier.notify_all();
    }

    /// Sleeps until a database's time has come and takes it; `None` when stopped.
    pub(super) fn next(&self) -> Option<DatabaseId> {
        let mut times = self.times.lock().expect("no holder of this lock panics");
        loop {
            if times.stopped {
                return None;
            }
            let now = Instant::now();
            times = match times.order.first().copied() {
                Some((at, database)) if at <= now => {
                    times.clear(database);
                    return Some(database);
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
    use std::time::Duration;

    #[test]
    fn databases_come_in_the_order_of_their_times_and_a_new_time_replaces_the_old() {
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
