//! Whole configs: what they mean, from the text of a file to typed values.

mod databases;
mod documents;
mod refusals;

use super::*;
use crate::types::Secret;
use std::num::NonZeroU64;
use std::time::Duration;

pub(super) fn environment() -> Environment {
    let variables = [("BUCKET_DIR", "/backup"), ("EMPTY", "")];
    Environment {
        variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        pid: 1,
        working_dir: "/srv".into(),
        home: Some("/home/ann".into()),
    }
}

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, &environment())
}

#[track_caller]
pub(super) fn parsed(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_empty_file_is_a_config_without_databases() {
    for text in ["", "# nothing\n", "dbs:\n", "dbs: []", "---\n"] {
        let config = parsed(text);
        assert!(config.runnable().unwrap().is_empty());
        assert_eq!(config.global, Global::default());
        assert_eq!(config.logging, Logging::default());
        assert_eq!(config.warnings, []);
    }
}

#[test]
fn the_file_is_found_read_and_expanded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l.yml");
    let env = Environment { working_dir: dir.path().to_owned(), ..environment() };
    let missing = Config::load(Some(&path), true, &env).unwrap_err();
    assert_eq!(missing.to_string(), format!("config file not found: {}", path.display()));

    fs::write(&path, "dbs: [{path: a, replica: {path: $BUCKET_DIR/x$EMPTY$$}}] # ${x\n").unwrap();
    let directories = |expand| {
        let config = Config::load(Some(Path::new("l.yml")), expand, &env).unwrap();
        config.databases().unwrap()[0].replicas[0].backend.clone()
    };
    assert_eq!(directories(true), Backend::File { directories: vec!["/backup/x".into()] });
    let literal = dir.path().join("$BUCKET_DIR/x$EMPTY$$");
    assert_eq!(directories(false), Backend::File { directories: vec![literal] });

    fs::write(&path, [0xff, 0xfe]).unwrap();
    let unreadable = Config::load(Some(&path), true, &env).unwrap_err();
    assert_eq!(unreadable.to_string(), format!("cannot read config file {}", path.display()));
}

#[test]
fn defaults_are_those_of_litestream() {
    let config = parsed("dbs: [{path: /data/app.db, replica: {path: /backup/app}}]");
    let expected = Database {
        path: "/data/app.db".into(),
        meta_path: None,
        monitor_interval: secs(1),
        checkpoint_interval: Some(secs(60)),
        busy_timeout: secs(1),
        min_checkpoint_page_count: 1000,
        truncate: Truncate::AtPages(121_359),
        max_sync_wal_bytes: Some(67_108_864),
        spool_max_bytes: None,
        park_after: None,
        restore_if_db_not_exists: false,
        drill: None,
        replicas: vec![ReplicaSettings {
            age: Age::default(),
            name: "file".into(),
            backend: Backend::File { directories: vec!["/backup/app".into()] },
            sync_interval: secs(1),
            ltx_encoding: LtxEncoding::Block,
            max_upload_rate: None,
            create_only: false,
            snapshots: Snapshots { interval: secs(86_400), retention: secs(86_400) },
            upkeep: Upkeep::default(),
        }],
    };
    assert_eq!(config.runnable().unwrap(), [expected]);
    assert_eq!(config.global.shutdown_sync_timeout, secs(30));
    assert_eq!(config.global.shutdown_sync_interval, Duration::from_millis(500));
}

#[test]
fn every_key_with_an_effect_arrives() {
    let config = parsed(
        "
exec: app -x
shutdown-sync-timeout: 5s
shutdown-sync-interval: 100ms
strict-start: yes
sync-interval: 10s
ltx-encoding: frame
max-upload-rate: 1MiB
create-only: true
logging: {level: WARNING, type: json, stderr: on, source: true}
dbs:
  - path: sqlite:///data/a.db
    meta-path: ~/state
    monitor-interval: 500ms
    checkpoint-interval: 0
    busy-timeout: 5s
    min-checkpoint-page-count: 10
    truncate-page-n: -1
    max-sync-wal-bytes: 0
    spool-max-size: 1GiB
    restore-if-db-not-exists: true
    replicas:
      - {path: ~/r1}
      - {url: 'file:///r%202', sync-interval: 1m, ltx-encoding: block, max-upload-rate: 5MB}
      - {type: file, name: third, path: r3, max-upload-rate: 0, create-only: false}
  - path: b.db
    replica:
      path: r
      sync-interval: 2s
",
    );
    assert_eq!(config.global.shutdown_sync_timeout, secs(5));
    assert_eq!(config.global.shutdown_sync_interval, Duration::from_millis(100));
    assert!(config.global.strict_start);
    assert_eq!(config.global.exec.as_deref(), Some("app -x"));
    let logging = Logging { level: LogLevel::Warn, format: LogFormat::Json, stderr: true, source: true };
    assert_eq!(config.logging, logging);

    let databases = config.runnable().unwrap();
    let a = &databases[0];
    assert_eq!(
        (a.path.as_path(), a.meta_path.as_deref()),
        (Path::new("/data/a.db"), Some(Path::new("/home/ann/state")))
    );
    assert_eq!((a.monitor_interval, a.checkpoint_interval), (Duration::from_millis(500), None));
    assert_eq!((a.busy_timeout, a.min_checkpoint_page_count), (secs(5), 10));
    assert_eq!((a.truncate, a.max_sync_wal_bytes), (Truncate::Never, None));
    assert_eq!((a.spool_max_bytes, a.restore_if_db_not_exists), (Some(1 << 30), true));

    let shown: Vec<_> = a.replicas.iter().map(|r| (r.name.as_str(), r.sync_interval, r.ltx_encoding)).collect();
    let expected = [
        ("file", secs(10), LtxEncoding::Frame),
        ("file-2", secs(60), LtxEncoding::Block),
        ("third", secs(10), LtxEncoding::Frame),
    ];
    assert_eq!(shown, expected);
    let rates: Vec<_> = a.replicas.iter().map(|r| r.max_upload_rate.map_or(0, NonZeroU64::get)).collect();
    assert_eq!(rates, [1 << 20, 5_000_000, 0]);
    assert_eq!(a.replicas.iter().map(|replica| replica.create_only).collect::<Vec<_>>(), [true, true, false]);
    let places: Vec<_> = a.replicas.iter().map(|replica| replica.backend.clone()).collect();
    let file = |dirs: &[&str]| Backend::File { directories: dirs.iter().map(PathBuf::from).collect() };
    assert_eq!(places, [file(&["/home/ann/r1"]), file(&["/r%202", "/r 2"]), file(&["/srv/r3"])]);

    assert_eq!(databases[1].path, Path::new("/srv/b.db"));
    assert_eq!(databases[1].replicas[0].sync_interval, secs(2));
}

