//! What checkpoints may cost the application, and what bounds its log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use brooklet::capture::checkpoint::Policy;
use brooklet::capture::{Database, Followed, Options};
use brooklet::storage::MemoryStorage;
use brooklet::upkeep;
use rusqlite::Connection;

use crate::capture::Rig;
use crate::elsewhere::Elsewhere;
use crate::fault::Trickle;
use crate::pretend::{Pretend, bytes_read, millis, seconds};
use crate::running::{assert_restores, database, replica_in, start, stop};
use crate::upkeep_daemon::{count, kept, listing_with};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";
const ROW: &str = "INSERT INTO t(x) VALUES (randomblob(600))";

/// A followed database whose log is checkpointed from so many frames on.
fn rig(setup: &str, policy: Policy) -> (Rig, Connection) {
    let (mut rig, app) = Rig::new(setup);
    let options = Options { checkpoint: policy, ..Options::new(&rig.path) };
    rig.followed = Database::new(options, Followed::default());
    (rig, app)
}

fn from(min_frames: u32) -> Policy {
    Policy { min_frames, ..Policy::default() }
}

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute(ROW, []).unwrap();
    }
}

/// A transaction of about one frame for each row.
fn burst(app: &Connection, rows: usize) {
    app.execute_batch("BEGIN").unwrap();
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(3500))", []).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
}

/// Length of the log file, in frames.
fn log_frames(path: &Path) -> u64 {
    std::fs::metadata(format!("{}-wal", path.display())).unwrap().len() / (24 + 4096)
}

