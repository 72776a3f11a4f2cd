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
use brooklet::replica::{Layout, Replica};
use brooklet::restore::{
    IntegrityCheck, Older, Options, Outcome, PlanError, Progress, RestoreError, Target, restore_any,
};
use brooklet::storage::{FileStorage, Key};
use brooklet::types::{Secret, Timestamp};
use rusqlite::Connection;
use tempfile::TempDir;

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
                    Ok(restored) => {
                        let is_last = Some(object) == needed.last();
                        assert!(damage == "missing" && (is_last || rows(&restored.path()) == expected), "{damage} {object}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_backup_of_another_database_is_not_replayed() {
    let (kept, other) = (Kept::of("plain"), Kept::of("age"));
    let listing = Archive::of(&kept.replica()).unwrap().list().await.unwrap();
    let plan = legacy::choose(&listing, &legacy::Wish::default()).unwrap();
    let slice = kept.dir.path().join("generations").join(plan.slices[0].name());
    fs::copy(&other.objects("wal/")[0], &slice).unwrap();
    let refused = restore(&kept.replica(), Target::Latest, Older::default()).await.err().unwrap();
    let is_page_size = matches!(
        refused,
        RestoreError::Older(legacy::Error::Damaged { source: Damage::PageSize { .. }, .. })
    );
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
