//! The commands as a person or a script meets them: messages, channels, exit codes.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use brooklet::ltx::Encoding;
use brooklet::storage::FileStorage;
use tempfile::TempDir;

use super::follow::{Source, expected, rows};
use crate::history::{History, noise, range};

/// A directory with a replica of four transactions in `r`, or none.
struct Place {
    dir: TempDir,
    history: History,
}

impl Place {
    fn new(transactions: u32) -> Self {
        let mut history = History::new(512, true, Encoding::Block);
        for n in 1..=transactions {
            history.commit([(n, noise(n.into(), 512))], 3 + n);
        }
        let place = Self { dir: TempDir::new().unwrap(), history };
        place.store("r", &place.history);
        place
    }

    fn store(&self, name: &str, history: &History) {
        let storage = Arc::new(FileStorage::new(self.path(name)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history.replica(storage, ""));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.text(name))
    }

    /// Runs the command in the directory. `@r` stands for the URL of replica `r`.
    fn run(&self, line: &str) -> Ran {
        let words = line.split(' ').filter(|word| !word.is_empty());
        let words = words.map(|word| word.strip_prefix('@').map_or_else(|| word.to_owned(), |name| self.url(name)));
        self.run_words(&words.collect::<Vec<_>>())
    }

    fn run_words(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args(words)
            .current_dir(self.dir.path())
            .env_remove("LITESTREAM_CONFIG")
            .env_remove("LOG_LEVEL")
            .output()
            .unwrap();
        Ran::of(output)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn holds(&self, name: &str, transaction: u64) -> bool {
        std::fs::read(self.path(name)).unwrap() == self.history.file(transaction)
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    fn succeeds(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self
    }

    #[track_caller]
    fn fails(&self, stderr: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.stderr.starts_with("Error: ") && self.stderr.contains(stderr), "{self:?}");
    }

    #[track_caller]
    fn skips(&self, message: &str) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(self.stdout.contains(&format!("level=INFO msg=\"{message}\"")), "{self:?}");
    }
}

#[test]
fn a_url_restores_to_the_output() {
    let place = Place::new(4);
    let ran = place.run("restore -o out.db @r");
    assert!(ran.succeeds().stdout.contains("msg=\"database restored\""), "{ran:?}");
    assert!(place.holds("out.db", 4));
    assert_eq!(place.names(), ["out.db", "r"]);
    place.run("restore -parallelism 1 -txid 2 -o two.db @r").succeeds();
    assert!(place.holds("two.db", 2));
    place.run("restore -txid=0000000000000003 --o=new/dir/three.db @r").succeeds();
    assert!(place.holds("new/dir/three.db", 3));
}

#[test]
fn a_database_of_the_config_restores_to_its_path() {
    let place = Place::new(4);
    let config = "dbs:\n  - path: $HERE/app.db\n    replica:\n      type: file\n      path: $HERE/r\n";
    std::fs::write(place.path("c.yml"), config.replace("$HERE", &place.text(""))).unwrap();
    place.run("restore -config c.yml app.db").succeeds();
    assert!(place.holds("app.db", 4));
    place.run("restore -config c.yml app.db").fails("cannot restore, output path already exists and is not empty: ");
    place.run("restore -config c.yml -if-db-not-exists app.db").skips("database already exists, skipping");
    place.run("restore -config c.yml -o other.db app.db").succeeds();
    place.run("restore -config c.yml unknown.db").fails("database not found in config: ");
    place
        .run("restore -config missing.yml -if-db-not-exists -if-replica-exists app.db")
        .fails("config file not found: ");
}

