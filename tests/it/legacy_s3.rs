//! Backups that the official 0.3 program makes in S3: two generations, several
//! snapshots, plain and encrypted; by latest, moment, generation and index. Needs
//! the program (`LITESTREAM_BIN_03`) and moto (`MOTO_SERVER`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use brooklet::types::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::legacy::IDENTITY;
use crate::s3::moto;

const RECIPIENT: &str = "age1gypn09uk9gptdrx6vdmrc8agvplwyl8262yfd9ggnfm529cndg4qe94wtt";

struct Rig {
    dir: TempDir,
    official: PathBuf,
    endpoint: String,
    bucket: String,
}

/// Ended by its id when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rig {
    fn new(encrypted: bool) -> Option<Self> {
        let Some(official) = std::env::var_os("LITESTREAM_BIN_03").map(PathBuf::from) else {
            println!("skipped: LITESTREAM_BIN_03 is not set");
            return None;
        };
        let (endpoint, bucket) = moto::bucket()?;
        let rig = Self { dir: TempDir::new().unwrap(), official, endpoint, bucket };
        let Self { endpoint, bucket, .. } = &rig;
        let mut config = format!(
            "dbs:\n  - path: {dir}/app.db\n    monitor-interval: 50ms\n    min-checkpoint-page-count: 20\n    replicas:\n      \
             - type: s3\n        bucket: {bucket}\n        path: old/app\n        endpoint: {endpoint}\n        \
             region: us-east-1\n        force-path-style: true\n        access-key-id: test\n        \
             secret-access-key: test\n        sync-interval: 50ms\n        snapshot-interval: 1500ms\n",
            dir = rig.dir.path().display()
        );
        if encrypted {
            config.push_str(&format!(
                "        age:\n          identities: ['{IDENTITY}']\n          recipients: ['{RECIPIENT}']\n"
            ));
        }
        fs::write(rig.path("l.yml"), config).unwrap();
        Some(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, program: &Path, line: &str) -> Output {
        let mut command = Command::new(program);
        command.args(line.split(' ')).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null()).output().unwrap()
    }

    fn start(&self) -> Running {
        let mut command = Command::new(&self.official);
        command.args(["replicate", "-config", "l.yml"]).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null());
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What a program restores with these flags; `None` if it says that it cannot.
    fn restored(&self, program: &Path, flags: &str) -> Option<Vec<u8>> {
        let out = self.path("out.db");
        drop(fs::remove_file(&out));
        let db = self.path("app.db");
        let line = format!("restore -config l.yml {flags} -o out.db {}", db.display());
        let done = self.run(program, &line.split_whitespace().collect::<Vec<_>>().join(" "));
        if !done.status.success() {
            println!("{flags}: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success().then(|| fs::read(out).unwrap())
    }

    fn ours(&self, flags: &str) -> Option<Vec<u8>> {
        self.restored(Path::new(env!("CARGO_BIN_EXE_brooklet")), flags)
    }

    fn rows_in(&self, bytes: &[u8]) -> String {
        let path = self.path("rows.db");
        fs::write(&path, bytes).unwrap();
        rows(&path)
    }

    fn table(&self, command: &str) -> Vec<Vec<String>> {
        let line = format!("{command} -config l.yml {}", self.path("app.db").display());
        let done = self.run(Path::new(env!("CARGO_BIN_EXE_brooklet")), &line);
        assert!(done.status.success(), "{line}: {done:?}");
        let text = String::from_utf8(done.stdout).unwrap();
        text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }
}

fn rows(path: &Path) -> String {
    let database = Connection::open(path).unwrap();
    let mut statement = database.prepare("SELECT id || '|' || v FROM t ORDER BY id").unwrap();
    let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    rows.join("\n")
}

/// S3 tells times in whole seconds: until the middle of the next one.
fn next_second() {
    let millis = u64::try_from(Timestamp::from(SystemTime::now()).as_millis()).unwrap();
    std::thread::sleep(Duration::from_millis(1000 - millis % 1000 + 200));
}

fn a_life_in_s3(encrypted: bool) {
    let Some(rig) = Rig::new(encrypted) else { return };
    let database = Connection::open(rig.path("app.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)").unwrap();
    // Each moment with its rows; the last one of each life is its end.
    let mut lives: Vec<Vec<(Timestamp, String)>> = Vec::new();
    for _ in 0..2 {
        let mut running = rig.start();
        let mut moments = Vec::new();
        for step in 0..3 {
            let change = match step {
                0 => "INSERT INTO t(v) SELECT hex(randomblob(2000)) FROM (VALUES (1), (2), (3), (4), (5), (6), (7))",
                1 => "UPDATE t SET v = v || 'x' WHERE id % 3 = 0",
                _ => "DELETE FROM t WHERE id % 5 = 0",
            };
            database.execute_batch(change).unwrap();
            let expected = rows(&rig.path("app.db"));
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut nudge = Instant::now() + Duration::from_secs(3);
            while rig.ours("").is_none_or(|bytes| rig.rows_in(&bytes) != expected) {
                assert!(Instant::now() < deadline, "gave up waiting for step {step}");
                if Instant::now() >= nudge {
                    // It can forget to send a change until the next one.
                    database.execute_batch("UPDATE t SET v = v WHERE id = 1").unwrap();
                    nudge = Instant::now() + Duration::from_secs(3);
                }
            }
            // What was stored has an earlier second, what follows has a later one.
            next_second();
            moments.push((Timestamp::from(SystemTime::now()), expected));
            next_second();
        }
        let stopped = Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        running.0.wait().unwrap();
        // Without its memory it begins another generation.
        fs::remove_dir_all(rig.path(".app.db-litestream")).unwrap();
        next_second();
        lives.push(moments);
    }
    let last = &lives[1][2].1;
    assert!(rig.rows_in(&rig.ours("").unwrap()) == *last, "latest");
    let mut found = 0;
    for (moment, expected) in lives.iter().flatten() {
        let flags = format!("-timestamp {moment}");
        // Litestream 0.3 gives a snapshot the name of the one before it in the same log, and with it the moments
        // between the two: then neither can.
        let (ours, theirs) = (rig.ours(&flags), rig.restored(&rig.official, &flags));
        if let Some(ours) = &ours {
            assert!(rig.rows_in(ours) == *expected, "{moment}");
            found += 1;
        }
        if let Some(theirs) = theirs {
            assert!(ours == Some(theirs), "{moment}: they restore something else");
        }
    }
    assert!(found >= 2, "{found} moments");
    // By generation and index.
    let generations = rig.table("generations");
    assert_eq!(generations.len(), 2, "{generations:?}");
    let snapshots = rig.table("snapshots");
    assert!(!snapshots.is_empty());
    for (generation, life) in ordered(&generations).iter().zip(&lives) {
        let end = rig.ours(&format!("-generation {generation}")).unwrap();
        assert!(rig.rows_in(&end) == life[2].1, "the end of {generation}");
        let of_it = snapshots.iter().filter(|row| row[1] == *generation);
        let indexes: std::collections::BTreeSet<u32> = of_it.map(|row| row[2].parse().unwrap()).collect();
        assert!(!indexes.is_empty(), "{snapshots:?}");
        for index in indexes {
            let flags = format!("-generation {generation} -index {index:08x}");
            let (ours, theirs) = (rig.ours(&flags), rig.restored(&rig.official, &flags));
            assert!(theirs.is_none() || ours == theirs, "{flags}");
            assert!(ours.is_some(), "{flags}");
        }
    }
}

/// The names of generations, the older first.
fn ordered(generations: &[Vec<String>]) -> Vec<String> {
    let mut rows: Vec<&Vec<String>> = generations.iter().collect();
    rows.sort_by_key(|row| row[3].clone());
    rows.into_iter().map(|row| row[1].clone()).collect()
}

#[test]
fn a_backup_of_0_3_in_s3_is_restored_by_moment_generation_and_index() {
    a_life_in_s3(false);
}

#[test]
fn an_encrypted_backup_of_0_3_in_s3_is_restored_by_moment_generation_and_index() {
    a_life_in_s3(true);
}
