//! The process ends, or the system refuses, at each step of a restore: what is at
//! the target is the old database or the new one, whole, and the next restore
//! works. Each case runs in a process of its own: a test binary that starts
//! itself again, because failpoints are switched for a whole process.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use brooklet::ltx::Encoding;
use brooklet::restore::{Follower, IntegrityCheck, Options, RestoreError, Target};
use brooklet::storage::FileStorage;
use brooklet::types::Txid;
use rusqlite::Connection;
use tempfile::TempDir;

use super::follow::{Source, expected, rows as rows_of};
use super::{TINY, options};
use crate::history::{self, History};

/// Every step of a restore that leaves a trace on disk.
const POINTS: [&str; 12] = [
    "durable::before-mkdir",
    "durable::before-create",
    "restore::before-page",
    "restore::before-sync",
    "restore::synced",
    "restore::settled",
    "restore::sidecars-removed",
    "durable::before-fsync",
    "durable::before-rename",
    "durable::after-rename",
    "durable::before-fsync-dir",
    "restore::published",
];

#[tokio::test]
#[ignore = "the other half of the tests below, which start it"]
async fn child() {
    let Some(dir) = env::var_os("BROOKLET_CHILD_DIR").map(PathBuf::from) else { return };
    let _scenario = fail::FailScenario::setup();
    match env::var_os("BROOKLET_CHILD_FOLLOWS") {
        None => restore(&dir).await.unwrap(),
        Some(_) => drop(follow(&dir).await.unwrap()),
    }
}

/// Takes up following and makes one step.
async fn follow(dir: &Path) -> Result<Txid, RestoreError> {
    let replica = history::shelf(Arc::new(FileStorage::new(dir.join("replica"))), "r");
    let target = dir.join("data/app.db");
    let mut follower = Follower::start(&[replica], &target, &options(Target::Latest), &Arc::default()).await?;
    follower.step().await?;
    Ok(follower.position())
}

async fn restore(dir: &Path) -> Result<(), RestoreError> {
    let replica = history::shelf(Arc::new(FileStorage::new(dir.join("replica"))), "r");
    let options =
        Options { limits: TINY, overwrite: true, integrity_check: IntegrityCheck::Full, ..options(Target::Latest) };
    let target = dir.join("data/new/app.db");
    brooklet::restore::restore(&[replica], &target, &options, &Arc::default()).await.map(|_| ())
}

/// What is at the target before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Not even its directory.
    Nothing,
    /// The `-wal` and `-shm` of a database that is gone.
    Remains,
    /// A database with half of its rows in its WAL.
    Database,
}

const SIDECARS: [&str; 2] = ["-wal", "-shm"];

/// A database with these rows; the second half of them is only in its WAL, which
/// is left as a crash of its application would leave it.
fn database(path: &Path, rows: [i64; 2]) {
    let scratch = TempDir::new().unwrap();
    let made = scratch.path().join("x");
    let open = Connection::open(&made).unwrap();
    open.execute_batch("PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(x);").unwrap();
    for row in rows {
        open.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        open.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(format!("{}{suffix}", made.display()), format!("{}{suffix}", path.display())).unwrap();
    }
}

/// The rows that an application would see. Looks at a copy.
fn rows(path: &Path) -> Option<Vec<i64>> {
    if !path.exists() {
        return None;
    }
    let scratch = TempDir::new().unwrap();
    let copy = scratch.path().join("x");
    for suffix in ["", "-wal", "-shm"] {
        let from = format!("{}{suffix}", path.display());
        if Path::new(&from).exists() {
            fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
        }
    }
    let open = Connection::open(copy).unwrap();
    let sound: String = open.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let mut statement = open.prepare("SELECT x FROM t ORDER BY x").unwrap();
    Some(statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect())
}

