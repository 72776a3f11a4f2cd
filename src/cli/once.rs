//! What `replicate -once` does besides, when asked: a snapshot of every database
//! (`-force-snapshot`), and deleting what policy no longer keeps
//! (`-enforce-retention`).
//!
//! After everything is replicated and the databases are let go. One replica that
//! fails keeps no other from its turn; at the end all that failed are named.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::CliError;
use super::open;
use super::options::ReplicateOptions;
use crate::config::{Database, ReplicaSettings};
use crate::upkeep::{PruneOptions, prune, snapshot};

/// Every database, and what is asked for each of its replicas.
pub(super) struct Asked {
    force_snapshot: bool,
    enforce_retention: bool,
    databases: Vec<Database>,
}

impl Asked {
    /// Fails where what is asked cannot be done, before anything has begun.
    pub(super) fn new(options: &ReplicateOptions, databases: &[Database]) -> Result<Self, CliError> {
        let (force_snapshot, enforce_retention) = (options.force_snapshot, options.enforce_retention);
        let databases = if force_snapshot || enforce_retention { databases } else { &[] };
        for database in databases {
            if let Some(settings) = database.replicas.iter().find(|settings| settings.create_only) {
                let (name, path) = (&settings.name, database.path.display());
                let message = format!(
                    "replica {name} of {path} is \"create-only\": it cannot be listed, so -force-snapshot and \
                     -enforce-retention are not possible; use \"prune\" with other credentials"
                );
                return Err(CliError::usage(message));
            }
        }
        Ok(Self { force_snapshot, enforce_retention, databases: databases.to_vec() })
    }

    /// Does it.
    pub(super) async fn run(&self) -> Result<(), CliError> {
        let mut failed: Vec<String> = Vec::new();
        let replicas = self.databases.iter().flat_map(|d| d.replicas.iter().map(move |settings| (d, settings)));
        for (database, settings) in replicas {
            let path = database.path.display();
            if let Err(error) = self.one(database, settings).await {
                tracing::error!(path = %path, replica = settings.name, error = error.to_string(), "cannot do what was asked");
                failed.push(format!("replica {} of {path}: {error}", settings.name));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(CliError::failed(failed.join("; "))) }
    }

    async fn one(&self, database: &Database, settings: &ReplicaSettings) -> Result<(), CliError> {
        let replica = Arc::new(open::replica(settings)?);
        let path = database.path.display().to_string();
        if self.force_snapshot {
            let made = snapshot(&replica, open::encoding(settings)).await.map_err(CliError::failed)?;
            let (txid, size) = (made.txids.max().to_string(), made.size);
            tracing::info!(path, replica = settings.name, txid, size, "snapshot complete");
        }
        if self.enforce_retention && settings.upkeep.retention_enabled {
            let options = PruneOptions { retention: open::retention(settings), dry_run: false, confirm: false };
            let now = SystemTime::now().into();
            let pruned = prune(&replica, now, &options).await.map_err(CliError::failed)?;
            if pruned.refused {
                let (gone, all) = pruned.snapshots;
                return Err(CliError::usage(format!(
                    "{gone} of {all} snapshots would be deleted: nothing is; if this is wanted, use \"prune -confirm\""
                )));
            }
            tracing::info!(path, replica = settings.name, deleted = pruned.deletions.len(), "retention enforced");
        }
        Ok(())
    }
}
