//! From settings to the things themselves: replicas and daemon jobs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::CliError;
use crate::capture;
use crate::config::{Backend, Database, LtxEncoding, ReplicaSettings, Truncate};
use crate::daemon::{Destination, Job};
use crate::ltx::Encoding;
use crate::replica::{Layout, Replica};
use crate::storage::{FileStorage, Key, Retry};

/// Opens a replica. Nothing is contacted yet.
pub(super) fn replica(settings: &ReplicaSettings) -> Result<Replica, CliError> {
    Ok(in_storage(settings)?.with_identities(settings.age.identities.clone()))
}

fn in_storage(settings: &ReplicaSettings) -> Result<Replica, CliError> {
    match &settings.backend {
        Backend::File { directories } => {
            let storage = Arc::new(Retry::new(Arc::new(FileStorage::new(directory(directories)))));
            Ok(Replica::new(settings.name.clone(), storage, Key::ROOT, Layout::Decimal))
        }
        Backend::S3(_) => Err(CliError::not_available("replica type \"s3\"")),
        Backend::NotBuilt { .. } => {
            settings.built()?;
            Err(CliError::not_available(format!("replica type {:?}", settings.backend.kind().name())))
        }
    }
}

/// The first place that exists, else the first.
fn directory(candidates: &[PathBuf]) -> PathBuf {
    let existing = candidates.iter().find(|path| path.is_dir());
    existing.or(candidates.first()).cloned().unwrap_or_default()
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
        create_only: false,
    })
}
