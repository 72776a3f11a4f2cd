//! The command that brings a database back.

use clap::Command;

use super::arguments::{command, config_flags, one_replica, parser, path, switch, text, value};
use crate::cli::values;

pub(super) fn restore() -> Command {
    command("restore", "recovers database backup from a replica")
        .long_about("The restore command recovers a database from its replica.")
        .args(config_flags())
        .arg(value(
            "txid",
            "TXID",
            "Restore up to a specific hex-encoded transaction ID (inclusive).\n\
             Defaults to use the highest available transaction.",
            parser(values::txid),
        ))
        .arg(value(
            "timestamp",
            "TIMESTAMP",
            "Restore to a specific point-in-time (inclusive): RFC 3339, a local time with\n\
             its zone (2020-01-01 00:00 Europe/Berlin), or a time ago (10m ago).\n\
             Defaults to use the latest available backup.",
            text(),
        ))
        .arg(value(
            "o",
            "PATH",
            "Output path of the restored database; - is standard output.\n\
             Defaults to original DB path. With -all, a directory.",
            path(),
        ))
        .arg(switch(
            "all",
            "Restore every database of the configuration file, or every one that is found\n\
             below a URL. One that fails keeps no other from being restored; then the exit\n\
             code is 1.",
        ))
        .arg(switch("if-db-not-exists", "Returns exit code of 0 if the database already exists."))
        .arg(switch("if-replica-exists", "Returns exit code of 0 if no backups found."))
        .arg(switch("dry-run", "Print the restore plan and exit without writing a database."))
        .arg(switch("force", "Overwrite an existing output database and SQLite sidecar files."))
        .arg(switch(
            "delta",
            "Build upon the database that is at the output: fetch only what changed since.\n\
             Fetches everything if the replica does not know that database.",
        ))
        .arg(switch("json", "Output raw JSON summary on successful restore."))
        .arg(one_replica("Restore from a specific replica.\nDefaults to the replica with the latest data."))
        .arg(value(
            "parallelism",
            "NUM",
            "How many requests to the replica may be under way at once.\nDefaults to 8, at most 64",
            parser(values::parallelism),
        ))
        .arg(value(
            "integrity-check",
            "MODE",
            "Run a post-restore integrity check on the database.\n\
             MODE is one of: none, quick, full.\nDefaults to none.",
            text(),
        ))
        .arg(switch(
            "f",
            "Follow mode: keep the restored database up to date until stopped.\n\
             Readers must open it read-only.",
        ))
        .arg(value(
            "follow-interval",
            "DURATION",
            "Polling interval for follow mode.\nDefaults to 1s.",
            parser(values::duration),
        ))
        .arg(value("generation", "NAME", "Restore from a specific generation of a Litestream 0.3 backup.", text()))
        .arg(value(
            "index",
            "NUM",
            "Restore up to a specific hex-encoded WAL index of a Litestream 0.3 backup\n\
             (inclusive). The snapshots and wal commands print indexes in decimal.",
            parser(values::index),
        ))
        .arg(switch("v", "Verbose output."))
        .override_usage("[arguments] DB_PATH\n[arguments] -o PATH REPLICA_URL\n[arguments] -all [-o DIR]\n[arguments] -all -o DIR URL")
        .after_help(
            "# Restore latest replica for database to original location.\n\
             $ PROGRAM restore /path/to/db\n\n\
             # Restore replica for database to a given point in time.\n\
             $ PROGRAM restore -timestamp 2020-01-01T00:00:00Z /path/to/db\n\n\
             # Restore latest replica for database to new /tmp directory\n\
             $ PROGRAM restore -o /tmp/db /path/to/db\n\n\
             # Restore database from S3 replica URL.\n\
             $ PROGRAM restore -o /tmp/db s3://mybucket/db\n\n\
             # Preview restore plan without writing a database.\n\
             $ PROGRAM restore -dry-run -o /tmp/db s3://mybucket/db",
        )
}
