//! What the S3 backend sends, and what it makes of what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::storage::s3::{Encryption, Options, S3Storage};
use brooklet::storage::{Body, Error, ErrorKind, Key, Put, PutOptions, Retry, Storage};
use brooklet::types::{Secret, Timestamp};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};

use super::{Server, options, server};

const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };
const REPLACE: PutOptions = PutOptions { how: Put::Replace, timestamp: None };

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bytes(content: &[u8]) -> Body {
    Body::from(content.to_vec())
}

fn storage(server: &Server, change: impl FnOnce(&mut Options)) -> S3Storage {
    let mut options = options(server);
    change(&mut options);
    S3Storage::new(options)
}

/// A server on which parts may be short, and a storage whose parts are.
fn in_parts() -> (Server, S3Storage) {
    let server = Server::start();
    server.faults(|faults| faults.least_part = 0);
    let storage = storage(&server, |options| options.part_size = 1000);
    (server, storage)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect()
}

fn chunks(content: &[u8]) -> BoxStream<'static, std::io::Result<Bytes>> {
    let chunks: Vec<_> = content.chunks(333).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks).boxed()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Litestream's keys at the root of a bucket begin with a dot or a slash.
#[tokio::test]
async fn keys_travel_byte_for_byte() {
    let server = Server::start();
    let names = ["./0000/1.ltx", "/0000/1.ltx", "a/b//0009/1.ltx", "a/./b", "a b+c%/é&?#", "a/"];
    for (path_style, part_size) in [(true, 5 << 20), (true, 1)] {
        server.faults(|faults| faults.least_part = 0);
        let storage = storage(&server, |options| {
            options.path_style = path_style;
            options.part_size = part_size;
        });
        for name in names {
            storage.put(&key(name), bytes(b"x"), NEW).await.unwrap();
            assert_eq!(storage.get(&key(name), 0..1).await.unwrap(), "x");
        }
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        assert_eq!(server.keys(), sorted);
        let listed = storage.list(&Key::ROOT, None).await.unwrap();
        assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), sorted);
        for (folder, name) in [("./0000", names[0]), ("/0000", names[1]), ("a/b//0009", names[2]), ("a/b/", names[2])] {
            let listed = storage.list(&key(folder), None).await.unwrap();
            assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), [name]);
        }
        storage.delete(&names.map(key)).await.unwrap();
        assert!(server.keys().is_empty());
    }
    let paths: Vec<_> = server.requests_of("PutObject").into_iter().map(|request| request.path).collect();
    assert_eq!(
        paths,
        [
            "/test-bucket/./0000/1.ltx",
            "/test-bucket//0000/1.ltx",
            "/test-bucket/a/b//0009/1.ltx",
            "/test-bucket/a/./b",
            "/test-bucket/a%20b%2Bc%25/%C3%A9%26%3F%23",
            "/test-bucket/a/",
        ]
    );
}

#[tokio::test]
async fn the_time_of_the_content_is_kept_as_litestream_does() {
    let (server, storage) = in_parts();
    for (name, length) in [("short", 1), ("long", 5000)] {
        for (millis, text) in [(1_700_000_000_120, "2023-11-14T22:13:20.12Z"), (0, "1970-01-01T00:00:00Z")] {
            let timestamp = Some(Timestamp::from_millis(millis));
            let options = PutOptions { how: Put::Replace, timestamp };
            storage.put(&key(name), bytes(&content(length)), options).await.unwrap();
            let metadata = server.object(name).unwrap().metadata;
            assert_eq!(metadata, BTreeMap::from([("litestream-timestamp".to_owned(), text.to_owned())]));
        }
        storage.put(&key(name), bytes(&content(length)), REPLACE).await.unwrap();
        assert!(server.object(name).unwrap().metadata.is_empty());
    }
}

