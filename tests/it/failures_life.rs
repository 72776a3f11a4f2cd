//! Failures in the life of a database and of the program: files that are
//! deleted, replaced or followed twice, input that is no database, local state
//! that is damaged, programs that are killed.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::capture;
use brooklet::replica::{Layout, Replica};
use brooklet::restore::Target;
use brooklet::status::{DatabaseFacts, Health};
use brooklet::storage::{FileStorage, Key, MemoryStorage};
use rusqlite::Connection;

use crate::capture::consistent_copy;
use crate::fault::{Moody, splitmix};
use crate::running::{
    PATIENCE, TABLE, arrives, assert_same_pages, bases, checkpoint, create, database, files_below, follow, generation,
    insert, job, keep_log, log_lines, objects, rebuild, replica_in, restored, start, stop, unfinished_files_below,
    until, wait_for, wait_within,
};

/// The program in a process of its own, as it is deployed.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(scratch: &Path, path: &Path, replica: &Path) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        Self::start_with(command, scratch, path, replica)
    }

    /// The same with local state somewhere else.
    fn start_apart(scratch: &Path, path: &Path, replica: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.arg("replicate");
        Self::start_keeping(command, scratch, path, replica, &format!("meta-path: {}", scratch.join("state").display()))
    }

    fn start_with(mut command: Command, scratch: &Path, path: &Path, replica: &Path) -> Self {
        command.arg("replicate");
        Self::start_keeping(command, scratch, path, replica, "monitor-interval: 100ms")
    }

    fn start_keeping(mut command: Command, scratch: &Path, path: &Path, replica: &Path, keys: &str) -> Self {
        let (config, log) = (scratch.join("litestream.yml"), scratch.join("log"));
        let text = format!(
            "dbs:\n  - path: {}\n    {keys}\n    replica: {{path: {}, sync-interval: 100ms}}\n",
            path.display(),
            replica.display()
        );
        std::fs::write(&config, text).unwrap();
        let out = File::create(&log).unwrap();
        command.arg("-config").arg(&config).env_clear().env("HOME", scratch);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self { child: command.spawn().unwrap(), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has caught its signals and is about to follow.
    fn ready(&self) {
        until("the program is ready", || self.log().contains("replicating to"));
    }

    /// Asks it to end, which it does with everything replicated.
    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory, a database in it, and the replica that a program makes of it.
struct Place {
    dir: tempfile::TempDir,
    path: PathBuf,
    replica: Replica,
}

impl Place {
    fn new() -> (Self, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let (path, app) = database(dir.path(), TABLE);
        insert(&app, 10);
        let storage = Arc::new(FileStorage::new(dir.path().join("replica")));
        let replica = Replica::new("file".to_owned(), storage, Key::ROOT, Layout::Decimal);
        (Self { dir, path, replica }, app)
    }

    fn start(&self) -> Program {
        Program::start(self.dir.path(), &self.path, &self.replica_dir())
    }

    fn replica_dir(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    fn state(&self) -> PathBuf {
        capture::default_meta_path(&self.path)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(path, suffix));
    }
}

/// F50, in this process, where the time can be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_deleted_and_made_anew_is_taken_up_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    insert(&app, 200);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let daemon = follow(&path, &[&replica]).await;
    for round in 0..3 {
        let old = daemon.board().read()[0].captured.unwrap();
        let app = {
            // The application holds on to the old files or not.
            let _still_open = (round == 1).then(|| create(&path, ""));
            remove_database(&path);
            create(&path, &format!("{TABLE}; PRAGMA wal_autocheckpoint = 20"))
        };
        insert(&app, 100);
        // The file system may give the new file the number of the old one, which nobody had open for a moment. Then
        // the old history goes on with what differs.
        let taken_up = |f: &DatabaseFacts| {
            f.captured.is_some_and(|c| c.generation != old.generation || c.batch > old.batch)
                && f.health == Health::Live
        };
        wait_within(Duration::from_secs(2), &daemon, "it is taken up", taken_up).await;
        if round == 1 {
            assert_ne!(generation(&daemon), old.generation);
        }
        insert(&app, 100);
        arrives(&replica, &path).await;
    }
    // At once before the end: the last capture must not look at the old files.
    remove_database(&path);
    let app = create(&path, TABLE);
    insert(&app, 7);
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
}

/// F50 with the application in another process than the follower.
#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_database_is_followed_by_the_program() {
    let (place, app) = Place::new();
    let program = place.start();
    arrives(&place.replica, &place.path).await;
    drop(app);
    remove_database(&place.path);
    let app = create(&place.path, &format!("{TABLE}; PRAGMA wal_autocheckpoint = 20"));
    insert(&app, 300);
    arrives(&place.replica, &place.path).await;
    insert(&app, 3);
    arrives(&place.replica, &place.path).await;
    program.terminate();
    assert_same_pages(&rebuild(&place.replica).await, &consistent_copy(&place.path));
}

