//! The commands against S3: where keys lie for each way of naming a place, and
//! what `doctor` says of services with and without faults.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::s3::{BUCKET, Faults, Server};

const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "test-secret-key";

/// A server, a directory with a database, and credentials in the environment.
pub(crate) struct Rig {
    pub(crate) server: Server,
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let variables = vec![
            ("LITESTREAM_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("LITESTREAM_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        let rig = Self { server: Server::start(), dir: TempDir::new().unwrap(), variables };
        rig.sql("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1);");
        rig
    }

    /// Sets an environment variable of the commands.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("app.db", sql)
    }

    pub(crate) fn sql_in(&self, name: &str, sql: &str) -> String {
        let done = Command::new("sqlite3").arg(self.path(name)).arg(sql).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Ended::of(command.stdin(Stdio::null()).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn fine(&self, words: &[&str]) -> Ended {
        let ended = self.run(words);
        assert_eq!(ended.code, Some(0), "{words:?}\n{}\n{}", ended.stdout, ended.stderr);
        ended
    }

    /// A URL with the server as endpoint.
    pub(crate) fn url(&self, place: &str) -> String {
        let joint = if place.contains('?') { '&' } else { '?' };
        format!("{place}{joint}endpoint={}&region=us-east-1", self.server.address)
    }

    /// The keys, without the names of segments; the copy of the base that becomes a
    /// snapshot may be there or not yet.
    fn folders(&self) -> Vec<String> {
        let keys = self.server.keys();
        let folders: BTreeSet<String> =
            keys.iter().map(|key| key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()).collect();
        folders.into_iter().filter(|folder| !folder.ends_with("/0009")).collect()
    }

    /// What a restore from there brings back.
    #[track_caller]
    pub(crate) fn restored(&self, url: &str) -> String {
        drop(fs::remove_file(self.path("restored.db")));
        self.fine(&["restore", "-o", "restored.db", url]);
        self.sql_in("restored.db", "SELECT group_concat(x) FROM t")
    }
}

pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn every_way_of_naming_a_place_leads_to_litestreams_keys() {
    let port = |rig: &Rig| rig.server.address.port();
    type Name = fn(&Rig, u16) -> String;
    let cases: [(Name, &str); 5] = [
        (|rig, _| rig.url(&format!("s3://{BUCKET}")), "./0000"),
        (|rig, _| rig.url(&format!("s3://{BUCKET}/")), "/0000"),
        (|rig, _| rig.url(&format!("s3://{BUCKET}/a/b/")), "a/b/0000"),
        (|rig, _| rig.url(&format!("s3://{BUCKET}/ü b/%2B?force-path-style=true")), "ü b/+/0000"),
        (|_, port| format!("s3://{BUCKET}.localhost:{port}/a"), "a/0000"),
    ];
    for (name, folder) in cases {
        let rig = Rig::new();
        let url = name(&rig, port(&rig));
        rig.fine(&["replicate", "-once", "app.db", &url]);
        assert_eq!(rig.folders(), [folder], "{url}");
        assert_eq!(rig.restored(&url), "1", "{url}");
        assert!(rig.fine(&["ltx", &url]).stdout.lines().count() > 1, "{url}");
    }
}

/// What looking at a replica takes is counted, and what keeping it costs is said with the prices.
#[test]
fn an_audit_tells_its_requests_and_the_cost_of_the_replica() {
    let rig = Rig::new();
    let url = rig.url(&format!("s3://{BUCKET}/app"));
    for n in 2..5 {
        rig.fine(&["replicate", "-once", "app.db", &url]);
        rig.sql(&format!("INSERT INTO t VALUES ({n})"));
    }
    for command in ["audit", "verify"] {
        rig.server.forget_requests();
        let shown = rig.fine(&[command, "-json", &url]).stdout;
        let counts = rig.server.counts();
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let (asked, cost) = (&value["replicas"][0]["asked"], &value["replicas"][0]["cost"]);
        let lists = counts.get("ListObjectsV2").copied().unwrap_or_default();
        assert_eq!(
            (&asked["lists"], &asked["reads"]),
            (&lists.into(), &counts["GetObject"].into()),
            "{command} {counts:?}"
        );
        let bytes = value["replicas"][0]["segments"]["bytes"].as_u64().unwrap();
        let read = asked["bytes"].as_u64().unwrap();
        assert!(read > 0 && (command == "verify" || read >= bytes), "{read} of {bytes}");
        assert!(cost["storage_month"].as_u64().unwrap() > 0, "{cost}");
        assert_eq!(cost["prices"]["gigabyte_month"], 23_000);
    }
    let text = rig.fine(&["audit", &url]).stdout;
    assert!(text.contains("  asked: ") && text.contains("$0.023 per GB and month"), "{text}");
    assert!(text.contains("S3 Standard in us-east-1"), "{text}");
}

#[test]
fn every_replica_below_a_url_in_a_bucket_is_restored() {
    let rig = Rig::new();
    for place in ["backups/one.db", "backups/deep/two.db"] {
        rig.fine(&["replicate", "-once", "app.db", &rig.url(&format!("s3://{BUCKET}/{place}"))]);
        fs::remove_dir_all(rig.path(".app.db-litestream")).unwrap();
    }
    rig.server.forget_requests();
    for (at, below) in ["/backups", "/backups/", "", "/"].iter().enumerate() {
        let dir = format!("copies{at}");
        rig.fine(&["restore", "-all", "-o", &dir, &rig.url(&format!("s3://{BUCKET}{below}"))]);
        let under = if below.len() > 1 { "" } else { "backups/" };
        for name in ["one.db", "deep/two.db"] {
            assert_eq!(rig.sql_in(&format!("{dir}/{under}{name}"), "SELECT x FROM t"), "1", "{below} {name}");
        }
    }
}

#[test]
fn a_config_names_the_place_by_its_keys() {
    let rig = Rig::new();
    let text = format!(
        "access-key-id: {ACCESS_KEY}\nsecret-access-key: {SECRET_KEY}\nendpoint: {}\nbucket: {BUCKET}\n\
         dbs:\n  - path: app.db\n    replica: {{type: s3, path: backups/app/, storage-class: STANDARD_IA, \
         tags: {{app: shop}}, headers: {{X-Extra: '1'}}, part-size: 5MiB}}\n",
        rig.server.endpoint
    );
    fs::write(rig.path("l.yml"), text).unwrap();
    let rig = Rig { variables: vec![("AWS_EC2_METADATA_DISABLED", "true".to_owned())], ..rig };
    rig.fine(&["replicate", "-once", "-config", "l.yml"]);
    assert_eq!(rig.folders(), ["backups/app//0000"]);
    let object = rig.server.object(&rig.server.keys()[0]).unwrap();
    assert_eq!((object.storage_class.as_deref(), object.tagging.as_deref()), (Some("STANDARD_IA"), Some("app=shop")));
    assert!(object.metadata.contains_key("litestream-timestamp"), "{:?}", object.metadata);
    assert!(rig.server.requests().iter().all(|request| request.header("x-extra") == Some("1")));
    rig.fine(&["restore", "-config", "l.yml", "-o", "restored.db", "app.db"]);
    assert_eq!(rig.sql_in("restored.db", "SELECT x FROM t"), "1");
}

#[test]
fn data_under_another_spelling_is_found_said_and_continued() {
    let rig = Rig::new();
    rig.fine(&["replicate", "-once", "app.db", &rig.url(&format!("s3://{BUCKET}"))]);
    rig.sql("INSERT INTO t VALUES (2)");
    let other = rig.url(&format!("s3://{BUCKET}/"));
    let ended = rig.fine(&["ltx", &other]);
    assert!(ended.stderr.contains("has data under another spelling of its path"), "{}", ended.stderr);
    rig.fine(&["replicate", "-once", "app.db", &other]);
    assert_eq!(rig.folders(), ["./0000"]);
    assert_eq!(rig.restored(&other), "1,2");
}

#[test]
fn an_endpoint_in_the_environment_counts_as_one() {
    let mut rig = Rig::new();
    rig.variables.push(("AWS_ENDPOINT_URL_S3", rig.server.endpoint.clone()));
    let url = format!("s3://{BUCKET}/p");
    rig.fine(&["replicate", "-once", "app.db", &url]);
    assert_eq!(rig.folders(), ["p/0000"]);
    assert!(rig.server.requests().iter().all(|request| request.path.starts_with(&format!("/{BUCKET}"))), "path style");
    assert_eq!(rig.restored(&url), "1");
}

#[test]
fn a_service_without_conditions_is_looked_at_first() {
    let rig = Rig::new();
    rig.server.faults(|faults| faults.ignore_conditions = true);
    let url = rig.url(&format!("s3://{BUCKET}/p?conditional-writes=false"));
    let ended = rig.fine(&["replicate", "-once", "app.db", &url]);
    assert!(ended.stdout.contains("conditional writes are off for this replica"), "{}", ended.stdout);
    let puts = rig.server.requests_of("PutObject");
    assert!(!puts.is_empty() && puts.iter().all(|put| put.header("if-none-match").is_none()));
    assert_eq!(rig.restored(&url), "1");
}

#[test]
fn entrypoint_scripts_get_the_exit_codes_they_rely_on() {
    let mut rig = Rig::new();
    let url = rig.url(&format!("s3://{BUCKET}/p"));
    let both = ["restore", "-if-db-not-exists", "-if-replica-exists", "-o", "restored.db", &url];
    let ended = rig.fine(&both);
    assert!(ended.stdout.contains("no matching backups found"), "{}", ended.stdout);
    assert!(!rig.path("restored.db").exists());
    let ended = rig.run(&["restore", "-o", "restored.db", &url]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no matching backup"), "{}", ended.stderr);

    let asked = rig.server.requests().len();
    rig.fine(&["restore", "-if-db-not-exists", "-o", "app.db", &url]);
    assert_eq!(rig.server.requests().len(), asked, "an existing database is decided without the storage");

    rig.set("LITESTREAM_SECRET_ACCESS_KEY", "wrong");
    assert_eq!(rig.run(&both).code, Some(1), "wrong credentials are not an empty replica");
}

#[test]
fn objects_are_encrypted_with_a_key_from_a_file() {
    let rig = Rig::new();
    fs::write(rig.path("key"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
    let text = format!(
        "dbs: [{{path: app.db, replica: {{type: s3, bucket: {BUCKET}, path: p, endpoint: '{}', \
         sse-customer-key-path: key}}}}]\n",
        rig.server.endpoint
    );
    fs::write(rig.path("l.yml"), &text).unwrap();
    rig.fine(&["replicate", "-once", "-config", "l.yml"]);
    assert!(rig.server.object(&rig.server.keys()[0]).unwrap().customer_key.is_some());
    rig.fine(&["restore", "-config", "l.yml", "-o", "restored.db", "app.db"]);
    rig.fine(&["doctor", "-config", "l.yml"]);
    // Without the key nobody reads it.
    let ended = rig.run(&["restore", "-o", "other.db", &rig.url(&format!("s3://{BUCKET}/p"))]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    fs::remove_file(rig.path("key")).unwrap();
    let ended = rig.run(&["ltx", "-config", "l.yml", "app.db"]);
    assert!(ended.stderr.contains("sse-customer-key-path: cannot be read"), "{}", ended.stderr);
}

#[test]
fn who_may_only_create_and_read_replicates() {
    let rig = Rig::new();
    rig.server.faults(|faults| {
        faults.deny = vec!["ListObjectsV2", "ListMultipartUploads", "DeleteObject", "DeleteObjects"];
    });
    let text = format!(
        "shutdown-sync-timeout: 2s\ndbs: [{{path: app.db, replica: {{type: s3, bucket: {BUCKET}, path: p, \
         endpoint: '{}', create-only: true}}}}]\n",
        rig.server.endpoint
    );
    fs::write(rig.path("l.yml"), &text).unwrap();
    rig.fine(&["replicate", "-once", "-strict-start", "-config", "l.yml"]);
    rig.sql("INSERT INTO t VALUES (2)");
    rig.fine(&["replicate", "-once", "-config", "l.yml"]);
    let doctor = rig.fine(&["doctor", "-config", "l.yml"]);
    assert!(doctor.stdout.contains("replicating works, because create-only is set"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("can create and not remove"), "{}", doctor.stdout);
    assert!(rig.server.requests_of("ListObjectsV2").len() <= 1, "only doctor has tried to list");
    rig.server.faults(|faults| faults.deny.clear());
    assert_eq!(rig.restored(&rig.url(&format!("s3://{BUCKET}/p"))), "1,2");
}

/// The result of each check that is not "ok".
fn remarks(ended: &Ended) -> Vec<(String, String)> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(&ended.stdout).unwrap();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "check"), text(row, "result"))).filter(|(_, result)| result != "ok").collect()
}

#[test]
fn doctor_tells_what_a_service_can_and_cannot() {
    type Case = (fn(&mut Faults), i32, &'static [(&'static str, &'static str)]);
    let cases: [Case; 5] = [
        (|_| {}, 0, &[]),
        (|f| f.ignore_conditions = true, 0, &[("conditions", "warning"), ("multipart-conditions", "warning")]),
        (|f| f.deny = vec!["DeleteObject", "DeleteObjects"], 0, &[("delete", "warning")]),
        (|f| f.deny = vec!["ListObjectsV2"], 1, &[("list", "failed"), ("listed", "skipped"), ("clock", "skipped")]),
        (
            |f| f.deny = vec!["CompleteMultipartUpload"],
            1,
            &[("multipart", "failed"), ("multipart-conditions", "skipped")],
        ),
    ];
    for (change, code, expected) in cases {
        let rig = Rig::new();
        rig.server.faults(change);
        let ended = rig.run(&["doctor", "-json", "-deep", &rig.url(&format!("s3://{BUCKET}/a/b"))]);
        assert_eq!(ended.code, Some(code), "{}\n{}", ended.stdout, ended.stderr);
        let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(remarks(&ended), expected, "{}", ended.stdout);
        let left = rig.server.keys();
        assert_eq!(left.is_empty(), !expected.contains(&("delete".into(), "warning".into())), "{left:?}");
        assert!(left.iter().all(|key| ended.stdout.contains(key.as_str())), "what is left is named: {left:?}");
    }
}

#[test]
fn doctor_explains_wrong_credentials_and_buckets() {
    let mut rig = Rig::new();
    let ended = rig.run(&["doctor", &rig.url("s3://another-bucket/p")]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("create the bucket or correct its name"), "{}", ended.stdout);
    rig.variables[1].1 = "wrong".to_owned();
    let ended = rig.run(&["doctor", &rig.url(&format!("s3://{BUCKET}/p"))]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("check the access key and its secret"), "{}", ended.stdout);
    assert!(rig.server.keys().is_empty());
    rig.variables.truncate(0);
    rig.variables.push(("AWS_EC2_METADATA_DISABLED", "true".to_owned()));
    let ended = rig.run(&["doctor", &rig.url(&format!("s3://{BUCKET}/p"))]);
    assert!(ended.stdout.contains("set access-key-id and secret-access-key"), "{}", ended.stdout);
}
