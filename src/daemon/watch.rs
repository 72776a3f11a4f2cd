//! File events: a hint that a log has grown. Only hints: a slow poll finds what
//! they miss.
//!
//! A busy writer causes thousands of events a second. So a watch is good for one
//! event: it is removed when its database is stepped and set again only when
//! that database has nothing to do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::queue::Queue;
use crate::status::DatabaseId;

/// What a watch has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// There is no watch.
    Not,
    /// Nothing yet.
    Quiet,
    /// An event; the watch is gone.
    Fired,
}

/// Whether there will be an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    /// From now on.
    FromNow,
    /// Since an earlier time, and there was none.
    Already,
    /// There will be none.
    Not,
}

/// The watches of all databases.
pub(super) struct Watch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    armed: Arc<Mutex<HashMap<PathBuf, Armed>>>,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    database: DatabaseId,
    fired: bool,
}

impl Watch {
    /// Events wake databases through `queue`.
    pub(super) fn new(queue: &Arc<Queue>) -> Self {
        let armed: Arc<Mutex<HashMap<PathBuf, Armed>>> = Arc::default();
        let (events, queue): (_, Weak<Queue>) = (armed.clone(), Arc::downgrade(queue));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Some(queue) = queue.upgrade() {
                let mut armed = events.lock().expect("no holder of this lock panics");
                on_event(event, &mut armed, &queue);
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(error = error.to_string(), "file events are not available: looking at intervals instead");
        });
        Self { watcher: Mutex::new(watcher.ok()), armed }
    }

    /// Waits for the next event on a log.
    pub(super) fn arm(&self, database: DatabaseId, path: &Path) -> Watching {
        let mut watcher = self.watcher.lock().expect("no holder of this lock panics");
        let Some(watcher) = watcher.as_mut() else { return Watching::Not };
        {
            let mut armed = self.armed.lock().expect("no holder of this lock panics");
            if armed.get(path).is_some_and(|a| !a.fired) {
                return Watching::Already;
            }
            armed.insert(path.to_owned(), Armed { database, fired: false });
        }
        let set = watcher.watch(path, RecursiveMode::NonRecursive);
        if let Err(error) = &set {
            self.armed.lock().expect("no holder of this lock panics").remove(path);
            tracing::debug!(path = path.display().to_string(), error = error.to_string(), "cannot watch");
        }
        if set.is_ok() { Watching::FromNow } else { Watching::Not }
    }

    /// Removes the watch if it has fired.
    pub(super) fn disarm_fired(&self, path: &Path) -> Watched {
        {
            let mut armed = self.armed.lock().expect("no holder of this lock panics");
            match armed.get(path) {
                None => return Watched::Not,
                Some(Armed { fired: false, .. }) => return Watched::Quiet,
                Some(_) => drop(armed.remove(path)),
            }
        }
        self.unwatch(path);
        Watched::Fired
    }

    /// Removes the watch.
    pub(super) fn disarm(&self, path: &Path) {
        let known = self.armed.lock().expect("no holder of this lock panics").remove(path).is_some();
        if known {
            self.unwatch(path);
        }
    }

    fn unwatch(&self, path: &Path) {
        let mut watcher = self.watcher.lock().expect("no holder of this lock panics");
        if let Some(watcher) = watcher.as_mut() {
            // A watch on a file that is gone is gone with it.
            let _ = watcher.unwatch(path);
        }
    }
}

fn on_event(event: notify::Result<Event>, armed: &mut HashMap<PathBuf, Armed>, queue: &Queue) {
    let fire = |armed: &mut Armed| {
        armed.fired = true;
        queue.push(armed.database);
    };
    match event {
        // An overflow: anything may have happened.
        Err(_) => armed.values_mut().for_each(fire),
        Ok(event) if event.need_rescan() => armed.values_mut().for_each(fire),
        Ok(event) => {
            if matches!(event.kind, EventKind::Access(_)) {
                return; // ours and others' opening and closing
            }
            for path in &event.paths {
                if let Some(found) = armed.get_mut(path).filter(|a| !a.fired) {
                    fire(found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> HashMap<PathBuf, Armed> {
        (0..2)
            .map(|d| (PathBuf::from(format!("/db{d}-wal")), Armed { database: DatabaseId::new(d), fired: false }))
            .collect()
    }

    #[test]
    fn an_event_wakes_its_database_once() {
        let (queue, mut armed) = (Queue::default(), armed());
        let event = Event::new(EventKind::Modify(notify::event::ModifyKind::Any)).add_path("/db1-wal".into());
        on_event(Ok(event.clone()), &mut armed, &queue);
        on_event(Ok(event), &mut armed, &queue);
        assert_eq!(queue.pop(), Some(DatabaseId::new(1)));
        assert!(armed[Path::new("/db1-wal")].fired && !armed[Path::new("/db0-wal")].fired);
    }

    #[test]
    fn an_overflow_wakes_everyone() {
        let (queue, mut armed) = (Queue::default(), armed());
        on_event(Err(notify::Error::generic("overflow")), &mut armed, &queue);
        let mut woken = [queue.pop(), queue.pop()];
        woken.sort_unstable();
        assert_eq!(woken, [Some(DatabaseId::new(0)), Some(DatabaseId::new(1))]);
    }
}
