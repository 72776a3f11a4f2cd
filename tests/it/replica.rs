//! A replica: what is listed, what is put, who is fenced off.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brooklet::ltx::{Encoder, Encoding, Header, Level, file_name};
use brooklet::replica::{Error, Layout, PutError, Replica, Segment};
use brooklet::storage::{
    Body, ErrorKind, FileStorage, Key, MemoryStorage, Object, Put, PutOptions, Result, Retry, Storage,
};
use brooklet::types::{Generation, PageSize, Pgno, Timestamp, Txid, TxidRange};
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::fault::{Faulty, Odds, splitmix};
use crate::storage::key;

fn txids(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn level(n: u8) -> Level {
    Level::new(n).unwrap()
}

/// A segment with one page full of `content`.
fn segment(txids: TxidRange, generation: u64, content: u8) -> Bytes {
    let header = Header {
        page_size: PageSize::new(512).unwrap(),
        commit: 1,
        txids,
        timestamp: at(1_700_000_000_000 + txids.max().get().cast_signed()),
        wal: None,
        generation: Generation::new(generation),
        proof: None,
    };
    let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
    encoder.page(Pgno::FIRST, &[content; 512]).unwrap();
    encoder.finish().unwrap().0.into()
}

fn replica(storage: Arc<dyn Storage>) -> Replica {
    Replica::new("off-site".into(), storage, key("db"), Layout::Hex)
}

fn in_memory() -> (Arc<MemoryStorage>, Replica) {
    let storage = Arc::new(MemoryStorage::new());
    (storage.clone(), replica(storage))
}

async fn put(replica: &Replica, level: Level, range: TxidRange, bytes: &Bytes) -> std::result::Result<(), PutError> {
    replica.put_segment(level, range, Body::Bytes(bytes.clone()), at(1)).await
}

async fn store(storage: &dyn Storage, name: &str, bytes: impl Into<Bytes>) {
    let options = PutOptions { how: Put::Replace, timestamp: Some(at(5)) };
    storage.put(&key(name), Body::Bytes(bytes.into()), options).await.unwrap();
}

#[tokio::test]
async fn segments_are_where_each_layout_wants_them() {
    for (layout, root, expected) in [
        (Layout::Decimal, "", "ltx/9/0000000000000001-00000000000000ff.ltx"),
        (Layout::Decimal, "backups/app", "backups/app/ltx/9/0000000000000001-00000000000000ff.ltx"),
        (Layout::Hex, "backups/app", "backups/app/0009/0000000000000001-00000000000000ff.ltx"),
        (Layout::Hex, "", "/0009/0000000000000001-00000000000000ff.ltx"),
        (Layout::Hex, ".", "./0009/0000000000000001-00000000000000ff.ltx"),
        (Layout::Hex, "a/b/", "a/b//0009/0000000000000001-00000000000000ff.ltx"),
    ] {
        let storage = Arc::new(MemoryStorage::new());
        let replica = Replica::new("r".into(), storage.clone(), key(root), layout);
        put(&replica, Level::SNAPSHOT, txids(1, 255), &segment(txids(1, 255), 1, 0)).await.unwrap();
        assert_eq!(storage.list(&Key::ROOT, None).await.unwrap()[0].key.as_str(), expected);
        assert_eq!(replica.list_all().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_listing_shows_segments_of_all_levels_and_nothing_else() {
    let (storage, replica) = in_memory();
    for (level, name) in [
        (0, "0000000000000009-0000000000000009.ltx"),
        (0, "000000000000000a-000000000000000a.ltx"),
        (1, "0000000000000001-0000000000000008.ltx"),
        (8, "0000000000000002-0000000000000003.ltx"),
        (9, "0000000000000001-0000000000000002.ltx"),
        (9, "0000000000000001-000000000000000a.ltx"),
    ] {
        store(&*storage, &format!("db/000{level}/{name}"), "12345").await;
    }
    for name in [
        "db/0000/000000000000000b-000000000000000b.ltx.tmp",
        "db/0000/000000000000000B-000000000000000B.ltx",
        "db/0000/deeper/000000000000000b-000000000000000b.ltx",
        "db/0000/lock.json",
        "db/000a/000000000000000b-000000000000000b.ltx",
        "db/00000/000000000000000b-000000000000000b.ltx",
        "db/ltx/0/000000000000000b-000000000000000b.ltx",
        "db/generations/x/wal/00000000.wal.lz4",
        "other/0000/000000000000000b-000000000000000b.ltx",
    ] {
        store(&*storage, name, "12345").await;
    }
    let listing = replica.list_all().await.unwrap();
    let shown: Vec<String> =
        listing.segments().map(|segment| format!("{} {}", segment.level, file_name(segment.txids))).collect();
    assert_eq!(
        shown,
        [
            "L0 0000000000000009-0000000000000009.ltx",
            "L0 000000000000000a-000000000000000a.ltx",
            "L1 0000000000000001-0000000000000008.ltx",
            "L8 0000000000000002-0000000000000003.ltx",
            "L9 0000000000000001-0000000000000002.ltx",
            "L9 0000000000000001-000000000000000a.ltx",
        ]
    );
    assert!(listing.segments().all(|segment| (segment.size, segment.created) == (5, at(5))));
    assert_eq!(listing.position(), Txid::new(10));
    assert_eq!(replica.list(level(9)).await.unwrap(), listing.level(level(9)));
    assert_eq!(replica.list(level(5)).await.unwrap(), []);
}

#[tokio::test]
async fn a_level_of_many_pages_is_listed_whole() {
    let (storage, replica) = in_memory();
    for count in [999, 1000, 1001, 2500] {
        for n in storage.list(&key("db/0000"), None).await.unwrap().len() as u64..count {
            store(&*storage, replica.key(Level::L0, txids(n + 1, n + 1)).as_str(), "").await;
        }
        let listed = replica.list(Level::L0).await.unwrap();
        assert_eq!(
            listed.iter().map(|segment| segment.txids).collect::<Vec<_>>(),
            (1..=count).map(|n| txids(n, n)).collect::<Vec<_>>()
        );
    }
}

/// A server that ignores where a page should begin.
struct Repeats;

#[async_trait]
impl Storage for Repeats {
    fn kind(&self) -> &'static str {
        "repeats"
    }

    async fn list(&self, prefix: &Key, _: Option<&Key>) -> Result<Vec<Object>> {
        let object = |n| Object { key: prefix.child(&file_name(txids(n, n))).unwrap(), size: 1, modified: at(0) };
        Ok((1..=1000).map(object).collect())
    }

    async fn get(&self, _: &Key, _: Range<u64>) -> Result<Bytes> {
        Ok(Bytes::from_static(b"short"))
    }

    async fn put(&self, _: &Key, _: Body, _: PutOptions) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, _: &[Key]) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_listing_that_goes_in_circles_ends_in_an_error() {
    let error = replica(Arc::new(Repeats)).list(Level::L0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("repeats itself"), "{error}");
}

#[tokio::test]
async fn a_body_cut_short_is_not_taken_for_the_whole() {
    let segment = Segment { level: Level::L0, txids: txids(1, 1), size: 500, created: at(0) };
    let error = replica(Arc::new(Repeats)).read(&segment, 0..100).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("5 of 100")), (ErrorKind::Later, true), "{error}");
}

#[tokio::test]
async fn a_segment_is_read_back_as_it_was_put() {
    let (_, replica) = in_memory();
    let bytes = segment(txids(4, 4), 7, 1);
    put(&replica, Level::L0, txids(4, 4), &bytes).await.unwrap();
    let [listed] = replica.list(Level::L0).await.unwrap()[..] else { panic!("one segment") };
    assert_eq!(listed, Segment { level: Level::L0, txids: txids(4, 4), size: bytes.len() as u64, created: at(1) });
    assert_eq!(replica.read(&listed, 0..listed.size).await.unwrap(), bytes);
    let header = replica.read_header(&listed).await.unwrap();
    assert_eq!((header.txids, header.generation), (txids(4, 4), Generation::new(7)));
    assert_eq!(replica.read_trailer(&listed).await.unwrap().encode()[..], bytes[bytes.len() - 16..]);
    replica.remove(&[listed, listed]).await.unwrap();
    assert!(replica.list_all().await.unwrap().is_empty());
    assert_eq!(replica.read(&listed, 0..1).await.unwrap_err().kind(), ErrorKind::Missing);
}

#[tokio::test]
async fn what_is_not_the_segment_of_its_name_is_not_used() {
    let (storage, replica) = in_memory();
    for (n, content) in [(1, segment(txids(9, 9), 7, 1)), (2, Bytes::from(vec![0; 200])), (3, Bytes::from_static(b"x"))]
    {
        store(&*storage, replica.key(Level::L0, txids(n, n)).as_str(), content).await;
    }
    let [renamed, zeros, short] = replica.list(Level::L0).await.unwrap()[..] else { panic!("three segments") };
    assert!(matches!(replica.read_header(&renamed).await, Err(Error::Misnamed { found, .. }) if found == txids(9, 9)));
    assert!(matches!(replica.read_header(&zeros).await, Err(Error::Segment { .. })));
    assert!(matches!(replica.read_trailer(&zeros).await, Err(Error::Segment { .. })));
    assert_eq!(replica.read_header(&short).await.unwrap_err().kind(), ErrorKind::Refused);
    assert!(matches!(replica.read_trailer(&short).await, Err(Error::Segment { .. })));
}

#[tokio::test]
async fn putting_the_same_segment_again_succeeds_and_changes_nothing() {
    let (storage, replica) = in_memory();
    let (five, bytes) = (txids(5, 5), segment(txids(5, 5), 7, 1));
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("spooled");
    std::fs::write(&path, &bytes).unwrap();
    put(&replica, Level::L0, five, &bytes).await.unwrap();
    let before = storage.list(&Key::ROOT, None).await.unwrap();
    let parts: Vec<Bytes> = bytes.chunks(7).map(Bytes::copy_from_slice).collect();
    for body in
        [Body::Bytes(bytes.clone()), Body::File(path), Body::Stream(stream::iter(parts.into_iter().map(Ok)).boxed())]
    {
        replica.put_segment(Level::L0, five, body, at(2)).await.unwrap();
    }
    assert_eq!(storage.list(&Key::ROOT, None).await.unwrap(), before);
}

#[tokio::test]
async fn another_writers_segment_fences_and_stays() {
    let five = txids(5, 5);
    for (theirs, content, named) in [
        (8, 1, "generation 0000000000000008"),
        (8, 2, "generation 0000000000000008"),
        (7, 2, "another run of our own generation 0000000000000007"),
        (0, 1, "a program that is not brooklet"),
    ] {
        let (_, replica) = in_memory();
        let first = segment(five, theirs, content);
        put(&replica, Level::L0, five, &first).await.unwrap();
        let ours = segment(five, 7, 1);
        let whole = stream::iter([Ok(ours.clone())]).boxed();
        for body in [Body::Bytes(ours.clone()), Body::Stream(whole)] {
            let error = replica.put_segment(Level::L0, five, body, at(2)).await.unwrap_err();
            let message = error.to_string();
            let PutError::Fenced { txids, theirs: found, written, .. } = error else { panic!("{message}") };
            assert_eq!((txids, found, written), (five, Generation::new(theirs), at(1_700_000_000_005)));
            assert!(message.starts_with("replica off-site is fenced: db/0000/0000000000000005-"), "{message}");
            assert!(message.contains(named), "{message}");
        }
        let [listed] = replica.list(Level::L0).await.unwrap()[..] else { panic!("one segment") };
        assert_eq!(replica.read(&listed, 0..listed.size).await.unwrap(), first);
    }
}

/// A storage that looks for the name first, and then does not read the body.
struct LooksFirst(MemoryStorage);

#[async_trait]
impl Storage for LooksFirst {
    fn kind(&self) -> &'static str {
        "looks first"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.0.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        match self.0.get(key, 0..0).await {
            Ok(_) => Err(brooklet::storage::Error::exists(key)),
            Err(_) => self.0.put(key, body, options).await,
        }
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.0.delete(keys).await
    }
}

