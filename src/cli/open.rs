//! From settings to the things themselves: replicas and daemon jobs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Source;
use super::error::CliError;
use super::settings::Subject;
use crate::capture::{self, Parking};
use crate::config;
use crate::config::{Backend, Database, LtxEncoding, ReplicaSettings, S3Settings, Truncate, shown_url};
use crate::daemon::{Destination, Job};
use crate::ltx::Encoding;
use crate::replica::{Layout, Replica, Spellings};
use crate::storage::s3::{self, S3Storage};
use crate::storage::{
    Conditional, Counted, Counts, FileStorage, Key, Known, LookFirst, Pace, Retry, Storage, Throttle,
};
use crate::upkeep::{Keep, Policy, Retention, Snapshots, TimeOfDay};

/// Where a replica is.
pub(super) struct Place {
    /// Without retries.
    pub(super) storage: Arc<dyn Storage>,
    /// What the service is asked through it.
    counts: Arc<Counts>,
    /// Whether it honours conditions, if that is not sure.
    known: Option<Known>,
    /// The configured root.
    pub(super) root: Key,
    /// Other spellings of it that may have data instead.
    others: Vec<Key>,
    pub(super) layout: Layout,
}

/// The storage of a replica. Nothing is contacted yet.
pub(super) fn place(settings: &ReplicaSettings) -> Result<Place, CliError> {
    match &settings.backend {
        Backend::File { directories } => {
            let counts = Arc::new(Counts::default());
            let storage = Arc::new(Counted::new(FileStorage::new(directory(directories)), counts.clone()));
            Ok(Place { storage, counts, known: None, root: Key::ROOT, others: Vec::new(), layout: Layout::Decimal })
        }
        Backend::S3(s3) => {
            let mut roots = s3.roots.iter().cloned();
            let root = roots.next().unwrap_or(Key::ROOT);
            let storage = S3Storage::shared(s3_options(s3)?);
            let (counts, known) = (storage.counts().clone(), storage.known().clone());
            let known = s3.conditional_writes.then_some(known);
            let storage = looking(storage, s3.conditional_writes);
            Ok(Place { storage, counts, known, root, others: roots.collect(), layout: Layout::Hex })
        }
        Backend::NotBuilt { .. } => {
            settings.built()?;
            Err(CliError::not_available(format!("replica type {:?}", settings.backend.kind().name())))
        }
    }
}

/// All replicas of a database, or those of this name; at least one.
pub(super) fn replicas(subject: &Subject, name: Option<&str>, source: &Source) -> Result<Vec<Replica>, CliError> {
    let replicas = subject.named(name).map(replica).collect::<Result<Vec<_>, _>>()?;
    if replicas.is_empty() { Err(unknown_replica(name, source)) } else { Ok(replicas) }
}

pub(super) fn unknown_replica(name: Option<&str>, source: &Source) -> CliError {
    let name = name.unwrap_or_default();
    CliError::usage(match source {
        Source::Database(path) => format!("replica {name:?} not found for database {:?}", path.display().to_string()),
        Source::Url(url) => format!("replica {name:?} is not what {} names", shown_url(url)),
    })
}

/// Opens a replica. Nothing is contacted yet.
pub(super) fn replica(settings: &ReplicaSettings) -> Result<Replica, CliError> {
    let Place { mut storage, counts, known, root, others, layout } = place(settings)?;
    // A directory never asks for fewer requests, and thousands of databases may have one each.
    if !matches!(settings.backend, Backend::File { .. }) || settings.max_upload_rate.is_some() {
        // Inside the retries, so that each attempt keeps the pace.
        let pace = Pace::shared(&settings.backend.service(), settings.max_upload_rate);
        storage = Arc::new(Throttle::new(storage, pace));
    }
    storage = Arc::new(Retry::new(storage));
    if let Some(known) = known {
        // Above the retries: a put that is repeated there was looked for before.
        storage = Arc::new(Conditional::new(storage, settings.backend.location(), known));
    }
    // Who may not list cannot look for data elsewhere.
    if !others.is_empty() && !settings.create_only {
        let roots = [root.clone()].into_iter().chain(others).collect();
        storage = Arc::new(Spellings::new(storage, layout, roots));
    }
    let replica = Replica::new(settings.name.clone(), storage, root, layout).with_counts(counts);
    Ok(replica.with_identities(settings.age.identities.clone()))
}

/// What an S3 storage is told, with the key from a file.
pub(super) fn s3_options(settings: &S3Settings) -> Result<s3::Options, CliError> {
    Ok(settings.options(|path| std::fs::read_to_string(path))?)
}

/// The storage of these options.
pub(super) fn s3_storage(options: s3::Options, conditional_writes: bool) -> Arc<dyn Storage> {
    looking(S3Storage::new(options), conditional_writes)
}

fn looking(storage: S3Storage, conditional_writes: bool) -> Arc<dyn Storage> {
    let storage = Arc::new(storage);
    if conditional_writes { storage } else { Arc::new(LookFirst::new(storage)) }
}

/// The first place that exists, else the first.
pub(super) fn directory(candidates: &[PathBuf]) -> PathBuf {
    let existing = candidates.iter().find(|path| path.is_dir());
    existing.or(candidates.first()).cloned().unwrap_or_default()
}

/// Which places are taken, on replicas and on this machine: under two histories in
/// one place both would fight over its names.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, String>);

