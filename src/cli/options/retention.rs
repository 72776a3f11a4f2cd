//! What is to be kept on a replica, and what may go: pin and prune.
//!
//! Always true: nothing is deleted below a URL unless it was said how much is to be kept.

use std::time::Duration;

use super::{ConfigFlags, Source, config_flags, point, source};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;
use crate::cli::values::TxidLimit;
use crate::replica::PinName;
use crate::restore::Target;
use crate::types::Timestamp;

/// What to do about pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinAction {
    /// Show them.
    List,
    /// Keep a point.
    Set {
        /// Under this name.
        name: PinName,
        /// Which.
        target: Target,
    },
    /// Keep it no longer.
    Release {
        /// The name.
        name: PinName,
    },
}

/// `pin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// What to do.
    pub action: PinAction,
    /// Print JSON.
    pub json: bool,
}

/// `prune`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where; `None`: every database of the config.
    pub source: Option<Source>,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// In place of `snapshot.retention`; always given with a URL.
    pub retention: Option<Duration>,
    /// First make the newest point a snapshot.
    pub snapshot: bool,
    /// Only tell.
    pub dry_run: bool,
    /// Also delete more than half of the snapshots.
    pub confirm: bool,
}

pub(crate) fn pin(matches: &Matches, program: &str, now: Timestamp) -> Result<PinOptions, CliError> {
    let source = source(matches, &format!("{program} pin -name NAME /path/to/db"))?;
    let asked_for = matches.text("at").is_some() || matches.get::<TxidLimit>("txid").is_some();
    let action = match (matches.on("list"), matches.get::<PinName>("name"), matches.get::<PinName>("release")) {
        (true, None, None) if !asked_for => PinAction::List,
        (false, Some(name), None) => PinAction::Set { name, target: point(matches, "at", now)? },
        (false, None, Some(name)) if !asked_for => PinAction::Release { name },
        _ => {
            let message = "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME";
            return Err(CliError::usage(message));
        }
    };
    let json = matches.on("json");
    Ok(PinOptions { config: config_flags(matches), source, replica: matches.text("replica"), action, json })
}

pub(crate) fn prune(matches: &Matches, program: &str) -> Result<PruneOptions, CliError> {
    let source = match matches.words().is_empty() {
        true => None,
        false => Some(source(matches, &format!("{program} prune /path/to/db"))?),
    };
    let retention = matches.duration("retention");
    if let (Some(Source::Url(url)), None) = (&source, retention) {
        let message = "-retention is required with a replica URL: no config says how much is to be kept".to_owned();
        return Err(CliError::Usage { message, hint: Some(format!("{program} prune -dry-run -retention 720h {url}")) });
    }
    if retention.is_some_and(|retention| retention.is_zero()) {
        return Err(CliError::usage("-retention must be greater than 0"));
    }
    if matches.on("snapshot") && matches.on("dry-run") {
        return Err(CliError::usage("cannot specify -snapshot with -dry-run: nothing is to be written"));
    }
    Ok(PruneOptions {
        config: config_flags(matches),
        source,
        replica: matches.text("replica"),
        retention,
        snapshot: matches.on("snapshot"),
        dry_run: matches.on("dry-run"),
        confirm: matches.on("confirm"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_refused;
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(
            &[
                ("pin", "database path or replica URL required / p pin -name NAME /path/to/db"),
                (
                    "pin -at now -list db",
                    "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME",
                ),
                (
                    "pin -name a -release b db",
                    "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME",
                ),
                ("pin -name a -txid 1 -at now db", "cannot specify both -txid and -at: choose one"),
            ],
            |matches| pin(matches, "p", Timestamp::EPOCH),
        );
        assert_refused(
            &[
                (
                    "prune file:///a",
                    "-retention is required with a replica URL: no config says how much is to be kept \
                 / p prune -dry-run -retention 720h file:///a",
                ),
                ("prune -retention 0s db", "-retention must be greater than 0"),
                ("prune a b", "too many arguments"),
                ("prune -snapshot -dry-run db", "cannot specify -snapshot with -dry-run: nothing is to be written"),
            ],
            |matches| prune(matches, "p"),
        );
    }
}
