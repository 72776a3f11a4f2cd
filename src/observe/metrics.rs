//! What Prometheus reads. Pure: facts and numbers in, text out.
//!
//! Where there are many databases they are shown as one, so that the text stays
//! small: sums, or the worst, as [`FAMILIES`] says.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus::TextEncoder;
use prometheus::proto;

use super::MANY;
use super::families::{FAMILIES, Kind, Merge, find};
use super::process::Process;
use super::source::Observed;
use crate::daemon::ReplicaNumbers;
use crate::health::{Grade, Judged, Objective, judge};
use crate::status::{BARRIER_BOUNDS, Barriers, RESTORES, ReplicaFacts};
use crate::storage::{Failure, Operation, Snapshot, TIME_BOUNDS};
use crate::types::Timestamp;

/// Whether databases have series of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Up to a thousand databases.
    #[default]
    Auto,
    /// Always.
    Each,
    /// Never.
    Together,
}

/// Calls to somebody who wants to be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    heard: u64,
    failed: u64,
}

impl Calls {
    pub(super) fn add(&mut self, heard: bool) {
        if heard { self.heard += 1 } else { self.failed += 1 }
    }
}

/// What concerns the program as a whole.
pub(super) struct Whole {
    pub(super) objective: Objective,
    pub(super) now: Instant,
    pub(super) started: Timestamp,
    pub(super) heartbeats: Calls,
    pub(super) webhooks: Calls,
    pub(super) process: Process,
}

type Labels = Vec<String>;

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Histogram { bounds: &'static [f64], counts: Vec<u64>, sum: f64 },
}

struct Sheet {
    together: bool,
    values: BTreeMap<&'static str, BTreeMap<Labels, Value>>,
}

impl Sheet {
    fn add(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.put(name, labels, Value::Number(value));
    }

    fn put(&mut self, name: &'static str, labels: &[&str], value: Value) {
        let family = find(name);
        debug_assert_eq!(family.labels.len(), labels.len(), "{name} has the labels of the table");
        let of_database = family.labels.first() == Some(&"db");
        let (labels, merge) = match self.together && of_database {
            true if family.merge == Merge::Skip => return,
            true => (&labels[1..], family.merge),
            false => (labels, Merge::Sum),
        };
        let series = self.values.entry(family.name).or_default();
        match series.get_mut(&labels.iter().map(ToString::to_string).collect::<Labels>()) {
            Some(present) => present.merge(value, merge),
            None => drop(series.insert(labels.iter().map(ToString::to_string).collect(), value)),
        }
    }
}

impl Value {
    fn merge(&mut self, other: Self, how: Merge) {
        match (self, other) {
            (Self::Number(mine), Self::Number(other)) => {
                *mine = match how {
                    Merge::Sum | Merge::Skip => *mine + other,
                    Merge::Max => mine.max(other),
                    Merge::Min => mine.min(other),
                }
            }
            (Self::Histogram { counts, sum, .. }, Self::Histogram { counts: more, sum: other, .. }) => {
                counts.iter_mut().zip(more).for_each(|(mine, more)| *mine += more);
                *sum += other;
            }
            _ => {}
        }
    }
}

/// The text.
pub(super) fn render(databases: &[Observed], whole: &Whole, detail: Detail) -> String {
    let together = match detail {
        Detail::Auto => databases.len() > MANY,
        Detail::Each => false,
        Detail::Together => true,
    };
    let mut sheet = Sheet { together, values: BTreeMap::new() };
    let mut counts = [0.0; 3];
    let mut worst = if databases.is_empty() { Grade::Degraded } else { Grade::Ok };
    for observed in databases {
        let judged = judge(&observed.facts, whole.now, whole.objective);
        counts[judged.overall.grade as usize] += 1.0;
        worst = worst.max(judged.overall.grade);
        database(&mut sheet, observed, &judged, whole.now);
    }
    sheet.add("brooklet_health", &[], f64::from(worst as u8));
    for grade in Grade::ALL {
        sheet.add("brooklet_databases", &[grade.name()], counts[grade as usize]);
    }
    program(&mut sheet, whole);
    text(&sheet)
}

