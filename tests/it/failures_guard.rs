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

/// F3: closing any descriptor of the database or its wal-index drops all locks
/// of the process. So whatever runs beside a guard opens only what is listed
/// here; before adding a line, make sure that the path cannot be one of the two.
const OPENED_BESIDE_A_GUARD: [(&str, &str); 9] = [
    ("capture/attach.rs", "File::options().create(true).truncate(false).write(true).open(&path)"), // the lock file
    ("capture/attach.rs", "LogFile::open(&log_path, page_size)"),
    ("capture/log_file.rs", "File::open(path)"), // the log
    ("capture/page_map.rs", "OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft)"),
    ("capture/page_map.rs", "OpenOptions::new().read(true).write(true).open(path)"),
    ("capture/snapshot.rs", "LogFile::open(log_path, page_size)"),
    ("spool.rs", "File::open(path_in(&self.dir, seq))"),
    ("spool.rs", "File::open(path)"),                  // a segment
    ("replica/put.rs", "tokio::fs::File::open(path)"), // a segment
];

/// Rooms that work while a database is followed and know its path.
const BESIDE_A_GUARD: [&str; 9] =
    ["capture/", "daemon/", "http", "metrics", "replica/", "spool.rs", "status", "upkeep", "upload"];
/// SQLite itself: the connection and the mapping it already has.
const THROUGH_SQLITE: [&str; 2] = ["capture/connection.rs", "capture/wal_index.rs"];
const OPENERS: [&str; 13] = [
    "File::open(",
    "File::create(",
    "File::create_new(",
    "File::options(",
    "OpenOptions::new(",
    "fs::read(",
    "fs::read_to_string(",
    "fs::write(",
    "fs::copy(",
    "fs::open(",
    "fs::hard_link(",
    "Connection::open",
    "sqlite3_open",
];

#[test]
fn nothing_beside_a_guard_opens_the_database_or_its_index() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for (name, text) in sources(&root) {
        if THROUGH_SQLITE.contains(&name.as_str()) {
            continue;
        }
        for call in openings(&text) {
            assert!(!call.contains("shm"), "{name} opens a wal-index: {call}");
            if BESIDE_A_GUARD.iter().any(|room| name.starts_with(room)) {
                found.push((name.clone(), call));
            }
        }
    }
    for (name, call) in &found {
        let listed = OPENED_BESIDE_A_GUARD.contains(&(name, call));
        assert!(listed, "{name} opens a file in a way that is not known to be harmless: {call}");
    }
    for (name, call) in OPENED_BESIDE_A_GUARD {
        assert!(found.iter().any(|(n, c)| n == name && c == call), "{name} no longer has {call}: remove it here");
    }
}

/// Every way in which a program could open the wrong file is seen.
#[test]
fn an_opening_is_recognised_however_it_is_written() {
    let calls = |text: &str| openings(text).into_iter().collect::<Vec<_>>();
    assert_eq!(calls("let f = std::fs::File::open(options.shm_path())?;"), ["std::fs::File::open(options.shm_path())"]);
    assert_eq!(calls("OpenOptions::new()\n  .read(true)\n  .open(&db)?"), ["OpenOptions::new().read(true).open(&db)"]);
    assert_eq!(calls("std::fs::read(&self.path)"), ["std::fs::read(&self.path)"]);
    assert_eq!(calls("tokio::fs::copy(from, to).await"), ["tokio::fs::copy(from, to)"]);
    assert_eq!(calls("Connection::open_with_flags(p, f)"), ["Connection::open_with_flags(p, f)"]);
    assert_eq!(calls("Handle::open(path); // File::open(x)\nfs::read_dir(d)"), [""; 0]);
}

/// The files under `src`, without their unit tests.
fn sources(root: &Path) -> Vec<(String, String)> {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                files.push((name, code));
            }
        }
    }
    assert!(files.len() > 40);
    files
}

/// Calls that open a file, each on one line from its first word to the
/// parenthesis that closes the last call of its chain of options.
fn openings(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut calls = Vec::new();
    for opener in OPENERS {
        for (at, _) in code.match_indices(opener) {
            let start = code[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
            let mut end = at + opener.trim_end_matches('(').len();
            end += code[end..].find('(').unwrap();
            loop {
                end = closing(&code, end);
                let rest = code[end..].trim_start();
                let options = ["File::options(", "OpenOptions::new("].contains(&opener);
                let done = code[start..end].contains(".open(");
                if !options || done || !rest.starts_with('.') {
                    break;
                }
                end = code.len() - rest.len() + rest.find('(').unwrap();
            }
            let own_types = ["LogFile::", "Spool::", "PageMap::"];
            let call = code[start..end].split_whitespace().collect::<Vec<_>>().join(" ").replace(" .", ".");
            if opener != "File::open(" || !own_types[1..].iter().any(|t| call.starts_with(t)) {
                calls.push(call);
            }
        }
    }
    calls
}

/// The place after the parenthesis that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
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
    // A checkpoint of the program's own may finish between the two lines, but not every time.
    let held_back = (0..20).any(|_| {
        app.run(rows);
        let foreign = passive(&database);
        foreign.copied < foreign.log
    });
    assert!(held_back, "every frame was copied at once, twenty times in a row");
}
