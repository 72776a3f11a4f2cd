//! What is to be told about the history on the replicas of a database:
//! generations, segments, snapshots, and what can be restored.

use super::daemon::{Ask, ask};
use super::restore::DEFAULT_PARALLELISM;
use super::{ConfigFlags, Source, config_flags, generation, source};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;
use crate::cli::values::{Levels, Timeout};
use crate::types::Generation;

/// `generations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationsOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
}

/// `info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InfoJob {
    /// About the daemon.
    Daemon(Ask),
    /// About replicas.
    Replicas(InfoOptions),
}

/// `info` about replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Requests at a time that the restore would have.
    pub parallelism: usize,
    /// Print JSON.
    pub json: bool,
}

/// `ltx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LtxOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Which levels.
    pub levels: Levels,
    /// Print JSON.
    pub json: bool,
}

/// `wal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Only this generation, which then is one of Litestream 0.3.
    pub generation: Option<Generation>,
    /// Levels or JSON were asked for, which Litestream 0.3 does not have.
    pub as_ltx: bool,
    /// What `ltx` would do.
    pub ltx: LtxOptions,
}

pub(crate) fn generations(matches: &Matches, program: &str) -> Result<GenerationsOptions, CliError> {
    let source = source(matches, &format!("{program} generations /path/to/db"))?;
    Ok(GenerationsOptions { config: config_flags(matches), source, replica: matches.text("replica") })
}

pub(crate) fn snapshots(matches: &Matches, program: &str) -> Result<GenerationsOptions, CliError> {
    let source = source(matches, &format!("{program} snapshots /path/to/db"))?;
    Ok(GenerationsOptions { config: config_flags(matches), source, replica: matches.text("replica") })
}

pub(crate) fn info(matches: &Matches, program: &str) -> Result<InfoJob, CliError> {
    if matches.words().is_empty() {
        return Ok(InfoJob::Daemon(ask(matches, "info")?));
    }
    let for_the_daemon =
        [("socket", matches.path("socket").is_some()), ("timeout", matches.get::<Timeout>("timeout").is_some())];
    if let Some((flag, _)) = for_the_daemon.into_iter().find(|(_, given)| *given) {
        let message = format!("cannot specify -{flag} with a database or a replica: that is for asking the daemon");
        return Err(CliError::usage(message));
    }
    Ok(InfoJob::Replicas(InfoOptions {
        config: config_flags(matches),
        source: source(matches, &format!("{program} info /path/to/db"))?,
        replica: matches.text("replica"),
        parallelism: matches.get("parallelism").unwrap_or(DEFAULT_PARALLELISM),
        json: matches.on("json"),
    }))
}

pub(crate) fn ltx(matches: &Matches, program: &str) -> Result<LtxOptions, CliError> {
    let source = source(matches, &format!("{program} ltx /path/to/db"))?;
    let levels = matches.get("level").unwrap_or(Levels::One(0));
    let replica = matches.text("replica");
    Ok(LtxOptions { config: config_flags(matches), source, replica, levels, json: matches.on("json") })
}

pub(crate) fn wal(matches: &Matches, program: &str) -> Result<WalOptions, CliError> {
    let as_ltx = matches.get::<Levels>("level").is_some() || matches.on("json");
    Ok(WalOptions { generation: generation(matches)?, as_ltx, ltx: ltx(matches, program)? })
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_refused;
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(
            &[("generations", "database path or replica URL required / p generations /path/to/db")],
            |matches| generations(matches, "p"),
        );
        assert_refused(
            &[
                ("info a b", "too many arguments"),
                ("info -timeout 0", "timeout must be greater than 0"),
                (
                    "info -timeout 5 a.db",
                    "cannot specify -timeout with a database or a replica: that is for asking the daemon",
                ),
                (
                    "info -socket s a.db",
                    "cannot specify -socket with a database or a replica: that is for asking the daemon",
                ),
            ],
            |matches| info(matches, "p"),
        );
        assert_refused(
            &[
                ("ltx", "database path or replica URL required / p ltx /path/to/db"),
                ("ltx a b", "too many arguments"),
                ("ltx -config c file:///a", "cannot specify a replica URL and the -config flag"),
            ],
            |matches| ltx(matches, "p"),
        );
    }
}
