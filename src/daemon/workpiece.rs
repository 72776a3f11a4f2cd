//! A thing that one thread works on at a time, while the others turn to
//! something else instead of waiting for it.
//!
//! Always true: whoever was turned away is not forgotten. When the one at work
//! has ended, the thing is queued once more, so nothing that happened meanwhile
//! goes unnoticed.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::queue::Queue;
use crate::status::DatabaseId;

/// The thing, with its place in the queue.
#[derive(Debug)]
pub(super) struct Workpiece<T> {
    thing: Mutex<T>,
    turned_away: AtomicBool,
    queue: Arc<Queue>,
    number: DatabaseId,
}

impl<T> Workpiece<T> {
    pub(super) fn new(thing: T, queue: Arc<Queue>, number: DatabaseId) -> Self {
        Self { thing: Mutex::new(thing), turned_away: AtomicBool::new(false), queue, number }
    }

    /// Waits for it. A panic of whoever held it before is no reason not to go on:
    /// a database is let go and taken up anew, which proves everything that is used.
    pub(super) fn lock(&self) -> Held<'_, T> {
        Held { thing: Some(self.thing.lock().unwrap_or_else(PoisonError::into_inner)), of: self }
    }

    /// `None`: it is being worked on, and will be queued when that has ended.
    pub(super) fn lock_if_free(&self) -> Option<Held<'_, T>> {
        let thing = self.attempt().or_else(|| {
            self.turned_away.store(true, Ordering::SeqCst);
            // It may have been given back just before, by one who did not see this.
            self.attempt()
        })?;
        Some(Held { thing: Some(thing), of: self })
    }

    fn attempt(&self) -> Option<MutexGuard<'_, T>> {
        match self.thing.try_lock() {
            Ok(thing) => Some(thing),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The thing while it is worked on.
#[derive(Debug)]
pub(super) struct Held<'a, T> {
    thing: Option<MutexGuard<'a, T>>,
    of: &'a Workpiece<T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("held until dropped")
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("held until dropped")
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.thing = None;
        if self.of.turned_away.swap(false, Ordering::SeqCst) {
            self.of.queue.push(self.of.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F112: and a commit that is noticed during a long step is not lost.
    #[test]
    fn who_is_turned_away_is_queued_once_the_work_has_ended() {
        let queue = Arc::new(Queue::default());
        let [number, other] = [8, 1].map(DatabaseId::new);
        let piece = Workpiece::new("database", queue.clone(), number);
        let held = piece.lock();
        assert!(piece.lock_if_free().is_none() && piece.lock_if_free().is_none());
        drop(held);
        assert_eq!(queue.pop(), Some(number));
        drop(piece.lock_if_free().unwrap());
        drop(piece.lock());
        queue.push(other);
        assert_eq!(queue.pop(), Some(other), "and only once");
    }

    /// However the two interleave, the second step happens.
    #[test]
    fn nobody_is_forgotten() {
        for _ in 0..2000 {
            let queue = Arc::new(Queue::default());
            let piece = Workpiece::new(0, queue.clone(), DatabaseId::new(0));
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        if let Some(mut steps) = piece.lock_if_free() {
                            *steps += 1;
                        }
                    });
                }
            });
            if *piece.lock() < 2 {
                assert_eq!(queue.pop(), Some(DatabaseId::new(0)));
            }
        }
    }

    #[test]
    fn a_panic_does_not_lock_it_forever() {
        let piece = Workpiece::new(1, Arc::default(), DatabaseId::new(0));
        let panicked = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let _held = piece.lock();
                panic!("as this test wants it");
            });
            work.join()
        });
        assert!(panicked.is_err());
        assert_eq!(*piece.lock(), 1);
        assert_eq!(*piece.lock_if_free().unwrap(), 1);
    }
}