#[tokio::test]
async fn objects_are_stored_as_the_options_say() {
    let server = Server::start();
    server.faults(|faults| faults.least_part = 0);
    let storage = storage(&server, |options| {
        options.part_size = 1000;
        options.storage_class = Some("STANDARD_IA".into());
        options.tags = vec![("team".into(), "a & b".into()), ("é".into(), String::new())];
        options.encryption = Encryption::Kms { key_id: "the-key".into() };
        options.headers = vec![("X-Tigris-Consistent".into(), "true".into())];
    });
    for (name, length) in [("short", 1), ("long", 5000)] {
        storage.put(&key(name), bytes(&content(length)), NEW).await.unwrap();
        let stored = server.object(name).unwrap();
        assert_eq!(stored.bytes, content(length));
        assert_eq!(stored.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(stored.tagging.as_deref(), Some("team=a%20%26%20b&%C3%A9="));
        assert_eq!(stored.kms_key.as_deref(), Some("the-key"));
    }
    storage.list(&Key::ROOT, None).await.unwrap();
    assert!(server.requests().iter().all(|request| request.header("x-tigris-consistent") == Some("true")));
    let signed = server.requests()[0].header("authorization").unwrap().to_owned();
    assert!(signed.contains("x-tigris-consistent"), "{signed}");
}

const CUSTOMERS_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[tokio::test]
async fn a_customers_key_goes_with_every_request_that_needs_it() {
    let server = Server::start();
    server.faults(|faults| faults.least_part = 0);
    let ours = |options: &mut Options| {
        options.part_size = 1000;
        options.encryption = Encryption::Customer { algorithm: "AES256".into(), key: Secret::new(CUSTOMERS_KEY) };
    };
    let with_key = storage(&server, ours);
    for (name, length) in [("short", 1), ("long", 5000)] {
        with_key.put(&key(name), bytes(&content(length)), NEW).await.unwrap();
        assert_eq!(with_key.get(&key(name), 0..length as u64).await.unwrap(), content(length));
        assert_eq!(with_key.get(&key(name), 0..0).await.unwrap(), "");
        let error = storage(&server, |_| {}).get(&key(name), 0..1).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    }
}

#[tokio::test]
async fn bodies_are_signed_unless_told_otherwise() {
    let (server, signing) = in_parts();
    let not_signing = storage(&server, |options| {
        options.part_size = 1000;
        options.sign_payload = false;
    });
    for storage in [&signing, &not_signing] {
        storage.put(&key("short"), bytes(&content(1)), REPLACE).await.unwrap();
        storage.put(&key("long"), bytes(&content(1500)), REPLACE).await.unwrap();
    }
    for operation in ["PutObject", "UploadPart"] {
        let requests = server.requests_of(operation);
        let (signed, unsigned) = requests.split_at(requests.len() / 2);
        assert!(signed.iter().all(|request| request.header("x-amz-content-sha256").unwrap().len() == 64));
        assert!(unsigned.iter().all(|request| request.header("x-amz-content-sha256") == Some("UNSIGNED-PAYLOAD")));
    }
}

/// Compatible services refuse checksums that they do not know.
#[tokio::test]
async fn newer_checksums_are_only_sent_when_wanted() {
    let (server, plain) = in_parts();
    server.faults(|faults| faults.refuse_trailers = true);
    plain.put(&key("short"), bytes(&content(1)), NEW).await.unwrap();
    plain.put(&key("long"), bytes(&content(1500)), NEW).await.unwrap();
    plain.delete(&[key("short")]).await.unwrap();
    for request in server.requests() {
        let newer = request.headers.keys().any(|name| name.as_str().contains("checksum"));
        assert!(!newer, "{request:?}");
    }
    assert!(server.requests_of("DeleteObjects")[0].header("content-md5").is_some());
    server.forget_requests();
    let modern = storage(&server, |options| {
        options.checksums = true;
        options.content_md5 = false;
        options.part_size = 1000;
    });
    modern.put(&key("short"), bytes(&content(1)), NEW).await.unwrap();
    modern.put(&key("long"), bytes(&content(1500)), REPLACE).await.unwrap();
    modern.delete(&[key("short")]).await.unwrap();
    let begun = &server.requests_of("CreateMultipartUpload")[0];
    assert_eq!(begun.header("x-amz-checksum-algorithm"), Some("CRC32"), "S3 refuses parts with a checksum otherwise");
    for operation in ["PutObject", "UploadPart", "DeleteObjects"] {
        let request = &server.requests_of(operation)[0];
        assert!(request.header("x-amz-checksum-crc32").is_some(), "{request:?}");
        assert!(request.header("content-md5").is_none());
    }
}

#[tokio::test]
async fn deletions_go_in_batches() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    let keys: Vec<_> = (0..2500).map(|n| key(&format!("d/{n}"))).collect();
    for key in &keys {
        server.insert(key.as_str(), b"x");
    }
    storage.delete(&keys).await.unwrap();
    assert!(server.keys().is_empty());
    assert_eq!(server.counts(), BTreeMap::from([("DeleteObjects", 3)]));
}

