//! What is particular to a directory as a storage.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brooklet::storage::{Body, Error, ErrorKind, FileStorage, Key, Put, PutOptions, Storage};
use brooklet::types::Timestamp;
use bytes::Bytes;
use tempfile::TempDir;

use crate::storage::key;

const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };
const REPLACE: PutOptions = PutOptions { how: Put::Replace, timestamp: None };

fn scratch() -> (TempDir, PathBuf, FileStorage) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("r");
    let storage = FileStorage::new(&root);
    (dir, root, storage)
}

fn x() -> Body {
    Body::Bytes(Bytes::from_static(b"x"))
}

async fn names(storage: &FileStorage, folder: &Key) -> Vec<String> {
    storage.list(folder, None).await.unwrap().into_iter().map(|object| object.key.to_string()).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn refused(error: &Error, part: &str) {
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[tokio::test]
async fn an_object_is_a_file_with_the_time_of_its_content_and_private() {
    let (_dir, root, storage) = scratch();
    let timestamp = Some(Timestamp::from_millis(1_700_000_000_123));
    storage.put(&key("ltx/0/a"), x(), PutOptions { how: Put::New, timestamp }).await.unwrap();
    let found = fs::metadata(root.join("ltx/0/a")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_700_000_000, 123_000_000));
    assert_eq!((found.atime(), found.atime_nsec()), (1_700_000_000, 123_000_000));
    assert_eq!(found.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(root.join("ltx")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(files(&root.join("ltx/0")), ["a"]);
    let shared = FileStorage::with_modes(&root, 0o640, 0o750);
    shared.put(&key("ltx/1/a"), x(), NEW).await.unwrap();
    assert_eq!(fs::metadata(root.join("ltx/1/a")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(root.join("ltx/1")).unwrap().mode() & 0o777, 0o750);
}

#[tokio::test]
async fn unfinished_files_are_hidden_and_those_of_dead_writers_swept() {
    let (_dir, root, storage) = scratch();
    let (dead, official) = ("a.ltx.0123456789abcdef.tmp", "b.ltx.tmp");
    fs::create_dir_all(root.join("0")).unwrap();
    for name in [dead, official, "c.ltx"] {
        fs::write(root.join("0").join(name), "half").unwrap();
    }
    assert_eq!(names(&storage, &key("0")).await, ["0/c.ltx"]);
    assert_eq!(files(&root.join("0")), [dead, official, "c.ltx"], "reading removes nothing");
    storage.put(&key("0/d.ltx"), x(), NEW).await.unwrap();
    assert_eq!(files(&root.join("0")), [official, "c.ltx", "d.ltx"], "the other program's files are its own");
    refused(&storage.put(&key("0/e.tmp"), x(), NEW).await.unwrap_err(), "unfinished");
}

#[tokio::test]
async fn links_to_files_are_followed_and_dangling_ones_named() {
    let (dir, root, storage) = scratch();
    storage.put(&key("0/a"), x(), NEW).await.unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("kept"), "four").unwrap();
    symlink(elsewhere.join("kept"), root.join("0/kept")).unwrap();
    symlink("nowhere", root.join("0/dangling")).unwrap();
    symlink("circle", root.join("0/circle")).unwrap();
    symlink("..", root.join("0/up")).unwrap();
    symlink(&elsewhere, root.join("1")).unwrap();

    assert_eq!(storage.get(&key("0/kept"), 0..4).await.unwrap(), "four");
    refused(&storage.get(&key("0/dangling"), 0..1).await.unwrap_err(), "link to nothing");
    refused(&storage.get(&key("0/circle"), 0..1).await.unwrap_err(), "circle");
    assert_eq!(storage.put(&key("0/dangling"), x(), NEW).await.unwrap_err().kind, ErrorKind::Exists);
    // A level may live on another disk; but a link below it could lead in circles.
    assert_eq!(names(&storage, &key("1")).await, ["1/kept"]);
    storage.delete(&[key("0/circle")]).await.unwrap();
    assert_eq!(names(&storage, &key("0")).await, ["0/a", "0/kept"]);
    storage.delete(&[key("0/kept"), key("0/dangling")]).await.unwrap();
    assert!(elsewhere.join("kept").exists(), "a link is removed, not what it leads to");
}

#[tokio::test]
async fn what_is_not_a_file_is_refused_with_a_reason() {
    let (_dir, root, storage) = scratch();
    fs::create_dir_all(root.join("0/dir")).unwrap();
    fs::write(root.join("0/file"), "four").unwrap();
    let pipe = root.join("0/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();

    for name in ["0/dir", "0/pipe"] {
        refused(&storage.get(&key(name), 0..0).await.unwrap_err(), "not a regular file");
        assert_eq!(storage.put(&key(name), x(), NEW).await.unwrap_err().kind, ErrorKind::Exists);
    }
    refused(&storage.put(&key("0/dir"), x(), REPLACE).await.unwrap_err(), "a directory is in the place of a file");
    refused(&storage.delete(&[key("0/dir")]).await.unwrap_err(), "a directory is in the place of a file");
    refused(&storage.list(&key("0/file"), None).await.unwrap_err(), "in the place of a directory");
    refused(&storage.get(&key("0/file/below"), 0..0).await.unwrap_err(), "in the place of a directory");
    refused(&storage.put(&key("0/file/below"), x(), NEW).await.unwrap_err(), "in the place of a directory");
    assert_eq!(names(&storage, &key("0")).await, ["0/file"]);
    assert_eq!(fs::read(root.join("0/file")).unwrap(), b"four");
}

#[tokio::test]
async fn keys_without_a_place_of_their_own_are_refused() {
    let (_dir, root, storage) = scratch();
    for name in ["/a", "a//b", "./a", "a/./b", "a/", "."] {
        refused(&storage.put(&key(name), x(), NEW).await.unwrap_err(), "correct the path");
        refused(&storage.get(&key(name), 0..0).await.unwrap_err(), "correct the path");
        refused(&storage.list(&key(name), None).await.unwrap_err(), "correct the path");
    }
    refused(&storage.put(&key(&"long".repeat(100)), x(), NEW).await.unwrap_err(), "shorten the path");
    assert!(files(&root).is_empty());
}

#[tokio::test]
async fn names_that_are_not_text_are_not_ours() {
    use std::os::unix::ffi::OsStrExt;

    let (_dir, root, storage) = scratch();
    storage.put(&key("a"), x(), NEW).await.unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"b\xff")), "").unwrap();
    fs::write(root.join("c\n"), "").unwrap();
    assert_eq!(names(&storage, &Key::ROOT).await, ["a"]);
}

#[tokio::test]
async fn a_folder_that_vanishes_comes_back() {
    let (_dir, root, storage) = scratch();
    storage.put(&key("0/a"), x(), NEW).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(names(&storage, &Key::ROOT).await, [""; 0]);
    storage.put(&key("0/b"), x(), NEW).await.unwrap();
    assert_eq!(names(&storage, &Key::ROOT).await, ["0/b"]);
}

#[tokio::test]
async fn a_directory_we_may_not_write_is_refused_with_advice() {
    let (_dir, root, storage) = scratch();
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(root.join("probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    refused(&storage.put(&key("a"), x(), NEW).await.unwrap_err(), "give the user of this process access");
}

/// A network share that hangs must not take the threads that others need.
#[test]
fn a_directory_that_hangs_holds_up_nobody_else() {
    let (dir, root, hanging) = scratch();
    // Opening a pipe that nobody writes to does not return.
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let other = FileStorage::new(dir.path().join("other"));
    let threads = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(17).enable_all().build().unwrap();
    threads.block_on(async {
        let mut hung = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (storage, body) = (hanging.clone(), Body::File(pipe.clone()));
            hung.spawn(async move { storage.put(&key(&n.to_string()), body, NEW).await });
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::read_dir(&root).map_or(0, Iterator::count) < 20 {
            assert!(Instant::now() < deadline, "the puts do not begin");
            tokio::task::yield_now().await;
        }
        let put = tokio::time::timeout(Duration::from_secs(10), other.put(&key("a"), x(), NEW)).await;
        // Before judging, let go of the threads, or the test itself would hang.
        while !hung.is_empty() {
            let writer = fs::OpenOptions::new().write(true).custom_flags(without_waiting()).open(&pipe);
            drop(writer);
            while let Some(done) = hung.try_join_next() {
                done.unwrap().unwrap();
            }
            tokio::task::yield_now().await;
        }
        put.expect("another directory is not held up").unwrap();
    });
}

/// Opening a pipe for writing fails, instead of waiting, while nobody reads.
fn without_waiting() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}
