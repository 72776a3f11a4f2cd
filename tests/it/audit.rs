//! Audit and verify: every kind of planted damage is found, and nothing is found
//! where nothing is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brooklet::audit::{ChainProof, Finding, Report, Scope, audit};
use brooklet::drill::{Mode, rehearse};
use brooklet::ltx::{Encoding, file_name};
use brooklet::replica::{Layout, Replica};
use brooklet::storage::{self, FileStorage, Key, MemoryStorage, Storage};
use brooklet::types::Timestamp;
use bytes::Bytes;
use tempfile::TempDir;

use crate::between::{Behind, Between};
use crate::history::{History, START, noise, range};
use crate::legacy::{Kept, at};

fn now() -> Timestamp {
    Timestamp::from_millis(START + 3_600_000)
}

/// Nine transactions, merged in part, with two snapshots; and level 0 complete.
fn history(proofs: bool) -> History {
    let mut history = History::new(512, proofs, Encoding::Block);
    for n in 1..=9u32 {
        history.commit([(1, noise(n.into(), 512)), (n, noise(u64::from(n) + 50, 512))], 4 + n);
    }
    history.merge(1, 1, 4);
    history.merge(1, 5, 8);
    history.snapshot(4);
    history.snapshot(8);
    history
}

struct Place {
    dir: TempDir,
}

impl Place {
    async fn of(history: &History) -> Self {
        let dir = TempDir::new().unwrap();
        history.replica(Arc::new(FileStorage::new(dir.path())), "").await;
        Self { dir }
    }

    fn path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        self.dir.path().join(format!("ltx/{level}")).join(file_name(range(min, max)))
    }

    async fn audit(&self, scope: Scope) -> Report {
        audit(&at(self.dir.path()), scope, now()).await.unwrap()
    }

    /// Changes the bytes of a segment and keeps its time.
    fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(Finding::kind).collect()
}

/// Damages the newest segment of level 0, which every chain to the newest point
/// needs, or what the name says.
fn plant(place: &Place, damage: &str) {
    let newest = place.path(0, 9, 9);
    let size = usize::try_from(fs::metadata(&newest).unwrap().len()).unwrap();
    match damage {
        "missing" => fs::remove_file(place.path(0, 6, 6)).unwrap(),
        "truncated" => place.edit(&newest, |bytes| bytes.truncate(size - 30)),
        "flipped in header" => place.edit(&newest, |bytes| bytes[33] ^= 1),
        "flipped in page" => place.edit(&newest, |bytes| bytes[130] ^= 1),
        "flipped in index" => place.edit(&newest, |bytes| bytes[size - 27] ^= 1),
        "flipped in trailer" => place.edit(&newest, |bytes| bytes[size - 1] ^= 1),
        "zero length" => place.edit(&newest, Vec::clear),
        "wrong page size" => place.edit(&newest, |bytes| bytes[10] = 4),
        "wrong commit" => place.edit(&newest, |bytes| bytes[15] -= 1),
        "other bytes behind" => place.edit(&newest, |bytes| bytes.push(0)),
        "swapped names" => {
            let other = place.path(0, 7, 7);
            let (one, two) = (fs::read(&newest).unwrap(), fs::read(&other).unwrap());
            place.edit(&newest, |bytes| *bytes = two);
            place.edit(&other, |bytes| *bytes = one);
        }
        "duplicated" => drop(fs::copy(&newest, place.path(0, 10, 10)).unwrap()),
        "foreign file" => fs::write(place.dir.path().join("ltx/0/notes.txt"), "x").unwrap(),
        "gap" => {
            fs::rename(&newest, place.path(0, 12, 12)).unwrap();
        }
        "wrong level" => drop(fs::copy(place.path(1, 5, 8), place.path(0, 5, 8)).unwrap()),
        "overlap" => drop(fs::copy(place.path(0, 8, 8), place.path(1, 8, 8)).unwrap()),
        other => unreachable!("{other}"),
    }
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    for proofs in [true, false] {
        let place = Place::of(&history(proofs)).await;
        for scope in [Scope::All, Scope::Chain] {
            let report = place.audit(scope).await;
            assert_eq!(report.findings, [], "{scope:?}");
            let segments = report.segments.unwrap();
            assert_eq!(segments.proof, if proofs { ChainProof::Database } else { ChainProof::Files });
            assert_eq!(segments.range.unwrap().1.txid.get(), 9);
            if scope == Scope::All {
                assert_eq!((segments.points, segments.lost_points, segments.sizes.objects), (9, 0, 13));
            }
        }
    }
    for name in ["plain", "age"] {
        let kept = Kept::of(name);
        for scope in [Scope::All, Scope::Chain] {
            let report = audit(&kept.replica(), scope, now()).await.unwrap();
            assert_eq!(report.findings, [], "{name} {scope:?}");
            let older = report.older.unwrap();
            assert_eq!(older.sound_generations, older.generations);
        }
    }
}