#[tokio::test]
async fn one_refused_deletion_fails_the_batch() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    server.insert("kept", b"x");
    server.faults(|faults| faults.keep = Some("kept".into()));
    let error = storage.delete(&[key("kept"), key("none")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.to_string().contains("cannot delete kept in bucket test-bucket: AccessDenied"), "{error}");
}

#[tokio::test]
async fn where_there_are_no_batches_objects_are_deleted_one_by_one() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    for name in ["a", "b", "c"] {
        server.insert(name, b"x");
    }
    server.faults(|faults| faults.answer = Some(("DeleteObjects", 501, "NotImplemented", usize::MAX)));
    storage.delete(&[key("a"), key("none")]).await.unwrap();
    storage.delete(&[key("b")]).await.unwrap();
    assert_eq!(server.keys(), ["c"]);
    assert_eq!(server.counts(), BTreeMap::from([("DeleteObjects", 1), ("DeleteObject", 3)]));
}

#[tokio::test]
async fn long_bodies_go_up_in_parts_that_are_put_together_in_order() {
    let (server, storage) = in_parts();
    let content = content(10_500);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    for body in [bytes(&content), Body::File(file.path().to_owned()), Body::Stream(chunks(&content))] {
        server.forget_requests();
        storage.put(&key("long"), body, REPLACE).await.unwrap();
        assert_eq!(server.object("long").unwrap().bytes, content);
        assert_eq!(
            server.counts(),
            BTreeMap::from([("CreateMultipartUpload", 1), ("UploadPart", 11), ("CompleteMultipartUpload", 1)])
        );
    }
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn a_taken_name_is_noticed_when_the_parts_are_joined() {
    let (server, storage) = in_parts();
    server.insert("taken", b"first");
    let error = storage.put(&key("taken"), bytes(&content(5000)), NEW).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists);
    assert_eq!(server.object("taken").unwrap().bytes, "first");
    assert!(server.uploads().is_empty(), "the parts are given up");
}

/// F76: an upload that fails, or that nobody waits for any more, is given up.
#[tokio::test]
async fn an_upload_that_fails_leaves_no_parts() {
    let (server, storage) = in_parts();
    let broken = chunks(&content(5000)).chain(stream::iter([Err(std::io::Error::other("no more"))])).boxed();
    let error = storage.put(&key("broken"), Body::Stream(broken), NEW).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Later);
    assert!(server.uploads().is_empty());
    let endless = chunks(&content(5000)).chain(stream::pending()).boxed();
    let put = tokio::spawn(async move { storage.put(&key("endless"), Body::Stream(endless), NEW).await });
    until("parts are sent", || server.requests_of("UploadPart").len() > 5).await;
    put.abort();
    until("the upload is given up", || server.uploads().is_empty()).await;
    assert!(server.keys().is_empty());
}