/// F30: a reader stays for the whole time (1.5 s instead of 60 s) while an
/// application in another process writes with a busy timeout (0.5 s instead of
/// 5 s). It is never refused.
#[test]
fn a_long_reader_does_not_make_us_refuse_the_application() {
    let (mut rig, app) = rig(TABLE, from(100));
    insert(&app, 200);
    rig.capture();
    let mut reader = Elsewhere::open(&rig.path, seconds(5));
    reader.run("BEGIN");
    assert_eq!(reader.run("SELECT count(*) FROM t"), [200]);
    let mut writer = Elsewhere::open(&rig.path, millis(500));
    writer.write_for(millis(1500), &[ROW]);
    let (mut time, until) = (Pretend::new(), Instant::now() + millis(1600));
    while Instant::now() < until {
        time.event(&mut rig.followed);
        time.skip(millis(400));
    }
    let written = writer.written();
    assert!(written.commits > 100 && written.refusals == 0, "{written:?}");
    assert!(rig.followed.counters().barriers.count() > 0);
    assert_eq!(reader.run("SELECT count(*) FROM t"), [200], "its snapshot is still whole");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F31: the log is over its hard limit and readers overlap so that it can never
/// restart. Nobody then copies the database while writers wait: what a step
/// reads follows the log, not the 40 MB of the database.
#[test]
fn a_log_over_its_limit_is_not_answered_with_a_copy_of_the_database() {
    let (mut rig, app) = rig(TABLE, Policy { min_frames: 20, truncate_frames: Some(40), ..Policy::default() });
    burst(&app, 10_000);
    rig.capture();
    let mut time = Pretend::new();
    time.pass(&mut rig.followed, seconds(30));
    let mut readers = [(); 2].map(|()| Elsewhere::open(&rig.path, seconds(5)));
    let before = rig.followed.counters();
    let mut most = 0;
    for round in 0..60 {
        let reader = &mut readers[round % 2];
        if round > 1 {
            reader.run("COMMIT");
        }
        reader.run("BEGIN");
        reader.run("SELECT count(*) FROM t");
        insert(&app, 3);
        let read = bytes_read();
        time.pass(&mut rig.followed, seconds(1));
        most = most.max(bytes_read() - read);
    }
    let counters = rig.followed.counters();
    assert!(log_frames(&rig.path) > 40 && counters.barriers.count() > before.barriers.count(), "{counters:?}");
    assert!(most < 8_000_000, "{most} bytes in one step");
    assert_eq!(counters.resyncs, 0);
    // 0.1 s is the aim; a busy machine's disk gets some more.
    assert!(counters.barriers.longest < seconds(2), "{counters:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F32: a reader keeps the log from being copied and nobody writes: a minute
/// passes with at most three attempts, no segment and no frame. Made-up time.
#[test]
fn a_pinned_log_is_left_alone() {
    let (mut rig, app) = rig(TABLE, from(50));
    rig.capture();
    let mut reader = Elsewhere::open(&rig.path, seconds(5));
    reader.run("BEGIN");
    reader.run("SELECT count(*) FROM t");
    insert(&app, 200);
    rig.capture();
    let mut time = Pretend::new();
    // What lies before the reader's mark is copied; more cannot be.
    time.event(&mut rig.followed);
    let (before, frames, position) = (rig.followed.counters(), log_frames(&rig.path), rig.followed.position());
    time.pass(&mut rig.followed, seconds(60));
    let after = rig.followed.counters();
    assert!((1..=3).contains(&(after.barriers.count() - before.barriers.count())), "{after:?}");
    assert_eq!((log_frames(&rig.path), rig.followed.position()), (frames, position));
    assert_eq!(after.seals, before.seals);
    // Once the reader is gone it is sealed, within the longest of the waits.
    reader.run("COMMIT");
    time.pass(&mut rig.followed, seconds(60));
    assert_eq!(rig.followed.counters().seals, before.seals + 1);
}

/// F33: a snapshot is under way for as long as the test wants; the log is copied and
/// starts over all the same, because a snapshot is made of what is on the replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_takes_long_does_not_keep_the_log_from_starting_over() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), crate::running::TABLE);
    insert(&app, 100);
    let line = Trickle::new(Arc::new(MemoryStorage::new()), |key, _| key.as_str().contains("/ltx/9/"));
    let replica = replica_in(line.clone(), "r");
    let policy = upkeep::Policy {
        snapshots: upkeep::Snapshots { interval: millis(300), at: None },
        ..upkeep::Policy::default()
    };
    let mut job = kept(&path, &[&replica], &policy);
    job.capture.checkpoint = from(50);
    let daemon = start(vec![job]);
    let seals = || daemon.counters(daemon.databases()[0]).unwrap().seals;
    let deadline = Instant::now() + seconds(60);
    let write_until = async |what: &str, done: &dyn Fn() -> bool| {
        let mut longest = 0;
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            insert(&app, 5);
            longest = longest.max(log_frames(&path));
            tokio::time::sleep(millis(20)).await;
        }
        longest
    };
    write_until("a snapshot is begun", &|| line.asked() > 0).await;
    let before = seals();
    let longest = write_until("the log is sealed", &|| seals() >= before + 5).await;
    // Twenty times what makes a checkpoint due; a busy machine gets some more.
    assert!(longest < 1000, "{longest} frames");
    assert_eq!(line.asked(), 1, "the snapshot is still under way");
    line.allow(1000);
    listing_with(&replica, "the snapshot arrives", |listing| count(listing, 9) > 0).await;
    stop(daemon).await;
    assert_restores(&replica, &path).await;
}

/// F34: the guard stops the application's own checkpoints; ours bound the log.
/// A writer commits 2 frames every 50 ms for 100 s of made-up time.
#[test]
fn the_log_of_a_steady_writer_stays_bounded() {
    let (mut rig, app) = rig(TABLE, from(100));
    rig.capture();
    let (mut time, mut longest) = (Pretend::new(), 0);
    for _ in 0..2000 {
        insert(&app, 2);
        time.event(&mut rig.followed);
        time.skip(millis(50));
        // A row splits a page now and then.
        longest = longest.max(log_frames(&rig.path));
    }
    time.pass(&mut rig.followed, seconds(1));
    rig.drain();
    let counters = rig.followed.counters();
    assert!(longest <= 100 + 20, "{longest} frames");
    assert!(counters.seals > 20 && counters.resyncs == 0, "{counters:?}");
    rig.assert_shadow_equals_source();
}

/// F35: a burst leaves a long file behind; a minute later it is short.
#[test]
fn a_burst_does_not_leave_a_long_log_behind() {
    let (mut rig, app) = rig(TABLE, from(100));
    rig.capture();
    burst(&app, 2000);
    assert!(log_frames(&rig.path) > 2000);
    let mut time = Pretend::new();
    time.pass(&mut rig.followed, seconds(60));
    assert!(log_frames(&rig.path) <= 400, "{} frames", log_frames(&rig.path));
    insert(&app, 3);
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
}

/// F37: an application that does not wait at all meets us at most once for each
/// time we hold the write lock, and its read transactions can always go on to
/// write (no 517). 1.5 s at full speed, checkpoints as often as they can be.
#[test]
fn an_impatient_application_is_refused_no_oftener_than_we_seal() {
    let (mut rig, app) = rig(TABLE, from(100));
    insert(&app, 50);
    rig.capture();
    let mut writer = Elsewhere::open(&rig.path, seconds(0));
    // What a deferred transaction has read is still current when it comes to write.
    writer.write_for(millis(1500), &["BEGIN", "SELECT max(length(x)) FROM t", ROW, "COMMIT"]);
    let (mut time, until) = (Pretend::new(), Instant::now() + millis(1600));
    while Instant::now() < until {
        time.event(&mut rig.followed);
        // Many looks for each checkpoint, so that one of them that got in the way would show. Fewer than make up the
        // quiet spell after which an emptied log is cut, however long the writer has to wait for a processor.
        time.skip(millis(20));
        std::thread::sleep(millis(3));
    }
    let (written, counters) = (writer.written(), rig.followed.counters());
    assert!(written.commits > 100, "{written:?}");
    assert!(counters.barriers.count() > 3, "{counters:?}");
    assert_eq!(written.outdated, 0);
    assert!(u64::try_from(written.refusals).unwrap() <= counters.barriers.count(), "{written:?} {counters:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F34: a writer that never pauses is slowed down, or its log would grow for as
/// long as it is faster than the disk.
#[test]
fn the_log_of_a_writer_that_never_pauses_is_sealed_again_and_again() {
    let (mut rig, app) = rig(TABLE, from(200));
    insert(&app, 50);
    rig.capture();
    let mut writer = Elsewhere::open(&rig.path, seconds(60));
    let rows = "INSERT INTO t(x) SELECT randomblob(3500) FROM t LIMIT 32";
    writer.write_for(seconds(3), &["BEGIN IMMEDIATE", rows, "COMMIT"]);
    let (until, mut longest) = (Instant::now() + millis(3000), 0);
    while Instant::now() < until {
        rig.followed.step(Instant::now(), SystemTime::now());
        longest = longest.max(log_frames(&rig.path));
        std::thread::sleep(millis(5));
    }
    let (written, counters) = (writer.written(), rig.followed.counters());
    assert_eq!(written.refusals, 0, "it waits, and has its turn in time");
    assert!(counters.seals > 1 && counters.resyncs == 0, "{written:?}, {longest} frames, {counters:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F40: what waits to be captured takes many passes, each of which ends with new commits
/// in the log. The checkpoint does not wait for a look that finds nothing to capture.
#[test]
fn a_backlog_of_many_passes_does_not_put_the_checkpoint_off() {
    const PASS: u64 = 200_000;
    let (mut rig, app) = Rig::new(TABLE);
    let options = Options { checkpoint: from(100), max_pass_bytes: PASS, ..Options::new(&rig.path) };
    rig.followed = Database::new(options, Followed::default());
    rig.capture();
    insert(&app, 1500);
    assert!(log_frames(&rig.path) * (24 + 4096) > 10 * PASS);
    let (mut time, position) = (Pretend::new(), rig.followed.position().unwrap());
    time.event(&mut rig.followed);
    let counters = rig.followed.counters();
    assert!(rig.followed.position().unwrap().point.seq.get() >= position.point.seq.get() + 10);
    assert_eq!((counters.checkpoints, counters.seals), (1, 1), "with the first look");
    rig.drain();
    // The same under a writer, whose commits are a pass each.
    let mut writer = Elsewhere::open(&rig.path, seconds(60));
    let rows = "INSERT INTO t(x) SELECT randomblob(3500) FROM t LIMIT 60";
    writer.write_for(millis(1500), &["BEGIN IMMEDIATE", rows, "COMMIT"]);
    let until = Instant::now() + millis(1600);
    while Instant::now() < until {
        rig.followed.step(Instant::now(), SystemTime::now());
        std::thread::sleep(millis(5));
    }
    let (written, after) = (writer.written(), rig.followed.counters());
    assert!(written.commits > 5 && after.seals > counters.seals && after.resyncs == 0, "{written:?} {after:?}");
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// F41: a long file with few frames of the current run in it is a short log.
#[test]
fn frames_of_an_earlier_run_are_not_a_reason_to_checkpoint() {
    let (mut rig, app) = rig(TABLE, Policy { min_frames: 1000, ..Policy::default() });
    burst(&app, 3500);
    rig.capture();
    let mut time = Pretend::new();
    time.pass(&mut rig.followed, seconds(5));
    let barriers = rig.followed.counters().barriers;
    // The log restarts, and a commit a second keeps it from being quiet for less than the minute after which any
    // dirty log is due.
    for second in 0..55 {
        app.execute("UPDATE t SET x = randomblob(20) WHERE id = ?1", [second % 3 + 1]).unwrap();
        time.event(&mut rig.followed);
        time.skip(seconds(1));
    }
    assert!(log_frames(&rig.path) > 3000, "the file is still long");
    assert_eq!(rig.followed.counters().barriers, barriers, "no attempt");
}
