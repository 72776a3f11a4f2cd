//! Memory of everything that handles whole histories, with databases larger than
//! what it may take: one that cannot be compressed, and one of zeros, whose
//! segments are small and have as many pages.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

/// In 1024 bytes, as the system counts: 96 MB.
const LIMIT: u64 = 96 * 1_000_000 / 1024;

struct Rig {
    dir: TempDir,
    name: &'static str,
}

impl Rig {
    fn new(name: &'static str, fill: &str) -> Self {
        let rig = Self { dir: TempDir::new().unwrap(), name };
        let at = rig.dir.path().display();
        let config = format!("dbs: [{{path: {at}/app.db, replica: {{path: {at}/r}}}}]\n");
        fs::write(rig.dir.path().join("l.yml"), config).unwrap();
        let app = rig.open();
        // Nobody cuts the power here.
        app.execute_batch("PRAGMA synchronous=off; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)").unwrap();
        app.execute_batch(fill).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal").unwrap();
        rig
    }

    fn open(&self) -> Connection {
        let app = Connection::open(self.dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA synchronous=off").unwrap();
        app
    }

    /// Runs a command and holds the most memory that it had against the limit.
    fn runs_within_the_limit(&self, line: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(line.split(' ')).current_dir(self.dir.path()).env_clear();
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let (deadline, mut peak) = (Instant::now() + Duration::from_secs(120), 0);
        let ended = loop {
            // The system keeps the most there was, so no look comes too late but for the last few milliseconds.
            peak = peak.max(high_water(child.id()).unwrap_or(0));
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        let said = fs::read_to_string(self.dir.path().join("log")).unwrap();
        assert!(ended.success(), "{} {line}: {said}", self.name);
        println!("{}: {line}: {} MB", self.name, peak * 1024 / 1_000_000);
        assert!((1..LIMIT).contains(&peak), "{} {line}: {peak} KiB of {LIMIT}", self.name);
    }
}

fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn everything_stays_within_the_limit(name: &'static str, fill: &str, change: &str) {
    let rig = Rig::new(name, fill);
    let size = fs::metadata(rig.dir.path().join("app.db")).unwrap().len();
    assert!(size > LIMIT * 1024 * 3 / 2, "{size}");
    rig.runs_within_the_limit("replicate -config l.yml -once");
    for _ in 0..3 {
        rig.open().execute_batch(change).unwrap();
        rig.runs_within_the_limit("replicate -config l.yml -once");
    }
    for line in [
        "replicate -config l.yml -once -force-snapshot",
        "verify -config l.yml app.db",
        "audit -config l.yml app.db",
        "drill -config l.yml app.db",
        "drill -config l.yml -mode full -scratch . app.db",
        "info -config l.yml app.db",
        "restore -config l.yml -o restored.db app.db",
        "restore -config l.yml -txid 2 -delta -o restored.db app.db",
        "prune -config l.yml app.db",
    ] {
        rig.runs_within_the_limit(line);
    }
}

/// F84.
#[test]
fn a_large_dense_database_takes_no_more_memory_than_a_small_one() {
    everything_stays_within_the_limit(
        "dense",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 160)
         INSERT INTO t(x) SELECT randomblob(1000000) FROM n",
        "UPDATE t SET x = randomblob(1000000) WHERE id % 20 = 0",
    );
}

/// F84: many pages in few bytes.
#[test]
fn a_large_sparse_database_takes_no_more_memory_than_a_small_one() {
    everything_stays_within_the_limit(
        "sparse",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO t(x) SELECT zeroblob(10000000) FROM n",
        "UPDATE t SET x = zeroblob(9000000) WHERE id % 10 = 0; INSERT INTO t(x) VALUES (zeroblob(5000000))",
    );
}