/// F83
#[test]
fn a_time_is_given_in_many_ways_and_the_chosen_point_is_named() {
    let place = Place::new(4);
    for (n, time) in [
        (2, "2023-11-14T22:13:22Z"),
        (2, "2023-11-14T23:13:22.999+01:00"),
        (3, "2023-11-14_23:13:23_Europe/Berlin"),
        (4, "10m_ago"),
    ] {
        // The words of the line are split at spaces.
        let ran = place.run_words(&["restore", "-timestamp", &time.replace('_', " "), "-o", "out.db", &place.url("r")]);
        assert!(ran.succeeds().stdout.contains(&format!("chosen=2023-11-14T22:13:2{n}Z")), "{ran:?}");
        let before = format!("before=2023-11-14T22:13:2{}Z", n - 1);
        let after = if n == 4 { "after=none".to_owned() } else { format!("after=2023-11-14T22:13:2{}Z", n + 1) };
        assert!(ran.stdout.contains(&before) && ran.stdout.contains(&after), "{ran:?}");
        assert!(place.holds("out.db", n));
        std::fs::remove_file(place.path("out.db")).unwrap();
    }
    let ran = place.run("restore -json -timestamp 2023-11-14T22:13:23Z -o out.db @r");
    let summary: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary["timestamp"], "2023-11-14T22:13:23Z");
    assert_eq!(summary["before"]["txid"], "0000000000000002");
    assert_eq!(summary["after"]["timestamp"], "2023-11-14T22:13:24Z");
    place
        .run("restore -timestamp 2023-11-14T22:13:20Z -o x.db @r")
        .fails("the points that can be restored are from 2023-11-14T22:13:21Z to 2023-11-14T22:13:24Z");
}

#[test]
fn an_existing_database_is_brought_up_to_date() {
    let mut place = Place::new(4);
    let mut first = noise(9, 512);
    first[..16].copy_from_slice(b"SQLite format 3\0");
    first[16..20].copy_from_slice(&[2, 0, 2, 2]);
    place.history.commit([(1, first)], 8);
    place.history.commit([(2, noise(10, 512))], 8);
    place.store("s", &place.history);
    place.run("restore -txid 5 -o out.db @s").succeeds();
    place.run("restore -o out.db @s").fails("Use -force to overwrite, or -delta to bring it up to date");
    let ran = place.run("restore -delta -o out.db @s");
    assert!(ran.succeeds().stdout.contains("built_upon=0000000000000005"), "{ran:?}");
    assert!(place.holds("out.db", 6));
    assert!(place.run("restore -delta -o out.db @s").succeeds().stdout.contains("is the one asked for"));
    let ran = place.run("restore -delta -txid 3 -o out.db @s");
    assert!(ran.succeeds().stdout.contains("fetching everything"), "{ran:?}");
    assert!(place.holds("out.db", 3));
}

#[test]
fn a_database_goes_to_standard_output_when_it_is_complete() {
    let place = Place::new(4);
    let raw = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words).env("TMPDIR", place.path("")).output().unwrap()
    };
    let output = raw(&["restore", "-o", "-", &place.url("r")]);
    assert!(output.status.success() && output.stdout == place.history.file(4), "{:?}", output.stderr);
    assert!(String::from_utf8(output.stderr).unwrap().contains("database restored"));
    assert_eq!(place.names(), ["r"]);
    let failed = raw(&["restore", "-o", "-", &place.url("nowhere")]);
    assert_eq!((failed.status.code(), failed.stdout), (Some(1), vec![]));
    let none = raw(&["restore", "-if-replica-exists", "-o", "-", &place.url("nowhere")]);
    assert_eq!((none.status.code(), none.stdout), (Some(0), vec![]));
    assert_eq!(place.names(), ["r"]);
}

