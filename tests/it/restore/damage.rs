//! Each way to break a replica, times each segment: the answer is a clear error
//! or the right database, never a wrong one, and never a touched target.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use brooklet::ltx::Encoding;
use brooklet::restore::{IntegrityCheck, Limits, Options, PlanError, RestoreError, Target};
use brooklet::storage::{self, ErrorKind, Key, MemoryStorage, Object, Retry, Storage};
use bytes::Bytes;

use super::chains::five;
use super::{Merge, Scratch, TINY, options};
use crate::between::{Behind, Between};
use crate::history::{self, History, noise, range, txid};

/// A base of some pages, increments, and a merge: all of it is needed for the
/// newest point.
fn needed(proofs: bool, encoding: Encoding) -> History {
    let mut history = History::new(512, proofs, encoding);
    let pages = |seeds: Range<u32>| seeds.map(|seed| (seed % 5 + 1, noise(seed.into(), 512))).collect::<Vec<_>>();
    history.commit(pages(0..5), 5);
    history.commit(pages(10..12), 5);
    history.commit(pages(21..23), 6);
    history.commit(pages(31..32), 6);
    history.snapshot(1);
    history.merge(1, 2, 3);
    for n in 1..=3 {
        history.remove(0, range(n, n));
    }
    history
}

/// Restores from a changed replica. What comes out must be right or refused.
async fn right_or_refused(history: &History, limits: Limits, how: &str) -> Result<u64, RestoreError> {
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    std::fs::write(scratch.path(), b"what was there").unwrap();
    let options = Options { limits, overwrite: true, ..options(Target::Latest) };
    match scratch.restore(&replica, &options).await {
        Ok((bytes, report)) => {
            let end = report.candidate.plan.end().get();
            assert!(bytes == history.file(end), "a wrong database after {how}");
            assert!(scratch.names().is_empty());
            Ok(end)
        }
        Err(error) => {
            assert_eq!(scratch.names(), ["app.db"], "{how}: {error}");
            assert_eq!(std::fs::read(scratch.path()).unwrap(), b"what was there", "{how}: {error}");
            Err(error)
        }
    }
}

