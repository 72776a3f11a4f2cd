//! Copies that the service makes, and how requests are counted.

use brooklet::storage::s3::{Encryption, Options, S3Storage};
use brooklet::storage::{Body, Conditions, ErrorKind, Key, Operation, Put, PutOptions, Storage};
use brooklet::types::{Secret, Timestamp};

use super::{Server, options};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn storage(server: &Server, change: impl FnOnce(&mut Options)) -> S3Storage {
    let mut options = options(server);
    change(&mut options);
    S3Storage::new(options)
}

fn parts(options: &mut Options) {
    (options.part_size, options.copy_size) = (1000, 1000);
}

async fn put(storage: &S3Storage, name: &str, length: usize) -> Vec<u8> {
    let content: Vec<u8> = (0..=250).cycle().take(length).collect();
    let how = PutOptions { how: Put::New, timestamp: Some(Timestamp::from_millis(1_700_000_000_123)) };
    storage.put(&key(name), Body::from(content.clone()), how).await.unwrap();
    content
}

/// Time, class, tags and encryption are what they would be if it had been uploaded.
#[tokio::test]
async fn a_copy_is_what_an_upload_would_be() {
    for in_parts in [false, true] {
        for encrypted in [false, true] {
            let server = Server::start();
            server.faults(|faults| faults.least_part = 0);
            let storage = storage(&server, |options| {
                if in_parts {
                    parts(options);
                }
                if encrypted {
                    let key = Secret::new("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
                    options.encryption = Encryption::Customer { algorithm: "AES256".into(), key };
                }
                options.storage_class = Some("STANDARD_IA".into());
                options.tags = vec![("team".into(), "a b".into())];
            });
            let content = put(&storage, "a/ä +%?/one", 2500).await;
            let one = server.object("a/ä +%?/one").unwrap();
            assert!(storage.copy(&key("a/ä +%?/one"), &key("b/two")).await.unwrap());
            let two = server.object("b/two").unwrap();
            assert_eq!(two.bytes, content, "{in_parts} {encrypted}");
            assert_eq!(
                (one.metadata, one.storage_class, one.tagging, one.customer_key),
                (two.metadata, two.storage_class, two.tagging, two.customer_key),
                "{in_parts} {encrypted}"
            );
            assert_eq!(server.uploads(), [""; 0]);
        }
    }
}

/// Between the look and the copy somebody may take the name: the condition decides.
#[tokio::test]
async fn a_name_taken_meanwhile_is_left_alone() {
    for in_parts in [false, true] {
        let server = Server::start();
        server.faults(|faults| faults.least_part = 0);
        let storage = storage(&server, |options| {
            if in_parts {
                parts(options);
            }
        });
        put(&storage, "one", 2500).await;
        server.insert("two", b"theirs");
        // As if it had not been there yet.
        server.faults(|faults| faults.answer = Some(("HeadObject", 404, "NoSuchKey", 1)));
        let error = storage.copy(&key("two"), &key("two")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing, "the first look is at the source");
        let copy = async {
            server.faults(|faults| faults.hide = Some("two".into()));
            storage.copy(&key("one"), &key("two")).await
        };
        assert_eq!(copy.await.unwrap_err().kind, ErrorKind::Exists, "{in_parts}");
        assert_eq!(server.object("two").unwrap().bytes, "theirs");
        assert_eq!(server.uploads(), [""; 0]);
    }
}

#[tokio::test]
async fn a_service_that_does_not_copy_is_not_an_error() {
    let server = Server::start();
    let storage = storage(&server, |_| {});
    put(&storage, "one", 25).await;
    for (operation, status, code) in [
        ("CopyObject", 501, "NotImplemented"),
        ("CopyObject", 403, "AccessDenied"),
        ("HeadObject", 403, "AccessDenied"),
    ] {
        server.faults(|faults| faults.answer = Some((operation, status, code, 1)));
        assert!(!storage.copy(&key("one"), &key("two")).await.unwrap(), "{operation} {code}");
        assert_eq!(server.keys(), ["one"]);
    }
    server.faults(|faults| faults.answer = Some(("CopyObject", 503, "SlowDown", 1)));
    assert_eq!(storage.copy(&key("one"), &key("two")).await.unwrap_err().kind, ErrorKind::Later);
}

/// What is counted is what the service saw: each part of an upload, each page of a listing.
#[tokio::test]
async fn every_request_that_the_service_sees_is_counted() {
    let server = Server::start();
    server.faults(|faults| (faults.least_part, faults.list_page) = (0, Some(1)));
    let storage = storage(&server, parts);
    put(&storage, "one", 2500).await;
    put(&storage, "two", 25).await;
    storage.copy(&key("one"), &key("three")).await.unwrap();
    storage.get(&key("one"), 0..2500).await.unwrap();
    storage.list(&Key::ROOT, None).await.unwrap();
    storage.delete(&[key("one"), key("two")]).await.unwrap();
    let seen = server.requests().len() as u64;
    assert_eq!(storage.counts().requests(), seen);
    let of = |operation| {
        let counted = storage.counts().of(operation);
        (counted.requests, counted.bytes, counted.errors.iter().sum::<u64>())
    };
    assert_eq!(of(Operation::Put), (5 + 1 + 5, 2525, 0), "begin, three parts, join; one; the copy");
    assert_eq!(of(Operation::Get), (2 + 1, 2500, 1), "one look found nothing");
    assert_eq!(of(Operation::List), (3, 0, 0));
    assert_eq!(of(Operation::Delete), (1, 0, 0));
}

/// Ten thousand databases in one bucket have one client between them, but each its own counters.
#[tokio::test]
async fn who_uses_a_bucket_in_the_same_way_shares_what_is_known_of_it() {
    let server = Server::start();
    let (one, two) = (S3Storage::shared(options(&server)), S3Storage::shared(options(&server)));
    let other = S3Storage::shared(Options { concurrency: 1, ..options(&server) });
    put(&one, "one", 1).await;
    assert_eq!([&one, &two].map(|storage| storage.counts().requests()), [1, 0]);
    one.known().learn(Conditions::Ignored);
    assert_eq!(two.known().get(), Conditions::Ignored);
    assert_eq!(other.known().get(), Conditions::Unknown);
}