/// F51: another file takes the name, with and without the old log beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_replaced_by_renaming_is_not_mixed_with_the_old_one() {
    for log_removed in [true, false] {
        let (place, app) = Place::new();
        let next = place.dir.path().join("next");
        let other = create(&next, TABLE);
        insert(&other, 50);
        checkpoint(&other, "TRUNCATE");
        other.execute_batch("PRAGMA journal_mode=delete; PRAGMA journal_mode=wal").unwrap();
        drop(other);
        let program = place.start();
        arrives(&place.replica, &place.path).await;
        if !log_removed {
            // What the log still held would be read into the new file, by everybody.
            until("the log is empty", || {
                let row = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
                row.is_ok_and(|busy| busy == 0)
            });
        }
        drop(app);
        if log_removed {
            let _ = std::fs::remove_file(beside(&place.path, "-wal"));
            let _ = std::fs::remove_file(beside(&place.path, "-shm"));
        }
        std::fs::rename(&next, &place.path).unwrap();
        if !log_removed {
            // As long as the old index is in use, SQLite believes what it says about the size of the new file.
            until("the old files are let go", || program.log().matches("new generation").count() == 2);
        }
        let app = create(&place.path, "");
        assert_eq!(app.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 50);
        insert(&app, 5);
        arrives(&place.replica, &place.path).await;
        insert(&app, 5);
        arrives(&place.replica, &place.path).await;
        program.terminate();
        assert_same_pages(&rebuild(&place.replica).await, &consistent_copy(&place.path));
    }
}

/// F52: the log or its index is unlinked while both sides have it open. Nobody
/// can see what is written to a file without a name; so that is said, and what
/// the application does once it is restarted is followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_or_index_that_is_removed_under_us_raises_the_alarm() {
    for suffix in ["-wal", "-shm"] {
        let (place, app) = Place::new();
        let program = place.start();
        arrives(&place.replica, &place.path).await;
        std::fs::remove_file(beside(&place.path, suffix)).unwrap();
        insert(&app, 1);
        until("the alarm", || program.log().contains(&format!("{suffix} was removed or replaced")));
        assert!(program.log().contains("restart the application"));
        insert(&app, 3);
        drop(app);
        let app = create(&place.path, "");
        insert(&app, 3);
        arrives(&place.replica, &place.path).await;
        insert(&app, 3);
        arrives(&place.replica, &place.path).await;
        program.terminate();
        assert_same_pages(&restored(&place.replica).await, &consistent_copy(&place.path));
    }
}

/// F53: by whatever path, one file has one follower in a process.
#[tokio::test(flavor = "multi_thread")]
async fn one_file_by_two_paths_is_followed_once() {
    keep_log();
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let (symbolic, hard) = (dir.path().join("symbolic.db"), dir.path().join("hard.db"));
    std::os::unix::fs::symlink(&path, &symbolic).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    let first = replica_in(Arc::new(MemoryStorage::new()), "r");
    let others = replica_in(Arc::new(MemoryStorage::new()), "others");
    let daemon = start(vec![job(&path, &[&first]), job(&symbolic, &[&others]), job(&hard, &[&others])]);
    let followed = |health: &Health| *health == Health::Live;
    until("one is followed and two are refused", || {
        let facts = daemon.board().read();
        let refused = facts.iter().filter(|f| matches!(&f.health, Health::Broken(why) if why.contains("same file")));
        facts.iter().filter(|f| followed(&f.health)).count() == 1 && refused.count() == 2
    });
    insert(&app, 20);
    let live = daemon.board().read().iter().position(|f| followed(&f.health)).unwrap();
    let replica = if live == 0 { &first } else { &others };
    arrives(replica, &path).await;
    assert_eq!(daemon.board().read().iter().filter(|f| followed(&f.health)).count(), 1);
    let lines: Vec<_> = [&symbolic, &hard].iter().flat_map(|path| log_lines(path)).collect();
    assert!(lines.len() <= 4, "{lines:#?}");
    let refused = daemon.stop(PATIENCE).await;
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_same_pages(&restored(replica).await, &consistent_copy(&path));
}

