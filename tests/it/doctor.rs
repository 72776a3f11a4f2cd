//! `doctor`: what it finds on storages with and without faults, and that it
//! leaves replicas alone.

use std::fs;
use std::ops::Range;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use brooklet::doctor::{Finding, Probe, Verdict, judge};
use brooklet::storage::{
    Body, Error, ErrorKind, FileStorage, Key, MemoryStorage, Object, Put, PutOptions, Result, Storage,
};
use bytes::Bytes;
use tempfile::TempDir;

/// A storage with one fault.
struct Faulty {
    inner: MemoryStorage,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// As Garage 2.5: whoever writes last wins.
    IgnoresConditions,
    /// Checks the condition and stores in two steps, so all of a crowd get through.
    ChecksThenStores,
    /// Credentials that may put and get only.
    CreateOnly,
    /// Credentials that may list and get only.
    ReadOnly,
    /// Flips a bit of whatever is read.
    FlipsBits,
    /// Shows new objects late.
    ListsLate,
}

impl Faulty {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner: MemoryStorage::new(), fault })
    }

    fn unless(&self, faults: &[Fault], what: &str) -> Result<()> {
        match faults.contains(&self.fault) {
            true => Err(Error::new(ErrorKind::Refused, format!("cannot {what}: AccessDenied"))),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Storage for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.unless(&[Fault::CreateOnly], "list")?;
        match self.fault {
            Fault::ListsLate => Ok(Vec::new()),
            _ => self.inner.list(prefix, after).await,
        }
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let read = self.inner.get(key, range).await;
        match (self.fault, read) {
            (Fault::FlipsBits, Ok(bytes)) => Ok(bytes.iter().map(|byte| byte ^ 1).collect()),
            // Without the right to list, what is missing is forbidden.
            (Fault::CreateOnly, Err(e)) if e.kind == ErrorKind::Missing => {
                Err(Error::new(ErrorKind::Refused, "cannot read: AccessDenied"))
            }
            (_, read) => read,
        }
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.unless(&[Fault::ReadOnly], "create")?;
        match self.fault {
            Fault::IgnoresConditions => self.inner.put(key, body, PutOptions { how: Put::Replace, ..options }).await,
            Fault::ChecksThenStores => {
                if self.inner.get(key, 0..1).await.is_ok() {
                    return Err(Error::exists(key));
                }
                tokio::task::yield_now().await;
                self.inner.put(key, body, PutOptions { how: Put::Replace, ..options }).await
            }
            _ => self.inner.put(key, body, options).await,
        }
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.unless(&[Fault::CreateOnly, Fault::ReadOnly], "delete")?;
        self.inner.delete(keys).await
    }
}

async fn findings(fault: Fault) -> Vec<Finding> {
    let storage = Faulty::new(fault);
    let probe =
        Probe { in_parts: Some(storage.clone()), storage, folder: Key::new("a/b").unwrap(), create_only: false };
    judge(&probe.run().await)
}

/// Checks that are not as they should be.
async fn remarkable(fault: Fault) -> Vec<(&'static str, Verdict)> {
    let findings = findings(fault).await.into_iter().filter(|finding| finding.result != Verdict::Ok);
    findings.map(|finding| (finding.check, finding.result)).collect()
}

#[tokio::test]
async fn every_fault_of_a_storage_is_found() {
    use Verdict::{Failed, Skipped, Warning};
    assert_eq!(remarkable(Fault::None).await, []);
    let ignored = [("conditions", Warning), ("multipart-conditions", Warning), ("read", Failed)];
    let found = remarkable(Fault::IgnoresConditions).await;
    // What was read was the first body: it is read before the second is written.
    assert_eq!(found, &ignored[..2]);
    assert_eq!(remarkable(Fault::ChecksThenStores).await, [("race", Warning)]);
    let denied = [
        ("list", Failed),
        ("absent", Warning),
        ("listed", Skipped),
        ("metadata", Warning),
        ("clock", Skipped),
        ("delete", Warning),
    ];
    assert_eq!(remarkable(Fault::CreateOnly).await, denied);
    let found = remarkable(Fault::ReadOnly).await;
    assert_eq!(found[0], ("create", Failed));
    assert!(found[1..].iter().all(|(_, verdict)| *verdict == Skipped), "{found:?}");
    assert_eq!(remarkable(Fault::FlipsBits).await, [("read", Failed), ("range", Failed)]);
    let late = remarkable(Fault::ListsLate).await;
    assert_eq!(late, [("listed", Warning), ("metadata", Warning), ("clock", Skipped)]);
}

#[tokio::test]
async fn what_may_not_be_removed_is_named() {
    let found = findings(Fault::CreateOnly).await;
    let delete = found.iter().find(|finding| finding.check == "delete").unwrap();
    assert_eq!(delete.found.matches("a/b/.brooklet-probe-").count(), 4, "{}", delete.found);
    assert!(delete.advice.as_ref().unwrap().contains("can create and not remove"));
}

#[tokio::test]
async fn a_directory_without_fault_is_left_as_it_was() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("ltx/0")).unwrap();
    let storage = Arc::new(FileStorage::new(dir.path()));
    let facts = Probe { storage, in_parts: None, folder: Key::ROOT, create_only: false }.run().await;
    let odd: Vec<_> = judge(&facts).into_iter().filter(|finding| finding.result != Verdict::Ok).collect();
    assert_eq!(odd, []);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ltx"]);
}

fn brooklet(dir: &TempDir, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
    command.args(words).current_dir(dir.path()).env_clear().env("HOME", dir.path());
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_command_prints_a_table_or_json_and_tells_by_its_exit_code() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("l.yml"), "dbs: [{path: a.db, replicas: [{path: r1}, {name: x, path: r2}]}]\n").unwrap();
    let done = brooklet(&dir, &["doctor", "-config", "l.yml"]);
    let out = text(&done.stdout);
    assert_eq!((done.status.code(), text(&done.stderr).as_str()), (Some(0), ""), "{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with("replica ")).count(), 2, "{out}");
    assert!(out.contains("\nconditions  ok      a second write to the same name is refused\n"), "{out}");
    assert!(out.contains("\ncost        ok      nothing is stored yet\n"), "{out}");

    let done = brooklet(&dir, &["doctor", "-json", "-replica", "x", "-config", "l.yml", "a.db"]);
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout).unwrap();
    assert!(rows.iter().all(|row| row["result"] == "ok" && row["replica"] == "x" && row["db"].is_string()));
    assert_eq!(rows[0]["check"], "list");

    // A file where the directory should be.
    fs::write(dir.path().join("taken"), "").unwrap();
    let url = format!("file://{}/taken", dir.path().display());
    let done = brooklet(&dir, &["doctor", &url]);
    assert_eq!(done.status.code(), Some(1));
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert!(out.contains("create") && out.contains("FAILED"), "{out}");
    assert!(err.starts_with("Error: ") && err.ends_with("checks failed\n"), "{err}");

    let done = brooklet(&dir, &["doctor", "-replica", "nobody", "-config", "l.yml"]);
    assert_eq!(text(&done.stderr), "Error: there is no replica \"nobody\"\n");
}
