//! File systems that tell nothing about changes, and such as are made of two.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use brooklet::replica::{Layout, Replica};
use brooklet::storage::{FileStorage, Key};
use rusqlite::Connection;

use crate::running::{TABLE, arrives, database, insert, until};

/// The program in a process of its own, with part of the system taken away. Ended with the test.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Runs a script in namespaces of its own, in which `$brooklet` is the program, and `$1`
    /// and `$2` are what it is to replicate and where to.
    fn start(flags: &[&str], script: &str, database: &Path, replica: &Path) -> Self {
        let log = replica.with_file_name("log");
        let out = File::create(&log).unwrap();
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", script, "sh"]).arg(database).arg(format!("file://{}", replica.display()));
        command.env("brooklet", env!("CARGO_BIN_EXE_brooklet")).stdin(Stdio::null());
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether something can be done in such namespaces here.
fn possible(flags: &[&str], script: &str) -> bool {
    let tried = Command::new("unshare").args(flags).args(["sh", "-c", script]).output();
    let fine = tried.is_ok_and(|output| output.status.success());
    if !fine {
        eprintln!("skipped: this test needs unshare {}, and there: {script}", flags.join(" "));
    }
    fine
}

fn replica_at(path: &Path) -> Replica {
    Replica::new("file".to_owned(), Arc::new(FileStorage::new(path)), Key::ROOT, Layout::Decimal)
}

/// F56: with no file events at all, or none for this file, commits are found by looking.
#[tokio::test(flavor = "multi_thread")]
async fn without_file_events_commits_are_found_by_looking() {
    let own_user = ["--user", "--map-root-user"];
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let none = format!("echo 0 > /proc/sys/user/{limit}");
        if !possible(&own_user, &none) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        insert(&app, 3);
        let place = dir.path().join("replica");
        let script = format!("{none} && exec $brooklet replicate \"$1\" \"$2\"");
        let program = Program::start(&own_user, &script, &path, &place);
        let replica = replica_at(&place);
        arrives(&replica, &path).await;
        for _ in 0..2 {
            insert(&app, 3);
            arrives(&replica, &path).await;
        }
        let without = program.log().contains("file events are not available");
        assert_eq!(without, limit == "max_inotify_instances", "{}", program.log());
    }
}

/// F56: in a container the database may lie in a layer that is copied when it is first
/// written to, and while somebody has it open.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_a_lower_layer_is_followed_where_it_is_copied_to() {
    let own_mounts = ["--user", "--map-root-user", "--mount"];
    let overlay = "mkdir low up work top; mount -t overlay o -o lowerdir=low,upperdir=up,workdir=work top";
    if !possible(&own_mounts, &format!("cd $(mktemp -d) && {overlay}")) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let low = dir.path().join("low");
    std::fs::create_dir(&low).unwrap();
    let made = Connection::open(low.join("app.db")).unwrap();
    made.execute_batch(&format!("PRAGMA journal_mode=wal; {TABLE}; INSERT INTO t(x) VALUES ('below')")).unwrap();
    drop(made);
    let place = dir.path().join("replica");
    // A reader has the lower file open before anybody writes. What the application commits while the program is at
    // work is captured before its end: it waits for that.
    let app = "set -e
        for n in 1 2 3; do
            sqlite3 -cmd '.timeout 20000' top/app.db \"INSERT INTO t(x) VALUES ('above')\"
            i=0
            while [ $(ls replica/ltx/0 2> /dev/null | wc -l) -lt $n ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done
        done
        cp top/app.db copy.db
        cp top/app.db-wal copy.db-wal";
    std::fs::write(dir.path().join("app.sh"), app).unwrap();
    let script = format!(
        "cd {} && {} && mkfifo hold && {{ sqlite3 -readonly top/app.db < hold & }} && exec 9> hold && \
         echo 'SELECT count(*) FROM t;' >&9 && $brooklet replicate -exec 'sh app.sh' \"$1\" \"$2\"; echo \"ended $?\"",
        dir.path().display(),
        overlay.replacen("low ", "", 1)
    );
    let program = Program::start(&own_mounts, &script, Path::new("top/app.db"), &place);
    until("it ends", || program.log().contains("ended"));
    assert!(program.log().contains("ended 0"), "{}", program.log());
    let segments = std::fs::read_dir(place.join("ltx/0")).unwrap().count();
    assert!(segments >= 3, "{segments} segments: {}", program.log());
    arrives(&replica_at(&place), &dir.path().join("copy.db")).await;
}
