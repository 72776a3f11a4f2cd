//! The noticeboard: what is true now about each database and each replica.
//!
//! Plain facts, pinned up by whoever knows them and read by whoever asks. Nothing
//! here decides anything. Watching it is how one waits for "confirmed everywhere".

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::types::{Generation, Timestamp, Txid};

/// A database's place on the board. It is never given to another one, not even
/// to the same file when that is taken up again after it was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(u64);

impl DatabaseId {
    /// The one with that number; the board counts from 0.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// How a database is doing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// Not looked at yet.
    #[default]
    Starting,
    /// Followed.
    Live,
    /// Nothing to follow yet.
    Waiting(String),
    /// It cannot be followed.
    Broken(String),
    /// It is not followed because somebody asked for that.
    Stopped,
}

/// A captured position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The history.
    pub generation: Generation,
    /// The batch within it.
    pub batch: u64,
    /// The time of its newest commit.
    pub timestamp: Timestamp,
}

/// What one replica is known to have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReplicaFacts {
    /// What configuration calls it.
    pub name: String,
    /// The newest TXID on it.
    pub txid: Option<Txid>,
    /// The captured batch that it ends with.
    pub batch: Option<u64>,
    /// The time of that batch.
    pub timestamp: Option<Timestamp>,
    /// Why it is not up to date, if something is wrong.
    pub error: Option<String>,
    /// Another writer has taken over.
    pub fenced: bool,
    /// Why segments are not merged or deleted, if something is wrong.
    pub upkeep_error: Option<String>,
    /// What rehearsals of a restore have shown; `None` before the first.
    pub drill: Option<DrillFacts>,
}

/// What rehearsals of a restore have shown.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DrillFacts {
    /// When the last one ended.
    pub at: Option<Timestamp>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// The newest point that one has proven.
    pub proven: Option<ProvenPoint>,
}

/// A point that was restored in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenPoint {
    /// Its transaction; `None` in a backup of Litestream 0.3.
    pub txid: Option<Txid>,
    /// Its time.
    pub time: Timestamp,
    /// How long it took, which is about what a restore takes.
    pub took: Duration,
}

/// What is known about one database.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DatabaseFacts {
    /// The database file.
    pub path: PathBuf,
    /// How it is doing.
    pub health: Health,
    /// What is captured.
    pub captured: Option<Captured>,
    /// Its replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaFacts>,
}

impl DatabaseFacts {
    /// The replicas that lack something that is captured.
    pub fn behind(&self) -> impl Iterator<Item = &ReplicaFacts> {
        let batch = self.captured.map(|c| c.batch);
        self.replicas.iter().filter(move |r| batch.is_some_and(|b| r.batch.is_none_or(|have| have < b)))
    }
}

/// The board.
#[derive(Clone, Debug)]
pub struct Board {
    databases: Arc<Mutex<Databases>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Databases {
    next: u64,
    pinned: BTreeMap<DatabaseId, Pinned>,
}

#[derive(Debug)]
struct Pinned {
    facts: DatabaseFacts,
    /// For those who wait for this one: with thousands of others, their news must not wake them.
    changed: watch::Sender<()>,
}

impl Default for Board {
    fn default() -> Self {
        Self { databases: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl Board {
    /// Pins up another database.
    pub fn add(&self, facts: DatabaseFacts) -> DatabaseId {
        let mut databases = self.databases();
        let id = DatabaseId(databases.next);
        databases.next += 1;
        databases.pinned.insert(id, Pinned { facts, changed: watch::Sender::new(()) });
        drop(databases);
        self.tell();
        id
    }

    /// Takes everything about a database down. Those who wait for its news learn that there will be none.
    pub fn remove(&self, id: DatabaseId) {
        let removed = self.databases().pinned.remove(&id);
        if removed.is_some() {
            self.tell();
        }
    }

    /// Changes what is known about one database, if it is on the board.
    pub fn update(&self, id: DatabaseId, change: impl FnOnce(&mut DatabaseFacts)) {
        let mut databases = self.databases();
        let Some(pinned) = databases.pinned.get_mut(&id) else { return };
        let before = pinned.facts.clone();
        change(&mut pinned.facts);
        let differs = pinned.facts != before;
        if differs {
            pinned.changed.send_replace(());
        }
        drop(databases);
        if differs {
            self.tell();
        }
    }

    /// Everything on it now, in the order in which it was added.
    pub fn read(&self) -> Vec<DatabaseFacts> {
        self.databases().pinned.values().map(|pinned| pinned.facts.clone()).collect()
    }

    /// The same, with the places.
    pub fn entries(&self) -> Vec<(DatabaseId, DatabaseFacts)> {
        self.databases().pinned.iter().map(|(id, pinned)| (*id, pinned.facts.clone())).collect()
    }

    /// What is known about one database.
    pub fn read_one(&self, id: DatabaseId) -> Option<DatabaseFacts> {
        self.databases().pinned.get(&id).map(|pinned| pinned.facts.clone())
    }

    /// Hears of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hears of each change of one database, and that it is taken down.
    pub fn watch_one(&self, id: DatabaseId) -> Option<watch::Receiver<()>> {
        self.databases().pinned.get(&id).map(|pinned| pinned.changed.subscribe())
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn databases(&self) -> MutexGuard<'_, Databases> {
        self.databases.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_behind_until_it_has_the_captured_batch() {
        let captured =
            Captured { generation: Generation::new(1).unwrap(), batch: 5, timestamp: Timestamp::from_millis(0) };
        let replica = |batch| ReplicaFacts { batch, ..ReplicaFacts::default() };
        let facts = DatabaseFacts {
            captured: Some(captured),
            replicas: vec![replica(None), replica(Some(4)), replica(Some(5))],
            ..DatabaseFacts::default()
        };
        assert_eq!(facts.behind().count(), 2);
    }

    #[test]
    fn only_a_change_is_news() {
        let board = Board::default();
        let id = board.add(DatabaseFacts::default());
        let (mut watch, mut one) = (board.watch(), board.watch_one(id).unwrap());
        board.update(id, |_| {});
        assert!(!watch.has_changed().unwrap() && !one.has_changed().unwrap());
        board.update(id, |facts| facts.health = Health::Live);
        assert!(watch.has_changed().unwrap() && one.has_changed().unwrap());
        watch.borrow_and_update();
        one.borrow_and_update();
        let other = board.add(DatabaseFacts::default());
        board.update(other, |facts| facts.health = Health::Live);
        assert!(watch.has_changed().unwrap());
        assert!(!one.has_changed().unwrap(), "news of others wake nobody");
    }

    #[test]
    fn a_place_is_never_given_away_again() {
        let board = Board::default();
        let [first, second] = [0, 1].map(|_| board.add(DatabaseFacts::default()));
        let watch = board.watch_one(first).unwrap();
        board.remove(first);
        assert!(watch.has_changed().is_err(), "who waited for it learns that it is gone");
        let third = board.add(DatabaseFacts::default());
        assert!(first != third && second != third);
        board.update(first, |facts| facts.health = Health::Live);
        assert_eq!((board.read_one(first), board.watch_one(first).is_none()), (None, true));
        assert_eq!(board.entries().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second, third]);
        assert_eq!(board.read(), [DatabaseFacts::default(), DatabaseFacts::default()]);
    }
}
