//! One suite for every backend and every wrapper: what the trait promises,
//! what must not happen included.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brooklet::replica::{Layout, Spellings};
use brooklet::storage::s3::{Options, S3Storage};
use brooklet::storage::{
    Body, Conditional, Counted, Counts, ErrorKind, FileStorage, Key, Known, LIST_PAGE, MemoryStorage, Object,
    Operation, Put, PutOptions, Result, Retry, Storage,
};
use brooklet::types::Timestamp;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tempfile::TempDir;

use crate::fault::{Faulty, Odds};
use crate::s3::{Faults, Server, moto, options};

/// A storage, the scratch directory it may live in, and the server.
pub(crate) struct Place {
    pub(crate) storage: Arc<dyn Storage>,
    scratch: TempDir,
    server: Option<Server>,
    /// Listings show the time given at `put`.
    lists_times: bool,
}

impl Place {
    fn of(make: impl FnOnce(&TempDir) -> Arc<dyn Storage>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        Self { storage: make(&scratch), scratch, server: None, lists_times: true }
    }

    fn memory() -> Self {
        Self::of(|_| Arc::new(MemoryStorage::new()))
    }

    fn file() -> Self {
        Self::of(|scratch| Arc::new(FileStorage::new(scratch.path().join("replica"))))
    }

    fn s3(change: impl FnOnce(&mut Options)) -> Self {
        let server = Server::start();
        let mut options = options(&server);
        change(&mut options);
        let place = Self::of(|_| Arc::new(S3Storage::new(options)));
        Self { server: Some(server), lists_times: false, ..place }
    }

    /// Bodies of any length go up in parts.
    fn s3_in_parts() -> Self {
        let place = Self::s3(|options| {
            options.part_size = 64 * 1024;
            options.copy_size = 64 * 1024;
        });
        place.with_faults(|faults| faults.least_part = 0)
    }

    /// Nothing where there is no such server.
    fn moto() -> Option<Self> {
        let (endpoint, bucket) = moto::bucket()?;
        let place = Self::s3(|options| {
            options.endpoint = Some(endpoint);
            options.bucket = bucket;
        });
        Some(place)
    }

    /// Any server, to try by hand: its bucket is emptied before each promise, so they must run one at a time.
    fn by_hand() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some((endpoint, bucket)) = variable("TEST_S3_ENDPOINT").zip(variable("TEST_S3_BUCKET_TO_EMPTY")) else {
            println!("skipped: TEST_S3_ENDPOINT and TEST_S3_BUCKET_TO_EMPTY are not set");
            return None;
        };
        let place = Self::s3(|options| {
            options.region = None;
            options.endpoint = Some(endpoint);
            options.bucket = bucket;
            options.credentials = None;
        });
        let storage = Arc::clone(&place.storage);
        let empty = async move {
            loop {
                let keys: Vec<Key> = storage.list(&Key::ROOT, None).await.unwrap().into_iter().map(|o| o.key).collect();
                if keys.is_empty() {
                    break;
                }
                storage.delete(&keys).await.unwrap();
            }
        };
        // Not in the runtime of the test, which is busy with this.
        std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(empty)).join().unwrap();
        let known = Known::default();
        Some(Self { storage: Arc::new(Conditional::new(place.storage, "by hand", known)), ..place })
    }

    fn with_faults(self, change: impl FnOnce(&mut Faults)) -> Self {
        self.server.as_ref().unwrap().faults(change);
        self
    }

    fn retried(self) -> Self {
        Self { storage: Arc::new(Retry::new(self.storage)), ..self }
    }

    /// Retries that do not wait: a server's clock cannot be wound on.
    fn retried_at_once(self) -> Self {
        Self { storage: Arc::new(Retry::with_dice(self.storage, Box::new(|| 0))), ..self }
    }

    /// Behind retries, a storage with faults must look like one without.
    fn faulty(self) -> Self {
        let odds = Odds { fail: 100, stall: 20, truncate: 50, ..Odds::default() };
        Self { storage: Arc::new(Faulty::new(self.storage, odds, 7)), ..self }
    }

    fn file_with(&self, content: &[u8]) -> PathBuf {
        let path = self.scratch.path().join("source");
        std::fs::write(&path, content).unwrap();
        path
    }
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };
const REPLACE: PutOptions = PutOptions { how: Put::Replace, timestamp: None };

