//! A database that is left alone: nothing of it is held, and whatever happens to
//! it meanwhile, what is captured afterwards is what is there.

use std::path::Path;
use std::time::{Duration, Instant};

use brooklet::capture::{Database, Followed, Limits, Options, Parking};
use brooklet::disk::Disks;
use rusqlite::Connection;

use crate::capture::{Rig, consistent_copy};
use crate::failures_capture::set_times_back;
use crate::pretend::{Pretend, bytes_of_locks, bytes_read, seconds};
use crate::running::checkpoint;

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";
const AFTER: Duration = Duration::from_secs(60);

fn insert(app: &Connection, rows: u32) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(600))", []).unwrap();
    }
}

/// A database whose follower leaves it alone after a minute, followed now.
fn rig() -> (Rig, Connection, Pretend) {
    let (mut rig, app) = Rig::new(TABLE);
    let parking = Some(Parking { after: AFTER, among: 0 });
    rig.followed = Database::new(Options { parking, ..Options::new(&rig.path) }, Followed::default());
    let mut time = Pretend::new();
    insert(&app, 50);
    rig.capture();
    time.pass(&mut rig.followed, seconds(5));
    (rig, app, time)
}

/// Waits until it may be left alone, and does.
fn park(rig: &mut Rig, time: &mut Pretend) {
    assert!(!rig.followed.park(time.now(), time.wall(), None), "not yet");
    time.pass(&mut rig.followed, AFTER + seconds(20));
    assert!(rig.followed.park(time.now(), time.wall(), None));
    assert!(time.event(&mut rig.followed).parked);
}

fn open_files(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names.filter(|name| name.starts_with(path.parent().unwrap())).count()
}

/// F110: of a parked database only the claim on its local state is held, and nothing is read to see that it is still idle.
#[test]
fn a_parked_database_holds_nothing_but_its_claim() {
    let (mut rig, app, mut time) = rig();
    drop(app);
    assert!(open_files(&rig.path) > 4);
    park(&mut rig, &mut time);
    assert_eq!(open_files(&rig.path), 1, "the lock");
    let before = bytes_read();
    let passed = time.pass(&mut rig.followed, seconds(600));
    // Asking for the number counts, too.
    assert!(bytes_read() - before < 200);
    assert_eq!(passed.asked, 0);
    assert!(time.event(&mut rig.followed).parked);
}

#[test]
fn a_commit_to_a_parked_database_is_captured_without_reading_the_rest() {
    let (mut rig, app, mut time) = rig();
    insert(&app, 2000);
    rig.capture();
    park(&mut rig, &mut time);
    insert(&app, 1);
    let (others, before) = (bytes_of_locks(), bytes_read());
    let stepped = time.event(&mut rig.followed);
    assert!(stepped.live && !stepped.parked);
    let read = (bytes_read() - before).saturating_sub(others);
    rig.capture();
    assert!(read < 200_000, "{read} bytes of a database with more than a million");
    assert_eq!(rig.followed.counters().resyncs, 0);
    rig.assert_shadow_equals_source();
}

/// F6: neither the sizes of the files nor the times of their content tell that there was a commit.
#[test]
fn a_commit_to_a_parked_database_whose_times_were_put_back_is_captured() {
    let (mut rig, app, mut time) = rig();
    set_times_back(&rig.path);
    park(&mut rig, &mut time);
    let sizes = || ["", "-wal"].map(|end| std::fs::metadata(format!("{}{end}", rig.path.display())).unwrap().len());
    let before = sizes();
    app.execute("UPDATE t SET x = randomblob(600) WHERE id = 7", []).unwrap();
    set_times_back(&rig.path);
    assert_eq!(sizes(), before);
    let stepped = time.event(&mut rig.followed);
    assert!(stepped.live && !stepped.parked);
    rig.capture();
    rig.assert_shadow_equals_source();
}

/// The log began anew, as it does with the first commit after a checkpoint: the
/// end of the old run is still to be seen behind the new one.
#[test]
fn one_restart_of_the_log_of_a_parked_database_is_followed() {
    let (mut rig, app, mut time) = rig();
    insert(&app, 300);
    park(&mut rig, &mut time);
    checkpoint(&app, "PASSIVE");
    for rows in [1, 3] {
        insert(&app, rows);
        time.event(&mut rig.followed);
        rig.capture();
        rig.assert_shadow_equals_source();
    }
    assert_eq!(rig.followed.counters().resyncs, 0);
}

