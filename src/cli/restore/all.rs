//! `-all`: every database of a config, or below a URL, one after the other.
//!
//! Always true: one that fails keeps no other from being restored; at the end all
//! that failed are named, and then the exit code is 1.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::below::{Found, below, joined};
use super::{Summary, of_subject, start_log};
use crate::cli::directories;
use crate::cli::error::CliError;
use crate::cli::render;
use crate::cli::settings::Subject;
use crate::cli::{Context, RestoreAllOptions, Source};
use crate::config::shown_url;

pub(super) fn run(options: &RestoreAllOptions, context: &Context) -> Result<(), CliError> {
    match &options.below {
        Some(url) => run_below(url, options, context),
        None => run_config(options, context),
    }
}

/// Every replica below a URL, to the same path below the directory.
fn run_below(url: &str, options: &RestoreAllOptions, context: &Context) -> Result<(), CliError> {
    let whole = context.subject(&Source::Url(url.to_owned()), &options.template().config)?;
    start_log(options.template(), context, whole.logging, &whole.warnings)?;
    let runtime = crate::cli::runtime()?;
    let mut done = Done::default();
    let dir = options.dir.clone().unwrap_or_default();
    for settings in &whole.replicas {
        for Found { settings, path } in runtime.block_on(below(settings))? {
            let url = joined(url, &path);
            let subject = Subject { replicas: vec![settings], warnings: Vec::new(), ..whole.clone() };
            // The URL is one replica: its database goes by the name of the last folder.
            let name = if path.as_os_str().is_empty() { PathBuf::from(last_word(&url)) } else { path };
            let one = options.of_url(url.clone(), dir.join(name));
            done.note(&shown_url(&url), runtime.block_on(of_subject(&one, context, &subject, None)));
        }
    }
    if done.is_empty() && !options.template().if_replica_exists {
        return Err(CliError::usage(format!("no matching backups found below {}", shown_url(url))));
    }
    done.end(options.template().json)
}

fn last_word(url: &str) -> &str {
    let place = url.split('?').next().unwrap_or(url).trim_end_matches('/');
    place.rsplit('/').next().filter(|word| !word.is_empty()).unwrap_or("database")
}

fn run_config(options: &RestoreAllOptions, context: &Context) -> Result<(), CliError> {
    let config = context.config(&options.template().config)?;
    let mut databases = config.databases()?.to_vec();
    start_log(options.template(), context, config.logging, &config.warnings)?;
    let mut done = Done::default();
    let runtime = crate::cli::runtime()?;
    for directory in config.directories() {
        let shown = directory.dir.display().to_string();
        match runtime.block_on(directories::on_replicas(directory)) {
            Ok(found) if !found.is_empty() => databases.extend(found),
            Ok(_) => {
                tracing::error!(path = shown, "no replica has a database of this directory");
                done.failed.push(shown);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(path = shown, error, "cannot tell which databases there were");
                done.failed.push(shown);
            }
        }
    }
    let paths: Vec<&Path> = databases.iter().map(|database| database.path.as_path()).collect();
    for (database, output) in databases.iter().zip(outputs(&paths, options.dir.as_deref())) {
        let subject = Subject {
            database: Some(database.clone()),
            replicas: database.replicas.clone(),
            logging: config.logging,
            warnings: Vec::new(),
        };
        let one = options.of(&database.path, output);
        let path = database.path.display().to_string();
        done.note(&path, runtime.block_on(of_subject(&one, context, &subject, None)));
    }
    done.end(options.template().json)
}

/// What became of each.
#[derive(Default)]
struct Done {
    summaries: Vec<Summary>,
    skipped: u32,
    failed: Vec<String>,
}

impl Done {
    fn is_empty(&self) -> bool {
        self.summaries.is_empty() && self.failed.is_empty() && self.skipped == 0
    }

    fn note(&mut self, path: &str, outcome: Result<Option<Summary>, CliError>) {
        match outcome {
            Ok(Some(summary)) => self.summaries.push(summary),
            Ok(None) => self.skipped += 1,
            Err(error) => {
                tracing::error!(path, error = &error as &dyn std::error::Error, "cannot restore database");
                if let Some(hint) = error.hint() {
                    tracing::info!(path, hint, "try this");
                }
                self.failed.push(path.to_owned());
            }
        }
    }

    fn end(self, json: bool) -> Result<(), CliError> {
        let Self { summaries, skipped, failed } = self;
        tracing::info!(restored = summaries.len(), skipped, failed = failed.len(), "restore of all databases ended");
        if json {
            render::print(&render::json(&summaries)?)?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(CliError::failed(format!("{} of the databases could not be restored: {}", failed.len(), failed.join(", "))))
    }
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
