//! `-all`: every database of a config, one after the other.
//!
//! Always true: one that fails keeps no other from being restored; at the end all
//! that failed are named, and then the exit code is 1.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::{of_subject, start_log};
use crate::cli::directories;
use crate::cli::error::CliError;
use crate::cli::render;
use crate::cli::settings::Subject;
use crate::cli::{Context, RestoreAllOptions};

pub(super) fn run(options: &RestoreAllOptions, context: &Context) -> Result<(), CliError> {
    let config = context.config(&options.template().config)?;
    let mut databases = config.databases()?.to_vec();
    start_log(options.template(), context, config.logging, &config.warnings)?;
    let mut failed: Vec<String> = Vec::new();
    let runtime = crate::cli::runtime()?;
    for directory in config.directories() {
        match runtime.block_on(directories::on_replicas(directory)) {
            Ok(found) if !found.is_empty() => databases.extend(found),
            Ok(_) => {
                let path = directory.dir.display().to_string();
                tracing::error!(path, "no replica has a database of this directory");
                failed.push(path);
            }
            Err(error) => {
                let path = directory.dir.display().to_string();
                tracing::error!(
                    path,
                    error = &error as &dyn std::error::Error,
                    "cannot tell which databases there were"
                );
                failed.push(path);
            }
        }
    }
    let paths: Vec<&Path> = databases.iter().map(|database| database.path.as_path()).collect();
    let (mut summaries, mut skipped) = (Vec::new(), 0u32);
    for (database, output) in databases.iter().zip(outputs(&paths, options.dir.as_deref())) {
        let subject = Subject {
            database: Some(database.clone()),
            replicas: database.replicas.clone(),
            logging: config.logging,
            warnings: Vec::new(),
        };
        let one = options.of(&database.path, output);
        match runtime.block_on(of_subject(&one, context, &subject, None)) {
            Ok(Some(summary)) => summaries.push(summary),
            Ok(None) => skipped += 1,
            Err(error) => {
                let path = database.path.display().to_string();
                tracing::error!(path, error = &error as &dyn std::error::Error, "cannot restore database");
                if let Some(hint) = error.hint() {
                    tracing::info!(path, hint, "try this");
                }
                failed.push(path);
            }
        }
    }
    tracing::info!(restored = summaries.len(), skipped, failed = failed.len(), "restore of all databases ended");
    if options.template().json {
        render::print(&render::json(&summaries)?)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(format!("{} of the databases could not be restored: {}", failed.len(), failed.join(", "))))
}

/// Where each database goes. In a directory, by its file name; where two would
/// have the same one, all go by their whole paths.
fn outputs(paths: &[&Path], dir: Option<&Path>) -> Vec<PathBuf> {
    let Some(dir) = dir else { return paths.iter().map(|path| path.to_path_buf()).collect() };
    let mut seen: HashMap<&OsStr, u32> = HashMap::new();
    for name in paths.iter().filter_map(|path| path.file_name()) {
        *seen.entry(name).or_default() += 1;
    }
    let distinct = seen.values().all(|times| *times == 1);
    let below =
        |path: &Path| path.components().filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>();
    let place = |path: &&Path| match path.file_name() {
        Some(name) if distinct => dir.join(name),
        _ => dir.join(below(path)),
    };
    paths.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_databases_go_to_one_place() {
        let placed = |paths: &[&str], dir| {
            let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
            outputs(&paths, dir).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let dir = Some(Path::new("/out"));
        assert_eq!(placed(&["/a/x.db", "/a/y.db"], None), ["/a/x.db", "/a/y.db"]);
        assert_eq!(placed(&["/a/x.db", "/a/y.db"], dir), ["/out/x.db", "/out/y.db"]);
        assert_eq!(placed(&["/a/x.db", "/b/x.db", "/c"], dir), ["/out/a/x.db", "/out/b/x.db", "/out/c"]);
    }
}
