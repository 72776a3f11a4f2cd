//! What `replicate` was asked for: a config or one database with its replicas,
//! once or for good, alone or with a child process.

use std::path::PathBuf;

use super::{ConfigFlags, URL_WITH_CONFIG, config_flags};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;
use crate::cli::quote::quote;

/// What to replicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Everything in the config file.
    Config(ConfigFlags),
    /// One database given on the command line; no config file is read.
    Direct {
        /// The database.
        database: PathBuf,
        /// Its replicas, one or more.
        urls: Vec<String>,
    },
}

/// `replicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateOptions {
    /// What to replicate.
    pub job: Job,
    /// Sync each database once, then stop.
    pub once: bool,
    /// The command line of a child process; beats the config.
    pub exec: Option<String>,
    /// Exit with the code of the child process.
    pub exec_exit_code: bool,
    /// Then make the newest point of every replica a snapshot.
    pub force_snapshot: bool,
    /// Then delete what policy no longer keeps.
    pub enforce_retention: bool,
    /// `-log-level`, which beats `LOG_LEVEL` and the config.
    pub log_level: Option<String>,
    /// Restore every database whose file is missing before replication starts.
    pub restore_if_db_not_exists: bool,
    /// An unreachable replica at start is fatal.
    pub strict_start: bool,
    /// Where the control socket is served, in place of what the config says.
    pub socket: Option<PathBuf>,
    /// `-trace` was given: say once that it does nothing.
    pub trace_given: bool,
}

pub(crate) fn replicate(matches: &Matches) -> Result<ReplicateOptions, CliError> {
    let words = matches.words();
    if let Some(flag) = words.iter().skip(1).find(|word| word.starts_with('-')) {
        let flag = quote(flag);
        let message = format!("flag {flag} must be positioned before DB_PATH and REPLICA_URL arguments");
        return Err(CliError::usage(message));
    }
    let job = match words.as_slice() {
        [] => Job::Config(config_flags(matches)),
        [path] => return Err(CliError::usage(format!("must specify at least one replica URL for {path}"))),
        _ if matches.path("config").is_some() => return Err(CliError::usage(URL_WITH_CONFIG)),
        [path, urls @ ..] => Job::Direct { database: PathBuf::from(path), urls: urls.to_vec() },
    };
    let once = matches.on("once");
    if once && matches.text("exec").is_some() {
        return Err(CliError::usage("cannot specify -once flag with -exec"));
    }
    for flag in ["force-snapshot", "enforce-retention"] {
        if matches.on(flag) && !once {
            return Err(CliError::usage(format!("cannot specify -{flag} flag without -once")));
        }
    }
    Ok(ReplicateOptions {
        job,
        once,
        exec: matches.text("exec"),
        exec_exit_code: matches.on("exec-exit-code"),
        force_snapshot: matches.on("force-snapshot"),
        enforce_retention: matches.on("enforce-retention"),
        log_level: matches.text("log-level"),
        restore_if_db_not_exists: matches.on("restore-if-db-not-exists"),
        strict_start: matches.on("strict-start"),
        socket: matches.path("socket"),
        trace_given: matches.text("trace").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_refused, matches};
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(
            &[
                ("replicate db", "must specify at least one replica URL for db"),
                ("replicate -config c db file:///a", "cannot specify a replica URL and the -config flag"),
                (
                    "replicate db file:///a -exec x",
                    "flag \"-exec\" must be positioned before DB_PATH and REPLICA_URL arguments",
                ),
                ("replicate -once -exec x", "cannot specify -once flag with -exec"),
                ("replicate -force-snapshot", "cannot specify -force-snapshot flag without -once"),
                ("replicate -enforce-retention", "cannot specify -enforce-retention flag without -once"),
            ],
            replicate,
        );
    }

    #[test]
    fn every_replicate_flag_arrives() {
        let line = "replicate -once -force-snapshot -enforce-retention -log-level debug -restore-if-db-not-exists -strict-start -socket s -trace t db file:///a s3://b/c";
        let options = replicate(&matches(line)).unwrap();
        let expected = ReplicateOptions {
            job: Job::Direct { database: "db".into(), urls: vec!["file:///a".into(), "s3://b/c".into()] },
            once: true,
            exec: None,
            exec_exit_code: false,
            force_snapshot: true,
            enforce_retention: true,
            log_level: Some("debug".into()),
            restore_if_db_not_exists: true,
            strict_start: true,
            socket: Some("s".into()),
            trace_given: true,
        };
        assert_eq!(options, expected);
        let options = replicate(&matches("replicate -exec app --exec-exit-code --config=c")).unwrap();
        assert_eq!((options.exec.as_deref(), options.exec_exit_code), (Some("app"), true));
        assert_eq!(options.job, Job::Config(ConfigFlags { path: Some("c".into()), expand_env: true }));
    }
}
