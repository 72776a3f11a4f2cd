//! Every metric there is: name, kind, labels, meaning. The one table; what is
//! shown, docs/metrics.md, the dashboard and the alert rules are held against it.
//! Pure.

use Kind::{Counter, Gauge, Histogram};
use Merge::{Max, Min, Skip, Sum};

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were how large.
    Histogram,
}

/// What many databases together show, where they are shown as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The sum.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Nothing.
    Skip,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What many databases together show.
    pub merge: Merge,
    /// What it means.
    pub help: &'static str,
}

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    merge: Merge,
    help: &'static str,
) -> Family {
    Family { name, kind, labels, merge, help }
}

const ONE: &[&str] = &[];
const DB: &[&str] = &["db"];
const MODE: &[&str] = &["db", "mode"];
const REPLICA: &[&str] = &["db", "replica"];
const REQUEST: &[&str] = &["db", "replica", "operation"];
const TYPE: &[&str] = &["replica_type", "operation"];

/// Every metric, in the order in which they are shown.
pub const FAMILIES: &[Family] = &[
    // Litestream's own names.
    family("litestream_db_size", Gauge, DB, Sum, "Bytes of the database file."),
    family("litestream_wal_size", Gauge, DB, Sum, "Bytes of the write-ahead log's file."),
    family("litestream_total_wal_bytes", Counter, DB, Sum, "Bytes of the log that were captured."),
    family("litestream_txid", Gauge, DB, Skip, "The newest TXID that any replica of the database has."),
    family("litestream_sync_count", Counter, DB, Sum, "Captures of new commits."),
    family("litestream_sync_error_count", Counter, DB, Sum, "Captures that failed."),
    family("litestream_sync_seconds", Counter, DB, Sum, "Time spent capturing."),
    family("litestream_checkpoint_count", Counter, MODE, Sum, "Checkpoints that were tried."),
    family("litestream_checkpoint_error_count", Counter, MODE, Sum, "Checkpoints that failed."),
    family("litestream_checkpoint_seconds", Counter, MODE, Sum, "Time spent on checkpoints."),
    family("litestream_disk_full", Gauge, DB, Sum, "1 while capture waits because this machine's disk is full."),
    family(
        "litestream_l0_retention_files_total",
        Gauge,
        &["db", "status"],
        Sum,
        "Segments at level 0: eligible to be deleted, not compacted yet, or too recent. db is the file's name alone.",
    ),
    family("litestream_replica_operation_total", Counter, TYPE, Sum, "Requests to storages."),
    family("litestream_replica_operation_bytes", Counter, TYPE, Sum, "Bytes sent to and received from storages."),
    family(
        "litestream_replica_operation_errors_total",
        Counter,
        &["replica_type", "operation", "code"],
        Sum,
        "Requests that failed: missing, exists, later (may succeed when repeated), refused, abandoned.",
    ),
    family(
        "litestream_replica_operation_duration_seconds",
        Histogram,
        TYPE,
        Sum,
        "How long requests took, each attempt by itself.",
    ),
    // Health.
    family("brooklet_health", Gauge, ONE, Max, "The worst of everything: 0 ok, 1 degraded, 2 failed."),
    family("brooklet_database_health", Gauge, DB, Skip, "0 ok, 1 degraded, 2 failed."),
    family("brooklet_replica_health", Gauge, REPLICA, Max, "0 ok, 1 degraded, 2 failed."),
    family("brooklet_databases", Gauge, &["health"], Sum, "Databases by health: ok, degraded or failed."),
    family(
        "brooklet_lag_seconds",
        Gauge,
        REPLICA,
        Max,
        "How long the oldest commit waits that the replica lacks; 0 if it has all.",
    ),
    family("brooklet_lag_bytes", Gauge, REPLICA, Sum, "Bytes of local segments that the replica lacks."),
    family(
        "brooklet_uncaptured_seconds",
        Gauge,
        DB,
        Max,
        "How long the oldest commit waits that is seen in the log and not captured; 0 if all are.",
    ),
    family("brooklet_confirmed_txid", Gauge, REPLICA, Skip, "The newest TXID that the replica has confirmed."),
    family(
        "brooklet_confirmed_timestamp_seconds",
        Gauge,
        REPLICA,
        Skip,
        "The time of the newest commit that the replica has confirmed.",
    ),
    family(
        "brooklet_last_success_timestamp_seconds",
        Gauge,
        REPLICA,
        Skip,
        "When the replica last was seen to have more than before. Doing nothing is no success.",
    ),
    family(
        "brooklet_last_proof_timestamp_seconds",
        Gauge,
        REPLICA,
        Min,
        "When a rehearsed restore last succeeded; absent before the first.",
    ),
    family("brooklet_drill_failed", Gauge, REPLICA, Sum, "1 if the last rehearsed restore failed."),
    family("brooklet_drills_total", Counter, &["db", "replica", "result"], Sum, "Rehearsed restores: ok or failed."),
    family("brooklet_guard_held", Gauge, DB, Sum, "1 while the log cannot restart unseen."),
    family("brooklet_fenced", Gauge, REPLICA, Sum, "1 if another writer has taken the replica over."),
    family("brooklet_upkeep_failed", Gauge, REPLICA, Sum, "1 while merging or deleting segments fails."),
    // Work.
    family("brooklet_spool_bytes", Gauge, DB, Sum, "Bytes of local segments that some replica lacks."),
    family("brooklet_spool_budget_bytes", Gauge, DB, Sum, "The most bytes that local segments may have."),
    family("brooklet_spool_dropped_total", Counter, DB, Sum, "Local segments given up to keep that budget."),
    family("brooklet_resyncs_total", Counter, DB, Sum, "Continuations by comparison, for want of proof."),
    family("brooklet_seals_total", Counter, DB, Sum, "Complete checkpoints, with everything captured."),
    family(
        "brooklet_writer_lock_seconds",
        Histogram,
        DB,
        Sum,
        "How long the application's writers were kept waiting by a checkpoint.",
    ),
    family("brooklet_replica_objects", Gauge, REPLICA, Sum, "Segments on the replica."),
    family("brooklet_replica_bytes", Gauge, REPLICA, Sum, "Their bytes."),
    family(
        "brooklet_requests_total",
        Counter,
        REQUEST,
        Sum,
        "Requests to the replica's storage, each attempt by itself.",
    ),
    family("brooklet_request_errors_total", Counter, REQUEST, Sum, "Those that failed."),
    family("brooklet_request_seconds_total", Counter, REQUEST, Sum, "Time that they took."),
    family("brooklet_request_bytes_total", Counter, REQUEST, Sum, "Bytes that they moved."),
    family("brooklet_restores_total", Counter, &["result"], Sum, "Restores before replication began: ok or failed."),
    family("brooklet_restore_seconds_total", Counter, ONE, Sum, "Time that they took."),
    family("brooklet_heartbeats_total", Counter, &["result"], Sum, "Heartbeats: ok or failed."),
    family("brooklet_webhooks_total", Counter, &["result"], Sum, "Calls of the webhook: ok or failed."),
    family("brooklet_info", Gauge, &["version", "sqlite"], Max, "1, with the versions."),
    // As every program has them.
    family("process_cpu_seconds_total", Counter, ONE, Max, "Processor time of this process."),
    family("process_resident_memory_bytes", Gauge, ONE, Max, "Memory of this process."),
    family("process_open_fds", Gauge, ONE, Max, "Open files of this process."),
    family("process_start_time_seconds", Gauge, ONE, Max, "When this process began."),
];

/// The metric of that name.
pub(super) fn find(name: &str) -> &'static Family {
    FAMILIES.iter().find(|family| family.name == name).expect("what is shown stands in the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_kind_of_number_it_is() {
        for (at, family) in FAMILIES.iter().enumerate() {
            let Family { name, kind, help, .. } = family;
            assert!(!FAMILIES[..at].iter().any(|other| other.name == *name), "{name} twice");
            assert!(help.ends_with('.'), "{name}");
            if name.starts_with("brooklet_") {
                assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}");
            }
        }
    }
}
