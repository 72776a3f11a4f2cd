//! Locks that applications hold, and for how long: writers that sit on theirs,
//! readers of every age, checkpoints that wait until nobody needs the log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::capture::checkpoint::Policy;
use brooklet::capture::{Database, Followed, Options};
use brooklet::daemon::Job;
use brooklet::status::DatabaseId;
use brooklet::storage::MemoryStorage;

use crate::capture::Rig;
use crate::elsewhere::Elsewhere;
use crate::pretend::{Pretend, millis, seconds};
use crate::running::{
    TABLE, arrives, create, database, follow, insert, job, replica_in, start, stop, until, wait_for, wait_within,
};

/// More than any test has.
const FOR_EVER: Duration = Duration::from_secs(600);
const ROW: &str = "INSERT INTO t(x) VALUES (randomblob(600))";

/// F43: more databases than there are threads are held by a writer that does not end, or
/// by a connection that keeps all others out, before they are taken up and after. Whoever waited for
/// one of them, with this busy timeout, would not come back before the end of the test.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_sit_on_their_locks_delay_no_other_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStorage::new());
    let patient = |path: &Path, name: &str| {
        let mut job: Job = job(path, &[&replica_in(store.clone(), name)]);
        job.capture.busy_timeout = FOR_EVER;
        job
    };
    let held: Vec<_> = (0..4).map(|_| database(dir.path(), TABLE)).collect();
    let early: Vec<_> = (0..4).map(|_| database(dir.path(), TABLE)).collect();
    for (_, app) in &early {
        insert(app, 5);
        app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(x) VALUES (1)").unwrap();
    }
    let (path, app) = database(dir.path(), TABLE);
    let both = held.iter().chain(&early);
    let mut jobs: Vec<_> = both.enumerate().map(|(n, (path, _))| patient(path, &format!("h{n}"))).collect();
    let free = replica_in(store.clone(), "free");
    jobs.push(Job { replicas: job(&path, &[&free]).replicas, ..patient(&path, "free") });
    let daemon = start(jobs);
    wait_for(&daemon, "all are taken up", |f| f.captured.is_some()).await;
    for (_, app) in &held {
        insert(app, 5);
        app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(x) VALUES (1)").unwrap();
    }
    let tried =
        || -> Vec<_> { daemon.databases()[..8].iter().map(|id| daemon.counters(*id).unwrap().checkpoints).collect() };
    let before = tried();
    assert!(before[4..].iter().all(|checkpoints| *checkpoints > 0), "there was something to copy at once");
    let deadline = Instant::now() + seconds(60);
    while tried().iter().zip(&before).take(4).any(|(now, before)| now == before) {
        assert!(Instant::now() < deadline, "a checkpoint of each is tried");
        let batch = captured(&daemon, &path);
        insert(&app, 1);
        wait_for(&daemon, "the other one is captured", |f| *f.path != path || f.captured.unwrap().batch > batch).await;
    }
    arrives(&free, &path).await;
    // What they have committed is on the replicas before the end, and they are still at it.
    stop(daemon).await;
    for (n, (path, app)) in held.iter().chain(&early).enumerate() {
        app.execute_batch("ROLLBACK").unwrap();
        arrives(&replica_in(store.clone(), &format!("h{n}")), path).await;
    }
}

fn captured(daemon: &brooklet::daemon::Daemon, path: &Path) -> u64 {
    let facts = daemon.board().read();
    facts.iter().find(|f| *f.path == *path).unwrap().captured.unwrap().batch
}

/// F43: the same with connections in other processes that keep everybody out.
#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_locked_exclusively_delay_no_other() {
    const OWNED: usize = 2;
    const WAIT: Duration = Duration::from_secs(6);
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStorage::new());
    let mut owners = Vec::new();
    let mut jobs = Vec::new();
    for n in 0..OWNED {
        let path = dir.path().join(format!("exclusive{n}.db"));
        drop(create(&path, TABLE));
        let mut owner = Elsewhere::open(&path, seconds(5));
        owner.run("PRAGMA locking_mode=EXCLUSIVE");
        owner.run(ROW);
        owners.push(owner);
        let mut job = job(&path, &[&replica_in(store.clone(), &format!("x{n}"))]);
        job.capture.busy_timeout = WAIT;
        jobs.push(job);
    }
    let (path, app) = database(dir.path(), TABLE);
    let free = replica_in(store.clone(), "free");
    jobs.push(job(&path, &[&free]));
    let daemon = start(jobs);
    let errors = || {
        let of = |id: &DatabaseId| daemon.counters(*id).unwrap().sync_errors;
        daemon.databases()[..OWNED].iter().map(of).min().unwrap()
    };
    // Each of them is waited for once, which takes all threads, and from then on only tried.
    until("all are refused", || errors() > 0);
    wait_for(&daemon, "the other one is taken up", |f| *f.path != path || f.captured.is_some()).await;
    let (deadline, enough, mut longest) = (Instant::now() + seconds(60), errors() + 3, Duration::ZERO);
    while errors() < enough {
        assert!(Instant::now() < deadline, "they are tried again");
        let (batch, asked) = (captured(&daemon, &path), Instant::now());
        insert(&app, 1);
        wait_for(&daemon, "the other one is captured", |f| *f.path != path || f.captured.unwrap().batch > batch).await;
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < WAIT * 3 / 4, "a commit waited for {longest:?}");
    drop(owners);
    wait_within(seconds(60), &daemon, "once they are free they are taken up", |f| f.captured.is_some()).await;
    stop(daemon).await;
}

