//! What the newest objects of a replica were made of, as long as it is still in
//! the spool: they are merged soon, and what is here need not be fetched.
//!
//! Always true: an object named here was put on the replica, made of exactly
//! these segments. Nobody depends on it: what has left the spool is read from the
//! replica. The spool keeps no more than a budget for it, and nothing across
//! restarts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Seq, Spool, Spooled};
use crate::types::Txid;

/// Bytes kept for one replica: some thousand commits, which is what an
/// application makes in the half minute after which they are merged.
const BUDGET: u64 = 16 << 20;
/// And no larger a part of what the spool may hold than one in this many.
const SHARE: u64 = 8;

/// The objects of one replica, shared by its upload and its upkeep.
#[derive(Clone, Debug, Default)]
pub struct Uploaded(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    spool: Option<Arc<Spool>>,
    objects: BTreeMap<Txid, Object>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    first: Seq,
    last: Seq,
    bytes: u64,
}

impl Uploaded {
    /// An object was put, made of these.
    pub fn add(&self, spool: &Arc<Spool>, txid: Txid, segments: &[Spooled]) {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return };
        let mut inner = self.lock();
        if !inner.spool.as_ref().is_some_and(|known| Arc::ptr_eq(known, spool)) {
            *inner = Inner { spool: Some(spool.clone()), ..Inner::default() };
        }
        let bytes = segments.iter().map(|segment| segment.size).sum();
        inner.objects.insert(txid, Object { first: first.seq, last: last.seq, bytes });
        inner.bytes += bytes;
        let budget = BUDGET.min(spool.budget() / SHARE);
        while inner.bytes > budget {
            let Some((_, object)) = inner.objects.pop_first() else { break };
            inner.bytes -= object.bytes;
        }
    }

    /// The oldest segment that is of use to somebody.
    pub fn oldest(&self) -> Option<Seq> {
        self.lock().objects.values().map(|object| object.first).min()
    }

    /// Objects up to here are merged: what they were made of is of no more use.
    pub fn forget_through(&self, txid: Txid) {
        let mut inner = self.lock();
        inner.objects = inner.objects.split_off(&txid.next());
        inner.bytes = inner.objects.values().map(|object| object.bytes).sum();
    }

    /// Nothing here is to be used again.
    pub fn forget_all(&self) {
        *self.lock() = Inner::default();
    }

    /// How many segments an object was made of; `None`: it is not known here.
    pub fn parts(&self, txid: Txid) -> Option<u64> {
        let object = *self.lock().objects.get(&txid)?;
        Some(object.last.get() - object.first.get() + 1)
    }

    /// What an object was made of, oldest first, if all of it is still here.
    pub fn open(&self, txid: Txid) -> Option<Vec<BufReader<File>>> {
        let inner = self.lock();
        let (spool, object) = (inner.spool.as_ref()?, inner.objects.get(&txid)?);
        let numbers = object.first.get()..=object.last.get();
        numbers.map(|number| spool.reader(Seq::new(number)?).ok()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A few map operations, none of which panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add, open, sum};
    use super::*;
    use crate::spool::{Pending, Point};

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn seq(n: u64) -> Seq {
        Seq::new(n).unwrap()
    }

    fn all(spool: &Spool) -> Vec<Spooled> {
        match spool.pending(Seq::FIRST) {
            Pending::Segments(segments) => segments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_objects_were_made_of_is_found_until_they_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(open(dir.path()));
        (2..=6).for_each(|n| assert_eq!(add(&spool, n), 0));
        let (uploaded, segments) = (Uploaded::default(), all(&spool));
        uploaded.add(&spool, txid(11), &segments[..2]);
        uploaded.add(&spool, txid(12), &segments[2..]);
        assert_eq!((uploaded.parts(txid(11)), uploaded.parts(txid(12))), (Some(2), Some(3)));
        assert_eq!(uploaded.open(txid(12)).unwrap().len(), 3);
        assert_eq!(uploaded.oldest(), Some(seq(2)));
        uploaded.forget_through(txid(11));
        assert_eq!((uploaded.oldest(), uploaded.parts(txid(11))), (Some(seq(4)), None));
        // The spool may drop them at any time.
        spool.drop_through(seq(5)).unwrap();
        assert!(uploaded.open(txid(12)).is_none());
        uploaded.forget_through(txid(12));
        assert_eq!(uploaded.oldest(), None);
    }

    #[test]
    fn no_more_than_a_budget_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(dir.path(), Some(1 << 30), 0o700).unwrap().0);
        add(&spool, 2);
        let (uploaded, one) = (Uploaded::default(), all(&spool)[0].clone());
        for n in 2..10 {
            let large = Spooled { seq: seq(n), size: BUDGET / 4, ..one.clone() };
            uploaded.add(&spool, txid(n), &[large]);
            assert_eq!(uploaded.oldest(), Some(seq(n.saturating_sub(3).max(2))));
        }
    }

    /// Numbers of another spool mean other segments.
    #[test]
    fn another_spool_begins_anew() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let spools = dirs.each_ref().map(|dir| Arc::new(open(dir.path())));
        let uploaded = Uploaded::default();
        for (spool, n) in spools.iter().zip([2, 7]) {
            spool.restart(Point { seq: seq(n - 1), checksum: sum(n - 1), timestamp: None }).unwrap();
            add(spool, n);
            let Pending::Segments(segments) = spool.pending(seq(n - 1)) else { panic!() };
            uploaded.add(spool, txid(n), &segments);
        }
        assert_eq!((uploaded.oldest(), uploaded.parts(txid(2))), (Some(seq(7)), None));
    }
}
