//! Rehearsals: they succeed where a restore does, and fail where it would.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::daemon::{Daemon, Rehearsal, Settings};
use brooklet::drill::{CheckError, Error, Mode, Records, rehearse};
use brooklet::ltx::Level;
use brooklet::storage::FileStorage;
use tempfile::TempDir;

use crate::legacy::{Kept, at};
use crate::running::{PATIENCE, TABLE, database, insert, job, replica_in, wait_for};

fn full(dir: &Path, checks: &[&str]) -> Mode {
    Mode::Full { scratch: dir.join("scratch"), checks: checks.iter().map(ToString::to_string).collect() }
}

fn released() -> brooklet::replica::Replica {
    at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/litestream-0.5.17/4096"))
}

#[tokio::test]
async fn a_sound_replica_passes_in_both_modes_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let kept = Kept::of("age");
    for replica in [released(), kept.replica()] {
        let streamed = rehearse(&replica, &Mode::Stream).await.unwrap();
        let restored = rehearse(&replica, &full(dir.path(), &["SELECT count(*) FROM t"])).await.unwrap();
        assert_eq!((streamed.txid, streamed.by_database_checksum), (restored.txid, false));
        assert!(streamed.bytes > 0 && restored.bytes > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn what_a_restore_would_not_give_is_a_failure() {
    let dir = TempDir::new().unwrap();
    let empty = at(&dir.path().join("empty"));
    for mode in [Mode::Stream, full(dir.path(), &[])] {
        let refused = rehearse(&empty, &mode).await.unwrap_err();
        assert!(refused.to_string().contains("no matching backup"), "{refused}");
        let kept = Kept::of("plain");
        for object in kept.objects("/wal/") {
            std::fs::write(object, "x").unwrap();
        }
        let refused = rehearse(&kept.replica(), &mode).await.unwrap_err();
        assert!(refused.is_of_data(), "{refused}");
        // The wrong key is nothing that a new copy would help with, but it is noticed.
        assert!(rehearse(&at(Kept::of("age").dir.path()), &mode).await.is_err());
    }
    let refused = rehearse(&released(), &full(dir.path(), &["SELECT 'ok'", "SELECT 'few rows'"])).await.unwrap_err();
    assert!(matches!(&refused, Error::Check(CheckError::Answer { answer, .. }) if answer == "few rows"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn what_a_crash_left_in_the_scratch_directory_is_removed_first() {
    let dir = TempDir::new().unwrap();
    let mode = full(dir.path(), &[]);
    std::fs::create_dir(dir.path().join("scratch")).unwrap();
    std::fs::write(dir.path().join("scratch/rehearsal.db"), "half of it").unwrap();
    rehearse(&released(), &mode).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The daemon rehearses, notices damage, and repairs it where it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_noticed_and_a_fresh_base_puts_an_end_to_it() {
    let dir = TempDir::new().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    // Most of its pages are in the base alone.
    insert(&app, 400);
    let replica = replica_in(Arc::new(FileStorage::new(dir.path().join("files"))), "files");
    let daemon = Daemon::start(vec![job(&path, &[&replica])], Settings::default());
    wait_for(&daemon, "the replica gets a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
    insert(&app, 40);
    wait_for(&daemon, "a burst arrives", |f| f.captured.unwrap().batch > 1 && f.behind().count() == 0).await;
    let rehearsals = |base_on_failure| {
        vec![Rehearsal {
            database: daemon.databases()[0],
            replica: 0,
            on: replica.clone(),
            mode: full(dir.path(), &["SELECT count(*) FROM t"]),
            interval: Duration::from_millis(100),
            budget: None,
            base_on_failure,
            records: Records::new(dir.path()),
        }]
    };
    let drill = |facts: &brooklet::status::DatabaseFacts| facts.replicas[0].drill.clone().unwrap_or_default();
    daemon.rehearse(rehearsals(false));
    wait_for(&daemon, "the newest point is proven", |f| {
        drill(f).proven.is_some_and(|proven| proven.txid == f.replicas[0].txid)
    })
    .await;
    let known = daemon.board().read()[0].replicas[0].drill.clone().unwrap().proven.unwrap();
    let written = Records::new(dir.path()).of("files").unwrap();
    assert_eq!((written.txid.is_some(), written.txid <= known.txid), (true, true), "{written:?}");
    let base = replica.list(Level::L0).await.unwrap()[0];
    let base = dir.path().join("files").join(replica.key(base.level, base.txids).as_str());
    let mut bytes = std::fs::read(&base).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&base, bytes).unwrap();
    wait_for(&daemon, "the damage is noticed", |f| drill(f).error.is_some()).await;
    assert!(daemon.board().read()[0].replicas[0].drill.as_ref().unwrap().proven.is_some(), "what was proven stays");
    daemon.rehearse(rehearsals(true));
    wait_for(&daemon, "a fresh base is proven", |f| {
        drill(f).error.is_none() && drill(f).proven.is_some_and(|proven| proven.txid == f.replicas[0].txid)
    })
    .await;
    insert(&app, 5);
    assert_eq!(daemon.stop(PATIENCE).await, []);
    assert!(rehearse(&replica, &Mode::Stream).await.unwrap().by_database_checksum);
}

fn run(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(line.split(' ')).current_dir(dir).env_remove("LITESTREAM_CONFIG").env_remove("LOG_LEVEL");
    command.output().unwrap()
}

#[test]
fn the_command_rehearses_once_as_the_config_says() {
    let kept = Kept::of("plain");
    let dir = kept.dir.path();
    let config = |check: &str| {
        let text = format!(
            "dbs: [{{path: app.db, drill: {{mode: full, check: [\"{check}\"]}}, replica: {{path: {}}}}}]",
            dir.display()
        );
        std::fs::write(dir.join("l.yml"), text).unwrap();
    };
    config("SELECT count(*) FROM t");
    let passed = run(dir, "drill -config l.yml -scratch . app.db");
    let said = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert!(passed.status.success() && said.contains("restorable to"), "{passed:?}");
    config("SELECT count(*) = 7 FROM t");
    let failed = run(dir, "drill -config l.yml -scratch . -json app.db");
    let value: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((failed.status.code(), &value[0]["ok"]), (Some(1), &false.into()));
    assert!(value[0]["error"].as_str().unwrap().contains("answered \"0\""), "{value}");
    assert!(run(dir, "drill -config l.yml -mode stream app.db").status.success());
    assert_eq!(run(dir, "drill -config l.yml -mode half app.db").status.code(), Some(1));
}

/// The whole program, with the config's words.
#[test]
fn replicate_rehearses_when_the_config_asks_for_it() {
    let dir = TempDir::new().unwrap();
    let app = rusqlite::Connection::open(dir.path().join("app.db")).unwrap();
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    let config = format!(
        "drill: {{interval: 200ms, mode: full}}\ndbs: [{{path: {dir}/app.db, replica: {{path: {dir}/r}}}}]\n",
        dir = dir.path().display()
    );
    std::fs::write(dir.path().join("l.yml"), config).unwrap();
    let log = dir.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
        .args(["replicate", "-config", "l.yml"])
        .current_dir(dir.path())
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(&log).unwrap().contains("restore rehearsed") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let ended = child.wait().unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(ended.success() && said.contains("restore rehearsed"), "{said}");
    assert!(!dir.path().join(".app.db-litestream/brooklet/drill").exists(), "nothing is left behind");
}
