//! System calls that fail, or that are the last one of a process, each in turn.
//!
//! Every case runs in a process of its own: this test binary starts itself again,
//! because failpoints are switched for a whole process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::capture::{self, Database, Followed};
use brooklet::daemon::{Daemon, Settings};
use brooklet::ltx::Encoding;
use brooklet::replica::{Layout, Replica};
use brooklet::status::{DatabaseFacts, Health};
use brooklet::storage::{FileStorage, Key, MemoryStorage};
use brooklet::upload::{Advanced, Error, Uploader};

use crate::capture::consistent_copy;
use crate::running::{
    TABLE, assert_same_pages, bases, create, database, follow, insert, job, keep_log, log_lines, rebuild, replica_in,
    start, stop, unfinished_files_below, until, wait_for, wait_within,
};

/// Runs one of the tasks below with failpoints; tells whether it ended well.
fn run_child(task: &str, dir: &Path, failpoints: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "failures_steps::child", "--ignored", "--nocapture"]);
    child.env("BROOKLET_CHILD_TASK", task).env("BROOKLET_CHILD_DIR", dir);
    child.env("FAILPOINTS", failpoints).env("RUST_BACKTRACE", "0");
    child.stdout(Stdio::null()).status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other half of the tests below, which start it"]
async fn child() {
    let Some(dir) = std::env::var_os("BROOKLET_CHILD_DIR").map(PathBuf::from) else { return };
    let scenario = fail::FailScenario::setup();
    match std::env::var("BROOKLET_CHILD_TASK").unwrap().as_str() {
        "live" => live(&dir).await,
        "faults" => faults(&dir).await,
        "faults while taking up" => faults_while_taking_up(&dir).await,
        "panics" => panics(&dir).await,
        "full disk" => full_disk().await,
        task => panic!("unknown task {task}"),
    }
    scenario.teardown();
}

struct Place {
    path: PathBuf,
    replica: Arc<Replica>,
}

impl Place {
    fn at(dir: &Path) -> Self {
        let storage = Arc::new(FileStorage::new(dir.join("replica")));
        let replica = Arc::new(Replica::new("file".to_owned(), storage, Key::ROOT, Layout::Decimal));
        Self { path: dir.join("app.db"), replica }
    }
}

fn hasty(path: &Path, replica: &Arc<Replica>) -> Daemon {
    let mut job = job(path, &[replica]);
    job.capture.sync_interval = Duration::from_millis(5);
    job.replicas[0].sync_interval = Duration::from_millis(5);
    start(vec![job])
}

fn up_to_date(facts: &DatabaseFacts) -> bool {
    facts.captured.is_some() && facts.health == Health::Live && facts.behind().count() == 0
}

/// A short life with some commits.
async fn live(dir: &Path) {
    let place = Place::at(dir);
    let app = create(&place.path, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)");
    let daemon = hasty(&place.path, &place.replica);
    wait_for(&daemon, "it is taken up", up_to_date).await;
    for _ in 0..3 {
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        insert(&app, 2);
        wait_for(&daemon, "it is shipped", |f| up_to_date(f) && f.captured.unwrap().batch > batch).await;
    }
    stop(daemon).await;
}

/// F97, F96: the process ends, as in a power cut, at each step of making
/// something durable. The next life goes on; nothing is sent whole again and
/// nothing unfinished stays.
#[tokio::test(flavor = "multi_thread")]
async fn ended_at_any_step_the_next_life_goes_on() {
    let points = [
        "durable::before-create",
        "durable::before-write",
        "durable::before-fsync",
        "durable::before-rename",
        "durable::after-rename",
        "durable::before-fsync-dir",
        "page-map::write",
        "page-map::sync",
        "spool::remove",
    ];
    let mut cases: Vec<(&str, u32)> = points.iter().flat_map(|p| [0, 1, 2, 3].map(|n| (*p, n))).collect();
    let mut running = tokio::task::JoinSet::new();
    let mut cut_short = 0;
    while !cases.is_empty() || !running.is_empty() {
        while running.len() < 3
            && let Some((point, passed)) = cases.pop()
        {
            running.spawn_blocking(move || {
                let case = format!("{point}, passed {passed} times before");
                let dir = tempfile::tempdir().unwrap();
                assert!(run_child("live", dir.path(), ""));
                let survived = run_child("live", dir.path(), &format!("{point}={passed}*off->return(abort)"));
                let drafts = unfinished_files_below(dir.path());
                assert!(drafts <= 2, "{case}: {drafts} unfinished files");
                assert!(run_child("live", dir.path(), ""), "{case}: the life after did not end well");
                (case, dir, survived)
            });
        }
        let (case, dir, survived) = running.join_next().await.unwrap().unwrap();
        cut_short += usize::from(!survived);
        let place = Place::at(dir.path());
        assert!(rebuild(&place.replica).await == consistent_copy(&place.path), "{case}");
        assert_eq!(bases(&place.replica).await, [1], "{case}");
        assert_eq!(unfinished_files_below(dir.path()), 0, "{case}");
    }
    assert!(cut_short > 30, "only {cut_short} lives were cut short");
}

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// F104: each call fails for a while. Nothing panics, nothing half is seen, and
/// all is well again within five seconds after the fault has ended.
#[test]
fn a_failing_call_anywhere_passes_within_five_seconds_after_its_end() {
    for task in ["faults", "faults while taking up"] {
        let dir = tempfile::tempdir().unwrap();
        assert!(run_child(task, dir.path(), ""), "{task}");
    }
}

