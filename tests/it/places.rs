//! What two replicas may not have in common.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// F117: two replicas whose settings lead to one place are refused before anything is written, also
/// where they spell it differently.
#[test]
fn two_histories_do_not_share_a_place() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let said = |first: &str, second: &str| {
        let text = format!("dbs: [{{path: a.db, replica: {{{first}}}}}, {{path: b.db, replica: {{{second}}}}}]\n");
        fs::write(dir.path().join("l.yml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(["replicate", "-once", "-config", "l.yml"]).current_dir(dir.path()).env_clear();
        let done = command.env("HOME", dir.path()).stdin(Stdio::null()).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "the databases do not exist, so nothing can be replicated");
        String::from_utf8(done.stderr).unwrap()
    };
    let same = [
        ("path: x", "path: ./y/../x"),
        ("path: real/x", "path: link/x"),
        ("type: s3, bucket: b, path: p", "url: 's3://b/p/'"),
        ("url: 's3://b'", "url: 's3://b/'"),
    ];
    for (first, second) in same {
        let error = said(first, second);
        assert!(error.contains(" are in one place, ") && error.contains("a.db"), "{first} {second}: {error}");
    }
    assert!(!said("path: x", "path: y").contains("in one place"));
    assert!(!dir.path().join("x").exists());
}