/// F53: and so it is between processes, which wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_one_database_waits_until_the_first_has_ended() {
    let (place, app) = Place::new();
    let first = place.start();
    arrives(&place.replica, &place.path).await;

    let elsewhere = tempfile::tempdir().unwrap();
    let alias = elsewhere.path().join("alias");
    std::os::unix::fs::symlink(place.dir.path(), &alias).unwrap();
    let other_dir = elsewhere.path().join("replica");
    let alias_path = alias.join(place.path.file_name().unwrap());
    let second = Program::start(elsewhere.path(), &alias_path, &other_dir);
    until("the second is refused", || second.log().contains("another process is replicating this database"));
    insert(&app, 5);
    arrives(&place.replica, &place.path).await;
    assert!(!other_dir.exists());
    first.terminate();
    insert(&app, 5);
    let replica = Replica::new("file".into(), Arc::new(FileStorage::new(&other_dir)), Key::ROOT, Layout::Decimal);
    arrives(&replica, &place.path).await;
    assert_eq!(second.log().matches("another process is replicating").count(), 1);
    second.terminate();
}

/// F63: with local state of their own they do not see each other's lock. Both go
/// on, and the one that comes second says that it is not alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_local_state_of_its_own_says_that_it_is_not_alone() {
    let (place, app) = Place::new();
    let first = place.start();
    arrives(&place.replica, &place.path).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other_dir = elsewhere.path().join("replica");
    let second = Program::start_apart(elsewhere.path(), &place.path, &other_dir);
    until("the second has seen the first", || second.log().contains("another program replicates this database too"));
    assert!(second.log().contains("program=brooklet"), "{}", second.log());
    let other = Replica::new("file".into(), Arc::new(FileStorage::new(&other_dir)), Key::ROOT, Layout::Decimal);
    for _ in 0..3 {
        insert(&app, 5);
        checkpoint(&app, "TRUNCATE");
    }
    arrives(&place.replica, &place.path).await;
    arrives(&other, &place.path).await;
    assert!(!first.log().contains("another program"), "the first was alone when it began");
    first.terminate();
    second.terminate();
}

/// F61: yesterday's file is put in place of today's, with the daemon stopped or
/// running. The replica follows, and today's state can still be restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_put_back_to_an_older_copy_is_followed_and_its_history_stays() {
    for running in [false, true] {
        let (place, app) = Place::new();
        let yesterday = place.dir.path().join("yesterday");
        std::fs::write(&yesterday, consistent_copy(&place.path)).unwrap();
        let daemon = follow(&place.path, &[&Arc::new(place.replica.clone())]).await;
        insert(&app, 20);
        arrives(&place.replica, &place.path).await;
        let today = consistent_copy(&place.path);
        let newest = place.replica.list_all().await.unwrap().position().unwrap();
        let daemon = match running {
            true => Some(daemon),
            false => {
                stop(daemon).await;
                None
            }
        };
        drop(app);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&place.path, suffix));
        }
        // As a person would: the file itself is overwritten, by another process.
        let copied = Command::new("cp").arg(&yesterday).arg(&place.path).status().unwrap();
        assert!(copied.success());
        let app = Connection::open(&place.path).unwrap();
        insert(&app, 3);
        let daemon = match daemon {
            Some(daemon) => daemon,
            None => follow(&place.path, &[&Arc::new(place.replica.clone())]).await,
        };
        arrives(&place.replica, &place.path).await;
        insert(&app, 3);
        arrives(&place.replica, &place.path).await;
        stop(daemon).await;
        let back = crate::running::try_restore(&place.replica, Target::Txid(newest)).await.unwrap();
        assert_same_pages(&back, &today);
    }
}

