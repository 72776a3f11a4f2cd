//! The databases of directories in the config: those that are there, for listing
//! and replicating, and those that a replica has, for restoring.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::open;
use crate::config::{Config, Database, Directory};
use crate::directory::{FileId, Scan, Wanted, scan};
use crate::replica::databases_below;

/// Every database of the config: first those with an entry of their own, then
/// what is in its directories now.
pub(super) fn databases(config: &Config) -> Result<Vec<Database>, CliError> {
    databases_beside(config, &|_, _| false)
}

/// The same in a process that has databases open: those that `known` tells are not looked into.
fn databases_beside(config: &Config, known: &dyn Fn(&Path, FileId) -> bool) -> Result<Vec<Database>, CliError> {
    let mut all = config.databases()?.to_vec();
    let mut paths: HashSet<PathBuf> = all.iter().map(|database| database.path.clone()).collect();
    for directory in config.directories() {
        for found in look(directory, known)?.databases {
            if paths.insert(found.path.clone()) {
                all.push(directory.database(&found.path)?);
            }
        }
    }
    Ok(all)
}

/// The same, for replicating: a directory without a database is a mistake, unless
/// some are expected later.
pub(super) fn to_replicate(config: &Config, known: &dyn Fn(&Path, FileId) -> bool) -> Result<Vec<Database>, CliError> {
    config.runnable()?;
    let all = databases_beside(config, known)?;
    for directory in config.directories().iter().filter(|directory| !directory.watch) {
        if all.iter().all(|database| !directory.holds(&database.path)) {
            let (dir, pattern) = (directory.dir.display(), directory.pattern());
            return Err(CliError::failed(format!(
                "no SQLite databases found in directory {dir} with pattern {pattern}"
            )));
        }
    }
    Ok(all)
}

fn look(directory: &Directory, known: &dyn Fn(&Path, FileId) -> bool) -> Result<Scan, CliError> {
    let wanted = Wanted {
        enter: &|dir| directory.recursive && !Directory::is_state(dir),
        file: &|path| directory.holds(path),
        entering: &mut |_| {},
        known,
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