async fn faults(dir: &Path) {
    keep_log();
    let (path, app) = database(dir, TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = hasty(&path, &replica);
    wait_for(&daemon, "it is taken up", up_to_date).await;
    let mut noticed = 0;
    for (point, errno) in [
        ("durable::before-create", EMFILE),
        ("durable::before-write", ENOSPC),
        ("durable::before-fsync", EIO),
        ("durable::before-rename", EROFS),
        ("durable::after-rename", EIO),
        ("durable::before-fsync-dir", EIO),
        ("page-map::read", EIO),
        ("page-map::write", ENOSPC),
        ("page-map::sync", EIO),
        ("page-map::truncate", EIO),
        ("spool::read", EMFILE),
        ("spool::remove", EROFS),
        ("log::read", EIO),
    ] {
        fail::cfg(point, &format!("return({errno})")).unwrap();
        insert(&app, 30);
        app.execute_batch("DELETE FROM t; VACUUM").unwrap();
        insert(&app, 2);
        let fault = Instant::now();
        let trouble = || {
            let facts = daemon.board().read()[0].clone();
            matches!(facts.health, Health::Broken(_)) || facts.replicas[0].error.is_some()
        };
        while fault.elapsed() < Duration::from_millis(400) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        noticed += usize::from(trouble());
        let batch = daemon.board().read()[0].captured.unwrap().batch;
        fail::remove(point);
        insert(&app, 1);
        wait_within(Duration::from_secs(5), &daemon, point, |f| up_to_date(f) && f.captured.unwrap().batch > batch)
            .await;
    }
    assert!(noticed >= 9, "only {noticed} of the faults made trouble");
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_eq!(unfinished_files_below(dir), 0);
    assert_eq!(bases(&replica).await, [1], "no fault was a reason to send everything again");
    let lines = log_lines(&path);
    assert!(!lines.iter().any(|line| line.contains("internal error")), "{lines:#?}");
    assert!(lines.len() < 80, "{lines:#?}");
}

/// The same while a new history begins, because the local state is gone.
async fn faults_while_taking_up(dir: &Path) {
    let (path, app) = database(dir, TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let state = capture::default_meta_path(&path);
    for (point, errno) in [
        ("durable::before-mkdir", EROFS),
        ("durable::before-fsync-dir", EIO),
        ("lock::open", EMFILE),
        ("spool::list", EIO),
        ("page-map::open", EMFILE),
        ("page-map::create", ENOSPC),
        ("page-map::sync", EIO),
        ("log::open", EMFILE),
        ("capture::begin-read", EIO),
    ] {
        let _ = std::fs::remove_dir_all(&state);
        fail::cfg(point, &format!("return({errno})")).unwrap();
        let daemon = hasty(&path, &replica);
        until("it fails", || matches!(daemon.board().read()[0].health, Health::Broken(_)));
        insert(&app, 3);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(unfinished_files_below(dir), 0, "{point}");
        fail::remove(point);
        wait_within(Duration::from_secs(5), &daemon, point, up_to_date).await;
        stop(daemon).await;
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    }
}

/// A full disk is no reason to throw away what waits for a replica and to send
/// the whole database instead.
#[test]
fn no_room_for_merging_a_backlog_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run_child("full disk", dir.path(), ""));
}

async fn full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let mut database = Database::new(capture::Options::new(&path), Followed::default());
    let base = database.base(SystemTime::now()).unwrap();
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let mut uploader = Uploader::new(replica.clone(), Encoding::Block, 0);
    let (spool, generation) = (database.spool().unwrap(), base.generation());
    assert_eq!(uploader.advance(&spool, generation).await.unwrap(), Advanced::NeedsBase);
    uploader.put_base(base).await.unwrap();
    for _ in 0..3 {
        app.execute("INSERT INTO t(x) VALUES (randomblob(4 << 20))", []).unwrap();
        database.capture(SystemTime::now()).unwrap();
    }
    for (point, errno) in
        [("durable::before-create", ENOSPC), ("durable::before-write", ENOSPC), ("spool::read", EMFILE)]
    {
        fail::cfg(point, &format!("return({errno})")).unwrap();
        let error = uploader.advance(&spool, generation).await.unwrap_err();
        assert!(matches!(error, Error::Merge(_)), "{point}: {error:?}");
        fail::remove(point);
    }
    assert_eq!(uploader.advance(&spool, generation).await.unwrap(), Advanced::Shipped);
    assert_eq!(uploader.advance(&spool, generation).await.unwrap(), Advanced::UpToDate);
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_eq!(bases(&replica).await, [1]);
}

/// A fault in the program itself stops neither the other databases nor, for
/// long, the one that met it.
#[test]
fn a_panic_in_one_step_is_reported_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run_child("panics", dir.path(), ""));
}

async fn panics(dir: &Path) {
    let (path, app) = database(dir, TABLE);
    let (other_path, other_app) = database(dir, TABLE);
    let store = Arc::new(MemoryStorage::new());
    let (replica, other) = (replica_in(store.clone(), "r"), replica_in(store, "other"));
    // One thread for both: it must not die.
    let settings = Settings { workers: 1, ..Settings::default() };
    let daemon = Daemon::start(vec![job(&path, &[&replica]), job(&other_path, &[&other])], settings);
    wait_for(&daemon, "both are followed", up_to_date).await;
    fail::cfg("log::read", "1*panic(a fault in the program)").unwrap();
    insert(&app, 1);
    until(
        "it is reported",
        || matches!(&daemon.board().read()[0].health, Health::Broken(why) if why.contains("internal error")),
    );
    insert(&other_app, 1);
    wait_for(&daemon, "both are followed again", up_to_date).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    assert_same_pages(&rebuild(&other).await, &consistent_copy(&other_path));
    let daemon = follow(&path, &[&replica]).await;
    stop(daemon).await;
}