#[test]
fn all_databases_of_a_config_are_restored_although_one_fails() {
    let place = Place::new(4);
    std::fs::create_dir(place.path("empty")).unwrap();
    let mut config = "dbs:\n".to_owned();
    for (database, replica) in [("one.db", "r"), ("two.db", "empty"), ("three.db", "r")] {
        config.push_str(&format!("  - path: {}\n    replica:\n      type: file\n", place.text(database)));
        config.push_str(&format!("      path: {}\n", place.text(replica)));
    }
    std::fs::write(place.path("c.yml"), config).unwrap();
    let ran = place.run("restore -all -config c.yml");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("Error: 1 of the databases could not be restored: ") && ran.stderr.contains("two.db"));
    assert!(place.holds("one.db", 4) && place.holds("three.db", 4) && !place.path("two.db").exists(), "{ran:?}");
    let ran = place.run("restore -all -config c.yml -if-replica-exists -if-db-not-exists -json -o copies");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summaries: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summaries.as_array().unwrap().len(), 2);
    assert!(place.holds("copies/one.db", 4) && place.holds("copies/three.db", 4));
    let ran = place.run("restore -all -config c.yml -if-replica-exists -if-db-not-exists");
    assert!(ran.succeeds().stdout.contains("restored=0 skipped=3 failed=0"), "{ran:?}");
}

#[test]
fn every_replica_below_a_url_is_restored_to_its_own_path() {
    let place = Place::new(4);
    for name in ["all/one.db", "all/deep/two.db", "all/broken.db"] {
        place.store(name, &place.history);
    }
    let segments = place.path("all/broken.db/ltx/0");
    for entry in std::fs::read_dir(&segments).unwrap() {
        std::fs::write(entry.unwrap().path(), "nothing of use").unwrap();
    }
    let ran = place.run("restore -all -o copies @all");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let named = format!("Error: 1 of the databases could not be restored: {}", place.url("all/broken.db"));
    assert!(ran.stderr.contains(&named), "{ran:?}");
    assert!(place.holds("copies/one.db", 4) && place.holds("copies/deep/two.db", 4), "{ran:?}");
    assert!(!place.path("copies/broken.db").exists());
    std::fs::remove_dir_all(place.path("all/broken.db")).unwrap();
    let ran = place.run("restore -all -if-db-not-exists -o copies @all");
    assert!(ran.succeeds().stdout.contains("restored=0 skipped=2 failed=0"), "{ran:?}");
    // The URL of one replica is fine too.
    place.run("restore -all -o one @all/one.db").succeeds();
    assert!(place.holds("one/one.db", 4), "{:?}", place.names());
    let none = place.run("restore -all -o copies @nothing");
    assert!(none.code == Some(1) && none.stderr.contains("no matching backups found below"), "{none:?}");
    place.run("restore -all -if-replica-exists -o copies @nothing").succeeds();
}

