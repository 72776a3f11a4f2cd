//! `restore`: flags to restore options, and what is said about the result.
//!
//! Nothing is printed on stdout but the log, and not even that with `-json`,
//! `-dry-run` or `-o -`. Progress is shown on stderr if that is a terminal.

mod all;
mod below;
mod dry_run;
mod follow;
mod stdout;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::error::CliError;
use super::open;
use super::render;
use super::settings::Subject;
use super::{Context, RestoreJob, RestoreOptions, Source};
use crate::config::{Database, Logging, Warning, WarningKind, shown_url};
use crate::legacy;
use crate::replica::Replica;
use crate::restore::{
    Backup, Candidate, Evidence, Older, OlderReport, Options, Outcome, OutputError, PlanError, Point, Progress, Report,
    RestoreError, Target, find, restore_any,
};
use crate::status::RESTORES;

use dry_run::{DryRun, OlderDryRun, OlderFile, PlannedFile};
use stdout::Scratch;

/// Restores one database, all of a config, or all below a URL.
pub(crate) fn run(job: &RestoreJob, context: &Context) -> Result<(), CliError> {
    match job {
        RestoreJob::One(options) => one(options, context),
        RestoreJob::All(options) => all::run(options, context),
    }
}

fn one(options: &RestoreOptions, context: &Context) -> Result<(), CliError> {
    // With a URL, scripts rely on this coming before everything else.
    if let (Source::Url(_), Some(output)) = (&options.source, &options.output)
        && is_done_already(options, output)
    {
        start_log(options, context, Logging::default(), &[])?;
        tracing::info!("database already exists, skipping");
        return Ok(());
    }
    let subject = context.subject(&options.source, &options.config)?;
    start_log(options, context, subject.logging, &subject.warnings)?;
    let runtime = super::runtime()?;
    let summary = match options.to_stdout() && !options.dry_run {
        true => {
            let scratch = Scratch::new()?;
            runtime.block_on(of_subject(options, context, &subject, Some(scratch.path())))?;
            return scratch.pour();
        }
        false => runtime.block_on(of_subject(options, context, &subject, None))?,
    };
    match summary {
        Some(summary) if options.json => render::print(&render::json(&summary)?),
        _ => Ok(()),
    }
}

/// Restores a database; `None` if there was nothing to do.
async fn of_subject(
    options: &RestoreOptions,
    context: &Context,
    subject: &Subject,
    instead: Option<PathBuf>,
) -> Result<Option<Summary>, CliError> {
    let configured = || subject.database.as_ref().map(|database| database.path.clone());
    let path = instead.or_else(|| options.output.clone()).or_else(configured);
    let path = path.ok_or_else(|| CliError::usage("output path required"))?;
    let chosen = subject.named(options.replica.as_deref());
    let replicas = chosen.map(open::replica).collect::<Result<Vec<_>, _>>()?;
    if is_done_already(options, &path) {
        tracing::info!("database already exists, skipping");
        return Ok(None);
    }
    if replicas.is_empty() {
        let names: Vec<&str> = subject.replicas.iter().map(|replica| replica.name.as_str()).collect();
        let name = options.replica.as_deref().unwrap_or_default();
        let message = format!("no matching backups found: there is no replica {name:?}, only {}", names.join(", "));
        return Err(CliError::usage(message));
    }
    Command { options, context, path, replicas }.run().await
}

/// Restores a database whose file is missing before it is replicated. A replica
/// that holds nothing is a fresh start; anything else that goes wrong is not.
pub(super) async fn if_missing(database: &Database) -> Result<(), CliError> {
    let path = &database.path;
    let shown = path.display();
    if path.symlink_metadata().is_ok() {
        tracing::info!(path = %shown, "database exists, skipping restore");
        return Ok(());
    }
    tracing::info!(path = %shown, "attempting restore before replication");
    let replicas = database.replicas.iter().map(open::replica).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let outcome = restore_any(&replicas, path, &Options::default(), &Older::default(), &Arc::default()).await;
    if !matches!(&outcome, Err(RestoreError::Plan(PlanError::NoBackup))) {
        RESTORES.add(outcome.is_ok(), begun.elapsed());
    }
    match outcome {
        Ok(Outcome::Older(OlderReport { replica, plan })) => {
            let (replica, generation, time) = (replica.name(), plan.generation(), plan.time());
            tracing::info!(path = %shown, replica, format = "0.3", %generation, %time, "restore completed");
            Ok(())
        }
        Ok(Outcome::Segments(Report { candidate, .. })) => {
            let (replica, txid) = (candidate.replica.name(), candidate.plan.end());
            tracing::info!(path = %shown, replica, %txid, time = %candidate.time, "restore completed");
            Ok(())
        }
        Err(RestoreError::Plan(PlanError::NoBackup)) => {
            tracing::info!(path = %shown, "no backup found, starting fresh");
            Ok(())
        }
        Err(error) => Err(CliError::failed(error)),
    }
}

