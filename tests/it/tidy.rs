//! The map of the rooms, held against the source: which room may name which,
//! which files are pure, and where the words of the outside world may stand.
//!
//! A mirror, not a fence: when the map should change, change it here in the
//! same commit.

use std::path::{Path, PathBuf};

/// A room and the rooms that it may name, itself always included.
const ROOMS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("causes", &[]),
    ("wal", &["types"]),
    ("ltx", &["types"]),
    ("durable", &[]),
    ("disk", &[]),
    ("status", &["types"]),
    ("health", &["types", "status"]),
    ("serve", &[]),
    ("control", &[]),
    ("storage", &["types", "durable"]),
    ("replica", &["types", "ltx", "storage"]),
    ("spool", &["types", "ltx", "durable"]),
    ("capture", &["types", "wal", "ltx", "durable", "disk", "spool", "status"]),
    // A base is read from the live database while it is sent: `capture` makes it, `upload` sends it.
    ("upload", &["types", "ltx", "durable", "storage", "spool", "replica", "capture", "status"]),
    ("legacy", &["types", "wal", "durable", "storage", "replica"]),
    ("restore", &["types", "ltx", "durable", "storage", "replica", "status", "legacy"]),
    ("audit", &["types", "causes", "ltx", "storage", "replica", "restore", "legacy"]),
    ("drill", &["types", "durable", "replica", "restore", "audit"]),
    ("doctor", &["types", "causes", "ltx", "storage", "replica"]),
    // A snapshot is made of the chain that a restore would take, and nothing goes that one could need: one planner.
    // What was just uploaded is merged from where it still is, the spool.
    ("upkeep", &["types", "ltx", "storage", "spool", "replica", "restore"]),
    // Settings of a storage are told in the storage's own words.
    ("config", &["types", "storage"]),
    ("directory", &[]),
    (
        "daemon",
        &[
            "types", "causes", "disk", "ltx", "storage", "spool", "replica", "capture", "upload", "upkeep", "status",
            "drill",
        ],
    ),
    ("observe", &["types", "ltx", "storage", "replica", "restore", "status", "health", "serve", "daemon"]),
    (
        "cli",
        &[
            "types",
            "causes",
            "wal",
            "ltx",
            "durable",
            "status",
            "storage",
            "replica",
            "spool",
            "capture",
            "upload",
            "restore",
            "doctor",
            "upkeep",
            "config",
            "daemon",
            "legacy",
            "audit",
            "drill",
            "serve",
            "control",
            "health",
            "observe",
            "directory",
            "disk",
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
    "restore/ranges.rs",
    "restore/claims.rs",
    "restore/run.rs",
    "upkeep/policy.rs",
    "upkeep/compact.rs",
    "upkeep/retain.rs",
    "upkeep/audit.rs",
    "drill/plan.rs",
    "audit/finding.rs",
    "audit/judge.rs",
    "legacy/layout.rs",
    "legacy/plan.rs",
    "cli/flags.rs",
    "cli/completion.rs",
    "cli/manual.rs",
    "cli/replicate/shell_words.rs",
    "cli/check/state.rs",
    "storage/s3/providers.rs",
    "config/s3/",
    "health/",
    "config/monitoring.rs",
    "observe/families.rs",
    "observe/metrics.rs",
    "observe/told.rs",
    "observe/template.rs",
    "observe/ring.rs",
    "status/arrivals.rs",
    "status/work.rs",
    "doctor/judge.rs",
    "doctor/settings.rs",
    "doctor/usage.rs",
    "config/url.rs",
    "config/pattern.rs",
    "config/spelling.rs",
    "config/directory.rs",
    "directory/changes.rs",
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

/// What SQLite shows only through C pointers, and the one switch of glibc, which is a call with two numbers.
const UNSAFE: [&str; 2] = ["capture/wal_index.rs", "cli/replicate/heap.rs"];

#[test]
fn unsafe_code_stands_where_it_has_to() {
    for (file, text) in sources() {
        let has = code(&text).contains("unsafe {");
        assert_eq!(has, UNSAFE.contains(&file.as_str()), "src/{file}");
    }
}

/// F3: closing any descriptor of the database or its wal-index drops all locks
/// of the process, the guard included. So whatever runs beside a guard opens only what is listed
/// here; before adding a line, make sure that the path cannot be one of the two.
const OPENED_BESIDE_A_GUARD: [(&str, &str); 17] = [
    ("capture/attach.rs", "File::options().create(true).truncate(false).write(true).open(path)"), // the lock file
    ("capture/attach.rs", "LogFile::open(log_path, page_size)"),
    ("capture/log_file.rs", "File::open(path)"), // the log
    ("capture/page_map.rs", "OpenOptions::new().read(true).write(true).create(true).truncate(true).open(draft)"),
    ("capture/page_map.rs", "OpenOptions::new().read(true).write(true).open(path)"),
    ("capture/page_map.rs", "File::open(path)"),
    ("capture/local_state.rs", "File::open(log_path)"),
    ("capture/snapshot.rs", "LogFile::open(log_path, page_size)"),
    ("capture/connection.rs", "Connection::open_with_flags(path, flags)"), // SQLite itself
    ("spool/mod.rs", "File::open(path_in(self.dir, seq))"),
    ("spool/directory.rs", "File::open(path)"),        // a segment
    ("replica/put.rs", "tokio::fs::File::open(path)"), // a segment
    ("capture/rivals.rs", "std::fs::read_to_string(\"/proc/locks\")"),
    ("capture/rivals.rs", "std::fs::read_to_string(Path::new(\"/proc\").join(reader.pid.to_string()).join(\"comm\"))"),
    ("observe/process.rs", "std::fs::read_to_string(\"/proc/self/stat\")"),
    ("upload/prepare.rs", "std::fs::File::open(draft.path())"), // a scratch file of ours
    ("upload/claims.rs", "std::fs::read_to_string(self.0)"),    // a file of our own in the state directory
];

/// Rooms that work while a database is followed and know its path.
const BESIDE_A_GUARD: [&str; 8] = ["capture", "daemon", "observe", "replica", "spool", "status", "upkeep", "upload"];
const OPENERS: [&str; 13] = [
    "File::open(",
    "File::create(",
    "File::create_new(",
    "File::options(",
    "OpenOptions::new(",
    "fs::read(",
    "fs::read_to_string(",
    "fs::write(",
    "fs::copy(",
    "fs::open(",
    "fs::hard_link(",
    "Connection::open",
    "sqlite3_open",
];

#[test]
fn nothing_beside_a_guard_opens_the_database_or_its_index() {
    let mut found = Vec::new();
    for (file, text) in sources() {
        for call in openings(&code(&text)) {
            assert!(!call.contains("shm"), "src/{file} opens a wal-index: {call}");
            if BESIDE_A_GUARD.contains(&room_of(&file)) {
                found.push((file.clone(), call));
            }
        }
    }
    for (file, call) in &found {
        let listed = OPENED_BESIDE_A_GUARD.contains(&(file, call));
        assert!(listed, "src/{file} opens a file in a way that is not known to be harmless: {call}");
    }
    for (file, call) in OPENED_BESIDE_A_GUARD {
        assert!(found.iter().any(|(f, c)| f == file && c == call), "src/{file} no longer says {call}: remove it here");
    }
}

#[test]
fn an_opening_is_recognised_however_it_is_written() {
    for (text, calls) in [
        ("let f = std::fs::File::open(options.shm_path())?;", &["std::fs::File::open(options.shm_path())"][..]),
        ("OpenOptions::new()\n  .read(true)\n  .open(&db)?", &["OpenOptions::new().read(true).open(db)"]),
        ("std::fs::read(&self.path)", &["std::fs::read(self.path)"]),
        ("tokio::fs::copy(from, to).await", &["tokio::fs::copy(from, to)"]),
        ("Connection::open_with_flags(p, f)", &["Connection::open_with_flags(p, f)"]),
        ("LogFile::open(&options.path)", &["LogFile::open(options.path)"]),
        ("Handle::open(path); fs::read_dir(d); Spool::open(dir)", &[]),
    ] {
        assert_eq!(openings(text), calls, "{text}");
    }
}

/// Calls that open a file, each on one line and without `&`, from its first word to the
/// parenthesis that closes the last call of its chain of options.
fn openings(code: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut calls = Vec::new();
    for opener in OPENERS {
        let chain = ["File::options(", "OpenOptions::new("].contains(&opener);
        for (at, _) in code.match_indices(opener) {
            let start = code[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
            let mut end = closing(code, at);
            while chain && !code[start..end].contains(".open(") {
                end = closing(code, end);
            }
            calls.push(code[start..end].split_whitespace().collect::<String>().replace('&', "").replace(',', ", "));
        }
    }
    calls
}

/// The place after the next parenthesis and the one that closes it.
fn closing(code: &str, from: usize) -> usize {
    let open = from + code[from..].find('(').unwrap();
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// F3 again: rehearsals run beside guards, and what they open is their own scratch file.
#[test]
fn a_rehearsal_opens_nothing_but_its_scratch_file() {
    for (file, text) in sources().into_iter().filter(|(file, _)| ["drill", "audit", "legacy"].contains(&room_of(file)))
    {
        let calls = openings(&code(&text));
        let own = match file.as_str() {
            "drill/checks.rs" => vec!["Connection::open_with_flags(immutable_uri(path), flags)".to_owned()],
            // A file in the directory of the local state.
            "drill/record.rs" => vec!["std::fs::read(self.0)".to_owned()],
            _ => Vec::new(),
        };
        assert!(calls.is_empty() || calls == own, "src/{file} opens {calls:?}");
    }
}
