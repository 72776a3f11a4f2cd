//! Bringing a database up to date instead of fetching all of it.

use std::fs;
use std::sync::Arc;

use brooklet::ltx::Encoding;
use brooklet::restore::{Evidence, Options, Target};
use brooklet::storage::MemoryStorage;

use super::{Counting, Scratch, TINY, options};
use crate::between::Behind;
use crate::history::{self, History, noise, range, txid};

fn delta(target: Target) -> Options {
    Options { delta: true, limits: TINY, ..options(target) }
}

/// A page 1 that begins like that of a database of 512-byte pages in WAL mode.
fn first_page(n: u64) -> Vec<u8> {
    let mut page = noise(n, 512);
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..20].copy_from_slice(&[2, 0, 2, 2]);
    let counter = u32::try_from(n).unwrap().to_be_bytes();
    page[24..28].copy_from_slice(&counter);
    page[92..96].copy_from_slice(&counter);
    page
}

/// Grows, shrinks, grows again; page 1 changes now and then.
pub(super) fn eventful(proofs: bool) -> History {
    let mut history = History::new(512, proofs, Encoding::Block);
    let sizes = [20, 22, 30, 12, 12, 25, 25, 24, 40, 40];
    for (n, size) in (1u64..).zip(sizes) {
        let mut changes = vec![(2 + u32::try_from(n).unwrap(), noise(n, 512)), (11, vec![0; 512])];
        if n % 3 == 1 {
            changes.push((1, first_page(n)));
        }
        history.commit(changes, size);
    }
    history
}

#[tokio::test]
async fn a_database_of_any_point_is_brought_to_any_later_one() {
    let mut history = eventful(true);
    history.merge(1, 2, 3);
    history.merge(1, 4, 6);
    history.snapshot(5);
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    for from in 1..=10 {
        for to in from..=10 {
            fs::write(scratch.path(), history.file(from)).unwrap();
            let (bytes, report) = scratch.restore(&replica, &delta(Target::Txid(txid(to)))).await.unwrap();
            assert!(bytes == history.file(to), "{from} {to}");
            assert_eq!((report.built_upon, report.evidence), (Some(txid(from)), Evidence::Database));
            assert!(scratch.names().is_empty());
        }
    }
}

/// The point itself is merged away; the segment after it still tells of it.
#[tokio::test]
async fn a_point_is_also_known_from_what_follows_it() {
    let mut history = eventful(true);
    history.merge(1, 1, 3);
    for n in 1..=3 {
        history.remove(0, range(n, n));
    }
    history.merge(1, 4, 6);
    history.remove(0, range(4, 4));
    history.remove(0, range(6, 6));
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    for (from, known) in [(1, false), (3, true), (4, true), (5, true), (6, true)] {
        fs::write(scratch.path(), history.file(from)).unwrap();
        let (bytes, report) = scratch.restore(&replica, &delta(Target::Latest)).await.unwrap();
        assert!(bytes == history.file(10), "{from}");
        assert_eq!(report.built_upon, known.then(|| txid(from)), "{from}");
    }
}

#[tokio::test]
async fn what_is_no_point_of_the_history_is_replaced() {
    let history = eventful(true);
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    let mut changed = history.file(4);
    changed[5000] ^= 1;
    let mut grown = history.file(4);
    grown.extend_from_slice(&[7; 512]);
    let newer = history.file(10);
    for (what, target) in [(changed, 10), (grown, 10), (newer, 7), (b"no database".to_vec(), 10), (vec![], 10)] {
        fs::write(scratch.path(), what).unwrap();
        let (bytes, report) = scratch.restore(&replica, &delta(Target::Txid(txid(target)))).await.unwrap();
        assert!(bytes == history.file(target));
        assert_eq!(report.built_upon, None);
    }
    let (bytes, _) = scratch.restore(&replica, &delta(Target::Latest)).await.unwrap();
    assert!(bytes == history.file(10), "nothing to build upon");
}

/// What was written by Litestream carries no checksum of the database.
#[tokio::test]
async fn without_proofs_everything_is_fetched() {
    let replica = eventful(false).replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    fs::write(scratch.path(), eventful(false).file(4)).unwrap();
    let (bytes, report) = scratch.restore(&replica, &delta(Target::Latest)).await.unwrap();
    assert!(bytes == eventful(false).file(10));
    assert_eq!((report.built_upon, report.evidence), (None, Evidence::Files));
}

/// A segment on the way was exchanged: its checksum of its own is right, what it
/// leaves is not what was recorded.
#[tokio::test]
async fn a_damaged_way_never_gives_a_wrong_database() {
    let mut history = eventful(true);
    history.snapshot(10);
    let wrong: Vec<u32> = vec![9];
    let header = history.header(range(7, 7));
    let bytes = history.encode_from(4, &wrong, header);
    history.remove(0, range(7, 7));
    history.segments.push(history::Stored { level: 0, txids: range(7, 7), bytes });
    let replica = history.replica(Arc::new(MemoryStorage::new()), "r").await;
    let scratch = Scratch::new();
    fs::write(scratch.path(), history.file(6)).unwrap();
    // The snapshot is sound, and it is what everything is fetched from.
    history.remove(9, range(1, 10));
    let (bytes, report) = scratch.restore(&replica, &delta(Target::Latest)).await.unwrap();
    assert!(bytes == history.file(10));
    assert_eq!(report.evidence, Evidence::Database);
    // Without it there is no way at all, and the database stays as it was.
    let storage = Arc::new(MemoryStorage::new());
    let replica = history.replica(storage, "r").await;
    fs::write(scratch.path(), history.file(6)).unwrap();
    let error = scratch.restore(&replica, &delta(Target::Latest)).await.unwrap_err();
    assert!(fs::read(scratch.path()).unwrap() == history.file(6), "{error}");
    assert_eq!(scratch.names(), ["app.db"]);
}

/// Five hundred small changes after a large base; the copy misses the last ten.
#[tokio::test]
async fn little_is_fetched_for_a_copy_that_misses_little() {
    let mut history = History::new(4096, true, Encoding::Block);
    let mut first = noise(1, 4096);
    first[..16].copy_from_slice(b"SQLite format 3\0");
    first[16..20].copy_from_slice(&[16, 0, 2, 2]);
    history.commit((2..=1000).map(|n| (n, noise(n.into(), 4096))).chain([(1, first)]), 1000);
    for n in 0..500u32 {
        history.commit([(2 + n * 7 % 900, noise(u64::from(n) << 20, 4096))], 1000);
    }
    let memory = Arc::new(MemoryStorage::new());
    history.replica(memory.clone(), "r").await;
    let counting = Behind::new(Counting::default(), memory);
    let replica = history::shelf(counting.clone(), "r");
    let scratch = Scratch::new();
    fs::write(scratch.path(), history.file(491)).unwrap();
    let options = Options { delta: true, ..options(Target::Latest) };
    let (bytes, report) = scratch.restore(&replica, &options).await.unwrap();
    assert!(bytes == history.file(501));
    assert_eq!(report.built_upon, Some(txid(491)));
    let (read, whole) = (counting.between.bytes(), history.file(501).len() as u64);
    assert!(read * 20 < whole, "{read} of {whole} bytes");
}
