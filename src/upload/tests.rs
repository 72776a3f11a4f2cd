//! An uploader against replicas in every state that other writers, crashes and
//! missing rights can leave them in.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::replica::Layout;
use crate::spool::{Point, Spooled};
use crate::storage::{self, Body, Key, MemoryStorage, Object, PutOptions, Storage};
use crate::types::{Checksum, PageSize, Pgno};

fn seq(n: u64) -> Seq {
    Seq::new(n).unwrap()
}

fn generation() -> Generation {
    Generation::new(7).unwrap()
}

fn sum(n: u64) -> Checksum {
    Checksum::from_crc(n)
}

fn header(txid: u64, before: Option<Checksum>, after: Checksum) -> ltx::Header {
    ltx::Header {
        page_size: PageSize::new(512).unwrap(),
        commit: 1,
        txids: TxidRange::single(Txid::new(txid).unwrap()),
        timestamp: Timestamp::from_millis(0),
        wal: None,
        generation: Some(generation()),
        proof: Some(ltx::Proof { before, after }),
    }
}

fn encoded(header: ltx::Header, fill: u8) -> Vec<u8> {
    let mut encoder = ltx::Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
    encoder.page(Pgno::FIRST, &[fill; 512]).unwrap();
    encoder.finish().unwrap().0
}

/// A spool that began at checksum 1 and holds the batches 2 to `last`; batch n leads to checksum n.
fn spool(dir: &Path, last: u64) -> Arc<Spool> {
    let spool = Spool::open(dir, None, 0o700).unwrap().0;
    spool.restart(Point { seq: seq(1), checksum: sum(1), timestamp: None }).unwrap();
    for n in 2..=last {
        add(&spool, n);
    }
    Arc::new(spool)
}

fn add(spool: &Spool, n: u64) {
    let header = header(n, Some(sum(n - 1)), sum(n));
    let bytes = encoded(header, 1);
    let mut draft = spool.draft(seq(n), 0o600).unwrap();
    draft.append(&bytes).unwrap();
    spool.publish(draft, Spooled { seq: seq(n), size: bytes.len() as u64, header }).unwrap();
}

fn replica(storage: &Arc<MemoryStorage>) -> Arc<Replica> {
    let layout = Layout::Decimal;
    Arc::new(Replica::new("r".to_owned(), storage.clone(), Key::ROOT, layout))
}

async fn put(replica: &Replica, header: ltx::Header, fill: u8) {
    let body = Body::from(encoded(header, fill));
    replica.put_segment(Level::L0, header.txids, body, header.timestamp).await.unwrap();
}

async fn names(replica: &Replica) -> Vec<u64> {
    replica.list(Level::L0).await.unwrap().iter().map(|s| s.txids.max().get()).collect()
}

fn unlisted(replica: &Arc<Replica>, dir: &Path) -> Uploader {
    Uploader::new(replica.clone(), Encoding::Block, 0).unlisted(Claims::new(dir, "r"))
}

#[tokio::test]
async fn a_replica_that_ends_with_a_known_state_is_continued_without_a_base() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, spool) = (Arc::default(), spool(dir.path(), 4));
    let replica = replica(&storage);
    put(&replica, header(1, None, sum(2)), 9).await;
    let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::UpToDate);
    assert_eq!(names(&replica).await, [1, 2], "batches 3 and 4 went up as one");
    assert_eq!(uploader.confirmed().unwrap().seq, seq(4));
}

/// A copy of this machine's disk went on under the same name.
#[tokio::test]
async fn a_name_that_somebody_else_used_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, spool) = (Arc::default(), spool(dir.path(), 2));
    let replica = replica(&storage);
    put(&replica, header(1, None, sum(2)), 9).await;
    put(&replica, header(2, Some(sum(2)), sum(99)), 9).await;
    let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::TakenOver);
    let renamed = Generation::new(8).unwrap();
    assert_eq!(uploader.advance(&spool, renamed).await.unwrap(), Advanced::NeedsBase);
}

