//! The noticeboard: what is true now about each database and each replica.
//!
//! Plain facts, pinned up by whoever knows them and read by whoever asks. Nothing
//! here decides anything. Watching it is how one waits for "confirmed everywhere".

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::types::{Generation, Timestamp, Txid};

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
    databases: Arc<Mutex<Vec<DatabaseFacts>>>,
    changed: watch::Sender<u64>,
}

impl Board {
    /// A board with these databases.
    pub fn new(databases: Vec<DatabaseFacts>) -> Self {
        Self { databases: Arc::new(Mutex::new(databases)), changed: watch::Sender::new(0) }
    }

    /// Changes what is known about one database.
    pub fn update(&self, index: usize, change: impl FnOnce(&mut DatabaseFacts)) {
        let mut databases = self.databases.lock().expect("no holder of this lock panics");
        let Some(facts) = databases.get_mut(index) else { return };
        let before = facts.clone();
        change(facts);
        let differs = *facts != before;
        drop(databases);
        if differs {
            self.changed.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// Everything on it now.
    pub fn read(&self) -> Vec<DatabaseFacts> {
        self.databases.lock().expect("no holder of this lock panics").clone()
    }

    /// What is known about one database.
    pub fn read_one(&self, index: usize) -> Option<DatabaseFacts> {
        self.databases.lock().expect("no holder of this lock panics").get(index).cloned()
    }

    /// Hears of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
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
        let board = Board::new(vec![DatabaseFacts::default()]);
        let mut watch = board.watch();
        board.update(0, |_| {});
        assert!(!watch.has_changed().unwrap());
        board.update(0, |facts| facts.health = Health::Live);
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), 1);
    }
}