/// A replica whose newest state holds the rows 7 and 8.
async fn replica(dir: &Path) {
    let made = dir.join("made");
    database(&made, [7, 8]);
    // The last connection to close leaves everything in the file.
    drop(Connection::open(&made).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
    let file = fs::read(&made).unwrap();
    let pages: Vec<(u32, Vec<u8>)> = (1..).zip(file.chunks(512).map(<[u8]>::to_vec)).collect();
    let size = u32::try_from(pages.len()).unwrap();
    let mut history = History::new(512, true, Encoding::Block);
    history.commit([], size);
    for page in pages {
        history.commit([page], size);
    }
    history.replica(Arc::new(FileStorage::new(dir.join("replica"))), "r").await;
}

fn prepare(dir: &Path, before: Before) -> PathBuf {
    let target = dir.join("data/new/app.db");
    drop(fs::remove_dir_all(dir.join("data")));
    if before != Before::Nothing {
        database(&target, [1, 2]);
    }
    if before == Before::Remains {
        fs::remove_file(&target).unwrap();
    }
    target
}

/// Restores in another process with that failpoint; true if it ended well.
fn restore_with(dir: &Path, failpoints: &str) -> bool {
    child_with(dir, failpoints, None)
}

fn child_with(dir: &Path, failpoints: &str, follows: Option<&str>) -> bool {
    Command::new(env::current_exe().unwrap())
        .envs(follows.map(|follows| ("BROOKLET_CHILD_FOLLOWS", follows)))
        .args(["--exact", "restore::crash::child", "--ignored", "--nocapture"])
        .env("BROOKLET_CHILD_DIR", dir)
        .env("FAILPOINTS", failpoints)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[tokio::test]
async fn whenever_it_stops_the_target_is_the_old_database_or_the_new_one() {
    let dir = TempDir::new().unwrap();
    replica(dir.path()).await;
    for before in [Before::Nothing, Before::Remains, Before::Database] {
        let old = if before == Before::Database { Some(vec![1, 2]) } else { None };
        let mut stopped = Vec::new();
        for point in POINTS {
            // The second one: some of it is done already.
            for failpoint in ["return(abort)", "1*off->return(abort)", "return(5)", "1*off->return(28)"] {
                let target = prepare(dir.path(), before);
                let ended_well = restore_with(dir.path(), &format!("{point}={failpoint}"));
                let case = format!("{before:?}, {point}={failpoint}");
                let found = rows(&target);
                if ended_well {
                    assert_eq!(found, Some(vec![7, 8]), "{case}");
                } else {
                    stopped.push(point);
                    assert!(found == old || found == Some(vec![7, 8]), "{case}: {found:?}");
                    if !failpoint.contains("abort") && target.parent().unwrap().exists() {
                        let drafts = names(&target).into_iter().filter(|name| name.ends_with(".tmp"));
                        assert_eq!(drafts.count(), 0, "{case}: an error cleans up");
                    }
                }
                // With the new file in place there is nothing to replay over it.
                if found == Some(vec![7, 8]) {
                    assert!(SIDECARS.iter().all(|suffix| !target.with_file_name(format!("app.db{suffix}")).exists()));
                }
                restore(dir.path()).await.unwrap();
                assert_eq!(rows(&target), Some(vec![7, 8]), "{case}, and again");
                assert_eq!(names(&target), ["app.db"], "{case}, and again");
            }
        }
        stopped.dedup();
        let expected: Vec<&str> =
            POINTS.into_iter().filter(|point| *point != "durable::before-mkdir" || before == Before::Nothing).collect();
        assert_eq!(stopped, expected, "{before:?}: every step was reached");
    }
}

fn names(target: &Path) -> Vec<String> {
    let entries = fs::read_dir(target.parent().unwrap()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every step of a change to a followed database that leaves a trace on disk.
const FOLLOW_POINTS: [&str; 10] = [
    "durable::before-create",
    "restore::before-page",
    "follow::before-journal",
    "follow::journal-written",
    "follow::before-page",
    "follow::pages-written",
    "follow::journal-removed",
    "durable::before-fsync-dir",
    "durable::before-rename",
    "durable::after-rename",
];

/// What a reader that may write, and so may roll back, sees in a copy.
fn seen_by_a_reader(dir: &Path) -> String {
    let scratch = TempDir::new().unwrap();
    for name in ["app.db", "app.db-journal"] {
        let from = dir.join("data").join(name);
        if from.exists() {
            fs::copy(from, scratch.path().join(name)).unwrap();
        }
    }
    let copy = scratch.path().join("app.db");
    let healed = Command::new("sqlite3").arg(&copy).arg("SELECT count(*) FROM t").output().unwrap();
    assert!(healed.status.success(), "{healed:?}");
    rows_of(&copy)
}

#[tokio::test]
async fn whenever_following_stops_readers_see_one_transaction_and_it_goes_on() {
    let mut source = Source::new(4096, true);
    (2..=4).for_each(|n| source.row(n));
    let before = source.history.clone();
    (5..=7).for_each(|n| source.row(n));
    source.step("DELETE FROM t WHERE x IN (2, 3); VACUUM");
    (9..=10).for_each(|n| source.row(n));
    let (old, new) = (expected(&source.history, 4), expected(&source.history, 10));
    let mut stopped = Vec::new();
    for point in FOLLOW_POINTS {
        for failpoint in ["return(abort)", "1*off->return(abort)", "return(5)", "1*off->return(28)"] {
            let dir = TempDir::new().unwrap();
            let storage = || Arc::new(FileStorage::new(dir.path().join("replica")));
            before.replica(storage(), "r").await;
            assert_eq!(follow(dir.path()).await.unwrap().get(), 4);
            fs::remove_dir_all(dir.path().join("replica")).unwrap();
            source.history.replica(storage(), "r").await;

            let ended_well = child_with(dir.path(), &format!("{point}={failpoint}"), Some("yes"));
            let case = format!("{point}={failpoint}");
            let seen = seen_by_a_reader(dir.path());
            let saved = fs::read_to_string(dir.path().join("data/app.db-txid")).unwrap();
            if ended_well {
                assert_eq!((&seen, saved.as_str()), (&new, "000000000000000a\n"), "{case}");
            } else {
                stopped.push(point);
                assert!(seen == old || seen == new, "{case}: {seen}");
                assert!(seen == new || saved == "0000000000000004\n", "{case}: the position is ahead of the database");
            }
            assert_eq!(follow(dir.path()).await.unwrap().get(), 10, "{case}, and again");
            assert_eq!(seen_by_a_reader(dir.path()), new, "{case}, and again");
            assert_eq!(names(&dir.path().join("data/app.db")), ["app.db", "app.db-txid"], "{case}, and again");
        }
    }
    stopped.dedup();
    assert_eq!(stopped, FOLLOW_POINTS, "every step was reached");
}
