//! Backups of Litestream 0.3: what it restored from them, we restore.
//!
//! Kept files are always tried; with the program at hand (`LITESTREAM_BIN_03`,
//! and `LITESTREAM_BIN` for what follows an upgrade) so are backups in full swing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brooklet::legacy::{self, Archive, Damage};
use brooklet::ltx::Encoding;
use brooklet::replica::{Layout, Replica};
use brooklet::restore::{
    IntegrityCheck, Older, Options, Outcome, PlanError, Progress, RestoreError, Target, restore_any,
};
use brooklet::storage::{FileStorage, Key};
use brooklet::types::{Secret, Timestamp};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::history::{History, START, range, time_of};

/// Opens the kept files, and nothing else.
pub(crate) const IDENTITY: &str = "AGE-SECRET-KEY-1ZCRJL6XNTLZ6U3V3Z9WHPH6L0L8NUCTTZ7JCT42KR538HF6QZ5KQX44TQA";
const RECIPIENT: &str = "age1gypn09uk9gptdrx6vdmrc8agvplwyl8262yfd9ggnfm529cndg4qe94wtt";

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A kept backup in a directory of its own, with the times it had.
pub(crate) struct Kept {
    pub(crate) dir: TempDir,
    /// Moment, what the program restored (size and CRC-32), the rows of the source.
    states: Vec<(i64, Option<String>, String)>,
}

impl Kept {
    pub(crate) fn of(name: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/litestream-0.3.13").join(name);
        let kept = Self { dir: TempDir::new().unwrap(), states: Vec::new() };
        let mut states = Vec::new();
        for line in fs::read_to_string(source.join("moments.txt")).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let millis: i64 = words[1].parse().unwrap();
            match words[0] {
                "file" => {
                    let to = kept.dir.path().join(words[2]);
                    fs::create_dir_all(to.parent().unwrap()).unwrap();
                    fs::copy(source.join(words[2]), &to).unwrap();
                    set_time(&to, millis);
                }
                _ => {
                    let restored = (words[2] != "none").then(|| format!("{} {}", words[2], words[3]));
                    states.push((millis, restored, words[4].to_owned()));
                }
            }
        }
        Self { states, ..kept }
    }

    pub(crate) fn replica(&self) -> Replica {
        at(self.dir.path()).with_identities(vec![Secret::new(IDENTITY)])
    }

    /// The objects of both kinds whose name has this in it, ascending.
    pub(crate) fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for generation in fs::read_dir(self.dir.path().join("generations")).unwrap() {
            for kind in fs::read_dir(generation.unwrap().path()).unwrap() {
                for file in fs::read_dir(kind.unwrap().path()).unwrap() {
                    found.push(file.unwrap().path());
                }
            }
        }
        found.retain(|path| path.to_str().unwrap().contains(part));
        found.sort();
        found
    }
}

pub(crate) fn set_time(path: &Path, millis: i64) {
    let time = SystemTime::from(Timestamp::from_millis(millis));
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

pub(crate) fn at(dir: &Path) -> Replica {
    Replica::new("file".into(), Arc::new(FileStorage::new(dir)), Key::ROOT, Layout::Decimal)
}

fn rows(database: &Path) -> String {
    let database = Connection::open(database).unwrap();
    let mut statement = database.prepare("SELECT id || '|' || v || char(10) FROM t ORDER BY id").unwrap();
    let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    format!("{:08x}", crc32(rows.concat().as_bytes()))
}

struct Restored {
    dir: TempDir,
    outcome: Outcome,
}

impl Restored {
    fn path(&self) -> PathBuf {
        self.dir.path().join("out.db")
    }

    fn plan(&self) -> &legacy::Plan {
        match &self.outcome {
            Outcome::Older(report) => &report.plan,
            Outcome::Segments(_) => panic!("restored from segments"),
        }
    }
}

async fn restore(replica: &Replica, target: Target, older: Older) -> Result<Restored, RestoreError> {
    let dir = TempDir::new().unwrap();
    let options = Options { target, parallelism: 3, integrity_check: IntegrityCheck::Full, ..Options::default() };
    let progress = Arc::new(Progress::default());
    let path = dir.path().join("out.db");
    let outcome = restore_any(std::slice::from_ref(replica), &path, &options, &older, &progress).await;
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, usize::from(outcome.is_ok()), "nothing but the database is left behind");
    Ok(Restored { outcome: outcome?, dir })
}

fn moment(millis: i64) -> Target {
    Target::Timestamp(Timestamp::from_millis(millis))
}

