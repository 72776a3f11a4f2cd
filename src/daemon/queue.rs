//! Databases that have something to do, taken by a few worker threads. A
//! database is in the queue at most once, so the queue is never longer than the
//! number of databases.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Debug)]
struct Inner {
    ready: VecDeque<usize>,
    queued: Vec<bool>,
    stopped: bool,
}

impl Queue {
    /// For databases 0 to `databases - 1`.
    pub(super) fn new(databases: usize) -> Self {
        let inner = Inner { ready: VecDeque::new(), queued: vec![false; databases], stopped: false };
        Self { inner: Mutex::new(inner), filled: Condvar::new() }
    }

    /// Puts a database in unless it is in already.
    pub(super) fn push(&self, database: usize) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        match inner.queued.get_mut(database) {
            Some(queued) if !*queued => *queued = true,
            _ => return,
        }
        inner.ready.push_back(database);
        self.filled.notify_one();
    }

    /// Waits for a database; `None` when stopped.
    pub(super) fn pop(&self) -> Option<usize> {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        loop {
            if inner.stopped {
                return None;
            }
            if let Some(database) = inner.ready.pop_front() {
                // What happens from here on may call for another step.
                inner.queued[database] = false;
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
        let queue = Queue::new(3);
        [1, 0, 1, 1, 9].into_iter().for_each(|d| queue.push(d));
        assert_eq!(queue.pop(), Some(1));
        queue.push(1);
        assert_eq!([queue.pop(), queue.pop()], [Some(0), Some(1)]);
        queue.stop();
        assert_eq!(queue.pop(), None);
    }
}