/// F19: with `synchronous=NORMAL` a power loss takes commits away that the replica already
/// has. It follows what survived, by the difference alone; what was lost here can still be restored there.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_ahead_after_a_power_loss_follows_what_survived() {
    type Torn = fn(Vec<u8>, usize) -> Vec<u8>;
    let whole: Torn = |log, synced| log[..synced].to_vec();
    let torn: Torn = |log, synced| log[..synced + 3 * (24 + 4096) + 100].to_vec();
    let zeros: Torn = |log, synced| [&log[..synced + 24 + 4096], &vec![0; log.len() - synced - 24 - 4096]].concat();
    let nothing: Torn = |_, _| Vec::new();
    for (what, survives, written_before) in [
        ("only what was flushed", whole, 0),
        ("only what was flushed, and as much is written anew", whole, 60),
        ("a torn log", torn, 1),
        ("a log that ends in zeros", zeros, 0),
        ("a log that ends in zeros, and is written on", zeros, 60),
        ("no log", nothing, 0),
        ("no log, and a new one is longer", nothing, 200),
    ] {
        let (place, app) = Place::new();
        checkpoint(&app, "TRUNCATE");
        // With a reader of the empty log nothing is copied into the database, so that all depends on the log.
        let reader = create(&place.path, "");
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        let replica = Arc::new(place.replica.clone());
        let daemon = follow(&place.path, &[&replica]).await;
        let (database, log) = (place.dir.path().join("database"), beside(&place.path, "-wal"));
        copy_by_another(&place.path, &database);
        insert(&app, 20);
        arrives(&place.replica, &place.path).await;
        let synced = usize::try_from(std::fs::metadata(&log).unwrap().len()).unwrap();
        let flushed = (position(&replica).await, consistent_copy(&place.path));
        insert(&app, 40);
        arrives(&place.replica, &place.path).await;
        let ahead = (position(&replica).await, consistent_copy(&place.path));
        let copy = place.dir.path().join("log");
        copy_by_another(&log, &copy);
        stop(daemon).await;
        drop((reader, app));
        // The power is gone: the same files hold what had reached the disk.
        copy_by_another(&database, &place.path);
        let survived = survives(std::fs::read(&copy).unwrap(), synced);
        std::fs::write(&log, survived).unwrap();
        let _ = std::fs::remove_file(beside(&place.path, "-shm"));
        let app = create(&place.path, "");
        let rows: i64 = app.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert!(rows < 70, "{what}: {rows} rows");
        insert(&app, written_before);
        let daemon = start(vec![job(&place.path, &[&replica])]);
        arrives(&place.replica, &place.path).await;
        insert(&app, 5);
        arrives(&place.replica, &place.path).await;
        let resyncs = daemon.counters(daemon.databases()[0]).unwrap().resyncs;
        stop(daemon).await;
        assert_eq!(resyncs, 1, "{what}");
        assert_same_pages(&rebuild(&place.replica).await, &consistent_copy(&place.path));
        assert_eq!(bases(&place.replica).await, [1], "{what}: no second base");
        for (txid, then) in [flushed, ahead] {
            let back = crate::running::try_restore(&place.replica, Target::Txid(txid)).await.unwrap();
            assert_same_pages(&back, &then);
        }
    }
}

async fn position(replica: &Replica) -> brooklet::types::Txid {
    replica.list_all().await.unwrap().position().unwrap()
}

