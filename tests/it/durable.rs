//! Power loss and failing system calls at each step of writing a file
//! (F97, F104). Each case runs in a process of its own: a test binary that
//! starts itself again, because failpoints are switched for a whole process.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use brooklet::storage::{Body, Error, ErrorKind, FileStorage, Key, Put, PutOptions, Storage};
use bytes::Bytes;

use crate::storage::key;

const POINTS: [&str; 7] = [
    "durable::before-mkdir",
    "durable::before-create",
    "durable::before-write",
    "durable::before-fsync",
    "durable::before-rename",
    "durable::after-rename",
    "durable::before-fsync-dir",
];

/// Runs `child` with one failpoint; true if it ended well.
fn run_child(task: &str, dir: &Path, failpoints: &str) -> bool {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "durable::child", "--ignored", "--nocapture"])
        .env("BROOKLET_CHILD_TASK", task)
        .env("BROOKLET_CHILD_DIR", dir)
        .env("FAILPOINTS", failpoints)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[tokio::test]
#[ignore = "the other half of the tests below, which start it"]
async fn child() {
    let Some(dir) = env::var_os("BROOKLET_CHILD_DIR").map(PathBuf::from) else { return };
    let scenario = fail::FailScenario::setup();
    match env::var("BROOKLET_CHILD_TASK").unwrap().as_str() {
        "new" => exit_unless_ok(put(&dir, Put::New).await),
        "replace" => exit_unless_ok(put(&dir, Put::Replace).await),
        "recover" => fail_once_and_recover(&dir, scenario).await,
        task => panic!("unknown task {task}"),
    }
}

/// Some tests expect the error, so it is no panic that looks like a failure.
fn exit_unless_ok(outcome: Result<(), Error>) {
    if outcome.is_err() {
        std::process::exit(1);
    }
}

const NEW: [u8; 1000] = [2; 1000];
const OLD: [u8; 1000] = [1; 1000];

fn name() -> Key {
    key("0/a")
}

async fn put(dir: &Path, how: Put) -> Result<(), Error> {
    let body = Body::Bytes(Bytes::from_static(&NEW));
    FileStorage::new(dir).put(&name(), body, PutOptions { how, timestamp: None }).await
}

async fn content(dir: &Path) -> Option<Bytes> {
    let storage = FileStorage::new(dir);
    let listed = storage.list(&Key::ROOT, None).await.unwrap();
    match storage.get(&name(), 0..1000).await {
        Ok(bytes) => {
            assert_eq!(listed.iter().map(|object| (&object.key, object.size)).collect::<Vec<_>>(), [(&name(), 1000)]);
            Some(bytes)
        }
        Err(e) => {
            assert_eq!((e.kind, listed.len()), (ErrorKind::Missing, 0), "{e}");
            None
        }
    }
}

fn leftovers(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("0")).map_or(0, |entries| {
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "tmp")).count()
    })
}

/// How often a put comes by a step: two directories are created for a new name,
/// and the one they are in is fsynced in any case.
fn times(point: &str, how: Put) -> usize {
    match (point, how) {
        ("durable::before-mkdir", Put::New) => 2,
        ("durable::before-mkdir", Put::Replace) => 0,
        ("durable::before-fsync-dir", Put::New) => 1 + 2 + 1,
        ("durable::before-fsync-dir", Put::Replace) => 1 + 1,
        _ => 1,
    }
}

#[tokio::test]
async fn power_loss_at_any_step_shows_the_old_or_the_new_and_the_next_run_tidies_up() {
    for point in POINTS {
        for (how, skipped) in [Put::New, Put::Replace].into_iter().flat_map(|how| (0..5).map(move |n| (how, n))) {
            let case = format!("{point} {how:?}, passed {skipped} times before");
            let scratch = tempfile::tempdir().unwrap();
            let dir = scratch.path().join("r");
            if how == Put::Replace {
                std::fs::create_dir_all(dir.join("0")).unwrap();
                std::fs::write(dir.join("0/a"), OLD).unwrap();
            }
            let before = content(&dir).await;
            let task = if how == Put::New { "new" } else { "replace" };
            let survived = run_child(task, &dir, &format!("{point}={skipped}*off->return(abort)"));
            assert_eq!(survived, skipped >= times(point, how), "{case}: a step is missing, or one too many");
            let after = content(&dir).await;
            let (old, new) = (after == before, after.is_some_and(|after| after == NEW[..]));
            assert!(old || new, "{case}");
            assert!(new || !(survived || point == "durable::after-rename"), "{case}");

            // The next run finds its way, whatever is there.
            let again = put(&dir, how).await;
            assert_eq!(again.is_err_and(|e| e.kind == ErrorKind::Exists), how == Put::New && new, "{case}");
            assert!(content(&dir).await.unwrap() == NEW[..], "{case}");
            assert_eq!(leftovers(&dir), 0, "{case}");
        }
    }
}

#[test]
fn a_failing_call_at_any_step_is_an_error_that_passes() {
    for point in POINTS {
        // EIO, ENOSPC, EROFS, EDQUOT, EMFILE
        for (errno, skipped) in [5, 28, 30, 122, 24].into_iter().flat_map(|errno| (0..4).map(move |n| (errno, n))) {
            let scratch = tempfile::tempdir().unwrap();
            let dir = scratch.path().join("r");
            let failpoint = format!("{point}={skipped}*off->1*return({errno})");
            assert!(run_child("recover", &dir, &failpoint), "{failpoint}");
        }
    }
}

/// The first put meets the failpoint, the second does not.
async fn fail_once_and_recover(dir: &Path, fault: fail::FailScenario<'_>) {
    let first = put(dir, Put::New).await;
    fault.teardown();
    let stored = content(dir).await.is_some();
    match first {
        Ok(()) => assert!(stored),
        Err(e) => assert_eq!(e.kind, ErrorKind::Later, "{e}"),
    }
    assert_eq!(leftovers(dir), 0);
    match put(dir, Put::New).await {
        Ok(()) => assert!(!stored),
        Err(e) => assert!(stored && e.kind == ErrorKind::Exists, "{e}"),
    }
    assert!(content(dir).await.unwrap() == NEW[..]);
}

#[tokio::test]
async fn file_systems_without_a_rename_that_refuses_still_take_new_names_only_once() {
    let (no_rename, no_link) = ("durable::rename-no-replace=return(22)", "durable::link=return(1)");
    for failpoints in [no_rename.to_owned(), format!("{no_rename};{no_link}")] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("r");
        assert!(run_child("new", &dir, &failpoints), "{failpoints}");
        assert!(content(&dir).await.unwrap() == NEW[..]);
        std::fs::write(dir.join("0/a"), OLD).unwrap();
        assert!(!run_child("new", &dir, &failpoints), "{failpoints}");
        assert!(content(&dir).await.unwrap() == OLD[..]);
        assert_eq!(leftovers(&dir), 0);
    }
}