#[tokio::test]
async fn nobody_is_accused_when_there_was_nothing_to_compare() {
    let replica = replica(Arc::new(LooksFirst(MemoryStorage::new())));
    let (five, bytes) = (txids(5, 5), segment(txids(5, 5), 7, 1));
    let streamed = || Body::Stream(stream::iter([Ok(bytes.clone())]).boxed());
    replica.put_segment(Level::L0, five, streamed(), at(1)).await.unwrap();
    let error = replica.put_segment(Level::L0, five, streamed(), at(1)).await.unwrap_err();
    assert!(matches!(&error, PutError::Storage(e) if e.kind == ErrorKind::Exists), "{error:?}");
    put(&replica, Level::L0, five, &bytes).await.unwrap();
}

#[tokio::test]
async fn segments_of_other_lengths_are_told_apart() {
    let five = txids(5, 5);
    let ours = segment(five, 7, 1);
    // The same header, another length: as left behind by storages that show half an upload.
    for theirs in [ours.slice(..ours.len() - 1), ours.slice(..100), [&ours[..], b"more"].concat().into()] {
        let (storage, replica) = in_memory();
        store(&*storage, replica.key(Level::L0, five).as_str(), theirs).await;
        let outcome = put(&replica, Level::L0, five, &ours).await;
        assert!(matches!(outcome, Err(PutError::Fenced { .. })), "{outcome:?}");
    }
    for junk in [
        "",
        "short",
        "not a segment, but long enough to be read as the header of one, if anybody were to try doing that here",
    ] {
        let (storage, replica) = in_memory();
        store(&*storage, replica.key(Level::L0, five).as_str(), junk).await;
        let error = put(&replica, Level::L0, five, &ours).await.unwrap_err();
        assert!(matches!(&error, PutError::Storage(e) if e.kind == ErrorKind::Refused), "{error:?}");
    }
}

