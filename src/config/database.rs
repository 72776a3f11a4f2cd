//! One entry of `dbs`. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Warning;
use super::drill::{Drill, drill};
use super::env::Environment;
use super::error::Error;
use super::global::{above_zero, at_least_zero, positive, snapshots};
use super::paths::absolute;
use super::replica::{self, ReplicaSettings};
use super::section::Section;

/// The settings of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The database file, absolute.
    pub path: PathBuf,
    /// The directory for local state, if not `.<file>-litestream` beside the database.
    pub meta_path: Option<PathBuf>,
    /// How often the WAL is looked at without being told that it grew.
    pub monitor_interval: Duration,
    /// How long uncheckpointed pages may wait; `None`: however long.
    pub checkpoint_interval: Option<Duration>,
    /// How long SQLite waits for a lock.
    pub busy_timeout: Duration,
    /// Pages in the WAL from which on checkpoints are tried.
    pub min_checkpoint_page_count: u32,
    /// When the WAL file is cut down.
    pub truncate: Truncate,
    /// WAL bytes captured in one go; `None`: all there are.
    pub max_sync_wal_bytes: Option<u64>,
    /// Bytes that may wait locally for slow replicas; `None`: the spool's default.
    pub spool_max_bytes: Option<u64>,
    /// Without a commit for this long it is left alone, 0 = never; `None`: that depends on how many there are.
    pub park_after: Option<Duration>,
    /// A missing database is restored before replication starts.
    pub restore_if_db_not_exists: bool,
    /// How restoring it is rehearsed, if it is.
    pub drill: Option<Drill>,
    /// Its replicas, one or more, with distinct names.
    pub replicas: Vec<ReplicaSettings>,
}

/// When the WAL file is cut down to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncate {
    /// When it holds this many pages.
    AtPages(u32),
    /// Not because of its size.
    Never,
}

impl Database {
    /// Litestream's defaults, and no replica yet.
    pub(crate) fn with_defaults(path: PathBuf) -> Self {
        Self {
            path,
            meta_path: None,
            monitor_interval: Duration::from_secs(1),
            checkpoint_interval: Some(Duration::from_secs(60)),
            busy_timeout: Duration::from_secs(1),
            min_checkpoint_page_count: 1000,
            truncate: Truncate::AtPages(121_359), // half a gigabyte with 4 KiB pages
            max_sync_wal_bytes: Some(64 * 1024 * 1024),
            spool_max_bytes: None,
            park_after: None,
            restore_if_db_not_exists: false,
            drill: None,
            replicas: Vec::new(),
        }
    }
}

/// An entry and what surrounds it.
pub(crate) struct Entry<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) section: Section<'a>,
    /// The top of the config, which holds defaults for replicas.
    pub(crate) global: Section<'a>,
    pub(crate) environment: &'a Environment,
}

impl Entry<'_> {
    /// Mistakes that make the whole config unusable, whichever database is meant.
    pub(crate) fn check_early(&self) -> Result<(), Error> {
        let given = |key| self.section.text(key).is_some() || self.section.bool(key) == Some(true);
        let wrong = match () {
            () if given("path") && given("dir") => "cannot specify both 'path' and 'dir'",
            () if !given("path") && !given("dir") => "must specify either 'path' or 'dir'",
            () if given("dir") && !given("pattern") => "'pattern' is required when using 'dir'",
            () if given("watch") && !given("dir") => "'watch' can only be enabled with a directory",
            () if given("meta-dir") && !given("dir") => "'meta-dir' can only be used with a directory",
            () if given("meta-dir") && given("meta-path") => "cannot specify both 'meta-path' and 'meta-dir'",
            () => "",
        };
        if !wrong.is_empty() {
            return Err(Error::invalid(format!("database config #{}: {wrong}", self.number)));
        }
        let name = self.name();
        snapshots(self.section.section("snapshot"), &format!("{name}."))?;
        for (key, several) in [("replica", false), ("replicas", true)] {
            for (index, replica) in self.section.sections(key).unwrap_or_default().into_iter().enumerate() {
                let place = if several { format!("{key}[{index}]") } else { key.to_owned() };
                let field = format!("{name}.{place}.sync-interval");
                above_zero(&field, "sync interval must be greater than 0", replica.duration("sync-interval"))?;
            }
        }
        Ok(())
    }

    /// `dbs[PATH]`, as errors name the entry.
    fn name(&self) -> String {
        let path = self.section.text("path").map(|path| database_path(path, self.environment));
        let directory = || self.section.text("dir").map(|path| absolute(Path::new(path), self.environment));
        format!("dbs[{}]", path.or_else(directory).unwrap_or_default().display())
    }
}

