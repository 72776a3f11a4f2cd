//! Databases that have something to do, taken by a few worker threads. A
//! database is in the queue at most once, so the queue is never longer than the
//! number of databases.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex};

use crate::status::DatabaseId;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<DatabaseId>,
    queued: HashSet<DatabaseId>,
    stopped: bool,
}

impl Queue {
    /// Puts a database in unless it is in already.
    pub(super) fn push(&self, database: DatabaseId) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        if inner.queued.insert(database) {
            inner.ready.push_back(database);
            self.filled.notify_one();
        }
    }

    /// Waits for a database; `None` when stopped.
    pub(super) fn pop(&self) -> Option<DatabaseId> {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        loop {
            if inner.stopped {
                return None;
            }
            if let Some(database) = inner.ready.pop_front() {
                // What happens from here on may call for another step.
                inner.queued.remove(&database);
                return Some(database);
            }
            inner = self.filled.wait(inner).expect("no holder of this lock panics");
        }
    }

    /// Sends every worker home.
    pub(super) fn stop(&self) {
        self.inner.lock().expect("no holder of this lock panics").stopped = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_waits_once_however_often_it_is_woken() {
        let queue = Queue::default();
        let [a, b] = [0, 1].map(DatabaseId::new);
        [b, a, b, b].into_iter().for_each(|d| queue.push(d));
        assert_eq!(queue.pop(), Some(b));
        queue.push(b);
        assert_eq!([queue.pop(), queue.pop()], [Some(a), Some(b)]);
        queue.stop();
        assert_eq!(queue.pop(), None);
    }
}
