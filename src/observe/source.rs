//! Where facts come from: the daemon, or a test that makes them up.

use std::collections::BTreeSet;

use crate::daemon::{Daemon, Kept, Numbers};
use crate::status::{DatabaseFacts, DatabaseId};

/// One database with its numbers.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its number, which is never given to another.
    pub id: u64,
    /// What is known about it.
    pub facts: DatabaseFacts,
    /// Its numbers.
    pub numbers: Numbers,
}

/// Where facts come from.
pub trait Source: Send + Sync + 'static {
    /// Shows what is known about each database, without copying it, in the order of their numbers.
    fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts));
    /// The numbers of those that came, went or changed since the last call; at the first call all. One asks.
    fn news(&self) -> Vec<u64> {
        let mut all = Vec::new();
        self.each(&mut |id, _| all.push(id));
        all
    }

    /// Shows what is known about some, given in order; nothing of those that are not there.
    fn some(&self, ids: &[u64], look: &mut dyn FnMut(u64, Option<&DatabaseFacts>)) {
        let mut gone: BTreeSet<u64> = ids.iter().copied().collect();
        self.each(&mut |id, facts| {
            if gone.remove(&id) {
                look(id, Some(facts));
            }
        });
        gone.into_iter().for_each(|id| look(id, None));
    }

    /// Every database with its numbers.
    fn observe(&self) -> Vec<Observed>;
    /// What is known to be on one replica of a database.
    fn kept(&self, database: u64, replica: usize) -> Option<Kept>;
}

impl Source for Daemon {
    fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
        self.board().each(|id, facts| look(id.get(), facts));
    }

    fn news(&self) -> Vec<u64> {
        self.board().news().into_iter().map(DatabaseId::get).collect()
    }

    fn some(&self, ids: &[u64], look: &mut dyn FnMut(u64, Option<&DatabaseFacts>)) {
        let ids = ids.iter().copied().map(DatabaseId::new);
        self.board().some(ids, |id, facts| look(id.get(), facts));
    }

    fn observe(&self) -> Vec<Observed> {
        let with_numbers = self.board().entries().into_iter().map(|(id, facts)| Observed {
            id: id.get(),
            numbers: self.numbers(id, &facts).unwrap_or_default(),
            facts,
        });
        with_numbers.collect()
    }

    fn kept(&self, database: u64, replica: usize) -> Option<Kept> {
        Self::kept(self, DatabaseId::new(database), replica)
    }
}