/// The program as it runs for days: it follows until it is told to stop.
#[test]
fn a_database_follows_until_a_signal() {
    let mut source = Source::new(4096, true);
    let place = Place::new(1);
    place.store("s", &source.history);
    let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
        .args(["restore", "-f", "-follow-interval", "20ms", "-o", &place.text("out.db"), &place.url("s")])
        .stdout(std::fs::File::create(place.path("log")).unwrap())
        .spawn()
        .unwrap();
    let wait_for = |content: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let read = || std::fs::read_to_string(place.path("out.db-txid")).unwrap_or_default();
        while read() != content {
            assert!(std::time::Instant::now() < deadline, "{:?}", std::fs::read_to_string(place.path("log")));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    wait_for("0000000000000001\n");
    (2..=4).for_each(|n| source.row(n));
    std::fs::remove_dir_all(place.path("s")).unwrap();
    place.store("s", &source.history);
    wait_for("0000000000000004\n");
    assert_eq!(rows(&place.path("out.db")), expected(&source.history, 4));
    let stopped = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    for message in ["entering follow mode", "follow: applied updates", "follow mode stopped"] {
        assert!(log.contains(message), "{log}");
    }
}

#[test]
fn info_shows_what_can_be_restored() {
    let mut place = Place::new(4);
    place.history.merge(1, 1, 2);
    place.history.remove(0, range(1, 1));
    place.history.remove(0, range(2, 2));
    place.store("s", &place.history);
    let ran = place.run("info @s");
    let text = &ran.succeeds().stdout;
    for line in [
        "replica:   file (file)",
        "position:  0000000000000004",
        "points:    3",
        "00000000000000af  0000000000000002  0000000000000004  2023-11-14T22:13:22Z  2023-11-14T22:13:24Z",
        "1      1       0000000000000002  0000000000000002  2023-11-14T22:13:22Z  2023-11-14T22:13:22Z  0s",
        "0      2       0000000000000003  0000000000000004  2023-11-14T22:13:23Z  2023-11-14T22:13:24Z  1s",
        "1      merged    1        ",
        "0      captured  2        ",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}\n{text}");
    }
    assert!(text.contains("restore:   about ") && text.contains("3 segments"), "{text}");
    let shown: serde_json::Value = serde_json::from_str(&place.run("info -json @s").succeeds().stdout).unwrap();
    assert_eq!(shown[0]["ranges"][1]["step_ms"], 1000);
    assert_eq!(shown[0]["restore"]["segments"], 3);
    let ran = place.run("info @nowhere");
    assert!(ran.succeeds().stdout.contains("restore:   no matching backup files available"), "{ran:?}");
    place.store("broken", &{
        let mut broken = place.history.clone();
        broken.remove(0, range(3, 3));
        broken
    });
    assert!(place.run("info @broken").succeeds().stdout.contains("transactions 0000000000000003 to"));
    let several = several();
    std::fs::remove_dir_all(several.path("b")).unwrap();
    std::fs::write(several.path("b"), b"").unwrap();
    let ran = several.run("info -config c.yml app.db");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("replica:   a (file)") && ran.stderr.contains("replica \"b\""), "{ran:?}");
    several.run("info -config c.yml -replica c app.db").succeeds();
}

/// What entrypoint scripts rely on.
#[test]
fn the_flags_of_entrypoint_scripts_skip_what_they_should() {
    let place = Place::new(4);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.run("restore -o x.db @empty").fails("no matching backup");
    place.run("restore -o x.db @nowhere").fails("no matching backup");
    place.run("restore -if-replica-exists -o x.db @empty").skips("no matching backups found");
    place.run("restore -if-replica-exists -o x.db @nowhere").skips("no matching backups found");
    assert_eq!(place.names(), ["empty", "r"], "nothing was created");
    // Existence of any kind counts, and with a URL nothing else is even looked at.
    std::fs::write(place.path("x.db"), b"").unwrap();
    place.run("restore -if-db-not-exists -o x.db ftp://what").skips("database already exists, skipping");
    place.run("restore -if-db-not-exists -o r @r").skips("database already exists, skipping");
    place.run("restore -if-db-not-exists -if-replica-exists -o y.db @r").succeeds();
    assert!(place.holds("y.db", 4));
}

#[test]
fn an_unreachable_or_damaged_replica_is_never_skipped() {
    let place = Place::new(4);
    std::fs::write(place.path("not-a-directory"), b"").unwrap();
    std::fs::create_dir_all(place.path("broken/ltx")).unwrap();
    std::fs::write(place.path("broken/ltx/0"), b"a file where a directory should be").unwrap();
    for replica in ["not-a-directory", "broken"] {
        let ran = place.run(&format!("restore -if-replica-exists -if-db-not-exists -o x.db @{replica}"));
        ran.fails("cannot list replica file: ");
    }
    for txid in ["5", "ff"] {
        let ran = place.run(&format!("restore -if-replica-exists -txid {txid} -o x.db @r"));
        ran.fails("the newest point that is kept is 0000000000000004");
    }
    let ran = place.run("restore -if-replica-exists -timestamp 2000-01-01T00:00:00Z -o x.db @r");
    ran.fails("no backup is as old as 2000-01-01T00:00:00Z");
    assert!(!place.path("x.db").exists());
}

