//! The write lock in our hands: the barrier, and a brake made of short barriers.
//!
//! Always true: what is taken is rolled back, also when this process dies, since
//! the lock ends with it. A brake holds writers up only after they have written
//! its quota, and each time for a few milliseconds; an application that writes
//! little hardly ever meets it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::checkpoint::Brake as Strength;
use super::connection::{Error, Handle};
use crate::status::Barriers;

/// The barrier is not waited for longer than this: another writer is busy, and so is the log.
const WAIT: Duration = Duration::from_millis(60);
/// How long the brake holds. SQLite's busy handler tries again 1, 3, 8, 18 and 33 ms after it was
/// refused (`sqliteDefaultBusyCallback`), so a writer that meets the brake goes on at its third attempt, or a later one.
const fn hold_for(strength: Strength) -> Duration {
    match strength {
        Strength::Off => Duration::ZERO,
        Strength::Gentle => Duration::from_millis(7),
        Strength::Firm => Duration::from_millis(17),
        Strength::Hard => Duration::from_millis(32),
    }
}
/// How often the brake looks how much was written: a fast writer needs a few of these for a quota.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The write lock, while no one else can commit.
#[derive(Debug)]
pub(super) struct Barrier {
    handle: Handle,
    since: Instant,
}

impl Barrier {
    /// Takes the write lock; the handle comes back when another writer keeps it.
    pub(super) fn take(mut handle: Handle) -> Result<Result<Self, Handle>, Error> {
        handle.insist(WAIT)?;
        match handle.begin_barrier() {
            Ok(()) => Ok(Ok(Self { handle, since: Instant::now() })),
            Err(error) if error.is_busy() => Ok(Err(handle)),
            Err(error) => Err(error),
        }
    }

    /// Lets writers go on. Tells how long they could not.
    pub(super) fn release(self, db: &Path) -> Duration {
        self.loosen(db).0
    }

    fn loosen(mut self, db: &Path) -> (Duration, Handle) {
        self.handle.end();
        let held = self.since.elapsed();
        tracing::debug!(
            db = db.display().to_string(),
            held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX),
            "barrier released"
        );
        (held, self.handle)
    }
}

/// Slows writers down while a checkpoint catches up with them. Without it a
/// writer that is faster than the disk makes the log grow for as long as it goes
/// on, as the guard keeps its own checkpoints from being complete.
#[derive(Debug)]
pub(super) struct Brake {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Worked>>,
}