async fn for_every_segment(change: impl AsyncFn(&History, usize, Limits, bool)) {
    for encoding in [Encoding::Block, Encoding::Frame] {
        for proofs in [true, false] {
            let history = needed(proofs, encoding);
            for limits in [TINY, Limits::default()] {
                for i in 0..history.segments.len() {
                    change(&history, i, limits, proofs).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_segment_cut_off_anywhere_is_refused() {
    for_every_segment(async |history, i, limits, _| {
        let size = history.segments[i].bytes.len();
        // Every length around the borders between the parts, and many in between.
        let lengths = (0..size).filter(|length| *length < 130 || *length + 130 > size || length % 37 == 0);
        for length in lengths {
            let mut cut = history.clone();
            cut.segments[i].bytes.truncate(length);
            let how = format!("cutting {} to {length} of {size} bytes", cut.segments[i].txids);
            let error = right_or_refused(&cut, limits, &how).await.expect_err(&how);
            assert!(error.to_string().contains(&cut.segments[i].txids.to_string()), "{how}: {error}");
        }
    })
    .await;
}

/// The header, the ends of the pages and of the segment, and some places between.
fn places(stored: &history::Stored) -> impl Iterator<Item = usize> + use<> {
    let size = stored.bytes.len();
    (0..size).filter(move |at| (at % 2 == 0 && (*at < 120 || *at + 70 > size)) || at % 41 == 0)
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_noticed_or_harmless() {
    let unnoticed = AtomicUsize::new(0);
    let all = AtomicUsize::new(0);
    for_every_segment(async |history, i, limits, _| {
        for at in places(&history.segments[i]) {
            let mut changed = history.clone();
            changed.segments[i].bytes[at] ^= 0x55;
            let how = format!("changing byte {at} of {}", changed.segments[i].txids);
            all.fetch_add(1, Ordering::Relaxed);
            if right_or_refused(&changed, limits, &how).await.is_ok() {
                unnoticed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    // Harmless are: the trailer and unused header fields of segments of which
    // only stretches are read, and pages that newer segments replace.
    let (unnoticed, all) = (unnoticed.into_inner(), all.into_inner());
    assert!(unnoticed * 4 < all, "{unnoticed} of {all} changes went unnoticed");
}

#[tokio::test]
async fn without_a_proof_every_changed_byte_is_noticed() {
    for encoding in [Encoding::Block, Encoding::Frame] {
        let history = needed(false, encoding);
        for limits in [TINY, Limits::default()] {
            for i in 0..history.segments.len() {
                for at in places(&history.segments[i]) {
                    let mut changed = history.clone();
                    changed.segments[i].bytes[at] ^= 0x55;
                    let how = format!("changing byte {at} of {}", changed.segments[i].txids);
                    right_or_refused(&changed, limits, &how).await.expect_err(&how);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_is_named() {
    for_every_segment(async |history, i, limits, _| {
        let mut short = history.clone();
        let gone = short.segments.remove(i);
        let error = right_or_refused(&short, limits, "removing a segment").await;
        match (gone.txids.min().get(), error) {
            (1, Err(RestoreError::Plan(PlanError::NoBase { first }))) => assert_eq!(first, txid(2)),
            (2, Err(RestoreError::Plan(PlanError::Gap { reached, next }))) => {
                assert_eq!((reached, next), (txid(1), txid(4)));
            }
            // The newest one leaves no trace: the replica simply ends earlier.
            (4, Ok(end)) => assert_eq!(end, 3),
            (n, other) => panic!("{n}: {other:?}"),
        }
    })
    .await;
}

/// F28: an increment of another history, sound in itself, under the right name.
#[tokio::test]
async fn a_foreign_increment_between_our_own_is_noticed() {
    for limits in [TINY, Limits::default()] {
        // Of the first one no page is needed: later ones replace them all.
        for n in 2..=5 {
            let mut history = five(true);
            let mut other = History::new(512, true, Encoding::Block);
            for m in 1..=5u32 {
                other.commit([(1, noise(u64::from(m) + 50, 512)), (m, noise(500 + u64::from(m), 512))], 4 + m);
            }
            let foreign = other.get(0, range(n, n)).clone();
            history.remove(0, range(n, n));
            history.segments.push(foreign);
            let error = right_or_refused(&history, limits, "exchanging an increment").await.unwrap_err();
            let RestoreError::Unlinked { older, newer, .. } = &error else { panic!("{error}") };
            assert!(older.txids == range(n, n) || newer.txids == range(n, n), "{error}");
        }
    }
}

/// The same where the neighbours cannot tell, because they carry no proof: the
/// checksum of the whole still does.
#[tokio::test]
async fn a_foreign_increment_among_foreign_ones_fails_the_checksum_of_the_whole() {
    for limits in [TINY, Limits::default()] {
        let mut history = five(true);
        for n in 1..=4 {
            history.rewrite(0, range(n, n), |header| header.proof = None);
        }
        let mut other = history.clone();
        other.commit([(2, noise(999, 512))], 9);
        let mut stray = other.get(0, range(6, 6)).clone();
        let header = brooklet::ltx::Header { proof: None, ..other.header(range(3, 3)) };
        let header = brooklet::ltx::Header { commit: 7, ..header };
        stray.txids = range(3, 3);
        stray.bytes = other.encode_from(6, &[2], header);
        history.remove(0, range(3, 3));
        history.segments.push(stray);
        let error = right_or_refused(&history, limits, "exchanging an increment").await.unwrap_err();
        assert!(matches!(error, RestoreError::Checksum { .. } | RestoreError::MissingPage { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_segment_under_the_name_of_another_is_refused() {
    for limits in [TINY, Limits::default()] {
        let mut history = five(false);
        let bytes = history.get(0, range(2, 2)).bytes.clone();
        let third = history.segments.iter_mut().find(|stored| stored.txids == range(3, 3)).unwrap();
        third.bytes = bytes;
        let error = right_or_refused(&history, limits, "renaming").await.unwrap_err();
        let RestoreError::Misnamed { segment, header } = error else { panic!("{error}") };
        assert_eq!((segment.txids, header), (range(3, 3), range(2, 2)));
    }
}

/// A writer that forgot the pages by which the database grew, after it had
/// shrunk: an old version of page 4 must not come back.
#[tokio::test]
async fn a_page_from_before_a_shrink_does_not_come_back() {
    for limits in [TINY, Limits::default()] {
        let mut history = History::new(512, false, Encoding::Block);
        history.commit((1..=4).map(|n| (n, noise(n.into(), 512))), 4);
        history.commit([(2, noise(12, 512))], 5);
        history.commit([(1, noise(21, 512))], 3);
        history.commit([(1, noise(31, 512))], 5);
        let header = history.header(range(4, 4));
        let bytes = history.encode(range(4, 4), &[1, 5], header);
        history.remove(0, range(4, 4));
        history.segments.push(history::Stored { level: 0, txids: range(4, 4), bytes });
        let error = right_or_refused(&history, limits, "forgetting a page").await.unwrap_err();
        let RestoreError::MissingPage { pgno, pages, .. } = &error else { panic!("{error}") };
        assert_eq!((pgno.get(), *pages), (4, 5));
    }
}

#[tokio::test]
async fn what_sqlite_does_not_accept_never_replaces_anything() {
    let history = five(true); // plain noise, not a database
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    std::fs::write(scratch.path(), b"what was there").unwrap();
    for integrity_check in [IntegrityCheck::Quick, IntegrityCheck::Full] {
        let options = Options { integrity_check, overwrite: true, ..options(Target::Latest) };
        let error = scratch.restore(&replica, &options).await.unwrap_err();
        assert!(error.to_string().starts_with("post-restore integrity check: "), "{error}");
        assert_eq!(scratch.names(), ["app.db"]);
        assert_eq!(std::fs::read(scratch.path()).unwrap(), b"what was there");
    }
}

/// Where only stretches of segments are read, a wrong byte shows first in the
/// checksum of the whole. The segment that it is in must be named all the same.
#[tokio::test]
async fn a_wrong_byte_in_a_stretch_names_its_segment() {
    let history = needed(true, Encoding::Block);
    for i in 0..history.segments.len() {
        let mut changed = history.clone();
        let stored = &mut changed.segments[i];
        // Behind the headers of segment and frame, in bytes stored as they are.
        stored.bytes[200] ^= 0x55;
        let txids = stored.txids;
        match right_or_refused(&changed, TINY, "changing a literal").await {
            Err(RestoreError::Damaged { segment, .. }) => assert_eq!(segment.txids, txids),
            // That page was replaced later: nobody reads it.
            Ok(_) => assert_eq!(txids, range(1, 1)),
            Err(error) => panic!("{txids}: {error}"),
        }
    }
}

/// Merges and deletes while a restore is under way, at the given read.
struct Upkeep {
    reads: AtomicUsize,
    at: usize,
    merge: Merge,
}

#[async_trait]
impl Between for Upkeep {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == self.at {
            self.merge.run(storage, "r").await?;
        }
        storage.get(key, range).await
    }
}

/// F77: segments are merged away between the listing and the reading.
#[tokio::test]
async fn a_restore_survives_upkeep_at_any_of_its_reads() {
    for limits in [TINY, Limits::default()] {
        for at in 0..12 {
            let mut history = five(true);
            history.merge(2, 1, 4);
            let merged = history.segments.pop().unwrap();
            let memory = Arc::new(MemoryStorage::new());
            history.replica(memory.clone(), "r").await;
            let upkeep = Upkeep { reads: AtomicUsize::new(0), at, merge: Merge { merged, gone: 1..=4 } };
            let replica = history::shelf(Behind::new(upkeep, memory), "r");
            let options = Options { limits, ..options(Target::Latest) };
            let (bytes, _) = Scratch::new().restore(&replica, &options).await.unwrap();
            assert!(bytes == history.file(5), "upkeep at read {at}");
        }
    }
}

/// A listing that was taken while segments were merged: the first look at level
/// 2 comes before the merge, the first look at level 0 after the deletion.
#[derive(Default)]
struct Torn {
    looks: AtomicUsize,
}

#[async_trait]
impl Between for Torn {
    async fn list(&self, storage: &dyn Storage, prefix: &Key, after: Option<&Key>) -> storage::Result<Vec<Object>> {
        let merged = prefix.as_str() == "r/ltx/2" && self.looks.fetch_add(1, Ordering::SeqCst) == 0;
        if merged { Ok(Vec::new()) } else { storage.list(prefix, after).await }
    }
}

#[tokio::test]
async fn a_torn_listing_is_not_believed() {
    let mut history = five(true);
    history.merge(2, 2, 4);
    for n in 2..=4 {
        history.remove(0, range(n, n));
    }
    for target in [Target::Latest, Target::Txid(txid(4)), Target::Timestamp(history::time_of(4))] {
        let memory = Arc::new(MemoryStorage::new());
        history.replica(memory.clone(), "r").await;
        let replica = history::shelf(Behind::new(Torn::default(), memory), "r");
        let (bytes, report) = Scratch::new().restore(&replica, &options(target)).await.unwrap();
        assert!(bytes == history.file(report.candidate.plan.end().get()), "{target:?}");
    }
}

/// Fails every read once or more; a proxy that cuts connections looks like this.
struct Cuts {
    reads: AtomicUsize,
    every: usize,
}

#[async_trait]
impl Between for Cuts {
    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        if self.reads.fetch_add(1, Ordering::SeqCst).is_multiple_of(self.every) {
            storage.get(key, range).await
        } else {
            Err(storage::Error::new(ErrorKind::Later, format!("{key}: connection reset")))
        }
    }
}

/// F73: connections are cut again and again.
#[tokio::test]
async fn a_broken_transfer_resumes_with_the_piece_it_broke_in() {
    let history = needed(true, Encoding::Block);
    let memory = Arc::new(MemoryStorage::new());
    history.replica(memory.clone(), "r").await;
    let cuts = Behind::new(Cuts { reads: AtomicUsize::new(0), every: 3 }, memory);
    let storage: Arc<dyn Storage> = Arc::new(Retry::with_dice(cuts, Box::new(|| 0)));
    let replica = history::shelf(storage, "r");
    for limits in [TINY, Limits::default()] {
        let options = Options { limits, parallelism: 1, ..options(Target::Latest) };
        let (bytes, _) = Scratch::new().restore(&replica, &options).await.unwrap();
        assert!(bytes == history.file(4), "a wrong database");
    }
}
