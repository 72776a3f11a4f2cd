//! What tutorials, images and scripts out there do with Litestream, word for word
//! where it matters, with this program installed under that name.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A directory in which `litestream` and `brooklet` are this program.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        // As an application would, sqlite3 waits when the database is locked for a moment.
        std::fs::write(machine.path(".sqliterc"), ".timeout 10000\n").unwrap();
        std::fs::create_dir(machine.path("bin")).unwrap();
        for name in ["litestream", "brooklet"] {
            symlink(env!("CARGO_BIN_EXE_brooklet"), machine.path("bin").join(name)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs a script as somebody at a terminal does; what it starts ends with it.
    fn run(&self, variables: &[(&str, &str)], script: &str) -> (Option<i32>, String) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", script]).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", path).env("HOME", self.dir.path()).env("ROOT", self.dir.path());
        command.env("LITESTREAM_CONFIG", self.path("litestream.yml")).envs(variables.iter().copied());
        let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let group = rustix::process::Pid::from_child(&child);
        let done = child.wait_with_output();
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let done = done.unwrap();
        (
            done.status.code(),
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)),
        )
    }

    #[track_caller]
    fn succeeds(&self, script: &str) -> String {
        let (code, said) = self.run(&[], &format!("set -euo pipefail\n{script}"));
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

/// Install, replicate to a file replica, insert, delete the database, restore.
#[test]
fn the_first_tutorial() {
    let machine = Machine::new();
    machine.succeeds(
        r#"
litestream version
sqlite3 fruits.db <<'SQL'
PRAGMA journal_mode=WAL;
CREATE TABLE fruits (name TEXT, color TEXT);
INSERT INTO fruits (name, color) VALUES ('apple', 'red');
INSERT INTO fruits (name, color) VALUES ('banana', 'yellow');
SQL
litestream replicate fruits.db "file://$ROOT/mybkt/fruits.db" > log &
until ls mybkt/fruits.db/ltx/0/*.ltx; do sleep 0.1; done
sqlite3 fruits.db "INSERT INTO fruits (name, color) VALUES ('grape', 'purple')"
kill -INT $!
wait $!
grep 'replicating to' log
rm fruits.db fruits.db-wal fruits.db-shm || rm -f fruits.db*
litestream restore -o fruits2.db "file://$ROOT/mybkt/fruits.db"
test "$(sqlite3 fruits2.db 'SELECT count(*), max(name) FROM fruits')" = '3|grape'
"#,
    );
}

const CONFIG: &str = "dbs:\n  - path: ${ROOT}/data/db\n    replicas:\n      - url: ${REPLICA_URL}\n        retention: 72h\n        \
                      snapshot-interval: 1h\n        sync-interval: 100ms\n";

/// The entrypoint of the example image: restore on boot, then the application as a child.
#[test]
fn an_entrypoint_that_restores_on_boot() {
    let machine = Machine::new();
    machine.write("litestream.yml", CONFIG);
    std::fs::create_dir(machine.path("data")).unwrap();
    machine.write(
        "run.sh",
        r#"#!/bin/bash
set -e

# Restore the database if it does not already exist.
if [ -f "$ROOT/data/db" ]; then
	echo "Database already exists, skipping restore"
else
	echo "No database found, restoring from replica if exists"
	litestream restore -v -if-replica-exists -o "$ROOT/data/db" "${REPLICA_URL}"
fi

# Run litestream with your app as the subprocess.
exec litestream replicate -exec "$ROOT/myapp -dsn $ROOT/data/db"
"#,
    );
    machine.write(
        "myapp",
        "#!/bin/sh\nset -e\nsqlite3 \"$2\" \"PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS visits(n); \
         INSERT INTO visits SELECT count(*) + 1 FROM visits\"\nexit ${STATUS:-0}\n",
    );
    let url = format!("file://{}", machine.path("bucket").display());
    let boot =
        |status: &str| machine.run(&[("REPLICA_URL", &url), ("STATUS", status)], "chmod +x myapp; exec bash run.sh");
    let visits = || machine.succeeds("sqlite3 data/db 'SELECT max(n) FROM visits'");
    let (code, said) = boot("0");
    assert!(code == Some(0) && said.contains("no matching backups found"), "{said}");
    let (code, said) = boot("0");
    assert!(code == Some(0) && said.contains("Database already exists"), "{said}");
    assert_eq!(visits(), "2\n");
    // The container is replaced, and its disk with it; the application crashes after its last commit.
    machine.succeeds("rm -rf data; mkdir data");
    let (code, said) = boot("2");
    assert!(code == Some(1) && said.contains("Error: exit status 2"), "{said}");
    assert_eq!(visits(), "3\n");
    machine.succeeds("rm -rf data; mkdir data");
    assert_eq!(boot("0").0, Some(0));
    assert_eq!(visits(), "4\n");
    // Storage that is not there is not an empty one: the application must not start.
    machine.succeeds("rm -rf data; mkdir data; mv bucket kept; echo in the way > bucket");
    let (code, said) = boot("0");
    assert!(code == Some(1) && !machine.path("data/db").exists(), "{said}");
}

/// A bad migration is taken back to the time before it.
#[test]
fn a_rollback_to_the_time_before_a_bad_migration() {
    let machine = Machine::new();
    machine.write("litestream.yml", "dbs:\n  - path: ${ROOT}/app.db\n    replica: {path: '${ROOT}/replica'}\n");
    machine.succeeds(
        r#"
sqlite3 app.db "PRAGMA journal_mode=WAL; CREATE TABLE users(name); INSERT INTO users VALUES ('ann'), ('bob')"
litestream replicate -exec "sqlite3 app.db \"INSERT INTO users VALUES ('cid')\""
sleep 1.1
BEFORE=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sleep 1.1
litestream replicate -exec "sqlite3 app.db \"UPDATE users SET name = NULL\""
test "$(sqlite3 app.db 'SELECT count(name) FROM users')" = 0
litestream restore -timestamp "$BEFORE" -o rollback.db "$ROOT/app.db"
test "$(sqlite3 rollback.db 'SELECT group_concat(name) FROM users')" = 'ann,bob,cid'
# In place, as the documents have it: move away what is there, restore, go on.
mv app.db app.db.bad
rm -f app.db-wal app.db-shm
litestream restore -timestamp "$BEFORE" "$ROOT/app.db"
litestream replicate -exec "sqlite3 app.db \"INSERT INTO users VALUES ('dee')\""
litestream restore -o latest.db "$ROOT/app.db"
test "$(sqlite3 latest.db 'SELECT group_concat(name) FROM users')" = 'ann,bob,cid,dee'
"#,
    );
}

/// The script that many run once a week, and the one of 0.3 that looks at generations first.
#[test]
fn a_weekly_restore_test() {
    let machine = Machine::new();
    machine.write(
        "litestream.yml",
        "dbs:\n  - path: ${ROOT}/app.db\n    replicas:\n      - {name: local, path: '${ROOT}/replica'}\n",
    );
    machine.write(
        "restore-test.sh",
        r#"#!/bin/sh
set -eu
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
litestream restore -config "$LITESTREAM_CONFIG" -o "$TMP/restored.db" "$1"
[ "$(sqlite3 "$TMP/restored.db" 'PRAGMA integrity_check')" = ok ]
[ "$(sqlite3 "$TMP/restored.db" 'SELECT count(*) FROM t')" -gt 0 ]
echo "restore test passed"
"#,
    );
    let said = machine.succeeds(
        r#"
sqlite3 app.db "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)"
litestream replicate -once
sh restore-test.sh "$ROOT/app.db"
litestream databases | tail -n +2 | awk '{print $1}' | grep -x "$ROOT/app.db"
generation=$(litestream generations -replica local "$ROOT/app.db" | tail -n +2 | head -n 1 | awk '{print $2}')
test ${#generation} = 16
litestream snapshots -replica local "$ROOT/app.db" | head -n 1 | grep -q '^replica  *generation  *index  *size  *created$'
litestream restore --replica=local -o again.db "$ROOT/app.db"
"#,
    );
    assert!(said.contains("restore test passed"), "{said}");
    // One that has nothing to restore fails, and says so to whoever mails its output.
    let (code, said) = machine.run(&[], "rm -r replica; sh restore-test.sh \"$ROOT/app.db\"");
    assert!(code == Some(1) && said.contains("Error: no matching backup"), "{said}");
}

/// A daemon without databases is what a package starts before anybody has configured it.
#[test]
fn without_databases_the_daemon_keeps_running() {
    let machine = Machine::new();
    machine.write("litestream.yml", "# nothing yet\n");
    let said = machine.succeeds(
        r#"
litestream replicate > log 2>&1 &
until grep -q 'no databases specified in configuration' log; do sleep 0.1; done
sleep 1
kill -0 $!
kill -TERM $!
wait $!
cat log
"#,
    );
    assert!(said.contains("litestream shut down"), "{said}");
}

/// Tables are read by programs that split them at whitespace and go by the header.
#[test]
fn tables_can_be_split_at_whitespace() {
    let machine = Machine::new();
    machine.write("litestream.yml", CONFIG);
    std::fs::create_dir(machine.path("data")).unwrap();
    let url = format!("file://{}", machine.path("bucket").display());
    let run = |script: &str| {
        let (code, said) = machine.run(&[("REPLICA_URL", &url)], &format!("set -euo pipefail\n{script}"));
        assert_eq!(code, Some(0), "{said}");
        said
    };
    run("sqlite3 data/db 'PRAGMA journal_mode=WAL; CREATE TABLE t(x)'; litestream replicate -once");
    for (command, keys) in [
        ("databases", "path replica"),
        ("ltx $ROOT/data/db", "level min_txid max_txid size created"),
        ("generations $ROOT/data/db", "name generation lag start end"),
    ] {
        let table = run(&format!("litestream {command}"));
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = lines.next().unwrap();
        assert_eq!(header.join(" "), keys);
        let rows: Vec<_> = lines.collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| row.len() == header.len()), "{table}");
    }
}