/// What the brake did, and the barrier it ended with.
#[derive(Debug, Default)]
pub(super) struct Worked {
    /// `None` when another writer kept the lock.
    pub(super) barrier: Option<Barrier>,
    /// How often and how long writers were held up before.
    pub(super) holds: Barriers,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    strength: Strength,
    wanted: Wanted,
    /// Holds that have begun.
    holds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// A hold at once.
    Hold,
    /// The end, with writers held up.
    Barrier,
    /// The end.
    End,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, but not longer than until something is wanted; `calm` is not worth waking up for.
    fn wait(&self, time: Duration, calm: Wanted) -> Wanted {
        let idle = |state: &mut State| state.wanted == Wanted::Nothing || state.wanted == calm;
        let waited = self.changed.wait_timeout_while(self.lock(), time, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.wanted
    }

    /// Waits as long as a hold lasts, or until the end is wanted.
    fn hold(&self) -> Wanted {
        let time = hold_for(self.lock().strength);
        // Who asks for a hold now has it from the next one on.
        self.wait(time, Wanted::Hold)
    }

    fn want(&self, wanted: Wanted) {
        self.lock().wanted = wanted;
        self.changed.notify_all();
    }

    fn held(&self) {
        let mut state = self.lock();
        state.holds += 1;
        if state.wanted == Wanted::Hold {
            state.wanted = Wanted::Nothing;
        }
        self.changed.notify_all();
    }
}

impl Brake {
    /// From now on writers pause after every `quota` frames.
    pub(super) fn on(path: &Path, quota: u32, strength: Strength) -> Result<Self, Error> {
        let mut handle = Handle::open(path, WAIT)?;
        // The first read makes SQLite map the wal-index.
        handle.begin_read()?;
        handle.end();
        let state = State { strength, wanted: Wanted::Nothing, holds: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (path, theirs) = (path.to_owned(), shared.clone());
        let thread = std::thread::Builder::new().name("brake".to_owned());
        let thread = thread.spawn(move || work(&path, handle, quota, &theirs));
        Ok(Self { shared, thread: thread.ok() })
    }

    /// The log got longer, or shorter.
    pub(super) fn set(&self, strength: Strength) {
        self.shared.lock().strength = strength;
    }

    /// Holds writers up now; returns when they are, for some milliseconds from then
    /// on, or after a while if another writer keeps the lock.
    pub(super) fn hold(&self) {
        let holds = self.shared.lock().holds;
        self.shared.want(Wanted::Hold);
        let waiting = |state: &mut State| state.holds == holds;
        drop(self.shared.changed.wait_timeout_while(self.shared.lock(), 2 * WAIT, waiting));
    }

    /// Ends with writers held up one last time, so that what is left to copy stays little.
    pub(super) fn into_barrier(mut self) -> Worked {
        self.end(Wanted::Barrier)
    }

    /// Lets writers go.
    pub(super) fn off(mut self) -> Worked {
        self.end(Wanted::End)
    }

    fn end(&mut self, how: Wanted) -> Worked {
        self.shared.want(how);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.end(Wanted::End);
    }
}

/// Lets writers write their quota, holds them up, and so on.
fn work(path: &Path, mut handle: Handle, quota: u32, shared: &Shared) -> Worked {
    let mut worked = Worked::default();
    loop {
        let Ok(start) = handle.view() else { return worked };
        let mut wanted = Wanted::Nothing;
        while wanted == Wanted::Nothing {
            wanted = shared.wait(LOOK_EVERY, Wanted::Nothing);
            if wanted == Wanted::End {
                return worked;
            }
            match handle.view() {
                Ok(now) if now.salts == start.salts && now.mx_frame.saturating_sub(start.mx_frame) < quota => {}
                _ => break,
            }
        }
        handle = match Barrier::take(handle) {
            Ok(Ok(barrier)) => {
                shared.held();
                if wanted == Wanted::Barrier || shared.hold() == Wanted::Barrier {
                    return Worked { barrier: Some(barrier), ..worked };
                }
                let (held, handle) = barrier.loosen(path);
                worked.holds.add(held);
                handle
            }
            Ok(Err(handle)) if wanted != Wanted::Barrier => handle,
            Ok(Err(_)) | Err(_) => return worked,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn database(dir: &Path) -> (std::path::PathBuf, Connection) {
        let path = dir.join("db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; PRAGMA synchronous=NORMAL; CREATE TABLE t(x)").unwrap();
        app.busy_timeout(Duration::ZERO).unwrap();
        (path, app)
    }

    fn write(app: &Connection) -> bool {
        app.execute_batch("INSERT INTO t VALUES(1)").is_ok()
    }

    #[test]
    fn a_writer_meets_the_brake_after_its_quota_and_gets_on_when_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path());
        let brake = Brake::on(&path, 4, Strength::Gentle).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while write(&app) {
            assert!(Instant::now() < deadline, "the brake never held");
        }
        app.busy_timeout(Duration::from_secs(30)).unwrap();
        assert!((0..100).all(|_| write(&app)), "each waits for its turn and has it");
        assert!(brake.into_barrier().holds.longest >= hold_for(Strength::Gentle));
    }

    #[test]
    fn a_writer_that_writes_little_does_not_meet_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path());
        let brake = Brake::on(&path, u32::MAX, Strength::Gentle).unwrap();
        assert!((0..100).all(|_| write(&app)));
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            brake.hold();
            if !write(&app) {
                break;
            }
            assert!(Instant::now() < deadline, "it does not hold when asked to");
        }
        let worked = brake.into_barrier();
        assert!(!write(&app), "the end is a barrier");
        worked.barrier.unwrap().release(&path);
        assert!(write(&app));
    }

    #[test]
    fn nothing_stays_locked_when_the_brake_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path());
        let brake = Brake::on(&path, 1, Strength::Gentle).unwrap();
        brake.hold();
        drop(brake);
        assert!(write(&app));
        let brake = Brake::on(&path, 1, Strength::Gentle).unwrap();
        brake.hold();
        assert!(brake.off().barrier.is_none());
        assert!(write(&app));
    }

    /// A long transaction of somebody else is waited for, not forever.
    #[test]
    fn another_writer_keeps_the_lock_as_long_as_it_wants() {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path());
        let brake = Brake::on(&path, 1, Strength::Gentle).unwrap();
        app.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(brake.into_barrier().barrier.is_none());
        app.execute_batch("INSERT INTO t VALUES(2); COMMIT").unwrap();
    }
}