/// F62: the older writer stops at its first conflicting write, whatever the
/// other one is called, and leaves what is there as it is.
#[tokio::test]
async fn a_writer_that_was_overtaken_is_fenced() {
    for same_name in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (storage, spool) = (Arc::default(), spool(dir.path(), 3));
        let replica = replica(&storage);
        put(&replica, header(1, None, sum(2)), 9).await;
        let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
        assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
        let other = if same_name { generation() } else { Generation::new(5).unwrap() };
        put(&replica, ltx::Header { generation: Some(other), ..header(3, None, sum(77)) }, 9).await;
        add(&spool, 4);
        let error = uploader.advance(&spool, generation()).await.unwrap_err();
        assert!(matches!(error, Error::Fenced(_)), "{error}");
        assert!(uploader.is_fenced());
        // The same when it looks again for another reason.
        let mut again = Uploader::new(replica.clone(), Encoding::Block, 0);
        again.wrote = Txid::new(2);
        let error = again.advance(&spool, generation()).await.unwrap_err();
        assert!(matches!(error, Error::Fenced(_)), "{error}");
        assert_eq!(names(&replica).await, [1, 2, 3]);
    }
}

/// Where the replica ends is remembered here: also through a put whose outcome was not heard of.
#[tokio::test]
async fn a_replica_that_must_not_be_listed_is_continued_from_what_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, spool) = (Arc::new(MemoryStorage::new()), spool(dir.path(), 2));
    let blind = Arc::new(Blind(storage.clone()));
    let replica = Arc::new(Replica::new("r".into(), blind, Key::ROOT, Layout::Decimal));
    assert_eq!(
        unlisted(&replica, dir.path()).advance(&spool, generation()).await.unwrap(),
        Advanced::NeedsBase,
        "nothing was ever put"
    );
    put(&replica, header(1, None, sum(2)), 9).await;
    Claims::new(dir.path(), "r").claim(Txid::FIRST).unwrap();
    let mut uploader = unlisted(&replica, dir.path());
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::UpToDate);
    add(&spool, 3);
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::Shipped);
    assert_eq!(
        unlisted(&replica, dir.path()).advance(&spool, generation()).await.unwrap(),
        Advanced::UpToDate,
        "a restart"
    );
    // The next name was claimed and nothing came of it: it is not used again.
    Claims::new(dir.path(), "r").claim(Txid::new(3).unwrap()).unwrap();
    let mut uploader = unlisted(&replica, dir.path());
    assert_eq!(uploader.advance(&spool, generation()).await.unwrap(), Advanced::NeedsBase);
    let standing = uploader.standing.unwrap();
    assert_eq!((standing.position, standing.whole), (Txid::new(3), false), "a snapshot will span the hole");
}

/// A machine without a memory must not begin anew on top of what is there.
#[tokio::test]
async fn a_replica_that_must_not_be_listed_and_is_not_remembered_is_left_alone() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (storage, spool) = (Arc::default(), spool(ours.path(), 2));
    let replica = replica(&storage);
    unlisted(&replica, theirs.path()).advance(&spool, generation()).await.unwrap();
    let error = unlisted(&replica, ours.path()).advance(&spool, generation()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }) && !error.is_passing(), "{error}");
    assert_eq!(
        unlisted(&replica, theirs.path()).advance(&spool, generation()).await.unwrap(),
        Advanced::NeedsBase,
        "who marked it may begin, also after a restart"
    );
}

/// A storage seen with credentials that may create and read: no lists, and a 403 for what is not there.
struct Blind(Arc<MemoryStorage>);

#[async_trait]
impl Storage for Blind {
    fn kind(&self) -> &'static str {
        "blind"
    }

    async fn list(&self, _: &Key, _: Option<&Key>) -> storage::Result<Vec<Object>> {
        panic!("it was told not to list")
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
        self.0.get(key, range).await.map_err(|error| storage::Error { kind: ErrorKind::Refused, ..error })
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> storage::Result<()> {
        self.0.put(key, body, options).await
    }

    async fn delete(&self, _: &[Key]) -> storage::Result<()> {
        panic!("it was told not to delete")
    }
}
