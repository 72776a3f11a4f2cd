//! `status`: how the databases and their replicas are.
//!
//! Always true: what a daemon that runs says is preferred, whoever asks; without
//! one, it is said that there is none, and what the files and the replicas show
//! by themselves. The first lines are Litestream's table, for scripts; the rest is
//! for people.

mod absent;
mod row;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::CliError;
use super::options::StatusOptions;
use super::remote;
use super::render;
use super::settings::Context;
use crate::config::{self, Config, Database, database_path};
use crate::control::{Client, ClientError};

use row::Row;

/// Prints what is known.
pub(crate) fn run(options: &StatusOptions, context: &Context) -> Result<(), CliError> {
    let environment = context.environment()?;
    let wanted = options.database.as_ref().map(|path| database_path(&path.to_string_lossy(), &environment));
    let rows = match of_daemon(options, context)? {
        Answer::Daemon(rows) if wanted.as_ref().is_none_or(|path| rows.iter().any(|row| row.is(path))) => rows,
        // It takes care of others.
        Answer::Daemon(_) => of_files(options, context, wanted.as_ref(), "the daemon does not know this database")?,
        Answer::None(why) => of_files(options, context, wanted.as_ref(), &why)?,
    };
    let rows: Vec<Row> = rows.into_iter().filter(|row| wanted.as_ref().is_none_or(|path| row.is(path))).collect();
    if options.ask.json { render::print(&render::json(&rows)?) } else { render::print(&row::text(&rows)) }
}

enum Answer {
    Daemon(Vec<Row>),
    /// Why there is none.
    None(String),
}

fn of_daemon(options: &StatusOptions, context: &Context) -> Result<Answer, CliError> {
    let socket = remote::socket(&options.ask, context)?;
    let client = Client::new(&socket, options.ask.timeout);
    let answer: Result<Value, ClientError> = super::runtime()?.block_on(client.get("/status", &[]));
    match answer {
        Ok(answer) => {
            let rows = answer["databases"].as_array().into_iter().flatten().map(Row::of_daemon);
            let rows: Result<Vec<Row>, _> = rows.collect();
            rows.map(Answer::Daemon).map_err(|error| CliError::failed(format!("the daemon's answer: {error}")))
        }
        // Litestream's daemon answers other questions.
        Err(ClientError::Unknown { .. }) => Ok(Answer::None(format!("the daemon at {} cannot tell", socket.display()))),
        Err(ClientError::Unreachable { .. }) if options.ask.socket.is_none() => {
            Ok(Answer::None(format!("no daemon answers at {}", socket.display())))
        }
        // One that was asked for by name must be there, and one that is there must answer.
        Err(error) => Err(CliError::failed(error)),
    }
}

/// What the files and the replicas show.
fn of_files(
    options: &StatusOptions,
    context: &Context,
    wanted: Option<&PathBuf>,
    why: &str,
) -> Result<Vec<Row>, CliError> {
    let config = context.config(&options.ask.config)?;
    context.start_log_beside_listing(&config.warnings)?;
    let databases = chosen(&config, wanted.map(PathBuf::as_path), context)?;
    if !options.ask.json {
        render::complain(&format!("Warning: {why}: this is what the files and the replicas show"));
    }
    absent::look(&databases, options.ask.timeout)
}

fn chosen(config: &Config, wanted: Option<&Path>, context: &Context) -> Result<Vec<Database>, CliError> {
    match wanted {
        None => Ok(config.databases()?.to_vec()),
        Some(path) => {
            let found: Result<Database, config::Error> = config.database(path, &context.environment()?);
            Ok(vec![found?.clone()])
        }
    }
}
