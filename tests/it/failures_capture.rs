//! What could make a captured history differ from the database's.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use brooklet::capture::checkpoint::Policy;
use brooklet::capture::{Database, Followed, Options};
use brooklet::ltx::Decoder;
use brooklet::spool::{Pending, Seq};
use brooklet::types::{PageSize, frame_end, lock_page};
use brooklet::wal::{FrameHeader, committed};
use rusqlite::Connection;

use crate::capture::Rig;
use crate::elsewhere::Elsewhere;
use crate::pretend::{Dice, Pretend, millis, seconds};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(600))", []).unwrap();
    }
}

fn checkpoint(app: &Connection, mode: &str) -> bool {
    app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok(row.get::<_, i64>(0)? == 0)).unwrap()
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// F5: after each checkpoint the log is written again from its start and stays
/// as long as it was. Six minutes of made-up time.
#[test]
fn commits_that_leave_the_log_as_long_as_it_was_are_noticed() {
    let (mut rig, app) = Rig::new(TABLE);
    let mut time = Pretend::new();
    insert(&app, 40);
    time.pass(&mut rig.followed, seconds(5));
    rig.drain();
    let length = std::fs::metadata(log_of(&rig.path)).unwrap().len();
    for round in 0..120 {
        let before = rig.followed.position().unwrap().point.seq;
        app.execute("UPDATE t SET x = randomblob(600) WHERE id = ?1", [round % 40 + 1]).unwrap();
        // The commit, then 2 s without another event.
        time.pass(&mut rig.followed, millis(1900));
        assert!(rig.followed.position().unwrap().point.seq > before, "round {round}");
        time.pass(&mut rig.followed, millis(1100));
        rig.drain();
        assert_eq!(std::fs::metadata(log_of(&rig.path)).unwrap().len(), length);
    }
    rig.assert_shadow_equals_source();
    let counters = rig.followed.counters();
    assert!(counters.seals > 115 && counters.resyncs == 0, "every run is a restart: {counters:?}");
}

/// F6: the files' times stand still, as they do for two commits within one tick, or
/// when the clock was set back: the log keeps its length and its time.
#[test]
fn commits_are_noticed_although_the_times_of_the_files_stand_still() {
    let (mut rig, app) = Rig::new(TABLE);
    let mut time = Pretend::new();
    insert(&app, 40);
    time.pass(&mut rig.followed, seconds(5));
    rig.drain();
    let length = std::fs::metadata(log_of(&rig.path)).unwrap().len();
    for round in 0..60 {
        set_times_back(&rig.path);
        let before = rig.followed.position().unwrap().point.seq;
        app.execute("UPDATE t SET x = randomblob(600) WHERE id = ?1", [round % 40 + 1]).unwrap();
        set_times_back(&rig.path);
        time.pass(&mut rig.followed, millis(1900));
        assert!(rig.followed.position().unwrap().point.seq > before, "round {round}");
        // Sometimes the log begins anew with the next commit, sometimes it goes on.
        time.pass(&mut rig.followed, millis(if round % 3 == 0 { 20 } else { 1100 }));
        rig.drain();
        assert_eq!(std::fs::metadata(log_of(&rig.path)).unwrap().len(), length);
    }
    rig.assert_shadow_equals_source();
    let counters = rig.followed.counters();
    assert!(counters.seals > 30 && counters.resyncs == 0, "{counters:?}");
}

/// Gives a database and its log a time long ago, without opening them.
pub(crate) fn set_times_back(path: &Path) {
    let long_ago = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: long_ago, last_modification: long_ago };
    for file in [path, &log_of(path)] {
        rustix::fs::utimensat(rustix::fs::CWD, file, &times, rustix::fs::AtFlags::empty()).unwrap();
    }
}

/// F7: a writer in another process commits, its own checkpoints included, while
/// ours come as often as they can: first at full speed, when a commit is always
/// under way, then with pauses in which everything can be copied. 2 s instead of 5 min.
#[test]
fn a_commit_between_the_last_copy_and_the_checkpoint_is_not_lost() {
    let (mut rig, app) = Rig::new(TABLE);
    let policy = Policy { min_frames: 50, ..Policy::default() };
    rig.followed = Database::new(Options { checkpoint: policy, ..Options::new(&rig.path) }, Followed::default());
    insert(&app, 50);
    rig.capture();
    let mut time = Pretend::new();
    let mut writer = Elsewhere::open(&rig.path, seconds(5));
    for pause in [0, 3, 1] {
        writer.write_at_times(
            millis(700),
            millis(pause),
            &[
                "BEGIN",
                "INSERT INTO t(x) VALUES (randomblob(900))",
                "UPDATE t SET x = randomblob(700) WHERE id % 41 = 7",
                "DELETE FROM t WHERE id % 13 = 5",
                "COMMIT",
            ],
        );
        let until = std::time::Instant::now() + millis(800);
        while std::time::Instant::now() < until {
            time.event(&mut rig.followed);
            time.skip(millis(400));
        }
        let written = writer.written();
        assert!(written.commits > 20 && written.refusals == 0, "{written:?}");
        rig.capture();
        rig.assert_shadow_equals_source();
    }
    let counters = rig.followed.counters();
    assert!(counters.seals >= 3 && counters.resyncs == 0, "{counters:?}");
}

