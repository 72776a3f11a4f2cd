//! Failures around stopping and standing still: many databases and a replica that
//! is away, a stop that is cancelled, closing beside checkpoints, a machine that
//! is suspended.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use brooklet::capture::{self, Followed};
use brooklet::replica::{Layout, Replica};
use brooklet::storage::{FileStorage, Key, MemoryStorage, Storage};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::capture::consistent_copy;
use crate::fault::Moody;
use crate::running::{
    TABLE, arrives, assert_same_pages, bases, checkpoint, database, follow, insert, job, keep_log, log_lines, rebuild,
    replica_in, restored, start, stop, wait_for,
};

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guard is gone: nobody is in the way of a checkpoint that empties the log.
fn let_go(app: &Connection) -> bool {
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).is_ok_and(|busy| busy == 0)
}

/// F90: the deadline is one for all databases, and what is not uploaded by then is kept.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_databases_stop_under_one_deadline_with_the_replica_away() {
    const DATABASES: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let storage = Moody::new(Arc::new(MemoryStorage::new()));
    let apps: Vec<_> = (0..DATABASES).map(|_| database(dir.path(), TABLE)).collect();
    let replicas: Vec<_> = (0..DATABASES).map(|n| replica_in(storage.clone(), &format!("r{n}"))).collect();
    let jobs = || apps.iter().zip(&replicas).map(|((path, _), replica)| job(path, &[replica])).collect();
    let daemon = start(jobs());
    let deadline = Instant::now() + PATIENCE;
    while daemon.board().read().iter().any(|f| f.captured.is_none() || f.behind().count() > 0) {
        assert!(Instant::now() < deadline, "the bases do not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    storage.set_down(true);
    apps.iter().for_each(|(_, app)| insert(app, 1));
    let patience = Duration::from_secs(5);
    let began = Instant::now();
    let unconfirmed = daemon.stop(patience).await;
    // One deadline, not one for each; the rest is for a busy machine.
    assert!(began.elapsed() < patience * 3, "{:?}", began.elapsed());
    assert_eq!(unconfirmed.len(), DATABASES);
    assert!(unconfirmed.iter().all(|u| u.replica.is_some()), "captured, and not uploaded: {:?}", unconfirmed[0]);
    // The application goes on and overwrites its logs: what was captured is enough.
    apps.iter().for_each(|(_, app)| assert!(let_go(app)));
    storage.set_down(false);
    stop(start(jobs())).await;
    for (n, (path, _)) in apps.iter().enumerate().step_by(7) {
        assert_same_pages(&rebuild(&replicas[n]).await, &consistent_copy(path));
        assert_eq!(bases(&replicas[n]).await, [1]);
    }
}

/// F92: whoever waits for the stop may give up at any moment of it, and ask for it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_cancelled_leaves_nothing_held() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    app.busy_timeout(Duration::ZERO).unwrap();
    let storage = Moody::new(Arc::new(MemoryStorage::new()));
    let replica = replica_in(storage.clone(), "r");
    stop(follow(&path, &[&replica]).await).await;
    for micros in [0, 100, 500, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000] {
        let daemon = start(vec![job(&path, &[&replica])]);
        wait_for(&daemon, "it is followed", |f| f.captured.is_some()).await;
        storage.set_down(true);
        insert(&app, 1);
        let given_up = tokio::time::timeout(Duration::from_micros(micros), daemon.stop(PATIENCE)).await;
        assert!(given_up.is_err(), "the replica is away, so that the stop takes long");
        let deadline = Instant::now() + PATIENCE;
        while !let_go(&app) {
            assert!(Instant::now() < deadline, "after {micros} µs the guard was left behind");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        storage.set_down(false);
        stop(daemon).await;
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    }
    assert_eq!(bases(&replica).await, [1]);
}

/// F93: what is closed while others checkpoint, and closed twice, is closed without a complaint.
#[test]
fn closing_beside_checkpoints_and_closing_twice_is_no_error() {
    keep_log();
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let stopped = Arc::new(AtomicBool::new(false));
    let other = {
        let (path, stopped) = (path.clone(), stopped.clone());
        std::thread::spawn(move || {
            let other = Connection::open(path).unwrap();
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                checkpoint(&other, ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][n % 4]);
            }
        })
    };
    let options = capture::Options { busy_timeout: Duration::from_secs(5), ..capture::Options::new(&path) };
    let mut followed = capture::Database::new(options, Followed::default());
    for _ in 0..150 {
        insert(&app, 1);
        let _ = followed.step(Instant::now(), SystemTime::now());
        followed.finish(Instant::now(), SystemTime::now()).unwrap();
        followed.release();
        followed.release();
    }
    stopped.store(true, Ordering::Relaxed);
    other.join().unwrap();
    assert!(let_go(&app));
    let complaints: Vec<_> = log_lines(&path).into_iter().filter(|l| l.contains("ERROR")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The program in a process of its own, ended with the test.
struct Program(Child);

impl Program {
    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// F98: a process that stood still goes on where it was. Its guard is a lock, and locks do not sleep.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_suspended_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    app.busy_timeout(Duration::ZERO).unwrap();
    insert(&app, 10);
    let place: PathBuf = dir.path().join("replica");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(place.clone()));
    let replica = Replica::new("file".to_owned(), storage, Key::ROOT, Layout::Decimal);
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.arg("replicate").arg(&path).arg(format!("file://{}", place.display()));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = Program(command.spawn().unwrap());
    arrives(&replica, &path).await;
    for round in 0..3 {
        program.send(Signal::STOP);
        // The application goes on: commits, and every kind of checkpoint.
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            insert(&app, 20);
            checkpoint(&app, mode);
        }
        assert!(!let_go(&app), "the guard is still there in round {round}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        program.send(Signal::CONT);
        arrives(&replica, &path).await;
    }
    program.send(Signal::TERM);
    assert!(program.0.wait().unwrap().success());
    assert_same_pages(&restored(&replica).await, &consistent_copy(&path));
    assert_eq!(bases(&replica).await, [1], "nothing is sent whole a second time");
}