#[tokio::test]
async fn only_a_segment_gets_a_segments_name() {
    let (_, replica) = in_memory();
    let wrong = segment(txids(6, 6), 7, 1);
    for bytes in [wrong, Bytes::from_static(b"junk")] {
        let error = put(&replica, Level::L0, txids(5, 5), &bytes).await.unwrap_err();
        assert!(matches!(&error, PutError::Storage(e) if e.kind == ErrorKind::Refused), "{error:?}");
    }
    assert!(replica.list_all().await.unwrap().is_empty());
}

#[tokio::test]
async fn generations_are_found_across_levels() {
    let (_, replica) = in_memory();
    for (level, min, max, generation) in
        [(9u8, 1, 3, 0), (1, 4, 6, 11), (0, 7, 7, 11), (0, 8, 8, 22), (0, 9, 9, 22), (0, 10, 10, 22)]
    {
        put(&replica, Level::new(level).unwrap(), txids(min, max), &segment(txids(min, max), generation, 0))
            .await
            .unwrap();
    }
    let listing = replica.list_all().await.unwrap();
    let shown: Vec<String> = replica
        .generations(&listing)
        .await
        .unwrap()
        .iter()
        .map(|run| {
            let name = run.generation.map_or("-".into(), |generation| generation.to_string());
            let (min, max) = (run.txids.min().get(), run.txids.max().get());
            format!("{name} {min}-{max} {}-{}", run.start.as_millis() % 1000, run.end.as_millis() % 1000)
        })
        .collect();
    assert_eq!(shown, ["- 3-3 3-3", "000000000000000b 4-7 6-7", "0000000000000016 8-10 8-10"]);
    assert_eq!(replica.generations(&brooklet::replica::Listing::default()).await.unwrap(), []);
}

