//! What the page, `check` and the webhook get: everything as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::source::Observed;
use super::told::Changed;
use super::{Observer, grades};
use crate::daemon::ReplicaNumbers;
use crate::health::{Grade, Reason, Verdict, judge, lag};
use crate::status::{Health, ReplicaFacts};
use crate::types::Timestamp;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// What the program is called.
    pub program: String,
    /// Its version.
    pub version: &'static str,
    /// This machine.
    pub host: String,
    /// Now.
    pub time: String,
    /// Since the start.
    pub uptime_seconds: f64,
    /// The config file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The worst of all.
    pub status: Grade,
    /// Why it is not better, if that concerns no single database.
    pub reasons: Vec<Reason>,
    /// How many are how well.
    pub counts: Counts,
    /// How late the latest is.
    pub lag_seconds: f64,
    /// The worst of the last hour, oldest first, every 30 seconds.
    pub lag_history: Vec<f32>,
    /// Each of them, in the order of the configuration.
    pub databases: Vec<DatabaseView>,
}

/// How many are how well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// As they should be.
    pub ok: usize,
    /// Not quite.
    pub degraded: usize,
    /// Not at all.
    pub failed: usize,
}

/// One database.
#[derive(Clone, Debug, Serialize)]
pub struct DatabaseView {
    /// Its number.
    pub id: u64,
    /// Its path.
    pub path: String,
    /// How it is.
    pub status: Grade,
    /// Why it is not better.
    pub reasons: Vec<Reason>,
    /// What capture does: starting, live, waiting, broken, stopped.
    pub state: &'static str,
    /// Committed frames that the last look at the log showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_frames: Option<u32>,
    /// Bytes of the log up to there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_bytes: Option<u64>,
    /// How long the oldest commit waits that is not captured.
    pub uncaptured_seconds: f64,
    /// The captured history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// The captured batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_batch: Option<u64>,
    /// Its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<String>,
    /// How long the oldest commit waits that is not everywhere.
    pub lag_seconds: f64,
    /// Whether the log cannot restart unseen.
    pub guard: bool,
    /// Bytes of the database.
    pub db_bytes: u64,
    /// Bytes of its log.
    pub wal_bytes: u64,
    /// Bytes of local segments.
    pub spool_bytes: u64,
    /// Where it goes.
    pub replicas: Vec<ReplicaView>,
}

/// One replica.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaView {
    /// What configuration calls it.
    pub name: String,
    /// What kind of storage it is in.
    pub r#type: &'static str,
    /// How it is.
    pub status: Grade,
    /// Why it is not better.
    pub reasons: Vec<Reason>,
    /// The newest confirmed TXID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txid: Option<String>,
    /// The captured batch that it ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// The time of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<String>,
    /// When it last was seen to have more than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// How long the oldest commit waits that is not there.
    pub lag_seconds: f64,
    /// Bytes of local segments that it lacks.
    pub lag_bytes: u64,
    /// Another writer has taken over.
    pub fenced: bool,
    /// What it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<usize>,
    /// How much that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The time of the oldest that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// What rehearsals of a restore have shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillView>,
}

/// What rehearsals of a restore have shown.
#[derive(Clone, Debug, Serialize)]
pub struct DrillView {
    /// When the last one ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The newest proven point in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven: Option<String>,
    /// How long that took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<f64>,
}

pub(super) fn status(observer: &Observer, databases: &[Observed], now: Instant, wall: Timestamp) -> StatusView {
    let views: Vec<DatabaseView> = databases.iter().map(|database| one(observer, database, now)).collect();
    let counts = grades(views.iter().map(|view| view.status));
    let nothing = if views.is_empty() { Verdict::nothing_to_do() } else { Verdict::default() };
    StatusView {
        program: observer.options.program.clone(),
        version: env!("CARGO_PKG_VERSION"),
        host: host(),
        time: wall.to_string(),
        uptime_seconds: seconds(now.saturating_duration_since(observer.started)),
        config: observer.options.config.clone(),
        status: views.iter().map(|view| view.status).max().unwrap_or(nothing.grade),
        reasons: nothing.reasons,
        counts: Counts { ok: counts[0], degraded: counts[1], failed: counts[2] },
        lag_seconds: views.iter().map(|view| view.lag_seconds).fold(0.0, f64::max),
        lag_history: observer.state().ring.seconds(),
        databases: views,
    }
}

