//! Which databases there are, and which of them are followed now.
//!
//! Always true: one path has one slot. A slot keeps what was asked for; its
//! [`Entry`] is one run of it, from the first step to the last upload. Whoever
//! starts, stops or removes a database waits for its turn, so no two runs of one
//! database overlap.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::entry::Entry;
use super::{Destination, Job, RegistryError};
use crate::capture::Options;
use crate::status::{DatabaseId, board_is_held};

/// One database.
pub(super) struct Slot {
    pub(super) id: DatabaseId,
    pub(super) capture: Arc<Options>,
    pub(super) replicas: Vec<Destination>,
    /// Held while the run is begun or ended.
    pub(super) turn: tokio::sync::Mutex<()>,
    run: Mutex<Option<Arc<Entry>>>,
}

impl Slot {
    /// What was asked for.
    pub(super) fn job(&self) -> Job {
        Job { capture: Options::clone(&self.capture), replicas: self.replicas.clone() }
    }

    /// The run under way.
    pub(super) fn entry(&self) -> Option<Arc<Entry>> {
        self.run.lock().expect("no holder of this lock panics").clone()
    }

    pub(super) fn set(&self, entry: Option<Arc<Entry>>) {
        *self.run.lock().expect("no holder of this lock panics") = entry;
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Table(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    slots: BTreeMap<DatabaseId, Arc<Slot>>,
    of_path: HashMap<Arc<Path>, DatabaseId>,
    closed: bool,
}

impl Table {
    /// Makes room for a database. `id` is asked only if there is room; `begin` is over before anybody can remove it.
    pub(super) fn add(
        &self,
        job: Job,
        id: impl FnOnce(&Job) -> DatabaseId,
        begin: impl FnOnce(&Slot),
    ) -> Result<DatabaseId, RegistryError> {
        let mut inner = self.write();
        if inner.closed {
            return Err(RegistryError::Stopping);
        }
        let path = job.capture.path.clone();
        if inner.of_path.contains_key(&path) {
            return Err(RegistryError::AlreadyThere { path: path.to_path_buf() });
        }
        let id = id(&job);
        let Job { capture, replicas } = job;
        let turn = tokio::sync::Mutex::default();
        let slot = Arc::new(Slot { id, capture: Arc::new(capture), replicas, turn, run: Mutex::default() });
        begin(&slot);
        inner.of_path.insert(path, id);
        inner.slots.insert(id, slot);
        Ok(id)
    }

    pub(super) fn remove(&self, id: DatabaseId) {
        let mut inner = self.write();
        if let Some(slot) = inner.slots.remove(&id) {
            inner.of_path.remove(&slot.capture.path);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.read().slots.len()
    }

    /// From now on nothing is added.
    pub(super) fn close(&self) {
        self.write().closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.read().closed
    }

    pub(super) fn slot(&self, id: DatabaseId) -> Option<Arc<Slot>> {
        self.read().slots.get(&id).cloned()
    }

    pub(super) fn find(&self, path: &Path) -> Option<DatabaseId> {
        self.read().of_path.get(path).copied()
    }

    /// The run of a database, if it is followed.
    pub(super) fn entry(&self, id: DatabaseId) -> Option<Arc<Entry>> {
        self.slot(id)?.entry()
    }

    /// In the order in which they were added.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.read().slots.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.in_order();
        self.0.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.in_order();
        self.0.write().expect("no holder of this lock panics")
    }

    /// Whoever adds a database holds the table and then the board; the other way round two would wait for each other.
    fn in_order(&self) {
        debug_assert!(!board_is_held(), "the table is asked while the board is held");
    }
}
