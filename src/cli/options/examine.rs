//! What is to be examined, and how thoroughly: audit and verify, check, doctor, drill.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigFlags, Source, config_flags, database_if_any, source};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;

/// `audit` and `verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Print JSON.
    pub json: bool,
}

/// `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Only this database.
    pub database: Option<PathBuf>,
    /// Where the daemon answers.
    pub addr: Option<String>,
    /// What must be shown to it.
    pub token_file: Option<PathBuf>,
    /// A longer lag is a warning.
    pub warning: Option<Duration>,
    /// A longer lag is critical.
    pub critical: Option<Duration>,
    /// How long to wait for answers.
    pub timeout: Duration,
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// What to examine; everything in the config if absent.
    pub source: Option<Source>,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Send a larger object too.
    pub deep: bool,
    /// Print JSON.
    pub json: bool,
}

/// `drill`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Restore into a file; `None`: as the config says.
    pub full: Option<bool>,
    /// Where that file goes for a while.
    pub scratch: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
}

pub(crate) fn audit(matches: &Matches, program: &str) -> Result<AuditOptions, CliError> {
    let source = source(matches, &format!("{program} audit /path/to/db"))?;
    let replica = matches.text("replica");
    Ok(AuditOptions { config: config_flags(matches), source, replica, json: matches.on("json") })
}

pub(crate) fn check(matches: &Matches) -> Result<CheckOptions, CliError> {
    let database = database_if_any(matches)?;
    let (warning, critical) = (matches.duration("warning"), matches.duration("critical"));
    if warning.zip(critical).is_some_and(|(warning, critical)| warning > critical) {
        return Err(CliError::usage("-warning must not be longer than -critical"));
    }
    Ok(CheckOptions {
        config: config_flags(matches),
        database,
        addr: matches.text("addr"),
        token_file: matches.path("token-file"),
        warning,
        critical,
        timeout: matches.duration("timeout").unwrap_or(Duration::from_secs(10)),
    })
}

pub(crate) fn doctor(matches: &Matches) -> Result<DoctorOptions, CliError> {
    let source = if matches.words().is_empty() { None } else { Some(source(matches, "")?) };
    Ok(DoctorOptions {
        config: config_flags(matches),
        source,
        replica: matches.text("replica"),
        deep: matches.on("deep"),
        json: matches.on("json"),
    })
}

pub(crate) fn drill(matches: &Matches, program: &str) -> Result<DrillOptions, CliError> {
    let source = source(matches, &format!("{program} drill /path/to/db"))?;
    let full = match matches.text("mode").as_deref() {
        None => None,
        Some("stream") => Some(false),
        Some("full") => Some(true),
        Some(other) => return Err(CliError::usage(format!("invalid -mode value: {other}: must be stream or full"))),
    };
    let (replica, scratch) = (matches.text("replica"), matches.path("scratch"));
    Ok(DrillOptions { config: config_flags(matches), source, replica, full, scratch, json: matches.on("json") })
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_refused;
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(&[("audit", "database path or replica URL required / p audit /path/to/db")], |matches| {
            audit(matches, "p")
        });
        assert_refused(
            &[
                ("check a b", "too many arguments"),
                ("check -warning 2m -critical 1m", "-warning must not be longer than -critical"),
            ],
            check,
        );
        assert_refused(&[("doctor a b", "too many arguments")], doctor);
        assert_refused(&[("drill -mode half db", "invalid -mode value: half: must be stream or full")], |matches| {
            drill(matches, "p")
        });
    }
}
