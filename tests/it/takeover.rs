//! One replica, several hands: the official program and brooklet continue each
//! other's work, and after each change of hands both restore the exact state.
//!
//! Needs the official program: `LITESTREAM_BIN` (0.5.17).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::capture::consistent_copy;

const PATIENCE: Duration = Duration::from_secs(30);

fn brooklet() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_brooklet"))
}

fn official(variable: &str) -> Option<PathBuf> {
    let binary = std::env::var_os(variable).map(PathBuf::from);
    if binary.is_none() {
        println!("skipped: {variable} is not set");
    }
    binary
}

/// A database, the application's connection to it, and the place of its replica.
struct Stage {
    dir: TempDir,
    app: Connection,
}

impl Stage {
    fn new(page_size: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.busy_timeout(Duration::from_secs(10)).unwrap();
        let setup = "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";
        app.execute_batch(&format!("PRAGMA page_size={page_size}; {setup}")).unwrap();
        Self { dir, app }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a program on the database; both read the same config.
    fn replicate(&self, program: &Path, encoding: &str) -> Running {
        let config = self.path("config.yml");
        let text = format!(
            "dbs:\n  - path: {0}/app.db\n    monitor-interval: 50ms\n    replica:\n      type: file\n      \
             path: {0}/replica\n      sync-interval: 50ms\n      ltx-encoding: {encoding}\n",
            self.dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let errors = log.try_clone().unwrap();
        let mut command = Command::new(program);
        command.arg("replicate").arg("-config").arg(config).stdout(log).stderr(errors);
        Running { child: command.spawn().unwrap() }
    }

    fn segments(&self) -> usize {
        std::fs::read_dir(self.path("replica/ltx/0")).map_or(0, |dir| {
            dir.filter(|e| e.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x == "ltx"))).count()
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn write(&self, rows: usize) {
        for _ in 0..rows {
            self.app.execute("INSERT INTO t(x) VALUES (randomblob(700))", []).unwrap();
        }
        self.app.execute("UPDATE t SET x = randomblob(300) WHERE id % 7 = 1", []).unwrap();
    }

    /// The database as the application sees it: its tables, and the official
    /// program's bookkeeping too.
    fn source(&self) -> Vec<u8> {
        consistent_copy(&self.path("app.db"))
    }

    fn restored_by(&self, program: &Path) -> Vec<u8> {
        let out = self.path("restored.db");
        let _ = std::fs::remove_file(&out);
        let url = format!("file://{}", self.path("replica").display());
        let done = Command::new(program).args(["restore", "-o"]).arg(&out).arg(url).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{}: {said}\n{}", program.display(), self.log());
        std::fs::read(out).unwrap()
    }

    fn assert_restored_by_all(&self, programs: &[&Path], when: &str) {
        let source = self.source();
        for program in programs {
            let restored = self.restored_by(program);
            assert!(restored == source, "{when}: {} restores something else\n{}", program.display(), self.log());
        }
    }
}

/// A replicating program; killed when a test fails, else asked to stop.
struct Running {
    child: Child,
}

impl Running {
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "the program does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets a program replicate while the database is written, and stops it.
fn shift(stage: &Stage, program: &Path, encoding: &str) {
    let before = stage.segments();
    let running = stage.replicate(program, encoding);
    stage.write(40);
    until("the first segment", || stage.segments() > before);
    stage.write(40);
    let between = stage.segments();
    until("another segment", || stage.segments() > between);
    stage.write(5);
    running.stop();
}

#[test]
fn the_official_program_and_brooklet_continue_each_other() {
    let Some(official) = official("LITESTREAM_BIN") else { return };
    let ours = brooklet();
    for page_size in [4096, 512, 65536] {
        let stage = Stage::new(page_size);
        let hands: [&Path; 5] = [&official, &ours, &official, &ours, &ours];
        for (turn, program) in hands.into_iter().enumerate() {
            shift(&stage, program, "block");
            stage.assert_restored_by_all(&[&official, &ours], &format!("page size {page_size}, turn {turn}"));
            // Written while nobody looks.
            stage.write(3);
        }
    }
}

#[test]
fn what_brooklet_writes_under_load_both_programs_restore() {
    let Some(official) = official("LITESTREAM_BIN") else { return };
    let ours = brooklet();
    for encoding in ["block", "frame"] {
        let stage = Stage::new(4096);
        shift(&stage, &ours, encoding);
        shift(&stage, &ours, encoding);
        let mut programs: Vec<&Path> = vec![&official, &ours];
        let older = crate::takeover::official("LITESTREAM_BIN_0515").filter(|_| encoding == "frame");
        programs.extend(older.as_deref());
        stage.assert_restored_by_all(&programs, encoding);
    }
}

#[test]
fn frames_of_the_older_official_program_are_continued() {
    let (Some(older), Some(newer)) = (official("LITESTREAM_BIN_0515"), official("LITESTREAM_BIN")) else { return };
    let ours = brooklet();
    let stage = Stage::new(4096);
    shift(&stage, &older, "frame");
    stage.assert_restored_by_all(&[&older, &newer, &ours], "written by the older program");
    shift(&stage, &ours, "frame");
    stage.assert_restored_by_all(&[&older, &newer, &ours], "continued by brooklet");
}

/// The case that loses rows elsewhere: rows, a checkpoint and an update while the
/// program is away.
#[test]
fn nothing_is_lost_around_a_stop() {
    let ours = brooklet();
    let stage = Stage::new(4096);
    let running = stage.replicate(&ours, "block");
    stage.write(50);
    until("a segment", || stage.segments() > 0);
    running.stop();
    for _ in 0..50 {
        stage.app.execute("INSERT INTO t(x) VALUES (randomblob(700))", []).unwrap();
    }
    stage.app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    stage.app.execute("UPDATE t SET x = 'after' WHERE id = 3", []).unwrap();
    let running = stage.replicate(&ours, "block");
    let before = stage.segments();
    until("the comparison", || stage.segments() > before);
    running.stop();
    stage.assert_restored_by_all(&[&ours], "after the stop");
}

/// The program's output ends when it does.
#[test]
fn a_stop_confirms_everything_or_says_what_is_only_local() {
    let ours = brooklet();
    let stage = Stage::new(4096);
    stage.write(5);
    // A file where the replica's directory should be.
    std::fs::write(stage.path("replica"), "in the way").unwrap();
    let config = stage.path("config.yml");
    let text = format!(
        "shutdown-sync-timeout: 1s\ndbs:\n  - path: {0}/app.db\n    replica: {{type: file, path: {0}/replica}}\n",
        stage.dir.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(ours);
    command.arg("replicate").arg("-config").arg(&config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("the database to be taken up", || stage.path(".app.db-litestream/brooklet/pagemap").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(errors.starts_with("Error: ") && errors.contains("only on this machine"), "{errors}");
    assert!(errors.contains("app.db"), "{errors}");
}
