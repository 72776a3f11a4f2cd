//! What each command was asked to do, as typed values. Pure: flags in, options
//! or the reason why they make no sense out; the first problem is reported.
//!
//! Here is what several commands understand in the same way; the commands
//! themselves are grouped by what they deal with.

mod daemon;
mod examine;
mod history;
mod local;
mod replicate;
mod restore;
mod retention;

use std::path::PathBuf;

use super::commands::Matches;
use super::error::CliError;
use super::values::{self, TxidLimit};
use crate::restore::Target;
use crate::types::{Generation, Timestamp, Txid};

pub use daemon::{Ask, Order, StatusOptions};
pub use examine::{AuditOptions, CheckOptions, DoctorOptions, DrillOptions};
pub use history::{GenerationsOptions, InfoJob, InfoOptions, LtxOptions, WalOptions};
pub use local::{DatabasesOptions, ResetOptions, VersionOptions};
pub use replicate::{Job, ReplicateOptions};
pub use restore::{RestoreAllOptions, RestoreJob, RestoreOptions};
pub use retention::{PinAction, PinOptions, PruneOptions};

pub(super) use daemon::{order, status};
pub(super) use examine::{audit, check, doctor, drill};
pub(super) use history::{generations, info, ltx, snapshots, wal};
pub(super) use local::{completion, databases, man, reset, version};
pub(super) use replicate::replicate;
pub(super) use restore::restore;
pub(super) use retention::{pin, prune};

const URL_WITH_CONFIG: &str = "cannot specify a replica URL and the -config flag";

/// Which config file to read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFlags {
    /// `-config`; without it the environment and then the default path decide.
    pub path: Option<PathBuf>,
    /// Whether `$NAME` is replaced in the file's text.
    pub expand_env: bool,
}

/// What an argument names: a database of the config, or a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A database path, to be found in the config.
    Database(PathBuf),
    /// A replica URL; no config is read.
    Url(String),
}

fn config_flags(matches: &Matches) -> ConfigFlags {
    ConfigFlags { path: matches.path("config"), expand_env: !matches.on("no-expand-env") }
}

/// The one argument of a command that looks at a database or a replica.
fn source(matches: &Matches, example: &str) -> Result<Source, CliError> {
    let source = match matches.words().as_slice() {
        [] => {
            let message = "database path or replica URL required".to_owned();
            return Err(CliError::Usage { message, hint: Some(example.to_owned()) });
        }
        [url] if is_url(url) => Source::Url(url.clone()),
        [path] => Source::Database(PathBuf::from(path)),
        _ => return Err(CliError::usage("too many arguments")),
    };
    match source {
        Source::Url(_) if matches.path("config").is_some() => Err(CliError::usage(URL_WITH_CONFIG)),
        source => Ok(source),
    }
}

/// The one argument of a command about a database.
fn database(matches: &Matches, example: &str) -> Result<PathBuf, CliError> {
    match matches.words().as_slice() {
        [] => Err(CliError::Usage { message: "database path required".to_owned(), hint: Some(example.to_owned()) }),
        [path] => Ok(PathBuf::from(path)),
        _ => Err(CliError::usage("too many arguments")),
    }
}

/// The same where the database may be left out.
fn database_if_any(matches: &Matches) -> Result<Option<PathBuf>, CliError> {
    match matches.words().as_slice() {
        [] => Ok(None),
        [path] => Ok(Some(PathBuf::from(path))),
        _ => Err(CliError::usage("too many arguments")),
    }
}

fn no_words(matches: &Matches) -> Result<(), CliError> {
    match matches.words().as_slice() {
        [] => Ok(()),
        _ => Err(CliError::usage("too many arguments")),
    }
}

/// Whether the argument is a replica URL: `^\w+://`.
pub(crate) fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// The point that `-txid` or the flag for an instant names; the newest without either.
fn point(matches: &Matches, instant: &str, now: Timestamp) -> Result<Target, CliError> {
    match (txid(matches), matches.text(instant)) {
        (None, None) => Ok(Target::Latest),
        (Some(txid), None) => Ok(Target::Txid(txid)),
        (None, Some(text)) => values::timestamp(&text, now)
            .map(Target::Timestamp)
            .map_err(|reason| CliError::usage(format!("invalid -{instant}, {reason}"))),
        (Some(_), Some(_)) => Err(CliError::usage(format!("cannot specify both -txid and -{instant}: choose one"))),
    }
}

/// `-txid`, if it names a transaction.
fn txid(matches: &Matches) -> Option<Txid> {
    matches.get::<TxidLimit>("txid").and_then(|limit| limit.0)
}

fn generation(matches: &Matches) -> Result<Option<Generation>, CliError> {
    let Some(text) = matches.text("generation") else { return Ok(None) };
    text.parse().map(Some).map_err(|reason| CliError::usage(format!("invalid -generation: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    /// What a command line comes to.
    #[track_caller]
    pub(super) fn matches(line: &str) -> Matches {
        let mut words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        let command = commands::find(&words.next().unwrap()).unwrap();
        let words: Vec<String> = words.collect();
        Matches::parse(command, &words).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Each line is refused with this error, and the hint after a slash.
    #[track_caller]
    pub(super) fn assert_refused<T>(cases: &[(&str, &str)], read: impl Fn(&Matches) -> Result<T, CliError>) {
        for (line, expected) in cases {
            let Err(error) = read(&matches(line)) else { panic!("{line}: accepted") };
            let hint = error.hint().map(|hint| format!(" / {hint}")).unwrap_or_default();
            assert_eq!(format!("{error}{hint}"), *expected, "{line}");
        }
    }

    #[test]
    fn a_url_begins_with_a_scheme() {
        for url in ["s3://b/c", "file:///a", "sqlite:///x.db", "a_1://"] {
            assert!(is_url(url), "{url}");
        }
        for path in ["/a", "a://b".trim_start_matches('a'), "C:\\x", "s-3://x", "/s3://x", "db"] {
            assert!(!is_url(path), "{path}");
        }
    }
}