/// The database file that a `path` means.
pub fn database_path(path: &str, environment: &Environment) -> PathBuf {
    let path = path.strip_prefix("sqlite://").or_else(|| path.strip_prefix("sqlite3://")).unwrap_or(path);
    absolute(Path::new(path), environment)
}

pub(crate) fn build(entry: &Entry<'_>, warnings: &mut Vec<Warning>) -> Result<Database, Error> {
    let section = entry.section;
    let name = entry.name();
    let field = |key: &str| format!("{name}.{key}");
    let monitor = section.duration("monitor-interval");
    above_zero(&field("monitor-interval"), "monitor interval must be greater than 0", monitor)?;
    let checkpoint = section.duration("checkpoint-interval");
    at_least_zero(&field("checkpoint-interval"), "checkpoint interval must not be negative", checkpoint)?;
    let busy = section.duration("busy-timeout");
    at_least_zero(&field("busy-timeout"), "busy timeout must not be negative", busy)?;

    let park = section.duration("park-after");
    at_least_zero(&field("park-after"), "must not be negative", park)?;
    let path = section.text("path").unwrap_or_default();
    let defaults = Database::with_defaults(database_path(path, entry.environment));
    Ok(Database {
        meta_path: section.text("meta-path").map(|path| absolute(Path::new(path), entry.environment)),
        monitor_interval: positive(monitor).unwrap_or(defaults.monitor_interval),
        checkpoint_interval: match positive(checkpoint) {
            Some(interval) => Some(interval).filter(|interval| !interval.is_zero()),
            None => defaults.checkpoint_interval,
        },
        busy_timeout: positive(busy).unwrap_or(defaults.busy_timeout),
        min_checkpoint_page_count: match section.int("min-checkpoint-page-count") {
            None => defaults.min_checkpoint_page_count,
            Some(pages) => u32::try_from(pages).ok().filter(|pages| *pages > 0).ok_or_else(|| {
                let reason = "minimum checkpoint page count required, and below 4294967296";
                Error::field(&field("min-checkpoint-page-count"), reason, &pages.to_string())
            })?,
        },
        truncate: match section.int("truncate-page-n") {
            None | Some(0) => defaults.truncate,
            Some(i64::MIN..0) => Truncate::Never,
            // More pages than a WAL can have is as good as never.
            Some(pages) => u32::try_from(pages).map_or(Truncate::Never, Truncate::AtPages),
        },
        max_sync_wal_bytes: match section.int("max-sync-wal-bytes") {
            None => defaults.max_sync_wal_bytes,
            Some(0) => None,
            Some(bytes) => {
                Some(u64::try_from(bytes).map_err(|_| {
                    Error::field(&field("max-sync-wal-bytes"), "must not be negative", &bytes.to_string())
                })?)
            }
        },
        spool_max_bytes: match section.size("spool-max-size") {
            Some(0) => return Err(Error::field(&field("spool-max-size"), "must be greater than 0", "0")),
            bytes => bytes,
        },
        park_after: positive(park.or_else(|| entry.global.duration("park-after"))),
        restore_if_db_not_exists: section.bool("restore-if-db-not-exists").unwrap_or(false),
        drill: drill(section.section("drill"), entry.global.section("drill"), &name)?,
        replicas: replica::build_all(entry, warnings)?,
        ..defaults
    })
}