#[tokio::test]
async fn every_planted_damage_of_segments_is_found() {
    let cases: [(&str, &str, bool); 16] = [
        ("missing", "hole", false),
        ("truncated", "damaged", true),
        ("flipped in header", "damaged", true),
        ("flipped in page", "damaged", true),
        ("flipped in index", "damaged", true),
        ("flipped in trailer", "damaged", true),
        ("zero length", "damaged", true),
        ("wrong page size", "damaged", true),
        ("wrong commit", "damaged", true),
        ("other bytes behind", "damaged", true),
        ("swapped names", "misnamed", true),
        ("duplicated", "misnamed", true),
        ("foreign file", "foreign-object", false),
        ("gap", "gap", true),
        ("wrong level", "wrong-level", false),
        ("overlap", "overlap", false),
    ];
    for (damage, kind, in_chain) in cases {
        let mut history = history(true);
        if damage == "missing" {
            // Where level 1 holds it too, nothing is missing.
            history.remove(1, range(5, 8));
        }
        let place = Place::of(&history).await;
        plant(&place, damage);
        let report = place.audit(Scope::All).await;
        assert!(kinds(&report).contains(&kind), "{damage}: {:?}", report.findings);
        assert!(report.has_problems(), "{damage}");
        let report = place.audit(Scope::Chain).await;
        assert_eq!(report.has_problems(), in_chain, "{damage}: {:?}", report.findings);
        if in_chain {
            assert!(kinds(&report).contains(&kind), "{damage}: {:?}", report.findings);
        }
    }
}

