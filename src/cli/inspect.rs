//! `databases`: what the config names.

use serde::Serialize;

use super::directories;
use super::error::CliError;
use super::render::{self, Table};
use super::{Context, DatabasesOptions};
use crate::config::Database;

/// Lists the databases of the config, each with the types of its replicas.
pub(crate) fn databases(options: &DatabasesOptions, context: &Context) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Row {
        path: String,
        replica: String,
    }
    let config = context.config(&options.config)?;
    let rows: Vec<Row> = directories::databases(&config)?
        .iter()
        .map(|database| Row { path: database.path.display().to_string(), replica: names(database) })
        .collect();
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

fn names(database: &Database) -> String {
    database.replicas.iter().map(|replica| replica.backend.kind().name()).collect::<Vec<_>>().join(",")
}
