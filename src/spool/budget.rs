//! How much spools may hold: each for itself, and all of a process together.
//!
//! Always true: after a segment was published, all spools together are within
//! their budget, unless removing segments failed. A crash changes nothing: bytes
//! are counted anew from the files.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::Spool;

/// The default budget, unless 5 % of the file system is less.
const DEFAULT_BUDGET: u64 = 1 << 30;

const SHARE_OF_FILE_SYSTEM: u64 = 20;

/// A budget that all spools of a process share. Whoever has most gives first, so
/// that one database whose replica is away costs no other its segments.
#[derive(Debug)]
pub struct Together {
    budget: OnceLock<u64>,
    bytes: AtomicU64,
    members: Mutex<Vec<Weak<Spool>>>,
}

impl Together {
    /// A budget in bytes; `None`: a tenth of the file system that the first of them is on.
    pub fn new(budget: Option<u64>) -> Self {
        let budget = budget.map_or_else(OnceLock::new, OnceLock::from);
        Self { budget, bytes: AtomicU64::new(0), members: Mutex::default() }
    }

    fn budget(&self) -> u64 {
        self.budget.get().copied().unwrap_or(u64::MAX)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes one more into account, from now on.
    pub(super) fn admit(&self, spool: &Arc<Spool>) {
        let mut members = self.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(spool));
        drop(members);
        self.budget.get_or_init(|| size_of_file_system(&spool.dir).map_or(u64::MAX, |size| size / 10));
        self.grow(spool.bytes());
    }

    pub(super) fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Drops segments until all of them fit.
    pub(super) fn shed(&self) -> io::Result<()> {
        while self.bytes() > self.budget() {
            let members: Vec<Arc<Spool>> = self.members().iter().filter_map(Weak::upgrade).collect();
            let Some(largest) = members.iter().max_by_key(|spool| spool.bytes()).filter(|spool| spool.bytes() > 0)
            else {
                return Ok(());
            };
            let mut inner = largest.lock();
            let Some(oldest) = inner.segments.keys().next().copied() else { return Ok(()) };
            largest.drop_one(&mut inner, oldest)?;
            tracing::warn!(
                path = largest.dir.display().to_string(),
                budget = self.budget(),
                "all local segments together exceed their budget: replicas that lack these will get a new base"
            );
        }
        Ok(())
    }

    fn members(&self) -> MutexGuard<'_, Vec<Weak<Spool>>> {
        // A few list operations, none of which panics half way.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn default_budget(dir: &Path) -> u64 {
    size_of_file_system(dir).map_or(DEFAULT_BUDGET, |size| DEFAULT_BUDGET.min(size / SHARE_OF_FILE_SYSTEM))
}

fn size_of_file_system(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|fs| fs.f_blocks.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add, open};
    use super::*;
    use crate::spool::{Pending, Seq};

    /// The one whose replica is away gives first.
    #[test]
    fn the_largest_spool_gives_first_when_all_are_too_large_together() {
        let dir = tempfile::tempdir().unwrap();
        let spools: Vec<Arc<Spool>> = ["a", "b"].iter().map(|name| Arc::new(open(&dir.path().join(name)))).collect();
        add(&spools[0], 2);
        let size = spools[0].bytes();
        let together = Arc::new(Together::new(Some(4 * size)));
        spools.iter().for_each(|spool| spool.share(&together));
        (3..=4).for_each(|seq| assert_eq!(add(&spools[0], seq), 0));
        add(&spools[1], 2);
        assert_eq!((spools[0].bytes(), together.bytes()), (3 * size, 4 * size));
        add(&spools[1], 3);
        assert_eq!((spools[0].bytes(), spools[1].bytes()), (2 * size, 2 * size));
        assert_eq!(spools[0].pending(Seq::new(1).unwrap()), Pending::Gone);
        drop(spools);
        assert_eq!(together.bytes(), 0);
    }
}