/// A way to damage what the newest point depends on: one snapshot through 8, and
/// transaction 9.
type Damage = (&'static str, fn(&Place, &mut History));

/// Replaces the bytes of a segment.
fn put(place: &Place, level: u8, min: u64, max: u64, bytes: Vec<u8>) {
    place.edit(&place.path(level, min, max), |old| *old = bytes);
}

fn size(bytes: &[u8]) -> usize {
    bytes.len()
}

const IN_CHAIN: [Damage; 26] = [
    ("the newest is truncated", |place, _| place.edit(&place.path(0, 9, 9), |b| b.truncate(size(b) - 30))),
    ("the newest has a flipped bit in its header", |place, _| place.edit(&place.path(0, 9, 9), |b| b[33] ^= 1)),
    ("in a page", |place, _| place.edit(&place.path(0, 9, 9), |b| b[130] ^= 1)),
    ("in its index", |place, _| place.edit(&place.path(0, 9, 9), |b| *b.iter_mut().nth_back(26).unwrap() ^= 1)),
    ("in its trailer", |place, _| place.edit(&place.path(0, 9, 9), |b| *b.last_mut().unwrap() ^= 1)),
    ("the newest is empty", |place, _| place.edit(&place.path(0, 9, 9), Vec::clear)),
    ("the newest has another page size", |place, _| place.edit(&place.path(0, 9, 9), |b| b[10] = 4)),
    ("another commit", |place, _| place.edit(&place.path(0, 9, 9), |b| b[15] -= 1)),
    ("bytes behind its end", |place, _| place.edit(&place.path(0, 9, 9), |b| b.push(0))),
    ("two names are swapped", |place, _| {
        let (one, two) = (fs::read(place.path(0, 9, 9)).unwrap(), fs::read(place.path(0, 7, 7)).unwrap());
        put(place, 0, 9, 9, two);
        put(place, 0, 7, 7, one);
    }),
    ("a copy has the next name", |place, _| fs::copy(place.path(0, 9, 9), place.path(0, 10, 10)).map(drop).unwrap()),
    ("the newest is behind a gap", |place, _| fs::rename(place.path(0, 9, 9), place.path(0, 12, 12)).unwrap()),
    ("the snapshot is truncated", |place, _| place.edit(&place.path(9, 1, 8), |b| b.truncate(size(b) / 2))),
    ("the snapshot has a flipped bit", |place, _| place.edit(&place.path(9, 1, 8), |b| b[700] ^= 16)),
    ("a block of zeros", |place, _| place.edit(&place.path(9, 1, 8), |b| b[512..1024].fill(0))),
    ("the snapshot is empty", |place, _| place.edit(&place.path(9, 1, 8), Vec::clear)),
    ("the snapshot is an older one", |place, _| put(place, 9, 1, 8, fs::read(place.path(9, 1, 4)).unwrap())),
    ("the snapshot is no segment", |place, _| place.edit(&place.path(9, 1, 8), |b| b.fill(b'x'))),
    ("every base is gone", |place, _| {
        for (level, max) in [(0, 1), (1, 4), (9, 4), (9, 8)] {
            fs::remove_file(place.path(level, 1, max)).unwrap();
        }
    }),
    ("what follows the last base is gone", |place, _| {
        for (level, min, max) in [(9, 1, 8), (1, 5, 8), (0, 6, 6)] {
            fs::remove_file(place.path(level, min, max)).unwrap();
        }
    }),
    ("a transaction of another history", |place, history| {
        let mut header = history.header(range(9, 9));
        let proof = header.proof.as_mut().unwrap();
        proof.before = Some(proof.after);
        put(place, 0, 9, 9, history.encode(range(9, 9), &[1, 9, 13], header));
    }),
    ("a forgotten page", |place, history| {
        put(place, 0, 9, 9, history.encode(range(9, 9), &[1, 13], history.header(range(9, 9))));
    }),
    ("a page of another moment", |place, history| {
        let bytes = history.encode_from(8, &[1, 9], history.header(range(9, 9)));
        put(place, 0, 9, 9, bytes);
    }),
    ("a snapshot of another moment", |place, history| {
        let header = brooklet::ltx::Header { commit: 7, ..history.header(range(1, 8)) };
        put(place, 9, 1, 8, history.encode_from(3, &[1, 2, 3, 4, 5, 6, 7], header));
    }),
    ("an end that is not its own", |place, history| {
        let mut header = history.header(range(9, 9));
        header.proof.as_mut().unwrap().after = history.checksum(3);
        put(place, 0, 9, 9, history.encode(range(9, 9), &[1, 9, 13], header));
    }),
    ("a page size of its own", |place, _| {
        let mut other = History::new(1024, true, Encoding::Block);
        for n in 1..=9 {
            other.commit([(1, noise(n, 1024))], 2);
        }
        put(place, 0, 9, 9, other.get(0, range(9, 9)).bytes.clone());
    }),
];

/// What a restore of the newest data would meet is found by the audit, by `verify`, and
/// by rehearsals of both kinds; and what is repaired is found by none of them.
#[tokio::test]
async fn every_damage_in_the_chain_is_found_by_audit_verify_and_drill() {
    let clean = history(true);
    let scratch = TempDir::new().unwrap();
    let modes = [Mode::Stream, Mode::Full { scratch: scratch.path().join("s"), checks: Vec::new() }];
    let place = Place::of(&clean).await;
    assert_eq!(place.audit(Scope::All).await.findings, []);
    for (damage, plant) in IN_CHAIN {
        let place = Place::of(&clean).await;
        plant(&place, &mut clean.clone());
        for scope in [Scope::All, Scope::Chain] {
            assert!(place.audit(scope).await.has_problems(), "{scope:?} does not find: {damage}");
        }
        for mode in &modes {
            let proven = rehearse(&at(place.dir.path()), mode).await;
            assert!(proven.is_err(), "{mode:?} does not find: {damage}: {proven:?}");
        }
    }
}

/// Segments that are each sound, and do not belong together.
#[tokio::test]
async fn damage_that_only_the_proof_shows_is_found() {
    let find = async |change: fn(&mut History)| {
        let mut history = history(true);
        change(&mut history);
        let place = Place::of(&history).await;
        (kinds(&place.audit(Scope::All).await), kinds(&place.audit(Scope::Chain).await))
    };
    // A transaction of another history.
    let (all, chain) = find(|history| {
        let mut header = history.header(range(9, 9));
        let proof = header.proof.as_mut().unwrap();
        proof.before = Some(proof.after);
        let bytes = history.encode(range(9, 9), &[1, 9, 13], header);
        history.remove(0, range(9, 9));
        history.segments.push(crate::history::Stored { level: 0, txids: range(9, 9), bytes });
    })
    .await;
    assert!(all.contains(&"unlinked") && chain.contains(&"unlinked"), "{all:?} {chain:?}");
    // A page that was forgotten, with the proof of all.
    let (all, chain) = find(|history| {
        let header = history.header(range(9, 9));
        let bytes = history.encode(range(9, 9), &[1, 13], header);
        history.remove(0, range(9, 9));
        history.segments.push(crate::history::Stored { level: 0, txids: range(9, 9), bytes });
    })
    .await;
    assert!(all.contains(&"chain-checksum") && chain.contains(&"chain-checksum"), "{all:?} {chain:?}");
    // A snapshot of another moment.
    let (all, _) = find(|history| {
        let header = history.header(range(1, 4));
        let pages: Vec<u32> = (1..=8).collect();
        let bytes = history.encode_from(3, &pages[..7], brooklet::ltx::Header { commit: 7, ..header });
        history.remove(9, range(1, 4));
        history.segments.push(crate::history::Stored { level: 9, txids: range(1, 4), bytes });
    })
    .await;
    assert!(all.contains(&"base-checksum"), "{all:?}");
    // Times.
    let (all, _) = find(|history| {
        let header = brooklet::ltx::Header { timestamp: Timestamp::from_millis(START), ..history.header(range(7, 7)) };
        let bytes = history.encode(range(7, 7), &[1, 7, 11], header);
        history.remove(0, range(7, 7));
        history.segments.push(crate::history::Stored { level: 0, txids: range(7, 7), bytes });
    })
    .await;
    assert!(all.contains(&"time-backwards"), "{all:?}");
    let (all, _) = find(|history| {
        let ahead = Timestamp::from_millis(now().as_millis() + 600_000);
        let header = brooklet::ltx::Header { timestamp: ahead, ..history.header(range(9, 9)) };
        let bytes = history.encode(range(9, 9), &[1, 9, 13], header);
        history.remove(0, range(9, 9));
        history.segments.push(crate::history::Stored { level: 0, txids: range(9, 9), bytes });
    })
    .await;
    assert!(all.contains(&"time-ahead"), "{all:?}");
    // Two writers in turn.
    let (all, _) = find(|history| {
        let header =
            brooklet::ltx::Header { generation: "00000000000000ff".parse().ok(), ..history.header(range(6, 6)) };
        let bytes = history.encode(range(6, 6), &[1, 6, 10], header);
        history.remove(0, range(6, 6));
        history.segments.push(crate::history::Stored { level: 0, txids: range(6, 6), bytes });
    })
    .await;
    assert!(all.contains(&"two-writers"), "{all:?}");
    // No base.
    let (all, chain) = find(|history| {
        for (level, max) in [(0, 1), (1, 4), (9, 4), (9, 8)] {
            history.remove(level, range(1, max));
        }
    })
    .await;
    assert!(all.contains(&"no-base") && chain.contains(&"no-base"), "{all:?} {chain:?}");
    // A page that no segment of the newest chain holds: without proofs, as in foreign replicas.
    let mut bare = History::new(512, false, Encoding::Block);
    bare.commit([(1, noise(1, 512))], 3);
    bare.commit([(1, noise(2, 512))], 5);
    let bytes = bare.encode(range(2, 2), &[1, 5], bare.header(range(2, 2)));
    bare.remove(0, range(2, 2));
    bare.segments.push(crate::history::Stored { level: 0, txids: range(2, 2), bytes });
    let place = Place::of(&bare).await;
    assert!(kinds(&place.audit(Scope::Chain).await).contains(&"missing-page"));
}

/// What retention leaves behind: old snapshots without the changes between them,
/// and the newest segment of a level that is not needed any more.
#[tokio::test]
async fn what_policy_has_deleted_is_not_missed() {
    let mut history = history(true);
    for n in 1..=6 {
        history.remove(0, range(n, n));
    }
    history.remove(1, range(1, 4));
    let place = Place::of(&history).await;
    assert_eq!(place.audit(Scope::All).await.findings, []);
    history.remove(0, range(7, 7));
    history.remove(0, range(8, 8));
    history.remove(9, range(1, 4));
    let place = Place::of(&history).await;
    assert_eq!(place.audit(Scope::All).await.findings, []);
}

/// A replica that is merged and cut while it is read: what is gone was not lost.
#[tokio::test]
async fn what_was_merged_away_meanwhile_is_not_missed() {
    let mut before = history(true);
    before.remove(1, range(5, 8));
    before.remove(9, range(1, 8));
    let mut after = history(true);
    after.segments.retain(|segment| (segment.level, segment.txids.max().get()) == (1, 8));
    for scope in [Scope::All, Scope::Chain] {
        let storage = Arc::new(MemoryStorage::new());
        before.replica(storage.clone(), "").await;
        let moving = Moving { storage: storage.clone(), after: after.clone(), moved: AtomicBool::new(false) };
        let moving = Behind::new(moving, storage);
        let replica = Replica::new("memory".to_owned(), moving.clone(), Key::ROOT, Layout::Decimal);
        let report = audit(&replica, scope, now()).await.unwrap();
        assert!(moving.between.moved.load(Ordering::SeqCst));
        assert_eq!(report.findings, [], "{scope:?}");
        assert_eq!(report.segments.unwrap().proof, ChainProof::Database);
    }
}

/// Merges transactions 5 to 8 before the first read of anything but headers.
struct Moving {
    storage: Arc<MemoryStorage>,
    after: History,
    moved: AtomicBool,
}

#[async_trait::async_trait]
impl Between for Moving {
    async fn get(&self, storage: &dyn Storage, key: &Key, read: std::ops::Range<u64>) -> storage::Result<Bytes> {
        if !self.moved.swap(true, Ordering::SeqCst) {
            self.after.replica(self.storage.clone(), "").await;
            let gone = (5..=8).map(|n| Key::new(format!("ltx/0/{}", file_name(range(n, n)))).unwrap());
            storage.delete(&gone.collect::<Vec<_>>()).await?;
        }
        storage.get(key, read).await
    }
}

#[tokio::test]
async fn times_that_a_copy_has_lost_are_noted() {
    let place = Place::of(&history(true)).await;
    for n in 1..=9 {
        crate::legacy::set_time(&place.path(0, n, n), START + 1_000_000);
    }
    let report = place.audit(Scope::All).await;
    assert_eq!((kinds(&report), report.has_problems()), (vec!["stored-time"], false));
}

#[tokio::test]
async fn every_planted_damage_of_old_backups_is_found() {
    let cases = [
        ("missing log", "older-incomplete"),
        ("missing slice", "older-incomplete"),
        ("missing snapshots", "older-incomplete"),
        ("truncated", "damaged"),
        ("flipped", "damaged"),
        ("empty", "damaged"),
        ("bad frame", "damaged"),
        ("snapshot is no database", "damaged"),
        ("foreign file", "foreign-object"),
        ("other name", "older-incomplete"),
    ];
    for name in ["plain", "age"] {
        for (damage, kind) in cases {
            let kept = Kept::of(name);
            // The log with a slice behind its first, and one behind that.
            let slice =
                kept.objects("wal/00000001_").into_iter().find(|path| !path.to_str().unwrap().contains("_00000000."));
            let slice = slice.unwrap();
            let generation = slice.parent().unwrap().parent().unwrap().to_path_buf();
            let first = slice.with_file_name("00000001_00000000.wal.lz4");
            match damage {
                "missing log" => {
                    for path in kept.objects("wal/00000002_") {
                        fs::remove_file(path).unwrap();
                    }
                }
                "missing slice" => {
                    let last = kept.objects("wal/00000001_").into_iter().rfind(|path| path.parent() == slice.parent());
                    assert_ne!(last.as_ref(), Some(&slice), "there are three");
                    fs::remove_file(&slice).unwrap();
                }
                "missing snapshots" => fs::remove_dir_all(generation.join("snapshots")).unwrap(),
                "truncated" => {
                    let bytes = fs::read(&slice).unwrap();
                    fs::write(&slice, &bytes[..bytes.len() - 9]).unwrap();
                }
                "flipped" => {
                    let mut bytes = fs::read(&slice).unwrap();
                    let at = bytes.len() / 2;
                    bytes[at] ^= 4;
                    fs::write(&slice, bytes).unwrap();
                }
                "empty" => fs::write(&slice, b"").unwrap(),
                // Sound objects, but not the frames that belong there.
                "bad frame" => drop(fs::copy(first, &slice).unwrap()),
                "snapshot is no database" => {
                    fs::copy(&slice, generation.join("snapshots/00000001.snapshot.lz4")).unwrap();
                }
                "foreign file" => fs::write(generation.join("wal/notes.txt"), "x").unwrap(),
                _ => fs::rename(&slice, slice.with_file_name("00000001_00ffff20.wal.lz4")).unwrap(),
            }
            let report = audit(&kept.replica(), Scope::All, now()).await.unwrap();
            assert!(kinds(&report).contains(&kind), "{name}, {damage}: {:?}", report.findings);
            assert!(report.has_problems(), "{name}, {damage}");
        }
    }
    // Encrypted, and no key that fits.
    let kept = Kept::of("age");
    let report = audit(&at(kept.dir.path()), Scope::All, now()).await.unwrap();
    assert!(kinds(&report).iter().all(|kind| *kind == "damaged") && report.has_problems());
}

fn run(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(line.split(' ')).current_dir(dir).env_remove("LITESTREAM_CONFIG").env_remove("LOG_LEVEL");
    command.output().unwrap()
}

#[tokio::test]
async fn the_commands_say_it_in_words_in_json_and_with_the_exit_code() {
    let place = Place::of(&history(true)).await;
    let (dir, url) = (place.dir.path(), format!("file://{}", place.dir.path().display()));
    for command in ["audit", "verify"] {
        let clean = run(dir, &format!("{command} {url}"));
        let said = String::from_utf8(clean.stdout).unwrap();
        assert_eq!(clean.status.code(), Some(0), "{said}");
        assert!(said.contains("no problems found") && said.contains("proven by: database checksum"), "{said}");
    }
    place.edit(&place.path(0, 9, 9), |bytes| bytes[130] ^= 1);
    let damaged = run(dir, &format!("audit {url}"));
    let said = String::from_utf8(damaged.stdout).unwrap();
    assert_eq!(damaged.status.code(), Some(1));
    assert!(said.contains("problem damaged: ltx/0/") && said.contains("lost to damage: 1 points"), "{said}");
    let damaged = run(dir, &format!("verify -json {url}"));
    let value: serde_json::Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!((damaged.status.code(), &value["problems"]), (Some(1), &1.into()));
    assert_eq!(value["replicas"][0]["findings"][0]["kind"], "damaged");
    let empty = TempDir::new().unwrap();
    let nothing = run(empty.path(), &format!("verify file://{}", empty.path().display()));
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("no matching backup"));
}

/// Replicas that official programs have written are clean.
#[tokio::test]
async fn nothing_is_found_in_kept_replicas_of_every_release() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let today = Timestamp::from(std::time::SystemTime::now());
    for release in ["litestream-0.5.15", "litestream-0.5.17"] {
        for entry in fs::read_dir(data.join(release)).unwrap() {
            let report = audit(&at(&entry.unwrap().path()), Scope::All, today).await.unwrap();
            // Version control keeps no times.
            let others: Vec<_> = kinds(&report).into_iter().filter(|kind| *kind != "stored-time").collect();
            assert!(others.is_empty() && !report.has_problems(), "{:?}", report.findings);
        }
    }
}
