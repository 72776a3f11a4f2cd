//! Where facts come from: the daemon, or a test that makes them up.

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
    /// Every database with its numbers.
    fn observe(&self) -> Vec<Observed>;
    /// What is known to be on one replica of a database.
    fn kept(&self, database: u64, replica: usize) -> Option<Kept>;
}

impl Source for Daemon {
    fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
        self.board().each(|id, facts| look(id.get(), facts));
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
