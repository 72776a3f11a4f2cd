//! What needs neither a replica nor the daemon: the config, the local state of a
//! database, and the program itself.

use std::path::PathBuf;

use super::{ConfigFlags, config_flags, database, no_words};
use crate::cli::commands::Matches;
use crate::cli::completion::Shell;
use crate::cli::error::CliError;

/// `databases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasesOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Print JSON.
    pub json: bool,
}

/// `reset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// The database.
    pub database: PathBuf,
    /// Only tell.
    pub dry_run: bool,
}

/// `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionOptions {
    /// Print the build's details too.
    pub verbose: bool,
}

pub(crate) fn databases(matches: &Matches) -> Result<DatabasesOptions, CliError> {
    no_words(matches)?;
    Ok(DatabasesOptions { config: config_flags(matches), json: matches.on("json") })
}

pub(crate) fn reset(matches: &Matches, program: &str) -> Result<ResetOptions, CliError> {
    let database = database(matches, &format!("{program} reset /path/to/db"))?;
    Ok(ResetOptions { config: config_flags(matches), database, dry_run: matches.on("dry-run") })
}

pub(crate) fn completion(matches: &Matches, program: &str) -> Result<Shell, CliError> {
    let words = matches.words();
    let [name] = words.as_slice() else {
        let message = "the name of a shell required: bash, zsh or fish".to_owned();
        return Err(CliError::Usage { message, hint: Some(format!("{program} completion bash")) });
    };
    Shell::from_name(name)
        .ok_or_else(|| CliError::usage(format!("no completion for {name:?}: there is bash, zsh and fish")))
}

pub(crate) fn man(matches: &Matches) -> Result<(), CliError> {
    no_words(matches)
}

pub(crate) fn version(matches: &Matches) -> VersionOptions {
    VersionOptions { verbose: matches.on("verbose") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_refused;
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(&[("databases x", "too many arguments")], databases);
        assert_refused(&[("reset", "database path required / p reset /path/to/db")], |matches| reset(matches, "p"));
        assert_refused(&[("man x", "too many arguments")], man);
        assert_refused(
            &[
                ("completion", "the name of a shell required: bash, zsh or fish / p completion bash"),
                ("completion tcsh", "no completion for \"tcsh\": there is bash, zsh and fish"),
            ],
            |matches| completion(matches, "p"),
        );
    }
}
