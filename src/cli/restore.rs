//! `restore`: flags to restore options, and what is said about the result.

use super::error::CliError;
use super::{Context, RestoreOptions};

/// Restores one database.
pub(crate) fn run(_options: &RestoreOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("restore"))
}
