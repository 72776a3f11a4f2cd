//! `databases`: what the config names.

use serde::Serialize;

use super::error::CliError;
use super::render::{self, Table};
use super::{Context, DatabasesOptions};
use crate::config::{BackendKind, Config};

/// Lists the databases of the config, each with the types of its replicas.
pub(crate) fn databases(options: &DatabasesOptions, context: &Context) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Row {
        path: String,
        replica: String,
    }
    let config = context.config(&options.config)?;
    let rows: Vec<Row> =
        listed(&config)?.into_iter().map(|(path, kinds)| Row { path, replica: names(&kinds) }).collect();
    context.start_log_beside_listing(&config.warnings)?;
    if options.json {
        return render::print(&render::json(&rows)?);
    }
    let mut table = Table::new(["path", "replica"]);
    for row in rows {
        table.row([row.path, row.replica]);
    }
    render::print(&table.text())
}

/// Databases in the order of the config, then directories of databases.
fn listed(config: &Config) -> Result<Vec<(String, Vec<BackendKind>)>, CliError> {
    let databases = config.databases()?.iter().map(|database| {
        let kinds = database.replicas.iter().map(|replica| replica.backend.kind()).collect();
        (database.path.display().to_string(), kinds)
    });
    let directories = config.directories().iter().map(|(path, kinds)| (path.display().to_string(), kinds.clone()));
    Ok(databases.chain(directories).collect())
}

fn names(kinds: &[BackendKind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",")
}
