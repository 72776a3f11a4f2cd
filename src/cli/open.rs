//! From the settings of a replica to the replica.

use std::sync::Arc;

use super::error::CliError;
use crate::config::{Backend, ReplicaSettings};
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
