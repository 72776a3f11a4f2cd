//! What is refused says so in the words that people know from Litestream, and
//! what Litestream accepted is accepted.

use super::{parse, parsed};

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

/// What `databases` would say: the error of parsing, or of the first database.
#[track_caller]
fn refused(text: &str) -> String {
    match parse(text) {
        Err(error) => error.to_string(),
        Ok(config) => config.databases().expect_err(text).to_string(),
    }
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
