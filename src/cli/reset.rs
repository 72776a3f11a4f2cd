//! `reset`: forget what this machine knows about a database, so that replication
//! begins anew with a whole copy.
//!
//! Always true: the database and its replicas are not touched, and nothing is
//! removed while a daemon follows the database: the lock of the local state is
//! held from before the first file goes until after the last. A crash leaves
//! less local state, which the next start finds incomplete and replaces.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::options::ResetOptions;
use super::render;
use super::settings::Context;
use crate::capture::{LocalState, Options};
use crate::config::{Config, Environment, database_path};

/// Deletes the local state, or tells what that would be.
pub(crate) fn run(options: &ResetOptions, context: &Context) -> Result<(), CliError> {
    let environment = context.environment()?;
    let path = database_path(&options.database.to_string_lossy(), &environment);
    let capture = Options { meta_path: meta_path(options, context, &path, &environment)?, ..Options::new(&path) };
    if !path.exists() {
        return Err(CliError::usage(format!("database does not exist: {}", path.display())));
    }
    // Litestream's part, from before somebody came to us, is forgotten with ours.
    let places: Vec<PathBuf> =
        [capture.state_dir(), capture.foreign_segments()].into_iter().filter(|p| p.is_dir()).collect();
    if options.dry_run {
        return render::print(&preview(&path, &places)?);
    }
    let mut text = format!("Resetting local Litestream state for: {}\n", path.display());
    if places.is_empty() {
        text.push_str(&format!("No local state found in: {}\nNothing to reset.\n", capture.meta_path.display()));
        return render::print(&text);
    }
    let ours = capture.state_dir();
    let mut held = match ours.is_dir() {
        true => Some(LocalState::take(&capture).map_err(|error| {
            let hint = format!("{} stop {}", context.program, path.display());
            CliError::failed_but(error, hint)
        })?),
        false => None,
    };
    // Ours, and with it the lock, comes last.
    for place in places.iter().rev() {
        text.push_str(&format!("Removing: {}\n", place.display()));
        let removed = match held.take_if(|_| *place == ours) {
            Some(held) => held.clear(),
            None => fs::remove_dir_all(place),
        };
        removed.map_err(|error| CliError::failed(format!("cannot remove {}: {error}", place.display())))?;
    }
    text.push_str("Reset complete. Next replication sync will create a fresh snapshot.\n");
    render::print(&text)
}

/// As configured. The default config need not be there, nor know the database.
fn meta_path(
    options: &ResetOptions,
    context: &Context,
    path: &Path,
    environment: &Environment,
) -> Result<PathBuf, CliError> {
    let config: Result<Config, CliError> = context.config(&options.config);
    let usual = Options::new(path).meta_path;
    match config {
        Ok(config) => match config.database(path, environment) {
            Ok(database) => Ok(database.meta_path.clone().unwrap_or(usual)),
            Err(error) if options.config.path.is_some() => Err(error.into()),
            Err(_) => Ok(usual),
        },
        Err(error) if options.config.path.is_some() => Err(error),
        Err(_) => Ok(usual),
    }
}

fn preview(path: &Path, places: &[PathBuf]) -> Result<String, CliError> {
    let mut text = format!("Dry run: local Litestream state would be reset for: {}\n", path.display());
    let mut files = Vec::new();
    for place in places {
        text.push_str(&format!("Would remove: {}\n", place.display()));
        walk(place, &mut files).map_err(CliError::failed)?;
    }
    files.sort();
    if !files.is_empty() {
        text.push_str("Files that would be removed:\n");
        files.iter().for_each(|file| text.push_str(&format!("  {}\n", file.display())));
    }
    text.push_str("No files were removed.\n");
    Ok(text)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() && !path.is_symlink() {
            true => walk(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
