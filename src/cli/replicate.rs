//! `replicate`: run the daemon until told to stop.
//!
//! Exit code 0 says that every captured commit is on every replica; otherwise
//! the command fails and names what is only on this machine. With a child
//! process (`-exec`) its end is ours, and a failure of it is one of ours.

mod child;
mod directory_watch;
mod fleet;
mod heap;
mod init;
mod member;
mod notify;
mod shell_words;
mod signals;
mod socket;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::directories;
use super::error::CliError;
use super::observe::{self, Wanted};
use super::once::Asked;
use super::open;
use super::options::{Job as What, ReplicateOptions};
use super::settings::Context;
use crate::capture::connection;
use crate::config::{Config, Environment, Socket, config_path};
use crate::daemon::{Daemon, Settings, Unconfirmed};
use crate::status::{DatabaseFacts, Health};

use child::{Child, CommandLine};
use directory_watch::DirectoryWatch;
use fleet::{Fleet, Ways};
use notify::Manager;
pub(super) use signals::Signals;

/// Threads for uploads and timers; the blocking work has its own.
const ASYNC_THREADS: usize = 2;
/// Threads for file storage, merging and bases.
const BLOCKING_THREADS: usize = 16;

/// Runs until a signal, or once.
pub(crate) fn run(options: &ReplicateOptions, context: &Context) -> Result<(), CliError> {
    init::take_over_if_first()?;
    let environment = context.environment()?;
    let config = match &options.job {
        What::Config(flags) => context.config(flags)?,
        What::Direct { database, urls } => Config::direct(database, urls, &environment)?,
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
    let exec = options.exec.as_ref().or(config.global.exec.as_ref());
    if options.once && exec.is_some() {
        return Err(CliError::usage("cannot specify -once flag with -exec"));
    }
    let exec = exec.map(|text| CommandLine::parse(text)).transpose()?;
    open::one_place_each(&directories::to_replicate(&config, &|_, _| false)?)?;
    let file = match &options.job {
        What::Config(flags) => Some(config_path(flags.path.as_deref(), &environment)),
        What::Direct { .. } => None,
    };
    let wanted = observe::wanted(&config.global.monitoring, &context.program, file.as_deref())?;
    heap::share();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    let outcome = runtime.block_on(replicate(options, context, config, exec.as_ref(), environment, wanted));
    // Whatever still runs belongs to a replica that did not answer in time.
    runtime.shutdown_background();
    outcome
}

async fn replicate(
    options: &ReplicateOptions,
    context: &Context,
    config: Config,
    exec: Option<&CommandLine>,
    environment: Environment,
    wanted: Wanted,
) -> Result<(), CliError> {
    // Before anything is started, so that no signal finds the default behaviour.
    let mut signals = Signals::new()?;
    let open_files = allow_many_files();
    let hangups = signal(SignalKind::hangup()).map_err(CliError::failed)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let settings = Settings {
        workers,
        stopping_retry: config.global.shutdown_sync_interval,
        spool_max_bytes: config.global.spool_max_bytes,
        disk_free_floor: config.global.disk_free_floor,
        open_files,
        ..Settings::default()
    };
    let source = match &options.job {
        What::Config(flags) => Some(flags.clone()),
        What::Direct { .. } => None,
    };
    let socket = options.socket.clone().map(Socket::at).or_else(|| config.global.socket.clone());
    let ways = Ways {
        rehearse: !options.once,
        restore_missing: options.restore_if_db_not_exists,
        strict: options.strict_start,
    };
    let asked = Asked::new(options, config.databases()?)?;
    let daemon = Arc::new(Daemon::start(Vec::new(), settings));
    let fleet = Arc::new(Fleet::new(daemon, context.clone(), environment, source, config, ways));
    let told_to_stop = tokio::select! {
        // In this order: what need not wait for a replica is launched whatever was said meanwhile.
        biased;
        launched = fleet.launch() => {
            launched?;
            false
        }
        stop = signals.next() => {
            // An interrupted restore is taken up by the next start. What is here is replicated before the end.
            tracing::info!(signal = stop.name(), "signal received before replication began");
            fleet.launch_what_is_here()?;
            true
        }
    };
    let daemon = &fleet.daemon;
    let observing = match options.once {
        true => None,
        false => Some(observe::start(wanted, daemon.clone()).await),
    };
    let server = match (&observing, socket) {
        (Some(observing), Some(socket)) => socket::serve(&fleet, &observing.observer, &socket).await,
        _ => None,
    };
    let watching = (!options.once).then(|| DirectoryWatch::start(&fleet));
    let reloading = tokio::spawn(reload_when_told(fleet.clone(), hangups));
    let manager = Manager::of(&fleet.environment).map(Arc::new);
    let informing = manager.clone().map(|manager| {
        let board = daemon.board().clone();
        tokio::spawn(async move { manager.keep_informed(&board).await })
    });
    let outcome = match (options.once, exec) {
        (true, _) if told_to_stop => Err(interrupted()),
        (false, _) if told_to_stop => Ok(()),
        (true, _) => tokio::select! {
            outcome = synced_once(daemon) => outcome,
            _ = signals.next() => Err(interrupted()),
        },
        (false, Some(command)) => live_with(command, options, &fleet.environment, &mut signals).await,
        (false, None) => {
            tracing::info!(signal = signals.next().await.name(), "signal received, litestream shutting down");
            Ok(())
        }
    };
    reloading.abort();
    drop(watching);
    drop(server);
    if let Some(informing) = informing {
        informing.abort();
    }
    let patience = fleet.patience();
    if let Some(manager) = &manager {
        manager.stopping(patience);
    }
    let stopped = tokio::select! {
        stopped = daemon.stop(patience) => stopped,
        _ = signals.next() => {
            tracing::warn!("second signal received: exiting at once; what is not uploaded stays in the local state");
            std::process::exit(1);
        }
    };
    drop(observing);
    let confirmed = report(&stopped);
    outcome?;
    confirmed?;
    asked.run().await?;
    tracing::info!("litestream shut down");
    Ok(())
}

fn interrupted() -> CliError {
    CliError::usage("interrupted before everything was replicated")
}

/// Each followed database has some files open: as many are allowed as the system
/// grants without asking. How many those are; `None`: any number.
fn allow_many_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(error = error.to_string(), "the limit on open files stays as it is");
            current
        }
    }
}

/// SIGHUP: the config is read again, and counts if there is nothing wrong with it.
async fn reload_when_told(fleet: Arc<Fleet>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        tracing::info!("signal received, reloading the config");
        if let Err(error) = fleet.reload().await {
            tracing::error!(error = error.to_string(), "config not reloaded: everything stays as it was");
        }
    }
}

/// Runs the application until it ends.
async fn live_with(
    command: &CommandLine,
    options: &ReplicateOptions,
    environment: &Environment,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let child = Child::start(command, environment, options.log_level.as_deref())?;
    let life = child.live(signals).await?;
    tracing::info!("exec process exited, litestream shutting down");
    life.verdict(options.exec_exit_code)
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