/// F76: parts that a crash left behind are found and removed, a hundred crashes later.
#[test]
fn parts_of_a_crashed_upload_are_removed_later() {
    let (server, storage) = in_parts();
    for n in 0..100 {
        // A runtime that ends takes its tasks with it before they can tidy up.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = {
            let mut options = options(&server);
            options.part_size = 1000;
            options
        };
        let name = if n == 0 { key("other/x") } else { key(&format!("db/{}", n % 10)) };
        runtime.spawn(async move {
            let endless = chunks(&content(1500)).chain(stream::pending()).boxed();
            S3Storage::new(options).put(&name, Body::Stream(endless), NEW).await
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.requests_of("UploadPart").len() <= n {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        runtime.shutdown_background();
    }
    assert_eq!(server.uploads().len(), 100);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    server.faults(|faults| faults.list_page = Some(7));
    runtime.block_on(async {
        let day = Duration::from_secs(24 * 3600);
        let yesterday = Timestamp::from(SystemTime::now() - day);
        assert_eq!(storage.tidy(&key("db"), yesterday).await.unwrap(), 0, "they may be under way");
        server.age_uploads(day + Duration::from_secs(60));
        assert_eq!(storage.tidy(&key("db"), yesterday).await.unwrap(), 99);
        assert_eq!(server.uploads(), ["other/x"], "not ours to remove");
        assert_eq!(Retry::new(Arc::new(storage)).tidy(&Key::ROOT, yesterday).await.unwrap(), 1);
    });
}

#[tokio::test]
async fn a_lost_part_is_sent_again() {
    let (server, storage) = in_parts();
    for (how, fault) in [(503, "SlowDown"), (500, "InternalError")] {
        server.faults(|faults| faults.answer = Some(("UploadPart", how, fault, 3)));
        storage.put(&key("long"), Body::Stream(chunks(&content(5000))), REPLACE).await.unwrap();
        assert_eq!(server.object("long").unwrap().bytes, content(5000));
    }
    server.faults(|faults| faults.drop_uploads_after = Some((500, 2)));
    storage.put(&key("long"), Body::Stream(chunks(&content(6000))), REPLACE).await.unwrap();
    assert_eq!(server.object("long").unwrap().bytes, content(6000));
    server.faults(|faults| faults.answer = Some(("UploadPart", 503, "SlowDown", usize::MAX)));
    let error = storage.put(&key("never"), Body::Stream(chunks(&content(5000))), NEW).await.unwrap_err();
    assert!(error.kind == ErrorKind::Later && error.throttled, "{error}");
    assert!(server.uploads().is_empty());
}

/// The answer to the last request of an upload is lost: what is there tells.
#[tokio::test]
async fn parts_that_were_joined_in_silence_are_seen_to_be_there() {
    for how in [NEW, REPLACE] {
        let (server, storage) = in_parts();
        server.faults(|faults| faults.lose = Some(("CompleteMultipartUpload", 1)));
        storage.put(&key("long"), Body::Stream(chunks(&content(5000))), how).await.unwrap();
        assert_eq!(server.object("long").unwrap().bytes, content(5000));
    }
    // Somebody else's object is not taken for ours.
    let (server, storage) = in_parts();
    server.insert("long", b"theirs");
    server.faults(|faults| faults.answer = Some(("CompleteMultipartUpload", 500, "InternalError", 1)));
    let error = storage.put(&key("long"), Body::Stream(chunks(&content(5000))), NEW).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists);
    assert_eq!(server.object("long").unwrap().bytes, "theirs");
}

#[tokio::test]
async fn two_who_create_at_the_same_moment_are_told_to_try_again() {
    let (server, storage) = in_parts();
    server.faults(|faults| faults.answer = Some(("PutObject", 409, "ConditionalRequestConflict", 1)));
    let error = storage.put(&key("short"), bytes(b"x"), NEW).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Later);
    server.faults(|faults| faults.answer = Some(("CompleteMultipartUpload", 409, "ConditionalRequestConflict", 1)));
    let error = storage.put(&key("long"), bytes(&content(5000)), NEW).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Later);
    assert_eq!(server.counts()["CompleteMultipartUpload"], 1, "these parts can never be joined");
    assert!(server.uploads().is_empty());
}

/// F73: a provider that cuts every connection after a while is read to the end, each byte once.
#[tokio::test]
async fn a_read_goes_on_where_its_connection_ended() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    let content = content(1_000_000);
    server.insert("long", &content);
    server.faults(|faults| faults.cut_after = Some(100_000));
    assert_eq!(storage.get(&key("long"), 50_000..1_000_000).await.unwrap(), content[50_000..]);
    let requests = server.requests_of("GetObject");
    assert!((10..=12).contains(&requests.len()), "{}", requests.len());
    let starts: Vec<u64> = requests
        .iter()
        .map(|request| {
            let range = request.header("range").unwrap();
            range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap()
        })
        .collect();
    assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
    assert!(requests[1..].iter().all(|request| request.header("if-match").is_some()), "never two objects in one");
}

/// F72: answers that end too early are an error, or read on; never a short result.
#[tokio::test]
async fn a_short_answer_is_never_a_result() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    server.insert("a", &content(1000));
    server.faults(|faults| faults.cut_after = Some(10));
    let error = storage.get(&key("a"), 0..1000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Later, "{error}");
    assert_eq!(server.counts()["GetObject"], 4, "a bounded number of attempts");
    assert_eq!(storage.get(&key("a"), 0..30).await.unwrap(), content(30), "it comes in pieces");
}

