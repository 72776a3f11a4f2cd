//! One bucket, two programs: what the official one (`LITESTREAM_BIN`) writes is
//! ours to read and to continue, and the other way round, under every way of
//! naming a place.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::s3::{BUCKET, Server};

struct Rig {
    server: Server,
    dir: tempfile::TempDir,
    official: PathBuf,
}

impl Rig {
    fn new() -> Option<Self> {
        let Some(official) = std::env::var_os("LITESTREAM_BIN").map(PathBuf::from) else {
            println!("skipped: LITESTREAM_BIN is not set");
            return None;
        };
        Some(Self { server: Server::start(), dir: tempfile::tempdir().unwrap(), official })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sql(&self, sql: &str) {
        let done = Command::new("sqlite3").arg(self.path("app.db")).arg(sql).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn run(&self, program: &Path, words: &[&str]) {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("LITESTREAM_ACCESS_KEY_ID", "test-access-key");
        command.env("LITESTREAM_SECRET_ACCESS_KEY", "test-secret-key").env("AWS_EC2_METADATA_DISABLED", "true");
        let done = command.stdin(Stdio::null()).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{program:?} {words:?}: {}", String::from_utf8_lossy(&said));
    }

    fn replicate(&self, program: &Path, url: &str) {
        self.run(program, &["replicate", "-once", "app.db", url]);
    }

    fn restored(&self, program: &Path, url: &str) -> Vec<u8> {
        let target = self.path("restored.db");
        drop(std::fs::remove_file(&target));
        self.run(program, &["restore", "-o", "restored.db", url]);
        std::fs::read(target).unwrap()
    }

    /// The keys that a program leads a URL to.
    fn folders(&self) -> Vec<String> {
        let mut folders: Vec<_> =
            self.server.keys().iter().map(|key| key.rsplit_once('/').unwrap().0.to_owned()).collect();
        folders.dedup();
        folders
    }
}

fn ours() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_brooklet"))
}

/// A URL, and the folders in which the official program puts what it writes there.
fn places(server: &Server) -> Vec<(String, &'static str)> {
    let address = server.address;
    let by_endpoint = |place: &str| format!("s3://{BUCKET}{place}?endpoint={address}&region=us-east-1");
    vec![
        (by_endpoint(""), "./"),
        (by_endpoint("/"), "/"),
        (by_endpoint("/a/b/"), "a/b/"),
        (by_endpoint("/a/b"), "a/b/"),
        (format!("s3://{BUCKET}.localhost:{}/c/d", address.port()), "c/d/"),
    ]
}

#[test]
fn what_litestream_writes_is_restored_and_continued() {
    for at in 0..5 {
        let Some(rig) = Rig::new() else { return };
        let (url, prefix) = &places(&rig.server)[at];
        rig.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(9000));");
        rig.replicate(&rig.official, url);
        rig.sql("INSERT INTO t VALUES (randomblob(9000))");
        rig.replicate(&rig.official, url);
        let theirs = rig.folders();
        assert!(!theirs.is_empty() && theirs.iter().all(|folder| folder.starts_with(prefix)), "{url}: {theirs:?}");
        let expected = rig.restored(&rig.official, url);
        assert!(rig.restored(ours(), url) == expected, "{url}");
        rig.sql("INSERT INTO t VALUES (randomblob(9000))");
        rig.replicate(ours(), url);
        assert!(rig.folders().iter().all(|folder| folder.starts_with(prefix)), "{url}: {:?}", rig.folders());
        let expected = rig.restored(ours(), url);
        assert!(rig.restored(&rig.official, url) == expected, "{url}");
    }
}

#[test]
fn what_we_write_is_restored_and_continued_by_litestream() {
    for at in 0..5 {
        let Some(rig) = Rig::new() else { return };
        let (url, prefix) = &places(&rig.server)[at];
        rig.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(9000));");
        rig.replicate(ours(), url);
        rig.sql("INSERT INTO t VALUES (randomblob(9000))");
        rig.replicate(ours(), url);
        let folders = rig.folders();
        assert!(!folders.is_empty() && folders.iter().all(|folder| folder.starts_with(prefix)), "{url}: {folders:?}");
        for key in rig.server.keys() {
            let metadata = rig.server.object(&key).unwrap().metadata;
            assert!(metadata.contains_key("litestream-timestamp"), "{key}: {metadata:?}");
        }
        let expected = rig.restored(ours(), url);
        assert!(rig.restored(&rig.official, url) == expected, "{url}");
        rig.sql("INSERT INTO t VALUES (randomblob(9000))");
        rig.replicate(&rig.official, url);
        let expected = rig.restored(&rig.official, url);
        assert!(rig.restored(ours(), url) == expected, "{url}");
    }
}

/// A base that goes up in parts is one object to everybody.
#[test]
fn a_large_base_goes_up_in_parts_and_comes_back() {
    let Some(rig) = Rig::new() else { return };
    let (url, _) = &places(&rig.server)[2];
    rig.sql(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT randomblob(700) FROM n;",
    );
    rig.replicate(ours(), url);
    assert!(rig.server.counts()["CompleteMultipartUpload"] >= 1, "{:?}", rig.server.counts());
    assert!(rig.server.uploads().is_empty());
    let expected = rig.restored(&rig.official, url);
    assert!(rig.restored(ours(), url) == expected);
}