#[test]
fn an_existing_output_is_replaced_only_with_force_and_only_by_a_database() {
    let place = Place::new(4);
    std::fs::write(place.path("x.db"), b"precious").unwrap();
    std::fs::write(place.path("x.db-wal"), b"precious too").unwrap();
    place.run("restore -o x.db @r").fails("x.db. Use -force to overwrite");
    // Litestream deletes the output before it knows whether there is a backup.
    place.run("restore -force -if-replica-exists -o x.db @nowhere").skips("no matching backups found");
    place.run("restore -force -o x.db @nowhere").fails("no matching backup");
    place.run("restore -force -txid 9 -o x.db @r").fails("transaction 0000000000000009 cannot be restored");
    assert_eq!(std::fs::read(place.path("x.db")).unwrap(), b"precious");
    assert_eq!(std::fs::read(place.path("x.db-wal")).unwrap(), b"precious too");
    let ran = place.run("restore -force -o x.db @r");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(place.holds("x.db", 4));
    assert_eq!(place.names(), ["r", "x.db"]);
    std::fs::write(place.path("y.db"), b"").unwrap();
    std::fs::write(place.path("y.db-journal"), b"").unwrap();
    place.run("restore -o y.db @r").fails("y.db-journal. Use -force to overwrite");
    std::fs::remove_file(place.path("y.db-journal")).unwrap();
    place.run("restore -o y.db @r").succeeds();
    assert!(place.holds("y.db", 4), "an empty file is replaced");
    place.run("restore -force -o r @r").fails("output path is a directory");
}

#[test]
fn a_failed_integrity_check_leaves_nothing_behind() {
    let place = Place::new(4);
    place.run("restore -integrity-check quick -o x.db @r").fails("post-restore integrity check: ");
    assert_eq!(place.names(), ["r"]);
    place.run("restore -integrity-check odd -o x.db @r").fails("odd");
}

#[test]
fn a_gap_names_the_command_that_works() {
    let place = Place::new(4);
    let segment = format!("r/ltx/0/{}.ltx", range(3, 3));
    std::fs::remove_file(place.path(&segment)).unwrap();
    let ran = place.run("restore -if-replica-exists -o x.db @r");
    ran.fails("transactions 0000000000000003 to 0000000000000003 are missing");
    let command = ran.stderr.lines().find_map(|line| line.strip_prefix("Try: brooklet ")).unwrap();
    place.run(command).succeeds();
    assert!(place.holds("x.db", 2));
}

#[test]
fn json_is_the_only_thing_on_stdout() {
    let place = Place::new(4);
    let ran = place.run("restore -json -o x.db @r");
    assert_eq!(ran.code, Some(0));
    let summary: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(summary["duration_ms"].is_u64());
    assert_eq!(summary["db_path"], "x.db");
    assert_eq!(summary["replica"], "file");
    assert_eq!(summary["txid"], "0000000000000004");
    assert_eq!(summary["integrity_check"], "none");
    assert!(ran.stderr.contains("msg=\"database restored\""));
    let skipped = place.run("restore -json -if-db-not-exists -o x.db @r");
    assert_eq!((skipped.code, skipped.stdout.as_str()), (Some(0), ""));
}