#[tokio::test]
async fn kept_backups_restore_to_what_they_restored_to_then() {
    for name in ["plain", "age"] {
        let kept = Kept::of(name);
        assert!(kept.states.len() >= 10);
        for (millis, official, source) in &kept.states {
            let restored = restore(&kept.replica(), moment(*millis), Older::default()).await.unwrap();
            if let Some(official) = official {
                let bytes = fs::read(restored.path()).unwrap();
                assert_eq!(*official, format!("{} {:08x}", bytes.len(), crc32(&bytes)), "{name} at {millis}");
            }
            assert_eq!(rows(&restored.path()), *source, "{name} at {millis}");
        }
        let latest = restore(&kept.replica(), Target::Latest, Older::default()).await.unwrap();
        assert_eq!(rows(&latest.path()), kept.states.last().unwrap().2);
        let before = kept.states[0].0 - 10_000;
        let refused = restore(&kept.replica(), moment(before), Older::default()).await.err().unwrap();
        assert!(matches!(refused, RestoreError::Older(legacy::Error::Plan(legacy::PlanError::BeforeOldest { .. }))));
    }
}

#[tokio::test]
async fn a_generation_and_an_index_can_be_chosen() {
    let kept = Kept::of("plain");
    let listing = Archive::of(&kept.replica()).unwrap().list().await.unwrap();
    let spans = listing.generations();
    assert_eq!(spans.len(), 2);
    let first = Older { generation: Some(spans[0].generation), index: None };
    let restored = restore(&kept.replica(), Target::Latest, first).await.unwrap();
    assert_eq!(rows(&restored.path()), kept.states[4].2, "the end of the first generation");
    let index = restored.plan().index();
    let earlier = Older { index: Some(index - 1), ..first };
    let restored = restore(&kept.replica(), Target::Latest, earlier).await.unwrap();
    assert_eq!(restored.plan().index(), index - 1);
    assert!(kept.states[..4].iter().any(|state| state.2 == rows(&restored.path())));
    let unknown = Older { generation: "00000000000000aa".parse().ok(), index: None };
    let refused = restore(&kept.replica(), Target::Latest, unknown).await.err().unwrap();
    assert!(refused.to_string().contains("no matching backup"), "{refused}");
}

