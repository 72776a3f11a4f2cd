//! Many databases in one process.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use brooklet::capture::Parking;
use brooklet::daemon::Daemon;
use brooklet::health::{Grade, Objective, judge};
use brooklet::status::DatabaseFacts;
use brooklet::storage::{Body, Key, MemoryStorage, Object, PutOptions, Result, Storage};
use bytes::Bytes;
use rusqlite::Connection;

use crate::failures_capture::set_times_back;
use crate::running::{TABLE, assert_restores, create, destination, insert, job, replica_in, start, stop};

const PATIENCE: Duration = Duration::from_secs(60);

/// A storage that never answers.
struct Dead;

#[async_trait]
impl Storage for Dead {
    fn kind(&self) -> &'static str {
        "dead"
    }

    async fn list(&self, _: &Key, _: Option<&Key>) -> Result<Vec<Object>> {
        std::future::pending().await
    }

    async fn get(&self, _: &Key, _: Range<u64>) -> Result<Bytes> {
        std::future::pending().await
    }

    async fn put(&self, _: &Key, _: Body, _: PutOptions) -> Result<()> {
        std::future::pending().await
    }

    async fn delete(&self, _: &[Key]) -> Result<()> {
        std::future::pending().await
    }
}

fn databases(dir: &Path, count: usize) -> Vec<(PathBuf, Connection)> {
    let one = |n: usize| {
        let path = dir.join(format!("tenant{n:05}.db"));
        let app = create(&path, TABLE);
        (path, app)
    };
    (0..count).map(one).collect()
}

