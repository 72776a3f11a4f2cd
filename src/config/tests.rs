//! Whole configs: what they mean and how they are refused.

use super::*;
use crate::types::Secret;
use std::num::NonZeroU64;
use std::time::Duration;

fn environment() -> Environment {
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
fn parsed(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What `databases` would say: the error of parsing, or of the first database.
#[track_caller]
fn refused(text: &str) -> String {
    match parse(text) {
        Err(error) => error.to_string(),
        Ok(config) => config.databases().expect_err(text).to_string(),
    }
}

fn secs(n: u64) -> Duration {
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
fn what_is_asked_of_upkeep_arrives() {
    let config = parsed(
        "
levels: [{interval: 10s}, {interval: 1m}]
snapshot: {interval: 48h, at: \"03:30\", jitter: 20m}
retention: {enabled: false, grace: 2h}
l0-retention: 0
l0-retention-check-interval: 20s
validation: {interval: 6h}
verify-compaction: true
keep: {daily: 7, monthly: 3}
max-sync-ltx-files: 50
dbs:
  - path: a
    audit-interval: 1h
    replicas:
      - path: b
        name: one
      - path: c
        name: two
        retention-check-interval: 1m
        max-sync-ltx-files: 0
        keep: {last: 2, hourly: 1, weekly: 5, yearly: 9}
  - path: d
    replica: {path: e}
",
    );
    assert_eq!(config.warnings, []);
    let databases = config.databases().unwrap();
    let expected = Upkeep {
        levels: vec![secs(10), secs(60)],
        snapshot_at: Some((secs(12_600), secs(1200))),
        retention_enabled: false,
        l0_retention: None,
        check_interval: secs(20),
        grace: secs(7200),
        keep: Keep { daily: 7, monthly: 3, ..Keep::default() },
        verify: true,
        audit_interval: secs(3600),
        max_segments: 50,
    };
    assert_eq!(databases[0].replicas[0].upkeep, expected);
    let own = Upkeep {
        check_interval: secs(60),
        keep: Keep { last: 2, hourly: 1, weekly: 5, yearly: 9, ..Keep::default() },
        max_segments: 0,
        ..expected
    };
    assert_eq!(databases[0].replicas[1].upkeep, own);
    assert_eq!(databases[1].replicas[0].upkeep.audit_interval, secs(6 * 3600));
    let none = parsed("levels: []\ndbs: [{path: a, replica: {path: b}}]");
    // Litestream uploads them one by one and stops after 256; here they become one object.
    assert_eq!(none.databases().unwrap()[0].replicas[0].upkeep.max_segments, 0);
    assert!(none.databases().unwrap()[0].replicas[0].upkeep.levels.is_empty());
}

#[test]
fn upkeep_settings_that_make_no_sense_are_refused() {
    for (text, expected) in [
        ("snapshot: {at: 3am}", "snapshot.at"),
        ("snapshot: {jitter: 5m}", "snapshot.jitter"),
        ("snapshot: {at: \"03:00\", jitter: 24h}", "snapshot.jitter"),
        ("snapshot: {at: \"03:00\", interval: 6h}", "snapshot.interval"),
        ("retention: {grace: -1s}", "retention.grace"),
        ("audit-interval: 0s", "audit-interval"),
        ("keep: {daily: -1}", "keep.daily"),
        ("max-sync-ltx-files: -1", "max-sync-ltx-files"),
    ] {
        let config = parsed(&format!("{text}\ndbs: [{{path: a, replica: {{path: b}}}}]"));
        let error = config.databases().unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
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
fn mistakes_are_refused_with_the_words_people_know() {
    let cases = [
        ("dbs: [{path: x}]", "must specify replica for database"),
        ("dbs: [{path: x, replicas: []}]", "must specify replica for database"),
        ("dbs: [{path: x, replica: }]", "must specify replica for database"),
        ("dbs: [{path: x, replica: []}]", "must specify replica for database"),
        (
            "dbs: [{path: x, replica: {path: y}, replicas: [{path: z}]}]",
            "cannot specify 'replica' and 'replicas' on a database",
        ),
        (
            "dbs: [{path: x, replica: [{path: y}, {path: z}]}]",
            "'replica' takes one replica: please use 'replicas' for several",
        ),
        ("dbs: [{path: x, replica: {type: foo, path: z}}]", "unknown replica type in config: \"foo\""),
        ("dbs: [{path: x, replica: {url: 'foo://z'}}]", "unknown replica type in config: \"foo\""),
        (
            "dbs: [{path: x, replica: {path: 's3://foo/z'}}]",
            "replica path cannot be a url, please use the 'url' field instead: s3://foo/z",
        ),
        ("dbs: [{path: x, replica: {url: 'file:///a', path: b}}]", "cannot specify url & path for file replica"),
        ("dbs: [{path: x, replica: {type: file}}]", "file replica path required"),
        ("dbs: [{path: x, replica: {url: 'file://'}}]", "file replica path required"),
        ("dbs: [{path: x, replica: {type: s3, path: b}}]", "bucket required for s3 replica"),
        ("dbs: [{path: x, replica: {url: 's3:///h'}}]", "bucket required for s3 replica"),
        ("dbs: [{path: x, replica: {url: 's3://b/c', bucket: d}}]", "cannot specify url & bucket for s3 replica"),
        ("dbs: [{path: x, replica: {url: 's3://b/c', path: d}}]", "cannot specify url & path for s3 replica"),
        ("dbs: [{path: x, replica: {url: b/c}}]", "replica url scheme required: b/c"),
        ("dbs: [{path: x, replica: {type: gcs}}]", "bucket required for gs replica"),
        ("dbs: [{path: x, replica: {url: 'sftp://u@h/c', host: d}}]", "cannot specify url & host for sftp replica"),
        ("dbs: [{path: x, replica: {type: sftp, user: u}}]", "host required for sftp replica"),
        ("dbs: [{path: x, replica: {url: 'sftp://h/c'}}]", "user required for sftp replica"),
        (
            "dbs: [{path: x, replica: {url: 'webdav://h/c', webdav-url: d}}]",
            "cannot specify url & webdav-url for webdav replica",
        ),
        ("dbs: [{path: x, replica: {type: webdav}}]", "webdav-url required for webdav replica"),
        ("dbs: [{path: x, replica: {url: 'nats://h/'}}]", "bucket required for NATS replica"),
        (
            "dbs: [{path: x, replica: {type: nats, bucket: b, client-cert: c}}]",
            "client-cert and client-key must both be specified for mutual TLS authentication",
        ),
        ("dbs: [{path: x, replicas: [{name: a, path: b}, {name: a, path: c}]}]", "duplicate replica name: \"a\""),
        (
            "dbs: [{path: x, replica: {path: b}}, {path: /srv/./x, replica: {path: c}}]",
            "database configured twice: /srv/x: give each path one entry",
        ),
        (
            "dbs: [{path: x, replica: {path: b, sync-interval: 0s}}]",
            "dbs[/srv/x].replica.sync-interval: sync interval must be greater than 0 (got 0s)",
        ),
        (
            "dbs: [{path: x, replicas: [{path: b, sync-interval: -1s}]}]",
            "dbs[/srv/x].replicas[0].sync-interval: sync interval must be greater than 0 (got -1s)",
        ),
        ("sync-interval: 0", "sync-interval: sync interval must be greater than 0 (got 0s)"),
        (
            "dbs: [{path: x, min-checkpoint-page-count: 0, replica: {path: b}}]",
            "dbs[/srv/x].min-checkpoint-page-count: minimum checkpoint page count required, \
             and below 4294967296 (got 0)",
        ),
        (
            "dbs: [{path: x, monitor-interval: 0s, replica: {path: b}}]",
            "dbs[/srv/x].monitor-interval: monitor interval must be greater than 0 (got 0s)",
        ),
        (
            "dbs: [{path: x, ltx-encoding: zip, replica: {path: b, ltx-encoding: zip}}]",
            "ltx-encoding: must be block or frame (got zip)",
        ),
        (
            "dbs: [{path: x, spool-max-size: 5XB, replica: {path: b}}]",
            "yaml: unmarshal errors:\n  line 1: cannot unmarshal !!str `5XB` into size (key \"dbs[0].spool-max-size\")",
        ),
        ("dbs: [{replica: {path: b}}]", "database config #1: must specify either 'path' or 'dir'"),
        ("dbs: [null]", "database config #1: must specify either 'path' or 'dir'"),
        ("dbs: [{path: a, dir: b, replica: {path: b}}]", "database config #1: cannot specify both 'path' and 'dir'"),
        ("dbs: [{dir: b, replica: {path: b}}]", "database config #1: 'pattern' is required when using 'dir'"),
        (
            "dbs: [{path: b, watch: true, replica: {path: b}}]",
            "database config #1: 'watch' can only be enabled with a directory",
        ),
        (
            "dbs: [{path: b, meta-dir: c, replica: {path: b}}]",
            "database config #1: 'meta-dir' can only be used with a directory",
        ),
        (
            "dbs: [{dir: b, pattern: x, meta-dir: c, meta-path: d, replica: {path: b}}]",
            "database config #1: cannot specify both 'meta-path' and 'meta-dir'",
        ),
        ("snapshot: {interval: 0s}", "snapshot.interval: snapshot interval must be greater than 0 (got 0s)"),
        ("snapshot: {retention: -1h}", "snapshot.retention: snapshot retention must be greater than 0 (got -1h0m0s)"),
        (
            "dbs: [{path: b, snapshot: {interval: 0s}, replica: {path: b}}]",
            "dbs[/srv/b].snapshot.interval: snapshot interval must be greater than 0 (got 0s)",
        ),
        ("l0-retention: -1s", "l0-retention: l0 retention must not be negative (got -1s)"),
        (
            "l0-retention-check-interval: 0s",
            "l0-retention-check-interval: l0 retention check interval must be greater than 0 (got 0s)",
        ),
        ("shutdown-sync-timeout: -1s", "shutdown-sync-timeout: shutdown-sync-timeout must be >= 0 (got -1s)"),
        (
            "shutdown-sync-interval: 0s",
            "shutdown-sync-interval: shutdown sync interval must be greater than 0 (got 0s)",
        ),
        ("heartbeat-url: ftp://x", "heartbeat-url: heartbeat URL must be a valid HTTP or HTTPS URL (got ftp://x)"),
        ("heartbeat-interval: 5s", "heartbeat-interval: heartbeat interval must be at least 1 minute (got 5s)"),
        ("levels: [{interval: 0s}]", "levels[0].interval: compaction interval must be greater than 0 (got 0s)"),
        ("logging: {type: xml}", "logging.type: must be text, json or pretty (got xml)"),
        (
            "retention: 24h\naddr: [x]",
            "yaml: unmarshal errors:\n  line 1: cannot unmarshal !!str `24h` into map (key \"retention\")\n  \
             line 2: cannot unmarshal !!seq into string (key \"addr\")",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(text), expected, "{text}");
    }
    assert!(refused("a: [1\n").starts_with("yaml: "));
    let nine = format!("levels: [{}]", ["{interval: 1s}"; 9].join(", "));
    assert_eq!(refused(&nine), "levels: at most 8 compaction levels are possible (got 9)");
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

#[test]
fn old_spellings_are_accepted() {
    let cases = [
        "dbs: [{path: x, replica: [{path: y}]}]",
        "dbs: [{path: 'sqlite3:///data/x', replica: {path: y}}]",
        "dbs: [{path: x, replica: {path: y, age: {identities: []}}}]",
        "dbs: [{path: x, replicas: [], replica: {path: b}}]",
        "l0-retention: 0\ndbs: [{path: x, truncate-page-n: 0, replica: {path: y}}]",
        "bucket: shared\nhost: h\ndbs: [{path: x, replica: {url: 's3://b/c'}}]",
        "bucket: shared\ndbs: [{path: x, replica: {type: gcs, path: c}}]",
        "host: h\nuser: u\ndbs: [{path: x, replica: {type: sftp, path: c}}]",
    ];
    for text in cases {
        assert_eq!(parsed(text).databases().unwrap().len(), 1, "{text}");
    }
}

#[test]
fn one_broken_database_does_not_hide_another() {
    let config = parsed("dbs: [{path: /a, replica: {type: foo}}, {path: /b, replica: {path: r}}]");
    let find = |path: &str| config.database(Path::new(path), &environment()).map(|database| database.path.clone());
    assert_eq!(find("/b").unwrap(), Path::new("/b"));
    assert_eq!(find("/a").unwrap_err().to_string(), "unknown replica type in config: \"foo\"");
    assert_eq!(find("/c").unwrap_err().to_string(), "database not found in config: /c");
    assert!(config.databases().is_err());
}

#[test]
fn databases_are_found_by_any_spelling_of_their_path() {
    let config = parsed("dbs: [{path: ~/a.db, replica: {path: r}}, {path: b.db, replica: {path: r2}}]");
    for path in ["~/a.db", "/home/ann/a.db", "/home/ann/../ann/a.db", "b.db", "./b.db", "/srv/b.db"] {
        assert!(config.database(Path::new(path), &environment()).is_ok(), "{path}");
    }
}

#[test]
fn what_is_not_built_is_refused_when_it_is_run() {
    let dir = parsed("dbs: [{dir: ~/dbs, pattern: '*.db', watch: true, replica: {path: r}}]");
    assert_eq!(dir.directories()[0].dir, PathBuf::from("/home/ann/dbs"));
    assert!(dir.directories()[0].watch && !dir.directories()[0].recursive);
    assert!(dir.runnable().unwrap().is_empty());
    let one = dir.database(Path::new("~/dbs/a.db"), &environment()).unwrap();
    assert_eq!(one.replicas[0].backend, Backend::File { directories: vec!["/srv/r/a.db".into()] });
    assert!(dir.database(Path::new("~/dbs/a.sqlite"), &environment()).is_err());
}

#[test]
fn a_database_can_be_given_on_the_command_line() {
    let urls = ["file:///r1".to_owned(), "file:///r2".to_owned(), "s3://b".to_owned()];
    let config = Config::direct(Path::new("a.db"), &urls, &environment()).unwrap();
    let database = &config.databases().unwrap()[0];
    assert_eq!(database.path, Path::new("/srv/a.db"));
    let names: Vec<_> = database.replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["file", "file-2", "s3"]);
    let wrong = |url: &str| Config::direct(Path::new("a"), &[url.to_owned()], &environment()).unwrap_err().to_string();
    assert_eq!(wrong("s3"), "replica url scheme required: s3");
    assert_eq!(wrong("sqlite:///x.db"), "unknown replica type in config: \"sqlite\"");
}

#[test]
fn names_given_by_hand_are_kept() {
    let config =
        parsed("dbs: [{path: x, replicas: [{path: a}, {path: b, name: file}, {path: c}, {path: d, name: file-3}]}]");
    let names: Vec<_> = config.databases().unwrap()[0].replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["file-2", "file", "file-4", "file-3"]);
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

/// The example with every setting that is commented out put to use. Prose has a
/// space behind the `#`, settings have none.
fn example_in_use(text: &str) -> String {
    let uncommented = text.lines().map(|line| {
        let content = line.trim_start();
        let indent = &line[..line.len() - content.len()];
        match content.strip_prefix('#') {
            Some(prose) if prose.is_empty() || prose.starts_with(' ') => "\n".to_owned(),
            Some(setting) => format!("{indent}{setting}\n"),
            None => format!("{line}\n"),
        }
    });
    uncommented.collect()
}

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/litestream.yml.example"));
const REFERENCE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md"));

#[test]
fn the_example_runs_as_it_is() {
    let config = Config::parse(&environment().expand(EXAMPLE), &environment()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.runnable().unwrap().len(), 1);
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    fn collect(node: &yaml::Node, place: Place, seen: &mut Vec<(Place, String)>) {
        use keys::Kind::{Map, MapOrMaps, Maps};
        use yaml::Value;
        let entries = match &node.value {
            Value::List(items) => return items.iter().for_each(|item| collect(item, place, seen)),
            Value::Map(entries) => entries,
            _ => return,
        };
        for entry in entries {
            let key = keys::keys_in(place).find(|key| key.name == entry.key).unwrap_or_else(|| panic!("{}", entry.key));
            seen.push((key.place, entry.key.clone()));
            if let Map(inner) | Maps(inner) | MapOrMaps(inner) = key.kind {
                collect(&entry.node, inner, seen);
            }
        }
    }
    let text = example_in_use(EXAMPLE);
    let root = yaml::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let found = check::check(&root);
    assert_eq!(found.problems, [""; 0], "{text}");
    let odd: Vec<_> = found.warnings.iter().filter(|warning| warning.kind != WarningKind::NoEffect).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let mut seen = Vec::new();
    collect(&root, Place::Top, &mut seen);
    for key in KEYS {
        assert!(seen.contains(&(key.place, key.name.to_owned())), "{:?} {} is missing", key.place, key.name);
    }
}

#[test]
fn the_reference_tells_every_key_and_what_comes_of_it() {
    let titles = [
        ("Top level", Place::Top),
        ("drill", Place::Drill),
        ("logging", Place::Logging),
        ("snapshot", Place::Snapshot),
        ("retention", Place::Retention),
        ("validation", Place::Validation),
        ("levels[]", Place::Level),
        ("socket", Place::Socket),
        ("dbs[]", Place::Database),
        ("dbs[].replica, dbs[].replicas[]", Place::Replica),
        ("Replica defaults", Place::Shared),
        ("keep", Place::Keep),
        ("age", Place::Age),
        ("webhook", Place::Webhook),
    ];
    let mut told = Vec::new();
    let mut place = None;
    for line in REFERENCE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            place = titles.iter().find(|(name, _)| *name == title).map(|(_, place)| *place);
        }
        if let (Some(place), Some(row)) = (place, line.strip_prefix("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            told.push((place, cells[0].trim_end_matches('`').to_owned(), cells[3].to_owned()));
        }
    }
    let works = |effect| match effect {
        Effect::Now => "yes",
        Effect::Always => "always",
        Effect::Later => "not yet",
        Effect::Refused(_) => "refused",
        Effect::Gone(_) => "never",
    };
    let known: Vec<_> = KEYS.iter().map(|key| (key.place, key.name.to_owned(), works(key.effect).to_owned())).collect();
    for row in &known {
        assert!(told.contains(row), "docs/config.md lacks {row:?}");
    }
    assert_eq!(told.len(), known.len(), "docs/config.md has rows for keys that do not exist");
}

#[test]
fn drills_are_asked_for_and_inherit() {
    let text = "drill: {interval: 6h, mode: full, budget: 1GB, check: [SELECT 1]}\n\
                dbs: [{path: a, replica: {path: b}}, {path: c, drill: {interval: 1h, check: [], on-failure: base}, \
                replica: {path: d}}, {path: e, drill: {interval: 0s}, replica: {path: f}}]";
    let config = Config::parse(text, &environment()).unwrap();
    let drills: Vec<Option<Drill>> = config.databases().unwrap().iter().map(|db| db.drill.clone()).collect();
    let global = Drill {
        interval: Duration::from_secs(6 * 3600),
        full: true,
        budget: Some(1_000_000_000),
        checks: vec!["SELECT 1".to_owned()],
        base_on_failure: false,
    };
    let own =
        Drill { interval: Duration::from_secs(3600), checks: Vec::new(), base_on_failure: true, ..global.clone() };
    assert_eq!(drills, [Some(global), Some(own), None]);
    let config = Config::parse("dbs: [{path: a, replica: {path: b}}]", &environment()).unwrap();
    assert_eq!(config.databases().unwrap()[0].drill, None);
    for (drill, reason) in [
        ("{mode: half}", "must be stream or full"),
        ("{on-failure: panic}", "must be report or base"),
        ("{check: [SELECT 1]}", "set mode to full"),
        ("{interval: -1s}", "must not be negative"),
        ("{budget: 0}", "must be greater than 0"),
    ] {
        let config =
            Config::parse(&format!("dbs: [{{path: a, drill: {drill}, replica: {{path: b}}}}]"), &environment());
        let error = config.unwrap().databases().unwrap_err().to_string();
        assert!(error.contains(reason), "{drill}: {error}");
    }
}

#[test]
fn what_is_asked_of_monitoring_arrives() {
    let of = |text: &str| Config::parse(text, &environment()).map(|config| config.global.monitoring);
    assert_eq!(of("dbs: []").unwrap(), Monitoring::default());
    let all = of("addr: ':9090'\naddr-token: abc\nmetrics-per-database: never\nhealth-objective: 10s\n\
                  heartbeat-url: https://a/b\nwebhook: {url: http://c, headers: {X-A: b}, body: '{{status}}'}\n")
    .unwrap();
    assert_eq!(all.address, Some(Address { host: None, port: 9090 }));
    assert_eq!(all.token, Some(Token::Text(Secret::new("abc"))));
    assert_eq!((all.per_database, all.objective), (PerDatabase::Never, Some(secs(10))));
    let heartbeat = all.heartbeat.unwrap();
    assert_eq!((heartbeat.url.reveal(), heartbeat.interval), ("https://a/b", secs(300)));
    let webhook = all.webhook.unwrap();
    assert_eq!((webhook.headers[0].0.as_str(), webhook.headers[0].1.reveal()), ("X-A", "b"));
    for (text, reason) in [
        ("addr: localhost", "must hold a port"),
        ("addr-token: a\naddr-token-file: b", "must not stand beside"),
        ("metrics-per-database: some", "must be auto, always or never"),
        ("health-objective: 0s", "must be greater than 0"),
        ("heartbeat-url: ftp://a", "must be a valid HTTP or HTTPS URL"),
        ("heartbeat-interval: 30s", "must be at least 1 minute"),
        ("webhook: {body: x}", "has no url"),
        ("webhook: {url: a.example}", "must be a valid HTTP or HTTPS URL"),
        ("webhook: {url: http://a, headers: {'a b': c}}", "must be names and values of HTTP headers"),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