fn bytes(content: &[u8]) -> Body {
    Body::Bytes(Bytes::copy_from_slice(content))
}

fn chunks(parts: Vec<io::Result<&'static str>>) -> Body {
    Body::Stream(stream::iter(parts.into_iter().map(|part| part.map(Bytes::from))).boxed())
}

async fn put(storage: &dyn Storage, name: &str, content: &[u8]) {
    storage.put(&key(name), bytes(content), REPLACE).await.unwrap();
}

/// The names in a folder, and that the pages they come in are as promised.
async fn names(storage: &dyn Storage, folder: &Key) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut after = None;
    loop {
        let page = storage.list(folder, after.as_ref()).await.unwrap();
        assert!(page.len() <= LIST_PAGE);
        all.extend(page.iter().map(|object| object.key.to_string()));
        if page.len() < LIST_PAGE {
            break;
        }
        after = page.last().map(|object| object.key.clone());
    }
    assert!(all.is_sorted_by(|a, b| a < b), "not in key order, or twice: {all:?}");
    all
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind
}

async fn every_kind_of_body_is_stored_whole(place: Place) {
    let storage = &*place.storage;
    let long: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    storage.put(&key("a/bytes"), bytes(&long), NEW).await.unwrap();
    storage.put(&key("a/file"), Body::File(place.file_with(&long)), NEW).await.unwrap();
    for name in ["a/bytes", "a/file"] {
        assert!(storage.get(&key(name), 0..700_000).await.unwrap() == long, "{name}");
    }
    // A stream is sent once, so here its faults are its own.
    let streamed = chunks(vec![Ok("one "), Ok(""), Ok("two")]);
    if storage.put(&key("a/stream"), streamed, NEW).await.is_ok() {
        assert_eq!(storage.get(&key("a/stream"), 0..7).await.unwrap(), "one two");
    }
    let absent = Body::File(place.scratch.path().join("absent"));
    assert_eq!(kind(storage.put(&key("a/absent"), absent, NEW).await), ErrorKind::Refused);
    assert_eq!(kind(storage.get(&key("a/absent"), 0..0).await), ErrorKind::Missing);
}