/// F112: the storage of some never answers; the others, on the same workers, do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_never_answer_delay_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let apps = databases(dir.path(), 60);
    let (good, dead): (Arc<dyn Storage>, Arc<dyn Storage>) = (Arc::new(MemoryStorage::new()), Arc::new(Dead));
    let jobs = apps.iter().enumerate().map(|(n, (path, _))| {
        let mut job = job(path, &[&replica_in(good.clone(), &format!("good{n}"))]);
        if n % 3 == 0 {
            job.replicas.push(destination(&replica_in(dead.clone(), &format!("dead{n}"))));
        }
        job
    });
    let daemon = start(jobs.collect());
    for round in 1..=3u64 {
        apps.iter().for_each(|(_, app)| insert(app, 1));
        let begun = Instant::now();
        let there = |facts: &DatabaseFacts| {
            facts.captured.is_some_and(|c| c.batch >= round && facts.replicas[0].batch == Some(c.batch))
        };
        while !daemon.board().read().iter().all(there) {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", daemon.board().read());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let lost = daemon.stop(Duration::from_secs(2)).await;
    assert!(lost.iter().all(|lost| lost.replica.as_ref().is_some_and(|name| name.starts_with("dead"))), "{lost:?}");
}

/// F115: one writes without a pause; the others' commits are captured and uploaded beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_database_does_not_starve_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let apps = databases(dir.path(), 40);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let jobs = apps.iter().enumerate().map(|(n, (path, _))| job(path, &[&replica_in(storage.clone(), &n.to_string())]));
    let daemon = start(jobs.collect());
    let ends = Arc::new(AtomicBool::new(false));
    let hot = {
        let (path, ends) = (apps[0].0.clone(), ends.clone());
        std::thread::spawn(move || {
            let app = Connection::open(path).unwrap();
            app.busy_timeout(Duration::from_secs(10)).unwrap();
            app.execute_batch("PRAGMA synchronous=off").unwrap();
            while !ends.load(Ordering::Relaxed) {
                app.execute("INSERT INTO t(x) VALUES (randomblob(20000))", []).unwrap();
            }
        })
    };
    let mut before: Vec<_> = daemon.board().read().iter().map(|facts| facts.replicas[0].batch).collect();
    for _ in 0..3 {
        apps[1..].iter().for_each(|(_, app)| insert(app, 1));
        let begun = Instant::now();
        loop {
            let facts = daemon.board().read();
            let moved = |n: usize| facts[n].replicas[0].batch > before[n] && facts[n].behind().count() == 0;
            if (1..apps.len()).all(moved) {
                before = facts.iter().map(|facts| facts.replicas[0].batch).collect();
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{facts:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(!hot.is_finished());
    ends.store(true, Ordering::Relaxed);
    hot.join().unwrap();
    stop(daemon).await;
}

/// What is on the board as soon as it is so.
async fn when(daemon: &Daemon, is_so: impl Fn(&[DatabaseFacts]) -> bool) -> Vec<DatabaseFacts> {
    let begun = Instant::now();
    loop {
        let facts = daemon.board().read();
        if is_so(&facts) {
            return facts;
        }
        assert!(begun.elapsed() < PATIENCE, "{facts:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One that is followed closely is looked at more often.
fn is_parked(facts: &DatabaseFacts) -> bool {
    facts.poll > Duration::from_secs(10)
}

/// F110: of one that is left alone it is known how rarely it is looked at, so that nobody takes it for forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_database_is_not_taken_for_unwatched() {
    let dir = tempfile::tempdir().unwrap();
    let apps = databases(dir.path(), 1);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let mut job = job(&apps[0].0, &[&replica_in(storage, "r")]);
    job.capture.parking = Some(Parking { after: Duration::from_millis(200), among: 0 });
    let daemon = start(vec![job]);
    let facts = when(&daemon, |facts| is_parked(&facts[0])).await.remove(0);
    let later = facts.looked.unwrap() + facts.poll + Duration::from_secs(1);
    assert_eq!(judge(&facts, later, Objective::default()).overall.grade, Grade::Ok);
    stop(daemon).await;
}

/// F110: after a restart with many idle databases none is kept open for the time that it was not used before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_rested_is_left_alone_as_soon_as_it_is_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let [(rested, _app), (used, _other)] = databases(dir.path(), 2).try_into().unwrap();
    set_times_back(&rested);
    let replica = replica_in(Arc::new(MemoryStorage::new()), "r");
    let other = replica_in(Arc::new(MemoryStorage::new()), "r");
    let jobs = [(&rested, &replica), (&used, &other)].map(|(path, replica)| {
        let mut job = job(path, &[replica]);
        job.capture.parking = Some(Parking { after: Duration::from_secs(3600), among: 0 });
        job
    });
    let daemon = start(jobs.into());
    let is_uploaded = |facts: &DatabaseFacts| facts.captured.is_some() && facts.behind().count() == 0;
    let facts = when(&daemon, |facts| is_parked(&facts[0]) && is_uploaded(&facts[1])).await;
    assert!(is_uploaded(&facts[0]));
    assert!(!is_parked(&facts[1]), "it was just written to");
    assert_restores(&replica, &rested).await;
    stop(daemon).await;
}

/// Databases come while others are stepped and asked after: nobody waits for somebody who waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_come_while_others_are_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let apps = databases(dir.path(), 120);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let jobs: Vec<_> = apps
        .iter()
        .enumerate()
        .map(|(n, (path, _))| job(path, &[&replica_in(storage.clone(), &n.to_string())]))
        .collect();
    let (at_once, later) = jobs.split_at(20);
    let daemon = Arc::new(start(at_once.to_vec()));
    let ends = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let (path, ends) = (apps[n].0.clone(), ends.clone());
            std::thread::spawn(move || {
                let app = Connection::open(path).unwrap();
                app.busy_timeout(Duration::from_secs(10)).unwrap();
                app.execute_batch("PRAGMA synchronous=off").unwrap();
                while !ends.load(Ordering::Relaxed) {
                    app.execute("INSERT INTO t(x) VALUES (1)", []).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
            })
        })
        .collect();
    let adder = {
        let (daemon, later) = (daemon.clone(), later.to_vec());
        std::thread::spawn(move || {
            for round in 0..20 {
                let added: Vec<_> = later.iter().map(|job| daemon.add(job.clone()).unwrap()).collect();
                if round < 19 {
                    for id in added {
                        futures::executor::block_on(daemon.remove(id, Duration::from_secs(30))).unwrap();
                    }
                }
            }
        })
    };
    let begun = Instant::now();
    while !adder.is_finished() {
        assert!(begun.elapsed() < PATIENCE, "somebody waits for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    adder.join().unwrap();
    ends.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(daemon.board().read().len(), 120);
    assert_eq!(daemon.stop(PATIENCE).await, []);
}

/// The program with a directory of databases.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Through a shell that sets limits first.
    fn start(dir: &Path, before: &str) -> Self {
        Self::parking(dir, "2s", before)
    }

    /// One that leaves idle databases alone after this time.
    fn parking(dir: &Path, after: &str, before: &str) -> Self {
        let (config, log) = (dir.join("litestream.yml"), dir.join("log"));
        let text = format!(
            "park-after: {after}\ndbs:\n  - dir: {0}/tenants\n    pattern: '*.db'\n    watch: true\n    \
             replica: {{path: {0}/backup, sync-interval: 100ms}}\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let out = File::create(&log).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{before} exec \"$0\" replicate"), env!("CARGO_BIN_EXE_brooklet")]);
        command.env_clear().env("HOME", dir).env("LITESTREAM_CONFIG", &config);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self { child: command.spawn().unwrap(), log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn segments(dir: &Path) -> usize {
    let segments = |path: PathBuf| fs::read_dir(path.join("ltx/0")).map_or(0, Iterator::count);
    fs::read_dir(dir.join("backup")).map_or(0, |all| all.flatten().filter(|one| segments(one.path()) > 0).count())
}

fn until(program: &Program, what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {}", program.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// F110: threads do not grow with databases, and of those that nobody writes to
/// one descriptor each is held.
#[test]
fn idle_databases_cost_one_descriptor_each_and_no_thread() {
    const COUNT: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tenants")).unwrap();
    let apps = databases(&dir.path().join("tenants"), COUNT);
    let program = Program::start(dir.path(), "");
    until(&program, "all are uploaded", || segments(dir.path()) == COUNT);
    until(&program, "all are left alone", || program.open_files() < COUNT + 50);
    assert!(program.status("Threads:") < 40, "{}", program.status("Threads:"));
    insert(&apps[7].1, 1);
    let backup = dir.path().join("backup/tenant00007.db/ltx/0");
    until(&program, "a commit is noticed", || fs::read_dir(&backup).unwrap().count() > 1);
    drop(apps);
    program.terminate();
}

/// Heaps of glibc besides the first: each has 64 MiB of addresses that begin at a multiple of that, not all in use.
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
fn further_heaps(program: &Program) -> usize {
    const SIZE: u64 = 64 << 20;
    let maps = fs::read_to_string(format!("/proc/{}/maps", program.child.id())).unwrap();
    let regions: Vec<(u64, u64, &str)> = maps
        .lines()
        .map(|line| {
            let (from, rest) = line.split_once('-').unwrap();
            let (to, rest) = rest.split_once(' ').unwrap();
            (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap(), &rest[..4])
        })
        .collect();
    let is_heap = |pair: &&[(u64, u64, &str)]| {
        let [(from, end, used), (rest, to, free)] = pair else { return false };
        (*used, *free, end) == ("rw-p", "---p", rest) && from % SIZE == 0 && to - from == SIZE
    };
    regions.windows(2).filter(is_heap).count()
}

/// F110: what one thread has freed is there for the others.
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
#[test]
fn threads_share_two_heaps() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tenants")).unwrap();
    drop(databases(&dir.path().join("tenants"), 40));
    let program = Program::start(dir.path(), "");
    until(&program, "all are uploaded", || segments(dir.path()) == 40);
    assert_eq!(further_heaps(&program), 1);
    program.terminate();
    // As it is without our doing; should this fail, then the counting is wrong.
    let program = Program::start(dir.path(), "MALLOC_ARENA_MAX=16");
    until(&program, "all are taken up again", || program.log().matches("initialized db").count() == 40);
    assert!(further_heaps(&program) > 1);
    program.terminate();
}

/// F105: too few descriptors are not missing files: nothing is given up or begun
/// anew for want of them, and with enough all goes on.
#[test]
fn without_descriptors_nothing_is_taken_for_missing() {
    const COUNT: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tenants")).unwrap();
    let apps = databases(&dir.path().join("tenants"), COUNT);
    let program = Program::start(dir.path(), "");
    until(&program, "all are uploaded", || segments(dir.path()) == COUNT);
    program.terminate();
    apps.iter().for_each(|(_, app)| insert(app, 1));
    let program = Program::start(dir.path(), "ulimit -n 64;");
    until(&program, "it is felt", || {
        program.log().contains("sync error") || program.log().contains("cannot look into")
    });
    std::thread::sleep(Duration::from_secs(2));
    let log = program.log();
    for wrong in ["removed database", "new generation", "does not exist", "cannot be trusted", "are gone", "panicked"] {
        assert!(!log.contains(wrong), "{wrong}: {log}");
    }
    drop(program);
    let program = Program::start(dir.path(), "");
    let moved = |n: usize| fs::read_dir(dir.path().join(format!("backup/tenant{n:05}.db/ltx/0"))).unwrap().count() > 1;
    until(&program, "all go on", || (0..COUNT).all(moved));
    assert!(!program.log().contains("new generation"), "{}", program.log());
    program.terminate();
}

/// F110: where the limit on open files allows to follow a fifth of them closely, all
/// are followed nevertheless: those that rest make room, also where the config
/// would keep them.
#[test]
fn with_few_descriptors_all_take_turns() {
    const COUNT: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tenants")).unwrap();
    let apps = databases(&dir.path().join("tenants"), COUNT);
    let program = Program::parking(dir.path(), "0s", "ulimit -n 600;");
    until(&program, "all are uploaded", || segments(dir.path()) == COUNT);
    let count = |n: usize| fs::read_dir(dir.path().join(format!("backup/tenant{n:05}.db/ltx/0"))).unwrap().count();
    for round in 1..=2 {
        apps.iter().for_each(|(_, app)| insert(app, 1));
        until(&program, "every commit is noticed", || (0..COUNT).all(|n| count(n) > round));
        assert!(program.open_files() < 600);
    }
    let log = program.log();
    assert_eq!(log.matches("the limit on open files is too low").count(), 1, "{log}");
    assert!(!log.contains("sync error"), "{log}");
    assert_eq!(log.matches("new generation").count(), COUNT, "nothing is begun anew: {log}");
    drop(apps);
    program.terminate();
}
