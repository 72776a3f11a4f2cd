//! `check`: how the databases are, in the form of Nagios plugins.
//!
//! Always true: exactly one state comes out, also if nothing can be found out
//! (UNKNOWN), within the time that was given; and OK is said only by a daemon that
//! runs. Without one the files are compared with the replicas, which tells whether
//! anything was left behind, and that alone is a WARNING.

mod absent;
mod ask;
mod state;

use std::process::ExitCode;
use std::time::Duration;

use super::error::CliError;
use super::observe;
use super::render;
use super::{CheckOptions, Context};
use crate::config::{Address, Config, Monitoring};
use crate::types::Secret;

use state::{Line, Outcome, State, Thresholds};

/// Checks and prints. Whatever goes wrong on the way is a state too.
pub(crate) fn run(options: Result<CheckOptions, CliError>, context: &Context) -> ExitCode {
    let outcome = match options.and_then(|options| check(&options, context)) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::new(vec![Line::new(State::Unknown, error.to_string())]),
    };
    match render::print(&outcome.text()) {
        Ok(()) | Err(CliError::ReaderGone) => ExitCode::from(outcome.state() as u8),
        Err(_) => ExitCode::from(State::Unknown as u8),
    }
}

fn check(options: &CheckOptions, context: &Context) -> Result<Outcome, CliError> {
    let thresholds = Thresholds { warning: options.warning, critical: options.critical };
    let config = context.config(&options.config);
    let database = match (&options.database, &config) {
        (Some(path), _) => Some(crate::config::absolute(path, &context.environment()?)),
        (None, _) => None,
    };
    let monitoring = config.as_ref().map(|config| config.global.monitoring.clone()).unwrap_or_default();
    let addr = match (&options.addr, &monitoring.address) {
        (Some(addr), _) => Some(addr.clone()),
        (None, Some(address)) => Some(nearby(address)),
        (None, None) => None,
    };
    let socket =
        config.as_ref().ok().and_then(|config| config.global.socket.as_ref().map(|socket| socket.path.clone()));
    let (place, answer) = match (addr, socket) {
        (Some(addr), _) => {
            let answer = ask::over_tcp(&addr, token(options, &monitoring)?.as_ref(), options.timeout);
            (addr, answer)
        }
        (None, Some(socket)) => (socket.display().to_string(), ask::over_socket(&socket, options.timeout)),
        (None, None) => {
            let reason = "the config has neither \"addr\" nor \"socket\" at which a daemon could be asked".to_owned();
            return without_daemon(&config?, database.as_deref(), reason, thresholds, options.timeout);
        }
    };
    match answer {
        Ok(status) => Ok(state::of_daemon(&status, database.as_deref(), thresholds)?),
        Err(ask::Error::Refused(reason)) => Err(CliError::failed(format!("the daemon at {place}: {reason}"))),
        Err(ask::Error::Absent(reason)) => {
            let reason = format!("no daemon answers at {place}: {reason}");
            without_daemon(&config?, database.as_deref(), reason, thresholds, options.timeout)
        }
    }
}

/// A server at every address of this machine answers at this one.
fn nearby(address: &Address) -> String {
    match address.host.as_deref() {
        None | Some("0.0.0.0" | "::") => format!("localhost:{}", address.port),
        Some(host) if host.contains(':') => format!("[{host}]:{}", address.port),
        Some(host) => format!("{host}:{}", address.port),
    }
}

fn token(options: &CheckOptions, monitoring: &Monitoring) -> Result<Option<Secret>, CliError> {
    match &options.token_file {
        Some(path) => observe::token(&crate::config::Token::File(path.clone())).map(Some),
        None => monitoring.token.as_ref().map(observe::token).transpose(),
    }
}

fn without_daemon(
    config: &Config,
    database: Option<&std::path::Path>,
    reason: String,
    thresholds: Thresholds,
    timeout: Duration,
) -> Result<Outcome, CliError> {
    let databases = config.databases()?;
    let chosen: Vec<_> = databases.iter().filter(|one| database.is_none_or(|path| one.path == path)).collect();
    if let (Some(path), true) = (database, chosen.is_empty()) {
        return Err(CliError::failed(format!("database not found in config: {}", path.display())));
    }
    let mut lines = vec![Line::new(State::Warning, reason)];
    lines.extend(absent::compare(&chosen, thresholds, timeout)?);
    Ok(Outcome::new(lines))
}