fn one(observer: &Observer, observed: &Observed, now: Instant) -> DatabaseView {
    let Observed { id, facts, numbers } = observed;
    let judged = judge(facts, now, observer.options.objective);
    let age = |since: Option<Instant>| since.map_or(0.0, |since| seconds(now.saturating_duration_since(since)));
    let none = ReplicaNumbers::default();
    let replicas = facts.replicas.iter().zip(judged.replicas).enumerate();
    DatabaseView {
        id: *id,
        path: facts.path.display().to_string(),
        status: judged.overall.grade,
        reasons: judged.overall.reasons,
        state: match facts.health {
            Health::Starting => "starting",
            Health::Live => "live",
            Health::Waiting(_) => "waiting",
            Health::Broken(_) => "broken",
            Health::Stopped => "stopped",
        },
        seen_frames: facts.seen.map(|seen| seen.frames),
        seen_bytes: facts.seen.map(|seen| seen.bytes),
        uncaptured_seconds: age(facts.seen.and_then(|seen| seen.uncaptured)),
        generation: facts.captured.map(|captured| captured.generation.to_string()),
        captured_batch: facts.captured.map(|captured| captured.batch),
        captured_at: facts.captured.map(|captured| captured.timestamp.to_string()),
        lag_seconds: seconds(lag(facts, now)),
        guard: facts.seen.is_some_and(|seen| seen.guard),
        db_bytes: numbers.db_bytes,
        wal_bytes: numbers.wal_bytes,
        spool_bytes: numbers.spool_bytes,
        replicas: replicas
            .map(|(at, (facts, verdict))| {
                let lag = age(facts.waiting);
                replica(facts, numbers.replicas.get(at).unwrap_or(&none), verdict, lag)
            })
            .collect(),
    }
}

fn replica(facts: &ReplicaFacts, numbers: &ReplicaNumbers, verdict: Verdict, lag_seconds: f64) -> ReplicaView {
    let shown = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let drill = facts.drill.as_ref().map(|drill| DrillView {
        at: shown(drill.at),
        error: drill.error.clone(),
        proven: drill.proven.map(|proven| proven.time.to_string()),
        took_seconds: drill.proven.map(|proven| seconds(proven.took)),
    });
    ReplicaView {
        name: facts.name.clone(),
        r#type: facts.kind,
        status: verdict.grade,
        reasons: verdict.reasons,
        txid: facts.txid.map(|txid| txid.to_string()),
        batch: facts.batch,
        confirmed_at: shown(facts.timestamp),
        last_success: shown(facts.advanced),
        lag_seconds,
        lag_bytes: numbers.pending_bytes,
        fenced: facts.fenced,
        objects: numbers.held.map(|held| held.objects),
        bytes: numbers.held.map(|held| held.bytes),
        oldest: numbers.held.and_then(|held| shown(held.oldest)),
        drill,
    }
}

/// Milliseconds are enough.
#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn seconds(time: Duration) -> f64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX) as f64 / 1000.0
}

/// The name of this machine.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What a webhook says: what has changed.
#[derive(Clone, Debug, Serialize)]
pub struct Alarm {
    /// The worst of all databases.
    status: Grade,
    /// This machine.
    host: String,
    /// Now.
    time: String,
    /// In words.
    message: String,
    /// How many databases have changed.
    count: usize,
    /// They, or the first of them.
    databases: Vec<Change>,
}

#[derive(Clone, Debug, Serialize)]
struct Change {
    path: String,
    status: Grade,
    previous: Grade,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// More databases are not named: a thousand that fail together fail for one reason.
const NAMED: usize = 50;

impl Alarm {
    pub(super) fn new(status: Grade, host: &str, changed: &[Changed]) -> Self {
        let mut databases: Vec<Change> = changed
            .iter()
            .map(|change| Change {
                path: change.path.display().to_string(),
                status: change.grade,
                previous: change.previous,
                reason: change.reason.clone(),
            })
            .collect();
        databases.sort_by_key(|change| std::cmp::Reverse(change.status));
        let count = databases.len();
        databases.truncate(NAMED);
        let time = Timestamp::from(std::time::SystemTime::now()).to_string();
        let message = message(&databases, count, host);
        Self { status, host: host.to_owned(), time, message, count, databases }
    }

    /// For a template.
    pub(super) fn names(&self) -> BTreeMap<&'static str, String> {
        let first = self.databases.first();
        BTreeMap::from([
            ("status", self.status.to_string()),
            ("previous", first.map(|first| first.previous.to_string()).unwrap_or_default()),
            ("message", self.message.clone()),
            ("database", first.map(|first| first.path.clone()).unwrap_or_default()),
            ("reason", first.and_then(|first| first.reason.clone()).unwrap_or_default()),
            ("count", self.count.to_string()),
            ("host", self.host.clone()),
            ("time", self.time.clone()),
        ])
    }
}

fn message(databases: &[Change], count: usize, host: &str) -> String {
    let Some(Change { path, status, previous, reason }) = databases.first() else { return String::new() };
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let others = match count {
        1 => String::new(),
        2 => " (and one other database)".to_owned(),
        n => format!(" (and {} other databases)", n - 1),
    };
    format!("{path} on {host} is {status}, was {previous}{reason}{others}")
}