#[tokio::test]
async fn an_object_replaced_while_it_is_read_is_not_mixed() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    server.insert("a", &[1; 300_000]);
    server.faults(|faults| {
        faults.cut_after = Some(100_000);
        faults.latency = Duration::from_millis(100);
    });
    let reading = tokio::spawn(async move { storage.get(&key("a"), 0..300_000).await });
    until("it is being read", || server.requests_of("GetObject").len() == 2).await;
    server.insert("a", &[2; 300_000]);
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.to_string().as_str()), (ErrorKind::Later, "a was replaced while it was read"));
}

#[tokio::test]
async fn a_service_that_ignores_ranges_is_read_all_the_same() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    server.insert("a", &content(100_000));
    server.faults(|faults| faults.ignore_ranges = true);
    assert_eq!(storage.get(&key("a"), 40_000..40_010).await.unwrap(), content(100_000)[40_000..40_010]);
    assert_eq!(storage.get(&key("a"), 0..99_999).await.unwrap(), content(99_999));
    assert_eq!(storage.get(&key("a"), 0..100_001).await.unwrap_err().kind, ErrorKind::Refused);
}

/// Winds the clock on until whatever hangs is given up and made again.
async fn wind_past_patience(server: &Server, operation: &str) {
    let before = server.requests_of(operation).len();
    tokio::time::pause();
    for _ in 0..60 {
        if server.requests_of(operation).len() > before {
            break;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    tokio::time::resume();
    assert!(server.requests_of(operation).len() > before, "nobody lost patience");
}

/// F75: a server that accepts and never answers, or stops in the middle, is left
/// within half a minute.
#[tokio::test]
async fn a_hung_request_is_ended_and_made_again() {
    let server = Server::start();
    let storage = Retry::with_dice(Arc::new(storage(&server, |_| {})), Box::new(|| 0));
    let storage = Arc::new(storage);
    server.insert("a", &content(100_000));
    server.faults(|faults| faults.ignore = Some(("GetObject", 1)));
    let other = Arc::clone(&storage);
    let reading = tokio::spawn(async move { other.get(&key("a"), 0..100_000).await });
    until("the request is made", || server.requests_of("GetObject").len() == 1).await;
    assert!(storage.list(&Key::ROOT, None).await.is_ok(), "others go on meanwhile");
    wind_past_patience(&server, "GetObject").await;
    assert_eq!(reading.await.unwrap().unwrap(), content(100_000));
    server.forget_requests();
    server.faults(|faults| faults.stall_after = Some((50_000, 1)));
    let other = Arc::clone(&storage);
    let reading = tokio::spawn(async move { other.get(&key("a"), 0..100_000).await });
    until("the request is made", || server.requests_of("GetObject").len() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    wind_past_patience(&server, "GetObject").await;
    assert_eq!(reading.await.unwrap().unwrap(), content(100_000));
}

/// F75: one part that hangs does not take the whole upload with it.
#[tokio::test]
async fn a_hung_part_is_sent_again() {
    let (server, storage) = in_parts();
    server.faults(|faults| faults.ignore = Some(("UploadPart", 1)));
    let storing =
        tokio::spawn(async move { storage.put(&key("long"), Body::Stream(chunks(&content(5000))), NEW).await });
    until("the others are sent", || server.requests_of("UploadPart").len() == 5).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    wind_past_patience(&server, "UploadPart").await;
    storing.await.unwrap().unwrap();
    assert_eq!(server.object("long").unwrap().bytes, content(5000));
}

#[tokio::test]
async fn the_region_is_learnt_from_the_service() {
    let server = Server::start();
    server.faults(|faults| faults.region = Some("eu-west-3"));
    let storage = storage(&server, |options| options.region = None);
    let (storage, root) = (&storage, &Key::ROOT);
    let requests = (0..8).map(|_| storage.list(root, None));
    for outcome in futures::future::join_all(requests).await {
        outcome.unwrap();
    }
    let before = server.requests().len();
    storage.put(&key("a"), bytes(b"x"), NEW).await.unwrap();
    assert_eq!(server.requests().len(), before + 1, "once is enough");
    assert!(server.requests()[before].header("authorization").unwrap().contains("/eu-west-3/s3/"));
}

/// What a person must put right is said at once; what passes is said to pass.
#[tokio::test]
async fn errors_say_what_happened_to_what_and_what_to_do() {
    let server = Server::start();
    type Case = (&'static str, ErrorKind, &'static str, fn(&mut Options));
    let cases: [Case; 5] = [
        ("bucket", ErrorKind::Refused, "create the bucket", |options| options.bucket = "no-such-bucket".into()),
        ("secret", ErrorKind::Refused, "check the access key and its secret", |options| {
            options.credentials.as_mut().unwrap().secret_access_key = Secret::new("hush-hush");
        }),
        ("access key", ErrorKind::Refused, "check the access key and its secret", |options| {
            options.credentials.as_mut().unwrap().access_key_id = "nobody".into();
        }),
        ("header", ErrorKind::Refused, "cannot be sent as a header", |options| {
            options.headers = vec![("a b".into(), "hush-hush".into())];
        }),
        ("port", ErrorKind::Later, "", |options| options.endpoint = Some("http://127.0.0.1:1".into())),
    ];
    for (what, kind, advice, change) in cases {
        let storage = storage(&server, change);
        let outcomes: [Result<(), Error>; 4] = [
            storage.list(&key("some/folder"), None).await.map(drop),
            storage.get(&key("some/folder/key"), 0..1).await.map(drop),
            storage.put(&key("some/folder/key"), bytes(b"x"), NEW).await,
            storage.delete(&[key("some/folder/key")]).await,
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind, kind, "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains(advice) && text.contains("some/folder"), "{what}: {text}");
            assert!(text.contains("bucket test-bucket") || text.contains("bucket no-such-bucket"), "{text}");
            assert!(!format!("{error:?}").contains("hush-hush"));
        }
    }
    server.faults(|faults| faults.deny = vec!["ListObjectsV2"]);
    let error = storage(&server, |_| {}).list(&key("f"), None).await.unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.to_string().contains("AccessDenied"), "{error}");
    assert!(error.to_string().contains("s3:ListBucket"), "{error}");
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let server = Server::start();
    let storage = storage(&server, |options| {
        options.headers = vec![("x-token".into(), "hush-hush".into())];
        options.credentials.as_mut().unwrap().session_token = Some(Secret::new("hush-token"));
        options.encryption = Encryption::Customer { algorithm: "AES256".into(), key: Secret::new(CUSTOMERS_KEY) };
    });
    let _ = storage.list(&Key::ROOT, None).await;
    let shown = format!("{storage:?}");
    for secret in [server::SECRET_KEY, "hush", CUSTOMERS_KEY] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// Nothing is contacted before there is a request.
#[tokio::test]
async fn opening_a_bucket_asks_for_nothing() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    assert_eq!(storage.kind(), "s3");
    assert!(server.requests().is_empty());
}

/// As Garage did: the second creator is told that it succeeded.
#[tokio::test]
async fn a_service_that_ignores_conditions_is_not_made_up_for_here() {
    let server = Server::start();
    server.faults(|faults| faults.ignore_conditions = true);
    let storage = storage(&server, |_| {});
    storage.put(&key("a"), bytes(b"1"), NEW).await.unwrap();
    storage.put(&key("a"), bytes(b"2"), NEW).await.unwrap();
    assert_eq!(server.object("a").unwrap().bytes, "2");
}

/// Runs a test of this file by itself, as a program with this environment.
fn alone(test: &str, environment: &[(&str, &str)]) {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", "--ignored", &format!("s3::backend::{test}")]);
    for (name, _) in std::env::vars() {
        if ["AWS_", "SSL_", "LITESTREAM_", "HTTP", "NO_PROXY"].iter().any(|start| name.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// What the test outside tells the one inside.
fn told(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// The bucket as a part of the host name, through a proxy, since that name is nobody's.
#[test]
fn buckets_can_be_named_by_the_host() {
    let server = Server::start();
    alone("inside_buckets_can_be_named_by_the_host", &[("HTTP_PROXY", &server.endpoint), ("NO_PROXY", "")]);
    assert_eq!(server.keys(), ["./0000/a", "/0000/a", "a//b"]);
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.header("host") == Some("test-bucket.s3.test")), "{requests:?}");
    let paths: Vec<_> = server.requests_of("PutObject").into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/./0000/a", "//0000/a", "/a//b"]);
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn inside_buckets_can_be_named_by_the_host() {
    let server = Server::start();
    let storage = storage(&server, |options| {
        options.endpoint = Some(format!("http://{}", server::DOMAIN));
        options.path_style = false;
    });
    for name in ["./0000/a", "/0000/a", "a//b"] {
        storage.put(&key(name), bytes(b"x"), NEW).await.unwrap();
        assert_eq!(storage.get(&key(name), 0..1).await.unwrap(), "x");
    }
    assert_eq!(storage.list(&key("/0000"), None).await.unwrap().len(), 1);
}

/// Keys that are replaced in the shared credentials file are read anew when the old ones stop working.
#[test]
fn rotated_credentials_are_taken_up_without_a_restart() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |id: &str| {
        let secret = server::SECRET_KEY;
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        std::fs::write(&file, text).unwrap();
    };
    write(server::ACCESS_KEY);
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = file.to_str().unwrap();
            let environment = [
                ("AWS_SHARED_CREDENTIALS_FILE", file),
                ("AWS_CONFIG_FILE", "/dev/null"),
                ("S3_ENDPOINT", &server.endpoint),
                ("AWS_REGION", "eu-west-3"),
            ];
            alone("inside_rotated_credentials_are_taken_up_without_a_restart", &environment);
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.keys().is_empty() && !inside.is_finished() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        server.faults(|faults| faults.renewed_key = Some("renewed-access-key".into()));
        write("renewed-access-key");
        server.insert("rotated", b"x");
    });
    assert_eq!(server.keys(), ["after", "before", "rotated"]);
    let signed = server.requests()[0].header("authorization").unwrap().to_owned();
    assert!(signed.contains("/eu-west-3/s3/"), "the environment's region: {signed}");
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn inside_rotated_credentials_are_taken_up_without_a_restart() {
    let server = Server::start();
    let storage = storage(&server, |options| {
        options.endpoint = Some(told("S3_ENDPOINT"));
        options.region = None;
        options.credentials = None;
    });
    storage.put(&key("before"), bytes(b"x"), NEW).await.unwrap();
    // Only when this is there, the new keys are.
    let deadline = Instant::now() + Duration::from_secs(20);
    while storage.get(&key("rotated"), 0..1).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    storage.put(&key("after"), bytes(b"x"), NEW).await.unwrap();
}

/// Without credentials anywhere a person must act, and is told so.
#[test]
fn missing_credentials_are_said_to_be_missing() {
    let environment = [("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"), ("AWS_CONFIG_FILE", "/dev/null")];
    alone("inside_missing_credentials_are_said_to_be_missing", &environment);
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn inside_missing_credentials_are_said_to_be_missing() {
    let server = Server::start();
    let storage = storage(&server, |options| options.credentials = None);
    let error = storage.list(&Key::ROOT, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("set access-key-id and secret-access-key"), "{error}");
    assert!(server.requests().is_empty());
}

/// A certificate is believed when its authority is named, or nobody asks.
#[tokio::test]
async fn certificates_are_verified_unless_told_otherwise() {
    let server = Server::start_encrypted();
    let error = storage(&server, |_| {}).list(&Key::ROOT, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("name its authority in AWS_CA_BUNDLE or SSL_CERT_FILE"), "{error}");
    assert!(server.requests().is_empty());
    let storage = storage(&server, |options| options.skip_verify = true);
    storage.put(&key("a"), bytes(&content(200_000)), NEW).await.unwrap();
    assert_eq!(storage.get(&key("a"), 0..200_000).await.unwrap(), content(200_000));
}

#[test]
fn an_authority_can_be_named_in_the_environment() {
    let authority = format!("{}/ca.pem", server::TLS);
    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        alone("inside_an_authority_can_be_named_in_the_environment", &[(variable, &authority)]);
    }
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn inside_an_authority_can_be_named_in_the_environment() {
    let server = Server::start_encrypted();
    let storage = storage(&server, |_| {});
    storage.put(&key("a"), bytes(&content(200_000)), NEW).await.unwrap();
    assert_eq!(storage.get(&key("a"), 0..200_000).await.unwrap(), content(200_000));
}