fn program(sheet: &mut Sheet, whole: &Whole) {
    let result = [("ok", RESTORES.done()), ("failed", RESTORES.failed())];
    result.iter().for_each(|(result, n)| sheet.add("brooklet_restores_total", &[result], number(*n)));
    sheet.add("brooklet_restore_seconds_total", &[], RESTORES.took().as_secs_f64());
    for (name, calls) in [("brooklet_heartbeats_total", whole.heartbeats), ("brooklet_webhooks_total", whole.webhooks)]
    {
        sheet.add(name, &["ok"], number(calls.heard));
        sheet.add(name, &["failed"], number(calls.failed));
    }
    sheet.add("brooklet_info", &[env!("CARGO_PKG_VERSION"), rusqlite::version()], 1.0);
    let Process { cpu_seconds, resident_bytes, open_files } = whole.process;
    for (name, value) in [
        ("process_cpu_seconds_total", cpu_seconds),
        ("process_resident_memory_bytes", resident_bytes),
        ("process_open_fds", open_files),
        ("process_start_time_seconds", Some(seconds(whole.started))),
    ] {
        value.into_iter().for_each(|value| sheet.add(name, &[], value));
    }
}

fn database(sheet: &mut Sheet, observed: &Observed, judged: &Judged, now: Instant) {
    let Observed { facts, numbers, .. } = observed;
    let path = facts.path.display().to_string();
    let db: &[&str] = &[&path];
    let work = &facts.work;
    let age = |since: Option<Instant>| since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
    for (name, value) in [
        ("litestream_db_size", number(numbers.db_bytes)),
        ("litestream_wal_size", number(numbers.wal_bytes)),
        ("litestream_total_wal_bytes", number(work.wal_bytes)),
        ("litestream_sync_count", number(work.syncs)),
        ("litestream_sync_error_count", number(work.sync_errors)),
        ("litestream_sync_seconds", work.sync_time.as_secs_f64()),
        ("litestream_disk_full", f64::from(u8::from(facts.disk_full))),
        ("brooklet_database_health", f64::from(judged.overall.grade as u8)),
        ("brooklet_uncaptured_seconds", age(facts.seen.and_then(|seen| seen.uncaptured))),
        ("brooklet_guard_held", f64::from(u8::from(facts.seen.is_some_and(|seen| seen.guard)))),
        ("brooklet_spool_bytes", number(numbers.spool_bytes)),
        ("brooklet_spool_budget_bytes", number(numbers.spool_budget)),
        ("brooklet_spool_dropped_total", number(work.dropped)),
        ("brooklet_resyncs_total", number(work.resyncs)),
        ("brooklet_seals_total", number(work.seals)),
    ] {
        sheet.add(name, db, value);
    }
    if let Some(txid) = facts.replicas.iter().filter_map(|replica| replica.txid).max() {
        sheet.add("litestream_txid", db, number(txid.get()));
    }
    for (mode, tried, failed, time) in [
        ("PASSIVE", work.checkpoints, work.checkpoint_errors, work.checkpoint_time.as_secs_f64()),
        ("TRUNCATE", work.truncations, 0, 0.0),
    ] {
        sheet.add("litestream_checkpoint_count", &[&path, mode], number(tried));
        sheet.add("litestream_checkpoint_error_count", &[&path, mode], number(failed));
        sheet.add("litestream_checkpoint_seconds", &[&path, mode], time);
    }
    sheet.put("brooklet_writer_lock_seconds", db, barriers(&work.barriers));
    let file_name = facts.path.file_name().unwrap_or_default().to_string_lossy();
    for ((facts, numbers), verdict) in facts.replicas.iter().zip(&numbers.replicas).zip(&judged.replicas) {
        replica(sheet, &path, facts, numbers, verdict.grade, now);
        let held = numbers.held.unwrap_or_default();
        // What may go is deleted in the same step in which that is found.
        for (status, n) in [("eligible", 0), ("not_compacted", held.unmerged), ("too_recent", held.merged)] {
            sheet.add("litestream_l0_retention_files_total", &[&file_name, status], number(n as u64));
        }
    }
}