#[test]
fn a_dry_run_shows_the_plan_and_writes_nothing() {
    let mut place = Place::new(4);
    place.history.merge(1, 1, 3);
    let merged = place.history.get(1, range(1, 3)).bytes.len();
    let single = place.history.get(0, range(4, 4)).bytes.len();
    std::fs::remove_dir_all(place.path("r")).unwrap();
    place.store("r", &place.history);
    let ran = place.run("restore -dry-run -o x.db @r");
    let expected = format!(
        "Restore plan:\n  source: {url}\n  target: x.db\n  replica: file\n  \
         txid range: 0000000000000001 - 0000000000000004\n\nFiles to fetch:\n\
         level  file                                   min_txid          max_txid          size  timestamp\n\
         1      0000000000000001-0000000000000003.ltx  0000000000000001  0000000000000003  {merged}  2023-11-14T22:13:23Z\n\
         0      0000000000000004-0000000000000004.ltx  0000000000000004  0000000000000004  {single:<4}  2023-11-14T22:13:24Z\n",
        url = place.url("r"),
    );
    assert_eq!(ran.succeeds().stdout, expected);
    let ran = place.run("restore -dry-run -json -timestamp 2023-11-14T22:13:23Z -o x.db @r");
    let plan: serde_json::Value = serde_json::from_str(&ran.succeeds().stdout).unwrap();
    assert_eq!(plan["max_txid"], "0000000000000003");
    assert_eq!(plan["files"][0]["name"], "0000000000000001-0000000000000003.ltx");
    assert_eq!(plan["files"].as_array().unwrap().len(), 1);
    place.run("restore -dry-run -if-replica-exists -o x.db @nowhere").fails("no matching backup");
    assert_eq!(place.names(), ["r"]);
}

/// Three replicas: `a` is behind, `b` is ahead and damaged, `c` is as far as `b`.
fn several() -> Place {
    let place = Place::new(4);
    let mut behind = place.history.clone();
    behind.remove(0, range(4, 4));
    place.store("a", &behind);
    place.store("b", &place.history);
    place.store("c", &place.history);
    let needed = place.path(&format!("b/ltx/0/{}.ltx", range(2, 2)));
    let bytes = std::fs::read(&needed).unwrap();
    std::fs::write(&needed, &bytes[..bytes.len() / 2]).unwrap();
    let mut config = format!("dbs:\n  - path: {}\n    replicas:\n", place.text("app.db"));
    for name in ["a", "b", "c"] {
        config.push_str(&format!("      - name: {name}\n        type: file\n        path: {}\n", place.text(name)));
    }
    std::fs::write(place.path("c.yml"), config).unwrap();
    place
}

#[test]
fn of_several_replicas_the_best_that_works_is_used_and_named() {
    let place = several();
    let ran = place.run("restore -config c.yml app.db");
    ran.succeeds();
    assert!(place.holds("app.db", 4));
    assert!(ran.stdout.contains("level=WARN msg=\"cannot restore from replica\" replica=b"), "{ran:?}");
    assert!(ran.stdout.contains("replica=c"), "{ran:?}");
    // Without the good one, what the one that is behind has is better than nothing.
    std::fs::remove_dir_all(place.path("c")).unwrap();
    let ran = place.run("restore -config c.yml -force app.db");
    assert!(place.holds("app.db", 3), "{ran:?}");
    assert!(ran.stdout.contains("replica=a"), "{ran:?}");
}

#[test]
fn one_of_several_replicas_can_be_named() {
    let place = several();
    place.run("restore -config c.yml -replica a app.db").succeeds();
    assert!(place.holds("app.db", 3));
    place.run("restore -config c.yml -replica b -o b.db app.db").fails(&range(2, 2).to_string());
    place.run("restore -config c.yml -replica d -o d.db app.db").fails("no matching backups found: ");
    let ran = place.run("restore -config c.yml -txid 3 -o three.db app.db");
    ran.fails("Try: brooklet restore -txid 0000000000000003 -replica a -config c.yml -o three.db app.db");
    place.run("restore -config c.yml -replica c -txid 3 -o three.db app.db").succeeds();
    assert!(place.holds("three.db", 3));
}