/// Nothing was ever stored there.
fn is_no_backup(error: &RestoreError) -> bool {
    matches!(
        error,
        RestoreError::Plan(PlanError::NoBackup) | RestoreError::Older(legacy::Error::Plan(legacy::PlanError::NoBackup))
    )
}

/// "Exists" means any kind of thing, an empty file or a directory too.
fn is_done_already(options: &RestoreOptions, output: &Path) -> bool {
    options.if_db_not_exists && output.symlink_metadata().is_ok()
}

/// Keys without effect concern the daemon and are not mentioned.
fn start_log(
    options: &RestoreOptions,
    context: &Context,
    logging: Logging,
    warnings: &[Warning],
) -> Result<(), CliError> {
    // What is printed on stdout is then for a program to read.
    let logging =
        Logging { stderr: logging.stderr || options.json || options.dry_run || options.to_stdout(), ..logging };
    let level = options.verbose.then_some("debug");
    let warnings: Vec<Warning> =
        warnings.iter().filter(|warning| warning.kind != WarningKind::NoEffect).cloned().collect();
    context.start_log(logging, level, &warnings)
}

struct Command<'a> {
    options: &'a RestoreOptions,
    context: &'a Context,
    path: PathBuf,
    replicas: Vec<Replica>,
}

impl Command<'_> {
    async fn run(&self) -> Result<Option<Summary>, CliError> {
        if self.options.dry_run {
            let found = find(&self.replicas, self.options.target, &self.options.older).await;
            match found.map_err(|error| self.explain(error))? {
                Backup::Segments(candidates) => self.print_plan(&candidates[0])?,
                Backup::Older { replica, plan, .. } => self.print_older_plan(&replica, &plan)?,
            }
            return Ok(None);
        }
        let started = Instant::now();
        let progress = Arc::new(Progress::default());
        if let Some(interval) = self.options.follow {
            return self.follow(interval, started, &progress).await;
        }
        let options = self.restore_options();
        let restoring = restore_any(&self.replicas, &self.path, &options, &self.options.older, &progress);
        match shown(restoring, &progress, self.options.json).await {
            Ok(Outcome::Segments(report)) => Ok(Some(self.report(&report, started.elapsed()))),
            Ok(Outcome::Older(report)) => Ok(Some(self.report_older(&report, started.elapsed()))),
            Err(error) => self.ended_by(error),
        }
    }

    fn restore_options(&self) -> Options {
        Options {
            target: self.options.target,
            overwrite: self.options.force,
            delta: self.options.delta,
            parallelism: self.options.parallelism,
            integrity_check: self.options.integrity_check,
            ..Options::default()
        }
    }

    /// An empty replica may have been expected.
    fn ended_by(&self, error: RestoreError) -> Result<Option<Summary>, CliError> {
        match error {
            error if is_no_backup(&error) && self.options.if_replica_exists => {
                tracing::info!("no matching backups found");
                Ok(None)
            }
            error => Err(self.explain(error)),
        }
    }

    fn report(&self, report: &Report, elapsed: Duration) -> Summary {
        let Candidate { replica, plan, time, neighbours, .. } = &report.candidate;
        let checked = match report.evidence {
            Evidence::Database => "database checksum",
            Evidence::Files => "file checksums",
        };
        tracing::info!(
            path = %self.path.display(), replica = replica.name(), txid = %plan.end(), time = %time, checked,
            built_upon = report.built_upon.map(|txid| txid.to_string()),
            "database restored"
        );
        if let Target::Timestamp(asked) = self.options.target {
            let none = |point: Option<Point>| point.map_or_else(|| "none".to_owned(), |point| point.time.to_string());
            tracing::info!(
                %asked, chosen = %time, before = none(neighbours.before), after = none(neighbours.after),
                "restored the newest point captured at or before the time asked for"
            );
        }
        Summary {
            db_path: self.path.display().to_string(),
            replica: replica.kind(),
            txid: plan.end().to_string(),
            duration_ms: elapsed.as_millis(),
            integrity_check: self.checked(),
            timestamp: Some(time.to_string()),
            before: neighbours.before.map(NamedPoint::from),
            after: neighbours.after.map(NamedPoint::from),
            ..Summary::default()
        }
    }

    /// The name of the check that the result has passed.
    fn checked(&self) -> &'static str {
        let how = self.options.integrity_check.name();
        if how != "none" {
            tracing::info!(mode = how, "post-restore integrity check passed");
        }
        how
    }

    fn report_older(&self, report: &OlderReport, elapsed: Duration) -> Summary {
        let OlderReport { replica, plan } = report;
        let index = format!("{:08x}", plan.index());
        tracing::info!(
            path = %self.path.display(), replica = replica.name(), format = "0.3", generation = %plan.generation(),
            index, time = %plan.time(), checked = "file and log checksums", "database restored"
        );
        Summary {
            db_path: self.path.display().to_string(),
            replica: replica.kind(),
            duration_ms: elapsed.as_millis(),
            integrity_check: self.checked(),
            format: Some("0.3"),
            generation: Some(plan.generation().to_string()),
            index: Some(index),
            ..Summary::default()
        }
    }

    fn print_older_plan(&self, replica: &Replica, plan: &legacy::Plan) -> Result<(), CliError> {
        let plan = OlderDryRun {
            source: self.source(),
            target_path: self.path.display().to_string(),
            replica: replica.kind(),
            format: "0.3",
            generation: plan.generation().to_string(),
            index: format!("{:08x}", plan.index()),
            files: plan.items().map(OlderFile::from).collect(),
        };
        render::print(&if self.options.json { render::json(&plan)? } else { plan.text() })
    }

    fn print_plan(&self, candidate: &Candidate) -> Result<(), CliError> {
        let plan = DryRun {
            source: self.source(),
            target_path: self.path.display().to_string(),
            replica: candidate.replica.kind(),
            min_txid: candidate.plan.segments()[0].txids.min().to_string(),
            max_txid: candidate.plan.end().to_string(),
            files: candidate.plan.segments().iter().map(PlannedFile::from).collect(),
        };
        render::print(&if self.options.json { render::json(&plan)? } else { plan.text() })
    }

    fn source(&self) -> String {
        match &self.options.source {
            Source::Database(path) => path.display().to_string(),
            Source::Url(url) => shown_url(url),
        }
    }

    /// What the person at the terminal can do about it.
    fn explain(&self, error: RestoreError) -> CliError {
        match &error {
            RestoreError::Output(OutputError::Exists(_) | OutputError::Sidecar(_)) => {
                CliError::usage(format!("{error}. Use -force to overwrite, or -delta to bring it up to date"))
            }
            RestoreError::Plan(PlanError::Gap { reached, .. }) => {
                let hint = self.again(Target::Txid(*reached), self.options.replica.as_deref());
                CliError::failed_but(error, hint)
            }
            RestoreError::WhichReplica { names } => {
                let hint = self.again(self.options.target, names.first().map(String::as_str));
                CliError::failed_but(error, hint)
            }
            _ => CliError::failed(error),
        }
    }

    /// This command with another target or replica.
    fn again(&self, target: Target, replica: Option<&str>) -> String {
        let RestoreOptions { config, output, force, delta, .. } = self.options;
        let target = match target {
            Target::Latest => None,
            Target::Txid(txid) => Some(("-txid", txid.to_string())),
            Target::Timestamp(time) => Some(("-timestamp", time.to_string())),
        };
        let path = |path: &PathBuf| path.display().to_string();
        let flags = [
            target,
            replica.map(|name| ("-replica", name.to_owned())),
            config.path.as_ref().map(|config| ("-config", path(config))),
            output.as_ref().map(|output| ("-o", path(output))),
        ];
        let mut command = format!("{} restore ", self.context.program);
        for (flag, value) in flags.into_iter().flatten() {
            command.push_str(&format!("{flag} {value} "));
        }
        for (on, flag) in [(*force, "-force "), (*delta, "-delta ")] {
            command.push_str(if on { flag } else { "" });
        }
        command + &self.source()
    }
}