/// Every segment of the spool, checked for pages that the database grew by but
/// that are in none of its frames.
fn assert_no_holes(rig: &Rig, from: Seq, mut pages: u32) -> u32 {
    let spool = rig.followed.spool().unwrap();
    let Pending::Segments(segments) = spool.pending(from) else { return pages };
    for segment in segments {
        let mut decoder = Decoder::new(spool.reader(segment.seq).unwrap()).unwrap();
        let lock = lock_page(segment.header.page_size).get();
        let (mut page, mut new) = (Vec::new(), Vec::new());
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            new.extend(Some(pgno.get()).filter(|n| *n > pages));
        }
        let grown: Vec<u32> = (pages + 1..=segment.header.commit).filter(|n| *n != lock).collect();
        assert_eq!(new, grown, "batch {} grows from {pages}", segment.seq);
        pages = segment.header.commit;
    }
    pages
}

/// F11: growth of all kinds between checkpoints of all kinds.
#[test]
fn every_page_that_the_database_grew_by_is_in_the_segment() {
    for seed in 0..4 {
        let (mut rig, app) = Rig::new(TABLE);
        let (mut dice, mut time) = (Dice::new(seed), Pretend::new());
        rig.capture();
        let (mut seq, mut pages) = (rig.followed.position().unwrap().point.seq, 0);
        for _ in 0..60 {
            match dice.roll(6) {
                0 => drop(app.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [dice.roll(90_000)]).unwrap()),
                1 => insert(&app, 5),
                2 => drop(app.execute("DELETE FROM t WHERE id % 3 = ?1", [dice.roll(3)]).unwrap()),
                3 => drop(checkpoint(&app, "PASSIVE")),
                4 => drop(time.pass(&mut rig.followed, seconds(3))),
                _ => app.execute_batch("VACUUM").unwrap(),
            }
            if dice.roll(2) == 0 {
                rig.capture();
                pages = if pages == 0 { rig_pages(&rig) } else { assert_no_holes(&rig, seq, pages) };
                seq = rig.followed.position().unwrap().point.seq;
            }
        }
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, 0, "seed {seed}");
    }
}

fn rig_pages(rig: &Rig) -> u32 {
    u32::try_from(crate::capture::consistent_copy(&rig.path).len() / 4096).unwrap()
}

/// F11: a log whose frames continue the chain but leave pages out, as a missing
/// frame would. It is not filled in quietly.
#[test]
fn growth_with_a_hole_in_it_is_a_break() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 20);
    rig.capture();
    let pages = u32::try_from(app.query_row("PRAGMA page_count", [], |r| r.get::<_, i64>(0)).unwrap()).unwrap();
    // Not the last connection while the guard is there, so the log stays.
    drop(app);
    rig.followed.release();
    append_frame(&log_of(&rig.path), pages + 4);
    // The next connection rebuilds it from the log.
    std::fs::remove_file(format!("{}-shm", rig.path.display())).unwrap();
    rig.capture();
    assert_eq!(rig.followed.counters().resyncs, 1);
    assert_eq!(assert_no_holes(&rig, Seq::FIRST, pages), pages + 4);
    rig.assert_shadow_equals_source();
}

/// Appends a commit of one page to a log, as SQLite would.
fn append_frame(log: &Path, pgno: u32) {
    let bytes = std::fs::read(log).unwrap();
    let found = committed(&bytes).unwrap();
    let page = vec![0x5a; found.header.page_size.bytes()];
    let header = FrameHeader { pgno, commit: pgno, salts: found.header.salts, chain: found.chain };
    let header = header.sealed(found.chain, found.header.big_endian, &page);
    let frames = u32::try_from(found.frames.len()).unwrap();
    let file = std::fs::File::options().write(true).open(log).unwrap();
    let at = frame_end(frames, found.header.page_size);
    file.write_all_at(&[&header.encode()[..], &page].concat(), at).unwrap();
}

