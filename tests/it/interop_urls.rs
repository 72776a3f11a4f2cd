//! What an `s3://` URL means: the official programs, told to replicate there,
//! say in their log what they made of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use brooklet::config::{Backend, Environment, ReplicaSettings};
use tempfile::TempDir;

fn official(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    path
}

/// Bucket, region and endpoint; what is left to be found out is empty.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    bucket: String,
    path: String,
    region: String,
    endpoint: String,
}

/// The line of its log in which the official program says where it replicates to.
fn announced(program: &Path, url: &str) -> Meaning {
    let dir = TempDir::new().unwrap();
    let mut child = Command::new(program)
        .args(["replicate", "app.db", url])
        .current_dir(dir.path())
        .env_clear()
        .envs([("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_EC2_METADATA_DISABLED", "true")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, told) = mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let readers = streams.map(|stream| {
        let tell = tell.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // Nobody may listen any more.
                let _ = tell.send(line);
            }
        })
    });
    drop(tell);
    let mut heard = Vec::new();
    let line = loop {
        let line = told.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{url}: {heard:#?}"));
        if line.contains("replicating to") {
            break line;
        }
        heard.push(line);
    };
    child.kill().unwrap();
    child.wait().unwrap();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let value = |name: &str| {
        let at = line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {line}")) + name.len() + 2;
        match line[at..].strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap().to_owned(),
            None => line[at..].split(' ').next().unwrap().to_owned(),
        }
    };
    Meaning { bucket: value("bucket"), path: value("path"), region: value("region"), endpoint: value("endpoint") }
}

fn ours(url: &str) -> Meaning {
    let settings = ReplicaSettings::from_url(url, &Environment::default(), &mut Vec::new()).unwrap();
    let Backend::S3(s3) = settings.backend else { panic!("{url}") };
    let options = s3.options(|_| unreachable!()).unwrap();
    Meaning {
        bucket: options.bucket,
        path: s3.roots[0].to_string(),
        region: options.region.unwrap_or_default(),
        endpoint: options.endpoint.unwrap_or_default(),
    }
}

/// Compares what both say. Litestream may leave open what it fills in later: the
/// scheme of an endpoint, and the region.
#[track_caller]
fn agree(program: &Path, urls: &[&str]) {
    for url in urls {
        let (theirs, ours) = (announced(program, url), ours(url));
        assert_eq!((&theirs.bucket, &theirs.path), (&ours.bucket, &ours.path), "{url}");
        let scheme = if theirs.endpoint.is_empty() || theirs.endpoint.contains("://") { "" } else { "https://" };
        assert_eq!(format!("{scheme}{}", theirs.endpoint), ours.endpoint, "{url}");
        if !theirs.region.is_empty() {
            assert_eq!(theirs.region, ours.region, "{url}");
        }
    }
}

#[test]
fn urls_mean_what_they_mean_to_litestream_0_5() {
    let Some(program) = official("LITESTREAM_BIN_0515") else { return };
    agree(
        &program,
        &[
            "s3://b",
            "s3://b/",
            "s3://b/a//b/../c/",
            "s3://b/a%20b",
            "s3://b.s3.amazonaws.com/p",
            "s3://b.s3.eu-west-1.amazonaws.com/p",
            "s3://b.nyc3.digitaloceanspaces.com/p",
            "s3://b.s3.us-west-002.backblazeb2.com/p",
            "s3://b.s3.filebase.com/p",
            "s3://b.s3.fr-par.scw.cloud/p",
            "s3://b.minio:9000/p",
            "s3://b.minio.internal.example:9000/p",
            "s3://b.localhost:9000/p",
            "s3://my.dotted.bucket/p",
            "s3://b/p?endpoint=h.example.org",
            "s3://b/p?endpoint=localhost:9000&region=r",
            "s3://b/p?endpoint=10.0.0.1:9000",
            "s3://b/p?endpoint=https://h.example.org:1234",
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/n/p",
        ],
    );
}

#[test]
fn urls_mean_what_they_mean_to_litestream_0_3() {
    let Some(program) = official("LITESTREAM_BIN_03") else { return };
    agree(
        &program,
        &[
            "s3://b/a/b/",
            "s3://b.localhost/p",
            "s3://b.localhost:9000/p",
            "s3://b.us-east-1.linodeobjects.com/p",
            "s3://b.nyc3.digitaloceanspaces.com/p",
            "s3://b.s3.us-west-002.backblazeb2.com/p",
            "s3://b.s3.filebase.com/p",
            "s3://b.s3.fr-par.scw.cloud/p",
            "s3://my.dotted.bucket/p",
        ],
    );
}