/// By another process, for the sake of the locks in this one. The target stays the same file.
fn copy_by_another(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

/// F55: each kind of input has one state that does not flicker, is mentioned
/// once, and is left as soon as there is a database to follow.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_yet_is_one_quiet_state_until_it_is_one() {
    keep_log();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (waiting, broken) = (true, false);
    let cases: [(&str, bool, &str); 7] = [
        ("missing", waiting, "does not exist"),
        ("empty", waiting, "is an empty file"),
        ("text", broken, "is not a SQLite database"),
        ("encrypted", broken, "is not a SQLite database"),
        ("directory", broken, "is not a file"),
        ("rollback", broken, "journal_mode=WAL"),
        ("dangling", waiting, "does not exist"),
    ];
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at("text"), "just a few words\n".repeat(500)).unwrap();
    let mut seed = 1;
    let noise: Vec<u8> = (0..4096).flat_map(|_| splitmix(&mut seed).to_le_bytes()).collect();
    std::fs::write(at("encrypted"), noise).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let rollback = Connection::open(at("rollback")).unwrap();
    rollback.execute_batch(TABLE).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();

    let store = Arc::new(MemoryStorage::new());
    let replicas = cases.map(|(name, ..)| replica_in(store.clone(), name));
    let daemon = start(cases.iter().zip(&replicas).map(|((name, ..), r)| job(&at(name), &[r])).collect());
    let state_of = |index: usize| daemon.board().read()[index].health.clone();
    until("all have a state", || (0..cases.len()).all(|index| state_of(index) != Health::Starting));
    // Looked at again several times meanwhile, after 0.25, 0.75 and 1.75 seconds.
    let first: Vec<_> = (0..cases.len()).map(state_of).collect();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_millis(2200) {
        rollback.execute("INSERT INTO t(x) VALUES (1)", []).unwrap();
        assert_eq!((0..cases.len()).map(state_of).collect::<Vec<_>>(), first);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for ((name, waits, text), health) in cases.iter().zip(&first) {
        match health {
            Health::Waiting(why) => assert!(*waits && why.contains(text), "{name}: {why}"),
            Health::Broken(why) => assert!(!waits && why.contains(text), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
        let lines = log_lines(&at(name));
        assert_eq!(lines.len(), 1, "{name}: {lines:#?}");
    }
    assert!(!at("missing").exists() && !at("nowhere").exists(), "nothing was created");
    assert_eq!(std::fs::metadata(at("empty")).unwrap().len(), 0);

    rollback.execute_batch("PRAGMA journal_mode=wal").unwrap();
    std::fs::remove_file(at("text")).unwrap();
    std::fs::remove_file(at("encrypted")).unwrap();
    std::fs::remove_dir(at("directory")).unwrap();
    let mut apps = vec![rollback];
    for (name, ..) in cases.iter().filter(|(name, ..)| *name != "rollback") {
        apps.push(create(&at(name), TABLE));
    }
    apps.iter().for_each(|app| insert(app, 3));
    wait_within(Duration::from_secs(10), &daemon, "all are followed", |f| f.health == Health::Live).await;
    stop(daemon).await;
    for ((name, ..), replica) in cases.iter().zip(&replicas) {
        assert_same_pages(&restored(replica).await, &consistent_copy(&at(name)));
    }
}

/// F55, F54: a program that may not read the file says so once, and goes on when it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_permission_is_followed_once_it_is_granted() {
    if !rustix::process::geteuid().is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: this test needs root and setpriv, to start a program as somebody else");
        return;
    }
    let (place, app) = Place::new();
    insert(&app, 1);
    checkpoint(&app, "TRUNCATE");
    drop(app);
    // The program itself must be reachable for that user.
    let binary = place.dir.path().join("brooklet");
    std::fs::copy(env!("CARGO_BIN_EXE_brooklet"), &binary).unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(&binary, 0o755);
    allow(place.dir.path(), 0o777);
    allow(&place.path, 0o600);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    let program = Program::start_with(command, place.dir.path(), &place.path, &place.replica_dir());
    let complaints = || program.log().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
    until("it complains", || complaints() > 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = program.log();
    assert_eq!(complaints(), 1, "{log}");
    assert!(log.contains("check that this user may read and write the file and its directory"), "{log}");
    allow(&place.path, 0o666);
    // As the owner of the state and of the replica it is alone there; root may look at everything.
    arrives(&place.replica, &place.path).await;
    program.terminate();
}

fn flip_a_bit(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// F60: every file of the local state, damaged in every way. Nobody has to help.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_local_state_is_repaired_or_replaced_without_help() {
    type Damage = fn(&Path);
    let cases: [(&str, &str, Damage); 16] = [
        ("pagemap", "deleted", |path| std::fs::remove_file(path).unwrap()),
        ("pagemap", "emptied", |path| cut(path, 0)),
        ("pagemap", "cut within the state", |path| cut(path, 100)),
        ("pagemap", "cut within the entries", |path| cut(path, 8192 + 20)),
        ("pagemap", "a bit of the older state", |path| flip_a_bit(path, 50)),
        ("pagemap", "a bit of the newer state", |path| flip_a_bit(path, 4096 + 50)),
        ("pagemap", "a bit of an entry", |path| flip_a_bit(path, 8192 + 12)),
        ("first", "deleted", |path| std::fs::remove_file(path).unwrap()),
        ("first", "emptied", |path| cut(path, 0)),
        ("first", "cut", |path| cut(path, 300)),
        ("first", "a bit of the header", |path| flip_a_bit(path, 90)),
        ("first", "a bit of a page", |path| flip_a_bit(path, 200)),
        ("last", "deleted", |path| std::fs::remove_file(path).unwrap()),
        ("last", "cut", |path| cut(path, 300)),
        ("last", "a bit of a page", |path| flip_a_bit(path, 200)),
        ("lock", "deleted", |path| std::fs::remove_file(path).unwrap()),
    ];
    keep_log();
    let dir = tempfile::tempdir().unwrap();
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let mut databases = Vec::new();
    for (index, _) in cases.iter().enumerate() {
        let (path, app) = database(dir.path(), TABLE);
        databases.push((path, app, replica_in(moody.clone(), &format!("r{index}"))));
    }
    let jobs = || databases.iter().map(|(path, _, replica)| job(path, &[replica])).collect();
    let daemon = start(jobs());
    wait_for(&daemon, "all have a base", |f| f.captured.is_some() && f.behind().count() == 0).await;
    moody.set_down(true);
    for rows in 1..=3 {
        let before: Vec<_> = daemon.board().read().iter().map(|f| f.captured.unwrap().batch).collect();
        databases.iter().for_each(|(_, app, _)| insert(app, rows));
        until("all are captured", || {
            daemon.board().read().iter().zip(&before).all(|(f, before)| f.captured.unwrap().batch > *before)
        });
    }
    assert_eq!(daemon.stop(Duration::from_secs(3)).await.len(), cases.len());
    let warnings = |path: &Path| {
        let lines = log_lines(path);
        lines.into_iter().filter(|l| l.starts_with("WARN") || l.starts_with("ERROR")).collect::<Vec<_>>()
    };
    let before: Vec<_> = databases.iter().map(|(path, ..)| warnings(path).len()).collect();
    for ((file, _, damage), (path, ..)) in cases.iter().zip(&databases) {
        let state = capture::default_meta_path(path).join("brooklet");
        let spooled = files_below(&state.join("spool"));
        assert_eq!(spooled.len(), 3);
        let damaged = match *file {
            "first" => spooled[0].clone(),
            "last" => spooled[2].clone(),
            name => state.join(name),
        };
        damage(&damaged);
    }
    moody.set_down(false);
    databases.iter().for_each(|(_, app, _)| insert(app, 1));
    let daemon = start(jobs());
    wait_for(&daemon, "all are up to date", |f| f.captured.is_some() && f.behind().count() == 0).await;
    databases.iter().for_each(|(_, app, _)| insert(app, 1));
    stop(daemon).await;
    for (((file, how, _), (path, _, replica)), before) in cases.iter().zip(&databases).zip(before) {
        assert!(rebuild(replica).await == consistent_copy(path), "{file}: {how}");
        let warned = warnings(path);
        assert!(warned.len() - before <= 1, "{file}: {how}: {:#?}", &warned[before..]);
    }
}

/// F91: what was committed before the end is shipped, however short the life was.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_of_a_moment_is_long_enough_for_the_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let moody = Moody::new(Arc::new(MemoryStorage::new()));
    let replica = replica_in(moody.clone(), "r");
    for pause in [0, 0, 1, 3, 10, 50] {
        let daemon = start(vec![job(&path, &[&replica])]);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        insert(&app, 1);
        stop(daemon).await;
        assert_same_pages(&rebuild(&replica).await, &consistent_copy(&path));
    }
    assert_eq!(bases(&replica).await, [1]);

    // Out of reach: it is in the local log, and the next run finds it there even
    // if the database's own log is gone by then.
    moody.set_down(true);
    let daemon = start(vec![job(&path, &[&replica])]);
    insert(&app, 1);
    assert_eq!(daemon.stop(Duration::from_secs(1)).await.len(), 1);
    let captured = consistent_copy(&path);
    assert!(!files_below(&capture::default_meta_path(&path).join("brooklet/spool")).is_empty());
    checkpoint(&app, "TRUNCATE");
    moody.set_down(false);
    let daemon = follow(&path, &[&replica]).await;
    stop(daemon).await;
    assert_same_pages(&rebuild(&replica).await, &captured);
    assert_eq!(bases(&replica).await, [1]);
}