/// F18: the application has its log cut whenever it restarts, also while nobody
/// watches.
#[test]
fn a_log_cut_by_journal_size_limit_is_no_proof_of_anything() {
    for limit in [0, 20_000] {
        let (mut rig, app) = Rig::new(TABLE);
        let old: i64 = app.query_row(&format!("PRAGMA journal_size_limit={limit}"), [], |r| r.get(0)).unwrap();
        assert_eq!(old, limit);
        insert(&app, 65);
        rig.capture();
        let captured = std::fs::metadata(log_of(&rig.path)).unwrap().len();
        rig.reopen();
        // Nothing grows, so nothing but the proof of continuity tells.
        (1..=90).for_each(|_| assert_eq!(app.execute("UPDATE t SET x = randomblob(600) WHERE id = 9", []), Ok(1)));
        assert!(checkpoint(&app, "PASSIVE"));
        app.execute("UPDATE t SET x = 'new' WHERE id = 3", []).unwrap();
        assert!(std::fs::metadata(log_of(&rig.path)).unwrap().len() < captured);
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, 1);
    }
}

/// F18, while it is watched: each cut follows a seal, so nothing is compared.
#[test]
fn a_log_cut_by_journal_size_limit_under_the_guard_is_followed() {
    let (mut rig, app) = Rig::new(&format!("PRAGMA journal_size_limit=0; {TABLE}"));
    let mut time = Pretend::new();
    for round in 0..10 {
        insert(&app, 40);
        time.pass(&mut rig.followed, seconds(5));
        rig.drain();
        let captured = std::fs::metadata(log_of(&rig.path)).unwrap().len();
        app.execute("UPDATE t SET x = randomblob(9) WHERE id = ?1", [round + 1]).unwrap();
        assert!(std::fs::metadata(log_of(&rig.path)).unwrap().len() < captured);
        rig.capture();
        rig.assert_shadow_equals_source();
    }
    let counters = rig.followed.counters();
    assert!(counters.seals == 10 && counters.resyncs == 0, "{counters:?}");
}

/// Runs a script in the command-line program, while nothing else has the database open.
fn shell(path: &Path, script: &str) {
    let output = Command::new("sqlite3").arg("-bail").arg(path).arg(script).output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// F20: another page size is another database, found without help.
#[test]
fn a_new_page_size_begins_a_new_history() {
    for size in [512, 8192, 65536] {
        let (mut rig, app) = Rig::new(TABLE);
        insert(&app, 200);
        rig.capture();
        rig.assert_shadow_equals_source();
        let old = rig.followed.position().unwrap().generation;
        rig.reopen();
        drop(app);
        shell(
            &rig.path,
            &format!("PRAGMA journal_mode=delete; PRAGMA page_size={size}; VACUUM; PRAGMA journal_mode=wal;"),
        );
        let app = Connection::open(&rig.path).unwrap();
        insert(&app, 3);
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_ne!(rig.followed.position().unwrap().generation, old);
        insert(&app, 300);
        rig.capture();
        rig.assert_shadow_equals_source();
    }
}

/// F20: other ways to rebuild the file are differences like any other.
#[test]
fn a_rebuilt_database_of_the_same_page_size_is_compared() {
    let scripts = [
        "PRAGMA journal_mode=delete; PRAGMA auto_vacuum=FULL; VACUUM; PRAGMA journal_mode=wal;",
        "PRAGMA journal_mode=delete; VACUUM; PRAGMA journal_mode=wal; DELETE FROM t WHERE id % 2;",
        "PRAGMA journal_mode=delete; UPDATE t SET x = 'short';",
    ];
    for script in scripts {
        let (mut rig, app) = Rig::new(TABLE);
        insert(&app, 200);
        rig.capture();
        let old = rig.followed.position().unwrap().generation;
        rig.reopen();
        drop(app);
        shell(&rig.path, script);
        let app = Connection::open(&rig.path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal").unwrap();
        insert(&app, 3);
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.position().unwrap().generation, old, "{script}");
        assert_eq!(rig.followed.counters().resyncs, 1, "{script}");
    }
}

/// F20: bytes kept free in each page, as encrypting and checksumming builds do.
#[test]
fn reserved_bytes_are_part_of_the_pages() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 200);
    rig.capture();
    rig.reopen();
    drop(app);
    let script = ["PRAGMA journal_mode=delete", ".filectrl reserve_bytes 32", "VACUUM", "PRAGMA journal_mode=wal"];
    let output = Command::new("sqlite3").arg("-bail").arg(&rig.path).args(script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let app = Connection::open(&rig.path).unwrap();
    insert(&app, 30);
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(crate::capture::consistent_copy(&rig.path)[20], 32, "the reserved bytes are there");
}

