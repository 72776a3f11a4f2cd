//! `info DB|URL`: what the replicas of a database can give back.
//!
//! A replica that cannot be read is named on stderr, the others are shown, and
//! the exit code is 1.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;

use super::error::CliError;
use super::open;
use super::render::{self, Table, seconds};
use super::{Context, InfoOptions};
use crate::config::duration;
use crate::drill::{LastProof, Records};
use crate::ltx::Level;
use crate::replica::{Pin, Replica};
use crate::restore::{Estimate, Overview, overview};

/// Shows what can be restored.
pub(crate) fn run(options: &InfoOptions, context: &Context) -> Result<(), CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let runtime = super::runtime()?;
    let records = subject.database.as_ref().map(|database| Records::new(&open::state_dir(database)));
    let (mut shown, mut failed) = (Vec::new(), Vec::new());
    for replica in &replicas {
        let proof = records.as_ref().and_then(|records| records.of(replica.name()));
        let looked = runtime.block_on(async {
            let overview = overview(replica, options.parallelism).await.map_err(CliError::failed)?;
            let pins = replica.pins().await.map_err(CliError::failed)?;
            Ok::<_, CliError>((overview, pins))
        });
        match looked {
            Ok((overview, pins)) => shown.push(Shown::new(replica, &overview, &pins, proof)),
            Err(error) => {
                render::complain(&format!("Warning: replica {:?}: {error}", replica.name()));
                failed.push(replica.name());
            }
        }
    }
    if options.json {
        render::print(&render::json(&shown)?)?;
    } else {
        let texts: Vec<String> = shown.iter().map(Shown::text).collect();
        render::print(&texts.join("\n"))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(format!("cannot tell what these replicas hold: {}", failed.join(", "))))
}

#[derive(Serialize)]
struct Shown {
    replica: String,
    #[serde(rename = "type")]
    kind: &'static str,
    position: Option<String>,
    objects: usize,
    size: u64,
    points: usize,
    generations: Vec<Generation>,
    ranges: Vec<Stretch>,
    levels: Vec<Holding>,
    pins: Vec<Pinned>,
    /// What a rehearsal of a restore has shown, if the database is on this machine.
    last_proof: Option<Proof>,
    restore: Option<Restore>,
    /// Why the newest state cannot be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct Generation {
    generation: Option<String>,
    min_txid: String,
    max_txid: String,
    start: String,
    end: String,
}

#[derive(Serialize)]
struct Stretch {
    level: u8,
    points: usize,
    first_txid: String,
    last_txid: String,
    from: String,
    to: String,
    step_ms: i64,
}

#[derive(Serialize)]
struct Holding {
    level: u8,
    class: &'static str,
    objects: usize,
    size: u64,
}

#[derive(Serialize)]
struct Pinned {
    name: String,
    txid: String,
    timestamp: String,
}

#[derive(Serialize)]
struct Proof {
    /// Empty for a backup of Litestream 0.3.
    txid: String,
    timestamp: String,
    proven_at: String,
    duration_ms: u128,
}

#[derive(Serialize)]
struct Restore {
    segments: usize,
    size: u64,
    estimated_ms: u64,
    latency_us: u64,
    bytes_per_second: u64,
    parallelism: usize,
}

impl Shown {
    fn new(replica: &Replica, overview: &Overview, pins: &[Pin], proof: Option<LastProof>) -> Self {
        let generations = overview.generations.iter().map(|run| Generation {
            generation: run.generation.map(|generation| generation.to_string()),
            min_txid: run.txids.min().to_string(),
            max_txid: run.txids.max().to_string(),
            start: seconds(run.start),
            end: seconds(run.end),
        });
        let ranges = overview.ranges.iter().map(|range| Stretch {
            level: range.level.get(),
            points: range.points,
            first_txid: range.first.txid.to_string(),
            last_txid: range.last.txid.to_string(),
            from: range.first.time.to_string(),
            to: range.last.time.to_string(),
            step_ms: range.widest_step,
        });
        let levels = overview.levels.iter().map(|level| Holding {
            level: level.level.get(),
            class: class(level.level),
            objects: level.objects,
            size: level.bytes,
        });
        Self {
            replica: replica.name().to_owned(),
            kind: replica.kind(),
            position: overview.position.map(|position| position.to_string()),
            objects: overview.levels.iter().map(|level| level.objects).sum(),
            size: overview.levels.iter().map(|level| level.bytes).sum(),
            points: overview.ranges.iter().map(|range| range.points).sum(),
            generations: generations.collect(),
            ranges: ranges.collect(),
            levels: levels.collect(),
            pins: pins.iter().map(Pinned::from).collect(),
            last_proof: proof.map(Proof::from),
            restore: overview.latest.as_ref().ok().map(Restore::from),
            problem: overview.latest.as_ref().err().map(ToString::to_string),
        }
    }

