//! `drill`: a rehearsal now, and rehearsals for the daemon, from the config.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use serde::Serialize;

use super::error::CliError;
use super::open;
use super::render;
use super::{Context, DrillOptions};
use crate::causes::with_causes;
use crate::config::{Database, Drill};
use crate::daemon::{Destination, Job, Rehearsal};
use crate::drill::{LastProof, Mode, Proven, Records, rehearse};
use crate::status::DatabaseId;

/// What the daemon is to rehearse for a database.
pub(super) fn rehearsals(database: &Database, id: DatabaseId, job: &Job) -> Vec<Rehearsal> {
    let Some(drill) = &database.drill else { return Vec::new() };
    let one = |(replica, to): (usize, &Destination)| Rehearsal {
        database: id,
        replica,
        on: to.replica.clone(),
        // One at a time, so one directory does for all replicas.
        mode: mode(drill, job.capture.state_dir().join("drill")),
        interval: drill.interval,
        budget: drill.budget,
        base_on_failure: drill.base_on_failure,
        records: Records::new(&job.capture.state_dir()),
    };
    job.replicas.iter().enumerate().map(one).collect()
}

fn mode(drill: &Drill, scratch: PathBuf) -> Mode {
    match drill.full {
        true => Mode::Full { scratch, checks: drill.checks.clone() },
        false => Mode::Stream,
    }
}

/// Rehearses once and prints what was proven.
pub(crate) fn run(options: &DrillOptions, context: &Context) -> Result<ExitCode, CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let configured = subject.database.as_ref().and_then(|database| database.drill.as_ref());
    let scratch = options.scratch.as_deref().map_or_else(std::env::temp_dir, Path::to_path_buf);
    let scratch = scratch.join(format!("{}-drill-{}", context.program, std::process::id()));
    let mode = match (options.full, configured) {
        (None, Some(drill)) => mode(drill, scratch),
        (Some(true), _) => {
            Mode::Full { scratch, checks: configured.map_or_else(Vec::new, |drill| drill.checks.clone()) }
        }
        (None | Some(false), _) => Mode::Stream,
    };
    let runtime = super::runtime()?;
    let mut rows = Vec::new();
    for replica in &replicas {
        let outcome = runtime.block_on(rehearse(replica, &mode));
        if let (Ok(proven), Some(database)) = (&outcome, &subject.database) {
            record(database, replica.name(), proven);
        }
        rows.push(Row::new(replica.name(), replica.kind(), outcome.map_err(|error| with_causes(&error))));
    }
    let text = if options.json { render::json(&rows)? } else { rows.iter().map(Row::text).collect() };
    render::print(&text)?;
    Ok(if rows.iter().all(|row| row.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For `info`, where the database has local state: elsewhere nothing is made for it.
fn record(database: &Database, replica: &str, proven: &Proven) {
    let state_dir = open::state_dir(database);
    let Proven { txid, time, took, .. } = *proven;
    let proof = LastProof { at: SystemTime::now().into(), txid, time, took };
    if state_dir.is_dir()
        && let Err(error) = Records::new(&state_dir).put(replica, &proof)
    {
        render::complain(&format!("Warning: what was proven cannot be written down: {error}"));
    }
}

#[derive(Serialize)]
struct Row {
    replica: String,
    r#type: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    txid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proven_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Row {
    fn new(replica: &str, kind: &'static str, outcome: Result<Proven, String>) -> Self {
        let proven = outcome.as_ref().ok();
        let by = |proven: &Proven| if proven.by_database_checksum { "database checksum" } else { "file checksums" };
        Self {
            replica: replica.to_owned(),
            r#type: kind,
            ok: proven.is_some(),
            txid: proven.and_then(|proven| proven.txid).map(|txid| txid.to_string()),
            timestamp: proven.map(|proven| proven.time.to_string()),
            proven_by: proven.map(by),
            bytes: proven.map(|proven| proven.bytes),
            duration_ms: proven.map(|proven| proven.took.as_millis()),
            error: outcome.as_ref().err().cloned(),
        }
    }

    fn text(&self) -> String {
        let Self { replica, r#type, txid, timestamp, proven_by, bytes, duration_ms, error, .. } = self;
        if let Some(error) = error {
            return format!("replica {replica} ({}): FAILED: {error}\n", r#type);
        }
        let point = txid.as_ref().map_or_else(String::new, |txid| format!("transaction {txid} of "));
        format!(
            "replica {replica} ({}): restorable to {point}{}, proven by {}, {} bytes in {} ms\n",
            r#type,
            timestamp.as_deref().unwrap_or_default(),
            proven_by.unwrap_or_default(),
            bytes.unwrap_or_default(),
            duration_ms.unwrap_or_default(),
        )
    }
}