fn replica(sheet: &mut Sheet, path: &str, facts: &ReplicaFacts, numbers: &ReplicaNumbers, grade: Grade, now: Instant) {
    let of: &[&str] = &[path, &facts.name];
    let flag = |is_so: bool| f64::from(u8::from(is_so));
    let lag = facts.waiting.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
    let drill = facts.drill.clone().unwrap_or_default();
    let held = numbers.held.unwrap_or_default();
    for (name, value) in [
        ("brooklet_replica_health", f64::from(grade as u8)),
        ("brooklet_lag_seconds", lag),
        ("brooklet_lag_bytes", number(numbers.pending_bytes)),
        ("brooklet_drill_failed", flag(drill.error.is_some())),
        ("brooklet_fenced", flag(facts.fenced)),
        ("brooklet_upkeep_failed", flag(facts.upkeep_error.is_some())),
        ("brooklet_replica_objects", number(held.objects as u64)),
        ("brooklet_replica_bytes", number(held.bytes)),
    ] {
        sheet.add(name, of, value);
    }
    let proof = drill.at.filter(|_| drill.error.is_none() && drill.proven.is_some());
    for (name, value) in [
        ("brooklet_confirmed_txid", facts.txid.map(|txid| number(txid.get()))),
        ("brooklet_confirmed_timestamp_seconds", facts.timestamp.map(seconds)),
        ("brooklet_last_success_timestamp_seconds", facts.advanced.map(seconds)),
        ("brooklet_last_proof_timestamp_seconds", proof.map(seconds)),
    ] {
        value.into_iter().for_each(|value| sheet.add(name, of, value));
    }
    let ran = [("ok", drill.runs - drill.failures), ("failed", drill.failures)];
    ran.iter().for_each(|(result, n)| sheet.add("brooklet_drills_total", &[path, &facts.name, result], number(*n)));
    for (operation, counted) in Operation::ALL.iter().zip(&numbers.requests) {
        requests(sheet, path, facts, operation.name(), counted);
    }
}

fn requests(sheet: &mut Sheet, path: &str, facts: &ReplicaFacts, operation: &str, counted: &Snapshot) {
    let of: &[&str] = &[path, &facts.name, operation];
    sheet.add("brooklet_requests_total", of, number(counted.requests));
    sheet.add("brooklet_request_errors_total", of, number(counted.errors.iter().sum()));
    sheet.add("brooklet_request_seconds_total", of, counted.time.as_secs_f64());
    sheet.add("brooklet_request_bytes_total", of, number(counted.bytes));
    let of: &[&str] = &[facts.kind, operation];
    sheet.add("litestream_replica_operation_total", of, number(counted.requests));
    sheet.add("litestream_replica_operation_bytes", of, number(counted.bytes));
    for (failure, n) in Failure::ALL.iter().zip(counted.errors) {
        if n > 0 {
            let of: &[&str] = &[facts.kind, operation, failure.name()];
            sheet.add("litestream_replica_operation_errors_total", of, number(n));
        }
    }
    let histogram =
        Value::Histogram { bounds: &REQUEST_BOUNDS, counts: counted.times.to_vec(), sum: counted.time.as_secs_f64() };
    sheet.put("litestream_replica_operation_duration_seconds", of, histogram);
}

const REQUEST_BOUNDS: [f64; TIME_BOUNDS.len()] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];
const LOCK_BOUNDS: [f64; BARRIER_BOUNDS.len()] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];

