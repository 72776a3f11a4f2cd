//! The databases of directories in the config: those that are there, for listing
//! and replicating, and those that a replica has, for restoring.

use std::collections::HashSet;

use super::error::CliError;
use super::open;
use crate::config::{Config, Database, Directory};
use crate::directory::{Scan, Wanted, scan};
use crate::replica::databases_below;

/// Every database of the config: first those with an entry of their own, then
/// what is in its directories now.
pub(super) fn databases(config: &Config) -> Result<Vec<Database>, CliError> {
    let mut all = config.databases()?.to_vec();
    for directory in config.directories() {
        for found in look(directory)?.databases {
            if all.iter().all(|known| known.path != found.path) {
                all.push(directory.database(&found.path)?);
            }
        }
    }
    Ok(all)
}

/// A first look at a directory, before anything in it is open.
pub(super) fn look(directory: &Directory) -> Result<Scan, CliError> {
    let wanted = Wanted {
        enter: &|dir| directory.recursive && !Directory::is_state(dir),
        file: &|path| directory.holds(path),
        entering: &mut |_| {},
        known: &HashSet::new(),
    };
    scan(&directory.dir, wanted)
        .map_err(|error| CliError::failed(format!("cannot look into directory {}: {error}", directory.dir.display())))
}

/// What a directory held, as its replicas tell it.
pub(super) async fn on_replicas(directory: &Directory) -> Result<Vec<Database>, CliError> {
    let mut paths = Vec::new();
    for settings in &directory.template().replicas {
        let place = open::place(settings)?;
        // A file replica's place is its folder, in which nothing else is.
        let relative = databases_below(&*place.storage, &place.root, place.layout).await;
        let relative = relative.map_err(|error| CliError::failed(format!("replica {}: {error}", settings.name)))?;
        paths.extend(relative.into_iter().map(|relative| directory.dir.join(relative)));
    }
    paths.retain(|path| directory.holds(path));
    paths.sort_unstable();
    paths.dedup();
    Ok(paths.iter().map(|path| directory.database(path)).collect::<Result<Vec<_>, _>>()?)
}