/// F91 with a real signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_right_after_the_start_finds_everything_replicated() {
    let (place, app) = Place::new();
    for _ in 0..3 {
        let program = place.start();
        program.ready();
        insert(&app, 1);
        program.terminate();
        assert_same_pages(&restored(&place.replica).await, &consistent_copy(&place.path));
    }
}

/// F91: a signal while one database is still being restored, from a storage that
/// does not answer: the others are replicated before the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_a_restore_at_the_start_finds_the_rest_replicated() {
    let (place, app) = Place::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = place.dir.path().join("both.yml");
    let text = format!(
        "dbs:\n  - path: {}\n    replica: {{path: {}}}\n  - path: {}\n    restore-if-db-not-exists: true\n    \
         replica: {{type: s3, bucket: b, path: p, region: r, endpoint: 'http://{}'}}\n",
        place.path.display(),
        place.replica_dir().display(),
        place.dir.path().join("missing.db").display(),
        silent.local_addr().unwrap(),
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
        .args(["replicate", "-config"])
        .arg(&config)
        .envs([("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let asked = tokio::task::spawn_blocking(move || silent.accept().map(|accepted| (silent, accepted)));
    let asked = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("the storage is asked").unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends").unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    drop(asked);
    assert_same_pages(&restored(&place.replica).await, &consistent_copy(&place.path));
    drop(app);
}

/// F95, F96: killed at any moment, again and again. No commit is lost, nothing is
/// sent whole a second time, and nothing piles up.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_where_it_was() {
    const LIVES: u64 = 30;
    let (place, app) = Place::new();
    let program = place.start();
    arrives(&place.replica, &place.path).await;
    program.kill();
    let checkpointer = create(&place.path, "");
    checkpointer.busy_timeout(Duration::ZERO).unwrap();
    let mut seed = 95;
    let mut before = objects(&place.replica).await;
    for life in 0..LIVES {
        let program = place.start();
        program.ready();
        let until = Instant::now() + Duration::from_micros(splitmix(&mut seed) % 250_000);
        while Instant::now() < until {
            match splitmix(&mut seed) % 40 {
                0 => checkpoint(
                    &checkpointer,
                    ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][(splitmix(&mut seed) % 4) as usize],
                ),
                1 => drop(app.execute("DELETE FROM t WHERE id % 3 = 0", []).unwrap()),
                2 => insert(&app, 100),
                _ => insert(&app, 1),
            }
        }
        program.kill();
        if life % 3 == 0 {
            // Sometimes a lot happens before the next one comes.
            insert(&app, (splitmix(&mut seed) % 200) as usize);
            checkpoint(&app, "TRUNCATE");
            insert(&app, 1);
        }
        let now = objects(&place.replica).await;
        assert!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "life {life}");
        before = now;
        let drafts = unfinished_files_below(&place.state());
        assert!(drafts <= 2, "life {life}: {drafts} unfinished files"); // one being captured, one being uploaded
        assert!(unfinished_files_below(&place.replica_dir()) <= 1, "life {life}");
    }
    let program = place.start();
    program.ready();
    insert(&app, 1);
    program.terminate();
    assert_same_pages(&rebuild(&place.replica).await, &consistent_copy(&place.path));
    assert_same_pages(&restored(&place.replica).await, &consistent_copy(&place.path));
    assert_eq!(bases(&place.replica).await, [1]);
    assert_eq!(unfinished_files_below(place.dir.path()), 0);
}

/// F96: what crashes left behind goes away, on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_files_of_earlier_lives_are_removed() {
    let (place, app) = Place::new();
    let program = place.start();
    arrives(&place.replica, &place.path).await;
    program.terminate();
    for n in 0..20 {
        let name = format!("0000000000000009-0000000000000009.ltx.{n:016x}.tmp");
        std::fs::write(place.state().join("brooklet/spool").join(&name), "half").unwrap();
        std::fs::write(place.replica_dir().join("ltx/0").join(&name), "half").unwrap();
    }
    let program = place.start();
    program.ready();
    insert(&app, 1);
    program.terminate();
    assert_eq!(unfinished_files_below(place.dir.path()), 0);
    assert_same_pages(&restored(&place.replica).await, &consistent_copy(&place.path));
}