impl Places {
    /// Takes the places of a database, all or none.
    pub(super) fn take(&mut self, database: &Database) -> Result<(), CliError> {
        let replicas = database.replicas.iter().map(|settings| {
            let who = format!("replica {} of {}", settings.name, database.path.display());
            (identity(&settings.backend), who, settings.backend.location())
        });
        let state = database.meta_path.clone().unwrap_or_else(|| capture::default_meta_path(&database.path));
        let local = (
            format!("state {}", state.display()),
            format!("local state of {}", database.path.display()),
            state.display().to_string(),
        );
        let wanted: Vec<_> = replicas.chain([local]).collect();
        for (at, (identity, who, place)) in wanted.iter().enumerate() {
            let own = wanted[..at].iter().find(|(earlier, ..)| earlier == identity).map(|(_, other, _)| other);
            if let Some(other) = own.or(self.0.get(identity)) {
                let message = format!("{other} and {who} are in one place, {place}: give each a path of its own");
                return Err(CliError::usage(message));
            }
        }
        for (identity, who, _) in wanted {
            self.0.insert(identity, who);
        }
        Ok(())
    }
}

/// Refuses settings under which two histories would fight over the names in one place.
pub(super) fn one_place_each(databases: &[Database]) -> Result<Places, CliError> {
    let mut places = Places::default();
    databases.iter().try_for_each(|database| places.take(database))?;
    Ok(places)
}

/// The same text for the same place, as far as can be told without asking it.
fn identity(backend: &Backend) -> String {
    match backend {
        Backend::File { directories } => format!("file {}", resolved(&directory(directories)).display()),
        Backend::S3(s3) => format!("s3 {}", s3.place()),
        Backend::NotBuilt { .. } => backend.location(),
    }
}

/// The path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match existing {
        // Not `join`, which puts a slash behind a path that exists.
        Some((above, real)) => real.components().chain(path.strip_prefix(above).unwrap_or(path).components()).collect(),
        None => path.to_owned(),
    }
}

/// A handful of databases costs nothing; of many, those that nobody writes to are left alone.
const PARKING: Parking = Parking { after: Duration::from_secs(5 * 60), among: 100 };
/// Where the local state of a database is.
pub(super) fn state_dir(database: &Database) -> PathBuf {
    let defaults = capture::Options::new(&database.path);
    let meta_path = database.meta_path.clone().unwrap_or(defaults.meta_path);
    capture::Options { meta_path, path: defaults.path, ..capture::Options::new(&database.path) }.state_dir()
}

/// What the daemon does for a database.
pub(super) fn job(database: &Database) -> Result<Job, CliError> {
    let replicas = database.replicas.iter().map(destination).collect::<Result<Vec<_>, CliError>>()?;
    let fastest = replicas.iter().map(|r| r.sync_interval).min().unwrap_or(database.monitor_interval);
    let defaults = capture::Options::new(&database.path);
    let encoding = replicas.first().map_or(Encoding::Block, |r| r.encoding);
    let capture = capture::Options {
        meta_path: database.meta_path.clone().unwrap_or(defaults.meta_path),
        busy_timeout: database.busy_timeout,
        sync_interval: fastest.min(database.monitor_interval),
        checkpoint: capture::checkpoint::Policy {
            min_frames: database.min_checkpoint_page_count,
            interval: database.checkpoint_interval.unwrap_or(Duration::ZERO),
            truncate_frames: match database.truncate {
                Truncate::AtPages(pages) => Some(pages),
                Truncate::Never => None,
            },
        },
        encoding,
        spool_budget: database.spool_max_bytes,
        max_pass_bytes: database.max_sync_wal_bytes.unwrap_or(u64::MAX),
        parking: match database.park_after {
            None => Some(PARKING),
            Some(Duration::ZERO) => None,
            Some(after) => Some(Parking { after, among: 0 }),
        },
        limits: defaults.limits,
        path: defaults.path,
    };
    Ok(Job { capture, replicas })
}

fn destination(settings: &ReplicaSettings) -> Result<Destination, CliError> {
    Ok(Destination {
        replica: Arc::new(replica(settings)?),
        encoding: encoding(settings),
        sync_interval: settings.sync_interval,
        max_segments: settings.upkeep.max_segments,
        upkeep: Some(Arc::new(policy(settings))),
        create_only: settings.create_only,
    })
}

/// What a replica keeps, whoever deletes the rest.
pub(super) fn retention(settings: &ReplicaSettings) -> Retention {
    let asked = &settings.upkeep;
    let config::Keep { last, hourly, daily, weekly, monthly, yearly } = asked.keep;
    Retention {
        l0: asked.l0_retention,
        check_interval: asked.check_interval,
        history: settings.snapshots.retention,
        keep: Keep { last, hourly, daily, weekly, monthly, yearly },
        grace: asked.grace,
    }
}

fn policy(settings: &ReplicaSettings) -> Policy {
    let asked = &settings.upkeep;
    let at = asked.snapshot_at.map(|(after_midnight, jitter)| TimeOfDay { after_midnight, jitter });
    Policy {
        levels: asked.levels.clone(),
        snapshots: Snapshots { interval: settings.snapshots.interval, at },
        retention: asked.retention_enabled.then(|| retention(settings)),
        verify: asked.verify,
        audit_interval: asked.audit_interval,
        encoding: encoding(settings),
    }
}

/// How segments are packed there.
pub(super) fn encoding(settings: &ReplicaSettings) -> Encoding {
    match settings.ltx_encoding {
        LtxEncoding::Block => Encoding::Block,
        LtxEncoding::Frame => Encoding::Frame,
    }
}
