//! What is shown about one database, from whatever source. Pure.

use std::fmt::Write;
use std::path::Path;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cli::render::Table;

/// One database. The first four values are Litestream's.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) database: String,
    pub(super) status: String,
    pub(super) local_txid: String,
    pub(super) wal_size: String,
    /// Who says so: `daemon`, or `files` without one.
    pub(super) source: &'static str,
    #[serde(flatten)]
    pub(super) seen: Seen,
    /// What else the daemon tells.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What people are shown, in the words of the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    /// `ok`, `degraded` or `failed`; `unknown` if only a daemon could tell.
    #[serde(rename(deserialize = "status", serialize = "health"))]
    pub(super) health: String,
    pub(super) reasons: Vec<Reason>,
    pub(super) state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen_frames: Option<u32>,
    /// Committed frames that are not captured; told without a daemon only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uncaptured_frames: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) captured_batch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) captured_at: Option<String>,
    pub(super) lag_seconds: f64,
    pub(super) wal_bytes: u64,
    pub(super) replicas: Vec<SeenReplica>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SeenReplica {
    pub(super) name: String,
    pub(super) r#type: String,
    #[serde(rename(deserialize = "status", serialize = "health"))]
    pub(super) health: String,
    pub(super) reasons: Vec<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) txid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) confirmed_at: Option<String>,
    pub(super) lag_seconds: f64,
    pub(super) lag_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) oldest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) drill: Option<SeenDrill>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SeenDrill {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proven: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reason {
    pub(super) grade: String,
    pub(super) cause: String,
    pub(super) text: String,
}

impl Reason {
    pub(super) fn new(grade: &str, cause: &str, text: impl Into<String>) -> Self {
        Self { grade: grade.to_owned(), cause: cause.to_owned(), text: text.into() }
    }
}

impl Row {
    /// From what the daemon tells about a database.
    pub(super) fn of_daemon(view: &Value) -> Result<Self, serde_json::Error> {
        let seen = Seen::deserialize(view)?;
        let database = view["path"].as_str().unwrap_or_default().to_owned();
        let shown = json!(seen);
        let is_rest = |key: &str| !["id", "path", "status"].contains(&key) && shown.get(key).is_none();
        let rest = view.as_object().into_iter().flatten().filter(|(key, _)| is_rest(key));
        let rest = rest.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { rest, ..Self::new(database, "daemon", seen) })
    }

    pub(super) fn new(database: String, source: &'static str, seen: Seen) -> Self {
        let wal_size = if seen.state == "waiting" { "-".to_owned() } else { humane(seen.wal_bytes) };
        let (status, local_txid) = (word(&seen).to_owned(), local_txid(&seen));
        Self { database, status, local_txid, wal_size, source, seen, rest: Map::new() }
    }

    pub(super) fn is(&self, path: &Path) -> bool {
        Path::new(&self.database) == path
    }
}

/// Litestream's words where they are true, and two more.
fn word(seen: &Seen) -> &'static str {
    match (seen.state.as_str(), seen.health.as_str()) {
        ("stopped", _) => "stopped",
        (_, "failed") => "error",
        ("waiting", _) => "no database",
        ("starting", _) => "not initialized",
        (_, "degraded") => "degraded",
        _ => "ok",
    }
}

/// The transaction that everything captured has on the first replica, or will have.
fn local_txid(seen: &Seen) -> String {
    let Some(replica) = seen.replicas.first() else { return "-".to_owned() };
    let confirmed = replica.txid.as_ref().and_then(|txid| u64::from_str_radix(txid, 16).ok());
    let waits = replica.batch.is_some_and(|has| seen.captured_batch.is_some_and(|captured| has < captured));
    confirmed.map_or_else(|| "-".to_owned(), |txid| format!("{:016x}", txid + u64::from(waits)))
}

/// As the original shows sizes: two digits in decimal units, rounded.
fn humane(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut unit, mut scale) = (0, 1u128);
    while u128::from(bytes) >= scale * 1000 && unit + 1 < UNITS.len() {
        (unit, scale) = (unit + 1, scale * 1000);
    }
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    let (whole, rest) = (tenths / 10, tenths % 10);
    match unit {
        0 => format!("{bytes} B"),
        _ if tenths < 100 => format!("{whole}.{rest} {}", UNITS[unit]),
        // Half a unit goes to the even neighbour.
        _ => format!("{} {}", whole + u128::from(rest > 5 || (rest == 5 && whole % 2 == 1)), UNITS[unit]),
    }
}

/// Litestream's table, then a paragraph for each database.
pub(super) fn text(rows: &[Row]) -> String {
    let mut table = Table::new(["database", "status", "local txid", "wal size"]);
    for Row { database, status, local_txid, wal_size, .. } in rows {
        table.row([database, status, local_txid, wal_size].map(String::clone));
    }
    let mut text = table.text();
    for row in rows {
        paragraph(row, &mut text);
    }
    text
}