/// Notes the first content of every name, and panics if a name gets another.
struct Auditor {
    inner: MemoryStorage,
    first: Mutex<BTreeMap<Key, Bytes>>,
}

#[async_trait]
impl Storage for Auditor {
    fn kind(&self) -> &'static str {
        "audited"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let Some(Body::Bytes(bytes)) = body.again() else { panic!("this test puts bytes") };
        self.inner.put(key, body, options).await?;
        let first = self.first.lock().unwrap().entry(key.clone()).or_insert(bytes.clone()).clone();
        assert!(first == bytes, "{key} got other bytes");
        Ok(())
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete(keys).await
    }
}

/// Puts one segment after the other until done, given up or fenced; tells how
/// many are certainly there.
async fn write(replica: &Replica, generation: u64, count: u64) -> (u64, Option<PutError>) {
    for n in 1..=count {
        let bytes = segment(txids(n, n), generation, 1);
        loop {
            match put(replica, Level::L0, txids(n, n), &bytes).await {
                Ok(()) => break,
                // What an upload loop does: the same bytes again.
                Err(PutError::Storage(e)) if e.kind == ErrorKind::Later => {}
                Err(e) => return (n - 1, Some(e)),
            }
            tokio::task::yield_now().await;
        }
    }
    (count, None)
}

