//! `audit` and `verify`: what is wrong on the replicas, for people and scripts.
//!
//! The report goes to stdout in any case; the exit code says whether a person
//! has to look at it. Nothing at all where a backup should be is a problem too.

use std::process::ExitCode;
use std::time::SystemTime;

use serde::Serialize;

use super::error::CliError;
use super::listing;
use super::open;
use super::render;
use super::{AuditOptions, Context};
use crate::audit::cost::{Asked, PRICES, dollars, listed};
use crate::audit::{ChainProof, Report, Scope, Sizes, Weight, audit};
use crate::storage::{Counts, Operation};

/// Looks at the replicas and prints what was found.
pub(crate) fn run(options: &AuditOptions, scope: Scope, context: &Context) -> Result<ExitCode, CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let runtime = super::runtime()?;
    let now = SystemTime::now().into();
    let mut shown = Vec::new();
    for replica in &replicas {
        // The counters may be those of all replicas in a bucket.
        let before = asked(replica.counts());
        let report = runtime.block_on(audit(replica, scope, now)).map_err(CliError::failed)?;
        shown.push(Shown::new(replica.name(), replica.kind(), &report, &asked(replica.counts()).since(&before)));
    }
    let problems: usize = shown.iter().map(|shown| shown.problems).sum();
    let text = match options.json {
        true => render::json(&All { problems, replicas: shown })?,
        false => shown.iter().map(Shown::text).collect(),
    };
    render::print(&text)?;
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn asked(counts: &Counts) -> Asked {
    let (lists, reads) = (counts.of(Operation::List), counts.of(Operation::Get));
    Asked { lists: lists.requests, reads: reads.requests, bytes: reads.bytes }
}

#[derive(Serialize)]
struct All {
    problems: usize,
    replicas: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    replica: String,
    r#type: &'static str,
    problems: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Segments>,
    #[serde(rename = "litestream_0.3", skip_serializing_if = "Option::is_none")]
    older: Option<Older>,
    asked: Requests,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    findings: Vec<Found>,
}

/// What looking took.
#[derive(Serialize)]
struct Requests {
    lists: u64,
    reads: u64,
    bytes: u64,
}

/// In millionths of a dollar.
#[derive(Serialize)]
struct Cost {
    storage_month: u64,
    uploads_month: u64,
    this_look: u64,
    prices: Assumed,
}

/// The prices behind it.
#[derive(Serialize)]
struct Assumed {
    gigabyte_month: u64,
    thousand_writes: u64,
    thousand_reads: u64,
    gigabyte_out: u64,
}

impl Cost {
    /// Of a replica in a service; a disk of one's own has no price list.
    fn of(kind: &str, report: &Report, asked: &Asked) -> Option<Self> {
        let parts = [report.segments.as_ref().map(|s| s.sizes), report.older.as_ref().map(|o| o.sizes)];
        let parts: Vec<Sizes> = parts.into_iter().flatten().collect();
        if kind == "file" || parts.is_empty() {
            return None;
        }
        let prices = Assumed {
            gigabyte_month: PRICES.gigabyte_month,
            thousand_writes: PRICES.thousand_writes,
            thousand_reads: PRICES.thousand_reads,
            gigabyte_out: PRICES.gigabyte_out,
        };
        Some(Self {
            storage_month: PRICES.keeping(parts.iter().map(|sizes| sizes.bytes).sum()),
            uploads_month: PRICES.uploads(parts.iter().filter_map(|sizes| sizes.uploads_per_month).sum()),
            this_look: PRICES.asking(asked),
            prices,
        })
    }

    fn text(&self) -> String {
        let Self { storage_month, uploads_month, this_look, prices } = self;
        let Assumed { gigabyte_month, thousand_writes, thousand_reads, gigabyte_out } = prices;
        format!(
            "  cost: about {} a month, {} for keeping it and {} for uploads at this rate; this look about {}\n    \
             at {} per GB and month, {} per 1000 uploads or listings, {} per 1000 reads, {} per GB to the internet: \
             S3 Standard in us-east-1\n",
            dollars(storage_month + uploads_month),
            dollars(*storage_month),
            dollars(*uploads_month),
            dollars(*this_look),
            listed(*gigabyte_month),
            listed(*thousand_writes),
            listed(*thousand_reads),
            listed(*gigabyte_out),
        )
    }
}

#[derive(Serialize)]
struct Amount {
    objects: u64,
    bytes: u64,
    uploads_per_month: Option<u64>,
}

#[derive(Serialize)]
struct Segments {
    #[serde(flatten)]
    amount: Amount,
    restorable_points: usize,
    lost_points: usize,
    oldest: Option<Point>,
    newest: Option<Point>,
    newest_proven_by: &'static str,
    generations: Vec<String>,
}

#[derive(Serialize)]
struct Point {
    txid: String,
    timestamp: String,
}