fn barriers(barriers: &Barriers) -> Value {
    let (counts, sum) = (barriers.counts.to_vec(), barriers.total.as_secs_f64());
    Value::Histogram { bounds: &LOCK_BOUNDS, counts, sum }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn number(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn seconds(time: Timestamp) -> f64 {
    time.as_millis() as f64 / 1000.0
}

fn text(sheet: &Sheet) -> String {
    let mut shown = Vec::new();
    for family in FAMILIES {
        let Some(series) = sheet.values.get(family.name) else { continue };
        let skipped = usize::from(sheet.together && family.labels.first() == Some(&"db"));
        let mut out = proto::MetricFamily::default();
        out.set_name(family.name.to_owned());
        out.set_help(family.help.to_owned());
        out.set_field_type(match family.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        out.set_metric(
            series
                .iter()
                .map(|(labels, value)| metric(family.kind, &family.labels[skipped..], labels, value))
                .collect(),
        );
        shown.push(out);
    }
    TextEncoder::new().encode_to_string(&shown).expect("every family has a name and a series")
}

fn metric(kind: Kind, names: &[&str], values: &Labels, value: &Value) -> proto::Metric {
    let pairs = names.iter().zip(values).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut metric = proto::Metric::default();
    metric.set_label(pairs.collect());
    match (kind, value) {
        (Kind::Counter, Value::Number(n)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*n);
            metric.set_counter(counter);
        }
        (_, Value::Number(n)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*n);
            metric.set_gauge(gauge);
        }
        (_, Value::Histogram { bounds, counts, sum }) => metric.set_histogram(histogram(bounds, counts, *sum)),
    }
    metric
}

fn histogram(bounds: &[f64], counts: &[u64], sum: f64) -> proto::Histogram {
    let mut so_far = 0;
    let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
        so_far += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(so_far);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_sum(sum);
    histogram.set_sample_count(counts.iter().sum());
    histogram
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::daemon::{Held, Numbers};
    use crate::status::{DatabaseFacts, DrillFacts, ProvenPoint};
    use crate::types::Txid;

    fn some(count: u64) -> Vec<Observed> {
        let one = |id| {
            let now = Some(Timestamp::from_millis(1_700_000_000_000));
            let proven = ProvenPoint {
                txid: Txid::new(id + 1),
                time: Timestamp::from_millis(1_700_000_000_000),
                took: Duration::from_secs(1),
            };
            let drill = DrillFacts { at: now, runs: 3, failures: 1, error: None, proven: Some(proven) };
            let replica = ReplicaFacts {
                name: "s3".to_owned(),
                kind: "s3",
                txid: Txid::new(id + 1),
                timestamp: now,
                advanced: now,
                drill: Some(drill.into()),
                ..ReplicaFacts::default()
            };
            let mut work = crate::status::Work::default();
            work.barriers.add(Duration::from_millis(4));
            let path = PathBuf::from(format!("/data/\"{id}\"/app.db"));
            let requests = [Snapshot { requests: 2, errors: [0, 0, 1, 0, 0], ..Snapshot::default() }; 4];
            let held = Some(Held { objects: 5, unmerged: 2, merged: 3, ..Held::default() });
            let replicas = vec![ReplicaNumbers { pending_bytes: 100, requests, held }];
            Observed {
                id,
                facts: DatabaseFacts { path: path.into(), replicas: vec![replica], work, ..DatabaseFacts::default() },
                numbers: Numbers { db_bytes: 4096, replicas, ..Numbers::default() },
            }
        };
        (0..count).map(one).collect()
    }

    fn rendered(databases: &[Observed], detail: Detail) -> String {
        let whole = Whole {
            objective: Objective::default(),
            now: Instant::now(),
            started: Timestamp::from_millis(5000),
            heartbeats: Calls::default(),
            webhooks: Calls { heard: 2, failed: 1 },
            process: Process { cpu_seconds: Some(1.5), resident_bytes: Some(1.0), open_files: Some(3.0) },
        };
        render(databases, &whole, detail)
    }

    #[test]
    fn every_metric_of_the_table_is_shown() {
        let text = rendered(&some(2), Detail::Auto);
        let shown: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let known: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(shown, known);
        for line in [
            "litestream_db_size{db=\"/data/\\\"1\\\"/app.db\"} 4096",
            "brooklet_confirmed_txid{db=\"/data/\\\"1\\\"/app.db\",replica=\"s3\"} 2",
            "brooklet_drills_total{db=\"/data/\\\"0\\\"/app.db\",replica=\"s3\",result=\"ok\"} 2",
            "litestream_replica_operation_total{replica_type=\"s3\",operation=\"PUT\"} 4",
            "litestream_replica_operation_errors_total{replica_type=\"s3\",operation=\"GET\",code=\"later\"} 2",
            "litestream_l0_retention_files_total{db=\"app.db\",status=\"not_compacted\"} 4",
            "brooklet_writer_lock_seconds_bucket{db=\"/data/\\\"0\\\"/app.db\",le=\"0.005\"} 1",
            "brooklet_webhooks_total{result=\"failed\"} 1",
            "brooklet_databases{health=\"degraded\"} 2",
            "process_start_time_seconds 5",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    /// F116: ten thousand databases are shown as one.
    #[test]
    fn the_metrics_of_ten_thousand_databases_are_short() {
        let databases = some(10_000);
        let text = rendered(&databases, Detail::Auto);
        assert!(text.len() < 100_000, "{} bytes", text.len());
        assert!(!text.contains("/data/"));
        for line in [
            "litestream_db_size 40960000",
            "brooklet_lag_bytes{replica=\"s3\"} 1000000",
            "brooklet_writer_lock_seconds_count 10000",
            "brooklet_last_proof_timestamp_seconds{replica=\"s3\"} 1700000000",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        assert!(rendered(&databases[..1000], Detail::Auto).contains("/data/"));
        assert!(rendered(&databases, Detail::Each).len() < 150_000_000);
        assert!(!rendered(&databases[..1], Detail::Together).contains("/data/"));
    }

    #[test]
    fn bounds_are_the_same_in_seconds() {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let close = |seconds: f64, n: u64, per_second: f64| (seconds - n as f64 / per_second).abs() < 1e-12;
        assert!(REQUEST_BOUNDS.iter().zip(TIME_BOUNDS).all(|(seconds, n)| close(*seconds, n, 1e3)));
        assert!(LOCK_BOUNDS.iter().zip(BARRIER_BOUNDS).all(|(seconds, n)| close(*seconds, n, 1e6)));
    }
}