/// F71: whatever fails, repeats or races, a name keeps the bytes it was given.
#[tokio::test(start_paused = true)]
async fn a_name_once_taken_never_gets_other_bytes() {
    for seed in 0..60 {
        let auditor = Arc::new(Auditor { inner: MemoryStorage::new(), first: Mutex::default() });
        let shelf = |seed: u64| {
            let faulty = Arc::new(Faulty::new(auditor.clone(), Odds::all(70), seed));
            let mut random = seed;
            let dice = Mutex::new(move || splitmix(&mut random));
            replica(Arc::new(Retry::with_dice(faulty, Box::new(move || (dice.lock().unwrap())()))))
        };
        let (one, two) = (shelf(seed), shelf(seed + 1000));
        let (first, second) = tokio::join!(write(&one, 1, 12), write(&two, 2, 12));
        let outcomes = [first, second];
        let fenced: Vec<u64> = outcomes
            .iter()
            .filter_map(|(done, error)| error.as_ref().map(|error| (done, error)))
            .map(|(done, error)| {
                assert!(matches!(error, PutError::Fenced { .. }), "seed {seed}: {error}");
                *done
            })
            .collect();
        // Whoever loses, loses at the first name the other one has.
        assert_eq!(fenced, [0], "seed {seed}: {outcomes:?}");
        let winner = if outcomes[0].1.is_none() { 1 } else { 2 };
        let listing = replica(auditor.clone()).list_all().await.unwrap();
        assert_eq!(listing.gap_free_end(), Txid::new(12), "seed {seed}");
        for listed in listing.segments() {
            let header = replica(auditor.clone()).read_header(listed).await.unwrap();
            assert_eq!(header.generation, Generation::new(winner), "seed {seed}");
        }
    }
}

/// A lost answer is not another writer.
#[tokio::test(start_paused = true)]
async fn a_single_writer_is_never_fenced_by_its_own_retries() {
    for seed in 0..60 {
        let memory = Arc::new(MemoryStorage::new());
        let faulty = Arc::new(Faulty::new(memory, Odds::all(120), seed));
        let (done, error) = write(&replica(Arc::new(Retry::with_dice(faulty, Box::new(|| 0)))), 1, 12).await;
        assert!(error.is_none() && done == 12, "seed {seed}: {error:?}");
    }
}

/// F70: an acknowledged object is lost; an audit sees it, and its name stays
/// unused.
#[tokio::test]
async fn a_lost_object_shows_in_the_next_listing_and_is_not_numbered_again() {
    let scratch = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(scratch.path()));
    let replica = Replica::new("r".into(), storage, Key::ROOT, Layout::Decimal);
    assert!(write(&replica, 1, 6).await.1.is_none());
    std::fs::remove_file(scratch.path().join("ltx/0").join(file_name(txids(4, 4)))).unwrap();
    let listing = replica.list_all().await.unwrap();
    assert_eq!(listing.gap_free_end(), Txid::new(3));
    assert_eq!(listing.gap(), Some(txids(4, 4)));
    assert_eq!(listing.next_txid(), Txid::new(7).unwrap());
}

/// Stale listings can hide what is new; they must not break anything else.
#[tokio::test]
async fn a_stale_listing_is_still_a_listing() {
    let memory = Arc::new(MemoryStorage::new());
    let stale = replica(Arc::new(Faulty::new(memory.clone(), Odds { stale: 1000, ..Odds::default() }, 1)));
    let fresh = replica(memory);
    let mut position = None;
    for n in 1..=5 {
        put(&fresh, Level::L0, txids(n, n), &segment(txids(n, n), 1, 0)).await.unwrap();
        let seen = stale.list_all().await.unwrap().position();
        assert!(seen >= position && seen <= Txid::new(n));
        position = seen;
        // Taking the next name from it collides, and that is noticed.
        let next = Txid::after(seen);
        if next <= Txid::new(n).unwrap() {
            let outcome =
                put(&stale, Level::L0, TxidRange::single(next), &segment(TxidRange::single(next), 2, 0)).await;
            assert!(matches!(outcome, Err(PutError::Fenced { .. })), "{outcome:?}");
        }
    }
}