#[test]
fn what_cannot_be_proven_about_the_time_alone_is_compared() {
    type Meanwhile = fn(&Connection);
    let cases: [(&str, Meanwhile); 4] = [
        ("two restarts", |app| {
            for _ in 0..2 {
                insert(app, 2);
                checkpoint(app, "PASSIVE");
            }
            insert(app, 2);
        }),
        ("a run longer than the old one", |app| insert(app, 900)),
        ("a longer old run, cut", |app| {
            insert(app, 400);
            checkpoint(app, "TRUNCATE");
            insert(app, 1);
        }),
        ("a limit on the size of the log", |app| {
            app.execute_batch("PRAGMA journal_size_limit=0").unwrap();
            insert(app, 400);
            checkpoint(app, "RESTART");
            insert(app, 1);
        }),
    ];
    for (what, meanwhile) in cases {
        let (mut rig, app, mut time) = rig();
        insert(&app, 30);
        park(&mut rig, &mut time);
        meanwhile(&app);
        time.event(&mut rig.followed);
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, 1, "{what}");
    }
}

/// As every idle database is when it is taken up: an empty log has no last frame to prove anything with.
#[test]
fn a_parked_database_whose_log_was_empty_is_compared() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 50);
    drop(app);
    let parking = Some(Parking { after: AFTER, among: 0 });
    rig.followed = Database::new(Options { parking, ..Options::new(&rig.path) }, Followed::default());
    let mut time = Pretend::new();
    time.pass(&mut rig.followed, seconds(5));
    rig.capture();
    park(&mut rig, &mut time);
    assert_eq!(std::fs::metadata(rig.path.with_file_name("db-wal")).unwrap().len(), 0);
    let app = Connection::open(&rig.path).unwrap();
    for (rows, compared) in [(1, 1), (3, 1)] {
        insert(&app, rows);
        time.event(&mut rig.followed);
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, compared);
    }
}

/// Programs that open it, write and close again remove the log each time.
#[test]
fn a_parked_database_whose_log_is_removed_is_compared() {
    let (mut rig, app, mut time) = rig();
    drop(app);
    park(&mut rig, &mut time);
    let app = Connection::open(&rig.path).unwrap();
    insert(&app, 3);
    drop(app);
    time.event(&mut rig.followed);
    rig.capture();
    rig.assert_shadow_equals_source();
}

#[test]
fn a_parked_database_that_is_opened_and_read_stays_parked() {
    let (mut rig, app, mut time) = rig();
    park(&mut rig, &mut time);
    let count: u32 = app.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 50);
    assert!(time.event(&mut rig.followed).parked);
    rig.followed.finish(time.now(), time.wall()).unwrap();
    assert!(time.event(&mut rig.followed).parked, "nor does stopping touch it");
}

/// F114: what was committed last before a database was deleted.
#[test]
fn the_last_commit_of_a_deleted_database_is_captured() {
    let (mut rig, app, mut time) = rig();
    insert(&app, 5);
    let expected = consistent_copy(&rig.path);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", rig.path.display())).unwrap();
    }
    time.skip(seconds(1));
    let stepped = rig.followed.step(time.now(), time.wall());
    assert!(stepped.waiting && stepped.trouble.is_some());
    rig.drain();
    rig.assert_shadow_equals(&expected);
}

/// F103: a reader of the application keeps the log from being cut, the disk is
/// nearly full: our guard is not what keeps the log long. It is taken up again,
/// and cut, when the reader has ended.
#[test]
fn on_a_nearly_full_disk_a_long_log_is_given_up() {
    let (mut rig, app, mut time) = rig();
    let limits = Limits { disks: std::sync::Arc::new(Disks::new(Some(u64::MAX))), ..Limits::default() };
    rig.reopen_with(|options| Options { limits, ..options });
    rig.capture();
    let reader = Connection::open(&rig.path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    app.execute_batch("BEGIN").unwrap();
    insert(&app, 20_000);
    app.execute_batch("COMMIT").unwrap();
    time.skip(seconds(2));
    let stepped = rig.followed.step(time.now(), time.wall());
    let trouble = stepped.trouble.unwrap();
    assert!(!stepped.live && trouble.contains("the disk is nearly full"), "{trouble}");
    insert(&app, 1);
    reader.execute_batch("COMMIT").unwrap();
    let deadline = Instant::now() + seconds(20);
    loop {
        time.skip(seconds(5));
        let stepped = rig.followed.step(time.now(), time.wall());
        if stepped.live {
            break;
        }
        assert!(Instant::now() < deadline, "{stepped:?}");
    }
    let log = std::fs::metadata(format!("{}-wal", rig.path.display())).unwrap().len();
    assert!(log < 8 << 20, "{log}");
    rig.capture();
    rig.assert_shadow_equals_source();
}
