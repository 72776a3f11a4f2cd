//! The map of the rooms, held against the source: which room may name which,
//! which files are pure, and where the words of the outside world may stand.
//!
//! A mirror, not a fence: when the map should change, change it here in the
//! same commit.

use std::path::{Path, PathBuf};

/// A room and the rooms that it may name, itself always included.
const ROOMS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("wal", &["types"]),
    ("ltx", &["types"]),
    ("durable", &[]),
    ("status", &["types"]),
    ("storage", &["types", "durable"]),
    ("replica", &["types", "ltx", "storage"]),
    ("spool", &["types", "ltx", "durable"]),
    ("capture", &["types", "wal", "ltx", "durable", "spool", "status"]),
    // A base is read from the live database while it is sent: `capture` makes it, `upload` sends it.
    ("upload", &["types", "ltx", "durable", "storage", "spool", "replica", "capture", "status"]),
    ("restore", &["types", "ltx", "durable", "storage", "replica", "status"]),
    ("config", &["types"]),
    ("daemon", &["types", "ltx", "spool", "replica", "capture", "upload", "status"]),
    (
        "cli",
        &[
            "types", "wal", "ltx", "durable", "status", "storage", "replica", "spool", "capture", "upload", "restore",
            "config", "daemon",
        ],
    ),
];

/// Files that only turn values into values.
const PURE: &[&str] = &[
    "types/",
    "wal/",
    "ltx/",
    "capture/plan.rs",
    "capture/checkpoint.rs",
    "capture/pace.rs",
    "restore/plan.rs",
    "restore/points.rs",
    "restore/claims.rs",
    "cli/flags.rs",
];

/// What a pure file has no use for.
const IMPURE: &[&str] = &["std::fs", "std::net", "tokio", "async fn", "::now()", "tracing::"];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(paths.len() > 20, "the source tree was found");
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Without its unit tests and comments: those may look around.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_belongs_to_a_room() {
    for (file, _) in sources() {
        let room = room_of(&file);
        let known = ["lib", "main"].contains(&room) || ROOMS.iter().any(|(name, _)| *name == room);
        assert!(known, "src/{file}: no such room; add it to the map or move the file");
    }
}

#[test]
fn rooms_name_only_the_rooms_above_them() {
    for (file, text) in sources() {
        let room = room_of(&file);
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { continue };
        for (at, line) in code(&text).lines().enumerate() {
            for named in line.split("crate::").skip(1) {
                let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = named == room || allowed.contains(&named.as_str());
                assert!(fine, "src/{file}, about line {}: {room} must not name {named:?}: {line}", at + 1);
            }
        }
    }
}

#[test]
fn the_map_has_no_cycles() {
    let position = |room: &str| ROOMS.iter().position(|(name, _)| *name == room).unwrap();
    for (room, allowed) in ROOMS {
        for named in *allowed {
            assert!(position(named) < position(room), "{room} names {named}, which comes after it");
        }
    }
}

#[test]
fn decisions_touch_nothing() {
    for (file, text) in sources() {
        if !PURE.iter().any(|pure| file.starts_with(pure)) || file == "types/point.rs" {
            continue;
        }
        for word in IMPURE {
            assert!(!code(&text).contains(word), "src/{file} is pure but says {word:?}");
        }
    }
}

/// SQL that reaches the user's database stands in one file.
#[test]
fn sql_for_the_live_database_stands_in_one_place() {
    for (file, text) in sources() {
        if file == "capture/connection.rs" || !file.starts_with("capture/") && !file.starts_with("daemon/") {
            continue;
        }
        for word in ["PRAGMA ", "execute_batch", "query_row"] {
            assert!(!code(&text).contains(word), "src/{file} says {word:?}");
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_place() {
    for (file, text) in sources() {
        let has = code(&text).contains("unsafe {");
        assert_eq!(has, file == "capture/wal_index.rs", "src/{file}");
    }
}

/// F3: opening the database or its shared memory outside SQLite, and closing it
/// again, would drop the guard. Capture opens only its own files and the log.
#[test]
fn capture_opens_no_file_that_carries_locks() {
    let allowed = ["capture/log_file.rs", "capture/page_map.rs", "capture/attach.rs", "spool.rs", "durable.rs"];
    for (file, text) in sources() {
        let sidecar =
            ["capture/", "daemon", "upload", "spool", "durable", "status"].iter().any(|r| file.starts_with(r));
        if !sidecar || allowed.contains(&file.as_str()) {
            continue;
        }
        for word in ["File::open", "OpenOptions", "fs::read", "fs::copy", "File::options"] {
            let code = code(&text);
            let said = code
                .match_indices(word)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(!said, "src/{file} says {word:?}");
        }
    }
}
