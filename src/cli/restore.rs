//! `restore`: flags to restore options, and what is said about the result.

use super::error::CliError;
use super::{Context, RestoreOptions};

/// Restores one database.
pub(crate) fn run(_options: &RestoreOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("restore"))
}

/// Restores a database whose file is missing before it is replicated.
pub(super) async fn if_missing(_database: &crate::config::Database) -> Result<(), CliError> {
    Err(CliError::not_available("restore-if-db-not-exists"))
}
