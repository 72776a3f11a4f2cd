//! From settings to the things themselves: replicas and daemon jobs.

use std::sync::Arc;
use std::time::Duration;

use super::error::CliError;
use crate::capture;
use crate::config::{Backend, Database, LtxEncoding, ReplicaSettings, Truncate};
use crate::daemon::{Destination, Job};
use crate::ltx::Encoding;
use crate::replica::{Layout, Replica};
use crate::storage::{FileStorage, Key, Retry, Storage};

/// The replica with these settings. Nothing is asked of the storage yet.
pub(crate) fn replica(settings: &ReplicaSettings) -> Result<Replica, CliError> {
    settings.built()?;
    let (storage, root, layout): (Arc<dyn Storage>, Key, Layout) = match &settings.backend {
        Backend::File { directories } => {
            // Data is where it already is; Litestream's own choice is the first.
            let found = directories.iter().find(|directory| directory.is_dir()).or(directories.first());
            let directory = found.expect("a file replica has a directory");
            (Arc::new(FileStorage::new(directory)), Key::ROOT, Layout::Decimal)
        }
        Backend::NotBuilt { .. } => unreachable!("refused above"),
    };
    Ok(Replica::new(settings.name.clone(), Arc::new(Retry::new(storage)), root, layout))
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
        path: defaults.path,
    };
    Ok(Job { capture, replicas })
}

fn destination(settings: &ReplicaSettings) -> Result<Destination, CliError> {
    Ok(Destination {
        replica: Arc::new(replica(settings)?),
        encoding: match settings.ltx_encoding {
            LtxEncoding::Block => Encoding::Block,
            LtxEncoding::Frame => Encoding::Frame,
        },
        sync_interval: settings.sync_interval,
        max_segments: 0,
    })
}
