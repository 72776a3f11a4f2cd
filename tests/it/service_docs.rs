//! The pages about services and rights: their configs load and mean the service
//! they are about, and each policy is enough for what it says it is for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use brooklet::config::{Backend, Config, Environment};
use brooklet::storage::s3::providers;

use crate::s3_commands::Rig;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

fn pages() -> BTreeMap<String, String> {
    let files = fs::read_dir(docs("providers")).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn the_config_of_every_service_loads_and_means_that_service() {
    /// Services that are not known by their host.
    const SELF_RUN: [&str; 3] = ["MinIO", "Garage", "Ceph"];
    let mut pages = pages();
    let index = pages.remove("README.md").unwrap();
    assert!(pages.len() >= 15, "{:?}", pages.keys());
    for (file, text) in pages {
        let title = text.lines().next().unwrap().strip_prefix("# ").unwrap();
        let configs = blocks(&text, "yaml");
        assert_eq!(configs.len(), 1, "{file}");
        let config = Config::parse(&configs[0], &Environment::default()).unwrap();
        assert_eq!(config.warnings, [], "{file}");
        let Backend::S3(settings) = &config.runnable().unwrap()[0].replicas[0].backend else { panic!("{file}") };
        let options = settings.options(|_| unreachable!()).unwrap();
        assert!(["my-bucket", "my-space"].contains(&options.bucket.as_str()), "{file}: {}", options.bucket);
        assert_eq!(settings.roots[0].as_str(), "app", "{file}");
        assert!(options.region.is_some(), "{file}");
        match options.endpoint.as_deref().map(providers::of_endpoint) {
            None => assert_eq!(title, "AWS", "{file}"),
            Some(None) => assert!(SELF_RUN.contains(&title), "{file}: no service is known by this endpoint"),
            Some(Some(provider)) => assert_eq!(title, provider.name, "{file}"),
        }
        assert!(index.contains(&format!("]({file}) |")), "docs/providers/README.md does not name {file}");
        let looks = !settings.conditional_writes;
        assert_eq!(looks, text.contains("conditional-writes: false"), "{file} tells how names are taken");
    }
}

/// What S3 calls the requests that a right allows.
fn operations(action: &str) -> &'static [&'static str] {
    match action {
        "s3:ListBucket" => &["ListObjectsV2", "HeadBucket"],
        "s3:ListBucketMultipartUploads" => &["ListMultipartUploads"],
        "s3:GetObject" => &["GetObject", "HeadObject"],
        "s3:PutObject" => &["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"],
        "s3:DeleteObject" => &["DeleteObject", "DeleteObjects"],
        "s3:AbortMultipartUpload" => &["AbortMultipartUpload"],
        other => panic!("{other} is not a right that brooklet needs"),
    }
}

const ACTIONS: [&str; 6] = [
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
];

/// The rights of the policies, by the headings above them. Bucket policies that deny are left out.
fn policies() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(docs("policies.md")).unwrap();
    let mut policies = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        for block in blocks(section, "json") {
            let policy: serde_json::Value = serde_json::from_str(&block).unwrap_or_else(|e| panic!("{e}\n{block}"));
            assert_eq!(policy["Version"], "2012-10-17");
            let mut rights = Vec::new();
            for statement in policy["Statement"].as_array().unwrap() {
                let resource = statement["Resource"].as_str().unwrap();
                assert!(resource.starts_with("arn:aws:s3:::my-bucket"), "{resource}");
                if statement["Effect"] == "Deny" {
                    continue;
                }
                for action in statement["Action"].as_array().unwrap() {
                    let action = action.as_str().unwrap();
                    let of_bucket = action.starts_with("s3:ListBucket");
                    assert_eq!(of_bucket, !resource.ends_with("/app/*"), "{action} on {resource}");
                    rights.push(action.to_owned());
                }
            }
            if !rights.is_empty() {
                policies.insert(section.lines().next().unwrap().to_owned(), rights);
            }
        }
    }
    policies
}

/// A server that allows what the policy allows.
fn with_rights(rig: &Rig, rights: &[String]) {
    let denied = ACTIONS.into_iter().filter(|action| !rights.iter().any(|right| right == action));
    let denied: Vec<&'static str> = denied.flat_map(operations).copied().collect();
    rig.server.faults(|faults| faults.deny = denied);
}

#[test]
fn each_policy_is_enough_for_what_it_is_for() {
    let policies = policies();
    assert_eq!(
        policies.keys().collect::<Vec<_>>(),
        ["Create only", "Remove old data", "Replicate, restore and clean up", "Restore only"]
    );
    for (title, rights) in &policies {
        let rig = Rig::new();
        let url = rig.url("s3://test-bucket/app");
        let has = |right: &str| rights.iter().any(|own| own == right);
        assert_eq!(
            has("s3:DeleteObject"),
            ["Remove old data", "Replicate, restore and clean up"].contains(&title.as_str())
        );
        if !has("s3:PutObject") {
            // Somebody else has written.
            rig.fine(&["replicate", "-once", "app.db", &url]);
        }
        with_rights(&rig, rights);
        if has("s3:PutObject") {
            // A body that goes up in several parts, too.
            rig.sql(
                "CREATE TABLE big(x); WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<3000)
                     INSERT INTO big SELECT randomblob(4000) FROM n;",
            );
            rig.fine(&["replicate", "-once", "app.db", &url]);
            assert!(!rig.server.requests_of("UploadPart").is_empty(), "{title}");
            rig.sql("INSERT INTO t VALUES (2)");
            rig.fine(&["replicate", "-once", "app.db", &url]);
            assert_eq!(rig.restored(&url), "1,2", "{title}");
        } else {
            assert_eq!(rig.restored(&url), "1", "{title}");
        }
        rig.fine(&["ltx", &url]);
        rig.fine(&["generations", &url]);
        let doctor = rig.run(&["doctor", &url]);
        let expected = if has("s3:PutObject") { Some(0) } else { Some(1) };
        assert_eq!(doctor.code, expected, "{title}\n{}", doctor.stdout);
        assert_eq!(
            has("s3:DeleteObject") || !has("s3:PutObject"),
            !doctor.stdout.contains("can create and not remove"),
            "{title}"
        );
    }
}
