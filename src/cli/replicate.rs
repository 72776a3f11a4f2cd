//! `replicate`: run the daemon until told to stop.
//!
//! Exit code 0 says that every captured commit is on every replica; otherwise
//! the command fails and names what is only on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::directories;
use super::directory_watch::DirectoryWatch;
use super::drill;
use super::error::CliError;
use super::open::{self, Places};
use super::options::{Job as What, ReplicateOptions};
use super::settings::Context;
use crate::capture::connection;
use crate::config::{Backend, Config, Database};
use crate::daemon::{Daemon, Job, Settings, Unconfirmed};
use crate::status::{DatabaseFacts, Health};

/// Threads for uploads and timers; the blocking work has its own.
const ASYNC_THREADS: usize = 2;
/// Threads for file storage, merging and bases.
const BLOCKING_THREADS: usize = 16;

/// Runs until a signal, or once.
pub(crate) fn run(options: &ReplicateOptions, context: &Context) -> Result<(), CliError> {
    let config = match &options.job {
        What::Config(flags) => context.config(flags)?,
        What::Direct { database, urls } => Config::direct(database, urls, &context.environment()?)?,
    };
    context.start_log(config.logging, options.log_level.as_deref(), &config.warnings)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), sqlite = rusqlite::version(), "{}", context.program);
    if options.trace_given {
        tracing::warn!("flag -trace has no effect any more: use -log-level trace");
    }
    if !connection::bundled_is_safe() {
        return Err(CliError::usage(format!(
            "SQLite {} in this program can lose commits of others when it checkpoints: build it with 3.51.3 or newer",
            rusqlite::version()
        )));
    }
    let databases = directories::to_replicate(&config)?;
    let places = open::one_place_each(&databases)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    let outcome = runtime.block_on(replicate(options, &config, &databases, places));
    // Whatever still runs belongs to a replica that did not answer in time.
    runtime.shutdown_background();
    outcome
}

async fn replicate(
    options: &ReplicateOptions,
    config: &Config,
    databases: &[Database],
    places: Places,
) -> Result<(), CliError> {
    // Before anything is started, so that no signal finds the default behaviour.
    let mut signals = Signals::new()?;
    allow_many_files();
    if databases.is_empty() && config.directories().is_empty() {
        tracing::error!("no databases specified in configuration");
    }
    for database in databases.iter().filter(|d| d.restore_if_db_not_exists || options.restore_if_db_not_exists) {
        super::restore::if_missing(database).await?;
    }
    for replica in databases.iter().flat_map(|d| &d.replicas).filter(|r| !r.upkeep.retention_enabled) {
        tracing::warn!(name = replica.name, "retention is disabled: nothing is deleted from this replica");
    }
    let jobs = databases.iter().map(open::job).collect::<Result<Vec<_>, CliError>>()?;
    for (database, job) in databases.iter().zip(&jobs) {
        for (settings, to) in database.replicas.iter().zip(&job.replicas) {
            if (options.strict_start || config.global.strict_start) && !to.create_only {
                to.replica.list_all().await.map_err(|error| {
                    CliError::failed(format!("replica {} of {}: {error}", settings.name, database.path.display()))
                })?;
            }
            if config.directories().iter().any(|directory| directory.holds(&database.path)) {
                continue; // told once for the whole directory
            }
            tracing::info!(
                db = database.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                name = settings.name,
                r#type = to.replica.kind(),
                "sync-interval" = ?settings.sync_interval,
                path = settings.backend.location(),
                "replicating to"
            );
            if matches!(&settings.backend, Backend::S3(s3) if !s3.conditional_writes) {
                tracing::warn!(
                    name = settings.name,
                    "conditional writes are off for this replica: make sure that only one program writes to it"
                );
            }
        }
    }
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let settings = Settings {
        workers,
        stopping_retry: config.global.shutdown_sync_interval,
        spool_max_bytes: config.global.spool_max_bytes,
        disk_free_floor: config.global.disk_free_floor,
        ..Settings::default()
    };
    let daemon = Arc::new(Daemon::start(Vec::new(), settings));
    for (database, job) in databases.iter().zip(jobs) {
        take_up(&daemon, database, job, !options.once)?;
    }
    for directory in config.directories() {
        let found = databases.iter().filter(|database| directory.holds(&database.path)).count();
        let path = directory.dir.display().to_string();
        let to: Vec<String> = directory.template().replicas.iter().map(|r| r.backend.location()).collect();
        tracing::info!(path, databases = found, watch = directory.watch, to = to.join(","), "replicating directory to");
    }
    let patience = config.global.shutdown_sync_timeout;
    let watching = (!options.once).then(|| DirectoryWatch::start(&daemon, config, databases, places, patience));
    let once = match options.once {
        true => tokio::select! {
            outcome = synced_once(&daemon) => outcome,
            _ = signals.next() => Err(CliError::usage("interrupted before everything was replicated")),
        },
        false => {
            let name = signals.next().await;
            tracing::info!(signal = name, "signal received, litestream shutting down");
            Ok(())
        }
    };
    drop(watching);
    let stopped = tokio::select! {
        stopped = daemon.stop(config.global.shutdown_sync_timeout) => stopped,
        _ = signals.next() => {
            tracing::warn!("second signal received: exiting at once; what is not uploaded stays in the local state");
            std::process::exit(1);
        }
    };
    once?;
    report(&stopped)?;
    tracing::info!("litestream shut down");
    Ok(())
}