/// F45: there are four slots for readers of the log. Six readers, each of another age, leave
/// room for each other, for our guard and for a seventh. Each that ends lets the log be copied further, up to
/// the next slot: the last three share one.
#[test]
fn readers_of_every_age_find_room_beside_the_guard() {
    let (mut rig, app) = Rig::new(&format!("PRAGMA synchronous=OFF; {TABLE}"));
    let policy = Policy { min_frames: 20, ..Policy::default() };
    rig.followed = Database::new(Options { checkpoint: policy, ..Options::new(&rig.path) }, Followed::default());
    let mut time = Pretend::new();
    insert(&app, 50);
    time.pass(&mut rig.followed, seconds(5));
    let mut readers = Vec::new();
    for _ in 0..6 {
        insert(&app, 30);
        // Busy timeout 0: whoever finds no slot says so.
        let mut reader = Elsewhere::open(&rig.path, seconds(0));
        reader.run("BEGIN");
        let rows = reader.run("SELECT count(*) FROM t");
        readers.push((reader, rows));
        time.pass(&mut rig.followed, seconds(1));
        let mut passer_by = Elsewhere::open(&rig.path, seconds(0));
        assert_eq!(passer_by.run("SELECT count(*) FROM t"), readers.last().unwrap().1);
    }
    let moved = |rig: &Rig| {
        let counters = rig.followed.counters();
        counters.checkpoints - counters.futile_checkpoints
    };
    // The oldest goes first.
    while let Some((mut reader, rows)) = (!readers.is_empty()).then(|| readers.remove(0)) {
        assert_eq!(reader.run("SELECT count(*) FROM t"), rows, "its snapshot is still whole");
        let before = moved(&rig);
        reader.run("COMMIT");
        insert(&app, 30);
        // No longer than the longest wait after an attempt in vain.
        time.pass(&mut rig.followed, seconds(61));
        let shared = [1, 2].contains(&readers.len());
        assert_eq!(moved(&rig) > before, !shared, "{} are left: {:?}", readers.len(), rig.followed.counters());
    }
    let seals = rig.followed.counters().seals;
    insert(&app, 30);
    time.pass(&mut rig.followed, seconds(61));
    let counters = rig.followed.counters();
    assert!(counters.seals > seals && counters.resyncs == 0, "{counters:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F47: an application commits, and as it ends it waits until its own checkpoint has emptied the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_waits_until_its_log_is_empty_is_not_kept_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (path, keeper) = database(dir.path(), TABLE);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = follow(&path, &[&replica]).await;
    for rows in [1, 40, 3] {
        let mut app = Elsewhere::open(&path, seconds(30));
        (0..rows).for_each(|_| drop(app.run(ROW)));
        assert_eq!(app.run("PRAGMA wal_checkpoint(TRUNCATE)"), [0, 0, 0]);
        assert_eq!(std::fs::metadata(format!("{}-wal", path.display())).unwrap().len(), 0);
    }
    insert(&keeper, 1);
    arrives(&replica, &path).await;
    let counters = daemon.counters(daemon.databases()[0]).unwrap();
    assert_eq!(counters.resyncs, 0, "each new beginning of the log was followed with proof");
    stop(daemon).await;
}

/// F47: everything is captured, and somebody else has copied all of it. Then there is nothing
/// left to do for us but to get out of the way, and we do.
#[test]
fn a_guard_that_is_all_that_keeps_the_log_moves_out_of_the_way() {
    let (mut rig, app) = Rig::new(&format!("PRAGMA synchronous=OFF; {TABLE}"));
    insert(&app, 10);
    rig.capture();
    let mut other = Elsewhere::open(&rig.path, seconds(30));
    let copied = other.passive();
    assert_eq!(copied.log, copied.copied, "the guard is at the end of the log");
    assert_eq!(rig.followed.counters().checkpoints, 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || other.run("PRAGMA wal_checkpoint(TRUNCATE)"));
        while !waiting.is_finished() {
            rig.followed.step(Instant::now(), SystemTime::now());
            std::thread::sleep(millis(20));
        }
        assert_eq!(waiting.join().unwrap(), [0, 0, 0]);
    });
    insert(&app, 3);
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
}
