//! What to ask the running daemon: where its socket is, how long to wait for the
//! answer, and the order itself.
//!
//! Always true: an [`Ask`] waits for ever only where Litestream would, and an order
//! about a database names exactly one.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigFlags, config_flags, database, database_if_any, no_words};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;
use crate::cli::values::Timeout;

/// How to ask the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The config file, which may say where the socket is.
    pub config: ConfigFlags,
    /// `-socket`.
    pub socket: Option<PathBuf>,
    /// How long to wait for the answer; `None`: however long.
    pub timeout: Option<Duration>,
    /// Print JSON.
    pub json: bool,
}

/// What to ask the daemon for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Follow a database again.
    Start(PathBuf),
    /// Let go of a database for a while.
    Stop(PathBuf),
    /// Capture what is committed.
    Sync {
        /// The database.
        database: PathBuf,
        /// And upload it.
        wait: bool,
    },
    /// Wait until something is confirmed, without uploading it any sooner.
    Wait {
        /// The database.
        database: PathBuf,
        /// What; `None`: what is committed now.
        txid: Option<u64>,
    },
    /// Follow another database.
    Register {
        /// The database.
        database: PathBuf,
        /// Where it goes.
        replica: String,
    },
    /// Follow a database no more.
    Unregister {
        /// The database.
        database: PathBuf,
        /// Only tell what would be asked.
        dry_run: bool,
    },
    /// Read the config again.
    Reload,
    /// Name the databases.
    List,
    /// Tell about the daemon itself.
    Info,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusOptions {
    /// How to ask the daemon.
    pub ask: Ask,
    /// Only this database.
    pub database: Option<PathBuf>,
}

pub(crate) fn order(matches: &Matches, command: &str, program: &str) -> Result<(Order, Ask), CliError> {
    let one = || {
        let example = match command {
            "register" => "-replica s3://bucket/prefix /path/to/db",
            _ => "/path/to/db",
        };
        database(matches, &format!("{program} {command} {example}"))
    };
    let order = match command {
        "start" => Order::Start(one()?),
        "stop" => Order::Stop(one()?),
        "sync" => Order::Sync { database: one()?, wait: matches.on("wait") },
        "wait" => Order::Wait { database: one()?, txid: matches.get("txid") },
        "register" => {
            let database = one()?;
            let replica = matches.text("replica").ok_or_else(|| CliError::Usage {
                message: "-replica is required".to_owned(),
                hint: Some(format!("{program} register -replica s3://bucket/prefix {}", database.display())),
            })?;
            Order::Register { database, replica }
        }
        "unregister" => Order::Unregister { database: one()?, dry_run: matches.on("dry-run") },
        "reload" => no_words(matches).map(|()| Order::Reload)?,
        _ => no_words(matches).map(|()| Order::List)?,
    };
    Ok((order, ask(matches, command)?))
}

pub(crate) fn status(matches: &Matches) -> Result<StatusOptions, CliError> {
    let database = database_if_any(matches)?;
    Ok(StatusOptions { ask: ask(matches, "status")?, database })
}

/// What the commands that ask the daemon have in common.
pub(super) fn ask(matches: &Matches, command: &str) -> Result<Ask, CliError> {
    let default = if ["info", "list", "status"].contains(&command) { 10 } else { 30 };
    // For these two the original takes 0 for "however long".
    let endless = ["start", "stop"].contains(&command);
    let timeout = match matches.get("timeout").unwrap_or(Timeout(Some(Duration::from_secs(default)))) {
        Timeout(Some(timeout)) if !timeout.is_zero() => Some(timeout),
        _ if endless => None,
        _ => return Err(CliError::usage("timeout must be greater than 0")),
    };
    Ok(Ask { config: config_flags(matches), socket: matches.path("socket"), timeout, json: matches.on("json") })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_refused, matches};
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        let order = |name: &'static str| move |matches: &Matches| order(matches, name, "p");
        assert_refused(&[("sync", "database path required / p sync /path/to/db")], order("sync"));
        assert_refused(&[("sync -timeout 0 db", "timeout must be greater than 0")], order("sync"));
        assert_refused(&[("list x", "too many arguments")], order("list"));
        assert_refused(
            &[
                ("register", "database path required / p register -replica s3://bucket/prefix /path/to/db"),
                ("register db", "-replica is required / p register -replica s3://bucket/prefix db"),
            ],
            order("register"),
        );
        assert_refused(&[("status a b", "too many arguments")], status);
    }

    #[test]
    fn only_start_and_stop_may_wait_for_ever() {
        let timeout = |line: &str, name| order(&matches(line), name, "p").map(|(_, ask)| ask.timeout);
        assert_eq!(timeout("stop -timeout 0 db", "stop").unwrap(), None);
        assert_eq!(timeout("sync db", "sync").unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(timeout("list", "list").unwrap(), Some(Duration::from_secs(10)));
    }
}