/// What became of a restore, as JSON shows it.
#[derive(Default, Serialize)]
struct Summary {
    db_path: String,
    replica: &'static str,
    /// Empty for a backup of Litestream 0.3.
    txid: String,
    duration_ms: u128,
    integrity_check: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<NamedPoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<NamedPoint>,
}

/// A point as JSON shows it.
#[derive(Serialize)]
struct NamedPoint {
    txid: String,
    timestamp: String,
}

impl From<Point> for NamedPoint {
    fn from(point: Point) -> Self {
        Self { txid: point.txid.to_string(), timestamp: point.time.to_string() }
    }
}

/// How often the progress bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Waits for a restore and shows how far it has come, if a person can see it.
async fn shown<T>(restoring: impl Future<Output = T>, progress: &Progress, quiet: bool) -> T {
    if quiet || !io::stderr().is_terminal() {
        return restoring.await;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {percent}% ({eta} left)");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut restoring = std::pin::pin!(restoring);
    let mut redraw = tokio::time::interval(REDRAW);
    let outcome = loop {
        tokio::select! {
            outcome = &mut restoring => break outcome,
            _ = redraw.tick() => {
                let (pages, total) = progress.pages();
                if total > 0 {
                    bar.set_length(total);
                    bar.set_position(pages);
                }
            }
        }
    };
    bar.finish_and_clear();
    outcome
}