    fn text(&self) -> String {
        let Self { replica, kind, objects, points, size, .. } = self;
        let position = self.position.as_deref().unwrap_or("-");
        let restore = match (&self.restore, &self.problem) {
            (Some(restore), _) => restore.text(),
            (None, problem) => problem.clone().unwrap_or_default(),
        };
        let mut text = format!(
            "replica:   {replica} ({kind})\nposition:  {position}\nholds:     {objects} objects, {}\n\
             points:    {points}\nrestore:   {restore}\nproven:    {}\n",
            ByteSize(*size).display().si(),
            self.last_proof.as_ref().map_or_else(|| "-".to_owned(), Proof::text),
        );
        let mut table = Table::new(["generation", "min_txid", "max_txid", "start", "end"]);
        for Generation { generation, min_txid, max_txid, start, end } in &self.generations {
            let name = generation.as_deref().unwrap_or("-");
            table.row([name, min_txid, max_txid, start, end].map(str::to_owned));
        }
        text.push_str(&format!("\n{}", table.text()));
        let mut table = Table::new(["level", "points", "first_txid", "last_txid", "from", "to", "step"]);
        for Stretch { level, points, first_txid, last_txid, from, to, step_ms } in &self.ranges {
            let step = duration::show(step_ms.saturating_mul(1_000_000));
            table.row(
                [&level.to_string(), &points.to_string(), first_txid, last_txid, from, to, &step].map(String::clone),
            );
        }
        text.push_str(&format!("\n{}", table.text()));
        let mut table = Table::new(["level", "class", "objects", "size"]);
        for Holding { level, class, objects, size } in &self.levels {
            table.row([level.to_string(), (*class).to_owned(), objects.to_string(), size.to_string()]);
        }
        text.push_str(&format!("\n{}", table.text()));
        if !self.pins.is_empty() {
            let mut table = Table::new(["pin", "txid", "timestamp"]);
            for Pinned { name, txid, timestamp } in &self.pins {
                table.row([name, txid, timestamp].map(String::clone));
            }
            text.push_str(&format!("\n{}", table.text()));
        }
        text
    }
}

impl From<&Pin> for Pinned {
    fn from(pin: &Pin) -> Self {
        Self { name: pin.name.to_string(), txid: pin.txid.to_string(), timestamp: seconds(pin.time) }
    }
}

impl From<LastProof> for Proof {
    fn from(proof: LastProof) -> Self {
        Self {
            txid: proof.txid.map_or_else(String::new, |txid| txid.to_string()),
            timestamp: proof.time.to_string(),
            proven_at: seconds(proof.at),
            duration_ms: proof.took.as_millis(),
        }
    }
}

impl Proof {
    fn text(&self) -> String {
        let Self { txid, timestamp, proven_at, duration_ms } = self;
        format!("{txid} ({timestamp}), by a rehearsal at {proven_at} that took {duration_ms} ms")
    }
}

impl From<&Estimate> for Restore {
    fn from(estimate: &Estimate) -> Self {
        let whole = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
        let bytes_per_second = estimate.throughput as u64;
        Self {
            segments: estimate.segments,
            size: estimate.bytes,
            estimated_ms: whole(estimate.duration().as_millis()),
            latency_us: whole(estimate.latency.as_micros()),
            bytes_per_second,
            parallelism: estimate.parallelism,
        }
    }
}

impl Restore {
    fn text(&self) -> String {
        let shown = |duration: Duration| duration::show(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX));
        let Self { segments, size, parallelism, .. } = self;
        format!(
            "about {} for {segments} segments, {}, as measured just now ({} for a request, {} a second, {parallelism} \
             requests at a time), and the time to write the database",
            shown(Duration::from_millis(self.estimated_ms.max(1))),
            ByteSize(*size).display().si(),
            shown(Duration::from_micros(self.latency_us)),
            ByteSize(self.bytes_per_second).display().si(),
        )
    }
}

/// What the segments of a level are.
fn class(level: Level) -> &'static str {
    match level {
        Level::L0 => "captured",
        Level::SNAPSHOT => "snapshot",
        _ => "merged",
    }
}