/// Every object, damaged in every way: the result is right or an error, and the
/// error names the object.
#[tokio::test]
async fn damage_is_never_restored() {
    for name in ["plain", "age"] {
        let good = Kept::of(name);
        let latest = restore(&good.replica(), Target::Latest, Older::default()).await.unwrap();
        let needed: Vec<String> = latest.plan().items().map(legacy::Item::name).collect();
        let expected = rows(&latest.path());
        for object in &needed {
            for damage in ["flip start", "flip middle", "flip end", "cut", "empty", "longer", "missing"] {
                let kept = Kept::of(name);
                let path = kept.dir.path().join("generations").join(object);
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                let mut bytes = fs::read(&path).unwrap();
                let size = bytes.len();
                match damage {
                    "flip start" => bytes[5] ^= 1,
                    "flip middle" => bytes[size / 2] ^= 0x10,
                    "flip end" => bytes[size - 1] ^= 1,
                    "cut" => bytes.truncate(size - 5),
                    "empty" => bytes.clear(),
                    "longer" => bytes.push(0),
                    _ => {}
                }
                fs::write(&path, bytes).unwrap();
                File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
                if damage == "missing" {
                    fs::remove_file(&path).unwrap();
                }
                match restore(&kept.replica(), Target::Latest, Older::default()).await {
                    Err(RestoreError::Older(legacy::Error::Damaged { key, .. })) => {
                        assert!(key.as_str().ends_with(object), "{key} is blamed for {damage} {object}");
                    }
                    Err(RestoreError::Older(legacy::Error::MissingSlice { .. } | legacy::Error::Plan(_))) => {
                        assert_eq!(damage, "missing");
                    }
                    Err(other) => panic!("{damage} {object}: {other}"),
                    // An older snapshot with its logs does as well, and what was
                    // never there cannot be missed at the end.
                    Ok(restored) if object.contains("/snapshots/") => assert_eq!(rows(&restored.path()), expected),
                    Ok(restored) => {
                        let is_last = Some(object) == needed.last();
                        assert!(
                            damage == "missing" && (is_last || rows(&restored.path()) == expected),
                            "{damage} {object}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_avoided_where_there_is_another_way() {
    let kept = Kept::of("age");
    let latest = restore(&kept.replica(), Target::Latest, Older::default()).await.unwrap();
    let snapshot = kept.dir.path().join("generations").join(latest.plan().snapshot.name());
    let modified = fs::metadata(&snapshot).unwrap().modified().unwrap();
    fs::write(&snapshot, "nothing of use").unwrap();
    File::options().write(true).open(&snapshot).unwrap().set_modified(modified).unwrap();
    let again = restore(&kept.replica(), Target::Latest, Older::default()).await.unwrap();
    assert!(again.plan().snapshot.index < latest.plan().snapshot.index);
    assert_eq!(rows(&again.path()), kept.states.last().unwrap().2);
    for other in kept.objects("snapshots/") {
        fs::write(other, "nothing of use").unwrap();
    }
    let refused = restore(&kept.replica(), Target::Latest, Older::default()).await.err().unwrap();
    assert!(refused.to_string().contains(&latest.plan().snapshot.name()), "the first is told: {refused}");
}

#[tokio::test]
async fn a_backup_of_another_database_is_not_replayed() {
    let (kept, other) = (Kept::of("plain"), Kept::of("age"));
    let listing = Archive::of(&kept.replica()).unwrap().list().await.unwrap();
    let plan = legacy::choose(&listing, &legacy::Wish::default()).unwrap();
    let slice = kept.dir.path().join("generations").join(plan.slices[0].name());
    fs::copy(&other.objects("wal/")[0], &slice).unwrap();
    let refused = restore(&kept.replica(), Target::Latest, Older::default()).await.err().unwrap();
    let is_page_size =
        matches!(refused, RestoreError::Older(legacy::Error::Damaged { source: Damage::PageSize { .. }, .. }));
    assert!(is_page_size, "{refused:?}");
    let snapshot = kept.dir.path().join("generations").join(plan.snapshot.name());
    fs::copy(&slice, &snapshot).unwrap();
    let refused = restore(&kept.replica(), Target::Latest, Older::default()).await.err().unwrap();
    let is_no_database =
        matches!(refused, RestoreError::Older(legacy::Error::Damaged { source: Damage::NotDatabase, .. }));
    assert!(is_no_database, "{refused:?}");
}

#[tokio::test]
async fn without_the_key_it_says_what_to_configure() {
    let kept = Kept::of("age");
    let refused = restore(&at(kept.dir.path()), Target::Latest, Older::default()).await.err().unwrap();
    let text = format!("{refused}: {}", std::error::Error::source(&refused).unwrap());
    assert!(text.contains("age.identities"), "{text}");
    let bad = at(kept.dir.path()).with_identities(vec![Secret::new("/etc/key")]);
    let refused = restore(&bad, Target::Latest, Older::default()).await.err().unwrap();
    assert!(refused.to_string().contains("number 1"), "{refused}");
}

#[tokio::test]
async fn nothing_at_all_is_no_backup() {
    let empty = TempDir::new().unwrap();
    let refused = restore(&at(empty.path()), Target::Latest, Older::default()).await.err().unwrap();
    assert!(matches!(refused, RestoreError::Plan(PlanError::NoBackup)));
    let asked = Older { index: Some(1), generation: None };
    let refused = restore(&at(empty.path()), Target::Latest, asked).await.err().unwrap();
    assert!(refused.to_string().contains("no matching backup"), "{refused}");
}

/// Segments beside the kept backup, whose objects are moved in time so that the
/// newest was stored at `newest`.
async fn both(segments: &History, newest: i64) -> Kept {
    let kept = Kept::of("plain");
    let time = |path: &PathBuf| Timestamp::from(fs::metadata(path).unwrap().modified().unwrap()).as_millis();
    let objects = kept.objects(".lz4");
    let shift = newest - objects.iter().map(time).max().unwrap();
    for object in objects {
        set_time(&object, time(&object) + shift);
    }
    segments.replica(Arc::new(FileStorage::new(kept.dir.path())), "").await;
    kept
}

async fn restored_format(kept: &Kept, target: Target) -> Result<&'static str, RestoreError> {
    let dir = TempDir::new().unwrap();
    let options = Options { target, ..Options::default() };
    let replicas = [kept.replica()];
    let (path, progress) = (dir.path().join("out.db"), Arc::default());
    let outcome = restore_any(&replicas, &path, &options, &Older::default(), &progress).await;
    outcome.map(|outcome| match outcome {
        Outcome::Segments(_) => "segments",
        Outcome::Older(_) => "0.3",
    })
}

#[tokio::test]
async fn of_two_formats_the_one_with_the_newer_data_is_restored() {
    let mut history = History::new(512, true, Encoding::Block);
    for n in 1..=4 {
        history.commit([(1, vec![n; 512])], 3);
    }
    let upgraded = both(&history, START - 5000).await;
    let expected = [
        (Target::Latest, "segments"),
        (Target::Txid(crate::history::txid(2)), "segments"),
        (Target::Timestamp(time_of(1)), "segments"),
        (Target::Timestamp(time_of(99)), "segments"),
        (moment(START - 1), "0.3"),
        (moment(START - 5000), "0.3"),
    ];
    for (target, format) in expected {
        assert_eq!(restored_format(&upgraded, target).await.unwrap(), format, "{target:?}");
    }
    // As old as what was asked for is neither: the older of the two says how far it goes back.
    let refused = restored_format(&upgraded, moment(1)).await.unwrap_err();
    assert!(
        matches!(refused, RestoreError::Older(legacy::Error::Plan(legacy::PlanError::BeforeOldest { .. }))),
        "{refused}"
    );
    // And back again.
    let downgraded = both(&history, START + 60_000).await;
    let refused = restored_format(&downgraded, moment(1)).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Plan(PlanError::TimestampBeforeOldest { .. })), "{refused}");
    assert_eq!(restored_format(&downgraded, Target::Latest).await.unwrap(), "0.3");
    assert_eq!(restored_format(&downgraded, Target::Timestamp(time_of(2))).await.unwrap(), "segments");
}

#[tokio::test]
async fn an_old_backup_does_not_stand_in_for_broken_segments() {
    let mut history = History::new(512, true, Encoding::Block);
    for n in 1..=4 {
        history.commit([(1, vec![n; 512])], 3);
    }
    let whole = history.clone();
    history.remove(0, range(2, 2));
    let kept = both(&history, START - 5000).await;
    let refused = restored_format(&kept, Target::Latest).await.err().unwrap();
    assert!(matches!(refused, RestoreError::Plan(PlanError::Gap { .. })), "{refused}");
    // Nor do old segments for a broken backup that is newer.
    let kept = both(&whole, START + 60_000).await;
    for object in kept.objects("wal/00000002_") {
        fs::remove_file(object).unwrap();
    }
    for object in kept.objects("snapshots/0000000") {
        let is_first = object.to_str().unwrap().contains("00000001.");
        if !is_first {
            fs::remove_file(object).unwrap();
        }
    }
    let refused = restored_format(&kept, Target::Latest).await.err().unwrap();
    assert!(refused.to_string().contains("is missing"), "{refused}");
}

fn run(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(line.split(' ')).current_dir(dir).env_remove("LITESTREAM_CONFIG").env_remove("LOG_LEVEL");
    command.output().unwrap()
}

fn prints(dir: &Path, line: &str) -> String {
    let output = run(dir, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_commands_of_0_3_show_what_they_showed() {
    let kept = Kept::of("age");
    let dir = kept.dir.path();
    let url = format!("file://{}", dir.display());
    let snapshots = prints(dir, &format!("snapshots {url}"));
    let words = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let table = words(&snapshots);
    assert_eq!(table[0], ["replica", "generation", "index", "size", "created"]);
    assert_eq!(table.len() - 1, kept.objects("snapshots/").len());
    let generation = table[1][1].clone();
    let wal = words(&prints(dir, &format!("wal {url}")));
    assert_eq!(wal[0], ["replica", "generation", "index", "offset", "size", "created"]);
    assert_eq!(wal.len() - 1, kept.objects("wal/").len());
    assert!(wal.iter().any(|row| row[2] == "1" && row[3] == "0"), "numbers are decimal: {wal:?}");
    let one = words(&prints(dir, &format!("wal -generation {generation} {url}")));
    assert!(one.len() > 1 && one.len() < wal.len() && one[1..].iter().all(|row| row[1] == generation));
    let generations = words(&prints(dir, &format!("generations {url}")));
    assert_eq!(generations[0], ["name", "generation", "lag", "start", "end"]);
    assert_eq!(generations.len(), 3);
    // Listings need no key; restoring does, and the config has it.
    let refused = run(dir, &format!("restore -o out.db {url}"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("age.identities"), "{refused:?}");
    let config = format!(
        "dbs:\n  - path: {dir}/app.db\n    replicas:\n      - type: file\n        path: {dir}\n        age:\n          \
         identities: [{IDENTITY}]\n          recipients: [{RECIPIENT}]\n",
        dir = dir.display()
    );
    fs::write(dir.join("l.yml"), config).unwrap();
    let plan = prints(dir, "restore -config l.yml -dry-run -o out.db app.db");
    assert!(plan.contains("format: Litestream 0.3") && !dir.join("out.db").exists(), "{plan}");
    let summary = prints(dir, "restore -config l.yml -json -integrity-check full -o out.db app.db");
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["format"], &summary["integrity_check"]), (&"0.3".into(), &"full".into()));
    assert_eq!(rows(&dir.join("out.db")), kept.states.last().unwrap().2);
    let mut by_flags = format!("restore -config l.yml -generation {generation} -index 00000001 -o one.db app.db");
    prints(dir, &by_flags);
    assert!(dir.join("one.db").exists());
    by_flags = by_flags.replace("-index 00000001 -o one.db", "-index ff -o two.db");
    assert!(String::from_utf8_lossy(&run(dir, &by_flags).stderr).contains("index"), "beyond the end");
    // Nothing would be encrypted, so nothing is written.
    let refused = run(dir, "replicate -config l.yml -once");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("age encryption"), "{refused:?}");
}

/// Ended by its id when dropped.
struct Running(Child);

impl Running {
    fn start(binary: &Path, config: &Path) -> Self {
        let mut command = Command::new(binary);
        command.arg("replicate").arg("-config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn stop(mut self) {
        let done = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        println!("skipped: {variable} is not set");
    }
    found
}

/// The life of a database under the official programs: 0.3, and after an upgrade 0.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_moment_before_and_after_an_upgrade_can_be_restored() {
    let (Some(old), Some(new)) = (binary("LITESTREAM_BIN_03"), binary("LITESTREAM_BIN")) else { return };
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("l.yml");
    let text = format!(
        "dbs:\n  - path: {dir}/app.db\n    monitor-interval: 50ms\n    min-checkpoint-page-count: 20\n    replicas:\n      \
         - type: file\n        path: {dir}/replica\n        sync-interval: 50ms\n        snapshot-interval: 1s\n",
        dir = dir.path().display()
    );
    fs::write(&config, text).unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)").unwrap();
    let replica = at(&dir.path().join("replica"));
    let mut moments = Vec::new();
    for program in [&old, &new] {
        let running = Running::start(program, &config);
        for step in 0..8 {
            let change = match step % 4 {
                0 | 1 => "INSERT INTO t(v) SELECT hex(randomblob(400)) FROM (VALUES (1), (2), (3), (4), (5), (6), (7))",
                2 => "UPDATE t SET v = v || 'x' WHERE id % 3 = 0",
                _ => "DELETE FROM t WHERE id % 5 = 0",
            };
            database.execute_batch(change).unwrap();
            let expected = rows(&dir.path().join("app.db"));
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut nudge = Instant::now() + Duration::from_secs(2);
            loop {
                let restored = restore(&replica, Target::Latest, Older::default()).await;
                // Listings of a live replica may be of two moments.
                if restored.is_ok_and(|restored| rows(&restored.path()) == expected) {
                    break;
                }
                assert!(Instant::now() < deadline, "gave up waiting for step {step} of {}", program.display());
                if Instant::now() >= nudge {
                    // One time in about a hundred Litestream 0.3 has copied a change and does not tell its replica,
                    // which then sends it after the next change. This one leaves every row as it is.
                    database.execute_batch("UPDATE t SET v = v WHERE id = 1").unwrap();
                    nudge = Instant::now() + Duration::from_secs(2);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Everything of this step was stored before, nothing of the next.
            tokio::time::sleep(Duration::from_millis(5)).await;
            moments.push((Timestamp::from(SystemTime::now()), expected));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.stop();
    }
    let report = brooklet::audit::audit(&replica, brooklet::audit::Scope::All, SystemTime::now().into()).await.unwrap();
    assert_eq!(report.findings, [], "what official programs write is clean");
    assert!(report.segments.is_some() && report.older.is_some());
    let mut formats = Vec::new();
    for (moment, expected) in &moments {
        let restored = match restore(&replica, Target::Timestamp(*moment), Older::default()).await {
            Ok(restored) => restored,
            // Litestream 0.3 gives a snapshot the name of the one before it in the same
            // log, and with it the moments between the two.
            Err(RestoreError::Older(legacy::Error::Plan(
                legacy::PlanError::BeforeOldest { .. } | legacy::PlanError::SnapshotTooNew { .. },
            ))) => continue,
            Err(error) => panic!("{moment}: {error}"),
        };
        assert_eq!(rows(&restored.path()), *expected, "{moment}");
        formats.push(matches!(restored.outcome, Outcome::Older(_)));
    }
    assert!(formats.is_sorted_by(|a, b| a >= b), "first the old format, then the new: {formats:?}");
    assert!(formats.contains(&true) && formats.contains(&false), "{formats:?}");
}
