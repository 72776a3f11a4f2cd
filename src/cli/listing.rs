//! `ltx` (also called `wal`) and `generations`: what is on the replicas.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::error::CliError;
use super::older;
use super::open;
use super::render::{self, Table, seconds};
use super::settings::Subject;
use super::{Context, GenerationsOptions, Levels, LtxOptions};
use crate::config::duration;
use crate::legacy::Span;
use crate::ltx::Level;
use crate::replica::{Replica, Run, Segment};
use crate::types::{Generation, Timestamp, crc64_iso};

/// Lists the segments of a replica.
pub(crate) fn ltx(options: &LtxOptions, context: &Context) -> Result<(), CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    segments(options, &subject)
}

pub(super) fn segments(options: &LtxOptions, subject: &Subject) -> Result<(), CliError> {
    let settings = subject.named(options.replica.as_deref()).next();
    let settings = settings.ok_or_else(|| open::unknown_replica(options.replica.as_deref(), &options.source))?;
    if options.replica.is_none() && subject.replicas.len() > 1 {
        let name = &settings.name;
        render::complain(&format!("Warning: listing replica {name:?}, use -replica to list another one"));
    }
    let replica = open::replica(settings)?;
    let levels: Vec<Level> = match options.levels {
        Levels::One(level) => Level::new(level).into_iter().collect(),
        Levels::All => Level::all().collect(),
    };
    let segments = super::runtime()?.block_on(async {
        let mut segments = Vec::new();
        for level in levels {
            segments.extend(replica.list(level).await?);
        }
        Ok::<_, crate::replica::Error>(segments)
    });
    let rows: Vec<Row> = segments.map_err(CliError::failed)?.iter().map(Row::from).collect();
    if options.json {
        return render::print(&render::json(&rows)?);
    }
    let mut table = Table::new(["level", "min_txid", "max_txid", "size", "created"]);
    for Row { level, min_txid, max_txid, size, timestamp } in rows {
        table.row([level.to_string(), min_txid, max_txid, size.to_string(), timestamp]);
    }
    render::print(&table.text())
}

#[derive(Serialize)]
struct Row {
    level: u8,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

impl From<&Segment> for Row {
    fn from(segment: &Segment) -> Self {
        Self {
            level: segment.level.get(),
            min_txid: segment.txids.min().to_string(),
            max_txid: segment.txids.max().to_string(),
            size: segment.size,
            timestamp: seconds(segment.created),
        }
    }
}

/// Lists generations with their lag and time range. A replica that cannot be
/// read is logged and left out, as scripts expect.
pub(crate) fn generations(options: &GenerationsOptions, context: &Context) -> Result<(), CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let now = written(&subject).unwrap_or_else(|| SystemTime::now().into());
    let runtime = super::runtime()?;
    let mut table = Table::new(["name", "generation", "lag", "start", "end"]);
    for replica in &replicas {
        // What Litestream 0.3 wrote is older than what has replaced it.
        for Span { generation, start, end } in runtime.block_on(older::listing(replica)).generations() {
            let name = replica.name().to_owned();
            table.row([name, generation.to_string(), lag(now, end), seconds(start), seconds(end)]);
        }
        match runtime.block_on(runs(replica)) {
            Ok(runs) => {
                for (run, name) in runs.iter().zip(names(&runs)) {
                    let cells =
                        [replica.name().to_owned(), name, lag(now, run.end), seconds(run.start), seconds(run.end)];
                    table.row(cells);
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(replica = replica.name(), error, "cannot fetch generations");
            }
        }
    }
    render::print(&table.text())
}

async fn runs(replica: &Replica) -> Result<Vec<Run>, crate::replica::Error> {
    let listing = replica.list_all().await?;
    replica.generations(&listing).await
}

/// A name for each run. What brooklet did not write has no name of its own. It
/// gets one that looks like the others and stays the same for as long as the
/// run before it is there: it is made from that run's name.
fn names(runs: &[Run]) -> Vec<String> {
    let mut before = None;
    let mut names = Vec::new();
    for run in runs {
        names.push(run.generation.map_or_else(|| foreign_name(before), |generation| generation.to_string()));
        before = run.generation;
    }
    names
}

pub(super) fn foreign_name(before: Option<Generation>) -> String {
    let mut digest = crc64_iso();
    digest.update(b"not written by brooklet, after ");
    digest.update(&before.map_or(0, Generation::get).to_be_bytes());
    format!("{:016x}", digest.finalize())
}

/// When the database was last written to; `None` without a database.
fn written(subject: &Subject) -> Option<Timestamp> {
    let path = &subject.database.as_ref()?.path;
    let mut wal = path.clone().into_os_string();
    wal.push("-wal");
    let modified = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    modified(path).into_iter().chain(modified(wal.as_ref())).max().map(Timestamp::from)
}

/// How far a replica is behind, as precise as it is worth reading.
fn lag(now: Timestamp, newest: Timestamp) -> String {
    let lag = now.as_millis().saturating_sub(newest.as_millis());
    let step = match Duration::from_millis(lag.unsigned_abs()) {
        lag if lag > Duration::from_secs(10) => 1000,
        lag if lag > Duration::from_secs(1) => 100,
        _ => 1,
    };
    duration::show((lag / step * step).saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Txid, TxidRange};

    fn run(generation: Option<u64>) -> Run {
        let time = Timestamp::from_millis(0);
        let generation = generation.and_then(Generation::new);
        Run { generation, txids: TxidRange::single(Txid::FIRST), start: time, end: time }
    }

    #[test]
    fn foreign_runs_get_names_that_stay() {
        let shown = names(&[run(None), run(Some(0xaf)), run(None), run(Some(0xbf)), run(None)]);
        assert_eq!([&shown[1], &shown[3]], ["00000000000000af", "00000000000000bf"]);
        assert_eq!(shown.iter().collect::<std::collections::HashSet<_>>().len(), 5);
        assert!(shown.iter().all(|name| name.parse::<Generation>().is_ok()));
        // More of the same, and history that was deleted before the run before it.
        assert_eq!(names(&[run(Some(0xaf)), run(None)])[1], shown[2]);
    }

    #[test]
    fn lags_are_cut_to_what_is_worth_reading() {
        let at = Timestamp::from_millis;
        let cases = [
            (0, "0s"),
            (7, "7ms"),
            (1000, "1s"),
            (1234, "1.2s"),
            (12_345, "12s"),
            (3_723_000, "1h2m3s"),
            (-2500, "-2.5s"),
        ];
        for (ms, expected) in cases {
            assert_eq!(lag(at(1_000_000 + ms), at(1_000_000)), expected);
        }
    }
}