async fn ranges_are_exact_or_refused(place: Place) {
    let storage = &*place.storage;
    put(storage, "a/ten", b"0123456789").await;
    put(storage, "a/empty", b"").await;
    let ten = key("a/ten");
    for (range, expected) in [(0..10, "0123456789"), (0..0, ""), (10..10, ""), (9..10, "9"), (3..5, "34"), (0..1, "0")]
    {
        assert_eq!(storage.get(&ten, range.clone()).await.unwrap(), expected, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not become a panic")]
    for range in [0..11, 9..11, 10..11, 11..11, 11..12, 5..4, 0..u64::MAX, u64::MAX..u64::MAX, u64::MAX..0] {
        assert_eq!(kind(storage.get(&ten, range.clone()).await), ErrorKind::Refused, "{range:?}");
    }
    assert_eq!(storage.get(&key("a/empty"), 0..0).await.unwrap(), "");
    assert_eq!(kind(storage.get(&key("a/empty"), 0..1).await), ErrorKind::Refused);
}

async fn what_is_not_there_is_missing(place: Place) {
    let storage = &*place.storage;
    put(storage, "a/b/c", b"x").await;
    for name in ["a/b/d", "a/x/y/z", "q"] {
        assert_eq!(kind(storage.get(&key(name), 0..1).await), ErrorKind::Missing, "{name}");
        assert_eq!(kind(storage.get(&key(name), 0..0).await), ErrorKind::Missing, "{name}");
    }
    for folder in ["nowhere", "a/nowhere", "a/b/d"] {
        assert_eq!(storage.list(&key(folder), None).await.unwrap(), [], "{folder}");
    }
}

async fn a_folder_lists_what_is_in_it_in_key_order(place: Place) {
    let storage = &*place.storage;
    let inside =
        ["a/", "a/-", "a/0", "a/a", "a/a-b", "a/a.b", "a/a/x", "a/a/y/z", "a/a0", "a/b", "a/é", "a/A", "a/1 2%3+"];
    let outside = ["a-b", "a.b", "a0", "ab/x", "b", "A/x"];
    // A directory cannot hold a file and a folder of one name.
    let inside: BTreeSet<&str> = inside.into_iter().filter(|name| !["a/", "a/a"].contains(name)).collect();
    for name in inside.iter().rev().chain(&outside) {
        put(storage, name, name.as_bytes()).await;
    }
    assert_eq!(names(storage, &key("a")).await, inside.iter().copied().collect::<Vec<_>>());
    let page = storage.list(&key("a"), None).await.unwrap();
    assert!(page.iter().all(|object| object.size == object.key.as_str().len() as u64));
    assert_eq!(names(storage, &key("a/a")).await, ["a/a/x", "a/a/y/z"]);
    let all: BTreeSet<&str> = inside.iter().copied().chain(outside).collect();
    assert_eq!(names(storage, &Key::ROOT).await, all.iter().copied().collect::<Vec<_>>());
    // Every name, taken or not, divides the listing where it should.
    for after in all.iter().copied().chain(["", "a", "a/", "a/a", "a/a/", "a/a/y", "a/a/zz", "a/zz", "zz"]) {
        let rest: Vec<String> =
            storage.list(&key("a"), Some(&key(after))).await.unwrap().into_iter().map(text).collect();
        assert_eq!(rest, inside.iter().copied().filter(|name| *name > after).collect::<Vec<_>>(), "after {after:?}");
    }
}

fn text(object: Object) -> String {
    object.key.to_string()
}

async fn a_long_listing_comes_in_pages_without_holes(place: Place) {
    let storage = &*place.storage;
    let expected: Vec<String> = (0..2 * LIST_PAGE + 3).map(|n| format!("l/{n:08}")).collect();
    // Unordered on purpose.
    stream::iter(expected.iter().rev()).for_each_concurrent(32, |name| put(storage, name, b"")).await;
    put(storage, "m", b"").await;
    assert_eq!(names(storage, &key("l")).await, expected);
    let last_full = key(&expected[expected.len() - LIST_PAGE - 1]);
    let page = storage.list(&key("l"), Some(&last_full)).await.unwrap();
    assert_eq!(page.len(), LIST_PAGE);
    assert_eq!(storage.list(&key("l"), Some(&page[LIST_PAGE - 1].key)).await.unwrap(), []);
}

async fn a_taken_name_is_refused_and_left_alone(place: Place) {
    let storage = &*place.storage;
    let name = key("a/b");
    put(storage, "a/b", b"first").await;
    for body in [bytes(b"other"), Body::File(place.file_with(b"other"))] {
        assert_eq!(kind(storage.put(&name, body, NEW).await), ErrorKind::Exists);
    }
    let streamed = storage.put(&name, chunks(vec![Ok("other")]), NEW).await;
    assert!(matches!(kind(streamed), ErrorKind::Exists | ErrorKind::Later));
    assert_eq!(storage.get(&name, 0..5).await.unwrap(), "first");
    assert_eq!(names(storage, &key("a")).await, ["a/b"]);
}

async fn of_sixteen_creators_exactly_one_wins(place: Place) {
    for round in 0..8 {
        let name = key(&format!("race/{round}"));
        let runs: Vec<_> = (0..16u8)
            .map(|n| {
                let (storage, name) = (Arc::clone(&place.storage), name.clone());
                tokio::spawn(async move { (n, storage.put(&name, bytes(&[n; 10_000]), NEW).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for run in runs {
            match run.await.unwrap() {
                (n, Ok(())) => winners.push(n),
                (_, Err(e)) => assert_eq!(e.kind, ErrorKind::Exists, "{e}"),
            }
        }
        let [winner] = winners[..] else { panic!("winners: {winners:?}") };
        assert!(place.storage.get(&name, 0..10_000).await.unwrap() == vec![winner; 10_000]);
    }
}

async fn replacing_shows_the_old_or_the_new_and_nothing_between(place: Place) {
    let name = key("a/b");
    let size = 300_000u64;
    let whole = |n: u8| vec![n; 300_000];
    put(&*place.storage, "a/b", &whole(0)).await;
    let (storage, target) = (Arc::clone(&place.storage), name.clone());
    let writer = tokio::spawn(async move {
        for n in 1..=20 {
            storage.put(&target, Body::from(vec![n; 300_000]), REPLACE).await.unwrap();
        }
    });
    while !writer.is_finished() {
        let seen = place.storage.get(&name, 0..size).await.unwrap();
        assert!(seen == whole(seen[0]));
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(place.storage.get(&name, 0..size).await.unwrap() == whole(20));
    put(&*place.storage, "a/b", b"short").await;
    assert_eq!(place.storage.list(&key("a"), None).await.unwrap()[0].size, 5);
}

async fn deleting_what_is_gone_is_no_error(place: Place) {
    let storage = &*place.storage;
    for name in ["a/1", "a/2", "a/3", "b"] {
        put(storage, name, b"x").await;
    }
    let gone = [key("a/1"), key("a/none"), key("a/3"), key("a/1"), key("none/none"), key("b/below")];
    storage.delete(&gone).await.unwrap();
    storage.delete(&gone).await.unwrap();
    storage.delete(&[]).await.unwrap();
    assert_eq!(names(storage, &Key::ROOT).await, ["a/2", "b"]);
    // A deleted name is free again.
    storage.put(&key("a/1"), bytes(b"y"), NEW).await.unwrap();
}

async fn a_body_that_breaks_off_leaves_nothing(place: Place) {
    let storage = &*place.storage;
    for options in [NEW, REPLACE] {
        let broken = chunks(vec![Ok("half"), Err(io::Error::other("the disk is gone"))]);
        assert_eq!(kind(storage.put(&key("a/b"), broken, options).await), ErrorKind::Later);
        assert_eq!(names(storage, &Key::ROOT).await, [""; 0]);
    }
    put(storage, "a/b", b"old").await;
    let broken = chunks(vec![Ok("half"), Err(io::Error::other("the disk is gone"))]);
    storage.put(&key("a/b"), broken, REPLACE).await.unwrap_err();
    assert_eq!(storage.get(&key("a/b"), 0..3).await.unwrap(), "old");
}

async fn an_abandoned_put_leaves_nothing(place: Place) {
    let (seen, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let endless = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(stream::poll_fn(move |_| {
        let _ = seen.send(());
        std::task::Poll::Pending
    }));
    let storage = Arc::clone(&place.storage);
    let put = tokio::spawn(async move { storage.put(&key("a/b"), Body::Stream(endless.boxed()), NEW).await });
    tokio::select! {
        _ = begun.recv() => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {} // a fault got it first
    }
    put.abort();
    let _ = put.await;
    assert_eq!(names(&*place.storage, &Key::ROOT).await, [""; 0]);
    place.storage.put(&key("a/b"), bytes(b"whole"), NEW).await.unwrap();
}

async fn timestamps_are_kept_to_the_millisecond(place: Place) {
    let storage = &*place.storage;
    for (name, millis) in [("a", 1_700_000_000_123), ("b", 1), ("c", 0), ("d", 4_102_444_800_999)] {
        for how in [Put::New, Put::Replace] {
            let timestamp = Timestamp::from_millis(millis);
            let name = key(&format!("t/{name}{how:?}"));
            storage.put(&name, bytes(b"x"), PutOptions { how, timestamp: Some(timestamp) }).await.unwrap();
            let listed = storage.list(&key("t"), None).await.unwrap();
            let found = listed.iter().find(|object| object.key == name).unwrap();
            assert!(found.modified == timestamp || !place.lists_times);
        }
    }
    let (slack, before) = (Duration::from_secs(2), SystemTime::now());
    put(storage, "u/now", b"x").await;
    let modified = storage.list(&key("u"), None).await.unwrap()[0].modified;
    assert!((Timestamp::from(before - slack)..=(SystemTime::now() + slack).into()).contains(&modified));
}

async fn the_folder_of_everything_is_not_an_object(place: Place) {
    assert_eq!(kind(place.storage.put(&Key::ROOT, bytes(b"x"), NEW).await), ErrorKind::Refused);
    assert_eq!(place.storage.list(&Key::ROOT, None).await.unwrap(), []);
}

async fn a_copy_is_the_same_object_under_a_free_name(place: Place) {
    let storage = &*place.storage;
    let stamped = PutOptions { how: Put::New, timestamp: Some(Timestamp::from_millis(1_700_000_000_123)) };
    let content: Vec<u8> = (0..=250).cycle().take(150_000).collect();
    storage.put(&key("a/one"), bytes(&content), stamped).await.unwrap();
    assert!(storage.copy(&key("a/one"), &key("b/two")).await.unwrap());
    storage.delete(&[key("a/one")]).await.unwrap();
    assert!(storage.get(&key("b/two"), 0..150_000).await.unwrap() == content);
    if place.lists_times {
        assert_eq!(storage.list(&key("b"), None).await.unwrap()[0].modified, stamped.timestamp.unwrap());
    }
    put(storage, "a/one", b"other").await;
    assert_eq!(kind(storage.copy(&key("a/one"), &key("b/two")).await), ErrorKind::Exists);
    assert!(storage.get(&key("b/two"), 0..150_000).await.unwrap() == content);
    assert_eq!(kind(storage.copy(&key("a/none"), &key("b/three")).await), ErrorKind::Missing);
}

/// Every wrapper, one inside the other.
#[tokio::test]
async fn a_copy_passes_through_every_wrapper() {
    let counts = Arc::new(Counts::default());
    let spelled = Spellings::new(Arc::new(MemoryStorage::new()), Layout::Decimal, vec![key("a"), key("z")]);
    let wrapped: Arc<dyn Storage> = Arc::new(Counted::new(Arc::new(spelled), counts.clone()));
    put(&*wrapped, "a/one", b"one").await;
    assert!(wrapped.copy(&key("a/one"), &key("a/two")).await.unwrap());
    assert_eq!(counts.of(Operation::Put).requests, 2);
}

/// Runs every promise against one place. Without a server time is tokio's and
/// stands still unless everybody waits, so the waits of retries take none.
macro_rules! suite {
    ($clock:meta, $($place:ident: $make:expr;)*) => { $( suite!(@ $clock, $place, $make,
        every_kind_of_body_is_stored_whole,
        ranges_are_exact_or_refused,
        what_is_not_there_is_missing,
        a_folder_lists_what_is_in_it_in_key_order,
        a_long_listing_comes_in_pages_without_holes,
        a_taken_name_is_refused_and_left_alone,
        of_sixteen_creators_exactly_one_wins,
        replacing_shows_the_old_or_the_new_and_nothing_between,
        deleting_what_is_gone_is_no_error,
        a_body_that_breaks_off_leaves_nothing,
        an_abandoned_put_leaves_nothing,
        timestamps_are_kept_to_the_millisecond,
        the_folder_of_everything_is_not_an_object,
        a_copy_is_the_same_object_under_a_free_name,
    ); )* };
    (@ $clock:meta, $place:ident, $make:expr, $($promise:ident,)*) => {
        mod $place {
            use super::Place;
            $(
                #[$clock]
                async fn $promise() {
                    if let Some(place) = Option::<Place>::from($make) {
                        super::$promise(place).await;
                    }
                }
            )*
        }
    };
}

suite! {
    tokio::test(start_paused = true),
    memory: Place::memory();
    file: Place::file();
    retried_memory: Place::memory().retried();
    retried_file: Place::file().retried();
    faulty_memory: Place::memory().faulty().retried();
    faulty_file: Place::file().faulty().retried();
}

suite! {
    tokio::test(flavor = "multi_thread", worker_threads = 2),
    plain_s3: Place::s3(|_| {});
    s3_in_parts: Place::s3_in_parts();
    s3_with_short_pages: Place::s3(|_| {}).with_faults(|faults| faults.list_page = Some(7));
    retried_s3: Place::s3(|_| {}).retried_at_once();
    throttled_s3: Place::s3(|_| {}).with_faults(|faults| faults.slow_down_every = Some(11)).retried_at_once();
    s3_cut_short: Place::s3(|_| {}).with_faults(|faults| faults.cut_after = Some(100_000)).retried_at_once();
    s3_of_moto: Place::moto();
    s3_by_hand: Place::by_hand();
    throttled_s3_in_parts: Place::s3_in_parts().with_faults(|faults| faults.slow_down_every = Some(13)).retried_at_once();
}
