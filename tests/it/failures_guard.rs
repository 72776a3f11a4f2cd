//! The guard: held at every moment, and by nothing that could drop it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::capture::Rig;
use crate::elsewhere::{Elsewhere, passive};
use crate::pretend::{Pretend, seconds};

const TABLE: &str = "PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";

fn insert(app: &rusqlite::Connection, rows: usize) {
    for _ in 0..rows {
        app.execute("INSERT INTO t(x) VALUES (randomblob(600))", []).unwrap();
    }
}

/// F2: whoever asks for a capture may go away; the guard that a checkpoint
/// meanwhile took anew does not go with it.
#[test]
fn a_guard_outlives_the_request_during_which_it_was_taken() {
    let (mut rig, app) = Rig::new(TABLE);
    let mut time = Pretend::new();
    for round in 1..=5 {
        insert(&app, 50);
        // Each request has a thread of its own, which is gone when the request is answered.
        std::thread::scope(|requests| {
            requests.spawn(|| rig.followed.capture(std::time::SystemTime::now()).unwrap());
        });
        std::thread::scope(|requests| {
            requests.spawn(|| time.pass(&mut rig.followed, seconds(5)));
        });
        assert_eq!(rig.followed.counters().seals, round, "the guard was taken anew");
        rig.drain();
        insert(&app, 50);
        let foreign = passive(&rig.path);
        assert!(foreign.log >= 50 && foreign.copied == 0, "{foreign:?}");
    }
    rig.capture();
    rig.assert_shadow_equals_source();
    assert_eq!(rig.followed.counters().resyncs, 0);
}

/// The program itself, replicating one database to a directory.
struct Program(Child);

impl Program {
    fn replicate(database: &Path, replica: &Path) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .arg("replicate")
            .arg(database)
            .arg(format!("file://{}", replica.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + seconds(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn segments(replica: &Path) -> usize {
    std::fs::read_dir(replica.join("ltx/0")).map_or(0, Iterator::count)
}

/// Size of the log and its first salt.
fn log_run(database: &Path) -> Option<[u8; 8]> {
    let wal = std::fs::read(PathBuf::from(format!("{}-wal", database.display()))).ok()?;
    wal.get(16..24)?.try_into().ok()
}

/// F3: the real program has read a base, captured, checkpointed and uploaded
/// (4 s of its life instead of 60); its mark still holds others back.
#[test]
fn after_a_while_of_everything_the_guard_still_keeps_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let (database, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let mut app = Elsewhere::open(&database, seconds(5));
    app.run("PRAGMA journal_mode=wal");
    app.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)");
    let rows = "INSERT INTO t(x) WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<40) \
                SELECT randomblob(3000) FROM n";
    let _program = Program::replicate(&database, &replica);
    wait_until("the base arrives", || segments(&replica) == 1);
    app.run(rows);
    wait_until("a segment arrives", || segments(&replica) == 2);
    let run = log_run(&database);
    wait_until("a checkpoint lets the log restart", || {
        std::thread::sleep(Duration::from_millis(200));
        app.run("UPDATE t SET x = randomblob(20) WHERE id = 1");
        std::thread::sleep(Duration::from_millis(2100));
        log_run(&database) != run
    });
    // Whatever the program does when it looks at its files, it has done by the time a segment arrives. A checkpoint of
    // its own may finish between the last two lines, but not every time.
    let held_back = (0..3).filter(|_| {
        let before = segments(&replica);
        app.run(rows);
        wait_until("a segment arrives", || segments(&replica) > before);
        app.run(rows);
        let foreign = app.passive();
        foreign.copied < foreign.log
    });
    assert!(held_back.count() >= 2, "others may copy everything");
}