#[test]
fn ltx_lists_what_is_there() {
    let place = Place::new(2);
    let size = |n| place.history.get(0, range(n, n)).bytes.len();
    let expected = format!(
        "level  min_txid          max_txid          size  created\n\
         0      0000000000000001  0000000000000001  {:<4}  2023-11-14T22:13:21Z\n\
         0      0000000000000002  0000000000000002  {:<4}  2023-11-14T22:13:22Z\n",
        size(1),
        size(2)
    );
    assert_eq!(place.run("ltx @r").succeeds().stdout, expected);
    assert_eq!(place.run("ltx -level all @r").succeeds().stdout, expected);
    assert_eq!(place.run("ltx -level 9 @r").succeeds().stdout, "level  min_txid  max_txid  size  created\n");
    assert_eq!(place.run("ltx -level 9 -json @nowhere").succeeds().stdout, "[]\n");
    let ran = place.run("wal -json @r");
    assert!(ran.stderr.contains("deprecated"), "{ran:?}");
    let rows: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(rows[1]["min_txid"], "0000000000000002");
    assert_eq!(rows[1]["timestamp"], "2023-11-14T22:13:22Z");
    let several = several();
    let ran = several.run("ltx -config c.yml -replica a app.db");
    assert_eq!(ran.succeeds().stdout.lines().count(), 1 + 3);
    let ran = several.run("ltx -config c.yml app.db");
    assert!(ran.stderr.contains("listing replica \"a\""), "{ran:?}");
    several.run("ltx -config c.yml -replica d app.db").fails("replica \"d\" not found");
}

#[test]
fn generations_show_who_wrote_when() {
    let mut place = Place::new(4);
    place.history.rewrite(0, range(4, 4), |header| (header.generation, header.proof) = (None, None));
    std::fs::remove_dir_all(place.path("r")).unwrap();
    place.store("r", &place.history);
    let ran = place.run("generations @r");
    let rows: Vec<Vec<&str>> = ran.succeeds().stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["name", "generation", "lag", "start", "end"]);
    assert_eq!(rows[1][..2], ["file", "00000000000000af"]);
    assert_eq!(rows[1][3..], ["2023-11-14T22:13:21Z", "2023-11-14T22:13:23Z"]);
    assert_eq!(rows[2][3..], ["2023-11-14T22:13:24Z", "2023-11-14T22:13:24Z"]);
    assert_eq!((rows[2][1].len(), rows.len()), (16, 3));
    // A replica that cannot be listed is logged and left out.
    let several = several();
    std::fs::remove_dir_all(several.path("b")).unwrap();
    std::fs::write(several.path("b"), b"").unwrap();
    let ran = several.run("generations -config c.yml app.db");
    assert_eq!(ran.code, Some(0));
    let names: Vec<&str> = ran.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["name", "a", "c"]);
    assert!(ran.stderr.contains("replica=b"), "{ran:?}");
    several.run("generations -config c.yml -replica d app.db").fails("replica \"d\" not found");
}

/// The whole way there and back, with the commands alone.
#[test]
fn a_missing_database_is_restored_before_it_is_replicated() {
    let place = Place::new(1);
    let command = format!("replicate -once -restore-if-db-not-exists app.db {}", place.url("backup"));
    let rows = |sql: &str| {
        let database = rusqlite::Connection::open(place.path("app.db")).unwrap();
        database.execute_batch(sql).unwrap();
        database.query_row("SELECT count(*), sum(x) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let before: (i64, i64) = rows("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)");
    let ran = place.run(&command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("database exists, skipping restore"), "{ran:?}");

    for name in place.names().iter().filter(|name| name.contains("app.db")) {
        let path = place.path(name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    let ran = place.run(&command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("restore completed"), "{ran:?}");
    assert_eq!(rows(""), before);

    // An empty replica is a fresh start, an unusable one is not.
    let fresh = place.run(&format!("replicate -once -restore-if-db-not-exists new.db {}", place.url("nowhere")));
    assert!(fresh.stdout.contains("no backup found, starting fresh"), "{fresh:?}");
    let segment = place.path(&format!("r/ltx/0/{}.ltx", range(1, 1)));
    std::fs::write(segment, b"not a segment").unwrap();
    let ran = place.run("replicate -once -restore-if-db-not-exists other.db @r");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!place.path("other.db").exists());
}
