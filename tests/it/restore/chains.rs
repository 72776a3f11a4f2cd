//! Sound replicas: what comes out is what went in.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use brooklet::ltx::{Encoder, Encoding, Header, Proof};
use brooklet::restore::{Limits, Options, PlanError, RestoreError, Target, restore};
use brooklet::storage::MemoryStorage;
use brooklet::types::{PageSize, Pgno, RollingChecksum, Timestamp, page_checksum};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Counting, Scratch, TINY, evidence, options};
use crate::between::Behind;
use crate::history::{self, History, START, Stored, noise, range, time_of, txid};

/// What one generated transaction does: pages it changes, and the new size.
type Transaction = (Vec<(u32, u64)>, u32);

fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
    vec((vec((1..=12u32, any::<u64>()), 1..6), 1..=12u32), 1..14)
}

/// What is done to the replica afterwards: merges, snapshots, deletions at level 0.
fn upkeep() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    vec((0..10u8, 1..14u64, 1..14u64), 0..10)
}

fn build(transactions: &[Transaction], upkeep: &[(u8, u64, u64)], proofs: bool, encoding: Encoding) -> History {
    let mut history = History::new(512, proofs, encoding);
    for (changes, size) in transactions {
        let changes = changes.iter().map(|(pgno, seed)| {
            // Some pages shrink to almost nothing, some do not shrink at all.
            let page = if seed % 3 == 0 { vec![seed.to_le_bytes()[0]; 512] } else { noise(*seed, 512) };
            (*pgno, page)
        });
        history.commit(changes.collect::<Vec<_>>(), *size);
    }
    for (level, a, b) in upkeep {
        let (min, max) = (*a.min(b).min(&history.end()), *a.max(b).min(&history.end()));
        match level {
            0 => {}
            9 => history.snapshot(max),
            _ => history.merge(*level, min, max),
        }
    }
    for (level, a, _) in upkeep {
        // Whatever is deleted, the restore must find a way around it or say so.
        if *level % 3 == 0 && *a <= history.end() {
            history.remove(0, range(*a, *a));
        }
    }
    let mut seen = HashSet::new();
    history.segments.retain(|stored| seen.insert((stored.level, stored.txids)));
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Random histories, random upkeep, every way of fetching: each point restores
    /// to exactly the model's state, or is refused for a reason that names points.
    #[test]
    fn every_point_restores_to_the_state_it_had(
        transactions in transactions(),
        upkeep in upkeep(),
        proofs in any::<bool>(),
        frames in any::<bool>(),
        tiny in any::<bool>(),
        parallelism in 1..9usize,
    ) {
        let encoding = if frames { Encoding::Frame } else { Encoding::Block };
        let history = build(&transactions, &upkeep, proofs, encoding);
        let limits = if tiny { TINY } else { Limits::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
            let scratch = Scratch::new();
            for n in 1..=history.end() + 1 {
                let options = Options { limits, parallelism, ..options(Target::Txid(txid(n))) };
                match scratch.restore(&replica, &options).await {
                    Ok((bytes, report)) => {
                        assert!(bytes == history.file(n), "transaction {n} of {report:?}");
                        assert_eq!(report.candidate.plan.end(), txid(n));
                        assert_eq!(report.evidence, evidence(proofs));
                    }
                    Err(RestoreError::Plan(PlanError::NoBackup)) => assert!(history.segments.is_empty()),
                    Err(RestoreError::Plan(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert!(scratch.names().is_empty());
        });
    }
}

/// Five transactions at level 0, each changing page 1 and growing the database.
pub(super) fn five(proofs: bool) -> History {
    let mut history = History::new(512, proofs, Encoding::Block);
    for n in 1..=5u32 {
        history.commit([(1, noise(n.into(), 512)), (n, noise(100 + u64::from(n), 512))], 4 + n);
    }
    history
}

#[tokio::test]
async fn the_newest_transaction_captured_at_or_before_an_instant_is_restored() {
    let mut history = five(true);
    history.merge(1, 1, 3);
    for n in 1..=2 {
        history.remove(0, range(n, n));
    }
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    let at = |ms: i64| options(Target::Timestamp(Timestamp::from_millis(START + ms)));
    for (ms, expected) in [(3000, 3), (3999, 3), (4000, 4), (4001, 4), (5000, 5), (1 << 40, 5)] {
        let (bytes, report) = scratch.restore(&replica, &at(ms)).await.unwrap();
        assert!(bytes == history.file(expected), "{ms}");
        assert_eq!(report.candidate.time, time_of(expected));
    }
    let error = scratch.restore(&replica, &at(2999)).await.unwrap_err();
    let asked = Timestamp::from_millis(START + 2999);
    let expected = PlanError::TimestampBeforeOldest { asked, oldest: time_of(3), newest: time_of(5) };
    assert!(matches!(error, RestoreError::Plan(found) if found == expected));
}

#[tokio::test]
async fn data_behind_a_gap_is_an_error_that_names_the_way_out() {
    let mut history = five(true);
    history.remove(0, range(4, 4));
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    let gap = PlanError::Gap { reached: txid(3), next: txid(5) };
    for target in [Target::Latest, Target::Txid(txid(5)), Target::Timestamp(time_of(4))] {
        let error = scratch.restore(&replica, &options(target)).await.unwrap_err();
        assert!(matches!(&error, RestoreError::Plan(found) if *found == gap), "{target:?}: {error}");
        assert!(scratch.names().is_empty());
    }
    let (bytes, _) = scratch.restore(&replica, &options(Target::Txid(txid(3)))).await.unwrap();
    assert!(bytes == history.file(3), "a wrong database");
}

/// A writer that knows nothing of the history before it writes every page.
#[tokio::test]
async fn a_complete_segment_in_the_middle_needs_nothing_before_it() {
    let mut history = five(true);
    history.rewrite_complete(range(3, 3));
    // What lies before it does not even have to be readable.
    let first = history.segments.iter().position(|stored| stored.txids == range(1, 1)).unwrap();
    history.segments[first].bytes.truncate(50);
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let one_at_a_time = Options { parallelism: 1, ..options(Target::Latest) };
    let (bytes, _) = Scratch::new().restore(&replica, &one_at_a_time).await.unwrap();
    assert!(bytes == history.file(5), "a wrong database");
}

/// A part of history is lost, and capture has begun anew after it.
#[tokio::test]
async fn a_new_beginning_behind_a_gap_is_found() {
    let begun_anew = |lost: std::ops::RangeInclusive<u64>| {
        let mut history = five(true);
        history.rewrite_complete(range(4, 4));
        lost.for_each(|n| history.remove(0, range(n, n)));
        history
    };
    let scratch = Scratch::new();
    for history in [begun_anew(3..=3), begun_anew(1..=3), begun_anew(1..=1)] {
        let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
        for n in 4..=5 {
            for target in [Target::Txid(txid(n)), Target::Timestamp(time_of(n))] {
                let (bytes, report) = scratch.restore(&replica, &options(target)).await.unwrap();
                assert!(bytes == history.file(n), "{target:?}");
                assert_eq!(report.evidence, evidence(true));
            }
        }
        let error = scratch.restore(&replica, &options(Target::Txid(txid(3)))).await.unwrap_err();
        assert!(matches!(error, RestoreError::Plan(_)), "{error}");
    }
}

/// Litestream went on where brooklet stopped, and the other way round.
#[tokio::test]
async fn foreign_and_own_segments_make_one_chain() {
    for foreign in [vec![1, 2], vec![2, 3], vec![3, 4, 5], vec![2, 4]] {
        let mut history = five(true);
        for n in &foreign {
            history.rewrite(0, range(*n, *n), |header| *header = Header { proof: None, generation: None, ..*header });
        }
        let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
        for limits in [TINY, Limits::default()] {
            let options = Options { limits, ..options(Target::Latest) };
            let (bytes, report) = Scratch::new().restore(&replica, &options).await.unwrap();
            assert!(bytes == history.file(5), "{foreign:?}");
            assert_eq!(report.evidence, evidence(!foreign.contains(&5)), "{foreign:?}");
        }
    }
}

/// Most of a base is replaced by increments; only the rest of it is fetched.
#[tokio::test]
async fn of_a_large_segment_only_what_is_needed_is_fetched() {
    let mut history = History::new(512, true, Encoding::Block);
    history.commit((1..=4000).map(|n| (n, noise(n.into(), 512))), 4000);
    history.commit((1..=3900).map(|n| (n, noise(u64::from(n) + 5000, 512))), 4000);
    let memory = Arc::new(MemoryStorage::new());
    history.replica(memory.clone(), "r").await;
    let counting = Behind::new(Counting::default(), memory);
    let replica = history::shelf(counting.clone(), "r");
    let limits = Limits { whole: 1 << 16, range: 1 << 16, ..Limits::default() };
    let options = Options { limits, ..options(Target::Latest) };
    let (bytes, _) = Scratch::new().restore(&replica, &options).await.unwrap();
    assert!(bytes == history.file(2), "a wrong database");
    let fetched = counting.between.bytes();
    let database = bytes.len() as u64;
    assert!(fetched < database * 11 / 10, "{fetched} bytes for a database of {database}");
}

/// The page at the first gibibyte is left out of every segment. Nearly all pages
/// are zeros, which are not written, so this costs little room.
#[tokio::test]
async fn the_lock_page_is_left_as_zeros() {
    const LOCK: u32 = 16_385;
    let page = |pgno: u32| if pgno == 1 || pgno > LOCK { vec![pgno.to_le_bytes()[0]; 65536] } else { vec![0; 65536] };
    let number = |pgno| Pgno::new(pgno).unwrap();
    for (proofs, size) in [(true, LOCK), (true, LOCK + 1), (false, LOCK + 1)] {
        let numbers = (1..=size).filter(|pgno| *pgno != LOCK);
        let mut sum = RollingChecksum::default();
        numbers.clone().filter(|_| proofs).for_each(|pgno| sum.toggle(page_checksum(number(pgno), &page(pgno))));
        let header = Header {
            page_size: PageSize::new(65536).unwrap(),
            commit: size,
            txids: range(1, 1),
            timestamp: time_of(1),
            wal: None,
            generation: None,
            proof: proofs.then(|| Proof { before: None, after: sum.checksum() }),
        };
        let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        for pgno in numbers {
            encoder.page(number(pgno), &page(pgno)).unwrap();
        }
        let (bytes, _) = encoder.finish().unwrap();
        let snapshot = Stored { level: 9, txids: range(1, 1), bytes };
        let replica = history::put(&[snapshot], Arc::new(MemoryStorage::new()), "r").await;

        let scratch = Scratch::new();
        let progress = Arc::default();
        let report = restore(&[replica], &scratch.path(), &options(Target::Latest), &progress).await.unwrap();
        assert_eq!(report.evidence, evidence(proofs));
        assert_eq!(progress.pages(), (u64::from(size) - 1, u64::from(size)));
        let file = File::open(scratch.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), u64::from(size) * 65536);
        for pgno in [1, LOCK - 1, LOCK, size] {
            let mut bytes = vec![0; 65536];
            file.read_exact_at(&mut bytes, u64::from(pgno - 1) * 65536).unwrap();
            assert!(bytes == page(pgno), "page {pgno} of {size}");
        }
    }
}