/// Each followed database has some files open: as many are allowed as the system grants without asking.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(error = error.to_string(), "the limit on open files stays as it is");
    }
}

/// Hands a database to the daemon.
pub(super) fn take_up(daemon: &Daemon, database: &Database, job: Job, rehearse: bool) -> Result<(), CliError> {
    let id = daemon.add(job.clone()).map_err(CliError::failed)?;
    if rehearse {
        daemon.rehearse(drill::rehearsals(database, id, &job));
    }
    Ok(())
}

/// Waits until every database was captured and every replica has it.
async fn synced_once(daemon: &Daemon) -> Result<(), CliError> {
    let mut changes = daemon.board().watch();
    loop {
        let facts = daemon.board().read();
        if let Some(error) = facts.iter().find_map(trouble) {
            return Err(error);
        }
        if facts.iter().all(|f| f.captured.is_some() && f.behind().next().is_none()) {
            return Ok(());
        }
        // The daemon outlives this wait, so the sender is there.
        let _ = changes.changed().await;
        // Each look is at all of them: thousands of changes are not worth thousands of looks.
        if facts.len() > FEW {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Databases that are looked at after every change.
const FEW: usize = 100;

fn trouble(facts: &DatabaseFacts) -> Option<CliError> {
    let path = facts.path.display();
    match &facts.health {
        Health::Waiting(reason) => return Some(CliError::failed(format!("{path} has no position yet: {reason}"))),
        Health::Broken(reason) => return Some(CliError::failed(format!("{path}: {reason}"))),
        Health::Starting | Health::Live | Health::Stopped => {}
    }
    let failed = facts.replicas.iter().find_map(|r| Some((r, r.error.as_ref()?)));
    failed.map(|(replica, error)| CliError::failed(format!("{path}: replica {}: {error}", replica.name)))
}

/// Says what is only here.
fn report(unconfirmed: &[Unconfirmed]) -> Result<(), CliError> {
    for lost in unconfirmed {
        tracing::error!(
            path = lost.path.display().to_string(),
            replica = lost.replica.as_deref().unwrap_or("-"),
            reason = lost.reason,
            "not replicated: the newest commits are only on this machine"
        );
    }
    match unconfirmed {
        [] => Ok(()),
        [only] => Err(CliError::failed(format!(
            "the newest commits of {} are only on this machine{}: {}",
            only.path.display(),
            only.replica.as_ref().map_or(String::new(), |name| format!(" and not on replica {name}")),
            only.reason
        ))),
        several => {
            let paths: Vec<PathBuf> = several.iter().map(|u| u.path.clone()).collect();
            Err(CliError::failed(format!(
                "the newest commits are only on this machine in {} cases, the first of them {}",
                several.len(),
                paths[0].display()
            )))
        }
    }
}

/// What asks the process to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::failed);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
