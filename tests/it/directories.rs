//! Directories of databases, with the program as it is deployed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::capture::consistent_copy;
use crate::running::create;

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)";
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of tenants, its backup, and a config that names both.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(keys: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.tenants()).unwrap();
        place.configure(&format!(
            "dbs:\n  - dir: {}\n    pattern: '*.db'\n    {keys}\n    replica: {{path: {}, sync-interval: 100ms}}\n",
            place.tenants().display(),
            place.path("backup").display()
        ));
        place
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("litestream.yml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tenants(&self) -> PathBuf {
        self.path("tenants")
    }

    fn tenant(&self, name: &str) -> PathBuf {
        self.tenants().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words).env_clear().env("HOME", self.dir.path()).stdin(Stdio::null());
        command.env("LITESTREAM_CONFIG", self.path("litestream.yml"));
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn start(&self) -> Running {
        let log = self.path("log");
        let out = File::create(&log).unwrap();
        let mut command = self.command(&["replicate"]);
        Running { child: command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap(), log }
    }

    /// Waits until a database can be restored to what it is now, which nobody changes.
    fn arrives(&self, name: &str) {
        let expected = consistent_copy(&self.tenant(name));
        self.restores(name, &expected);
    }

    fn restores(&self, name: &str, expected: &[u8]) {
        let out = self.path("out");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let _ = fs::remove_file(&out);
            let done = self.run(&["restore", "-o", out.to_str().unwrap(), self.tenant(name).to_str().unwrap()]);
            if done.status.success() && fs::read(&out).unwrap() == expected {
                return;
            }
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{name} did not arrive: {said}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn says(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "never said {text:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The databases whose log it has open.
    fn follows(&self) -> BTreeSet<PathBuf> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().flatten();
        let names = links.filter_map(|link| fs::read_link(link.path()).ok());
        names.filter_map(|name| name.to_str()?.strip_suffix("-wal").map(PathBuf::from)).collect()
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn insert(app: &Connection) {
    app.execute("INSERT INTO t(x) VALUES (randomblob(500))", []).unwrap();
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn databases_come_and_go_with_their_files() {
    let place = Place::new("recursive: true\n    watch: true");
    let first = create(&place.tenant("a.db"), TABLE);
    fs::write(place.tenant("notes.db"), "not a database").unwrap();
    let running = place.start();
    running.says("replicating directory to");
    insert(&first);
    place.arrives("a.db");
    // One that appears, in a directory that did not exist either.
    fs::create_dir(place.tenant("eu")).unwrap();
    let second = create(&place.tenant("eu/b.db"), TABLE);
    insert(&second);
    running.says("added database to replication");
    place.arrives("eu/b.db");
    let listed = text(&place.run(&["databases"]));
    assert!(listed.contains("eu/b.db") && listed.contains("a.db") && !listed.contains("notes"), "{listed}");
    // F114: one that goes with its newest commit.
    insert(&second);
    let expected = consistent_copy(&place.tenant("eu/b.db"));
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(place.tenant(&format!("eu/b.db{suffix}"))).unwrap();
    }
    running.says("removed database from replication");
    place.restores("eu/b.db", &expected);
    assert_eq!(running.follows(), BTreeSet::from([place.tenant("a.db")]));
    drop((first, second));
    running.terminate();
}

/// After the disk is lost, the backup alone tells which databases there were.
#[test]
fn restore_all_finds_what_a_directory_held() {
    let place = Place::new("recursive: true");
    let apps = ["a.db", "eu/b.db", "eu/c.db"].map(|name| {
        fs::create_dir_all(place.tenant(name).parent().unwrap()).unwrap();
        let app = create(&place.tenant(name), TABLE);
        insert(&app);
        app
    });
    let copies: Vec<_> = ["a.db", "eu/b.db", "eu/c.db"].map(|name| (name, consistent_copy(&place.tenant(name)))).into();
    let once = place.run(&["replicate", "-once"]);
    assert!(once.status.success(), "{}", text(&once));
    drop(apps);
    fs::remove_dir_all(place.tenants()).unwrap();
    let all = place.run(&["restore", "-all"]);
    assert!(all.status.success(), "{}", text(&all));
    for (name, copy) in copies {
        assert!(fs::read(place.tenant(name)).unwrap() == copy, "{name}");
    }
}

#[test]
fn a_directory_without_databases_is_a_mistake_unless_they_may_come() {
    let place = Place::new("recursive: true");
    let refused = place.run(&["replicate", "-once"]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("no SQLite databases found in directory"), "{}", text(&refused));
    let place = Place::new("watch: true");
    let running = place.start();
    running.says("replicating directory to");
    let app = create(&place.tenant("a.db"), TABLE);
    insert(&app);
    place.arrives("a.db");
    running.terminate();
}

/// F117: two databases in one place, and one database under two names.
#[test]
fn no_two_databases_share_a_place() {
    let place = Place::new("watch: true");
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let entry = |dir: &Path| {
        let (dir, backup) = (dir.display(), place.path("backup").display().to_string());
        format!("  - dir: {dir}\n    pattern: '*.db'\n    watch: true\n    replica: {{path: {backup}}}\n")
    };
    place.configure(&format!("dbs:\n{}{}", entry(&place.tenants()), entry(&other)));
    let apps = [create(&place.tenant("a.db"), TABLE), create(&other.join("a.db"), TABLE)];
    let refused = place.run(&["replicate"]);
    assert!(!refused.status.success() && text(&refused).contains("are in one place"), "{}", text(&refused));
    drop(apps);
    fs::remove_file(other.join("a.db")).unwrap();
    let running = place.start();
    running.says("replicating directory to");
    let late = create(&other.join("a.db"), TABLE);
    running.says("are in one place");
    fs::hard_link(place.tenant("a.db"), place.tenant("b.db")).unwrap();
    running.says("it is replicated under one name only");
    assert_eq!(running.follows(), BTreeSet::from([place.tenant("a.db")]));
    drop(late);
    running.terminate();
}

/// F113: whatever happened, seconds later the program follows what is there.
#[test]
fn a_storm_of_files_ends_with_what_a_fresh_look_finds() {
    let place = Place::new("recursive: true\n    watch: true");
    let seed = place.path("seed.db");
    drop(create(&seed, TABLE));
    let running = place.start();
    running.says("replicating directory to");
    let mut there = BTreeSet::new();
    for n in 0..2000u32 {
        let sub = place.tenant(&format!("d{}", n % 7));
        fs::create_dir_all(&sub).unwrap();
        let path = sub.join(format!("t{n}.db"));
        fs::copy(&seed, &path).unwrap();
        if n % 50 == 0 {
            let moved = place.tenant(&format!("moved-{n}.db"));
            fs::rename(&path, &moved).unwrap();
            there.insert(moved);
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    // A whole directory that moves, with a database in it.
    fs::copy(&seed, place.tenant("d1/last.db")).unwrap();
    fs::rename(place.tenant("d1"), place.tenant("elsewhere")).unwrap();
    there.insert(place.tenant("elsewhere/last.db"));
    let deadline = Instant::now() + PATIENCE;
    while running.follows() != there {
        assert!(Instant::now() < deadline, "{:#?}\n{}", running.follows(), running.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}