fn paragraph(Row { database, seen, .. }: &Row, text: &mut String) {
    let reasons = |reasons: &[Reason]| reasons.iter().map(|reason| format!(": {}", reason.text)).collect::<String>();
    // What concerns a replica is told there.
    let own: Vec<Reason> = seen.reasons.iter().filter(|r| !r.text.starts_with("replica ")).cloned().collect();
    let _ = writeln!(text, "\n{database}: {}{}", seen.health, reasons(&own));
    let mut facts = Vec::new();
    if let Some(frames) = seen.seen_frames {
        facts.push(format!("seen: {frames} frames"));
    }
    if let (Some(batch), Some(at)) = (seen.captured_batch, &seen.captured_at) {
        let generation = seen.generation.as_deref().unwrap_or("-");
        facts.push(format!("captured: batch {batch} of generation {generation}, {at}"));
    }
    match seen.uncaptured_frames {
        Some(0) | None => {}
        Some(frames) => facts.push(format!("not captured: {frames} frames")),
    }
    facts.push(format!("log: {}", ByteSize(seen.wal_bytes).display().si()));
    let _ = writeln!(text, "  {}", facts.join("; "));
    for replica in &seen.replicas {
        let SeenReplica { name, r#type, health, txid, confirmed_at, lag_seconds, lag_bytes, oldest, drill, .. } =
            replica;
        let _ = writeln!(text, "  replica {name} ({type}): {health}{}", reasons(&replica.reasons), r#type = r#type);
        let mut facts = Vec::new();
        match (txid, confirmed_at) {
            (Some(txid), Some(at)) => facts.push(format!("confirmed: {txid} of {at}")),
            (Some(txid), None) => facts.push(format!("confirmed: {txid}")),
            _ => facts.push("confirmed: nothing known".to_owned()),
        }
        facts.push(format!("lag: {lag_seconds:.0} s, {}", ByteSize(*lag_bytes).display().si()));
        if let (Some(from), Some(to)) = (oldest, confirmed_at) {
            facts.push(format!("restorable: {from} to {to}"));
        }
        let proven = drill.as_ref().and_then(|drill| drill.proven.as_deref());
        facts.push(format!("last proof: {}", proven.unwrap_or("none")));
        let _ = writeln!(text, "    {}", facts.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> Value {
        json!({
            "id": 3, "path": "/data/app.db", "status": "failed", "state": "live", "guard": true,
            "reasons": [{"grade": "failed", "cause": "behind", "text": "replica s3: commits wait for 45s: refused"}],
            "seen_frames": 12, "generation": "0123456789abcdef", "captured_batch": 9, "captured_at": "2026-01-01T00:00:09Z",
            "lag_seconds": 45.4, "wal_bytes": 24752,
            "replicas": [{
                "name": "s3", "type": "s3", "status": "failed", "fenced": false,
                "reasons": [{"grade": "failed", "cause": "behind", "text": "commits wait for 45s: refused"}],
                "txid": "0000000000000002", "batch": 7, "confirmed_at": "2026-01-01T00:00:00Z",
                "lag_seconds": 45.4, "lag_bytes": 5000, "oldest": "2025-12-31T00:00:00Z",
                "drill": {"proven": "2026-01-01T00:00:00Z", "took_seconds": 2.0}
            }]
        })
    }

    #[test]
    fn litestreams_table_comes_first_and_everything_else_after_it() {
        let row = Row::of_daemon(&view()).unwrap();
        let expected = "\
database      status  local txid        wal size
/data/app.db  error   0000000000000003  25 kB

/data/app.db: failed
  seen: 12 frames; captured: batch 9 of generation 0123456789abcdef, 2026-01-01T00:00:09Z; log: 24.8 kB
  replica s3 (s3): failed: commits wait for 45s: refused
    confirmed: 0000000000000002 of 2026-01-01T00:00:00Z; lag: 45 s, 5.0 kB; restorable: 2025-12-31T00:00:00Z to 2026-01-01T00:00:00Z; last proof: 2026-01-01T00:00:00Z
";
        assert_eq!(text(&[row]), expected);
        assert_eq!(text(&[]), "database  status  local txid  wal size\n");
    }

    #[test]
    fn json_begins_with_litestreams_keys_and_loses_nothing() {
        let row = json!(Row::of_daemon(&view()).unwrap());
        let keys: Vec<_> = row.as_object().unwrap().keys().take(6).collect();
        assert_eq!(keys, ["database", "status", "local_txid", "wal_size", "source", "health"]);
        assert_eq!((&row["status"], &row["health"], &row["guard"]), (&json!("error"), &json!("failed"), &json!(true)));
        assert_eq!(row["replicas"][0]["drill"]["took_seconds"], json!(2.0));
        assert_eq!(row["replicas"][0]["fenced"], json!(false));
        assert!(row.get("id").is_none() && row.get("path").is_none());
    }

    #[test]
    fn a_status_is_ok_only_if_nothing_is_wrong() {
        let status = |state: &str, health: &str| {
            let seen = Seen { state: state.to_owned(), health: health.to_owned(), ..Seen::default() };
            word(&seen)
        };
        assert_eq!(status("live", "ok"), "ok");
        assert_eq!(status("live", "degraded"), "degraded");
        assert_eq!(status("live", "failed"), "error");
        assert_eq!(status("waiting", "degraded"), "no database");
        assert_eq!(status("waiting", "failed"), "error");
        assert_eq!(status("starting", "degraded"), "not initialized");
        assert_eq!(status("stopped", "degraded"), "stopped");
    }

    #[test]
    fn sizes_look_as_the_original_shows_them() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9949, "9.9 kB"),
            (20_632, "21 kB"),
            (24_752, "25 kB"),
            (4_120_032, "4.1 MB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(humane(bytes), expected);
        }
    }
}