#[derive(Serialize)]
struct Older {
    #[serde(flatten)]
    amount: Amount,
    generations: usize,
    sound_generations: usize,
    oldest: Option<String>,
    newest: Option<String>,
}

#[derive(Serialize)]
struct Found {
    kind: &'static str,
    weight: &'static str,
    message: String,
    advice: &'static str,
}

impl From<Sizes> for Amount {
    fn from(sizes: Sizes) -> Self {
        let Sizes { objects, bytes, uploads_per_month } = sizes;
        Self { objects, bytes, uploads_per_month }
    }
}

impl Shown {
    fn new(name: &str, kind: &'static str, report: &Report, asked: &Asked) -> Self {
        let mut findings: Vec<Found> = report
            .findings
            .iter()
            .map(|finding| Found {
                kind: finding.kind(),
                weight: if finding.weight() == Weight::Problem { "problem" } else { "note" },
                message: finding.to_string(),
                advice: finding.advice(),
            })
            .collect();
        if report.is_empty() {
            findings.push(Found {
                kind: "empty",
                weight: "problem",
                message: "no matching backup: nothing is stored here".to_owned(),
                advice: "check the place and the permissions, and that replication runs",
            });
        }
        let point =
            |moment: &crate::audit::Moment| Point { txid: moment.txid.to_string(), timestamp: moment.time.to_string() };
        let segments = report.segments.as_ref().map(|segments| Segments {
            amount: segments.sizes.into(),
            restorable_points: segments.points,
            lost_points: segments.lost_points,
            oldest: segments.range.as_ref().map(|(oldest, _)| point(oldest)),
            newest: segments.range.as_ref().map(|(_, newest)| point(newest)),
            newest_proven_by: match segments.proof {
                ChainProof::Database => "database checksum",
                ChainProof::Files => "file checksums",
                ChainProof::None => "nothing",
            },
            generations: segments
                .generations
                .iter()
                .map(|name| name.map_or_else(|| listing::foreign_name(None), |name| name.to_string()))
                .collect(),
        });
        let older = report.older.as_ref().map(|older| Older {
            amount: older.sizes.into(),
            generations: older.generations,
            sound_generations: older.sound_generations,
            oldest: older.range.map(|(oldest, _)| oldest.to_string()),
            newest: older.range.map(|(_, newest)| newest.to_string()),
        });
        let problems = findings.iter().filter(|found| found.weight == "problem").count();
        let cost = Cost::of(kind, report, asked);
        let Asked { lists, reads, bytes } = *asked;
        let asked = Requests { lists, reads, bytes };
        Self { replica: name.to_owned(), r#type: kind, problems, segments, older, asked, cost, findings }
    }

    fn text(&self) -> String {
        let mut text = format!("replica {} ({})\n", self.replica, self.r#type);
        if let Some(segments) = &self.segments {
            text.push_str(&format!("  segments: {}\n", segments.amount.text()));
            match (&segments.oldest, &segments.newest) {
                (Some(oldest), Some(newest)) => text.push_str(&format!(
                    "  restorable: {} points, from {} ({}) to {} ({})\n",
                    segments.restorable_points, oldest.txid, oldest.timestamp, newest.txid, newest.timestamp
                )),
                _ => text.push_str("  restorable: nothing\n"),
            }
            if segments.lost_points > 0 {
                text.push_str(&format!("  lost to damage: {} points\n", segments.lost_points));
            }
            text.push_str(&format!("  newest point proven by: {}\n", segments.newest_proven_by));
        }
        if let Some(older) = &self.older {
            text.push_str(&format!("  Litestream 0.3 backup: {}\n", older.amount.text()));
            text.push_str(&format!("  sound generations: {} of {}\n", older.sound_generations, older.generations));
            if let (Some(oldest), Some(newest)) = (&older.oldest, &older.newest) {
                text.push_str(&format!("  stored from {oldest} to {newest}\n"));
            }
        }
        let Requests { lists, reads, bytes } = &self.asked;
        text.push_str(&format!("  asked: {lists} listings, {reads} reads, {bytes} bytes\n"));
        if let Some(cost) = &self.cost {
            text.push_str(&cost.text());
        }
        for Found { kind, weight, message, advice } in &self.findings {
            text.push_str(&format!("  {weight} {kind}: {message}\n    {advice}\n"));
        }
        text.push_str(&match self.problems {
            0 => "  no problems found\n".to_owned(),
            1 => "  1 problem found\n".to_owned(),
            several => format!("  {several} problems found\n"),
        });
        text
    }
}

impl Amount {
    fn text(&self) -> String {
        let Self { objects, bytes, uploads_per_month } = self;
        let rate =
            uploads_per_month.map_or_else(String::new, |n| format!(", about {n} uploads in 30 days at this rate"));
        format!("{objects} objects, {bytes} bytes{rate}")
    }
}