#[test]
fn a_config_of_litestream_0_3_loads() {
    let config = parsed(
        "
access-key-id: AKIA
secret-access-key: secret
addr: \":9090\"
dbs:
  - path: /data/app.db
    max-checkpoint-page-count: 20000
    replicas:
      - name: local
        path: /backup/app
        retention: 72h
        retention-check-interval: 1h
        snapshot-interval: 6h
        validation-interval: 6h
      - type: gcs
        bucket: b
        path: p
",
    );
    let databases = config.databases().unwrap();
    let names: Vec<_> = databases[0].replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["local", "gs"]);
    let snapshots = Snapshots { interval: secs(6 * 3600), retention: secs(72 * 3600) };
    assert_eq!(databases[0].replicas[0].snapshots, snapshots);
    assert_eq!(
        config.runnable().unwrap_err().to_string(),
        "replica type \"gs\" is not available in this build: use type \"file\" or \"s3\""
    );
    let idle: Vec<_> = config.warnings.iter().map(|warning| (warning.line, warning.kind)).collect();
    let lines = [7, 14].map(|line| (line, WarningKind::NoEffect));
    assert_eq!(idle, lines, "{:#?}", config.warnings);
}

#[test]
fn snapshot_settings_of_the_database_beat_global_beat_old_ones() {
    let replica = "replica: {path: r, retention: 3h, snapshot-interval: 3h}";
    let snapshots = |text: String| parsed(&text).databases().unwrap()[0].replicas[0].snapshots;
    let hours = |interval: u64, retention: u64| Snapshots {
        interval: secs(interval * 3600),
        retention: secs(retention * 3600),
    };
    assert_eq!(snapshots(format!("dbs: [{{path: a, {replica}}}]")), hours(3, 3));
    assert_eq!(snapshots(format!("snapshot: {{interval: 2h}}\ndbs: [{{path: a, {replica}}}]")), hours(2, 3));
    let own = format!("snapshot: {{interval: 2h}}\ndbs: [{{path: a, snapshot: {{interval: 1h}}, {replica}}}]");
    assert_eq!(snapshots(own), hours(1, 3));
    assert_eq!(snapshots("dbs: [{path: a, replica: {path: r, snapshot-interval: 0}}]".into()), hours(24, 24));
}

#[test]
fn age_keys_are_for_reading_only() {
    for (keys, identities) in [("identities: [a, b]", vec!["a", "b"]), ("recipients: [c]", vec![])] {
        let text = format!("dbs: [{{path: x, replica: {{path: b, age: {{{keys}}}}}}}]");
        let config = Config::parse(&text, &environment()).unwrap();
        let replica = &config.databases().unwrap()[0].replicas[0];
        let found: Vec<&str> = replica.age.identities.iter().map(Secret::reveal).collect();
        assert_eq!(found, identities);
        assert_eq!(
            config.runnable().unwrap_err().to_string(),
            "age encryption is not currently supported: remove the \"age\" section, or stay on Litestream v0.3.x"
        );
        assert!(!format!("{config:?}").contains("\"a\""), "keys are secrets");
    }
    let both =
        "age: {identities: [g]}\ndbs: [{path: x, replicas: [{path: b}, {name: c, path: c, age: {identities: [i]}}]}]";
    let config = Config::parse(both, &environment()).unwrap();
    let identities = config.databases().unwrap()[0].replicas.iter().map(|r| r.age.identities[0].reveal().to_owned());
    assert_eq!(identities.collect::<Vec<_>>(), ["g", "i"]);
}