/// F21: pages move when others are freed, and the file shrinks with a commit.
#[test]
fn a_database_that_vacuums_itself_is_followed_at_every_size() {
    for (mode, seed) in [("FULL", 1), ("FULL", 2), ("INCREMENTAL", 3), ("INCREMENTAL", 4)] {
        let (mut rig, app) = Rig::new(&format!(
            "PRAGMA journal_mode=delete; PRAGMA auto_vacuum={mode}; VACUUM; PRAGMA journal_mode=wal; {TABLE}"
        ));
        let (mut dice, mut time, mut shrunk) = (Dice::new(seed), Pretend::new(), 0);
        insert(&app, 100);
        rig.capture();
        let count = || app.query_row("PRAGMA page_count", [], |r| r.get::<_, i64>(0)).unwrap();
        for _ in 0..40 {
            let before = count();
            match dice.roll(5) {
                0 => insert(&app, 15),
                1 => drop(app.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [dice.roll(50_000)]).unwrap()),
                2 => drop(time.pass(&mut rig.followed, seconds(3))),
                _ => drop(app.execute("DELETE FROM t WHERE id % 7 = ?1", [dice.roll(7)]).unwrap()),
            }
            app.execute_batch(&format!("PRAGMA incremental_vacuum({})", dice.roll(9))).unwrap();
            rig.capture();
            if count() != before {
                rig.assert_shadow_equals_source();
                shrunk += u32::from(count() < before);
            }
        }
        rig.assert_shadow_equals_source();
        assert!(shrunk > 3, "{mode} {seed}");
        assert_eq!(rig.followed.counters().resyncs, 0);
    }
}

/// F24: at every page size, most pages exist only in the log, and the base has them.
#[test]
fn a_base_holds_pages_that_are_only_in_the_log() {
    for size in PageSize::all() {
        let (mut rig, app) = Rig::new(&format!(
            "PRAGMA journal_mode=delete; PRAGMA page_size={size}; VACUUM; PRAGMA journal_mode=wal; \
             PRAGMA wal_autocheckpoint=0; {TABLE}"
        ));
        insert(&app, 400);
        let file = std::fs::metadata(&rig.path).unwrap().len();
        let pages: i64 = app.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap();
        assert!(file <= u64::from(size.get()) && pages > 3, "{file} {pages}");
        rig.capture();
        rig.assert_shadow_equals_source();
    }
}

/// F26: everything up to the end of the log was captured; what another process
/// then adds, cuts off and adds again is not taken for an empty log of our own.
#[test]
fn a_log_that_someone_else_emptied_is_not_taken_for_ours() {
    for (unwatched, again) in [(1, 1), (30, 1), (1, 30), (30, 31), (0, 5)] {
        let (mut rig, app) = Rig::new(TABLE);
        insert(&app, 30);
        rig.capture();
        rig.followed.release();
        let mut other = Elsewhere::open(&rig.path, seconds(5));
        let row = "UPDATE t SET x = randomblob(600) WHERE id = abs(random()) % 30 + 1";
        (0..unwatched).for_each(|_| drop(other.run(row)));
        assert_eq!(other.run("PRAGMA wal_checkpoint(TRUNCATE)"), [0, 0, 0]);
        (0..again).for_each(|_| drop(other.run(row)));
        rig.capture();
        rig.assert_shadow_equals_source();
        assert_eq!(rig.followed.counters().resyncs, 1);
    }
}

/// F26: the same when the guard is lost without our noticing, as when something
/// in the process closes the wal-index (F3).
#[test]
fn a_log_emptied_behind_a_lost_guard_is_found_by_its_salts() {
    let (mut rig, app) = Rig::new(TABLE);
    insert(&app, 30);
    rig.capture();
    drop(std::fs::File::open(format!("{}-shm", rig.path.display())).unwrap());
    let mut other = Elsewhere::open(&rig.path, seconds(5));
    other.run("INSERT INTO t(x) VALUES (randomblob(600))");
    assert_eq!(other.run("PRAGMA wal_checkpoint(TRUNCATE)"), [0, 0, 0], "the guard is gone");
    other.run("INSERT INTO t(x) VALUES (randomblob(600))");
    rig.followed.capture(SystemTime::now()).unwrap();
    assert_eq!(rig.followed.counters().resyncs, 1);
    rig.followed.release();
    rig.capture();
    rig.assert_shadow_equals_source();
}
